//! THREADS AND WAKERS: no policy.
//!
//! - [`stage`]: appenders -> ring thread. [`durable`]: the watermark and who waits for it.
//! - [`driver`]: the loop. [`threads`]: the threads it runs on, and the helper that prepares segments.
//! - [`append`]: the futures.

pub(crate) mod append;
pub(crate) mod driver;
pub(crate) mod durable;
pub(crate) mod index;
pub(crate) mod prepare;
mod queue;
pub(crate) mod stage;
pub(crate) mod sync;
pub(crate) mod threads;

use std::sync::mpsc;
use std::task::Waker;

use crate::disk::{Directory, Lock, Method, Notify, SegmentFile};
use crate::error::{IoFailure, OpenError};
use crate::format::SegmentHeader;
use crate::journal::Journal;
use crate::lsn::SegmentId;
use crate::stats::StatsCell;
use durable::{Durable, End};
use index::Index;
use stage::Stage;
use sync::{Arc, Mutex, lock};

/// A prepared segment's file.
pub(crate) type PreparedFile = Arc<dyn SegmentFile>;

/// What a log's handles and its ring thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dir: Arc<dyn Directory>,
    pub(crate) stage: Stage,
    pub(crate) durable: Durable,
    pub(crate) index: Arc<Index>,
    pub(crate) stats: StatsCell,
}

impl Shared {
    /// The log ended: every waiter and every later append gets to know.
    fn finish(&self, end: End, woken: &mut Vec<Waker>) {
        self.stage.finish(end.clone(), woken);
        self.durable.finish(end, woken);
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
    /// How batches are made durable, if that is pinned.
    pub(crate) method: Option<Method>,
    /// The size of a staging buffer.
    pub(crate) buffer_bytes: usize,
    pub(crate) pending_bytes_max: usize,
    /// Where to say whether the driver could take it.
    pub(crate) told: mpsc::SyncSender<Result<(), OpenError>>,
}

/// What a driver is told from outside.
#[derive(Debug)]
pub(crate) enum Command {
    Host(Box<Tenancy>),
    Prepared {
        tenant: usize,
        header: SegmentHeader,
        file: Result<PreparedFile, IoFailure>,
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

/// Prepares segments, somewhere else than on the ring thread.
pub(crate) trait Workshop: Send + Sync {
    /// Takes a job; its result comes as [`Command::Prepared`].
    fn request(&self, job: Job);
}

/// A segment to prepare.
#[derive(Debug)]
pub(crate) struct Job {
    tenant: usize,
    shared: Arc<Shared>,
    header: SegmentHeader,
    spare: Option<u64>,
    inbox: Arc<Inbox>,
}

impl Job {
    /// Does it, and tells the driver. Blocks on I/O.
    pub(crate) fn run(self) {
        let file = prepare::prepare(&*self.shared.dir, &self.header, self.spare);
        // A driver that is gone needs no segment.
        let _ = self.inbox.send(Command::Prepared { tenant: self.tenant, header: self.header, file });
    }
}
