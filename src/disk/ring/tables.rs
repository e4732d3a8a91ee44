//! The ring's own tables of files and buffers, each with a fallback to the ordinary thing.
//!
//! A file in the table costs no lookup per request, and stays open until the ring's last request has ended, even if the
//! process was killed: that is what keeps a killed writer's lock held. A registered buffer is pinned once, not per write.
//! Where the kernel refuses a table (an old one, a limit on locked memory), plain descriptors and plain writes do.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use io_uring::squeue::Flags;
use io_uring::types::Fd;
use io_uring::{IoUring, Submitter};
use nix::libc::iovec;
use slab::Slab;

use crate::disk::{Buffer, FileSlot, SegmentFile, probe};

/// How many files the ring's table takes; more are used by plain descriptors.
const FILES_MAX: u32 = 256;
/// How many buffers the ring's table takes, and how many of one pool.
const BUFFERS_MAX: u16 = 64;
const BUFFERS_PER_POOL_MAX: usize = 8;

/// The files that writes can go to, and the locks that are kept.
pub(super) struct FileTable {
    attached: Slab<Attached>,
    /// Whether the ring has a table at all.
    registered: bool,
}

enum Attached {
    File {
        file: Arc<dyn SegmentFile>,
        fixed: bool,
        plain_writes: bool,
        /// Whether it takes no RWF_DSYNC, as far as is known.
        dsync_refused: bool,
    },
    /// The descriptor only where the ring's table did not take it.
    Lock { fd: Option<OwnedFd> },
}

/// How a request names its file.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) fd: Fd,
    pub(super) flags: Flags,
    /// Registered buffers must not be used on it.
    pub(super) plain_writes: bool,
}

impl FileTable {
    pub(super) fn new(ring: &IoUring) -> Self {
        let registered = ring.submitter().register_files_sparse(FILES_MAX).is_ok();
        Self { attached: Slab::with_capacity(8), registered }
    }

    /// As on a kernel that refuses the table.
    #[cfg(test)]
    pub(super) fn unregistered() -> Self {
        Self { attached: Slab::new(), registered: false }
    }

    /// Takes a file with a descriptor; `None` if it has none.
    pub(super) fn attach(&mut self, ring: &IoUring, file: &Arc<dyn SegmentFile>) -> Option<FileSlot> {
        let fd = file.fd()?;
        let fixed = self.register(ring, fd);
        let plain_writes = probe::hangs_on_fixed_buffers(fd);
        let attached = Attached::File { file: Arc::clone(file), fixed, plain_writes, dsync_refused: false };
        Some(slot(self.attached.insert(attached)))
    }

    pub(super) fn hold(&mut self, ring: &IoUring, lock: BorrowedFd<'_>) -> io::Result<FileSlot> {
        let fd = if self.register(ring, lock) { None } else { Some(lock.try_clone_to_owned()?) };
        Ok(slot(self.attached.insert(Attached::Lock { fd })))
    }

    pub(super) fn detach(&mut self, ring: &IoUring, slot: FileSlot) {
        let Some(Attached::File { fixed: true, .. } | Attached::Lock { fd: None }) = self.remove(slot) else { return };
        // The next file at this place replaces it if this should fail.
        let _kept_open = ring.submitter().register_files_update(slot.0, &[-1]);
    }

    fn remove(&mut self, slot: FileSlot) -> Option<Attached> {
        self.attached.try_remove(usize::try_from(slot.0).ok()?)
    }

    /// Puts a descriptor into the ring's table, at the place that is about to be filled.
    fn register(&self, ring: &IoUring, fd: BorrowedFd<'_>) -> bool {
        let place = slot(self.attached.vacant_key()).0;
        self.registered && place < FILES_MAX && ring.submitter().register_files_update(place, &[fd.as_raw_fd()]).is_ok()
    }

    /// How to name the file at `slot`; `None` if there is none.
    pub(super) fn target(&self, slot: FileSlot) -> Option<Target> {
        let Attached::File { file, fixed, plain_writes, .. } = self.attached.get(usize::try_from(slot.0).ok()?)? else {
            return None;
        };
        let plain_writes = *plain_writes;
        Some(if *fixed {
            Target { fd: Fd(RawFd::try_from(slot.0).ok()?), flags: Flags::FIXED_FILE, plain_writes }
        } else {
            Target { fd: Fd(file.fd()?.as_raw_fd()), flags: Flags::empty(), plain_writes }
        })
    }

