//! A batch: what shares one write and one flush.

use std::ops::Range;

use super::record::Records;
use super::{
    BATCH_HEADER_BYTES, RecordKind, VERSION, Verdict, after, batch_bytes, field, get_u32, get_u64, is_zero, put,
};
use crate::lsn::{Epoch, LogId, Lsn, SegmentId};
use crate::seeded;

const MAGIC_BYTES: [u8; 8] = *b"RWALBTCH";

const MAGIC: Range<usize> = 0..8;
const FORMAT_VERSION: Range<usize> = after(&MAGIC, 4);
const KIND: Range<usize> = after(&FORMAT_VERSION, 1);
const FLAGS: Range<usize> = after(&KIND, 1);
const RESERVED_A: Range<usize> = after(&FLAGS, 2);
const LOG_ID: Range<usize> = after(&RESERVED_A, 16);
const EPOCH: Range<usize> = after(&LOG_ID, 8);
const NONCE: Range<usize> = after(&EPOCH, 8);
const SEGMENT_ID: Range<usize> = after(&NONCE, 8);
const BLOCK: Range<usize> = after(&SEGMENT_ID, 4);
const RECORDS_BYTES: Range<usize> = after(&BLOCK, 4);
const FIRST: Range<usize> = after(&RECORDS_BYTES, 8);
const COUNT: Range<usize> = after(&FIRST, 4);
const RESERVED_B: Range<usize> = after(&COUNT, 4);
const DIGEST: Range<usize> = after(&RESERVED_B, 8);
const DURABLE: Range<usize> = after(&DIGEST, 8);
const TRIM: Range<usize> = after(&DURABLE, 8);
const RESTATED_TO: Range<usize> = after(&TRIM, 8);
const TERM: Range<usize> = after(&RESTATED_TO, 8);
const LINK_SEGMENT: Range<usize> = after(&TERM, 8);
const LINK_BLOCK: Range<usize> = after(&LINK_SEGMENT, 4);
const LINK_CRC: Range<usize> = after(&LINK_BLOCK, 4);
const RESERVED_C: Range<usize> = after(&LINK_CRC, 4);
pub(super) const CRC: Range<usize> = after(&RESERVED_C, 4);

const FLAG_CUT: u8 = 1;
const FLAG_CLOSE: u8 = 2;

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Begins an epoch; holds no records.
    Opening,
    /// Records of an earlier epoch, written again because nothing proved them durable.
    Copy,
    /// Records.
    Data,
    /// "Durable up to D"; holds no records.
    Seal,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Opening => 1,
            Self::Copy => 2,
            Self::Data => 3,
            Self::Seal => 4,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Opening),
            2 => Some(Self::Copy),
            3 => Some(Self::Data),
            4 => Some(Self::Seal),
            _ => None,
        }
    }

    /// The word for people.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Copy => "copy",
            Self::Data => "data",
            Self::Seal => "seal",
        }
    }
}

/// A batch by place and header CRC. The CRC covers the digest: a link covers content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub(crate) segment: SegmentId,
    pub(crate) block: u32,
    pub(crate) crc: u32,
}

/// A batch's header; see the tables in [`crate::format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) kind: Kind,
    /// Of an opening: kills everything between the batch it links to and itself.
    pub(crate) cut: bool,
    /// Of a seal: ends its epoch.
    pub(crate) close: bool,
    pub(crate) log_id: LogId,
    pub(crate) epoch: Epoch,
    pub(crate) nonce: u64,
    pub(crate) segment: SegmentId,
    pub(crate) block: u32,
    /// Bytes of records, their headers included.
    pub(crate) records_bytes: u32,
    /// The first record's LSN; the next one's, in a batch of none.
    pub(crate) first: Lsn,
    /// User records.
    pub(crate) count: u32,
    pub(crate) digest: u64,
    /// D: everything up to here was durable when this batch was submitted.
    pub(crate) durable: Lsn,
    /// The first retained record.
    pub(crate) trim: Lsn,
    /// Of an opening: it takes effect only with valid copies up to here.
    pub(crate) restated_to: Lsn,
    pub(crate) term: u64,
    pub(crate) link: Option<Link>,
}

