//! THREADS AND WAKERS: no policy.
//!
//! - [`stage`]: appenders ([`entry`]) -> ring thread, over [`batches`] and [`queue`]. [`durable`]: the watermark and who
//!   waits for it.
//! - [`driver`]: the loop, over [`tenant`]s. [`threads`]: the threads it runs on, and the helper that prepares segments.
//!   [`local`]: the loop inside a caller's own thread.
//! - [`append`]: the futures. [`recent`]: what was just written, for those who follow. [`errands`]: blocking work for
//!   futures.

pub(crate) mod append;
mod batches;
pub(crate) mod driver;
pub(crate) mod durable;
mod entry;
pub(crate) mod errands;
pub(crate) mod index;
pub(crate) mod local;
pub(crate) mod prepare;
mod queue;
pub(crate) mod recent;
pub(crate) mod recycle;
pub(crate) mod registered;
pub(crate) mod renewal;
mod retain;
pub(crate) mod stage;
mod tenant;
pub(crate) mod threads;
pub(crate) mod truncate;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::task::Waker;
use std::time::Duration;

use crate::disk::seat::Seat;
use crate::disk::{Directory, Lock, Notify, SegmentFile};
use crate::error::{Cause, IoFailure, Op, OpenError, TruncateError};
use crate::format::SegmentHeader;
use crate::journal::{Journal, PathSegment};
use crate::lsn::{Lsn, SegmentId};
use crate::options::Retention;
use crate::stats::StatsCell;
pub(crate) use crate::sync;
use durable::{Durable, End};
use errands::Promise;
use index::Index;
use prepare::Pace;
use recent::Recent;
use renewal::{Renewal, Renewed, Reopen};
use stage::Stage;
use sync::{Arc, AtomicU64, Mutex, Ordering, lock};

/// A prepared segment's file.
pub(crate) type PreparedFile = Arc<dyn SegmentFile>;

/// What a log's handles and its ring thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dir: Arc<dyn Directory>,
    pub(crate) stage: Stage,
    pub(crate) durable: Durable,
    pub(crate) index: Arc<Index>,
    pub(crate) recent: Recent,
    /// The greatest fencing term of the log.
    pub(crate) term: AtomicU64,
    pub(crate) stats: StatsCell,
}

impl Shared {
    /// The greatest fencing term of the log.
    pub(crate) fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    fn set_term(&self, term: u64) {
        self.term.store(term, Ordering::Release);
    }

    /// Everything up to `lsn` is durable: moves the wakers of all who waited for it to `woken`.
    fn publish(&self, lsn: Lsn, woken: &mut Vec<Waker>) {
        // The watermark first: who is woken, or polls meanwhile, sees it.
        if self.durable.publish(lsn, woken) {
            self.stage.publish(lsn, woken);
        }
    }

    /// The log ended: every waiter and every later append gets to know.
    fn finish(&self, end: End, woken: &mut Vec<Waker>) {
        self.stage.finish(end.clone(), woken);
        self.durable.finish(end.clone(), woken);
        self.recent.finish(self.durable.lsn(), end, woken);
    }

    /// Its files and its lock are let go.
    fn release(&self, woken: &mut Vec<Waker>) {
        self.durable.release(woken);
    }
}

/// A log for a driver to host.
#[derive(Debug)]
pub(crate) struct Tenancy {
    pub(crate) journal: Journal,
    pub(crate) shared: Arc<Shared>,
    /// The current segment's file and those of the ready ones, in the order of their ids.
    pub(crate) files: Vec<(SegmentId, PreparedFile)>,
    pub(crate) next_segment: SegmentId,
    pub(crate) spares: Vec<u64>,
    /// What a segment to be prepared looks like, but for its id.
    pub(crate) shape: SegmentHeader,
    pub(crate) lock: Option<Lock>,
    /// On the core that takes its disk's interrupts, for a ring thread that serves no other log.
    pub(crate) seat: Option<Seat>,
    /// What goes by itself.
    pub(crate) retention: Retention,
    /// The size of a staging buffer.
    pub(crate) buffer_bytes: usize,
    pub(crate) pending_bytes_max: usize,
    /// Where to say whether the driver could take it.
    pub(crate) told: mpsc::SyncSender<Result<(), OpenError>>,
}

/// What came of a truncation: the first record that the log holds, or would hold.
pub(crate) type Truncated = Result<Lsn, TruncateError>;

/// What a driver is told from outside.
#[derive(Debug)]
pub(crate) enum Command {
    Host(Box<Tenancy>),
    Prepared {
        tenant: usize,
        header: SegmentHeader,
        /// None: given up, since the log is closing.
        file: Result<Option<PreparedFile>, IoFailure>,
    },
    /// Records below `first` are no longer wanted: whole segments of them are freed, once that is durably said.
    TruncateBefore {
        shared: Arc<Shared>,
        first: Lsn,
        promise: Promise<Truncated>,
    },
    /// Another epoch is to begin.
    Renew {
        shared: Arc<Shared>,
        renewal: Renewal,
    },
    /// Records that are staged from now on are of this term: asked by the only appender, which has nothing on its way.
    #[cfg(feature = "ship")]
    RecordsTerm {
        shared: Arc<Shared>,
        term: u64,
        promise: Promise<()>,
    },
    Renewed {
        tenant: usize,
        renewed: Result<Box<Renewed>, Cause>,
    },
    /// Records below this one need not be kept, by the rules of retention.
    Retained {
        tenant: usize,
        first: Option<Lsn>,
    },
    Freed {
        tenant: usize,
        /// The numbers of the new spares.
        spares: Result<Vec<u64>, IoFailure>,
    },
    /// For tests: panics.
    Panic,
}

