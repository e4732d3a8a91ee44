//! A disk that does nothing, at once: what is left of the cost when there is no I/O (engine `null`, tests).

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::{BufferPool, Completion, Disk, FileSlot, Method, Notify, SegmentFile, Write};
use crate::error::IoFailure;

/// Acknowledges every write and keeps none.
#[derive(Debug, Default)]
pub(crate) struct NullDisk {
    done: Vec<Completion>,
    slots: u32,
}

impl NullDisk {
    /// A disk with nothing in flight, for ever.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn slot(&mut self) -> FileSlot {
        self.slots += 1;
        FileSlot(self.slots - 1)
    }
}

impl Disk for NullDisk {
    fn attach(&mut self, _file: &Arc<dyn SegmentFile>) -> Result<FileSlot, IoFailure> {
        Ok(self.slot())
    }

    fn hold(&mut self, _lock: BorrowedFd<'_>) -> Result<FileSlot, IoFailure> {
        Ok(self.slot())
    }

    fn detach(&mut self, _slot: FileSlot) {}

    fn submit(&mut self, write: Write) {
        let method = Method::Simulated;
        self.done.push(Completion { token: write.token, buffer: write.buffer, method, result: Ok(()) });
    }

    fn kick(&mut self) {}

    fn reap(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.done);
    }

    fn wait(&mut self, notify: &Notify, _wakeable: bool, timeout: Option<Duration>) {
        if self.done.is_empty() {
            notify.park(timeout);
        }
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn methods(&self) -> &'static [Method] {
        &[Method::Simulated]
    }

    fn pool(&mut self, buffer_bytes: usize, bytes_max: usize) -> io::Result<BufferPool> {
        Ok(BufferPool::new(buffer_bytes, bytes_max))
    }
}
