//! When records share a batch: the open batch, and where the next record goes.

use super::placement::{Place, Placement, Space};
use crate::format;
use crate::lsn::Lsn;

/// Where the next record or group goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placing {
    /// Into the open batch, at this offset of its buffer.
    Join {
        /// In bytes from the start of the batch.
        at: usize,
    },
    /// Into a batch of its own start; the open one, if any, is to be closed first. It needs a buffer of so many bytes.
    Begin {
        /// Of the buffer.
        buffer_bytes: usize,
        /// Whether it begins in the next segment.
        rotates: bool,
    },
    /// Nowhere, until another segment is prepared.
    NoSegment,
}

/// A batch that is closed to further records: all that its header needs but the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) place: Place,
    pub(crate) first: Lsn,
    pub(crate) count: u32,
    pub(crate) records_bytes: usize,
    pub(crate) digest: u64,
}

impl Shape {
    /// The last record's LSN; the one before `first`, in a batch of none.
    pub(crate) fn last(&self) -> Lsn {
        self.first.plus(u64::from(self.count)).prev()
    }

    /// Its length on disk in bytes.
    pub(crate) fn bytes(&self) -> usize {
        format::batch_bytes(self.records_bytes, self.place.block_bytes)
    }
}

/// The open batch.
#[derive(Clone, Copy, Debug)]
struct Open {
    shape: Shape,
    /// How many bytes of records it may hold: bounded by its buffer and by its segment.
    records_bytes_max: usize,
}

/// Gives each record its LSN and its place. An LSN is handed out only with a place in a prepared segment (promise P2).
#[derive(Clone, Debug)]
pub(crate) struct Batcher {
    placement: Placement,
    next_lsn: Lsn,
    /// The size at which a batch is closed, in bytes.
    batch_bytes: usize,
    open: Option<Open>,
}

impl Batcher {
    /// The next record gets `next_lsn`; batches are closed at `batch_bytes`.
    pub(crate) fn new(placement: Placement, next_lsn: Lsn, batch_bytes: usize) -> Self {
        Self { placement, next_lsn, batch_bytes, open: None }
    }

    /// The LSN that the next record gets.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// Where `records_bytes` bytes of records (headers included) go, together.
    pub(crate) fn placing(&self, records_bytes: usize) -> Placing {
        if let Some(open) = &self.open {
            let filled = open.shape.records_bytes;
            if records_bytes <= open.records_bytes_max - filled {
                return Placing::Join { at: format::BATCH_HEADER_BYTES + filled };
            }
        }
        let here = self.placement.records_bytes_behind(self.open.map_or(0, |open| open.shape.bytes()));
        // An oversize record or group still is one batch: `Options` saw to it that a segment holds it.
        let buffer_bytes = format::batch_bytes(records_bytes, self.placement.next().block_bytes).max(self.batch_bytes);
        if records_bytes <= here {
            Placing::Begin { buffer_bytes, rotates: false }
        } else if self.placement.can_rotate(records_bytes) {
            Placing::Begin { buffer_bytes, rotates: true }
        } else {
            Placing::NoSegment
        }
    }

    /// Begins a batch in a buffer of `buffer_bytes`. The open one must have been closed; `rotates` is what
    /// [`Batcher::placing`] said. Returns where its first record goes.
    pub(crate) fn begin(&mut self, buffer_bytes: usize, records_bytes: usize, rotates: bool) -> usize {
        assert!(self.open.is_none(), "one batch is open at a time");
        if rotates {
            self.placement.rotate(records_bytes);
        }
        let place = self.placement.next();
        let records_bytes_max = (buffer_bytes - format::BATCH_HEADER_BYTES).min(self.placement.records_bytes_behind(0));
        let shape = Shape { place, first: self.next_lsn, count: 0, records_bytes: 0, digest: 0 };
        self.open = Some(Open { shape, records_bytes_max });
        format::BATCH_HEADER_BYTES
    }

    /// Counts `count` records of `records_bytes` bytes together (headers included) into the open batch. Returns the first
    /// one's LSN.
    pub(crate) fn add(&mut self, count: u32, records_bytes: usize) -> Lsn {
        let lsn = self.next_lsn;
        let open = self.open.as_mut().expect("begin comes before add");
        open.shape.records_bytes += records_bytes;
        open.shape.count += count;
        assert!(open.shape.records_bytes <= open.records_bytes_max, "a record outgrew its batch");
        self.next_lsn = lsn.plus(u64::from(count));
        lsn
    }

