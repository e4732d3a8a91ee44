//! The disk stops for minutes: the daemon that is the disk is stopped while many append. Nothing is acknowledged, memory
//! stays within its bound, nobody spins, and everything goes on afterwards.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use ringwal::{Log, Options};

use crate::common::manner::Manner;
use crate::common::powercut::{FileSystem, Recorder, mount_privately, unavailable};
use crate::common::survivor::open;
use crate::common::witness::{Position, Witness};
use crate::common::workload::{Ident, Sizes, Teller};
use crate::run::Run;

const PRODUCERS: u32 = 2000;
const SIZES: Sizes = Sizes::Exactly(4000);
/// Fewer than what is appended at once.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// What else the process may grow by: the producers' own records, stacks, what the allocator keeps.
const MEMORY_MARGIN: u64 = 24 << 20;
/// Acknowledgements that were on their way when the disk stopped come within this.
const SETTLED: Duration = Duration::from_secs(2);
const GOES_ON_WITHIN: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(600);
const CPU_SHARE_MAX: f64 = 0.01;

pub(crate) fn missing() -> Option<String> {
    unavailable(FileSystem::Ext4).or_else(|| unavailable(FileSystem::Xfs))
}

/// One stall after another, each of ten minutes or as long as the run goes on. A seed is a method and a depth.
pub(crate) fn stall(run: &Run) -> Result<(), String> {
    mount_privately()?;
    while let Some(seed) = run.next() {
        let fs = if seed.is_multiple_of(2) { FileSystem::Ext4 } else { FileSystem::Xfs };
        stall_once(run, seed, fs, Manner::of(usize::try_from(seed / 2).unwrap()))?;
    }
    Ok(())
}

/// What the producers share.
struct Load {
    log: Log,
    teller: Teller,
    acks: AtomicU64,
    over: AtomicBool,
}

impl Load {
    async fn produce(&self, producer: u32) {
        for i in 0.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let ident = Ident { cycle: 0, producer, i };
            let payload = ident.payload(SIZES, false);
            self.teller.attempt(ident, None);
            let Ok(lsn) = self.log.append(&payload).await else { return };
            self.acks.fetch_add(1, Ordering::Relaxed);
            self.teller.acknowledged(lsn, ident, &payload);
        }
    }
}

fn stall_once(run: &Run, seed: u64, fs: FileSystem, manner: Manner) -> Result<(), String> {
    let recorder = Recorder::start(fs)?;
    let options = Options::default().segment_bytes(1 << 20).batch_bytes_max(128 << 10);
    let options =
        manner.set(options).depth(manner.depth).pending_bytes_max(PENDING_BYTES_MAX).record_bytes_max(8 << 10);
    let dir = recorder.path().join("wal");
    let log = Log::open(&dir, options.clone()).wait().map_err(|error| error.to_string())?;
    let witness = Arc::new(Mutex::new(Witness::new(SIZES)));
    let teller = Teller::to(witness.clone(), Position::open(&recorder.log()));
    let load = Arc::new(Load { log: log.clone(), teller, acks: AtomicU64::new(0), over: AtomicBool::new(false) });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().map_err(|e| e.to_string())?;
    let tasks: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let load = load.clone();
            runtime.spawn(async move { load.produce(producer).await })
        })
        .collect();
    wait(&load, u64::from(PRODUCERS)).map_err(|()| "the producers made no progress for a minute".to_owned())?;
    let stalled = recorder.stall(LONGEST + Duration::from_secs(60));
    std::thread::sleep(SETTLED);
    let (acks, before) = (load.acks.load(Ordering::Relaxed), Usage::now());
    let began = Instant::now();
    while run.goes_on() && began.elapsed() < LONGEST {
        std::thread::sleep(Duration::from_secs(1));
        run.tried(1);
    }
    let (lasted, after) = (began.elapsed(), Usage::now());
    let meanwhile = load.acks.load(Ordering::Relaxed) - acks;
    let pending = log.stats().pending_bytes;
    drop(stalled);
    if meanwhile > 0 {
        run.violated("A1", format_args!("{meanwhile} acknowledgements while the disk was stopped"), seed);
    }
    before.judge(run, seed, &after, lasted, pending);
    if wait(&load, acks + u64::from(PRODUCERS)).is_err() {
        run.violated("A10", "the log did not go on when the disk did", seed);
    }
    load.over.store(true, Ordering::Relaxed);
    tasks.into_iter().try_for_each(|task| runtime.block_on(task)).map_err(|error| error.to_string())?;
    log.close().wait().map_err(|error| error.to_string())?;
    run.met(&format!("{} {} depth {}", fs.name(), manner.word(), manner.depth), 1);
    run.met("acknowledged", load.acks.load(Ordering::Relaxed));
    run.met("bytes pending in the stall", pending as u64);
    run.met("CPU milliseconds in the stalls", u64::try_from((after.cpu - before.cpu).as_millis()).unwrap_or(u64::MAX));
    let wrongs = match open(&dir, &options) {
        Err(wrong) => vec![wrong],
        Ok((_, survivor)) => witness.lock().unwrap().judge_from(survivor.first, &survivor.records, u64::MAX),
    };
    wrongs.into_iter().for_each(|wrong| run.violated(wrong.assertion, wrong.what, seed));
    Ok(())
}

/// Waits until there are so many acknowledgements.
fn wait(load: &Load, acks: u64) -> Result<(), ()> {
    let deadline = Instant::now() + GOES_ON_WITHIN;
    while load.acks.load(Ordering::Relaxed) < acks {
        if Instant::now() > deadline {
            return Err(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// What this process has used.
struct Usage {
    cpu: Duration,
    resident: u64,
}

impl Usage {
    fn now() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        Self { cpu: Duration::from_micros(u64::try_from(micros).unwrap()), resident: pages * 4096 }
    }

    fn judge(&self, run: &Run, seed: u64, after: &Self, lasted: Duration, pending: usize) {
        if pending > PENDING_BYTES_MAX {
            run.violated("A10", format_args!("{pending} bytes pending, over {PENDING_BYTES_MAX}"), seed);
        }
        let grown = after.resident.saturating_sub(self.resident);
        if grown > MEMORY_MARGIN {
            run.violated("A10", format_args!("the process grew by {grown} bytes"), seed);
        }
        let share = (after.cpu - self.cpu).as_secs_f64() / lasted.as_secs_f64();
        if share > CPU_SHARE_MAX && lasted > Duration::from_secs(2) {
            run.violated("A10", format_args!("{:.2} % of a core while nothing could be done", share * 100.0), seed);
        }
    }
}
