//! The rigs by name.

use crate::run::Run;

/// One way to try to make the log lose something.
pub(crate) struct Rig {
    pub(crate) name: &'static str,
    /// What it does, in a line.
    pub(crate) what: &'static str,
    /// What it counts.
    pub(crate) unit: &'static str,
    /// How many are wanted in all.
    pub(crate) target: u64,
    /// How many continuous integration tries.
    pub(crate) slice: u64,
    /// Why it cannot run here; `None` if it can.
    pub(crate) missing: fn() -> Option<String>,
    /// Tries until the run has enough. An error is the rig's own: it could not try.
    pub(crate) run: fn(&Run) -> Result<(), String>,
}

fn nothing() -> Option<String> {
    None
}

pub(crate) const RIGS: &[Rig] = &[Rig {
    name: "sim",
    what: "seeded histories on the simulated disk, crashed anywhere, each drawn twice with one trace",
    unit: "crashes",
    target: 10_000_000,
    slice: 400_000,
    missing: nothing,
    run: crate::sim::random,
}, Rig {
    name: "faults",
    what: "a FUSE disk under the real ring: each fault at each operation of a run of 200 appends",
    unit: "faults",
    target: crate::faults_plan::CASES,
    slice: 300,
    missing: crate::common::faultfs::unavailable,
    run: crate::faults::run,
}, Rig {
    name: "limits",
    what: "children that meet a limit of process, disk or machine, and then room again",
    unit: "children",
    target: crate::limits::TRIES,
    slice: crate::limits_cases::CASES.len() as u64,
    missing: nothing,
    run: crate::limits::run,
}];

/// This program again, as a rig's child: a writer to be killed, a rival, a witness.
pub(crate) fn child(role: &str) {
    if !crate::faults_try::child(role) && !crate::limits_cases::child(role) {
        eprintln!("proof: no child is a {role}");
    }
}
