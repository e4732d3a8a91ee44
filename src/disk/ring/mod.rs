//! The data plane on io_uring: [`RingDisk`].
//!
//! A write becomes one request or two, by its [`Method`]; what their results mean is decided by [`super::flight`], and
//! this module only carries them:
//!
//! ```text
//!  submit ──► queue ──fill──► submission queue ──enter──► kernel ──► completion queue ──collect──► done ──► reap
//!               ▲                                                          │                        ▲
//!               ├───────────────── the rest of a write, or a sync ◄────────┤                        │
//!               │                  a sync of the thread's own: due ◄───────┘ ──kick: fdatasync(2)───┤
//!  submit ──► inline ───────────────────────────────────────────kick: pwrite(2), fdatasync(2)───────┘
//! ```
//!
//! - `LinkedFdatasync` (the reference): the write, and an fdatasync linked behind it.
//! - `DsyncWrite`: one write with RWF_DSYNC. A file that refuses it is remembered, and gets the reference method.
//! - `WriteThenFdatasync`: the write; then a system call of this thread's own ([`inline`]), shared by all flights on
//!   the file whose completions were collected before it.
//! - `Syscalls`: nothing of it meets the ring ([`inline`]).
//!
//! ## What keeps the memory safe
//!
//! A buffer moves into the table of flights before a request names it and leaves it only when the flight is over, which
//! is when all its completions are in. `Drop` waits for them. If the ring itself breaks, so that nobody can tell any
//! more, the buffers are leaked on purpose and others given back in their stead.
//!
//! ## Traps that shaped it
//!
//! - A chain ends where a submission ends, silently: there is room for a whole pair before its first half is queued, and
//!   a pair that the kernel took only half of counts as torn ([`Flight::unlink`]).
//! - With deferred completions the sync of a pair starts only when this thread enters the kernel again: `collect` does
//!   so as long as the ring says that there is work.
//! - A request refused for lack of memory, a full completion queue or a signal is not lost: it stays queued.

mod inline;
mod key;
mod offer;
mod setup;
mod tables;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue};
use nix::errno::Errno;
use slab::Slab;

use self::key::{INDEX_END, Key, Kind};
use self::setup::Setup;
use self::tables::{BufferTable, FileTable};
use super::flight::{Flight, Step};
use super::probe::RingRefused;
use super::{Buffer, BufferPool, Completion, Disk, FileSlot, Method, Notify, SegmentFile, Write};
use crate::error::{IoFailure, Op};

/// How long to leave the kernel alone when it is short of memory, and how often before the ring counts as broken.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
const REFUSED_MAX: u32 = 10_000;

/// What stands in for a method that cannot be had.
const REFERENCE: Method = Method::LinkedFdatasync;

/// How often `collect` goes round for completions that come while it collects.
const ROUNDS_MAX: u32 = 4;

/// One ring, with its files and what is in flight. It stays on the thread that made it.
pub(crate) struct RingDisk {
    ring: IoUring,
    setup: Setup,
    files: FileTable,
    buffers: BufferTable,
    flights: Slab<InFlight>,
    generation: u32,
    /// What is yet to be put into the submission queue.
    queue: VecDeque<Todo>,
    /// What is in the submission queue and not yet taken by the kernel, oldest first.
    offered: VecDeque<Key>,
    /// What `kick` carries out itself, without the ring.
    inline: VecDeque<Write>,
    /// The flights whose writes are complete and whose files `kick` is to sync itself.
    due: Vec<usize>,
    /// Those that the sync at hand serves; empty between calls.
    served: Vec<usize>,
    done: Vec<Completion>,
    /// Whether the poll of the eventfd is armed.
    armed: bool,
    /// How often in a row the kernel took nothing.
    refused: u32,
    /// Why the ring can no longer be trusted.
    broken: Option<i32>,
    /// A ring set up for a single issuer answers to one thread only.
    _stays_here: PhantomData<*const ()>,
}

struct InFlight {
    write: Write,
    flight: Flight,
    generation: u32,
    /// How many of its completions are still to come.
    out: u32,
}

/// A step of the flight at an index.
enum Todo {
    Write { index: usize, offset: usize, len: usize },
    Sync { index: usize },
}

impl fmt::Debug for RingDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingDisk").field("setup", &self.setup).field("in_flight", &self.in_flight()).finish()
    }
}

impl RingDisk {
    /// Makes a ring for about `entries` requests at a time, on the thread that will use it.
    pub(crate) fn new(entries: u32) -> Result<Self, RingRefused> {
        // A pair and the wake-up poll have to fit.
        let (ring, setup) = setup::make(entries.max(4))?;
        Ok(Self {
            files: FileTable::new(&ring),
            buffers: BufferTable::new(&ring),
            ring,
            setup,
            flights: Slab::with_capacity(16),
            generation: 0,
            queue: VecDeque::with_capacity(16),
            offered: VecDeque::with_capacity(32),
            inline: VecDeque::new(),
            due: Vec::with_capacity(16),
            served: Vec::with_capacity(16),
            done: Vec::with_capacity(16),
            armed: false,
            refused: 0,
            broken: None,
            _stays_here: PhantomData,
        })
    }