    /// The file at `slot`; `None` if there is none.
    pub(super) fn file(&self, slot: FileSlot) -> Option<&Arc<dyn SegmentFile>> {
        match self.attached.get(usize::try_from(slot.0).ok()?)? {
            Attached::File { file, .. } => Some(file),
            Attached::Lock { .. } => None,
        }
    }

    /// Whether the file at `slot` is known to refuse RWF_DSYNC.
    pub(super) fn dsync_refused(&self, slot: FileSlot) -> bool {
        let attached = usize::try_from(slot.0).ok().and_then(|slot| self.attached.get(slot));
        matches!(attached, Some(Attached::File { dsync_refused: true, .. }))
    }

    /// The file at `slot` refused RWF_DSYNC.
    pub(super) fn remember_dsync_refused(&mut self, slot: FileSlot) {
        let attached = usize::try_from(slot.0).ok().and_then(|slot| self.attached.get_mut(slot));
        if let Some(Attached::File { dsync_refused, .. }) = attached {
            *dsync_refused = true;
        }
    }

    /// The path of the file at `slot`, for messages.
    pub(super) fn path(&self, slot: FileSlot) -> Arc<Path> {
        self.file(slot).map_or_else(|| Path::new("?").into(), |file| Arc::clone(file.path()))
    }

    /// Whether every lock is in the ring's own table, and so outlives a killed process's writes.
    #[cfg(test)]
    pub(super) fn locks_outlive_us(&self) -> bool {
        self.attached.iter().all(|(_, attached)| !matches!(attached, Attached::Lock { fd: Some(_) }))
    }
}

fn slot(key: usize) -> FileSlot {
    FileSlot(u32::try_from(key).unwrap_or(u32::MAX))
}

/// The buffers pinned in the ring: where each begins. A place is never used twice.
pub(super) struct BufferTable {
    begins: Vec<usize>,
    registered: bool,
}

impl BufferTable {
    pub(super) fn new(ring: &IoUring) -> Self {
        let registered = ring.submitter().register_buffers_sparse(u32::from(BUFFERS_MAX)).is_ok();
        Self { begins: Vec::new(), registered }
    }

    /// As on a kernel that refuses the table.
    #[cfg(test)]
    pub(super) fn unregistered() -> Self {
        Self { begins: Vec::new(), registered: false }
    }

    /// Makes up to `count_max` buffers of `bytes` each and registers them; fewer, or none, where that is refused.
    pub(super) fn make(&mut self, ring: &IoUring, bytes: usize, count_max: usize) -> Vec<Buffer> {
        let room = usize::from(BUFFERS_MAX) - self.begins.len();
        let count = if self.registered { count_max.min(BUFFERS_PER_POOL_MAX).min(room) } else { 0 };
        let mut buffers = Vec::with_capacity(count);
        while buffers.len() < count {
            let mut buffer = Buffer::new(bytes);
            // One at a time: a limit on locked memory may allow some, and only single calls tell which.
            if self.register(&ring.submitter(), &mut buffer).is_err() {
                break;
            }
            buffers.push(buffer);
        }
        buffers
    }

    #[expect(unsafe_code, reason = "the kernel pins memory by address")]
    fn register(&mut self, submitter: &Submitter<'_>, buffer: &mut Buffer) -> io::Result<()> {
        let iovec = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let place = u16::try_from(self.begins.len()).unwrap_or(BUFFERS_MAX);
        // SAFETY: the vector spans a live Buffer. The kernel pins its pages, so nothing dangles should the Buffer be
        // freed first; and it reads them only for a write that names their place, which is only ever made for a live
        // Buffer that carries the place and begins where the table says (`place_of`).
        unsafe { submitter.register_buffers_update(u32::from(place), &[iovec], None) }?;
        buffer.set_fixed(place);
        self.begins.push(buffer.as_ptr() as usize);
        Ok(())
    }

    /// The buffer's place in this ring's table, if it is in it.
    pub(super) fn place_of(&self, buffer: &Buffer) -> Option<u16> {
        let place = buffer.fixed()?;
        (self.begins.get(usize::from(place)) == Some(&(buffer.as_ptr() as usize))).then_some(place)
    }
}
