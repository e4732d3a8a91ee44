//! BYTES on the connection: the protocol, specified here and nowhere else. No I/O, no state but the frame on its way in.
//!
//! Everything is little-endian. Offsets below are in bytes. Version 1.
//!
//! ## A frame
//!
//! ```text
//!  0  4 body length   4  1 type   5  3 reserved, zero   8  8 session   16  4 CRC-32   20  body
//! ```
//! - type: 1 hello, 2 welcome, 3 start, 4 records, 5 ack, 6 heartbeat, 7 refuse, 8 bye.
//! - session: in hello, and in what answers it, the sink's challenge: 64 random bits. From start on, that XOR the
//!   source's challenge, which is in welcome. So a recording of another connection fails on either side. It is stored
//!   and compared, not mixed into the checksum: a replayed frame is told from a damaged one.
//! - The CRC covers bytes 0..16, then the body; of records only the first 40 bytes of it, since every record carries a CRC
//!   of its own.
//! - A body is at most 512 bytes; that of records at most 40 more than the sink's longest group.
//! - What follows the fields below in the body of a hello of a newer version is ignored. Everything else is exact.
//!
//! ## Bodies
//!
//! ```text
//! hello      0  8 magic "RWALSHIP"         56  8 greatest term known      welcome   0  4 version chosen
//!            8  4 version                  64  8 last durable LSN n                 4  4 heartbeat interval, ms
//!           12  4 oldest understood        72  8 term of n, or 0                    8 16 log id
//!           16  4 log format version       80  4 CRC-32 of n's payload, or 0       24  8 term
//!           20  1 1 if there is a log id   84  4 reserved, zero                    32  8 first retained LSN
//!           21  1 length of the name       88  8 longest group, in bytes           40  8 durable LSN
//!           22  2 reserved, zero           96    the name, at most 64              48  8 resumes at: n + 1
//!           24 16 log id, or zero                bytes of UTF-8                    56  8 longest batch of now, in bytes
//!           40 16 the standby's id                                                 64  8 the source's challenge
//!
//! start      0  8 credit                   records   0  8 term of the records      heartbeat   0  8 the source's term
//!                                                    8  8 epoch nonce                          8  8 durable LSN
//! ack        0  8 durable LSN                       16  8 first LSN                           16  8 sequence, from 1
//!            8  8 received LSN                      24  8 durable LSN
//!           16  8 credit                            32  4 count of user records    bye         nothing
//!           24  8 heartbeat answered                36  4 reserved, zero
//!                                                   40    records as on disk       refuse      see below
//! ```
//! - Bytes 0..16 of a hello and the frame around it never change, in any version: a refusal can always be read.
//! - Credit counts whole frames of records in bytes, from the beginning of the connection. A source may send another as
//!   long as what it sent is below it: it may overdraw it by one frame, so that one of any length can pass.
//! - Records are as in [`crate::format`]: each CRC covers log id, nonce and LSN.
//! - Who has no log yet knows neither a term nor a record: a stranger must not fence a primary.
//! - refuse: 0 4 reason, 4 4 reserved, 8 24 three numbers, 32 32 two log ids; see [`ShipError::to_wire`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::ShipError;
use crate::lsn::{LogId, Lsn};
use crate::seeded;

/// The version that this library speaks, and the oldest that it understands.
pub(super) const VERSION: u32 = 1;
pub(super) const OLDEST: u32 = 1;

/// Bytes of a frame before its body.
pub(super) const HEADER_BYTES: usize = 20;
/// Bytes of a records body before the records.
const RECORDS_BYTES: usize = 40;
/// The longest body of every other frame.
const CONTROL_BYTES_MAX: usize = 512;
/// The longest name of a standby, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 64;

const MAGIC: [u8; 8] = *b"RWALSHIP";
const CRC_AT: usize = 16;

/// What a sink says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) format: u32,
    pub(super) log_id: Option<LogId>,
    pub(super) standby: [u8; 16],
    pub(super) name: String,
    pub(super) term: u64,
    pub(super) last: Lsn,
    pub(super) last_term: u64,
    pub(super) last_crc: u32,
    pub(super) group_bytes_max: u64,
}

