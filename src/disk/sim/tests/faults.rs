//! What fails, what runs out, what rots: and what the rest of the model makes of it.

use nix::libc::{EINVAL, EIO, ENOSPC};

use super::*;

/// Many writes under some fault: what is acknowledged must have been made durable nevertheless.
fn under(faults: Faults, count: impl Fn(&Stats) -> u64) -> (u64, u64) {
    let (mut good, mut bad) = (0, 0);
    let mut hits = 0;
    for seed in 0..200 {
        let sim = sim(seed);
        let file = file(&sim, "a", 64);
        sim.set_faults(faults);
        let mut disk = sim.disk();
        let slot = disk.attach(&file).unwrap();
        (0..4).for_each(|at| disk.submit(write(slot, at, at * 16, 16, 7)));
        let done = drain(&sim, &mut disk);
        assert_eq!(done.len(), 4);
        hits += count(&sim.stats());
        sim.set_faults(Faults::default());
        sim.power_cut();
        for done in done {
            let at = usize::try_from(done.token).unwrap() * 16;
            if done.result.is_ok() {
                good += 1;
                assert_eq!(blocks(&sim, "a")[at..at + 16], [7; 16], "seed {seed}: acknowledged and gone");
            } else {
                bad += 1;
            }
        }
    }
    assert!(hits > 50, "the fault hardly ever happened: {hits}");
    (good, bad)
}

#[test]
fn a_short_write_is_finished_and_synced() {
    let (good, bad) = under(Faults { write_short: 400_000, ..Faults::default() }, |stats| stats.short);
    assert!(good > 790 && bad < 10, "{good} good, {bad} bad");
}

#[test]
fn an_interrupted_or_cancelled_step_is_repeated() {
    let faults = Faults { write_interrupted: 300_000, sync_canceled: 300_000, ..Faults::default() };
    let (good, bad) = under(faults, |stats| stats.interrupted);
    assert!(good > 750 && bad < 50, "{good} good, {bad} bad");
}

#[test]
fn a_failed_write_or_sync_is_told_and_never_acknowledged() {
    let (good, bad) = under(Faults { write_error: 200_000, ..Faults::default() }, |stats| stats.failed_writes);
    assert!(good > 0 && bad > 50, "{good} good, {bad} bad");
    // A failed sync curses other flights' writes too, so that only poison makes what follows it true (promise P6).
    let sim = sim(1);
    let file = file(&sim, "a", 1);
    sim.set_faults(Faults { sync_error: 1_000_000, ..Faults::default() });
    let mut disk = sim.disk();
    let slot = disk.attach(&file).unwrap();
    disk.submit(write(slot, 5, 0, 1, 7));
    let done = drain(&sim, &mut disk);
    assert_eq!((done[0].token, done[0].result.clone().unwrap_err().errno), (5, EIO));
}

#[test]
fn a_disk_that_dies_gives_every_write_back() {
    let sim = sim(1);
    let file = file(&sim, "a", 4);
    let mut disk = sim.disk();
    let slot = disk.attach(&file).unwrap();
    disk.submit(write(slot, 0, 0, 1, 7));
    sim.power_cut();
    disk.submit(write(slot, 1, 0, 1, 8));
    let mut done = Vec::new();
    disk.reap(&mut done);
    let errnos: Vec<_> = done.iter().map(|done| done.result.clone().unwrap_err().errno).collect();
    assert_eq!((errnos, disk.in_flight()), (vec![EIO, EIO], 0));
}

#[test]
fn dropping_a_living_disk_waits_for_its_writes() {
    let sim = sim(1);
    let file = file(&sim, "a", 4);
    let mut disk = sim.disk();
    let slot = disk.attach(&file).unwrap();
    disk.submit(write(slot, 0, 0, 4, 7));
    drop(disk);
    sim.power_cut();
    assert_eq!(blocks(&sim, "a"), [7; 4]);
}

#[test]
fn space_runs_out_and_comes_back() {
    let sim = sim(1);
    let file = file(&sim, "a", 4);
    sim.set_faults(Faults { space_bytes: Some(4 * BLOCK as u64), ..Faults::default() });
    file.write_at(&[7; BLOCK], 3 * BLOCK as u64).unwrap();
    assert_eq!(file.write_at(&[7; BLOCK], 4 * BLOCK as u64).unwrap_err().errno, ENOSPC);
    assert!(file.allocate(5 * BLOCK as u64).unwrap_err().is_no_space());
    let mut disk = sim.disk();
    let slot = disk.attach(&file).unwrap();
    disk.submit(write(slot, 0, 4, 1, 7));
    assert_eq!(drain(&sim, &mut disk)[0].result.clone().unwrap_err().errno, ENOSPC);
    sim.set_faults(Faults { space_bytes: Some(5 * BLOCK as u64), ..Faults::default() });
    disk.submit(write(slot, 0, 4, 1, 7));
    assert!(drain(&sim, &mut disk)[0].result.is_ok());
    assert_eq!(blocks(&sim, "a").len(), 5);
}

#[test]
fn misaligned_writes_and_reads_are_refused() {
    let sim = Sim::new(1, SimOptions { block_bytes: 4096, ..SimOptions::default() });
    let file = sim.directory().create("a").unwrap();
    assert_eq!(file.write_at(&[0; 512], 0).unwrap_err().errno, EINVAL);
    assert_eq!(file.read_at(&mut [0; 4096], 512).unwrap_err().errno, EINVAL);
    let mut disk = sim.disk();
    let slot = disk.attach(&file).unwrap();
    disk.submit(write(slot, 0, 1, 8, 7));
    assert_eq!(drain(&sim, &mut disk)[0].result.clone().unwrap_err().errno, EINVAL);
}

#[test]
fn a_broken_sector_fails_until_it_is_written_and_rot_changes_bytes() {
    let sim = sim(1);
    let file = file(&sim, "a", 4);
    sim.break_sector("a", BLOCK);
    assert!(file.read_at(&mut [0; BLOCK], 0).is_ok());
    assert_eq!(file.read_at(&mut [0; 4 * BLOCK], 0).unwrap_err().errno, EIO);
    file.write_at(&[7; BLOCK], BLOCK as u64).unwrap();
    assert_eq!(file.read_at(&mut [0; 8 * BLOCK], 0).unwrap(), 4 * BLOCK);
    file.sync().unwrap();
    let (hash, before) = (sim.hash(), sim.bytes("a").unwrap());
    assert!(!sim.rot("a", 0, BLOCK, Rot::Zero), "it is zero already");
    assert!(sim.rot("a", BLOCK, BLOCK, Rot::Flip) && sim.hash() != hash);
    sim.power_cut();
    let after = sim.bytes("a").unwrap();
    let flipped: u32 = before.iter().zip(&after).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(flipped, 1);
    assert!(!sim.rot("missing", 0, 1, Rot::Garble));
}

#[test]
fn a_snapshot_brings_everything_back() {
    let sim = sim(1);
    let a = file(&sim, "a", 2);
    let (snapshot, hash) = (sim.snapshot(), sim.hash());
    a.write_at(&[7; BLOCK], 0).unwrap();
    sim.directory().record_log_id(LogId::new([1; 16])).unwrap();
    sim.put("b", &[1; BLOCK]);
    sim.put_odd("c", "a directory");
    assert!(sim.hash() != hash && sim.directory().open("c", Access::Read).is_err());
    sim.restore(&snapshot);
    assert_eq!((sim.hash(), sim.directory().recorded_log_id().unwrap()), (hash, None));
    assert!(a.len().is_err(), "a handle of before");
}
