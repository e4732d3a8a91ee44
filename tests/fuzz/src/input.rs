//! What a fuzzer's bytes mean: small choices, taken one after another. At the end there are only zeros.

/// The choices that are left.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    /// Of these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next `len` bytes; fewer at the end.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.take(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Yes or no.
    pub fn bit(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number of 16 bits.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// An index below `len`, which is not above 65536; 0 if there is none.
    pub fn index(&mut self, len: usize) -> usize {
        let drawn = if len <= 256 { usize::from(self.byte()) } else { usize::from(self.short()) };
        drawn % len.max(1)
    }

    /// A number of 64 bits: small, near the end of a power of two, or any.
    pub fn long(&mut self) -> u64 {
        let how = self.byte();
        match how >> 6 {
            0 | 1 => u64::from(how & 0x7f),
            2 => 1u64.checked_shl(u32::from(how & 0x3f) + 1).unwrap_or(0).wrapping_sub(u64::from(self.byte() % 4)),
            _ => u64::from_le_bytes(self.array()),
        }
    }
}
