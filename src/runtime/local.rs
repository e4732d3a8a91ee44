//! The driver inside a caller's own thread: nobody is woken, nothing is handed over.
//!
//! Instead of sleeping, a turn ends with everything that the driver waits for brought to one descriptor, and whoever owns
//! the thread sleeps where it always does. In a turn the driver publishes, submits and wakes like everywhere; what the
//! woken tasks append, they stage in the same thread, and the first of them wakes the driver: through a waker that is a
//! push to a queue, without one it is a write to an eventfd.
//!
//! ## Who may be where
//!
//! A ring answers to the thread that made it, so all of this stays there. Handles of the log may be anywhere: their
//! records come through the stage, and their wake-ups through [`Notify`], as to a ring thread.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::driver::Driver;
use super::sync::Arc;
use super::threads::{Helper, Made, cause_of, make_disk};
use super::{Command, Inbox, Shared, Tenancy};
use crate::disk::{Alarm, Method, Notify, alarm};
#[cfg(feature = "tokio")]
use crate::error::Cause;
use crate::error::{IoFailure, Op, OpenError};
use crate::lsn::Lsn;
use crate::options::Engine;

/// How often a turn goes round for what comes while it is under way: then it is the others' turn.
const ROUNDS_MAX: u32 = 4;

/// How often a turn is put off for those who append meanwhile: an executor may run a few of thousands each time.
#[cfg(feature = "tokio")]
const GATHERING_MAX: u32 = 128;

/// What the descriptor's poller reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Poller {
    /// That it is readable, again and again: a turn takes that away.
    Level,
    /// That it has become readable once more: there is nothing to take away, and no system call for it.
    #[cfg(feature = "tokio")]
    Edge,
}

/// What a turn left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// The descriptor tells when there is more to do; at the latest after so long.
    Sleep(Option<Duration>),
    /// There is more to do now.
    Again,
    /// The log is closed and let go, or poisoned: there never will be more.
    Done,
}

/// What is known of tasks that were woken together and may append together again.
#[cfg(feature = "tokio")]
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// The last record when it was last looked.
    seen: Lsn,
    /// How often in a row it was put off.
    times: u32,
}

/// A driver of one log, and what wakes it.
pub(crate) struct Local {
    /// None when the log has ended.
    driver: RefCell<Option<Driver>>,
    inbox: Arc<Inbox>,
    /// The log, once it has one.
    log: OnceCell<Arc<Shared>>,
    /// The last record if everybody who was woken last appends one: the end of a gathering.
    expected: Cell<Lsn>,
    alarm: Alarm,
    descriptor: OwnedFd,
    begun: Instant,
    pub(crate) methods: &'static [Method],
    /// Why io_uring is not used, where it was refused.
    pub(crate) refused: Option<Arc<str>>,
}

thread_local! {
    /// The drivers of this thread.
    static HERE: RefCell<Vec<Weak<Local>>> = const { RefCell::new(Vec::new()) };
}

impl Local {
    /// Makes the disk on the calling thread, where all of it stays, and starts the helper.
    ///
    /// # Errors
    /// io_uring refused where it is required; a thread, a ring or a descriptor that cannot be had.
    pub(crate) fn start(engine: Engine, uring_required: bool) -> Result<Rc<Self>, OpenError> {
        let failed = |op| move |error: io::Error| OpenError::Io(IoFailure::new(op, Path::new("ringwal"), 0, &error));
        let notify = Arc::new(Notify::new().map_err(failed(Op::Ring))?);
        let alarm = Alarm::new().map_err(failed(Op::Ring))?;
        let (mut disk, refused): Made = make_disk(engine, uring_required)?;
        let methods = disk.methods();
        let descriptor = alarm::gather(&mut *disk, &notify, &alarm).map_err(failed(Op::Ring))?;
        let inbox = Arc::new(Inbox::new(notify));
        let helper = Helper::start().map_err(failed(Op::Spawn))?;
        let driver = Driver::new(disk, inbox.clone(), Arc::new(helper)).without_blocking();
        // It ends with the one log that it gets.
        inbox.abandon();
        let local = Rc::new(Self {
            driver: RefCell::new(Some(driver)),
            inbox,
            log: OnceCell::new(),
            expected: Cell::new(Lsn::ZERO),
            alarm,
            descriptor,
            begun: Instant::now(),
            methods,
            refused,
        });
        HERE.with_borrow_mut(|here| {
            here.retain(|other| other.strong_count() > 0);
            here.push(Rc::downgrade(&local));
        });
        Ok(local)
    }

    /// Gives it its one log.
    pub(crate) fn host(&self, tenancy: Tenancy) -> Result<(), OpenError> {
        self.log.set(tenancy.shared.clone()).map_err(|_| OpenError::RuntimeEnded)?;
        self.inbox.send(Command::Host(Box::new(tenancy))).map_err(|_| OpenError::RuntimeEnded)?;
        self.turn(Poller::Level, None);
        Ok(())
    }

