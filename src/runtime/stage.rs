//! Staging: how records get from their appenders to the ring thread.
//!
//! Under one short lock an appender learns its LSN and its place, copies its bytes into the open batch's buffer, and
//! leaves. A large record is copied outside the lock, into a buffer of its own that then *becomes* the open batch. The
//! ring thread takes whole batches. While a flush is in flight nobody is woken for a new record: the ring thread asks to
//! be woken (`wake_wanted`, under the same lock) only when it found nothing to do.
//!
//! At the memory bound, or while no segment is ready, appenders wait their turn in a queue, first come first served. Who
//! needs a buffer of its own (a large record, a slot) waits in another queue, so that a slot held for ever blocks nobody.

use std::collections::VecDeque;
use std::task::Waker;

use super::durable::End;
use super::queue::Queue;
pub(crate) use super::queue::Turn;
use super::sync::{Arc, Mutex, MutexGuard, lock};
use crate::disk::{Buffer, BufferPool, Notify};
use crate::error::{AppendError, Cause, IoFailure};
use crate::format::{BATCH_HEADER_BYTES, RECORD_HEADER_BYTES, RecordCrc, batch_bytes, record, record_bytes};
use crate::journal::{Batcher, Placing, Shape, Space, Staged};
use crate::lsn::{LogId, Lsn};

/// A record at least this large is copied outside the lock.
pub(crate) const LARGE_BYTES: usize = 128 << 10;

/// What an appender brings.
#[derive(Debug)]
pub(crate) enum Entry<'a> {
    /// One record, to be copied under the lock.
    Record(RecordCrc, &'a [u8]),
    /// Several, which share a batch.
    Group(&'a [(RecordCrc, &'a [u8])]),
    /// One that stands in a buffer of its own already, its payload behind the two headers' room.
    Large(RecordCrc, usize),
}

impl Entry<'_> {
    fn records_bytes(&self) -> usize {
        match self {
            Self::Record(_, payload) => record_bytes(payload.len()),
            Self::Group(records) => records.iter().map(|(_, payload)| record_bytes(payload.len())).sum(),
            Self::Large(_, len) => record_bytes(*len),
        }
    }
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The records have LSNs up to this one.
    Staged(Lsn),
    /// There is no room, or others wait already.
    NoRoom,
    Refused(AppendError),
}

/// One log's staging area.
#[derive(Debug)]
pub(crate) struct Stage {
    inner: Mutex<Inner>,
    notify: Arc<Notify>,
    log_id: LogId,
    nonce: u64,
    record_bytes_max: usize,
    group_bytes_max: usize,
    block_bytes: u32,
    /// The size of a staging buffer.
    buffer_bytes: usize,
}

#[derive(Debug)]
struct Inner {
    batcher: Batcher,
    /// The open batch's buffer; the batcher knows its shape.
    open: Option<Buffer>,
    /// Closed batches, oldest first.
    closed: VecDeque<(Shape, Buffer)>,
    pool: BufferPool,
    /// Who waits for a place.
    queue: Queue,
    /// Who waits for a buffer of its own; those whom a slot held for ever keeps waiting are all here.
    buffer_queue: Queue,
    next_ticket: u64,
    /// The ring thread found nothing to do and wants to hear of the next record.
    wake_wanted: bool,
    /// Nothing more is taken.
    closing: bool,
    end: Option<End>,
    /// Somebody waits for a segment.
    segment_awaited: bool,
    /// Why no segment could be prepared the last time, until one is.
    no_space: Option<IoFailure>,
    /// Somebody was refused for it since: worth another try.
    retry_wanted: bool,
}

/// What the ring thread sees of the stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) staged: Staged,
    pub(crate) closing: bool,
    pub(crate) retry_wanted: bool,
}

/// How urgently a segment is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Somebody waits for it.
    Now,
    /// When the current one is used up; so much of it is.
    Soon { used_permille: u32 },
    /// There is another one to go to.
    Later,
    /// Never: the log has come to its end.
    Nothing,
}

/// What a stage is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) batcher: Batcher,
    pub(crate) pool: BufferPool,
    pub(crate) notify: Arc<Notify>,
    pub(crate) log_id: LogId,
    pub(crate) nonce: u64,
    pub(crate) record_bytes_max: usize,
    pub(crate) group_bytes_max: usize,
    pub(crate) block_bytes: u32,
    pub(crate) buffer_bytes: usize,
}

