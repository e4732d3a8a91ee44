//! The public handle.

use std::fmt;
use std::future::Future;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk::file::RealDirectory;
use crate::disk::{BufferPool, Directory, Lock};
use crate::error::{AppendError, IoFailure, Op, OpenError, ReadError, SubmitError};
use crate::format::SegmentHeader;
use crate::journal::{Batcher, Journal};
use crate::lsn::{Lsn, SegmentId};
use crate::options::{Engine, Limits, Options};
use crate::read::cursor::{Record, Records, clip};
use crate::read::recover::{self, Opened, RecoveryReport, Surroundings, Truncation};
use crate::runtime::append::{Append, AppendBatch, Pending, Reserve, WaitDurable, block_on};
use crate::runtime::durable::{Durable, End};
use crate::runtime::index::Index;
use crate::runtime::stage::{Parts, Stage};
use crate::runtime::sync::{Arc, lock};
use crate::runtime::threads::RingThread;
use crate::runtime::{Command, Inbox, Shared, Tenancy};
use crate::stats::{Stats, StatsCell};

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
    first: Lsn,
    /// The log's own ring thread, or the runtime's: kept until the last handle is gone.
    _host: Arc<Host>,
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
    /// Opens the log in the directory `path` for writing, on a ring thread of its own; makes both if they are missing
    /// ([`Options::create`]). Recovers what a crash left: see [`Log::recovery_report`].
    ///
    /// # Errors
    /// [`OpenError`]: held by another writer, damaged, missing, and so on; each names the path and what to do.
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
        self.handle.first
    }

    /// Everything up to here is durable. Never goes back (promise P7).
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
        WaitDurable::new(&self.handle.shared, self.appended_lsn())
    }

    /// The durable records of `range`, clipped to `durable_lsn` as it is now. Blocks on I/O: off an async runtime's
    /// threads, please.
    ///
    /// # Errors
    /// [`ReadError::Truncated`] if the range begins below the first record; I/O. Each record can fail on its own.
    pub fn read(&self, range: impl RangeBounds<Lsn>) -> Result<Records, ReadError> {
        let (from, to) = clip(&range, self.durable_lsn());
        let from = from.unwrap_or(self.handle.first);
        if from < self.handle.first {
            return Err(ReadError::Truncated { first: self.handle.first });
        }
        Records::new(self.handle.shared.dir.clone(), self.handle.shared.index.clone(), from, to)
    }

    /// One record, if it is durable.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn get(&self, lsn: Lsn) -> Result<Option<Record>, ReadError> {
        self.read(lsn..=lsn)?.next().transpose()
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

    /// For tests: makes the ring thread panic.
    #[doc(hidden)]
    pub fn panic_for_tests(&self) {
        let _ = self.handle._host.inbox.send(Command::Panic);
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

/// A ring thread and what keeps it alive: the logs on it, and the runtime.
#[derive(Debug)]
struct Host {
    inbox: Arc<Inbox>,
    method: &'static str,
    refused: Option<Arc<str>>,
    logs: AtomicUsize,
}

impl Host {
    fn start(engine: Engine, uring_required: bool, core: Option<usize>) -> Result<Arc<Self>, OpenError> {
        let ring = RingThread::start(engine, uring_required, core)?;
        Ok(Arc::new(Self {
            inbox: ring.inbox,
            method: ring.method.word(),
            refused: ring.refused,
            logs: AtomicUsize::new(0),
        }))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.inbox.abandon();
    }
}

/// Ring threads that serve many logs: thread per core.
///
/// ```no_run
/// # async fn f() -> Result<(), ringwal::OpenError> {
/// use ringwal::{Log, Options, Runtime};
/// let runtime = Runtime::builder().cores([0, 1]).build()?;
/// let orders = Log::open_on(&runtime, "data/orders", Options::default()).await?;
/// let events = Log::open_on(&runtime, "data/events", Options::default()).await?;
/// # Ok(()) }
/// ```
///
/// Dropping it ends each ring thread when its last log is closed.
#[derive(Clone, Debug)]
pub struct Runtime {
    hosts: Arc<Vec<Arc<Host>>>,
}

impl Runtime {
    /// A builder; by default it builds one ring thread, not pinned.
    #[must_use]
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder { threads: 1, cores: Vec::new(), engine: Engine::Auto, require_uring: false }
    }

    /// How many ring threads it has.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.hosts.len()
    }

    fn pick(&self) -> Arc<Host> {
        let host = self.hosts.iter().min_by_key(|host| host.logs.load(Ordering::Relaxed));
        let host = host.unwrap_or_else(|| unreachable!("a runtime has at least one ring thread")).clone();
        host.logs.fetch_add(1, Ordering::Relaxed);
        host
    }
}

