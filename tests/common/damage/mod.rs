//! Damage: logs with everything in them that a log can have, ways to damage them, and what the library must make of it.
//!
//! [`subject`] makes the logs; [`flips`], [`blocks`] and [`entries`] damage them; [`bench`] puts the damage in place, on
//! the simulated disk or in real files, and asks `open`, a reader and `verify`, whose answers are a [`look`]; [`judgement`]
//! holds those against what was appended and against what the damage left to tell of it.

pub(crate) mod bench;
pub(crate) mod blocks;
pub(crate) mod entries;
pub(crate) mod flips;
pub(crate) mod judgement;
pub(crate) mod look;
pub(crate) mod subject;
