//! One write and its sync, from first submission to "durable" or "failed": a pure state machine.
//!
//! Whoever drives it (the ring, the system-call disk, the simulated disk) submits what a [`Step`] says and reports each
//! raw result, a count or a negated errno as in a CQE. The rules are here once:
//!
//! - Durable means: all bytes are written, **and** a sync returned 0 that was submitted after the write's completion
//!   was seen, or linked behind it. A sync's success says nothing about a write that it did not cover, so a short write
//!   is finished and then synced anew, whatever the first sync said.
//! - EINTR, EAGAIN and ECANCELED on a write say that it did not happen: it is repeated. So is a write of nothing.
//! - ECANCELED on a sync says that it never ran: it is submitted again once the write is whole.
//! - Any other failure of a sync is final, EINTR included: a sync that ran and failed may have dropped the dirty state,
//!   and a later one would report success for bytes that are gone (promise P6).
//! - Repeats are bounded by [`ATTEMPTS_MAX`] in all.
//!
//! ```text
//!   new ──► write in flight ──► all written? ──no──► WriteRest (again, at most ATTEMPTS_MAX)
//!           (+ linked sync)          │yes
//!                                    ▼
//!                        a sync that counts returned 0? ──yes──► Done(Ok)
//!                          │not run          │failed
//!                          ▼                 ▼
//!                         Sync            Done(Err)
//! ```
//!
//! A linked pair's two results come in either order; nothing is decided, and nothing may be freed, before both are in.

