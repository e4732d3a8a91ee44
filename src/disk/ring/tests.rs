//! The ring on real files.

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::*;
use crate::disk::conformance::{self, rig};

fn ring() -> RingDisk {
    RingDisk::new(64).unwrap()
}

fn for_each_method(test: impl Fn(RingDisk, Method)) {
    // The last one is nothing that a ring has: it gets the reference.
    Method::EACH.into_iter().for_each(|method| test(ring(), method));
}

#[test]
fn a_write_comes_back_with_its_buffer() {
    for_each_method(conformance::a_write_comes_back_with_its_buffer);
}

#[test]
fn many_in_flight() {
    for_each_method(conformance::many_in_flight);
}

#[test]
fn many_in_flight_on_a_tiny_ring() {
    for_each_method(|_, method| conformance::many_in_flight(RingDisk::new(1).unwrap(), method));
}

#[test]
fn a_refused_write_is_told() {
    for_each_method(conformance::a_refused_write_is_told);
}

#[test]
fn a_short_write_is_finished_or_fails() {
    let test = "disk::ring::tests::a_short_write_is_finished_or_fails";
    conformance::a_short_write_is_finished_or_fails(ring, Method::ALL, test);
}

#[test]
fn every_write_is_flushed() {
    for_each_method(conformance::every_write_is_flushed);
}

#[test]
fn dropping_waits() {
    for_each_method(conformance::dropping_waits);
}

#[test]
fn wake_ups_arrive() {
    for_each_method(conformance::wake_ups_arrive);
}

#[test]
fn a_held_lock_stays() {
    conformance::a_held_lock_stays(ring(), REFERENCE);
}

/// Makes a disk on a given rung, with or without tables.
fn ring_on(setup: Setup, tables: bool) -> RingDisk {
    let mut disk = ring();
    disk.setup = setup;
    disk.ring = setup::build(16, setup).unwrap();
    (disk.files, disk.buffers) = if tables {
        (FileTable::new(&disk.ring), BufferTable::new(&disk.ring))
    } else {
        (FileTable::unregistered(), BufferTable::unregistered())
    };
    disk
}

#[test]
fn every_rung_and_every_fallback_keeps_the_promises() {
    for setup in [Setup::Deferred, Setup::Cooperative, Setup::Plain] {
        for tables in [true, false] {
            for method in Method::ALL {
                conformance::a_write_comes_back_with_its_buffer(ring_on(setup, tables), *method);
                conformance::many_in_flight(ring_on(setup, tables), *method);
                conformance::wake_ups_arrive(ring_on(setup, tables), *method);
            }
            conformance::a_held_lock_stays(ring_on(setup, tables), REFERENCE);
        }
    }
}

#[test]
fn the_tables_are_used_and_told() {
    let mut rig = rig(ring(), REFERENCE, 1);
    assert!(rig.disk.pool(4096, 1 << 20).unwrap().take(1).unwrap().fixed().is_some());
    assert!(rig.disk.files.target(rig.slot).unwrap().flags.contains(squeue::Flags::FIXED_FILE));
    let lock = rig.directory.lock(Duration::ZERO).unwrap();
    rig.disk.hold(std::os::fd::AsFd::as_fd(&lock)).unwrap();
    assert!(rig.disk.locks_outlive_us());
    let mut plain = ring_on(Setup::Plain, false);
    assert!(plain.pool(4096, 1 << 20).unwrap().take(1).unwrap().fixed().is_none());
    plain.hold(std::os::fd::AsFd::as_fd(&lock)).unwrap();
    assert!(!plain.locks_outlive_us());
}

#[test]
fn a_registered_buffer_of_another_ring_is_written_plainly() {
    let mut other = ring();
    let buffer = other.pool(4096, 1 << 20).unwrap().take(1).unwrap();
    let mut rig = rig(ring(), REFERENCE, 1);
    let method = rig.method;
    rig.disk.submit(Write { token: 1, file: rig.slot, offset: 0, len: 4096, buffer, method });
    assert_eq!(rig.finish(false)[0].result, Ok(()));
}

