//! Records as they become durable, for ever: what [`Log::tail`](crate::Log::tail) gives.
//!
//! At the live end they come from memory ([`Recent`](crate::runtime::recent::Recent)), woken for by the ring thread; a
//! tail that has fallen behind reads the files ([`Fetch`]) until it has caught up. Neither ever shows what is not durable.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::cursor::{Batches, Record};
use super::fetch::Fetch;
use crate::error::ReadError;
use crate::format::{HeldBatch, HeldRecords};
use crate::lsn::Lsn;
use crate::runtime::Shared;
use crate::runtime::durable::End;
use crate::runtime::recent::Seen;
use crate::runtime::sync::Arc;

/// Durable records in order, as they become durable, across rotations, for ever. A [`Stream`]; made by
/// [`Log::tail`](crate::Log::tail).
///
/// Ends when the log is closed, behind the last record. A log may have any number of tails; each sees every record.
///
/// # Errors
/// [`ReadError::Truncated`] when a record that it has not shown yet is truncated away, never a silent gap;
/// [`ReadError::CutBack`] when one that it has shown is; [`ReadError::Poisoned`] behind the last durable record of a log
/// that failed; damage and I/O. Nothing comes behind an error.
///
/// # Cancel safety
/// Nothing is lost by dropping a future of it. A tail does not keep the log open.
pub struct Tail {
    feed: Feed,
    records: HeldRecords,
    done: bool,
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail").field("next_lsn", &self.next_lsn()).finish_non_exhaustive()
    }
}

impl Tail {
    pub(crate) fn new(shared: Arc<Shared>, from: Lsn) -> Self {
        Self { feed: Feed::new(shared, from), records: HeldRecords::default(), done: false }
    }

    /// The LSN of the record that comes next.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.records.next_lsn().unwrap_or(self.feed.next)
    }

    /// The next record, as from [`Stream::poll_next`]; none when the log was closed.
    #[expect(clippy::should_implement_trait, reason = "what `StreamExt` would name so")]
    pub fn next(&mut self) -> impl Future<Output = Option<Result<Record, ReadError>>> + Send + '_ {
        std::future::poll_fn(|cx| self.poll_record(cx))
    }

    /// A record that is here already, without waiting: none if the next one is not durable yet, or has to be read first.
    pub fn next_ready(&mut self) -> Option<Record> {
        self.records.next().map(|(lsn, payload)| Record { lsn, payload })
    }

    fn poll_record(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Record, ReadError>>> {
        loop {
            if let Some(record) = self.next_ready() {
                return Poll::Ready(Some(Ok(record)));
            }
            if self.done {
                return Poll::Ready(None);
            }
            match self.feed.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok((batch, from)))) => self.records = batch.records_from(from),
                Poll::Ready(Some(Err(error))) => {
                    self.done = true;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => self.done = true,
            }
        }
    }
}

impl Stream for Tail {
    type Item = Result<Record, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_record(cx)
    }
}

/// A log's durable batches, one after the other.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    key: usize,
    next: Lsn,
    /// The last record that was handed on.
    shown: Lsn,
    reading: Reading,
}

/// What a feed that has fallen behind is about.
#[derive(Default)]
enum Reading {
    /// At the live end, as far as it knows.
    #[default]
    Nothing,
    Waiting {
        fetch: Fetch,
        to: Lsn,
        load: VecDeque<HeldBatch>,
    },
    /// What is left of the last load, and what it failed on.
    Using {
        load: VecDeque<HeldBatch>,
        failure: Option<ReadError>,
    },
}

impl Feed {
    pub(crate) fn new(shared: Arc<Shared>, from: Lsn) -> Self {
        let key = shared.recent.follow(&shared.durable);
        Self { shared, key, next: from.max(Lsn::FIRST), shown: Lsn::ZERO, reading: Reading::Nothing }
    }

    /// The batch that holds the next record, and from which of its records on it is news. None: the log was closed.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<(HeldBatch, Lsn), ReadError>>> {
        loop {
            if let Some(batch) = self.loaded(cx) {
                return Poll::Ready(Some(Ok(self.pass(batch))));
            }
            match std::mem::take(&mut self.reading) {
                waiting @ Reading::Waiting { .. } => {
                    self.reading = waiting;
                    return Poll::Pending;
                }
                // What it was on its way to is gone, and nothing that it has shown.
                Reading::Using { failure: Some(ReadError::CutBack { last }), .. } if self.shown <= last => {}
                Reading::Using { failure: Some(failure), .. } => return Poll::Ready(Some(Err(failure))),
                Reading::Using { .. } | Reading::Nothing => {}
            }
            let cuts = self.shared.index.cuts();
            match self.shared.recent.poll(self.key, self.next, self.shown, cx.waker()) {
                Seen::Batch(batch) => return Poll::Ready(Some(Ok(self.pass(batch)))),
                Seen::Nothing => return Poll::Pending,
                Seen::Behind { to } => match self.begin(cuts, to) {
                    Ok(reading) => self.reading = reading,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                Seen::CutBack { last } => return Poll::Ready(Some(Err(ReadError::CutBack { last }))),
                Seen::Ended(End::Closed) => return Poll::Ready(None),
                Seen::Ended(End::Poisoned(cause)) => return Poll::Ready(Some(Err(ReadError::Poisoned(cause)))),
            }
        }
    }

    fn pass(&mut self, batch: HeldBatch) -> (HeldBatch, Lsn) {
        self.shown = batch.last;
        let from = std::mem::replace(&mut self.next, batch.last.next());
        (batch, from)
    }

    fn begin(&self, cuts: u64, to: Lsn) -> Result<Reading, ReadError> {
        let first = self.shared.index.first();
        if self.next < first {
            return Err(ReadError::Truncated { first });
        }
        let batches = Batches::of(&self.shared, cuts, self.next, to)?;
        Ok(Reading::Waiting { fetch: Fetch::start(batches), to, load: VecDeque::new() })
    }

    /// The next batch that was read, while the next load is on its way.
    fn loaded(&mut self, cx: &Context<'_>) -> Option<HeldBatch> {
        if let Reading::Waiting { fetch, to, load } = &mut self.reading
            && load.is_empty()
            && let Poll::Ready(fetched) = fetch.poll(cx)
        {
            let to = *to;
            self.reading = match fetched {
                Ok((batches, load, None)) if batches.next_lsn() <= to => {
                    Reading::Waiting { fetch: Fetch::start(batches), to, load }
                }
                Ok((_, load, failure)) => Reading::Using { load, failure },
                Err(failure) => Reading::Using { load: VecDeque::new(), failure: Some(failure) },
            };
        }
        match &mut self.reading {
            Reading::Waiting { load, .. } | Reading::Using { load, .. } => load.pop_front(),
            Reading::Nothing => None,
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.recent.leave(self.key);
    }
}
