//! One bit after the other, on the simulated disk.

use super::judgement::{Harm, Outcome, judge};
use super::look::Look;
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
pub(crate) fn every_bit_of(subject: &Subject, sector: &Sector, mut found: impl FnMut(usize, Outcome)) {
    let mut bytes = subject.files[&sector.name].clone();
    let start = sector.number * SECTOR_BYTES;
    for bit in start * 8..bytes.len().min(start + SECTOR_BYTES) * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        subject.sim.restore(&subject.snapshot);
        subject.sim.put(&sector.name, &bytes);
        let harm = Harm::of(subject, &[(&sector.name, Some(&bytes))]);
        found(bit, judge(subject, &harm, &Look::at_sim(subject)));
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}
