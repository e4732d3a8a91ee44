//! A network between two machines: bytes in any pieces, a bounded buffer, and somebody who meddles with frames.

use std::collections::VecDeque;

use bytes::Bytes;
use ringwal::sim::rng::Rng;

/// Bytes of a frame before its body.
const HEADER_BYTES: usize = 20;

/// Frames of earlier connections.
pub(crate) type Recording = VecDeque<Vec<u8>>;

/// One direction.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// What is under way.
    bytes: VecDeque<u8>,
    /// No piece is taken while more than this is under way: the buffer of a socket.
    room: usize,
    /// The most that arrives at once.
    chunk: usize,
    /// The beginning of a frame that is not whole yet.
    partial: Vec<u8>,
    pushed: u64,
    delivered: u64,
    /// Per thousand frames that are meddled with, until one was.
    meddle: u64,
    /// When so many bytes are delivered, a frame of another connection is: the receiver must have ended.
    foreign: Option<u64>,
}

impl Pipe {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        Self {
            bytes: VecDeque::new(),
            room: [64, 500, 5000][rng.index(3)],
            chunk: [1, 7, 100, 1000, 10_000][rng.index(5)],
            partial: Vec::new(),
            pushed: 0,
            delivered: 0,
            meddle: [0, 0, 10, 60][rng.index(4)],
            foreign: None,
        }
    }

    /// From now on nothing is done to what passes.
    pub(crate) fn heal(&mut self) {
        (self.meddle, self.room, self.chunk) = (0, 10_000, 10_000);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.bytes.len() < self.room
    }

    /// Takes a piece; whole frames are put under way, and recorded.
    pub(crate) fn send(&mut self, piece: &Bytes, rng: &mut Rng, recording: &mut Recording) {
        self.partial.extend_from_slice(piece);
        while let Some(length) = self.partial.first_chunk::<4>() {
            let end = HEADER_BYTES + u32::from_le_bytes(*length) as usize;
            if self.partial.len() < end {
                return;
            }
            let frame: Vec<u8> = self.partial.drain(..end).collect();
            if rng.below(1000) < self.meddle {
                self.meddle(frame, rng, recording);
                self.meddle = 0;
            } else {
                recording.push_back(frame.clone());
                if recording.len() > 40 {
                    recording.pop_front();
                }
                self.push(&frame);
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.pushed += bytes.len() as u64;
        self.bytes.extend(bytes);
    }

    fn meddle(&mut self, mut frame: Vec<u8>, rng: &mut Rng, recording: &Recording) {
        match rng.below(5) {
            0 => {}
            1 => {
                self.push(&frame);
                self.push(&frame);
            }
            2 => {
                let at = rng.index(frame.len());
                frame[at] ^= 1 << rng.below(8);
                self.push(&frame);
            }
            3 => {
                let mut noise = vec![0; 1 + rng.index(300)];
                rng.fill(&mut noise);
                self.push(&noise);
                self.push(&frame);
            }
            _ => {
                // One of another connection in place of ours; not as the first, which may be any hello.
                let foreign = recording.get(rng.index(recording.len()));
                let foreign = foreign.filter(|foreign| foreign[8..16] != frame[8..16] && self.pushed > 0);
                self.push(foreign.map_or(&frame, |foreign| foreign));
                self.foreign = foreign.map(|_| self.pushed);
            }
        }
    }

    /// What arrives next.
    pub(crate) fn receive(&mut self, rng: &mut Rng) -> Option<Vec<u8>> {
        let len = (1 + rng.index(self.chunk)).min(self.bytes.len());
        self.delivered += len as u64;
        (len > 0).then(|| self.bytes.drain(..len).collect())
    }

    /// Whether a frame of another connection has arrived, all of it.
    pub(crate) fn has_foreign(&self) -> bool {
        self.foreign.is_some_and(|at| self.delivered >= at)
    }
}
