//! Writes the seeds that are committed: a few inputs for each target that mean something from the start.
//!
//! `RUSTFLAGS= cargo run --release --bin seeds` (without the flags of the targets: this is a plain program).

use std::fs;
use std::path::Path;

/// The first bytes of what [`ringwal_fuzz::directory`] reads: there are so many logs, and so many kinds of accidents.
const LOGS: u8 = 18;
const ACCIDENTS: u8 = 19;
const FORGERIES: u8 = 8;

fn main() -> std::io::Result<()> {
    let all: [(&str, Vec<Vec<u8>>); 6] = [
        ("record", records()),
        ("batch", batches()),
        ("segment", segments()),
        ("directory", directories()),
        ("recovery", recoveries()),
        ("shipping", connections()),
    ];
    for (target, seeds) in all {
        let dir = Path::new("seeds").join(target);
        fs::create_dir_all(&dir)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("{number:02}")), seed)?;
        }
    }
    Ok(())
}

/// A record without its checksum, which the targets put right.
fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).expect("short");
    [&[len, 0, 0, 0, kind, 0, 0, 0, 0, 0, 0, 0], payload].concat()
}

/// Choices, the first LSN, records: as they are; sealed; sealed and one bit flipped.
fn records() -> Vec<Vec<u8>> {
    let records = [record(1, b"a record"), record(1, b""), record(2, b"control"), record(1, &[9; 90])].concat();
    [0, 1, 3].map(|choices| [&[choices, 5], &records[..]].concat()).to_vec()
}

/// Choices, a number, header and records: everything put right, for each kind; padded; one bit flipped.
fn batches() -> Vec<Vec<u8>> {
    let batch = |choices: u8, kind: u8, records: &[u8]| {
        let mut header = vec![0; 144];
        (header[12], header[64], header[56]) = (kind, 7, 2);
        header[60] = u8::try_from(records.len()).expect("short");
        header[88] = 6;
        [&[choices, 3, 0], &header[..], records].concat()
    };
    let records = [record(1, b"a record"), record(1, &[9; 30])].concat();
    vec![batch(63, 0, b""), batch(63, 1, &records), batch(63, 2, &records), batch(63, 3, b""), batch(47, 2, &records)]
}

fn segments() -> Vec<Vec<u8>> {
    let mut block = vec![0; 62];
    block[13] = 2;
    (block[32], block[41]) = (1, 32);
    let slot = [&[0; 32][..], &[5, 0, 0, 0, 0, 0, 0, 0, 77]].concat();
    vec![
        [&[0x2c, 9], &block[..]].concat(),
        [&[0x3c, 9], &block[..]].concat(),
        [&[0x2e, 9], &slot[..]].concat(),
        b"\x0300000000000000ff.seg".to_vec(),
        b"\x0300000000000000ff.spare".to_vec(),
        b"\x03reader.cursor".to_vec(),
    ]
}

/// Each log as it is, and gone on with; then each accident and each forgery.
fn directories() -> Vec<Vec<u8>> {
    let logs = (0..LOGS).map(|log| vec![log, 2]);
    let accidents = (0..ACCIDENTS).map(|accident| vec![accident % LOGS, 0, accident, 0, 3, 1, 2, 1, 0]);
    let forgeries = (0..FORGERIES).map(|forgery| vec![3 + forgery, 3, 1, forgery, 0, 1, 0, 11, 2, 9]);
    logs.chain(accidents).chain(forgeries).collect()
}

/// Directories of one and two segments: an opening, data, a seal.
fn recoveries() -> Vec<Vec<u8>> {
    let block = |kind: u8| [4, kind, 0, 0].to_vec();
    let data = [&[4, 2, 0, 0, 1, 5, 65, 9, 66][..]].concat();
    let file = [&[4, 0][..], &[4, 4, 0, 0], &block(3), &data, &block(3), &[0, 0]].concat();
    let closed = [&[4, 0][..], &[4, 4, 0, 0], &block(3), &data, &[4, 11, 0, 0], &[0, 0]].concat();
    vec![
        [&[0][..], &file].concat(),
        [&[1][..], &closed].concat(),
        [&[1][..], &file, &file].concat(),
        [&[1][..], &file, &[4, 0, 4, 4, 0, 0, 0, 0]].concat(),
    ]
}

/// An honest session of each kind.
fn connections() -> Vec<Vec<u8>> {
    let source = [&[0, 0, 5][..], &[1, 0, 0, 0, 0, 0], &[2, 0, 0, 1, 5, 9, 7, 8, 0, 0], &[5, 1, 0, 0, 0, 0]].concat();
    let standby = [&[1, 0, 30][..], &[1, 3, 0, 0, 0, 0], &[2, 0, 0, 0, 0], &[3, 9, 0, 0, 0, 0]].concat();
    let turns: Vec<u8> = (0..12).flat_map(|_| [2, 255, 0, 255, 7, 9]).collect();
    let meddled = [&[2, 40, 0][..], &turns, &[4, 1, 0, 3, 0], &turns].concat();
    vec![source, standby, [&[2, 40, 0][..], &turns].concat(), meddled]
}
