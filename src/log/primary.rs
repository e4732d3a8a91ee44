//! A log that is followed: appends that resolve when standbys have the record too, and the source's end of connections.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::Log;
use super::serve::{self, HEARTBEAT, Origin};
use crate::error::{AppendError, Cause, ReadError};
use crate::format::HeldBatch;
use crate::lsn::Lsn;
use crate::read::cursor::Batches;
use crate::read::tail::Feed;
use crate::runtime::append::WaitDurable;
use crate::runtime::errands::Errand;
use crate::runtime::sync::{Arc, Mutex, lock};
use crate::ship::{Member, Quorum, ShipError, SourceConfig, SourceEvent, Standing};

/// A log that standbys follow. Clones share it.
///
/// With `k` standbys to wait for, [`Primary::append`] resolves when the record is durable here and at `k` of those that
/// are connected; with 0, when it is durable here, and no standby ever holds it up. A log that was cut back
/// ([`Log::truncate_after`]) must begin a greater term ([`Log::begin_term`]) before it is followed again, or a standby could
/// not tell its records from those that were there; while it is followed it must not be cut back at all. It keeps what its standbys still need: [`Log::truncate_before`] at most
/// the last record that each has acknowledged.
///
/// Who has seen a greater term than this log's *fences* it: another primary was made. From then on every append and every
/// wait fails, for good.
#[derive(Clone)]
pub struct Primary {
    inner: Arc<Inner>,
}

struct Inner {
    log: Log,
    heartbeat: Duration,
    /// How many standbys must have a record.
    k: usize,
    state: Mutex<State>,
}

struct State {
    quorum: Quorum,
    /// The greater term.
    fenced: Option<u64>,
    followers: BTreeMap<[u8; 16], (Member, Follower)>,
    /// Who waits for standbys, in the order of their LSNs.
    waiting: BTreeMap<(Lsn, u64), Waker>,
    /// The connections, to be ended when this is no primary any more.
    serving: BTreeMap<u64, Waker>,
    next_key: u64,
}

/// A standby that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Follower {
    /// Its id, which stays with its log.
    pub id: [u8; 16],
    /// Its name.
    pub name: String,
    /// Everything up to here is durable there.
    pub acked: Lsn,
    /// How many records are durable here and not there.
    pub lag: u64,
}

/// Why a record is not known to be where it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrimaryError {
    /// The log here did not take it, or ended first.
    Append(AppendError),
    /// A greater term was given out: there is another primary. The record may survive, or not.
    Fenced {
        /// Our term.
        ours: u64,
        /// The greater one.
        theirs: u64,
    },
}

impl fmt::Display for PrimaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Append(ref error) => error.fmt(f),
            Self::Fenced { ours, theirs } => ShipError::Fenced { ours, theirs }.fmt(f),
        }
    }
}

impl std::error::Error for PrimaryError {}

impl From<AppendError> for PrimaryError {
    fn from(error: AppendError) -> Self {
        Self::Append(error)
    }
}

impl fmt::Debug for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Primary")
            .field("log", &self.inner.log)
            .field("replicated_lsn", &self.replicated_lsn())
            .finish_non_exhaustive()
    }
}

impl Primary {
    /// Of a log that has a term of its own, if there ever was another primary; `k` standbys must have a record before it is
    /// acknowledged. Blocks on a little reading if the log has a term.
    #[must_use]
    pub fn new(log: Log, k: usize) -> Self {
        Self::with_heartbeat(log, k, HEARTBEAT)
    }

