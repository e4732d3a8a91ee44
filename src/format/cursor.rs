//! A cursor's file: the place of a named reader, in two slots that are written in turn.
//!
//! ```text
//!  0  8 magic "RWALCURS"    12  4 reserved, zero    32  8 sequence    48  4 CRC-32 of bytes 0..48
//!  8  4 version             16 16 log id            40  8 LSN
//! ```
//! then zeros to the end of the block. The valid slot with the greater sequence counts: while one is being written, the
//! other stands. A file of zeros is a cursor that was never made.

use std::ops::Range;

use super::{VERSION, Verdict, after, field, get_u32, get_u64, is_zero, put};
use crate::lsn::{LogId, Lsn};

const MAGIC_BYTES: [u8; 8] = *b"RWALCURS";

const MAGIC: Range<usize> = 0..8;
const FORMAT_VERSION: Range<usize> = after(&MAGIC, 4);
const RESERVED: Range<usize> = after(&FORMAT_VERSION, 4);
const LOG_ID: Range<usize> = after(&RESERVED, 16);
const SEQUENCE: Range<usize> = after(&LOG_ID, 8);
const LSN: Range<usize> = after(&SEQUENCE, 8);
const CRC: Range<usize> = after(&LSN, 4);

/// One slot of a cursor's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CursorSlot {
    pub(crate) log_id: LogId,
    pub(crate) sequence: u64,
    pub(crate) lsn: Lsn,
}

impl CursorSlot {
    /// Writes the slot to all of `block`.
    ///
    /// # Panics
    /// If the block is shorter than a slot.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        put(block, MAGIC, &MAGIC_BYTES);
        put(block, FORMAT_VERSION, &VERSION.to_le_bytes());
        put(block, LOG_ID, &self.log_id.bytes());
        put(block, SEQUENCE, &self.sequence.to_le_bytes());
        put(block, LSN, &self.lsn.get().to_le_bytes());
        let crc = crc32fast::hash(&block[..CRC.start]);
        put(block, CRC, &crc.to_le_bytes());
    }

    /// Reads what `encode` wrote.
    pub(crate) fn decode(block: &[u8]) -> Verdict<Self> {
        if is_zero(block) {
            return Verdict::Zero;
        }
        let Some(bytes) = block.get(..CRC.end) else { return Verdict::Bad };
        if field(bytes, MAGIC) != MAGIC_BYTES || get_u32(bytes, CRC) != crc32fast::hash(&bytes[..CRC.start]) {
            return Verdict::Bad;
        }
        let version = get_u32(bytes, FORMAT_VERSION);
        if version > VERSION {
            return Verdict::Newer(version);
        }
        let slot = Self {
            log_id: LogId::new(field(bytes, LOG_ID)),
            sequence: get_u64(bytes, SEQUENCE),
            lsn: Lsn::new(get_u64(bytes, LSN)),
        };
        let plain = version == VERSION && get_u32(bytes, RESERVED) == 0 && is_zero(&block[CRC.end..]);
        if plain { Verdict::Valid(slot) } else { Verdict::Bad }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_and_any_flipped_bit_is_seen() {
        let slot = CursorSlot { log_id: LogId::new([9; 16]), sequence: 5, lsn: Lsn::new(77) };
        let mut block = vec![7; 512];
        slot.encode(&mut block);
        assert_eq!(CursorSlot::decode(&block), Verdict::Valid(slot));
        for bit in 0..block.len() * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(CursorSlot::decode(&block), Verdict::Valid(_)), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(CursorSlot::decode(&[0; 512]), Verdict::Zero);
        assert_eq!(CursorSlot::decode(&block[..20]), Verdict::Bad);
    }
}