    /// Whether the held locks outlive a killed process until its last write has landed.
    #[cfg(test)]
    pub(crate) fn locks_outlive_us(&self) -> bool {
        self.files.locks_outlive_us()
    }

    /// Hands the submission queue to the kernel and waits for `want` completions, at most `timeout`.
    fn enter(&mut self, want: usize, timeout: Option<Duration>) {
        if self.broken.is_some() {
            return;
        }
        let result = match timeout {
            Some(timeout) if want > 0 => {
                let timeout = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&timeout))
            }
            _ => self.ring.submit_and_wait(want),
        };
        self.note_taken();
        let Err(error) = result else {
            self.refused = 0;
            return;
        };
        match error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw) {
            Errno::EINTR | Errno::ETIME => self.refused = 0,
            Errno::EAGAIN | Errno::EBUSY if self.refused < REFUSED_MAX => {
                self.refused += 1;
                thread::sleep(REFUSED_PAUSE);
            }
            errno => self.give_up(errno as i32),
        }
    }

    /// Finds out what the kernel took, and whether it tore a pair apart: its sync then runs on its own.
    fn note_taken(&mut self) {
        let left = self.ring.submission().len();
        let mut last = None;
        while self.offered.len() > left {
            last = self.offered.pop_front();
        }
        if let (Some(Key { kind: Kind::Write, index, generation }), Some(next)) = (last, self.offered.front())
            && *next == Key::new(Kind::Sync, index, generation)
            && let Some(in_flight) = self.flights.get_mut(index as usize)
        {
            in_flight.flight.unlink();
        }
    }

    /// Takes all completions that there are, and starts what follows from them.
    fn collect(&mut self) {
        for _ in 0..ROUNDS_MAX {
            while let Some(cqe) = self.next_completion() {
                self.on_completion(&cqe);
            }
            let follows = !self.queue.is_empty();
            self.fill();
            let sq = self.ring.submission();
            let asks = sq.taskrun() || sq.cq_overflow();
            drop(sq);
            if !(follows || asks) {
                return;
            }
            self.enter(0, None);
        }
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    fn on_completion(&mut self, cqe: &cqueue::Entry) {
        let key = Key::from_bits(cqe.user_data());
        if key.kind == Kind::Wake && !cqueue::more(cqe.flags()) {
            self.armed = false;
        }
        self.on_result(key, cqe.result());
    }

    /// Takes the result of a request of a flight, unless that flight is over.
    fn on_result(&mut self, key: Key, res: i32) {
        let index = key.index as usize;
        let in_flight = self.flights.get_mut(index).filter(|in_flight| in_flight.generation == key.generation);
        let Some(in_flight) = in_flight else { return };
        let step = match key.kind {
            Kind::Write => in_flight.flight.on_write(res),
            Kind::Sync => in_flight.flight.on_sync(res),
            Kind::Wake | Kind::Trial => return,
        };
        in_flight.out -= 1;
        self.follow(index, step);
    }

    /// Does what a flight says.
    fn follow(&mut self, index: usize, step: Step) {
        match step {
            Step::Wait => {}
            Step::WriteRest { offset, len } => self.queue.push_back(Todo::Write { index, offset, len }),
            Step::Sync if self.flights[index].write.method == Method::WriteThenFdatasync => self.due.push(index),
            Step::Sync => self.queue.push_back(Todo::Sync { index }),
            Step::Done(result) => self.finish(index, result),
        }
    }

    /// The flight is over: its buffer is free again.
    fn finish(&mut self, index: usize, result: Result<(), (Op, i32)>) {
        let InFlight { write, flight, .. } = self.flights.remove(index);
        let Write { token, file, offset, buffer, mut method, .. } = write;
        if flight.dsync_refused() {
            method = REFERENCE;
            // It went through without the flag, so it was the flag.
            if result.is_ok() {
                self.files.remember_dsync_refused(file);
            }
        }
        let result = result.map_err(|(op, errno)| IoFailure::from_errno(op, self.files.path(file), offset, errno));
        self.done.push(Completion { token, buffer, method, result });
    }

    /// The ring can no longer be trusted (a completion was lost, or it does not answer): every flight fails. The kernel
    /// may read their buffers for as long as it likes, so they are never freed.
    fn give_up(&mut self, errno: i32) {
        self.broken = Some(errno);
        self.queue.clear();
        self.due.clear();
        for mut in_flight in self.flights.drain() {
            let Write { token, file, offset, method, ref mut buffer, .. } = in_flight.write;
            let stand_in = Buffer::new(buffer.len());
            mem::forget(mem::replace(buffer, stand_in));
            let failure = IoFailure::from_errno(Op::Ring, self.files.path(file), offset, errno);
            self.done.push(Completion { token, buffer: in_flight.write.buffer, method, result: Err(failure) });
        }
    }

    /// How a write is carried out that asks for `asked`.
    fn effective(&self, asked: Method, file: FileSlot) -> Method {
        match asked {
            Method::DsyncWrite if self.files.dsync_refused(file) => REFERENCE,
            known if Method::ALL.contains(&known) => known,
            _ => REFERENCE,
        }
    }

    /// Hands everything that is queued to the kernel.
    fn enter_all(&mut self) {
        loop {
            self.fill();
            if self.ring.submission().is_empty() {
                return;
            }
            let before = (self.queue.len(), self.offered.len());
            self.enter(0, None);
            if self.queue.is_empty() || before == (self.queue.len(), self.offered.len()) {
                return;
            }
        }
    }

    /// How many completions bring the first flight that can end to its end: fewer are not worth waking for.
    fn worth_waking(&self) -> usize {
        let out = self.flights.iter().map(|(_, in_flight)| in_flight.out).min();
        usize::try_from(out.unwrap_or(1).max(1)).unwrap_or(1)
    }
}

