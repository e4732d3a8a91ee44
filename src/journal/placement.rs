//! Where a batch goes: segment, block, rotation, and how many segments should be ready.
//!
//! Segments need not be of one size. A log begins with a small one, so that opening it takes milliseconds, and each
//! that is prepared behind it is twice as long, up to the full length. Small ones in front hold up nobody: a batch that
//! they cannot hold goes to the first ready segment that can, and those that it skips stay unused. Two rules keep
//! recovery from ever needing room on a full disk: what is in flight at once fits into another segment as long as the
//! current one (in a short one every batch is at most its share; in one of the full length the journal counts), and one
//! of at least that length stays ready behind it.

use std::collections::VecDeque;

use crate::format;
use crate::lsn::SegmentId;
use crate::options::RESERVED_BLOCKS;

/// Blocks at a segment's end that no data batch takes: an idle seal and a close seal always find room, so that a log
/// on a full disk can still be sealed.
pub(crate) const SEAL_BLOCKS: u32 = 2;

/// How many segments of the full length are kept ready: one to rotate into, and one that only recovery may take.
pub(crate) const READY_MAX: usize = 2;

/// How many freed segments are kept as spares; the rest are removed.
pub(crate) const SPARES_MAX: usize = 2;

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
    terms: Option<Terms>,
}

/// What a running log keeps to, so that recovery finds room; recovery itself is free of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The full length of a segment, in blocks.
    pub(crate) full_blocks: u32,
    /// How many of the largest batches a shorter segment holds at least.
    pub(crate) shares: u32,
}

impl Terms {
    /// How many of the largest batches `space` holds at least. In one of the full length two are enough: there the
    /// journal sees to it that what is in flight at once fits.
    fn shares(self, space: Space) -> u32 {
        if space.blocks >= self.full_blocks { self.shares.min(2) } else { self.shares }
    }
}

impl Placement {
    /// Goes on at `next_block` of `current`; `ready` are prepared segments in the order of their ids.
    pub(crate) fn new(current: Space, next_block: u32, ready: impl IntoIterator<Item = Space>) -> Self {
        Self { current, next_block, ready: ready.into_iter().collect(), terms: None }
    }

