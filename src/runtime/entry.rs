//! What an appender brings to the stage.

use crate::disk::Buffer;
use crate::format::{BATCH_HEADER_BYTES, RECORD_HEADER_BYTES, RecordCrc, record, record_bytes};
use crate::lsn::Lsn;

/// What an appender brings.
#[derive(Debug)]
pub(crate) enum Entry<'a> {
    /// One record.
    Record(RecordCrc, &'a [u8]),
    /// Several, which share a batch.
    Group(&'a [(RecordCrc, &'a [u8])]),
    /// One that stands in a buffer of its own already, its payload behind the two headers' room.
    Large(RecordCrc, usize),
}

impl Entry<'_> {
    pub(super) fn records_bytes(&self) -> usize {
        match self {
            Self::Record(_, payload) => record_bytes(payload.len()),
            Self::Group(records) => records.iter().map(|(_, payload)| record_bytes(payload.len())).sum(),
            Self::Large(_, len) => record_bytes(*len),
        }
    }

    pub(super) fn count(&self) -> u32 {
        match self {
            Self::Group(records) => u32::try_from(records.len()).expect("a group is bounded by its bytes"),
            Self::Record(..) | Self::Large(..) => 1,
        }
    }

    /// The nonce of the epoch that its checksums are for; an empty group has none.
    pub(super) fn nonce(&self) -> Option<u64> {
        match self {
            Self::Record(crc, _) | Self::Large(crc, _) => Some(crc.nonce()),
            Self::Group(records) => records.first().map(|(crc, _)| crc.nonce()),
        }
    }

    /// Writes the records, of which the first has this LSN, to `out`, where they have their place. A large one stands there
    /// already, unless it is still in `own`. Returns the sum of their terms of the digest.
    pub(super) fn encode(&self, first: Lsn, own: Option<&Buffer>, out: &mut [u8]) -> u64 {
        match self {
            Self::Record(crc, payload) => record::encode(crc.clone(), first, payload, out),
            Self::Group(records) => {
                let (mut lsn, mut rest, mut terms) = (first, out, 0u64);
                for (crc, payload) in *records {
                    let (here, behind) = rest.split_at_mut(record_bytes(payload.len()));
                    terms = terms.wrapping_add(record::encode(crc.clone(), lsn, payload, here));
                    (lsn, rest) = (lsn.next(), behind);
                }
                terms
            }
            Self::Large(crc, len) => match own {
                Some(copy) => {
                    let payload = &copy[BATCH_HEADER_BYTES + RECORD_HEADER_BYTES..][..*len];
                    record::encode(crc.clone(), first, payload, out)
                }
                None => record::encode_header(crc.clone(), first, &mut out[..RECORD_HEADER_BYTES]),
            },
        }
    }
}