    /// As [`Primary::new`]; standbys hear something this often, and a side that has missed five is given up.
    #[must_use]
    pub fn with_heartbeat(log: Log, k: usize, heartbeat: Duration) -> Self {
        let state = State {
            quorum: Quorum::new(k, log.before_term()),
            fenced: None,
            followers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            serving: BTreeMap::new(),
            next_key: 0,
        };
        Self { inner: Arc::new(Inner { log, heartbeat, k, state: Mutex::new(state) }) }
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// Appends a record: resolves with its LSN when it is durable here and at `k` standbys.
    ///
    /// # Errors
    /// [`PrimaryError`]: as [`Log::append`], or fenced. While too few standbys are there it waits.
    ///
    /// # Cancel safety
    /// As [`Log::append`].
    pub async fn append(&self, record: &[u8]) -> Result<Lsn, PrimaryError> {
        if let Some(error) = self.inner.fenced() {
            return Err(error);
        }
        let lsn = self.inner.log.append(record).await?;
        self.wait_replicated(lsn).await?;
        Ok(lsn)
    }

    /// Resolves with [`Primary::replicated_lsn`] when `lsn` is durable here and at `k` standbys.
    ///
    /// # Errors
    /// The log's end, or fenced.
    ///
    /// # Cancel safety
    /// Dropping it loses interest, nothing else.
    pub fn wait_replicated(&self, lsn: Lsn) -> WaitReplicated<'_> {
        WaitReplicated {
            inner: &self.inner,
            lsn,
            local: WaitDurable::new(&self.inner.log.handle.shared, lsn),
            end: WaitDurable::new(&self.inner.log.handle.shared, Lsn::MAX),
            key: None,
        }
    }

    /// Everything up to here is durable here and at `k` standbys, or was. [`Lsn::ZERO`] until that holds of a record that
    /// was appended in this log's term.
    #[must_use]
    pub fn replicated_lsn(&self) -> Lsn {
        self.inner.update(|_| ());
        match self.inner.k {
            0 => self.inner.log.durable_lsn(),
            _ => lock(&self.inner.state).quorum.durable(),
        }
    }

    /// The term that fenced this primary, if one did.
    #[must_use]
    pub fn fenced_by(&self) -> Option<u64> {
        lock(&self.inner.state).fenced
    }

    /// The standbys that follow now.
    #[must_use]
    pub fn standbys(&self) -> Vec<Follower> {
        let durable = self.inner.log.durable_lsn();
        let state = lock(&self.inner.state);
        let followers = state.followers.values();
        followers.map(|(_, one)| Follower { lag: durable.since(one.acked.min(durable)), ..one.clone() }).collect()
    }

    /// Serves the standby at the other end of `stream` until the connection ends; any number at once. Of a TCP connection
    /// set `TCP_NODELAY` first. Needs a tokio runtime with time. Who can connect can read the log, and can fence this primary:
    /// over anything but a trusted network use TLS with certificates on both sides.
    ///
    /// # Errors
    /// Why it ended, if not in order: the log was closed, or the standby said goodbye.
    ///
    /// # Cancel safety
    /// Dropping it breaks the connection.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(&self, stream: S) -> Result<(), ShipError> {
        let log = &self.inner.log;
        let config = SourceConfig {
            log_id: log.log_id(),
            term: log.term(),
            first: log.first_lsn(),
            durable: log.durable_lsn(),
            batch_bytes_max: log.handle.limits.batch_bytes_bound() as u64,
            ..serve::config(self.inner.heartbeat)
        };
        let mut guest = Guest { inner: &self.inner, term: config.term, key: None, member: None };
        let office = Office { inner: &self.inner, term: config.term, key: self.inner.key() };
        let origin = Live { log: log.clone(), feed: None, check: None };
        // Who is told by its own standby still has an answer to give.
        let told = AtomicBool::new(false);
        let hear = |event: &SourceEvent| {
            told.fetch_or(matches!(event, SourceEvent::Fenced { .. }), Ordering::Relaxed);
            guest.hear(event)
        };
        let mut serving = std::pin::pin!(serve::serve(origin, config, stream, hear));
        std::future::poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Pending if !told.load(Ordering::Relaxed) => office.poll_lost(cx).map(Err),
            ready => ready,
        })
        .await
    }
}

impl Inner {
    fn key(&self) -> u64 {
        let mut state = lock(&self.state);
        state.next_key += 1;
        state.next_key
    }

