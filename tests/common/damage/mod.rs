//! Damage: logs with everything in them that a log can have, ways to damage them, and what the library must make of it.
//!
//! [`subject`] makes the logs; [`flips`] and [`blocks`] damage them; [`look`] asks `open`, a reader and `verify`;
//! [`judgement`] holds their answers against what was appended and against what the damage left to tell of it.

pub(crate) mod blocks;
pub(crate) mod flips;
pub(crate) mod judgement;
pub(crate) mod look;
pub(crate) mod subject;
