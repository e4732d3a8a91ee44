//! Shipping: a hostile source, a hostile standby, and a real connection that somebody meddles with.
//!
//! Input: which of the three, then what is said or done, one thing after another. Hostile peers know the checksums and the
//! session; who meddles knows neither.
//!
//! What must hold: nothing panics, nothing is held beyond the bounds, nothing happens behind the end of a connection. A
//! sink hands on records without a gap, under terms that only grow; a source is told of nothing that was not sent. On a
//! real connection the records are those of the source, and only what is durable is acknowledged.

use std::time::Duration;

use ringwal::ship::{Sink, SinkConfig, SinkEvent, Source, SourceConfig, SourceEvent, Standing};
use ringwal::{LogId, Lsn};

use crate::frame::{ACK, Body, HEARTBEAT, HELLO, RECORDS, REFUSE, START, WELCOME, frame};
use crate::gauge::measure;
use crate::input::Input;
use crate::layout::Owner;
use crate::meddled;
use crate::record::LOG_ID;

/// The longest group that a sink takes here, in bytes of records.
pub(crate) const GROUP_BYTES_MAX: usize = 4096;
/// What may be on its way to durability at a sink.
pub(crate) const WINDOW_BYTES: u64 = 8192;
/// How often a source says something.
pub(crate) const BEAT: Duration = Duration::from_millis(10);

/// What either side may allocate, in bytes: a few frames and the events of one of them.
const BYTES_MAX: usize = 64 << 10;

/// The peers' challenges.
pub(crate) const OURS: u64 = 0x1111_2222_3333_4444;
pub(crate) const THEIRS: u64 = 0x5555_6666_7777_8888;

const NONCE: u64 = 99;

/// One connection.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let ((), used) = match input.index(3) {
        0 => measure(|| hostile_source(&mut input)),
        1 => measure(|| hostile_standby(&mut input)),
        _ => (meddled::run(&mut input), crate::gauge::Use::default()),
    };
    assert!(used.peak <= BYTES_MAX, "A10: {used:?} for a connection");
}

/// The sink that everybody here talks to.
pub(crate) fn sink_config(last: u64, term: u64, standing: Standing) -> SinkConfig {
    SinkConfig {
        standby: [7; 16],
        name: "standby".to_owned(),
        log_id: (last > 0 || term > 0).then_some(LogId::new(LOG_ID)),
        term,
        last: Lsn::new(last),
        standing,
        group_bytes_max: GROUP_BYTES_MAX,
        window_bytes: WINDOW_BYTES,
        challenge: OURS,
        handshake: 10 * BEAT,
    }
}

/// And the source.
pub(crate) fn source_config(first: u64, durable: u64, term: u64) -> SourceConfig {
    SourceConfig {
        log_id: LogId::new(LOG_ID),
        term,
        first: Lsn::new(first),
        durable: Lsn::new(durable),
        batch_bytes_max: GROUP_BYTES_MAX as u64,
        challenge: THEIRS,
        heartbeat: BEAT,
        silence: 5 * BEAT,
        handshake: 10 * BEAT,
    }
}

/// In pieces of a length that the input draws.
fn pieces<'a>(bytes: &'a [u8], input: &mut Input<'_>) -> std::slice::Chunks<'a, u8> {
    let len = [usize::MAX, usize::MAX, 1, 7, 19, 20, 21, 100][input.index(8)];
    bytes.chunks(len)
}

/// What a sink has handed on so far.
struct Handed {
    last: Lsn,
    term: u64,
    source_term: u64,
    ended: bool,
}

impl Handed {
    fn take(&mut self, sink: &mut Sink, now: Duration) {
        while let Some(event) = sink.poll_event() {
            assert!(!self.ended, "A10: {event:?} behind the end");
            match event {
                SinkEvent::Welcome { term, .. } => {
                    self.source_term = term;
                    sink.handle_ready(now);
                }
                SinkEvent::Group(group) => {
                    assert_eq!(group.first, self.last.next(), "A2: a group that is not the next");
                    let rising = (self.term..=self.source_term).contains(&group.term);
                    assert!(rising, "A3: a group of term {} behind one of {}", group.term, self.term);
                    assert!(!group.records.is_empty(), "A2: a group of nothing");
                    self.term = group.term;
                    self.last = self.last.plus(group.records.len() as u64);
                }
                SinkEvent::Durable { .. } => {}
                SinkEvent::Ended(_) => self.ended = true,
            }
        }
        assert_eq!(self.ended, sink.is_ended(), "A10: an end that nobody was told");
        let bound = usize::try_from(WINDOW_BYTES).unwrap_or(usize::MAX) + 2 * (GROUP_BYTES_MAX + 100);
        assert!(sink.held_bytes() <= bound, "A10: a sink holds {} bytes", sink.held_bytes());
    }
}

