//! Why a command failed, in one line, and the exit code that says so.

use std::fmt::Display;
use std::io;

use ringwal::{AppendError, OpenError, ReadError};

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A failed command: what standard error says, and what the process returns.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) text: String,
}

impl Failure {
    /// What was compared is not as it must be.
    pub(crate) fn check(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }

    /// Data that was acknowledged is damaged.
    pub(crate) fn damaged(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }

    /// Wrong usage, I/O, or a server that cannot or will not.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { code: 3, text: text.into() }
    }

    /// A signal ended it, in order.
    pub(crate) fn stopped(text: impl Into<String>) -> Self {
        Self { code: 130, text: text.into() }
    }

    /// Says what it happened to.
    pub(crate) fn of(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::usage(format!("{what}: {error}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::usage(error.to_string())
    }
}

/// What the private server's commands answer.
impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::usage(text)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Damaged(damage) => Self::damaged(damage.to_string()),
            other => Self::usage(other.to_string()),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(damage) => Self::damaged(damage.to_string()),
            other => Self::usage(other.to_string()),
        }
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        Self::usage(error.to_string())
    }
}
