//! A source and a sink, mouth to ear: the handshake, every refusal, the flow, the end.

use std::time::Duration;

use bytes::Bytes;

use super::wire::{Decoder, Frame, HEADER_BYTES};
use super::*;
use crate::format::{RecordCrc, record};
use crate::lsn::LogId;

const LOG: LogId = LogId::new([3; 16]);
const TERM: u64 = 7;
const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn source_config(durable: u64) -> SourceConfig {
    SourceConfig {
        log_id: LOG,
        term: TERM,
        first: Lsn::FIRST,
        durable: Lsn::new(durable),
        batch_bytes_max: 1000,
        challenge: 0xabcd,
        heartbeat: SECOND,
        silence: 5 * SECOND,
        handshake: 10 * SECOND,
    }
}

fn sink_config(last: u64) -> SinkConfig {
    SinkConfig {
        standby: [9; 16],
        name: "b".to_owned(),
        log_id: (last > 0).then_some(LOG),
        term: 0,
        last: Lsn::new(last),
        standing: standing(last),
        group_bytes_max: 1000,
        window_bytes: 400,
        challenge: 0x1234,
        handshake: 10 * SECOND,
    }
}

fn payload(lsn: u64) -> Vec<u8> {
    format!("record {lsn}").into_bytes()
}

fn standing(lsn: u64) -> Standing {
    Standing { term: 5, crc: payload_crc(&payload(lsn)) }
}

fn batch(first: u64, count: u64, term: u64) -> Batch {
    let mut bytes = Vec::new();
    for lsn in first..first + count {
        let (payload, begin) = (payload(lsn), bytes.len());
        bytes.resize(begin + crate::format::record_bytes(payload.len()), 0);
        record::encode(RecordCrc::new(&payload, LOG, 11), Lsn::new(lsn), &payload, &mut bytes[begin..]);
    }
    Batch { term, nonce: 11, first: Lsn::new(first), count: u32::try_from(count).unwrap(), records: bytes.into() }
}

struct Pair {
    source: Source,
    sink: Sink,
    now: Duration,
    told: Vec<SourceEvent>,
    heard: Vec<SinkEvent>,
}

impl Pair {
    fn new(source: SourceConfig, sink: SinkConfig) -> Self {
        let now = Duration::ZERO;
        let (source, sink) = (Source::new(source, now), Sink::new(sink, now));
        Self { source, sink, now, told: Vec::new(), heard: Vec::new() }
    }

    /// Everything that can be said is said; a check is answered by `standing`, a welcome at once.
    fn talk(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(piece) = self.sink.poll_transmit() {
                self.source.handle_bytes(&piece, self.now);
                quiet = false;
            }
            while let Some(piece) = self.source.poll_transmit() {
                self.sink.handle_bytes(&piece, self.now);
                quiet = false;
            }
            while let Some(event) = self.source.poll_event() {
                if let SourceEvent::Check { lsn } = event {
                    self.source.handle_checked(standing(lsn.get()));
                }
                self.told.push(event);
                quiet = false;
            }
            while let Some(event) = self.sink.poll_event() {
                if let SinkEvent::Welcome { .. } = event {
                    self.sink.handle_ready(self.now);
                }
                self.heard.push(event);
                quiet = false;
            }
            if quiet {
                return;
            }
        }
    }

    fn started(durable: u64, last: u64) -> Self {
        let mut pair = Self::new(source_config(durable), sink_config(last));
        pair.talk();
        let started = SourceEvent::Started { from: Lsn::new(last + 1), standby: [9; 16], name: "b".to_owned() };
        assert_eq!(pair.told.last(), Some(&started), "{:?}", pair.heard);
        pair
    }

    fn groups(&self) -> Vec<(u64, u64, usize)> {
        let group = |event: &SinkEvent| match event {
            SinkEvent::Group(group) => Some((group.term, group.first.get(), group.records.len())),
            _ => None,
        };
        self.heard.iter().filter_map(group).collect()
    }

    #[track_caller]
    fn ends(&self, source: &ShipError, sink: &ShipError) {
        assert_eq!(self.told.last(), Some(&SourceEvent::Ended(source.clone())));
        assert_eq!(self.heard.last(), Some(&SinkEvent::Ended(sink.clone())));
        assert!(self.source.is_ended() && self.sink.is_ended());
        assert_eq!(
            (self.source.poll_wants(), self.source.poll_timeout(), self.sink.poll_timeout()),
            (None, None, None)
        );
    }
}

