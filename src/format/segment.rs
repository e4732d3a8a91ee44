//! A segment's static block, and the names of files.

use std::ops::Range;

use super::{VERSION, Verdict, after, field, get_u32, get_u64, is_zero, put};
use crate::lsn::{LogId, SegmentId};

const MAGIC_BYTES: [u8; 8] = *b"RWALSEGM";

const MAGIC: Range<usize> = 0..8;
const FORMAT_VERSION: Range<usize> = after(&MAGIC, 4);
const BLOCK_BYTES: Range<usize> = after(&FORMAT_VERSION, 4);
const LOG_ID: Range<usize> = after(&BLOCK_BYTES, 16);
const SEGMENT_ID: Range<usize> = after(&LOG_ID, 8);
const SEGMENT_BYTES: Range<usize> = after(&SEGMENT_ID, 8);
const CREATED: Range<usize> = after(&SEGMENT_BYTES, 8);
const RESERVED: Range<usize> = after(&CREATED, 4);
const CRC: Range<usize> = after(&RESERVED, 4);

/// The bytes that [`SegmentHeader::decode`] needs to know the block size from: a first read.
pub(crate) const SEGMENT_HEADER_BYTES: usize = CRC.end;

/// Block 0: all known when the file is prepared, so that it says nothing about what was written later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: LogId,
    pub(crate) id: SegmentId,
    pub(crate) block_bytes: u32,
    pub(crate) blocks: u32,
    /// Nanoseconds since 1970: informational, nothing depends on it.
    pub(crate) created_ns: u64,
}

impl SegmentHeader {
    /// Writes the static block.
    ///
    /// # Panics
    /// If `block` is not one block long.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), self.block_bytes as usize);
        block.fill(0);
        put(block, MAGIC, &MAGIC_BYTES);
        put(block, FORMAT_VERSION, &VERSION.to_le_bytes());
        put(block, BLOCK_BYTES, &self.block_bytes.to_le_bytes());
        put(block, LOG_ID, &self.log_id.bytes());
        put(block, SEGMENT_ID, &self.id.get().to_le_bytes());
        put(block, SEGMENT_BYTES, &(u64::from(self.blocks) * u64::from(self.block_bytes)).to_le_bytes());
        put(block, CREATED, &self.created_ns.to_le_bytes());
        let crc = crc32fast::hash(&block[..CRC.start]);
        put(block, CRC, &crc.to_le_bytes());
    }

    /// Reads a static block. `block` may be longer or shorter than the segment's own block size: padding is checked as
    /// far as it is there.
    pub(crate) fn decode(block: &[u8]) -> Verdict<Self> {
        if block.len() < SEGMENT_HEADER_BYTES {
            return Verdict::Bad;
        }
        if is_zero(block) {
            return Verdict::Zero;
        }
        if field(block, MAGIC) != MAGIC_BYTES || crc32fast::hash(&block[..CRC.start]) != get_u32(block, CRC) {
            return Verdict::Bad;
        }
        let version = get_u32(block, FORMAT_VERSION);
        if version > VERSION {
            return Verdict::Newer(version);
        }
        let block_bytes = get_u32(block, BLOCK_BYTES);
        let padding = SEGMENT_HEADER_BYTES..block.len().min(block_bytes as usize);
        let sane = version == VERSION
            && block_bytes.is_power_of_two()
            && (512..=65536).contains(&block_bytes)
            && get_u32(block, RESERVED) == 0
            && get_u64(block, SEGMENT_BYTES).is_multiple_of(u64::from(block_bytes))
            && get_u64(block, SEGMENT_BYTES) <= super::SEGMENT_BYTES_MAX
            && is_zero(block.get(padding).unwrap_or_default());
        let blocks = get_u64(block, SEGMENT_BYTES).checked_div(u64::from(block_bytes)).map(u32::try_from);
        match blocks {
            Some(Ok(blocks)) if sane && blocks >= 2 => Verdict::Valid(Self {
                log_id: LogId::new(field(block, LOG_ID)),
                id: SegmentId::new(get_u64(block, SEGMENT_ID)),
                block_bytes,
                blocks,
                created_ns: get_u64(block, CREATED),
            }),
            _ => Verdict::Bad,
        }
    }

    /// The segment's length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.blocks) * u64::from(self.block_bytes)
    }
}

