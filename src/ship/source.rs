//! The source's side of one connection: a standby says where it stands, is checked, and gets batches from there on.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::wire::{self, Ack, Decoder, Frame, Hello, Shipped, Welcome, garbage};
use super::{Batch, Outbox, QUEUE_BYTES, ShipError, Standing};
use crate::format;
use crate::lsn::{LogId, Lsn};
use crate::seeded;

/// What a source is, when a connection begins.
#[derive(Clone, Copy, Debug)]
pub struct SourceConfig {
    /// The log.
    pub log_id: LogId,
    /// The term of this reign: under it new records are appended.
    pub term: u64,
    /// The first retained record.
    pub first: Lsn,
    /// The last durable record; [`Source::handle_durable`] goes on from there.
    pub durable: Lsn,
    /// The longest batch that the log makes, in bytes of records: it may fill its buffer, which is the longest group with
    /// a header, in whole blocks, in whole pages, or `batch_bytes_max` if that is longer; less the header.
    pub batch_bytes_max: u64,
    /// 64 random bits, drawn for this connection.
    pub challenge: u64,
    /// How often the standby hears something.
    pub heartbeat: Duration,
    /// After how long a standby that says nothing is given up: several heartbeats.
    pub silence: Duration,
    /// How long the handshake may take.
    pub handshake: Duration,
}

/// What a source tells whoever drives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// How does this log stand at `lsn`? To be answered by [`Source::handle_checked`].
    Check {
        /// The standby's last record.
        lsn: Lsn,
    },
    /// The standby holds everything before `from`, durably, and gets the rest.
    Started {
        /// The first record that it gets.
        from: Lsn,
        /// Its id.
        standby: [u8; 16],
        /// Its name.
        name: String,
    },
    /// Everything up to `durable` is durable at the standby.
    Acked {
        /// Its last durable record.
        durable: Lsn,
    },
    /// A greater term was given out: this primary must stop acknowledging at once.
    Fenced {
        /// That term.
        term: u64,
    },
    /// It is over. What [`Source::poll_transmit`] still has is to be sent, then the connection closed.
    Ended(ShipError),
}

#[derive(Debug)]
enum Stage {
    /// Waits for a hello.
    Open,
    /// Waits for [`Source::handle_checked`].
    Checking(Hello),
    /// Waits for a start.
    Welcomed(Hello),
    Streaming,
    Ended,
}

/// The machine of one connection.
#[derive(Debug)]
pub struct Source {
    config: SourceConfig,
    stage: Stage,
    decoder: Decoder,
    out: Outbox,
    events: VecDeque<SourceEvent>,
    session: u64,
    /// The longest batch that the standby takes.
    group_bytes_max: u64,
    durable: Lsn,
    /// The next record to send.
    next: Lsn,
    acked: Lsn,
    /// Bytes of records frames sent, and those that may be.
    sent: u64,
    credit: u64,
    /// Heartbeats sent.
    beats: u64,
    beat_due: Duration,
    /// When the other side is given up.
    deadline: Duration,
}

impl Source {
    /// A connection that begins `now`.
    #[must_use]
    pub fn new(config: SourceConfig, now: Duration) -> Self {
        Self {
            config,
            stage: Stage::Open,
            decoder: Decoder::new(0, None),
            out: Outbox::default(),
            events: VecDeque::new(),
            session: 0,
            group_bytes_max: 0,
            durable: config.durable,
            next: Lsn::ZERO,
            acked: Lsn::ZERO,
            sent: 0,
            credit: 0,
            beats: 0,
            beat_due: now,
            deadline: now.saturating_add(config.handshake),
        }
    }

    /// Bytes came from the standby, cut anywhere.
    pub fn handle_bytes(&mut self, mut bytes: &[u8], now: Duration) {
        if matches!(self.stage, Stage::Streaming) && !bytes.is_empty() {
            self.deadline = now.saturating_add(self.config.silence);
        }
        while !self.is_ended() {
            let done = match self.decoder.take(&mut bytes) {
                Ok(None) => return,
                Ok(Some((session, frame))) => self.handle_frame(session, frame, now),
                Err(error) => Err(error),
            };
            done.unwrap_or_else(|error| self.refuse(error));
        }
    }

