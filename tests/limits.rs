//! Limits of the process, of the disk and of the machine: each ends in a typed error, one line that names the path and
//! what to do; nothing is lost; and once there is room again, the log goes on. The cases are in tests/proof.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod image;
    pub(crate) mod logwrites;
    pub(crate) mod manner;
    pub(crate) mod powercut;
    pub(crate) mod rig;
    pub(crate) mod told;
}

#[path = "proof/limits_cases.rs"]
mod limits_cases;
#[path = "proof/limits_disk.rs"]
mod limits_disk;
#[path = "proof/limits_process.rs"]
mod limits_process;

use common::rig::{Rng, role, say, skip};
use limits_cases::{CASES, missing, try_case};

/// What the roles are: each runs in a child with its limits, and only there.
#[test]
fn child() {
    if let Some(role) = role() {
        assert!(limits_cases::child(&role), "no role {role}");
    }
}

#[test]
fn every_limit_is_told_and_loses_nothing() {
    if role().is_some() {
        return;
    }
    let seed = Rng::seed();
    let mut wrong = Vec::new();
    let mut ran = 0;
    for case in CASES {
        if let Some(why) = missing(case.need) {
            // A setting of the machine is for those who require everything.
            skip(&format!("limit: {}", case.name), &why);
            continue;
        }
        ran += 1;
        if let Err(what) = try_case(case, seed) {
            wrong.push(format!("{} (RINGWAL_SEED={seed}): {what}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    say(&format!("limits: {ran} of {} cases held", CASES.len()));
}