    /// Adds to the open batch's digest the terms of records that [`Batcher::add`] counted.
    pub(crate) fn mix(&mut self, terms: u64) {
        let open = self.open.as_mut().expect("add comes before mix");
        open.shape.digest = open.shape.digest.wrapping_add(terms);
    }

    /// Closes the open batch, if there is one: its place is final.
    pub(crate) fn close(&mut self) -> Option<Shape> {
        let shape = self.open.take()?.shape;
        self.placement.take(format::batch_blocks(shape.records_bytes, shape.place.block_bytes));
        Some(shape)
    }

    /// Places a batch of no records (a seal). None if it would need a segment that is not to be had.
    pub(crate) fn place_empty(&mut self) -> Option<Shape> {
        assert!(self.open.is_none(), "a seal comes when nothing is staged");
        if !self.placement.has_block() && !self.placement.rotate(0) {
            return None;
        }
        let place = self.placement.take(1);
        Some(Shape { place, first: self.next_lsn, count: 0, records_bytes: 0, digest: 0 })
    }

    /// Takes a newly prepared segment.
    pub(crate) fn add_ready(&mut self, space: Space) {
        self.placement.add_ready(space);
    }

    /// The length in blocks of the segment that should be prepared next, if one should.
    pub(crate) fn segment_wanted(&self) -> Option<u32> {
        self.placement.wanted()
    }

    /// Whether there is a ready segment to go on in.
    pub(crate) fn can_rotate(&self) -> bool {
        self.placement.can_rotate(0)
    }

    /// How much of the current segment is used up, in thousandths.
    pub(crate) fn used_permille(&self) -> u32 {
        self.placement.used_permille()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::placement::Terms;
    use crate::lsn::SegmentId;

    fn space(id: u64) -> Space {
        Space { id: SegmentId::new(id), block_bytes: 512, blocks: 16 }
    }

    fn batcher(ready: &[u64]) -> Batcher {
        let terms = Terms { full_blocks: 16, shares: 1 };
        let placement = Placement::new(space(1), 1, ready.iter().map(|id| space(*id))).on(terms);
        Batcher::new(placement, Lsn::FIRST, 1024)
    }

    fn add(batcher: &mut Batcher, bytes: usize) -> Placing {
        let placing = batcher.placing(bytes);
        if let Placing::Begin { buffer_bytes, rotates } = placing {
            batcher.close();
            batcher.begin(buffer_bytes, bytes, rotates);
        }
        if placing != Placing::NoSegment {
            batcher.add(1, bytes);
            batcher.mix(1);
        }
        placing
    }

    #[test]
    fn records_join_until_the_buffer_is_full() {
        let mut batcher = batcher(&[]);
        assert_eq!(add(&mut batcher, 400), Placing::Begin { buffer_bytes: 1024, rotates: false });
        assert_eq!(add(&mut batcher, 400), Placing::Join { at: 544 });
        assert_eq!(add(&mut batcher, 400), Placing::Begin { buffer_bytes: 1024, rotates: false });
        let shape = batcher.close().unwrap();
        assert_eq!((shape.first, shape.count, shape.place.block), (Lsn::new(3), 1, 3));
        assert_eq!(batcher.close(), None);
    }

    #[test]
    fn an_oversize_record_gets_a_batch_and_a_buffer_of_its_own() {
        let mut batcher = batcher(&[]);
        assert_eq!(add(&mut batcher, 3000), Placing::Begin { buffer_bytes: 3584, rotates: false });
        assert_eq!(batcher.close().unwrap().bytes(), 3584);
    }

    #[test]
    fn no_lsn_without_a_place() {
        let mut batcher = batcher(&[2]);
        for _ in 0..13 {
            assert!(matches!(add(&mut batcher, 300), Placing::Begin { .. } | Placing::Join { .. }));
            batcher.close();
        }
        let next = batcher.next_lsn();
        assert_eq!(add(&mut batcher, 300), Placing::NoSegment);
        assert_eq!(batcher.next_lsn(), next);
        assert_eq!(batcher.place_empty().unwrap().place.block, 14);
        assert_eq!(batcher.place_empty().unwrap().place.block, 15);
        assert_eq!(batcher.place_empty(), None);
        batcher.add_ready(space(3));
        assert_eq!(add(&mut batcher, 300), Placing::Begin { buffer_bytes: 1024, rotates: true });
        assert_eq!(batcher.close().unwrap().place.segment, SegmentId::new(2));
    }
}
