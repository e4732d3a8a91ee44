//! What the benches need of the inside: the codec. No promise, no stability.

use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, Kind, RECORD_HEADER_BYTES, RecordCrc, Verdict, batch_bytes, record,
};
use crate::lsn::{Epoch, LogId, Lsn, SegmentId};

const LOG_ID: LogId = LogId::new(*b"ringwal codec 01");
const NONCE: u64 = 1;
const SEGMENT: SegmentId = SegmentId::new(1);
const BLOCK: u32 = 1;
const BLOCK_BYTES: u32 = 4096;

/// How many bytes a record of `payload` bytes takes.
#[must_use]
pub fn record_bytes(payload: usize) -> usize {
    RECORD_HEADER_BYTES + payload
}

/// Checksums a record and writes it at the start of `out`: an appender's share of the work. Returns its digest term.
///
/// # Panics
/// If `out` is shorter than the record.
#[must_use]
pub fn encode_record(lsn: u64, payload: &[u8], out: &mut [u8]) -> u64 {
    record::encode(RecordCrc::new(payload, LOG_ID, NONCE), Lsn::new(lsn), payload, out)
}

/// A data batch of `count` such records, from LSN 1 on, padded to blocks.
///
/// # Panics
/// If it is over 4 GiB.
#[must_use]
pub fn encode_batch(payload: &[u8], count: u32) -> Vec<u8> {
    let records_bytes = record_bytes(payload.len()) * count as usize;
    let mut bytes = vec![0; batch_bytes(records_bytes, BLOCK_BYTES)];
    let records = bytes[BATCH_HEADER_BYTES..].chunks_exact_mut(record_bytes(payload.len())).take(count as usize);
    let digest = (1..).zip(records).fold(0u64, |sum, (lsn, out)| sum.wrapping_add(encode_record(lsn, payload, out)));
    let header = BatchHeader {
        kind: Kind::Data,
        cut: false,
        close: false,
        log_id: LOG_ID,
        epoch: Epoch::new(1),
        nonce: NONCE,
        segment: SEGMENT,
        block: BLOCK,
        records_bytes: u32::try_from(records_bytes).expect("a batch is bounded by 4 GiB"),
        first: Lsn::FIRST,
        count,
        digest,
        durable: Lsn::ZERO,
        trim: Lsn::FIRST,
        restated_to: Lsn::ZERO,
        term: 0,
        link: None,
    };
    let _link_crc = header.encode(&mut bytes);
    bytes
}

/// Checks a batch as recovery does: header, every record, digest, padding. Returns the number of records, or none if
/// anything is wrong.
#[must_use]
pub fn decode_batch(bytes: &[u8]) -> Option<u32> {
    match BatchHeader::decode(bytes, LOG_ID, SEGMENT, BLOCK) {
        Verdict::Valid((header, _)) if header.check(bytes, BLOCK_BYTES) => Some(header.count),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_benches_encode_is_valid_and_a_flipped_bit_is_not() {
        let mut bytes = encode_batch(b"payload", 100);
        assert_eq!(decode_batch(&bytes), Some(100));
        bytes[BATCH_HEADER_BYTES + RECORD_HEADER_BYTES] ^= 1;
        assert_eq!(decode_batch(&bytes), None);
    }
}
