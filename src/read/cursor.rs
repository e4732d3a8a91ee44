//! Batches along the live chain, and their records.

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;

use super::seek;
use super::segment::{self, Found, Segment};
use super::stretch::Stretches;
use super::survey::follows;
use crate::disk::Directory;
use crate::error::{Damage, ReadError};
use crate::format::segment::segment_name;
use crate::format::{BatchHeader, HeldBatch, HeldRecords, Verdict};
use crate::journal::PathSegment;
use crate::journal::recovery::Row;
use crate::lsn::{Lsn, SegmentId};
use crate::runtime::Shared;
use crate::runtime::index::Index;
use crate::runtime::sync::Arc;

/// One record, as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Its LSN.
    pub lsn: Lsn,
    /// Its bytes, not copied: a slice of what was read with it (up to a megabyte, or its batch), which stays in memory as
    /// long as any record of it does.
    pub payload: Bytes,
}

/// The LSNs of a range, clipped to `first..=last`: (next, last).
pub(crate) fn clip(range: &impl RangeBounds<Lsn>, last: Lsn) -> (Option<Lsn>, Lsn) {
    let from = match range.start_bound() {
        Bound::Included(lsn) => Some((*lsn).max(Lsn::FIRST)),
        Bound::Excluded(lsn) => Some(lsn.next()),
        Bound::Unbounded => None,
    };
    let to = match range.end_bound() {
        Bound::Included(lsn) => *lsn,
        Bound::Excluded(lsn) => lsn.prev(),
        Bound::Unbounded => Lsn::MAX,
    };
    (from, to.min(last))
}

/// Walks the live chain and yields its batches, whole and checked. Blocks on I/O; leaves the page cache alone.
#[derive(Debug)]
pub(crate) struct Batches {
    dir: Arc<dyn Directory>,
    index: Arc<Index>,
    stretches: Stretches,
    place: Option<Cursor>,
    next: Lsn,
    last: Lsn,
    /// How often the log had been cut back when it held them.
    cuts: u64,
}

/// Where the chain stands: the segment, the block of the next batch in it, and the batch before.
#[derive(Debug)]
struct Cursor {
    segment: Segment,
    block: u32,
    before: Option<Found>,
    /// The segment behind on the chain, if there is one.
    behind: Option<PathSegment>,
}

impl Batches {
    /// The batches that hold records `next..=last`, which the chain held when the log had been cut back so often.
    pub(crate) fn new(
        dir: Arc<dyn Directory>,
        index: Arc<Index>,
        cuts: u64,
        next: Lsn,
        last: Lsn,
    ) -> Result<Self, ReadError> {
        let stretches = Stretches::new(dir.block_bytes()?);
        Ok(Self { dir, index, stretches, place: None, next, last, cuts })
    }

    /// The same of a log that is open here.
    pub(crate) fn of(shared: &Shared, cuts: u64, next: Lsn, last: Lsn) -> Result<Self, ReadError> {
        Self::new(shared.dir.clone(), shared.index.clone(), cuts, next, last)
    }

    /// The first LSN that was not yielded yet.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The chain holds records up to `last` now.
    pub(crate) fn extend(&mut self, last: Lsn) {
        self.last = last;
        // What was read beyond the end of then has been written since; and a segment may have got one behind it.
        self.stretches.forget();
        if let Some(cursor) = &mut self.place {
            cursor.behind = self.index.behind(cursor.segment.id());
        }
    }

    /// The next batch that holds wanted records; none behind the last.
    pub(crate) fn advance(&mut self) -> Result<Option<HeldBatch>, ReadError> {
        while self.next <= self.last {
            if let Some(last) = self.index.cut_since(self.cuts)
                && self.next > last
            {
                return Err(ReadError::CutBack { last });
            }
            let mut cursor = match self.place.take() {
                Some(cursor) => cursor,
                None => self.find()?,
            };
            let found = self.batch_header(&cursor)?;
            let ends_segment = cursor.behind.filter(|behind| behind.link == Some(found.link()));
            // A cut opening behind this batch may have ended it early.
            let last = ends_segment.map_or(found.header.last(), |behind| found.header.last().min(behind.first.prev()));
            let mut batch = None;
            if last >= self.next && found.header.count > 0 {
                batch = Some(self.take(&cursor, &found)?.until(last.min(self.last)));
                self.next = last.min(self.last).next();
            }
            match ends_segment {
                Some(behind) => cursor = self.enter(behind.id)?,
                None => {
                    cursor.block += found.header.blocks(cursor.segment.header.block_bytes);
                    cursor.before = Some(found);
                }
            }
            // A batch that was taken in part is read again for the rest.
            if batch.is_none() || self.next > last {
                self.place = Some(cursor);
            }
            if let Some(batch) = batch {
                return self.uncut(batch).map(Some);
            }
        }
        Ok(None)
    }

