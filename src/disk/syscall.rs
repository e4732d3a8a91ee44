//! The same contract by plain system calls: pwrite, then fdatasync, on the ring thread.
//!
//! It takes over where io_uring is refused, and it is the honest baseline. [`Disk::kick`] blocks until everything
//! submitted is durable or failed, whatever method a write asks for; the rules of repeating are those of [`super::flight`], as everywhere.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::off_t;
use nix::sys::uio::pwrite;
use nix::unistd::fdatasync;
use slab::Slab;

use super::flight::{Flight, Step};
use super::{BufferPool, Completion, Disk, FileSlot, Method, Notify, SegmentFile, Write};
use crate::error::{IoFailure, Op};

/// What a slot of the table keeps open.
#[derive(Debug)]
enum Attached {
    File(Arc<dyn SegmentFile>),
    /// System calls end with the process, so an ordinary duplicate outlives every write.
    Lock(#[expect(dead_code, reason = "held, not used")] OwnedFd),
}

/// Writes and flushes on the caller's thread.
#[derive(Debug, Default)]
pub(crate) struct SyscallDisk {
    files: Slab<Attached>,
    queue: VecDeque<Write>,
    done: Vec<Completion>,
}

impl SyscallDisk {
    /// A disk with nothing attached.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn insert(&mut self, attached: Attached) -> FileSlot {
        FileSlot(u32::try_from(self.files.insert(attached)).unwrap_or(u32::MAX))
    }
}

/// Carries one write through to its end, on the calling thread.
pub(super) fn carry_out(file: Option<&Arc<dyn SegmentFile>>, write: &Write) -> Result<(), IoFailure> {
    let Some(file) = file else {
        return Err(IoFailure::from_errno(Op::Write, Path::new("?"), write.offset, Errno::EBADF as i32));
    };
    let failed = |op, errno| IoFailure::from_errno(op, Arc::clone(file.path()), write.offset, errno);
    let Some(fd) = file.fd() else { return Err(failed(Op::Write, Errno::EBADF as i32)) };
    let mut flight = Flight::new(write.len);
    let mut step = flight.on_write(write_rest(fd, write, 0, write.len));
    loop {
        step = match step {
            Step::WriteRest { offset, len } => flight.on_write(write_rest(fd, write, offset, len)),
            Step::Sync => flight.on_sync(datasync(Some(file))),
            Step::Done(result) => return result.map_err(|(op, errno)| failed(op, errno)),
            Step::Wait => unreachable!("nothing is ever linked here"),
        }
    }
}

/// One fdatasync; its result as a CQE would tell it.
pub(super) fn datasync(file: Option<&Arc<dyn SegmentFile>>) -> i32 {
    let synced = file.and_then(|file| file.fd()).map_or(Err(Errno::EBADF), fdatasync);
    synced.map_or_else(|errno| -(errno as i32), |()| 0)
}

/// One pwrite; its result as a CQE would tell it.
fn write_rest(fd: BorrowedFd<'_>, write: &Write, offset: usize, len: usize) -> i32 {
    let Ok(at) = off_t::try_from(write.offset.saturating_add(offset as u64)) else { return -(Errno::EFBIG as i32) };
    match pwrite(fd, &write.buffer[offset..offset + len], at) {
        // The kernel never writes more than 2 GiB at once.
        Ok(count) => i32::try_from(count).unwrap_or(i32::MAX),
        Err(errno) => -(errno as i32),
    }
}

impl Disk for SyscallDisk {
    fn attach(&mut self, file: &Arc<dyn SegmentFile>) -> Result<FileSlot, IoFailure> {
        if file.fd().is_none() {
            return Err(IoFailure::from_errno(Op::Open, Arc::clone(file.path()), 0, Errno::EBADF as i32));
        }
        Ok(self.insert(Attached::File(Arc::clone(file))))
    }

    fn hold(&mut self, lock: BorrowedFd<'_>) -> Result<FileSlot, IoFailure> {
        let fd = lock.try_clone_to_owned().map_err(|error| IoFailure::new(Op::Lock, Path::new("LOCK"), 0, &error))?;
        Ok(self.insert(Attached::Lock(fd)))
    }

    fn detach(&mut self, slot: FileSlot) {
        if let Ok(slot) = usize::try_from(slot.0) {
            self.files.try_remove(slot);
        }
    }

    fn submit(&mut self, write: Write) {
        self.queue.push_back(write);
    }

    fn kick(&mut self) {
        while let Some(write) = self.queue.pop_front() {
            let attached = usize::try_from(write.file.0).ok().and_then(|slot| self.files.get(slot));
            let file = attached.and_then(|attached| match attached {
                Attached::File(file) => Some(file),
                Attached::Lock(_) => None,
            });
            let result = carry_out(file, &write);
            let method = Method::Syscalls;
            self.done.push(Completion { token: write.token, buffer: write.buffer, method, result });
        }
    }

    fn blocks(&self) -> bool {
        !self.queue.is_empty()
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.done);
    }

    fn wait(&mut self, notify: &Notify, _wakeable: bool, timeout: Option<Duration>) {
        self.kick();
        if self.done.is_empty() {
            notify.park(timeout);
        }
    }

    fn in_flight(&self) -> usize {
        self.queue.len() + self.done.len()
    }

    fn methods(&self) -> &'static [Method] {
        &[Method::Syscalls]
    }

    fn pool(&mut self, buffer_bytes: usize, bytes_max: usize) -> io::Result<BufferPool> {
        Ok(BufferPool::new(buffer_bytes, bytes_max))
    }
}

impl Drop for SyscallDisk {
    /// What was submitted is carried out; nobody hears of it.
    fn drop(&mut self) {
        self.kick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::conformance;

    /// What it has, and what it replaces.
    const METHODS: [Method; 2] = [Method::Syscalls, Method::DsyncWrite];

    #[test]
    fn a_write_comes_back_with_its_buffer() {
        METHODS
            .into_iter()
            .for_each(|method| conformance::a_write_comes_back_with_its_buffer(SyscallDisk::new(), method));
    }

    #[test]
    fn many_in_flight() {
        METHODS.into_iter().for_each(|method| conformance::many_in_flight(SyscallDisk::new(), method));
    }

    #[test]
    fn a_refused_write_is_told() {
        METHODS.into_iter().for_each(|method| conformance::a_refused_write_is_told(SyscallDisk::new(), method));
    }

    #[test]
    fn a_short_write_is_finished_or_fails() {
        let test = "disk::syscall::tests::a_short_write_is_finished_or_fails";
        conformance::a_short_write_is_finished_or_fails(SyscallDisk::new, &METHODS, test);
    }

    #[test]
    fn every_write_is_flushed() {
        METHODS.into_iter().for_each(|method| conformance::every_write_is_flushed(SyscallDisk::new(), method));
    }

    #[test]
    fn dropping_waits() {
        METHODS.into_iter().for_each(|method| conformance::dropping_waits(SyscallDisk::new(), method));
    }

    #[test]
    fn wake_ups_arrive() {
        conformance::wake_ups_arrive(SyscallDisk::new(), Method::Syscalls);
    }

    #[test]
    fn a_held_lock_stays() {
        conformance::a_held_lock_stays(SyscallDisk::new(), Method::Syscalls);
    }
}
