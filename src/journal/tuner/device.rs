//! Simulated devices under the real journal, for the tuner's tests: callers that wait for their records, or records that
//! arrive at a rate, and a device that takes its time. No bytes, no threads, a clock of its own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::{Choice, Prior, Rules, Tuner};
use crate::format::BATCH_HEADER_BYTES;
use crate::journal::{Chain, Journal, Next, Place, Shape, Staged, Ticket, Wake};
use crate::lsn::{Epoch, LogId, Lsn, SegmentId};
use crate::method::Method;
use crate::options::Options;
use crate::options::Pins;

/// All that a ring can do.
pub(super) const METHODS: [Method; 4] =
    [Method::LinkedFdatasync, Method::DsyncWrite, Method::WriteThenFdatasync, Method::Syscalls];

/// Microseconds of one durable write by each of [`METHODS`], alone in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    pub(super) us: [f64; 4],
    /// How much longer it takes for each other batch in flight: 0 on a device without a cache to flush, 1 where flushes
    /// follow one another.
    pub(super) crowding: f64,
    /// What it says of itself.
    pub(super) prior: Prior,
}

/// A drive with power-loss protection: a KIOXIA CM7, raw, 4 KiB (notes on io_uring, 0.2).
pub(super) const PROTECTED: Device =
    Device { us: [16.0, 11.0, 17.7, 12.0], crowding: 0.1, prior: Prior { write_cache: Some(false), fua: Some(true) } };
/// A consumer drive whose forced unit access is slower than a flush: a Samsung 980 PRO (0.3).
pub(super) const CONSUMER: Device = Device {
    us: [1678.0, 4016.0, 1700.0, 1690.0],
    crowding: 0.8,
    prior: Prior { write_cache: Some(true), fua: Some(true) },
};
/// virtio with a write-back cache, as measured on ext4 without a journal.
pub(super) const VIRTIO: Device =
    Device { us: [105.0, 98.0, 99.0, 95.0], crowding: 0.5, prior: Prior { write_cache: Some(true), fua: Some(false) } };
/// virtio without a cache.
pub(super) const VIRTIO_THROUGH: Device =
    Device { us: [70.0, 45.0, 62.0, 44.0], crowding: 0.3, prior: Prior { write_cache: Some(false), fua: Some(false) } };
/// xfs on a loop device.
pub(super) const LOOP: Device =
    Device { us: [206.0, 155.0, 201.0, 201.0], crowding: 0.4, prior: Prior { write_cache: None, fua: None } };

/// Who appends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arrivals {
    /// So many callers, each of whom comes back some time after its record is durable.
    Closed(u32),
    /// So many records a second, whatever the log does.
    Open(f64),
}

/// A caller's way back: until the first of those served is here, and from one to the next.
const HAND_OFF_US: f64 = 15.0;
const EACH_US: f64 = 0.35;

/// A log on a device.
pub(super) struct World {
    pub(super) device: Device,
    arrivals: Arrivals,
    pub(super) journal: Journal,
    now: f64,
    staged: u32,
    next_lsn: Lsn,
    block: u32,
    /// Tickets on their way, and when they land, in nanoseconds.
    landing: BinaryHeap<Reverse<(u64, usize)>>,
    tickets: Vec<Option<Ticket>>,
    /// When the callers come, in nanoseconds.
    coming: BinaryHeap<Reverse<u64>>,
    rng: u64,
    /// When each record that is not durable yet was staged, in order.
    staged_at: VecDeque<f64>,
    /// Records made durable, and the sum of their latencies in microseconds.
    pub(super) records: u64,
    pub(super) latency: f64,
    /// How often the best choice changed.
    pub(super) changes: u32,
    best: Choice,
    /// By how much slower everything is with the ring thread on the disk's core.
    home: f64,
    rules: Rules,
}

impl World {
    pub(super) fn new(device: Device, arrivals: Arrivals, pins: Pins, seed: u64) -> Self {
        let limits = Options::default().flight_max(4).limits(4096).unwrap();
        let rules = Rules::new(&METHODS, pins, limits.flight_max, true, device.prior);
        let chain = Chain {
            log_id: LogId::new([1; 16]),
            epoch: Epoch::default(),
            nonce: 1,
            term: 0,
            trim: Lsn::ZERO,
            link: None,
        };
        let mut journal = Journal::new(chain, Lsn::ZERO, &limits, rules.clone());
        let best = journal.tuner().best();
        let coming = match arrivals {
            Arrivals::Closed(callers) => (0..u64::from(callers)).map(|at| Reverse(at * 300)).collect(),
            Arrivals::Open(_) => [Reverse(0)].into(),
        };
        Self {
            device,
            arrivals,
            journal,
            now: 0.0,
            staged: 0,
            next_lsn: Lsn::FIRST,
            block: 1,
            landing: BinaryHeap::new(),
            tickets: Vec::new(),
            coming,
            rng: seed | 1,
            staged_at: VecDeque::new(),
            records: 0,
            latency: 0.0,
            changes: 0,
            best,
            home: 1.0,
            rules,
        }
    }

    /// With a core to keep to, on which everything takes `factor` times as long.
    pub(super) fn at_home(mut self, factor: f64) -> Self {
        self.home = factor;
        *self.journal.tuner() = Tuner::new(self.rules.clone().with_home(true));
        self
    }

