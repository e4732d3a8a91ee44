//! A log that another process may be writing, followed as it grows: looked at anew, as [`Reader`](super::reader::Reader)
//! looks at it.

use std::path::Path;
use std::time::Duration;

use super::assess::Depth;
use super::cursor::Batches;
use super::reader::judge;
use crate::disk::Directory;
use crate::disk::file::RealDirectory;
use crate::error::{OpenError, ReadError};
use crate::format::HeldBatch;
use crate::lsn::{LogId, Lsn};
use crate::runtime::index::Index;
use crate::runtime::sync::Arc;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);

/// A log followed read-only, beside its writer. Blocks on I/O.
#[derive(Debug)]
pub(crate) struct Follow {
    dir: Arc<RealDirectory>,
    index: Arc<Index>,
    first: Lsn,
    shown: Lsn,
    log_id: Option<LogId>,
    term: u64,
    /// Where the last batch came from.
    batches: Option<Batches>,
}

impl Follow {
    /// Opens the log in `path`. Changes nothing.
    ///
    /// # Errors
    /// As [`Reader::open`](super::reader::Reader::open).
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let dir = Arc::new(RealDirectory::open(path.as_ref(), false)?);
        let index = Arc::new(Index::new(Vec::new(), Lsn::FIRST));
        let mut follow = Self { dir, index, first: Lsn::FIRST, shown: Lsn::ZERO, log_id: None, term: 0, batches: None };
        follow.look()?;
        Ok(follow)
    }

    fn look(&mut self) -> Result<bool, OpenError> {
        let (verdict, _) = judge(&self.dir, Depth::Tail)?;
        if let Some(damage) = verdict.damage {
            return Err(OpenError::Damaged(damage));
        }
        let more = verdict.claimed > self.shown;
        self.log_id = self.dir.recorded_log_id()?;
        self.term = verdict.walk.as_ref().map_or(0, |walk| walk.term);
        (self.first, self.shown) = (verdict.first, verdict.claimed);
        self.index = Arc::new(Index::new(verdict.path, verdict.first));
        self.batches = None;
        Ok(more)
    }

    /// The first record that the log holds.
    #[must_use]
    pub(crate) fn first_lsn(&self) -> Lsn {
        self.first
    }

    /// The last record that it shows.
    #[must_use]
    pub(crate) fn durable_lsn(&self) -> Lsn {
        self.shown
    }

    /// The log's id; none before it was made.
    #[must_use]
    pub(crate) fn log_id(&self) -> Option<LogId> {
        self.log_id
    }

    /// The greatest term that the log has seen.
    #[must_use]
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// The batch that holds `from`; none if it is not shown yet.
    pub(crate) fn batch(&mut self, from: Lsn) -> Result<Option<HeldBatch>, ReadError> {
        if from < self.first {
            return Err(ReadError::Truncated { first: self.first });
        }
        if from > self.shown {
            return Ok(None);
        }
        let mut batches = match self.batches.take().filter(|batches| batches.next_lsn() == from) {
            Some(batches) => batches,
            None => Batches::new(self.dir.clone(), self.index.clone(), self.index.cuts(), from, self.shown)?,
        };
        let batch = batches.advance()?;
        self.batches = Some(batches);
        Ok(batch)
    }

    /// Looks again; whether more is shown.
    ///
    /// # Errors
    /// Damage and I/O.
    pub(crate) fn refresh(&mut self) -> Result<bool, ReadError> {
        self.look().map_err(|error| match error {
            OpenError::Damaged(damage) => ReadError::Damaged(damage),
            OpenError::Io(failure) => ReadError::Io(failure),
            _ => ReadError::Truncated { first: self.first },
        })
    }

    /// Waits until something may have changed, or the time is up.
    pub(crate) fn wait(&mut self, timeout: Duration) {
        std::thread::sleep(timeout.min(LOOK));
    }
}