    fn fenced(&self) -> Option<PrimaryError> {
        let ours = self.log.term();
        lock(&self.state).fenced.map(|theirs| PrimaryError::Fenced { ours, theirs })
    }

    /// Changes what is known of the standbys, and wakes who waited for that.
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        state.quorum.handle_local(self.log.durable_lsn());
        let changed = change(&mut state);
        let woken = state.served();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        changed
    }
}

impl State {
    /// Who has nothing to wait for any more.
    fn served(&mut self) -> Vec<Waker> {
        if self.fenced.is_some() {
            let waiting = std::mem::take(&mut self.waiting);
            let serving = std::mem::take(&mut self.serving);
            return waiting.into_values().chain(serving.into_values()).collect();
        }
        let behind = (self.quorum.durable().next(), 0);
        if self.waiting.first_key_value().is_none_or(|(key, _)| *key >= behind) {
            return Vec::new();
        }
        let rest = self.waiting.split_off(&behind);
        std::mem::replace(&mut self.waiting, rest).into_values().collect()
    }
}

/// Resolves when a record is durable here and at the standbys. Made by [`Primary::wait_replicated`].
#[must_use = "futures do nothing unless polled"]
pub struct WaitReplicated<'a> {
    inner: &'a Inner,
    lsn: Lsn,
    local: WaitDurable<'a>,
    /// Never ready but for the log's end.
    end: WaitDurable<'a>,
    key: Option<(Lsn, u64)>,
}

impl fmt::Debug for WaitReplicated<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitReplicated").field("lsn", &self.lsn).finish_non_exhaustive()
    }
}

impl Future for WaitReplicated<'_> {
    type Output = Result<Lsn, PrimaryError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(error) = this.inner.fenced() {
            return Poll::Ready(Err(error));
        }
        if this.inner.log.durable_lsn() < this.lsn {
            match Pin::new(&mut this.local).poll(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
        if this.inner.k == 0 {
            return Poll::Ready(Ok(this.inner.log.durable_lsn()));
        }
        let (lsn, known) = (this.lsn, &mut this.key);
        let replicated = this.inner.update(|state| {
            // Looked at under the lock that every acknowledgement takes: none slips in between.
            if state.fenced.is_some() || state.quorum.durable() >= lsn {
                return state.fenced.is_none().then(|| state.quorum.durable());
            }
            let key = *known.get_or_insert_with(|| {
                state.next_key += 1;
                (lsn, state.next_key)
            });
            state.waiting.insert(key, cx.waker().clone());
            Some(Lsn::ZERO)
        });
        match replicated {
            None => Poll::Ready(Err(this.inner.fenced().unwrap_or(PrimaryError::Append(AppendError::Closed)))),
            Some(replicated) if replicated >= lsn => Poll::Ready(Ok(replicated)),
            Some(_) => match Pin::new(&mut this.end).poll(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                _ => Poll::Pending,
            },
        }
    }
}

impl Drop for WaitReplicated<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            lock(&self.inner.state).waiting.remove(&key);
        }
    }
}

/// One connection's place among the standbys; given up when it ends.
struct Guest<'a> {
    inner: &'a Inner,
    term: u64,
    key: Option<[u8; 16]>,
    member: Option<Member>,
}

