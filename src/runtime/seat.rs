//! Where a ring thread sits: on one core, or wherever the scheduler likes.

use nix::Result;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

/// Pins the calling thread.
pub(crate) fn pin(core: usize) -> Result<()> {
    sched_setaffinity(THIS, &only(core)?)
}

/// Whether threads like the calling one may sit on `core`, and elsewhere, too.
pub(crate) fn is_choice(core: usize) -> bool {
    let allowed = |set: CpuSet| (0..CpuSet::count()).filter(|core| set.is_set(*core) == Ok(true)).count();
    sched_getaffinity(THIS).is_ok_and(|set| set.is_set(core) == Ok(true) && allowed(set) > 1)
}

fn only(core: usize) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(set)
}

/// A choice of two: one core, or all that the thread was allowed.
#[derive(Debug)]
pub(super) struct Seat {
    home: CpuSet,
    anywhere: CpuSet,
    at_home: bool,
}

impl Seat {
    /// For the calling thread, which is to stay the only one that uses it.
    pub(super) fn new(core: usize) -> Option<Self> {
        let seat = Self { home: only(core).ok()?, anywhere: sched_getaffinity(THIS).ok()?, at_home: false };
        is_choice(core).then_some(seat)
    }

    /// Goes home, or lets the scheduler choose. Where that is refused meanwhile, everything stays as it is.
    pub(super) fn take(&mut self, at_home: bool) {
        if self.at_home != at_home {
            self.at_home = at_home;
            let _stays = sched_setaffinity(THIS, if at_home { &self.home } else { &self.anywhere });
        }
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
            let mut seat = Seat::new(core).unwrap();
            seat.take(true);
            assert_eq!(sched_getaffinity(THIS), only(core));
            assert!(!is_choice(core) && Seat::new(core).is_none(), "nothing is left to choose");
            seat.take(false);
            assert_eq!(sched_getaffinity(THIS), Ok(before));
        })
        .join()
        .unwrap();
    }
}
