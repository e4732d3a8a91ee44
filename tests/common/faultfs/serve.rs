//! The disk as the kernel sees it: a flat directory, nothing cached, writes to a file in parallel.

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::libc::{EEXIST, EINVAL, EIO, ENOENT, ESTALE, O_DSYNC};

use super::fault::Op;
use super::media::Media;
use super::{Controller, Shared};

/// Nothing is remembered by the kernel: a power cut changes files and names behind its back.
const TTL: Duration = Duration::ZERO;
const ROOT: u64 = INodeNo::ROOT.0;
const BLOCK_BYTES: u32 = 4096;
const OPEN: FopenFlags =
    FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES).union(FopenFlags::FOPEN_NOFLUSH);

fn attributes(media: &Media, file: u64) -> Result<FileAttr, i32> {
    let directory = file == ROOT;
    let size = if directory { 0 } else { media.len(file).ok_or(ESTALE)? as u64 };
    let time = SystemTime::UNIX_EPOCH;
    let named = directory || media.name_of(file).is_some();
    Ok(FileAttr {
        ino: INodeNo(file),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: if directory { FileType::Directory } else { FileType::RegularFile },
        perm: if directory { 0o700 } else { 0o600 },
        nlink: u32::from(named),
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    })
}

fn text(name: &OsStr) -> Result<&str, i32> {
    name.to_str().ok_or(EINVAL)
}

fn place(offset: u64) -> Result<usize, i32> {
    usize::try_from(offset).map_err(|_| EINVAL)
}

/// Answers with whichever of two replies the result asks for.
macro_rules! answer {
    ($result:expr, $reply:ident, $value:pat => $answer:expr) => {
        match $result {
            Ok($value) => $answer,
            Err(errno) => $reply.error(Errno::from_i32(errno)),
        }
    };
}

impl Filesystem for Shared {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(|_| io::Error::other("no asynchronous direct I/O"))
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.look(|media| attributes(media, media.find(text(name)?).ok_or(ENOENT)?));
        answer!(found, reply, found => reply.entry(&TTL, &found, Generation(0)));
    }

    fn getattr(&self, _: &Request, file: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(self.look(|media| attributes(media, file.0)), reply, found => reply.attr(&TTL, &found));
    }

    fn setattr(
        &self,
        _: &Request,
        file: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.look(|media| {
            if let Some(size) = size {
                media.resize(file.0, place(size)?);
            }
            attributes(media, file.0)
        });
        answer!(set, reply, found => reply.attr(&TTL, &found));
    }

    fn create(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let made = text(name).and_then(|name| {
            self.act(Op::Create, name, |media| {
                let file = if media.find(name).is_some() { return Err(EEXIST) } else { media.create(name) };
                attributes(media, file)
            })
        });
        answer!(made, reply, made => reply.created(&TTL, &made, Generation(0), FileHandle(0), OPEN));
    }

    fn open(&self, _: &Request, file: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(self.look(|media| attributes(media, file.0)), reply, _ => reply.opened(FileHandle(0), OPEN));
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = text(name)
            .and_then(|name| self.act(Op::Remove, name, |media| if media.remove(name) { Ok(()) } else { Err(ENOENT) }));
        answer!(removed, reply, () => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        from: &OsStr,
        _: INodeNo,
        to: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = text(from).and_then(|from| Ok((from, text(to)?))).and_then(|(from, to)| {
            self.act(Op::Rename, from, |media| {
                if flags.contains(RenameFlags::RENAME_NOREPLACE) && media.find(to).is_some() {
                    return Err(EEXIST);
                }
                if media.rename(from, to) { Ok(()) } else { Err(ENOENT) }
            })
        });
        answer!(renamed, reply, () => reply.ok());
    }

    fn read(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = place(offset).and_then(|offset| Controller::read(self, file.0, offset, size as usize));
        answer!(read, reply, bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The kernel says RWF_DSYNC in the flags of the one write.
        let dsync = flags.0 & O_DSYNC != 0;
        let written = place(offset).and_then(|offset| Controller::write(self, file.0, offset, data, dsync));
        answer!(written, reply, written => reply.written(u32::try_from(written).unwrap_or(0)));
    }

    fn fsync(&self, _: &Request, file: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(Controller::flush(self, file.0), reply, () => reply.ok());
    }

    fn fallocate(&self, _: &Request, file: INodeNo, _: FileHandle, offset: u64, len: u64, _: i32, reply: ReplyEmpty) {
        let allocated = place(offset + len).and_then(|end| {
            let name = self.look(|media| Ok(media.name_of(file.0).unwrap_or_default().to_owned()))?;
            self.act(Op::Allocate, &name, |media| {
                if media.len(file.0).ok_or(ESTALE)? < end {
                    media.resize(file.0, end);
                }
                Ok(())
            })
        });
        answer!(allocated, reply, () => reply.ok());
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = self.act(Op::SyncDirectory, "", |media| {
            media.sync_names();
            Ok(())
        });
        answer!(synced, reply, () => reply.ok());
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.look(|media| {
            let dots = [(".", ROOT, FileType::Directory), ("..", ROOT, FileType::Directory)].into_iter();
            let entries = dots.chain(media.names().map(|(name, file)| (name, file, FileType::RegularFile)));
            for (at, (name, file, kind)) in entries.enumerate().skip(place(offset)?) {
                if reply.add(INodeNo(file), at as u64 + 1, kind, name) {
                    break;
                }
            }
            Ok(())
        });
        answer!(listed, reply, () => reply.ok());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let many = 1 << 20;
        match self.look(|_| Ok(())) {
            Ok(()) => reply.statfs(many, many, many, many, many, BLOCK_BYTES, 255, BLOCK_BYTES),
            Err(_) => reply.error(Errno::from_i32(EIO)),
        }
    }
}
