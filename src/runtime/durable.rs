//! The watermark that the world sees, and who waits for it.
//!
//! A waiter is an LSN and a waker: dropping the future that holds it frees nothing that the kernel can see. `publish`
//! collects wakers under the lock and the driver wakes them outside it, after it has submitted the next batch.
//!
//! An appender's first waker lies with its batch (`batches`) and never comes here: here wait those who have an LSN and
//! come later, and appenders that are polled again before they are due. They stand in the order of their LSNs, so that
//! publishing costs no more than those who are woken, and there is nothing to allocate once the queue is warm.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use super::sync::{AtomicU64, Mutex, Ordering, Padded, lock};
use crate::error::Cause;
use crate::lsn::Lsn;
use crate::seeded;

/// How a log ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything appended is durable and sealed.
    Closed,
    /// The first failure, for ever.
    Poisoned(Cause),
}

/// One log's durable LSN, or its end.
#[derive(Debug)]
pub(crate) struct Durable {
    /// Also readable without the lock; written under it, by the ring thread alone.
    lsn: Padded<AtomicU64>,
    inner: Padded<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// How often the log was cut back.
    cuts: u64,
    waiters: Waiters,
    end: Option<End>,
    /// Files and lock are let go.
    released: bool,
    /// Who waits for that.
    release: Vec<Waker>,
}

/// A record's LSN, and how often the log had been cut back when it got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) lsn: Lsn,
    pub(crate) cuts: u64,
}

/// A future's place among the waiters.
#[derive(Debug, Default)]
pub(crate) struct Place(Option<u64>);

impl Durable {
    pub(crate) fn new(lsn: Lsn) -> Self {
        Self { lsn: Padded(AtomicU64::new(lsn.get())), inner: Padded::default() }
    }

    /// Everything up to here is durable.
    pub(crate) fn lsn(&self) -> Lsn {
        Lsn::new(self.lsn.0.load(Ordering::Acquire))
    }

    /// How the log ended, if it did.
    pub(crate) fn end(&self) -> Option<End> {
        lock(&self.inner.0).end.clone()
    }

    /// How often the log was cut back.
    pub(crate) fn cuts(&self) -> u64 {
        lock(&self.inner.0).cuts
    }

    /// The log was cut back: nothing above `last` is there any more. Appended are `last` and what comes behind it anew.
    pub(crate) fn cut_back(&self, last: Lsn) -> u64 {
        let mut inner = lock(&self.inner.0);
        inner.cuts += 1;
        self.lsn.0.store(last.get(), Ordering::Release);
        inner.cuts
    }

    /// Ready when `lsn` is durable, or with the log's end if that comes first.
    #[cfg(test)]
    pub(crate) fn poll(&self, lsn: Lsn, place: &mut Place, waker: &Waker) -> Poll<Result<(), End>> {
        self.poll_since(lsn, None, place, waker)
    }

    /// As `poll`, for a record that was staged. It is ready also when the log was cut back since: before that it
    /// was durable.
    pub(crate) fn poll_mark(&self, mark: Mark, place: &mut Place, waker: &Waker) -> Poll<Result<(), End>> {
        self.poll_since(mark.lsn, Some(mark.cuts), place, waker)
    }

