//! The control plane on a real directory: [`RealDirectory`] and [`RealFile`]. Blocking calls, never on the ring thread.
//!
//! ## What is refused
//!
//! Everything is opened relative to one directory descriptor, so that a renamed parent cannot lead elsewhere, and by
//! names of our own making. A file counts only if it is regular and has one name: symbolic links are not followed, and
//! opening a FIFO or a device does not block. New files are 0600 and new directories 0700 whatever the umask says.
//!
//! ## O_DIRECT
//!
//! It is set on the open descriptor, not in `open`: a file system that refuses it there would already have created the
//! file. Where it is refused, the file is used buffered, and [`RealDirectory::is_buffered`] says so.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{
    AtFlags, FallocateFlags, FcntlArg, OFlag, PosixFadviseAdvice, RenameFlags, fallocate, fcntl, openat, posix_fadvise,
    renameat, renameat2,
};
use nix::libc::{S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, off_t};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{UnlinkatFlags, fdatasync, fsync, mkdir, unlinkat};

use super::probe;
use super::{Access, DirEntry, Directory, EntryKind, SegmentFile, lock};
use crate::error::{IoFailure, Op, OpenError};
use crate::lsn::LogId;

/// How a file of a log is opened, besides the access mode. O_NONBLOCK only lasts until the file is known to be regular:
/// on a ring it would turn waiting into EAGAIN.
const OPEN: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_CLOEXEC).union(OFlag::O_NOCTTY).union(OFlag::O_NONBLOCK);

/// 0600 and 0700.
const FILE_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
const DIRECTORY_MODE: Mode = Mode::S_IRWXU;

/// The sector size that a short O_DIRECT transfer keeps to, except at the end of the file.
const SECTOR: usize = 512;

/// Where O_DIRECT is refused, a read of at least this many bytes leaves nothing in the page cache. Shorter ones look for
/// places, and are often repeated.
const FORGOTTEN_BYTES: usize = 64 << 10;

/// A log's directory.
pub(crate) struct RealDirectory {
    path: Arc<Path>,
    fd: Arc<OwnedFd>,
    buffered: AtomicBool,
}

impl fmt::Debug for RealDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RealDirectory").field(&self.path).finish()
    }
}

impl RealDirectory {
    /// Opens the directory at `path`. With `create` it is made (0700) if its parent exists, and its entry in the parent
    /// is made durable in either case: whoever made it may have died before doing so.
    pub(crate) fn open(path: &Path, create: bool) -> Result<Self, OpenError> {
        let missing = || OpenError::Missing { path: path.to_owned() };
        let failed = |op, errno: Errno| OpenError::from(IoFailure::from_errno(op, path, 0, errno as i32));
        let mut created = false;
        if create {
            match mkdir(path, DIRECTORY_MODE) {
                Ok(()) => created = true,
                Err(Errno::EEXIST | Errno::EROFS | Errno::EACCES | Errno::EPERM | Errno::ENOTDIR | Errno::EISDIR) => {}
                Err(Errno::ENOENT) => return Err(missing()),
                Err(errno) => return Err(failed(Op::Create, errno)),
            }
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fd = match nix::fcntl::open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Err(missing()),
            Err(Errno::ENOTDIR) => return Err(OpenError::NotALog { path: path.to_owned(), what: "not a directory" }),
            Err(errno) => return Err(failed(Op::Open, errno)),
        };
        if created {
            fchmod(&fd, DIRECTORY_MODE).map_err(|errno| failed(Op::Create, errno))?;
        }
        if create {
            match sync_parent(path) {
                // Somebody else's parent that we may not even read: then somebody else made the directory.
                Err(Errno::EACCES | Errno::EPERM) if !created => {}
                result => result.map_err(|errno| failed(Op::SyncDirectory, errno))?,
            }
        }
        Ok(Self { path: path.into(), fd: Arc::new(fd), buffered: AtomicBool::new(false) })
    }

    /// Whether a file was opened without O_DIRECT because the file system refuses it.
    pub(crate) fn is_buffered(&self) -> bool {
        self.buffered.load(Ordering::Relaxed)
    }

