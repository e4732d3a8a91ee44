//! One write and what makes it durable, from first submission to "durable" or "failed": a pure state machine.
//!
//! Whoever drives it (the ring, the system-call disk, the simulated disk) submits what a [`Step`] says and reports each
//! raw result, a count or a negated errno as in a CQE. The rules are here once:
//!
//! - Durable means: all bytes are written, **and** a sync returned 0 that was submitted after the write's completion
//!   was seen, or linked behind it. A sync's success says nothing about a write that it did not cover, so a short write
//!   is finished and then synced anew, whatever the first sync said. Who shares one sync among several flights may give
//!   its result only to those whose write's completion was seen before it was submitted.
//! - Or ([`Flight::dsync`]): every byte was written by a write that carried RWF_DSYNC. Such a write makes its own bytes
//!   durable and nobody else's, so each piece of it stands by itself and nothing else counts for it.
//! - EINTR, EAGAIN and ECANCELED on a write say that it did not happen: it is repeated. So is a write of nothing.
//! - ECANCELED on a sync says that it never ran: it is submitted again once the write is whole.
//! - Any other failure of a sync is final, EINTR included: a sync that ran and failed may have dropped the dirty state,
//!   and a later one would report success for bytes that are gone (promise P6).
//! - Any other failure of a write is final. With RWF_DSYNC it may have been the flush that failed, which comes to the
//!   same. Only EOPNOTSUPP and EINVAL before the first byte may mean that RWF_DSYNC is refused: the write is begun again
//!   without it, once, and synced like any other.
//! - Repeats are bounded by [`ATTEMPTS_MAX`] in all.
//!
//! ```text
//!   new ──► write in flight ──► all written? ──no──► WriteRest (again, at most ATTEMPTS_MAX)
//!           (+ linked sync)          │yes
//!                                    ▼
//!                        a sync that counts returned 0? ──yes──► Done(Ok)     every piece carried RWF_DSYNC:
//!                          │not run          │failed                          straight to Done(Ok)
//!                          ▼                 ▼
//!                         Sync            Done(Err)
//! ```
//!
//! A linked pair's two results come in either order; nothing is decided, and nothing may be freed, before both are in.
//!
//! ## What the one result of a write with RWF_DSYNC says
//!
//! The kernel writes, then syncs (or writes through, where the device can: FUA), and gives one number for both
//! (`generic_write_sync` in include/linux/fs.h, called by `iomap_dio_complete` in fs/iomap/direct-io.c and by the file
//! systems' buffered paths): the count if the sync succeeded, else the sync's error **instead of** the count.
//!
//! - So a positive count is durable, a short one too, for as much as it says.
//! - An error may be the sync's, with the bytes written. EINTR and EAGAIN are repeated nevertheless. A device's flush
//!   cannot end so: `blk_errors` in block/blk-core.c has no EINTR, and EAGAIN only for requests that asked not to wait,
//!   which a flush never does; the page cache remembers EIO and ENOSPC. What gives these two is a signal or a shortage
//!   before anything reached the device. And what is repeated is the *write*, from the same buffer, with a sync of its
//!   own: unlike a sync that is merely called again, it does not rely on what an earlier one may have dropped.
//! - EOPNOTSUPP can be a flush's, from a device that has none. Then the sync behind the plain write says so again, and
//!   that is final.

use nix::libc::{EAGAIN, ECANCELED, EINTR, EINVAL, EIO, ENOSPC, EOPNOTSUPP};

use super::ATTEMPTS_MAX;
use crate::error::Op;
use crate::seeded;

/// A rest of a write begins on a multiple of this, so that it suits O_DIRECT wherever a short write stopped. The bytes
/// in between are written twice, from the same buffer.
const REST_ALIGN: usize = 4096;

/// The result of what was cancelled before it ran.
const CANCELED: i32 = -ECANCELED;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: another result is still to come.
    Wait,
    /// Submit a write of `len` bytes from `offset` in the buffer (and in the write); ask [`Flight::carries_dsync`] how,
    /// and [`Flight::link`] whether a sync may be linked behind it.
    WriteRest { offset: usize, len: usize },
    /// Submit a sync.
    Sync,
    /// It is over; nothing of it is in flight any more. The failure is what was asked and its errno.
    Done(Result<(), (Op, i32)>),
}

/// The state of one write and its sync. Made when the write is about to be submitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    /// How many bytes are to be written, and how many are.
    len: usize,
    written: usize,
    /// Whether its writes carry RWF_DSYNC, and whether that was refused.
    dsync: bool,
    dsync_refused: bool,
    /// Whose result is still to come.
    write_out: bool,
    sync_out: bool,
    /// What the sync behind the latest write returned. Whatever an earlier one returned is forgotten.
    sync: Option<i32>,
    /// How often anything was repeated.
    repeats: u32,
    /// The first final failure.
    failure: Option<(Op, i32)>,
}

