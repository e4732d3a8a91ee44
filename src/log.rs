//! The public handle.

mod host;
mod local;
mod open;
#[cfg(feature = "ship")]
pub(crate) mod primary;
#[cfg(feature = "ship")]
mod serve;
#[cfg(feature = "ship")]
mod session;
#[cfg(feature = "ship")]
pub(crate) mod shipper;
#[cfg(feature = "ship")]
pub(crate) mod standby;
#[cfg(feature = "tls")]
pub(crate) mod tls;

use std::fmt;
use std::future::Future;
use std::ops::RangeBounds;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

pub use host::{Runtime, RuntimeBuilder};
#[cfg(feature = "tokio")]
pub use local::Drive;
pub use local::{LocalLog, LocalOpen};
pub use open::Open;
#[cfg(feature = "cli")]
pub(crate) use open::prior;
#[cfg(feature = "sim")]
pub(crate) use open::{Hosted, renewed};

use crate::error::{AppendError, CursorError, ReadError, SubmitError};
use crate::lsn::{LogId, Lsn};
use crate::options::{Limits, Options};
use crate::read::cursor::{Batches, Record, Records, clip};
use crate::read::recover::RecoveryReport;
use crate::read::tail::Tail;
use crate::runtime::append::{Append, AppendBatch, Pending, Reserve, WaitDurable, block_on};
use crate::runtime::durable::End;
use crate::runtime::registered::{self, Cursor};
use crate::runtime::sync::Arc;
use crate::runtime::truncate::{TruncateAfter, TruncateBefore};
use crate::runtime::{Command, Inbox, Shared};
use crate::stats::Stats;
use host::Host;

/// A log that is open for writing. Clones share it; it is `Send + Sync`.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("ringwal-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// # let options = ringwal::Options::default().segment_bytes(1 << 20).allow_volatile(true);
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// let log = ringwal::Log::open(&dir, options).await?;
/// let lsn = log.append(b"record").await?; // durable now
/// assert_eq!(log.get(lsn)?.map(|record| record.payload), Some("record".into()));
/// log.close().await?;
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropping the last clone closes the log in the background: what was appended is made durable and sealed.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

/// What the clones share; its drop closes.
struct Handle {
    shared: Arc<Shared>,
    report: RecoveryReport,
    limits: Limits,
    /// Where its driver takes commands.
    inbox: Arc<Inbox>,
    /// The log's own ring thread, or the runtime's: kept until the last handle is gone. None for a [`LocalLog`]'s.
    _host: Option<Arc<Host>>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("path", &self.path())
            .field("durable_lsn", &self.durable_lsn())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stage.close();
    }
}

impl Log {
    fn new(
        shared: Arc<Shared>,
        report: RecoveryReport,
        limits: Limits,
        inbox: Arc<Inbox>,
        host: Option<Arc<Host>>,
    ) -> Self {
        Self { handle: Arc::new(Handle { shared, report, limits, inbox, _host: host }) }
    }