#[test]
fn a_broken_ring_fails_everything_and_gives_other_buffers_back() {
    let mut rig = rig(ring(), REFERENCE, 2);
    rig.disk.submit(rig.write(1, 0, 1, 1));
    rig.disk.kick();
    let at = rig.disk.flights.iter().next().unwrap().1.write.buffer.as_ptr();
    rig.disk.give_up(Errno::EBADR as i32);
    rig.disk.submit(rig.write(2, 0, 1, 1));
    let done = rig.finish(true);
    assert_eq!(done.iter().map(|completion| completion.token).collect::<Vec<_>>(), [1, 2]);
    assert!(done.iter().all(|completion| matches!(&completion.result, Err(failure) if failure.op == Op::Ring)));
    assert_ne!(done[0].buffer.as_ptr(), at);
}

/// Carries everything on to its end and counts the syncs that completed.
fn count_syncs(disk: &mut RingDisk) -> u32 {
    let mut syncs = 0;
    while !disk.flights.is_empty() {
        disk.fill();
        disk.enter(1, None);
        while let Some(cqe) = disk.next_completion() {
            syncs += u32::from(Key::from_bits(cqe.user_data()).kind == Kind::Sync);
            disk.on_completion(&cqe);
        }
    }
    syncs
}

#[test]
fn a_torn_pair_is_synced_anew() {
    let mut rig = rig(ring(), REFERENCE, 1);
    rig.disk.submit(rig.write(1, 0, 1, 1));
    assert_eq!(count_syncs(&mut rig.disk), 1);
    rig.disk.submit(rig.write(2, 0, 1, 1));
    rig.disk.fill();
    rig.disk.flights.iter_mut().for_each(|(_, in_flight)| in_flight.flight.unlink());
    assert_eq!(count_syncs(&mut rig.disk), 2);
    assert!(rig.disk.done.iter().all(|completion| completion.result.is_ok()));
}

#[test]
fn a_pair_of_which_the_kernel_took_only_the_write_counts_as_torn() {
    for torn in [true, false] {
        let mut rig = rig(ring(), REFERENCE, 1);
        rig.disk.submit(rig.write(1, 0, 1, 1));
        rig.disk.fill();
        assert_eq!((rig.disk.offered.len(), rig.disk.ring.submission().len()), (2, 2));
        // The books say three entries and the queue holds two: the first was taken, and it was a write without its sync.
        if torn {
            rig.disk.offered.push_back(Key::WAKE);
            rig.disk.note_taken();
            assert_eq!(rig.disk.offered[0].kind, Kind::Sync);
        }
        rig.disk.offered.clear();
        assert_eq!(count_syncs(&mut rig.disk), if torn { 2 } else { 1 });
    }
}

#[test]
fn a_late_completion_hits_no_later_flight() {
    let mut rig = rig(ring(), REFERENCE, 1);
    rig.disk.submit(rig.write(1, 0, 1, 1));
    let stale = Key::new(Kind::Sync, 0, rig.disk.generation.wrapping_sub(1));
    let entry = opcode::Fsync::new(Fd(-1)).build().user_data(stale.bits());
    assert!(offer::push(&mut rig.disk.ring, &entry));
    rig.disk.offered.push_back(Key::TRIAL);
    assert_eq!(rig.finish(false)[0].result, Ok(()));
}

#[test]
fn a_dsync_write_is_one_request() {
    let mut rig = rig(ring(), Method::DsyncWrite, 1);
    for _ in 0..10 {
        rig.disk.submit(rig.write(1, 0, 1, 1));
        assert_eq!(count_syncs(&mut rig.disk), 0);
    }
    assert!(rig.disk.done.iter().all(|done| done.result.is_ok() && done.method == Method::DsyncWrite));
}

