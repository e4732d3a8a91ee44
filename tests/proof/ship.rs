//! Shipped logs: histories on simulated disks and a simulated network, and real processes that are killed.

use std::thread;

use crate::common::ship_kills::{KILLS_PER_PAIR, kill_pair};
use crate::run::Run;
use crate::ship_sim::history::{Tally, history};

/// Seeded histories, every tenth drawn twice, or each in a slice.
pub(crate) fn simulated(run: &Run) -> Result<(), String> {
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

/// Real primaries and standbys, killed.
pub(crate) fn kills(run: &Run) -> Result<(), String> {
    while let Some(seed) = run.next() {
        match kill_pair(seed, KILLS_PER_PAIR) {
            Ok(pair) => {
                for (label, n) in [("primaries", pair.primaries), ("standbys", pair.standbys), ("both", pair.both)] {
                    run.met(label, n);
                }
                run.met("acknowledged", pair.acks);
                run.tried(pair.kills());
            }
            Err(wrong) => {
                run.violated("A1", wrong, seed);
                run.tried(1);
            }
        }
    }
    Ok(())
}

fn tell(run: &Run, seed: u64) {
    let mut tally = Tally::new();
    let result = history(seed, &mut tally);
    if let Err(text) = &result {
        let (assertion, what) = text.split_once(": ").unwrap_or(("A10", text));
        run.violated(assertion, what, seed);
    }
    if run.is_slice() || seed.is_multiple_of(10) {
        let mut again = Tally::new();
        if (history(seed, &mut again), &again) != (result, &tally) {
            run.violated("A10", "the same seed had another history", seed);
        }
        run.met("drawn twice", 1);
    }
    tally.iter().for_each(|(label, n)| run.met(label, *n));
    run.tried(1);
}
