//! A disk with faults: a file system in memory, served through FUSE, so that the kernel, the real ring and O_DIRECT stand
//! between the log and it. It fails where it is told to and forgets what was not flushed when the power is cut.

mod controller;
mod fault;
mod media;
mod serve;

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fuser::{Config, MountOption};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};

pub(crate) use controller::{Controller, Strike};
pub(crate) use fault::{Fault, Op, Span, What};

use super::rig::{Scratch, is_root};

/// Files are numbered from here; the directory is 1.
const FIRST_FILE: u64 = 2;
/// One more than what a log has in flight at once, or a delay would hold up everything.
const THREADS: usize = 4;

/// What the file system's threads share with the rig.
struct Shared(Arc<Controller>);

impl Deref for Shared {
    type Target = Controller;

    fn deref(&self) -> &Controller {
        &self.0
    }
}

/// The mounted file system.
pub(crate) struct FaultFs {
    controller: Arc<Controller>,
    keeper: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
    scratch: Scratch,
}

impl Deref for FaultFs {
    type Target = Controller;

    fn deref(&self) -> &Controller {
        &self.controller
    }
}

/// Why there can be none here.
pub(crate) fn unavailable() -> Option<String> {
    if !is_root() {
        return Some("needs root, to mount".to_owned());
    }
    (!Path::new("/dev/fuse").exists()).then(|| "there is no /dev/fuse".to_owned())
}

impl FaultFs {
    pub(crate) fn mount() -> Result<Self, String> {
        let scratch = Scratch::new("faultfs");
        let controller = Arc::new(Controller::new(FIRST_FILE));
        let (end, ended) = mpsc::channel();
        let (told, mounted) = mpsc::channel();
        let (shared, at) = (Shared(controller.clone()), scratch.path().to_owned());
        let keeper = thread::spawn(move || keep(shared, &at, &told, &ended));
        let fs = Self { controller, keeper: Some((end, keeper)), scratch };
        mounted.recv().map_err(|_| "the file system's thread is gone".to_owned())??;
        Ok(fs)
    }

    /// The mount point, which is the log's directory.
    pub(crate) fn path(&self) -> &Path {
        self.scratch.path()
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        if let Some((end, keeper)) = self.keeper.take() {
            drop(end);
            let _ = keeper.join();
        }
    }
}

/// Serves until it is told to end.
///
/// It has a table of open files of its own. Were /dev/fuse in the one that all threads share, a killed process could
/// never go: its other threads would wait for answers that can come only once the table is let go.
fn keep(shared: Shared, at: &Path, told: &mpsc::Sender<Result<(), String>>, ended: &mpsc::Receiver<()>) {
    let mounted = || {
        unshare(CloneFlags::CLONE_FILES).map_err(|error| format!("a table of files of its own: {error}"))?;
        close_inherited();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faultfs".to_owned())];
        config.n_threads = Some(THREADS);
        fuser::spawn_mount(shared, at, &config).map_err(|error| format!("{}: {error}", at.display()))
    };
    match mounted() {
        Ok(session) => {
            let _ = told.send(Ok(()));
            let _ = ended.recv();
            // Whoever had a file open may be about to let go of it.
            unmount(at);
            let _ = session.join();
        }
        Err(why) => drop(told.send(Err(why))),
    }
}

/// Descriptors of others would keep files and locks open that they have closed.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/thread-self/fd") else { return };
    let open: Vec<i32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // The listing's own is gone already.
        let _ = nix::unistd::close(fd);
    }
}

fn unmount(at: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while umount2(at, MntFlags::empty()) == Err(Errno::EBUSY) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    // Whatever is still open ends with an error.
    let _ = umount2(at, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
}