impl Stage {
    pub(crate) fn new(parts: Parts) -> Self {
        let inner = Inner {
            batcher: parts.batcher,
            open: None,
            closed: VecDeque::new(),
            pool: parts.pool,
            queue: Queue::default(),
            buffer_queue: Queue::default(),
            next_ticket: 0,
            wake_wanted: false,
            closing: false,
            end: None,
            segment_awaited: false,
            no_space: None,
            retry_wanted: false,
        };
        Self {
            inner: Mutex::new(inner),
            notify: parts.notify,
            log_id: parts.log_id,
            nonce: parts.nonce,
            record_bytes_max: parts.record_bytes_max,
            group_bytes_max: parts.group_bytes_max,
            block_bytes: parts.block_bytes,
            buffer_bytes: parts.buffer_bytes,
        }
    }

    /// Gives it its buffers: before the first append.
    pub(crate) fn set_pool(&self, pool: BufferPool) {
        lock(&self.inner).pool = pool;
    }

    /// An appender's part of a record's checksum, done outside the lock.
    pub(crate) fn crc(&self, payload: &[u8]) -> RecordCrc {
        RecordCrc::new(payload, self.log_id, self.nonce)
    }

    /// Refuses a record that is over its bound, before anything else.
    pub(crate) fn check_record(&self, len: usize) -> Result<(), AppendError> {
        if len > self.record_bytes_max {
            Err(AppendError::TooLarge { len, max: self.record_bytes_max })
        } else {
            Ok(())
        }
    }

    /// Refuses a group that is empty or over its bound: `sum` is its payloads' bytes.
    pub(crate) fn check_group(&self, count: usize, sum: usize) -> Result<(), AppendError> {
        let len = sum.saturating_add(count.saturating_mul(RECORD_HEADER_BYTES));
        if count == 0 {
            Err(AppendError::EmptyGroup)
        } else if len > self.group_bytes_max {
            Err(AppendError::TooLarge { len, max: self.group_bytes_max })
        } else {
            Ok(())
        }
    }

    /// Gives the records their LSNs and copies them in. With `turn` an appender that does not fit is queued under
    /// `waker`, and one that is queued is served only at the head of the queue. `buffer` is a large record's own, taken if
    /// it is staged.
    pub(crate) fn stage(
        &self,
        entry: Entry<'_>,
        buffer: &mut Option<Buffer>,
        turn: Option<(&mut Turn, &Waker)>,
    ) -> Outcome {
        let mut inner = lock(&self.inner);
        // Who brings a buffer waits behind nobody: the others may be waiting for that very memory.
        let brings = buffer.is_some();
        let behind = !brings && inner.queue.is_behind(turn.as_ref().map(|(turn, _)| &**turn));
        let outcome = if behind && inner.refusal().is_none() { Outcome::NoRoom } else { inner.stage(entry, buffer) };
        let served = outcome != Outcome::NoRoom;
        match turn {
            Some((turn, waker)) if !served => inner.queue_up(turn, waker, brings),
            Some((turn, _)) => inner.queue.leave(turn),
            None => {}
        }
        let next = if served { inner.queue.head() } else { None };
        self.release(inner);
        // The next in line may fit too, or be refused too: each that leaves wakes the one behind it.
        if let Some(waker) = next {
            waker.wake();
        }
        outcome
    }

    /// Unlocks, and wakes the ring thread if it asked for it.
    fn release(&self, mut inner: MutexGuard<'_, Inner>) {
        let staged = inner.open.is_some() || !inner.closed.is_empty() || inner.closing || inner.retry_wanted;
        let wake = staged && std::mem::take(&mut inner.wake_wanted);
        drop(inner);
        if wake {
            self.notify.wake();
        }
    }

    /// A buffer for a large record of `len` bytes, or a turn in the queue for one.
    pub(crate) fn take_buffer(
        &self,
        len: usize,
        turn: Option<(&mut Turn, &Waker)>,
    ) -> Result<Option<Buffer>, AppendError> {
        let mut inner = lock(&self.inner);
        if let Some(refusal) = inner.refusal() {
            return Err(refusal);
        }
        let bytes = batch_bytes(record_bytes(len), self.block_bytes);
        let behind = inner.buffer_queue.is_behind(turn.as_ref().map(|(turn, _)| &**turn));
        // One staging buffer is always left for those who bring none: slots may be held for ever.
        let spared = inner.pool.left_bytes() >= bytes.max(self.buffer_bytes).saturating_add(self.buffer_bytes);
        let buffer = if behind || !spared { None } else { inner.pool.take(bytes) };
        match (&buffer, turn) {
            (None, Some((turn, waker))) => inner.queue_up_for_buffer(turn, waker),
            (Some(_), Some((turn, _))) => inner.buffer_queue.leave(turn),
            _ => {}
        }
        let next = if buffer.is_some() { inner.buffer_queue.head() } else { None };
        drop(inner);
        if let Some(waker) = next {
            waker.wake();
        }
        Ok(buffer)
    }