#[track_caller]
fn refused(source: SourceConfig, sink: SinkConfig, at_source: &ShipError, at_sink: &ShipError) -> Pair {
    let mut pair = Pair::new(source, sink);
    pair.talk();
    pair.ends(at_source, at_sink);
    pair
}

#[test]
fn batches_arrive_whole_and_are_acknowledged_when_they_are_durable() {
    let mut pair = Pair::started(6, 2);
    assert!(pair.told.contains(&SourceEvent::Check { lsn: Lsn::new(2) }));
    assert_eq!(pair.source.poll_wants(), Some(Lsn::new(3)));
    pair.source.handle_batch(&batch(3, 2, 5));
    pair.source.handle_batch(&batch(5, 2, TERM));
    assert_eq!(pair.source.poll_wants(), None, "nothing more is durable");
    pair.talk();
    assert_eq!(pair.groups(), [(5, 3, 2), (TERM, 5, 2)]);
    let SinkEvent::Group(group) = &pair.heard[1] else { panic!("{:?}", pair.heard) };
    assert_eq!(group.records, [Bytes::from(payload(3)), Bytes::from(payload(4))]);
    assert!(!pair.told.iter().any(|event| matches!(event, SourceEvent::Acked { .. })), "nothing is durable there");
    pair.sink.handle_durable(Lsn::new(4));
    pair.talk();
    assert_eq!(pair.told.last(), Some(&SourceEvent::Acked { durable: Lsn::new(4) }));
    pair.source.handle_durable(Lsn::new(7));
    assert_eq!(pair.source.poll_wants(), Some(Lsn::new(7)));
    pair.source.close();
    pair.talk();
    pair.ends(&ShipError::Closed, &ShipError::Closed);
}

#[test]
fn a_standby_that_makes_nothing_durable_gets_its_window_and_a_frame() {
    let mut pair = Pair::started(1000, 0);
    let mut sent = 0;
    while let Some(next) = pair.source.poll_wants() {
        pair.source.handle_batch(&batch(next.get(), 1, TERM));
        sent += 1;
        pair.talk();
    }
    let frame = wire::records_frame_bytes(batch(1, 1, TERM).records.len()) as u64;
    assert_eq!(sent, 400u64.div_ceil(frame));
    assert!(pair.sink.held_bytes() as u64 <= 400 + frame);
    pair.sink.handle_durable(Lsn::new(2));
    pair.talk();
    assert_eq!(pair.source.poll_wants(), Some(Lsn::new(sent + 1)));
    // Nor does one that reads nothing cost more than the queue.
    let mut config = sink_config(0);
    config.window_bytes = u64::MAX / 2;
    let mut pair = Pair::new(source_config(u64::MAX / 2), config);
    pair.talk();
    while let Some(next) = pair.source.poll_wants() {
        pair.source.handle_batch(&batch(next.get(), 10, TERM));
        pair.source.handle_time(at(1));
    }
    assert!(pair.source.held_bytes() < QUEUE_BYTES + 2000);
}

#[test]
fn who_may_not_follow_is_told_why_on_both_sides() {
    let (ok, other) = (source_config(10), LogId::new([4; 16]));
    let sink = |change: fn(&mut SinkConfig)| {
        let mut config = sink_config(5);
        change(&mut config);
        config
    };
    let wrong = ShipError::WrongLog { ours: LOG, theirs: other };
    let mirrored = ShipError::WrongLog { ours: other, theirs: LOG };
    refused(ok, sink(|config| config.log_id = Some(LogId::new([4; 16]))), &wrong, &mirrored);
    let (fenced, fences) = (ShipError::Fenced { ours: 7, theirs: 8 }, ShipError::Fenced { ours: 8, theirs: 7 });
    let pair = refused(ok, sink(|config| config.term = 8), &fenced, &fences);
    assert!(pair.told.contains(&SourceEvent::Fenced { term: 8 }));
    let (ahead, behind) = (Lsn::new(11), Lsn::new(10));
    refused(
        ok,
        sink_config(11),
        &ShipError::Ahead { ours: behind, theirs: ahead },
        &ShipError::Ahead { ours: ahead, theirs: behind },
    );
    let apart = |ours, theirs| ShipError::Diverged { ours: Lsn::new(ours), theirs: Lsn::new(theirs), at: Lsn::new(5) };
    refused(ok, sink(|config| config.standing.term = 6), &apart(10, 5), &apart(5, 10));
    refused(ok, sink(|config| config.standing.crc ^= 1), &apart(10, 5), &apart(5, 10));
    let large = ShipError::GroupTooLarge { len: 1000, max: 999 };
    refused(ok, sink(|config| config.group_bytes_max = 999), &large, &large);
    for (first, last) in [(6, 5), (2, 0)] {
        let truncated = ShipError::Truncated { first: Lsn::new(first), last: Lsn::new(last) };
        let source = SourceConfig { first: Lsn::new(first), ..ok };
        refused(source, sink_config(last), &truncated, &truncated);
    }
    let mut pair = Pair::new(SourceConfig { first: Lsn::new(5), ..ok }, sink_config(5));
    pair.talk();
    assert!(!pair.source.is_ended(), "record 5 is there to be compared");
}

