//! The states in which a power cut can leave a disk whose writes and flushes were recorded.

use std::collections::HashSet;

use super::image::{Image, PAGE};
use super::logwrites::Entry;
use super::rig::Rng;

const SECTOR: usize = 512;

/// What a cut left. Everything in front of the last flush is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Acknowledged up to this entry is due: it is the next flush, and the cut may come right before it.
    pub(crate) position: u64,
    /// How many of the writes since the last flush there are: that many are there and no other, unless `torn`.
    pub(crate) writes: usize,
    /// Any part of the writes since the last flush is there, sector by sector.
    pub(crate) torn: bool,
}

/// Calls `look` with each different state that a cut between the entries `from` and `to` can leave: after every write,
/// and for every write behind the same flush with `torn` random choices of the sectors. Ends when `look` says false.
pub(crate) fn for_each_cut(
    base: &Image,
    entries: &[Entry],
    (from, to): (usize, usize),
    torn: usize,
    rng: &mut Rng,
    mut look: impl FnMut(&Image, Cut) -> bool,
) {
    let mut disk = base.clone();
    entries[..from].iter().for_each(|entry| disk.apply(entry));
    let mut at = from;
    while at < to {
        let end = entries[at..to].iter().position(|entry| entry.flush).map_or(to, |flush| at + flush);
        let window = &entries[at..end];
        let position = end as u64;
        let mut seen = HashSet::new();
        let flushed = disk.clone();
        for (writes, entry) in window.iter().enumerate() {
            seen.insert(prefix(window, writes));
            if !look(&disk, Cut { position, writes, torn: false }) {
                return;
            }
            disk.apply(entry);
        }
        // All of them is the next window's none, where more is due.
        seen.insert(prefix(window, window.len()));
        for _ in 0..torn * window.len() {
            let choice = choose(window, rng);
            if seen.insert(choice.clone()) {
                let image = tear(&flushed, window, &choice);
                if !look(&image, Cut { position, writes: window.len(), torn: true }) {
                    return;
                }
            }
        }
        at = end + 1;
    }
    look(&disk, Cut { position: to as u64, writes: 0, torn: false });
}

/// For each sector of the window's writes whether it is there: the first `writes` of them, whole.
fn prefix(window: &[Entry], writes: usize) -> Vec<bool> {
    let there = |(number, entry): (usize, &Entry)| vec![number < writes; entry.data.len().div_ceil(SECTOR)];
    window.iter().enumerate().flat_map(there).collect()
}

/// Each write is there, or not, or each of its sectors is there or not.
fn choose(window: &[Entry], rng: &mut Rng) -> Vec<bool> {
    let mut choice = Vec::new();
    for entry in window {
        let how = rng.below(3);
        for (number, page) in entry.data.chunks(PAGE).enumerate() {
            let piece = if is_atomic_to_its_file_system(entry.offset + number * PAGE, page) { PAGE } else { SECTOR };
            for part in page.chunks(piece) {
                let there = how == 1 || how == 2 && rng.one_in(2);
                choice.extend(std::iter::repeat_n(there, part.len().div_ceil(SECTOR)));
            }
        }
    }
    choice
}

fn tear(flushed: &Image, window: &[Entry], choice: &[bool]) -> Image {
    let mut image = flushed.clone();
    let mut there = choice.iter();
    for entry in window {
        for (number, sector) in entry.data.chunks(SECTOR).enumerate() {
            if there.next() == Some(&true) {
                image.write(entry.offset + number * SECTOR, sector);
            }
        }
    }
    image
}

/// What a file system takes for granted that it is written whole, or else it does not mount: its matter, not the log's.
/// The superblocks of ext4 and of its journal are two sectors each under one checksum. Blocks of directories and B-trees of
/// xfs are not replayed from its journal when their first sector says that they are newer.
fn is_atomic_to_its_file_system(offset: usize, page: &[u8]) -> bool {
    const XFS: [&[u8]; 10] = [b"XDB3", b"XDD3", b"XDF3", b"AB3B", b"AB3C", b"IAB3", b"FIB3", b"BMA3", b"RMB3", b"R3FC"];
    let journal = |kind| page.starts_with(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, kind]);
    offset == 0 || journal(3) || journal(4) || XFS.iter().any(|magic| page.starts_with(magic))
}
