//! Histories on the simulated disk, as many as anybody wants.

use std::thread;

use crate::exhaustive::{count, exhaust};
use crate::history::history;
use crate::run::Run;
use crate::world::Tally;

/// What a history may end in: each counts one.
const CRASHES: [&str; 2] = ["kills", "power cuts"];

/// Seeded histories, each drawn twice: the traces must be equal, or a seed shows nothing again.
pub(crate) fn random(run: &Run) -> Result<(), String> {
    thread::scope(|scope| {
        for _ in 0..run.jobs() {
            scope.spawn(|| {
                while let Some(seed) = run.next() {
                    tell(run, seed);
                }
            });
        }
    });
    Ok(())
}

/// The workload that each seed stands for, at every crash point: as many consecutive seeds as there are workloads are all.
pub(crate) fn exhaustive(run: &Run) -> Result<(), String> {
    thread::scope(|scope| {
        for _ in 0..run.jobs() {
            scope.spawn(|| {
                while let Some(seed) = run.next() {
                    let number = usize::try_from(seed % count() as u64).unwrap_or(0);
                    match exhaust(number, NESTED_EVERY, true) {
                        Ok(done) => {
                            run.met("crash points", done.points);
                            run.met("crashes", done.crashes);
                        }
                        Err(violation) => run.violated(violation.assertion, violation.text, seed),
                    }
                    run.tried(1);
                }
            });
        }
    });
    Ok(())
}

/// Crashes inside recovery, three deep, stand behind every so many crash points.
const NESTED_EVERY: usize = 100;

fn tell(run: &Run, seed: u64) {
    let mut tally = Tally::default();
    let first = history(seed, &mut tally);
    if let Err(violation) = &first {
        run.violated(violation.assertion, &violation.text, seed);
    }
    // In a long run every tenth.
    if run.is_slice() || seed.is_multiple_of(10) {
        let again = history(seed, &mut Tally::default());
        if first.as_ref().ok() != again.as_ref().ok() {
            run.violated("A10", "the same seed had another trace", seed);
        }
        run.met("drawn twice", 1);
    }
    for (label, n) in &tally.counts {
        run.met(label, *n);
    }
    run.met("histories", 1);
    run.tried(CRASHES.iter().map(|label| tally.get(label)).sum());
}