    /// As [`Durable::poll_mark`], if it is known how often the log had been cut back.
    pub(crate) fn poll_since(
        &self,
        lsn: Lsn,
        cuts: Option<u64>,
        place: &mut Place,
        waker: &Waker,
    ) -> Poll<Result<(), End>> {
        if lsn <= self.lsn() {
            return Poll::Ready(Ok(()));
        }
        let mut inner = lock(&self.inner.0);
        // Published between the look and the lock: nobody would wake this one.
        if lsn <= self.lsn() && !seeded::is("durable-no-recheck") || cuts.is_some_and(|cuts| cuts != inner.cuts) {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = &inner.end {
            return Poll::Ready(Err(end.clone()));
        }
        inner.waiters.wait(lsn, place, waker);
        Poll::Pending
    }

    /// Ready when the log has ended and let go of its files and its lock; tells how it ended.
    pub(crate) fn poll_released(&self, waker: &Waker) -> Poll<Option<End>> {
        let mut inner = lock(&self.inner.0);
        if inner.released {
            return Poll::Ready(inner.end.clone());
        }
        if !inner.release.iter().any(|known| known.will_wake(waker)) {
            inner.release.push(waker.clone());
        }
        Poll::Pending
    }

    /// Files and lock are let go.
    pub(crate) fn release(&self, woken: &mut Vec<Waker>) {
        let mut inner = lock(&self.inner.0);
        inner.released = true;
        woken.append(&mut inner.release);
    }

    /// Gives up a place: its future was dropped.
    pub(crate) fn forget(&self, lsn: Lsn, place: &mut Place) {
        if place.0.is_some() && lsn > self.lsn() {
            lock(&self.inner.0).waiters.leave(lsn, place);
        }
    }

    /// Everything up to `lsn` is durable: moves the wakers of those who waited here for it to `woken`. False if that is
    /// nothing new.
    pub(crate) fn publish(&self, lsn: Lsn, woken: &mut Vec<Waker>) -> bool {
        if lsn <= self.lsn() {
            return false;
        }
        let mut inner = lock(&self.inner.0);
        if seeded::is("durable-publish-late") {
            inner.waiters.take(lsn, woken);
            drop(inner);
            self.lsn.0.store(lsn.get(), Ordering::Release);
            return true;
        }
        self.lsn.0.store(lsn.get(), Ordering::Release);
        inner.waiters.take(lsn, woken);
        true
    }

    /// The log ended: everybody else is woken to be told. The first end stays.
    pub(crate) fn finish(&self, end: End, woken: &mut Vec<Waker>) {
        let mut inner = lock(&self.inner.0);
        if inner.end.is_none() {
            inner.end = Some(end);
            inner.waiters.take(Lsn::MAX, woken);
        }
    }
}

/// Who waits, in the order of (LSN, arrival).
#[derive(Debug, Default)]
struct Waiters {
    queue: VecDeque<Waiter>,
    next_id: u64,
    /// How many in the queue have left it.
    gone: usize,
}

#[derive(Debug)]
struct Waiter {
    lsn: Lsn,
    id: u64,
    /// None: gone, its future was dropped.
    waker: Option<Waker>,
}

impl Waiters {
    /// Takes a place, or renews the waker of the one that was taken.
    fn wait(&mut self, lsn: Lsn, place: &mut Place, waker: &Waker) {
        if let Some(waiter) = place.0.and_then(|id| self.find(lsn, id)) {
            if let Some(known) = &mut waiter.waker {
                known.clone_from(waker);
            }
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        place.0 = Some(id);
        // Mostly the end.
        let at = match self.queue.back() {
            Some(last) if last.lsn > lsn => self.queue.partition_point(|waiter| waiter.lsn <= lsn),
            _ => self.queue.len(),
        };
        self.queue.insert(at, Waiter { lsn, id, waker: Some(waker.clone()) });
    }

    /// Gives up a place, if it is still there.
    fn leave(&mut self, lsn: Lsn, place: &mut Place) {
        let Some(waiter) = place.0.take().and_then(|id| self.find(lsn, id)) else { return };
        waiter.waker = None;
        self.gone += 1;
        // Thousands may leave at once: none of them moves the others.
        if self.gone > self.queue.len() / 2 {
            self.queue.retain(|waiter| waiter.waker.is_some());
            self.gone = 0;
        }
    }

    /// Removes everybody up to `lsn`.
    fn take(&mut self, lsn: Lsn, woken: &mut Vec<Waker>) {
        let count = self.queue.partition_point(|waiter| waiter.lsn <= lsn);
        for waiter in self.queue.drain(..count) {
            match waiter.waker {
                Some(waker) => woken.push(waker),
                None => self.gone -= 1,
            }
        }
    }

    fn find(&mut self, lsn: Lsn, id: u64) -> Option<&mut Waiter> {
        let at = self.queue.partition_point(|waiter| (waiter.lsn, waiter.id) < (lsn, id));
        self.queue.get_mut(at).filter(|waiter| waiter.id == id)
    }
}

#[cfg(all(test, ringwal_loom))]
pub(super) mod loom_model {
    use std::task::Wake;

    use super::*;
    use crate::disk::Notify;
    #[cfg(ringwal_seeded_bugs)]
    use crate::sync::catches;
    use crate::sync::{Arc, model};

    /// A thread that can be woken as a task is.
    pub(in crate::runtime) struct Task(Notify);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.wake();
        }
    }