impl BatchHeader {
    /// Writes the header at the start of `out` and returns its CRC, by which the next batch links to it.
    ///
    /// # Panics
    /// If `out` is shorter than a header.
    pub(crate) fn encode(&self, out: &mut [u8]) -> u32 {
        let out = &mut out[..BATCH_HEADER_BYTES];
        out.fill(0);
        put(out, MAGIC, &MAGIC_BYTES);
        put(out, FORMAT_VERSION, &VERSION.to_le_bytes());
        out[KIND.start] = self.kind.byte();
        out[FLAGS.start] = if self.cut { FLAG_CUT } else { 0 } | if self.close { FLAG_CLOSE } else { 0 };
        put(out, LOG_ID, &self.log_id.bytes());
        put(out, EPOCH, &self.epoch.get().to_le_bytes());
        put(out, NONCE, &self.nonce.to_le_bytes());
        put(out, SEGMENT_ID, &self.segment.get().to_le_bytes());
        put(out, BLOCK, &self.block.to_le_bytes());
        put(out, RECORDS_BYTES, &self.records_bytes.to_le_bytes());
        put(out, FIRST, &self.first.get().to_le_bytes());
        put(out, COUNT, &self.count.to_le_bytes());
        if !seeded::is("payload-blind-link") {
            put(out, DIGEST, &self.digest.to_le_bytes());
        }
        put(out, DURABLE, &self.durable.get().to_le_bytes());
        put(out, TRIM, &self.trim.get().to_le_bytes());
        put(out, RESTATED_TO, &self.restated_to.get().to_le_bytes());
        put(out, TERM, &self.term.to_le_bytes());
        if let Some(link) = self.link {
            put(out, LINK_SEGMENT, &link.segment.get().to_le_bytes());
            put(out, LINK_BLOCK, &link.block.to_le_bytes());
            put(out, LINK_CRC, &link.crc.to_le_bytes());
        }
        let crc = crc32fast::hash(&out[..CRC.start]);
        put(out, CRC, &crc.to_le_bytes());
        crc
    }

    /// Reads the header at the start of `block`, which was read from the given place of the given log. Says nothing of
    /// the records: [`BatchHeader::check`] does.
    pub(crate) fn decode(block: &[u8], log_id: LogId, segment: SegmentId, index: u32) -> Verdict<(Self, u32)> {
        let Some(bytes) = block.get(..BATCH_HEADER_BYTES) else { return Verdict::Bad };
        if is_zero(block) {
            return Verdict::Zero;
        }
        let crc = get_u32(bytes, CRC);
        if field(bytes, MAGIC) != MAGIC_BYTES || crc32fast::hash(&bytes[..CRC.start]) != crc {
            return Verdict::Bad;
        }
        let version = get_u32(bytes, FORMAT_VERSION);
        let flags = bytes[FLAGS.start];
        let ours = LogId::new(field(bytes, LOG_ID)) == log_id;
        let here = get_u64(bytes, SEGMENT_ID) == segment.get() || seeded::is("m-stale-recycled");
        let placed = here && get_u32(bytes, BLOCK) == index;
        if !ours {
            return Verdict::Bad;
        }
        if !placed && !seeded::is("m10") {
            return Verdict::Stale(get_u32(bytes, RECORDS_BYTES));
        }
        let Some(kind) = Kind::from_byte(bytes[KIND.start]) else { return Verdict::Newer(version.max(VERSION)) };
        if version > VERSION || flags & !(FLAG_CUT | FLAG_CLOSE) != 0 {
            return Verdict::Newer(version);
        }
        let link_segment = get_u64(bytes, LINK_SEGMENT);
        let header = Self {
            kind,
            cut: flags & FLAG_CUT != 0,
            close: flags & FLAG_CLOSE != 0,
            log_id,
            epoch: Epoch::new(get_u64(bytes, EPOCH)),
            nonce: get_u64(bytes, NONCE),
            segment,
            block: index,
            records_bytes: get_u32(bytes, RECORDS_BYTES),
            first: Lsn::new(get_u64(bytes, FIRST)),
            count: get_u32(bytes, COUNT),
            digest: get_u64(bytes, DIGEST),
            durable: Lsn::new(get_u64(bytes, DURABLE)),
            trim: Lsn::new(get_u64(bytes, TRIM)),
            restated_to: Lsn::new(get_u64(bytes, RESTATED_TO)),
            term: get_u64(bytes, TERM),
            link: (link_segment != 0).then(|| Link {
                segment: SegmentId::new(link_segment),
                block: get_u32(bytes, LINK_BLOCK),
                crc: get_u32(bytes, LINK_CRC),
            }),
        };
        let zeros =
            field(bytes, RESERVED_A) == [0; 2] && get_u32(bytes, RESERVED_B) == 0 && get_u32(bytes, RESERVED_C) == 0;
        if version == VERSION && zeros && header.is_sane() { Verdict::Valid((header, crc)) } else { Verdict::Bad }
    }

