//! Waiting for another process to write: inotify(7) on a log's directory, which tells of writes to any file in it.
//!
//! A hint and nothing more: where the kernel has none left to give (`fs.inotify.max_user_instances`), who waits looks
//! again every so often.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// How long a wait lasts at most: also what an event that never came costs.
const WAIT_MAX: Duration = Duration::from_millis(250);

/// The same without inotify.
const BLIND_WAIT_MAX: Duration = Duration::from_millis(10);

/// What happens in a directory.
#[derive(Debug)]
pub(crate) struct Watch(Option<Inotify>);

impl Watch {
    /// Watches `dir` from now on.
    pub(crate) fn new(dir: &Path) -> Self {
        let events = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        Self(inotify.ok().filter(|inotify| inotify.add_watch(dir, events).is_ok()))
    }

    /// Sleeps until something happened since the last wait, or `timeout` passes; it may also return early. Returns how long
    /// that took.
    pub(crate) fn wait(&self, timeout: Duration) -> Duration {
        let begun = Instant::now();
        self.sleep(timeout);
        begun.elapsed()
    }

    fn sleep(&self, timeout: Duration) {
        let Some(inotify) = &self.0 else { return std::thread::sleep(timeout.min(BLIND_WAIT_MAX)) };
        let timeout = PollTimeout::try_from(timeout.min(WAIT_MAX)).unwrap_or(PollTimeout::ZERO);
        // Interrupted is early, too.
        let _ = poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], timeout);
        while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_ends_a_wait() {
        let dir = std::env::temp_dir().join(format!("ringwal-watch-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let watch = Watch::new(&dir);
        std::fs::write(dir.join("file"), b"x").unwrap();
        let waited = watch.wait(Duration::from_secs(60));
        assert!(waited < WAIT_MAX, "{waited:?}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
