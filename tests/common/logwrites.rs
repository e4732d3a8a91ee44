//! The recorder's file: the format of dm-log-writes, as `blklogwrites` writes it. Every write to the disk, in order, with
//! the flushes between them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: usize = 512;
const FLAG_FLUSH: u64 = 1;
const FLAG_DISCARD: u64 = 4;

/// One entry.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// In bytes from the start of the disk.
    pub(crate) offset: usize,
    pub(crate) flush: bool,
    /// Empty for a flush, and for a discard, which may as well not have happened.
    pub(crate) data: Vec<u8>,
}

/// Reads all of it.
pub(crate) fn read(path: &Path) -> Vec<Entry> {
    let mut file = std::io::BufReader::new(File::open(path).unwrap());
    let mut sector = [0; SECTOR];
    file.read_exact(&mut sector).unwrap();
    assert_eq!(number(&sector, 0), MAGIC, "not a log of writes");
    let entries = number(&sector, 16);
    (0..entries)
        .map(|_| {
            file.read_exact(&mut sector).unwrap();
            let (at, sectors, flags) = (number(&sector, 0), number(&sector, 8), number(&sector, 16));
            let len = if flags & FLAG_DISCARD == 0 { usize::try_from(sectors).unwrap() * SECTOR } else { 0 };
            let mut data = vec![0; len];
            file.read_exact(&mut data).unwrap();
            Entry { offset: usize::try_from(at).unwrap() * SECTOR, flush: flags & FLAG_FLUSH != 0, data }
        })
        .collect()
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