    /// The file system's name, if it forgets everything at power-off.
    pub(crate) fn volatile(&self) -> Result<Option<&'static str>, IoFailure> {
        probe::volatile(self.fd.as_fd()).map_err(|errno| self.failed(Op::Stat, ".", errno))
    }

    /// The directory's descriptor.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The path of `name` in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        if name == "." { self.path.to_path_buf() } else { self.path.join(name) }
    }

    pub(super) fn failed(&self, op: Op, name: &str, errno: Errno) -> IoFailure {
        IoFailure::from_errno(op, self.join(name), 0, errno as i32)
    }

    /// Opens `name` if it is a regular file with one name, without O_DIRECT.
    pub(super) fn open_regular(&self, name: &str, access: OFlag) -> Result<OwnedFd, Errno> {
        let fd = openat(&*self.fd, name, OPEN | access, Mode::empty())?;
        regular(&fstat(&fd)?)?;
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty()))?;
        Ok(fd)
    }

    /// Creates `name` with mode 0600.
    pub(super) fn create_regular(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OPEN | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let fd = openat(&*self.fd, name, flags, FILE_MODE)?;
        fchmod(&fd, FILE_MODE)?;
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty()))?;
        Ok(fd)
    }

    /// Sets O_DIRECT where that is possible and wraps the descriptor up.
    fn segment_file(&self, name: &str, fd: OwnedFd) -> Result<Arc<dyn SegmentFile>, IoFailure> {
        let direct = match fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_DIRECT)) {
            Ok(_) => true,
            Err(Errno::EINVAL) => {
                self.buffered.store(true, Ordering::Relaxed);
                false
            }
            Err(errno) => return Err(self.failed(Op::Open, name, errno)),
        };
        let path = self.join(name).into();
        Ok(Arc::new(RealFile { path, directory: Arc::clone(&self.fd), name: name.to_owned(), fd, direct }))
    }
}

/// Makes the entry of `path` in its parent durable.
fn sync_parent(path: &Path) -> Result<(), Errno> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => return Ok(()),
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    fsync(nix::fcntl::open(parent, flags, Mode::empty())?)
}

/// What is odd about a file, as an errno that says it best; `Ok` for a regular file with one name.
pub(super) fn regular(stat: &FileStat) -> Result<(), Errno> {
    match (stat.st_mode & S_IFMT, stat.st_nlink) {
        (S_IFREG, 0) => Err(Errno::ENOENT),
        (S_IFREG, 1) => Ok(()),
        (S_IFREG, _) => Err(Errno::EMLINK),
        (S_IFDIR, _) => Err(Errno::EISDIR),
        (S_IFLNK, _) => Err(Errno::ELOOP),
        _ => Err(Errno::ESPIPE),
    }
}

fn kind(stat: &FileStat) -> EntryKind {
    match (stat.st_mode & S_IFMT, stat.st_nlink) {
        (S_IFREG, 0 | 1) => EntryKind::File { len: u64::try_from(stat.st_size).unwrap_or(0) },
        (S_IFREG, _) => EntryKind::Odd("has a second hard link"),
        (S_IFDIR, _) => EntryKind::Odd("a directory"),
        (S_IFLNK, _) => EntryKind::Odd("a symbolic link"),
        (S_IFIFO, _) => EntryKind::Odd("a FIFO"),
        (S_IFSOCK, _) => EntryKind::Odd("a socket"),
        _ => EntryKind::Odd("a device"),
    }
}

impl Directory for RealDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> Result<Vec<DirEntry>, IoFailure> {
        let failed = |errno| self.failed(Op::List, ".", errno);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&*self.fd, ".", flags, Mode::empty()).map_err(failed)?;
        let mut entries = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match fstatat(&*self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    entries.push(DirEntry { name: name.to_string_lossy().into_owned(), kind: kind(&stat) });
                }
                // Renamed or removed since: not in the directory any more.
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(self.failed(Op::Stat, &name.to_string_lossy(), errno)),
            }
        }
        Ok(entries)
    }

    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn SegmentFile>, IoFailure> {
        let access = match access {
            Access::Read => OFlag::O_RDONLY,
            Access::ReadWrite => OFlag::O_RDWR,
        };
        let fd = self.open_regular(name, access).map_err(|errno| self.failed(Op::Open, name, errno))?;
        self.segment_file(name, fd)
    }

    fn create(&self, name: &str) -> Result<Arc<dyn SegmentFile>, IoFailure> {
        let fd = self.create_regular(name).map_err(|errno| self.failed(Op::Create, name, errno))?;
        self.segment_file(name, fd)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), IoFailure> {
        let dir = &*self.fd;
        let result = match renameat2(dir, from, dir, to, RenameFlags::RENAME_NOREPLACE) {
            // Some file systems do not know the flag. The writer's lock keeps others out between the two calls.
            Err(Errno::EINVAL | Errno::ENOSYS) => match fstatat(dir, to, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => renameat(dir, from, dir, to),
                Ok(_) => Err(Errno::EEXIST),
                Err(errno) => Err(errno),
            },
            result => result,
        };
        // The name that stands in the way is the one to tell.
        result.map_err(|errno| self.failed(Op::Rename, if errno == Errno::EEXIST { to } else { from }, errno))
    }

    fn remove(&self, name: &str) -> Result<(), IoFailure> {
        unlinkat(&*self.fd, name, UnlinkatFlags::NoRemoveDir).map_err(|errno| self.failed(Op::Remove, name, errno))
    }

    fn sync(&self) -> Result<(), IoFailure> {
        fsync(&*self.fd).map_err(|errno| self.failed(Op::SyncDirectory, ".", errno))
    }

    fn block_bytes(&self) -> Result<u32, IoFailure> {
        probe::block_bytes(self.fd.as_fd(), lock::LOCK).map_err(|errno| self.failed(Op::Stat, ".", errno))
    }

    fn recorded_log_id(&self) -> Result<Option<LogId>, IoFailure> {
        lock::recorded_log_id(self)
    }

    fn record_log_id(&self, log_id: LogId) -> Result<(), IoFailure> {
        lock::record_log_id(self, log_id)
    }
}

