//! A real connection between a source and a sink, and somebody in between who flips, drops, doubles, inserts and replays
//! bytes, but knows no checksum.

use std::sync::LazyLock;
use std::time::Duration;

use ringwal::harness::Life;
use ringwal::ship::{Batch, Sink, SinkEvent, Source, SourceEvent, Standing};
use ringwal::sim::Sim;
use ringwal::sim::rng::Rng;
use ringwal::{LogId, Lsn, Options};

use crate::input::Input;
use crate::layout::BLOCK;
use crate::life::{append, turn};
use crate::logs::sim_options;
use crate::record::LOG_ID;
use crate::shipping::{sink_config, source_config};

/// The records of the source's log, and how many of them are of the first term.
const RECORDS: u64 = 40;
const OLD: u64 = 15;
const OLD_TERM: u64 = 3;
const TERM: u64 = 5;

/// The source's log: what it ships from each record on, how it stands at each, and the payloads.
struct Shipped {
    batches: Vec<Batch>,
    standings: Vec<Standing>,
    payloads: Vec<Vec<u8>>,
}

static SHIPPED: LazyLock<Shipped> = LazyLock::new(|| {
    let sim = Sim::new(1, sim_options());
    let options = Options::default().block_bytes(512).segment_bytes(64 * BLOCK as u64).batch_bytes_max(1024);
    let life = Life::open_named(&sim, &options.record_bytes_max(1000), 1, LogId::new(LOG_ID));
    let mut life = life.expect("an empty directory opens");
    let payload = |n: u64| vec![n as u8; usize::try_from(n * 29 % 200).expect("few")];
    let payloads: Vec<_> = (1..=RECORDS).map(payload).collect();
    for (at, payload) in payloads.iter().enumerate() {
        append(&sim, &mut life, payload).expect("there is room");
        // A new batch begins where the term changes, and here and there besides.
        if at % 4 == 3 || at as u64 + 1 == OLD {
            (0..20).for_each(|_| turn(&sim, &mut life));
        }
    }
    (0..50).for_each(|_| turn(&sim, &mut life));
    let term = |n: u64| if n <= OLD { OLD_TERM } else { TERM };
    let batch = |n: u64| life.batch(Lsn::new(n), Lsn::MAX, term(n)).expect("a batch of each record");
    let standing = |n: u64| life.standing(Lsn::new(n), term(n)).expect("a record that stands");
    Shipped {
        batches: (1..=RECORDS).map(batch).collect(),
        standings: (1..=RECORDS).map(standing).collect(),
        payloads,
    }
});

/// What is shipped from each record on.
pub(crate) fn batches() -> &'static [Batch] {
    &SHIPPED.batches
}

/// The next batch of a log that is durable up to there.
pub(crate) fn batch(wanted: Lsn, durable: u64) -> Batch {
    let at = usize::try_from(wanted.get() - 1).expect("few");
    let batch = &SHIPPED.batches[at];
    // A batch becomes durable as a whole.
    assert!(batch.last().get() <= durable, "the source wants what is durable");
    batch.clone()
}

/// The last record of the batch that holds `n`: what is durable ends with a batch.
fn end_of_batch(n: u64) -> u64 {
    usize::try_from(n).ok().and_then(|n| n.checked_sub(1)).map_or(0, |at| SHIPPED.batches[at].last().get())
}

/// One direction: bytes under way, and some that went by.
#[derive(Default)]
struct Pipe {
    bytes: Vec<u8>,
    past: Vec<u8>,
}

impl Pipe {
    fn receive(&mut self, len: usize) -> Vec<u8> {
        let taken: Vec<u8> = self.bytes.drain(..len.min(self.bytes.len())).collect();
        self.past.extend_from_slice(&taken);
        taken
    }

    /// Somebody does something to what is under way.
    fn meddle(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        let from = input.index(self.bytes.len().min(65536));
        let end = (from + 1 + input.index(300)).min(self.bytes.len());
        match what % 6 {
            0 if from < end => self.bytes[from] ^= 1 << (what >> 5),
            1 => drop(self.bytes.drain(from..end)),
            2 => {
                let doubled = self.bytes[from..end].to_vec();
                self.bytes.splice(from..from, doubled);
            }
            3 => {
                let mut noise = vec![0; usize::from(what)];
                Rng::new(what.into()).fill(&mut noise);
                self.bytes.splice(from..from, noise);
            }
            4 => {
                let begin = input.index(self.past.len().min(65536));
                let again = self.past[begin..(begin + end - from).min(self.past.len())].to_vec();
                self.bytes.splice(from..from, again);
            }
            _ => self.bytes.truncate(from),
        }
    }
}

/// Both ends, and what each really has.
struct Connection {
    source: Source,
    sink: Sink,
    down: Pipe,
    up: Pipe,
    now: Duration,
    /// Durable at the source, received and durable at the sink.
    durable: u64,
    received: u64,
    stored: u64,
    ended: [bool; 2],
}

