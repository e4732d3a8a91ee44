//! The user's words, and the [`Limits`] they are validated into.

use std::time::Duration;

use crate::error::OptionsError;
use crate::format;
use crate::lsn::LogId;
use crate::method::Method;

/// Blocks of a segment that hold no data batch: the static block, an idle seal and a close seal (so that a log can
/// always be sealed where it stands), an opening and the seal behind it.
pub(crate) const RESERVED_BLOCKS: u32 = 5;

/// No time is longer: ten years. A clock that is added to it does not overflow, and a timer takes it.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What recovery does with a torn tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryMode {
    /// Cut it, keep every whole record before it, and say so in the report. The default.
    #[default]
    TolerateTornTail,
    /// Refuse to open a log whose tail is torn.
    AbsoluteConsistency,
}

/// Which disk serves the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// io_uring; the system calls where io_uring is refused, unless `require_uring` is set. The default.
    #[default]
    Auto,
    /// Plain system calls on the ring thread.
    Syscalls,
    /// No disk at all: everything completes at once and nothing is durable. For measuring our own overhead.
    Null,
}

/// What the user pinned of how batches fly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pins {
    pub(crate) method: Option<Method>,
    pub(crate) depth: Option<usize>,
    pub(crate) gather: Option<bool>,
}

/// How a log is opened. Every setter gives its default, its bounds and its cost.
///
/// ```
/// use ringwal::Options;
/// let options = Options::default().segment_bytes(16 << 20).require_uring(true);
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    allow_volatile: bool,
    batch_bytes_max: usize,
    block_bytes: Option<u32>,
    create: bool,
    delay_max: Duration,
    depth: Option<usize>,
    disk_core: bool,
    engine: Engine,
    /// The length of a log's first segment, unless segments are shorter: some milliseconds of zero-filling.
    first_segment_bytes: u64,
    flight_max: usize,
    gather: Option<bool>,
    idle_seal: Duration,
    lock_wait: Duration,
    method: Option<Method>,
    pending_bytes_max: usize,
    recent_bytes_max: usize,
    log_id: Option<LogId>,
    term: u64,
    record_bytes_max: Option<usize>,
    recovery_mode: RecoveryMode,
    require_uring: bool,
    segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allow_volatile: false,
            batch_bytes_max: 1 << 20,
            block_bytes: None,
            create: true,
            delay_max: Duration::ZERO,
            depth: None,
            disk_core: true,
            engine: Engine::Auto,
            first_segment_bytes: 1 << 20,
            flight_max: 4,
            gather: None,
            idle_seal: Duration::from_millis(10),
            lock_wait: Duration::from_secs(5),
            method: None,
            pending_bytes_max: 64 << 20,
            recent_bytes_max: 16 << 20,
            log_id: None,
            term: 0,
            record_bytes_max: None,
            recovery_mode: RecoveryMode::TolerateTornTail,
            require_uring: false,
            segment_bytes: 64 << 20,
        }
    }
}

impl Options {
    /// Opens on file systems that forget everything at power-off (tmpfs, ramfs). Default false: such a path is refused,
    /// because no flush can keep promise P1 there.
    #[must_use]
    pub fn allow_volatile(mut self, allow: bool) -> Self {
        self.allow_volatile = allow;
        self
    }

    /// The size in bytes at which an open batch is closed and the next one begun. Default 1 MiB; at least one block, at
    /// most `pending_bytes_max`; lowered to what fits a small segment. Soft: a larger record or group gets a batch of its
    /// own. Larger batches cost memory (one buffer each), smaller ones cost more flushes under load.
    #[must_use]
    pub fn batch_bytes_max(mut self, bytes: usize) -> Self {
        self.batch_bytes_max = bytes;
        self
    }

    /// The block size in bytes: a power of two from 512 to 65,536. Default: what the device and the file system ask
    /// for, at least 4096. A smaller one than they ask for is refused.
    #[must_use]
    pub fn block_bytes(mut self, bytes: u32) -> Self {
        self.block_bytes = Some(bytes);
        self
    }

