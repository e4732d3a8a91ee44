//! THE LOOP: take commands, reap, publish, submit, wake. A step function over any number of logs, with no thread inside:
//! a ring thread runs it ([`Driver::run`]), a caller's own thread turns it ([`super::local`]), a simulation steps it.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

use super::durable::End;
use super::seat::Seat;
use super::stage::View;
use super::sync::Arc;
use super::{Command, Inbox, Job, PreparedFile, Shared, Tenancy, Work, Workshop};
use crate::disk::{Alarm, Buffer, Completion, Disk, FileSlot, Lock, Notify, Write};
use crate::error::{Cause, IoFailure, Op, OpenError};
use crate::format::{BATCH_HEADER_BYTES, SegmentHeader};
use crate::journal::placement::SPARES_MAX;
use crate::journal::{Journal, Next, PathSegment, Place, Shape, Space, Staged, Ticket, Wake};
use crate::lsn::{Lsn, SegmentId};

/// How long to wait before a segment is tried again that could not be prepared.
const RETRY: Duration = Duration::from_millis(100);

/// One ring thread's world.
pub(crate) struct Driver {
    disk: Box<dyn Disk>,
    inbox: Arc<Inbox>,
    workshop: Arc<dyn Workshop>,
    tenants: Slab<Tenant>,
    flights: Slab<Flight>,
    /// Whether a batch may be carried out on this thread, if that is quicker: not where the thread is a caller's.
    blocking_allowed: bool,
    /// Where the thread may sit, if it has a choice.
    seat: Option<Seat>,
    /// Kept between steps, so that a step allocates nothing.
    commands: Vec<Command>,
    completions: Vec<Completion>,
    woken: Vec<Waker>,
}

/// A batch on its way.
#[derive(Debug)]
struct Flight {
    tenant: usize,
    ticket: Ticket,
    segment: SegmentId,
    submitted: Duration,
    len: usize,
    records: u32,
}

/// What a step leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    /// When something is due, if nothing happens before.
    pub(crate) until: Option<Duration>,
    /// Whether a wake-up from an appender is of any use before the next completion.
    pub(crate) wakeable: bool,
    /// How many wakers were woken.
    pub(crate) woken: usize,
    /// A batch waits for what those who were woken append: there is more to do as soon as they had their go.
    pub(crate) company: bool,
}

