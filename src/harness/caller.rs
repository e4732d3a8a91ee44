//! Callers of a simulated log, as many as a test wants: each a future that is polled by hand, and only when it was woken,
//! so that a wake-up that gets lost is a caller who never ends.

use std::fmt;
use std::future::poll_fn;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::Life;
use crate::error::AppendError;
use crate::lsn::Lsn;
use crate::runtime::append::{Append, AppendBatch, Reserve, WaitDurable};
use crate::runtime::sync::Arc;

/// How a caller appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// `append` of one record.
    Append,
    /// `append_batch` of all its records.
    Batch,
    /// `reserve`, and `commit` when [`Caller::commit`] says so, of one record.
    Reserve,
    /// `sync`: no record of its own.
    Sync,
}

/// What a caller is told.
type Answer = Result<RangeInclusive<Lsn>, AppendError>;

/// One caller. Dropping it drops its future.
pub struct Caller {
    future: Pin<Box<dyn Future<Output = Answer>>>,
    state: Arc<Flags>,
}

#[derive(Debug)]
struct Flags {
    woken: AtomicBool,
    /// Whether what is reserved may be committed.
    commits: AtomicBool,
}

impl Wake for Flags {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Life {
    /// A caller who is about to append `records`.
    #[must_use]
    pub fn caller(&self, call: Call, records: Vec<Vec<u8>>) -> Caller {
        let shared = self.shared.clone();
        let state = Arc::new(Flags { woken: AtomicBool::new(true), commits: AtomicBool::new(false) });
        let flags = state.clone();
        let one = |lsn: Lsn| lsn..=lsn;
        let future: Pin<Box<dyn Future<Output = Answer>>> = match call {
            Call::Append => Box::pin(async move { Append::new(&shared, &records[0]).await.map(one) }),
            Call::Batch => Box::pin(async move { AppendBatch::new(&shared, &records).await }),
            Call::Reserve => Box::pin(async move {
                let mut slot = Reserve::new(&shared, records[0].len()).await?;
                slot.put(&records[0]);
                let gate = |_: &mut Context<'_>| {
                    if flags.commits.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
                };
                poll_fn(gate).await;
                slot.commit().await.map(one)
            }),
            Call::Sync => Box::pin(async move { WaitDurable::staged(&shared).await.map(one) }),
        };
        Caller { future, state }
    }
}

impl Caller {
    /// Whether there is a reason to poll it.
    #[must_use]
    pub fn is_woken(&self) -> bool {
        self.state.woken.load(Ordering::Relaxed)
    }

    /// Lets a caller who reserved commit.
    pub fn commit(&self) {
        self.state.commits.store(true, Ordering::Relaxed);
        self.state.woken.store(true, Ordering::Relaxed);
    }

    /// Polls it; its answer, once.
    pub fn poll(&mut self) -> Option<Answer> {
        self.state.woken.store(false, Ordering::Relaxed);
        let waker = Waker::from(self.state.clone());
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }
}
