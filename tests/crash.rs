//! Kill -9: a writer in a process of its own is killed at random moments, again and again on the same log, and a witness
//! in another process knows what was acknowledged. `RINGWAL_KILLS=1000` for more than the default 100. Each log has its
//! method and its depth in turn; `RINGWAL_METHOD` and `RINGWAL_DEPTH` pin them.
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod driven;
    pub(crate) mod manner;
    pub(crate) mod rig;
    pub(crate) mod witness;
    pub(crate) mod workload;
}

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::driven::Driven;
use common::manner::Manner;
use common::rig::{Reaped, Rng, Scratch, child as child_in, env_count, fingerprint, role, say};
use common::witness::{Heard, Witness};
use common::workload::{Load, Teller, run};
use ringwal::{Log, Options, State, verify};

/// Cycles on one log before a fresh one is begun, so that reading all of it stays quick.
const CYCLES_PER_LOG: u32 = 10;
const BYTES_MAX: usize = 8192;

fn options(segment_bytes: u64, manner: Manner) -> Options {
    manner.set(Options::default().segment_bytes(segment_bytes))
}

/// The writer. Runs only in a child; otherwise it returns at once.
#[test]
fn child() {
    if role().as_deref() != Some("writer") {
        return;
    }
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let teller = Arc::new(Teller::new());
    teller.line("\nS");
    let dir = std::env::var("RINGWAL_DIR").unwrap();
    let cycle = number("RINGWAL_CYCLE") as u32;
    // By turns on the same files: with a ring thread, and driven inside a thread that has other things to do.
    let driven = if cycle.is_multiple_of(2) { Driven::RingThread } else { Driven::CallersThread };
    let log = driven.open(dir.as_ref(), options(number("RINGWAL_SEGMENT"), Manner::of(0))).unwrap();
    let report = log.recovery_report();
    teller.line(&format!("O {} {} {} {}", report.label, report.last, report.torn_bytes, report.records_copied));
    let load = Load { cycle, tasks: 6, threads: 2, records: u32::MAX, bytes_max: BYTES_MAX };
    run(&log, load, &teller);
}

/// When the parent kills.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the child begins to open the log.
    Opening(Duration),
    /// So long after the first acknowledgement.
    Appending(Duration),
}

#[derive(Debug, Default)]
struct Counts {
    kills: u32,
    in_flight: u32,
    opening: u32,
    torn_tails: u32,
    copied: u64,
    segments: u64,
    acks: usize,
    labels: BTreeMap<String, u32>,
    /// Kills by method and depth.
    manners: BTreeMap<Manner, u32>,
}

impl Counts {
    fn label(&mut self, label: &str) {
        *self.labels.entry(label.to_owned()).or_default() += 1;
    }
}

/// Starts a writer, kills it at `moment`, and hears all that it said.
fn kill_once(dir: &Path, (segment, manner): (u64, Manner), cycle: u32, moment: Moment, witness: &mut Witness) {
    let mut command = child_in("writer");
    manner.tell(&mut command);
    command.env("RINGWAL_DIR", dir).env("RINGWAL_SEGMENT", segment.to_string()).env("RINGWAL_CYCLE", cycle.to_string());
    let mut writer = Reaped(command.spawn().unwrap());
    let pipe = writer.0.stdout.take().unwrap();
    let (told, heard) = mpsc::channel();
    let acks = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let acks = &acks;
        scope.spawn(move || {
            witness.hear_all(pipe, |kind| match kind {
                Heard::Start => drop(told.send(Heard::Start)),
                Heard::Ack if acks.fetch_add(1, Ordering::Relaxed) == 0 => drop(told.send(Heard::Ack)),
                _ => {}
            });
        });
        let (wanted, pause) = match moment {
            Moment::Opening(pause) => (Heard::Start, pause),
            Moment::Appending(pause) => (Heard::Ack, pause),
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Ok(kind) = heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if kind == wanted {
                std::thread::sleep(pause);
                break;
            }
        }
        assert!(Instant::now() < deadline, "the writer made no progress for 30 s");
        // A writer that ended by itself is a failed one: the exit status tells.
        let early = writer.0.try_wait().unwrap();
        assert!(early.is_none(), "the writer ended by itself: {early:?}");
        writer.0.kill().unwrap();
        writer.0.wait().unwrap();
    });
}

/// Every record of the log, through the handle that recovered it.
fn records(log: &Log) -> Vec<(u64, Vec<u8>)> {
    log.read(..)
        .unwrap()
        .map(|record| record.unwrap())
        .map(|record| (record.lsn.get(), record.payload.to_vec()))
        .collect()
}

/// `verify` changes no byte; what it says comes back.
fn verified(dir: &Path) -> State {
    // A killed writer's last write may land after its process is gone; its lock tells.
    let deadline = Instant::now() + Duration::from_secs(10);
    while verify(dir).unwrap().writer.is_some() {
        assert!(Instant::now() < deadline, "a killed writer still holds the log after 10 s");
    }
    let before = fingerprint(dir);
    let verification = verify(dir).unwrap();
    assert_eq!(before, fingerprint(dir), "verify changed a file");
    assert!(
        !matches!(verification.state, State::Damaged(_)),
        "a killed writer's log is called damaged: {verification:?}"
    );
    verification.state
}