/// A driver's letter box.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) notify: Arc<Notify>,
    inner: Mutex<InboxInner>,
}

#[derive(Debug, Default)]
struct InboxInner {
    commands: Vec<Command>,
    /// Nobody will send another log.
    abandoned: bool,
    /// The driver is gone.
    refused: bool,
}

impl Inbox {
    pub(crate) fn new(notify: Arc<Notify>) -> Self {
        Self { notify, inner: Mutex::default() }
    }

    /// Sends a command; hands it back if the driver is gone.
    pub(crate) fn send(&self, command: Command) -> Result<(), Command> {
        let mut inner = lock(&self.inner);
        if inner.refused {
            return Err(command);
        }
        inner.commands.push(command);
        drop(inner);
        self.notify.wake();
        Ok(())
    }

    /// Nobody will send another log: the driver ends when its last one is closed.
    pub(crate) fn abandon(&self) {
        lock(&self.inner).abandoned = true;
        self.notify.wake();
    }

    fn drain(&self, out: &mut Vec<Command>) {
        out.append(&mut lock(&self.inner).commands);
    }

    fn is_abandoned(&self) -> bool {
        let inner = lock(&self.inner);
        inner.abandoned && inner.commands.is_empty()
    }

    /// The driver goes: takes what is left, refuses the rest.
    fn refuse(&self, out: &mut Vec<Command>) {
        let mut inner = lock(&self.inner);
        inner.refused = true;
        out.append(&mut inner.commands);
    }
}

/// Prepares and frees segments, somewhere else than on the ring thread.
pub(crate) trait Workshop: Send + Sync {
    /// Takes a job; its result comes as a [`Command`].
    fn request(&self, job: Job);

    /// Somebody waits for a job to be done, or for its log to end.
    fn hurry(&self) {}
}

/// A job that panics fails: the driver waits for its end before it lets the log go. The hook told of the panic.
fn caught<T>(dir: &dyn Directory, job: impl FnOnce() -> Result<T, IoFailure>) -> Result<T, IoFailure> {
    let failed = |_| Err(IoFailure::from_errno(Op::Spawn, dir.path(), 0, nix::libc::EIO));
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(failed)
}

/// Work in a log's directory.
pub(crate) struct Job {
    tenant: usize,
    shared: Arc<Shared>,
    work: Work,
    inbox: Arc<Inbox>,
}

/// What is to be done.
enum Work {
    /// Find out what need not be kept.
    Retain {
        rules: Retention,
        /// The segments, oldest first, and how long ago each was left.
        path: Vec<(PathSegment, Option<Duration>)>,
    },
    /// Begin another epoch in a directory that is at rest.
    Renew {
        reopen: Reopen,
    },
    Prepare {
        header: SegmentHeader,
        spare: Option<u64>,
    },
    /// Free the segments below this one; up to `room` that are `bytes` long become spares.
    Free {
        below: SegmentId,
        bytes: u64,
        room: usize,
    },
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl Job {
    /// The log that it is for.
    fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Does it, and tells the driver. Blocks on I/O, and waits as `pace` says.
    pub(crate) fn run(self, pace: &mut dyn Pace) {
        let (tenant, dir) = (self.tenant, &*self.shared.dir);
        let done = match self.work {
            Work::Prepare { header, spare } => {
                let file = caught(dir, || prepare::prepare(dir, &header, spare, pace));
                Command::Prepared { tenant, header, file }
            }
            Work::Renew { reopen } => {
                let failed = |_| Err(Cause::Panic("while a new epoch began".into()));
                let renewed = catch_unwind(AssertUnwindSafe(|| reopen(dir))).unwrap_or_else(failed);
                Command::Renewed { tenant, renewed }
            }
            Work::Retain { rules, path } => {
                let log_id = self.shared.stage.log_id();
                let first = catch_unwind(AssertUnwindSafe(|| retain::first_kept(dir, log_id, &rules, path)));
                // What cannot be found out is kept.
                Command::Retained { tenant, first: first.ok().flatten() }
            }
            Work::Free { below, bytes, room } => {
                Command::Freed { tenant, spares: caught(dir, || recycle::free_below(dir, below, bytes, room)) }
            }
        };
        // A driver that is gone needs no segment.
        let _ = self.inbox.send(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Sim, SimOptions};

    #[test]
    fn a_job_that_panics_fails_instead_of_never_ending() {
        let dir = Sim::new(1, SimOptions::default()).directory();
        let failed: Result<(), IoFailure> = caught(&*dir, || panic!("asked to by a test"));
        assert!(failed.is_err_and(|failure| !failure.is_shortage()));
        assert_eq!(caught(&*dir, || Ok(7)), Ok(7));
    }
}