    /// Uniform from 0 to 1.
    fn draw(&mut self) -> f64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        (self.rng >> 11) as f64 / (1u64 << 53) as f64
    }

    fn time(&self) -> Duration {
        Duration::from_nanos((self.now * 1e3) as u64)
    }

    /// Changes how many callers there are.
    pub(super) fn set_callers(&mut self, callers: u32) {
        let Arrivals::Closed(before) = self.arrivals else { return };
        let at = (self.now * 1e3) as u64;
        (before..callers).for_each(|_| self.coming.push(Reverse(at)));
        self.arrivals = Arrivals::Closed(callers);
    }

    /// How many seconds so many flushes take, about.
    pub(super) fn seconds(&self, flushes: u32) -> f64 {
        self.device.us.iter().copied().fold(f64::MAX, f64::min) * f64::from(flushes) / 1e6
    }

    /// The mean latency of a record, in microseconds, over so many simulated seconds.
    pub(super) fn mean_latency(&mut self, seconds: f64) -> f64 {
        let (records, latency) = (self.records, self.latency);
        self.run(seconds);
        (self.latency - latency) / (self.records - records).max(1) as f64
    }

    /// Runs for so many simulated seconds; returns records a second.
    pub(super) fn run(&mut self, seconds: f64) -> f64 {
        let (end, before) = (self.now + seconds * 1e6, self.records);
        while self.now < end {
            let until = self.step();
            let lands = self.landing.peek().map(|Reverse((at, _))| *at as f64 / 1e3);
            let due = lands.into_iter().chain(until).fold(end, f64::min);
            self.let_come(due);
            self.land();
            let best = self.journal.tuner().best();
            self.changes += u32::from(best != self.best);
            self.best = best;
        }
        (self.records - before) as f64 / seconds
    }

    /// Everything there is to do now; returns when something is due.
    fn step(&mut self) -> Option<f64> {
        loop {
            let wake = self.journal.wake();
            let staged = if self.staged > 0 { Staged::Open } else { Staged::Nothing };
            match self.journal.poll_next(staged, self.staged, false, self.time()) {
                Next::Batch => self.fly(),
                Next::Seal { close } => {
                    let shape = self.shape(0);
                    let now = self.time();
                    let ticket = self.journal.handle_seal(&shape, close, &mut [0; BATCH_HEADER_BYTES], now);
                    self.journal.handle_landed(&ticket, now);
                }
                Next::Wait(_) if self.journal.wake() != wake => {}
                Next::Wait(until) => return until.map(|until| until.as_secs_f64() * 1e6),
                Next::Finished => return None,
            }
        }
    }

    fn shape(&mut self, count: u32) -> Shape {
        self.block += 1;
        let place = Place { segment: SegmentId::new(1), block: self.block, block_bytes: 4096 };
        Shape { place, first: self.next_lsn, count, records_bytes: count as usize * 268, digest: 0 }
    }

    fn fly(&mut self) {
        let count = std::mem::take(&mut self.staged);
        let shape = self.shape(count);
        self.next_lsn = self.next_lsn.plus(u64::from(count));
        let now = self.time();
        let ticket = self.journal.handle_batch(&shape, &mut [0; BATCH_HEADER_BYTES], now);
        let method = METHODS.iter().position(|method| *method == ticket.method()).unwrap();
        let others = self.landing.len() as f64;
        // A disk's noise: mostly a little, now and then a lot.
        let noise = 0.9 + 0.2 * self.draw() + if self.draw() < 0.01 { 3.0 * self.draw() } else { 0.0 };
        let bytes_us = f64::from(count) * 268.0 / 2000.0;
        let home = if self.journal.tuner().choice().home { self.home } else { 1.0 };
        let took = (self.device.us[method] * (1.0 + self.device.crowding * others) + bytes_us) * noise * home;
        self.tickets.push(Some(ticket));
        self.landing.push(Reverse((((self.now + took) * 1e3) as u64, self.tickets.len() - 1)));
    }

    /// Lets callers come until `due`, or until the ring thread is woken.
    fn let_come(&mut self, due: f64) {
        while let Some(Reverse(at)) = self.coming.peek().copied() {
            let at_us = at as f64 / 1e3;
            if at_us > due {
                break;
            }
            self.coming.pop();
            self.staged += 1;
            self.staged_at.push_back(at_us);
            self.now = self.now.max(at_us);
            if let Arrivals::Open(rate) = self.arrivals {
                let gap = -self.draw().max(1e-9).ln() / rate * 1e9;
                self.coming.push(Reverse(at + gap as u64));
            }
            let woken = match self.journal.wake() {
                Wake::Never => false,
                Wake::AtNext => true,
                Wake::AtRecords(records) => self.staged >= records,
            };
            if woken {
                // The ring thread has to wake up.
                self.now += 5.0;
                return;
            }
        }
        // Two nanoseconds on, so that rounding cannot stop the clock.
        self.now = self.now.max(due) + 0.002;
    }

    fn land(&mut self) {
        while let Some(Reverse((at, index))) = self.landing.peek().copied() {
            if at as f64 / 1e3 > self.now {
                break;
            }
            self.landing.pop();
            let before = self.journal.poll_durable();
            let ticket = self.tickets[index].take().unwrap();
            let now = self.time();
            self.journal.handle_landed(&ticket, now);
            let served = self.journal.poll_durable().get() - before.get();
            self.records += served;
            self.latency += (0..served).filter_map(|_| self.staged_at.pop_front()).map(|at| self.now - at).sum::<f64>();
            if let Arrivals::Closed(callers) = self.arrivals {
                let waiting = self.coming.len() as u64 + u64::from(self.staged);
                let flying = self.next_lsn.get() - 1 - self.journal.poll_durable().get();
                let stay = served.min(u64::from(callers).saturating_sub(waiting + flying));
                for at in 0..stay {
                    let back = self.now + HAND_OFF_US * (0.7 + 0.6 * self.draw()) + at as f64 * EACH_US;
                    self.coming.push(Reverse((back * 1e3) as u64));
                }
            }
        }
    }
}
