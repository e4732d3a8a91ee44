//! The load, and what it measures: the same for every engine.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Failure;

/// More threads than this measure the scheduler: synchronous engines run the callers beyond it not at all.
pub(super) const THREADS_MAX: usize = 1024;
/// A caller's thread needs little more than its record.
const STACK_BYTES: usize = 128 << 10;
/// The longest latency that the histogram tells from longer ones.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// How often the watching thread looks whether to stop.
const LOOK: Duration = Duration::from_millis(10);

/// When a run is over.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// After this time, of which the warm-up at its beginning does not count.
    Time {
        /// Not measured.
        warm_up: Duration,
        /// Measured.
        measured: Duration,
    },
    /// After so many appends, all of which count.
    Count(u64),
}

/// What is put on an engine.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many append at the same time.
    pub callers: usize,
    /// What they append, in turn; not empty.
    pub payloads: Arc<[Box<[u8]>]>,
    /// When it is over.
    pub limit: Limit,
    /// Set from outside, ends it early.
    pub stop: Arc<AtomicBool>,
}

impl Load {
    /// The longest payload in bytes.
    pub(super) fn payload_max(&self) -> usize {
        self.payloads.iter().map(|payload| payload.len()).max().unwrap_or(0)
    }
}

/// What a run measured.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sample {
    /// Appends that were measured.
    pub appends: u64,
    /// The time they took.
    pub elapsed: Duration,
    /// Nanoseconds from an append's beginning until it was durable; two significant digits.
    pub latency_ns: Histogram<u64>,
    /// The process's CPU time meanwhile.
    pub cpu: Duration,
    /// Appends for each flush.
    pub records_per_flush: f64,
    /// How they were made durable.
    pub method: &'static str,
}

impl Sample {
    /// Appends per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.appends as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Microseconds of CPU for each append.
    #[must_use]
    pub fn cpu_us_per_append(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / (self.appends.max(1) as f64)
    }
}

type Slot = Arc<Mutex<Histogram<u64>>>;

thread_local! {
    /// This thread's histogram, and the meter that it belongs to.
    static SLOT: RefCell<Option<(u64, Slot)>> = const { RefCell::new(None) };
}

/// Measures one run. Latencies go to one histogram per *thread*: one per caller would cost more cache than the appends.
#[derive(Debug)]
pub(super) struct Meter {
    id: u64,
    pub(super) payloads: Arc<[Box<[u8]>]>,
    callers: usize,
    from: Instant,
    /// None when the number of appends decides.
    until: Option<Instant>,
    left: AtomicU64,
    over: AtomicBool,
    stop: Arc<AtomicBool>,
    slots: Mutex<Vec<Slot>>,
}

/// What the watching thread sees at the beginning and at the end.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    cpu: Duration,
    flushes: u64,
}

impl Reading {
    fn take(flushes: &dyn Fn() -> u64) -> Result<Self, Failure> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
        let cpu = Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()));
        Ok(Self { at: Instant::now(), cpu, flushes: flushes() })
    }
}

