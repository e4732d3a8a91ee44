//! Waking the ring thread, wherever it sleeps: [`Notify`].
//!
//! ## Why no wake-up is lost
//!
//! One atomic holds where the ring thread is. A waker publishes its work, then *swaps* in `NOTIFIED`; the sleeper
//! *exchanges* `AWAKE` for a sleeping state, and only if that succeeds does it sleep. Both are read-modify-writes of the
//! same atomic, so one of them comes first:
//!
//! - the waker first: the exchange finds `NOTIFIED`, fails, and the thread does not sleep;
//! - the sleeper first: the swap returns the sleeping state, and the waker knows that it must rouse the thread and how.
//!   Should the thread not be asleep yet, `unpark` leaves a token and the eventfd stays readable, so it falls through.
//!
//! The sleeper takes the state back with a swap as well (acquire), so the work published before a wake-up (release) is
//! visible after it: look at every queue **after** `park` or `end_ring_wait` returned, and nothing is missed.
//!
//! While the thread is awake a wake-up costs one atomic swap and no system call, and wake-ups do not add up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::seeded;
use crate::sync::{AtomicU8, Ordering};

/// Running; it will look at its queues before it sleeps only if told so.
const AWAKE: u8 = 0;
/// Running, and told to look again.
const NOTIFIED: u8 = 1;
/// Asleep, or about to be, in `thread::park`.
const PARKED: u8 = 2;
/// Asleep, or about to be, in the kernel with a poll of the eventfd armed; or, for a driver inside its caller's thread,
/// wherever that thread is: it is to be told by its waker, or else by the eventfd.
const IN_RING: u8 = 3;

use bed::Bed;

/// Wakes one thread from any other. Sticky: a wake-up of an awake thread makes its next sleep return at once.
#[derive(Debug)]
pub(crate) struct Notify {
    state: AtomicU8,
    /// Where `park` sleeps.
    bed: Bed,
    /// Written to wake a thread that sleeps in the ring. Nobody needs to read it: the ring's poll reports every write.
    eventfd: EventFd,
    /// The eventfd, to a model.
    #[cfg(all(test, ringwal_loom))]
    written: Bed,
    /// Woken instead of the eventfd: on the thread's own executor that takes no system call.
    waker: Mutex<Option<Waker>>,
}