    /// Whether a missing directory (whose parent exists) and a missing log are made. Default true.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// How long a batch may wait for company before it is written. Default 0: a batch leaves as soon as a flight slot
    /// is free, which is best for callers that wait for their records.
    #[must_use]
    pub fn delay_max(mut self, delay: Duration) -> Self {
        self.delay_max = delay;
        self
    }

    /// Pins how many batches are in flight at once (while enough is staged). Default: not pinned, the log finds out how
    /// many serve the present load best, up to [`Options::flight_max`], which bounds this too; at least 1.
    #[must_use]
    pub fn depth(mut self, batches: usize) -> Self {
        self.depth = Some(batches);
        self
    }

    /// Whether a ring thread of the log's own may pin itself to the core that takes all of the disk's interrupts, where
    /// there is one such core and as long as that pays. Default true. One thread of a process does so at most, none under
    /// a seccomp filter; a [`Runtime`](crate::Runtime)'s threads never do, nor the thread of a
    /// [`LocalLog`](crate::LocalLog).
    #[must_use]
    pub fn disk_core(mut self, may_pin: bool) -> Self {
        self.disk_core = may_pin;
        self
    }

    /// Which disk serves the log when it has a ring thread of its own. Default [`Engine::Auto`].
    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// How many batches may be in flight at once. Default 4; 1 to 64. How many are is chosen by the load, unless
    /// [`Options::depth`] pins it. After a crash at most this many batches, the last ones, are without a later claim that
    /// they were durable (promise P5).
    #[must_use]
    pub fn flight_max(mut self, batches: usize) -> Self {
        self.flight_max = batches;
        self
    }

    /// Pins whether a batch waits a moment, at most half a flush and with nothing in flight, for the callers that were
    /// just served: one batch of all instead of two cohorts that wait for each other's flush. Default: not pinned, the
    /// log finds out whether it pays.
    #[must_use]
    pub fn gather(mut self, gather: bool) -> Self {
        self.gather = Some(gather);
        self
    }

    /// How long a log is idle before a seal says that all of it is durable. Default 10 ms. Bounds the window of
    /// promise P5 and the lag of readers in other processes; costs one block each time.
    #[must_use]
    pub fn idle_seal(mut self, idle: Duration) -> Self {
        self.idle_seal = idle;
        self
    }

    /// How long to wait for the lock of a writer that was killed and whose last writes the kernel has not finished.
    /// Default 5 s. A living writer is never waited for.
    #[must_use]
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// Pins how batches are made durable. Default: not pinned, the log chooses for each batch. The bytes on the disk are
    /// the same and so are the promises; what differs is the time, by device, file system and load (see [`Method`]). One
    /// that the disk does not have is replaced by the disk's reference method: without io_uring that is
    /// [`Method::Syscalls`]. [`Method::WriteThenFdatasync`] and [`Method::Syscalls`] keep the ring thread waiting for each
    /// flush, and with it every other log on that thread.
    ///
    /// ```
    /// use ringwal::{Method, Options};
    /// let options = Options::default().method(Method::DsyncWrite);
    /// ```
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// The bound on memory for records that are not yet durable, in bytes (promise P9). Default 64 MiB; at least two
    /// of the largest batches. At the bound `append` waits its turn and `submit` is refused.
    #[must_use]
    pub fn pending_bytes_max(mut self, bytes: usize) -> Self {
        self.pending_bytes_max = bytes;
        self
    }

    /// The id that the log must have: a new log gets it, another log is refused ([`OpenError::WrongLog`](crate::OpenError::WrongLog)).
    /// Default: a new log gets a random one. For copies of a log, which are the same log on another machine.
    #[must_use]
    pub fn log_id(mut self, log_id: LogId) -> Self {
        self.log_id = Some(log_id);
        self
    }

    /// The fencing term of the epoch that this opening begins; the greatest term that the log has seen, if that is greater
    /// (see [`Log::term`](crate::Log::term)). Default 0. It is durable when the log is open.
    #[must_use]
    pub fn term(mut self, term: u64) -> Self {
        self.term = term;
        self
    }