/// What a source answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) version: u32,
    pub(super) heartbeat_ms: u32,
    pub(super) log_id: LogId,
    pub(super) term: u64,
    pub(super) first: Lsn,
    pub(super) durable: Lsn,
    pub(super) resume: Lsn,
    pub(super) batch_bytes_max: u64,
    pub(super) challenge: u64,
}

/// Records of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shipped {
    pub(super) term: u64,
    pub(super) nonce: u64,
    pub(super) first: Lsn,
    pub(super) durable: Lsn,
    pub(super) count: u32,
    pub(super) stored: Bytes,
}

/// How far a sink has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) durable: Lsn,
    pub(super) received: Lsn,
    pub(super) credit: u64,
    pub(super) heartbeat: u64,
}

/// A [`ShipError`] on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: u32,
    pub(super) numbers: [u64; 3],
    pub(super) ids: [LogId; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Hello(Hello),
    Welcome(Welcome),
    Start { credit: u64 },
    Records(Shipped),
    Ack(Ack),
    Heartbeat { term: u64, durable: Lsn, sequence: u64 },
    Refuse(ShipError),
    Bye,
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Welcome(_) => 2,
            Self::Start { .. } => 3,
            Self::Records(_) => 4,
            Self::Ack(_) => 5,
            Self::Heartbeat { .. } => 6,
            Self::Refuse(_) => 7,
            Self::Bye => 8,
        }
    }

    /// The frame's bytes; of records, those before the records, which follow as they are.
    pub(super) fn encode(&self, session: u64) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + 128);
        out.put_bytes(0, HEADER_BYTES);
        self.put_body(&mut out);
        let behind = if let Self::Records(shipped) = self { shipped.stored.len() } else { 0 };
        let length = u32::try_from(out.len() - HEADER_BYTES + behind).unwrap_or(u32::MAX);
        let mut header = &mut out[..CRC_AT];
        header.put_u32_le(length);
        header.put_u32_le(self.kind().into());
        header.put_u64_le(session);
        let crc = checksum(&out);
        (&mut out[CRC_AT..HEADER_BYTES]).put_u32_le(crc);
        out.freeze()
    }

    fn put_body(&self, out: &mut BytesMut) {
        match self {
            Self::Hello(hello) => hello.put(out),
            Self::Welcome(welcome) => welcome.put(out),
            Self::Start { credit } => out.put_u64_le(*credit),
            Self::Records(shipped) => {
                let Shipped { term, nonce, first, durable, count, .. } = *shipped;
                [term, nonce, first.get(), durable.get()].iter().for_each(|number| out.put_u64_le(*number));
                out.put_u32_le(count);
                out.put_u32_le(0);
            }
            Self::Ack(Ack { durable, received, credit, heartbeat }) => {
                [durable.get(), received.get(), *credit, *heartbeat].iter().for_each(|number| out.put_u64_le(*number));
            }
            Self::Heartbeat { term, durable, sequence } => {
                [*term, durable.get(), *sequence].iter().for_each(|number| out.put_u64_le(*number));
            }
            Self::Refuse(error) => {
                let Refusal { code, numbers, ids } = error.to_wire();
                out.put_u32_le(code);
                out.put_u32_le(0);
                numbers.iter().for_each(|number| out.put_u64_le(*number));
                ids.iter().for_each(|id| out.put_slice(&id.bytes()));
            }
            Self::Bye => {}
        }
    }

    /// Reads the body of a frame whose checksum holds.
    fn decode(kind: u8, mut body: Bytes) -> Result<Self, ShipError> {
        let from = &mut body;
        let frame = match kind {
            1 => Self::Hello(Hello::get(from)?),
            2 => Self::Welcome(Welcome::get(from)?),
            3 => Self::Start { credit: long(from)? },
            4 => {
                let (term, nonce, first, durable) = (long(from)?, long(from)?, lsn(from)?, lsn(from)?);
                let (count, _) = (int(from)?, zero(from)?);
                Self::Records(Shipped { term, nonce, first, durable, count, stored: std::mem::take(from) })
            }
            5 => Self::Ack(Ack {
                durable: lsn(from)?,
                received: lsn(from)?,
                credit: long(from)?,
                heartbeat: long(from)?,
            }),
            6 => Self::Heartbeat { term: long(from)?, durable: lsn(from)?, sequence: long(from)? },
            7 => {
                let (code, _) = (int(from)?, zero(from)?);
                let numbers = [long(from)?, long(from)?, long(from)?];
                let ids = [LogId::new(id(from)?), LogId::new(id(from)?)];
                Self::Refuse(ShipError::from_wire(&Refusal { code, numbers, ids }))
            }
            8 => Self::Bye,
            _ => return garbage("a frame of an unknown type"),
        };
        if from.is_empty() { Ok(frame) } else { garbage("a frame longer than what it says") }
    }
}

