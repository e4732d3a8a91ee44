//! Damage: what is damaged is told or harms nothing, on the simulated disk and on real files. The rigs `damage-...` of the
//! proof do all of what is done here a little of.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod damage;
    pub(crate) mod rig;
}

use std::collections::BTreeMap;

use common::damage::blocks::{Damages, PARTS};
use common::damage::flips::{every_bit_of, sectors};
use common::damage::judgement::Outcome;
use common::damage::subject::{Shape, Subject};
use common::rig::{Rng, say};

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

#[test]
fn flipped_bits_are_told_or_harm_nothing() {
    let mut rng = Rng::new(Rng::seed());
    let mut counts = Counts::default();
    for number in 0..4 {
        let subject = Subject::make(number, Shape::of(number));
        let sectors = sectors(&subject);
        for _ in 0..4 {
            let sector = &sectors[usize::try_from(rng.below(sectors.len() as u64)).unwrap()];
            every_bit_of(&subject, sector, |bit, outcome| {
                counts.take("flip", &outcome, || format!("log {number}, bit {bit} of {}", sector.name));
            });
        }
    }
    counts.tell("flipped bits", &["detected by verify and reading", "harmless"]);
}

#[test]
fn what_stands_in_a_wrong_place_is_told_or_harms_nothing() {
    let mut rng = Rng::new(Rng::seed());
    let mut counts = Counts::default();
    for number in 0..4 {
        let subject = Subject::make(number, Shape::of(number));
        let other = Subject::make(number + 12, subject.shape).files;
        for part in (0..6).map(|_| rng.below(PARTS)) {
            let mut found = |damage: &common::damage::blocks::Damage, outcome: Outcome| {
                counts.take(damage.kind, &outcome, || format!("log {number}, part {part}: {:?}", damage.files.keys()));
            };
            Damages::new(&subject, &other, part, &mut found).do_all();
        }
    }
    counts.tell("blocks and files", &["detected at opening", "detected by verify and reading", "harmless"]);
}