/// A sink does not rely on the source's checks: it may be an old one.
#[test]
fn a_sink_checks_a_welcome_itself() {
    let welcome = |change: fn(&mut wire::Welcome)| {
        let mut welcome = wire::Welcome {
            version: 1,
            heartbeat_ms: 1000,
            log_id: LOG,
            term: TERM,
            first: Lsn::FIRST,
            durable: Lsn::new(10),
            resume: Lsn::new(6),
            batch_bytes_max: 1000,
            challenge: 77,
        };
        change(&mut welcome);
        let mut config = sink_config(5);
        config.term = TERM;
        let mut sink = Sink::new(config, Duration::ZERO);
        assert!(sink.poll_transmit().is_some());
        sink.handle_bytes(&Frame::Welcome(welcome).encode(0x1234), at(1));
        let answer = sink.poll_transmit().map(|answer| {
            let decoded = Decoder::new(0, Some(0x1234 ^ 77)).take(&mut &answer[..]);
            decoded.unwrap().unwrap().1
        });
        (sink.poll_event().unwrap(), answer)
    };
    let (event, answer) = welcome(|_| {});
    assert!(matches!(event, SinkEvent::Welcome { .. }) && answer.is_none());
    let (event, answer) = welcome(|welcome| welcome.term = 6);
    assert_eq!(event, SinkEvent::Ended(ShipError::Fenced { ours: 7, theirs: 6 }));
    assert_eq!(answer, Some(Frame::Refuse(ShipError::Fenced { ours: 6, theirs: 7 })));
    let ends = |change| matches!(welcome(change).0, SinkEvent::Ended(_));
    assert!(ends(|welcome| welcome.version = 2));
    assert!(ends(|welcome| welcome.log_id = LogId::new([4; 16])));
    assert!(ends(|welcome| welcome.durable = Lsn::new(4)));
    assert!(ends(|welcome| welcome.resume = Lsn::new(7)));
    assert!(ends(|welcome| welcome.first = Lsn::new(7)));
    assert!(ends(|welcome| welcome.batch_bytes_max = 1001));
}

/// A primary that is fenced by a sink's word, not by its own check, stops too; a stray word does not stop it.
#[test]
fn a_refusal_for_a_greater_term_is_a_fence() {
    let mut pair = Pair::started(2, 2);
    pair.sink.refuse(ShipError::Fenced { ours: 9, theirs: TERM });
    pair.talk();
    assert!(pair.told.contains(&SourceEvent::Fenced { term: 9 }));
    let mut source = Source::new(source_config(0), Duration::ZERO);
    source.handle_bytes(&Frame::Refuse(ShipError::Fenced { ours: 9, theirs: TERM }).encode(1), at(1));
    let ended = source.poll_event();
    assert!(matches!(ended, Some(SourceEvent::Ended(ShipError::Garbage { .. }))), "{ended:?}");
}

