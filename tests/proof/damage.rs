//! Damage, as much as anybody wants: every bit of log after log, and every block and file in a place that is not its own.
//!
//! A seed is one part of one log: its upper bits say which log, its lower ten which part, so that 1024 seeds from a
//! multiple of 1024 on are all of it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::common::damage::bench::{Bench, OnFiles, OnSim};
use crate::common::damage::blocks::{Damage, Damages, PARTS};
use crate::common::damage::entries::{every_lock, every_oddity};
use crate::common::damage::flips::{Sector, every_bit_of, sectors};
use crate::common::damage::judgement::Outcome;
use crate::common::damage::subject::Subject;
use crate::common::rig::Scratch;
use crate::run::Run;

/// An odd number: the parts of a log are met in another order than they stand in, so that a slice meets all kinds.
const STRIDE: u64 = 389;

/// Every bit of every file, each flipped on its own.
pub(crate) fn flips(run: &Run) -> Result<(), String> {
    each_part(run, OnSim::make, |run, bench, seed, part| {
        // A log has fewer sectors than there are parts.
        let Some(sector) = sector(bench.subject(), part) else { return };
        let mut counts = Counts::default();
        every_bit_of(bench, &sector, |bit, outcome| {
            let what = || format!("log {}, bit {bit} of {}", seed / PARTS, sector.name);
            counts.take(run, "flips", &outcome, seed, what);
        });
        counts.tell(run);
    })
}

/// Sectors and blocks, files and names.
pub(crate) fn blocks(run: &Run) -> Result<(), String> {
    each_part(run, OnSim::make, displace)
}

/// Both on real files, through the public API, and what only they can be.
pub(crate) fn files(run: &Run) -> Result<(), String> {
    let scratch = memory_or_disk();
    let make = |number| {
        let name = format!("{number}-{:?}", std::thread::current().id());
        OnFiles::make(number, &scratch.join(&name))
    };
    each_part(run, make, |run, bench, seed, part| {
        let mut counts = Counts::default();
        if let Some(sector) = sector(bench.subject(), part) {
            every_bit_of(bench, &sector, |bit, outcome| {
                let what = || format!("log {}, bit {bit} of {}", seed / PARTS, sector.name);
                counts.take(run, "flips", &outcome, seed, what);
            });
        }
        let what = |what: &str| what.to_owned();
        match part {
            0 => every_oddity(bench, |odd, outcome| counts.take(run, "odd entries", &outcome, seed, || what(odd))),
            1 => every_lock(bench, |odd, outcome| counts.take(run, "lock files", &outcome, seed, || what(odd))),
            _ => {}
        }
        counts.tell(run);
        displace(run, bench, seed, part);
    })
}

/// Memory is quick, and nothing here depends on a disk: no file is lost but by the rig.
fn memory_or_disk() -> Scratch {
    Scratch::in_memory("damage").unwrap_or_else(|| Scratch::new("damage"))
}

fn sector(subject: &Subject, part: u64) -> Option<Sector> {
    sectors(subject).into_iter().nth(usize::try_from(part).ok()?)
}

fn displace(run: &Run, bench: &mut impl Bench, seed: u64, part: u64) {
    let (other, _) = Subject::make(seed / PARTS + 12, bench.subject().shape);
    let mut counts = Counts::default();
    let mut found = |damage: &Damage, outcome: Outcome| {
        let what = || format!("log {}, {}: {:?}", seed / PARTS, damage.kind, damage.files.keys());
        counts.take(run, damage.kind, &outcome, seed, what);
    };
    Damages::new(bench, &other.files, part, &mut found).do_all();
    counts.tell(run);
}

/// What was counted and not yet told: telling takes a lock.
#[derive(Default)]
struct Counts {
    tried: u64,
    labels: BTreeMap<String, u64>,
}

impl Counts {
    fn take(&mut self, run: &Run, kind: &str, outcome: &Outcome, seed: u64, what: impl Fn() -> String) {
        self.tried += 1;
        let label = match outcome {
            Outcome::Violation(assertion, text) => {
                run.violated(assertion, format!("{}: {text}", what()), seed);
                return;
            }
            outcome => format!("{kind}: {}", outcome.word()),
        };
        *self.labels.entry(label).or_default() += 1;
    }

    fn tell(self, run: &Run) {
        for (label, n) in self.labels {
            run.met(&label, n);
        }
        run.tried(self.tried);
    }
}

/// Gives every thread parts of logs until there is enough. A log is made once by each thread.
fn each_part<B: Bench>(
    run: &Run,
    make: impl Fn(u64) -> B + Sync,
    work: impl Fn(&Run, &mut B, u64, u64) + Sync,
) -> Result<(), String> {
    let done: Mutex<BTreeMap<u64, u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..run.jobs() {
            scope.spawn(|| {
                let mut log: Option<(u64, B)> = None;
                while let Some(seed) = run.next() {
                    let number = seed / PARTS;
                    if log.as_ref().is_none_or(|(made, _)| *made != number) {
                        log = Some((number, make(number)));
                    }
                    let Some((_, bench)) = &mut log else { return };
                    work(run, bench, seed, seed % PARTS * STRIDE % PARTS);
                    let mut done = done.lock().unwrap();
                    let parts = done.entry(number).or_default();
                    *parts += 1;
                    if *parts == PARTS {
                        run.met(
                            if bench.subject().shape.sealed { "whole sealed logs" } else { "whole unsealed logs" },
                            1,
                        );
                    }
                }
            });
        }
    });
    Ok(())
}
