//! A narrow door to the decoders, for the fuzz targets: bytes in, what they say out, and back again.

use bytes::Bytes;

use crate::format::segment::{Name, cursor_name, parse_name, segment_name, spare_name};
use crate::format::{
    BatchHeader, CursorSlot, HeldBatch, RecordCrc, RecordKind, SegmentHeader, Verdict, record, segment,
};
use crate::lsn::{LogId, Lsn, SegmentId};

/// Where bytes were read from, as far as decoding compares it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The log.
    pub log_id: LogId,
    /// The segment.
    pub segment: SegmentId,
    /// The block in it.
    pub block: u32,
}

/// What some bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged<T> {
    /// Whole, and of their place.
    Valid(T),
    /// All zero.
    Zero,
    /// Of another place: so many bytes of records stand behind it.
    Stale(u32),
    /// Nothing.
    Bad,
    /// Of a format that is not known.
    Newer(u32),
}

impl<T> From<Verdict<T>> for Judged<T> {
    fn from(verdict: Verdict<T>) -> Self {
        match verdict {
            Verdict::Valid(found) => Self::Valid(found),
            Verdict::Zero => Self::Zero,
            Verdict::Stale(bytes) => Self::Stale(bytes),
            Verdict::Bad => Self::Bad,
            Verdict::Newer(version) => Self::Newer(version),
        }
    }
}

impl<T> Judged<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Judged<U> {
        match self {
            Self::Valid(found) => Judged::Valid(change(found)),
            Self::Zero => Judged::Zero,
            Self::Stale(bytes) => Judged::Stale(bytes),
            Self::Bad => Judged::Bad,
            Self::Newer(version) => Judged::Newer(version),
        }
    }
}

/// A record that decoding took for whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The user's; else a control record.
    pub user: bool,
    /// Its LSN.
    pub lsn: Lsn,
    /// Its payload.
    pub payload: &'a [u8],
    /// Its term of the digest.
    pub mixed: u64,
}

/// The records in `bytes`, as in a batch whose first is `first`; ends with an error at what is none.
pub fn records(bytes: &[u8], first: Lsn, log_id: LogId, nonce: u64) -> impl Iterator<Item = Result<Decoded<'_>, ()>> {
    record::Records::new(bytes, first, log_id, nonce).map(|record| {
        record.map(|record| {
            let user = record.kind == RecordKind::User;
            Decoded { user, lsn: record.lsn, payload: record.payload, mixed: record.mixed }
        })
    })
}

/// Writes a record at the start of `out`. Returns its term of the digest.
///
/// # Panics
/// If `out` is shorter than the record.
pub fn encode_record(record: &Decoded<'_>, log_id: LogId, nonce: u64, out: &mut [u8]) -> u64 {
    let kind = if record.user { RecordKind::User } else { RecordKind::Control };
    record::encode(RecordCrc::of_kind(kind, record.payload, log_id, nonce), record.lsn, record.payload, out)
}

/// A batch header that decoding took for whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header(BatchHeader);

impl Header {
    /// What stands at the start of `block`, which was read from `place`; and the CRC by which others link to it.
    #[must_use]
    pub fn decode(block: &[u8], place: Place) -> Judged<(Self, u32)> {
        let verdict = BatchHeader::decode(block, place.log_id, place.segment, place.block);
        Judged::from(verdict).map(|(header, crc)| (Self(header), crc))
    }

    /// Writes it at the start of `out`; returns its CRC.
    ///
    /// # Panics
    /// If `out` is shorter than a header.
    pub fn encode(&self, out: &mut [u8]) -> u32 {
        self.0.encode(out)
    }

    /// Whether the batch that begins at the start of `bytes` is what this header says.
    #[must_use]
    pub fn check(&self, bytes: &[u8], block_bytes: u32) -> bool {
        self.0.check(bytes, block_bytes)
    }

    /// Its first record.
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.0.first
    }

    /// Its last record; the one before the first, if it has none.
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.0.last()
    }

    /// How many user records it has.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// The nonce of its epoch.
    #[must_use]
    pub fn nonce(&self) -> u64 {
        self.0.nonce
    }

    /// Its length on disk, in bytes.
    #[must_use]
    pub fn bytes(&self, block_bytes: u32) -> usize {
        self.0.bytes(block_bytes)
    }

    /// The user records from `from` on of the batch that begins at the start of `bytes`, none of them checked.
    pub fn held(&self, bytes: &Bytes, from: Lsn) -> impl Iterator<Item = (Lsn, Bytes)> {
        HeldBatch::new(self.0, bytes).records_from(from)
    }
}

/// A static block that decoding took for whole: writes it again, in `out`, and tells the block size.
#[must_use]
pub fn segment_header(block: &[u8], out: &mut Vec<u8>) -> Judged<u32> {
    Judged::from(SegmentHeader::decode(block)).map(|header| {
        out.clear();
        out.resize(header.block_bytes as usize, 0);
        header.encode(out);
        header.block_bytes
    })
}

/// A slot of a cursor's file that decoding took for whole: writes it again, as long as it was, in `out`.
#[must_use]
pub fn cursor_slot(block: &[u8], out: &mut Vec<u8>) -> Judged<()> {
    Judged::from(CursorSlot::decode(block)).map(|slot| {
        out.clear();
        out.resize(block.len(), 0);
        slot.encode(out);
    })
}

/// What a file's name says, written as a name again; none if it says nothing.
#[must_use]
pub fn file_name(name: &str) -> Option<String> {
    match parse_name(name) {
        Name::Segment(id) => Some(segment_name(id)),
        Name::Spare(number) => Some(spare_name(number)),
        Name::Cursor(name) => cursor_name(&name),
        Name::Lock => Some(segment::LOCK_NAME.to_owned()),
        Name::Standby => Some(segment::STANDBY_NAME.to_owned()),
        Name::Unknown => None,
    }
}
