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

pub(crate) const RIGS: &[Rig] = &[
    Rig {
        name: "sim",
        what: "seeded histories on the simulated disk, crashed anywhere, each drawn twice with one trace",
        unit: "crashes",
        target: 10_000_000,
        slice: 400_000,
        missing: nothing,
        run: crate::sim::random,
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
];

/// This program again, as a rig's child: a writer to be killed, a rival, a witness.
pub(crate) fn child(role: &str) {
    eprintln!("proof: no child is a {role}");
}
