//! An asynchronous io_uring write-ahead log.
#[cfg(not(target_os = "linux"))]
compile_error!("ringwal needs Linux: it is built on io_uring, O_DIRECT and fdatasync");

mod disk;
mod error;
mod lsn;
#[doc(hidden)]
pub mod seeded;

pub use error::*;
pub use lsn::*;
