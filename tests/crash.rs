//! Kill -9: a few of the kills that the rig `kills` of the proof does in thousands. `RINGWAL_KILLS=1000` for more than the
//! default 100. Each log has its method and its depth in turn; `RINGWAL_METHOD` and `RINGWAL_DEPTH` pin them.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod driven;
    pub(crate) mod kills;
    pub(crate) mod manner;
    pub(crate) mod rig;
    pub(crate) mod survivor;
    pub(crate) mod witness;
    pub(crate) mod workload;
}

use common::kills::writer::{BYTES_MAX, writer};
use common::kills::{Counts, KILLS_PER_LOG, kill_writers};
use common::rig::{Rng, env_count, role, say};
use common::witness::Witness;

/// The writer. Runs only in a child; otherwise it returns at once.
#[test]
fn child() {
    if role().as_deref() == Some("writer") {
        writer();
    }
}

#[test]
fn a_killed_writer_loses_nothing_acknowledged_and_invents_nothing() {
    if role().is_some() {
        return;
    }
    let kills = u32::try_from(env_count("RINGWAL_KILLS").unwrap_or(100)).unwrap();
    let seed = Rng::seed();
    say(&format!("crash: RINGWAL_SEED={seed}"));
    let mut counts = Counts::default();
    let mut log = 0;
    while counts.kills < kills {
        let killed = kill_writers(seed.wrapping_add(log), KILLS_PER_LOG.min(kills - counts.kills));
        counts.add(&killed.unwrap_or_else(|wrong| panic!("log {log}: {wrong:#?}")));
        log += 1;
    }
    say(&format!("crash: {counts:?}"));
    assert!(counts.in_flight * 10 >= counts.kills * 6, "too few kills met an append in flight: {counts:?}");
    assert!(counts.rivals_refused * 4 >= counts.kills, "too few rivals: {counts:?}");
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
