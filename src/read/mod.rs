//! READING: segments a window at a time ([`segment`]), a directory at a glance ([`survey`]), where the chain begins
//! ([`start`]), how far it goes ([`walk`]), what stands before ([`settled`]), and what it all means ([`assess`]).
//!
//! On top of that: opening for writing ([`recover`] decides, [`opener`] writes), batches and records along the live chain
//! ([`cursor`], which finds its place by [`seek`] and reads in [`stretch`]es, the next one [`ahead`]), records as they
//! become durable ([`tail`], over [`fetch`] where it has fallen behind), and a log that another process may be writing
//! ([`reader`]).

mod ahead;
pub(crate) mod assess;
pub(crate) mod cursor;
mod fetch;
#[cfg(feature = "ship")]
pub(crate) mod follow;
pub(crate) mod opener;
pub(crate) mod reader;
pub(crate) mod recover;
mod seek;
pub(crate) mod segment;
pub(crate) mod settled;
pub(crate) mod start;
mod stretch;
pub(crate) mod survey;
pub(crate) mod tail;
pub(crate) mod walk;
