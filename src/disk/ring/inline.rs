//! What [`RingDisk`] does by itself at `kick`, with this thread's own system calls.
//!
//! A flush on the ring costs a hop to a kernel worker and back, because the kernel never runs one on the caller's thread;
//! where nothing else needs the thread meanwhile, a system call is cheaper.

use std::mem;

use super::RingDisk;
use crate::disk::syscall::{carry_out, datasync};
use crate::disk::{Completion, Method};

impl RingDisk {
    /// Carries out every write that asked for system calls.
    pub(super) fn carry_out_inline(&mut self) {
        while let Some(write) = self.inline.pop_front() {
            let result = carry_out(self.files.file(write.file), &write);
            self.done.push(Completion { token: write.token, buffer: write.buffer, method: Method::Syscalls, result });
        }
    }

    /// Syncs every file that a flight waits for, once; again where it never ran, as often as a flight repeats anything:
    /// left for later it would be forgotten, because nothing on the ring would ever wake this thread for it.
    pub(super) fn sync_due(&mut self) {
        while !self.due.is_empty() {
            self.sync_each();
        }
    }

    /// Who is served is settled before the sync is submitted: a write that completes while it runs may or may not be
    /// covered, and nobody can tell.
    fn sync_each(&mut self) {
        debug_assert!(self.served.is_empty());
        mem::swap(&mut self.due, &mut self.served);
        while let Some(first) = self.served.first() {
            let file = self.flights[*first].write.file;
            let res = datasync(self.files.file(file));
            let mut at = 0;
            while let Some(index) = self.served.get(at).copied() {
                if self.flights[index].write.file == file {
                    self.served.swap_remove(at);
                    let step = self.flights[index].flight.on_sync(res);
                    self.follow(index, step);
                } else {
                    at += 1;
                }
            }
        }
    }
}
