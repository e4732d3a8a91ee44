//! The recorder in this process: a disk in memory, shown to the kernel as a file (FUSE) under a loop device, that keeps
//! every write and every flush in the order in which they came. Putting in another disk costs nothing, so that a second
//! crash can follow from any state that a first one left. The flush with a certain number can be made to fail.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use super::image::Image;
use super::logwrites::Entry;
use super::powercut::{FileSystem, Loop, Mount};
use super::rig::Scratch;
use super::witness::Position;

/// Which flushes fail, counted from 1 since it was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Faulty {
    #[default]
    None,
    Once(u64),
    From(u64),
}

impl Faulty {
    fn hits(self, flush: u64) -> bool {
        match self {
            Self::None => false,
            Self::Once(number) => flush == number,
            Self::From(number) => flush >= number,
        }
    }
}

/// The disk, and what was done to it since it was put in.
#[derive(Debug)]
struct Reel {
    disk: Image,
    entries: Vec<Entry>,
    flushes: u64,
    faulty: Faulty,
    /// The first flush that failed: at which entry, and when.
    failed: Option<(usize, Instant)>,
}

impl Reel {
    fn new(disk: Image) -> Self {
        Self { disk, entries: Vec::new(), flushes: 0, faulty: Faulty::None, failed: None }
    }
}

#[derive(Debug)]
struct Disk {
    bytes: u64,
    reel: Arc<Mutex<Reel>>,
    /// How many entries there are.
    position: Arc<AtomicU64>,
}

impl Disk {
    fn attributes(&self) -> FileAttr {
        FileAttr {
            ino: INodeNo::ROOT,
            size: self.bytes,
            blocks: self.bytes / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Before the kernel is told that it is done: whoever learns of it finds it counted.
    fn keep(&self, mut reel: MutexGuard<'_, Reel>, entry: Entry) {
        reel.disk.apply(&entry);
        reel.entries.push(entry);
        self.position.store(reel.entries.len() as u64, Ordering::SeqCst);
    }
}

impl Filesystem for Disk {
    fn getattr(&self, _req: &Request, _ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::MAX, &self.attributes());
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // No cache of the file's in the kernel: another disk may be put in.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = u64::from(size).min(self.bytes.saturating_sub(offset));
        let bytes = self.reel.lock().unwrap().disk.read(to_usize(offset), to_usize(len));
        reply.data(&bytes);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let entry = Entry { offset: to_usize(offset), flush: false, data: data.to_vec() };
        self.keep(self.reel.lock().unwrap(), entry);
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let mut reel = self.reel.lock().unwrap();
        reel.flushes += 1;
        if reel.faulty.hits(reel.flushes) {
            let at = reel.entries.len();
            reel.failed.get_or_insert((at, Instant::now()));
            return reply.error(Errno::EIO);
        }
        self.keep(reel, Entry { offset: 0, flush: true, data: Vec::new() });
        reply.ok();
    }

    /// The kernel zeroes a range, or does not need it any more: the same, here.
    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & (nix::libc::FALLOC_FL_PUNCH_HOLE | nix::libc::FALLOC_FL_ZERO_RANGE) == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let entry = Entry { offset: to_usize(offset), flush: false, data: vec![0; to_usize(length)] };
        self.keep(self.reel.lock().unwrap(), entry);
        reply.ok();
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

/// A recorder. Fields are dropped in this order: it matters.
#[derive(Debug)]
pub(crate) struct Tape {
    device: Loop,
    _session: BackgroundSession,
    reel: Arc<Mutex<Reel>>,
    position: Arc<AtomicU64>,
    fs: FileSystem,
    scratch: Scratch,
}

impl Tape {
    /// With a fresh file system on its disk.
    pub(crate) fn new(fs: FileSystem) -> Result<Self, String> {
        let scratch = Scratch::new(&format!("tape-{}", fs.name()));
        let disk = fs.blank()?;
        let (bytes, position) = (disk.bytes(), Arc::new(AtomicU64::new(0)));
        let reel = Arc::new(Mutex::new(Reel::new(disk)));
        let file = scratch.join("disk");
        std::fs::write(&file, []).map_err(|error| error.to_string())?;
        let session = fuser::spawn_mount(
            Disk { bytes, reel: reel.clone(), position: position.clone() },
            &file,
            &fuser::Config::default(),
        );
        let session = session.map_err(|error| format!("FUSE: {error}"))?;
        let device = Loop::attach(&file)?;
        Ok(Self { device, _session: session, reel, position, fs, scratch })
    }

    /// Puts in another disk, of the same file system, while nothing is mounted.
    pub(crate) fn put_in(&self, disk: Image) {
        *self.reel.lock().unwrap() = Reel::new(disk);
        self.position.store(0, Ordering::SeqCst);
        self.device.forget_cache();
    }

    pub(crate) fn mount(&self) -> Result<Mount, String> {
        self.fs.mount(&self.device, &self.path())
    }

    /// Where the file system is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.scratch.join("mnt")
    }

    pub(crate) fn position(&self) -> Position {
        Position::Shared(self.position.clone())
    }

    /// From now on these flushes fail.
    pub(crate) fn fail(&self, faulty: Faulty) {
        let mut reel = self.reel.lock().unwrap();
        (reel.flushes, reel.faulty) = (0, faulty);
    }

    /// The first flush that failed since the disk was put in: at which entry, and when.
    pub(crate) fn failed(&self) -> Option<(usize, Instant)> {
        self.reel.lock().unwrap().failed
    }

    pub(crate) fn file_system(&self) -> FileSystem {
        self.fs
    }

    /// Every entry since the disk was put in.
    pub(crate) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.reel.lock().unwrap().entries)
    }
}
