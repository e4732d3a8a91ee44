//! Counters and histograms: written by the driver, read by users, never read by logic.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// What a log has done since it was opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Batches of records made durable: flushes that served appends.
    pub flushes: u64,
    /// Seals made durable.
    pub seals: u64,
    /// Records made durable.
    pub records: u64,
    /// Bytes written, headers and padding included.
    pub bytes_written: u64,
    /// How often writing moved to the next segment.
    pub rotations: u64,
    /// Microseconds from a batch's submission to its completion; two significant digits, up to one minute.
    pub flush_us: Histogram<u64>,
    /// Records in each batch; two significant digits.
    pub records_per_flush: Histogram<u64>,
    /// How batches are made durable.
    pub method: &'static str,
    /// Whether the files bypass the page cache (O_DIRECT).
    pub direct: bool,
    /// Why io_uring is not used, where it was refused.
    pub uring_refused: Option<String>,
    /// Bytes of memory that hold records on their way, now.
    pub pending_bytes: usize,
}

/// The longest flush that the histogram tells from longer ones, in microseconds.
const FLUSH_US_MAX: u64 = 60_000_000;
/// The largest batch that the histogram tells from larger ones.
const RECORDS_MAX: u64 = 1 << 24;

/// One log's statistics: one short uncontended lock for each batch.
#[derive(Debug)]
pub(crate) struct StatsCell(Mutex<Stats>);

impl StatsCell {
    pub(crate) fn new(method: &'static str, direct: bool, uring_refused: Option<String>) -> Self {
        let histogram =
            |max| Histogram::new_with_bounds(1, max, 2).unwrap_or_else(|_| unreachable!("the bounds are constants"));
        Self(Mutex::new(Stats {
            flushes: 0,
            seals: 0,
            records: 0,
            bytes_written: 0,
            rotations: 0,
            flush_us: histogram(FLUSH_US_MAX),
            records_per_flush: histogram(RECORDS_MAX),
            method,
            direct,
            uring_refused,
            pending_bytes: 0,
        }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Stats) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn count_flush(&self, bytes: usize, records: u32, took: Duration) {
        self.with(|stats| {
            stats.bytes_written += bytes as u64;
            if records == 0 {
                stats.seals += 1;
                return;
            }
            stats.flushes += 1;
            stats.records += u64::from(records);
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            stats.flush_us.saturating_record(micros.max(1));
            stats.records_per_flush.saturating_record(u64::from(records));
        });
    }

    pub(crate) fn count_rotation(&self) {
        self.with(|stats| stats.rotations += 1);
    }

    pub(crate) fn snapshot(&self, pending_bytes: usize) -> Stats {
        self.with(|stats| Stats { pending_bytes, ..stats.clone() })
    }
}
