//! A record's bytes, the same for every engine: ringwal's header and checksum.

use crate::format::{RECORD_HEADER_BYTES, RecordCrc, record};
use crate::lsn::{LogId, Lsn};

/// Baselines have no recovery: any id will do, the work is the same.
const LOG_ID: LogId = LogId::new(*b"ringwal baseline");
const NONCE: u64 = 1;

/// How many bytes a record of `payload` bytes takes.
pub(super) fn framed_bytes(payload: usize) -> usize {
    RECORD_HEADER_BYTES + payload
}

/// A record whose payload is checksummed already: what an appender does outside any lock.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    crc: RecordCrc,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { crc: RecordCrc::new(payload, LOG_ID, NONCE), payload }
    }

    /// How many bytes [`Frame::put`] writes.
    pub(super) fn len(&self) -> usize {
        framed_bytes(self.payload.len())
    }

    /// Writes the record at the start of `out`.
    pub(super) fn put(self, ordinal: u64, out: &mut [u8]) {
        let _digest_term = record::encode(self.crc, Lsn::new(ordinal), self.payload, out);
    }
}
