//! Damage: what is damaged is told or harms nothing, on the simulated disk and on real files. The rigs `damage-...` of the
//! proof do all of what is done here a little of.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod damage;
    pub(crate) mod rig;
}

use std::collections::BTreeMap;

use common::damage::bench::{Bench, OnFiles, OnSim};
use common::damage::blocks::{Damage, Damages, PARTS};
use common::damage::entries::{every_lock, every_oddity};
use common::damage::flips::{every_bit_of, sectors};
use common::damage::judgement::Outcome;
use common::damage::subject::Subject;
use common::rig::{Rng, Scratch, say};

/// What came of what, how often. Fails on a violation.
#[derive(Default)]
struct Counts(BTreeMap<String, u64>);

impl Counts {
    fn take(&mut self, kind: &str, outcome: &Outcome, what: impl Fn() -> String) {
        if let Outcome::Violation(assertion, text) = outcome {
            panic!("{assertion}: {kind}, {}: {text}", what());
        }
        *self.0.entry(outcome.word().to_owned()).or_default() += 1;
    }

    /// Says it all, and that each of these was met.
    fn tell(&self, what: &str, expected: &[&str]) {
        say(&format!("damage: {what}: {:?}", self.0));
        assert!(expected.iter().all(|word| self.0.contains_key(*word)), "not all of {expected:?} were met");
    }
}

/// Random numbers whose seed is told.
fn seeded() -> Rng {
    let seed = Rng::seed();
    say(&format!("damage: RINGWAL_SEED={seed}"));
    Rng::new(seed)
}

#[test]
fn flipped_bits_are_told_or_harm_nothing() {
    let (mut rng, mut counts) = (seeded(), Counts::default());
    for number in 0..4 {
        flip_sectors(&mut OnSim::make(number), 4, &mut rng, &mut counts);
    }
    counts.tell("flipped bits", &["detected by verify and reading", "harmless"]);
}

/// Every bit of so many sectors.
fn flip_sectors(bench: &mut impl Bench, count: usize, rng: &mut Rng, counts: &mut Counts) {
    let sectors = sectors(bench.subject());
    for _ in 0..count {
        let sector = &sectors[usize::try_from(rng.below(sectors.len() as u64)).unwrap()];
        every_bit_of(bench, sector, |bit, outcome| {
            counts.take("flip", &outcome, || format!("bit {bit} of {}", sector.name));
        });
    }
}

#[test]
fn what_stands_in_a_wrong_place_is_told_or_harms_nothing() {
    let (mut rng, mut counts) = (seeded(), Counts::default());
    for number in 0..4 {
        displace(&mut OnSim::make(number), number, 6, &mut rng, &mut counts);
    }
    counts.tell("blocks and files", &["detected at opening", "detected by verify and reading", "harmless"]);
}

/// So many parts of all that is done to blocks, files and names.
fn displace(bench: &mut impl Bench, number: u64, parts: usize, rng: &mut Rng, counts: &mut Counts) {
    let (other, _) = Subject::make(number + 12, bench.subject().shape);
    for part in (0..parts).map(|_| rng.below(PARTS)) {
        let mut found = |damage: &Damage, outcome: Outcome| {
            counts.take(damage.kind, &outcome, || format!("log {number}, part {part}: {:?}", damage.files.keys()));
        };
        Damages::new(bench, &other.files, part, &mut found).do_all();
    }
}

#[test]
fn on_real_files_it_is_the_same() {
    let (mut rng, mut counts) = (seeded(), Counts::default());
    let scratch = Scratch::in_memory("damage-test").unwrap_or_else(|| Scratch::new("damage"));
    let mut bench = OnFiles::make(1, &scratch.join("log"));
    flip_sectors(&mut bench, 1, &mut rng, &mut counts);
    displace(&mut bench, 1, 1, &mut rng, &mut counts);
    let (other, _) = Subject::make(13, bench.subject().shape);
    let mut found = |damage: &Damage, outcome: Outcome| {
        counts.take(damage.kind, &outcome, || format!("{:?}", damage.files.keys()));
    };
    Damages::new(&mut bench, &other.files, 0, &mut found).do_files();
    every_lock(&mut bench, |what, outcome| counts.take(what, &outcome, String::new));
    counts.tell("real files", &["detected at opening", "harmless"]);
}

#[test]
fn odd_things_under_our_names_are_refused() {
    let mut counts = Counts::default();
    let scratch = Scratch::new("odd");
    let bench = OnFiles::make(1, &scratch.join("log"));
    every_oddity(&bench, |what, outcome| counts.take(what, &outcome, String::new));
    counts.tell("odd entries", &["detected: refused as odd", "harmless"]);
}
