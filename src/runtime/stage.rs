//! Staging: how records get from their appenders to the ring thread.
//!
//! Under one short lock an appender learns its LSN and its place and leaves its waker with the batch. A small record is
//! copied there and then, which costs less than coming back; a longer one is copied outside the lock, into a range that
//! is the appender's own until it commits it; a large one into a buffer of its own that then *becomes* the open batch.
//! The ring thread takes whole batches, and one only when all of it is committed: otherwise the last to commit wakes it.
//!
//! The ring thread says when it wants to be woken ([`Wake`], under the same lock): while a flush is in flight mostly
//! never, or only for a batch worth a flight of its own; at the next record when it found nothing to do.
//!
//! At the memory bound, or while no segment is ready, appenders wait their turn in a queue, first come first served. Who
//! needs a buffer of its own (a large record, a slot) waits in another queue, so that a slot held for ever blocks nobody.

use std::task::Waker;

use super::batches::Batches;
use super::durable::{End, Mark};
pub(crate) use super::entry::Entry;
use super::queue::Queue;
pub(crate) use super::queue::Turn;
use super::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, Padded, lock};
use crate::disk::shared::Claim;
use crate::disk::{Buffer, BufferPool, Notify};
use crate::error::{AppendError, Cause, IoFailure};
use crate::format::{RECORD_HEADER_BYTES, RecordCrc, batch_bytes, record_bytes};
use crate::journal::{Batcher, Placing, Shape, Space, Staged, Wake};
use crate::lsn::{LogId, Lsn};
use crate::seeded;

/// A record at least this large is copied into a buffer of its own.
pub(crate) const LARGE_BYTES: usize = 128 << 10;

/// What takes at most so many bytes is copied under the lock.
const COPIED_INSIDE_BYTES: usize = 2 << 10;

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The records have LSNs up to this one.
    Staged(Mark),
    /// Their checksums are of an epoch that has ended: to be made anew.
    Stale,
    /// There is no room, or others wait already.
    NoRoom,
    Refused(AppendError),
}

/// One log's staging area.
#[derive(Debug)]
pub(crate) struct Stage {
    /// What appenders write, apart from what they only read.
    inner: Padded<Mutex<Inner>>,
    notify: Arc<Notify>,
    log_id: LogId,
    /// The epoch's.
    nonce: AtomicU64,
    record_bytes_max: usize,
    group_bytes_max: usize,
    block_bytes: u32,
    /// The size of a staging buffer.
    buffer_bytes: usize,
}

/// Makes appenders' parts of checksums, all for one epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checksums {
    log_id: LogId,
    nonce: u64,
}

impl Checksums {
    pub(crate) fn of(self, payload: &[u8]) -> RecordCrc {
        RecordCrc::new(payload, self.log_id, self.nonce)
    }
}

#[derive(Debug)]
struct Inner {
    /// The epoch's.
    nonce: u64,
    /// How often the log was cut back.
    cuts: u64,
    /// Nothing is taken until the next epoch has begun.
    held: bool,
    batches: Batches,
    pool: BufferPool,
    /// Who waits for a place.
    queue: Queue,
    /// Who waits for a buffer of its own; those whom a slot held for ever keeps waiting are all here.
    buffer_queue: Queue,
    next_ticket: u64,
    /// What the ring thread wants to be woken for; once.
    wake: Wake,
    /// Nothing more is taken.
    closing: bool,
    end: Option<End>,
    /// Somebody waits for a segment.
    segment_awaited: bool,
    /// Why no segment could be prepared the last time, until one is.
    no_space: Option<IoFailure>,
    /// Somebody was refused for it since: worth another try.
    retry_wanted: bool,
    /// Somebody began to wait for a segment since the ring thread last looked.
    hurry_wanted: bool,
}

/// What the ring thread sees of the stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) staged: Staged,
    /// Records staged and not yet taken.
    pub(crate) staged_records: u32,
    pub(crate) closing: bool,
    pub(crate) retry_wanted: bool,
    pub(crate) hurry_wanted: bool,
}

