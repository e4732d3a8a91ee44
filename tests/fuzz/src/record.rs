//! Records, one behind the other, as in a batch.
//!
//! Input: a byte of choices, the first LSN, then the records.

use bytes::Bytes;
use ringwal::harness::fuzz::{Decoded, encode_record, records};
use ringwal::{LogId, Lsn};

use crate::gauge::measure;
use crate::input::Input;
use crate::layout::{Owner, RECORD_HEADER, seal_records};

/// The log that all records here belong to.
pub(crate) const LOG_ID: [u8; 16] = *b"ringwal-fuzz-log";
const NONCE: u64 = 0x0123_4567_89ab_cdef;

/// Decodes; what is taken for a record is one, byte for byte, and whole records are taken.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (choices, first) = (input.byte(), input.long());
    let mut bytes = input.rest().to_vec();
    let owner = Owner { log_id: LOG_ID, nonce: NONCE, first };
    if choices & 1 == 1 {
        let (_, _, sealed) = seal_records(&mut bytes, owner);
        if sealed == bytes.len() && headers_are_plain(&bytes) {
            let whole = decoded(&bytes, owner).all(|record| record.is_ok());
            assert!(whole, "A8: whole records are refused");
        }
    }
    check(&bytes, owner);
    if choices & 2 == 2 && !bytes.is_empty() {
        flip(&mut bytes, usize::from(choices >> 2), owner);
    }
}

/// What decodes is dense, lies where it should, and encodes to the same bytes. Returns how many bytes decode.
pub(crate) fn check(bytes: &[u8], owner: Owner) -> usize {
    let (log_id, nonce) = (LogId::new(owner.log_id), owner.nonce);
    let (counted, used) = measure(|| decoded(bytes, owner).take_while(Result::is_ok).count());
    assert_eq!(used.largest, 0, "A10: decoding records allocates");
    let (mut at, mut lsn, mut again) = (0, Lsn::new(owner.first), Vec::new());
    for record in decoded(bytes, owner).map_while(Result::ok) {
        assert_eq!(record.lsn, lsn, "A2: records are not dense");
        let end = at + RECORD_HEADER + record.payload.len();
        again.clear();
        again.resize(end - at, 0);
        let mixed = encode_record(&record, log_id, nonce, &mut again);
        assert_eq!(again, bytes[at..end], "A3: another record than the bytes");
        assert_eq!(mixed, record.mixed, "A3: another digest than the bytes");
        at = end;
        lsn = if record.user { lsn.next() } else { lsn };
    }
    let mut left = decoded(bytes, owner).skip(counted);
    assert!(at == bytes.len() || left.next() == Some(Err(())), "A8: an end that is none");
    assert_eq!(left.next(), None, "A10: records behind the last");
    at
}

/// No record survives the flip of one of its bits.
fn flip(bytes: &mut [u8], drawn: usize, owner: Owner) {
    let whole = check(bytes, owner);
    if whole == 0 {
        return;
    }
    let at = drawn * 7 % (whole * 8);
    bytes[at / 8] ^= 1 << (at % 8);
    assert!(check(bytes, owner) <= at / 8, "A8: a flipped bit is not seen");
}

fn decoded(bytes: &[u8], owner: Owner) -> impl Iterator<Item = Result<Decoded<'_>, ()>> {
    records(bytes, Lsn::new(owner.first), LogId::new(owner.log_id), owner.nonce)
}

/// Whether every header says only what it may.
fn headers_are_plain(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + RECORD_HEADER) {
        if !matches!(header[4], 1 | 2) || header[5..8] != [0; 3] {
            return false;
        }
        at += RECORD_HEADER + u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    }
    true
}

/// The user records that `held` gives out unchecked are those that decode.
pub(crate) fn same_as_held(bytes: &[u8], owner: Owner, held: impl Iterator<Item = (Lsn, Bytes)>) {
    let mut users = decoded(bytes, owner).map_while(Result::ok).filter(|record| record.user);
    for (lsn, payload) in held {
        let same = users.next().is_some_and(|record| record.lsn == lsn && record.payload == payload);
        assert!(same, "A3: a batch in memory gives out another record");
    }
    assert!(users.next().is_none(), "A1: a batch in memory keeps a record back");
}