    /// What of a batch was not taken back since the reading began. Looked at behind reading it: who takes back says so
    /// before another record can stand there.
    fn uncut(&mut self, batch: HeldBatch) -> Result<HeldBatch, ReadError> {
        match self.index.cut_since(self.cuts) {
            Some(last) if batch.first() > last => Err(ReadError::CutBack { last }),
            Some(last) if batch.last > last => {
                self.next = last.next();
                Ok(batch.until(last))
            }
            _ => Ok(batch),
        }
    }

    fn find(&mut self) -> Result<Cursor, ReadError> {
        let Some(at) = self.index.find(self.next) else { return Err(self.truncated()) };
        let mut cursor = self.enter(at.id)?;
        let end = cursor.behind.and_then(|behind| behind.link).filter(|link| link.segment == at.id);
        if let Some(nearer) = seek::nearest(&cursor.segment, end.map(|link| link.block), self.next)? {
            cursor.block = nearer;
        }
        Ok(cursor)
    }

    fn truncated(&self) -> ReadError {
        match self.index.cut_since(self.cuts) {
            Some(last) if self.next > last => ReadError::CutBack { last },
            _ => ReadError::Truncated { first: self.index.first() },
        }
    }

    /// Whether what is asked for may be gone by now: who truncates says so before anything changes.
    fn is_overtaken(&self) -> bool {
        self.next < self.index.first() || self.index.cut_since(self.cuts).is_some_and(|last| self.last > last)
    }

    fn enter(&self, id: SegmentId) -> Result<Cursor, ReadError> {
        let (file, verdict) = match segment::open(&*self.dir, &segment_name(id)) {
            // Gone since the index was asked.
            Err(_) if self.is_overtaken() => return Err(self.truncated()),
            opened => opened?,
        };
        match verdict {
            Verdict::Valid(header) if header.id == id => {
                Ok(Cursor { segment: Segment { header, file }, block: 1, before: None, behind: self.index.behind(id) })
            }
            Verdict::Newer(version) => Err(ReadError::NewerFormat { path: file.path().to_path_buf(), version }),
            _ if self.is_overtaken() || !file.is_still_named() => Err(self.truncated()),
            _ => Err(ReadError::Damaged(Damage {
                label: Row::R3.label(),
                path: file.path().clone(),
                segment: id,
                offset: 0,
                first: self.next,
                last: Lsn::MAX,
                what: Row::R3.meaning(),
            })),
        }
    }

    /// The header of the batch at the cursor. It was there when the chain was walked, or written by this process.
    fn batch_header(&mut self, cursor: &Cursor) -> Result<Found, ReadError> {
        match self.stretches.header_at(&cursor.segment, cursor.block)? {
            Verdict::Valid(found) if cursor.before.is_none_or(|before| follows(&before, &found)) => Ok(found),
            Verdict::Newer(version) => {
                Err(ReadError::NewerFormat { path: cursor.segment.path().to_path_buf(), version })
            }
            _ => Err(self.damage(cursor, None)),
        }
    }

    fn damage(&self, cursor: &Cursor, header: Option<&BatchHeader>) -> ReadError {
        if self.is_overtaken() || !cursor.segment.file.is_still_named() {
            return self.truncated();
        }
        let expected = cursor.before.map_or(self.next, |before| before.header.last().next());
        ReadError::Damaged(Damage {
            label: Row::R7.label(),
            path: cursor.segment.path().clone(),
            segment: cursor.segment.id(),
            offset: cursor.segment.offset(cursor.block),
            first: header.map_or(expected, |header| header.first),
            last: header.map_or(Lsn::MAX, BatchHeader::last),
            what: Row::R7.meaning(),
        })
    }

    /// Takes a batch, after checking all of it.
    fn take(&mut self, cursor: &Cursor, found: &Found) -> Result<HeldBatch, ReadError> {
        let block_bytes = cursor.segment.header.block_bytes;
        let blocks = found.header.blocks(block_bytes);
        let whole = self.stretches.bytes(&cursor.segment, cursor.block, blocks)?;
        if !found.header.check(&whole, block_bytes) {
            return Err(self.damage(cursor, Some(&found.header)));
        }
        Ok(HeldBatch::new(found.header, &whole))
    }
}

/// The records of a range, in order. Blocks on I/O; leaves the page cache alone.
#[derive(Debug)]
pub struct Records {
    batches: Batches,
    batch: HeldRecords,
    failed: bool,
}

impl Records {
    /// The records of these batches.
    pub(crate) fn of(batches: Batches) -> Self {
        Self { batches, batch: HeldRecords::default(), failed: false }
    }
}

impl Iterator for Records {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            if let Some((lsn, payload)) = self.batch.next() {
                return Some(Ok(Record { lsn, payload }));
            }
            let from = self.batches.next_lsn();
            match self.batches.advance() {
                Ok(Some(batch)) => self.batch = batch.records_from(from),
                Ok(None) => return None,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
