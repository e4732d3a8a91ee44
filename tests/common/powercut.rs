//! File systems on loop devices, and a recorder in another process: a block-device daemon that logs every write and flush,
//! shown as a file, under a loop device, under a real file system. It can be stopped, as a disk that stalls.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::image::Image;
use super::logwrites::Entry;
use super::rig::{Scratch, say};

const DAEMON: &str = "qemu-storage-daemon";

/// A file system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    pub(crate) fn disk_bytes(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            // The smallest that its tools make.
            Self::Xfs => 320 << 20,
        }
    }

    fn make(self, device: &str) -> Result<(), String> {
        match self {
            Self::Ext4 => run("mkfs.ext4", &["-q", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0", device]),
            Self::Xfs => run("mkfs.xfs", &["-q", "-K", device]),
        }
        .map(drop)
    }

    /// A disk with an empty file system, made once.
    pub(crate) fn blank(self) -> Result<Image, String> {
        static BLANK: Mutex<Vec<(FileSystem, Image)>> = Mutex::new(Vec::new());
        let mut made = BLANK.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, image)) = made.iter().find(|(fs, _)| *fs == self) {
            return Ok(image.clone());
        }
        let scratch = Scratch::new("blank");
        let path = scratch.join("disk");
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| error.to_string())?;
        file.set_len(self.disk_bytes()).map_err(|error| error.to_string())?;
        self.make(text(&path))?;
        let image = Image::of(&file);
        made.push((self, image.clone()));
        Ok(image)
    }

    /// The kernel recovers it now, if need be.
    pub(crate) fn mount(self, device: &Loop, at: &Path) -> Result<Mount, String> {
        // Every disk of this process begins as the same one.
        let options = match self {
            Self::Ext4 => "noatime",
            Self::Xfs => "noatime,nouuid",
        };
        Mount::new(self.name(), options, device.device(), at)
    }
}

/// From now on this thread and those that it starts see mounts that nobody else sees, which end with them.
pub(crate) fn mount_privately() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| format!("unshare: {errno}"))?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(|errno| format!("mount: {errno}"))
}

/// Why the recorder in another process cannot be had here; `None` if it can.
pub(crate) fn unavailable(fs: FileSystem) -> Option<String> {
    no_file_system(fs).or_else(|| lacks(DAEMON))
}

/// Why no file system of this kind can be had here; `None` if it can.
pub(crate) fn no_file_system(fs: FileSystem) -> Option<String> {
    if !super::rig::is_root() {
        return Some("needs root".to_owned());
    }
    if let Some(file) = ["/dev/fuse", "/dev/loop-control"].into_iter().find(|file| !Path::new(file).exists()) {
        return Some(format!("needs {file}"));
    }
    lacks("losetup").or_else(|| lacks(&format!("mkfs.{}", fs.name())))
}

fn lacks(tool: &str) -> Option<String> {
    run("sh", &["-c", &format!("command -v {tool}")]).is_err().then(|| format!("needs {tool}"))
}

/// Runs a command to its end; its standard output, or what it complained of.
pub(crate) fn run(command: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(command).args(args).output().map_err(|error| format!("{command}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{command} {args:?}: {}", text(&output.stderr)))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A loop device, let go when dropped.
#[derive(Debug)]
pub(crate) struct Loop(String);

impl Loop {
    pub(crate) fn attach(file: &Path) -> Result<Self, String> {
        // With direct I/O on, the recorder's export corrupts data.
        run("losetup", &["-f", "--show", "--direct-io=off", text(file)]).map(Self)
    }

    pub(crate) fn device(&self) -> &str {
        &self.0
    }

    /// Forgets what the kernel remembers of the device, whose file was changed under it.
    #[expect(unsafe_code, reason = "the request has no safe wrapper")]
    pub(crate) fn forget_cache(&self) {
        const BLKFLSBUF: nix::libc::Ioctl = 0x1261;
        let device = File::open(&self.0).unwrap();
        // SAFETY: the request takes no argument and the descriptor is open.
        let answer = unsafe { nix::libc::ioctl(device.as_raw_fd(), BLKFLSBUF, 0) };
        assert_eq!(answer, 0, "{}: {}", self.0, std::io::Error::last_os_error());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        complain(run("losetup", &["-d", &self.0]));
    }
}

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    at: PathBuf,
    /// Let go of behind the file system.
    _device: Option<Loop>,
}