impl Driver {
    pub(crate) fn new(disk: Box<dyn Disk>, inbox: Arc<Inbox>, workshop: Arc<dyn Workshop>) -> Self {
        Self {
            disk,
            inbox,
            workshop,
            tenants: Slab::new(),
            flights: Slab::new(),
            blocking_allowed: true,
            seat: None,
            commands: Vec::new(),
            completions: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// Never blocks the thread for a batch, where the disk has another way.
    pub(crate) fn without_blocking(mut self) -> Self {
        self.blocking_allowed = false;
        self
    }

    /// Runs until the runtime is dropped and every log is closed.
    pub(crate) fn run(&mut self, notify: &Notify) {
        let start = Instant::now();
        while !self.is_done() {
            let pause = self.step(start.elapsed());
            self.sit();
            let timeout = pause.until.map(|until| until.saturating_sub(start.elapsed()));
            self.disk.wait(notify, pause.wakeable, timeout);
        }
    }

    /// Sits where the log's batches fare best.
    fn sit(&mut self) {
        if let (Some(seat), Some((_, tenant))) = (&mut self.seat, self.tenants.iter_mut().next()) {
            seat.take(tenant.journal.tuner().choice().home);
        }
    }

    /// Everything there is to do at `now`. Never blocks on a disk that does not block.
    pub(crate) fn step(&mut self, now: Duration) -> Pause {
        self.take_commands(now);
        self.reap(now);
        let mut pause = Pause { until: None, wakeable: false, woken: 0, company: false };
        // A ring thread that serves several logs must not keep one waiting for another's flush.
        let may_block = self.blocking_allowed && self.tenants.len() == 1;
        for key in 0..self.tenants.capacity() {
            // Publish, submit the next batch, and only then wake the waiters, outside any lock: woken first, they would
            // compete with the submission for this core.
            let Some(tenant) = self.tenants.get_mut(key) else { continue };
            tenant.publish(&mut self.woken);
            // In a caller's thread they compete with nobody: woken first, they join the batch, and never become two
            // cohorts of which each waits for the other's flush.
            if !self.blocking_allowed && !self.woken.is_empty() && tenant.awaits_company() {
                pause.company = true;
                continue;
            }
            let next = tenant.submit(Turn { key, now, may_block }, &mut *self.disk, &mut self.flights);
            if matches!(next, Next::Wait(_)) {
                tenant.request_segment(key, now, &*self.workshop, &self.inbox);
                tenant.request_freeing(key, &*self.workshop, &self.inbox);
            }
            pause.wakeable |= tenant.journal.wake() != Wake::Never;
            pause.until = pause.until.into_iter().chain(tenant.retry_due()).min();
            match next {
                Next::Wait(due) => pause.until = pause.until.into_iter().chain(due).min(),
                _ => self.retire(key),
            }
        }
        pause.woken = self.woken.len();
        if self.disk.blocks() {
            wake_all(&mut self.woken);
        }
        self.disk.kick();
        wake_all(&mut self.woken);
        pause
    }

    /// From here on every batch is made durable by `method`, and at most `depth` of a log's are in flight; with
    /// `gather` callers that were just served are waited for.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn steer(&mut self, method: crate::disk::Method, depth: usize, gather: bool) {
        for (_, tenant) in &mut self.tenants {
            tenant.journal.tuner().steer(method, depth, gather);
        }
    }

    /// As [`Disk::watch`].
    pub(crate) fn watch(&mut self, alarm: &Alarm) -> bool {
        self.disk.watch(alarm)
    }

    /// Whether nothing is on its way, so that only a wake-up or a due time can bring something to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether nothing will ever be due again.
    pub(crate) fn is_done(&self) -> bool {
        self.tenants.is_empty() && self.flights.is_empty() && self.inbox.is_abandoned()
    }

    fn take_commands(&mut self, now: Duration) {
        self.inbox.drain(&mut self.commands);
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            match command {
                Command::Host(tenancy) => self.host(tenancy),
                Command::Prepared { tenant, header, file } => {
                    if let Some(tenant) = self.tenants.get_mut(tenant) {
                        tenant.handle_prepared(&header, file, now, &mut *self.disk, &mut self.woken);
                    }
                }
                Command::Recycle { shared, first } => {
                    let hosted = |tenant: &&mut Tenant| Arc::ptr_eq(&tenant.shared, &shared);
                    if let Some(tenant) = self.tenants.iter_mut().map(|(_, tenant)| tenant).find(hosted) {
                        tenant.handle_recycle(first);
                    }
                }
                Command::Recycled { tenant, spares } => {
                    if let Some(tenant) = self.tenants.get_mut(tenant) {
                        tenant.handle_recycled(spares, &mut self.woken);
                    }
                }
                Command::Panic => panic!("asked to by a test"),
            }
        }
        self.commands = commands;
    }

    fn host(&mut self, tenancy: Box<Tenancy>) {
        let Tenancy {
            journal,
            shared,
            files,
            next_segment,
            spares,
            shape,
            lock,
            home,
            buffer_bytes,
            pending_bytes_max,
            told,
        } = *tenancy;
        let answer = self.attach_all(&shared, files, lock.as_ref(), buffer_bytes, pending_bytes_max);
        match answer {
            Ok((files, lock_slot)) => {
                self.seat = home.and_then(Seat::new);
                self.tenants.insert(Tenant {
                    journal,
                    shared,
                    files,
                    in_flight: 0,
                    preparing: Preparing::Nothing,
                    freeing: Freeing::Nothing,
                    retry_wanted: false,
                    hurry_wanted: false,
                    next_segment,
                    spares,
                    shape,
                    lock,
                    lock_slot,
                    poisoned: false,
                });
                let _ = told.send(Ok(()));
            }
            Err(failure) => {
                drop(lock);
                let _ = told.send(Err(OpenError::Io(failure)));
            }
        }
    }