impl Meter {
    pub(super) fn new(load: &Load) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let now = Instant::now();
        let (from, until, left) = match load.limit {
            Limit::Time { warm_up, measured } => (now + warm_up, Some(now + warm_up + measured), u64::MAX),
            Limit::Count(count) => (now, None, count),
        };
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            payloads: Arc::clone(&load.payloads),
            callers: load.callers,
            from,
            until,
            left: AtomicU64::new(left),
            over: AtomicBool::new(false),
            stop: Arc::clone(&load.stop),
            slots: Mutex::new(Vec::new()),
        })
    }

    /// Ends the run early: a caller failed.
    pub(super) fn give_up(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Watches a run from its own thread: `wait` returns when all callers are done.
    pub(super) fn watch(
        &self,
        flushes: &dyn Fn() -> u64,
        method: &'static str,
        wait: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Sample, Failure> {
        self.sleep_until(Some(self.from));
        let begin = Reading::take(flushes)?;
        self.sleep_until(self.until);
        let mut end = Reading::take(flushes)?;
        wait()?;
        if self.until.is_none() {
            end = Reading::take(flushes)?;
        }
        self.sample(begin, end, method)
    }

    fn sample(&self, begin: Reading, end: Reading, method: &'static str) -> Result<Sample, Failure> {
        let mut latency_ns = histogram();
        for slot in &*self.slots.lock().unwrap_or_else(PoisonError::into_inner) {
            latency_ns.add(&*slot.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        let appends = latency_ns.len();
        let flushes = end.flushes.saturating_sub(begin.flushes).max(1);
        Ok(Sample {
            appends,
            elapsed: end.at - begin.at,
            latency_ns,
            cpu: end.cpu.saturating_sub(begin.cpu),
            records_per_flush: appends as f64 / flushes as f64,
            method,
        })
    }

    fn sleep_until(&self, until: Option<Instant>) {
        while let Some(left) = until.and_then(|until| until.checked_duration_since(Instant::now()))
            && !left.is_zero()
            && !self.is_over()
        {
            thread::sleep(left.min(LOOK));
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }

    fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        SLOT.with_borrow_mut(|slot| {
            if slot.as_ref().is_none_or(|(id, _)| *id != self.id) {
                let new: Slot = Arc::new(Mutex::new(histogram()));
                self.slots.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&new));
                *slot = Some((self.id, new));
            }
            if let Some((_, histogram)) = slot {
                // Only this thread takes the lock before the end.
                histogram.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos.max(1));
            }
        });
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 2).unwrap_or_else(|_| unreachable!("the bounds are constants"))
}

/// One caller's way through its appends.
#[derive(Debug)]
pub(super) struct Caller {
    meter: Arc<Meter>,
    /// When the last append ended, and the next begins: one look at the clock for each.
    last: Instant,
    payload: usize,
}

impl Caller {
    pub(super) fn new(meter: &Arc<Meter>, index: usize) -> Self {
        Self { meter: Arc::clone(meter), last: Instant::now(), payload: index % meter.payloads.len() }
    }

    /// The index of the next payload, or none when the run is over.
    pub(super) fn next(&mut self) -> Option<usize> {
        let meter = &*self.meter;
        if meter.is_over() {
            return None;
        }
        match meter.until {
            Some(until) if self.last >= until => return None,
            Some(_) => {}
            None => {
                let take = |left: u64| left.checked_sub(1);
                meter.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
            }
        }
        let index = self.payload;
        self.payload = (index + meter.callers) % meter.payloads.len();
        Some(index)
    }

    /// The append is durable.
    pub(super) fn done(&mut self) {
        let now = Instant::now();
        // Counted where it ended, so that each append of the window counts once.
        if now >= self.meter.from && self.meter.until.is_none_or(|until| now < until) {
            self.meter.record(now - self.last);
        }
        self.last = now;
    }
}

/// Runs a load of plain threads: `append` blocks until its record is durable.
pub(super) fn with_threads(
    load: &Load,
    flushes: &dyn Fn() -> u64,
    method: &'static str,
    append: impl Fn(&[u8]) -> Result<(), Failure> + Sync,
) -> Result<Sample, Failure> {
    let meter = Meter::new(load);
    let failure: Mutex<Option<Failure>> = Mutex::new(None);
    let run = |index| {
        let mut caller = Caller::new(&meter, index);
        while let Some(at) = caller.next() {
            if let Err(error) = append(&meter.payloads[at]) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return meter.give_up();
            }
            caller.done();
        }
    };
    thread::scope(|scope| {
        let (run, mut threads) = (&run, Vec::new());
        for index in 0..load.callers.min(THREADS_MAX) {
            let spawned = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, move || run(index));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    meter.give_up();
                    return Err(error.into());
                }
            }
        }
        meter.watch(flushes, method, || {
            let panicked = threads.into_iter().any(|thread| thread.join().is_err());
            match failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(failure) => Err(failure),
                None if panicked => Err("a caller panicked".into()),
                None => Ok(()),
            }
        })
    })
}
