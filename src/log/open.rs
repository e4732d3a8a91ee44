//! Opening: directory, lock, recovery, and a place on a ring thread.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Log;
use super::host::Host;
use crate::disk::file::RealDirectory;
use crate::disk::probe::{self, DeviceFacts};
use crate::disk::seat::Seat;
use crate::disk::{BufferPool, Directory, Lock};
use crate::error::{Cause, IoFailure, Op, OpenError};
use crate::format::SegmentHeader;
use crate::journal::tuner::{Prior, Rules};
use crate::journal::{Batcher, Journal};
use crate::lsn::{Lsn, SegmentId};
use crate::method::Method;
use crate::options::{Limits, Options, RecoveryMode};
use crate::read::recover::{self, Opened, RecoveryReport, Surroundings, Truncation};
use crate::runtime::append::block_on;
use crate::runtime::durable::Durable;
use crate::runtime::index::Index;
use crate::runtime::recent::Recent;
use crate::runtime::registered;
use crate::runtime::renewal::{Renewed, Reopen};
use crate::runtime::stage::{Parts, Stage};
use crate::runtime::sync::{Arc, AtomicU64, Mutex, lock};
use crate::runtime::{Command, Inbox, Shared, Tenancy};
use crate::stats::StatsCell;

/// Resolves with an open log. Made by [`Log::open`]. The work goes on on a thread of its own from the first poll.
#[must_use = "futures do nothing unless polled"]
pub struct Open {
    request: Option<(PathBuf, Options, Option<Arc<Host>>)>,
    errand: Errand<Log>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("path", &self.request.as_ref().map(|(path, ..)| path)).finish_non_exhaustive()
    }
}

impl Open {
    pub(super) fn start(path: PathBuf, options: Options, host: Option<Arc<Host>>) -> Self {
        Self { request: Some((path, options, host)), errand: Errand::default() }
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
        let Self { request, errand } = &mut *self;
        let request = request.take();
        errand.poll(cx, request.map(|(path, options, host)| move || open_blocking(&path, &options, host)))
    }
}

/// A part of an opening that runs on a thread of its own, and who waits for it.
pub(super) struct Errand<T>(Arc<Mutex<Answer<T>>>);

struct Answer<T> {
    result: Option<Result<T, OpenError>>,
    waker: Option<Waker>,
}

impl<T> Default for Errand<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Answer { result: None, waker: None })))
    }
}

