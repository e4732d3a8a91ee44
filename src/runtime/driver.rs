//! THE LOOP: take commands, reap, publish, submit, wake. A step function over any number of logs, with no thread inside:
//! a ring thread runs it ([`Driver::run`]), a caller's own thread turns it ([`super::local`]), a simulation steps it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

use super::sync::Arc;
use super::tenant::{Flight, Tenant, Turn};
use super::{Command, Inbox, Shared, Tenancy, Workshop};
use crate::disk::seat::Seat;
use crate::disk::{Alarm, Completion, Disk, Lock, Notify};
use crate::error::{Cause, OpenError};
use crate::journal::{Next, Wake};

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
            tenant.prepare_renewal(&*self.workshop);
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
                tenant.request_retention(key, now, &*self.workshop, &self.inbox);
                tenant.request_renewal(key, &*self.workshop, &self.inbox, &mut *self.disk, &mut self.woken);
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
            self.tell();
        }
        self.disk.kick();
        self.tell();
        pause
    }

    /// Wakes who was waited for; then shows what is durable to those who follow.
    fn tell(&mut self) {
        wake_all(&mut self.woken);
        for (_, tenant) in &mut self.tenants {
            tenant.show(&mut self.woken);
        }
        wake_all(&mut self.woken);
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
                Command::Host(tenancy) => self.host(tenancy, now),
                Command::Prepared { tenant, header, file } => {
                    if let Some(tenant) = self.tenants.get_mut(tenant) {
                        tenant.handle_prepared(&header, file, now, &mut *self.disk, &mut self.woken);
                    }
                }
                Command::TruncateBefore { shared, first, promise } => {
                    if let Some(tenant) = self.tenant_of(&shared) {
                        tenant.handle_truncate_before(first, promise);
                    }
                }
                Command::Renew { shared, renewal } => {
                    if let Some(tenant) = self.tenant_of(&shared) {
                        tenant.handle_renew(renewal);
                    }
                }
                #[cfg(feature = "ship")]
                Command::RecordsTerm { shared, term, promise } => {
                    if let Some(tenant) = self.tenant_of(&shared) {
                        tenant.journal.set_records_term(term);
                        promise.keep(());
                    }
                }
                Command::Renewed { tenant, renewed } => {
                    if let Some(tenant) = self.tenants.get_mut(tenant) {
                        tenant.handle_renewed(renewed, &mut *self.disk, &mut self.woken);
                    }
                }
                Command::Retained { tenant, first } => {
                    if let Some(tenant) = self.tenants.get_mut(tenant) {
                        tenant.handle_retained(first);
                    }
                }
                Command::Freed { tenant, spares } => {
                    if let Some(tenant) = self.tenants.get_mut(tenant) {
                        tenant.handle_freed(spares, &mut self.woken);
                    }
                }
                Command::Panic => panic!("asked to by a test"),
            }
        }
        self.commands = commands;
    }

    fn tenant_of(&mut self, shared: &Arc<Shared>) -> Option<&mut Tenant> {
        self.tenants.iter_mut().map(|(_, tenant)| tenant).find(|tenant| Arc::ptr_eq(&tenant.shared, shared))
    }

    fn host(&mut self, mut tenancy: Box<Tenancy>, now: Duration) {
        let (seat, told) = (tenancy.seat.take(), tenancy.told.clone());
        let hosted = Tenant::host(*tenancy, now, &mut *self.disk).map(|tenant| {
            self.seat = seat;
            self.tenants.insert(tenant);
        });
        let _ = told.send(hosted.map_err(OpenError::Io));
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

    /// A log that is closed (or poisoned and given up), with nothing in flight, is let go.
    fn retire(&mut self, key: usize) {
        if self.tenants[key].is_busy() {
            return self.workshop.hurry();
        }
        self.tenants.remove(key).leave(&mut *self.disk, &mut self.woken);
    }

    /// The driver panicked, or nobody will step it any more: every future of every log gets to know. What is in flight
    /// ends before files and locks are let go.
    pub(crate) fn poison_all(mut self, cause: &Cause) {
        let (mut shared, mut locks) = (Vec::new(), Vec::new());
        for (_, tenant) in &mut self.tenants {
            tenant.poison(cause.clone(), &mut self.woken);
            shared.push(tenant.shared.clone());
            locks.extend(tenant.lock.take());
        }
        // Only now: whose command is refused asks how the log ended.
        self.inbox.refuse(&mut self.commands);
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

impl Drop for Driver {
    /// Nobody answers commands any more: what is asked from now on is refused, and promises in what was asked are dropped.
    fn drop(&mut self) {
        self.inbox.refuse(&mut self.commands);
    }
}

/// Wakes everybody, also behind a waker that panics: the others lost their places when they were collected.
fn wake_all(woken: &mut Vec<Waker>) {
    for waker in woken.drain(..) {
        // The panic was reported by its hook; it is its owner's to mend.
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}
