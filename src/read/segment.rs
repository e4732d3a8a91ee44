//! Bytes of segments, a window at a time.

use std::path::Path;
use std::sync::Arc;

use super::ahead::Ahead;
use super::stretch::header_in;
use crate::disk::{Access, Buffer, Directory, SegmentFile};
use crate::error::IoFailure;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::format::{BatchHeader, Link, SegmentHeader, Verdict};
use crate::lsn::SegmentId;

/// How far a sequential reader reads ahead, in bytes.
const WINDOW_BYTES: usize = 1 << 20;

/// A valid batch header and its CRC, by which others link to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) header: BatchHeader,
    pub(crate) crc: u32,
}

impl Found {
    /// The link that names this batch.
    pub(crate) fn link(&self) -> Link {
        self.header.link_to(self.crc)
    }
}

/// An open segment file whose static block is valid.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn SegmentFile>,
}

impl Segment {
    pub(crate) fn id(&self) -> SegmentId {
        self.header.id
    }

    pub(crate) fn path(&self) -> &Arc<Path> {
        self.file.path()
    }

    /// Where `block` begins in the file, in bytes.
    pub(crate) fn offset(&self, block: u32) -> u64 {
        u64::from(block) * u64::from(self.header.block_bytes)
    }
}

/// Opens a file to read, and says what its static block is.
pub(crate) fn open(
    dir: &dyn Directory,
    name: &str,
) -> Result<(Arc<dyn SegmentFile>, Verdict<SegmentHeader>), IoFailure> {
    let file = dir.open(name, Access::Read)?;
    let mut block = Buffer::new((dir.block_bytes()? as usize).max(SEGMENT_HEADER_BYTES));
    let len = file.read_at(&mut block, 0)?;
    let verdict = SegmentHeader::decode(&block[..len]);
    Ok((file, verdict))
}

/// A stretch of one segment held in memory: one for each sequential reader. Whoever reads on in order is read ahead of,
/// and every byte is read once: a batch that reaches beyond the window is kept as far as it is there.
#[derive(Debug)]
pub(crate) struct Window {
    buffer: Buffer,
    /// The unit that reads must be aligned to, in bytes.
    align: usize,
    segment: Option<SegmentId>,
    offset: u64,
    len: usize,
    ahead: Ahead,
}

impl Window {
    /// An empty window for a directory whose blocks are `align` bytes.
    pub(crate) fn new(align: u32) -> Self {
        let align = align as usize;
        Self { buffer: Buffer::new(align.max(4096)), align, segment: None, offset: 0, len: 0, ahead: Ahead::default() }
    }

    /// Forgets what it holds: the file may have changed.
    pub(crate) fn forget(&mut self) {
        self.segment = None;
        self.ahead.forget();
    }

    /// Takes what was read of a segment by others: `len` bytes from its beginning.
    pub(crate) fn hold(&mut self, segment: &Segment, buffer: Buffer, len: usize) {
        self.ahead.forget();
        (self.buffer, self.segment, self.offset, self.len) = (buffer, Some(segment.id()), 0, len);
    }

    /// `blocks` blocks from `block` of `segment`; fewer bytes at the end of the file. With `ahead`, reads on beyond
    /// them, for what is likely asked next.
    pub(crate) fn bytes(
        &mut self,
        segment: &Segment,
        block: u32,
        blocks: u32,
        ahead: bool,
    ) -> Result<&[u8], IoFailure> {
        let start = segment.offset(block);
        // Never beyond the segment: a length in a header is not to be trusted with an allocation.
        let blocks = blocks.min(segment.header.blocks.saturating_sub(block));
        let want = blocks as usize * segment.header.block_bytes as usize;
        let end = start + want as u64;
        if self.segment != Some(segment.id()) || start < self.offset || end > self.offset + self.len as u64 {
            self.load(segment, start, want, ahead)?;
        }
        let from = usize::try_from(start - self.offset).unwrap_or(usize::MAX).min(self.len);
        let to = (from + want).min(self.len);
        Ok(&self.buffer[from..to])
    }

