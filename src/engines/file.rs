//! The two kinds of file that baselines write to.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Failure, Load};
use crate::disk::file::RealDirectory;
use crate::disk::{Buffer, Directory, SegmentFile};
use crate::format::SegmentHeader;
use crate::lsn::{LogId, SegmentId};
use crate::runtime::prepare::{AtOnce, prepare};

/// As long as ringwal's default segment.
pub(super) const DIRECT_BYTES: u64 = 64 << 20;

/// Which kind of file a baseline writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Growing, through the page cache: as people write it.
    Grow,
    /// Prepared as ringwal prepares segments: zero-filled, O_DIRECT; written in blocks, round and round.
    Direct,
}

/// Makes what one log needs, once for each log of the load: in `dir` itself, or in sub-directories if there are several.
pub(super) fn each_log<T>(
    dir: &Path,
    load: &Load,
    make: impl Fn(&Path) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    if load.logs <= 1 {
        return Ok(vec![make(dir)?]);
    }
    let each = (0..load.logs).map(|index| {
        let dir = dir.join(format!("log-{index}"));
        fs::create_dir(&dir)?;
        make(&dir)
    });
    each.collect()
}

/// A baseline's file.
#[derive(Debug)]
pub(super) enum LogFile {
    Grow(File),
    Direct(Direct),
}

impl LogFile {
    pub(super) fn create(dir: &Path, kind: Kind) -> Result<Self, Failure> {
        Ok(match kind {
            Kind::Grow => {
                let file = File::options().append(true).create_new(true).open(dir.join("log"))?;
                File::open(dir)?.sync_all()?;
                Self::Grow(file)
            }
            Kind::Direct => Self::Direct(Direct::create(dir)?),
        })
    }

    /// How much room `bytes` need in a buffer for [`LogFile::append`].
    pub(super) fn padded(&self, bytes: usize) -> usize {
        match self {
            Self::Grow(_) => bytes,
            Self::Direct(direct) => bytes.next_multiple_of(direct.block_bytes),
        }
    }

    /// Appends the first `bytes` of `buffer`, not yet durable. Blocks are padded with zeros in the buffer.
    pub(super) fn append(&self, buffer: &mut Buffer, bytes: usize) -> Result<(), Failure> {
        match self {
            Self::Grow(file) => {
                let mut file = file;
                file.write_all(&buffer[..bytes])?;
            }
            Self::Direct(direct) => {
                let padded = self.padded(bytes);
                buffer[bytes..padded].fill(0);
                direct.file.write_at(&buffer[..padded], direct.claim(padded))?;
            }
        }
        Ok(())
    }

    /// Makes what was appended durable.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        match self {
            Self::Grow(file) => file.sync_data()?,
            Self::Direct(direct) => direct.file.sync()?,
        }
        Ok(())
    }
}

/// A prepared file and where the next write goes.
#[derive(Debug)]
pub(super) struct Direct {
    pub(super) file: Arc<dyn SegmentFile>,
    pub(super) block_bytes: usize,
    next: AtomicU64,
}

impl Direct {
    pub(super) fn create(dir: &Path) -> Result<Self, Failure> {
        let dir = RealDirectory::open(dir, false)?;
        let block_bytes = dir.block_bytes()?;
        let header = SegmentHeader {
            log_id: LogId::new([0; 16]),
            id: SegmentId::new(1),
            block_bytes,
            blocks: u32::try_from(DIRECT_BYTES / u64::from(block_bytes))?,
            created_ns: 0,
        };
        let prepared = prepare(&dir, &header, None, &mut AtOnce)?;
        let file = prepared.unwrap_or_else(|| unreachable!("at full speed nothing is given up"));
        Ok(Self { file, block_bytes: block_bytes as usize, next: AtomicU64::new(0) })
    }

    /// A place for `len` bytes, whole blocks: behind the last one, or at the beginning again.
    pub(super) fn claim(&self, len: usize) -> u64 {
        let len = len as u64;
        let mut from = 0;
        let place = |next: u64| {
            from = if next + len > DIRECT_BYTES { 0 } else { next };
            Some(from + len)
        };
        let _claimed = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place);
        from
    }
}

/// Aligned buffers for appenders that write on their own.
#[derive(Debug)]
pub(super) struct Buffers {
    free: Mutex<Vec<Buffer>>,
    bytes: usize,
}

impl Buffers {
    pub(super) fn new(bytes: usize) -> Self {
        Self { free: Mutex::new(Vec::new()), bytes }
    }

    /// Lends a buffer.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Buffer) -> T) -> T {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = free.unwrap_or_else(|| Buffer::new(self.bytes));
        let done = act(&mut buffer);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        done
    }
}
