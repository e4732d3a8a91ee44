//! The threads: one ring thread for each core asked for, and one helper that prepares segments.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::driver::Driver;
use super::sync::Arc;
use super::{Inbox, Job, Workshop};
use crate::disk::null::NullDisk;
use crate::disk::ring::RingDisk;
use crate::disk::syscall::SyscallDisk;
use crate::disk::{Disk, Method, Notify};
use crate::error::{IoFailure, Op, OpenError};
use crate::options::Engine;

/// How many submissions a ring holds: a linked pair for each batch in flight of many logs.
const RING_ENTRIES: u32 = 256;

/// A running ring thread.
#[derive(Debug)]
pub(crate) struct RingThread {
    pub(crate) inbox: Arc<Inbox>,
    /// The disk's reference method.
    pub(crate) method: Method,
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
            let pinned = core.map_or(Ok(()), pin);
            let disk = pinned.map_err(OpenError::Io).and_then(|()| make_disk(engine, uring_required));
            let (disk, refused) = match disk {
                Ok(made) => made,
                Err(error) => {
                    let _ = told.send(Err(error));
                    return;
                }
            };
            let _ = told.send(Ok((disk.methods()[0], refused)));
            serve(Driver::new(disk, theirs, Arc::new(helper)), &notify);
        };
        thread::Builder::new().name("ringwal-ring".to_owned()).spawn(main).map_err(failed(Op::Spawn))?;
        let (method, refused) = answer.recv().unwrap_or(Err(OpenError::RuntimeEnded))?;
        Ok(Self { inbox, method, refused })
    }
}

/// Runs the driver to its end; a panic poisons every log instead of leaving its waiters alone.
fn serve(mut driver: Driver, notify: &Notify) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| driver.run(notify))) {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned());
        driver.poison_all(&text);
    }
}

/// A disk, and why it is not a ring where a ring was refused.
type Made = (Box<dyn Disk>, Option<Arc<str>>);

fn make_disk(engine: Engine, uring_required: bool) -> Result<Made, OpenError> {
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

/// Pins the calling thread.
fn pin(core: usize) -> Result<(), IoFailure> {
    let failed = |errno: nix::Error| IoFailure::from_errno(Op::Spawn, std::path::Path::new("ringwal"), 0, errno as i32);
    let mut set = CpuSet::new();
    set.set(core).map_err(failed)?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(failed)
}

/// The thread that prepares segments, so that the ring thread never waits for a file system. Dropping it waits for the
/// job at hand: nobody may work in a directory whose lock is about to be let go.
#[derive(Debug)]
struct Helper {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Helper {
    fn start() -> std::io::Result<Self> {
        let (jobs, work) = mpsc::channel::<Job>();
        let main = move || work.into_iter().for_each(Job::run);
        let thread = thread::Builder::new().name("ringwal-prepare".to_owned()).spawn(main)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }
}

impl Workshop for Helper {
    fn request(&self, job: Job) {
        let refused = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|mpsc::SendError(job)| job),
            None => Some(job),
        };
        // The helper died: better late than never.
        if let Some(job) = refused {
            job.run();
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
