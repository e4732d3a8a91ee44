//! One log on a ring thread: its batches' way to the disk and back, its files, and what it asks of the helper.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;

use super::durable::End;
use super::errands::{Promise, errand};
use super::renewal::Renewal;
use super::stage::View;
use super::sync::Arc;
use super::{Inbox, Job, PreparedFile, Shared, Tenancy, Truncated, Work, Workshop};
use crate::disk::{Buffer, Completion, Disk, FileSlot, Lock, Write};
use crate::error::{Cause, IoFailure, Op, TruncateError};
use crate::format::{BATCH_HEADER_BYTES, BatchHeader, HeldBatch, SegmentHeader, Verdict};
use crate::journal::placement::SPARES_MAX;
use crate::journal::{Journal, Next, PathSegment, Place, Shape, Space, Staged, Ticket, Wake};
use crate::lsn::{Lsn, SegmentId};
use crate::options::Retention;
use crate::seeded;

/// How long to wait before a segment is tried again that could not be prepared.
const RETRY: Duration = Duration::from_millis(100);

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) tenant: usize,
    ticket: Ticket,
    place: Place,
    submitted: Duration,
    len: usize,
    records: u32,
}

/// A log's turn in a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) key: usize,
    pub(super) now: Duration,
    /// Whether nobody minds if this thread blocks.
    pub(super) may_block: bool,
}

/// A segment's file in the disk's table.
#[derive(Debug)]
pub(super) struct Attached {
    id: SegmentId,
    pub(super) slot: FileSlot,
    in_flight: usize,
}

/// Whether the workshop is busy for a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Preparing {
    Nothing,
    One,
    Failed { at: Duration, failure: IoFailure },
}

/// How far the freeing of segments has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freeing {
    Nothing,
    /// Until the batch with this ticket is durable, which carries the trim LSN.
    Marked {
        first: Lsn,
        ticket: u64,
    },
    /// The workshop is at it.
    Busy {
        first: Lsn,
    },
}

/// What is kept by itself, and what goes.
#[derive(Debug)]
struct Retaining {
    rules: Retention,
    /// When the log went on from which segment, for those that it left since it was opened.
    left: VecDeque<(SegmentId, Duration)>,
    /// When the log came here: those that were left before count from then.
    hosted: Duration,
    /// The workshop is at it.
    busy: bool,
    /// The log went on to another segment since it was last looked.
    due: bool,
}

/// One log on this ring thread.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) journal: Journal,
    pub(super) shared: Arc<Shared>,
    /// The segments that are written to or ready, in the order of their ids.
    pub(super) files: VecDeque<Attached>,
    pub(super) in_flight: usize,
    /// Batches that landed and are to be shown to who follows the log: where they stand, and how long they are.
    landed: Vec<(Place, Buffer, usize)>,
    /// Those that were copied, until everything before them has landed too.
    held: Vec<HeldBatch>,
    /// What who follows was shown last.
    pub(super) shown: Lsn,
    pub(super) preparing: Preparing,
    pub(super) freeing: Freeing,
    /// Who asked for records below an LSN to go, and waits.
    truncations: Vec<(Lsn, Promise<Truncated>)>,
    retaining: Retaining,
    /// New epochs that are wished for; and who waits for the one that recovery is beginning.
    pub(super) renewals: VecDeque<Renewal>,
    pub(super) renewing: Option<Promise<Truncated>>,
    retry_wanted: bool,
    hurry_wanted: bool,
    pub(super) next_segment: SegmentId,
    pub(super) spares: Vec<u64>,
    /// What a segment to be prepared looks like.
    shape: SegmentHeader,
    pub(super) lock: Option<Lock>,
    lock_slot: Option<FileSlot>,
    pub(super) poisoned: bool,
}

