//! tokio's blocking pool at its default size: each append is a `spawn_blocking` that writes and flushes. What an async
//! program does that has no log writer.
//!
//! It promises less than a log: a record is acknowledged when it is durable, not when everything before it is. On a file
//! of written blocks the kernel lets its flushes share the device's, which makes it a strong baseline at few callers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::async_load::{Appender, runtime, with_tasks};
use super::file::{Buffers, Kind, LogFile, each_log};
use super::frame::{Frame, framed_bytes};
use super::{Counts, Engine, Failure, Load, Sample};

/// One record, one flush, many at a time.
#[derive(Debug)]
pub(super) struct ThreadPool {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

#[derive(Debug)]
struct Shared {
    file: LogFile,
    buffers: Buffers,
    next: AtomicU64,
    flushes: AtomicU64,
}

impl Shared {
    fn write(&self, payload: &[u8]) -> Result<(), Failure> {
        self.buffers.with(|buffer| {
            let frame = Frame::new(payload);
            let len = frame.len();
            frame.put(self.next.fetch_add(1, Ordering::Relaxed), buffer);
            self.file.append(buffer, len)
        })?;
        self.file.sync()?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Appender for Arc<Shared> {
    async fn append(&self, payloads: &Arc<[Box<[u8]>]>, at: usize) -> Result<(), Failure> {
        let (shared, payloads) = (Self::clone(self), Arc::clone(payloads));
        tokio::task::spawn_blocking(move || shared.write(&payloads[at])).await?
    }
}

impl Engine for ThreadPool {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, dir: &Path, load: &Load) -> Result<Sample, Failure> {
        let logs = each_log(dir, load, |dir| {
            let file = LogFile::create(dir, self.kind)?;
            let buffers = Buffers::new(file.padded(framed_bytes(load.payload_max())));
            Ok(Arc::new(Shared { file, buffers, next: AtomicU64::new(1), flushes: AtomicU64::new(0) }))
        })?;
        let counted = logs.clone();
        let flushes = || counted.iter().map(|log| log.flushes.load(Ordering::Relaxed)).sum();
        with_tasks(load, &runtime()?, &|| Counts::new(flushes(), "write+fdatasync"), logs)
    }
}
