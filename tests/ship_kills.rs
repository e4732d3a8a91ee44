//! Kill -9 of a primary that waits for one standby, of that standby, or of both: see `common/ship_kills.rs`.
//! `RINGWAL_SHIP_KILLS=500` for more than the default 5.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod rig;
    pub(crate) mod ship_kills;
}

use std::collections::BTreeMap;

use common::rig::{Rng, env_count, role, say};
use common::ship_kills::{KILLS_PER_PAIR, Records, judge, kill_pair, side};

/// A primary or a standby. Runs only in a child; otherwise it returns at once.
#[test]
fn child() {
    if let Some(role) = role() {
        side(&role);
    }
}

#[test]
fn killed_primaries_and_standbys_lose_nothing_acknowledged() {
    if role().is_some() {
        return;
    }
    let wanted = env_count("RINGWAL_SHIP_KILLS").unwrap_or(5) as u64;
    let seed = Rng::seed();
    say(&format!("ship_kills: RINGWAL_SEED={seed}"));
    let (mut kills, mut acks) = (0, 0);
    while kills < wanted {
        let more = (wanted - kills).min(u64::from(KILLS_PER_PAIR));
        let pair = kill_pair(seed + kills, u32::try_from(more).unwrap()).unwrap_or_else(|wrong| panic!("{wrong}"));
        say(&format!("ship_kills: {pair:?}"));
        kills += pair.kills();
        acks += pair.acks;
    }
    assert!(acks > kills, "hardly anything was acknowledged");
}

#[test]
fn the_judge_sees_each_kind_of_lie() {
    if role().is_some() {
        return;
    }
    let log: Records = (1..=5).map(|lsn| (lsn, 10, 7)).collect();
    let acked: BTreeMap<_, _> = (1..=3).map(|lsn| (lsn, (10, 7))).collect();
    assert!(judge(&log, &log[..3].to_vec(), &acked).is_empty());
    assert!(!judge(&log, &log[..2].to_vec(), &acked).is_empty(), "missing at the standby");
    assert!(!judge(&log[..4].to_vec(), &log, &acked).is_empty(), "ahead of the primary");
    let mut other = log.clone();
    other[1].2 = 8;
    assert!(!judge(&other, &log, &acked).is_empty() && !judge(&log, &other, &acked).is_empty(), "other bytes");
}