impl Hello {
    fn put(&self, out: &mut BytesMut) {
        out.put_slice(&MAGIC);
        [VERSION, OLDEST, self.format].iter().for_each(|number| out.put_u32_le(*number));
        out.put_u8(self.log_id.is_some().into());
        out.put_u8(u8::try_from(self.name.len()).unwrap_or(u8::MAX));
        out.put_u16_le(0);
        out.put_slice(&self.log_id.map_or([0; 16], LogId::bytes));
        out.put_slice(&self.standby);
        [self.term, self.last.get(), self.last_term].iter().for_each(|number| out.put_u64_le(*number));
        out.put_u32_le(self.last_crc);
        out.put_u32_le(0);
        out.put_u64_le(self.group_bytes_max);
        out.put_slice(self.name.as_bytes());
    }

    /// Refuses a version with which we have none in common before it looks any further.
    fn get(from: &mut Bytes) -> Result<Self, ShipError> {
        if long(from)? != u64::from_le_bytes(MAGIC) {
            return garbage("the other side is no ringwal");
        }
        let (version, oldest) = (int(from)?, int(from)?);
        if version < OLDEST {
            return Err(ShipError::Version { ours: OLDEST, theirs: version });
        }
        if oldest > VERSION {
            return Err(ShipError::Version { ours: VERSION, theirs: oldest });
        }
        let format = int(from)?;
        let (has_id, name_len) = (byte(from)?, byte(from)?);
        let reserved = (byte(from)?, byte(from)?);
        let (log_id, standby) = (id(from)?, id(from)?);
        let (term, last, last_term) = (long(from)?, lsn(from)?, long(from)?);
        let (last_crc, _) = (int(from)?, zero(from)?);
        let group_bytes_max = long(from)?;
        let name_len = usize::from(name_len);
        let fits = has_id <= 1 && reserved == (0, 0) && name_len <= NAME_BYTES_MAX && name_len <= from.len();
        let name = from.split_to(name_len.min(from.len()));
        let Some(name) = std::str::from_utf8(&name).ok().filter(|_| fits) else { return garbage("an odd hello") };
        if version > VERSION {
            from.clear();
        }
        let log_id = (has_id == 1).then(|| LogId::new(log_id));
        if log_id.is_none() && (term, last) != (0, Lsn::ZERO) {
            return garbage("a hello without a log that knows something of it");
        }
        let name = name.to_owned();
        Ok(Self { format, log_id, standby, name, term, last, last_term, last_crc, group_bytes_max })
    }
}

impl Welcome {
    fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(self.version);
        out.put_u32_le(self.heartbeat_ms);
        out.put_slice(&self.log_id.bytes());
        let positions = [self.term, self.first.get(), self.durable.get(), self.resume.get()];
        positions.iter().for_each(|number| out.put_u64_le(*number));
        out.put_u64_le(self.batch_bytes_max);
        out.put_u64_le(self.challenge);
    }

    fn get(from: &mut Bytes) -> Result<Self, ShipError> {
        let (version, heartbeat_ms, log_id) = (int(from)?, int(from)?, LogId::new(id(from)?));
        let (term, first, durable, resume) = (long(from)?, lsn(from)?, lsn(from)?, lsn(from)?);
        let (batch_bytes_max, challenge) = (long(from)?, long(from)?);
        Ok(Self { version, heartbeat_ms, log_id, term, first, durable, resume, batch_bytes_max, challenge })
    }
}

pub(super) fn garbage<T>(what: &'static str) -> Result<T, ShipError> {
    Err(ShipError::Garbage { what })
}

const SHORT: ShipError = ShipError::Garbage { what: "a frame shorter than what it says" };

fn byte(from: &mut Bytes) -> Result<u8, ShipError> {
    from.try_get_u8().map_err(|_| SHORT)
}