/// Builds a [`Runtime`].
#[derive(Clone, Debug)]
pub struct RuntimeBuilder {
    threads: usize,
    cores: Vec<usize>,
    engine: Engine,
    require_uring: bool,
}

impl RuntimeBuilder {
    /// One ring thread for each of these cores, pinned to it. Replaces [`RuntimeBuilder::threads`].
    #[must_use]
    pub fn cores(mut self, cores: impl IntoIterator<Item = usize>) -> Self {
        self.cores = cores.into_iter().collect();
        self
    }

    /// So many ring threads (at least 1), not pinned. Default 1.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Which disk serves the logs. Default [`Engine::Auto`].
    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// Fails where io_uring is refused. Default false: plain system calls take over.
    #[must_use]
    pub fn require_uring(mut self, require: bool) -> Self {
        self.require_uring = require;
        self
    }

    /// Starts the ring threads.
    ///
    /// # Errors
    /// A core that does not exist, a thread or a ring that cannot be had.
    pub fn build(self) -> Result<Runtime, OpenError> {
        let start = |core| Host::start(self.engine, self.require_uring, core);
        let hosts: Result<Vec<_>, _> = if self.cores.is_empty() {
            (0..self.threads).map(|_| start(None)).collect()
        } else {
            self.cores.iter().map(|core| start(Some(*core))).collect()
        };
        Ok(Runtime { hosts: Arc::new(hosts?) })
    }
}

/// Resolves with an open log. Made by [`Log::open`]. The work goes on on a thread of its own from the first poll.
#[must_use = "futures do nothing unless polled"]
pub struct Open {
    request: Option<(PathBuf, Options, Option<Arc<Host>>)>,
    answer: Arc<Mutex<Answer>>,
}

#[derive(Default)]
struct Answer {
    result: Option<Result<Log, OpenError>>,
    waker: Option<Waker>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("path", &self.request.as_ref().map(|(path, ..)| path)).finish_non_exhaustive()
    }
}

impl Open {
    fn start(path: PathBuf, options: Options, host: Option<Arc<Host>>) -> Self {
        Self { request: Some((path, options, host)), answer: Arc::default() }
    }

    /// Opens on the calling thread, which it blocks: for threads without a runtime.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn wait(mut self) -> Result<Log, OpenError> {
        match self.request.take() {
            Some((path, options, host)) => open_blocking(&path, &options, host),
            None => block_on(self),
        }
    }
}

impl Future for Open {
    type Output = Result<Log, OpenError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = lock(&self.answer);
        if let Some(result) = answer.result.take() {
            return Poll::Ready(result);
        }
        answer.waker = Some(cx.waker().clone());
        drop(answer);
        let Some((path, options, host)) = self.request.take() else { return Poll::Pending };
        let answer = self.answer.clone();
        let main = move || {
            let result = open_blocking(&path, &options, host);
            let mut answer = lock(&answer);
            answer.result = Some(result);
            if let Some(waker) = answer.waker.take() {
                drop(answer);
                waker.wake();
            }
        };
        match thread::Builder::new().name("ringwal-open".to_owned()).spawn(main) {
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(Err(IoFailure::new(Op::Spawn, Path::new("ringwal-open"), 0, &error).into())),
        }
    }
}