    /// Takes a log's files and lock into the disk's table, and gives it its buffers.
    fn attach_all(
        &mut self,
        shared: &Shared,
        files: Vec<(SegmentId, PreparedFile)>,
        lock: Option<&Lock>,
        buffer_bytes: usize,
        pending_bytes_max: usize,
    ) -> Result<(VecDeque<Attached>, Option<FileSlot>), IoFailure> {
        let pool = self.disk.pool(buffer_bytes, pending_bytes_max);
        shared.stage.set_pool(pool.map_err(|error| IoFailure::new(Op::Ring, shared.dir.path(), 0, &error))?);
        let lock_slot = lock.map(|lock| self.disk.hold(lock.as_fd())).transpose()?;
        let attach =
            |(id, file): (SegmentId, PreparedFile)| Ok(Attached { id, slot: self.disk.attach(&file)?, in_flight: 0 });
        Ok((files.into_iter().map(attach).collect::<Result<_, IoFailure>>()?, lock_slot))
    }

    fn reap(&mut self, now: Duration) {
        self.disk.reap(&mut self.completions);
        for completion in self.completions.drain(..) {
            let key = usize::try_from(completion.token).unwrap_or(usize::MAX);
            let flight = self.flights.remove(key);
            if let Some(tenant) = self.tenants.get_mut(flight.tenant) {
                tenant.handle_completion(&flight, completion, now, &mut *self.disk, &mut self.woken);
            }
        }
    }

    /// A log that is closed (or poisoned and given up), with nothing in flight: lets go of its files and its lock, and
    /// only then says so.
    fn retire(&mut self, key: usize) {
        let tenant = &self.tenants[key];
        // The helper may be at work in the directory, which is the next writer's as soon as the lock is let go.
        if tenant.in_flight > 0 || tenant.preparing == Preparing::One || tenant.freeing == Freeing::Busy {
            return;
        }
        let mut tenant = self.tenants.remove(key);
        for file in tenant.files.drain(..) {
            self.disk.detach(file.slot);
        }
        if let Some(slot) = tenant.lock_slot.take() {
            self.disk.detach(slot);
        }
        if let Some(lock) = tenant.lock.take() {
            // The ring may keep the file a little longer; the lock itself must be free when `close` resolves, unless a
            // broken ring may still write.
            if !self.disk.in_doubt() {
                lock.release();
            }
        }
        tenant.shared.finish(End::Closed, &mut self.woken);
        tenant.shared.release(&mut self.woken);
    }

    /// The driver panicked, or nobody will step it any more: every future of every log gets to know. What is in flight
    /// ends before files and locks are let go.
    pub(crate) fn poison_all(mut self, cause: &Cause) {
        self.inbox.refuse(&mut self.commands);
        let (mut shared, mut locks) = (Vec::new(), Vec::new());
        for (_, tenant) in &mut self.tenants {
            tenant.poison(cause.clone(), &mut self.woken);
            shared.push(tenant.shared.clone());
            locks.extend(tenant.lock.take());
        }
        let mut woken = std::mem::take(&mut self.woken);
        wake_all(&mut woken);
        let in_doubt = self.disk.in_doubt();
        // Ends what is in flight; also drops the logs that nobody took up, whose openers are told by their channel.
        drop(self);
        // As in `retire`: the ring may keep their files a little longer.
        if !in_doubt {
            locks.into_iter().for_each(Lock::release);
        }
        shared.iter().for_each(|shared| shared.release(&mut woken));
        wake_all(&mut woken);
    }
}

/// A log's turn in a step.
#[derive(Clone, Copy, Debug)]
struct Turn {
    key: usize,
    now: Duration,
    /// Whether nobody minds if this thread blocks.
    may_block: bool,
}