    /// Keeps to the terms of a running log: it is recovery's own right to take the last ready segment, and all of it.
    pub(crate) fn on(mut self, terms: Terms) -> Self {
        self.terms = Some(terms);
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

    /// How many bytes of records a data batch may hold that begins `ahead` bytes of another batch from here: 0 if none.
    pub(crate) fn records_bytes_behind(&self, ahead: usize) -> usize {
        let ahead = u32::try_from(ahead.div_ceil(self.current.block_bytes as usize)).unwrap_or(u32::MAX);
        self.records_bytes_in(self.current, self.next_block.saturating_add(ahead))
    }

    fn records_bytes_in(&self, space: Space, next_block: u32) -> usize {
        let left = space.blocks.saturating_sub(SEAL_BLOCKS).saturating_sub(next_block);
        let share = self.terms.map_or(left, |terms| space.blocks.saturating_sub(RESERVED_BLOCKS) / terms.shares(space));
        (left.min(share) as usize * space.block_bytes as usize).saturating_sub(format::BATCH_HEADER_BYTES)
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

    /// Moves on to the first ready segment in which a data batch of `records_bytes` fits, past those in which it does
    /// not. False, and nothing changed, if that would leave none for recovery.
    pub(crate) fn rotate(&mut self, records_bytes: usize) -> bool {
        let Some(at) = self.target(records_bytes) else { return false };
        if let Some(space) = self.ready.drain(..=at).next_back() {
            self.current = space;
            self.next_block = 1;
        }
        true
    }

    /// Whether [`Placement::rotate`] would.
    pub(crate) fn can_rotate(&self, records_bytes: usize) -> bool {
        self.target(records_bytes).is_some()
    }

    fn target(&self, records_bytes: usize) -> Option<usize> {
        let at = self.ready.iter().position(|space| records_bytes <= self.records_bytes_in(*space, 1))?;
        // What is in flight when the power goes must fit into one that stays.
        let enough = |terms: Terms| {
            let blocks = self.ready[at].blocks.min(terms.full_blocks);
            self.ready.range(at + 1..).any(|space| space.blocks >= blocks)
        };
        self.terms.is_none_or(enough).then_some(at)
    }

    /// Takes a newly prepared segment.
    pub(crate) fn add_ready(&mut self, space: Space) {
        self.ready.push_back(space);
    }

    /// The length in blocks of the segment that should be prepared next, if one should: until enough of the full length
    /// are ready, each is twice as long as the one before.
    pub(crate) fn wanted(&self) -> Option<u32> {
        let full = self.terms?.full_blocks;
        let ready = self.ready.iter().filter(|space| space.blocks >= full).count();
        let last = self.ready.back().unwrap_or(&self.current).blocks;
        (ready < READY_MAX).then(|| last.saturating_mul(2).min(full))
    }

    /// How much of the current segment is used up, in thousandths.
    pub(crate) fn used_permille(&self) -> u32 {
        let used = u64::from(self.next_block) * 1000 / u64::from(self.current.blocks.max(1));
        u32::try_from(used).unwrap_or(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(id: u64) -> Space {
        Space { id: SegmentId::new(id), block_bytes: 512, blocks: 16 }
    }

    fn long(id: u64, blocks: u32) -> Space {
        Space { blocks, ..space(id) }
    }

    const TERMS: Terms = Terms { full_blocks: 16, shares: 1 };

    #[test]
    fn data_leaves_room_for_two_seals() {
        let mut placement = Placement::new(space(1), 1, []);
        let room = placement.records_bytes_behind(0);
        assert_eq!(room, 13 * 512 - format::BATCH_HEADER_BYTES);
        placement.take(format::batch_blocks(room, 512));
        assert_eq!(placement.records_bytes_behind(0), 0);
        assert!(placement.has_block());
        placement.take(1);
        assert!(placement.has_block());
        placement.take(1);
        assert!(!placement.has_block());
    }

    #[test]
    fn the_last_ready_segment_is_kept_for_recovery() {
        let mut placement = Placement::new(space(1), 1, [space(2)]).on(TERMS);
        assert_eq!(placement.wanted(), Some(16));
        assert!(!placement.rotate(10));
        placement.add_ready(space(3));
        assert_eq!(placement.wanted(), None);
        assert!(placement.rotate(10));
        assert_eq!(placement.next(), Place { segment: SegmentId::new(2), block: 1, block_bytes: 512 });
        assert!(!placement.rotate(10));
        assert!(Placement::new(space(2), 1, [space(3)]).rotate(10));
        assert!(!Placement::new(space(2), 1, [space(3)]).rotate(1 << 20));
    }

    #[test]
    fn segments_grow_to_the_full_length() {
        let mut placement = Placement::new(space(1), 1, []).on(Terms { full_blocks: 100, shares: 1 });
        let mut lengths = Vec::new();
        while let Some(blocks) = placement.wanted() {
            lengths.push(blocks);
            placement.add_ready(long(1 + lengths.len() as u64, blocks));
        }
        assert_eq!(lengths, [32, 64, 100, 100]);
    }

    #[test]
    fn a_large_batch_skips_small_segments_and_leaves_one_that_could_take_its_copy() {
        let large = 40 * 512;
        let mut placement =
            Placement::new(space(1), 1, [long(2, 32), long(3, 64)]).on(Terms { full_blocks: 64, shares: 1 });
        assert!(!placement.can_rotate(large), "the only one that could hold the copy");
        assert!(placement.can_rotate(10));
        placement.add_ready(long(4, 64));
        assert!(placement.rotate(large));
        assert_eq!(placement.next().segment, SegmentId::new(3));
        assert!(!placement.rotate(10), "the smaller one was skipped for good");
    }

    #[test]
    fn a_batch_is_no_more_than_its_share_of_a_segment() {
        let mut placement = Placement::new(long(1, 25), 1, []).on(Terms { full_blocks: 100, shares: 4 });
        let share = 5 * 512 - format::BATCH_HEADER_BYTES;
        assert_eq!(placement.records_bytes_behind(0), share);
        placement.take(14);
        assert_eq!(placement.records_bytes_behind(512), share);
        assert_eq!(placement.records_bytes_behind(4 * 512), 4 * 512 - format::BATCH_HEADER_BYTES);
    }
}