use nix::libc::{EAGAIN, ECANCELED, EINTR, EIO, ENOSPC};

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
    /// Submit a write of `len` bytes from `offset` in the buffer (and in the write); ask [`Flight::link`] whether a
    /// sync may be linked behind it.
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
    /// A write of `len` bytes that is about to be submitted, alone.
    pub(crate) fn new(len: usize) -> Self {
        Self { len, written: 0, write_out: true, sync_out: false, sync: None, repeats: 0, failure: None }
    }

    /// Notes that a sync is submitted together with the write that is about to be submitted, linked behind it.
    ///
    /// Returns whether to submit it: always, unless a seeded bug forgets it. To be asked right after [`Flight::new`]
    /// or [`Step::WriteRest`], and only if both fit into the queue.
    #[must_use]
    pub(crate) fn link(&mut self) -> bool {
        debug_assert!(self.write_out && !self.sync_out);
        if seeded::is("m1") || self.sync.is_some() {
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
        debug_assert!(self.sync_out);
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
mod tests {
    use super::*;

    const LEN: usize = 3 * REST_ALIGN;

    fn linked() -> Flight {
        let mut flight = Flight::new(LEN);
        assert!(flight.link());
        flight
    }

    fn full() -> i32 {
        i32::try_from(LEN).unwrap_or(0)
    }

    #[test]
    fn a_lone_write_is_synced_after_it() {
        let mut flight = Flight::new(LEN);
        assert_eq!(flight.on_write(full()), Step::Sync);
        assert_eq!(flight.on_sync(0), Step::Done(Ok(())));
    }

    #[test]
    fn a_linked_pair_waits_for_both_in_either_order() {
        let mut flight = linked();
        assert_eq!(flight.on_write(full()), Step::Wait);
        assert_eq!(flight.on_sync(0), Step::Done(Ok(())));
        let mut flight = linked();
        assert_eq!(flight.on_sync(0), Step::Wait);
        assert_eq!(flight.on_write(full()), Step::Done(Ok(())));
    }

    #[test]
    fn a_short_write_is_finished_from_a_block_boundary_and_synced_anew() {
        let mut flight = linked();
        assert_eq!(flight.on_sync(0), Step::Wait);
        assert_eq!(flight.on_write(5000), Step::WriteRest { offset: 4096, len: LEN - 4096 });
        assert_eq!(flight.on_write(full() - 4096), Step::Sync);
        assert_eq!(flight.on_sync(0), Step::Done(Ok(())));
    }

    #[test]
    fn a_torn_pair_is_synced_anew_but_its_failure_counts() {
        let mut flight = linked();
        flight.unlink();
        assert_eq!(flight.on_sync(0), Step::Wait);
        assert_eq!(flight.on_write(full()), Step::Sync);
        assert_eq!(flight.on_sync(0), Step::Done(Ok(())));
        let mut flight = linked();
        flight.unlink();
        assert_eq!(flight.on_sync(-EIO), Step::Wait);
        assert_eq!(flight.on_write(full()), Step::Done(Err((Op::Sync, EIO))));
    }

    #[test]
    fn a_sync_that_ran_and_failed_is_final() {
        for errno in [EIO, EINTR, EAGAIN, ENOSPC] {
            let mut flight = linked();
            assert_eq!(flight.on_write(full()), Step::Wait);
            assert_eq!(flight.on_sync(-errno), Step::Done(Err((Op::Sync, errno))));
            // Also when its write has to be repeated: what it dropped may have been an earlier part.
            let mut flight = linked();
            assert_eq!(flight.on_write(4096), Step::Wait);
            assert_eq!(flight.on_sync(-errno), Step::Done(Err((Op::Sync, errno))));
        }
    }

    #[test]
    fn a_failed_write_is_final_and_first() {
        let mut flight = linked();
        assert_eq!(flight.on_write(-ENOSPC), Step::Wait);
        assert_eq!(flight.on_sync(CANCELED), Step::Done(Err((Op::Write, ENOSPC))));
    }

    #[test]
    fn repeats_are_bounded_and_the_last_reason_is_told() {
        for (res, told) in [(0, ENOSPC), (-EINTR, EINTR), (-EAGAIN, EAGAIN), (CANCELED, ECANCELED), (512, EIO)] {
            let mut flight = Flight::new(LEN);
            for _ in 0..ATTEMPTS_MAX {
                assert_eq!(flight.on_write(res), Step::WriteRest { offset: 0, len: LEN });
            }
            assert_eq!(flight.on_write(res), Step::Done(Err((Op::Write, told))));
        }
        let mut flight = Flight::new(LEN);
        assert_eq!(flight.on_write(full()), Step::Sync);
        for _ in 0..ATTEMPTS_MAX {
            assert_eq!(flight.on_sync(CANCELED), Step::Sync);
        }
        assert_eq!(flight.on_sync(CANCELED), Step::Done(Err((Op::Sync, ECANCELED))));
    }

    /// A medium that keeps its own books: which bytes reached it, and which of them a sync covered.
    #[derive(Clone)]
    struct Medium {
        cached: usize,
        durable: usize,
        sync_failed: bool,
        write_failed: bool,
        submissions: u32,
    }

    /// Every way in which every operation can end, in every order, to a depth; `Done(Ok)` must be the truth and
    /// `Done(Err)` must have a cause.
    #[test]
    fn every_history_ends_in_the_truth() {
        let medium = Medium { cached: 0, durable: 0, sync_failed: false, write_failed: false, submissions: 1 };
        let mut ends = 0;
        explore(Flight::new(LEN), medium.clone(), (0, false), 5, &mut ends);
        explore(linked(), medium, (0, true), 5, &mut ends);
        assert!(ends > 1000, "{ends}");
    }

    /// One round: a write from `at`, with a sync linked behind it or not.
    fn explore(flight: Flight, medium: Medium, (at, link): (usize, bool), depth: u32, ends: &mut u32) {
        if depth == 0 {
            return;
        }
        let left = LEN - at;
        for count in [left, 4096.min(left), 700, 0] {
            let mut medium = medium.clone();
            medium.cached = medium.cached.max(at + count);
            write_ends(flight, medium, i32::try_from(count).unwrap_or(0), link, depth, ends);
        }
        for errno in [EINTR, EAGAIN, ECANCELED, EIO, ENOSPC] {
            let mut medium = medium.clone();
            medium.write_failed |= matches!(errno, EIO | ENOSPC);
            write_ends(flight, medium, -errno, link, depth, ends);
        }
    }

    fn write_ends(mut flight: Flight, medium: Medium, res: i32, link: bool, depth: u32, ends: &mut u32) {
        if !link {
            let step = flight.on_write(res);
            return follow(flight, step, medium, depth, ends);
        }
        for sync in [0, CANCELED, -EINTR, -EIO] {
            for sync_first in [false, true] {
                let (mut flight, mut medium) = (flight, medium.clone());
                let wait = if sync_first { flight.on_sync(sync) } else { flight.on_write(res) };
                assert_eq!(wait, Step::Wait);
                let step = if sync_first { flight.on_write(res) } else { flight.on_sync(sync) };
                medium.sync_ended(sync);
                follow(flight, step, medium, depth, ends);
            }
        }
    }

    fn follow(flight: Flight, step: Step, mut medium: Medium, depth: u32, ends: &mut u32) {
        medium.submissions += 1;
        match step {
            Step::Wait => panic!("nothing is in flight"),
            Step::Done(result) => {
                *ends += 1;
                assert_eq!(result.is_ok(), medium.durable == LEN && !medium.sync_failed && !medium.write_failed);
                assert!(medium.submissions <= 2 + 2 * ATTEMPTS_MAX);
            }
            Step::WriteRest { offset, len } => {
                assert!(offset <= medium.cached && offset + len == LEN && offset % REST_ALIGN == 0);
                explore(flight, medium.clone(), (offset, false), depth - 1, ends);
                let mut flight = flight;
                assert!(flight.link());
                explore(flight, medium, (offset, true), depth - 1, ends);
            }
            Step::Sync => {
                assert_eq!(medium.cached, LEN);
                for sync in [0, CANCELED, -EINTR, -EIO] {
                    let (mut flight, mut medium) = (flight, medium.clone());
                    medium.sync_ended(sync);
                    let step = flight.on_sync(sync);
                    if depth > 1 {
                        follow(flight, step, medium, depth - 1, ends);
                    }
                }
            }
        }
    }

    impl Medium {
        fn sync_ended(&mut self, res: i32) {
            match res {
                0 => self.durable = self.cached,
                CANCELED => {}
                _ => self.sync_failed = true,
            }
        }
    }
}
