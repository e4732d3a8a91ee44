//! A log read by another process than its writer's: read-only, beside a live writer, and the judgement of `verify`.

use std::ops::RangeBounds;
use std::path::Path;

use super::assess::{Assessment, Depth, assess};
use super::cursor::{Batches, Record, Records, clip};
use super::segment::Window;
use super::survey::{Refusal, Survey};
use crate::disk::file::RealDirectory;
use crate::disk::{Access, Directory};
use crate::error::{Damage, OpenError, ReadError};
use crate::format::Verdict;
use crate::format::segment::{Name, parse_name};
use crate::journal::recovery::{Outcome, Row};
use crate::lsn::{Epoch, LogId, Lsn, SegmentId};
use crate::runtime::index::Index;
use crate::runtime::sync::Arc;

/// How often a damaged-looking directory is surveyed anew beside a live writer: files may come and go in between.
const SURVEYS_MAX: usize = 5;

/// A log opened read-only, without the writer's lock: beside a live writer, on a read-only mount, after a crash.
///
/// It shows only records that a later batch or seal on disk claims durable (promise P7): up to the writer's last batches
/// are not shown until its next batch or its idle seal (about 10 ms), or, after a crash, until the log is next opened
/// for writing.
///
/// ```no_run
/// let reader = ringwal::Reader::open("data/wal")?;
/// for record in reader.read(..)? {
///     println!("{}", record?.lsn);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reader {
    dir: Arc<RealDirectory>,
    index: Arc<Index>,
    first: Lsn,
    claimed: Lsn,
    last: Lsn,
    writer: Option<Option<u32>>,
}

impl Reader {
    /// Opens the log in `path`. Changes nothing. Blocks on I/O.
    ///
    /// # Errors
    /// Missing, not a log, damaged, of a newer format, or I/O.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        match Self::open_damaged(path)? {
            (_, Some(damage)) => Err(OpenError::Damaged(damage)),
            (reader, None) => Ok(reader),
        }
    }

    /// As [`Reader::open`], but of a log that may be damaged: the reader then shows what precedes the damage.
    #[doc(hidden)]
    pub fn open_damaged(path: impl AsRef<Path>) -> Result<(Self, Option<Damage>), OpenError> {
        let dir = Arc::new(RealDirectory::open(path.as_ref(), false)?);
        let (verdict, writer) = judge(&dir, Depth::Tail)?;
        let index = Arc::new(Index::new(verdict.path, verdict.first));
        let before = verdict.damage.as_ref().map_or(Lsn::MAX, |damage| damage.first.prev());
        let (claimed, last) = (verdict.claimed.min(before), verdict.last.min(before));
        Ok((Self { dir, index, first: verdict.first, claimed, last, writer }, verdict.damage))
    }

    /// The process that held the log for writing when the reader was opened: none, unknown, or its id.
    #[must_use]
    pub fn writer(&self) -> Option<Option<u32>> {
        self.writer
    }

    /// The first record that the log holds.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.first
    }

    /// The last record that is claimed durable, when the reader was opened: what it shows.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.claimed
    }

    /// How many whole records stand behind that and wait for a claim, or for the next opening for writing.
    #[must_use]
    pub fn unclaimed(&self) -> u64 {
        self.last.since(self.claimed)
    }

    /// The records of `range`, clipped to what the reader shows. Blocks on I/O.
    ///
    /// # Errors
    /// [`ReadError::Truncated`] if the range begins below the first record; I/O. Each record can fail on its own.
    pub fn read(&self, range: impl RangeBounds<Lsn>) -> Result<Records, ReadError> {
        let (from, to) = clip(&range, self.claimed);
        let from = from.unwrap_or(self.first);
        if from < self.first {
            return Err(ReadError::Truncated { first: self.first });
        }
        Batches::new(self.dir.clone(), self.index.clone(), self.index.cuts(), from, to).map(Records::of)
    }

    /// One record, if the reader shows it.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn get(&self, lsn: Lsn) -> Result<Option<Record>, ReadError> {
        self.read(lsn..=lsn)?.next().transpose()
    }
}

/// Surveys and judges; beside a live writer what looks damaged is looked at again.
pub(super) fn judge(dir: &RealDirectory, depth: Depth) -> Result<(Assessment, Option<Option<u32>>), OpenError> {
    let mut tries = 0;
    loop {
        let writer = dir.holder()?;
        let verdict =
            Survey::take(dir, Access::Read).and_then(|mut survey| Ok((assess(&mut survey, depth)?, survey.strangers)));
        tries += 1;
        // A writer that rotates or clears dead files changes the directory under the survey.
        let again = writer.is_some() && tries < SURVEYS_MAX;
        match verdict {
            Ok((verdict, _)) if verdict.damage.is_some() && again => {}
            Err(Refusal::Io(_)) if again => {}
            Ok((verdict, _)) => return Ok((verdict, writer)),
            Err(refusal) => return Err(refusal.into()),
        }
    }
}