impl Tenant {
    /// Moves in: takes the log's files and lock into the disk's table, and gives it its buffers.
    pub(super) fn host(tenancy: Tenancy, now: Duration, disk: &mut dyn Disk) -> Result<Self, IoFailure> {
        let Tenancy { journal, shared, files, next_segment, spares, shape, lock, .. } = tenancy;
        let pool = disk.pool(tenancy.buffer_bytes, tenancy.pending_bytes_max);
        shared.stage.set_pool(pool.map_err(|error| IoFailure::new(Op::Ring, shared.dir.path(), 0, &error))?);
        let lock_slot = lock.as_ref().map(|lock| disk.hold(lock.as_fd())).transpose()?;
        let attach =
            |(id, file): (SegmentId, PreparedFile)| Ok(Attached { id, slot: disk.attach(&file)?, in_flight: 0 });
        let files = files.into_iter().map(attach).collect::<Result<_, IoFailure>>()?;
        Ok(Self {
            journal,
            shared,
            files,
            in_flight: 0,
            landed: Vec::new(),
            held: Vec::new(),
            shown: Lsn::ZERO,
            preparing: Preparing::Nothing,
            freeing: Freeing::Nothing,
            truncations: Vec::new(),
            retaining: Retaining {
                rules: tenancy.retention,
                left: VecDeque::new(),
                hosted: now,
                busy: false,
                due: tenancy.retention.is_set(),
            },
            renewals: VecDeque::new(),
            renewing: None,
            retry_wanted: false,
            hurry_wanted: false,
            next_segment,
            spares,
            shape,
            lock,
            lock_slot,
            poisoned: false,
        })
    }