/// An open file of a log.
pub(crate) struct RealFile {
    path: Arc<Path>,
    directory: Arc<OwnedFd>,
    name: String,
    fd: OwnedFd,
    direct: bool,
}

impl fmt::Debug for RealFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealFile").field("path", &self.path).field("direct", &self.direct).finish()
    }
}

impl RealFile {
    fn failed(&self, op: Op, offset: u64, errno: Errno) -> IoFailure {
        IoFailure::from_errno(op, Arc::clone(&self.path), offset, errno as i32)
    }
}

/// `offset + done` as the system takes it.
fn position(offset: u64, done: usize) -> Result<off_t, Errno> {
    off_t::try_from(offset.saturating_add(done as u64)).map_err(|_| Errno::EFBIG)
}

impl SegmentFile for RealFile {
    fn path(&self) -> &Arc<Path> {
        &self.path
    }

    fn len(&self) -> Result<u64, IoFailure> {
        let stat = fstat(&self.fd).map_err(|errno| self.failed(Op::Stat, 0, errno))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, IoFailure> {
        let failed = |errno| self.failed(Op::Read, offset, errno);
        let mut done = 0;
        while done < buf.len() {
            let at = position(offset, done).map_err(failed)?;
            match pread(&self.fd, &mut buf[done..], at) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(failed(errno)),
            }
            // A file that ends within a sector leaves no aligned position to go on from, and nothing to read there.
            if self.direct && done % SECTOR != 0 {
                if offset + done as u64 >= self.len()? {
                    break;
                }
                done -= done % SECTOR;
            }
        }
        if !self.direct && done >= FORGOTTEN_BYTES {
            // A log that is read must not push out what others keep in memory. What is not written back yet stays.
            let len = position(0, done).map_err(failed)?;
            let _ = posix_fadvise(
                &self.fd,
                position(offset, 0).map_err(failed)?,
                len,
                PosixFadviseAdvice::POSIX_FADV_DONTNEED,
            );
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), IoFailure> {
        let failed = |errno| self.failed(Op::Write, offset, errno);
        let mut done = 0;
        while done < buf.len() {
            let at = position(offset, done).map_err(failed)?;
            match pwrite(&self.fd, &buf[done..], at) {
                Ok(count) if count < SECTOR.min(buf.len() - done) => return Err(failed(Errno::ENOSPC)),
                Ok(count) if done + count == buf.len() => return Ok(()),
                Ok(count) => done += count - count % SECTOR,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> Result<bool, IoFailure> {
        let len = position(len, 0).map_err(|errno| self.failed(Op::Allocate, 0, errno))?;
        loop {
            match fallocate(&self.fd, FallocateFlags::empty(), 0, len) {
                Err(Errno::EINTR) => {}
                Ok(()) => return Ok(true),
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(false),
                Err(errno) => return Err(self.failed(Op::Allocate, 0, errno)),
            }
        }
    }

    fn sync(&self) -> Result<(), IoFailure> {
        // Once only, EINTR included: a second one could report success for what the first one lost.
        fdatasync(&self.fd).map_err(|errno| self.failed(Op::Sync, 0, errno))
    }

    fn is_still_named(&self) -> bool {
        let named = fstatat(&*self.directory, self.name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        matches!((named, fstat(&self.fd)), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

#[cfg(test)]
mod tests;
