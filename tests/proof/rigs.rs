//! The rigs by name.

use crate::powercut;
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

pub(crate) const RIGS: &[Rig] = &[
    Rig {
        name: "sim",
        what: "seeded histories on the simulated disk, crashed anywhere; many callers, faults, truncations, rot at the end",
        unit: "crashes",
        target: 10_000_000,
        slice: 100_000,
        missing: nothing,
        run: crate::sim::random,
    },
    Rig {
        name: "exhaustive",
        what: "every workload of up to 4 operations, every method, every crash point, crashes in recovery three deep",
        unit: "workloads",
        target: 2_801,
        slice: 30,
        missing: nothing,
        run: crate::sim::exhaustive,
    },
    Rig {
        name: "ship",
        what: "seeded histories of shipped logs on a simulated network, with power cuts and promotions",
        unit: "histories",
        target: 100_000,
        slice: 1_000,
        missing: nothing,
        run: crate::ship::simulated,
    },
    Rig {
        name: "ship-kills",
        what: "kill -9 of a primary, of its synchronous standby, or of both, with a witness",
        unit: "kills",
        target: 2_000,
        slice: 40,
        missing: nothing,
        run: crate::ship::kills,
    },
    Rig {
        name: "powercut-ext4",
        what: "every state that a power cut can leave behind a recorded writer, on ext4",
        unit: "crash points",
        target: 500_000,
        slice: 1_000,
        missing: powercut::missing_ext4,
        run: powercut::ext4,
    },
    Rig {
        name: "powercut-xfs",
        what: "every state that a power cut can leave behind a recorded writer, on xfs",
        unit: "crash points",
        target: 500_000,
        slice: 1_000,
        missing: powercut::missing_xfs,
        run: powercut::xfs,
    },
    Rig {
        name: "chains-double",
        what: "a power cut behind a power cut, on ext4 and xfs",
        unit: "double crash chains",
        target: 100_000,
        slice: 500,
        missing: powercut::missing_either,
        run: powercut::double,
    },
    Rig {
        name: "chains-triple",
        what: "three power cuts, one behind the other, on ext4 and xfs",
        unit: "triple crash chains",
        target: 10_000,
        slice: 500,
        missing: powercut::missing_either,
        run: powercut::triple,
    },
    Rig {
        name: "flush-eio",
        what: "the n-th flush to the disk fails, for every n of a 200-append run, once and from then on",
        unit: "failed flushes",
        target: 5_000,
        slice: 100,
        missing: powercut::missing_either,
        run: powercut::flushes,
    },
    Rig {
        name: "stall",
        what: "the disk stops for ten minutes under load",
        unit: "seconds",
        target: 600,
        slice: 5,
        missing: powercut::missing_daemon,
        run: powercut::stall,
    },
    Rig {
        name: "damage-flips",
        what: "every single bit of closed logs (every fourth unclosed) flipped on its own, on the simulated disk",
        unit: "flips",
        target: 10_000_000,
        slice: 50_000,
        missing: nothing,
        run: crate::damage::flips,
    },
    Rig {
        name: "damage-blocks",
        what: "sectors, blocks and files zeroed, exchanged, of another log or time, missing, cut at every byte",
        unit: "damages",
        target: 1_000_000,
        slice: 20_000,
        missing: nothing,
        run: crate::damage::blocks,
    },
    Rig {
        name: "damage-files",
        what: "the same on real files through the public API, and odd things under the log's names",
        unit: "damages",
        target: 2_000_000,
        slice: 10_000,
        missing: nothing,
        run: crate::damage::files,
    },
    Rig {
        name: "kills",
        what: "kill -9 of a writer at random moments, with a witness and a rival; recycling, truncation, tails",
        unit: "kills",
        target: 20_000,
        slice: 100,
        missing: nothing,
        run: crate::kills::random,
    },
    Rig {
        name: "faults",
        what: "a FUSE disk under the real ring: each fault at each operation of a run of 200 appends",
        unit: "faults",
        target: crate::faults_plan::CASES,
        slice: 300,
        missing: crate::common::faultfs::unavailable,
        run: crate::faults::run,
    },
    Rig {
        name: "fuzz",
        what: "libFuzzer: records, batches, static blocks, damaged and made-up directories, shipping's frames",
        unit: "executions",
        target: 100_000_000,
        slice: 600_000,
        missing: crate::fuzz::missing,
        run: crate::fuzz::run,
    },
    Rig {
        name: "limits",
        what: "children that meet a limit of process, disk or machine, and then room again",
        unit: "children",
        target: crate::limits::TRIES,
        slice: crate::limits_cases::CASES.len() as u64,
        missing: nothing,
        run: crate::limits::run,
    },
];

/// This program again, as a rig's child: a writer to be killed, a rival, a witness.
pub(crate) fn child(role: &str) {
    match role {
        "writer" => crate::common::kills::writer::writer(),
        "primary" | "standby" => crate::common::ship_kills::side(role),
        _ if crate::faults_try::child(role) || crate::limits_cases::child(role) => {}
        _ => eprintln!("proof: no child is a {role}"),
    }
}
