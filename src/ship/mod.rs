//! Log shipping without a transport: a *source* has a log open for writing, a *sink* follows it into a log of its own.
//!
//! Bytes, batches, durable LSNs and time go in by `handle_*`; bytes, wishes and events come out by `poll_*`. Nothing here
//! reads a clock, draws a random number, or knows what a socket is. `wire` specifies the bytes.
//!
//! | module | what |
//! |---|---|
//! | `wire` | BYTES: the frames, once |
//! | `source` | one for each connected standby |
//! | `sink` | one at a standby |
//! | `quorum` | what is durable here and at k standbys |
//! | `error` | why a connection ended |
//!
//! # A connection
//!
//! ```text
//!   sink                                                       source
//!    │ hello: log id, term known, last LSN n, term and CRC of n  │
//!    ├──────────────────────────────────────────────────────────►│ the refusals below; Check{n}, if n is not 0
//!    │                    welcome: log id, term, resumes at n + 1│
//!    │◄──────────────────────────────────────────────────────────┤
//!    │ makes the log, makes the term durable                     │
//!    │ start: credit                                             │
//!    ├──────────────────────────────────────────────────────────►│ Started{n + 1}
//!    │                   records: one batch, as it stands on disk│
//!    │◄──────────────────────────────────────────────────────────┤ poll_wants: while there is credit
//!    │ checks all of it; one group; durable                      │
//!    │ ack: durable LSN, received LSN, credit                    │
//!    ├──────────────────────────────────────────────────────────►│ Acked{durable}
//!    │                              heartbeat, answered by an ack│
//!    │◄──────────────────────────────────────────────────────────┤
//!    │ ack, as often, while a long frame holds up heartbeats     │
//!    ├──────────────────────────────────────────────────────────►│
//! ```
//!
//! # Terms
//!
//! A log has one LSN of its own at every record, and a *term* beside it: that of the reign in which the record was first
//! appended. A promotion draws a term that is greater than any known and that nobody else draws ([`next_term`]), so two
//! reigns never share one. Hence *log matching*: if two logs agree in LSN and term of one record, they agree in all before
//! it. The CRC of that record's payload is compared too; it costs nothing and finds operators' mistakes.
//!
//! A standby knows two terms: that of its last record, and the greatest that a source showed it in a welcome, which it
//! must make durable before [`Sink::handle_ready`]: from then on no earlier primary gets its acknowledgement. While it
//! catches up the two differ, and both must survive a crash.
//!
//! # What each side promises
//!
//! - **S1** A source ships only what is durable with it (P7): a standby is never ahead of a primary that crashed.
//! - **S2** A source ships a batch whole, and a sink hands it on as one group: groups survive whole there too (P4). The
//!   standby's log must begin a new batch where the term changes.
//! - **S3** A sink hands on records in order, without a gap, each checked against log id, nonce and LSN.
//! - **S4** A sink acknowledges what is durable with it, and nothing else.
//! - **S5** A connection begins only if the standby's log is the beginning of the source's, as far as log matching tells.
//! - **S6** Memory is bounded: at a source by [`QUEUE_BYTES`] and a batch, at a sink by its window and a batch. A standby
//!   that does not read holds up nobody.
//! - **S7** A frame of another connection, a damaged, repeated or missing one ends the connection. Checksums and challenges
//!   find accidents; against malice use TLS.
//!
//! # Refusals, in the order in which they are looked for
//!
//! | what | who | when | what to do |
//! |---|---|---|---|
//! | [`ShipError::Version`] | both | no common version of the protocol | a newer ringwal on the older side |
//! | [`ShipError::Format`] | source | the logs are of different formats | the same ringwal |
//! | [`ShipError::WrongLog`] | both | the log ids differ | connect the right ones |
//! | [`ShipError::Fenced`] | both | the sink knows a greater term | the source must stop writing |
//! | [`ShipError::Ahead`] | both | n is above the source's durable LSN | truncate the standby, or make it anew |
//! | [`ShipError::Truncated`] | both | n is no longer in the source's log | make the standby anew |
//! | [`ShipError::GroupTooLarge`] | both | a batch would not fit a group there | raise the standby's bound |
//! | [`ShipError::Diverged`] | source | term or CRC of n differ | truncate the standby, or make it anew |
//!
//! Record n itself is needed for the comparison: a source that truncates must keep the last record acknowledged by every
//! standby that it does not want to make anew.
//!
//! # Promoting
//!
//! With n standbys, of which k must have a record before it is acknowledged:
//!
//! 1. Stop n - k + 1 of them from following. The rest are too few to acknowledge anything for the old primary, dead or not.
//! 2. Of those take the one whose last record has the greatest term, and of these the one with the most records. What was
//!    acknowledged is there: see [`Quorum`] for the one rule that this needs.
//! 3. Make a term of [`next_term`], above any that one of them knows, durable there; then let it append.
//! 4. Let the others follow it, and nobody else.
//!
//! A log that is made anew counts as lost until it has caught up.

