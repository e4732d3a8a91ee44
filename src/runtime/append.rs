//! The futures of appending: they hold an LSN, never memory that the kernel can see, and need only a `Waker`.

use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

use super::Shared;
use super::durable::{End, Mark, Place};
use super::stage::{Entry, LARGE_BYTES, Outcome, Turn};
use super::sync::Arc;
use crate::disk::Buffer;
use crate::error::{AppendError, SubmitError};
use crate::format::{BATCH_HEADER_BYTES, RECORD_HEADER_BYTES, RecordCrc};
use crate::lsn::Lsn;

/// The bytes of a large record in its buffer.
fn payload_of(buffer: &mut Buffer, len: usize) -> &mut [u8] {
    &mut buffer[BATCH_HEADER_BYTES + RECORD_HEADER_BYTES..][..len]
}

impl From<End> for AppendError {
    fn from(end: End) -> Self {
        match end {
            End::Closed => Self::Closed,
            End::Poisoned(cause) => Self::Poisoned(cause),
        }
    }
}

/// What is appended.
#[derive(Debug)]
enum Cargo<'a> {
    Record(RecordCrc, &'a [u8]),
    Group(Vec<(RecordCrc, &'a [u8])>),
    /// A large record that still needs a buffer.
    Unpacked(&'a [u8]),
    /// A large record in its buffer.
    Packed(RecordCrc, usize, Option<Buffer>),
}

impl<'a> Cargo<'a> {
    fn record(shared: &Shared, payload: &'a [u8]) -> Self {
        if payload.len() >= LARGE_BYTES {
            Self::Unpacked(payload)
        } else {
            Self::Record(shared.stage.crc(payload), payload)
        }
    }

    /// Tries to get LSNs and a place.
    fn stage(&mut self, shared: &Shared, turn: &mut Turn, waker: Option<&Waker>) -> Outcome {
        if let Self::Unpacked(payload) = *self {
            match shared.stage.take_buffer(payload.len(), waker.map(|waker| (&mut *turn, waker))) {
                Err(refusal) => return Outcome::Refused(refusal),
                Ok(None) => return Outcome::NoRoom,
                Ok(Some(mut buffer)) => {
                    payload_of(&mut buffer, payload.len()).copy_from_slice(payload);
                    *self = Self::Packed(shared.stage.crc(payload), payload.len(), Some(buffer));
                }
            }
        }
        loop {
            let turn = waker.map(|waker| (&mut *turn, waker));
            let outcome = match self {
                Self::Record(crc, payload) => shared.stage.stage(&Entry::Record(crc.clone(), payload), &mut None, turn),
                Self::Group(records) => shared.stage.stage(&Entry::Group(records), &mut None, turn),
                Self::Packed(crc, len, buffer) => shared.stage.stage(&Entry::Large(crc.clone(), *len), buffer, turn),
                Self::Unpacked(_) => Outcome::NoRoom,
            };
            match outcome {
                Outcome::Stale => self.renew(shared),
                outcome => return outcome,
            }
        }
    }

    /// A new epoch has begun since the checksums were made: makes them for that one.
    fn renew(&mut self, shared: &Shared) {
        match self {
            Self::Record(crc, payload) => *crc = shared.stage.crc(payload),
            Self::Group(records) => {
                let sums = shared.stage.checksums();
                records.iter_mut().for_each(|(crc, payload)| *crc = sums.of(payload));
            }
            Self::Packed(crc, len, Some(buffer)) => *crc = shared.stage.crc(payload_of(buffer, *len)),
            Self::Packed(..) | Self::Unpacked(_) => {}
        }
    }

    fn drop_buffer(&mut self, shared: &Shared) {
        if let Self::Packed(_, _, buffer) = self
            && let Some(buffer) = buffer.take()
        {
            shared.stage.give_back(buffer);
        }
    }
}

/// The common part of the appending futures: not yet staged, or waiting for an LSN to be durable.
#[derive(Debug)]
struct Appending<'a> {
    count: u64,
    state: State<'a>,
}

#[derive(Debug)]
enum State<'a> {
    Refused(AppendError),
    Unstaged { cargo: Cargo<'a>, turn: Turn },
    Staged { last: Mark, place: Place },
    Done,
}

impl<'a> Appending<'a> {
    fn new(count: u64, cargo: Result<Cargo<'a>, AppendError>) -> Self {
        let state = match cargo {
            Ok(cargo) => State::Unstaged { cargo, turn: Turn::default() },
            Err(refusal) => State::Refused(refusal),
        };
        Self { count, state }
    }

    /// Ready with the last LSN.
    fn poll(&mut self, shared: &Shared, cx: &Context<'_>) -> Poll<Result<Lsn, AppendError>> {
        let answer = match &mut self.state {
            State::Unstaged { cargo, turn } => match cargo.stage(shared, turn, Some(cx.waker())) {
                Outcome::NoRoom | Outcome::Stale => return Poll::Pending,
                // Its waker lies with the batch: there is nothing to look at before it is woken.
                Outcome::Staged(last) => {
                    self.state = State::Staged { last, place: Place::default() };
                    return Poll::Pending;
                }
                Outcome::Refused(refusal) => {
                    cargo.drop_buffer(shared);
                    Err(refusal)
                }
            },
            State::Staged { last, place } => match shared.durable.poll_mark(*last, place, cx.waker()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result.map(|()| last.lsn).map_err(AppendError::from),
            },
            State::Refused(refusal) => Err(refusal.clone()),
            State::Done => panic!("polled after it was ready"),
        };
        self.state = State::Done;
        Poll::Ready(answer)
    }

    fn forget(&mut self, shared: &Shared) {
        match &mut self.state {
            State::Unstaged { cargo, turn } => {
                cargo.drop_buffer(shared);
                shared.stage.forget(turn);
            }
            State::Staged { last, place } => shared.durable.forget(last.lsn, place),
            State::Refused(_) | State::Done => {}
        }
    }
}

/// Appends one record: resolves with its LSN when it is durable. Made by [`Log::append`](crate::Log::append).
///
/// # Cancel safety
/// Does nothing until polled. Dropped before it took its LSN, nothing was appended; dropped later, the record may become
/// durable all the same.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Append<'a> {
    shared: &'a Shared,
    inner: Appending<'a>,
}

impl<'a> Append<'a> {
    pub(crate) fn new(shared: &'a Shared, payload: &'a [u8]) -> Self {
        let cargo = shared.stage.check_record(payload.len()).map(|()| Cargo::record(shared, payload));
        Self { shared, inner: Appending::new(1, cargo) }
    }

    /// Blocks the calling thread until the record is durable: for threads without a runtime.
    ///
    /// # Errors
    /// As the future.
    pub fn wait(self) -> Result<Lsn, AppendError> {
        block_on(self)
    }
}

impl Future for Append<'_> {
    type Output = Result<Lsn, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = self.shared;
        self.inner.poll(shared, cx)
    }
}

