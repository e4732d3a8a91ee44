//! The logs to damage, made on the simulated disk: several segments and epochs, cut openings and copies, recycled files,
//! groups, records of no bytes and of many blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringwal::harness::{self, Life, Stray};
use ringwal::sim::{Sim, SimOptions};
use ringwal::{Epoch, Lsn, Options};

use crate::common::rig::Rng;

const FIRST_SEGMENT: &str = "0000000000000001.seg";

/// A file's name and its bytes.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What a log is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) block_bytes: u32,
    pub(crate) segment_blocks: u64,
    /// At least so many bytes in all its files.
    pub(crate) bytes_min: usize,
    /// About so many of its records are not truncated.
    pub(crate) keeps: usize,
    /// Whether it was closed. Otherwise its writer was killed with batches in flight.
    pub(crate) sealed: bool,
}

impl Shape {
    /// On the simulated disk: of at least a quarter of a megabyte; every fourth was not closed.
    pub(crate) fn of(number: u64) -> Self {
        let block_bytes = if number % 3 == 2 { 1024 } else { 512 };
        Self { block_bytes, segment_blocks: 64, bytes_min: 260 << 10, keeps: 150, sealed: number % 4 != 3 }
    }

    pub(crate) fn options(&self) -> Options {
        Options::default()
            .block_bytes(self.block_bytes)
            .segment_bytes(self.segment_blocks * u64::from(self.block_bytes))
            .batch_bytes_max(4 * self.block_bytes as usize)
            .flight_max(2)
            .depth(2)
    }

    /// What a log that is to be damaged must have, and these files and batches have not.
    fn lacks(&self, files: &Files, batches: &[(Stray, bool)]) -> Option<&'static str> {
        let live = || batches.iter().filter(|(_, live)| *live).map(|(batch, _)| batch);
        let segments: BTreeSet<_> = live().map(|batch| &batch.name).collect();
        let epochs: BTreeSet<_> = live().map(|batch| batch.epoch).collect();
        let missing = [
            ("bytes", files.values().map(Vec::len).sum::<usize>() < self.bytes_min),
            ("recycled files", files.contains_key(FIRST_SEGMENT)),
            ("segments", segments.len() < 3),
            ("epochs", epochs.len() < 3),
            ("dead batches", batches.iter().all(|(_, live)| *live)),
            ("a cut with copies", !live().any(|batch| batch.kind == "copy")),
        ];
        missing.iter().find(|(_, lacks)| *lacks).map(|(what, _)| *what)
    }

    fn record_bytes_max(&self) -> u64 {
        (self.segment_blocks - 5) / 2 * u64::from(self.block_bytes) - 160
    }
}

/// Records that were taken back.
#[derive(Debug)]
pub(crate) struct TakenBack {
    /// The epoch whose opening did it: as long as one of its batches stands, they are gone.
    pub(crate) by: Epoch,
    /// The last record before them.
    pub(crate) behind: u64,
    pub(crate) records: Vec<Vec<u8>>,
}

/// A log, what was appended to it, and what stands where.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) shape: Shape,
    /// As the log was some time before, with fewer records.
    pub(crate) older: Files,
    pub(crate) files: Files,
    /// Record `lsn` stands at `lsn - 1`: as it was appended last, where some were taken back.
    pub(crate) records: Vec<Vec<u8>>,
    pub(crate) taken_back: Vec<TakenBack>,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// What `verify` says of it undamaged.
    pub(crate) label: &'static str,
    /// Every batch, and whether the chain leads over it.
    pub(crate) batches: Vec<(Stray, bool)>,
}

impl Subject {
    /// The log of this number, and the disk that it is on.
    pub(crate) fn make(number: u64, shape: Shape) -> (Self, Sim) {
        let sim = Sim::new(number, SimOptions { block_bytes: shape.block_bytes, ..SimOptions::default() });
        let mut maker = Maker { sim, shape, rng: Rng::new(number), records: Vec::new(), taken_back: Vec::new() };
        let older = maker.history();
        let Maker { sim, records, taken_back, .. } = maker;
        let made = Self {
            shape,
            older,
            files: Files::new(),
            records,
            taken_back,
            first: 0,
            last: 0,
            label: "",
            batches: Vec::new(),
        };
        (made.on(&sim), sim)
    }

    /// The same, as the log now is on `sim`.
    ///
    /// # Panics
    /// If the log is not what it should be.
    pub(crate) fn on(self, sim: &Sim) -> Self {
        let verdict = harness::judge(sim, true).unwrap();
        assert!(!verdict.damaged && verdict.last.get() == self.records.len() as u64, "{verdict:?}");
        let subject = Self {
            files: files_of(sim),
            first: verdict.first.get(),
            last: verdict.last.get(),
            label: verdict.label,
            batches: with_chain(harness::batches(sim)),
            ..self
        };
        subject.check();
        subject
    }

    /// A subject that lacks something shows nothing about it.
    fn check(&self) {
        assert_eq!(self.shape.lacks(&self.files, &self.batches), None);
        assert_eq!(self.label == "R10", self.shape.sealed, "{}", self.label);
        let live = self.batches.iter().filter(|(_, live)| *live).map(|(batch, _)| batch);
        // The chain, followed back by its links, holds every record.
        let mut held: Vec<_> =
            live.flat_map(|batch| batch.first.get()..batch.first.get() + u64::from(batch.count)).collect();
        held.sort_unstable();
        held.dedup();
        assert!((self.first..=self.last).all(|lsn| held.binary_search(&lsn).is_ok()), "a record is not on the chain");
    }
}

