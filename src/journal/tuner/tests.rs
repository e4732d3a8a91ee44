//! The tuner on simulated devices: it finds what pinning would have found, pays little for it, follows, and stays.

use super::device::{Arrivals, CONSUMER, Device, LOOP, METHODS, PROTECTED, VIRTIO, VIRTIO_THROUGH, World};
use super::{Choice, Prior, Rules};
use crate::method::Method;
use crate::options::Pins;

const DEVICES: [(&str, Device); 5] = [
    ("protected", PROTECTED),
    ("consumer", CONSUMER),
    ("virtio", VIRTIO),
    ("virtio-through", VIRTIO_THROUGH),
    ("loop", LOOP),
];

fn pinned(choice: Choice) -> Pins {
    Pins { method: Some(choice.method), depth: Some(choice.depth), gather: Some(choice.gather) }
}

fn all() -> Vec<Choice> {
    Rules::new(&METHODS, Pins::default(), 4, true, Prior::default()).arms()
}

/// A pinned choice under a load.
fn pin(device: Device, arrivals: Arrivals, choice: Choice) -> World {
    World::new(device, arrivals, pinned(choice), 7)
}

fn auto(device: Device, arrivals: Arrivals) -> World {
    World::new(device, arrivals, Pins::default(), 11)
}

