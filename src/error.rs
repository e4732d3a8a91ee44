//! What can go wrong: one small enum per operation, each `Clone`, each naming the path, the cause and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::lsn::{LogId, Lsn, SegmentId};

/// What was asked of the system when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// Reserving space for a segment.
    Allocate,
    /// Creating a file or the directory.
    Create,
    /// Listing the directory.
    List,
    /// Taking or asking after the writer's lock.
    Lock,
    /// Opening a file or the directory.
    Open,
    /// Reading.
    Read,
    /// Removing a file.
    Remove,
    /// Renaming a file.
    Rename,
    /// Making or driving the io_uring.
    Ring,
    /// Starting a thread.
    Spawn,
    /// Asking for a file's or a file system's properties.
    Stat,
    /// Making a file's bytes durable (fdatasync).
    Sync,
    /// Making the directory's entries durable.
    SyncDirectory,
    /// Writing.
    Write,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allocate => "allocate",
            Self::Create => "create",
            Self::List => "list",
            Self::Lock => "lock",
            Self::Open => "open",
            Self::Read => "read",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::Ring => "io_uring",
            Self::Spawn => "start a thread",
            Self::Stat => "stat",
            Self::Sync => "fdatasync",
            Self::SyncDirectory => "fsync of the directory",
            Self::Write => "write",
        })
    }
}

/// One failed system call: which, where, and the errno. Cheap to clone: every waiter gets the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoFailure {
    /// What was asked.
    pub op: Op,
    /// The errno, positive; 0 where the system gave none.
    pub errno: i32,
    /// The file or directory it was asked of.
    pub path: Arc<Path>,
    /// Where in the file, in bytes; 0 where that means nothing.
    pub offset: u64,
}

impl IoFailure {
    /// The failure of `op` on `path` at `offset`.
    #[must_use]
    pub fn new(op: Op, path: impl Into<Arc<Path>>, offset: u64, error: &io::Error) -> Self {
        Self { op, errno: error.raw_os_error().unwrap_or(0), path: path.into(), offset }
    }

    /// The failure of `op` on `path`, by errno.
    #[must_use]
    pub fn from_errno(op: Op, path: impl Into<Arc<Path>>, offset: u64, errno: i32) -> Self {
        Self { op, errno, path: path.into(), offset }
    }

    /// Whether this is a lack of space (ENOSPC, EDQUOT or EFBIG): it ends when there is room again.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        // The values of Linux on every architecture that Rust supports but MIPS and SPARC, where EDQUOT differs.
        const EFBIG: i32 = 27;
        const ENOSPC: i32 = 28;
        const EDQUOT: i32 = 122;
        matches!(self.errno, ENOSPC | EDQUOT | EFBIG)
    }
}

impl IoFailure {
    /// Whether it ends by itself when others give something back: space, descriptors, memory.
    pub(crate) fn is_shortage(&self) -> bool {
        const ENOMEM: i32 = 12;
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        self.is_no_space() || matches!(self.errno, ENOMEM | ENFILE | EMFILE)
    }
}

impl fmt::Display for IoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.op)?;
        if matches!(self.op, Op::Read | Op::Write) {
            write!(f, " at offset {}", self.offset)?;
        }
        match self.errno {
            0 => f.write_str(" failed: the system gave no reason"),
            errno => write!(f, " failed: {}", io::Error::from_raw_os_error(errno)),
        }
    }
}

impl std::error::Error for IoFailure {}

/// Why a log was poisoned (promise P6): the first failure, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// A write or a flush failed.
    Io(IoFailure),
    /// The ring thread panicked; the text is the panic's.
    Panic(Arc<str>),
    /// The log could not go on in a new epoch, which it was asked for; the text says why.
    NoEpoch(Arc<str>),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(failure) => failure.fmt(f),
            Self::Panic(text) => write!(f, "the ring thread panicked: {text}"),
            Self::NoEpoch(text) => write!(f, "no new epoch could begin: {text}"),
        }
    }
}

/// Damage to acknowledged data (promise P5): found, reported, and nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The row of the recovery table that speaks, as `verify` and the report print it.
    pub label: &'static str,
    /// The file.
    pub path: Arc<Path>,
    /// Its segment.
    pub segment: SegmentId,
    /// Where the damage begins, in bytes from the start of the file.
    pub offset: u64,
    /// The first record that is lost or in doubt.
    pub first: Lsn,
    /// The last one known to be; [`Lsn::MAX`] if unknown.
    pub last: Lsn,
    /// What was found, in words.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: damaged at offset {}: {}; ", self.path.display(), self.offset, self.what)?;
        match (self.first, self.last) {
            (first, Lsn::MAX) => write!(f, "LSN {first} and later")?,
            (first, last) => write!(f, "LSN {first} to {last}")?,
        }
        write!(
            f,
            " (row {}). No file was changed: keep a copy, restore this file from a backup or a standby",
            self.label
        )
    }
}

