//! The futures of truncating.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::append::block_on;
use super::durable::End;
use super::errands::{Errand, errand};
use super::renewal::{Renewal, Reopen};
use super::sync::Arc;
use super::{Command, Inbox, Shared, Truncated};
use crate::error::TruncateError;
use crate::lsn::Lsn;

impl From<Option<End>> for TruncateError {
    fn from(end: Option<End>) -> Self {
        match end {
            Some(End::Poisoned(cause)) => Self::Poisoned(cause),
            _ => Self::Closed,
        }
    }
}

/// Resolves when records are gone. Made by [`Log::truncate_before`](crate::Log::truncate_before).
#[must_use = "futures do nothing unless polled"]
pub struct TruncateBefore<'a> {
    shared: &'a Arc<Shared>,
    inbox: &'a Inbox,
    first: Lsn,
    errand: Option<Errand<Truncated>>,
}

impl fmt::Debug for TruncateBefore<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TruncateBefore").field("first", &self.first).finish_non_exhaustive()
    }
}

impl<'a> TruncateBefore<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, inbox: &'a Inbox, first: Lsn) -> Self {
        Self { shared, inbox, first, errand: None }
    }

    /// Blocks the calling thread until the records are gone: for threads without a runtime.
    ///
    /// # Errors
    /// As [`Log::truncate_before`](crate::Log::truncate_before).
    pub fn wait(self) -> Result<Lsn, TruncateError> {
        block_on(self)
    }
}

impl Future for TruncateBefore<'_> {
    type Output = Truncated;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, inbox, first, errand: sent } = &mut *self;
        let errand = sent.get_or_insert_with(|| {
            let (promise, errand) = errand();
            // A driver that is gone drops the promise.
            let _ = inbox.send(Command::TruncateBefore { shared: shared.clone(), first: *first, promise });
            errand
        });
        // Nobody answers for a log that ended.
        errand.poll(cx).map(|answer| answer.unwrap_or_else(|| Err(shared.durable.end().into())))
    }
}

/// Resolves when records are gone and the log goes on behind what is left, in a new epoch. Made by
/// [`Log::truncate_after`](crate::Log::truncate_after) and [`Log::begin_term`](crate::Log::begin_term).
#[must_use = "futures do nothing unless polled"]
pub struct TruncateAfter<'a> {
    shared: &'a Arc<Shared>,
    inbox: &'a Inbox,
    last: Option<Lsn>,
    reopen: Option<Reopen>,
    errand: Option<Errand<Truncated>>,
}

impl fmt::Debug for TruncateAfter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TruncateAfter").field("last", &self.last).finish_non_exhaustive()
    }
}

impl<'a> TruncateAfter<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, inbox: &'a Inbox, last: Option<Lsn>, reopen: Reopen) -> Self {
        Self { shared, inbox, last, reopen: Some(reopen), errand: None }
    }

    /// Blocks the calling thread until the new epoch has begun: for threads without a runtime.
    ///
    /// # Errors
    /// As [`Log::truncate_after`](crate::Log::truncate_after).
    pub fn wait(self) -> Result<Lsn, TruncateError> {
        block_on(self)
    }
}

impl Future for TruncateAfter<'_> {
    type Output = Truncated;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, inbox, last, reopen, errand: sent } = &mut *self;
        if let Some(reopen) = reopen.take() {
            let (promise, errand) = errand();
            let renewal = Renewal { last: *last, reopen, promise };
            let _ = inbox.send(Command::Renew { shared: shared.clone(), renewal });
            *sent = Some(errand);
        }
        let Some(errand) = sent else { return Poll::Pending };
        errand.poll(cx).map(|answer| answer.unwrap_or_else(|| Err(shared.durable.end().into())))
    }
}
