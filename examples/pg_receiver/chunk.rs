//! A record of the log: a chunk of a server's WAL behind a header that says whose and where.
//!
//! ```text
//! magic "PGW1" | timeline u32 | bytes of a WAL segment u32 | system identifier u64 | start u64 | the WAL's bytes
//! ```
//!
//! Numbers are little-endian. The header is shorter than what stands before the WAL's bytes in the server's message
//! ([`super::wire`]), so that it is written over that and the message is the record: nothing is copied but once, by the
//! log. Each record says everything, so that any suffix of a log can be read.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::failure::{Failure, Result};

/// Before the WAL's bytes.
pub(crate) const HEADER_BYTES: usize = 28;

const MAGIC: &[u8; 4] = b"PGW1";

/// A position in a server's WAL, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PgLsn(pub(crate) u64);

impl PgLsn {
    pub(crate) fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }

    /// The start of its segment.
    pub(crate) fn segment_start(self, segment_bytes: u32) -> Self {
        Self(self.0 - self.0 % u64::from(segment_bytes))
    }
}

impl fmt::Display for PgLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for PgLsn {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let half = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
        let (high, low) = text.split_once('/').unwrap_or((text, ""));
        match (half(high), half(low)) {
            (Some(high), Some(low)) => Ok(Self(high << 32 | low)),
            _ => Err(format!("{text:?} is no position such as 0/16B3740")),
        }
    }
}

/// Whose WAL it is: the same for all records of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Made by initdb, and the same in all copies of a cluster.
    pub(crate) system: u64,
    pub(crate) timeline: u32,
    pub(crate) segment_bytes: u32,
}

impl Source {
    /// Whether what comes from `other` may follow what `self` wrote; the names are for the refusal.
    pub(crate) fn check(&self, is: &str, other: &Self, and: &str) -> Result<()> {
        let differ = |what: &str, ours: &dyn fmt::Display, theirs: &dyn fmt::Display| {
            Err(Failure::check(format!("{is} is of {what} {ours}, and {and} of {what} {theirs}")))
        };
        if self.system != other.system {
            return differ("system identifier", &self.system, &other.system);
        }
        if self.timeline != other.timeline {
            return differ("timeline", &self.timeline, &other.timeline);
        }
        if self.segment_bytes != other.segment_bytes {
            return differ("wal_segment_size", &self.segment_bytes, &other.segment_bytes);
        }
        Ok(())
    }

    /// PostgreSQL's name of the segment that `at` lies in.
    pub(crate) fn segment_name(&self, at: PgLsn) -> String {
        let number = at.0 / u64::from(self.segment_bytes);
        let per_file_id = (1 << 32) / u64::from(self.segment_bytes);
        format!("{:08X}{:08X}{:08X}", self.timeline, number / per_file_id, number % per_file_id)
    }

    /// Writes the header of a chunk that starts at `start`.
    pub(crate) fn put(&self, start: PgLsn, header: &mut [u8]) {
        let (magic, rest) = header.split_at_mut(4);
        magic.copy_from_slice(MAGIC);
        rest[..4].copy_from_slice(&self.timeline.to_le_bytes());
        rest[4..8].copy_from_slice(&self.segment_bytes.to_le_bytes());
        rest[8..16].copy_from_slice(&self.system.to_le_bytes());
        rest[16..24].copy_from_slice(&start.0.to_le_bytes());
    }
}

/// A record, taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) source: Source,
    pub(crate) start: PgLsn,
    pub(crate) wal: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// The record `lsn` of the log in `dir`.
    pub(crate) fn read(dir: &Path, lsn: ringwal::Lsn, record: &'a [u8]) -> Result<Self> {
        Self::parse(record).ok_or_else(|| {
            let dir = dir.display();
            Failure::usage(format!("{dir} is the log of something else: its record {lsn} is not PostgreSQL's WAL"))
        })
    }

    fn parse(record: &'a [u8]) -> Option<Self> {
        let mut rest = record.strip_prefix(MAGIC)?;
        let timeline = u32::from_le_bytes(take(&mut rest)?);
        let segment_bytes = u32::from_le_bytes(take(&mut rest)?);
        let system = u64::from_le_bytes(take(&mut rest)?);
        let start = PgLsn(u64::from_le_bytes(take(&mut rest)?));
        let sane = segment_bytes.is_power_of_two() && start.0.checked_add(rest.len() as u64).is_some();
        sane.then_some(Self { source: Source { system, timeline, segment_bytes }, start, wal: rest })
    }

    pub(crate) fn end(&self) -> PgLsn {
        self.start.plus(self.wal.len())
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}