impl Guest<'_> {
    fn hear(&mut self, event: &SourceEvent) -> Option<ShipError> {
        let (inner, ours) = (self.inner, self.term);
        match event {
            SourceEvent::Started { from, standby, name } => {
                let acked = from.prev();
                let follower = Follower { id: *standby, name: name.clone(), acked, lag: 0 };
                self.key = Some(*standby);
                self.member = Some(inner.update(|state| {
                    let member = state.quorum.handle_started(*standby, acked);
                    state.followers.insert(*standby, (member, follower));
                    member
                }));
            }
            SourceEvent::Acked { durable } => {
                let member = self.member?;
                inner.update(|state| {
                    state.quorum.handle_acked(member, *durable);
                    // Its new self counts, if it has one.
                    if let Some((known, follower)) = state.followers.get_mut(&self.key.unwrap_or_default())
                        && *known == member
                    {
                        follower.acked = *durable;
                    }
                });
            }
            SourceEvent::Fenced { term } => {
                inner.update(|state| state.fenced = state.fenced.max(Some(*term)));
                return Some(ShipError::Fenced { ours, theirs: *term });
            }
            SourceEvent::Check { .. } | SourceEvent::Ended(_) => {}
        }
        None
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let (Some(member), Some(id)) = (self.member, self.key) else { return };
        let mut state = lock(&self.inner.state);
        state.quorum.handle_left(member);
        if state.followers.get(&id).is_some_and(|(known, _)| *known == member) {
            state.followers.remove(&id);
        }
    }
}

/// Whether this is still a primary, for a connection.
struct Office<'a> {
    inner: &'a Inner,
    term: u64,
    key: u64,
}

impl Office<'_> {
    /// Ready when another connection fenced this primary.
    fn poll_lost(&self, cx: &Context<'_>) -> Poll<ShipError> {
        let mut state = lock(&self.inner.state);
        match state.fenced {
            Some(theirs) => Poll::Ready(ShipError::Fenced { ours: self.term, theirs }),
            None => {
                state.serving.insert(self.key, cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Office<'_> {
    fn drop(&mut self) {
        lock(&self.inner.state).serving.remove(&self.key);
    }
}

/// The records of a log that this process writes.
struct Live {
    log: Log,
    feed: Option<Feed>,
    check: Option<Errand<Result<Option<Standing>, ReadError>>>,
}

impl Origin for Live {
    fn poll_standing(&mut self, lsn: Lsn, cx: &mut Context<'_>) -> Poll<Result<Option<Standing>, ReadError>> {
        self.check.get_or_insert_with(|| self.log.standing(lsn)).poll(cx).map(answered)
    }

    fn poll_batch(&mut self, from: Lsn, cx: &mut Context<'_>) -> Poll<Option<Result<HeldBatch, ReadError>>> {
        let feed = self.feed.get_or_insert_with(|| Feed::new(self.log.handle.shared.clone(), from));
        feed.poll(cx).map(|fed| fed.map(|fed| fed.map(|(held, _)| held)))
    }

    fn durable(&self) -> Lsn {
        self.log.durable_lsn()
    }
}

/// An errand's answer; one that panicked has none.
pub(super) fn answered<T>(answer: Option<Result<T, ReadError>>) -> Result<T, ReadError> {
    answer.unwrap_or_else(|| Err(ReadError::Poisoned(Cause::Panic("while reading".into()))))
}

impl Log {
    /// How the log stands at a durable record.
    pub(super) fn standing(&self, lsn: Lsn) -> Errand<Result<Option<Standing>, ReadError>> {
        let shared = &self.handle.shared;
        let batches = Batches::of(shared, shared.index.cuts(), lsn, lsn);
        Errand::start(move || Ok(batches?.advance()?.and_then(|held| Standing::of(&held, lsn))))
    }

    /// The last record of an earlier term than the log's: searched for, since terms only grow along a log. Blocks on I/O.
    fn before_term(&self) -> Lsn {
        let (term, mut low, mut high) = (self.term(), self.first_lsn().prev(), self.durable_lsn());
        if term == 0 {
            return Lsn::ZERO;
        }
        // Everything up to `low` is of an earlier term, nothing above `high` is.
        while low < high {
            let middle = low.plus((high.since(low)).div_ceil(2));
            let shared = &self.handle.shared;
            let batch =
                Batches::of(shared, shared.index.cuts(), middle, middle).and_then(|mut batches| batches.advance());
            match batch {
                Ok(Some(held)) if held.header.term >= term => high = middle.prev(),
                // What cannot be read counts as earlier: then nothing is promised before the next record.
                _ => low = middle,
            }
        }
        low
    }
}