impl std::error::Error for Damage {}

/// Why a log could not be opened. No file was changed, unless the message says so.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The log has another id than [`Options::log_id`](crate::Options::log_id) asks for.
    WrongLog {
        /// The directory.
        path: PathBuf,
        /// Its id.
        found: LogId,
        /// The one asked for.
        wanted: LogId,
    },
    /// The log is held by another writer (promise P10).
    Held {
        /// The directory.
        path: PathBuf,
        /// The holder's process id, where its lock file tells.
        by: Option<u32>,
    },
    /// A system call failed.
    Io(IoFailure),
    /// Acknowledged data is damaged.
    Damaged(Damage),
    /// The directory (or its parent, when the log would be made) does not exist.
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// The log was written by a newer format than this library knows.
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version or unknown flag.
        version: u32,
    },
    /// The directory cannot hold the first segment.
    NoSpace(IoFailure),
    /// The path is not a log: not a directory, or something odd stands under one of our names.
    NotALog {
        /// The path.
        path: PathBuf,
        /// What is odd.
        what: &'static str,
    },
    /// `Options` contradict each other or the directory.
    Options(OptionsError),
    /// The tail is torn and `RecoveryMode::AbsoluteConsistency` was asked for.
    Torn {
        /// The directory.
        path: PathBuf,
        /// The last whole record.
        last: Lsn,
        /// How many bytes stand behind it.
        bytes: u64,
    },
    /// `require_uring` is set and io_uring is refused.
    UringRefused {
        /// Why, in words.
        why: Arc<str>,
    },
    /// The file system forgets everything at power-off and `allow_volatile` is not set.
    Volatile {
        /// The directory.
        path: PathBuf,
        /// The file system's name.
        file_system: &'static str,
    },
    /// The runtime that should serve the log has ended.
    RuntimeEnded,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { path, by: Some(pid) } => write!(
                f,
                "{}: held for writing by process {pid}; end that process or use another directory (readers are welcome)",
                path.display()
            ),
            Self::Held { path, by: None } => write!(
                f,
                "{}: held for writing by another process; end it or use another directory (readers are welcome)",
                path.display()
            ),
            Self::WrongLog { path, found, wanted } => write!(
                f,
                "{}: holds log {found}, not {wanted}; use that log's directory, or an empty one",
                path.display()
            ),
            Self::Io(failure) => failure.fmt(f),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Missing { path } => write!(f, "{}: does not exist; make it, or check the path", path.display()),
            Self::NewerFormat { path, version } => write!(
                f,
                "{}: written in format {version}, newer than this program knows; use a newer ringwal",
                path.display()
            ),
            Self::NoSpace(failure) => write!(f, "{failure}; free space in the file system or set smaller segments"),
            Self::NotALog { path, what } => {
                write!(f, "{}: {what}; move it away or use another directory", path.display())
            }
            Self::Options(error) => error.fmt(f),
            Self::Torn { path, last, bytes } => write!(
                f,
                "{}: torn behind LSN {last} ({bytes} bytes); open with RecoveryMode::TolerateTornTail to cut the tail",
                path.display()
            ),
            Self::UringRefused { why } => write!(f, "io_uring is refused: {why}; allow it or unset require_uring"),
            Self::Volatile { path, file_system } => write!(
                f,
                "{}: on {file_system}, which loses everything at power-off; use a disk, or allow it with Options::allow_volatile",
                path.display()
            ),
            Self::RuntimeEnded => f.write_str("the runtime has ended; build another one"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<IoFailure> for OpenError {
    fn from(failure: IoFailure) -> Self {
        if failure.is_no_space() { Self::NoSpace(failure) } else { Self::Io(failure) }
    }
}

impl From<OptionsError> for OpenError {
    fn from(error: OptionsError) -> Self {
        Self::Options(error)
    }
}

/// Which option is out of bounds, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OptionsError {
    /// The option's name.
    pub option: &'static str,
    /// What is wrong and which values are right.
    pub why: String,
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "option {}: {}", self.option, self.why)
    }
}

impl std::error::Error for OptionsError {}

/// Why an append did not become durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppendError {
    /// The log was closed before the record had a place. Nothing was appended.
    Closed,
    /// A group of no records. Nothing was appended.
    EmptyGroup,
    /// There is no room for another segment. Nothing was appended; try again when there is room.
    NoSpace(IoFailure),
    /// The log is poisoned (promise P6). The record may or may not survive; re-opening the log tells.
    Poisoned(Cause),
    /// The record or group is over its bound. Nothing was appended.
    TooLarge {
        /// Its size in bytes.
        len: usize,
        /// The bound in bytes (`Options::record_bytes_max`).
        max: usize,
    },
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the log is closed; open it again to append"),
            Self::EmptyGroup => f.write_str("a group needs at least one record"),
            Self::NoSpace(failure) => write!(f, "{failure}; the log stays readable: free space and append again"),
            Self::Poisoned(cause) => {
                write!(f, "the log stopped at its first failure: {cause}; open it again to recover")
            }
            Self::TooLarge { len, max } => {
                write!(f, "{len} bytes are over the bound of {max} bytes; split it or raise record_bytes_max")
            }
        }
    }
}