fn hostile_source(input: &mut Input<'_>) {
    let (last, term) = (input.long(), input.long());
    let mut sink = Sink::new(sink_config(last, term, Standing { term, crc: 1 }), Duration::ZERO);
    let mut handed = Handed { last: Lsn::new(last), term: if last == 0 { 0 } else { term }, source_term: 0, ended: false };
    let (mut now, mut session) = (Duration::ZERO, OURS);
    while !input.is_empty() {
        let next = handed.last.next().get();
        let said = match input.index(10) {
            0 => input.take(64).to_vec(),
            1 => {
                let body = Body::new(input).int(1).int(10).log_id().long(term).long(1).long(last).long(next).long(4096);
                let frame = body.long(THEIRS).frame(WELCOME, session);
                session = OURS ^ THEIRS;
                frame
            }
            2..=4 => {
                let owner = Owner { log_id: LOG_ID, nonce: NONCE, first: next };
                let body = Body::new(input).long(handed.source_term).long(NONCE).long(next).long(next.saturating_add(9));
                body.int(0).int(0).records(owner).frame(RECORDS, session)
            }
            5 => {
                let beat = input.byte().into();
                Body::new(input).long(handed.source_term).long(next).long(beat).frame(HEARTBEAT, session)
            }
            6 => {
                let (kind, body) = (input.byte(), input.take(40).to_vec());
                frame(kind, session, &body)
            }
            7 => refusal(input, session),
            8 => {
                now += BEAT * input.byte().into();
                sink.handle_time(now);
                Vec::new()
            }
            _ => {
                sink.handle_durable(Lsn::new(next.saturating_sub(input.byte().into())));
                Vec::new()
            }
        };
        for piece in pieces(&said, input) {
            sink.handle_bytes(piece, now);
            handed.take(&mut sink, now);
        }
        handed.take(&mut sink, now);
        while sink.poll_transmit().is_some() {}
    }
    sink.close();
    handed.take(&mut sink, now);
}

/// A word that ends the connection, with anything in it.
fn refusal(input: &mut Input<'_>, session: u64) -> Vec<u8> {
    let reason = input.byte() % 24;
    let body = Body::new(input).int(reason.into()).int(0).long(1).long(2).long(3).log_id().log_id();
    body.frame(REFUSE, session)
}

/// What a source was told, and what it sent.
struct Told {
    acked: Lsn,
    sent: Lsn,
    ended: bool,
}

impl Told {
    fn take(&mut self, source: &mut Source, honest: bool) {
        while let Some(event) = source.poll_event() {
            assert!(!self.ended, "A10: {event:?} behind the end");
            match event {
                SourceEvent::Check { .. } => {
                    source.handle_checked(if honest { Standing { term: 3, crc: 5 } } else { Standing::default() });
                }
                SourceEvent::Started { from, .. } => (self.acked, self.sent) = (from.prev(), from.prev()),
                SourceEvent::Acked { durable } => {
                    assert!(self.acked < durable && durable <= self.sent, "A1: {durable} acknowledged of {}", self.sent);
                    self.acked = durable;
                }
                SourceEvent::Fenced { .. } => {}
                SourceEvent::Ended(_) => self.ended = true,
            }
        }
        assert_eq!(self.ended, source.is_ended(), "A10: an end that nobody was told");
    }
}

fn hostile_standby(input: &mut Input<'_>) {
    let choices = input.byte();
    let batches = meddled::batches();
    let mut durable = u64::from(input.byte()) % (batches.len() as u64 + 1);
    let mut source = Source::new(source_config(1, durable, 5), Duration::ZERO);
    let mut told = Told { acked: Lsn::ZERO, sent: Lsn::ZERO, ended: false };
    let (mut now, mut session, mut credit) = (Duration::ZERO, OURS, WINDOW_BYTES);
    while !input.is_empty() {
        let said = match input.index(9) {
            0 => input.take(64).to_vec(),
            1 => {
                let last = u64::from(input.byte()) % (durable + 2);
                let body = Body::new(input).plain(b"RWALSHIP").int(1).int(1).int(1).int(0x0101 & 0xff | 3 << 8).log_id();
                let body = body.plain(&[7; 16]).long(5).long(last).long(3).int(5).int(0).long(4096).plain(b"abc");
                body.frame(HELLO, session)
            }
            2 => {
                session = OURS ^ THEIRS;
                Body::new(input).long(credit).frame(START, session)
            }
            3 | 4 => {
                credit += u64::from(input.byte()) << 4;
                let (acked, received) = (told.acked.get().max(told.sent.get().saturating_sub(2)), told.sent.get());
                Body::new(input).long(acked).long(received).long(credit).long(0).frame(ACK, session)
            }
            5 => {
                let (kind, body) = (input.byte(), input.take(40).to_vec());
                frame(kind, session, &body)
            }
            6 => refusal(input, session),
            7 => {
                now += BEAT * input.byte().into();
                source.handle_time(now);
                Vec::new()
            }
            _ => {
                durable = (durable + u64::from(input.byte() % 8)).min(batches.len() as u64);
                source.handle_durable(Lsn::new(durable));
                Vec::new()
            }
        };
        for piece in pieces(&said, input) {
            source.handle_bytes(piece, now);
            told.take(&mut source, choices & 1 == 0);
        }
        told.take(&mut source, choices & 1 == 0);
        if let Some(wanted) = source.poll_wants() {
            assert!(wanted == told.sent.next() && wanted.get() <= durable, "A3: {wanted} wanted, {} sent", told.sent);
            let batch = meddled::batch(wanted, durable);
            told.sent = batch.last();
            source.handle_batch(&batch);
            told.take(&mut source, true);
        }
        assert!(source.held_bytes() <= BYTES_MAX, "A10: a source holds {} bytes", source.held_bytes());
        if choices & 2 == 0 {
            while source.poll_transmit().is_some() {}
        }
    }
    source.close();
    told.take(&mut source, true);
}
