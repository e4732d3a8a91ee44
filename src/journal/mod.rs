//! DECISIONS: sans-I/O. Events go in by `handle_*`, decisions come out by `poll_*`, time is an argument.
//!
//! - [`batch`]: which records share a batch, and where it goes ([`placement`]); asked by appenders.
//! - [`Journal`]: when the next batch leaves, what its header says, and what is durable ([`watermark`]); asked by the
//!   ring thread.
//! - [`recovery`]: the labelled table of everything a crash can leave behind.

pub(crate) mod batch;
pub(crate) mod placement;
pub(crate) mod recovery;
pub(crate) mod watermark;

use std::time::Duration;

pub(crate) use batch::{Batcher, Placing, Shape};
pub(crate) use placement::{Place, Placement, Space};

use crate::format::{BatchHeader, Kind, Link};
use crate::lsn::{Epoch, LogId, Lsn, SegmentId};
use crate::options::Limits;
use watermark::Watermark;

/// What every batch of an epoch says alike, and the link to the last one.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) log_id: LogId,
    pub(crate) epoch: Epoch,
    pub(crate) nonce: u64,
    pub(crate) term: u64,
    pub(crate) trim: Lsn,
    pub(crate) link: Option<Link>,
}

impl Chain {
    /// The header of a batch that stands behind the last one.
    ///
    /// # Panics
    /// If the records are over 4 GiB: bounded by `record_bytes_max` and the batch size long before.
    pub(crate) fn header(&self, kind: Kind, shape: &Shape, durable: Lsn) -> BatchHeader {
        BatchHeader {
            kind,
            cut: false,
            close: false,
            log_id: self.log_id,
            epoch: self.epoch,
            nonce: self.nonce,
            segment: shape.place.segment,
            block: shape.place.block,
            records_bytes: u32::try_from(shape.records_bytes).expect("a batch is bounded by 1 GiB"),
            first: shape.first,
            count: shape.count,
            digest: shape.digest,
            durable,
            trim: self.trim,
            restated_to: Lsn::ZERO,
            term: self.term,
            link: self.link,
        }
    }

    /// Writes `header` at the start of `out` and links the next batch to it.
    pub(crate) fn append(&mut self, header: &BatchHeader, out: &mut [u8]) {
        let crc = header.encode(out);
        self.link = Some(header.link_to(crc));
    }
}

/// A segment of the live chain. Within it the batches stand one behind the other from block 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathSegment {
    pub(crate) id: SegmentId,
    /// The LSN of the first batch in it.
    pub(crate) first: Lsn,
    /// The batch, in the segment before on the path, that its first batch links to.
    pub(crate) link: Option<Link>,
}

impl PathSegment {
    /// The segment that begins with this batch.
    pub(crate) fn new(first: &BatchHeader) -> Self {
        Self { id: first.segment, first: first.first, link: first.link }
    }
}

/// What is staged, as far as the journal cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Staged {
    Nothing,
    /// An open batch that could take more records.
    Open,
    /// At least one closed batch.
    Closed,
}

/// What the driver should do next for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Form and submit the next staged batch.
    Batch,
    /// Submit a seal.
    Seal { close: bool },
    /// Nothing before this time, or before something happens.
    Wait(Option<Duration>),
    /// The log is closed and sealed: nothing will ever be due again.
    Finished,
}

/// One log's state machine on the ring thread.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    chain: Chain,
    watermark: Watermark,
    flight_max: usize,
    /// How many batches may be in flight now: at most `flight_max`.
    depth: usize,
    delay_max: Duration,
    idle_seal: Duration,
    /// Whether the last batch is a seal: nothing to claim.
    sealed: bool,
    /// Whether that seal is a close seal, or none could be placed.
    closed: bool,
    /// Since when something is staged and not formed.
    staged_since: Option<Duration>,
    /// Since when nothing is in flight and nothing staged.
    idle_since: Option<Duration>,
}