    /// Leaves the queue: the future was dropped. Whoever becomes the head is woken, for the wake-up may have been lost on
    /// the one who left.
    pub(crate) fn forget(&self, turn: &mut Turn) {
        if turn.is_free() {
            return;
        }
        let mut inner = lock(&self.inner);
        inner.queue.leave(turn);
        inner.buffer_queue.leave(turn);
        self.wake_heads(inner);
    }

    /// The last LSN that was handed out.
    pub(crate) fn appended(&self) -> Lsn {
        lock(&self.inner).batcher.next_lsn().prev()
    }

    /// Bytes of memory that hold records on their way.
    pub(crate) fn pending_bytes(&self) -> usize {
        lock(&self.inner).pool.in_use_bytes()
    }

    /// Takes no more records; the ring thread makes durable what is staged, seals and ends.
    pub(crate) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.closing = true;
        inner.wake_wanted = true;
        let queues = [std::mem::take(&mut inner.queue), std::mem::take(&mut inner.buffer_queue)];
        self.release(inner);
        queues.into_iter().for_each(|mut queue| queue.drain().for_each(Waker::wake));
    }

    /// What there is to do. With `wake` the ring thread asks to be woken at the next record if there is nothing now.
    pub(crate) fn view(&self, wake: bool) -> View {
        let mut inner = lock(&self.inner);
        let staged = match (inner.closed.is_empty(), inner.open.is_some()) {
            (false, _) => Staged::Closed,
            (true, true) => Staged::Open,
            (true, false) => Staged::Nothing,
        };
        inner.wake_wanted = wake;
        View { staged, closing: inner.closing, retry_wanted: std::mem::take(&mut inner.retry_wanted) }
    }

    /// The next staged batch, its buffer not yet headed or padded.
    pub(crate) fn take(&self) -> Option<(Shape, Buffer)> {
        let mut inner = lock(&self.inner);
        match inner.closed.pop_front() {
            Some(batch) => Some(batch),
            None => {
                let buffer = inner.open.take()?;
                Some((inner.batcher.close()?, buffer))
            }
        }
    }

    /// The length in blocks of the segment that should be prepared next, if one should.
    pub(crate) fn segment_wanted(&self) -> Option<u32> {
        let inner = lock(&self.inner);
        if inner.closing { None } else { inner.batcher.segment_wanted() }
    }

    /// How urgently the segment is needed that is being prepared.
    pub(crate) fn need(&self) -> Need {
        let inner = lock(&self.inner);
        if inner.closing || inner.end.is_some() {
            Need::Nothing
        } else if inner.segment_awaited {
            Need::Now
        } else if inner.batcher.can_rotate() {
            Need::Later
        } else {
            Need::Soon { used_permille: inner.batcher.used_permille() }
        }
    }

    /// A place and a buffer for a seal, if there is a block for it and nothing is staged.
    pub(crate) fn take_seal(&self) -> Option<(Shape, Buffer)> {
        let mut inner = lock(&self.inner);
        if inner.open.is_some() || !inner.closed.is_empty() {
            return None;
        }
        let buffer = inner.pool.take(self.block_bytes as usize)?;
        match inner.batcher.place_empty() {
            Some(shape) => Some((shape, buffer)),
            None => {
                inner.pool.put(buffer);
                None
            }
        }
    }

    /// A completed batch's buffer comes back.
    pub(crate) fn give_back(&self, buffer: Buffer) {
        let mut inner = lock(&self.inner);
        inner.pool.put(buffer);
        self.wake_heads(inner);
    }

    /// A segment is ready.
    pub(crate) fn add_ready(&self, space: Space) {
        let mut inner = lock(&self.inner);
        inner.no_space = None;
        inner.segment_awaited = false;
        inner.batcher.add_ready(space);
        self.wake_heads(inner);
    }

    /// No segment could be prepared: whoever needs one is refused from now on, until one is ready.
    pub(crate) fn set_no_space(&self, failure: IoFailure) {
        let mut inner = lock(&self.inner);
        inner.no_space = Some(failure);
        self.wake_heads(inner);
    }

    /// Whoever is next in either queue may fit now.
    fn wake_heads(&self, inner: MutexGuard<'_, Inner>) {
        let heads = [inner.queue.head(), inner.buffer_queue.head()];
        drop(inner);
        heads.into_iter().flatten().for_each(Waker::wake);
    }

    /// The log ended: what is staged will never be written; everybody in the queue is woken to be told.
    pub(crate) fn finish(&self, end: End, woken: &mut Vec<Waker>) {
        let mut inner = lock(&self.inner);
        inner.end.get_or_insert(end);
        woken.extend(inner.queue.drain());
        woken.extend(inner.buffer_queue.drain());
    }
}

