//! How a command ends when it does not end well: an exit code and at most one line on standard error.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use ringwal::{OpenError, ReadError};

/// A torn tail, or a check that failed.
const CHECK: u8 = 1;
/// Acknowledged data is damaged.
const DAMAGED: u8 = 2;
/// Usage or I/O.
pub(crate) const USAGE: u8 = 3;
/// Ended by SIGINT or SIGTERM.
pub(crate) const INTERRUPTED: u8 = 130;

/// An exit code, and what to say.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    line: Option<String>,
}

impl Failure {
    pub(crate) fn usage(line: impl Into<String>) -> Self {
        Self { code: USAGE, line: Some(line.into()) }
    }

    pub(crate) fn check(line: impl Into<String>) -> Self {
        Self { code: CHECK, line: Some(line.into()) }
    }

    pub(crate) fn damaged(damage: &impl Display) -> Self {
        Self { code: DAMAGED, line: Some(damage.to_string()) }
    }

    /// The verdict is on standard output already.
    pub(crate) fn said(torn_not_damaged: bool) -> Self {
        Self { code: if torn_not_damaged { CHECK } else { DAMAGED }, line: None }
    }

    pub(crate) fn interrupted() -> Self {
        Self { code: INTERRUPTED, line: None }
    }

    /// Whoever read standard output has gone: nothing to say, and nothing wrong.
    pub(crate) fn closed_output() -> Self {
        Self { code: 0, line: None }
    }

    /// An opening that failed; `dir` where the error does not name it.
    pub(crate) fn open(dir: &Path, error: &OpenError) -> Self {
        match error {
            OpenError::Damaged(damage) => Self::damaged(damage),
            OpenError::Missing { path }
                if path.parent().is_some_and(|parent| parent != Path::new("") && !parent.exists()) =>
            {
                Self::usage(format!(
                    "{}: its parent directory does not exist; make it, or check the path",
                    path.display()
                ))
            }
            OpenError::Options(_) | OpenError::UringRefused { .. } => {
                Self::usage(format!("{}: {error}", dir.display()))
            }
            OpenError::Volatile { path, file_system } => Self::usage(format!(
                "{}: on {file_system}, which loses everything at power-off; use a directory on a disk",
                path.display()
            )),
            _ => Self::usage(error.to_string()),
        }
    }

    /// A reading that failed.
    pub(crate) fn read(dir: &Path, error: &ReadError) -> Self {
        match error {
            ReadError::Damaged(damage) => Self::damaged(damage),
            ReadError::Truncated { .. } => Self::usage(format!("{}: {error}", dir.display())),
            _ => Self::usage(error.to_string()),
        }
    }

    /// Says the line and returns the exit code.
    pub(crate) fn tell(self) -> ExitCode {
        if let Some(line) = self.line {
            note(&line);
        }
        ExitCode::from(self.code)
    }
}

/// A failure to write to standard output: the only bare I/O errors that the commands pass on.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::closed_output(),
            _ => Self::usage(format!(
                "standard output: {error}; what was not printed is lost to the reader, not to the log"
            )),
        }
    }
}

/// One line on standard error. If that is closed, nobody wants to know.
pub(crate) fn note(line: &str) {
    // An error's text may quote a path with a line feed in it.
    let line = line.replace('\n', " ");
    let _closed = writeln!(io::stderr(), "ringwal: {line}");
}