    /// Whether something is in flight; or the helper may be at work in the directory, which is the next writer's as soon
    /// as the lock is let go.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0
            || self.preparing == Preparing::One
            || matches!(self.freeing, Freeing::Busy { .. })
            || self.renewing.is_some()
            || self.retaining.busy
    }

    /// Takes a segment's file into the disk's table.
    pub(super) fn attach(&mut self, id: SegmentId, file: &PreparedFile, disk: &mut dyn Disk) -> Result<(), IoFailure> {
        self.files.push_back(Attached { id, slot: disk.attach(file)?, in_flight: 0 });
        Ok(())
    }

    /// Moves out: lets go of its files and its lock, and only then says so.
    pub(super) fn leave(mut self, disk: &mut dyn Disk, woken: &mut Vec<Waker>) {
        for file in self.files.drain(..) {
            disk.detach(file.slot);
        }
        if let Some(slot) = self.lock_slot.take() {
            disk.detach(slot);
        }
        if let Some(lock) = self.lock.take() {
            // The ring may keep the file a little longer; the lock itself must be free when `close` resolves, unless a
            // broken ring may still write.
            if !disk.in_doubt() {
                lock.release();
            }
        }
        self.shared.finish(End::Closed, woken);
        self.shared.release(woken);
    }

    /// Publishes the watermark.
    pub(super) fn publish(&mut self, woken: &mut Vec<Waker>) {
        // While the log is cut back, its watermark is that of what stays, and the journal's is of what was.
        if !self.poisoned && self.renewing.is_none() {
            self.shared.publish(self.journal.poll_durable(), woken);
        }
    }

    /// What is staged, and from then on what to be woken for.
    fn view(&mut self, wake: Wake) -> View {
        let view = self.shared.stage.view(wake);
        self.retry_wanted |= view.retry_wanted;
        self.hurry_wanted |= view.hurry_wanted;
        view
    }

    /// Whether a batch is staged that can take more.
    pub(super) fn awaits_company(&mut self) -> bool {
        let view = self.view(Wake::Never);
        view.staged == Staged::Open && !view.closing && !self.poisoned
    }

    /// Submits whatever is due.
    pub(super) fn submit(&mut self, turn: Turn, disk: &mut dyn Disk, flights: &mut Slab<Flight>) -> Next {
        loop {
            let wake = self.journal.wake();
            let view = self.view(wake);
            if self.poisoned {
                return if view.closing { Next::Finished } else { Next::Wait(None) };
            }
            // The directory is recovery's until the next epoch has begun.
            if self.renewing.is_some() {
                return Next::Wait(None);
            }
            self.journal.tuner().permit_blocking(turn.may_block);
            let next = self.journal.poll_next(view.staged, view.staged_records, view.closing, turn.now);
            match next {
                Next::Batch => {
                    let Some((shape, mut buffer)) = self.shared.stage.take() else { return Next::Wait(None) };
                    self.enter_segment(&shape, turn.now, disk);
                    pad(&shape, &mut buffer);
                    let ticket = self.journal.handle_batch(&shape, &mut buffer, turn.now);
                    self.fly(turn, ticket, &shape, buffer, disk, flights);
                }
                Next::Seal { close } => match self.take_seal() {
                    Some((shape, mut buffer)) => {
                        self.enter_segment(&shape, turn.now, disk);
                        pad(&shape, &mut buffer);
                        let ticket = self.journal.handle_seal(&shape, close, &mut buffer, turn.now);
                        self.fly(turn, ticket, &shape, buffer, disk, flights);
                    }
                    None => self.journal.handle_no_place(close),
                },
                // What came in before the wake-up was asked for would be nobody's to tell.
                Next::Wait(_) if self.journal.wake() != wake => {}
                Next::Wait(_) | Next::Finished => return next,
            }
        }
    }

    /// A place and a buffer for a seal: what is only kept for others to see is let go for it.
    fn take_seal(&mut self) -> Option<(Shape, Buffer)> {
        self.copy_landed();
        self.shared.stage.take_seal()
    }

    /// Copies what landed for who follows the log, and gives the buffers back.
    fn copy_landed(&mut self) {
        for (place, buffer, len) in self.landed.drain(..) {
            let header = BatchHeader::decode(&buffer, self.shape.log_id, place.segment, place.block);
            if let Verdict::Valid((header, _)) = header {
                self.held.push(HeldBatch::new(header, &Bytes::copy_from_slice(&buffer[..len])));
            }
            self.shared.stage.give_back(buffer);
        }
        self.held.sort_unstable_by_key(HeldBatch::first);
    }

    /// Shows what is durable to who follows the log: after the next batch was submitted and the appenders were woken, so
    /// that nobody waits for a copy.
    pub(super) fn show(&mut self, woken: &mut Vec<Waker>) {
        let mut durable = self.shared.durable.lsn();
        if seeded::is("m14") {
            durable = self.shared.stage.appended();
        }
        if durable <= self.shown {
            return;
        }
        self.shown = durable;
        self.copy_landed();
        let whole = self.held.iter().take_while(|batch| batch.last <= durable).count();
        self.shared.recent.show(durable, self.held.drain(..whole), woken);
    }

    /// The one place where a batch meets the disk.
    fn fly(
        &mut self,
        turn: Turn,
        ticket: Ticket,
        shape: &Shape,
        mut buffer: Buffer,
        disk: &mut dyn Disk,
        flights: &mut Slab<Flight>,
    ) {
        let place = shape.place;
        if seeded::is("m16") && place.block.is_multiple_of(7) {
            // As if the next batch were staged in it before the kernel has read this one.
            buffer[BATCH_HEADER_BYTES..shape.bytes()].fill(0);
        }
        let file =
            self.files.iter_mut().find(|file| file.id == place.segment).expect("a ready segment's file is attached");
        file.in_flight += 1;
        self.in_flight += 1;
        let (len, records) = (shape.bytes(), shape.count);
        let method = ticket.method();
        let token =
            flights.insert(Flight { tenant: turn.key, ticket, place, submitted: turn.now, len, records }) as u64;
        disk.submit(Write { token, file: file.slot, offset: shape.place.offset(), len, buffer, method });
    }

    /// The first batch in a segment: readers learn of it before anything in it can be durable.
    fn enter_segment(&mut self, shape: &Shape, now: Duration, disk: &mut dyn Disk) {
        let entered = PathSegment { id: shape.place.segment, first: shape.first, link: self.journal.link() };
        let before = self.shared.index.last_id();
        if self.shared.index.enter(entered) {
            self.shared.stats.count_rotation();
            if self.retaining.rules.is_set() {
                self.retaining.left.push_back((before, now));
                self.retaining.due = true;
            }
            self.let_go(disk);
        }
    }

    /// Lets go of the files behind the current segment on which nothing is in flight.
    fn let_go(&mut self, disk: &mut dyn Disk) {
        let current = self.shared.index.last_id();
        while self.files.front().is_some_and(|file| file.id < current && file.in_flight == 0) {
            if let Some(file) = self.files.pop_front() {
                disk.detach(file.slot);
            }
        }
    }

    pub(super) fn handle_completion(
        &mut self,
        flight: &Flight,
        completion: Completion,
        now: Duration,
        disk: &mut dyn Disk,
        woken: &mut Vec<Waker>,
    ) {
        self.in_flight -= 1;
        if let Some(file) = self.files.iter_mut().find(|file| file.id == flight.place.segment) {
            file.in_flight -= 1;
        }
        self.let_go(disk);
        if completion.result.is_ok() && flight.records > 0 && self.shared.recent.is_followed() {
            self.landed.push((flight.place, completion.buffer, flight.len));
        } else {
            self.shared.stage.give_back(completion.buffer);
        }
        match completion.result {
            Ok(()) => {
                let took = now.saturating_sub(flight.submitted);
                self.shared.stats.count_flush(completion.method, flight.len, flight.records, took);
                self.journal.handle_landed(&flight.ticket, now);
                if let Some(news) = self.journal.tuner().news() {
                    self.shared.stats.set_tuning(news);
                }
            }
            Err(failure) => self.poison(Cause::Io(failure), woken),
        }
    }

    /// The first failure is final (promise P6).
    pub(super) fn poison(&mut self, cause: Cause, woken: &mut Vec<Waker>) {
        if !self.poisoned {
            self.poisoned = true;
            self.shared.finish(End::Poisoned(cause), woken);
            // Only now: who is told that there is no answer asks how the log ended.
            self.truncations.clear();
            self.renewals.clear();
        }
    }

    /// Keeps segments ready: one request at a time, so that ids never have gaps.
    pub(super) fn request_segment(
        &mut self,
        tenant: usize,
        now: Duration,
        workshop: &dyn Workshop,
        inbox: &Arc<Inbox>,
    ) {
        let due = match self.preparing {
            Preparing::Nothing => true,
            Preparing::One => false,
            // Not before a while has passed, and only when somebody was refused for it.
            Preparing::Failed { at, .. } => now >= at + RETRY && std::mem::take(&mut self.retry_wanted),
        };
        if due
            && !self.poisoned
            && self.renewing.is_none()
            && self.renewals.is_empty()
            && let Some(blocks) = self.shared.stage.segment_wanted()
        {
            self.preparing = Preparing::One;
            let spare = self.spares.pop();
            // A spare is of the full length.
            let blocks = if spare.is_some() { self.shape.blocks } else { blocks };
            let header = SegmentHeader { id: self.next_segment, blocks, ..self.shape };
            let (shared, inbox) = (self.shared.clone(), inbox.clone());
            workshop.request(Job { tenant, shared, work: Work::Prepare { header, spare }, inbox });
        }
        if std::mem::take(&mut self.hurry_wanted) {
            workshop.hurry();
        }
    }

    /// Records below `first` are to go.
    pub(super) fn handle_truncate_before(&mut self, first: Lsn, promise: Promise<Truncated>) {
        // Dropped, the promise tells of the log's end.
        if !self.poisoned {
            self.truncations.push((first, promise));
            self.begin_truncation();
        }
    }

    /// Says that records below the greatest LSN asked for are to go. What is being freed is freed first.
    pub(super) fn begin_truncation(&mut self) {
        if self.freeing != Freeing::Nothing || self.poisoned || self.renewing.is_some() {
            return;
        }
        // Looked at only now: the log may have been cut back since it was asked.
        let durable = self.journal.poll_durable();
        for (_, promise) in self.truncations.extract_if(.., |(first, _)| *first > durable.next()) {
            promise.keep(Err(TruncateError::Beyond { durable }));
        }
        let Some(first) = self.truncations.iter().map(|(first, _)| *first).max() else { return };
        // The same again tries again to free what could not be freed.
        if first < self.shared.index.first() {
            return self.answer_truncations(first, &Ok(()));
        }
        self.freeing = Freeing::Marked { first, ticket: self.journal.handle_trim(first) };
    }

    /// Whether the helper is finding out what need not be kept.
    pub(super) fn is_retaining(&self) -> bool {
        self.retaining.busy
    }

    /// Has the helper find out what need not be kept, after the log went on to another segment.
    pub(super) fn request_retention(
        &mut self,
        tenant: usize,
        now: Duration,
        workshop: &dyn Workshop,
        inbox: &Arc<Inbox>,
    ) {
        let Retaining { rules, left, hosted, busy, due } = &mut self.retaining;
        if *busy || !*due || self.poisoned || self.renewing.is_some() {
            return;
        }
        (*busy, *due) = (true, false);
        let path = self.shared.index.path();
        let current = path.last().map(|segment| segment.id);
        let since = |id: SegmentId| {
            let at = left.partition_point(|(segment, _)| *segment < id);
            left.get(at).filter(|(segment, _)| *segment == id).map_or(*hosted, |(_, at)| *at)
        };
        let ago = |id| (Some(id) != current).then(|| now.saturating_sub(since(id)));
        let path = path.into_iter().map(|segment| (segment, ago(segment.id))).collect();
        let work = Work::Retain { rules: *rules, path };
        workshop.request(Job { tenant, shared: self.shared.clone(), work, inbox: inbox.clone() });
    }

    pub(super) fn handle_retained(&mut self, first: Option<Lsn>) {
        self.retaining.busy = false;
        if let Some(first) = first.filter(|first| *first > self.shared.index.first()) {
            // Nobody waits for it.
            let (promise, _) = errand();
            self.handle_truncate_before(first, promise);
            while self.retaining.left.front().is_some_and(|(id, _)| *id < self.shared.index.first_id()) {
                self.retaining.left.pop_front();
            }
        }
    }

    /// Says again what a batch is to say that there was no place for, or that ended with its epoch.
    pub(super) fn mark_again(&mut self) {
        if let Freeing::Marked { first, ticket } = &mut self.freeing {
            *ticket = self.journal.handle_trim(*first);
        }
    }

    fn answer_truncations(&mut self, first: Lsn, result: &Result<(), IoFailure>) {
        let now_first = self.shared.index.first();
        for (_, promise) in self.truncations.extract_if(.., |(asked, _)| *asked <= first) {
            promise.keep(result.clone().map(|()| now_first).map_err(TruncateError::Io));
        }
    }

    /// Once the mark is durable, nobody will need the segments below it: no batch is in flight to them, readers and
    /// recovery begin behind them.
    pub(super) fn request_freeing(&mut self, tenant: usize, workshop: &dyn Workshop, inbox: &Arc<Inbox>) {
        let Freeing::Marked { first, ticket } = self.freeing else { return };
        if self.poisoned {
            return;
        }
        if !self.journal.poll_settled(ticket) {
            // There was no place for a seal, and there is none to be had: the next batch will say it.
            if self.journal.is_settled()
                && let Preparing::Failed { failure, .. } = &self.preparing
            {
                self.retry_wanted = true;
                for (_, promise) in self.truncations.drain(..) {
                    promise.keep(Err(TruncateError::NoSpace(failure.clone())));
                }
            }
            return;
        }
        let Some(below) = self.shared.index.trim(first) else {
            self.freeing = Freeing::Nothing;
            self.answer_truncations(first, &Ok(()));
            return self.begin_truncation();
        };
        debug_assert!(self.files.iter().all(|file| file.id >= below), "nothing is in flight to what is freed");
        self.freeing = Freeing::Busy { first };
        let room = SPARES_MAX.saturating_sub(self.spares.len());
        let (shared, inbox) = (self.shared.clone(), inbox.clone());
        let work = Work::Free { below, bytes: self.shape.bytes(), room };
        workshop.request(Job { tenant, shared, work, inbox });
    }

    pub(super) fn handle_freed(&mut self, spares: Result<Vec<u64>, IoFailure>, woken: &mut Vec<Waker>) {
        let Freeing::Busy { first } = std::mem::replace(&mut self.freeing, Freeing::Nothing) else { return };
        self.answer_truncations(first, &spares.as_ref().map(|_| ()).map_err(IoFailure::clone));
        match spares {
            Ok(spares) => self.spares.extend(spares),
            // As for a segment that could not be prepared; files that stayed are freed by the next opening.
            Err(failure) if !failure.is_shortage() => self.poison(Cause::Io(failure), woken),
            Err(_) => {}
        }
        self.begin_truncation();
    }

    /// When a segment is to be tried again for which somebody was refused.
    pub(super) fn retry_due(&self) -> Option<Duration> {
        match self.preparing {
            Preparing::Failed { at, .. } if self.retry_wanted && !self.poisoned => Some(at + RETRY),
            _ => None,
        }
    }

    pub(super) fn handle_prepared(
        &mut self,
        header: &SegmentHeader,
        file: Result<Option<PreparedFile>, IoFailure>,
        now: Duration,
        disk: &mut dyn Disk,
        woken: &mut Vec<Waker>,
    ) {
        match file.and_then(|file| file.map(|file| disk.attach(&file)).transpose()) {
            Ok(None) => self.preparing = Preparing::Nothing,
            Ok(Some(slot)) => {
                self.preparing = Preparing::Nothing;
                self.next_segment = header.id.next();
                self.files.push_back(Attached { id: header.id, slot, in_flight: 0 });
                self.shared.stage.add_ready(Space {
                    id: header.id,
                    block_bytes: header.block_bytes,
                    blocks: header.blocks,
                });
                self.mark_again();
            }
            // A device's flush is everybody's: one that failed for the helper may have dropped what this log wrote. And a
            // disk that fails otherwise than by a shortage is not one to go on with.
            Err(failure) if !failure.is_shortage() => {
                // The helper is done, and a log that closes waits for it no more.
                self.preparing = Preparing::Nothing;
                self.poison(Cause::Io(failure), woken);
            }
            Err(failure) => {
                self.preparing = Preparing::Failed { at: now, failure: failure.clone() };
                self.shared.stage.set_no_space(failure);
            }
        }
    }
}

/// Zeros between the records and the block boundary: a buffer's earlier life must not reach the disk.
fn pad(shape: &Shape, buffer: &mut Buffer) {
    buffer[BATCH_HEADER_BYTES + shape.records_bytes..shape.bytes()].fill(0);
}