    fn load(&mut self, segment: &Segment, start: u64, want: usize, ahead: bool) -> Result<(), IoFailure> {
        let held = self.segment.take() == Some(segment.id());
        let offset = start - start % self.align as u64;
        let lead = usize::try_from(start - offset).unwrap_or(0);
        // Nothing, where a header that claims more than there is led behind the end.
        let left = usize::try_from(segment.header.bytes().saturating_sub(offset)).unwrap_or(usize::MAX);
        // What is held already stays, if the reader goes on in order and the file did not end there.
        let end = self.offset + self.len as u64;
        let in_order = held && ahead && (self.offset..=end).contains(&offset) && self.len.is_multiple_of(self.align);
        let kept = if in_order { usize::try_from(end - offset).unwrap_or(0) } else { 0 };
        let ahead = if ahead { (kept + WINDOW_BYTES).min(left) } else { 0 };
        let len = (lead + want).max(ahead).next_multiple_of(self.align);
        if in_order {
            self.keep(kept, len);
        } else if self.buffer.len() < len {
            self.buffer = Buffer::new(len);
        }
        let mut filled = kept;
        // A long batch may want more than one.
        while in_order
            && filled < len
            && let Some((next, read)) = self.ahead.take(segment.id(), offset + filled as u64)?
        {
            let read = read.min(len - filled);
            self.buffer[filled..filled + read].copy_from_slice(&next[..read]);
            self.ahead.give_back(next);
            filled += read;
        }
        if filled < len && (filled - kept).is_multiple_of(self.align) {
            filled += segment.file.read_at(&mut self.buffer[filled..len], offset + filled as u64)?;
        }
        (self.offset, self.len, self.segment) = (offset, filled, Some(segment.id()));
        // A simulated file has no time to gain, and its history must not depend on a thread.
        if in_order && filled == len && segment.file.fd().is_some() {
            let stretch = WINDOW_BYTES.next_multiple_of(self.align);
            self.ahead.start(segment.id(), &segment.file, offset + filled as u64, stretch, segment.header.bytes());
        }
        Ok(())
    }

    /// Moves the last `kept` bytes that are held to the start of a buffer of at least `len`.
    fn keep(&mut self, kept: usize, len: usize) {
        let from = self.len - kept;
        if self.buffer.len() < len {
            let mut longer = Buffer::new(len);
            longer[..kept].copy_from_slice(&self.buffer[from..self.len]);
            self.buffer = longer;
        } else {
            self.buffer.copy_within(from..self.len, 0);
        }
    }

    /// What the header at `block` of `segment` is.
    pub(crate) fn header_at(
        &mut self,
        segment: &Segment,
        block: u32,
        ahead: bool,
    ) -> Result<Verdict<Found>, IoFailure> {
        let bytes = self.bytes(segment, block, 1, ahead)?;
        Ok(header_in(bytes, segment, block))
    }

    /// What the batch at `block` of `segment` is, its records included: valid only if every byte is.
    pub(crate) fn batch_at(&mut self, segment: &Segment, block: u32) -> Result<Verdict<Found>, IoFailure> {
        let verdict = self.header_at(segment, block, true)?;
        if let Verdict::Valid(found) = verdict {
            let whole = self.bytes_of(segment, &found)?;
            if !found.header.check(whole, segment.header.block_bytes) {
                return Ok(Verdict::Bad);
            }
        }
        Ok(verdict)
    }

    /// The bytes of a batch; fewer if the file ends before it does.
    pub(crate) fn bytes_of(&mut self, segment: &Segment, found: &Found) -> Result<&[u8], IoFailure> {
        self.bytes(segment, found.header.block, found.header.blocks(segment.header.block_bytes), true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Sim, SimOptions};
    use crate::lsn::LogId;

    /// A header may claim more blocks than its segment has, and whoever skips the batch then stands behind the end.
    #[test]
    fn behind_the_end_of_a_segment_there_is_nothing() {
        let dir = Sim::new(1, SimOptions::default()).directory();
        let file = dir.create("segment").unwrap();
        file.allocate(16 * 512).unwrap();
        let (log_id, id) = (LogId::new([1; 16]), SegmentId::new(1));
        let header = SegmentHeader { log_id, id, block_bytes: 512, blocks: 16, created_ns: 0 };
        let segment = Segment { header, file };
        let mut window = Window::new(512);
        assert_eq!(window.bytes(&segment, 15, 1, true).unwrap().len(), 512);
        for block in [16, 17, 1 << 20, u32::MAX] {
            assert_eq!(window.bytes(&segment, block, 1, true).unwrap(), [0; 0], "block {block}");
        }
    }
}