/// One connection, from hello to its end or to the end of the input.
pub(crate) fn run(input: &mut Input<'_>) {
    let durable = end_of_batch(u64::from(input.byte()) % (RECORDS + 1));
    let held = u64::from(input.byte()) % (durable + 1);
    let at = usize::try_from(held).expect("few");
    let mut standing = at.checked_sub(1).map_or(Standing::default(), |at| SHIPPED.standings[at]);
    let diverged = held > 0 && input.byte() == 1;
    standing.crc ^= u32::from(diverged);
    let mut connection = Connection {
        source: Source::new(source_config(1, durable, TERM), Duration::ZERO),
        sink: Sink::new(sink_config(held, standing.term, standing), Duration::ZERO),
        down: Pipe::default(),
        up: Pipe::default(),
        now: Duration::ZERO,
        durable,
        received: held,
        stored: held,
        ended: [false; 2],
    };
    while !input.is_empty() {
        connection.step(input);
        assert!(!diverged || connection.received == held, "A3: records behind a log that is another");
    }
}

impl Connection {
    fn step(&mut self, input: &mut Input<'_>) {
        while let Some(piece) = self.source.poll_transmit() {
            self.down.bytes.extend_from_slice(&piece);
        }
        while let Some(piece) = self.sink.poll_transmit() {
            self.up.bytes.extend_from_slice(&piece);
        }
        match input.index(8) {
            0 | 1 => {
                let bytes = self.down.receive(length(input));
                self.sink.handle_bytes(&bytes, self.now);
            }
            2 | 3 => {
                let bytes = self.up.receive(length(input));
                self.source.handle_bytes(&bytes, self.now);
            }
            4 => {
                let pipe = if input.bit() { &mut self.down } else { &mut self.up };
                pipe.meddle(input);
            }
            5 => {
                self.now += Duration::from_millis(input.byte().into());
                self.source.handle_time(self.now);
                self.sink.handle_time(self.now);
            }
            6 => {
                self.durable = end_of_batch((self.durable + u64::from(input.byte() % 8)).min(RECORDS));
                self.source.handle_durable(Lsn::new(self.durable));
            }
            _ => {
                self.stored = self.received.min(self.stored + u64::from(input.byte()));
                self.sink.handle_durable(Lsn::new(self.stored));
            }
        }
        while let Some(wanted) = self.source.poll_wants() {
            self.source.handle_batch(&batch(wanted, self.durable));
        }
        while let Some(event) = self.source.poll_event() {
            self.handle_source(event);
        }
        while let Some(event) = self.sink.poll_event() {
            self.handle_sink(event);
        }
    }

    fn handle_source(&mut self, event: SourceEvent) {
        assert!(!self.ended[0], "A10: {event:?} behind the end of the source");
        match event {
            SourceEvent::Check { lsn } => {
                let at = usize::try_from(lsn.get() - 1).expect("few");
                self.source.handle_checked(SHIPPED.standings[at]);
            }
            SourceEvent::Acked { durable } => {
                assert!(durable.get() <= self.stored, "A1: {durable} acknowledged, {} durable", self.stored);
            }
            SourceEvent::Started { from, .. } => assert!(from.get() <= self.received + 1, "A1: {from} is not the next"),
            SourceEvent::Fenced { .. } => panic!("A3: fenced by nobody"),
            SourceEvent::Ended(_) => self.ended[0] = true,
        }
    }

    fn handle_sink(&mut self, event: SinkEvent) {
        assert!(!self.ended[1], "A10: {event:?} behind the end of the sink");
        match event {
            SinkEvent::Welcome { term, .. } => {
                assert_eq!(term, TERM, "A3: another term than the source's");
                self.sink.handle_ready(self.now);
            }
            SinkEvent::Group(group) => {
                assert_eq!(group.first.get(), self.received + 1, "A2: a group that is not the next");
                let at = usize::try_from(self.received).expect("few");
                let same = group.records.iter().zip(&SHIPPED.payloads[at..]).all(|(record, payload)| record == payload);
                assert!(same, "A3: other records than the source's: {group:?}");
                self.received += group.records.len() as u64;
                assert_eq!(self.received, end_of_batch(self.received), "A4: a group in part");
                assert!(self.received <= self.durable, "A7: records that are not durable at the source");
                assert_eq!(group.term, if self.received <= OLD { OLD_TERM } else { TERM }, "A3: another term");
            }
            SinkEvent::Durable { source } => {
                assert!(source.get() <= self.durable, "A7: {source} durable at the source, {} is", self.durable);
            }
            SinkEvent::Ended(_) => self.ended[1] = true,
        }
    }
}

/// How many bytes arrive: all of them, or a few.
fn length(input: &mut Input<'_>) -> usize {
    match input.byte() {
        few @ ..64 => few.into(),
        64..128 => 500,
        _ => usize::MAX,
    }
}