/// What `verify` found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verification {
    /// The row of the recovery table that spoke.
    pub label: &'static str,
    /// The row in words.
    pub meaning: &'static str,
    /// Clean, torn or damaged.
    pub state: State,
    /// The first record.
    pub first: Lsn,
    /// The last whole record; beside a live writer, the last that is claimed durable.
    pub last: Lsn,
    /// The process that holds the log for writing: none, unknown, or its id.
    pub writer: Option<Option<u32>>,
}

/// The judgement in one word.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum State {
    /// There is no log yet.
    Empty,
    /// Everything is whole and nothing stands behind it.
    Clean,
    /// Whole, but a crash left this many bytes behind the last record. The next opening for writing cuts them.
    Torn {
        /// Bytes of blocks behind the end that are neither zero nor stale.
        bytes: u64,
    },
    /// Acknowledged data is damaged.
    Damaged(Damage),
}

/// Reads every byte of the log in `path` and judges it. Changes nothing; works beside a live writer, whose unclaimed tail
/// counts as in flight, and on a read-only mount. Blocks on I/O.
///
/// # Errors
/// Missing, not a log, of a newer format, or I/O. Damage is not an error here but an answer.
pub fn verify(path: impl AsRef<Path>) -> Result<Verification, OpenError> {
    let dir = RealDirectory::open(path.as_ref(), false)?;
    let (verdict, writer) = judge(&dir, Depth::Whole)?;
    if verdict.row == Row::R2New && dir.list()?.iter().any(|entry| parse_name(&entry.name) == Name::Unknown) {
        let what = "not a log: it holds other files and no segment";
        return Err(OpenError::NotALog { path: path.as_ref().to_path_buf(), what });
    }
    let state = match (verdict.row, verdict.damage) {
        (_, Some(damage)) => State::Damaged(damage),
        (Row::R2New, None) => State::Empty,
        (row, None) if row.outcome() == Outcome::Cut && verdict.torn_bytes > 0 && writer.is_none() => {
            State::Torn { bytes: verdict.torn_bytes }
        }
        _ => State::Clean,
    };
    let last = if writer.is_some() { verdict.claimed } else { verdict.last };
    let (label, meaning) = (verdict.row.label(), verdict.row.meaning());
    Ok(Verification { label, meaning, state, first: verdict.first, last, writer })
}

/// A segment as `dump` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Its id.
    pub id: SegmentId,
    /// The log it belongs to.
    pub log_id: LogId,
    /// Its block size in bytes.
    pub block_bytes: u32,
    /// Its length in bytes.
    pub bytes: u64,
    /// The batches that stand in it, whether they belong to the chain or not.
    pub batches: Vec<BatchInfo>,
}

/// A batch as `dump` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchInfo {
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// Its length on disk in bytes.
    pub bytes: u64,
    /// "opening", "copy", "data" or "seal".
    pub kind: &'static str,
    /// Whether it is a cut opening.
    pub cut: bool,
    /// Whether it is a close seal.
    pub close: bool,
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// Its first record's LSN; the next one's, in a batch of none.
    pub first: Lsn,
    /// How many records it holds.
    pub count: u32,
    /// What it claims durable.
    pub durable: Lsn,
    /// The batch it links to: segment and block.
    pub link: Option<(SegmentId, u32)>,
    /// Whether its records and padding are whole.
    pub whole: bool,
}

/// The segments and batches in `path`, in the order of their ids. Reads every header. Changes nothing; blocks on I/O.
///
/// # Errors
/// Missing, not a log, of a newer format, or I/O.
pub fn dump(path: impl AsRef<Path>) -> Result<Vec<SegmentInfo>, OpenError> {
    let dir = RealDirectory::open(path.as_ref(), false)?;
    let survey = Survey::take(&dir, Access::Read)?;
    let mut window = survey.window;
    survey.segments.values().map(|seen| describe(&mut window, &seen.segment)).collect()
}

fn describe(window: &mut Window, segment: &super::segment::Segment) -> Result<SegmentInfo, OpenError> {
    let header = segment.header;
    let mut batches = Vec::new();
    let mut block = 1;
    while block < header.blocks {
        let Verdict::Valid(found) = window.header_at(segment, block, true)? else {
            block += 1;
            continue;
        };
        let batch = found.header;
        let whole = batch.check(window.bytes_of(segment, &found)?, header.block_bytes);
        batches.push(BatchInfo {
            offset: segment.offset(block),
            bytes: batch.bytes(header.block_bytes) as u64,
            kind: batch.kind.word(),
            cut: batch.cut,
            close: batch.close,
            epoch: batch.epoch,
            first: batch.first,
            count: batch.count,
            durable: batch.durable,
            link: batch.link.map(|link| (link.segment, link.block)),
            whole,
        });
        block += if whole { batch.blocks(header.block_bytes) } else { 1 };
    }
    Ok(SegmentInfo {
        id: header.id,
        log_id: header.log_id,
        block_bytes: header.block_bytes,
        bytes: header.bytes(),
        batches,
    })
}
