//! The threads: one ring thread for each core asked for, and one helper that prepares segments.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::driver::Driver;
use super::prepare::{AtOnce, Fill, Pace};
use super::stage::Need;
use super::sync::Arc;
use super::{Inbox, Job, Shared, Workshop};
use crate::disk::null::NullDisk;
use crate::disk::ring::RingDisk;
use crate::disk::syscall::SyscallDisk;
use crate::disk::{Disk, Method, Notify, seat};
use crate::error::{Cause, IoFailure, Op, OpenError};
use crate::options::Engine;

/// How many submissions a ring holds: a linked pair for each batch in flight of many logs.
const RING_ENTRIES: u32 = 256;

/// A running ring thread.
#[derive(Debug)]
pub(crate) struct RingThread {
    pub(crate) inbox: Arc<Inbox>,
    /// What the disk can do, its reference method first.
    pub(crate) methods: &'static [Method],
    /// Why io_uring is not used, where it was refused.
    pub(crate) refused: Option<Arc<str>>,
}

impl RingThread {
    /// Starts a ring thread, pinned to `core` if one is given, with its helper.
    ///
    /// # Errors
    /// io_uring refused where it is required; a thread or a ring that cannot be had; a core that does not exist.
    pub(crate) fn start(engine: Engine, uring_required: bool, core: Option<usize>) -> Result<Self, OpenError> {
        let failed = |op| {
            move |error: std::io::Error| OpenError::Io(IoFailure::new(op, std::path::Path::new("ringwal"), 0, &error))
        };
        let notify = Arc::new(Notify::new().map_err(failed(Op::Ring))?);
        let inbox = Arc::new(Inbox::new(notify.clone()));
        let helper = Helper::start().map_err(failed(Op::Spawn))?;
        let (told, answer) = mpsc::sync_channel(1);
        let theirs = inbox.clone();
        let main = move || {
            let pinned = core.map_or(Ok(()), |core| {
                seat::pin(core)
                    .map_err(|errno| IoFailure::from_errno(Op::Spawn, std::path::Path::new("ringwal"), 0, errno as i32))
            });
            let disk = pinned.map_err(OpenError::Io).and_then(|()| make_disk(engine, uring_required));
            let (disk, refused) = match disk {
                Ok(made) => made,
                Err(error) => {
                    let _ = told.send(Err(error));
                    return;
                }
            };
            let _ = told.send(Ok((disk.methods(), refused)));
            serve(Driver::new(disk, theirs, Arc::new(helper)), &notify);
        };
        thread::Builder::new().name("ringwal-ring".to_owned()).spawn(main).map_err(failed(Op::Spawn))?;
        let (methods, refused) = answer.recv().unwrap_or(Err(OpenError::RuntimeEnded))?;
        Ok(Self { inbox, methods, refused })
    }
}

/// Runs the driver to its end; a panic poisons every log instead of leaving its waiters alone.
fn serve(mut driver: Driver, notify: &Notify) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| driver.run(notify))) {
        driver.poison_all(&cause_of(&*panic));
    }
}

/// A panic as the cause of a log's end.
pub(super) fn cause_of(panic: &(dyn Any + Send)) -> Cause {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Cause::Panic(text.unwrap_or("no text").into())
}

/// A disk, and why it is not a ring where a ring was refused.
pub(super) type Made = (Box<dyn Disk>, Option<Arc<str>>);

pub(super) fn make_disk(engine: Engine, uring_required: bool) -> Result<Made, OpenError> {
    match engine {
        Engine::Null => Ok((Box::new(NullDisk::new()), None)),
        Engine::Syscalls => Ok((Box::new(SyscallDisk::new()), None)),
        Engine::Auto => match RingDisk::new(RING_ENTRIES) {
            Ok(ring) => Ok((Box::new(ring), None)),
            Err(refused) if uring_required => Err(OpenError::UringRefused { why: refused.to_string().into() }),
            Err(refused) => Ok((Box::new(SyscallDisk::new()), Some(refused.to_string().into()))),
        },
    }
}