/// Opens, judges, appends, closes; opens again and finds the same.
fn check_log(dir: &Path, (segment, manner): (u64, Manner), witness: &Witness, counts: &mut Counts) {
    let log = Log::open(dir, options(segment, manner)).wait().unwrap();
    let report = log.recovery_report().clone();
    counts.label(report.label);
    counts.torn_tails += u32::from(report.torn_bytes > 0);
    counts.copied += report.records_copied;
    let found = records(&log);
    assert_eq!(report.last.get(), found.len() as u64);
    let wrong = witness.judge(&found, u64::MAX);
    assert!(wrong.is_empty(), "{wrong:#?} ({report:?})");
    log.close().wait().unwrap();
    let again = Log::open(dir, options(segment, manner)).wait().unwrap();
    assert_eq!(again.recovery_report().label, "R10", "a closed log opens clean");
    assert_eq!(found, records(&again), "opening twice shows the same records");
    again.close().wait().unwrap();
    assert!(matches!(verified(dir), State::Clean));
}

#[test]
fn a_killed_writer_loses_nothing_acknowledged_and_invents_nothing() {
    if role().is_some() {
        return;
    }
    let kills = env_count("RINGWAL_KILLS").unwrap_or(100) as u32;
    let seed = Rng::seed();
    let mut rng = Rng::new(seed);
    let mut counts = Counts::default();
    say(&format!("crash: RINGWAL_SEED={seed}"));
    let mut logs = 0;
    while counts.kills < kills {
        let scratch = Scratch::new("crash");
        let dir = scratch.join("log");
        let manner = Manner::of(logs);
        // The largest record has to fit into a segment so often as batches are in flight, and once more.
        let segment_min = (32 << 10) * manner.depth as u64;
        let shape = (((64 << 10) << rng.below(3)).max(segment_min), manner);
        logs += 1;
        let mut witness = Witness::new(BYTES_MAX);
        for cycle in 0..CYCLES_PER_LOG.min(kills - counts.kills) {
            let (acks, unanswered, opened) = (witness.acks.len(), witness.unanswered(), witness.opened.len());
            let moment = match counts.kills % 10 {
                3 => Moment::Opening(Duration::from_micros(rng.below(8_000))),
                _ => Moment::Appending(Duration::from_micros(rng.below(40_000))),
            };
            kill_once(&dir, shape, cycle, moment, &mut witness);
            *counts.manners.entry(shape.1).or_default() += 1;
            assert!(witness.failures.is_empty() && witness.contradictions.is_empty(), "{witness:?}");
            counts.kills += 1;
            counts.in_flight += u32::from(witness.unanswered() > unanswered);
            counts.opening += u32::from(witness.opened.len() == opened);
            counts.acks += witness.acks.len() - acks;
            for opened in &witness.opened[opened..] {
                counts.label(&opened.label);
                counts.torn_tails += u32::from(opened.torn_bytes > 0);
                counts.copied += opened.copied;
            }
            if !dir.exists() {
                continue;
            }
            verified(&dir);
            // Otherwise the next writer recovers, and may be killed while it does.
            if rng.one_in(2) || cycle + 1 == CYCLES_PER_LOG {
                check_log(&dir, shape, &witness, &mut counts);
            }
        }
        let ids = fingerprint(&dir)
            .into_iter()
            .filter_map(|(name, ..)| u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok());
        counts.segments += ids.max().unwrap_or(0);
    }
    say(&format!("crash: {counts:?}"));
    assert!(counts.in_flight * 10 >= counts.kills * 8, "too few kills met an append in flight: {counts:?}");
    assert!(counts.segments > u64::from(kills) / 5, "too few rotations: {counts:?}");
}

#[test]
fn the_oracle_sees_each_kind_of_lie() {
    if role().is_some() {
        return;
    }
    let mut witness = Witness::new(BYTES_MAX);
    let idents: Vec<_> = (0..6).map(|i| common::workload::Ident { cycle: 1, producer: 2, i }).collect();
    let mut truth = Vec::new();
    for (at, ident) in idents.iter().enumerate() {
        // The records 3 to 5 are a group.
        let grouped = (3..6).contains(&at);
        let payload = ident.payload(BYTES_MAX, grouped);
        let (first, count) = if grouped { (3, 3) } else { (ident.i, 1) };
        witness.hear(&format!("T 1 2 {} {first} {count}", ident.i));
        if at < 4 {
            witness.hear(&format!("A {} {} {} 1 2 {} 7", at + 1, crc32fast::hash(&payload), payload.len(), ident.i));
        }
        truth.push((at as u64 + 1, payload));
    }
    assert_eq!(witness.judge(&truth, u64::MAX), []);
    type Records = Vec<(u64, Vec<u8>)>;
    let lie = |change: &dyn Fn(&mut Records)| {
        let mut records = truth.clone();
        change(&mut records);
        !witness.judge(&records, u64::MAX).is_empty()
    };
    assert!(lie(&|records| records.truncate(3)), "an acknowledged record is missing");
    assert!(lie(&|records| records.truncate(5)), "half a group");
    assert!(lie(&|records| records[3].1[5] ^= 1), "a flipped bit");
    assert!(lie(&|records| records[1].0 = 9), "a hole");
    assert!(lie(&|records| records.push((7, vec![1; 40]))), "an invented record");
    assert!(lie(&|records| records.push((7, truth[4].1.clone()))), "a record twice");
    assert!(lie(&|records| (records[4].1, records[5].1) = (truth[5].1.clone(), truth[4].1.clone())), "swapped records");
    assert!(witness.judge(&truth[..2], 6).is_empty(), "nothing was due yet at position 6");
}
