//! The faults that the disk can be told to have, and when each strikes.

use nix::libc::{EIO, ENOSPC, EOPNOTSUPP};

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
    /// It fails. A write may have reached the disk in part; a flush drops what it covered.
    Fails(i32),
    /// A write or read of half as many bytes, in whole sectors.
    Half,
    /// A write or read that ends within a sector.
    Unaligned,
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

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NO_SPACE => "ENOSPC",
            Self::UNSUPPORTED => "EOPNOTSUPP",
            Self::Fails(_) => "EIO",
            Self::Half => "half",
            Self::Unaligned => "unaligned",
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
    Times(u64),
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

    fn covers(self, since: u64) -> bool {
        match self {
            Self::Once => since == 0,
            Self::Times(times) => since < times,
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
    pub(crate) fn strikes(&self, op: Op, name: &str, count: u64) -> bool {
        self.op == op && name.ends_with(self.suffix) && count >= self.n && self.span.covers(count - self.n)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.op.word(), self.what.word(), self.span.word())
    }
}
