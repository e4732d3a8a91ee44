//! Staging: how records get from their appenders to the ring thread.
//!
//! Under one short lock an appender learns its LSN and its place, copies its bytes into the open batch's buffer, and
//! leaves. A large record is copied outside the lock, into a buffer of its own that then *becomes* the open batch. The
//! ring thread takes whole batches. It says when it wants to be woken ([`Wake`], under the same lock): while a flush is in
//! flight mostly never, or only for a batch worth a flight of its own; at the next record when it found nothing to do.
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
use crate::journal::{Batcher, Placing, Shape, Space, Staged, Wake};
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
    /// Records staged and not yet taken.
    staged_records: u32,
    /// What the ring thread wants to be woken for; once.
    wake: Wake,
    /// Nothing more is taken.
    closing: bool,
    end: Option<End>,
    /// Why no segment could be prepared the last time, until one is.
    no_space: Option<IoFailure>,
    /// Somebody was refused for it since: worth another try.
    retry_wanted: bool,
}

/// What the ring thread sees of the stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) staged: Staged,
    /// Records staged and not yet taken.
    pub(crate) staged_records: u32,
    pub(crate) closing: bool,
    pub(crate) retry_wanted: bool,
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
            staged_records: 0,
            wake: Wake::Never,
            closing: false,
            end: None,
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
        self.release(inner, !served);
        // The next in line may fit too, or be refused too: each that leaves wakes the one behind it.
        if let Some(waker) = next {
            waker.wake();
        }
        outcome
    }

    /// Unlocks, and wakes the ring thread if it asked for it. `stuck`: somebody found no room.
    fn release(&self, mut inner: MutexGuard<'_, Inner>, stuck: bool) {
        let wake = inner.is_wake_due(stuck);
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
        self.release(inner, buffer.is_none());
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
        inner.wake = Wake::AtNext;
        let queues = [std::mem::take(&mut inner.queue), std::mem::take(&mut inner.buffer_queue)];
        self.release(inner, false);
        queues.into_iter().for_each(|mut queue| queue.drain().for_each(Waker::wake));
    }

    /// What there is to do. What is staged already counts for `wake`: it is the next record that wakes then.
    pub(crate) fn view(&self, wake: Wake) -> View {
        let mut inner = lock(&self.inner);
        let staged = match (inner.closed.is_empty(), inner.open.is_some()) {
            (false, _) => Staged::Closed,
            (true, true) => Staged::Open,
            (true, false) => Staged::Nothing,
        };
        inner.wake = wake;
        View {
            staged,
            staged_records: inner.staged_records,
            closing: inner.closing,
            retry_wanted: std::mem::take(&mut inner.retry_wanted),
        }
    }

    /// The next staged batch, its buffer not yet headed or padded.
    pub(crate) fn take(&self) -> Option<(Shape, Buffer)> {
        let mut inner = lock(&self.inner);
        let (shape, buffer) = match inner.closed.pop_front() {
            Some(batch) => batch,
            None => {
                let buffer = inner.open.take()?;
                (inner.batcher.close()?, buffer)
            }
        };
        inner.staged_records -= shape.count;
        Some((shape, buffer))
    }

    /// How many segments should be prepared.
    pub(crate) fn segments_wanted(&self) -> usize {
        lock(&self.inner).batcher.segments_wanted()
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

    /// Whether the ring thread is to be woken now; asks once.
    fn is_wake_due(&mut self, stuck: bool) -> bool {
        let staged = self.open.is_some() || !self.closed.is_empty();
        let due = match self.wake {
            Wake::Never => false,
            Wake::AtNext => staged || self.closing || self.retry_wanted,
            Wake::AtRecords(count) => self.staged_records >= count || !self.closed.is_empty() || stuck && staged,
        };
        if due {
            self.wake = Wake::Never;
        }
        due
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
                    self.wake = Wake::AtNext;
                    return Outcome::Refused(AppendError::NoSpace(failure.clone()));
                }
                None => return Outcome::NoRoom,
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
            self.staged_records += 1;
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
                    self.staged_records += 1;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Placement;
    use crate::lsn::SegmentId;

    const BUFFER_BYTES: usize = 4096;

    fn stage(buffers: usize) -> Stage {
        let space = Space { id: SegmentId::new(1), block_bytes: 512, blocks: 1000 };
        Stage::new(Parts {
            batcher: Batcher::new(Placement::new(space, 1, []), Lsn::FIRST, BUFFER_BYTES),
            pool: BufferPool::new(BUFFER_BYTES, buffers * BUFFER_BYTES),
            notify: Arc::new(Notify::new().unwrap()),
            log_id: LogId::new([7; 16]),
            nonce: 7,
            record_bytes_max: BUFFER_BYTES,
            group_bytes_max: BUFFER_BYTES,
            block_bytes: 512,
            buffer_bytes: BUFFER_BYTES,
        })
    }

    fn append(stage: &Stage, payload: &[u8]) -> Outcome {
        stage.stage(Entry::Record(stage.crc(payload), payload), &mut None, None)
    }

    /// Whether the ring thread was woken since the last time.
    fn woken(stage: &Stage) -> bool {
        let asleep = stage.notify.begin_ring_wait();
        if asleep {
            stage.notify.end_ring_wait();
        }
        !asleep
    }

    #[test]
    fn the_ring_thread_is_woken_at_the_count_it_asked_for_and_once() {
        let stage = stage(4);
        let at = |wake, appends: usize| {
            stage.view(wake);
            (0..appends).filter(|_| (append(&stage, b"record"), woken(&stage)).1).count()
        };
        assert_eq!(at(Wake::Never, 3), 0);
        assert_eq!(at(Wake::AtNext, 2), 1);
        assert_eq!(at(Wake::AtRecords(8), 2), 0, "seven are staged");
        assert_eq!(at(Wake::AtRecords(8), 3), 1);
        assert_eq!(stage.view(Wake::AtRecords(1)).staged_records, 10);
        assert_eq!(stage.take().map(|(shape, _)| shape.count), Some(10));
        assert_eq!(stage.view(Wake::AtRecords(2)).staged_records, 0);
        append(&stage, b"record");
        assert!(!woken(&stage));
        stage.close();
        assert!(woken(&stage), "an end wakes in any case");
    }

    #[test]
    fn who_waits_for_a_count_hears_of_a_full_batch_and_of_a_full_stage() {
        let stage = stage(2);
        stage.view(Wake::AtRecords(1000));
        assert!(matches!(append(&stage, &[1; 3000]), Outcome::Staged(_)) && !woken(&stage));
        assert!(matches!(append(&stage, &[2; 3000]), Outcome::Staged(_)) && woken(&stage), "the first batch is full");
        assert!(stage.take().is_some());
        stage.view(Wake::AtRecords(1000));
        assert!(append(&stage, &[3; 3000]) == Outcome::NoRoom && woken(&stage), "nobody else fits");
    }
}