impl std::error::Error for AppendError {}

/// Why a truncation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TruncateError {
    /// It asked for more than is durable. Nothing was truncated.
    Beyond {
        /// The last durable record.
        durable: Lsn,
    },
    /// It asked for records to be kept that the log does not hold any more. Nothing was truncated.
    Below {
        /// The first record that the log holds.
        first: Lsn,
    },
    /// There is no room on the disk to say so durably: it is said with the next batch that finds room. Ask again then.
    NoSpace(IoFailure),
    /// The truncation is durable, but files could not be freed: the next truncation or opening frees them.
    Io(IoFailure),
    /// The log was poisoned, before or meanwhile.
    Poisoned(Cause),
    /// The log was closed, before or meanwhile.
    Closed,
}

impl fmt::Display for TruncateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beyond { durable } => write!(f, "only records up to LSN {durable} are durable; truncate within them"),
            Self::Below { first } => write!(f, "the log begins at LSN {first}; keep at least that record"),
            Self::NoSpace(failure) => write!(f, "not truncated yet, there is no room to say so: {failure}"),
            Self::Io(failure) => write!(f, "truncated, but files stay until the next truncation or opening: {failure}"),
            Self::Poisoned(cause) => write!(f, "the log failed: {cause}; open it again"),
            Self::Closed => f.write_str("the log is closed; open it again"),
        }
    }
}

impl std::error::Error for TruncateError {}

/// Why a cursor could not be opened, saved or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CursorError {
    /// Not a cursor's name: 1 to 64 of `a-z 0-9 _ -`.
    Name(Box<str>),
    /// Its file does not hold what it should. Until it is removed, nothing is freed by itself.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A system call failed.
    Io(IoFailure),
}

impl fmt::Display for CursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?}: not a cursor's name; use 1 to 64 of a-z 0-9 _ -"),
            Self::Damaged { path, what } => {
                write!(f, "{}: the cursor is {what}; remove the file, and its reader begins anew", path.display())
            }
            Self::Io(failure) => failure.fmt(f),
        }
    }
}

impl std::error::Error for CursorError {}

impl From<IoFailure> for CursorError {
    fn from(failure: IoFailure) -> Self {
        Self::Io(failure)
    }
}

/// Why `submit` did not take the record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitError {
    /// The bound `pending_bytes_max` is reached (promise P9), or the next segment is being prepared. Nothing was appended;
    /// wait for earlier ones, or use `append`, which waits.
    Full,
    /// As for an append.
    Append(AppendError),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => {
                f.write_str("no room yet (pending_bytes_max, or a segment being prepared); append waits for it")
            }
            Self::Append(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SubmitError {}

impl From<AppendError> for SubmitError {
    fn from(error: AppendError) -> Self {
        Self::Append(error)
    }
}

/// Why records could not be read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// Acknowledged data is damaged.
    Damaged(Damage),
    /// A system call failed.
    Io(IoFailure),
    /// Written by a newer format than this library knows.
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version or unknown flag.
        version: u32,
    },
    /// The records asked for were truncated away.
    Truncated {
        /// The first record that the log still holds.
        first: Lsn,
    },
    /// Records that were shown already were truncated away: the log was cut back.
    CutBack {
        /// The last record that stayed.
        last: Lsn,
    },
    /// The log failed; everything durable before that was shown.
    Poisoned(Cause),
    /// The log could not be looked at again.
    Reopen(Arc<OpenError>),
}

impl From<OpenError> for ReadError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io(failure) => Self::Io(failure),
            OpenError::Damaged(damage) => Self::Damaged(damage),
            OpenError::NewerFormat { path, version } => Self::NewerFormat { path, version },
            other => Self::Reopen(Arc::new(other)),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(damage) => damage.fmt(f),
            Self::Io(failure) => failure.fmt(f),
            Self::NewerFormat { path, version } => write!(
                f,
                "{}: written in format {version}, newer than this program knows; use a newer ringwal",
                path.display()
            ),
            Self::Truncated { first } => write!(f, "the log begins at LSN {first}; read from there"),
            Self::CutBack { last } => write!(f, "records above LSN {last} were taken back; read on behind it"),
            Self::Poisoned(cause) => write!(f, "the log failed: {cause}; open it again"),
            Self::Reopen(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<IoFailure> for ReadError {
    fn from(failure: IoFailure) -> Self {
        Self::Io(failure)
    }
}

impl From<Damage> for ReadError {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}
