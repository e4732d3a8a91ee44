//! Where things stand in the bytes, as `src/format/mod.rs` specifies them: written down a second time on purpose, so that
//! the targets forge with hands of their own.

/// The unit in which a device tears writes, and the block size of every log here.
pub const BLOCK: usize = 512;
/// Bytes of a batch before its first record.
pub const HEADER: usize = 144;
/// Bytes of a record before its payload.
pub const RECORD_HEADER: usize = 12;
/// Bytes of the static block that are not padding.
pub const STATIC: usize = 64;

pub const BATCH_MAGIC: &[u8; 8] = b"RWALBTCH";
pub const SEGMENT_MAGIC: &[u8; 8] = b"RWALSEGM";
pub const CURSOR_MAGIC: &[u8; 8] = b"RWALCURS";

/// A field of a batch header: where it begins, and how long it is.
#[derive(Clone, Copy, Debug)]
pub struct Field(pub usize, pub usize);

pub const VERSION: Field = Field(8, 4);
pub const KIND: Field = Field(12, 1);
pub const FLAGS: Field = Field(13, 1);
pub const LOG_ID: Field = Field(16, 16);
pub const EPOCH: Field = Field(32, 8);
pub const NONCE: Field = Field(40, 8);
pub const SEGMENT_ID: Field = Field(48, 8);
pub const BLOCK_INDEX: Field = Field(56, 4);
pub const RECORDS_BYTES: Field = Field(60, 4);
pub const FIRST: Field = Field(64, 8);
pub const COUNT: Field = Field(72, 4);
pub const DIGEST: Field = Field(80, 8);
pub const DURABLE: Field = Field(88, 8);
pub const TRIM: Field = Field(96, 8);
pub const RESTATED_TO: Field = Field(104, 8);
pub const TERM: Field = Field(112, 8);
pub const LINK_SEGMENT: Field = Field(120, 8);
pub const LINK_BLOCK: Field = Field(128, 4);
pub const LINK_CRC: Field = Field(132, 4);
const CRC: Field = Field(140, 4);

/// All fields of a batch header that are worth changing, reserved bytes included.
pub const HEADER_FIELDS: [Field; 20] = [
    VERSION, KIND, FLAGS, EPOCH, NONCE, SEGMENT_ID, BLOCK_INDEX, RECORDS_BYTES, FIRST, COUNT, DIGEST, DURABLE, TRIM,
    RESTATED_TO, TERM, LINK_SEGMENT, LINK_BLOCK, LINK_CRC, Field(14, 2), Field(136, 4),
];

/// The same of a static block.
pub const STATIC_FIELDS: [Field; 7] =
    [Field(8, 4), Field(12, 4), Field(16, 8), Field(32, 8), Field(40, 8), Field(48, 8), Field(56, 4)];

impl Field {
    /// Reads it, as a number.
    #[must_use]
    pub fn get(self, bytes: &[u8]) -> u64 {
        let Self(at, len) = self;
        let mut out = [0; 8];
        let len = len.min(8);
        out[..len].copy_from_slice(&bytes[at..at + len]);
        u64::from_le_bytes(out)
    }

    /// Reads it, as bytes.
    ///
    /// # Panics
    /// If it is not of this length.
    #[must_use]
    pub fn array<const N: usize>(self, bytes: &[u8]) -> [u8; N] {
        bytes[self.0..self.0 + self.1].try_into().expect("a field of this length")
    }

    /// Writes it, as a number.
    pub fn set(self, bytes: &mut [u8], value: u64) {
        let Self(at, len) = self;
        let len = len.min(8);
        bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }
}

/// Whether a batch header of whatever content begins here.
#[must_use]
pub fn is_batch(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER && bytes.starts_with(BATCH_MAGIC)
}

/// Computes the CRC of a batch header anew.
pub fn seal_header(bytes: &mut [u8]) -> u32 {
    let crc = crc32fast::hash(&bytes[..CRC.0]);
    CRC.set(bytes, crc.into());
    crc
}

/// Computes the CRC of a static block anew.
pub fn seal_static(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[..STATIC - 4]);
    bytes[STATIC - 4..STATIC].copy_from_slice(&crc.to_le_bytes());
}

/// Computes the CRC of a cursor's slot anew.
pub fn seal_cursor(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[..48]);
    bytes[48..52].copy_from_slice(&crc.to_le_bytes());
}

/// Whom records belong to: all that their CRCs cover beside themselves.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    pub log_id: [u8; 16],
    pub nonce: u64,
    pub first: u64,
}

/// Computes the CRCs of records anew, as far as their lengths lead. Tells how many user records there are, the sum that a
/// header calls digest, and how many bytes were covered.
pub fn seal_records(records: &mut [u8], owner: Owner) -> (u32, u64, usize) {
    let (mut at, mut lsn, mut count, mut digest) = (0, owner.first, 0, 0u64);
    while let Some(header) = records.get(at..at + RECORD_HEADER) {
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let kind = header[4];
        let end = (at + RECORD_HEADER).saturating_add(length as usize);
        let Some(payload) = records.get(at + RECORD_HEADER..end) else { break };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(payload);
        hasher.update(&length.to_le_bytes());
        hasher.update(&[kind]);
        hasher.update(&owner.log_id);
        hasher.update(&owner.nonce.to_le_bytes());
        hasher.update(&lsn.to_le_bytes());
        let crc = hasher.finalize();
        records[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
        digest = digest.wrapping_add(mix(lsn, length, crc));
        if kind == 1 {
            (lsn, count) = (lsn.saturating_add(1), count + 1);
        }
        at = end;
    }
    (count, digest, at)
}

/// A record's term of the digest.
fn mix(lsn: u64, length: u32, crc: u32) -> u64 {
    let mut x = lsn.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(length) << 32 | u64::from(crc));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