/// Records that have their LSNs and their place, and are to be copied there, outside the lock.
#[derive(Debug)]
struct Copying {
    first: Lsn,
    claim: Claim,
}

impl Copying {
    /// Copies and commits. True if the ring thread waits for this one.
    fn run(self, entry: &Entry<'_>, own: Option<&Buffer>) -> bool {
        let Self { first, mut claim } = self;
        let terms = entry.encode(first, own, claim.bytes());
        claim.commit(terms)
    }
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
            nonce: parts.nonce,
            cuts: 0,
            held: false,
            batches: Batches::new(parts.batcher),
            pool: parts.pool,
            queue: Queue::default(),
            buffer_queue: Queue::default(),
            next_ticket: 0,
            wake: Wake::Never,
            closing: false,
            end: None,
            segment_awaited: false,
            no_space: None,
            retry_wanted: false,
            hurry_wanted: false,
        };
        Self {
            inner: Padded(Mutex::new(inner)),
            notify: parts.notify,
            log_id: parts.log_id,
            nonce: AtomicU64::new(parts.nonce),
            record_bytes_max: parts.record_bytes_max,
            group_bytes_max: parts.group_bytes_max,
            block_bytes: parts.block_bytes,
            buffer_bytes: parts.buffer_bytes,
        }
    }

    /// Gives it its buffers: before the first append.
    pub(crate) fn set_pool(&self, pool: BufferPool) {
        lock(&self.inner.0).pool = pool;
    }

    /// The log's.
    pub(crate) fn log_id(&self) -> LogId {
        self.log_id
    }

    /// An appender's part of a record's checksum, done outside the lock.
    pub(crate) fn crc(&self, payload: &[u8]) -> RecordCrc {
        self.checksums().of(payload)
    }

    /// What makes the checksums of this epoch's records.
    pub(crate) fn checksums(&self) -> Checksums {
        Checksums { log_id: self.log_id, nonce: self.nonce.load(Ordering::Acquire) }
    }

    /// Takes nothing more until the next epoch has begun: appenders wait their turn.
    pub(crate) fn hold(&self) {
        lock(&self.inner.0).held = true;
    }

    /// Appenders may go on as before.
    pub(crate) fn release_hold(&self) {
        let mut inner = lock(&self.inner.0);
        inner.held = false;
        self.wake_heads(inner);
    }

    /// Whether records are staged and not yet taken.
    pub(crate) fn holds_records(&self) -> bool {
        lock(&self.inner.0).batches.staged() != Staged::Nothing
    }

    /// The next epoch has begun; the log was cut back so often.
    pub(crate) fn renew(&self, batcher: Batcher, nonce: u64, cuts: u64) {
        let mut inner = lock(&self.inner.0);
        debug_assert_eq!(inner.batches.staged(), Staged::Nothing, "an epoch ends with nothing staged");
        inner.batches.renew(batcher);
        (inner.nonce, inner.cuts, inner.held) = (nonce, cuts, false);
        (inner.segment_awaited, inner.no_space) = (false, None);
        self.nonce.store(nonce, Ordering::Release);
        self.wake_heads(inner);
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

    /// Gives the records their LSNs and copies them in. With `turn` an appender that does not fit is queued under its waker,
    /// and one that is queued is served only at the head of the queue; one that is staged is woken when its records are
    /// durable, or the log ended. `buffer` is a large record's own, taken if it is staged.
    pub(crate) fn stage(
        &self,
        entry: &Entry<'_>,
        buffer: &mut Option<Buffer>,
        turn: Option<(&mut Turn, &Waker)>,
    ) -> Outcome {
        let waiter = turn.as_ref().map(|(_, waker)| Waker::clone(waker));
        let mut copy = None;
        let mut inner = lock(&self.inner.0);
        // Who brings a buffer waits behind nobody: the others may be waiting for that very memory.
        let brings = buffer.is_some();
        let behind = !brings && inner.queue.is_behind(turn.as_ref().map(|(turn, _)| &**turn));
        let outcome = match inner.refusal() {
            Some(refusal) => Outcome::Refused(refusal),
            None if behind || inner.held => Outcome::NoRoom,
            None if entry.nonce().is_some_and(|nonce| nonce != inner.nonce) => Outcome::Stale,
            None => inner.stage(entry, buffer, waiter, &mut copy),
        };
        if outcome == Outcome::Stale {
            return outcome;
        }
        let served = outcome != Outcome::NoRoom;
        match turn {
            Some((turn, waker)) if !served => inner.queue_up(turn, waker, brings),
            Some((turn, _)) => inner.queue.leave(turn),
            None => {}
        }
        let next = if served { inner.queue.head() } else { None };
        let mut wake = inner.is_wake_due(!served);
        drop(inner);
        if let Some(copy) = copy {
            wake |= copy.run(entry, buffer.as_ref());
        }
        // Only now: woken before the copy, the ring thread would find nothing to take.
        if wake {
            self.notify.wake();
        }
        // The next in line may fit too, or be refused too: each that leaves wakes the one behind it.
        if let Some(waker) = next {
            waker.wake();
        }
        // A large record that joined others leaves its buffer behind.
        if matches!(outcome, Outcome::Staged(_))
            && let Some(left) = buffer.take()
        {
            self.give_back(left);
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
        let mut inner = lock(&self.inner.0);
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
        let mut inner = lock(&self.inner.0);
        inner.queue.leave(turn);
        inner.buffer_queue.leave(turn);
        self.wake_heads(inner);
    }

    /// The last LSN that was handed out, and how often the log had been cut back by then.
    pub(crate) fn appended_mark(&self) -> Mark {
        let inner = lock(&self.inner.0);
        Mark { lsn: inner.batches.appended(), cuts: inner.cuts }
    }

    /// The last LSN that was handed out.
    pub(crate) fn appended(&self) -> Lsn {
        lock(&self.inner.0).batches.appended()
    }

    /// Bytes of memory that hold records on their way.
    pub(crate) fn pending_bytes(&self) -> usize {
        lock(&self.inner.0).pool.in_use_bytes()
    }

    /// Takes no more records; the ring thread makes durable what is staged, seals and ends.
    pub(crate) fn close(&self) {
        let mut inner = lock(&self.inner.0);
        inner.closing = true;
        if !seeded::is("stage-close-silent") {
            inner.wake = Wake::AtNext;
        }
        let queues = [std::mem::take(&mut inner.queue), std::mem::take(&mut inner.buffer_queue)];
        self.release(inner, false);
        queues.into_iter().for_each(|mut queue| queue.drain().for_each(Waker::wake));
    }

    /// What there is to do. What is staged already counts for `wake`: it is the next record that wakes then.
    pub(crate) fn view(&self, wake: Wake) -> View {
        let mut inner = lock(&self.inner.0);
        inner.wake = if seeded::is("stage-view-blind") { Wake::Never } else { wake };
        View {
            staged: inner.batches.staged(),
            staged_records: inner.batches.records(),
            closing: inner.closing,
            retry_wanted: std::mem::take(&mut inner.retry_wanted),
            hurry_wanted: std::mem::take(&mut inner.hurry_wanted),
        }
    }

    /// The next staged batch, its buffer not yet headed or padded. None while a record is still being copied into it: the
    /// ring thread is woken then when the last one is.
    pub(crate) fn take(&self) -> Option<(Shape, Buffer)> {
        lock(&self.inner.0).batches.take()
    }

    /// Everything up to `lsn` is durable: moves the wakers of those who were staged up to there to `woken`.
    pub(super) fn publish(&self, lsn: Lsn, woken: &mut Vec<Waker>) {
        lock(&self.inner.0).batches.publish(lsn, woken);
    }

    /// The length in blocks of the segment that should be prepared next, if one should.
    pub(crate) fn segment_wanted(&self) -> Option<u32> {
        let inner = lock(&self.inner.0);
        if inner.closing { None } else { inner.batches.segment_wanted() }
    }

    /// How urgently the segment is needed that is being prepared.
    pub(crate) fn need(&self) -> Need {
        let inner = lock(&self.inner.0);
        if inner.closing || inner.end.is_some() {
            Need::Nothing
        } else if inner.segment_awaited || inner.held {
            Need::Now
        } else if inner.batches.can_rotate() {
            Need::Later
        } else {
            Need::Soon { used_permille: inner.batches.used_permille() }
        }
    }

    /// A place and a buffer for a seal, if there is a block for it and nothing is staged.
    pub(crate) fn take_seal(&self) -> Option<(Shape, Buffer)> {
        let mut inner = lock(&self.inner.0);
        if inner.batches.staged() != Staged::Nothing {
            return None;
        }
        let buffer = inner.pool.take(self.block_bytes as usize)?;
        match inner.batches.place_empty() {
            Some(shape) => Some((shape, buffer)),
            None => {
                inner.pool.put(buffer);
                None
            }
        }
    }

    /// A completed batch's buffer comes back.
    pub(crate) fn give_back(&self, buffer: Buffer) {
        let mut inner = lock(&self.inner.0);
        inner.pool.put(buffer);
        self.wake_heads(inner);
    }

    /// A segment is ready.
    pub(crate) fn add_ready(&self, space: Space) {
        let mut inner = lock(&self.inner.0);
        inner.no_space = None;
        inner.segment_awaited = false;
        inner.batches.add_ready(space);
        self.wake_heads(inner);
    }

    /// No segment could be prepared: whoever needs one is refused from now on, until one is ready.
    pub(crate) fn set_no_space(&self, failure: IoFailure) {
        let mut inner = lock(&self.inner.0);
        inner.no_space = Some(failure);
        inner.segment_awaited = false;
        self.wake_heads(inner);
    }

    /// Whoever is next in either queue may fit now.
    fn wake_heads(&self, inner: MutexGuard<'_, Inner>) {
        let heads = [inner.queue.head(), inner.buffer_queue.head()];
        drop(inner);
        heads.into_iter().flatten().for_each(Waker::wake);
    }

    /// The log ended: what is staged will never be written; everybody is woken to be told.
    pub(crate) fn finish(&self, end: End, woken: &mut Vec<Waker>) {
        let mut inner = lock(&self.inner.0);
        inner.end.get_or_insert(end);
        inner.batches.finish(woken);
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
        let staged = self.batches.staged();
        let due = match self.wake {
            Wake::Never => false,
            Wake::AtNext => staged != Staged::Nothing || self.closing || self.retry_wanted || self.hurry_wanted,
            Wake::AtRecords(count) => {
                let full = staged == Staged::Closed || stuck && staged == Staged::Open;
                full || self.batches.records() >= count
            }
        };
        if due {
            self.wake = Wake::Never;
        }
        due
    }

    /// Gives the records LSNs and a place. They are copied there, or are to be by `copy`.
    fn stage(
        &mut self,
        entry: &Entry<'_>,
        own: &mut Option<Buffer>,
        waiter: Option<Waker>,
        copy: &mut Option<Copying>,
    ) -> Outcome {
        let (records_bytes, count) = (entry.records_bytes(), entry.count());
        let at = match self.batches.placing(records_bytes) {
            // A large record brings its buffer: it begins a batch unless copying is cheaper than a flush of its own.
            Placing::Join { at } => at,
            Placing::Begin { buffer_bytes, rotates } => {
                let Some(buffer) = own.take().or_else(|| self.pool.take(buffer_bytes)) else { return Outcome::NoRoom };
                self.batches.begin(buffer, records_bytes, rotates)
            }
            Placing::NoSegment => match &self.no_space {
                Some(failure) => {
                    self.retry_wanted = true;
                    self.wake = Wake::AtNext;
                    return Outcome::Refused(AppendError::NoSpace(failure.clone()));
                }
                None => {
                    if !self.segment_awaited {
                        self.segment_awaited = true;
                        self.hurry_wanted = true;
                        self.wake = Wake::AtNext;
                    }
                    return Outcome::NoRoom;
                }
            },
        };
        let (first, out) = self.batches.add(count, records_bytes, waiter);
        let copied = matches!(entry, Entry::Large(..)) && own.is_none();
        if copied || records_bytes <= COPIED_INSIDE_BYTES {
            let terms = entry.encode(first, own.as_ref(), out.slice(at, records_bytes));
            self.batches.mix(terms);
        } else {
            *copy = Some(Copying { first, claim: out.claim(at, records_bytes) });
        }
        Outcome::Staged(Mark { lsn: first.plus(u64::from(count)).prev(), cuts: self.cuts })
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
mod rig {
    use super::*;
    use crate::journal::Placement;
    use crate::lsn::SegmentId;

    pub(super) const BUFFER_BYTES: usize = 4096;

    pub(super) fn stage(buffers: usize) -> Stage {
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
}

#[cfg(all(test, ringwal_loom))]
mod loom_model {
    use super::super::durable::loom_model::{Task, wait};
    use super::super::durable::{Durable, Place};
    use super::*;
    use crate::format::{BATCH_HEADER_BYTES, record};
    #[cfg(ringwal_seeded_bugs)]
    use crate::sync::catches;
    use crate::sync::model;

    struct Log {
        stage: Stage,
        durable: Durable,
    }

    impl Log {
        fn new() -> Arc<Self> {
            Arc::new(Self { stage: rig::stage(4), durable: Durable::new(Lsn::ZERO) })
        }

        /// What an appending future does.
        fn append(&self, payload: &[u8]) -> Result<Lsn, AppendError> {
            let (task, mut turn) = (Task::new(), Turn::default());
            let entry = Entry::Record(self.stage.crc(payload), payload);
            loop {
                let turn = Some((&mut turn, &Waker::from(task.clone())));
                match self.stage.stage(&entry, &mut None, turn) {
                    Outcome::NoRoom => task.sleep(),
                    Outcome::Refused(refusal) => return Err(refusal),
                    Outcome::Stale => unreachable!("one epoch"),
                    Outcome::Staged(Mark { lsn, .. }) => {
                        task.sleep();
                        return wait(&self.durable, lsn, &task).map(|()| lsn).map_err(AppendError::from);
                    }
                }
            }
        }

        /// What the ring thread does with the batches, over a disk that is durable at once. True if it was one.
        fn serve(&self, last: &mut Lsn) -> bool {
            let Some((shape, buffer)) = self.stage.take() else { return false };
            assert_eq!(shape.first, last.next(), "LSNs are dense");
            *last = shape.last();
            let records = &buffer[BATCH_HEADER_BYTES..][..shape.records_bytes];
            let mut terms = 0u64;
            let mut rest = records;
            for lsn in shape.first.get()..=last.get() {
                // A record's bytes are all alike, and none of them zero.
                let len = usize::try_from(u32::from_le_bytes(rest[..4].try_into().unwrap())).unwrap();
                let payload = &rest[RECORD_HEADER_BYTES..][..len];
                let mut again = vec![0; record_bytes(len)];
                let crc = self.stage.crc(&vec![payload[0]; len]);
                terms = terms.wrapping_add(record::encode(crc, Lsn::new(lsn), payload, &mut again));
                assert!(payload[0] != 0 && rest[..again.len()] == again[..], "record {lsn} is not whole");
                rest = &rest[again.len()..];
            }
            assert_eq!((rest.len(), terms), (0, shape.digest));
            let mut woken = Vec::new();
            if self.durable.publish(*last, &mut woken) {
                self.stage.publish(*last, &mut woken);
            }
            self.stage.give_back(buffer);
            woken.into_iter().for_each(Waker::wake);
            true
        }
    }

    /// Two append, one of them a record that is copied outside the lock; the ring thread sleeps whenever it finds nothing.
    fn every_append_is_served(bug: Option<&'static str>) {
        model(bug, 2, || {
            let log = Log::new();
            let appenders = [16, COPIED_INSIDE_BYTES + 1].map(|len| {
                let log = log.clone();
                loom::thread::spawn(move || log.append(&vec![7; len]))
            });
            let mut last = Lsn::ZERO;
            while last < Lsn::new(2) {
                let staged = log.stage.view(Wake::AtNext).staged;
                if staged == Staged::Nothing || !log.serve(&mut last) {
                    log.stage.notify.park(None);
                }
            }
            let mut lsns = appenders.map(|appender| appender.join().unwrap().unwrap().get());
            lsns.sort_unstable();
            assert_eq!(lsns, [1, 2]);
        });
    }

    /// An append beside a close: it is durable or refused. With `poison` the log fails instead of serving.
    fn everybody_hears_of_the_end(bug: Option<&'static str>, poison: bool) {
        model(bug, 3, move || {
            let log = Log::new();
            let appender = loom::thread::spawn({
                let log = log.clone();
                move || log.append(&[7; COPIED_INSIDE_BYTES + 1])
            });
            let closer = loom::thread::spawn({
                let log = log.clone();
                move || log.stage.close()
            });
            let mut last = Lsn::ZERO;
            loop {
                // Even so the end wakes.
                let view = log.stage.view(Wake::Never);
                match view.staged {
                    Staged::Nothing if view.closing => break,
                    Staged::Nothing => log.stage.notify.park(None),
                    _ if poison => break,
                    _ if log.serve(&mut last) => {}
                    _ => log.stage.notify.park(None),
                }
            }
            let mut woken = Vec::new();
            log.stage.finish(End::Closed, &mut woken);
            log.durable.finish(End::Closed, &mut woken);
            woken.into_iter().for_each(Waker::wake);
            closer.join().unwrap();
            let served = if last == Lsn::ZERO { Err(AppendError::Closed) } else { Ok(Lsn::FIRST) };
            assert_eq!(appender.join().unwrap(), served);
            assert!(log.durable.poll(Lsn::MAX, &mut Place::default(), Waker::noop()).is_ready());
        });
    }

    #[test]
    fn loom_every_append_is_served() {
        every_append_is_served(None);
    }

    #[test]
    fn loom_everybody_hears_of_the_end() {
        everybody_hears_of_the_end(None, false);
        everybody_hears_of_the_end(None, true);
    }

    #[cfg(ringwal_seeded_bugs)]
    #[test]
    fn loom_catches_careless_staging() {
        for bug in ["stage-view-blind", "stage-commit-silent", "stage-take-uncommitted", "stage-no-recheck"] {
            assert!(catches(bug, every_append_is_served), "{bug}");
        }
        for (bug, poison) in [("stage-close-silent", false), ("stage-end-untold", true)] {
            assert!(catches(bug, |bug| everybody_hears_of_the_end(bug, poison)), "{bug}");
        }
    }
}

#[cfg(all(test, not(ringwal_loom)))]
mod tests {
    use super::rig::stage;
    use super::*;

    fn append(stage: &Stage, payload: &[u8]) -> Outcome {
        stage.stage(&Entry::Record(stage.crc(payload), payload), &mut None, None)
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
            (1..=appends).filter(|_| (append(&stage, b"record"), woken(&stage)).1).collect::<Vec<_>>()
        };
        assert_eq!(at(Wake::Never, 3), [0usize; 0]);
        assert_eq!(at(Wake::AtNext, 2), [1]);
        assert_eq!(at(Wake::AtRecords(8), 2), [0usize; 0], "seven are staged");
        assert_eq!(at(Wake::AtRecords(8), 3), [1]);
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
