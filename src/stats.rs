//! Counters and histograms: written by the driver, read by users, never read by logic.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::method::Method;

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
    /// How most batches of records were made durable so far, in a word ([`Method::word`]); before the first, the disk's
    /// reference method.
    pub method: &'static str,
    /// How many batches of records each method made durable, most first; those that made none are left out.
    pub flushes_by: Vec<(Method, u64)>,
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
pub(crate) struct StatsCell(Mutex<Counted>);

/// What is counted: `Stats`, but for what a snapshot derives.
#[derive(Debug)]
struct Counted {
    stats: Stats,
    /// By [`Method::index`].
    flushes_by: [u64; Method::COUNT],
}

impl StatsCell {
    /// Nothing counted yet; `reference` is the disk's reference method.
    pub(crate) fn new(reference: Method, direct: bool, uring_refused: Option<String>) -> Self {
        let histogram =
            |max| Histogram::new_with_bounds(1, max, 2).unwrap_or_else(|_| unreachable!("the bounds are constants"));
        let stats = Stats {
            flushes: 0,
            seals: 0,
            records: 0,
            bytes_written: 0,
            rotations: 0,
            flush_us: histogram(FLUSH_US_MAX),
            records_per_flush: histogram(RECORDS_MAX),
            method: reference.word(),
            flushes_by: Vec::new(),
            direct,
            uring_refused,
            pending_bytes: 0,
        };
        Self(Mutex::new(Counted { stats, flushes_by: [0; Method::COUNT] }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Counted) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn count_flush(&self, method: Method, bytes: usize, records: u32, took: Duration) {
        self.with(|Counted { stats, flushes_by }| {
            stats.bytes_written += bytes as u64;
            if records == 0 {
                stats.seals += 1;
                return;
            }
            stats.flushes += 1;
            flushes_by[method.index()] += 1;
            stats.records += u64::from(records);
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            stats.flush_us.saturating_record(micros.max(1));
            stats.records_per_flush.saturating_record(u64::from(records));
        });
    }

    pub(crate) fn count_rotation(&self) {
        self.with(|counted| counted.stats.rotations += 1);
    }

    pub(crate) fn snapshot(&self, pending_bytes: usize) -> Stats {
        self.with(|Counted { stats, flushes_by }| {
            let mut by: Vec<_> = Method::EACH.into_iter().zip(*flushes_by).filter(|(_, count)| *count > 0).collect();
            by.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let method = by.first().map_or(stats.method, |(method, _)| method.word());
            Stats { pending_bytes, method, flushes_by: by, ..stats.clone() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_method_of_most_flushes_is_told() {
        let cell = StatsCell::new(Method::LinkedFdatasync, true, None);
        assert_eq!(cell.snapshot(0).method, "linked-fdatasync");
        let flush = |method, records| cell.count_flush(method, 4096, records, Duration::from_micros(50));
        flush(Method::DsyncWrite, 1);
        (0..3).for_each(|_| flush(Method::Syscalls, 2));
        // Seals serve nobody.
        (0..9).for_each(|_| flush(Method::WriteThenFdatasync, 0));
        let stats = cell.snapshot(7);
        assert_eq!((stats.method, stats.flushes, stats.seals, stats.pending_bytes), ("syscalls", 4, 9, 7));
        assert_eq!(stats.flushes_by, [(Method::Syscalls, 3), (Method::DsyncWrite, 1)]);
    }
}