    /// Memory for what was just written, in bytes: kept only while somebody follows the log ([`Log::tail`](crate::Log::tail)),
    /// who then never reads the disk unless it falls further behind than this. Default 16 MiB; 0 has followers read the
    /// disk always.
    #[must_use]
    pub fn recent_bytes_max(mut self, bytes: usize) -> Self {
        self.recent_bytes_max = bytes;
        self
    }

    /// The largest record in bytes; a group's records with 12 bytes each may be as large together. Default 16 MiB, or
    /// what fits if the segment is small; 1 GiB at most.
    #[must_use]
    pub fn record_bytes_max(mut self, bytes: usize) -> Self {
        self.record_bytes_max = Some(bytes);
        self
    }

    /// What recovery does with a torn tail. Default [`RecoveryMode::TolerateTornTail`].
    #[must_use]
    pub fn recovery_mode(mut self, mode: RecoveryMode) -> Self {
        self.recovery_mode = mode;
        self
    }

    /// Refuses to open where io_uring is refused, instead of using plain system calls. Default false.
    #[must_use]
    pub fn require_uring(mut self, require: bool) -> Self {
        self.require_uring = require;
        self
    }

    /// The size of a segment file in bytes, rounded up to blocks. Default 64 MiB; at least 16 blocks, at most 16 GiB.
    /// It is reserved and zero-filled ahead of use, so that appends overwrite written blocks; where somebody has to wait
    /// for it, the rest is left reserved. (A thin-provisioned device below the file system may run out of space then when
    /// it is written, which is a failed write, and poison.) Two are kept ready. A new log begins with one of 1 MiB, so that
    /// opening it takes milliseconds; each behind it is twice as long, up to this length. A record waits for a segment at least `flight_max + 1` times as long as itself, or for one of this length.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// For the simulation, whose segments are short.
    #[cfg(feature = "sim")]
    pub(crate) fn first_segment_bytes(mut self, bytes: u64) -> Self {
        self.first_segment_bytes = bytes;
        self
    }

    /// The limits where the directory is not known yet.
    #[cfg(feature = "ship")]
    pub(crate) fn blank_limits(&self) -> Result<Limits, OptionsError> {
        self.limits(self.block_bytes.unwrap_or(4096))
    }

    /// For a log that follows one of these options: it takes each batch of that as one group, and such a batch may be longer
    /// than the longest group there, since others join it.
    #[cfg(feature = "ship")]
    pub(crate) fn following(mut self) -> Result<Self, OptionsError> {
        let limits = self.blank_limits()?;
        let group = limits.batch_bytes_bound().min(format::record_bytes(1 << 30));
        let batch = format::batch_bytes(group, limits.block_bytes);
        let segment = 2 * batch as u64 + u64::from(RESERVED_BLOCKS + 1) * u64::from(limits.block_bytes);
        self.record_bytes_max = Some(group - format::RECORD_HEADER_BYTES);
        self.segment_bytes = self.segment_bytes.max(segment);
        self.pending_bytes_max = self.pending_bytes_max.max(2 * batch);
        Ok(self)
    }

    pub(crate) fn volatile_allowed(&self) -> bool {
        self.allow_volatile
    }

    pub(crate) fn creates(&self) -> bool {
        self.create
    }

    pub(crate) fn chosen_engine(&self) -> Engine {
        self.engine
    }

    pub(crate) fn uring_required(&self) -> bool {
        self.require_uring
    }

    pub(crate) fn may_sit_on_disk_core(&self) -> bool {
        // Without a disk it has no core.
        self.disk_core && self.engine != Engine::Null
    }

    pub(crate) fn chosen_lock_wait(&self) -> Duration {
        self.lock_wait.min(NEVER)
    }