/// What a strict sink must not take, each in place of the batch 3..=4 that is due.
#[test]
fn a_sink_takes_only_the_next_records_whole_and_durable() {
    let session = 0xabcd ^ 0x1234;
    let given = |change: fn(&mut wire::Shipped)| {
        let mut pair = Pair::started(2, 2);
        let Batch { term, nonce, first, count, records } = batch(3, 2, TERM);
        let mut shipped = wire::Shipped { term, nonce, first, durable: Lsn::new(9), count, stored: records };
        change(&mut shipped);
        let mut bytes = Frame::Records(shipped.clone()).encode(session).to_vec();
        bytes.extend_from_slice(&shipped.stored);
        pair.sink.handle_bytes(&bytes, at(1));
        pair.talk();
        match pair.heard.last() {
            Some(SinkEvent::Ended(error)) => {
                assert!(pair.groups().is_empty());
                assert!(pair.source.is_ended(), "the source is told");
                Some(error.clone())
            }
            _ => None,
        }
    };
    const fn lsn(at: u64) -> Lsn {
        Lsn::new(at)
    }
    assert_eq!(given(|_| {}), None);
    assert_eq!(given(|shipped| shipped.term = 5), None);
    let found = given(|shipped| shipped.first = lsn(2));
    assert_eq!(found, Some(ShipError::Duplicate { expected: lsn(3), found: lsn(2) }));
    let found = given(|shipped| shipped.first = lsn(4));
    assert_eq!(found, Some(ShipError::Gap { expected: lsn(3), found: lsn(4) }));
    assert_eq!(given(|shipped| shipped.term = 4), Some(ShipError::Term { bound: 5, found: 4 }));
    assert_eq!(given(|shipped| shipped.term = 8), Some(ShipError::Term { bound: 7, found: 8 }));
    let found = given(|shipped| shipped.durable = lsn(3));
    assert_eq!(found, Some(ShipError::NotDurable { durable: lsn(3), found: lsn(4) }));
    let odd = |change| matches!(given(change), Some(ShipError::Garbage { .. }));
    assert!(odd(|shipped| shipped.count = 1));
    assert!(odd(|shipped| shipped.count = 3));
    assert!(odd(|shipped| (shipped.count, shipped.stored) = (0, Bytes::new())));
    assert!(odd(|shipped| shipped.nonce += 1));
    assert!(odd(|shipped| {
        let mut stored = shipped.stored.to_vec();
        stored[13] ^= 1;
        shipped.stored = stored.into();
    }));
    let long = given(|shipped| shipped.stored = vec![0; 1001].into());
    assert!(matches!(long, Some(ShipError::FrameTooLarge { .. })));
}

#[test]
fn a_sink_does_not_take_more_than_it_allowed() {
    let mut pair = Pair::started(1000, 0);
    for lsn in 1..=9 {
        let Batch { term, nonce, first, count, records } = batch(lsn, 1, TERM);
        let shipped = wire::Shipped { term, nonce, first, durable: Lsn::new(1000), count, stored: records };
        let mut bytes = Frame::Records(shipped.clone()).encode(0xabcd ^ 0x1234).to_vec();
        bytes.extend_from_slice(&shipped.stored);
        pair.sink.handle_bytes(&bytes, at(1));
    }
    pair.talk();
    assert!(matches!(pair.heard.last(), Some(SinkEvent::Ended(ShipError::Overrun { .. }))), "{:?}", pair.heard);
    assert!(pair.groups().len() < 9);
}

#[test]
fn a_recording_of_another_connection_is_refused_by_either_side() {
    let record = |challenge| {
        let mut pair = Pair::new(SourceConfig { challenge, ..source_config(5) }, sink_config(5));
        let hello = pair.sink.poll_transmit().unwrap();
        pair.source.handle_bytes(&hello, at(1));
        pair.source.handle_checked(standing(5));
        let welcome = pair.source.poll_transmit().unwrap();
        pair.sink.handle_bytes(&welcome, at(1));
        pair.sink.handle_ready(at(1));
        let start = pair.sink.poll_transmit().unwrap();
        [hello, welcome, start]
    };
    let [hello, welcome, start] = record(1);
    let mut source = Source::new(SourceConfig { challenge: 2, ..source_config(5) }, at(1));
    source.handle_bytes(&hello, at(1));
    source.handle_checked(standing(5));
    source.handle_bytes(&start, at(1));
    assert_eq!(source.poll_event(), Some(SourceEvent::Check { lsn: Lsn::new(5) }));
    assert_eq!(source.poll_event(), Some(SourceEvent::Ended(ShipError::ReplayedSession)));
    let mut sink = Sink::new(SinkConfig { challenge: 3, ..sink_config(5) }, at(1));
    sink.handle_bytes(&welcome, at(1));
    assert_eq!(sink.poll_event(), Some(SinkEvent::Ended(ShipError::ReplayedSession)));
}

#[test]
fn acknowledgements_of_what_was_not_sent_end_the_connection() {
    let given = |durable, received, credit, heartbeat| {
        let mut pair = Pair::started(9, 2);
        pair.source.handle_batch(&batch(3, 2, TERM));
        let (durable, received) = (Lsn::new(durable), Lsn::new(received));
        let ack = Frame::Ack(wire::Ack { durable, received, credit, heartbeat });
        pair.source.handle_bytes(&ack.encode(0xabcd ^ 0x1234), at(1));
        !pair.source.is_ended()
    };
    assert!(given(3, 4, 400, 0));
    assert!(!given(5, 5, 400, 0) && !given(4, 3, 400, 0) && !given(1, 4, 400, 0));
    assert!(!given(3, 4, 399, 0) && !given(3, 4, 400, 1));
}