    /// Whether the fields can stand beside one another.
    fn is_sane(&self) -> bool {
        let empty = self.count == 0 && self.records_bytes == 0 && self.digest == 0;
        let records = !matches!(self.kind, Kind::Opening | Kind::Seal) || empty;
        let flags =
            (!self.cut || self.kind == Kind::Opening && self.block == 1) && (!self.close || self.kind == Kind::Seal);
        let fits = u64::from(self.records_bytes) >= u64::from(self.count) * super::RECORD_HEADER_BYTES as u64;
        // Backward walks end because every link leads strictly back.
        let back = self.link.is_none_or(|link| (link.segment, link.block) < (self.segment, self.block));
        let position = back && self.block >= 1 && self.first >= Lsn::FIRST && self.durable < self.first;
        let bounded = self.records_bytes as usize <= super::RECORDS_BYTES_MAX;
        records && flags && fits && position && bounded
    }

    /// Whether the whole batch, which begins at the start of `bytes`, is what this header says: records, digest, padding.
    pub(crate) fn check(&self, bytes: &[u8], block_bytes: u32) -> bool {
        let end = BATCH_HEADER_BYTES + self.records_bytes as usize;
        let Some(whole) = bytes.get(..self.bytes(block_bytes)) else { return false };
        let (mut count, mut digest) = (0u32, 0u64);
        for record in self.records(whole) {
            let Ok(record) = record else { return false };
            count = count.wrapping_add(u32::from(record.kind == RecordKind::User));
            digest = digest.wrapping_add(record.mixed);
        }
        let digest_holds = digest == self.digest || seeded::is("payload-blind-link");
        count == self.count && digest_holds && is_zero(&whole[end..])
    }

    /// The records of the batch that begins at the start of `bytes`.
    pub(crate) fn records<'a>(&self, bytes: &'a [u8]) -> Records<'a> {
        let end = BATCH_HEADER_BYTES + self.records_bytes as usize;
        Records::new(bytes.get(BATCH_HEADER_BYTES..end).unwrap_or_default(), self.first, self.log_id, self.nonce)
    }

    /// Its length on disk in bytes.
    pub(crate) fn bytes(&self, block_bytes: u32) -> usize {
        batch_bytes(self.records_bytes as usize, block_bytes)
    }

    /// Its length on disk in blocks.
    pub(crate) fn blocks(&self, block_bytes: u32) -> u32 {
        super::batch_blocks(self.records_bytes as usize, block_bytes)
    }

    /// Its last record's LSN; the one before `first`, in a batch of none.
    pub(crate) fn last(&self) -> Lsn {
        self.first.plus(u64::from(self.count)).prev()
    }

    /// The link by which the next batch names this one.
    pub(crate) fn link_to(&self, crc: u32) -> Link {
        Link { segment: self.segment, block: self.block, crc }
    }
}
