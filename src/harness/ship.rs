//! What the simulation of log shipping needs of a simulated log: a chosen id, and batches as a source gets them.

use bytes::Bytes;

use super::Life;
use crate::disk::sim::Sim;
use crate::disk::sim::rng::Rng;
use crate::disk::{Access, Buffer};
use crate::error::OpenError;
use crate::format::segment::segment_name;
use crate::format::{BatchHeader, HeldBatch, SegmentHeader, Verdict};
use crate::lsn::{LogId, Lsn};
use crate::options::Options;
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
        let at = self.shared.index.find(lsn)?;
        let behind = self.shared.index.behind(at.id);
        let file = self.shared.dir.open(&segment_name(at.id), Access::Read).ok()?;
        let mut bytes = Buffer::new(usize::try_from(file.len().ok()?).ok()?);
        let len = file.read_at(&mut bytes, 0).ok()?;
        let Verdict::Valid(segment) = SegmentHeader::decode(&bytes[..len]) else { return None };
        let mut block = 1;
        while block < segment.blocks {
            let rest = bytes.get(block as usize * segment.block_bytes as usize..len)?;
            let Verdict::Valid((mut header, crc)) = BatchHeader::decode(rest, segment.log_id, at.id, block) else {
                return None;
            };
            let ends = behind.filter(|behind| behind.link == Some(header.link_to(crc)));
            let end = ends.map_or(Lsn::MAX, |behind| behind.first.prev());
            if header.count > 0 && header.last().min(end) >= lsn {
                if header.first > lsn || !header.check(rest, segment.block_bytes) {
                    return None;
                }
                header.term = term;
                let whole = &rest[..header.bytes(segment.block_bytes)];
                return Some(HeldBatch::new(header, &Bytes::copy_from_slice(whole)).until(end));
            }
            if ends.is_some() {
                return None;
            }
            block += header.blocks(segment.block_bytes);
        }
        None
    }
}