impl<T: Send + 'static> Errand<T> {
    /// Sends it on its way if `work` is given, and waits for it.
    pub(super) fn poll<W>(&self, cx: &Context<'_>, work: Option<W>) -> Poll<Result<T, OpenError>>
    where
        W: FnOnce() -> Result<T, OpenError> + Send + 'static,
    {
        let mut answer = lock(&self.0);
        if let Some(result) = answer.result.take() {
            return Poll::Ready(result);
        }
        answer.waker = Some(cx.waker().clone());
        drop(answer);
        let Some(work) = work else { return Poll::Pending };
        let answer = self.0.clone();
        let main = move || {
            // Its panic was told by its hook; whoever waits must not wait for ever.
            let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(OpenError::RuntimeEnded));
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

/// A log's directory, locked for writing and fit for it, before recovery.
pub(super) struct Claimed {
    dir: RealDirectory,
    limits: Limits,
    lock: Lock,
}

impl Claimed {
    pub(super) fn claim(path: &Path, options: &Options) -> Result<Self, OpenError> {
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
        Ok(Self { dir, limits, lock })
    }

    /// Recovers what is there. Blocks on I/O.
    pub(super) fn recover(self) -> Result<Recovered, OpenError> {
        let opened = recover::open(&self.dir, &self.limits, &mut surroundings(), Truncation::default())?;
        Ok(Recovered { claimed: self, opened })
    }
}

/// What else the thread does that drives a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serves {
    /// Nothing, and it may choose its core.
    OneLog,
    /// It may drive other logs, too.
    Logs,
    /// It is its callers' own.
    Callers,
}

/// A log that only lacks a driver.
pub(super) struct Recovered {
    claimed: Claimed,
    opened: Opened,
}

impl Recovered {
    /// On its way to the driver behind `inbox`, whose disk can do `methods`. Where the driver has the thread for itself,
    /// it may block it, and waiting for callers that come back is worth a try: in a caller's thread they are back before
    /// the driver has its turn.
    pub(super) fn hosted(self, inbox: &Inbox, methods: &[Method], refused: Option<&str>, serves: Serves) -> Hosted {
        let Claimed { dir, limits, lock } = self.claimed;
        let mut pins = limits.pins;
        if serves == Serves::Callers {
            pins.gather.get_or_insert(false);
        }
        let facts = DeviceFacts::of(dir.path()).unwrap_or_default();
        let core = if serves == Serves::OneLog { probe::disk_core(dir.path()) } else { None };
        let seat = core.and_then(Seat::claim);
        let own_thread = serves != Serves::Callers;
        let rules = Rules::new(methods, pins, limits.flight_max, own_thread, prior(&facts)).with_home(seat.is_some());
        let stats = StatsCell::new(methods[0], !dir.is_buffered(), refused.map(str::to_owned));
        let mut hosted = Hosted::new(self.opened, Arc::new(dir), &limits, inbox, stats, rules, Some(lock));
        hosted.tenancy.seat = seat;
        hosted
    }
}

fn open_blocking(path: &Path, options: &Options, host: Option<Arc<Host>>) -> Result<Log, OpenError> {
    let claimed = Claimed::claim(path, options)?;
    let serves = match host {
        None if options.may_sit_on_disk_core() => Serves::OneLog,
        _ => Serves::Logs,
    };
    let host = match host {
        Some(host) => host,
        None => Host::start(options.chosen_engine(), options.uring_required(), None)?,
    };
    let hosted = claimed.recover()?.hosted(&host.inbox, host.methods, host.refused.as_deref(), serves);
    host.inbox.send(Command::Host(Box::new(hosted.tenancy))).map_err(|_| OpenError::RuntimeEnded)?;
    hosted.answer.recv().unwrap_or(Err(OpenError::RuntimeEnded))?;
    Ok(Log::new(hosted.shared, hosted.report, hosted.limits, host.inbox.clone(), Some(host)))
}

fn surroundings() -> Surroundings {
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Surroundings { random: Box::new(random), created_ns: u64::try_from(created.as_nanos()).unwrap_or(0) }
}

/// Another epoch for a log that is at rest, under at least this term; records above `last` go, if it is given.
pub(super) fn reopen(limits: Limits, last: Option<Lsn>, term: u64) -> Reopen {
    // The log is sealed: what stands behind is of other times, and no tail.
    let limits = Limits { term, recovery_mode: RecoveryMode::TolerateTornTail, ..limits };
    Box::new(move |dir| renewed(dir, &limits, last, &mut surroundings()))
}

/// Recovers a directory that is at rest into another epoch.
pub(crate) fn renewed(
    dir: &dyn Directory,
    limits: &Limits,
    last: Option<Lsn>,
    outside: &mut Surroundings,
) -> Result<Box<Renewed>, Cause> {
    if let Some(last) = last {
        registered::lower(dir, last).map_err(|error| Cause::NoEpoch(error.to_string().into()))?;
    }
    let opened = recover::open(dir, limits, outside, Truncation { before: None, after: last });
    let opened = opened.map_err(|error| match error {
        OpenError::Io(failure) => Cause::Io(failure),
        error => Cause::NoEpoch(error.to_string().into()),
    })?;
    Ok(Box::new(Renewed {
        batcher: Batcher::new(opened.placement, opened.last.next(), limits.batch_bytes),
        chain: opened.chain,
        files: opened.files.into_iter().map(|(id, segment)| (id, segment.file)).collect(),
        path: opened.path,
        first: opened.first,
        last: opened.last,
        next_segment: opened.next_segment,
        spares: opened.spares,
    }))
}

/// What a device says of itself, as far as it can be found out.
pub(crate) fn prior(facts: &DeviceFacts) -> Prior {
    let cache = facts.write_cache.as_deref();
    Prior { write_cache: cache.map(|cache| cache != "write through"), fua: facts.fua }
}

/// 64 random bits from the kernel.
pub(super) fn random() -> u64 {
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
    pub(crate) limits: Limits,
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
        rules: Rules,
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
            block_bytes: limits.block_bytes,
            buffer_bytes: limits.batch_bytes,
        });
        let shared = Arc::new(Shared {
            dir,
            stage,
            durable: Durable::new(opened.last),
            index: Arc::new(Index::new(opened.path, opened.first)),
            recent: Recent::new(limits.recent_bytes_max),
            term: AtomicU64::new(chain.term),
            stats,
        });
        let (told, answer) = std::sync::mpsc::sync_channel(1);
        let tenancy = Tenancy {
            journal: Journal::new(opened.chain, opened.last, limits, rules),
            shared: shared.clone(),
            files: opened.files.into_iter().map(|(id, segment)| (id, segment.file)).collect(),
            next_segment: opened.next_segment,
            spares: opened.spares,
            shape,
            lock,
            seat: None,
            retention: limits.retention,
            buffer_bytes: limits.batch_bytes,
            pending_bytes_max: limits.pending_bytes_max,
            told,
        };
        Self { tenancy, shared, report: opened.report, limits: limits.clone(), answer }
    }
}
