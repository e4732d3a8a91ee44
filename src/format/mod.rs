//! BYTES: the on-disk format, specified here and nowhere else. No I/O, clock, thread or `unsafe`.
//!
//! Everything is little-endian. Offsets below are in bytes. Version 1.
//!
//! ## The directory
//!
//! | name | what |
//! |---|---|
//! | `LOCK` | held by the writer; carries its process id and the log id as text |
//! | `{segment id:016x}.seg` | a segment |
//! | `{number:016x}.spare` | a file on its way to becoming a segment, or a dead one waiting to be used again |
//! | `{name}.cursor` | the place of a named reader (`cursor` says how); the name is 1 to 64 of `a-z 0-9 _ -` |
//! | `standby` | in a standby's copy: its id, and the greatest term that it was shown, as text |
//!
//! Other names are mentioned and ignored. Anything but a regular file with one link under our names is refused.
//! That a segment exists is evidence of nothing.
//!
//! ## A segment
//!
//! Blocks of `block size` bytes. Block 0 is *static*: everything in it is known when the file is prepared.
//!
//! ```text
//!  0  8 magic "RWALSEGM"     16 16 log id            48  8 created, ns since 1970 (informational)
//!  8  4 version              32  8 segment id        56  4 reserved, zero
//! 12  4 block size           40  8 segment length    60  4 CRC-32 of bytes 0..60
//! ```
//! then zeros to the end of the block.
//!
//! ## A batch
//!
//! Starts on a block boundary behind block 0, is padded with zeros to one, and is one write. Its header lies within
//! the first 512 bytes, so that a sector is either all of it or none of it.
//!
//! ```text
//!   0  8 magic "RWALBTCH"    48  8 segment id            96  8 trim LSN: the first retained record
//!   8  4 version             56  4 block index          104  8 restated-to LSN (openings), else 0
//!  12  1 kind                60  4 bytes of records     112  8 fencing term
//!  13  1 flags               64  8 first LSN            120  8 link: segment id, 0 for none
//!  14  2 reserved, zero      72  4 record count         128  4 link: block index
//!  16 16 log id              76  4 reserved, zero       132  4 link: header CRC of the batch before it
//!  32  8 epoch               80  8 record digest        136  4 reserved, zero
//!  40  8 epoch nonce         88  8 D: durable LSN       140  4 CRC-32 of bytes 0..140
//! ```
//! then the records, then zeros to the block boundary.
//!
//! - kind: 1 opening, 2 copy, 3 data, 4 seal. Openings and seals hold no records.
//! - flags: bit 0 *cut* (an opening that stands in block 1 of a segment above all used ones and kills everything
//!   between the batch it links to and itself), bit 1 *close* (a seal that ends its epoch).
//! - D is the durable LSN when the batch was submitted. It is the only evidence that something was durable.
//! - The link names the batch before this one by place and header CRC. That CRC covers the digest, the digest covers
//!   every record's CRC: a link covers content.
//!
//! ## A record
//!
//! ```text
//!  0  4 payload length    4  1 kind    5  3 reserved, zero    8  4 CRC-32    12  payload
//! ```
//! - kind: 1 user (takes the next LSN), 2 control (takes none).
//! - The CRC covers the payload, then length (4), kind (1), log id (16), nonce (8) and LSN (8): payload first, so that
//!   an appender can do its part before it knows the LSN. A control record has the LSN that the next user record gets.
//! - The digest of a batch is the wrapping sum of [`record::mix`]`(LSN, length, CRC)` over its records.
//!
//! ## What makes a batch valid
//!
//! Identity fields are stored and compared, never only mixed into a checksum: log id, segment id and block index must
//! be those of the place it was read from. Reserved bytes and padding are zero. All-zero is never valid; a zero-length
//! record is. Unknown kinds and flags and newer versions are refused by name ([`Verdict::Newer`]).
//!
//! CRC-32 is the IEEE polynomial (`crc32fast`). A torn record passes with a probability of 2^-32. Checksums find
//! accidents; they are not authentication. Record CRCs are never XORed or combined linearly: the digest's mix is a
//! 64-bit permutation (the finaliser of SplitMix64, Steele et al., OOPSLA 2014) before the sum.

pub(crate) mod batch;
mod cursor;
mod held;
pub(crate) mod record;
pub(crate) mod segment;
#[cfg(test)]
mod tests;

pub(crate) use batch::{BatchHeader, Kind, Link};
pub(crate) use cursor::CursorSlot;
pub(crate) use held::{HeldBatch, HeldRecords};
pub(crate) use record::{RecordCrc, RecordKind};
pub(crate) use segment::SegmentHeader;

use std::ops::Range;

/// The version that this library writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;

/// Bytes of a batch before its first record.
pub(crate) const BATCH_HEADER_BYTES: usize = batch::CRC.end;

/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 12;

/// The most bytes of records that a batch may claim: the largest record that the options allow, with its header.
pub(crate) const RECORDS_BYTES_MAX: usize = record_bytes(1 << 30);

/// The longest segment that the options allow, in bytes.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 16 << 30;

/// The unit in which a device tears writes.
pub(crate) const SECTOR_BYTES: usize = 512;

// A header must never straddle sectors.
const _: () = assert!(BATCH_HEADER_BYTES <= SECTOR_BYTES);
const _: () = assert!(BATCH_HEADER_BYTES == 144);

/// What some bytes are. Bytes only; what follows from it is [`crate::journal`]'s to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<T> {
    /// Whole, and of the place it was read from.
    Valid(T),
    /// All zero.
    Zero,
    /// A whole header of this log, but of another place or segment: what a recycled file is full of. So many bytes of
    /// records stand behind it, or stood.
    Stale(u32),
    /// Neither.
    Bad,
    /// Whole, of a version, kind or flag that this library does not know.
    Newer(u32),
}

/// How many bytes a record of `payload` bytes takes in a batch.
pub(crate) const fn record_bytes(payload: usize) -> usize {
    RECORD_HEADER_BYTES + payload
}

/// How many bytes a batch with `records` bytes of records takes on disk.
pub(crate) const fn batch_bytes(records: usize, block_bytes: u32) -> usize {
    (BATCH_HEADER_BYTES + records).next_multiple_of(block_bytes as usize)
}

/// How many blocks a batch with `records` bytes of records takes on disk.
#[expect(clippy::cast_possible_truncation, reason = "a batch is bounded by 1 GiB and a block is at least 512 bytes")]
pub(crate) const fn batch_blocks(records: usize, block_bytes: u32) -> u32 {
    (batch_bytes(records, block_bytes) / block_bytes as usize) as u32
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Sixteen at a time: this runs over every byte of a segment's unused end.
    let mut chunks = bytes.chunks_exact(16);
    chunks.all(|chunk| chunk == [0; 16]) && chunks.remainder().iter().all(|byte| *byte == 0)
}

/// The field at `range`.
///
/// # Panics
/// If `bytes` is shorter than the range: callers check the length of what they decode first.
fn field<const N: usize>(bytes: &[u8], range: Range<usize>) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[range]);
    out
}

fn get_u32(bytes: &[u8], range: Range<usize>) -> u32 {
    u32::from_le_bytes(field(bytes, range))
}

fn get_u64(bytes: &[u8], range: Range<usize>) -> u64 {
    u64::from_le_bytes(field(bytes, range))
}

fn put(bytes: &mut [u8], range: Range<usize>, value: &[u8]) {
    bytes[range].copy_from_slice(value);
}

/// The range of `len` bytes behind `before`.
const fn after(before: &Range<usize>, len: usize) -> Range<usize> {
    before.end..before.end + len
}
