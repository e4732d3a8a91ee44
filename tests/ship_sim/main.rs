//! Log shipping in a simulated world: real logs on simulated disks, a bad network between them, power cuts, promotions,
//! and old primaries that come back.
//!
//! `RINGWAL_SEED=n cargo test --test ship_sim` replays one history; `RINGWAL_SHIP_RUNS=n` sets how many there are.

#[cfg(ringwal_seeded_bugs)]
#[allow(dead_code, reason = "each program uses its part")]
#[path = "../common/bugs.rs"]
mod bugs;
mod history;
mod net;
mod node;
#[cfg(ringwal_seeded_bugs)]
mod seeded;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use history::{Tally, history};

/// Histories from `first` on; ends early once one fails, if so asked.
fn histories(first: u64, count: u64, enough: usize) -> (Tally, Vec<(u64, String)>) {
    let next = AtomicU64::new(first);
    let all = Mutex::new((Tally::new(), Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let (mut tally, mut found) = (Tally::new(), Vec::new());
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    if let Err(violation) = history(seed, &mut tally) {
                        found.push((seed, violation));
                        if found.len() >= enough {
                            next.store(first + count, Ordering::Relaxed);
                        }
                    }
                }
                let mut all = all.lock().unwrap();
                tally.iter().for_each(|(what, n)| *all.0.entry(what.clone()).or_default() += n);
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
fn standbys_follow_whatever_happens() {
    let (first, count) = match env("RINGWAL_SEED") {
        Some(seed) => (seed, 1),
        None => (0, env("RINGWAL_SHIP_RUNS").unwrap_or(2000)),
    };
    let (tally, mut violations) = histories(first, count, 20);
    violations.sort();
    tally.iter().for_each(|(what, n)| println!("{n:>10} {what}"));
    for (seed, text) in &violations {
        println!("RINGWAL_SEED={seed} cargo test --test ship_sim: {text}");
    }
    assert!(violations.is_empty(), "{} violations", violations.len());
    if count >= 300 {
        for what in MET {
            assert!(tally.get(what).is_some_and(|n| *n > 0), "never met: {what}");
        }
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..5 {
        let [mut once, mut again] = [Tally::new(), Tally::new()];
        let results = (history(seed, &mut once), history(seed, &mut again));
        assert_eq!(results.0, results.1);
        assert_eq!(once, again, "seed {seed}");
    }
}

/// What a sweep must have met.
const MET: [&str; 19] = [
    "caught up in the end",
    "connections started",
    "disks failed",
    "ended: Ahead",
    "ended: Closed",
    "ended: Diverged",
    "ended: Duplicate",
    "ended: Fenced",
    "ended: FrameTooLarge",
    "ended: Gap",
    "ended: Garbage",
    "ended: ReplayedSession",
    "ended: Silent",
    "groups",
    "made anew",
    "power cuts",
    "promotions",
    "promotions beside the old primary",
    "records promised",
];
