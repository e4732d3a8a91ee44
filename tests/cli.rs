//! The command line's contract: what comes out, on which stream, and with which exit code.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

#[path = "cli/damage.rs"]
mod damage;
#[path = "cli/diskcheck.rs"]
mod diskcheck;
#[path = "cli/errors.rs"]
mod errors;
#[path = "cli/interrupt.rs"]
mod interrupt;
#[path = "cli/measure.rs"]
mod measure;
#[path = "cli/round_trip.rs"]
mod round_trip;
#[path = "cli/shipping.rs"]
mod shipping;
#[path = "cli/tool.rs"]
mod tool;
