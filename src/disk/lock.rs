//! The writer's lock: the file `LOCK` in the log's directory, an open-file-description lock on it, and its text.
//!
//! The lock belongs to the open file, not to the process: two handles in one process exclude each other, and a ring
//! that keeps the file in its own table keeps the lock until its last write has ended in the kernel, even after the
//! process was killed. That is why a dead holder is waited for, and a live one is not.
//!
//! ```text
//! pid {10 columns} {20 columns: when it started, in ticks since boot, 0 if unknown}\n
//! log {32 hexadecimal digits, or spaces}\n
//! ```
//!
//! The fields stand at fixed offsets, so each is rewritten alone. The text informs; only the lock decides.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl};
use nix::libc::{self, F_UNLCK, F_WRLCK, SEEK_SET, c_short};
use nix::sys::signal::kill;
use nix::sys::stat::{fstat, fstatat};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Pid, fdatasync};

use super::Directory;
use super::file::{RealDirectory, regular};
use crate::error::{IoFailure, Op, OpenError};
use crate::lsn::LogId;
use crate::seeded;

/// The lock file's name.
pub(crate) const LOCK: &str = "LOCK";

/// How often a dead holder's lock is tried again.
const POLL: Duration = Duration::from_millis(5);

/// Where the second line begins, and the text's whole length.
const LOG_LINE: usize = "pid \n".len() + 10 + 1 + 20;
const TEXT_LEN: usize = LOG_LINE + "log  \n".len() + 32 + 8;

/// The held lock. It is let go when this and every duplicate of the descriptor are closed.
///
/// Dropping it leaves it to them; [`Lock::release`] does not.
#[derive(Debug)]
pub(crate) struct Lock {
    fd: OwnedFd,
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Lock {
    /// Lets the lock go at once, whoever else keeps the file open. Only when no write is in flight any more: a ring
    /// closes the file of its table a moment later, and until then a new opening would meet a live holder.
    pub(crate) fn release(self) {
        #[expect(clippy::cast_possible_truncation, reason = "a small constant that the interface wants as a short")]
        let unlock = libc::flock { l_type: F_UNLCK as c_short, ..whole_file() };
        // What cannot be unlocked is still let go with its last descriptor.
        let _closed_later = fcntl(&self.fd, FcntlArg::F_OFD_SETLK(&unlock));
    }
}

impl RealDirectory {
    /// Takes the writer's lock. A live holder is refused at once; a dead one, whose last writes are still on their way
    /// to the disk, is waited for up to `wait`.
    pub(crate) fn lock(&self, wait: Duration) -> Result<Lock, OpenError> {
        let deadline = Instant::now() + wait;
        let mut seen_alive = None;
        loop {
            let fd = open_lock(self)?;
            if seeded::is("m18") || try_lock(&fd).map_err(|errno| self.failed(Op::Lock, LOCK, errno))? {
                if is_still_named(self, &fd) {
                    let text = Holder::this_process().line();
                    write_at(&fd, text.as_bytes(), 0).map_err(|errno| self.failed(Op::Lock, LOCK, errno))?;
                    return Ok(Lock { fd });
                }
                // Somebody removed the file between the opening and the locking: lock the one that stands there now.
                continue;
            }
            // Asked anew each time: a new holder writes its own line a moment after it took the lock. And asked twice
            // before a holder counts as alive: one that is being killed looks alive for a moment.
            let holder = read_text(&fd).ok().and_then(|text| Holder::parse(&text)).filter(|holder| holder.is_alive());
            if (holder.is_some() && holder == seen_alive) || Instant::now() >= deadline {
                return Err(OpenError::Held { path: self.path().to_owned(), by: holder.map(|holder| holder.pid) });
            }
            seen_alive = holder;
            thread::sleep(POLL);
        }
    }