#[test]
fn heartbeats_keep_a_connection_and_silence_ends_it() {
    let mut pair = Pair::started(2, 2);
    for second in 1..=20 {
        pair.now = at(second);
        assert!(pair.source.poll_timeout() <= Some(at(second)));
        pair.source.handle_durable(Lsn::new(second));
        pair.source.handle_time(pair.now);
        pair.sink.handle_time(pair.now);
        pair.talk();
        assert!(!pair.source.is_ended() && !pair.sink.is_ended());
    }
    assert!(pair.heard.contains(&SinkEvent::Durable { source: Lsn::new(20) }));
    // The network is gone: each side notices alone.
    let silent = ShipError::Silent { after: 5 * SECOND };
    pair.source.handle_time(at(24));
    pair.sink.handle_time(at(24));
    assert!(!pair.source.is_ended() && !pair.sink.is_ended());
    pair.source.handle_time(at(25));
    pair.sink.handle_time(at(25));
    pair.talk();
    pair.ends(&silent, &silent);
}

/// A frame may take longer than silence is borne: no heartbeat can pass it.
#[test]
fn a_long_frame_on_a_slow_connection_is_not_silence() {
    let mut pair = Pair::started(4, 2);
    pair.source.handle_batch(&batch(3, 2, TERM));
    let mut bytes = Vec::new();
    while let Some(piece) = pair.source.poll_transmit() {
        bytes.extend_from_slice(&piece);
    }
    for (second, byte) in (1..).zip(&bytes) {
        pair.now = at(second);
        pair.sink.handle_bytes(&[*byte], pair.now);
        pair.sink.handle_time(pair.now);
        while let Some(piece) = pair.sink.poll_transmit() {
            pair.source.handle_bytes(&piece, pair.now);
        }
        pair.source.handle_time(pair.now);
        assert!(!pair.source.is_ended() && !pair.sink.is_ended(), "at {second} s");
    }
    pair.talk();
    assert_eq!(pair.groups(), [(TERM, 3, 2)]);
}

#[test]
fn a_handshake_that_takes_too_long_ends() {
    let mut pair = Pair::new(source_config(2), sink_config(2));
    pair.source.handle_time(at(9));
    pair.sink.handle_time(at(9));
    assert!(!pair.source.is_ended() && !pair.sink.is_ended());
    pair.source.handle_time(at(10));
    pair.sink.handle_time(at(10));
    assert!(pair.source.is_ended() && pair.sink.is_ended());
    assert_eq!(pair.source.poll_transmit(), None, "nobody to tell");
}

/// A hello that cannot be read is still answered: the frame around it never changes.
#[test]
fn a_stranger_is_answered_if_it_can_be() {
    let mut hello = Sink::new(sink_config(0), Duration::ZERO).poll_transmit().unwrap().to_vec();
    hello[HEADER_BYTES + 8] = 9;
    hello[HEADER_BYTES + 12] = 8;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&hello[..16]);
    hasher.update(&hello[HEADER_BYTES..]);
    hello[16..20].copy_from_slice(&hasher.finalize().to_le_bytes());
    let mut source = Source::new(source_config(0), Duration::ZERO);
    source.handle_bytes(&hello, at(1));
    let error = ShipError::Version { ours: 1, theirs: 8 };
    assert_eq!(source.poll_event(), Some(SourceEvent::Ended(error)));
    let answer = source.poll_transmit().unwrap();
    let told = Decoder::new(0, Some(0x1234)).take(&mut &answer[..]).unwrap().unwrap().1;
    assert_eq!(told, Frame::Refuse(ShipError::Version { ours: 8, theirs: 1 }));
    let mut source = Source::new(source_config(0), Duration::ZERO);
    source.handle_bytes(b"GET / HTTP/1.1\r\n\r\n...", at(1));
    assert!(source.is_ended() && source.poll_transmit().is_none());
}

#[test]
fn a_promotion_draws_a_term_of_its_own() {
    assert_eq!(next_term(0, 5), 1 << 32 | 5);
    assert_eq!(next_term(1 << 32 | u64::from(u32::MAX), 0), 2 << 32);
}
