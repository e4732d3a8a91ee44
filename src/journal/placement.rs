//! Where a batch goes: segment, block, rotation, and how many segments should be ready.

use std::collections::VecDeque;

use crate::format;
use crate::lsn::SegmentId;

/// Blocks at a segment's end that no data batch takes: an idle seal and a close seal always find room, so that a log
/// on a full disk can still be sealed.
pub(crate) const SEAL_BLOCKS: u32 = 2;

/// How many segments are kept ready: one to rotate into, and one that only recovery may take.
pub(crate) const READY_MAX: usize = 2;

/// A prepared segment: its id and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) id: SegmentId,
    pub(crate) block_bytes: u32,
    pub(crate) blocks: u32,
}

/// The place of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: SegmentId,
    pub(crate) block: u32,
    pub(crate) block_bytes: u32,
}

impl Place {
    /// The offset in the segment's file, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.block) * u64::from(self.block_bytes)
    }
}

/// The current segment, how far it is used, and the ready ones behind it.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    current: Space,
    next_block: u32,
    ready: VecDeque<Space>,
    reserve: usize,
}

impl Placement {
    /// Goes on at `next_block` of `current`; `ready` are prepared segments in the order of their ids.
    pub(crate) fn new(current: Space, next_block: u32, ready: impl IntoIterator<Item = Space>) -> Self {
        Self { current, next_block, ready: ready.into_iter().collect(), reserve: 1 }
    }

    /// Lets rotation take the last ready segment too: recovery's own right.
    pub(crate) fn without_reserve(mut self) -> Self {
        self.reserve = 0;
        self
    }

    /// Keeps the last ready segment again: the running log's rule.
    pub(crate) fn with_reserve(mut self) -> Self {
        self.reserve = 1;
        self
    }

    /// Leaves the current segment: the next batch begins in block 1 of the next ready one.
    pub(crate) fn leave(mut self) -> Self {
        self.next_block = self.current.blocks;
        self
    }

    /// Gives up the ready segments.
    pub(crate) fn drain_ready(&mut self) -> Vec<SegmentId> {
        self.ready.drain(..).map(|space| space.id).collect()
    }

    /// Where the next batch begins.
    pub(crate) fn next(&self) -> Place {
        Place { segment: self.current.id, block: self.next_block, block_bytes: self.current.block_bytes }
    }

    /// How many bytes of records a data batch that begins here may hold: 0 if none.
    pub(crate) fn records_bytes_here(&self) -> usize {
        Self::records_bytes_in(self.current, self.next_block)
    }

    fn records_bytes_in(space: Space, next_block: u32) -> usize {
        let blocks = space.blocks.saturating_sub(SEAL_BLOCKS).saturating_sub(next_block);
        (blocks as usize * space.block_bytes as usize).saturating_sub(format::BATCH_HEADER_BYTES)
    }

    /// Whether one block is left here.
    pub(crate) fn has_block(&self) -> bool {
        self.next_block < self.current.blocks
    }

    /// Takes `blocks` here.
    ///
    /// # Panics
    /// If they do not fit: a batch is placed before it is filled, so that it cannot outgrow its place.
    pub(crate) fn take(&mut self, blocks: u32) -> Place {
        let place = self.next();
        self.next_block += blocks;
        assert!(self.next_block <= self.current.blocks, "a batch outgrew its segment");
        place
    }

    /// Moves on to the next ready segment in which a data batch of `records_bytes` fits. False, and nothing changed, if
    /// there is none but the one kept for recovery.
    pub(crate) fn rotate(&mut self, records_bytes: usize) -> bool {
        if !self.can_rotate(records_bytes) {
            return false;
        }
        if let Some(space) = self.ready.pop_front() {
            self.current = space;
            self.next_block = 1;
        }
        true
    }

    /// Whether [`Placement::rotate`] would.
    pub(crate) fn can_rotate(&self, records_bytes: usize) -> bool {
        self.ready.len() > self.reserve
            && self.ready.front().is_some_and(|space| records_bytes <= Self::records_bytes_in(*space, 1))
    }

    /// Takes a newly prepared segment.
    pub(crate) fn add_ready(&mut self, space: Space) {
        self.ready.push_back(space);
    }

    /// How many segments should be prepared.
    pub(crate) fn wanted(&self) -> usize {
        READY_MAX.saturating_sub(self.ready.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(id: u64) -> Space {
        Space { id: SegmentId::new(id), block_bytes: 512, blocks: 16 }
    }

    #[test]
    fn data_leaves_room_for_two_seals() {
        let mut placement = Placement::new(space(1), 1, []);
        let room = placement.records_bytes_here();
        assert_eq!(room, 13 * 512 - format::BATCH_HEADER_BYTES);
        placement.take(format::batch_blocks(room, 512));
        assert_eq!(placement.records_bytes_here(), 0);
        assert!(placement.has_block());
        placement.take(1);
        assert!(placement.has_block());
        placement.take(1);
        assert!(!placement.has_block());
    }

    #[test]
    fn the_last_ready_segment_is_kept_for_recovery() {
        let mut placement = Placement::new(space(1), 1, [space(2)]);
        assert_eq!(placement.wanted(), 1);
        assert!(!placement.rotate(10));
        placement.add_ready(space(3));
        assert_eq!(placement.wanted(), 0);
        assert!(placement.rotate(10));
        assert_eq!(placement.next(), Place { segment: SegmentId::new(2), block: 1, block_bytes: 512 });
        assert!(!placement.rotate(10));
        assert!(placement.clone().without_reserve().rotate(10));
        assert!(!placement.without_reserve().rotate(1 << 20));
    }
}
