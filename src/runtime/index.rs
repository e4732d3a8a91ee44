//! The live chain's segments: where a reader finds an LSN. Written by the ring thread at rotation, read by readers.

use super::sync::{AtomicU64, Ordering, PoisonError, RwLock};
use crate::journal::PathSegment;
use crate::lsn::{Lsn, SegmentId};

/// The segments of the live chain, oldest first. Never empty.
#[derive(Debug)]
pub(crate) struct Index {
    path: RwLock<Vec<PathSegment>>,
    /// The first record that the log holds, or would hold: often in the middle of the first segment.
    first: AtomicU64,
    /// How often the log was cut back, and where to the last time.
    cuts: RwLock<(u64, Lsn)>,
}

impl Index {
    pub(crate) fn new(path: Vec<PathSegment>, first: Lsn) -> Self {
        Self { path: RwLock::new(path), first: AtomicU64::new(first.get()), cuts: RwLock::new((0, Lsn::MAX)) }
    }

    /// The first record that the log holds, or would hold.
    pub(crate) fn first(&self) -> Lsn {
        Lsn::new(self.first.load(Ordering::Acquire))
    }

    /// The chain of another epoch, which holds `first..=last` and was cut back so often.
    pub(crate) fn renew(&self, path: Vec<PathSegment>, first: Lsn, last: Lsn, cuts: u64) {
        let mut marked = self.cuts.write().unwrap_or_else(PoisonError::into_inner);
        if marked.0 != cuts {
            *marked = (cuts, last);
        }
        *self.path.write().unwrap_or_else(PoisonError::into_inner) = path;
        self.first.store(first.get(), Ordering::Release);
    }

    /// How often the log was cut back, for who begins to read.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.read().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Where to the log was cut back last, if that was since it had been cut back so often.
    pub(crate) fn cut_since(&self, cuts: u64) -> Option<Lsn> {
        let marked = *self.cuts.read().unwrap_or_else(PoisonError::into_inner);
        (marked.0 != cuts).then_some(marked.1)
    }

    /// Adds the segment of the batch that is about to be written, unless it is the last one already. Returns whether it
    /// was added.
    pub(crate) fn enter(&self, segment: PathSegment) -> bool {
        if segment.id == self.last_id() {
            return false;
        }
        self.path.write().unwrap_or_else(PoisonError::into_inner).push(segment);
        true
    }

    /// Records below `first` are gone: forgets segments that hold nothing else. Returns the first one that is left, if any went.
    pub(crate) fn trim(&self, first: Lsn) -> Option<SegmentId> {
        let mut path = self.path.write().unwrap_or_else(PoisonError::into_inner);
        self.first.fetch_max(first.get(), Ordering::AcqRel);
        let gone = path.windows(2).take_while(|pair| pair[1].first <= first).count();
        path.drain(..gone);
        path.first().map(|segment| segment.id).filter(|_| gone > 0)
    }

    /// The segment being written.
    pub(crate) fn last_id(&self) -> SegmentId {
        self.path.read().unwrap_or_else(PoisonError::into_inner).last().map_or_else(SegmentId::default, |last| last.id)
    }

    /// The segment in which `lsn` stands, if it is in the log.
    pub(crate) fn find(&self, lsn: Lsn) -> Option<PathSegment> {
        let path = self.path.read().unwrap_or_else(PoisonError::into_inner);
        let at = path.partition_point(|segment| segment.first <= lsn).checked_sub(1)?;
        path.get(at).copied()
    }

    /// The segment behind `id` on the chain.
    pub(crate) fn behind(&self, id: SegmentId) -> Option<PathSegment> {
        let path = self.path.read().unwrap_or_else(PoisonError::into_inner);
        path.get(path.partition_point(|segment| segment.id <= id)).copied()
    }
}
