//! A record: 12 bytes of header, then the payload.

use std::ops::Range;

use super::{RECORD_HEADER_BYTES, after, field, get_u32, put, record_bytes};
use crate::lsn::{LogId, Lsn};
use crate::seeded;

const LENGTH: Range<usize> = 0..4;
const KIND: Range<usize> = after(&LENGTH, 1);
const RESERVED: Range<usize> = after(&KIND, 3);
const CRC: Range<usize> = after(&RESERVED, 4);

const _: () = assert!(CRC.end == RECORD_HEADER_BYTES);

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// The user's: takes the next LSN.
    User,
    /// Ours: takes no LSN, and readers pass over it.
    Control,
}

impl RecordKind {
    const fn byte(self) -> u8 {
        match self {
            Self::User => 1,
            Self::Control => 2,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::User),
            2 => Some(Self::Control),
            _ => None,
        }
    }
}

/// A record's CRC before its LSN is known: the part that its appender does on its own core, outside any lock.
#[derive(Clone, Debug)]
pub(crate) struct RecordCrc {
    length: u32,
    kind: RecordKind,
    nonce: u64,
    hasher: crc32fast::Hasher,
}

impl RecordCrc {
    /// Starts the CRC of a user record.
    ///
    /// # Panics
    /// If the payload is over 4 GiB: bounded by `record_bytes_max` long before.
    pub(crate) fn new(payload: &[u8], log_id: LogId, nonce: u64) -> Self {
        Self::of_kind(RecordKind::User, payload, log_id, nonce)
    }

    pub(crate) fn of_kind(kind: RecordKind, payload: &[u8], log_id: LogId, nonce: u64) -> Self {
        let length = u32::try_from(payload.len()).expect("a payload is bounded by record_bytes_max");
        // One update for the whole suffix: short ones are slow.
        let mut suffix = [0; 29];
        suffix[..4].copy_from_slice(&length.to_le_bytes());
        suffix[4] = kind.byte();
        suffix[5..21].copy_from_slice(&log_id.bytes());
        suffix[21..].copy_from_slice(&nonce.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new();
        // The payload stands for its length too: a wrong length takes in other bytes. So the seeded bug drops both.
        if seeded::is("m9") {
            suffix[..4].fill(0);
        } else {
            hasher.update(payload);
        }
        hasher.update(&suffix);
        Self { length, kind, nonce, hasher }
    }

    /// The nonce that it is for.
    pub(crate) fn nonce(&self) -> u64 {
        self.nonce
    }

    fn finish(mut self, lsn: Lsn) -> u32 {
        self.hasher.update(&lsn.get().to_le_bytes());
        self.hasher.finalize()
    }
}

/// Writes the header of a record whose payload stands, or will stand, behind it. Returns its term of the digest.
pub(crate) fn encode_header(crc: RecordCrc, lsn: Lsn, out: &mut [u8]) -> u64 {
    let (length, kind) = (crc.length, crc.kind);
    let crc = crc.finish(lsn);
    put(out, LENGTH, &length.to_le_bytes());
    out[KIND.start] = kind.byte();
    out[RESERVED].fill(0);
    put(out, CRC, &crc.to_le_bytes());
    mix(lsn, length, crc)
}

/// Writes a whole record at the start of `out`. Returns its term of the digest.
///
/// # Panics
/// If `out` is shorter than the record.
pub(crate) fn encode(crc: RecordCrc, lsn: Lsn, payload: &[u8], out: &mut [u8]) -> u64 {
    let (header, rest) = out.split_at_mut(RECORD_HEADER_BYTES);
    rest[..payload.len()].copy_from_slice(payload);
    encode_header(crc, lsn, header)
}

/// A record's term of the batch digest: SplitMix64's finaliser over its LSN, length and CRC.
pub(crate) fn mix(lsn: Lsn, length: u32, crc: u32) -> u64 {
    let mut x = lsn.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(length) << 32 | u64::from(crc));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A decoded record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordRef<'a> {
    pub(crate) kind: RecordKind,
    /// Its LSN; for a control record, that of the next user record.
    pub(crate) lsn: Lsn,
    pub(crate) payload: &'a [u8],
    /// Its term of the digest.
    pub(crate) mixed: u64,
}

/// The kind and the length, header included, of the record at the start of `bytes`, if there is one. Checks neither.
pub(super) fn peek(bytes: &[u8]) -> Option<(RecordKind, usize)> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let end = record_bytes(usize::try_from(get_u32(header, LENGTH)).ok()?);
    (end <= bytes.len()).then_some((RecordKind::from_byte(header[KIND.start])?, end))
}

/// Walks the records of a batch, checking each. Ends with `Some(Err(()))` at the first that is not whole.
#[derive(Clone, Debug)]
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    next: Lsn,
    log_id: LogId,
    nonce: u64,
}

impl<'a> Records<'a> {
    /// The records in `bytes`, which hold nothing else.
    pub(crate) fn new(bytes: &'a [u8], first: Lsn, log_id: LogId, nonce: u64) -> Self {
        Self { bytes, next: first, log_id, nonce }
    }

    fn decode(&mut self) -> Option<RecordRef<'a>> {
        let header = self.bytes.get(..RECORD_HEADER_BYTES)?;
        let length = get_u32(header, LENGTH);
        let kind = RecordKind::from_byte(header[KIND.start])?;
        let end = record_bytes(usize::try_from(length).ok()?);
        let payload = self.bytes.get(RECORD_HEADER_BYTES..end)?;
        let lsn = self.next;
        let crc = RecordCrc::of_kind(kind, payload, self.log_id, self.nonce).finish(lsn);
        if field(header, RESERVED) != [0; 3] || get_u32(header, CRC) != crc {
            return None;
        }
        self.bytes = &self.bytes[end..];
        if kind == RecordKind::User {
            self.next = lsn.next();
        }
        Some(RecordRef { kind, lsn, payload, mixed: mix(lsn, length, crc) })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordRef<'a>, ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let record = self.decode().ok_or(());
        if record.is_err() {
            self.bytes = &[];
        }
        Some(record)
    }
}
