//! Each rule of the model, pinned from outside by a test that fails without it.

mod faults;
mod methods;

use std::collections::BTreeSet;

use nix::libc::EIO;

use super::*;
use crate::disk::{Access, Buffer, Completion, Disk, FileSlot, Method, SegmentFile, Write};
use crate::lsn::LogId;

const BLOCK: usize = 512;

fn options(flush: FlushScope) -> SimOptions {
    SimOptions { flush, ..SimOptions::default() }
}

fn sim(seed: u64) -> Sim {
    Sim::new(seed, SimOptions::default())
}

/// A durable file of `blocks` zeroed blocks.
fn file(sim: &Sim, name: &str, blocks: usize) -> Arc<dyn SegmentFile> {
    let directory = sim.directory();
    let file = directory.create(name).unwrap();
    file.write_at(&vec![0; blocks * BLOCK], 0).unwrap();
    file.sync().unwrap();
    directory.sync().unwrap();
    file
}

fn write(slot: FileSlot, token: u64, block: u64, blocks: usize, byte: u8) -> Write {
    // Each of them, by and by.
    let method = Method::ALL[(token % 4) as usize];
    write_by(method, slot, token, block, blocks, byte)
}

fn write_by(method: Method, slot: FileSlot, token: u64, block: u64, blocks: usize, byte: u8) -> Write {
    let mut buffer = Buffer::new(blocks * BLOCK);
    buffer[..blocks * BLOCK].fill(byte);
    Write { token, file: slot, offset: block * BLOCK as u64, len: blocks * BLOCK, buffer, method }
}

/// Lets everything finish.
fn drain(sim: &Sim, disk: &mut SimDisk) -> Vec<Completion> {
    let mut done = Vec::new();
    while disk.in_flight() > 0 && !sim.crashed() {
        sim.tick_all();
        disk.reap(&mut done);
        disk.kick();
    }
    disk.reap(&mut done);
    assert_eq!(disk.in_flight(), 0);
    done
}

/// Lets one event after another happen until a write is done; its token.
fn first_done(sim: &Sim, disk: &mut SimDisk) -> usize {
    let mut done = Vec::new();
    while done.is_empty() {
        assert!(sim.tick() || disk.blocks() || disk.in_flight() > 0, "nothing left to happen, and nothing done");
        disk.reap(&mut done);
        if done.is_empty() {
            disk.kick();
            disk.reap(&mut done);
        }
    }
    done[0].result.clone().unwrap();
    usize::try_from(done[0].token).unwrap()
}

/// The first byte of each block.
fn blocks(sim: &Sim, name: &str) -> Vec<u8> {
    sim.bytes(name).unwrap().chunks(BLOCK).map(|block| block[0]).collect()
}

#[test]
fn a_completion_means_durable_whatever_else_is_in_flight() {
    for seed in 0..300 {
        for (flush, dsync) in [(FlushScope::Device, Dsync::Through), (FlushScope::File, Dsync::Flushed)] {
            let sim = Sim::new(seed, SimOptions { dsync, ..options(flush) });
            let file = file(&sim, "a", 8);
            let mut disk = sim.disk();
            let slot = disk.attach(&file).unwrap();
            (0..8).for_each(|at| disk.submit(write(slot, at, at, 1, 7)));
            let token = first_done(&sim, &mut disk);
            sim.power_cut();
            assert_eq!(blocks(&sim, "a")[token], 7, "seed {seed}");
        }
    }
}

#[test]
fn a_flush_covers_only_what_completed_before_it_was_issued() {
    let mut survived = BTreeSet::new();
    for seed in 0..200 {
        let sim = sim(seed);
        let file = file(&sim, "a", 2);
        let mut disk = sim.disk();
        let slot = disk.attach(&file).unwrap();
        disk.submit(write(slot, 0, 0, 1, 7));
        // In flight, perhaps visible: the control plane's sync says nothing about it.
        file.write_at(&[8; BLOCK], BLOCK as u64).unwrap();
        file.sync().unwrap();
        sim.power_cut();
        assert_eq!(blocks(&sim, "a")[1], 8, "completed before, so covered");
        survived.insert(blocks(&sim, "a")[0]);
    }
    assert_eq!(survived, BTreeSet::from([0, 7]), "in flight, so not covered");
}

#[test]
fn a_flush_does_not_cover_what_completes_while_it_runs() {
    // Block 0 completes while block 1's sync runs. If that counted, block 0 would always survive.
    let mut media = Inode::with_bytes(&[0; 2 * BLOCK]);
    media.start(media::Pending::new(1, 0, &[7; BLOCK]));
    media.start(media::Pending::new(2, BLOCK, &[8; BLOCK]));
    media.complete(2, 10);
    let issued_at = 11;
    media.complete(1, 12);
    media.harden(issued_at);
    let durable = |media: &Inode| media.durable().to_vec();
    assert_eq!((durable(&media)[0], durable(&media)[BLOCK]), (0, 8));
    assert_eq!(media.visible().to_vec()[0], 7);
    media.harden(13);
    assert_eq!((durable(&media)[0], media.pending()), (7, 0));
}