impl Drop for Append<'_> {
    fn drop(&mut self) {
        self.inner.forget(self.shared);
    }
}

/// Appends a group: resolves with its LSNs when all of it is durable. Made by
/// [`Log::append_batch`](crate::Log::append_batch).
///
/// # Cancel safety
/// As for [`Append`]; the group is taken whole or not at all.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct AppendBatch<'a> {
    shared: &'a Shared,
    inner: Appending<'a>,
}

impl<'a> AppendBatch<'a> {
    pub(crate) fn new<R: AsRef<[u8]>>(shared: &'a Shared, records: &'a [R]) -> Self {
        let sum = records.iter().fold(0usize, |sum, record| sum.saturating_add(record.as_ref().len()));
        let cargo = shared.stage.check_group(records.len(), sum).map(|()| {
            let sums = shared.stage.checksums();
            Cargo::Group(records.iter().map(|record| (sums.of(record.as_ref()), record.as_ref())).collect())
        });
        Self { shared, inner: Appending::new(records.len() as u64, cargo) }
    }

    /// Ready with the last LSN as soon as the records have theirs, durable or not.
    #[cfg_attr(not(feature = "ship"), expect(dead_code, reason = "only a standby appends without waiting so"))]
    pub(crate) fn poll_staged(&mut self, cx: &Context<'_>) -> Poll<Result<Lsn, AppendError>> {
        let polled = self.inner.poll(self.shared, cx);
        match &self.inner.state {
            State::Staged { last, .. } => Poll::Ready(Ok(last.lsn)),
            _ => polled,
        }
    }

