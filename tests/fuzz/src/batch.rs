//! A batch: its header, and the records behind it.
//!
//! Input: two bytes of choices, then the bytes from the header on. The choices say what is put right: the magic and the
//! identity, the checksums of the records, their count and digest, the checksum of the header.

use bytes::Bytes;
use ringwal::harness::fuzz::{Header, Judged, Place};
use ringwal::{LogId, SegmentId};

use crate::gauge::measure;
use crate::input::Input;
use crate::layout::{
    BATCH_MAGIC, BLOCK_INDEX, COUNT, DIGEST, FIRST, HEADER, KIND, LINK_SEGMENT, LOG_ID, NONCE, Owner, RECORDS_BYTES,
    SEGMENT_ID, VERSION, seal_header, seal_records,
};
use crate::record;

const SEGMENT: u64 = 3;
const BLOCK: u32 = 2;

/// Decodes; a valid batch is one, byte for byte, and no flipped bit goes unseen.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (choices, more) = (input.byte(), input.short());
    let block_bytes = [512, 512, 1024, 4096][usize::from(choices >> 6)];
    let mut bytes = input.rest().to_vec();
    if bytes.len() < HEADER {
        assert!(!matches!(decode(&bytes), Judged::Valid(_)), "A3: half a header is valid");
        return;
    }
    repair(&mut bytes, choices);
    if choices & 16 == 16 {
        let padding = bytes.len().next_multiple_of(block_bytes as usize);
        bytes.resize(padding, 0);
    }
    let (judged, used) = measure(|| decode(&bytes));
    assert_eq!(used.largest, 0, "A10: decoding a header allocates");
    let Judged::Valid((header, crc)) = judged else { return };
    encodes_again(&header, crc, &bytes);
    let (whole, used) = measure(|| header.check(&bytes, block_bytes));
    assert_eq!(used.largest, 0, "A10: checking a batch allocates");
    let end = header.bytes(block_bytes);
    assert!(end >= HEADER && end.is_multiple_of(block_bytes as usize), "A8: a batch of {end} bytes");
    hold(&header, &bytes, whole);
    if whole && choices & 32 == 32 {
        flip(&mut bytes[..end], usize::from(more), block_bytes);
    }
}

fn decode(bytes: &[u8]) -> Judged<(Header, u32)> {
    let place = Place { log_id: LogId::new(record::LOG_ID), segment: SegmentId::new(SEGMENT), block: BLOCK };
    Header::decode(bytes, place)
}

/// Puts right what the choices ask for.
fn repair(bytes: &mut [u8], choices: u8) {
    if choices & 1 == 1 {
        bytes[..8].copy_from_slice(BATCH_MAGIC);
        bytes[LOG_ID.0..][..16].copy_from_slice(&record::LOG_ID);
        VERSION.set(bytes, 1);
        SEGMENT_ID.set(bytes, SEGMENT);
        BLOCK_INDEX.set(bytes, BLOCK.into());
        // A kind that is one, reserved bytes that are, a link that leads back.
        bytes[KIND.0] = bytes[KIND.0] % 4 + 1;
        [14, 76, 136].into_iter().for_each(|at| bytes[at..at + 2].fill(0));
        [78, 138].into_iter().for_each(|at| bytes[at..at + 2].fill(0));
        let link = LINK_SEGMENT.get(bytes) % SEGMENT;
        LINK_SEGMENT.set(bytes, link);
    }
    if choices & 2 == 2 {
        let owner = owner(bytes);
        let claimed = usize::try_from(RECORDS_BYTES.get(bytes)).unwrap_or(usize::MAX);
        let end = HEADER.saturating_add(claimed).min(bytes.len());
        let (count, digest, covered) = seal_records(&mut bytes[HEADER..end], owner);
        if choices & 4 == 4 {
            RECORDS_BYTES.set(bytes, covered as u64);
            COUNT.set(bytes, count.into());
            DIGEST.set(bytes, digest);
            bytes[HEADER + covered..].fill(0);
        }
    }
    if choices & 8 == 8 {
        seal_header(bytes);
    }
}

fn owner(bytes: &[u8]) -> Owner {
    Owner { log_id: record::LOG_ID, nonce: NONCE.get(bytes), first: FIRST.get(bytes) }
}

fn encodes_again(header: &Header, crc: u32, bytes: &[u8]) {
    let mut again = [0; HEADER];
    let crc_again = header.encode(&mut again);
    // Without a segment a link is none, whatever else stands there.
    if LINK_SEGMENT.get(bytes) != 0 {
        assert_eq!(crc_again, crc, "A3: a header encodes to another CRC");
        assert_eq!(again, bytes[..HEADER], "A3: a header encodes to other bytes");
    }
}

/// Takes the records out as a reader does: those of a batch that was checked are the ones that decode.
fn hold(header: &Header, bytes: &[u8], whole: bool) {
    let shared = Bytes::copy_from_slice(bytes);
    if !whole {
        // Who holds a batch has checked it. All the same it must not fall over.
        assert!(header.held(&shared, header.first()).count() <= bytes.len(), "A10: records without end");
        return;
    }
    let owner = Owner { log_id: record::LOG_ID, nonce: header.nonce(), first: header.first().get() };
    let stored = &bytes[HEADER..HEADER + usize::try_from(RECORDS_BYTES.get(bytes)).unwrap_or(0)];
    assert_eq!(record::check(stored, owner), stored.len(), "A8: a batch that was checked does not decode");
    if header.first().get().checked_add(header.count().into()).is_none() {
        // At the end of all LSNs records cannot be told apart.
        return;
    }
    record::same_as_held(stored, owner, header.held(&shared, header.first()));
    let count = header.held(&shared, header.first()).count();
    assert_eq!(count, header.count() as usize, "A2: another number of records than the header says");
    let behind = header.last().next();
    assert_eq!(header.held(&shared, behind).count(), 0, "A3: a record behind the last");
}

/// A batch that was whole is not, with one bit flipped.
fn flip(batch: &mut [u8], drawn: usize, block_bytes: u32) {
    let at = drawn * 13 % (batch.len() * 8);
    batch[at / 8] ^= 1 << (at % 8);
    let whole = matches!(decode(batch), Judged::Valid((header, _)) if header.check(batch, block_bytes));
    assert!(!whole, "A8: a flipped bit is not seen");
}