#[test]
fn what_is_hardened_supersedes_what_is_older() {
    for seed in 0..50 {
        let mut media = Inode::with_bytes(&[0; 2 * BLOCK]);
        media.start(media::Pending::new(1, 0, &[7; 2 * BLOCK]));
        media.complete(1, 1);
        assert_eq!(media.curse(2), 1);
        media.start(media::Pending::new(2, 0, &[8; BLOCK]));
        media.complete(2, 3);
        media.harden(4);
        let mut rng = Rng::new(seed);
        let cruelty = media::Cruelty::draw(&mut rng, 0);
        media.power_cut(&mut rng, cruelty, BLOCK);
        assert_eq!(media.visible().to_vec()[0], 8, "the cursed version under it is gone for good");
        assert!([0, 7].contains(&media.visible().to_vec()[BLOCK]));
    }
}

#[test]
fn a_flush_of_one_file_covers_others_only_if_the_device_is_flushed() {
    for (flush, expect) in [(FlushScope::Device, vec![7]), (FlushScope::File, vec![0, 7])] {
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let sim = Sim::new(seed, options(flush));
            let (a, b) = (file(&sim, "a", 1), file(&sim, "b", 1));
            a.write_at(&[7; BLOCK], 0).unwrap();
            b.sync().unwrap();
            sim.power_cut();
            seen.extend(blocks(&sim, "a"));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expect, "{flush:?}");
    }
}

#[test]
fn a_power_cut_tears_sectors_in_any_pattern_and_rarely_leaves_garbage() {
    let (mut patterns, mut garbage) = (BTreeSet::new(), 0);
    for seed in 0..2000 {
        let sim = sim(seed);
        let file = file(&sim, "a", 4);
        sim.set_faults(Faults { garbage: 20_000, ..Faults::default() });
        file.write_at(&[7; 4 * BLOCK], 0).unwrap();
        sim.power_cut();
        let bytes = sim.bytes("a").unwrap();
        let whole = bytes.chunks(BLOCK).all(|block| [[0; BLOCK], [7; BLOCK]].iter().any(|known| known == block));
        if whole {
            patterns.insert(blocks(&sim, "a"));
        }
        assert_eq!(!whole, sim.stats().garbage > 0);
        garbage += sim.stats().garbage;
    }
    assert_eq!(patterns.len(), 16, "every subset of four sectors");
    assert!((1..400).contains(&garbage), "{garbage}");
}

#[test]
fn an_unsynced_file_has_any_length_and_any_old_sectors() {
    let mut seen = BTreeSet::new();
    for seed in 0..500 {
        let sim = sim(seed);
        let directory = sim.directory();
        let file = directory.create("a").unwrap();
        directory.sync().unwrap();
        file.write_at(&[7; 2 * BLOCK], 0).unwrap();
        sim.power_cut();
        seen.insert(blocks(&sim, "a"));
    }
    let expect = [&[][..], &[0], &[7], &[0, 0], &[0, 7], &[7, 0], &[7, 7]];
    assert_eq!(seen, expect.into_iter().map(<[u8]>::to_vec).collect());
}

#[test]
fn a_length_is_durable_with_the_files_own_sync_only() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let sim = sim(seed);
        let (a, b) = (file(&sim, "a", 1), file(&sim, "b", 1));
        a.allocate(3 * BLOCK as u64).unwrap();
        a.write_at(&[7; BLOCK], BLOCK as u64).unwrap();
        assert_eq!(blocks(&sim, "a"), [0, 7, 0]);
        if seed % 2 == 0 {
            a.sync().unwrap();
            sim.power_cut();
            assert_eq!(blocks(&sim, "a"), [0, 7, 0]);
        } else {
            b.sync().unwrap();
            sim.power_cut();
            seen.insert(blocks(&sim, "a"));
        }
    }
    assert_eq!(seen, [&[0][..], &[0, 7], &[0, 7, 0]].into_iter().map(<[u8]>::to_vec).collect());
}

#[test]
fn an_unsynced_entry_may_be_lost_and_a_renamed_file_may_hold_old_bytes() {
    let (mut names, mut bytes) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..300 {
        let sim = sim(seed);
        let file = file(&sim, "spare", 1);
        let directory = sim.directory();
        directory.rename("spare", "a").unwrap();
        assert!(!file.is_still_named());
        file.write_at(&[7; BLOCK], 0).unwrap();
        sim.power_cut();
        names.insert(sim.files());
        bytes.extend(blocks(&sim, &sim.files()[0]));
    }
    assert_eq!(names, BTreeSet::from([vec!["a".to_owned()], vec!["spare".to_owned()]]));
    assert_eq!(bytes, BTreeSet::from([0, 7]));
}

