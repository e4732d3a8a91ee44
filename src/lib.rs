//! An asynchronous io_uring write-ahead log: when `log.append(record).await` resolves, the record is durable.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use ringwal::{Log, Options};
//!
//! let log = Log::open("data/wal", Options::default()).await?;
//! let lsn = log.append(b"record").await?; // survives kill -9, a kernel crash, a power cut
//! for record in log.read(lsn..)? {
//!     println!("{:?}", record?.payload);
//! }
//! log.close().await?;
//! # Ok(()) }
//! ```
//!
//! Thousands of callers share one flush: a dedicated ring thread takes whatever was staged while the last flush was under
//! way, writes it with O_DIRECT into blocks that are already written, and makes it durable in the way that the device, the
//! file system and the load like best ([`Method`]).
//!
//! ```text
//!  callers            stage                 journal              disk                  durable
//!  append(..) ──────► the open batch ─────► headers, ──────────► write ─► fdatasync ─► the watermark ──► futures resolve
//!  append(..) ──────► LSN, place, copy      links, when          io_uring, or plain    moves over the
//!  reserve(..) ─────► (runtime::stage)      (journal)            system calls (disk)   prefix (runtime::durable)
//!                                 the driver (runtime::driver) introduces them to one another: one loop, one screen
//! ```
//!
//! # Where to read on
//!
//! | module | what |
//! |---|---|
//! | `lsn`, `method`, `error`, `options`, `stats` | positions, ways to make a write durable, failures, the user's words, what is counted |
//! | `format` | BYTES: the specification, once |
//! | `journal` | DECISIONS, without I/O: when a batch leaves, where it goes, what is durable, the recovery table |
//! | `disk` | THE WORLD: the only system calls, the only `unsafe` |
//! | `runtime` | THREADS AND WAKERS: staging, the loop, the futures |
//! | `read` | recovery at open, records along the chain, tails, readers beside a writer, `verify` |
//! | `ship` | a log followed by standbys: both ends of a connection, without a transport |
//! | `log` | the public handle |
//!
//! Each uses only those above it; `journal` and `disk` never meet. A test holds this.
//!
//! # Promises
//!
//! - **P1 Durable.** When an append resolves `Ok(lsn)`, that record and every one before it survive kill -9, a kernel crash
//!   and a power cut.
//! - **P2 Order.** LSNs are dense, in log order, and handed out only with a place in a prepared segment.
//! - **P3 No invention.** After any crash the log holds exactly the records up to some n that is not below the last
//!   acknowledged one, byte for byte.
//! - **P4 Atomic groups.** What `append_batch` is given survives whole or not at all.
//! - **P5 Truth about damage.** A torn tail is cut and reported. Damage to acknowledged data is refused with file, offset
//!   and LSNs, and no byte changes. The exception: the last batches ([`Options::flight_max`] of them) that no later batch
//!   or seal claims durable yet look like a torn tail when they are damaged; the idle seal closes that window after about
//!   10 ms. The loss of all the newest files together cannot be seen either.
//! - **P6 First failure is final.** The first failed write or flush poisons the log: every waiter and every later append
//!   gets the cause. Re-opening recovers. A full disk is not poison.
//! - **P7 Exposure never goes back.** What any reader was shown stays, unless it is truncated.
//! - **P8 Liveness.** Every future resolves; dropping one loses interest, nothing else.
//! - **P9 Bounded.** Memory is bounded by [`Options::pending_bytes_max`], and [`Options::recent_bytes_max`] while somebody
//!   follows; a tail that has fallen behind holds up to 4 MiB of what it reads, or two batches.
//! - **P10 One writer.** A second one is refused at once and told who holds the log. Readers are welcome.
//! - **P11 Hostile bytes.** No file makes the library panic, hang, or allocate from an unchecked length. Checksums find
//!   accidents; they are not authentication.
//!
//! Assumed of the medium: a flush that reports success is true; a write damages nothing outside its own blocks; after a
//! power cut each 512-byte sector of an un-flushed write is old, new or detectably bad.

#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)
)]

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
mod method;
mod options;
mod read;
mod runtime;
#[doc(hidden)]
pub mod seeded;
#[doc(hidden)]
pub mod ship;
mod stats;
mod sync;

#[cfg(any(test, feature = "sim"))]
#[doc(hidden)]
pub use disk::sim;
pub use error::{
    AppendError, Cause, CursorError, Damage, IoFailure, Op, OpenError, OptionsError, ReadError, SubmitError,
    TruncateError,
};
#[cfg(feature = "tokio")]
pub use log::Drive;
#[cfg(feature = "ship")]
pub use log::primary::{Follower, Primary, PrimaryError, WaitReplicated};
#[cfg(feature = "ship")]
pub use log::shipper::Shipper;
#[cfg(feature = "ship")]
pub use log::standby::{Progress, PromoteError, Standby};
#[cfg(feature = "tls")]
pub use log::tls::{Tls, TlsError};
pub use log::{Close, LocalLog, LocalOpen, Log, Open, Runtime, RuntimeBuilder};
pub use lsn::{Epoch, LogId, Lsn, SegmentId};
pub use method::Method;
pub use options::{Engine, Options, RecoveryMode};
pub use read::cursor::{Record, Records};
pub use read::follow::Follow;
pub use read::reader::{BatchInfo, Reader, SegmentInfo, State, Verification, dump, verify};
pub use read::recover::RecoveryReport;
pub use read::tail::Tail;
pub use runtime::append::{Append, AppendBatch, Pending, Reserve, Slot, WaitDurable};
pub use runtime::registered::Cursor;
pub use runtime::truncate::{TruncateAfter, TruncateBefore};
#[cfg(feature = "ship")]
pub use ship::ShipError;
pub use stats::Stats;

#[cfg(doc)]
#[doc = include_str!("../tests/proof/README.md")]
pub mod proof {}

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