    /// Whether somebody holds the writer's lock, and the pid that its text tells. Takes and changes nothing.
    pub(crate) fn holder(&self) -> Result<Option<Option<u32>>, IoFailure> {
        let Some(fd) = open_to_read(self)? else { return Ok(None) };
        let mut flock = whole_file();
        fcntl(&fd, FcntlArg::F_OFD_GETLK(&mut flock)).map_err(|errno| self.failed(Op::Lock, LOCK, errno))?;
        if i32::from(flock.l_type) == F_UNLCK {
            return Ok(None);
        }
        Ok(Some(read_text(&fd).ok().and_then(|text| Holder::parse(&text)).map(|holder| holder.pid)))
    }
}

/// The log id in the lock file; a file that is absent, short or without one says `None`.
pub(super) fn recorded_log_id(dir: &RealDirectory) -> Result<Option<LogId>, IoFailure> {
    let Some(fd) = open_to_read(dir)? else { return Ok(None) };
    let text = read_text(&fd).map_err(|errno| dir.failed(Op::Read, LOCK, errno))?;
    Ok(text.get(LOG_LINE..).and_then(parse_log_line))
}

/// The log id with a CRC behind it: a line that rotted must not condemn every segment as another log's.
fn log_line(log_id: LogId) -> String {
    format!("log {log_id} {:08x}\n", crc32fast::hash(&log_id.bytes()))
}

fn parse_log_line(line: &str) -> Option<LogId> {
    let (id, _) = line.strip_prefix("log ")?.split_once(' ')?;
    LogId::parse(id).filter(|log_id| log_line(*log_id) == line)
}

/// Records the log id durably: bytes, then the name.
pub(super) fn record_log_id(dir: &RealDirectory, log_id: LogId) -> Result<(), IoFailure> {
    let failed = |errno| dir.failed(Op::Lock, LOCK, errno);
    let fd = dir.open_regular(LOCK, OFlag::O_RDWR).map_err(failed)?;
    write_at(&fd, log_line(log_id).as_bytes(), LOG_LINE).map_err(failed)?;
    fdatasync(&fd).map_err(|errno| dir.failed(Op::Sync, LOCK, errno))?;
    dir.sync()
}

/// Opens the lock file to lock it, and makes it if need be.
fn open_lock(dir: &RealDirectory) -> Result<OwnedFd, OpenError> {
    loop {
        match dir.open_regular(LOCK, OFlag::O_RDWR) {
            Ok(fd) => return Ok(fd),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(odd_lock(dir, errno)),
        }
        match dir.create_regular(LOCK) {
            Ok(fd) => return Ok(fd),
            // Another process made it in between.
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(OpenError::from(dir.failed(Op::Create, LOCK, errno))),
        }
    }
}

fn odd_lock(dir: &RealDirectory, errno: Errno) -> OpenError {
    let what = match errno {
        Errno::ELOOP => "is a symbolic link",
        Errno::EISDIR => "is a directory",
        Errno::EMLINK => "has a second hard link",
        Errno::ESPIPE | Errno::ENXIO => "is a FIFO, socket or device",
        errno => return OpenError::from(dir.failed(Op::Open, LOCK, errno)),
    };
    OpenError::NotALog { path: dir.join(LOCK), what }
}

fn open_to_read(dir: &RealDirectory) -> Result<Option<OwnedFd>, IoFailure> {
    match dir.open_regular(LOCK, OFlag::O_RDONLY) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(dir.failed(Op::Open, LOCK, errno)),
    }
}

/// Whether the lock was free and is now ours.
fn try_lock(fd: &OwnedFd) -> Result<bool, Errno> {
    match fcntl(fd, FcntlArg::F_OFD_SETLK(&whole_file())) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// A write lock over the whole file. The pid must be 0 for the calls that lock open file descriptions.
#[expect(clippy::cast_possible_truncation, reason = "small constants that the interface wants as shorts")]
fn whole_file() -> libc::flock {
    libc::flock { l_type: F_WRLCK as c_short, l_whence: SEEK_SET as c_short, l_start: 0, l_len: 0, l_pid: 0 }
}

fn is_still_named(dir: &RealDirectory, fd: &OwnedFd) -> bool {
    match (fstatat(dir.as_fd(), LOCK, AtFlags::AT_SYMLINK_NOFOLLOW), fstat(fd)) {
        (Ok(named), Ok(open)) => regular(&named).is_ok() && (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino),
        _ => false,
    }
}

fn read_text(fd: &OwnedFd) -> Result<String, Errno> {
    let mut bytes = [0; TEXT_LEN];
    let len = pread(fd, &mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
}

fn write_at(fd: &OwnedFd, bytes: &[u8], offset: usize) -> Result<(), Errno> {
    let written = pwrite(fd, bytes, libc::off_t::try_from(offset).unwrap_or(0))?;
    if written == bytes.len() { Ok(()) } else { Err(Errno::ENOSPC) }
}

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    pid: u32,
    started: u64,
}

impl Holder {
    fn this_process() -> Self {
        let pid = std::process::id();
        Self { pid, started: Process::look(pid).map_or(0, |process| process.started) }
    }

    fn line(self) -> String {
        format!("pid {:>10} {:>20}\n", self.pid, self.started)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.get(..LOG_LINE)?.strip_prefix("pid ")?.split_ascii_whitespace();
        let holder = Self { pid: words.next()?.parse().ok()?, started: words.next()?.parse().ok()? };
        (holder.pid > 0).then_some(holder)
    }

    /// Whether it still runs. One that is dying or a zombie does not; neither does another that got its pid.
    fn is_alive(self) -> bool {
        let Ok(pid) = i32::try_from(self.pid) else { return false };
        if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
            return false;
        }
        match Process::look(self.pid) {
            Some(process) => !process.ending && (self.started == 0 || process.started == self.started),
            // No /proc: the pid is all there is to go by.
            None => true,
        }
    }
}

/// What /proc/PID/stat tells.
struct Process {
    /// A zombie, in its exit, or about to receive SIGKILL.
    ending: bool,
    /// In ticks since boot.
    started: u64,
}

impl Process {
    fn look(pid: u32) -> Option<Self> {
        const PF_EXITING: u64 = 4;
        const SIGKILL_PENDING: u64 = 1 << (libc::SIGKILL - 1);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses, and may itself contain blanks and parentheses.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        // proc(5) counts fields from 1, and `fields` begins with the third.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ending =
            matches!(*fields.first()?, "Z" | "X") || number(9)? & PF_EXITING != 0 || number(31)? & SIGKILL_PENDING != 0;
        Some(Self { ending, started: number(22)? })
    }
}

#[cfg(test)]
mod tests;
