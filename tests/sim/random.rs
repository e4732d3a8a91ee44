//! Seeded random histories.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::history::history;
use crate::world::{Tally, Violation};

/// Histories from `first` on, over the machine's cores; ends early once `enough` violations are found.
pub(crate) fn histories(first: u64, count: u64, enough: usize) -> (Tally, Vec<(u64, Violation)>) {
    let next = AtomicU64::new(first);
    let all = Mutex::new((Tally::default(), Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let mut tally = Tally::default();
                let mut found = Vec::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    tally.count("histories");
                    if let Err(violation) = history(seed, &mut tally) {
                        found.push((seed, violation));
                        if found.len() >= enough {
                            next.store(first + count, Ordering::Relaxed);
                        }
                    }
                }
                let mut all = all.lock().unwrap();
                all.0.merge(&tally);
                all.1.append(&mut found);
            });
        }
    });
    all.into_inner().unwrap()
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_histories_keep_every_promise() {
    let (first, count) = match env("RINGWAL_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, env("RINGWAL_SIM_RUNS").unwrap_or(20_000)),
    };
    let (tally, mut violations) = histories(first, count, 20);
    violations.sort_by_key(|(seed, _)| *seed);
    for (what, n) in &tally.counts {
        println!("{n:>10} {what}");
    }
    for (seed, violation) in violations.iter().take(20) {
        println!("RINGWAL_SIM_SEED={seed}: {}: {}", violation.assertion, violation.text);
    }
    assert!(violations.is_empty(), "{} violations", violations.len());
    if count >= 200_000 {
        for label in ROWS {
            assert!(tally.get(label) >= 1_000, "row {label} was met only {} times", tally.get(label));
        }
    }
}

/// Every row of the recovery table: none is unreachable.
const ROWS: [&str; 14] =
    ["R1", "R2-new", "R2-missing", "R3", "R4", "R5", "R6-empty", "R6-damage", "R7", "R8", "R9", "R10", "R11", "R12"];

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..200 {
        let traces: Vec<_> =
            (0..2).map(|_| history(seed, &mut Tally::default()).map_err(|violation| violation.text)).collect();
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}