fn open_blocking(path: &Path, options: &Options, host: Option<Arc<Host>>) -> Result<Log, OpenError> {
    let dir = RealDirectory::open(path, options.creates())?;
    if let Some(file_system) = dir.volatile()?
        && !options.volatile_allowed()
    {
        return Err(OpenError::Volatile { path: path.to_path_buf(), file_system });
    }
    let limits = options.limits(dir.block_bytes()?)?;
    if !options.creates() && !recover::holds_log(&dir)? {
        return Err(OpenError::Missing { path: path.to_path_buf() });
    }
    let lock = dir.lock(options.chosen_lock_wait())?;
    let host = match host {
        Some(host) => host,
        None => Host::start(options.chosen_engine(), options.uring_required(), None)?,
    };
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut outside =
        Surroundings { random: Box::new(random), created_ns: u64::try_from(created.as_nanos()).unwrap_or(0) };
    let opened = recover::open(&dir, &limits, &mut outside, Truncation::default())?;
    let stats = StatsCell::new(host.method, !dir.is_buffered(), host.refused.as_deref().map(str::to_owned));
    let hosted = Hosted::new(opened, Arc::new(dir), &limits, &host.inbox, stats, Some(lock));
    host.inbox.send(Command::Host(Box::new(hosted.tenancy))).map_err(|_| OpenError::RuntimeEnded)?;
    hosted.answer.recv().unwrap_or_else(|_| Err(OpenError::RuntimeEnded))?;
    let handle = Handle { shared: hosted.shared, report: hosted.report, first: hosted.first, _host: host };
    Ok(Log { handle: Arc::new(handle) })
}

/// 64 random bits from the kernel.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut bytes = [0; 8];
    match std::fs::File::open("/dev/urandom").and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes)) {
        Ok(()) => u64::from_le_bytes(bytes),
        // Without /dev (a bare chroot) or descriptors: the standard library's keys come from getrandom(2).
        Err(_) => RandomState::new().build_hasher().finish(),
    }
}

/// An opened log on its way to a driver.
pub(crate) struct Hosted {
    pub(crate) tenancy: Tenancy,
    pub(crate) shared: Arc<Shared>,
    pub(crate) report: RecoveryReport,
    pub(crate) first: Lsn,
    /// Whether the driver could take it.
    pub(crate) answer: std::sync::mpsc::Receiver<Result<(), OpenError>>,
}

impl Hosted {
    pub(crate) fn new(
        opened: Opened,
        dir: Arc<dyn Directory>,
        limits: &Limits,
        inbox: &Inbox,
        stats: StatsCell,
        lock: Option<Lock>,
    ) -> Self {
        let chain = &opened.chain;
        let shape = SegmentHeader {
            log_id: chain.log_id,
            id: SegmentId::default(),
            block_bytes: limits.block_bytes,
            blocks: limits.segment_blocks,
            created_ns: opened.created_ns,
        };
        let stage = Stage::new(Parts {
            batcher: Batcher::new(opened.placement, opened.last.next(), limits.batch_bytes),
            // The driver's disk knows which memory suits it.
            pool: BufferPool::new(limits.batch_bytes, 0),
            notify: inbox.notify.clone(),
            log_id: chain.log_id,
            nonce: chain.nonce,
            record_bytes_max: limits.record_bytes_max,
            group_bytes_max: limits.group_bytes_max(),
        });
        let shared = Arc::new(Shared {
            dir,
            stage,
            durable: Durable::new(opened.last),
            index: Arc::new(Index::new(opened.path)),
            stats,
        });
        let (told, answer) = std::sync::mpsc::sync_channel(1);
        let tenancy = Tenancy {
            journal: Journal::new(opened.chain, opened.last, limits),
            shared: shared.clone(),
            files: opened.files.into_iter().map(|(id, segment)| (id, segment.file)).collect(),
            next_segment: opened.next_segment,
            spares: opened.spares,
            shape,
            lock,
            buffer_bytes: limits.batch_bytes,
            pending_bytes_max: limits.pending_bytes_max,
            told,
        };
        Self { tenancy, shared, report: opened.report, first: opened.first, answer }
    }
}
