//! ringwal itself: over the ring, over plain system calls, and over a disk that does nothing.

use std::path::Path;
use std::sync::Arc;

use super::async_load::{Appender, runtime, with_tasks};
use super::{Engine, Failure, Load, Sample};
use crate::log::Log;
use crate::options::{self, Options};

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
/// Without a disk: what our own work costs.
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

    fn run(&self, dir: &Path, load: &Load) -> Result<Sample, Failure> {
        let runtime = runtime()?;
        let options = Options::default().engine(self.engine).allow_volatile(self.engine == options::Engine::Null);
        let log = runtime.block_on(Log::open(dir, options))?;
        let counted = log.clone();
        let sample = with_tasks(load, &runtime, &|| counted.stats().flushes, counted.stats().method, log.clone());
        // What most flushes took is known only now.
        let method = counted.stats().method;
        let closed = runtime.block_on(log.close());
        let sample = sample?;
        closed?;
        Ok(Sample { method, ..sample })
    }
}