impl Notify {
    /// A thread that is awake.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let eventfd = EventFd::from_value_and_flags(0, flags)?;
        Ok(Self {
            state: AtomicU8::new(AWAKE),
            bed: Bed::default(),
            eventfd,
            waker: Mutex::default(),
            #[cfg(all(test, ringwal_loom))]
            written: Bed::default(),
        })
    }

    /// Wakes the thread, or keeps it from its next sleep.
    pub(crate) fn wake(&self) {
        let order = if seeded::is("notify-relaxed") { Ordering::Relaxed } else { Ordering::AcqRel };
        match self.state.swap(NOTIFIED, order) {
            PARKED => self.bed.rouse(),
            IN_RING => {
                self.rouse();
                #[cfg(all(test, ringwal_loom))]
                self.written.rouse();
            }
            _ => {}
        }
    }

    /// Tells the thread to look, wherever it is: by its waker if there is one, else by the eventfd.
    pub(crate) fn rouse(&self) {
        // Woken outside the lock: a waker may do anything.
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match waker {
            Some(waker) => waker.wake(),
            // It fails only with a full counter, and then the eventfd is readable anyway.
            None => drop(self.eventfd.write(1)),
        }
    }

    /// Whom to wake instead of writing to the eventfd. Until it is changed the eventfd is silent.
    pub(crate) fn set_waker(&self, waker: Option<&Waker>) {
        let mut known = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *known, waker) {
            (Some(known), Some(waker)) => known.clone_from(waker),
            (known, waker) => *known = waker.cloned(),
        }
    }

    /// Empties the eventfd, for a poller that reports the level.
    pub(crate) fn empty(&self) {
        let _empty = self.eventfd.read();
    }

    /// Sleeps until woken, or until `timeout` has passed; may return early. Always called by the same thread.
    pub(crate) fn park(&self, timeout: Option<Duration>) {
        self.bed.prepare();
        if self.fall_asleep(PARKED) {
            self.bed.sleep(timeout);
            self.get_up();
        }
    }

    /// Announces a sleep in the ring, with a poll of [`Notify::eventfd`] armed. `false`: a wake-up is pending (and is
    /// hereby taken): do not sleep. After `true`, [`Notify::end_ring_wait`] must follow.
    #[must_use]
    pub(crate) fn begin_ring_wait(&self) -> bool {
        self.fall_asleep(IN_RING)
    }

    /// The sleep in the ring is over; takes the wake-up that may have ended it.
    pub(crate) fn end_ring_wait(&self) {
        self.get_up();
    }

    /// Sleeps until woken or until one of `others` is readable; may return early.
    pub(crate) fn poll_with(&self, others: &[BorrowedFd<'_>]) {
        if self.begin_ring_wait() {
            let all = [self.eventfd()].into_iter().chain(others.iter().copied());
            let mut all: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            // A signal, or no memory: early.
            let _early = poll(&mut all, PollTimeout::NONE);
            self.empty();
            self.end_ring_wait();
        }
    }

    /// Becomes readable when a thread in a ring wait is woken.
    pub(crate) fn eventfd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    fn fall_asleep(&self, place: u8) -> bool {
        if seeded::is("notify-blind-sleep") {
            self.state.store(place, Ordering::Release);
            return true;
        }
        let asleep = self.state.compare_exchange(AWAKE, place, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if !asleep {
            self.get_up();
        }
        asleep
    }

    fn get_up(&self) {
        self.state.swap(AWAKE, Ordering::AcqRel);
    }
}

/// A place to sleep in, for one thread. Sticky: who is roused before the sleep does not sleep.
#[cfg(not(all(test, ringwal_loom)))]
mod bed {
    use std::sync::OnceLock;
    use std::thread::{self, Thread};
    use std::time::Duration;

    #[derive(Debug, Default)]
    pub(super) struct Bed {
        /// Known before anybody can have a reason to rouse it.
        sleeper: OnceLock<Thread>,
    }

    impl Bed {
        /// Comes before each sleep.
        pub(super) fn prepare(&self) {
            let sleeper = self.sleeper.get_or_init(thread::current);
            debug_assert_eq!(sleeper.id(), thread::current().id(), "one Notify wakes one thread");
        }

        pub(super) fn sleep(&self, timeout: Option<Duration>) {
            match timeout {
                Some(timeout) => thread::park_timeout(timeout),
                None => thread::park(),
            }
        }

        pub(super) fn rouse(&self) {
            if let Some(sleeper) = self.sleeper.get() {
                sleeper.unpark();
            }
        }
    }
}

/// The same for a model, in which no time passes and nobody is roused without a cause.
#[cfg(all(test, ringwal_loom))]
mod bed {
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    #[derive(Debug, Default)]
    pub(super) struct Bed {
        roused: Mutex<bool>,
        change: Condvar,
    }

    impl Bed {
        pub(super) fn prepare(&self) {}

        pub(super) fn sleep(&self, _timeout: Option<Duration>) {
            let mut roused = self.roused.lock().unwrap();
            while !*roused {
                roused = self.change.wait(roused).unwrap();
            }
            *roused = false;
        }

        pub(super) fn rouse(&self) {
            *self.roused.lock().unwrap() = true;
            self.change.notify_one();
        }
    }
}

#[cfg(all(test, ringwal_loom))]
impl Notify {
    /// What a ring does between [`Notify::begin_ring_wait`] and [`Notify::end_ring_wait`].
    pub(crate) fn wait_for_eventfd(&self) {
        self.written.sleep(None);
    }
}

#[cfg(all(test, ringwal_loom))]
mod loom_model {
    use super::*;
    #[cfg(ringwal_seeded_bugs)]
    use crate::sync::catches;
    use crate::sync::{Arc, AtomicU64, model};

    /// Two producers publish work and wake; the sleeper works until it has seen all of it, sleeping whenever it finds
    /// nothing. A lost wake-up is a deadlock, which loom reports.
    fn all_work_is_seen(bug: Option<&'static str>, in_ring: fn(usize) -> bool) {
        model(bug, 3, move || {
            let notify = Arc::new(Notify::new().unwrap());
            let work = Arc::new(AtomicU64::new(0));
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (notify, work) = (notify.clone(), work.clone());
                    loom::thread::spawn(move || {
                        work.fetch_add(1, Ordering::Relaxed);
                        notify.wake();
                    })
                })
                .collect();
            let mut sleeps = 0;
            while work.load(Ordering::Relaxed) < 2 {
                if !in_ring(sleeps) {
                    notify.park(None);
                } else if notify.begin_ring_wait() {
                    notify.wait_for_eventfd();
                    notify.end_ring_wait();
                }
                sleeps += 1;
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    #[test]
    fn loom_no_wake_up_is_lost_while_parking() {
        all_work_is_seen(None, |_| false);
    }

    #[test]
    fn loom_no_wake_up_is_lost_in_the_ring() {
        all_work_is_seen(None, |_| true);
    }

    #[test]
    fn loom_no_wake_up_is_lost_between_the_places() {
        all_work_is_seen(None, |sleeps| sleeps % 2 == 0);
    }

    #[cfg(ringwal_seeded_bugs)]
    #[test]
    fn loom_catches_a_careless_waker_and_a_careless_sleeper() {
        for bug in ["notify-relaxed", "notify-blind-sleep"] {
            assert!(catches(bug, |bug| all_work_is_seen(bug, |_| false)), "{bug} while parking");
            assert!(catches(bug, |bug| all_work_is_seen(bug, |_| true)), "{bug} in the ring");
        }
    }
}

#[cfg(all(test, not(ringwal_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    const ROUNDS: u64 = 50_000;
    /// Far beyond any scheduling delay: only a lost wake-up lasts this long.
    const LOST: Duration = Duration::from_secs(30);

    /// Sleeps in the way under test; says whether it was given up as lost.
    fn park(notify: &Notify, _round: u64) -> bool {
        let before = std::time::Instant::now();
        notify.park(Some(LOST));
        before.elapsed() >= LOST
    }

    fn sleep_in_ring(notify: &Notify, _round: u64) -> bool {
        if !notify.begin_ring_wait() {
            return false;
        }
        let mut fds = [PollFd::new(notify.eventfd(), PollFlags::POLLIN)];
        let lost = poll(&mut fds, PollTimeout::from(30_000u16)) == Ok(0);
        // poll(2) reports the level where the ring's poll reports each write: empty it.
        let _empty = notify.eventfd.read();
        notify.end_ring_wait();
        lost
    }

    fn either(notify: &Notify, round: u64) -> bool {
        if round.is_multiple_of(2) { park(notify, round) } else { sleep_in_ring(notify, round) }
    }

    /// A ping-pong in which every round needs its own wake-up, and a chatterer that wakes at random besides.
    fn ping_pong(sleep: fn(&Notify, u64) -> bool, chatter: bool) {
        let notify = Notify::new().unwrap();
        let (asked, served) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    asked.store(round, Ordering::Relaxed);
                    notify.wake();
                    while served.load(Ordering::Acquire) < round {
                        if chatter && round % 3 == 0 {
                            notify.wake();
                        }
                        thread::yield_now();
                    }
                }
            });
            let mut round = 0;
            while round < ROUNDS {
                if asked.load(Ordering::Relaxed) > round {
                    round += 1;
                    served.store(round, Ordering::Release);
                } else {
                    assert!(!sleep(&notify, round) || asked.load(Ordering::Relaxed) == round, "a wake-up was lost");
                }
            }
        });
    }

    #[test]
    fn no_wake_up_is_lost_while_parking() {
        ping_pong(park, false);
    }

    #[test]
    fn no_wake_up_is_lost_while_sleeping_in_the_ring() {
        ping_pong(sleep_in_ring, false);
    }

    #[test]
    fn no_wake_up_is_lost_when_the_places_alternate_under_chatter() {
        ping_pong(either, true);
    }

    #[test]
    fn a_waker_is_woken_instead_of_the_eventfd() {
        struct Count(AtomicU64);
        impl std::task::Wake for Count {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (notify, count) = (Notify::new().unwrap(), std::sync::Arc::new(Count(AtomicU64::new(0))));
        notify.set_waker(Some(&Waker::from(count.clone())));
        notify.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "an awake thread needs no waker");
        assert!(!notify.begin_ring_wait(), "it is told before it sleeps");
        assert!(notify.begin_ring_wait());
        notify.wake();
        notify.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "two wake-ups are one");
        assert!(notify.eventfd.read().is_err(), "the waker takes the eventfd's place");
        notify.end_ring_wait();
        notify.set_waker(None);
        assert!(notify.begin_ring_wait());
        notify.wake();
        assert_eq!((count.0.load(Ordering::SeqCst), notify.eventfd.read()), (1, Ok(1)));
    }

    #[test]
    fn a_wake_up_is_sticky_once_and_costs_no_eventfd_while_awake() {
        let notify = Notify::new().unwrap();
        notify.wake();
        notify.wake();
        notify.park(Some(LOST));
        assert_eq!(notify.state.load(Ordering::Relaxed), AWAKE);
        assert!(notify.eventfd.read().is_err(), "an awake thread needs no eventfd");
        assert!(notify.begin_ring_wait(), "the two wake-ups were one");
        notify.wake();
        assert_eq!(notify.eventfd.read(), Ok(1));
        notify.end_ring_wait();
        assert!(notify.begin_ring_wait(), "the end of the wait took the wake-up");
    }
}
