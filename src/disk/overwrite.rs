//! Durable overwrites of one block with nothing around them: what `bench` calls the floor.
//!
//! The same bytes end on the disk whatever the sequence of calls; which is fastest depends on the place (file system,
//! device), so the floor has to try.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};
use nix::errno::Errno;
use nix::libc;

use super::{Buffer, SegmentFile};

/// How one block becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sequence {
    /// pwrite, then fdatasync.
    Pwrite,
    /// pwritev2 with RWF_DSYNC.
    PwriteDsync,
    /// A ring's write with RWF_DSYNC.
    RingDsync,
    /// A ring's write, and an fdatasync linked behind it.
    RingLinked,
}

impl Sequence {
    /// All of them; the first works everywhere.
    pub(crate) const ALL: [Self; 4] = [Self::Pwrite, Self::PwriteDsync, Self::RingDsync, Self::RingLinked];

    /// As tables print it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Pwrite => "pwrite+fdatasync",
            Self::PwriteDsync => "pwritev2(RWF_DSYNC)",
            Self::RingDsync => "uring RWF_DSYNC",
            Self::RingLinked => "uring write->fdatasync",
        }
    }

    fn in_ring(self) -> bool {
        matches!(self, Self::RingDsync | Self::RingLinked)
    }
}

/// Overwrites blocks of one file, one at a time, on the thread that made it.
pub(crate) struct Overwriter {
    file: Arc<dyn SegmentFile>,
    sequence: Sequence,
    ring: Option<IoUring>,
    block: Buffer,
}

impl Overwriter {
    /// # Errors
    /// io_uring where it is refused.
    pub(crate) fn new(file: &Arc<dyn SegmentFile>, block_bytes: usize, sequence: Sequence) -> io::Result<Self> {
        let mut block = Buffer::new(block_bytes);
        block.fill(0x5a);
        let ring = if sequence.in_ring() { Some(ring()?) } else { None };
        Ok(Self { file: Arc::clone(file), sequence, ring, block })
    }

    /// Overwrites the block at `offset`; returns when it is durable.
    pub(crate) fn write(&mut self, offset: u64) -> io::Result<()> {
        let file = Arc::clone(&self.file);
        let fd = file.fd().ok_or(Errno::EBADF)?;
        match self.sequence {
            Sequence::Pwrite => {
                self.file.write_at(&self.block, offset).map_err(io::Error::other)?;
                self.file.sync().map_err(io::Error::other)
            }
            Sequence::PwriteDsync => self.pwrite_dsync(fd, offset),
            Sequence::RingDsync => self.ring_write(fd, offset, false),
            Sequence::RingLinked => self.ring_write(fd, offset, true),
        }
    }

    #[expect(unsafe_code, reason = "no safe wrapper takes the flags of pwritev2")]
    fn pwrite_dsync(&self, fd: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        let vector = libc::iovec { iov_base: self.block.as_ptr().cast_mut().cast(), iov_len: self.block.len() };
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: `vector` points to the block, which this borrows until the call returns; a write only reads it.
        let written = unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const vector, 1, offset, libc::RWF_DSYNC) };
        whole(i64::try_from(written).unwrap_or(-1), self.block.len(), io::Error::last_os_error)
    }

    #[expect(unsafe_code, reason = "the kernel reads the memory that an entry names")]
    fn ring_write(&mut self, fd: BorrowedFd<'_>, offset: u64, linked: bool) -> io::Result<()> {
        let ring = self.ring.as_mut().ok_or(Errno::EBADF)?;
        let fd = types::Fd(fd.as_raw_fd());
        let len = u32::try_from(self.block.len()).map_err(|_| Errno::EINVAL)?;
        let write = opcode::Write::new(fd, self.block.as_ptr(), len).offset(offset);
        let (write, wanted) = match linked {
            false => (write.rw_flags(libc::RWF_DSYNC).build(), 1),
            true => (write.build().flags(squeue::Flags::IO_LINK), 2),
        };
        let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build().user_data(1);
        let entries = [write, sync];
        // SAFETY: the ring has room for both (nothing is in flight between calls), the file is open and the block stays
        // where it is until both completions were seen: the loop below does not return before.
        unsafe { ring.submission().push_multiple(&entries[..wanted]) }.map_err(io::Error::other)?;
        let mut results = [0; 2];
        let mut seen = 0;
        while seen < wanted {
            match ring.submit_and_wait(wanted - seen) {
                Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Err(error) => panic!("io_uring_enter failed with a write on its way: {error}"),
                Ok(_) => {}
            }
            for entry in ring.completion() {
                results[usize::from(entry.user_data() == 1)] = entry.result();
                seen += 1;
            }
        }
        let failed = |code: i32| io::Error::from_raw_os_error(-code);
        whole(i64::from(results[0]), self.block.len(), || failed(results[0]))?;
        if results[1] < 0 { Err(failed(results[1])) } else { Ok(()) }
    }
}

/// Whether all of it was written; the floor takes no half measures.
fn whole(written: i64, len: usize, error: impl FnOnce() -> io::Error) -> io::Result<()> {
    match usize::try_from(written) {
        Err(_) => Err(error()),
        Ok(written) if written < len => Err(io::ErrorKind::WriteZero.into()),
        Ok(_) => Ok(()),
    }
}

/// The best ring that this kernel makes.
fn ring() -> io::Result<IoUring> {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(4).or_else(|_| IoUring::new(4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::scratch::Scratch;

    #[test]
    fn every_sequence_leaves_the_block_where_it_was_told() {
        let scratch = Scratch::new();
        let dir = crate::disk::file::RealDirectory::open(&scratch, true).unwrap();
        let file = crate::disk::Directory::create(&dir, "blocks").unwrap();
        for (index, sequence) in Sequence::ALL.into_iter().enumerate() {
            let mut overwriter = match Overwriter::new(&file, 4096, sequence) {
                Ok(overwriter) => overwriter,
                Err(_) if sequence.in_ring() => continue,
                Err(error) => panic!("{sequence:?}: {error}"),
            };
            let offset = 4096 * index as u64;
            for _ in 0..3 {
                overwriter.write(offset).unwrap();
            }
            let mut block = Buffer::new(4096);
            assert_eq!(file.read_at(&mut block, offset).unwrap(), 4096, "{sequence:?}");
            assert!(block.iter().all(|byte| *byte == 0x5a), "{sequence:?}");
        }
    }
}
