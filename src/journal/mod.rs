//! DECISIONS: sans-I/O. Events go in by `handle_*`, decisions come out by `poll_*`, time is an argument.
//!
//! - [`batch`]: which records share a batch, and where it goes ([`placement`]); asked by appenders.
//! - [`Journal`]: when the next batch leaves ([`departure`]) and how it flies ([`tuner`]), what its header says, and what
//!   is durable ([`watermark`]); asked by the ring thread.
//! - [`retention`]: what may go by itself.
//! - [`recovery`]: the labelled table of everything a crash can leave behind.

pub(crate) mod batch;
mod departure;
pub(crate) mod placement;
pub(crate) mod recovery;
pub(crate) mod retention;
pub(crate) mod tuner;
pub(crate) mod watermark;

use std::time::Duration;

pub(crate) use batch::{Batcher, Placing, Shape};
pub(crate) use placement::{Place, Placement, Space, Terms};

use crate::format::{BatchHeader, Kind, Link};
use crate::lsn::{Epoch, LogId, Lsn, SegmentId};
use crate::method::Method;
use crate::options::Limits;
use crate::seeded;
use departure::{Departure, Departures};
use tuner::{Choice, Landing, Rules, Tuner};
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

/// What the ring thread wants to be woken for, until it looks again. An end, a retry and somebody who
/// begins to wait for a segment wake it in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Nothing: it looks again by itself, at a completion.
    Never,
    /// The next record.
    AtNext,
    /// As many records as this, staged and not yet taken. Also less, where waiting would bring no more into the batch: it
    /// is full, or somebody found no room.
    AtRecords(u32),
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

/// A batch on its way: comes back in [`Journal::handle_landed`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    number: u64,
    choice: Choice,
    records: u32,
    submitted: Duration,
    waited: Duration,
}

impl Ticket {
    /// How it is to become durable.
    pub(crate) fn method(&self) -> Method {
        self.choice.method
    }
}

/// One log's state machine on the ring thread.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    chain: Chain,
    /// The term of the reign in which the records were first appended: elsewhere, on a standby that follows.
    records_term: u64,
    watermark: Watermark,
    tuner: Tuner,
    departures: Departures,
    /// The last record that was submitted.
    submitted: Lsn,
    /// With more bytes than this in flight no batch joins them: what recovery might have to copy fits a segment.
    joinable_bytes: usize,
    delay_max: Duration,
    idle_seal: Duration,
    /// Whether the last batch is a seal: nothing to claim.
    sealed: bool,
    /// Something is to be said at once: by the next batch, or by a seal if there is none.
    seal_due: bool,
    /// Whether that seal is a close seal, or none could be placed.
    closed: bool,
    /// What to be woken for.
    wake: Wake,
    /// Since when something is staged and not formed.
    staged_since: Option<Duration>,
    /// Since when what is staged has been coming in.
    filling_since: Option<Duration>,
    /// Since when nothing is in flight and nothing staged.
    idle_since: Option<Duration>,
    /// Records that landed since the load was last looked at.
    landed: u64,
}

impl Journal {
    /// Goes on behind an opening and its seal.
    pub(crate) fn new(chain: Chain, durable: Lsn, limits: &Limits, rules: Rules) -> Self {
        Self {
            records_term: chain.term,
            chain,
            watermark: Watermark::new(durable),
            tuner: Tuner::new(rules),
            departures: Departures::default(),
            submitted: durable,
            joinable_bytes: limits.joinable_bytes,
            delay_max: limits.delay_max,
            idle_seal: limits.idle_seal,
            sealed: true,
            seal_due: false,
            closed: false,
            wake: Wake::AtNext,
            staged_since: None,
            filling_since: None,
            idle_since: None,
            landed: 0,
        }
    }

    /// What is due at `now`, given what is staged (`records` of it) and whether the log is closing. Afterwards
    /// [`Journal::wake`] says what to be woken for.
    pub(crate) fn poll_next(&mut self, staged: Staged, records: u32, closing: bool, now: Duration) -> Next {
        self.note_load(records, now);
        self.wake = Wake::Never;
        if self.closed {
            return if self.watermark.in_flight() == 0 { Next::Finished } else { Next::Wait(None) };
        }
        if staged != Staged::Nothing {
            self.idle_since = None;
            self.filling_since.get_or_insert(now);
            let due = *self.staged_since.get_or_insert(now) + self.delay_max;
            return if !self.has_slot() {
                Next::Wait(None)
            } else if staged == Staged::Closed || closing || self.seal_due {
                Next::Batch
            } else {
                self.poll_departure(records, due, now)
            };
        }
        self.staged_since = None;
        if self.watermark.in_flight() > 0 {
            if self.has_slot() {
                self.poll_departure(0, now, now);
            }
            return Next::Wait(None);
        }
        // Nothing in flight and nothing staged: a seal may be submitted (format rule 6).
        if closing {
            return Next::Seal { close: true };
        }
        self.filling_since = None;
        let hold = self.poll_departure(0, now, now);
        if self.sealed {
            return hold;
        }
        let due = *self.idle_since.get_or_insert(now) + self.idle_seal;
        match hold {
            _ if now >= due || self.seal_due => Next::Seal { close: false },
            Next::Wait(Some(until)) => Next::Wait(Some(until.min(due))),
            _ => Next::Wait(Some(due)),
        }
    }

    /// Whether the open batch of `records` leaves now; not before `due`.
    fn poll_departure(&mut self, records: u32, due: Duration, now: Duration) -> Next {
        let in_flight = self.watermark.in_flight();
        match self.departures.poll(self.tuner.choice(), in_flight, records, self.tuner.load(), now) {
            Departure::Now if now >= due => Next::Batch,
            Departure::Now => {
                self.wake = Wake::AtNext;
                Next::Wait(Some(due))
            }
            Departure::Hold(wake, until) => {
                self.wake = wake;
                Next::Wait(until)
            }
        }
    }

