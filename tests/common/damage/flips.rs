//! One bit after the other.

use super::bench::Bench;
use super::judgement::{Harm, Outcome, judge};
use super::subject::Subject;

pub(crate) const SECTOR_BYTES: usize = 512;

/// Where a sector is: its file, and its number in it.
#[derive(Clone, Debug)]
pub(crate) struct Sector {
    pub(crate) name: String,
    pub(crate) number: usize,
}

/// Every sector of every file.
pub(crate) fn sectors(subject: &Subject) -> Vec<Sector> {
    let of = |(name, bytes): (&String, &Vec<u8>)| {
        let name = name.clone();
        (0..bytes.len().div_ceil(SECTOR_BYTES)).map(move |number| Sector { name: name.clone(), number })
    };
    subject.files.iter().flat_map(of).collect()
}

/// Flips every bit of one sector, each on its own; `found` is told which, and what came of it.
pub(crate) fn every_bit_of(bench: &mut impl Bench, sector: &Sector, mut found: impl FnMut(usize, Outcome)) {
    let mut bytes = bench.subject().files[&sector.name].clone();
    let start = sector.number * SECTOR_BYTES;
    for bit in start * 8..bytes.len().min(start + SECTOR_BYTES) * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let change = [(sector.name.as_str(), Some(bytes.as_slice()))];
        let look = bench.look(&change);
        let subject = bench.subject();
        found(bit, judge(subject, &Harm::of(subject, &change), &look));
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}
