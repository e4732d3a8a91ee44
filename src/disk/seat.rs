//! Where a ring thread sits: on one core, or wherever the scheduler likes.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::Result;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

/// Pins the calling thread.
pub(crate) fn pin(core: usize) -> Result<()> {
    sched_setaffinity(THIS, &only(core)?)
}

/// Whether a thread of this process keeps to a core: one at most does, or several logs would crowd it.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether threads like the calling one may sit on `core`, and elsewhere, too. Not under a seccomp filter: hardened
/// services are killed for sched_setaffinity(2).
fn is_choice(core: usize) -> bool {
    let allowed = |set: CpuSet| (0..CpuSet::count()).filter(|core| set.is_set(*core) == Ok(true)).count();
    sched_getaffinity(THIS).is_ok_and(|set| set.is_set(core) == Ok(true) && allowed(set) > 1)
        && fs::read_to_string("/proc/thread-self/status").is_ok_and(|status| !is_filtered(&status))
}

fn is_filtered(status: &str) -> bool {
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() != "0")
}

fn only(core: usize) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(set)
}

/// A choice of two for one thread: one core, or all that it was allowed before.
#[derive(Debug)]
pub(crate) struct Seat {
    home: CpuSet,
    /// While it is at home: where it was allowed before.
    before: Option<CpuSet>,
}

impl Seat {
    /// For a thread that is allowed what the calling one is. None if that leaves no choice, or another thread has one.
    pub(crate) fn claim(core: usize) -> Option<Self> {
        let home = only(core).ok()?;
        let free = is_choice(core) && !TAKEN.swap(true, Ordering::Relaxed);
        free.then_some(Self { home, before: None })
    }

    /// Has the calling thread, always the same, go home, or wherever the scheduler chooses. Where that is refused,
    /// everything stays as it is.
    pub(crate) fn take(&mut self, at_home: bool) {
        match self.before {
            None if at_home => {
                let before = sched_getaffinity(THIS).ok();
                self.before = before.filter(|_| sched_setaffinity(THIS, &self.home).is_ok());
            }
            Some(before) if !at_home && sched_setaffinity(THIS, &before).is_ok() => self.before = None,
            _ => {}
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_goes_home_and_is_free_again() {
        std::thread::spawn(|| {
            let before = sched_getaffinity(THIS).unwrap();
            let Some(core) = (0..CpuSet::count()).find(|core| is_choice(*core)) else {
                return println!("SKIPPED: one core leaves no choice");
            };
            let Some(mut seat) = Seat::claim(core) else { return println!("SKIPPED: another test's log has the seat") };
            assert!(Seat::claim(core).is_none(), "one at a time");
            seat.take(true);
            assert_eq!(sched_getaffinity(THIS), only(core));
            assert!(!is_choice(core), "nothing is left to choose");
            seat.take(false);
            assert_eq!(sched_getaffinity(THIS), Ok(before));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_filter_is_seen() {
        assert!(is_filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!is_filtered("Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n"));
    }
}