    /// Validates the options for a directory that asks for blocks of `needed` bytes.
    ///
    /// # Errors
    /// The first option that is out of bounds, with its bounds.
    pub(crate) fn limits(&self, needed: u32) -> Result<Limits, OptionsError> {
        let block = self.block_bytes.unwrap_or(needed.max(4096));
        check("block_bytes", block.is_power_of_two() && (512..=65536).contains(&block), || {
            format!("{block} is not a power of two from 512 to 65536")
        })?;
        check("block_bytes", block >= needed, || format!("{block} is below the {needed} that this directory needs"))?;
        let block_len = block as usize;
        let blocks = self.segment_bytes.div_ceil(u64::from(block));
        check("segment_bytes", blocks >= 16 && self.segment_bytes <= 16 << 30, || {
            format!("{} is not from {} (16 blocks) to 16 GiB", self.segment_bytes, 16 * u64::from(block))
        })?;
        check("flight_max", (1..=64).contains(&self.flight_max), || {
            format!("{} is not from 1 to 64", self.flight_max)
        })?;
        let depth = self.depth.unwrap_or(1);
        check("depth", (1..=self.flight_max).contains(&depth), || {
            format!("{depth} is not from 1 to flight_max, {}", self.flight_max)
        })?;
        let segment_blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        // A segment holds at least two of the largest batches; what is in flight at once fits one.
        let room = (segment_blocks - RESERVED_BLOCKS) as usize * block_len;
        let largest = (segment_blocks - RESERVED_BLOCKS) as usize / 2 * block_len;
        let record_fits = largest - format::BATCH_HEADER_BYTES - format::RECORD_HEADER_BYTES;
        let record_max = self.record_bytes_max.unwrap_or(record_fits.min(16 << 20));
        check("record_bytes_max", (1..=1 << 30).contains(&record_max), || {
            format!("{record_max} is not from 1 to 1 GiB")
        })?;
        check("record_bytes_max", record_max <= record_fits, || {
            format!("{record_max} is over the {record_fits} that a segment of {} bytes allows", self.segment_bytes)
        })?;
        check("batch_bytes_max", self.batch_bytes_max >= 1, || "must not be 0".to_owned())?;
        let batch_bytes = self.batch_bytes_max.next_multiple_of(block_len).min(largest);
        let batch_max = format::batch_bytes(format::record_bytes(record_max), block).max(batch_bytes);
        check("pending_bytes_max", self.pending_bytes_max >= 2 * batch_max, || {
            format!("{} is below two of the largest batches ({})", self.pending_bytes_max, 2 * batch_max)
        })?;
        Ok(Limits {
            batch_bytes,
            block_bytes: block,
            first_blocks: u32::try_from(self.first_segment_bytes / u64::from(block))
                .unwrap_or(u32::MAX)
                .clamp(16, segment_blocks),
            delay_max: self.delay_max.min(NEVER),
            flight_max: self.flight_max,
            idle_seal: self.idle_seal.min(NEVER),
            joinable_bytes: room - batch_max,
            pins: Pins { method: self.method, depth: self.depth, gather: self.gather },
            pending_bytes_max: self.pending_bytes_max,
            recent_bytes_max: self.recent_bytes_max,
            log_id: self.log_id,
            term: self.term,
            record_bytes_max: record_max,
            recovery_mode: self.recovery_mode,
            segment_blocks,
        })
    }
}

fn check(option: &'static str, holds: bool, why: impl FnOnce() -> String) -> Result<(), OptionsError> {
    if holds { Ok(()) } else { Err(OptionsError { option, why: why() }) }
}

/// What the options mean for one directory: validated once, never again.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Where an open batch is closed: the size of a staging buffer, a multiple of the block.
    pub(crate) batch_bytes: usize,
    pub(crate) block_bytes: u32,
    /// The length of a segment that an opening has to prepare itself: a log's first one.
    pub(crate) first_blocks: u32,
    pub(crate) delay_max: Duration,
    pub(crate) flight_max: usize,
    pub(crate) idle_seal: Duration,
    /// With more bytes than this in flight no batch joins them: what is in flight at once fits a segment, and recovery
    /// copies no more than that.
    pub(crate) joinable_bytes: usize,
    /// What is pinned of how batches fly.
    pub(crate) pins: Pins,
    pub(crate) pending_bytes_max: usize,
    pub(crate) recent_bytes_max: usize,
    /// The id that the log must have, or is to get.
    pub(crate) log_id: Option<LogId>,
    /// The term of the epoch that begins, if the log has not seen a greater one.
    pub(crate) term: u64,
    pub(crate) record_bytes_max: usize,
    pub(crate) recovery_mode: RecoveryMode,
    pub(crate) segment_blocks: u32,
}