#[test]
fn a_file_that_refuses_dsync_is_remembered() {
    for (errno, fits) in [(Errno::EOPNOTSUPP, true), (Errno::EINVAL, true), (Errno::EINVAL, false)] {
        let mut rig = rig(ring(), Method::DsyncWrite, 2);
        let mut write = rig.write(1, 0, 1, 1);
        if !fits {
            // The flag is not why this one fails.
            write.offset = u64::MAX / 2;
        }
        rig.disk.submit(write);
        // As on a kernel that knows no such flag: what comes of the write is made up, what follows is real.
        rig.disk.queue.clear();
        let (index, in_flight) = rig.disk.flights.iter_mut().next().unwrap();
        in_flight.out += 1;
        let key = Key::new(Kind::Write, u32::try_from(index).unwrap(), in_flight.generation);
        rig.disk.on_result(key, -(errno as i32));
        let done = rig.finish(false);
        assert_eq!((done[0].result.is_ok(), done[0].method), (fits, REFERENCE));
        rig.disk.submit(rig.write(2, 1, 1, 1));
        assert_eq!(rig.finish(false)[0].method, if fits { REFERENCE } else { Method::DsyncWrite });
        assert_eq!(rig.disk.methods(), Method::ALL, "other files may take it");
    }
}

#[test]
fn one_sync_of_the_threads_own_serves_those_whose_completion_was_collected() {
    let mut rig = rig(ring(), Method::WriteThenFdatasync, 4);
    (0..3).for_each(|at| rig.disk.submit(rig.write(at, usize::try_from(at).unwrap(), 1, 1)));
    rig.disk.kick();
    assert!(!rig.disk.blocks(), "nothing is known to be complete");
    while rig.disk.due.len() < 3 {
        rig.disk.enter(1, None);
        rig.disk.collect();
        assert!(rig.disk.done.is_empty(), "written is not durable");
    }
    // Submitted, perhaps complete in the kernel, but not collected: not served.
    rig.disk.submit(rig.write(3, 3, 1, 1));
    assert!(rig.disk.blocks());
    rig.disk.kick();
    let mut tokens: Vec<_> = rig.disk.done.iter().map(|done| done.token).collect();
    tokens.sort_unstable();
    assert_eq!((tokens, rig.disk.flights.len(), rig.disk.blocks()), (vec![0, 1, 2], 1, false));
    assert_eq!(rig.finish(false).len(), 4);
}

#[test]
fn a_failed_sync_of_the_threads_own_fails_all_that_it_served() {
    let mut rig = rig(ring(), Method::WriteThenFdatasync, 2);
    (0..2).for_each(|at| rig.disk.submit(rig.write(at, usize::try_from(at).unwrap(), 1, 1)));
    while rig.disk.due.len() < 2 {
        rig.disk.fill();
        rig.disk.enter(1, None);
        rig.disk.collect();
    }
    rig.disk.files.detach(&rig.disk.ring, rig.slot);
    rig.disk.kick();
    let failed = |done: &Completion| done.result.clone().is_err_and(|failure| failure.op == Op::Sync);
    assert!(rig.disk.done.len() == 2 && rig.disk.done.iter().all(failed));
}

#[test]
fn methods_mix() {
    let mut rig = rig(ring(), REFERENCE, 64);
    for round in 0..20u64 {
        for at in 0..16 {
            rig.method = Method::ALL[(at as usize + round as usize * 3) % 4];
            rig.disk.submit(rig.write(at, at as usize, 1, round as u8));
            if at % 5 == round % 5 {
                rig.disk.kick();
            }
        }
        let done = rig.finish(round % 2 == 0);
        assert_eq!(done.len(), 16);
        for done in done {
            let asked = Method::ALL[(done.token as usize + round as usize * 3) % 4];
            assert_eq!((done.result, done.method), (Ok(()), asked));
        }
    }
}