mod error;
mod quorum;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;

use bytes::Bytes;

pub use error::ShipError;
pub use quorum::{Member, Quorum};
pub use sink::{Group, Sink, SinkConfig, SinkEvent};
pub use source::{Source, SourceConfig, SourceEvent};

use crate::format::HeldBatch;
use crate::lsn::Lsn;

/// How many bytes may be under way to durability at a standby, unless it says otherwise.
pub const WINDOW_BYTES: u64 = 8 << 20;

/// A source takes no further batch while it holds so many bytes that were not taken off.
pub const QUEUE_BYTES: usize = 256 << 10;

/// A sink gives up a source that missed so many heartbeats; a source should be as patient.
pub const SILENT_BEATS: u32 = 5;

/// How a log stands at a record: what tells whether two logs agree up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The record's term.
    pub term: u64,
    /// [`payload_crc`] of the record.
    pub crc: u32,
}

impl Standing {
    /// How a log stands at `lsn`, if `held` is the batch of it that holds this record.
    #[cfg_attr(
        not(any(test, feature = "sim", feature = "ship")),
        expect(dead_code, reason = "for who drives a source")
    )]
    pub(crate) fn of(held: &HeldBatch, lsn: Lsn) -> Option<Self> {
        let (found, payload) = held.records_from(lsn).next()?;
        (found == lsn).then(|| Self { term: held.header.term, crc: payload_crc(&payload) })
    }
}

/// The CRC-32 of a record's payload alone: the same in every log that holds it.
#[must_use]
pub fn payload_crc(payload: &[u8]) -> u32 {
    crc32fast::hash(payload)
}

/// The term of a promotion: above every one that is `known`, and with 32 random bits that nobody else draws.
#[must_use]
pub fn next_term(known: u64, random: u32) -> u64 {
    // At the end of all terms it is none above: whoever promotes looks.
    (known >> 32).saturating_add(1).min(u64::from(u32::MAX)) << 32 | u64::from(random)
}

/// A batch of the source's log, or the end of one: from the record that a standby needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub(crate) term: u64,
    pub(crate) nonce: u64,
    pub(crate) first: Lsn,
    pub(crate) count: u32,
    pub(crate) records: Bytes,
}

impl Batch {
    /// The records of `held` from `from` on, without a copy; none if there are none.
    #[cfg_attr(
        not(any(test, feature = "sim", feature = "ship")),
        expect(dead_code, reason = "for who drives a source")
    )]
    pub(crate) fn new(held: &HeldBatch, from: Lsn) -> Option<Self> {
        let records = held.records_from(from);
        let first = records.next_lsn()?;
        let count = u32::try_from(held.last.next().since(first)).ok()?;
        Some(Self { term: held.header.term, nonce: held.header.nonce, first, count, records: records.as_stored() })
    }

    /// Its last record.
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.first.plus(self.count.into()).prev()
    }
}

/// Pieces of frames on their way out.
#[derive(Debug, Default)]
struct Outbox {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Outbox {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.len();
        Some(piece)
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}
