//! What the simulation of log shipping needs of a simulated log: a chosen id, and batches as a source gets them.

use super::Life;
use crate::disk::Access;
use crate::disk::sim::Sim;
use crate::disk::sim::rng::Rng;
use crate::error::OpenError;
use crate::format::HeldBatch;
use crate::lsn::{LogId, Lsn};
use crate::options::Options;
use crate::read::cursor::Batches;
use crate::read::recover::Truncation;
use crate::read::survey::Survey;
use crate::ship::{Batch, Standing};

impl Life {
    /// As [`Life::open`]; a log that does not exist yet gets this id.
    ///
    /// # Errors
    /// As `Log::open`.
    pub fn open_named(sim: &Sim, options: &Options, seed: u64, log_id: LogId) -> Result<Self, OpenError> {
        let named = Survey::take(&*sim.directory(), Access::Read)?.log_id.is_some();
        let id = log_id.bytes();
        let (low, high) = id.split_at(8);
        let half = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        // An opening draws the id first, if it draws one.
        let mut drawn = if named { Vec::new() } else { vec![half(high), half(low)] };
        let mut rng = Rng::new(seed);
        Self::open_with(
            sim,
            options,
            Box::new(move || drawn.pop().unwrap_or_else(|| rng.next_u64())),
            Truncation::default(),
        )
    }

    /// The batch that holds `from`, from there on, if it is written: read back from the disk, under `term`, ended at
    /// `last` if it goes on behind it.
    #[must_use]
    pub fn batch(&self, from: Lsn, last: Lsn, term: u64) -> Option<Batch> {
        Batch::new(&self.held(from, term)?.until(last), from)
    }

    /// How the log stands at `lsn`, if that is written, under `term`.
    #[must_use]
    pub fn standing(&self, lsn: Lsn, term: u64) -> Option<Standing> {
        Standing::of(&self.held(lsn, term)?, lsn)
    }

    fn held(&self, lsn: Lsn, term: u64) -> Option<HeldBatch> {
        // Also what is not durable yet: the test decides what counts.
        let batches = Batches::of(&self.shared, self.shared.index.cuts(), lsn, Lsn::MAX);
        let mut held = batches.ok()?.advance().ok()??;
        held.header.term = term;
        Some(held)
    }
}
