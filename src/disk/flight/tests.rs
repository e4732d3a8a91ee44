//! Each rule on its own, and every history of a few steps against a medium that keeps its own books.

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
fn a_dsync_write_needs_no_sync_and_takes_none() {
    let mut flight = Flight::dsync(LEN);
    assert!(flight.carries_dsync() && !flight.link());
    assert_eq!(flight.on_write(full()), Step::Done(Ok(())));
}

#[test]
fn each_piece_of_a_short_dsync_write_carries_the_flag() {
    let mut flight = Flight::dsync(LEN);
    assert_eq!(flight.on_write(5000), Step::WriteRest { offset: 4096, len: LEN - 4096 });
    assert!(flight.carries_dsync() && !flight.link());
    assert_eq!(flight.on_write(-EINTR), Step::WriteRest { offset: 4096, len: LEN - 4096 });
    assert!(flight.carries_dsync());
    assert_eq!(flight.on_write(full() - 4096), Step::Done(Ok(())));
}

#[test]
fn a_failed_dsync_write_is_final() {
    for errno in [EIO, ENOSPC] {
        let mut flight = Flight::dsync(LEN);
        assert_eq!(flight.on_write(-errno), Step::Done(Err((Op::Write, errno))));
    }
    // Behind a first piece, EINVAL is not about the flag.
    for errno in [EIO, EINVAL, EOPNOTSUPP] {
        let mut flight = Flight::dsync(LEN);
        assert_eq!(flight.on_write(4096), Step::WriteRest { offset: 4096, len: LEN - 4096 });
        assert_eq!(flight.on_write(-errno), Step::Done(Err((Op::Write, errno))));
    }
}

#[test]
fn a_refused_flag_is_dropped_once_and_the_write_synced() {
    for errno in [EOPNOTSUPP, EINVAL] {
        let mut flight = Flight::dsync(LEN);
        assert_eq!(flight.on_write(-errno), Step::WriteRest { offset: 0, len: LEN });
        assert!(!flight.carries_dsync() && flight.dsync_refused());
        assert!(flight.link());
        assert_eq!(flight.on_write(full()), Step::Wait);
        assert_eq!(flight.on_sync(0), Step::Done(Ok(())));
        // Not the flag's fault after all.
        let mut flight = Flight::dsync(LEN);
        assert_eq!(flight.on_write(-errno), Step::WriteRest { offset: 0, len: LEN });
        assert_eq!(flight.on_write(-errno), Step::Done(Err((Op::Write, errno))));
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
        for mut flight in [Flight::new(LEN), Flight::dsync(LEN)] {
            for _ in 0..ATTEMPTS_MAX {
                assert_eq!(flight.on_write(res), Step::WriteRest { offset: 0, len: LEN });
            }
            assert_eq!(flight.on_write(res), Step::Done(Err((Op::Write, told))));
        }
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
    explore(linked(), medium.clone(), (0, true), 5, &mut ends);
    explore(Flight::dsync(LEN), medium, (0, false), 5, &mut ends);
    assert!(ends > 1000, "{ends}");
}

/// One round: a write from `at`, with a sync linked behind it or not.
fn explore(flight: Flight, medium: Medium, (at, link): (usize, bool), depth: u32, ends: &mut u32) {
    if depth == 0 {
        return;
    }
    let left = LEN - at;
    let dsync = flight.carries_dsync();
    for count in [left, 4096.min(left), 700, 0] {
        let mut medium = medium.clone();
        medium.cached = medium.cached.max(at + count);
        if dsync && at <= medium.durable {
            medium.durable = medium.durable.max(at + count);
        }
        write_ends(flight, medium, i32::try_from(count).unwrap_or(0), link, depth, ends);
    }
    for errno in [EINTR, EAGAIN, ECANCELED, EIO, ENOSPC, EOPNOTSUPP] {
        let mut medium = medium.clone();
        let refused = errno == EOPNOTSUPP && dsync && at == 0;
        medium.write_failed |= matches!(errno, EIO | ENOSPC | EOPNOTSUPP) && !refused;
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
            if flight.link() {
                explore(flight, medium, (offset, true), depth - 1, ends);
            } else {
                assert!(flight.carries_dsync());
            }
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