/// What a name in the directory means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Segment(SegmentId),
    Spare(u64),
    /// A cursor's file.
    Cursor(String),
    Lock,
    /// Who the standby is that owns this copy.
    Standby,
    Unknown,
}

/// The lock file's name.
pub(crate) const LOCK_NAME: &str = "LOCK";

/// The name of the file that says which standby owns this copy of a log.
pub(crate) const STANDBY_NAME: &str = "standby";

/// The file name of a segment.
pub(crate) fn segment_name(id: SegmentId) -> String {
    format!("{id}.seg")
}

/// The file name of a spare.
pub(crate) fn spare_name(number: u64) -> String {
    format!("{number:016x}.spare")
}

/// The file name of the cursor `name`; none if that cannot be a cursor's name.
pub(crate) fn cursor_name(name: &str) -> Option<String> {
    let plain = name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'-' | b'_'));
    (plain && (1..=64).contains(&name.len())).then(|| format!("{name}.cursor"))
}

/// Reads a file name: exactly what [`segment_name`] and [`spare_name`] write, or unknown.
pub(crate) fn parse_name(name: &str) -> Name {
    match name {
        LOCK_NAME => return Name::Lock,
        STANDBY_NAME => return Name::Standby,
        _ => {}
    }
    let Some((stem, extension)) = name.split_once('.') else { return Name::Unknown };
    let plain = stem.len() == 16 && stem.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match (plain.then(|| u64::from_str_radix(stem, 16)), extension) {
        (Some(Ok(id)), "seg") if id > 0 => Name::Segment(SegmentId::new(id)),
        (Some(Ok(number)), "spare") => Name::Spare(number),
        (_, "cursor") if cursor_name(stem).is_some() => Name::Cursor(stem.to_owned()),
        _ => Name::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            log_id: LogId::new(*b"0123456789abcdef"),
            id: SegmentId::new(0x1234),
            block_bytes: 512,
            blocks: 16,
            created_ns: 99,
        }
    }

    #[test]
    fn decodes_what_it_encodes() {
        let mut block = vec![7; 512];
        header().encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Verdict::Valid(header()));
        assert_eq!(SegmentHeader::decode(&[0; 512]), Verdict::Zero);
        assert_eq!(SegmentHeader::decode(&[0; 10]), Verdict::Bad);
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let mut block = vec![0; 512];
        header().encode(&mut block);
        for bit in 0..block.len() * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(SegmentHeader::decode(&block), Verdict::Valid(_)), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut block = vec![0; 512];
        header().encode(&mut block);
        put(&mut block, FORMAT_VERSION, &2u32.to_le_bytes());
        let crc = crc32fast::hash(&block[..CRC.start]);
        put(&mut block, CRC, &crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&block), Verdict::Newer(2));
    }

    #[test]
    fn names_parse_strictly() {
        assert_eq!(parse_name(&segment_name(SegmentId::new(10))), Name::Segment(SegmentId::new(10)));
        assert_eq!(parse_name(&spare_name(3)), Name::Spare(3));
        assert_eq!(parse_name("LOCK"), Name::Lock);
        assert_eq!(parse_name(&cursor_name("a-1_b").unwrap()), Name::Cursor("a-1_b".to_owned()));
        for odd in [
            "",
            "1.seg",
            "000000000000000A.seg",
            "0000000000000000.seg",
            "0000000000000001.seg.bak",
            "+000000000000001.seg",
        ] {
            assert_eq!(parse_name(odd), Name::Unknown, "{odd}");
        }
    }
}