/// A segment's file in the disk's table.
#[derive(Debug)]
struct Attached {
    id: SegmentId,
    slot: FileSlot,
    in_flight: usize,
}

/// Whether the workshop is busy for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preparing {
    Nothing,
    One,
    Failed { at: Duration },
}

/// How far the freeing of segments has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freeing {
    Nothing,
    /// Until the batch with this ticket is durable, which carries the trim LSN.
    Marked {
        first: Lsn,
        ticket: u64,
    },
    /// The workshop is at it.
    Busy,
}

/// One log on this ring thread.
#[derive(Debug)]
struct Tenant {
    journal: Journal,
    shared: Arc<Shared>,
    /// The segments that are written to or ready, in the order of their ids.
    files: VecDeque<Attached>,
    in_flight: usize,
    preparing: Preparing,
    freeing: Freeing,
    retry_wanted: bool,
    hurry_wanted: bool,
    next_segment: SegmentId,
    spares: Vec<u64>,
    /// What a segment to be prepared looks like.
    shape: SegmentHeader,
    lock: Option<Lock>,
    lock_slot: Option<FileSlot>,
    poisoned: bool,
}

impl Tenant {
    /// Publishes the watermark.
    fn publish(&mut self, woken: &mut Vec<Waker>) {
        if !self.poisoned {
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
    fn awaits_company(&mut self) -> bool {
        let view = self.view(Wake::Never);
        view.staged == Staged::Open && !view.closing && !self.poisoned
    }

    /// Submits whatever is due.
    fn submit(&mut self, turn: Turn, disk: &mut dyn Disk, flights: &mut Slab<Flight>) -> Next {
        loop {
            let wake = self.journal.wake();
            let view = self.view(wake);
            if self.poisoned {
                return if view.closing { Next::Finished } else { Next::Wait(None) };
            }
            self.journal.tuner().permit_blocking(turn.may_block);
            let next = self.journal.poll_next(view.staged, view.staged_records, view.closing, turn.now);
            match next {
                Next::Batch => {
                    let Some((shape, mut buffer)) = self.shared.stage.take() else { return Next::Wait(None) };
                    self.enter_segment(&shape, disk);
                    pad(&shape, &mut buffer);
                    let ticket = self.journal.handle_batch(&shape, &mut buffer, turn.now);
                    self.fly(turn, ticket, &shape, buffer, disk, flights);
                }
                Next::Seal { close } => match self.shared.stage.take_seal() {
                    Some((shape, mut buffer)) => {
                        self.enter_segment(&shape, disk);
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

    /// The one place where a batch meets the disk.
    fn fly(
        &mut self,
        turn: Turn,
        ticket: Ticket,
        shape: &Shape,
        buffer: Buffer,
        disk: &mut dyn Disk,
        flights: &mut Slab<Flight>,
    ) {
        let Place { segment, .. } = shape.place;
        let file = self.files.iter_mut().find(|file| file.id == segment).expect("a ready segment's file is attached");
        file.in_flight += 1;
        self.in_flight += 1;
        let (len, records) = (shape.bytes(), shape.count);
        let method = ticket.method();
        let token =
            flights.insert(Flight { tenant: turn.key, ticket, segment, submitted: turn.now, len, records }) as u64;
        disk.submit(Write { token, file: file.slot, offset: shape.place.offset(), len, buffer, method });
    }

    /// The first batch in a segment: readers learn of it before anything in it can be durable.
    fn enter_segment(&mut self, shape: &Shape, disk: &mut dyn Disk) {
        let entered = PathSegment { id: shape.place.segment, first: shape.first, link: self.journal.link() };
        if self.shared.index.enter(entered) {
            self.shared.stats.count_rotation();
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

    fn handle_completion(
        &mut self,
        flight: &Flight,
        completion: Completion,
        now: Duration,
        disk: &mut dyn Disk,
        woken: &mut Vec<Waker>,
    ) {
        self.in_flight -= 1;
        if let Some(file) = self.files.iter_mut().find(|file| file.id == flight.segment) {
            file.in_flight -= 1;
        }
        self.let_go(disk);
        self.shared.stage.give_back(completion.buffer);
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
    fn poison(&mut self, cause: Cause, woken: &mut Vec<Waker>) {
        if !self.poisoned {
            self.poisoned = true;
            self.shared.finish(End::Poisoned(cause), woken);
        }
    }

    /// Keeps segments ready: one request at a time, so that ids never have gaps.
    fn request_segment(&mut self, tenant: usize, now: Duration, workshop: &dyn Workshop, inbox: &Arc<Inbox>) {
        let due = match self.preparing {
            Preparing::Nothing => true,
            Preparing::One => false,
            // Not before a while has passed, and only when somebody was refused for it.
            Preparing::Failed { at } => now >= at + RETRY && std::mem::take(&mut self.retry_wanted),
        };
        if due
            && !self.poisoned
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
    fn handle_recycle(&mut self, first: Lsn) {
        // What is being freed is freed first; whoever asks again meanwhile loses nothing but time.
        if self.freeing == Freeing::Nothing && !self.poisoned {
            let first = first.min(self.journal.poll_durable().next());
            self.freeing = Freeing::Marked { first, ticket: self.journal.handle_trim(first) };
        }
    }

    /// Once the mark is durable, nobody will need the segments below it: no batch is in flight to them, readers and
    /// recovery begin behind them.
    fn request_freeing(&mut self, tenant: usize, workshop: &dyn Workshop, inbox: &Arc<Inbox>) {
        if let Freeing::Marked { first, ticket } = self.freeing
            && !self.poisoned
            && self.journal.poll_settled(ticket)
        {
            let below = self.shared.index.trim(first);
            debug_assert!(self.files.iter().all(|file| file.id >= below), "nothing is in flight to what is freed");
            self.freeing = Freeing::Busy;
            let room = SPARES_MAX.saturating_sub(self.spares.len());
            let (shared, inbox) = (self.shared.clone(), inbox.clone());
            workshop.request(Job {
                tenant,
                shared,
                work: Work::Free { below, bytes: self.shape.bytes(), room },
                inbox,
            });
        }
    }

    fn handle_recycled(&mut self, spares: Result<Vec<u64>, IoFailure>, woken: &mut Vec<Waker>) {
        self.freeing = Freeing::Nothing;
        match spares {
            Ok(spares) => self.spares.extend(spares),
            // As for a segment that could not be prepared; files that stayed are freed by the next opening.
            Err(failure) if !failure.is_shortage() => self.poison(Cause::Io(failure), woken),
            Err(_) => {}
        }
    }

    /// When a segment is to be tried again for which somebody was refused.
    fn retry_due(&self) -> Option<Duration> {
        match self.preparing {
            Preparing::Failed { at } if self.retry_wanted && !self.poisoned => Some(at + RETRY),
            _ => None,
        }
    }

    fn handle_prepared(
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
            }
            // A device's flush is everybody's: one that failed for the helper may have dropped what this log wrote. And a
            // disk that fails otherwise than by a shortage is not one to go on with.
            Err(failure) if !failure.is_shortage() => self.poison(Cause::Io(failure), woken),
            Err(failure) => {
                self.preparing = Preparing::Failed { at: now };
                self.shared.stage.set_no_space(failure);
            }
        }
    }
}

/// Wakes everybody, also behind a waker that panics: the others lost their places when they were collected.
fn wake_all(woken: &mut Vec<Waker>) {
    for waker in woken.drain(..) {
        // The panic was reported by its hook; it is its owner's to mend.
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

/// Zeros between the records and the block boundary: a buffer's earlier life must not reach the disk.
fn pad(shape: &Shape, buffer: &mut Buffer) {
    buffer[BATCH_HEADER_BYTES + shape.records_bytes..shape.bytes()].fill(0);
}