fn int(from: &mut Bytes) -> Result<u32, ShipError> {
    from.try_get_u32_le().map_err(|_| SHORT)
}

fn zero(from: &mut Bytes) -> Result<(), ShipError> {
    if int(from)? == 0 { Ok(()) } else { garbage("reserved bytes that are not zero") }
}

fn long(from: &mut Bytes) -> Result<u64, ShipError> {
    from.try_get_u64_le().map_err(|_| SHORT)
}

fn lsn(from: &mut Bytes) -> Result<Lsn, ShipError> {
    long(from).map(Lsn::new)
}

fn id(from: &mut Bytes) -> Result<[u8; 16], ShipError> {
    let mut id = [0; 16];
    from.try_copy_to_slice(&mut id).map_err(|_| SHORT)?;
    Ok(id)
}

/// The CRC of a frame, as far as it is covered; `frame` may end before the records do.
fn checksum(frame: &[u8]) -> u32 {
    let end = if frame[4] == 4 { (HEADER_BYTES + RECORDS_BYTES).min(frame.len()) } else { frame.len() };
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..CRC_AT]);
    hasher.update(&frame[HEADER_BYTES..end]);
    hasher.finalize()
}

/// How many bytes a frame with `stored` bytes of records takes.
pub(super) fn records_frame_bytes(stored: usize) -> usize {
    HEADER_BYTES + RECORDS_BYTES + stored
}

/// Frames out of bytes that arrive in any pieces. Holds one frame at most, and of it no more than twice what arrived.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The longest records that may come; none at a source.
    stored_bytes_max: usize,
    /// Which session must be named; none before the hello.
    pub(super) session: Option<u64>,
    /// The session that the last whole frame named.
    pub(super) named: Option<u64>,
    frame: Vec<u8>,
}

impl Decoder {
    pub(super) fn new(stored_bytes_max: usize, session: Option<u64>) -> Self {
        Self { stored_bytes_max, session, named: None, frame: Vec::new() }
    }

    /// How much memory it holds, in bytes.
    pub(super) fn held(&self) -> usize {
        self.frame.capacity()
    }

    /// The next frame and the session it names, if `input`, from which it takes what it needs, completes one.
    pub(super) fn take(&mut self, input: &mut &[u8]) -> Result<Option<(u64, Frame)>, ShipError> {
        self.fill(input, HEADER_BYTES);
        if self.frame.len() < HEADER_BYTES {
            return Ok(None);
        }
        let mut header = &self.frame[..CRC_AT];
        let (length, kind, session) = (header.get_u32_le() as usize, header.get_u32_le(), header.get_u64_le());
        let max = if kind == 4 { self.stored_bytes_max.saturating_add(RECORDS_BYTES) } else { CONTROL_BYTES_MAX };
        if length > max {
            return Err(ShipError::FrameTooLarge { len: length as u64, max: max as u64 });
        }
        self.fill(input, HEADER_BYTES + length);
        if self.frame.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        let mut frame = Bytes::from(std::mem::take(&mut self.frame));
        if (&frame[CRC_AT..HEADER_BYTES]).get_u32_le() != checksum(&frame) {
            return garbage("a damaged frame");
        }
        let Ok(kind) = u8::try_from(kind) else { return garbage("reserved bytes that are not zero") };
        if self.session.is_some_and(|expected| expected != session) && !seeded::is("ship-no-session") {
            return Err(ShipError::ReplayedSession);
        }
        self.named = Some(session);
        frame.advance(HEADER_BYTES);
        Frame::decode(kind, frame).map(|frame| Some((session, frame)))
    }

    /// Takes from `input` up to `want` bytes in all. Memory grows with what arrives, not with what was announced.
    fn fill(&mut self, input: &mut &[u8], want: usize) {
        let len = input.len().min(want.saturating_sub(self.frame.len()));
        let (taken, rest) = input.split_at(len);
        let need = self.frame.len() + len;
        if need > self.frame.capacity() {
            let capacity = need.max((2 * self.frame.len()).min(want));
            self.frame.reserve_exact(capacity - self.frame.len());
        }
        self.frame.extend_from_slice(taken);
        *input = rest;
    }
}

#[cfg(test)]
mod tests;