impl Flight {
    /// A write of `len` bytes that is about to be submitted, alone; to be synced.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            len,
            written: 0,
            dsync: false,
            dsync_refused: false,
            write_out: true,
            sync_out: false,
            sync: None,
            repeats: 0,
            failure: None,
        }
    }

    /// A write of `len` bytes that is about to be submitted with RWF_DSYNC.
    pub(crate) fn dsync(len: usize) -> Self {
        Self { dsync: true, ..Self::new(len) }
    }

    /// Whether the write that is about to be submitted carries RWF_DSYNC. To be asked right after [`Flight::dsync`] or
    /// [`Step::WriteRest`]: the answer changes if it is refused.
    pub(crate) fn carries_dsync(&self) -> bool {
        self.dsync && !seeded::is("m21") && !(seeded::is("m24") && self.written > 0)
    }

    /// Whether RWF_DSYNC was refused and the write went on without.
    pub(crate) fn dsync_refused(&self) -> bool {
        self.dsync_refused
    }

    /// Notes that a sync is submitted together with the write that is about to be submitted, linked behind it.
    ///
    /// Returns whether to submit it: not behind a write with RWF_DSYNC, nor if a seeded bug forgets it. To be asked
    /// right after [`Flight::new`] or [`Step::WriteRest`], and only if both fit into the queue.
    #[must_use]
    pub(crate) fn link(&mut self) -> bool {
        debug_assert!(self.write_out && !self.sync_out);
        if self.dsync || seeded::is("m1") || self.sync.is_some() {
            return false;
        }
        self.sync_out = true;
        true
    }

    /// Notes that a pair given as linked may have been torn apart on its way into the kernel: the sync that is in
    /// flight covers nothing, whatever it returns, unless it fails.
    pub(crate) fn unlink(&mut self) {
        if self.sync_out {
            self.sync = Some(CANCELED);
        }
    }

    /// Takes the result of the write.
    pub(crate) fn on_write(&mut self, res: i32) -> Step {
        debug_assert!(self.write_out);
        self.write_out = false;
        let left = self.len - self.written;
        match usize::try_from(res) {
            Ok(count) if count >= left => self.written = self.len,
            Ok(0) => self.repeat(Op::Write, ENOSPC),
            Ok(_) if seeded::is("m6") => self.written = self.len,
            Ok(count) => {
                self.written += count;
                self.written -= self.written % REST_ALIGN;
                self.repeat(Op::Write, EIO);
            }
            Err(_) => match -res {
                errno @ (EINTR | EAGAIN | ECANCELED) => self.repeat(Op::Write, errno),
                EOPNOTSUPP | EINVAL if self.dsync && self.written == 0 => {
                    (self.dsync, self.dsync_refused) = (false, true);
                }
                errno => self.fail(Op::Write, errno),
            },
        }
        if seeded::is("m2") && self.written == self.len {
            return Step::Done(Ok(()));
        }
        self.next()
    }

    /// Takes the result of the sync.
    pub(crate) fn on_sync(&mut self, res: i32) -> Step {
        debug_assert!(self.sync_out || seeded::is("m22"));
        self.sync_out = false;
        let res = match -res {
            EIO if seeded::is("m7") => 0,
            EIO if seeded::is("m8") => CANCELED,
            ECANCELED if seeded::is("m19") => 0,
            _ => res,
        };
        // A torn pair's success is not one; its failure is.
        if res != 0 || self.sync.is_none() {
            self.sync = Some(res);
        }
        if res != 0 && res != CANCELED {
            self.fail(Op::Sync, -res);
        }
        self.next()
    }

    /// Decides, once all results are in.
    fn next(&mut self) -> Step {
        if self.write_out || self.sync_out {
            return Step::Wait;
        }
        if let Some(failure) = self.failure {
            return Step::Done(Err(failure));
        }
        if self.written < self.len {
            self.write_out = true;
            if !(seeded::is("m19") && self.sync == Some(0)) {
                self.sync = None;
            }
            return Step::WriteRest { offset: self.written, len: self.len - self.written };
        }
        match self.sync {
            _ if self.dsync => return Step::Done(Ok(())),
            Some(0) => return Step::Done(Ok(())),
            None if seeded::is("m1") => return Step::Done(Ok(())),
            None => {}
            Some(_) => self.repeat(Op::Sync, ECANCELED),
        }
        if let Some(failure) = self.failure {
            return Step::Done(Err(failure));
        }
        self.sync = None;
        self.sync_out = true;
        Step::Sync
    }

    /// Counts one repeat; one too many is a failure for the reason given.
    fn repeat(&mut self, op: Op, errno: i32) {
        if self.repeats == ATTEMPTS_MAX {
            self.fail(op, errno);
        } else {
            self.repeats += 1;
        }
    }

    /// The first failure stays.
    fn fail(&mut self, op: Op, errno: i32) {
        self.failure.get_or_insert((op, errno));
    }
}

#[cfg(test)]
mod tests;