impl Inner {
    /// Why nothing can be taken at all.
    fn refusal(&self) -> Option<AppendError> {
        match &self.end {
            Some(End::Poisoned(cause)) => Some(AppendError::Poisoned(Cause::clone(cause))),
            Some(End::Closed) => Some(AppendError::Closed),
            None if self.closing => Some(AppendError::Closed),
            None => None,
        }
    }

    fn stage(&mut self, entry: Entry<'_>, own: &mut Option<Buffer>) -> Outcome {
        if let Some(refusal) = self.refusal() {
            return Outcome::Refused(refusal);
        }
        let records_bytes = entry.records_bytes();
        let at = match self.batcher.placing(records_bytes) {
            // A large record brings its buffer: it begins a batch unless copying is cheaper than a flush of its own.
            Placing::Join { at } => at,
            Placing::Begin { buffer_bytes, rotates } => {
                let Some(buffer) = own.take().or_else(|| self.pool.take(buffer_bytes)) else { return Outcome::NoRoom };
                self.begin(buffer, records_bytes, rotates)
            }
            Placing::NoSegment => match &self.no_space {
                Some(failure) => {
                    self.retry_wanted = true;
                    self.wake_wanted = true;
                    return Outcome::Refused(AppendError::NoSpace(failure.clone()));
                }
                None => {
                    self.segment_awaited = true;
                    return Outcome::NoRoom;
                }
            },
        };
        Outcome::Staged(self.encode(entry, at, own))
    }

    /// Closes the open batch and begins the next one in `buffer`.
    fn begin(&mut self, buffer: Buffer, records_bytes: usize, rotates: bool) -> usize {
        if let (Some(shape), Some(full)) = (self.batcher.close(), self.open.take()) {
            self.closed.push_back((shape, full));
        }
        let at = self.batcher.begin(buffer.len(), records_bytes, rotates);
        self.open = Some(buffer);
        at
    }

    /// Writes the records at `at` of the open batch. A large record that joins (its own buffer was not taken) is copied.
    fn encode(&mut self, entry: Entry<'_>, mut at: usize, own: &mut Option<Buffer>) -> Lsn {
        let out = self.open.as_mut().expect("a place was found in the open batch");
        let mut one = |crc: RecordCrc, payload: &[u8]| {
            let end = at + record_bytes(payload.len());
            let lsn = self.batcher.next_lsn();
            let mixed = record::encode(crc, lsn, payload, &mut out[at..end]);
            at = end;
            self.batcher.add(record_bytes(payload.len()), mixed)
        };
        match entry {
            Entry::Record(crc, payload) => one(crc, payload),
            Entry::Group(records) => records.iter().fold(Lsn::ZERO, |_, (crc, payload)| one(crc.clone(), payload)),
            Entry::Large(crc, len) => match own.take() {
                Some(copy) => {
                    let lsn = one(crc, &copy[BATCH_HEADER_BYTES + RECORD_HEADER_BYTES..][..len]);
                    self.pool.put(copy);
                    lsn
                }
                None => {
                    let lsn = self.batcher.next_lsn();
                    let mixed = record::encode_header(crc, lsn, &mut out[at..at + RECORD_HEADER_BYTES]);
                    self.batcher.add(record_bytes(len), mixed)
                }
            },
        }
    }

    /// Queues an appender up: at the end, or before everybody if it holds memory that others wait for.
    fn queue_up(&mut self, turn: &mut Turn, waker: &Waker, first: bool) {
        self.queue.queue_up(turn, waker, first, &mut self.next_ticket);
    }

    fn queue_up_for_buffer(&mut self, turn: &mut Turn, waker: &Waker) {
        self.buffer_queue.queue_up(turn, waker, false, &mut self.next_ticket);
    }
}
