//! The writer that is killed: it appends in every way there is, truncates at both ends and follows itself, and tells the
//! witness of each step.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringwal::{Log, Lsn, Options, ReadError, Tail};
use tokio::time::timeout;

use crate::common::driven::Driven;
use crate::common::manner::Manner;
use crate::common::rig::Rng;
use crate::common::survivor::runtime;
use crate::common::workload::{Load, Teller, run};

pub(crate) const BYTES_MAX: usize = 8192;

/// A writer's records are numbered by cycle: one for each stretch between two cuts, and one for whoever looks after it.
pub(crate) const CYCLES_PER_LIFE: u32 = 1000;
pub(crate) const CYCLE_OF_CHECK: u32 = CYCLES_PER_LIFE - 1;
pub(crate) const CYCLE_OF_RIVAL: u32 = CYCLES_PER_LIFE - 2;

/// What a writer does besides appending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Habit {
    Appends,
    /// Gives up what is old: files are used again.
    Trims,
    /// And takes back what is new, now and then.
    Cuts,
}

impl Habit {
    const ALL: [Self; 3] = [Self::Appends, Self::Trims, Self::Cuts];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Appends => "appending",
            Self::Trims => "trimming",
            Self::Cuts => "cutting",
        }
    }
}

/// One writer's life, as its process is told.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) manner: Manner,
    pub(crate) habit: Habit,
    /// Which life of this log.
    pub(crate) number: u32,
}

impl Life {
    pub(crate) fn options(&self) -> Options {
        self.manner.set(Options::default().segment_bytes(self.segment_bytes))
    }

    pub(crate) fn tell(&self, command: &mut Command) {
        self.manner.tell(command);
        command
            .env("RINGWAL_DIR", &self.dir)
            .env("RINGWAL_SEGMENT", self.segment_bytes.to_string())
            .env("RINGWAL_HABIT", self.habit.word())
            .env("RINGWAL_LIFE", self.number.to_string());
    }

    fn heard() -> Self {
        let variable = |name: &str| std::env::var(name).unwrap();
        let habit = variable("RINGWAL_HABIT");
        Self {
            dir: variable("RINGWAL_DIR").into(),
            segment_bytes: variable("RINGWAL_SEGMENT").parse().unwrap(),
            manner: Manner::of(0),
            habit: Habit::ALL.into_iter().find(|known| known.word() == habit).unwrap(),
            number: variable("RINGWAL_LIFE").parse().unwrap(),
        }
    }
}

/// Lives until it is killed.
pub(crate) fn writer() {
    let life = Life::heard();
    let teller = Arc::new(Teller::new());
    teller.line("\nS");
    // By turns on the same files: with a ring thread, and driven inside a thread that has other things to do.
    let driven = if life.number.is_multiple_of(2) { Driven::RingThread } else { Driven::CallersThread };
    let log = driven.open(&life.dir, life.options()).unwrap();
    let report = log.recovery_report();
    teller.line(&format!("O {} {} {} {}", report.label, report.last, report.torn_bytes, report.records_copied));
    let mut rng = Rng::new(u64::from(life.number));
    for stretch in 0..CYCLE_OF_RIVAL {
        let records = if life.habit == Habit::Cuts { 5 + rng.below(20) } else { u64::from(u32::MAX) };
        let load = Load {
            cycle: life.number * CYCLES_PER_LIFE + stretch,
            tasks: 6,
            threads: 2,
            records: u32::try_from(records).unwrap(),
            bytes_max: BYTES_MAX,
        };
        let over = Arc::new(AtomicBool::new(false));
        let companion = {
            let (log, teller, over) = (log.clone(), teller.clone(), over.clone());
            std::thread::spawn(move || runtime().block_on(accompany(&log, life.habit, &teller, &over)))
        };
        run(&log, load, &teller);
        over.store(true, Ordering::Relaxed);
        companion.join().unwrap();
        cut_back(&log, &mut rng, &teller);
    }
}

/// Follows the log, and gives up what is far behind.
async fn accompany(log: &Log, habit: Habit, teller: &Teller, over: &AtomicBool) {
    const KEPT: u64 = 150;
    let mut tail = log.tail(log.durable_lsn().next());
    while !over.load(Ordering::Relaxed) {
        follow(log, &mut tail, teller).await;
        let (first, durable) = (log.first_lsn(), log.durable_lsn());
        if habit != Habit::Appends && durable.get() > first.get() + 2 * KEPT {
            let first = Lsn::new(durable.get() - KEPT);
            teller.trims(first);
            log.truncate_before(first).await.unwrap();
            teller.trimmed();
        }
    }
}

/// What is shown is told, every few records: it must stay whatever happens.
async fn follow(log: &Log, tail: &mut Tail, teller: &Teller) {
    for _ in 0..50 {
        match timeout(Duration::from_millis(2), tail.next()).await {
            Ok(Some(Ok(record))) if record.lsn.get().is_multiple_of(4) => teller.shown(record.lsn, &record.payload),
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(ReadError::Truncated { .. }))) => *tail = log.tail(log.durable_lsn().next()),
            Ok(Some(Err(error))) => panic!("a tail: {error}"),
            Ok(None) | Err(_) => return,
        }
    }
}

/// Takes a few records back. Nobody appends or follows meanwhile.
fn cut_back(log: &Log, rng: &mut Rng, teller: &Teller) {
    let last = log.durable_lsn().get().saturating_sub(rng.below(6)).max(log.first_lsn().get());
    teller.cuts(Lsn::new(last));
    runtime().block_on(log.truncate_after(Lsn::new(last))).unwrap();
    teller.cut();
}
