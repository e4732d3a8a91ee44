//! A log that is driven inside its caller's own thread.
//!
//! It is a [`Log`] and the driver under it, and nothing of the log is done twice here: every verb is [`Log`]'s. What is
//! added is who drives: [`LocalLog::turn`] with a descriptor to wait for, and with feature `tokio` a future that does both.

#[cfg(feature = "tokio")]
mod tokio;

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::Log;
use super::open::{Claimed, Errand, Recovered, Serves};
use crate::disk::probe;
use crate::error::OpenError;
use crate::options::Options;
use crate::runtime::append::block_on;
use crate::runtime::local::{Local, Poller, Turned};

#[cfg(feature = "tokio")]
pub use self::tokio::Drive;

/// A log without a ring thread: the thread that opened it drives it, beside whatever else it does.
///
/// For programs that own their cores: a current-thread tokio runtime, tokio-uring, any executor that can wait for a file
/// descriptor, or none. Same files, promises and verbs as [`Log`], which it dereferences to; but no record is ever handed
/// to another thread and back, which is most of what a lone append costs beyond the disk's own time.
///
/// # Driving it
///
/// Nothing becomes durable unless somebody drives the log. Three ways, which may be mixed:
///
/// - `drive` (feature `tokio`): a future to spawn beside the tasks that append.
/// - [`LocalLog::turn`], for any other loop: it does everything that there is to do without sleeping. Call it after your
///   tasks ran and whenever the descriptor ([`AsFd`]) is readable, which it is for everything: a completion, a
///   prepared segment, a due time, an append by a task or thread that nobody saw.
/// - The blocking `wait` of [`Pending`](crate::Pending), [`Close`](crate::Close) and others drives the logs of its thread
///   while it waits.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("ringwal-doc-local-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// # let options = ringwal::Options::default().segment_bytes(1 << 20).allow_volatile(true);
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
/// # tokio::task::LocalSet::new().block_on(&runtime, async {
/// let log = ringwal::LocalLog::open(&dir, options).await?;
/// tokio::task::spawn_local(log.drive()); // ends when the log is closed
/// let lsn = log.append(b"record").await?; // durable now
/// log.close().await?;
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Without a runtime:
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("ringwal-doc-bare-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// # let options = ringwal::Options::default().segment_bytes(1 << 20).allow_volatile(true);
/// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
/// use std::os::fd::AsFd;
///
/// let log = ringwal::LocalLog::open(&dir, options).wait()?;
/// let pending = log.submit(b"record")?;
/// while log.durable_lsn() < pending.lsn() {
///     log.turn();
///     poll(&mut [PollFd::new(log.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
/// }
/// log.close().wait()?;
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Threads
///
/// It stays on the thread that opened it (the ring answers to no other). A [`Log`] cloned from it may go anywhere: its
/// appends wake this thread, which does the work. One helper thread prepares segments ahead of time, as for every log.
///
/// Where io_uring is refused ([`Options::require_uring`] is off) or [`Engine::Syscalls`](crate::Engine::Syscalls) is asked
/// for, each flush **blocks the thread** in [`LocalLog::turn`]: correct, and slow for everything else on it.
///
/// # The end
///
/// Close it: `log.close().await`. When all clones of the `LocalLog` are dropped instead, a `drive` future that still runs
/// carries the closing on in the background (once no clone of the [`Log`] is left either) and ends. If there is none, the
/// last drop **blocks** until what was appended is durable and sealed: two flushes, plus a segment that is being prepared.
/// Clones of the [`Log`] on other threads get [`AppendError::Closed`](crate::AppendError::Closed) from then on. Nobody's
/// future is left unresolved; but a log that still exists and is not driven makes its callers wait until it is.
#[derive(Clone)]
pub struct LocalLog {
    /// Dropped before its driver, which then closes it.
    log: Log,
    local: Rc<Local>,
}

impl fmt::Debug for LocalLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLog").field("log", &self.log).finish_non_exhaustive()
    }
}

impl LocalLog {
    /// Opens the log in the directory `path` for writing, to be driven inside the calling thread; else as [`Log::open`].
    ///
    /// Recovery runs on a thread of its own from the first poll ([`LocalOpen::wait`] does without); the ring is made
    /// here. [`Options::flight_max`] and all others mean what they do for [`Log`].
    ///
    /// # Errors
    /// As [`Log::open`].
    ///
    /// # Cancel safety
    /// Dropping the future lets recovery end in the background; the log is let go then, as after a crash.
    pub fn open(path: impl AsRef<Path>, options: Options) -> LocalOpen {
        LocalOpen { request: Some((path.as_ref().to_path_buf(), options)), local: None, errand: Errand::default() }
    }