    impl Task {
        pub(in crate::runtime) fn new() -> Arc<Self> {
            Arc::new(Self(Notify::new().unwrap()))
        }

        pub(in crate::runtime) fn sleep(&self) {
            self.0.park(None);
        }
    }

    /// Polls until it is ready, sleeping in between.
    pub(in crate::runtime) fn wait(durable: &Durable, lsn: Lsn, task: &Arc<Task>) -> Result<(), End> {
        let mut place = Place::default();
        loop {
            match durable.poll(lsn, &mut place, &Waker::from(task.clone())) {
                Poll::Ready(answer) => return answer,
                Poll::Pending => task.sleep(),
            }
        }
    }

    /// One waits for an LSN that becomes durable, one for a later one and is told of the end, one gives up.
    fn every_waiter_hears(bug: Option<&'static str>) {
        model(bug, 2, || {
            let durable = Arc::new(Durable::new(Lsn::ZERO));
            let waiters = [1, 2].map(|lsn| {
                let durable = durable.clone();
                loom::thread::spawn(move || wait(&durable, Lsn::new(lsn), &Task::new()))
            });
            let gone = loom::thread::spawn({
                let durable = durable.clone();
                move || {
                    let mut place = Place::default();
                    let _ready = durable.poll(Lsn::FIRST, &mut place, Waker::noop());
                    durable.forget(Lsn::FIRST, &mut place);
                }
            });
            let mut woken = Vec::new();
            durable.publish(Lsn::FIRST, &mut woken);
            woken.drain(..).for_each(Waker::wake);
            // The end would wake it too.
            let [served, told] = waiters;
            assert_eq!(served.join().unwrap(), Ok(()));
            durable.finish(End::Closed, &mut woken);
            woken.drain(..).for_each(Waker::wake);
            gone.join().unwrap();
            assert_eq!(told.join().unwrap(), Err(End::Closed));
            let waiters = &lock(&durable.inner.0).waiters;
            assert!(waiters.queue.is_empty() && waiters.gone == 0, "somebody stayed: {waiters:?}");
        });
    }

    #[test]
    fn loom_every_waiter_hears() {
        every_waiter_hears(None);
    }

    #[cfg(ringwal_seeded_bugs)]
    #[test]
    fn loom_catches_careless_waiting() {
        for bug in ["durable-no-recheck", "durable-publish-late"] {
            assert!(catches(bug, every_waiter_hears), "{bug}");
        }
    }
}

#[cfg(all(test, not(ringwal_loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn wakes_exactly_those_whose_lsn_is_durable() {
        let durable = Durable::new(Lsn::ZERO);
        let counters: Vec<_> = (0..4).map(|_| Arc::new(Counter::default())).collect();
        let mut places: Vec<_> = (0..4).map(|_| Place::default()).collect();
        for (at, place) in places.iter_mut().enumerate() {
            let waker = Waker::from(counters[at].clone());
            assert!(durable.poll(Lsn::new(at as u64 + 1), place, &waker).is_pending());
        }
        durable.forget(Lsn::new(2), &mut places[1]);
        let mut woken = Vec::new();
        durable.publish(Lsn::new(3), &mut woken);
        woken.drain(..).for_each(Waker::wake);
        let counts: Vec<_> = counters.iter().map(|counter| counter.0.load(Ordering::SeqCst)).collect();
        assert_eq!(counts, [1, 0, 1, 0]);
        durable.finish(End::Closed, &mut woken);
        assert_eq!(woken.len(), 1);
        let waker = Waker::from(counters[3].clone());
        assert_eq!(durable.poll(Lsn::new(4), &mut places[3], &waker), Poll::Ready(Err(End::Closed)));
        assert_eq!(durable.poll(Lsn::new(3), &mut places[2], &waker), Poll::Ready(Ok(())));
        durable.forget(Lsn::new(4), &mut places[3]);
    }

    #[test]
    fn the_first_end_stays() {
        let durable = Durable::new(Lsn::ZERO);
        let mut woken = Vec::new();
        durable.finish(End::Poisoned(Cause::Panic("first".into())), &mut woken);
        durable.finish(End::Closed, &mut woken);
        assert_eq!(durable.end(), Some(End::Poisoned(Cause::Panic("first".into()))));
    }
}
