//! A mutex around write and fdatasync: the log that everybody writes first.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::file::{Kind, LogFile, each_log};
use super::frame::{Frame, framed_bytes};
use super::load::with_threads;
use super::{Counts, Engine, Failure, Load, Sample};
use crate::disk::Buffer;

/// One record, one flush, one at a time.
#[derive(Debug)]
pub(super) struct Naive {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

impl Engine for Naive {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, dir: &Path, load: &Load) -> Result<Sample, Failure> {
        let logs = each_log(dir, load, |dir| {
            let file = LogFile::create(dir, self.kind)?;
            let buffer = Mutex::new(Buffer::new(file.padded(framed_bytes(load.payload_max()))));
            Ok((file, buffer))
        })?;
        let flushes = AtomicU64::new(0);
        let counts = || Counts::new(flushes.load(Ordering::Relaxed), "write+fdatasync");
        with_threads(load, &counts, |caller, payload| {
            let (file, buffer) = &logs[caller % logs.len()];
            let frame = Frame::new(payload);
            let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
            let len = frame.len();
            frame.put(flushes.load(Ordering::Relaxed) + 1, &mut buffer);
            file.append(&mut buffer, len)?;
            file.sync()?;
            flushes.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }
}
