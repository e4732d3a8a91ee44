//! What a driver needs that sleeps in somebody else's poller: a due time as a descriptor ([`Alarm`]), and all that it
//! waits for as one ([`gather`]).
//!
//! ## When an alarm is set
//!
//! Lazily. What is due moves on with every batch (the idle seal: "10 ms after the last one"), and a system call
//! for each would cost more than the batch's own: an alarm that is set for an earlier time stays, goes off for nothing,
//! and is set anew then. So it costs a call or two in each such period, however many batches there were.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::{Disk, Notify};

/// A timer whose descriptor is readable from its time on, until it is set anew or stopped.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: TimerFd,
    /// When it goes off, on the clock of whoever sets it.
    at: Cell<Option<Duration>>,
}

impl Alarm {
    /// One that never goes off, so far.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self { timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?, at: Cell::new(None) })
    }

    /// Sees to it that it goes off at `due` or earlier: it is `now`, and `due` is later.
    ///
    /// # Errors
    /// The kernel refuses, which it has no reason to.
    pub(crate) fn set(&self, due: Option<Duration>, now: Duration) -> io::Result<()> {
        let rings = self.at.get().is_some_and(|at| at <= now);
        match due {
            Some(due) if rings || self.at.get().is_none_or(|at| due < at) => {
                // A time of zero would stop it.
                let left = due.saturating_sub(now).max(Duration::from_nanos(1));
                self.at.set(Some(due));
                self.timer.set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty())?;
            }
            None if rings => {
                self.at.set(None);
                self.timer.unset()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Becomes readable when it goes off.
    pub(crate) fn timerfd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// One descriptor for all that a driver waits for: the eventfd, if the disk tells the rest by it, or else eventfd and
/// alarm together.
///
/// # Errors
/// Too many open files, no memory.
pub(crate) fn gather(disk: &mut dyn Disk, notify: &Notify, alarm: &Alarm) -> io::Result<OwnedFd> {
    if disk.tell(notify)? {
        return notify.eventfd().try_clone_to_owned();
    }
    let both = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for part in [notify.eventfd(), alarm.timerfd()] {
        both.add(part, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    }
    Ok(both.0)
}

/// Sleeps until `descriptor` is readable; may return early.
pub(crate) fn wait_readable(descriptor: BorrowedFd<'_>) {
    // A signal, or no memory: early.
    let _early = poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], PollTimeout::NONE);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(2);
    const LONG: Duration = Duration::from_secs(3600);

    fn rings_within(alarm: &Alarm, millis: u16) -> bool {
        let mut fds = [PollFd::new(alarm.timerfd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(millis)) == Ok(1)
    }

    #[test]
    fn an_earlier_time_counts_at_once_and_a_later_one_when_it_has_rung() {
        let alarm = Alarm::new().unwrap();
        let zero = Duration::ZERO;
        assert!(!rings_within(&alarm, 5), "set for nothing");
        alarm.set(Some(LONG), zero).unwrap();
        alarm.set(Some(SHORT), zero).unwrap();
        assert!(rings_within(&alarm, 60_000), "the earlier one");
        alarm.set(None, zero).unwrap();
        alarm.set(Some(LONG), zero).unwrap();
        assert!(rings_within(&alarm, 0), "left alone: its time is not over yet");
        alarm.set(Some(LONG), SHORT).unwrap();
        assert!(!rings_within(&alarm, 5), "set anew");
        alarm.set(Some(SHORT), zero).unwrap();
        assert!(rings_within(&alarm, 60_000));
        alarm.set(None, SHORT).unwrap();
        assert!(!rings_within(&alarm, 5), "stopped");
    }
}
