//! What each method makes durable, and what it does not.

use super::*;

/// Two files, or one: a write by `method` to block 0 of "a" is done; what became of block 1, completed and not flushed
/// before it began.
fn bystander(dsync: Dsync, flush: FlushScope, method: Method) -> BTreeSet<u8> {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let sim = Sim::new(seed, SimOptions { dsync, flush, ..SimOptions::default() });
        let file = file(&sim, "a", 2);
        file.write_at(&[8; BLOCK], BLOCK as u64).unwrap();
        let mut disk = sim.disk();
        let slot = disk.attach(&file).unwrap();
        disk.submit(write_by(method, slot, 0, 0, 1, 7));
        let done = drain(&sim, &mut disk);
        assert_eq!(done[0].result, Ok(()));
        sim.power_cut();
        assert_eq!(blocks(&sim, "a")[0], 7, "{method} {dsync:?}");
        seen.insert(blocks(&sim, "a")[1]);
    }
    seen
}

#[test]
fn a_write_through_makes_only_itself_durable() {
    for flush in [FlushScope::Device, FlushScope::File] {
        assert_eq!(bystander(Dsync::Through, flush, Method::DsyncWrite), BTreeSet::from([0, 8]));
        assert_eq!(bystander(Dsync::Flushed, flush, Method::DsyncWrite), BTreeSet::from([8]));
        for method in [Method::LinkedFdatasync, Method::WriteThenFdatasync, Method::Syscalls] {
            assert_eq!(bystander(Dsync::Through, flush, method), BTreeSet::from([8]), "{method}");
        }
    }
}

#[test]
fn a_write_through_carries_the_length_that_it_needs() {
    for seed in 0..50 {
        let sim = sim(seed);
        let file = file(&sim, "a", 1);
        let mut disk = sim.disk();
        let slot = disk.attach(&file).unwrap();
        disk.submit(write_by(Method::DsyncWrite, slot, 0, 1, 2, 7));
        assert_eq!(drain(&sim, &mut disk)[0].result, Ok(()));
        sim.power_cut();
        assert_eq!(blocks(&sim, "a"), [0, 7, 7]);
    }
}

#[test]
fn a_refused_flag_falls_back_to_a_sync_and_is_told() {
    let sim = Sim::new(1, SimOptions { dsync: Dsync::Refused, ..SimOptions::default() });
    let file = file(&sim, "a", 2);
    let mut disk = sim.disk();
    let slot = disk.attach(&file).unwrap();
    disk.submit(write_by(Method::DsyncWrite, slot, 0, 0, 2, 7));
    let done = drain(&sim, &mut disk);
    assert_eq!((done[0].result.clone(), done[0].method), (Ok(()), Method::LinkedFdatasync));
    sim.power_cut();
    assert_eq!(blocks(&sim, "a"), [7, 7]);
}

#[test]
fn one_sync_serves_all_that_were_seen_complete_and_nobody_else() {
    let (mut shared, mut alone) = (0, 0);
    for seed in 0..200 {
        let sim = sim(seed);
        let file = file(&sim, "a", 4);
        let mut disk = sim.disk();
        let slot = disk.attach(&file).unwrap();
        (0..4).for_each(|at| disk.submit(write_by(Method::WriteThenFdatasync, slot, at, at, 1, 7)));
        for _ in 0..seed % 8 {
            sim.tick();
        }
        let (mut done, syncs) = (Vec::new(), sim.stats().syncs);
        disk.reap(&mut done);
        assert!(done.is_empty(), "nothing is durable before a sync");
        // Whatever completes while the sync runs is not served by it.
        let waiting = disk.blocks();
        disk.kick();
        disk.reap(&mut done);
        assert_eq!(sim.stats().syncs - syncs, u64::from(waiting), "one sync for all");
        shared += u64::from(done.len() > 1);
        alone += u64::from(!done.is_empty() && disk.in_flight() > 0);
        sim.power_cut();
        done.iter().for_each(|done| assert_eq!(blocks(&sim, "a")[usize::try_from(done.token).unwrap()], 7));
    }
    assert!(shared > 20 && alone > 20, "{shared} shared, {alone} beside others in flight");
}

#[test]
fn system_calls_are_made_at_kick_while_others_go_on() {
    let mut went_on = 0;
    for seed in 0..100 {
        let sim = sim(seed);
        let file = file(&sim, "a", 2);
        let mut disk = sim.disk();
        let slot = disk.attach(&file).unwrap();
        let before = sim.stats().writes;
        disk.submit(write_by(Method::Syscalls, slot, 0, 0, 1, 7));
        disk.submit(write_by(Method::DsyncWrite, slot, 1, 1, 1, 8));
        assert_eq!((disk.blocks(), sim.stats().writes - before), (true, 1));
        disk.kick();
        let mut done = Vec::new();
        disk.reap(&mut done);
        assert!(done.iter().any(|done| done.token == 0 && done.result.is_ok()));
        went_on += u64::from(done.len() == 2);
        sim.power_cut();
        assert_eq!(blocks(&sim, "a")[0], 7);
    }
    assert!(went_on > 10, "{went_on}");
}

#[test]
fn a_crash_comes_between_the_system_calls_too() {
    let mut seen = BTreeSet::new();
    for method in [Method::Syscalls, Method::WriteThenFdatasync] {
        for limit in 0..6 {
            for seed in 0..20 {
                let sim = sim(seed);
                let file = file(&sim, "a", 1);
                let mut disk = sim.disk();
                let slot = disk.attach(&file).unwrap();
                sim.crash_after(Some(limit));
                disk.submit(write_by(method, slot, 0, 0, 1, 7));
                let mut done = Vec::new();
                for _ in 0..4 {
                    sim.tick_all();
                    disk.reap(&mut done);
                    disk.kick();
                }
                disk.reap(&mut done);
                assert_eq!((done.len(), disk.in_flight()), (1, 0));
                sim.power_cut();
                let durable = blocks(&sim, "a")[0] == 7;
                assert!(durable || done[0].result.is_err(), "{method}, {limit} operations");
                seen.insert((method.word(), done[0].result.is_ok(), durable));
            }
        }
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
}
