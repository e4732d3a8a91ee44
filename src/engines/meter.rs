//! One run, measured: its callers' ways through their appends, and what the watching thread sees meanwhile.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Failure;
use super::load::{Counts, Limit, Load, Sample};
use super::pace::{Pacer, precise_sleep};

/// The longest latency that the histogram tells from longer ones.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// How often the watching thread looks whether to stop.
const LOOK: Duration = Duration::from_millis(10);
/// How long callers may go on behind the end of an open loop, to serve what arrived before it: this share of the run.
const GRACE: f64 = 0.5;

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
    /// When an open loop's callers stop serving arrivals that came before `until`.
    cutoff: Instant,
    /// The appends left of a count.
    left: AtomicU64,
    /// An open loop's arrivals, and how many are taken.
    pacer: Option<Pacer>,
    taken: AtomicU64,
    over: AtomicBool,
    stop: Arc<AtomicBool>,
    slots: Mutex<Vec<Slot>>,
}

/// What the watching thread sees at the beginning and at the end.
#[derive(Clone, Debug)]
struct Reading {
    at: Instant,
    cpu: Duration,
    counts: Counts,
}

impl Reading {
    fn take(counts: &dyn Fn() -> Counts) -> Result<Self, Failure> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
        let cpu = Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()));
        Ok(Self { at: Instant::now(), cpu, counts: counts() })
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
        let end = until.unwrap_or(now);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            payloads: Arc::clone(&load.payloads),
            callers: load.callers,
            from,
            until,
            cutoff: end + (end - now).mul_f64(GRACE),
            left: AtomicU64::new(left),
            pacer: load.rate.filter(|_| until.is_some()).map(|rate| Pacer::new(now, rate, load.callers)),
            taken: AtomicU64::new(0),
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
        counts: &dyn Fn() -> Counts,
        wait: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Sample, Failure> {
        let finished = AtomicBool::new(false);
        thread::scope(|scope| {
            if let Some(pacer) = &self.pacer {
                let finished = &finished;
                scope.spawn(move || pacer.run(|| self.is_over(), || finished.load(Ordering::Relaxed)));
            }
            let _even_if_it_panics = Raise(&finished);
            self.sleep_until(Some(self.from));
            let begin = Reading::take(counts)?;
            self.sleep_until(self.until);
            let mut end = Reading::take(counts)?;
            wait()?;
            if self.until.is_none() {
                end = Reading::take(counts)?;
            }
            self.sample(begin, end)
        })
    }

    fn sample(&self, begin: Reading, end: Reading) -> Result<Sample, Failure> {
        let mut latency_ns = histogram();
        for slot in &*self.slots.lock().unwrap_or_else(PoisonError::into_inner) {
            latency_ns.add(&*slot.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        let appends = latency_ns.len();
        let behind = self.add_unserved(&mut latency_ns);
        let flushes = end.counts.flushes.saturating_sub(begin.counts.flushes);
        Ok(Sample {
            appends,
            elapsed: end.at - begin.at,
            latency_ns,
            cpu: end.cpu.saturating_sub(begin.cpu),
            records_per_flush: if flushes == 0 { f64::NAN } else { appends as f64 / flushes as f64 },
            rotations: end.counts.rotations.saturating_sub(begin.counts.rotations),
            method: end.counts.method,
            tuning: end.counts.tuning,
            behind,
            threads: None,
        })
    }

    /// Counts the arrivals that no caller served before the cut-off, with the time they had waited by then: the least
    /// that they would have taken. Left out, they would make an overloaded engine look fast.
    fn add_unserved(&self, latency_ns: &mut Histogram<u64>) -> u64 {
        let (Some(pacer), Some(until)) = (&self.pacer, self.until) else { return 0 };
        if self.is_over() {
            return 0;
        }
        let (first, end) = (pacer.before(self.from), pacer.before(until));
        let unserved = (end - first).saturating_sub(latency_ns.len());
        // One sample stands for as many neighbours as keeps this short.
        let step = (unserved / 1000).max(1);
        let mut left = unserved;
        while left > 0 {
            let share = step.min(left);
            let waited = self.cutoff.saturating_duration_since(pacer.due(end - left));
            latency_ns.saturating_record_n(nanos(waited), share);
            left -= share;
        }
        unserved
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
        SLOT.with_borrow_mut(|slot| {
            if slot.as_ref().is_none_or(|(id, _)| *id != self.id) {
                let new: Slot = Arc::new(Mutex::new(histogram()));
                self.slots.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&new));
                *slot = Some((self.id, new));
            }
            if let Some((_, histogram)) = slot {
                // Only this thread takes the lock before the end.
                histogram.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos(took));
            }
        });
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 2).unwrap_or_else(|_| unreachable!("the bounds are constants"))
}