    fn handle_frame(&mut self, session: u64, frame: Frame, now: Duration) -> Result<(), ShipError> {
        match (std::mem::replace(&mut self.stage, Stage::Ended), frame) {
            (Stage::Open, Frame::Hello(hello)) => {
                // From here on a refusal can be addressed.
                (self.session, self.decoder.session) = (session, Some(session ^ self.config.challenge));
                self.stage = Stage::Open;
                self.handle_hello(hello)
            }
            (Stage::Welcomed(hello), Frame::Start { credit }) => {
                (self.stage, self.credit) = (Stage::Streaming, credit);
                self.acked = hello.last;
                self.beat_due = now.saturating_add(self.config.heartbeat);
                self.deadline = now.saturating_add(self.config.silence);
                let Hello { standby, name, .. } = hello;
                self.events.push_back(SourceEvent::Started { from: self.next, standby, name });
                Ok(())
            }
            (Stage::Streaming, Frame::Ack(ack)) => {
                self.stage = Stage::Streaming;
                self.handle_ack(ack)
            }
            // Before a hello nothing says of which connection a frame is: a stray refusal must not stop a primary.
            (Stage::Open, _) => {
                self.stage = Stage::Open;
                garbage("a frame before the hello")
            }
            (_, Frame::Refuse(error)) => {
                if let ShipError::Fenced { ours, theirs } = error
                    && theirs > ours
                {
                    self.events.push_back(SourceEvent::Fenced { term: theirs });
                }
                self.end(error);
                Ok(())
            }
            (_, Frame::Bye) => {
                self.end(ShipError::Closed);
                Ok(())
            }
            (stage, _) => {
                self.stage = stage;
                garbage("a frame that is not due")
            }
        }
    }

    /// Whether the standby may follow; the checks are in the order of the table in [`crate::ship`].
    fn handle_hello(&mut self, hello: Hello) -> Result<(), ShipError> {
        let SourceConfig { log_id, term, first, batch_bytes_max, .. } = self.config;
        if hello.format != format::VERSION {
            return Err(ShipError::Format { ours: format::VERSION, theirs: hello.format });
        }
        if let Some(theirs) = hello.log_id.filter(|theirs| *theirs != log_id) {
            return Err(ShipError::WrongLog { ours: log_id, theirs });
        }
        if hello.term > term && !seeded::is("ship-no-fencing") {
            self.events.push_back(SourceEvent::Fenced { term: hello.term });
            return Err(ShipError::Fenced { ours: term, theirs: hello.term });
        }
        let checks = !seeded::is("ship-no-divergence");
        if hello.last > self.durable && checks {
            return Err(ShipError::Ahead { ours: self.durable, theirs: hello.last });
        }
        // The record at n itself is needed: without it nothing tells whether the logs are one.
        if hello.last < first && (hello.last > Lsn::ZERO || first > Lsn::FIRST) {
            return Err(ShipError::Truncated { first, last: hello.last });
        }
        if hello.group_bytes_max < batch_bytes_max {
            return Err(ShipError::GroupTooLarge { len: batch_bytes_max, max: hello.group_bytes_max });
        }
        if hello.last > Lsn::ZERO && checks {
            self.events.push_back(SourceEvent::Check { lsn: hello.last });
            self.stage = Stage::Checking(hello);
        } else {
            self.welcome(hello);
        }
        Ok(())
    }