    /// The core on which a thread does best that drives a log on the disk under `path`, if there is one: it takes all of
    /// that disk's interrupts, and a thread on another core is woken across cores for every write and every flush (a
    /// durable write took 125 us there and 265 us beside it, where it was measured: a virtual disk with one queue). None
    /// where a disk interrupts whichever core submitted, as NVMe does, where it cannot be found out, and where `path` does
    /// not exist yet.
    ///
    /// Pin the thread there (sched_setaffinity(2)) if it has the choice; this does not. Do so when the log is open: the
    /// threads that an opening starts would inherit it.
    #[must_use]
    pub fn disk_core(path: impl AsRef<Path>) -> Option<usize> {
        probe::disk_core(path.as_ref())
    }

    /// Everything that there is to do, without sleeping: reaps, publishes, submits, wakes. Returns how long until it
    /// wants to be called again at the latest ([`Duration::MAX`]: nothing is due); the descriptor is readable earlier if
    /// there is something to do earlier, and at that time. None when the log is closed and let go: it is over.
    ///
    /// Call it when the descriptor is readable, and after your tasks ran: what they appended then goes out as one batch,
    /// and at once. From inside a waker that it woke it does nothing.
    ///
    /// A panic inside it poisons the log; this does not panic.
    pub fn turn(&self) -> Option<Duration> {
        left(self.local.turn(Poller::Level, None))
    }

    /// As [`LocalLog::turn`], for executors with a cheap local wake-up: until the next turn, appends that need one wake
    /// `waker` instead of making the descriptor readable, which takes a system call. Completions and due times still come
    /// by the descriptor.
    pub fn turn_with(&self, waker: &Waker) -> Option<Duration> {
        left(self.local.turn(Poller::Level, Some(waker)))
    }

    /// The log as a handle that any thread may use while this one drives.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }
}

fn left(turned: Turned) -> Option<Duration> {
    match turned {
        Turned::Sleep(due) => Some(due.unwrap_or(Duration::MAX)),
        Turned::Again => Some(Duration::ZERO),
        Turned::Done => None,
    }
}

/// The verbs: `append`, `submit`, `append_batch`, `reserve`, `read`, `close` and all the others.
impl Deref for LocalLog {
    type Target = Log;

    fn deref(&self) -> &Log {
        &self.log
    }
}

/// Readable when [`LocalLog::turn`] has something to do. Wait for it to be readable; do not read from it.
impl AsFd for LocalLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.local.as_fd()
    }
}

impl AsRawFd for LocalLog {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Resolves with an open log. Made by [`LocalLog::open`]. To be polled on the thread that will drive the log.
#[must_use = "futures do nothing unless polled"]
pub struct LocalOpen {
    request: Option<(PathBuf, Options)>,
    /// From the first poll on.
    local: Option<Rc<Local>>,
    errand: Errand<Recovered>,
}

impl fmt::Debug for LocalOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalOpen").field("path", &self.request.as_ref().map(|(path, _)| path)).finish_non_exhaustive()
    }
}

impl LocalOpen {
    /// Opens on the calling thread, which it blocks.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn wait(mut self) -> Result<LocalLog, OpenError> {
        match self.request.take() {
            Some((path, options)) => {
                let local = Local::start(options.chosen_engine(), options.uring_required())?;
                join(local, recover(&path, &options)?)
            }
            None => block_on(self),
        }
    }
}

impl Future for LocalOpen {
    type Output = Result<LocalLog, OpenError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { request, local, errand } = &mut *self;
        let request = request.take();
        if let Some((_, options)) = &request {
            *local = Some(Local::start(options.chosen_engine(), options.uring_required())?);
        }
        let recovered = errand.poll(cx, request.map(|(path, options)| move || recover(&path, &options)));
        recovered.map(|recovered| join(local.take().ok_or(OpenError::RuntimeEnded)?, recovered?))
    }
}

fn recover(path: &Path, options: &Options) -> Result<Recovered, OpenError> {
    Claimed::claim(path, options)?.recover()
}

/// A recovered log and its driver.
fn join(local: Rc<Local>, recovered: Recovered) -> Result<LocalLog, OpenError> {
    let hosted = recovered.hosted(local.inbox(), local.methods, local.refused.as_deref(), Serves::Callers);
    local.host(hosted.tenancy)?;
    hosted.answer.try_recv().unwrap_or(Err(OpenError::RuntimeEnded))?;
    let log = Log::new(hosted.shared, hosted.report, hosted.limits, local.inbox().clone(), None);
    Ok(LocalLog { log, local })
}