    /// Everything that there is to do, without sleeping. From then on wake-ups go to `waker`, if there is one, and else
    /// to the descriptor.
    pub(crate) fn turn(&self, poller: Poller, waker: Option<&Waker>) -> Turned {
        // A waker that turns the log that wakes it: the turn is under way.
        let Ok(mut slot) = self.driver.try_borrow_mut() else { return Turned::Again };
        let Some(driver) = slot.as_mut() else { return Turned::Done };
        let turned = catch_unwind(AssertUnwindSafe(|| self.rounds(driver, poller, waker)));
        match turned {
            Ok(Turned::Done) => *slot = None,
            Ok(turned) => return turned,
            Err(panic) => {
                if let Some(driver) = slot.take() {
                    driver.poison_all(&cause_of(&*panic));
                }
            }
        }
        Turned::Done
    }

    fn rounds(&self, driver: &mut Driver, poller: Poller, waker: Option<&Waker>) -> Turned {
        let notify = &*self.inbox.notify;
        notify.end_ring_wait();
        if poller == Poller::Level {
            notify.empty();
        }
        notify.set_waker(waker);
        for _ in 0..ROUNDS_MAX {
            let now = self.begun.elapsed();
            let pause = driver.step(now);
            if driver.is_done() {
                return Turned::Done;
            }
            if pause.woken > 0 {
                self.expected.set(self.appended().plus(pause.woken as u64));
            }
            if pause.company {
                break;
            }
            let overdue = pause.until.is_some_and(|due| due <= now);
            // Refused, it would be a due time that nobody hears of: a kernel without timers has worse troubles.
            let deaf = self.alarm.set(pause.until.filter(|_| !overdue), now).is_err();
            if driver.watch(&self.alarm) || overdue || deaf {
                continue;
            }
            // While a batch is in flight and no other can go, nobody needs to tell of what is staged: its end is near.
            let deaf_until_completion = !pause.wakeable && !driver.is_idle();
            if deaf_until_completion || notify.begin_ring_wait() {
                return Turned::Sleep(pause.until.map(|due| due.saturating_sub(now)));
            }
        }
        notify.rouse();
        Turned::Again
    }

    /// Whether more is being appended by those who were woken together, so that a turn had better wait for them: two
    /// halves that take turns would each wait for the other's flush.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_gathering(&self, gathering: &mut Gathering) -> bool {
        let appended = self.appended();
        let more = appended > gathering.seen && appended < self.expected.get() && gathering.times < GATHERING_MAX;
        gathering.seen = appended;
        gathering.times = if more { gathering.times + 1 } else { 0 };
        more
    }

    fn appended(&self) -> Lsn {
        self.log.get().map_or(Lsn::ZERO, |log| log.stage.appended())
    }

    /// Where it takes commands.
    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Nobody can drive it any more: every future gets to know.
    #[cfg(feature = "tokio")]
    pub(crate) fn poison(&self, cause: &Cause) {
        if let Some(driver) = self.driver.take() {
            driver.poison_all(cause);
        }
    }

    /// From now on wake-ups go to the descriptor, which is readable once for those that may have been lost.
    #[cfg(feature = "tokio")]
    pub(crate) fn forget_waker(&self) {
        self.inbox.notify.set_waker(None);
        self.inbox.notify.rouse();
    }
}

impl AsFd for Local {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Local {
    /// Nobody can drive the log any more: closes it, also under handles that are left, and drives it to its end.
    fn drop(&mut self) {
        if let Some(log) = self.log.get() {
            log.stage.close();
        }
        while self.turn(Poller::Level, None) != Turned::Done {
            alarm::wait_readable(self.as_fd());
        }
    }
}

/// Whether a log is driven inside this thread.
pub(super) fn drives_here() -> bool {
    HERE.try_with(|here| here.borrow().iter().any(|local| local.strong_count() > 0)).unwrap_or(false)
}

/// Runs a future on the calling thread, and the logs that are driven inside it.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    struct Rouse(Notify);
    impl Wake for Rouse {
        fn wake(self: Arc<Self>) {
            self.0.wake();
        }
    }
    let Ok(notify) = Notify::new() else { return spin_on(future) };
    let rouse = Arc::new(Rouse(notify));
    let waker = Waker::from(rouse.clone());
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            // Whoever drives them otherwise may have missed what was done here.
            turn_all(None);
            return output;
        }
        let locals = turn_all(Some(&waker));
        let descriptors: Vec<_> = locals.iter().map(|local| local.as_fd()).collect();
        rouse.0.poll_with(&descriptors);
    }
}

/// Without a descriptor to sleep on.
fn spin_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
        turn_all(None);
        std::thread::yield_now();
    }
}

/// Turns every log of this thread.
fn turn_all(waker: Option<&Waker>) -> Vec<Rc<Local>> {
    let locals: Vec<_> = HERE.with_borrow(|here| here.iter().filter_map(Weak::upgrade).collect());
    for local in &locals {
        local.turn(Poller::Level, waker);
    }
    locals
}
