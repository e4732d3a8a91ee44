//! A log followed from another process than its writer's: what it shows grows as the writer's claims do.
//!
//! Where the chain goes on is looked for at its end: behind the last batch, or in block 1 of a later segment. Only when
//! an epoch has begun elsewhere (the log was recovered, or cut back) is the directory judged anew.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::assess::Depth;
use super::cursor::{Batches, Record};
use super::reader::judge;
use super::segment::{self, Found, Segment, Window};
use super::survey::follows;
use crate::disk::file::RealDirectory;
use crate::disk::watch::Watch;
use crate::disk::{Access, Directory};
use crate::error::{IoFailure, Op, OpenError, ReadError};
use crate::format::segment::{Name, parse_name, segment_name};
use crate::format::{HeldBatch, HeldRecords, Verdict};
use crate::journal::PathSegment;
use crate::lsn::{LogId, Lsn, SegmentId};
use crate::runtime::index::Index;
use crate::runtime::sync::Arc;

/// A log that another process may be writing, followed for ever, without the writer's lock. It shows what a later batch or
/// seal on disk claims durable, as [`Reader`](crate::Reader) does: the writer's last batches come with its next one, or
/// with its idle seal (about 10 ms).
///
/// ```no_run
/// use std::time::Duration;
/// let mut follow = ringwal::Follow::open("data/wal", ringwal::Lsn::FIRST)?;
/// loop {
///     match follow.next(Duration::from_secs(1))? {
///         Some(record) => println!("{}", record.lsn),
///         None => println!("nothing for a second"),
///     }
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Follow {
    dir: Arc<RealDirectory>,
    watch: Watch,
    window: Window,
    index: Arc<Index>,
    log_id: Option<LogId>,
    /// The last batch of the chain, and where it stands; none while there is no log.
    end: Option<(Segment, Found)>,
    claimed: Lsn,
    term: u64,
    /// The last record that was handed out.
    shown: Lsn,
    batches: Option<Batches>,
    records: HeldRecords,
    next: Lsn,
    /// What it was shown is gone.
    ended: Option<ReadError>,
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Follow");
        out.field("path", &self.dir.path()).field("durable_lsn", &self.claimed).finish_non_exhaustive()
    }
}

impl Follow {
    /// Follows the log in `path`, from record `from` on (0: from the first that the log holds). A directory without a log
    /// will show one when it is there. Changes nothing. Blocks on I/O.
    ///
    /// # Errors
    /// Missing, not a log, damaged, of a newer format, or I/O.
    pub fn open(path: impl AsRef<Path>, from: Lsn) -> Result<Self, OpenError> {
        let dir = Arc::new(RealDirectory::open(path.as_ref(), false)?);
        let watch = Watch::new(path.as_ref());
        let window = Window::new(dir.block_bytes()?);
        let mut follow = Self {
            dir,
            watch,
            window,
            index: Arc::new(Index::new(Vec::new(), Lsn::FIRST)),
            log_id: None,
            end: None,
            claimed: Lsn::ZERO,
            term: 0,
            shown: Lsn::ZERO,
            batches: None,
            records: HeldRecords::default(),
            next: from,
            ended: None,
        };
        follow.judge()?;
        if from == Lsn::ZERO {
            follow.next = follow.first_lsn();
        }
        Ok(follow)
    }

