//! READING: segments a window at a time ([`segment`], the next one meanwhile: [`ahead`]), a directory at a glance ([`survey`]), where the chain begins
//! ([`start`]), how far it goes ([`walk`]), what stands before ([`settled`]), and what it all means ([`assess`]).
//!
//! On top of that: opening for writing ([`recover`] decides, [`opener`] writes), records along the live chain ([`cursor`]),
//! and a log that another process may be writing ([`reader`]).

mod ahead;
pub(crate) mod assess;
pub(crate) mod cursor;
pub(crate) mod opener;
pub(crate) mod reader;
pub(crate) mod recover;
pub(crate) mod segment;
pub(crate) mod settled;
pub(crate) mod start;
pub(crate) mod survey;
pub(crate) mod walk;
