//! Bytes of segments for who walks on and on: read ahead of, handed out without a copy.
//!
//! A file is read in stretches, each into memory of its own that lives as long as any slice of it does; then the memory
//! is read into again. Only what reaches from one stretch into the next is copied together.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

use super::ahead::Ahead;
use super::segment::{Found, Segment};
use crate::disk::Buffer;
use crate::error::IoFailure;
use crate::format::{BatchHeader, Verdict};
use crate::lsn::SegmentId;

/// How much is read at once, in bytes: at first little, for who wants one record, then as much as keeps a disk busy.
const STRETCH_BYTES: [usize; 2] = [64 << 10, 1 << 20];

/// How many free buffers are kept for the next stretches.
const SHELF_MAX: usize = 4;

type Shelf = Mutex<Vec<Buffer>>;

/// A buffer that goes back to its shelf when nobody holds a slice of it any more.
struct Lent {
    buffer: Option<Buffer>,
    len: usize,
    home: Weak<Shelf>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[..self.len])
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(buffer), Some(home)) = (self.buffer.take(), self.home.upgrade()) {
            let mut shelf = home.lock().unwrap_or_else(PoisonError::into_inner);
            if shelf.len() < SHELF_MAX {
                shelf.push(buffer);
            }
        }
    }
}

/// The stretch of one segment that a sequential reader is at.
#[derive(Debug)]
pub(crate) struct Stretches {
    /// The unit that reads must be aligned to, in bytes.
    align: usize,
    segment: Option<SegmentId>,
    offset: u64,
    held: Bytes,
    ahead: Ahead,
    shelf: Arc<Shelf>,
}

impl Stretches {
    /// For a directory whose blocks are `align` bytes.
    pub(crate) fn new(align: u32) -> Self {
        Self {
            align: align as usize,
            segment: None,
            offset: 0,
            held: Bytes::new(),
            ahead: Ahead::default(),
            shelf: Arc::default(),
        }
    }

    /// Forgets what it holds: the file may have changed.
    pub(crate) fn forget(&mut self) {
        self.segment = None;
        self.held = Bytes::new();
        self.ahead.forget();
    }

    /// `blocks` blocks from `block` of `segment`; fewer bytes at the segment's end.
    pub(crate) fn bytes(&mut self, segment: &Segment, block: u32, blocks: u32) -> Result<Bytes, IoFailure> {
        let start = segment.offset(block);
        // Never beyond the segment: a length in a header is not to be trusted with an allocation.
        let blocks = blocks.min(segment.header.blocks.saturating_sub(block));
        let end = start + u64::from(blocks) * u64::from(segment.header.block_bytes);
        if self.segment != Some(segment.id()) || start < self.offset || start > self.end() {
            self.forget();
            self.segment = Some(segment.id());
            self.offset = start - start % self.align as u64;
        }
        let mut parts = Vec::new();
        let mut at = start;
        loop {
            let from = usize::try_from(at - self.offset).unwrap_or(usize::MAX).min(self.held.len());
            let to = usize::try_from(end - self.offset).unwrap_or(usize::MAX).min(self.held.len());
            let part = self.held.slice(from..to);
            at += part.len() as u64;
            parts.push(part);
            if at >= end || !self.advance(segment)? {
                break;
            }
        }
        parts.retain(|part| !part.is_empty());
        if parts.len() < 2 {
            return Ok(parts.pop().unwrap_or_default());
        }
        Ok(parts.concat().into())
    }

    fn end(&self) -> u64 {
        self.offset + self.held.len() as u64
    }