/// The thread that prepares segments, so that the ring thread never waits for a file system. Dropping it waits for the
/// job at hand: nobody may work in a directory whose lock is about to be let go.
#[derive(Debug)]
pub(super) struct Helper {
    jobs: Option<mpsc::Sender<Job>>,
    queued: Arc<AtomicUsize>,
    /// Somebody waits for one of the jobs.
    hurried: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Helper {
    pub(super) fn start() -> std::io::Result<Self> {
        let (jobs, work) = mpsc::channel::<Job>();
        let queued = Arc::new(AtomicUsize::new(0));
        let hurried = Arc::new(AtomicBool::new(false));
        let (waiting, hurry) = (queued.clone(), hurried.clone());
        let main = move || {
            for job in work {
                waiting.fetch_sub(1, Ordering::Relaxed);
                let now = Instant::now();
                let mut pace = Gentle {
                    shared: job.shared(),
                    queued: waiting.clone(),
                    hurried: hurry.clone(),
                    last: now,
                    interval: Duration::ZERO,
                };
                job.run(&mut pace);
            }
        };
        let thread = thread::Builder::new().name("ringwal-prepare".to_owned()).spawn(main)?;
        Ok(Self { jobs: Some(jobs), queued, hurried, thread: Some(thread) })
    }
}

/// Zeros keep ahead of the appends that will need their place, and no more: each flush of an append carries the zeros that
/// the device's cache holds at that moment.
#[derive(Debug)]
struct Gentle {
    shared: Arc<Shared>,
    /// Jobs that wait for this one.
    queued: Arc<AtomicUsize>,
    hurried: Arc<AtomicBool>,
    /// When the last piece was due, and how long after the one before.
    last: Instant,
    interval: Duration,
}

/// How often the helper looks whether the next piece is due: several times while one becomes due, but not all the time,
/// for each look takes a core from an appender or the ring thread.
const LOOK_MIN: Duration = Duration::from_millis(1);
const LOOKS: u32 = 8;

/// No piece waits longer than this, however little is appended: 64 MiB are filled in 16 s.
const PIECE_WAIT_MAX: Duration = Duration::from_millis(64);

impl Pace for Gentle {
    fn wait(&mut self, done: u32) -> Fill {
        loop {
            // Ready when three quarters of the current segment are used up.
            let due = match self.shared.stage.need() {
                Need::Nothing => return Fill::GiveUp,
                // Those who wait would wait for the zeros, too.
                Need::Now => return Fill::Enough,
                Need::Soon { used_permille } => done <= used_permille * 4 / 3,
                Need::Later => false,
            };
            let queued = self.queued.load(Ordering::Relaxed) > 0;
            // It is not this one that is waited for, but one behind it.
            if self.hurried.swap(false, Ordering::Relaxed) && queued {
                return Fill::Enough;
            }
            let waited = self.last.elapsed();
            if due || queued || waited >= PIECE_WAIT_MAX {
                self.interval = waited.min(PIECE_WAIT_MAX);
                self.last = Instant::now();
                return Fill::Piece;
            }
            // `hurry` ends it early.
            thread::park_timeout(LOOK_MIN.max(self.interval / LOOKS));
        }
    }
}

impl Workshop for Helper {
    fn hurry(&self) {
        self.hurried.store(true, Ordering::Relaxed);
        self.rouse();
    }

    fn request(&self, job: Job) {
        self.queued.fetch_add(1, Ordering::Relaxed);
        let refused = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|mpsc::SendError(job)| job),
            None => Some(job),
        };
        // The one at hand gives way.
        self.rouse();
        // The helper died: better late than never.
        if let Some(job) = refused {
            job.run(&mut AtOnce);
        }
    }
}

impl Helper {
    /// Lets it look.
    fn rouse(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, was told on standard error; there is nobody else to tell.
            let _ = thread.join();
        }
    }
}
