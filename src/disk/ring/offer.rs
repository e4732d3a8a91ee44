//! From the queue of steps into the submission queue: what each step looks like as a request.

use std::os::fd::AsRawFd;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use nix::errno::Errno;
use nix::libc::{POLLIN, RWF_DSYNC};

use super::key::{INDEX_END, Key, Kind};
use super::tables::Target;
use super::{InFlight, RingDisk, Todo};
use crate::disk::{Method, Notify};
use crate::error::Op;

/// The kernel writes at most this much at once (MAX_RW_COUNT); the rest follows as after any short write.
const WRITE_BYTES_MAX: usize = 0x7fff_f000;

/// Puts one entry into the submission queue; `false` if it is full.
#[expect(unsafe_code, reason = "the kernel reads the memory that an entry names")]
pub(super) fn push(ring: &mut IoUring, entry: &squeue::Entry) -> bool {
    // SAFETY: of the entries made in this module only `RingDisk::write_entry`'s name memory. It is a part of a Buffer
    // that is owned by `flights` until the write's completion is in (or leaked, should that never be known).
    unsafe { ring.submission().push(entry) }.is_ok()
}

impl RingDisk {
    fn key(&self, kind: Kind, index: usize) -> Key {
        let generation = self.flights.get(index).map_or(0, |in_flight| in_flight.generation);
        Key::new(kind, u32::try_from(index).unwrap_or(INDEX_END - 1), generation)
    }

    /// Moves what there is room for from the queue into the submission queue.
    pub(super) fn fill(&mut self) {
        while let Some(todo) = self.queue.front() {
            let sq = self.ring.submission();
            if sq.capacity() - sq.len() < 2 {
                return;
            }
            drop(sq);
            match *todo {
                Todo::Write { index, offset, len } => self.offer_write(index, offset, len),
                Todo::Sync { index } => self.offer_sync(index),
            }
            self.queue.pop_front();
        }
    }

    /// Offers a write; where its method says so, with a sync linked behind it.
    fn offer_write(&mut self, index: usize, offset: usize, len: usize) {
        let Some(target) = self.files.target(self.flights[index].write.file) else {
            return self.finish(index, Err((Op::Write, Errno::EBADF as i32)));
        };
        let entry = self.write_entry(target, index, offset, len);
        if self.links(index) {
            self.offer(&entry.flags(target.flags | squeue::Flags::IO_LINK), self.key(Kind::Write, index));
            self.offer_sync(index);
        } else {
            self.offer(&entry.flags(target.flags), self.key(Kind::Write, index));
        }
    }

    /// Notes whether a sync is linked behind the write that is about to be offered.
    fn links(&mut self, index: usize) -> bool {
        let InFlight { write, flight, .. } = &mut self.flights[index];
        write.method != Method::WriteThenFdatasync && flight.link()
    }

    fn offer_sync(&mut self, index: usize) {
        let Some(target) = self.files.target(self.flights[index].write.file) else {
            return self.finish(index, Err((Op::Sync, Errno::EBADF as i32)));
        };
        let entry = opcode::Fsync::new(target.fd).flags(FsyncFlags::DATASYNC).build().flags(target.flags);
        self.offer(&entry, self.key(Kind::Sync, index));
    }

    /// The entry that writes a part of a flight's buffer.
    fn write_entry(&self, target: Target, index: usize, offset: usize, len: usize) -> squeue::Entry {
        let InFlight { write, flight, .. } = &self.flights[index];
        let flags = if flight.carries_dsync() { RWF_DSYNC } else { 0 };
        let bytes = &write.buffer[offset..offset + len.min(WRITE_BYTES_MAX)];
        let count = u32::try_from(bytes.len()).unwrap_or(0);
        let at = write.offset.saturating_add(offset as u64);
        match self.buffers.place_of(&write.buffer).filter(|_| !target.plain_writes) {
            Some(place) => {
                let entry = opcode::WriteFixed::new(target.fd, bytes.as_ptr(), count, place);
                entry.offset(at).rw_flags(flags).build()
            }
            None => opcode::Write::new(target.fd, bytes.as_ptr(), count).offset(at).rw_flags(flags).build(),
        }
    }

    /// Puts an entry of a flight into the submission queue; `fill` saw to the room.
    fn offer(&mut self, entry: &squeue::Entry, key: Key) {
        let pushed = push(&mut self.ring, &entry.clone().user_data(key.bits()));
        debug_assert!(pushed);
        self.offered.push_back(key);
        if let Some(in_flight) = self.flights.get_mut(key.index as usize) {
            in_flight.out += 1;
        }
    }

    /// Arms the poll of the eventfd; `false` if there is no room just now.
    pub(super) fn arm(&mut self, notify: &Notify) -> bool {
        if !self.armed {
            let fd = Fd(notify.eventfd().as_raw_fd());
            let poll = opcode::PollAdd::new(fd, POLLIN as u32).multi(true).build().user_data(Key::WAKE.bits());
            self.armed = push(&mut self.ring, &poll);
            if self.armed {
                self.offered.push_back(Key::WAKE);
            }
        }
        self.armed
    }
}