/// What the best pinned choice makes of so many callers, in records a second, and which it is.
fn best_pinned(device: Device, callers: u32) -> (f64, Choice) {
    let run = |choice| {
        // Cohorts of callers form and stay, by chance: several chances.
        let mut worlds = [7, 77, 777].map(|seed| World::new(device, Arrivals::Closed(callers), pinned(choice), seed));
        (worlds.iter_mut().map(|world| world.run(world.seconds(1000))).sum::<f64>() / 3.0, choice)
    };
    all().into_iter().map(run).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

/// That the tuner, having run for a while, makes at least 0.95 of the best pinned choice's throughput.
fn assert_close_to_best(world: &mut World, callers: u32, what: &str) {
    // Thousands of callers fall into cohorts that outlast a trial: a short trial does not show what a choice settles at.
    assert_at_least(if callers > 1000 { 0.85 } else { 0.95 }, world, callers, what);
}

fn assert_at_least(least: f64, world: &mut World, callers: u32, what: &str) {
    let (best, choice) = best_pinned(world.device, callers);
    let ratio = world.run(world.seconds(10_000)) / best;
    let reason = world.journal.tuner().reason();
    println!("{what}, {callers} callers: {ratio:.3} of {choice}, with {reason}");
    assert!(ratio >= least, "{what}, {callers} callers: {ratio:.3} of {choice}, with {reason}");
}

#[test]
fn on_every_device_and_load_it_comes_close_to_the_best_pinned_choice() {
    for (name, device) in DEVICES {
        for callers in [1, 4, 16, 64, 256, 2048] {
            let mut world = auto(device, Arrivals::Closed(callers));
            world.run(world.seconds(20_000));
            assert_close_to_best(&mut world, callers, name);
        }
    }
}

#[test]
fn where_arrivals_set_the_pace_it_comes_close_to_the_best_latency() {
    for (name, device) in DEVICES {
        for rate in [0.5, 2.0, 20.0] {
            // In records for each flush of the fastest method.
            let arrivals = Arrivals::Open(rate / auto(device, Arrivals::Closed(1)).seconds(1));
            let run = |choice| {
                let mut world = pin(device, arrivals, choice);
                (world.mean_latency(world.seconds(20_000)), choice)
            };
            let (best, choice) = all().into_iter().map(run).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
            let mut world = auto(device, arrivals);
            world.run(world.seconds(40_000));
            let ratio = world.mean_latency(world.seconds(40_000)) / best;
            let reason = world.journal.tuner().reason();
            println!("{name}, {rate} a flush: {ratio:.3} of {choice}, with {reason}");
            // The way from a caller to the ring thread is not seen by the tuner, and fewer wake-ups shorten it.
            assert!(ratio <= 1.2, "{name}, {rate} a flush: {ratio:.3} of {choice}, with {reason}");
        }
    }
}

/// In the steady state no more than 1 % is lost to looking around (and as much again is left to chance).
#[test]
fn looking_around_costs_a_hundredth() {
    for (name, device) in DEVICES {
        let mut world = auto(device, Arrivals::Closed(16));
        world.run(world.seconds(40_000));
        let before = world.changes;
        let choice = world.journal.tuner().best();
        let auto = world.run(world.seconds(40_000));
        let mut pinned = pin(device, Arrivals::Closed(16), choice);
        let ratio = auto / pinned.run(pinned.seconds(40_000));
        println!("{name}: {ratio:.4} of {choice}");
        assert!(world.changes > before || ratio >= 0.98, "{name}: {ratio:.4} of {choice}");
    }
}

/// Looking around on a disk that takes tens of milliseconds for a flush is dear: it is saved up for, not given up.
#[test]
fn on_a_slow_disk_it_looks_around_too() {
    let slow = Device { us: [60_000.0, 20_000.0, 60_000.0, 60_000.0], crowding: 1.0, prior: Prior::default() };
    let mut world = auto(slow, Arrivals::Closed(1));
    world.run(1800.0);
    let reason = world.journal.tuner().reason();
    assert_eq!(world.journal.tuner().best().method, Method::DsyncWrite, "{reason}");
}

#[test]
fn it_follows_the_load() {
    let mut world = auto(VIRTIO, Arrivals::Closed(1));
    world.run(world.seconds(20_000));
    for callers in [256, 4, 2048, 1, 64] {
        world.set_callers(callers);
        world.run(world.seconds(12_000));
        assert_close_to_best(&mut world, callers, "after a change of load");
    }
    // What it learned of a load it keeps.
    world.set_callers(4);
    world.run(world.seconds(500));
    assert_close_to_best(&mut world, 4, "back to a known load");
}

#[test]
fn it_follows_a_disk_that_changes_its_mind() {
    let slower = Device { us: [16.0, 60.0, 17.7, 12.0], ..PROTECTED };
    let mut world = auto(PROTECTED, Arrivals::Closed(16));
    for (device, what) in [(PROTECTED, "before"), (slower, "after"), (PROTECTED, "after it changed back")] {
        world.device = device;
        world.run(world.seconds(100_000));
        // A flush shorter than the callers' way back: which cohorts they fall into, and stay in, is luck.
        assert_at_least(0.85, &mut world, 16, what);
        assert!(what != "after" || world.journal.tuner().best().method != Method::DsyncWrite);
    }
    println!("{} changes", world.changes);
    assert!(world.changes <= 24, "{} changes", world.changes);
}

#[test]
fn it_does_not_flap_between_equals() {
    let equal = Device { us: [100.0, 100.0, 100.0, 100.0], ..VIRTIO };
    for callers in [1, 16, 300] {
        let mut world = auto(equal, Arrivals::Closed(callers));
        world.run(5.0);
        world.changes = 0;
        world.run(30.0);
        println!("{callers} callers: {} changes in 30 s", world.changes);
        assert!(world.changes <= 3, "{callers} callers: {} changes in 30 s", world.changes);
    }
}

#[test]
fn what_is_pinned_stays() {
    let choice = Choice { method: Method::WriteThenFdatasync, depth: 3, gather: false, home: false };
    let mut world = pin(CONSUMER, Arrivals::Closed(16), choice);
    world.run(world.seconds(5_000));
    assert_eq!((world.journal.tuner().choice(), world.changes), (choice, 0));
    assert!(world.journal.tuner().reason().ends_with("pinned"));
    let method = Pins { method: Some(Method::DsyncWrite), ..Pins::default() };
    let mut world = World::new(CONSUMER, Arrivals::Closed(16), method, 3);
    for _ in 0..100 {
        world.run(world.seconds(100));
        assert_eq!(world.journal.tuner().choice().method, Method::DsyncWrite);
    }
}

/// A core of its own that others keep busy is left, one that suits is kept; also with everything else pinned.
#[test]
fn the_disks_core_is_kept_where_it_pays() {
    for (factor, stays) in [(0.7, true), (1.0, true), (1.5, false)] {
        for callers in [1, 16] {
            let mut world = auto(VIRTIO, Arrivals::Closed(callers)).at_home(factor);
            assert!(world.journal.tuner().best().home, "it begins there");
            world.run(world.seconds(20_000));
            let reason = world.journal.tuner().reason();
            assert_eq!(world.journal.tuner().best().home, stays, "{factor}, {callers} callers: {reason}");
        }
    }
    let choice = Choice { method: Method::DsyncWrite, depth: 2, gather: false, home: true };
    let mut world = pin(VIRTIO, Arrivals::Closed(16), choice).at_home(1.5);
    world.run(world.seconds(5_000));
    assert_eq!(world.journal.tuner().best(), choice.elsewhere());
}

#[test]
fn a_pinned_method_that_the_disk_lacks_gives_way_to_its_reference() {
    let pins = Pins { method: Some(Method::DsyncWrite), ..Pins::default() };
    let arms = Rules::new(&[Method::LinkedFdatasync, Method::Syscalls], pins, 4, true, Prior::default()).arms();
    assert!(arms.iter().all(|choice| choice.method == Method::LinkedFdatasync) && !arms.is_empty());
}

#[test]
fn nothing_blocks_a_thread_that_serves_several_logs() {
    let mut world = auto(VIRTIO, Arrivals::Closed(1));
    world.run(world.seconds(20_000));
    assert!(world.journal.tuner().best().blocks(), "else this test shows nothing");
    world.journal.tuner().permit_blocking(false);
    for _ in 0..200 {
        assert!(!world.journal.tuner().choice().blocks());
        world.run(world.seconds(100));
    }
    world.journal.tuner().permit_blocking(true);
    assert!(world.journal.tuner().best().blocks(), "what was known is still known");
}