pub(crate) fn files_of(sim: &Sim) -> Files {
    sim.files().into_iter().map(|name| (name.clone(), sim.bytes(&name).unwrap())).collect()
}

/// Marks the batches to which the links of the last one lead.
fn with_chain(strays: Vec<Stray>) -> Vec<(Stray, bool)> {
    let mut batches: Vec<_> = strays.into_iter().map(|batch| (batch, false)).collect();
    let last = batches
        .iter()
        .filter(|(batch, _)| batch.whole)
        .max_by_key(|(batch, _)| (batch.epoch, batch.name.clone(), batch.offset));
    let mut next = last.map(|(batch, _)| (batch.name.clone(), batch.offset));
    while let Some((name, offset)) = next {
        let found = batches.iter_mut().find(|(batch, _)| batch.name == name && batch.offset == offset);
        // Truncated.
        let Some((batch, live)) = found else { break };
        *live = true;
        next = batch.link.clone();
    }
    batches
}

struct Maker {
    sim: Sim,
    shape: Shape,
    rng: Rng,
    records: Vec<Vec<u8>>,
    taken_back: Vec<TakenBack>,
}

impl Maker {
    /// Lives until the log is long enough. Returns the files as they were in the middle.
    fn history(&mut self) -> Files {
        let mut older = None;
        loop {
            let mut life = self.open();
            self.live(&mut life, 30);
            if self.records.len() > self.shape.keeps {
                let first = (self.records.len() - self.shape.keeps) as u64;
                life.recycle(Lsn::new(first));
                self.settle(&mut life);
            }
            if self.rng.one_in(3) {
                self.cut_back(&mut life);
            }
            let files = files_of(&self.sim);
            if older.is_some() && self.shape.lacks(&files, &with_chain(harness::batches(&self.sim))).is_none() {
                self.live(&mut life, 8);
                match self.shape.sealed {
                    true => self.close(life),
                    false => self.kill(&mut life),
                }
                return older.unwrap_or_default();
            }
            older.get_or_insert(files);
            match self.rng.below(3) {
                0 => self.close(life),
                _ => self.kill(&mut life),
            }
        }
    }

    fn open(&mut self) -> Life {
        let mut life = Life::open(&self.sim, &self.shape.options(), self.rng.next()).unwrap();
        self.settle(&mut life);
        life
    }

    /// Steps, disk and helper, until nothing is left to do, and longer than it takes to seal an idle log.
    fn settle(&self, life: &mut Life) {
        for _ in 0..12 {
            life.step(Duration::from_millis(2));
            self.sim.tick_all();
            while life.prepare() {}
        }
    }

    fn record(&mut self) -> Vec<u8> {
        let len = match self.rng.below(12) {
            0 => 0,
            1..=6 => self.rng.below(60),
            7..=10 => self.rng.below(900),
            _ => self.rng.below(self.shape.record_bytes_max()),
        };
        (0..len).map(|_| self.rng.next().to_le_bytes()[0]).collect()
    }

    /// Appends about `count` records, alone and in groups, a few at a time.
    fn live(&mut self, life: &mut Life, count: usize) {
        let end = self.records.len() + count;
        while self.records.len() < end {
            self.append(life);
            if self.rng.one_in(3) {
                self.settle(life);
            }
        }
        self.settle(life);
        assert_eq!(life.durable().get(), self.records.len() as u64);
    }

    fn append(&mut self, life: &mut Life) {
        if self.rng.one_in(4) {
            let group: Vec<_> = (0..2 + self.rng.below(3))
                .map(|_| self.record())
                .map(|record| record[..record.len().min(400)].to_vec())
                .collect();
            if life.submit_group(&group).unwrap() {
                self.records.extend(group);
            }
        } else {
            let record = self.record();
            life.submit(&record).unwrap();
            self.records.push(record);
        }
    }

    /// Takes a few records back.
    fn cut_back(&mut self, life: &mut Life) {
        let last = self.records.len() - 1 - self.rng.below(5) as usize;
        life.truncate_after(Lsn::new(last as u64), self.rng.next());
        let mut answer = None;
        for _ in 0..50 {
            self.settle(life);
            answer = life.cut_back();
            if answer.is_some() {
                break;
            }
        }
        assert_eq!(answer, Some(Some(Ok(Lsn::new(last as u64)))));
        let records = self.records.split_off(last);
        let by = harness::batches(&self.sim).iter().map(|batch| batch.epoch).max().unwrap();
        self.taken_back.push(TakenBack { by, behind: last as u64, records });
    }

    fn close(&self, mut life: Life) {
        life.close();
        for _ in 0..50 {
            self.settle(&mut life);
            if life.closed() {
                return;
            }
        }
        panic!("it does not close");
    }

    /// Ends the writer with batches in flight that no header claims: they land, or the power fails and some are torn.
    fn kill(&mut self, life: &mut Life) {
        for _ in 0..2 + self.rng.below(3) {
            self.append(life);
        }
        life.step(Duration::ZERO);
        if self.rng.one_in(3) {
            self.sim.tick();
            self.sim.power_cut();
        } else {
            self.sim.tick_all();
            self.sim.kill();
        }
        // What was submitted but not yet written is gone, or the rest of a batch is.
        let kept = harness::judge(&self.sim, true).unwrap().last.get();
        self.records.truncate(usize::try_from(kept).unwrap());
    }
}
