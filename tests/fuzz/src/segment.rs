//! A segment's static block; and the other small things that a directory holds: slots of cursors, names.
//!
//! Input: a byte of choices, the length of the block, then its bytes, or a name.

use ringwal::harness::fuzz::{Judged, cursor_slot, file_name, segment_header};

use crate::gauge::measure;
use crate::input::Input;
use crate::layout::{CURSOR_MAGIC, SEGMENT_MAGIC, STATIC, seal_cursor, seal_static};

/// How one kind of block is made plausible, and decoded.
struct Kind {
    magic: &'static [u8; 8],
    /// Bytes that are not padding.
    len: usize,
    seal: fn(&mut [u8]),
    /// Decodes, and writes what was found to the buffer.
    decode: fn(&[u8], &mut Vec<u8>) -> bool,
}

const SEGMENT: Kind = Kind {
    magic: SEGMENT_MAGIC,
    len: STATIC,
    seal: seal_static,
    decode: |block, again| matches!(segment_header(block, again), Judged::Valid(_)),
};

const CURSOR: Kind = Kind {
    magic: CURSOR_MAGIC,
    len: 52,
    seal: seal_cursor,
    decode: |block, again| matches!(cursor_slot(block, again), Judged::Valid(())),
};

/// Decodes; what is valid encodes to the same bytes, and no flipped bit goes unseen.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choices = input.byte();
    match choices & 3 {
        0 | 1 => block(choices, &mut input, &SEGMENT),
        2 => block(choices, &mut input, &CURSOR),
        _ => name(input.rest()),
    }
}

fn block(choices: u8, input: &mut Input<'_>, kind: &Kind) {
    let drawn = usize::from(input.byte());
    let len = [64, 512, 512, 1024, 4096, 65536, drawn, drawn][usize::from(choices >> 5)];
    let mut block = input.rest().to_vec();
    block.resize(len, 0);
    if choices & 4 == 4 && len >= 12 {
        block[..8].copy_from_slice(kind.magic);
        block[8..12].copy_from_slice(&1u32.to_le_bytes());
    }
    if choices & 8 == 8 && len >= kind.len {
        (kind.seal)(&mut block);
    }
    // Room for the largest block, so that only the decoder could allocate.
    let mut again = Vec::with_capacity(65536);
    let (valid, used) = measure(|| (kind.decode)(&block, &mut again));
    assert_eq!(used.largest, 0, "A10: decoding a block allocates");
    if !valid {
        return;
    }
    // A reader may hold more or less than the block; it is checked as far as it is there.
    let common = again.len().min(block.len());
    assert_eq!(again[..common], block[..common], "A3: a block encodes to other bytes");
    if choices & 16 == 16 {
        let at = drawn * 67 % (common * 8);
        block[at / 8] ^= 1 << (at % 8);
        assert!(!(kind.decode)(&block, &mut again), "A8: a flipped bit is not seen");
    }
}

/// A name means something only if it is exactly what would be written for that.
fn name(bytes: &[u8]) {
    let name = String::from_utf8_lossy(bytes);
    if let Some(again) = file_name(&name) {
        assert_eq!(again, name, "A3: two names for one file");
    }
}
