//! An opening's copies that go on in a second segment, whose first one is then truncated away: the chain begins with a
//! copy.

use std::time::Duration;

use ringwal::harness::{Life, Stray, batches, first_segment_bytes, judge};
use ringwal::sim::{Rot, Sim, SimOptions};
use ringwal::{Lsn, Options};

const BLOCK: u64 = 512;
/// A record of seven blocks: one finds room behind an opening in a segment of sixteen.
const LARGE: usize = 3000;
/// A record of fourteen blocks: none does.
const HUGE: usize = 7000;

/// The next segment that an opening prepares has so many blocks.
fn options(first_blocks: u64) -> Options {
    let options = Options::default().block_bytes(512).segment_bytes(64 * BLOCK).batch_bytes_max(512).flight_max(2);
    first_segment_bytes(options.depth(2), first_blocks * BLOCK)
}

/// Steps, disk and helper, until nothing is left to do.
fn settle(sim: &Sim, life: &mut Life) {
    for _ in 0..20 {
        life.step(Duration::from_millis(1));
        sim.tick_all();
        life.prepare();
    }
}

/// Two batches, each of one record of `len` bytes, were in flight in a long segment when the writer was killed; the
/// opening behind it begins a short one, in which not both find room. The log and the writer behind that opening.
fn spread(len: usize) -> (Sim, Life) {
    let sim = Sim::new(1, SimOptions::default());
    let mut life = Life::open(&sim, &options(64), 1).unwrap();
    for byte in [1, 2] {
        life.submit(&vec![byte; len]).unwrap();
    }
    life.step(Duration::ZERO);
    sim.tick_all();
    sim.kill();
    let mut life = Life::open(&sim, &options(16), 2).unwrap();
    assert_eq!(life.report().records_copied, 2);
    let copies: Vec<_> = batches(&sim).into_iter().filter(|batch| batch.kind == "copy").collect();
    assert_ne!(copies[0].name, copies[1].name, "both copies stand in one segment: {copies:?}");
    // The last of the short segments may be full.
    settle(&sim, &mut life);
    life.submit(&[3]).unwrap();
    settle(&sim, &mut life);
    (sim, life)
}

/// Truncates up to `first`, and kills the writer.
fn truncate(sim: &Sim, mut life: Life, first: u64) {
    life.recycle(Lsn::new(first));
    settle(sim, &mut life);
    sim.kill();
}

#[test]
fn a_chain_may_begin_with_a_copy_behind_what_was_truncated() {
    for (len, first) in [(LARGE, 2), (HUGE, 1), (HUGE, 2)] {
        let (sim, life) = spread(len);
        truncate(&sim, life, first);
        assert_eq!(batches(&sim)[0].kind, "copy");
        for whole in [false, true] {
            let verdict = judge(&sim, whole).unwrap();
            assert!(!verdict.damaged, "{len} from {first}: {verdict:?}");
            assert_eq!((verdict.first, verdict.last), (Lsn::new(first), Lsn::new(3)));
        }
        let records = Life::open(&sim, &options(16), 3).unwrap().read().unwrap();
        let expected = [vec![1; len], vec![2; len], vec![3]];
        let expected = (1..).map(Lsn::new).zip(expected).filter(|(lsn, _)| lsn.get() >= first);
        assert_eq!(records, expected.collect::<Vec<_>>());
    }
}

#[test]
fn a_chain_whose_opening_is_missing_without_a_truncation_is_damaged() {
    let (sim, _life) = spread(LARGE);
    sim.kill();
    sim.delete(&opening(&sim).name);
    for whole in [false, true] {
        assert_eq!(judge(&sim, whole).unwrap().label, "R4");
    }
}

#[test]
fn a_chain_whose_opening_stands_alone_and_is_spoilt_is_damaged() {
    let (sim, _life) = spread(HUGE);
    sim.kill();
    let opening = opening(&sim);
    assert!(sim.rot(&opening.name, opening.offset, BLOCK as usize, Rot::Garble));
    for whole in [false, true] {
        let verdict = judge(&sim, whole).unwrap();
        assert!(verdict.damaged, "{verdict:?}");
    }
}

fn opening(sim: &Sim) -> Stray {
    let first = batches(sim)[0].clone();
    assert_eq!(first.kind, "opening");
    first
}
