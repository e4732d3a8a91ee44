//! Records along the live chain.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;

use super::segment::{Found, Segment, Window};
use super::survey::follows;
use crate::disk::{Access, Buffer, Directory};
use crate::error::{Damage, ReadError};
use crate::format::segment::{SEGMENT_HEADER_BYTES, segment_name};
use crate::format::{BatchHeader, RecordKind, SegmentHeader, Verdict};
use crate::journal::PathSegment;
use crate::journal::recovery::Row;
use crate::lsn::{Lsn, SegmentId};
use crate::runtime::index::Index;
use crate::runtime::sync::Arc;

/// One record, as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Its LSN.
    pub lsn: Lsn,
    /// Its bytes: a slice of its batch, which stays in memory as long as any of its records does.
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

/// Walks the live chain and yields records. Blocks on I/O; leaves the page cache alone where files are opened O_DIRECT.
#[derive(Debug)]
pub struct Records {
    dir: Arc<dyn Directory>,
    index: Arc<Index>,
    window: Window,
    place: Option<Cursor>,
    batch: VecDeque<Record>,
    next: Lsn,
    last: Lsn,
    failed: bool,
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

impl Records {
    /// Records `next..=last`, which the chain holds.
    pub(crate) fn new(dir: Arc<dyn Directory>, index: Arc<Index>, next: Lsn, last: Lsn) -> Result<Self, ReadError> {
        let window = Window::new(dir.block_bytes()?);
        Ok(Self { dir, index, window, place: None, batch: VecDeque::new(), next, last, failed: false })
    }

    /// The next batch that holds wanted records, taken apart into `self.batch`.
    fn advance(&mut self) -> Result<(), ReadError> {
        while self.batch.is_empty() && self.next <= self.last {
            let mut cursor = match self.place.take() {
                Some(cursor) => cursor,
                None => self.find()?,
            };
            let found = self.batch_header(&cursor)?;
            let ends_segment = cursor.behind.filter(|behind| behind.link == Some(found.link()));
            // A cut opening behind this batch may have ended it early.
            let last = ends_segment.map_or(found.header.last(), |behind| found.header.last().min(behind.first.prev()));
            if last >= self.next && found.header.count > 0 {
                self.take(&cursor, &found, last)?;
            }
            match ends_segment {
                Some(behind) => cursor = self.enter(behind.id)?,
                None => {
                    cursor.block += found.header.blocks(cursor.segment.header.block_bytes);
                    cursor.before = Some(found);
                }
            }
            self.place = Some(cursor);
        }
        Ok(())
    }

    fn find(&mut self) -> Result<Cursor, ReadError> {
        let Some(at) = self.index.find(self.next) else {
            let first = self.index.path().first().map_or(Lsn::FIRST, |segment| segment.first);
            return Err(ReadError::Truncated { first });
        };
        self.enter(at.id)
    }

    fn enter(&self, id: SegmentId) -> Result<Cursor, ReadError> {
        let file = self.dir.open(&segment_name(id), Access::Read)?;
        let align = self.dir.block_bytes()? as usize;
        let mut block = Buffer::new(align.max(SEGMENT_HEADER_BYTES));
        let len = file.read_at(&mut block, 0)?;
        match SegmentHeader::decode(&block[..len]) {
            Verdict::Valid(header) if header.id == id => {
                Ok(Cursor { segment: Segment { header, file }, block: 1, before: None, behind: self.index.behind(id) })
            }
            Verdict::Newer(version) => Err(ReadError::NewerFormat { path: file.path().to_path_buf(), version }),
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
        let verdict = self.window.header_at(&cursor.segment, cursor.block, true)?;
        match verdict {
            Verdict::Valid(found) if cursor.before.is_none_or(|before| follows(&before, &found)) => Ok(found),
            Verdict::Newer(version) => {
                Err(ReadError::NewerFormat { path: cursor.segment.path().to_path_buf(), version })
            }
            _ => Err(self.damage(cursor, None)),
        }
    }

    fn damage(&self, cursor: &Cursor, header: Option<&BatchHeader>) -> ReadError {
        if !cursor.segment.file.is_still_named() {
            let first = self.index.path().first().map_or(Lsn::FIRST, |segment| segment.first);
            return ReadError::Truncated { first };
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

    /// Takes a batch apart, after checking all of it.
    fn take(&mut self, cursor: &Cursor, found: &Found, last: Lsn) -> Result<(), ReadError> {
        let block_bytes = cursor.segment.header.block_bytes;
        let whole = self.window.bytes_of(&cursor.segment, found)?;
        if !found.header.check(whole, block_bytes) {
            return Err(self.damage(cursor, Some(&found.header)));
        }
        let start = whole.as_ptr() as usize;
        let bytes = Bytes::copy_from_slice(whole);
        for record in found.header.records(whole).flatten() {
            let wanted =
                record.kind == RecordKind::User && record.lsn >= self.next && record.lsn <= last.min(self.last);
            if wanted {
                let at = record.payload.as_ptr() as usize - start;
                self.batch.push_back(Record { lsn: record.lsn, payload: bytes.slice(at..at + record.payload.len()) });
            }
        }
        self.next = last.next();
        Ok(())
    }
}

impl Iterator for Records {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if let Err(error) = self.advance() {
            self.failed = true;
            return Some(Err(error));
        }
        self.batch.pop_front().map(Ok)
    }
}
