//! What was just written, kept in memory while somebody follows the log: whoever keeps up never reads the disk.
//!
//! The ring thread copies a batch here when it has landed, after the next one was submitted and the appenders were woken:
//! nobody waits for a follower. Followers see a batch when it is durable and here, never before (promise P7). One that
//! falls further behind than the bound reads the files.

use std::collections::VecDeque;
use std::task::Waker;

use slab::Slab;

use super::durable::{Durable, End};
use super::sync::{AtomicBool, Mutex, Ordering, lock};
use crate::format::HeldBatch;
use crate::lsn::Lsn;

/// One log's last batches, and who follows it.
#[derive(Debug)]
pub(crate) struct Recent {
    /// Whether anybody follows: a hint, so that batches nobody wants are not copied.
    followed: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    followers: Slab<Follower>,
    /// In order and without a gap.
    batches: VecDeque<HeldBatch>,
    bytes: usize,
    bytes_max: usize,
    /// Everything up to here may be shown.
    shown: Lsn,
    end: Option<End>,
}

#[derive(Debug, Default)]
struct Follower {
    waker: Option<Waker>,
    /// The log was cut back to here since it last asked.
    cut: Option<Lsn>,
}

/// What there is for a follower.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The batch that holds the record it asked for.
    Batch(HeldBatch),
    /// They are only on disk; everything up to here is.
    Behind { to: Lsn },
    /// Nothing yet: it will be woken.
    Nothing,
    /// Nothing ever: the log ended.
    Ended(End),
    /// What it was shown above this one is gone.
    CutBack { last: Lsn },
}

impl Recent {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let inner = Inner {
            followers: Slab::new(),
            batches: VecDeque::new(),
            bytes: 0,
            bytes_max,
            shown: Lsn::ZERO,
            end: None,
        };
        Self { followed: AtomicBool::new(false), inner: Mutex::new(inner) }
    }

    /// Whether batches are to be kept.
    pub(crate) fn is_followed(&self) -> bool {
        self.followed.load(Ordering::Relaxed)
    }

    /// Begins to follow: everything that is durable now may be shown. Returns the follower's key.
    pub(crate) fn follow(&self, durable: &Durable) -> usize {
        let mut inner = lock(&self.inner);
        self.followed.store(true, Ordering::Relaxed);
        // Who publishes, publishes before it comes here: what this misses, it brings.
        inner.shown = inner.shown.max(durable.lsn());
        inner.followers.insert(Follower::default())
    }

    /// Ends to follow.
    pub(crate) fn leave(&self, key: usize) {
        let mut inner = lock(&self.inner);
        let gone = inner.followers.try_remove(key);
        if inner.followers.is_empty() {
            self.followed.store(false, Ordering::Relaxed);
            inner.clear();
        }
        drop(inner);
        // Outside the lock: its waker may hold the last handle on another follower.
        drop(gone);
    }

    /// What there is from `next` on, for the follower with this key, which was `shown` records up to there; it is woken under
    /// `waker` if that is nothing.
    pub(crate) fn poll(&self, key: usize, next: Lsn, shown: Lsn, waker: &Waker) -> Seen {
        // Dropped outside the lock, as above.
        let _replaced;
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let Some(follower) = inner.followers.get_mut(key) else { return Seen::Nothing };
        if let Some(last) = follower.cut {
            if shown > last {
                return Seen::CutBack { last };
            }
            follower.cut = None;
        }
        if next <= inner.shown {
            let at = inner.batches.partition_point(|batch| batch.last < next);
            return match inner.batches.get(at) {
                Some(batch) if batch.first() <= next => Seen::Batch(batch.clone()),
                _ => Seen::Behind { to: inner.shown },
            };
        }
        if let Some(end) = &inner.end {
            return Seen::Ended(end.clone());
        }
        if follower.waker.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            _replaced = follower.waker.replace(waker.clone());
        }
        Seen::Nothing
    }

    /// Everything up to `durable` is durable, these batches among it: shows them, and moves the wakers of those who wait
    /// to `woken`.
    pub(crate) fn show(&self, durable: Lsn, batches: impl Iterator<Item = HeldBatch>, woken: &mut Vec<Waker>) {
        let mut inner = lock(&self.inner);
        if inner.followers.is_empty() {
            return;
        }
        batches.for_each(|batch| inner.keep(batch));
        if durable > inner.shown {
            inner.shown = durable;
            inner.wake(woken);
        }
    }

    /// The log was cut back: records above `last` are gone.
    pub(crate) fn cut_back(&self, last: Lsn, woken: &mut Vec<Waker>) {
        let mut inner = lock(&self.inner);
        inner.clear();
        inner.shown = inner.shown.min(last);
        for (_, follower) in &mut inner.followers {
            follower.cut = Some(follower.cut.map_or(last, |before| before.min(last)));
        }
        inner.wake(woken);
    }

    /// The log ended; everything up to `durable` is durable.
    pub(crate) fn finish(&self, durable: Lsn, end: End, woken: &mut Vec<Waker>) {
        let mut inner = lock(&self.inner);
        inner.shown = inner.shown.max(durable);
        inner.end.get_or_insert(end);
        inner.wake(woken);
    }
}

impl Inner {
    fn keep(&mut self, batch: HeldBatch) {
        if self.batches.back().is_some_and(|last| last.last.next() != batch.first()) {
            self.clear();
        }
        self.bytes += batch.len();
        self.batches.push_back(batch);
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.batches.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    fn clear(&mut self) {
        self.batches.clear();
        self.bytes = 0;
    }

    fn wake(&mut self, woken: &mut Vec<Waker>) {
        woken.extend(self.followers.iter_mut().filter_map(|(_, follower)| follower.waker.take()));
    }
}
