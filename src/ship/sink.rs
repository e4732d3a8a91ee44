//! The sink's side of one connection: says where its log stands, takes groups from there on, and says what is durable.
//!
//! It believes nothing: every record's checksum, every LSN, term and bound is checked before a group is handed on.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::wire::{self, Ack, Decoder, Frame, Hello, Shipped, Welcome, garbage};
use super::{Outbox, SILENT_BEATS, ShipError, Standing};
use crate::format::{self, RecordKind, record};
use crate::lsn::{LogId, Lsn};
use crate::seeded;

/// What a sink is, when a connection begins.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// The standby's id: random, kept for ever beside its log.
    pub standby: [u8; 16],
    /// A name for people; cut to 64 bytes.
    pub name: String,
    /// The log, if there is one already.
    pub log_id: Option<LogId>,
    /// The greatest term known, durably.
    pub term: u64,
    /// The last durable record: nothing behind it may be on its way.
    pub last: Lsn,
    /// How the log stands there; anything if it is empty.
    pub standing: Standing,
    /// The longest group that the log takes, in bytes of records. The source's batches must fit, and with the same options
    /// on both sides they may be longer than the longest group that the source takes: see [`super::SourceConfig`].
    pub group_bytes_max: usize,
    /// How many bytes may be under way to durability here: [`super::WINDOW_BYTES`] is a good choice.
    pub window_bytes: u64,
    /// 64 random bits, drawn for this connection.
    pub challenge: u64,
    /// How long the handshake may take.
    pub handshake: Duration,
}

/// A batch of the source: to be appended as one group, under its term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The term under which its records were first appended.
    pub term: u64,
    /// The LSN of its first record, which is the next one of the standby's log.
    pub first: Lsn,
    /// The records' payloads.
    pub records: Vec<Bytes>,
}

/// What a sink tells whoever drives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkEvent {
    /// The source takes us. To be answered by [`Sink::handle_ready`] once the log is there, under this id, and the term is
    /// durable.
    Welcome {
        /// The log.
        log_id: LogId,
        /// The source's term.
        term: u64,
        /// The source's first retained record.
        first: Lsn,
        /// The source's last durable record.
        durable: Lsn,
    },
    /// Records to append.
    Group(Group),
    /// The source's log is durable up to here: what this one's lag is measured by.
    Durable {
        /// The source's last durable record.
        source: Lsn,
    },
    /// It is over. What [`Sink::poll_transmit`] still has is to be sent, then the connection closed.
    Ended(ShipError),
}

#[derive(Debug)]
enum Stage {
    /// Waits for a welcome.
    Greeted,
    /// Waits for [`Sink::handle_ready`].
    Welcomed,
    Streaming,
    Ended,
}

/// The machine of one connection.
#[derive(Debug)]
pub struct Sink {
    config: SinkConfig,
    stage: Stage,
    decoder: Decoder,
    out: Outbox,
    events: VecDeque<SinkEvent>,
    session: u64,
    /// The source's, from its welcome.
    log_id: LogId,
    term: u64,
    source_durable: Lsn,
    heartbeat: Duration,
    silence: Duration,
    /// The last record received, and its term.
    received: Lsn,
    received_term: u64,
    durable: Lsn,
    /// Groups received and not yet durable: the last record and the frame's bytes of each.
    pending: VecDeque<(Lsn, u64)>,
    pending_bytes: u64,
    /// Bytes of records frames received, and those that may come.
    taken: u64,
    credit: u64,
    /// The last heartbeat.
    beat: u64,
    ack_due: bool,
    /// When something is to be said in any case: a long frame on its way holds up the source's heartbeats, not ours.
    beat_due: Duration,
    /// When the other side is given up.
    deadline: Duration,
}

impl Sink {
    /// A connection that begins `now`, with a hello to send.
    #[must_use]
    pub fn new(mut config: SinkConfig, now: Duration) -> Self {
        let fits = (0..=wire::NAME_BYTES_MAX.min(config.name.len())).rev().find(|at| config.name.is_char_boundary(*at));
        config.name.truncate(fits.unwrap_or(0));
        let empty = config.last == Lsn::ZERO;
        let standing = if empty { Standing::default() } else { config.standing };
        let hello = Hello {
            format: format::VERSION,
            log_id: config.log_id,
            standby: config.standby,
            name: config.name.clone(),
            term: config.term,
            last: config.last,
            last_term: standing.term,
            last_crc: standing.crc,
            group_bytes_max: config.group_bytes_max as u64,
        };
        let mut out = Outbox::default();
        out.push(Frame::Hello(hello).encode(config.challenge));
        Self {
            stage: Stage::Greeted,
            decoder: Decoder::new(config.group_bytes_max, Some(config.challenge)),
            out,
            events: VecDeque::new(),
            session: config.challenge,
            log_id: LogId::new([0; 16]),
            term: 0,
            source_durable: Lsn::ZERO,
            heartbeat: config.handshake,
            silence: config.handshake,
            received: config.last,
            received_term: standing.term,
            durable: config.last,
            pending: VecDeque::new(),
            pending_bytes: 0,
            taken: 0,
            credit: config.window_bytes.max(1),
            beat: 0,
            ack_due: false,
            beat_due: now,
            deadline: now.saturating_add(config.handshake),
            config,
        }
    }

