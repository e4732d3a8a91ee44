//! Each seeded bug is caught by the same histories that find nothing without it.
//!
//! `RUSTFLAGS="--cfg ringwal_seeded_bugs" cargo test --test ship_sim seeded -- --nocapture --test-threads=1`

use ringwal::seeded;

use crate::bugs::SHIPPING;
use crate::histories;

/// Histories in which a bug must show.
const HISTORIES_MAX: u64 = 4000;
const CHUNK: u64 = 100;

#[test]
fn seeded_bugs_are_caught() {
    let mut missed = Vec::new();
    std::panic::set_hook(Box::new(|_| {}));
    for &(name, what) in SHIPPING {
        seeded::choose(Some(name));
        let chunks = (0..HISTORIES_MAX).step_by(usize::try_from(CHUNK).unwrap());
        let caught = chunks.into_iter().find_map(|first| histories(first, CHUNK, 1).1.pop());
        match caught {
            Some((seed, text)) => println!("{name:<20} seed {seed:<5} {what}: {text}"),
            None => {
                println!("{name:<20} MISSED in {HISTORIES_MAX} histories: {what}");
                missed.push(name);
            }
        }
    }
    seeded::choose(None);
    let (_, found) = histories(0, 2 * CHUNK, 1);
    assert!(found.is_empty(), "with every bug off: {found:?}");
    assert!(missed.is_empty(), "missed: {missed:?}");
}