impl Disk for RingDisk {
    fn attach(&mut self, file: &Arc<dyn SegmentFile>) -> Result<FileSlot, IoFailure> {
        let bad = || IoFailure::from_errno(Op::Open, Arc::clone(file.path()), 0, Errno::EBADF as i32);
        self.files.attach(&self.ring, file).ok_or_else(bad)
    }

    fn hold(&mut self, lock: BorrowedFd<'_>) -> Result<FileSlot, IoFailure> {
        self.files.hold(&self.ring, lock).map_err(|error| IoFailure::new(Op::Lock, Path::new("LOCK"), 0, &error))
    }

    fn detach(&mut self, slot: FileSlot) {
        debug_assert!(self.flights.iter().all(|(_, in_flight)| in_flight.write.file != slot));
        self.files.detach(&self.ring, slot);
    }

    fn submit(&mut self, mut write: Write) {
        write.method = self.effective(write.method, write.file);
        if let Some(errno) = self.broken {
            let failure = IoFailure::from_errno(Op::Ring, self.files.path(write.file), write.offset, errno);
            let Write { token, buffer, method, .. } = write;
            return self.done.push(Completion { token, buffer, method, result: Err(failure) });
        }
        if write.method == Method::Syscalls {
            return self.inline.push_back(write);
        }
        self.generation = self.generation.wrapping_add(1);
        let len = write.len;
        let flight = if write.method == Method::DsyncWrite { Flight::dsync(len) } else { Flight::new(len) };
        let index = self.flights.insert(InFlight { write, flight, generation: self.generation, out: 0 });
        debug_assert!(index < INDEX_END as usize);
        self.queue.push_back(Todo::Write { index, offset: 0, len });
    }

    fn in_doubt(&self) -> bool {
        self.broken.is_some()
    }

    fn blocks(&self) -> bool {
        !self.inline.is_empty() || !self.due.is_empty()
    }

    fn kick(&mut self) {
        // What the ring can do goes on beside what this thread does.
        self.enter_all();
        self.carry_out_inline();
        self.sync_due();
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        self.collect();
        out.append(&mut self.done);
    }

    fn wait(&mut self, notify: &Notify, wakeable: bool, timeout: Option<Duration>) {
        if !self.done.is_empty() {
            return;
        }
        self.fill();
        if !self.queue.is_empty() || self.blocks() {
            self.kick();
        }
        if self.done.is_empty() && self.flights.is_empty() {
            return notify.park(timeout);
        }
        if !self.done.is_empty() {
            return;
        }
        if !wakeable {
            return self.enter(self.worth_waking(), timeout);
        }
        if self.arm(notify) && notify.begin_ring_wait() {
            self.enter(1, timeout);
            notify.end_ring_wait();
        } else {
            self.enter(0, None);
        }
    }

    fn in_flight(&self) -> usize {
        self.flights.len() + self.done.len() + self.inline.len()
    }

    fn methods(&self) -> &'static [Method] {
        Method::ALL
    }

    fn pool(&mut self, buffer_bytes: usize, bytes_max: usize) -> io::Result<BufferPool> {
        let buffers = self.buffers.make(&self.ring, buffer_bytes, bytes_max / buffer_bytes.max(1));
        Ok(BufferPool::with_buffers(buffer_bytes, bytes_max, buffers))
    }
}

impl Drop for RingDisk {
    /// Carries on until nothing is in flight; nobody hears of the results. A broken ring has nothing in flight: its
    /// buffers were given up.
    fn drop(&mut self) {
        self.kick();
        while !self.flights.is_empty() {
            self.kick();
            if !self.flights.is_empty() {
                self.enter(1, Some(Duration::from_secs(1)));
            }
            self.collect();
        }
    }
}

#[cfg(test)]
mod tests;