impl Journal {
    /// Goes on behind an opening and its seal.
    pub(crate) fn new(chain: Chain, durable: Lsn, limits: &Limits) -> Self {
        Self {
            chain,
            watermark: Watermark::new(durable),
            flight_max: limits.flight_max,
            depth: limits.flight_max,
            delay_max: limits.delay_max,
            idle_seal: limits.idle_seal,
            sealed: true,
            closed: false,
            staged_since: None,
            idle_since: None,
        }
    }

    /// What is due at `now`, given what is staged and whether the log is closing.
    pub(crate) fn poll_next(&mut self, staged: Staged, closing: bool, now: Duration) -> Next {
        if self.closed {
            return if self.watermark.in_flight() == 0 { Next::Finished } else { Next::Wait(None) };
        }
        if staged != Staged::Nothing {
            self.idle_since = None;
            let due = *self.staged_since.get_or_insert(now) + self.delay_max;
            return if self.watermark.in_flight() >= self.depth {
                Next::Wait(None)
            } else if staged == Staged::Closed || closing || now >= due {
                Next::Batch
            } else {
                Next::Wait(Some(due))
            };
        }
        self.staged_since = None;
        if self.watermark.in_flight() > 0 {
            return Next::Wait(None);
        }
        // Nothing in flight and nothing staged: a seal may be submitted (format rule 6).
        if closing {
            return Next::Seal { close: true };
        }
        if self.sealed {
            return Next::Wait(None);
        }
        let due = *self.idle_since.get_or_insert(now) + self.idle_seal;
        if now >= due { Next::Seal { close: false } } else { Next::Wait(Some(due)) }
    }

    /// A batch of `shape` is about to be submitted: writes its header at the start of `out`, returns its ticket.
    pub(crate) fn handle_batch(&mut self, shape: &Shape, out: &mut [u8]) -> u64 {
        let header = self.chain.header(Kind::Data, shape, self.watermark.durable());
        self.chain.append(&header, out);
        self.staged_since = None;
        self.sealed = false;
        self.watermark.handle_submitted(shape.last())
    }

    /// A seal of `shape` is about to be submitted: as for a batch.
    pub(crate) fn handle_seal(&mut self, shape: &Shape, close: bool, out: &mut [u8]) -> u64 {
        assert_eq!(self.watermark.in_flight(), 0, "a seal is submitted with nothing in flight");
        let mut header = self.chain.header(Kind::Seal, shape, self.watermark.durable());
        header.close = close;
        self.chain.append(&header, out);
        self.sealed = true;
        self.closed = close;
        self.idle_since = None;
        self.watermark.handle_submitted(shape.last())
    }

    /// No place was to be had for a seal: the log stays unsealed, which costs the next opening a cut and nothing else.
    pub(crate) fn handle_no_place(&mut self, close: bool) {
        self.sealed = true;
        self.closed = close;
        self.idle_since = None;
    }

    /// The batch with this ticket is written and flushed.
    pub(crate) fn handle_completed(&mut self, ticket: u64) {
        self.watermark.handle_completed(ticket);
    }

    /// Everything up to here is durable.
    pub(crate) fn poll_durable(&self) -> Lsn {
        self.watermark.durable()
    }

    /// Whether a batch that is about to be submitted is better carried out on the ring thread itself: nothing may be in
    /// flight beside it, and it holds a single record. Then the hop to a kernel worker and back (two wake-ups, some 40 us
    /// of 140 on the machine where it was measured) buys nothing; from two waiting callers on it pays.
    pub(crate) fn prefers_inline(&self, shape: &Shape) -> bool {
        self.flight_max == 1 && shape.count <= 1
    }

    /// Changes how many batches may be in flight from here on; never more than the segments were made for.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn set_depth(&mut self, depth: usize) {
        self.depth = depth.clamp(1, self.flight_max);
    }

    /// Whether another batch could be submitted if one were staged.
    pub(crate) fn has_slot(&self) -> bool {
        !self.closed && self.watermark.in_flight() < self.depth
    }

    /// The link to the last batch.
    pub(crate) fn link(&self) -> Option<Link> {
        self.chain.link
    }
}
