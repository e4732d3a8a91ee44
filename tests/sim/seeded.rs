//! Each seeded bug is caught by the same histories that find nothing without it.
//!
//! `RUSTFLAGS="--cfg ringwal_seeded_bugs" cargo test --test sim seeded -- --nocapture`

use ringwal::seeded;

use crate::random::histories;

/// The deliberate mistakes, and what each does. `m..` are those of the reliability catalogue; the others drop one rule
/// of the format or of recovery each.
const BUGS: [(&str, &str); 34] = [
    ("m1", "no fdatasync"),
    ("m2", "acknowledges when the write completes"),
    ("m3", "acknowledges batch n + 1 while n is in flight"),
    ("m4", "the directory is not synced when a segment is made"),
    ("m5", "the directory is not synced when a segment is used again"),
    ("m6", "ignores a short write"),
    ("m7", "ignores a failed flush"),
    ("m8", "repeats a failed flush"),
    ("m9", "the CRC covers neither a record's length nor its payload"),
    ("m10", "no epoch, no identity: what a recycled file held is believed"),
    ("m-stale-recycled", "a batch's segment id is not compared: what a recycled file of this epoch held is believed"),
    ("m11", "no chain, and appends in place behind a torn tail"),
    ("m12", "cuts at the first bad batch, whatever claims it"),
    ("m13", "what an opening keeps is shown before it is flushed"),
    ("m14", "readers see what nobody claims durable"),
    ("m15", "an opening wipes what it copies before the copies are durable"),
    ("m16", "a buffer is used again before its write has ended"),
    ("m17", "a flush counts for other batches' writes"),
    ("m19", "a cancelled flush counts as done"),
    ("m20", "a batch claims what is still in flight"),
    ("m21", "a write that is to carry RWF_DSYNC goes without"),
    ("m22", "a flush is shared with writes whose completion was not seen before it"),
    ("m23", "a write with RWF_DSYNC counts for the writes that completed before it"),
    ("m24", "the rest of a short write with RWF_DSYNC goes without"),
    ("late", "a killed writer's writes land after recovery"),
    ("stale-evidence", "dead batches count as evidence"),
    ("no-copy", "kept records are not written again"),
    ("no-reseal", "appends behind a close seal that was not made durable"),
    ("exist", "that a later segment exists counts as evidence"),
    ("leave-dead", "dead segments stay"),
    ("no-opening-seal", "no seal behind an opening"),
    ("payload-blind-link", "the header covers no digest of the records, and epochs carry no nonce"),
    ("no-nonce", "epochs carry no nonce"),
    ("no-trim-mark", "the trim LSN is not written before the first unlink"),
];

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
    for (name, what) in BUGS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
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