    /// The first record that the log holds.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.index.first()
    }

    /// The last record that it shows, as of the last look.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.claimed
    }

    /// The log's id, if there is a log.
    #[must_use]
    pub fn log_id(&self) -> Option<LogId> {
        self.log_id
    }

    /// The greatest fencing term that was seen.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The LSN of the record that comes next.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.records.next_lsn().unwrap_or(self.next)
    }

    /// The next record; none if `timeout` passes without one. Blocks.
    ///
    /// # Errors
    /// [`ReadError::Truncated`] and [`ReadError::CutBack`] when the writer took away what comes next, or what was shown;
    /// damage, I/O.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Record>, ReadError> {
        let mut left = timeout;
        loop {
            if let Some(record) = self.next_ready()? {
                return Ok(Some(record));
            }
            if left.is_zero() {
                return Ok(None);
            }
            left = left.saturating_sub(self.watch.wait(left).max(Duration::from_micros(1)));
            self.refresh()?;
        }
    }

    /// A record that is shown already: none if the next one is not, as of the last look. Blocks on I/O.
    ///
    /// # Errors
    /// As [`Follow::next`].
    pub fn next_ready(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            if let Some((lsn, payload)) = self.records.next() {
                return Ok(Some(Record { lsn, payload }));
            }
            if let Some(ended) = &self.ended {
                return Err(ended.clone());
            }
            let Some(batch) = self.batch(self.next)? else { return Ok(None) };
            self.records = batch.records_from(self.next);
            self.next = batch.last.next();
        }
    }

    /// The batch that holds record `from`; none if that is not shown, as of the last look.
    pub(crate) fn batch(&mut self, from: Lsn) -> Result<Option<HeldBatch>, ReadError> {
        if from > self.claimed {
            return Ok(None);
        }
        if from < self.first_lsn() {
            return Err(ReadError::Truncated { first: self.first_lsn() });
        }
        let mut batches = match self.batches.take() {
            Some(mut batches) if batches.next_lsn() == from => {
                batches.extend(self.claimed);
                batches
            }
            _ => Batches::new(self.dir.clone(), self.index.clone(), self.index.cuts(), from, self.claimed)?,
        };
        let batch = match batches.advance() {
            Ok(batch) => batch,
            Err(error) => return Err(self.overtaken(from).unwrap_or(error)),
        };
        self.shown = batch.as_ref().map_or(self.shown, |batch| self.shown.max(batch.last));
        self.batches = Some(batches);
        Ok(batch)
    }

    /// What could not be read may have been truncated meanwhile.
    fn overtaken(&mut self, from: Lsn) -> Option<ReadError> {
        self.judge_again().err().or_else(|| {
            let first = self.first_lsn();
            (from < first).then_some(ReadError::Truncated { first })
        })
    }

    /// Judges the directory anew, and whether it still holds what was shown. If not, that is final.
    fn judge_again(&mut self) -> Result<(), ReadError> {
        let before = self.end.as_ref().map(|(_, cur)| cur.header.epoch);
        self.judge()?;
        // An epoch that begins below what was shown has taken it back: recovery alone keeps whatever is claimed.
        let mut last = self.claimed;
        for segment in self.index.path() {
            let Some(segment) = self.open_segment(segment.id)? else { continue };
            if let Verdict::Valid(found) = self.window.header_at(&segment, 1, false)?
                && found.header.cut
                && before.is_some_and(|before| found.header.epoch > before)
            {
                last = last.min(found.header.first.prev());
            }
        }
        if last < self.shown {
            self.ended = Some(ReadError::CutBack { last });
            return Err(ReadError::CutBack { last });
        }
        Ok(())
    }

    /// Sleeps until somebody writes in the directory, or `timeout` passes; it may also return early.
    pub fn wait(&self, timeout: Duration) {
        let _waited = self.watch.wait(timeout);
    }

    /// Looks again; whether it shows more than before. Blocks on I/O.
    ///
    /// # Errors
    /// [`ReadError::CutBack`] if the log was cut back behind what was shown; damage, I/O.
    pub fn refresh(&mut self) -> Result<bool, ReadError> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        let before = self.claimed;
        while let Some((segment, cur)) = self.end.clone() {
            self.window.forget();
            let behind = cur.header.block + cur.header.blocks(segment.header.block_bytes);
            match self.window.batch_at(&segment, behind)? {
                Verdict::Valid(next) if follows(&cur, &next) => self.take(segment, next),
                _ => match self.later(&cur)? {
                    Later::Nothing => return Ok(self.claimed > before),
                    Later::Segment(segment, next) => self.take(segment, next),
                    Later::Epoch => break,
                },
            }
        }
        self.judge_again()?;
        Ok(self.claimed > before)
    }

    fn take(&mut self, segment: Segment, next: Found) {
        self.index.enter(PathSegment::new(&next.header));
        self.claimed = self.claimed.max(next.header.durable);
        self.index.trim(next.header.trim.min(self.claimed.next()));
        self.term = self.term.max(next.header.term);
        self.end = Some((segment, next));
    }

    /// How the chain goes on behind `cur` in another segment.
    fn later(&mut self, cur: &Found) -> Result<Later, ReadError> {
        let names = self.dir.list()?;
        let ids = names.iter().filter_map(|entry| match parse_name(&entry.name) {
            Name::Segment(id) if id > cur.header.segment => Some(id),
            _ => None,
        });
        let mut ids: Vec<SegmentId> = ids.collect();
        ids.sort_unstable();
        for id in ids {
            let Some(segment) = self.open_segment(id)? else { continue };
            let Verdict::Valid(next) = self.window.batch_at(&segment, 1)? else { continue };
            if next.header.epoch > cur.header.epoch && next.header.cut {
                return Ok(Later::Epoch);
            }
            if follows(cur, &next) {
                return Ok(Later::Segment(segment, next));
            }
        }
        // The file may be gone, and with it the way on.
        match self.dir.open(&segment_name(cur.header.segment), Access::Read) {
            Ok(_) => Ok(Later::Nothing),
            Err(_) => Ok(Later::Epoch),
        }
    }

    /// A segment of this log; none if it is gone, or not whole.
    fn open_segment(&self, id: SegmentId) -> Result<Option<Segment>, IoFailure> {
        Ok(match segment::open(&*self.dir, &segment_name(id)) {
            Ok((file, Verdict::Valid(header))) if header.id == id && Some(header.log_id) == self.log_id => {
                Some(Segment { header, file })
            }
            Ok(_) => None,
            Err(failure) if failure.op == Op::Open => None,
            Err(failure) => return Err(failure),
        })
    }

    /// Judges the directory as if it were opened now.
    fn judge(&mut self) -> Result<(), OpenError> {
        let (verdict, _) = judge(&self.dir, Depth::Tail)?;
        if let Some(damage) = verdict.damage {
            return Err(OpenError::Damaged(damage));
        }
        self.batches = None;
        self.index = Arc::new(Index::new(verdict.path, verdict.first));
        self.claimed = verdict.claimed;
        let Some(walk) = verdict.walk else { return Ok(()) };
        (self.log_id, self.term) = (Some(walk.cur.header.log_id), walk.term.max(self.term));
        self.end = self.open_segment(walk.cur.header.segment)?.map(|segment| (segment, walk.cur));
        Ok(())
    }
}

enum Later {
    Nothing,
    Segment(Segment, Found),
    /// The log goes on in another epoch, or from elsewhere.
    Epoch,
}