impl Mount {
    /// `options`: `noatime`, `loop` for a file instead of a device, and what the file system itself knows.
    pub(crate) fn new(fs: &str, options: &str, source: &str, at: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(at).map_err(|error| error.to_string())?;
        let (mut flags, mut device, mut own) = (MsFlags::empty(), None, Vec::new());
        for option in options.split(',') {
            match option {
                "noatime" => flags |= MsFlags::MS_NOATIME,
                "loop" => device = Some(Loop::attach(Path::new(source))?),
                option => own.push(option),
            }
        }
        let source = device.as_ref().map_or(source, Loop::device);
        mount(Some(source), at, Some(fs), flags, Some(own.join(",").as_str()))
            .map_err(|errno| format!("mounting {fs} from {source}: {errno}"))?;
        Ok(Self { at: at.to_path_buf(), _device: device })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}

/// Whoever had a file open may be about to let go of it: a ring does so a moment after it was closed.
fn unmount(at: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut pause = Duration::from_micros(100);
    loop {
        match umount2(at, MntFlags::empty()) {
            Ok(()) => return,
            Err(Errno::EBUSY) if Instant::now() < deadline => std::thread::sleep(pause),
            Err(errno) => {
                say(&format!("rig: unmounting {}: {errno}", at.display()));
                complain(umount2(at, MntFlags::MNT_DETACH).map_err(|errno| errno.to_string()));
                return;
            }
        }
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

fn complain<T>(result: Result<T, String>) {
    if let Err(why) = result {
        say(&format!("rig: {why}"));
    }
}

/// The daemon that records, and its export.
#[derive(Debug)]
struct Daemon {
    pid: Pid,
    export: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGCONT);
        unmount(&self.export);
        let _ = kill(self.pid, Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while kill(self.pid, None).is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A mounted file system whose disk is recorded. Fields are dropped in this order: it matters.
#[derive(Debug)]
pub(crate) struct Recorder {
    mount: Option<Mount>,
    _device: Loop,
    daemon: Daemon,
    scratch: Scratch,
    fs: FileSystem,
}

impl Recorder {
    pub(crate) fn start(fs: FileSystem) -> Result<Self, String> {
        let scratch = Scratch::new(&format!("powercut-{}", fs.name()));
        let file = |name: &str, bytes: u64| File::create(scratch.join(name)).unwrap().set_len(bytes).unwrap();
        file("base.img", fs.disk_bytes());
        file("log.img", 8 << 30);
        file("exp.img", 0);
        let at = |name: &str| text(&scratch.join(name)).to_owned();
        let (pid_file, export) = (at("daemon.pid"), at("exp.img"));
        let mut args = vec!["--daemonize".to_owned(), "--pidfile".to_owned(), pid_file.clone()];
        for node in [
            format!("driver=file,node-name=basef,filename={}", at("base.img")),
            "driver=raw,node-name=base,file=basef".to_owned(),
            format!("driver=file,node-name=logf,filename={}", at("log.img")),
            "driver=blklogwrites,node-name=lw,file=base,log=logf,log-sector-size=512".to_owned(),
        ] {
            args.extend(["--blockdev".to_owned(), node]);
        }
        let node = format!("type=fuse,id=e0,node-name=lw,mountpoint={export},writable=on,growable=off");
        args.extend(["--export".to_owned(), node]);
        run(DAEMON, &args.iter().map(String::as_str).collect::<Vec<_>>())?;
        let pid = std::fs::read_to_string(pid_file).map_err(|error| error.to_string())?;
        let pid = Pid::from_raw(pid.trim().parse().map_err(|_| "no pid".to_owned())?);
        let daemon = Daemon { pid, export: export.into() };
        let device = Loop::attach(&daemon.export)?;
        fs.make(device.device())?;
        let mount = Mount::new(fs.name(), "noatime", device.device(), &scratch.join("mnt"))?;
        Ok(Self { mount: Some(mount), _device: device, daemon, scratch, fs })
    }

    /// Where the file system is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.scratch.join("mnt")
    }

    /// The file whose superblock tells how many entries there are.
    pub(crate) fn log(&self) -> PathBuf {
        self.scratch.join("log.img")
    }

    /// The disk stalls: the daemon is stopped. It goes on when the answer is dropped; if that does not happen because a
    /// test that should not wait for the disk does, after `longest`, so that it fails instead of hanging.
    pub(crate) fn stall(&self, longest: Duration) -> Stall {
        let pid = self.daemon.pid;
        kill(pid, Signal::SIGSTOP).unwrap();
        let (over, wait) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            if wait.recv_timeout(longest) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                say(&format!("something waits for the stalled disk:\n{}", kernel_stacks()));
            }
            let _ = kill(pid, Signal::SIGCONT);
        });
        Stall { pid, _over: over, since: Instant::now(), longest }
    }

    /// Ends the recording: all that was recorded.
    pub(crate) fn finish(mut self) -> Vec<Entry> {
        drop(self.mount.take());
        let Self { _device: device, daemon, scratch, .. } = self;
        drop(device);
        drop(daemon);
        super::logwrites::read(&scratch.join("log.img"))
    }

    pub(crate) fn file_system(&self) -> FileSystem {
        self.fs
    }
}

/// Where this process's threads are in the kernel: who waits, and for what.
fn kernel_stacks() -> String {
    let mut text = String::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        text += &format!("{}{}\n", read("comm"), read("stack"));
    }
    text
}

/// A stalled disk.
#[derive(Debug)]
pub(crate) struct Stall {
    pid: Pid,
    _over: std::sync::mpsc::Sender<()>,
    since: Instant,
    longest: Duration,
}

/// No test keeps a disk stalled for longer.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(20);

impl Stall {
    /// Whether it went on by itself: nothing that came of it says anything about a stalled disk.
    pub(crate) fn is_over(&self) -> bool {
        self.since.elapsed() >= self.longest
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGCONT);
        // Seen once in 150 stalls and not explained yet: once is told (with the stacks), twice is a failure.
        static WAITED: AtomicU32 = AtomicU32::new(0);
        let waited = u32::from(self.is_over());
        let before = WAITED.fetch_add(waited, Ordering::Relaxed);
        assert!(std::thread::panicking() || before + waited <= 1, "something waited for the stalled disk");
    }
}