    /// Bytes came from the source, cut anywhere.
    pub fn handle_bytes(&mut self, mut bytes: &[u8], now: Duration) {
        if matches!(self.stage, Stage::Streaming) && !bytes.is_empty() {
            self.deadline = now.saturating_add(self.silence);
        }
        while !self.is_ended() {
            let done = match self.decoder.take(&mut bytes) {
                Ok(None) => return,
                Ok(Some((_, frame))) => self.handle_frame(frame),
                Err(error) => Err(error),
            };
            done.unwrap_or_else(|error| self.refuse(error));
        }
    }

    fn handle_frame(&mut self, frame: Frame) -> Result<(), ShipError> {
        match (&self.stage, frame) {
            (Stage::Greeted, Frame::Welcome(welcome)) => self.handle_welcome(&welcome),
            (Stage::Streaming, Frame::Records(shipped)) => self.handle_records(&shipped),
            (Stage::Streaming, Frame::Heartbeat { term, durable, sequence }) => {
                if term != self.term || sequence <= self.beat {
                    return garbage("an odd heartbeat");
                }
                (self.beat, self.ack_due) = (sequence, true);
                self.learn_durable(durable)
            }
            (_, Frame::Refuse(error)) => {
                self.end(error);
                Ok(())
            }
            (_, Frame::Bye) => {
                self.end(ShipError::Closed);
                Ok(())
            }
            _ => garbage("a frame that is not due"),
        }
    }

    fn handle_welcome(&mut self, welcome: &Welcome) -> Result<(), ShipError> {
        let Welcome { version, heartbeat_ms, log_id, term, first, durable, resume, batch_bytes_max, challenge } =
            *welcome;
        // From here on a refusal can be addressed.
        self.session ^= challenge;
        self.decoder.session = Some(self.session);
        let config = &self.config;
        if version != wire::VERSION {
            return Err(ShipError::Version { ours: wire::VERSION, theirs: version });
        }
        if let Some(ours) = config.log_id.filter(|ours| *ours != log_id) {
            return Err(ShipError::WrongLog { ours, theirs: log_id });
        }
        if term < config.term && !seeded::is("ship-no-fencing") {
            return Err(ShipError::Fenced { ours: config.term, theirs: term });
        }
        if config.last > durable && !seeded::is("ship-no-divergence") {
            return Err(ShipError::Ahead { ours: config.last, theirs: durable });
        }
        if first > resume {
            return Err(ShipError::Truncated { first, last: config.last });
        }
        if batch_bytes_max > config.group_bytes_max as u64 {
            return Err(ShipError::GroupTooLarge { len: batch_bytes_max, max: config.group_bytes_max as u64 });
        }
        if resume != config.last.next() {
            return Err(ShipError::Gap { expected: config.last.next(), found: resume });
        }
        (self.log_id, self.term, self.source_durable) = (log_id, term, durable);
        self.heartbeat = Duration::from_millis(heartbeat_ms.max(1).into());
        self.silence = SILENT_BEATS * self.heartbeat;
        self.stage = Stage::Welcomed;
        self.events.push_back(SinkEvent::Welcome { log_id, term, first, durable });
        Ok(())
    }

    /// The log is there, and it will never again follow a source of a smaller term than the welcome's, whatever crashes.
    pub fn handle_ready(&mut self, now: Duration) {
        if matches!(self.stage, Stage::Welcomed) {
            self.stage = Stage::Streaming;
            self.beat_due = now.saturating_add(self.heartbeat);
            self.deadline = now.saturating_add(self.silence);
            self.out.push(Frame::Start { credit: self.credit }.encode(self.session));
        }
    }