    /// Blocks the calling thread until the group is durable: for threads without a runtime.
    ///
    /// # Errors
    /// As the future.
    pub fn wait(self) -> Result<RangeInclusive<Lsn>, AppendError> {
        block_on(self)
    }
}

impl Future for AppendBatch<'_> {
    type Output = Result<RangeInclusive<Lsn>, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = self.shared;
        let count = self.inner.count;
        self.inner.poll(shared, cx).map_ok(|last| Lsn::new(last.get() - (count - 1))..=last)
    }
}

impl Drop for AppendBatch<'_> {
    fn drop(&mut self) {
        self.inner.forget(self.shared);
    }
}

/// A submitted record on its way: resolves with its LSN when it is durable. Made by [`Log::submit`](crate::Log::submit).
///
/// # Cancel safety
/// The record has its LSN already; dropping this loses interest, nothing else.
#[must_use = "the record is durable only when this resolves"]
pub struct Pending {
    shared: Arc<Shared>,
    mark: Mark,
    place: Place,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("lsn", &self.lsn()).finish_non_exhaustive()
    }
}

impl Pending {
    pub(crate) fn submit(shared: &Arc<Shared>, payload: &[u8]) -> Result<Self, SubmitError> {
        shared.stage.check_record(payload.len())?;
        let mut cargo = Cargo::record(shared, payload);
        match cargo.stage(shared, &mut Turn::default(), None) {
            Outcome::Staged(mark) => Ok(Self { shared: shared.clone(), mark, place: Place::default() }),
            Outcome::NoRoom | Outcome::Stale => {
                cargo.drop_buffer(shared);
                Err(SubmitError::Full)
            }
            Outcome::Refused(refusal) => {
                cargo.drop_buffer(shared);
                Err(refusal.into())
            }
        }
    }

    /// Its LSN, durable or not.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.mark.lsn
    }

    /// Blocks the calling thread until the record is durable: for threads without a runtime.
    ///
    /// # Errors
    /// As the future.
    pub fn wait(self) -> Result<Lsn, AppendError> {
        block_on(self)
    }
}

impl Future for Pending {
    type Output = Result<Lsn, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, mark, place } = &mut *self;
        shared
            .durable
            .poll_mark(*mark, place, cx.waker())
            .map(|result| result.map(|()| mark.lsn).map_err(AppendError::from))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.shared.durable.forget(self.mark.lsn, &mut self.place);
    }
}

/// Resolves when an LSN is durable. Made by [`Log::wait_durable`](crate::Log::wait_durable) and
/// [`Log::sync`](crate::Log::sync).
///
/// # Cancel safety
/// Dropping it loses interest, nothing else.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct WaitDurable<'a> {
    shared: &'a Shared,
    lsn: Lsn,
    place: Place,
}

impl<'a> WaitDurable<'a> {
    pub(crate) fn new(shared: &'a Shared, lsn: Lsn) -> Self {
        Self { shared, lsn, place: Place::default() }
    }

    /// Blocks the calling thread: for threads without a runtime.
    ///
    /// # Errors
    /// As the future.
    pub fn wait(self) -> Result<Lsn, AppendError> {
        block_on(self)
    }
}

impl Future for WaitDurable<'_> {
    type Output = Result<Lsn, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, lsn, place } = &mut *self;
        shared
            .durable
            .poll(*lsn, place, cx.waker())
            .map(|result| result.map(|()| shared.durable.lsn()).map_err(AppendError::from))
    }
}

impl Drop for WaitDurable<'_> {
    fn drop(&mut self) {
        self.shared.durable.forget(self.lsn, &mut self.place);
    }
}

/// A place to serialise a record into. Made by [`Log::reserve`](crate::Log::reserve). Its LSN and batch are taken at
/// [`Slot::commit`]; a slot held or dropped blocks nobody.
#[derive(Debug)]
pub struct Slot<'a> {
    shared: &'a Shared,
    memory: Memory,
    len: usize,
    filled: usize,
}

/// So many bytes lie in the slot itself.
const INLINE_BYTES: usize = 512;

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "so that a small slot allocates nothing")]
enum Memory {
    /// Copied into the open batch at commit, which is cheaper than a batch of its own.
    Inline([u8; INLINE_BYTES]),
    /// As well.
    Small(Vec<u8>),
    /// The pool's: becomes the batch at commit.
    Large(Option<Buffer>),
}

