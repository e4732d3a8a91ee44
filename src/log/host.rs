//! Ring threads that logs live on: one of a log's own, or those of a [`Runtime`].

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::OpenError;
use crate::method::Method;
use crate::options::Engine;
use crate::runtime::Inbox;
use crate::runtime::sync::Arc;
use crate::runtime::threads::RingThread;

/// A ring thread and what keeps it alive: the logs on it, and the runtime.
#[derive(Debug)]
pub(crate) struct Host {
    pub(super) inbox: Arc<Inbox>,
    /// What the disk can do, its reference method first.
    pub(super) methods: &'static [Method],
    pub(super) refused: Option<Arc<str>>,
    logs: AtomicUsize,
}

impl Host {
    pub(super) fn start(engine: Engine, uring_required: bool, core: Option<usize>) -> Result<Arc<Self>, OpenError> {
        let ring = RingThread::start(engine, uring_required, core)?;
        Ok(Arc::new(Self {
            inbox: ring.inbox,
            methods: ring.methods,
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
    /// A builder; by default it builds one ring thread, not pinned. (The ring thread of a log that is opened without a
    /// runtime may pin itself: to the core that takes the disk's interrupts, where there is one and that pays.)
    #[must_use]
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder { threads: 1, cores: Vec::new(), engine: Engine::Auto, require_uring: false }
    }

    /// How many ring threads it has.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.hosts.len()
    }

    pub(super) fn pick(&self) -> Arc<Host> {
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
