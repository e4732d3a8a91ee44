//! The faults that the disk can be told to have, and when each strikes.

use nix::libc::{ECANCELED, EINTR, EIO, ENOSPC, EOPNOTSUPP};

/// What a log asks of a disk, as far as it can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Op {
    Write,
    /// fsync, fdatasync, and what a write with RWF_DSYNC does behind the write.
    Flush,
    Read,
    Allocate,
    SyncDirectory,
    Create,
    Rename,
    Remove,
}

impl Op {
    pub(crate) const ALL: [Self; 8] = [
        Self::Write,
        Self::Flush,
        Self::Read,
        Self::Allocate,
        Self::SyncDirectory,
        Self::Create,
        Self::Rename,
        Self::Remove,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Read => "read",
            Self::Allocate => "fallocate",
            Self::SyncDirectory => "directory sync",
            Self::Create => "create",
            Self::Rename => "rename",
            Self::Remove => "unlink",
        }
    }
}

/// What happens instead of what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It fails. After EIO a write may have reached the disk in part, and a flush has dropped what it covered; after any
    /// other errno it did not take place.
    Fails(i32),
    /// A write or read of half as many bytes, in whole sectors. Not for writes through io_uring: see [`What::Limited`].
    Half,
    /// A write or read that ends within a sector. Not for writes through io_uring either.
    Unaligned,
    /// A write behind the one before it ends after so many bytes, because the process may make no longer files.
    ///
    /// The only way to a short write through io_uring: answered short, FUSE's asynchronous writes fail with EIO. Its
    /// others the kernel finishes, and (in 6.18) puts the rest where the write began.
    Limited(usize),
    /// It takes so many milliseconds longer.
    Late(u64),
    /// One bit that is read is wrong. With [`Span::Sticky`] it is the same bit at every later read.
    Flip,
    /// The power goes, before or behind it, and everything fails from there on.
    PowerCut,
}

impl What {
    pub(crate) const EIO: Self = Self::Fails(EIO);
    pub(crate) const NO_SPACE: Self = Self::Fails(ENOSPC);
    pub(crate) const UNSUPPORTED: Self = Self::Fails(EOPNOTSUPP);

    /// Not begun, to be asked again.
    pub(crate) const INTERRUPTED: Self = Self::Fails(EINTR);
    /// Never run.
    pub(crate) const CANCELED: Self = Self::Fails(ECANCELED);

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NO_SPACE => "ENOSPC",
            Self::UNSUPPORTED => "EOPNOTSUPP",
            Self::INTERRUPTED => "EINTR",
            Self::CANCELED => "ECANCELED",
            Self::Fails(_) => "EIO",
            Self::Half => "half",
            Self::Unaligned => "unaligned",
            Self::Limited(_) => "limited",
            Self::Late(_) => "late",
            Self::Flip => "flipped bit",
            Self::PowerCut => "power cut",
        }
    }
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    Once,
    /// So often in a row.
    Times(u32),
    /// From then on, until the disk is mended.
    Sticky,
}

impl Span {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Times(_) => "in a row",
            Self::Sticky => "sticky",
        }
    }

    pub(crate) fn covers(self, since: u64) -> bool {
        match self {
            Self::Once => since == 0,
            Self::Times(times) => since < u64::from(times),
            Self::Sticky => true,
        }
    }
}

/// A fault: at the `n`-th operation of a kind, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) op: Op,
    pub(crate) n: u64,
    pub(crate) what: What,
    pub(crate) span: Span,
    /// Only files whose names end so, and only their operations are counted.
    pub(crate) suffix: &'static str,
}

impl Fault {
    /// Whether it counts operations of this kind on this file.
    pub(crate) fn is_for(&self, op: Op, name: &str) -> bool {
        self.op == op && name.ends_with(self.suffix)
    }

    /// Whether it strikes at the one with this number.
    pub(crate) fn strikes(&self, count: u64) -> bool {
        count >= self.n && self.span.covers(count - self.n)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.op.word(), self.what.word(), self.span.word())
    }
}
