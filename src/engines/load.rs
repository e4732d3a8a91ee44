//! The load that is put on an engine, and what it measures: the same for every engine.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::Failure;
use super::meter::{Caller, Meter};
use crate::disk::seat;

/// More threads than this measure the scheduler: synchronous engines run the callers beyond it not at all.
pub const THREADS_MAX: usize = 1024;
/// A caller's thread needs little more than its record.
const STACK_BYTES: usize = 256 << 10;

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
    /// After so many appends, all of which count. Closed loop only.
    Count(u64),
}

/// What `Auto` would choose, chosen by hand. Only ringwal's own engines know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// How batches are made durable: a word of [`super::METHODS`].
    pub method: Option<&'static str>,
    /// How many batches may be in flight.
    pub flight_max: Option<usize>,
}

/// What is put on an engine.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many append at the same time; at most so many in an open loop.
    pub callers: usize,
    /// What they append, in turn; not empty.
    pub payloads: Arc<[Box<[u8]>]>,
    /// When it is over.
    pub limit: Limit,
    /// Set from outside, ends it early.
    pub stop: Arc<AtomicBool>,
    /// None: a closed loop, each caller appends again as soon as its record is durable. Otherwise an open loop: so many
    /// appends arrive per second, evenly, whether those before are done or not; latency counts from the arrival.
    pub rate: Option<f64>,
    /// Several logs on the same disk, at least 1; callers are spread over them.
    pub logs: usize,
    /// The size of a segment, for those that have segments; none for the engine's own.
    pub segment_bytes: Option<u64>,
    /// How much ringwal keeps behind, in bytes of records: as a log does whose application takes snapshots, it uses the
    /// segments before that again. None: it keeps everything.
    pub keep_bytes: Option<u64>,
    /// The core that takes all of the disk's interrupts, if there is one: a thread that appends alone sits there.
    pub core: Option<usize>,
    /// What is not left to `Auto`.
    pub pins: Pins,
}

impl Load {
    /// A closed loop on one log with every setting at its default.
    #[must_use]
    pub fn new(callers: usize, payloads: Arc<[Box<[u8]>]>, limit: Limit) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        Self {
            callers,
            payloads,
            limit,
            stop,
            rate: None,
            logs: 1,
            segment_bytes: None,
            keep_bytes: None,
            core: None,
            pins: Pins::default(),
        }
    }

    /// Has the calling thread sit on the disk's core, if there is one.
    pub(super) fn sit(&self) {
        if let Some(core) = self.core {
            let _anywhere = seat::pin(core);
        }
    }

    /// How many records are kept behind.
    pub(super) fn kept_records(&self) -> Option<u64> {
        let bytes: usize = self.payloads.iter().map(|payload| payload.len()).sum();
        let mean = (bytes / self.payloads.len().max(1)).max(1);
        Some(self.keep_bytes? / mean as u64)
    }

    /// The longest payload in bytes.
    #[must_use]
    pub fn payload_max(&self) -> usize {
        self.payloads.iter().map(|payload| payload.len()).max().unwrap_or(0)
    }
}

/// What an engine has done so far.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// How often something was made durable; 0 if nobody knows.
    pub flushes: u64,
    /// How often writing moved to the next file.
    pub rotations: u64,
    /// How things are made durable, at present.
    pub method: &'static str,
    /// What the engine has found out about how to do so, if it looks.
    pub tuning: String,
}

impl Counts {
    /// For an engine without segments.
    #[must_use]
    pub fn new(flushes: u64, method: &'static str) -> Self {
        Self { flushes, rotations: 0, method, tuning: String::new() }
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
    /// Nanoseconds from an append's beginning (in an open loop: from its arrival) until it was durable; two significant
    /// digits.
    pub latency_ns: Histogram<u64>,
    /// The process's CPU time meanwhile.
    pub cpu: Duration,
    /// Appends for each flush; NaN where flushes are not counted.
    pub records_per_flush: f64,
    /// How often writing moved to the next segment meanwhile.
    pub rotations: u64,
    /// How they were made durable, at the end.
    pub method: &'static str,
    /// What the engine had found out by then about how to do so, if it looks.
    pub tuning: String,
    /// Arrivals of an open loop that nobody was free to serve: the engine cannot keep up with the rate. They are in the
    /// histogram with the time they had waited at the end.
    pub behind: u64,
    /// How many threads an engine chose to run the callers on, if it chooses.
    pub threads: Option<usize>,
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

    /// The latency in microseconds that this share of the appends kept.
    #[must_use]
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// Runs a load of plain threads, one for each caller up to [`THREADS_MAX`]: `append`, given the caller's number and the
/// payload, blocks until its record is durable.
///
/// # Errors
/// The first failure of any caller.
pub fn with_threads(
    load: &Load,
    counts: &dyn Fn() -> Counts,
    append: impl Fn(usize, &[u8]) -> Result<(), Failure> + Sync,
) -> Result<Sample, Failure> {
    let meter = Meter::new(load);
    let failure: Mutex<Option<Failure>> = Mutex::new(None);
    let run = |index| {
        // As ringwal's own thread would: else luck decides which of them waits across cores.
        if load.callers == 1 {
            load.sit();
        }
        let mut caller = Caller::new(&meter, index);
        while let Some(at) = caller.next() {
            caller.sleep_until_due();
            if let Err(error) = append(index, &meter.payloads[at]) {
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
        meter.watch(counts, || {
            let panicked = threads.into_iter().any(|thread| thread.join().is_err());
            match failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(failure) => Err(failure),
                None if panicked => Err("a caller panicked".into()),
                None => Ok(()),
            }
        })
    })
}