    /// Moves on to the next stretch; false at the end of the file.
    fn advance(&mut self, segment: &Segment) -> Result<bool, IoFailure> {
        let offset = self.end();
        let left = segment.header.bytes().saturating_sub(offset);
        if left == 0 || !offset.is_multiple_of(self.align as u64) {
            return Ok(false);
        }
        let first = self.held.is_empty();
        let len = STRETCH_BYTES[usize::from(!first)].next_multiple_of(self.align);
        let (buffer, read) = match self.ahead.take(segment.id(), offset)? {
            Some(read) => read,
            None => {
                let mut buffer = self.take_buffer(len);
                let want = len.min(usize::try_from(left).unwrap_or(len).next_multiple_of(self.align));
                let read = segment.file.read_at(&mut buffer[..want], offset)?;
                (buffer, read)
            }
        };
        let read = read.min(usize::try_from(left).unwrap_or(read));
        let lent = Lent { buffer: Some(buffer), len: read, home: Arc::downgrade(&self.shelf) };
        (self.offset, self.held) = (offset, Bytes::from_owner(lent));
        // Who reads a second stretch reads on. A simulated file has no time to gain, and its history must not depend on
        // a thread.
        if !first && read == len && segment.file.fd().is_some() {
            self.ahead.start(segment.id(), &segment.file, offset + read as u64, len, segment.header.bytes());
        }
        if let Some(spare) = self.shelf.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            self.ahead.give_back(spare);
        }
        Ok(read > 0)
    }

    fn take_buffer(&self, len: usize) -> Buffer {
        let spare = self.shelf.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.filter(|spare| spare.len() >= len).unwrap_or_else(|| Buffer::new(len))
    }

    /// What the header at `block` of `segment` is.
    pub(crate) fn header_at(&mut self, segment: &Segment, block: u32) -> Result<Verdict<Found>, IoFailure> {
        let bytes = self.bytes(segment, block, 1)?;
        Ok(header_in(&bytes, segment, block))
    }
}

/// What the header at the start of `bytes`, read from `block` of `segment`, is.
pub(super) fn header_in(bytes: &[u8], segment: &Segment, block: u32) -> Verdict<Found> {
    if bytes.len() < segment.header.block_bytes as usize {
        return Verdict::Bad;
    }
    let bytes = &bytes[..segment.header.block_bytes as usize];
    match BatchHeader::decode(bytes, segment.header.log_id, segment.id(), block) {
        Verdict::Valid((header, crc)) => Verdict::Valid(Found { header, crc }),
        Verdict::Zero => Verdict::Zero,
        Verdict::Stale(records_bytes) => Verdict::Stale(records_bytes),
        Verdict::Bad => Verdict::Bad,
        Verdict::Newer(version) => Verdict::Newer(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Sim, SimOptions};
    use crate::disk::{Access, Directory};
    use crate::format::SegmentHeader;
    use crate::lsn::LogId;

    const BLOCKS: u32 = 8192;

    fn segment(dir: &dyn Directory) -> Segment {
        let file = dir.create("segment").unwrap();
        file.allocate(u64::from(BLOCKS) * 512).unwrap();
        for block in 0..BLOCKS {
            file.write_at(&[u8::try_from(block % 251).unwrap(); 512], u64::from(block) * 512).unwrap();
        }
        let file = dir.open("segment", Access::Read).unwrap();
        let (log_id, id) = (LogId::new([1; 16]), SegmentId::new(1));
        Segment { header: SegmentHeader { log_id, id, block_bytes: 512, blocks: BLOCKS, created_ns: 0 }, file }
    }

    #[test]
    fn any_stretch_of_blocks_is_what_stands_there() {
        let dir = Sim::new(1, SimOptions::default()).directory();
        let segment = segment(&*dir);
        let mut stretches = Stretches::new(512);
        // In order, across stretches, back, far ahead, over the end.
        for (block, blocks) in [(0, 1), (1, 2047), (2040, 16), (2056, 5000), (3, 2), (8000, 500), (8191, 1), (8192, 4)]
        {
            let bytes = stretches.bytes(&segment, block, blocks).unwrap();
            assert_eq!(bytes.len(), 512 * blocks.min(BLOCKS - block) as usize, "{block}+{blocks}");
            for (at, found) in bytes.chunks(512).enumerate() {
                let expected = u8::try_from((block as usize + at) % 251).unwrap();
                assert!(found.iter().all(|byte| *byte == expected), "{block}+{blocks} at {at}");
            }
        }
    }

    #[test]
    fn what_was_forgotten_is_read_again_and_slices_stay_as_they_were() {
        let dir = Sim::new(1, SimOptions::default()).directory();
        let segment = segment(&*dir);
        let mut stretches = Stretches::new(512);
        let before = stretches.bytes(&segment, 5, 1).unwrap();
        dir.open("segment", Access::ReadWrite).unwrap().write_at(&[99; 512], 5 * 512).unwrap();
        assert_eq!(stretches.bytes(&segment, 5, 1).unwrap()[0], 5);
        stretches.forget();
        assert_eq!(stretches.bytes(&segment, 5, 1).unwrap()[0], 99);
        assert_eq!(before[0], 5);
    }
}