    fn handle_records(&mut self, shipped: &Shipped) -> Result<(), ShipError> {
        let Shipped { term, nonce, first, durable, count, ref stored } = *shipped;
        let (expected, last) = (self.received.next(), first.plus(count.into()).prev());
        if first < expected && !seeded::is("ship-duplicate") {
            return Err(ShipError::Duplicate { expected, found: first });
        }
        if first > expected && !seeded::is("ship-gap") {
            return Err(ShipError::Gap { expected, found: first });
        }
        if term < self.received_term {
            return Err(ShipError::Term { bound: self.received_term, found: term });
        }
        if term > self.term && !seeded::is("ship-no-fencing") {
            return Err(ShipError::Term { bound: self.term, found: term });
        }
        if last > durable {
            return Err(ShipError::NotDurable { durable, found: last });
        }
        // It may be overdrawn by one frame, not by two.
        if self.taken >= self.credit {
            return Err(ShipError::Overrun { sent: self.taken, credit: self.credit });
        }
        self.learn_durable(durable)?;
        let mut records = Vec::new();
        for record in record::Records::new(stored, first, self.log_id, nonce) {
            match record {
                Ok(record) if record.kind == RecordKind::User => records.push(stored.slice_ref(record.payload)),
                Ok(_) => {}
                Err(()) => return garbage("a damaged record"),
            }
        }
        if count == 0 || records.len() != count as usize {
            return garbage("a batch that does not hold what it says");
        }
        let bytes = wire::records_frame_bytes(stored.len()) as u64;
        self.taken += bytes;
        self.pending_bytes += bytes;
        self.pending.push_back((last, bytes));
        (self.received, self.received_term) = (last, term);
        if seeded::is("ship-ack-early") {
            (self.durable, self.ack_due) = (last, true);
        }
        if seeded::is("ship-split") && records.len() > 1 {
            let records = vec![records.remove(0)];
            self.events.push_back(SinkEvent::Group(Group { term, first, records }));
        }
        let first = last.next().get() - records.len() as u64;
        self.events.push_back(SinkEvent::Group(Group { term, first: Lsn::new(first), records }));
        Ok(())
    }

    fn learn_durable(&mut self, source: Lsn) -> Result<(), ShipError> {
        if source < self.source_durable {
            return garbage("a source whose durable records became fewer");
        }
        if source > self.source_durable {
            self.source_durable = source;
            self.events.push_back(SinkEvent::Durable { source });
        }
        Ok(())
    }

    /// Everything up to `lsn` is durable here: it is acknowledged, and the room it took is given back.
    pub fn handle_durable(&mut self, lsn: Lsn) {
        let lsn = lsn.min(self.received);
        while let Some((last, bytes)) = self.pending.front().copied()
            && last <= lsn
        {
            self.pending.pop_front();
            self.pending_bytes -= bytes;
            self.credit = self.credit.saturating_add(bytes);
        }
        if lsn > self.durable {
            (self.durable, self.ack_due) = (lsn, true);
        }
    }

    /// Time has passed.
    pub fn handle_time(&mut self, now: Duration) {
        if !self.is_ended() && now >= self.deadline {
            self.refuse(ShipError::Silent { after: self.silence });
        }
        if matches!(self.stage, Stage::Streaming) && now >= self.beat_due {
            (self.beat_due, self.ack_due) = (now.saturating_add(self.heartbeat), true);
        }
    }

    /// Ends in order.
    pub fn close(&mut self) {
        self.finish(&Frame::Bye, ShipError::Closed);
    }

    /// Ends, and says why: also for what only the driver can know, such as a log that failed.
    pub fn refuse(&mut self, error: ShipError) {
        self.finish(&Frame::Refuse(error.clone()), error);
    }

    fn finish(&mut self, word: &Frame, error: ShipError) {
        if self.is_ended() {
            return;
        }
        // Before the welcome the source's challenge is not known, and it would take no word of ours for ours.
        if self.decoder.session != Some(self.config.challenge) {
            self.out.push(word.encode(self.session));
        }
        self.end(error);
    }

    fn end(&mut self, error: ShipError) {
        self.stage = Stage::Ended;
        self.events.push_back(SinkEvent::Ended(error));
    }

    /// The next bytes to send. Acknowledgements are made when they are asked for: however slow the connection, there is
    /// never more than one.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        if self.out.is_empty() && self.ack_due && matches!(self.stage, Stage::Streaming) {
            self.ack_due = false;
            let Self { durable, received, credit, beat: heartbeat, .. } = *self;
            self.out.push(Frame::Ack(Ack { durable, received, credit, heartbeat }).encode(self.session));
        }
        self.out.pop()
    }

    /// When [`Sink::handle_time`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.stage {
            Stage::Ended => None,
            Stage::Streaming => Some(self.beat_due.min(self.deadline)),
            _ => Some(self.deadline),
        }
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<SinkEvent> {
        self.events.pop_front()
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// How many bytes of frames it holds or has handed on and not seen durable: at most the window, and one frame.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        usize::try_from(self.pending_bytes).unwrap_or(usize::MAX).saturating_add(self.decoder.held())
    }
}
