//! `ringwal diskcheck write`: appends records that anybody can make again, and prints what was acknowledged.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use ringwal::Log;

use super::Place;
use super::acks::Ack;
use crate::failure::Failure;
use crate::signals::Interrupt;
use crate::wait::wait;

/// A producer needs little more than its record.
const STACK_BYTES: usize = 256 << 10;

/// Append records and print `ACK LSN LENGTH CRC32`, one flushed line for each once it is durable
///
/// Goes on behind an existing log. Record I of the run depends on nothing but the seed and I.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// The seed of the records' bytes
    #[arg(long)]
    seed: u64,
    /// How many records
    #[arg(long)]
    count: u64,
    /// The records' sizes in bytes, both ends included
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    size: RangeInclusive<u64>,
    /// How many threads append, each waiting for its record before the next
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    producers: u16,
    /// Drive the log inside a thread of the program's own (`LocalLog`), not on a ring thread
    #[arg(long)]
    local: bool,
}

fn parse_range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let (from, to) = (number(from)?, number(to.strip_prefix('=').unwrap_or(to))?);
    if from <= to && to <= 1 << 30 { Ok(from..=to) } else { Err("write A..B with A <= B <= 1073741824".to_owned()) }
}

/// SplitMix64: a stream of 64-bit numbers from any state, good and small.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// Record `index` of the run with this seed. The stream is SplitMix64 begun at `seed + mix(index)`, where `mix(index)` is
/// the first number of the stream begun at `index`; its first number modulo the number of sizes is the length, the
/// others, little-endian, are the bytes.
fn record(seed: u64, index: u64, size: &RangeInclusive<u64>) -> Vec<u8> {
    let mut stream = SplitMix(seed.wrapping_add(SplitMix(index).next()));
    let length = size.start() + stream.next() % (size.end() - size.start() + 1);
    // The range is bounded by 1 GiB.
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&stream.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::note()?;
    let opened = if args.local { args.place.try_open_local(true) } else { args.place.try_open(true) };
    let log = opened.map_err(|error| Failure::open(args.place.dir(), &error))?;
    let run = Run {
        args,
        log: &log,
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        interrupt: &interrupt,
        failure: Mutex::new(None),
    };
    thread::scope(|scope| {
        for _ in 0..args.producers {
            let spawned = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || run.produce());
            if let Err(error) = spawned {
                run.fail(Failure::usage(format!("a thread cannot be started: {error}; use fewer --producers")));
                break;
            }
        }
    });
    let closed = wait(log.close());
    if let Some(failure) = run.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(failure);
    }
    closed.map_err(|error| Failure::usage(format!("{}: {error}", args.place.dir().display())))?;
    if interrupt.came() { Err(Failure::interrupted()) } else { Ok(()) }
}

/// What the producers share.
struct Run<'a> {
    args: &'a Args,
    log: &'a Log,
    next: AtomicU64,
    stop: AtomicBool,
    interrupt: &'a Interrupt,
    failure: Mutex<Option<Failure>>,
}

impl Run<'_> {
    fn produce(&self) {
        while !self.stop.load(Ordering::Relaxed) && !self.interrupt.came() {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.args.count {
                return;
            }
            if let Err(failure) = self.append(&record(self.args.seed, index, &self.args.size)) {
                self.fail(failure);
            }
        }
    }

    fn append(&self, payload: &[u8]) -> Result<(), Failure> {
        let appended = wait(self.log.append(payload));
        let lsn = appended.map_err(|error| Failure::usage(format!("{}: {error}", self.args.place.dir().display())))?;
        let mut out = io::stdout().lock();
        writeln!(out, "{}", Ack::of(lsn, payload))?;
        Ok(out.flush()?)
    }

    /// The first failure is the one to tell.
    fn fail(&self, failure: Failure) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_depends_on_seed_and_index_alone() {
        let sizes = 10..=20;
        assert_eq!(record(1, 2, &sizes), record(1, 2, &sizes));
        assert_ne!(record(1, 2, &sizes), record(1, 3, &sizes));
        assert_ne!(record(1, 2, &sizes), record(2, 2, &sizes));
        // Pinned: files of acknowledgements outlive versions.
        assert_eq!(crc32fast::hash(&record(7, 9, &(64..=64))), 11_009_539);
    }

    #[test]
    fn sizes_cover_the_range_and_nothing_else() {
        let lengths: std::collections::BTreeSet<usize> =
            (0..200).map(|index| record(1, index, &(3..=5)).len()).collect();
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [3, 4, 5]);
        assert!(record(1, 1, &(0..=0)).is_empty());
    }

    #[test]
    fn ranges_are_checked() {
        assert_eq!(parse_range("1..9"), Ok(1..=9));
        assert_eq!(parse_range("1..=9"), Ok(1..=9));
        assert_eq!(parse_range("7"), Ok(7..=7));
        assert!(parse_range("9..1").is_err() && parse_range("a..b").is_err() && parse_range("1..9999999999").is_err());
    }
}
