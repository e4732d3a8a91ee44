//! When appends arrive in an open loop.
//!
//! Arrivals are evenly spaced and fixed before the run: arrival `i` comes at `start + i / rate`, however long those before
//! it take. A free caller takes the next arrival, waits for it, and appends; one that is late begins at once, and its
//! latency counts from the arrival all the same. So a stall shows in every append that it held up (no coordinated
//! omission).
//!
//! Threads sleep until their arrival. Tasks cannot: timers of async runtimes tick in milliseconds. One thread, the
//! [`Pacer`], sleeps precisely and wakes the tasks whose arrivals have come, as a reactor does when requests come in.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// How long the pacer sleeps at most: whoever begins to wait meanwhile is woken this late at worst.
const LOOK: Duration = Duration::from_micros(50);

/// Fixed arrivals, and the tasks that wait for theirs.
#[derive(Debug)]
pub(super) struct Pacer {
    start: Instant,
    interval_ns: f64,
    waiting: Mutex<BinaryHeap<Waiting>>,
}

impl Pacer {
    /// `rate` arrivals per second, from `start` on.
    pub(super) fn new(start: Instant, rate: f64, callers: usize) -> Self {
        Self { start, interval_ns: 1e9 / rate, waiting: Mutex::new(BinaryHeap::with_capacity(2 * callers)) }
    }

    /// When that arrival comes.
    pub(super) fn due(&self, arrival: u64) -> Instant {
        self.start + Duration::from_secs_f64(arrival as f64 * self.interval_ns / 1e9)
    }

    /// How many arrivals come before `end`.
    pub(super) fn before(&self, end: Instant) -> u64 {
        // By halving: the very arithmetic of `due` decides at the boundary, not a division that rounds otherwise.
        let (mut before, mut behind) = (0, 1 << 40);
        while before < behind {
            let middle = u64::midpoint(before, behind);
            if self.due(middle) < end {
                before = middle + 1;
            } else {
                behind = middle;
            }
        }
        before
    }

    /// Waits in a task until `due`, or until `over` says that the run is over.
    pub(super) async fn wait(&self, due: Instant, over: impl Fn() -> bool) {
        poll_fn(|context| {
            if due <= Instant::now() || over() {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Waiting { due, waker: context.waker().clone() });
            Poll::Pending
        })
        .await;
    }

    /// Wakes tasks, each when it is due, until `finished`; all of them as soon as the run is `over`.
    pub(super) fn run(&self, over: impl Fn() -> bool, finished: impl Fn() -> bool) {
        precise_sleep();
        let mut awake = Vec::new();
        while !finished() {
            let (now, all) = (Instant::now(), over());
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            while waiting.peek().is_some_and(|first| all || first.due <= now) {
                awake.extend(waiting.pop().map(|first| first.waker));
            }
            let next = waiting.peek().map(|first| first.due);
            drop(waiting);
            if awake.is_empty() {
                let nap = next.map_or(LOOK, |next| next.saturating_duration_since(now).min(LOOK));
                thread::sleep(nap);
            }
            awake.drain(..).for_each(Waker::wake);
        }
    }
}

/// Lets this thread's sleeps end when they should: the kernel's default is up to 50 us later.
pub(super) fn precise_sleep() {
    let _sleeps_longer = nix::sys::prctl::set_timerslack(1);
}

#[derive(Debug)]
struct Waiting {
    due: Instant,
    waker: Waker,
}

/// The earliest is the greatest: a heap gives its greatest first.
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Order {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Waiting {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_evenly_spaced_and_counted_to_the_end() {
        let start = Instant::now();
        let pacer = Pacer::new(start, 1000.0, 1);
        assert_eq!(pacer.due(3) - start, Duration::from_millis(3));
        assert_eq!(pacer.before(start), 0);
        assert_eq!(pacer.before(start + Duration::from_millis(10)), 10, "the eleventh comes at the end, not before");
        assert_eq!(pacer.before(start + Duration::from_micros(10_001)), 11);
    }

    #[test]
    fn the_earliest_waits_on_top() {
        let start = Instant::now();
        let mut heap = BinaryHeap::new();
        for millis in [5, 1, 3] {
            heap.push(Waiting { due: start + Duration::from_millis(millis), waker: Waker::noop().clone() });
        }
        let order: Vec<_> = std::iter::from_fn(|| heap.pop()).map(|first| first.due - start).collect();
        assert_eq!(order, [1, 3, 5].map(Duration::from_millis));
    }
}
