//! Frames of the shipping protocol, as `src/ship/wire.rs` specifies them: written down a second time, so that a peer can
//! say anything.

use crate::input::Input;
use crate::layout::{Owner, RECORD_HEADER, seal_records};
use crate::record::LOG_ID;

/// Bytes of a frame before its body.
pub const HEADER: usize = 20;

/// Types of frames.
pub const HELLO: u8 = 1;
pub const WELCOME: u8 = 2;
pub const START: u8 = 3;
pub const RECORDS: u8 = 4;
pub const ACK: u8 = 5;
pub const HEARTBEAT: u8 = 6;
pub const REFUSE: u8 = 7;

/// A frame with its checksum.
#[must_use]
pub fn frame(kind: u8, session: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[kind, 0, 0, 0]);
    bytes.extend_from_slice(&session.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(if kind == RECORDS { &body[..body.len().min(40)] } else { body });
    bytes.extend_from_slice(&hasher.finalize().to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A body, field by field: each is as it should be, unless its bit in `odd` says that the input draws it.
#[derive(Debug)]
pub struct Body<'a, 'b> {
    bytes: Vec<u8>,
    input: &'a mut Input<'b>,
    odd: u16,
}

impl<'a, 'b> Body<'a, 'b> {
    /// An empty one.
    pub fn new(input: &'a mut Input<'b>) -> Self {
        let odd = input.short() & input.short();
        Self { bytes: Vec::new(), input, odd }
    }

    fn value(&mut self, usual: u64) -> u64 {
        let odd = self.odd & 1 == 1;
        self.odd >>= 1;
        if odd { self.input.long() } else { usual }
    }

    /// Eight bytes.
    #[must_use]
    pub fn long(mut self, usual: u64) -> Self {
        let value = self.value(usual);
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Four bytes.
    #[must_use]
    pub fn int(mut self, usual: u32) -> Self {
        let value = self.value(usual.into()) as u32;
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// The log's id, or almost.
    #[must_use]
    pub fn log_id(mut self) -> Self {
        let mut id = LOG_ID;
        id[0] ^= self.value(0) as u8;
        self.bytes.extend_from_slice(&id);
        self
    }

    /// Bytes as they are.
    #[must_use]
    pub fn plain(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Up to four records, whole or not quite. They follow `count`, which must have been written as 0 and 4 zeros.
    #[must_use]
    pub fn records(mut self, owner: Owner) -> Self {
        let begin = self.bytes.len();
        let mut damaged = false;
        for _ in 0..1 + self.input.index(4) {
            let (len, kind) = (self.input.byte(), self.input.byte());
            let at = self.bytes.len();
            self.bytes.resize(at + RECORD_HEADER + usize::from(len), kind);
            self.bytes[at..at + RECORD_HEADER].fill(0);
            self.bytes[at] = len;
            self.bytes[at + 4] = 1 + u8::from(kind > 240);
            damaged |= kind == 13;
        }
        let (count, _, _) = seal_records(&mut self.bytes[begin..], owner);
        let count = self.value(count.into()) as u32;
        self.bytes[begin - 8..begin - 4].copy_from_slice(&count.to_le_bytes());
        if damaged {
            *self.bytes.last_mut().expect("a record") ^= 1;
        }
        self
    }

    /// The frame of it; now and then cut short or too long.
    #[must_use]
    pub fn frame(mut self, kind: u8, session: u64) -> Vec<u8> {
        match self.input.byte() {
            253 => self.bytes.push(0),
            254 => drop(self.bytes.pop()),
            255 => self.bytes.extend_from_slice(&[7; 600]),
            _ => {}
        }
        frame(kind, session, &self.bytes)
    }
}