/// Raises a flag when dropped.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One caller's way through its appends: `next`, then wait until it is due, append, `done`.
#[derive(Debug)]
pub(super) struct Caller {
    meter: Arc<Meter>,
    /// When the present append began: where the last one ended, or in an open loop its arrival.
    begin: Instant,
    /// The last look at the clock: one for each append.
    seen: Instant,
    payload: usize,
}

impl Caller {
    pub(super) fn new(meter: &Arc<Meter>, index: usize) -> Self {
        if meter.pacer.is_some() {
            precise_sleep();
        }
        let now = Instant::now();
        Self { meter: Arc::clone(meter), begin: now, seen: now, payload: index % meter.payloads.len() }
    }

    /// The index of the next payload, or none when the run is over.
    pub(super) fn next(&mut self) -> Option<usize> {
        let meter = &*self.meter;
        if meter.is_over() {
            return None;
        }
        match (meter.until, &meter.pacer) {
            (Some(until), Some(pacer)) => {
                if self.seen >= meter.cutoff {
                    return None;
                }
                self.begin = pacer.due(meter.taken.fetch_add(1, Ordering::Relaxed));
                if self.begin >= until {
                    return None;
                }
            }
            (Some(until), None) if self.seen >= until => return None,
            (Some(_), None) => {}
            (None, _) => {
                let take = |left: u64| left.checked_sub(1);
                meter.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
            }
        }
        let index = self.payload;
        self.payload = (index + meter.callers) % meter.payloads.len();
        Some(index)
    }

    /// Waits, as a task, until the append is due; not at all in a closed loop.
    pub(super) async fn due(&self) {
        if let Some(pacer) = &self.meter.pacer {
            pacer.wait(self.begin, || self.meter.is_over()).await;
        }
    }

    /// As [`Caller::due`], on a thread.
    pub(super) fn sleep_until_due(&self) {
        if self.meter.pacer.is_some() {
            self.meter.sleep_until(Some(self.begin));
        }
    }

    /// The append is durable.
    pub(super) fn done(&mut self) {
        let (now, meter) = (Instant::now(), &*self.meter);
        // Each append of the window counts once: a closed loop's where it ended, an open loop's where it arrived.
        let at = if meter.pacer.is_some() { self.begin } else { now };
        if at >= meter.from && meter.until.is_none_or(|until| at < until) {
            meter.record(now - self.begin);
        }
        (self.begin, self.seen) = (now, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(rate: f64) -> Load {
        let limit = Limit::Time { warm_up: Duration::from_millis(20), measured: Duration::from_millis(200) };
        Load { rate: Some(rate), ..Load::new(2, vec![vec![0].into_boxed_slice()].into(), limit) }
    }

    fn run(rate: f64, append: impl Fn(usize) + Sync) -> Sample {
        let served = AtomicU64::new(0);
        let append = |_: usize, _: &[u8]| {
            append(usize::try_from(served.fetch_add(1, Ordering::Relaxed)).unwrap());
            Ok(())
        };
        super::super::load::with_threads(&load(rate), &|| Counts::new(0, "none"), append).unwrap()
    }

    #[test]
    fn an_open_loop_counts_every_arrival_of_the_window_once() {
        let sample = run(1000.0, |_| {});
        assert_eq!((sample.latency_ns.len(), sample.behind), (200, 0));
    }

    #[test]
    fn a_stall_shows_in_every_append_that_it_held_up() {
        // Both callers stall once for 50 ms: of 1000 arrivals a second about 50 are held up, 25 of them for longer than
        // half of it. Measured from where the appends began, only two would show.
        let sample = run(1000.0, |number| {
            if number == 60 || number == 61 {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let held_up = sample.latency_ns.count_between(20_000_000, LATENCY_NS_MAX);
        assert!(held_up >= 20, "{held_up}");
    }

    #[test]
    fn arrivals_that_nobody_could_serve_count_with_the_time_they_waited() {
        let sample = run(1000.0, |_| thread::sleep(Duration::from_millis(20)));
        assert_eq!(sample.latency_ns.len(), 200, "all that arrived");
        assert_eq!(sample.appends + sample.behind, 200);
        assert!(sample.behind > 100 && sample.latency_us(0.9) > 50_000.0, "{} behind", sample.behind);
    }

    #[test]
    fn tasks_wait_for_their_arrivals_without_a_timer() {
        let load = load(1000.0);
        let meter = Meter::new(&load);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let tasks: Vec<_> = (0..2)
            .map(|index| {
                let meter = Arc::clone(&meter);
                runtime.spawn(async move {
                    let mut caller = Caller::new(&meter, index);
                    while caller.next().is_some() {
                        caller.due().await;
                        assert!(Instant::now() >= caller.begin, "too early");
                        caller.done();
                    }
                })
            })
            .collect();
        let sample = meter.watch(&Counts::default, || {
            runtime.block_on(async {
                for task in tasks {
                    task.await?;
                }
                Ok(())
            })
        });
        assert_eq!(sample.unwrap().appends, 200);
    }
}