#[test]
fn a_failed_flush_curses_what_it_covered() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let sim = sim(seed);
        let file = file(&sim, "a", 2);
        file.write_at(&[7; BLOCK], 0).unwrap();
        sim.set_faults(Faults { sync_error: 1_000_000, ..Faults::default() });
        assert_eq!(file.sync().unwrap_err().errno, EIO);
        sim.set_faults(Faults::default());
        file.write_at(&[8; BLOCK], BLOCK as u64).unwrap();
        file.sync().unwrap();
        assert_eq!(blocks(&sim, "a"), [7, 8], "still visible");
        assert_eq!(sim.stats().cursed, 1);
        sim.power_cut();
        assert_eq!(blocks(&sim, "a")[1], 8, "written after the failure");
        seen.insert(blocks(&sim, "a")[0]);
    }
    assert!(seen.contains(&0), "a later success must not have saved it");
}

#[test]
fn a_kill_keeps_everything_submitted_but_flushes_nothing() {
    let mut lost = 0;
    for seed in 0..100 {
        let sim = sim(seed);
        let file = file(&sim, "a", 4);
        let mut disk = sim.disk();
        let slot = disk.attach(&file).unwrap();
        (0..4).for_each(|at| disk.submit(write_by(Method::ALL[(at % 3) as usize], slot, at, at, 1, 7)));
        for _ in 0..seed % 4 {
            sim.tick();
        }
        sim.directory().create("b").unwrap();
        sim.kill();
        assert_eq!((blocks(&sim, "a"), sim.files().len()), (vec![7; 4], 2));
        assert_eq!(file.sync().unwrap_err().errno, EIO, "a dead handle");
        drop(disk);
        sim.power_cut();
        lost += blocks(&sim, "a").iter().filter(|byte| **byte == 0).count();
    }
    assert!(lost > 50, "{lost}");
}

#[test]
fn late_writes_land_only_during_the_next_opening() {
    let mut late = 0;
    for seed in 0..50 {
        let sim = Sim::new(seed, SimOptions { late: true, ..SimOptions::default() });
        let file = file(&sim, "a", 1);
        let mut disk = sim.disk();
        let slot = disk.attach(&file).unwrap();
        disk.submit(write(slot, 0, 0, 1, 7));
        sim.kill();
        assert_eq!(blocks(&sim, "a"), [0]);
        (0..4).for_each(|_| sim.directory().sync().unwrap());
        late += u64::from(blocks(&sim, "a") == [7]);
        assert_eq!(sim.stats().late, u64::from(blocks(&sim, "a") == [7]));
    }
    assert!((30..50).contains(&late), "{late}");
}

/// A little run that uses everything; whatever fails ends it.
fn run(sim: &Sim) -> Result<(), crate::error::IoFailure> {
    let directory = sim.directory();
    directory.record_log_id(LogId::new([7; 16]))?;
    let file = directory.create("spare")?;
    file.allocate(8 * BLOCK as u64)?;
    file.write_at(&[0; 8 * BLOCK], 0)?;
    file.sync()?;
    directory.rename("spare", "a")?;
    directory.sync()?;
    let mut disk = sim.disk();
    let slot = disk.attach(&file)?;
    (0..4).for_each(|at| disk.submit(write(slot, at, 2 * at, 2, 7)));
    drain(sim, &mut disk).into_iter().try_for_each(|done| done.result)?;
    directory.create("b")?;
    directory.remove("b")
}

#[test]
fn a_countdown_freezes_the_state_at_every_operation() {
    let whole = sim(3);
    whole.film(true);
    run(&whole).unwrap();
    let total = whole.operations();
    let film = whole.film(false);
    assert!(total > 20 && film.len() as u64 == total, "{total}");
    for n in 0..total {
        let sim = sim(3);
        sim.crash_after(Some(n));
        assert_eq!(run(&sim).unwrap_err().errno, EIO, "after {n} operations");
        assert!(sim.crashed());
        assert_eq!(sim.operations(), n);
        let (hash, trace) = (sim.hash(), sim.trace());
        assert!(run(&sim).is_err() && !sim.tick());
        assert!(sim.directory().list().is_err() && sim.directory().open("a", Access::Read).is_err());
        assert_eq!((sim.hash(), sim.trace()), (hash, trace), "nothing changes behind the crash");
        // The film shows the same moment, and what follows a power cut from there is the same too.
        let replay = Sim::new(0, SimOptions::default());
        replay.restore(&film[usize::try_from(n).unwrap()].1);
        assert_eq!(replay.hash(), hash);
        [&sim, &replay].iter().for_each(|sim| sim.reseed(n));
        [&sim, &replay].iter().for_each(|sim| sim.power_cut());
        assert_eq!(replay.hash(), sim.hash());
        assert!(!sim.crashed() && sim.directory().list().is_ok());
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let faults = Faults { write_short: 200_000, write_interrupted: 100_000, ..Faults::default() };
    let trace = |seed| {
        let sim = sim(seed);
        sim.set_faults(faults);
        let _ = run(&sim);
        sim.power_cut();
        (sim.trace(), sim.hash(), sim.operations())
    };
    let traces: Vec<_> = (0..50).map(trace).collect();
    assert_eq!(traces, (0..50).map(trace).collect::<Vec<_>>());
    assert_eq!(traces.iter().collect::<BTreeSet<_>>().len(), 50, "other seeds, other histories");
}
