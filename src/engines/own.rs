//! ringwal itself: over the ring, over plain system calls, and over a disk that does nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::async_load::{Appender, runtime, with_tasks};
use super::file::each_log;
use super::{Counts, Engine, Failure, Load, Sample};
use crate::log::{Log, Runtime};
use crate::lsn::Lsn;
use crate::method::Method;
use crate::options::{self, Options};

/// The methods that can be pinned, by their words.
pub const METHODS: [&str; 4] = [
    Method::LinkedFdatasync.word(),
    Method::DsyncWrite.word(),
    Method::WriteThenFdatasync.word(),
    Method::Syscalls.word(),
];

/// ringwal with one of its disks.
#[derive(Debug)]
pub(super) struct Own {
    name: &'static str,
    engine: options::Engine,
}

/// As it comes.
pub(super) static RINGWAL: Own = Own { name: "ringwal", engine: options::Engine::Auto };
/// Without io_uring.
pub(super) static SYSCALLS: Own = Own { name: "ringwal-syscalls", engine: options::Engine::Syscalls };
/// Without a disk: what our own work costs, and the harness's.
pub(super) static NULL: Own = Own { name: "null", engine: options::Engine::Null };

impl Appender for Log {
    async fn append(&self, payloads: &Arc<[Box<[u8]>]>, at: usize) -> Result<(), Failure> {
        Self::append(self, &payloads[at]).await?;
        Ok(())
    }
}

impl Engine for Own {
    fn name(&self) -> &'static str {
        self.name
    }

    fn takes_pins(&self) -> bool {
        self.engine == options::Engine::Auto
    }

    fn run(&self, dir: &Path, load: &Load) -> Result<Sample, Failure> {
        let (runtime, options) = (runtime()?, self.options(load));
        // Several logs share ring threads, at most one for each core.
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let rings = match load.logs {
            0 | 1 => None,
            logs => Some(Runtime::builder().engine(self.engine).threads(logs.min(cores)).build()?),
        };
        let logs = each_log(dir, load, |dir| {
            let open = match &rings {
                Some(rings) => Log::open_on(rings, dir, options.clone()),
                None => Log::open(dir, options.clone()),
            };
            Ok(runtime.block_on(open)?)
        })?;
        let sample = snapshots(&logs, load, || with_tasks(load, &runtime, &|| counts(&logs), logs.clone()));
        let mut closed = Ok(());
        for log in logs {
            closed = closed.and(runtime.block_on(log.close()));
        }
        let sample = sample?;
        closed?;
        Ok(sample)
    }
}

impl Own {
    fn options(&self, load: &Load) -> Options {
        let volatile = self.engine == options::Engine::Null;
        pinned(Options::default().engine(self.engine).allow_volatile(volatile), load)
    }
}

/// The options of a load: its segments and its pins.
pub(super) fn pinned(options: Options, load: &Load) -> Options {
    let mut options = match load.pins.method.and_then(Method::from_word) {
        Some(method) => options.method(method),
        None => options,
    };
    if let Some(bytes) = load.segment_bytes {
        options = options.segment_bytes(bytes);
    }
    if let Some(batches) = load.pins.flight_max {
        options = options.flight_max(batches).depth(batches);
    }
    options
}

/// How often an application takes a snapshot here. Far more often than any would: what is kept stays as asked.
const SNAPSHOTS: Duration = Duration::from_millis(10);

/// Carries out `run`; meanwhile the logs keep only what the load says.
pub(super) fn snapshots<R>(logs: &[Log], load: &Load, run: impl FnOnce() -> R) -> R {
    let Some(records) = load.kept_records() else { return run() };
    thread::scope(|scope| {
        let (stop, stopped) = channel::<()>();
        scope.spawn(move || {
            while stopped.recv_timeout(SNAPSHOTS) == Err(RecvTimeoutError::Timeout) {
                for log in logs {
                    let durable = log.durable_lsn().get();
                    if durable > records {
                        // A log that ended tells so elsewhere.
                        let _ = log.truncate_before(Lsn::new(durable - records)).wait();
                    }
                }
            }
        });
        let done = run();
        drop(stop);
        done
    })
}

/// What all the logs did.
pub(super) fn counts(logs: &[Log]) -> Counts {
    let add = |sum: Counts, log: &Log| {
        let stats = log.stats();
        Counts {
            flushes: sum.flushes + stats.flushes,
            rotations: sum.rotations + stats.rotations,
            method: stats.method,
            tuning: stats.tuning,
        }
    };
    logs.iter().fold(Counts::default(), add)
}
