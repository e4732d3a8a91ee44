//! Opening: directory, lock, recovery, and a place on a ring thread.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use super::host::Host;
use super::{Handle, Log};
use crate::disk::file::RealDirectory;
use crate::disk::{BufferPool, Directory, Lock};
use crate::error::{IoFailure, Op, OpenError};
use crate::format::SegmentHeader;
use crate::journal::{Batcher, Journal};
use crate::lsn::{Lsn, SegmentId};
use crate::options::{Limits, Options};
use crate::read::recover::{self, Opened, RecoveryReport, Surroundings, Truncation};
use crate::runtime::append::block_on;
use crate::runtime::durable::Durable;
use crate::runtime::index::Index;
use crate::runtime::stage::{Parts, Stage};
use crate::runtime::sync::{Arc, lock};
use crate::runtime::{Command, Inbox, Shared, Tenancy};
use crate::stats::StatsCell;

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
    pub(super) fn start(path: PathBuf, options: Options, host: Option<Arc<Host>>) -> Self {
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
    hosted.answer.recv().unwrap_or(Err(OpenError::RuntimeEnded))?;
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
            block_bytes: limits.block_bytes,
            buffer_bytes: limits.batch_bytes,
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
            method: limits.method,
            buffer_bytes: limits.batch_bytes,
            pending_bytes_max: limits.pending_bytes_max,
            told,
        };
        Self { tenancy, shared, report: opened.report, first: opened.first, answer }
    }
}
