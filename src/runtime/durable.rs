//! The watermark that the world sees, and who waits for it.
//!
//! A waiter is an LSN and a waker: dropping the future that holds it frees nothing that the kernel can see. `publish`
//! collects wakers under the lock and the driver wakes them outside it, after it has submitted the next batch.

use std::task::{Poll, Waker};

use slab::Slab;

use super::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::error::Cause;
use crate::lsn::Lsn;

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
    /// Also readable without the lock; written under it.
    lsn: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiters: Slab<Waiter>,
    end: Option<End>,
    /// Files and lock are let go.
    released: bool,
    /// Who waits for that.
    release: Vec<Waker>,
}

#[derive(Debug)]
struct Waiter {
    lsn: Lsn,
    waker: Waker,
}

/// A future's place among the waiters. It is occupied exactly as long as neither the LSN is durable nor the log ended:
/// whoever publishes removes it, so its holder asks for those two first.
#[derive(Debug, Default)]
pub(crate) struct Place(Option<usize>);

impl Durable {
    pub(crate) fn new(lsn: Lsn) -> Self {
        Self { lsn: AtomicU64::new(lsn.get()), inner: Mutex::default() }
    }

    /// Everything up to here is durable.
    pub(crate) fn lsn(&self) -> Lsn {
        Lsn::new(self.lsn.load(Ordering::Acquire))
    }

    /// How the log ended, if it did.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn end(&self) -> Option<End> {
        lock(&self.inner).end.clone()
    }

    /// Ready when `lsn` is durable, or with the log's end if that comes first.
    pub(crate) fn poll(&self, lsn: Lsn, place: &mut Place, waker: &Waker) -> Poll<Result<(), End>> {
        if lsn <= self.lsn() {
            return Poll::Ready(Ok(()));
        }
        let mut inner = lock(&self.inner);
        if lsn <= self.lsn() {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = &inner.end {
            return Poll::Ready(Err(end.clone()));
        }
        match place.0 {
            Some(key) => inner.waiters[key].waker.clone_from(waker),
            None => place.0 = Some(inner.waiters.insert(Waiter { lsn, waker: waker.clone() })),
        }
        Poll::Pending
    }

    /// Ready when the log has ended and let go of its files and its lock; tells how it ended.
    pub(crate) fn poll_released(&self, waker: &Waker) -> Poll<Option<End>> {
        let mut inner = lock(&self.inner);
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
        let mut inner = lock(&self.inner);
        inner.released = true;
        woken.append(&mut inner.release);
    }

    /// Gives up a place: its future was dropped.
    pub(crate) fn forget(&self, lsn: Lsn, place: &mut Place) {
        let Some(key) = place.0.take() else { return };
        if lsn <= self.lsn() {
            return;
        }
        let mut inner = lock(&self.inner);
        if lsn > self.lsn() && inner.end.is_none() {
            inner.waiters.remove(key);
        }
    }

    /// Everything up to `lsn` is durable: moves the wakers of those who waited for it to `woken`.
    pub(crate) fn publish(&self, lsn: Lsn, woken: &mut Vec<Waker>) {
        if lsn <= self.lsn() {
            return;
        }
        let mut inner = lock(&self.inner);
        self.lsn.store(lsn.get(), Ordering::Release);
        let Inner { waiters, .. } = &mut *inner;
        // Ends early when everybody is served, which is the usual case.
        let mut left = waiters.len();
        for key in 0..waiters.capacity() {
            if left == 0 {
                break;
            }
            let Some(waiter) = waiters.get(key) else { continue };
            left -= 1;
            if waiter.lsn <= lsn {
                woken.push(waiters.remove(key).waker);
            }
        }
    }

    /// The log ended: everybody else is woken to be told. The first end stays.
    pub(crate) fn finish(&self, end: End, woken: &mut Vec<Waker>) {
        let mut inner = lock(&self.inner);
        if inner.end.is_none() {
            inner.end = Some(end);
            woken.extend(inner.waiters.drain().map(|waiter| waiter.waker));
        }
    }
}

#[cfg(test)]
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