    /// The answer to [`SourceEvent::Check`]: how this log stands there.
    pub fn handle_checked(&mut self, standing: Standing) {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Checking(hello) if (hello.last_term, hello.last_crc) == (standing.term, standing.crc) => {
                self.welcome(hello);
            }
            Stage::Checking(hello) => {
                self.stage = Stage::Open;
                self.refuse(ShipError::Diverged { ours: self.durable, theirs: hello.last, at: hello.last });
            }
            stage => self.stage = stage,
        }
    }

    fn welcome(&mut self, hello: Hello) {
        let SourceConfig { log_id, term, first, batch_bytes_max, challenge, heartbeat, .. } = self.config;
        self.next = hello.last.next();
        self.group_bytes_max = hello.group_bytes_max;
        let welcome = Welcome {
            version: wire::VERSION,
            heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX),
            log_id,
            term,
            first,
            durable: self.durable,
            resume: self.next,
            batch_bytes_max,
            challenge,
        };
        self.out.push(Frame::Welcome(welcome).encode(self.session));
        self.session ^= challenge;
        self.stage = Stage::Welcomed(hello);
    }

    fn handle_ack(&mut self, ack: Ack) -> Result<(), ShipError> {
        let sane = self.acked <= ack.durable && ack.durable <= ack.received && ack.received < self.next;
        if !sane || ack.credit < self.credit || ack.heartbeat > self.beats {
            return garbage("an acknowledgement of what was not sent");
        }
        self.credit = ack.credit;
        if ack.durable > self.acked {
            self.acked = ack.durable;
            self.events.push_back(SourceEvent::Acked { durable: ack.durable });
        }
        Ok(())
    }

    /// Everything up to `lsn` is durable here.
    pub fn handle_durable(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn);
    }

    /// The batch that [`Source::poll_wants`] asked for.
    ///
    /// # Panics
    /// If it is another, or not durable: handed over unasked, it would be a hole in the standby's log.
    pub fn handle_batch(&mut self, batch: &Batch) {
        if self.is_ended() {
            return;
        }
        let last = batch.last();
        let durable = if seeded::is("ship-undurable") { self.durable.max(last) } else { self.durable };
        assert!(batch.first == self.next && last <= durable, "{}..={last} for {}", batch.first, self.next);
        let len = batch.records.len() as u64;
        if len > self.group_bytes_max {
            return self.refuse(ShipError::GroupTooLarge { len, max: self.group_bytes_max });
        }
        let Batch { term, nonce, first, count, ref records } = *batch;
        let frame = Frame::Records(Shipped { term, nonce, first, durable, count, stored: records.clone() });
        self.out.push(frame.encode(self.session));
        self.out.push(records.clone());
        self.sent += wire::records_frame_bytes(records.len()) as u64;
        self.next = last.next();
    }

    /// Time has passed.
    pub fn handle_time(&mut self, now: Duration) {
        if self.is_ended() {
            return;
        }
        let streaming = matches!(self.stage, Stage::Streaming);
        if now >= self.deadline {
            let after = if streaming { self.config.silence } else { self.config.handshake };
            return self.refuse(ShipError::Silent { after });
        }
        if streaming && now >= self.beat_due {
            self.beat_due = now.saturating_add(self.config.heartbeat);
            // Behind what is not taken off it would say nothing new.
            if self.out.is_empty() {
                self.beats += 1;
                let beat = Frame::Heartbeat { term: self.config.term, durable: self.durable, sequence: self.beats };
                self.out.push(beat.encode(self.session));
            }
        }
    }

    /// Ends in order.
    pub fn close(&mut self) {
        self.finish(&Frame::Bye, ShipError::Closed);
    }

    /// Ends, and says why: also for what only the driver can know, such as records truncated before they could be read.
    pub fn refuse(&mut self, error: ShipError) {
        self.finish(&Frame::Refuse(error.clone()), error);
    }

    fn finish(&mut self, word: &Frame, error: ShipError) {
        if self.is_ended() {
            return;
        }
        // Who has named no session cannot be answered; who named one in a hello that cannot be read can.
        let session = if self.decoder.session.is_some() { Some(self.session) } else { self.decoder.named };
        if let Some(session) = session {
            self.out.push(word.encode(session));
        }
        self.end(error);
    }

    fn end(&mut self, error: ShipError) {
        self.stage = Stage::Ended;
        self.events.push_back(SourceEvent::Ended(error));
    }

    /// The next bytes to send, a piece of a frame or all of it.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.out.pop()
    }

    /// The first record of the next batch that can be taken: one that is durable, while there is credit and the pieces
    /// not yet taken off are few.
    #[must_use]
    pub fn poll_wants(&self) -> Option<Lsn> {
        let durable = self.next <= self.durable || seeded::is("ship-undurable");
        let room = self.sent < self.credit && self.out.bytes() < QUEUE_BYTES;
        (matches!(self.stage, Stage::Streaming) && durable && room).then_some(self.next)
    }

    /// When [`Source::handle_time`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.stage {
            Stage::Ended => None,
            Stage::Streaming => Some(self.beat_due.min(self.deadline)),
            _ => Some(self.deadline),
        }
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<SourceEvent> {
        self.events.pop_front()
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// How many bytes it holds: bounded by what was not taken off when the last batch came, and that batch.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.out.bytes() + self.decoder.held()
    }
}