impl Slot<'_> {
    /// Appends bytes to the record.
    ///
    /// # Panics
    /// If more is put than was reserved.
    pub fn put(&mut self, bytes: &[u8]) {
        let (from, to) = (self.filled, self.filled + bytes.len());
        assert!(to <= self.len, "{to} bytes put into a slot of {}", self.len);
        self.as_mut()[from..to].copy_from_slice(bytes);
        self.filled = to;
    }

    /// How many bytes may still be put.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.len - self.filled
    }

    /// Appends the record: what was put, not more. Resolves with its LSN when it is durable.
    ///
    /// # Errors
    /// As [`Log::append`](crate::Log::append).
    ///
    /// # Cancel safety
    /// As [`Append`].
    pub async fn commit(mut self) -> Result<Lsn, AppendError> {
        let (shared, len) = (self.shared, self.filled);
        match &mut self.memory {
            Memory::Inline(bytes) => Append::new(shared, &bytes[..len]).await,
            Memory::Small(bytes) => Append::new(shared, &bytes[..len]).await,
            Memory::Large(buffer) => {
                let Some(mut buffer) = buffer.take() else { return Err(AppendError::Closed) };
                let crc = shared.stage.crc(payload_of(&mut buffer, len));
                let inner = Appending::new(1, Ok(Cargo::Packed(crc, len, Some(buffer))));
                Append { shared, inner }.await
            }
        }
    }
}

/// All of the slot, for serialisers that want the slice; [`Slot::filled_to`] then says how much of it counts.
impl AsMut<[u8]> for Slot<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Inline(bytes) => &mut bytes[..self.len],
            Memory::Small(bytes) => bytes,
            Memory::Large(buffer) => buffer.as_mut().map_or(&mut [], |buffer| payload_of(buffer, self.len)),
        }
    }
}

impl Slot<'_> {
    /// Says that the first `len` bytes are the record, after writing them through `as_mut`.
    ///
    /// # Panics
    /// If `len` is over what was reserved.
    pub fn filled_to(&mut self, len: usize) {
        assert!(len <= self.len, "{len} bytes are over the slot's {}", self.len);
        self.filled = len;
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Memory::Large(buffer) = &mut self.memory
            && let Some(buffer) = buffer.take()
        {
            self.shared.stage.give_back(buffer);
        }
    }
}

/// Resolves with a slot when there is room for it. Made by [`Log::reserve`](crate::Log::reserve).
///
/// # Cancel safety
/// Dropping it gives up the turn, nothing else.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Reserve<'a> {
    shared: &'a Shared,
    len: usize,
    turn: Turn,
}

impl<'a> Reserve<'a> {
    pub(crate) fn new(shared: &'a Shared, len: usize) -> Self {
        Self { shared, len, turn: Turn::default() }
    }
}

impl<'a> Future for Reserve<'a> {
    type Output = Result<Slot<'a>, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, len, turn } = &mut *self;
        let (shared, len) = (*shared, *len);
        if let Err(refusal) = shared.stage.check_record(len) {
            return Poll::Ready(Err(refusal));
        }
        let memory = if len <= INLINE_BYTES {
            Memory::Inline([0; INLINE_BYTES])
        } else if len < LARGE_BYTES {
            Memory::Small(vec![0; len])
        } else {
            match shared.stage.take_buffer(len, Some((turn, cx.waker()))) {
                Err(refusal) => return Poll::Ready(Err(refusal)),
                Ok(None) => return Poll::Pending,
                Ok(Some(mut buffer)) => {
                    // A buffer's earlier life is not the caller's to see.
                    payload_of(&mut buffer, len).fill(0);
                    Memory::Large(Some(buffer))
                }
            }
        };
        Poll::Ready(Ok(Slot { shared, memory, len, filled: 0 }))
    }
}

impl Drop for Reserve<'_> {
    fn drop(&mut self) {
        self.shared.stage.forget(&mut self.turn);
    }
}

/// Runs a future on the calling thread: for threads without a runtime. A log that is driven inside this very thread is
/// driven on meanwhile, or it would wait for itself.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    if super::local::drives_here() {
        return super::local::block_on(future);
    }
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}
