//! Each seeded bug is caught by the same histories that find nothing without it.
//!
//! `RUSTFLAGS="--cfg ringwal_seeded_bugs" cargo test --test sim seeded -- --nocapture`

use ringwal::seeded;

use crate::bugs::{LOG, NO_LOCK};
use crate::random::histories;

/// Histories in which a bug must show.
const HISTORIES_MAX: u64 = 200_000;
const CHUNK: u64 = 1_000;

#[test]
fn seeded_bugs_are_caught() {
    let mut missed = Vec::new();
    std::panic::set_hook(Box::new(|_| {}));
    seeded::choose(None);
    let (_, found) = histories(0, 2 * CHUNK, 1);
    assert!(found.is_empty(), "without a bug: {found:?}");
    let only = std::env::var("RINGWAL_SEEDED_ONLY").ok();
    let chosen = |name: &str| name != NO_LOCK && only.as_deref().is_none_or(|only| only == name);
    for (name, what) in LOG.iter().filter(|(name, _)| chosen(name)) {
        seeded::choose(Some(name));
        let mut first = 0;
        let caught = loop {
            let (_, mut found) = histories(first, CHUNK, 1);
            if let Some((seed, violation)) = found.pop() {
                break Some((seed, violation));
            }
            first += CHUNK;
            if first >= HISTORIES_MAX {
                break None;
            }
        };
        match caught {
            Some((seed, violation)) => {
                let text: String = violation.text.chars().take(90).collect();
                println!("{name:<20} {:<4} seed {seed:<7} {what}: {text}", violation.assertion);
            }
            None => {
                println!("{name:<20} MISSED in {HISTORIES_MAX} histories: {what}");
                missed.push(name);
            }
        }
    }
    seeded::choose(None);
    let (_, found) = histories(0, 2 * CHUNK, 1);
    assert!(found.is_empty(), "with the bug off again: {found:?}");
    assert!(missed.is_empty(), "missed: {missed:?}");
}
