//! The ring on real files.

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::*;
use crate::disk::conformance::{self, rig};

fn ring() -> RingDisk {
    RingDisk::new(64).unwrap()
}

#[test]
fn a_write_comes_back_with_its_buffer() {
    conformance::a_write_comes_back_with_its_buffer(ring());
}

#[test]
fn many_in_flight() {
    conformance::many_in_flight(ring());
}

#[test]
fn many_in_flight_on_a_tiny_ring() {
    conformance::many_in_flight(RingDisk::new(1).unwrap());
}

#[test]
fn a_refused_write_is_told() {
    conformance::a_refused_write_is_told(ring());
}

#[test]
fn a_short_write_is_finished_or_fails() {
    conformance::a_short_write_is_finished_or_fails(ring(), "disk::ring::tests::a_short_write_is_finished_or_fails");
}

#[test]
fn dropping_waits() {
    conformance::dropping_waits(ring());
}

#[test]
fn wake_ups_arrive() {
    conformance::wake_ups_arrive(ring());
}

#[test]
fn a_held_lock_stays() {
    conformance::a_held_lock_stays(ring());
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
            conformance::a_write_comes_back_with_its_buffer(ring_on(setup, tables));
            conformance::many_in_flight(ring_on(setup, tables));
            conformance::wake_ups_arrive(ring_on(setup, tables));
            conformance::watching_tells(ring_on(setup, tables));
            conformance::a_held_lock_stays(ring_on(setup, tables));
        }
    }
}

#[test]
fn the_tables_are_used_and_told() {
    let mut rig = rig(ring(), 1);
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
    let mut rig = rig(ring(), 1);
    rig.disk.submit(Write { token: 1, file: rig.slot, offset: 0, len: 4096, buffer, inline: false });
    assert_eq!(rig.finish(false)[0].result, Ok(()));
}

#[test]
fn a_broken_ring_fails_everything_and_gives_other_buffers_back() {
    let mut rig = rig(ring(), 2);
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
    let mut rig = rig(ring(), 1);
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
        let mut rig = rig(ring(), 1);
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
    let mut rig = rig(ring(), 1);
    rig.disk.submit(rig.write(1, 0, 1, 1));
    let stale = Key::new(Kind::Sync, 0, rig.disk.generation.wrapping_sub(1));
    let entry = opcode::Fsync::new(Fd(-1)).build().user_data(stale.bits());
    assert!(offer::push(&mut rig.disk.ring, &entry));
    rig.disk.offered.push_back(Key::TRIAL);
    assert_eq!(rig.finish(false)[0].result, Ok(()));
}