    /// Opens the log in the directory `path` for writing, on a ring thread of its own; makes both if they are missing
    /// ([`Options::create`]). Recovers what a crash left: see [`Log::recovery_report`].
    ///
    /// # Errors
    /// [`OpenError`](crate::OpenError): held by another writer, damaged, missing, and so on; each names the path and what to do.
    ///
    /// # Cancel safety
    /// Dropping the future lets the opening end in the background, and closes the log.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Open {
        Open::start(path.as_ref().to_path_buf(), options, None)
    }

    /// As [`Log::open`], on a ring thread of `runtime`: the one that serves the fewest logs.
    ///
    /// # Errors
    /// As [`Log::open`]. [`Options::engine`] and [`Options::require_uring`] are the runtime's and are ignored here.
    pub fn open_on(runtime: &Runtime, path: impl AsRef<Path>, options: Options) -> Open {
        Open::start(path.as_ref().to_path_buf(), options, Some(runtime.pick()))
    }

    /// Appends a record: resolves with its LSN when it and every record before it are durable (promise P1).
    ///
    /// Takes its LSN at the first poll that finds room; callers that wait for room are served in turn (promise P9).
    ///
    /// # Errors
    /// [`AppendError`]: over the bound, no space, poisoned, closed.
    ///
    /// # Cancel safety
    /// Does nothing until polled. Dropped before it took its LSN, nothing was appended; dropped later, the record may
    /// become durable all the same. The bytes are copied in the poll that takes the LSN.
    pub fn append<'a>(&'a self, record: &'a [u8]) -> Append<'a> {
        Append::new(&self.handle.shared, record)
    }

    /// Appends a record without ever waiting: the record has its LSN when this returns.
    ///
    /// # Errors
    /// [`SubmitError::Full`] at the bound of [`Options::pending_bytes_max`], while others wait for room, or while the
    /// next segment is being prepared; else as [`Log::append`].
    pub fn submit(&self, record: &[u8]) -> Result<Pending, SubmitError> {
        Pending::submit(&self.handle.shared, record)
    }

    /// Appends a group: resolves with its LSNs, which are consecutive, when all of it is durable. After a crash it is
    /// there whole or not at all (promise P4).
    ///
    /// # Errors
    /// As [`Log::append`]; an empty group is [`AppendError::EmptyGroup`]. The bound is on the payloads with 12 bytes
    /// each: `record_bytes_max + 12` together.
    ///
    /// # Cancel safety
    /// As [`Log::append`].
    pub fn append_batch<'a, R: AsRef<[u8]>>(&'a self, records: &'a [R]) -> AppendBatch<'a> {
        AppendBatch::new(&self.handle.shared, records)
    }

    /// Reserves memory for a record of up to `len` bytes, to serialise into. From 128 KiB on it is the memory that the
    /// disk writes from. LSN and batch are taken at commit: a slot held or dropped blocks nobody.
    ///
    /// ```
    /// # async fn f(log: &ringwal::Log) -> Result<(), ringwal::AppendError> {
    /// let mut slot = log.reserve(16).await?;
    /// slot.put(b"key=");
    /// slot.put(b"value");
    /// let lsn = slot.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Log::append`].
    ///
    /// # Cancel safety
    /// Dropping the future gives up the turn, nothing else.
    pub fn reserve(&self, len: usize) -> Reserve<'_> {
        Reserve::new(&self.handle.shared, len)
    }

    /// The first record that the log holds, or would hold.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.handle.shared.index.first()
    }

    /// Everything up to here is durable. Only [`Log::truncate_after`] takes it back (promise P7).
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.handle.shared.durable.lsn()
    }

    /// The last LSN that was handed out, durable or not.
    #[must_use]
    pub fn appended_lsn(&self) -> Lsn {
        self.handle.shared.stage.appended()
    }

    /// Resolves with the durable LSN when `lsn` is durable, also if nobody has appended it yet.
    ///
    /// # Errors
    /// The log's end, if it comes first.
    ///
    /// # Cancel safety
    /// Dropping it loses interest, nothing else.
    pub fn wait_durable(&self, lsn: Lsn) -> WaitDurable<'_> {
        WaitDurable::new(&self.handle.shared, lsn)
    }

    /// Resolves with the durable LSN when everything appended before this call is durable.
    ///
    /// # Errors
    /// As [`Log::wait_durable`].
    ///
    /// # Cancel safety
    /// Dropping it loses interest, nothing else.
    pub fn sync(&self) -> WaitDurable<'_> {
        WaitDurable::staged(&self.handle.shared)
    }

    /// The durable records of `range`, clipped to `durable_lsn` as it is now. Blocks on I/O: off an async runtime's
    /// threads, please.
    ///
    /// # Errors
    /// [`ReadError::Truncated`] if the range begins below the first record; I/O. Each record can fail on its own.
    pub fn read(&self, range: impl RangeBounds<Lsn>) -> Result<Records, ReadError> {
        let shared = &self.handle.shared;
        let cuts = shared.index.cuts();
        let (from, to) = clip(&range, self.durable_lsn());
        let first = self.first_lsn();
        let from = from.unwrap_or(first);
        if from < first {
            return Err(ReadError::Truncated { first });
        }
        Batches::of(shared, cuts, from, to).map(Records::of)
    }

    /// The durable records from `from` on (0 is as good as 1), and whatever becomes durable behind them, across rotations,
    /// for ever: a [`Stream`](futures_core::Stream). It waits for a `from` that is not durable yet.
    ///
    /// At the live end it is woken by the ring thread and reads memory ([`Options::recent_bytes_max`]); further behind, a
    /// few threads that all tails of the process share read the files for it. No tail ever holds up an append.
    ///
    /// ```
    /// # async fn f(log: &ringwal::Log) -> Result<(), ringwal::ReadError> {
    /// let mut tail = log.tail(log.first_lsn());
    /// while let Some(record) = tail.next().await {
    ///     println!("{}", record?.lsn);
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn tail(&self, from: Lsn) -> Tail {
        Tail::new(self.handle.shared.clone(), from)
    }

    /// One record, if it is durable.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn get(&self, lsn: Lsn) -> Result<Option<Record>, ReadError> {
        self.read(lsn..=lsn)?.next().transpose()
    }

    /// Gives up the records below `first` (not that one): resolves with the first LSN that the log now holds, or would
    /// hold, when that is durable and the segments that hold nothing else are freed: a few are used again, the rest are
    /// removed. A segment that holds one wanted record stays whole; its older records are gone all the same.
    ///
    /// `first` may be one above [`Log::durable_lsn`]: then nothing is kept. Below [`Log::first_lsn`] there is nothing to do.
    ///
    /// # Errors
    /// [`TruncateError`](crate::TruncateError): beyond what is durable; I/O while files are freed; poisoned, closed.
    ///
    /// # Cancel safety
    /// Does nothing until polled; dropped later, the truncation goes on.
    pub fn truncate_before(&self, first: Lsn) -> TruncateBefore<'_> {
        TruncateBefore::new(&self.handle.shared, &self.handle.inbox, first)
    }

    /// Takes back the records above `last` (not that one), for replicated logs: resolves with `last` when it is durable that
    /// they are gone. What was appended before becomes durable first, and then goes too if it is above; appends that come
    /// meanwhile wait, and get the LSNs behind `last`. The log goes on in a new epoch: no crash ever brings back what was
    /// taken (promise P3). [`Log::durable_lsn`] falls to `last`; tails that were shown more get [`ReadError::CutBack`].
    ///
    /// It takes a few flushes, and a segment: this is not for every day.
    ///
    /// # Errors
    /// [`TruncateError`](crate::TruncateError): beyond what is durable, below the first record; poisoned (a failure on the
    /// way poisons the log), closed.
    ///
    /// # Cancel safety
    /// Does nothing until polled; dropped later, it goes on.
    pub fn truncate_after(&self, last: Lsn) -> TruncateAfter<'_> {
        let reopen = open::reopen(self.handle.limits.clone(), Some(last), 0);
        TruncateAfter::new(&self.handle.shared, &self.handle.inbox, Some(last), reopen)
    }

    /// The greatest fencing term that the log has seen: 0 unless somebody set one ([`Options::term`], [`Log::begin_term`]).
    #[must_use]
    pub fn term(&self) -> u64 {
        self.handle.shared.term()
    }

    /// Begins a new epoch under at least this term: resolves with the durable LSN when that is durable. What is appended
    /// from then on says so.
    ///
    /// # Errors
    /// As [`Log::truncate_after`].
    ///
    /// # Cancel safety
    /// As [`Log::truncate_after`].
    pub fn begin_term(&self, term: u64) -> TruncateAfter<'_> {
        let reopen = open::reopen(self.handle.limits.clone(), None, term);
        TruncateAfter::new(&self.handle.shared, &self.handle.inbox, None, reopen)
    }

    /// The durable place of a named reader: where it was left, or, if there is none of this name, at the log's beginning.
    /// Blocks on I/O. The name is 1 to 64 of `a-z 0-9 _ -`.
    ///
    /// # Errors
    /// [`CursorError`](crate::CursorError): not a name, damaged, I/O.
    pub fn cursor(&self, name: &str) -> Result<Cursor, CursorError> {
        let shared = &self.handle.shared;
        Cursor::open(shared.dir.clone(), self.log_id(), name, self.first_lsn().prev())
    }

    /// Every cursor of the log, by name. Blocks on I/O.
    ///
    /// # Errors
    /// As [`Log::cursor`].
    pub fn cursors(&self) -> Result<Vec<(String, Lsn)>, CursorError> {
        registered::all(&*self.handle.shared.dir, self.log_id())
    }

    /// The log's id: of all its copies, too.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.handle.shared.stage.log_id()
    }

    /// What the log has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.shared.stats.snapshot(self.handle.shared.stage.pending_bytes())
    }

    /// What opening found, and what it did about it.
    #[must_use]
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.handle.report
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.handle.shared.dir.path()
    }

    /// Closes the log: what was appended is made durable and sealed, files and lock are let go. Appends that come later,
    /// by any clone, get [`AppendError::Closed`].
    ///
    /// # Errors
    /// [`AppendError::Poisoned`] if the log was; it is let go all the same.
    ///
    /// # Cancel safety
    /// Once polled, dropping it lets the closing go on in the background.
    pub fn close(&self) -> Close {
        Close { shared: self.handle.shared.clone() }
    }

    /// For tests: makes the driver panic.
    #[doc(hidden)]
    pub fn panic_for_tests(&self) {
        let _ = self.handle.inbox.send(Command::Panic);
    }
}

/// Resolves when the log is closed. Made by [`Log::close`].
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Close {
    shared: Arc<Shared>,
}

impl Close {
    /// Blocks the calling thread until the log is closed: for threads without a runtime.
    ///
    /// # Errors
    /// As [`Log::close`].
    pub fn wait(self) -> Result<(), AppendError> {
        block_on(self)
    }
}

impl Future for Close {
    type Output = Result<(), AppendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.shared.stage.close();
        match self.shared.durable.poll_released(cx.waker()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(End::Poisoned(cause))) => Poll::Ready(Err(AppendError::Poisoned(cause))),
            Poll::Ready(_) => Poll::Ready(Ok(())),
        }
    }
}