    /// A batch of `shape` is about to be submitted: writes its header at the start of `out`, returns its ticket.
    pub(crate) fn handle_batch(&mut self, shape: &Shape, out: &mut [u8], now: Duration) -> Ticket {
        let durable = if seeded::is("m20") { self.submitted } else { self.watermark.durable() };
        let mut header = self.chain.header(Kind::Data, shape, durable);
        header.term = self.records_term;
        self.chain.append(&header, out);
        let filling = now.saturating_sub(self.filling_since.unwrap_or(now));
        self.staged_since = None;
        self.filling_since = Some(now);
        self.sealed = false;
        self.departures.handle_left();
        self.take_off(shape, filling / 2, now)
    }

    /// A seal of `shape` is about to be submitted: as for a batch.
    pub(crate) fn handle_seal(&mut self, shape: &Shape, close: bool, out: &mut [u8], now: Duration) -> Ticket {
        assert_eq!(self.watermark.in_flight(), 0, "a seal is submitted with nothing in flight");
        let mut header = self.chain.header(Kind::Seal, shape, self.watermark.durable());
        header.close = close;
        self.chain.append(&header, out);
        self.sealed = true;
        self.closed = close;
        self.idle_since = None;
        self.take_off(shape, Duration::ZERO, now)
    }

    fn take_off(&mut self, shape: &Shape, waited: Duration, now: Duration) -> Ticket {
        self.submitted = shape.last();
        self.seal_due = false;
        Ticket {
            number: self.watermark.handle_submitted(shape.last(), shape.bytes()),
            choice: self.tuner.choice(),
            records: shape.count,
            submitted: now,
            waited,
        }
    }

    /// No place was to be had for a seal: the log stays unsealed, which costs the next opening a cut and nothing else.
    pub(crate) fn handle_no_place(&mut self, close: bool) {
        self.sealed = true;
        self.seal_due = false;
        self.closed = close;
        self.idle_since = None;
    }

    /// Records below `first` are to go. The next batch says so, a seal at once if there is none; when the ticket that is
    /// returned is behind the watermark, it is said for good, and their segments may go.
    pub(crate) fn handle_trim(&mut self, first: Lsn) -> u64 {
        self.chain.trim = self.chain.trim.max(first);
        self.sealed = false;
        self.seal_due = true;
        self.watermark.next_ticket()
    }

    /// Records that are appended from now on are of this term, whichever the log has seen.
    #[cfg(feature = "ship")]
    pub(crate) fn set_records_term(&mut self, term: u64) {
        self.records_term = term.min(self.chain.term);
    }

    /// What is staged leaves at once, and a seal behind it, unless the last batch is one.
    pub(crate) fn hasten_seal(&mut self) {
        self.seal_due = true;
    }

    /// Whether everything submitted is durable and sealed.
    pub(crate) fn is_settled(&self) -> bool {
        self.sealed && self.watermark.in_flight() == 0
    }

    /// Goes on in another epoch, behind its opening and seal, with nothing in flight.
    pub(crate) fn renew(&mut self, chain: Chain, durable: Lsn) {
        assert_eq!(self.watermark.in_flight(), 0, "an epoch ends with nothing in flight");
        self.records_term = chain.term;
        self.chain = chain;
        self.watermark = Watermark::new(durable);
        self.submitted = durable;
        (self.sealed, self.seal_due, self.closed) = (true, false, false);
        (self.staged_since, self.filling_since, self.idle_since) = (None, None, None);
        self.landed = 0;
    }

    /// Whether the batch with this ticket and all before it are durable.
    pub(crate) fn poll_settled(&self, ticket: u64) -> bool {
        self.watermark.is_behind(ticket)
    }

    /// The batch with this ticket is written and flushed.
    pub(crate) fn handle_landed(&mut self, ticket: &Ticket, now: Duration) {
        let before = self.watermark.durable();
        self.watermark.handle_completed(ticket.number);
        if ticket.records == 0 {
            return;
        }
        let published = self.watermark.durable().get() - before.get();
        self.landed += published;
        let Ticket { choice, records, submitted, waited, .. } = *ticket;
        self.departures.handle_landed(published, now.saturating_sub(submitted), now);
        self.tuner.handle_landing(&Landing { choice, records, submitted, landed: now, waited });
    }

    /// How many records were on their way when the last batch landed: those, those still in flight, those staged.
    fn note_load(&mut self, staged: u32, now: Duration) {
        let landed = std::mem::take(&mut self.landed);
        if landed > 0 {
            let in_flight = self.submitted.get() - self.watermark.durable().get();
            self.tuner.handle_load(landed + in_flight + u64::from(staged), now);
        }
    }

    /// Everything up to here is durable.
    pub(crate) fn poll_durable(&self) -> Lsn {
        self.watermark.durable()
    }

    /// What the ring thread should be woken for.
    pub(crate) fn wake(&self) -> Wake {
        self.wake
    }

    /// How batches fly, and why.
    pub(crate) fn tuner(&mut self) -> &mut Tuner {
        &mut self.tuner
    }

    /// Whether another batch could be submitted if one were staged.
    fn has_slot(&self) -> bool {
        let in_flight = self.watermark.in_flight();
        in_flight == 0
            || (in_flight < self.tuner.choice().depth && self.watermark.bytes_in_flight() <= self.joinable_bytes)
    }

    /// The link to the last batch.
    pub(crate) fn link(&self) -> Option<Link> {
        self.chain.link
    }
}