impl Limits {
    /// How many bytes the records of one group may take, their headers included.
    pub(crate) fn group_bytes_max(&self) -> usize {
        format::record_bytes(self.record_bytes_max)
    }

    /// The longest batch that the log makes, in bytes of records: it may fill its buffer, which is whole pages. A log whose
    /// longest group is this long has the same bound: who follows can be followed in turn.
    #[cfg(feature = "ship")]
    pub(crate) fn batch_bytes_bound(&self) -> usize {
        const PAGE_BYTES: usize = 4096;
        let batch = format::batch_bytes(self.group_bytes_max(), self.block_bytes);
        batch.max(self.batch_bytes).next_multiple_of(PAGE_BYTES) - format::BATCH_HEADER_BYTES
    }

    /// How many of the largest batches a short segment holds: as many as recovery copies at most, and one more.
    pub(crate) fn shares(&self) -> u32 {
        u32::try_from(self.flight_max).unwrap_or(u32::MAX).saturating_add(1)
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        u64::from(self.segment_blocks) * u64::from(self.block_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_the_documented_record() {
        let limits = Options::default().limits(4096).unwrap();
        assert_eq!(limits.record_bytes_max, 16 << 20);
        assert_eq!(limits.batch_bytes, 1 << 20);
        assert_eq!(limits.segment_bytes(), 64 << 20);
    }

    #[test]
    fn small_segments_lower_the_bounds_unless_they_were_asked_for() {
        let small = Options::default().segment_bytes(64 << 10);
        let limits = small.limits(4096).unwrap();
        let batch = format::batch_bytes(format::record_bytes(limits.record_bytes_max), 4096);
        assert!(batch * 2 + 5 * 4096 <= 64 << 10);
        assert_eq!(small.record_bytes_max(1 << 20).limits(4096).unwrap_err().option, "record_bytes_max");
    }

    #[cfg(feature = "ship")]
    #[test]
    fn who_follows_takes_the_longest_batch_of_the_same_options() {
        for options in [
            Options::default(),
            Options::default().segment_bytes(64 << 10),
            Options::default().segment_bytes(1 << 20).batch_bytes_max(4096),
            Options::default().segment_bytes(4 << 30).record_bytes_max(256 << 20).pending_bytes_max(1 << 30),
        ] {
            let bound = options.limits(4096).unwrap().batch_bytes_bound();
            let limits = options.following().unwrap().limits(4096).unwrap();
            assert!(limits.group_bytes_max() >= bound, "{} < {bound}", limits.group_bytes_max());
            assert_eq!(limits.batch_bytes_bound(), bound, "a promoted one is followed by its peers");
        }
    }

    #[test]
    fn each_bound_is_named() {
        let name = |options: Options| options.limits(4096).unwrap_err().option;
        assert_eq!(name(Options::default().block_bytes(3000)), "block_bytes");
        assert_eq!(name(Options::default().block_bytes(512)), "block_bytes");
        assert_eq!(name(Options::default().segment_bytes(4096)), "segment_bytes");
        assert_eq!(name(Options::default().flight_max(0)), "flight_max");
        assert_eq!(name(Options::default().flight_max(2).depth(3)), "depth");
        assert_eq!(name(Options::default().pending_bytes_max(1 << 20)), "pending_bytes_max");
        assert_eq!(name(Options::default().batch_bytes_max(0)), "batch_bytes_max");
        assert_eq!(name(Options::default().record_bytes_max(0)), "record_bytes_max");
    }
}
