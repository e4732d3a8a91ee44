//! Finding an LSN within a segment without reading all of it: every block that begins a batch says so, and says which
//! records follow.
//!
//! A record's payload may hold anything, also what looks like a header of this very place. A true header of another epoch
//! is told by its nonce; only those of the segment's own first batch are believed here, and whoever follows the chain
//! from where this leads checks every link and every byte.

use super::segment::{Found, Segment};
use super::stretch::header_in;
use crate::disk::Buffer;
use crate::error::IoFailure;
use crate::format::{Verdict, is_zero};
use crate::lsn::Lsn;

/// What is nearer than this is found by walking, in bytes: about what one read brings.
const NEAR_BYTES: u64 = 64 << 10;

/// How far a header is looked for: behind more than this there may be one, in a log of very large records, and the walk
/// finds it.
const PROBE_BYTES_MAX: usize = 4 << 20;

/// How much is read at a time while a header is looked for, in bytes.
const PROBE_BYTES: usize = 16 << 10;

/// The block of a batch at or before `lsn`, as near to it as is worth the reads; none if that is the first. `end`: the
/// block of the segment's last batch on the chain, if it is known.
pub(super) fn nearest(segment: &Segment, end: Option<u32>, lsn: Lsn) -> Result<Option<u32>, IoFailure> {
    let header = segment.header;
    let near = u32::try_from(NEAR_BYTES.div_ceil(u64::from(header.block_bytes))).unwrap_or(1);
    let mut high = end.map_or(header.blocks, |end| end.saturating_add(1)).min(header.blocks);
    if high <= near {
        return Ok(None);
    }
    let mut probe = Probe { segment, buffer: Buffer::new(PROBE_BYTES.max(header.block_bytes as usize)) };
    let Some(first) = probe.first(1, 2)? else { return Ok(None) };
    let mut low = 1;
    while high - low > near {
        let middle = low + (high - low) / 2;
        match probe.first(middle, high)? {
            Some(found) if !is_of_epoch(&first, &found) => high = middle,
            Some(found) if found.header.first <= lsn => low = found.header.block,
            _ => high = middle,
        }
    }
    Ok((low > 1).then_some(low))
}

fn is_of_epoch(first: &Found, found: &Found) -> bool {
    found.header.nonce == first.header.nonce && found.header.epoch == first.header.epoch
}

struct Probe<'a> {
    segment: &'a Segment,
    buffer: Buffer,
}

impl Probe<'_> {
    /// The first valid header that stands from `block` on, before `end`; none also if it seems to lead nowhere: the end is
    /// a hint, and what is not written yet is long.
    fn first(&mut self, block: u32, end: u32) -> Result<Option<Found>, IoFailure> {
        let block_bytes = self.segment.header.block_bytes as usize;
        let most = u32::try_from(PROBE_BYTES_MAX / block_bytes).unwrap_or(u32::MAX);
        let end = end.min(block.saturating_add(most));
        let mut block = block;
        while block < end {
            let left = (end - block) as usize * block_bytes;
            let want = self.buffer.len().min(left) / block_bytes * block_bytes;
            let read = self.segment.file.read_at(&mut self.buffer[..want], self.segment.offset(block))?;
            if read < block_bytes || is_zero(&self.buffer[..read]) {
                return Ok(None);
            }
            for at in self.buffer[..read].chunks_exact(block_bytes) {
                if let Verdict::Valid(found) = header_in(at, self.segment, block) {
                    return Ok(Some(found));
                }
                block += 1;
            }
        }
        Ok(None)
    }
}
