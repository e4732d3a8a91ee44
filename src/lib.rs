//! An asynchronous io_uring write-ahead log: when `log.append(record).await` resolves, the record is durable.
#[cfg(not(target_os = "linux"))]
compile_error!("ringwal needs Linux: it is built on io_uring, O_DIRECT and fdatasync");

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod bench_support;
mod disk;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod engines;
mod error;
mod format;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod harness;
mod journal;
mod log;
mod lsn;
mod options;
mod read;
mod runtime;
#[doc(hidden)]
pub mod seeded;
mod stats;

pub use disk::Method;
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)]
pub use disk::sim;
pub use error::*;
pub use log::{Close, Log, Open, Runtime, RuntimeBuilder};
pub use lsn::*;
pub use options::{Engine, Options, RecoveryMode};
pub use read::cursor::{Record, Records};
pub use read::reader::{BatchInfo, Reader, SegmentInfo, State, Verification, dump, verify};
pub use read::recover::RecoveryReport;
pub use runtime::append::{Append, AppendBatch, Pending, Reserve, Slot, WaitDurable};
pub use stats::Stats;
