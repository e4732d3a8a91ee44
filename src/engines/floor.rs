//! The device's floor: the same durable overwrite of one block with no hand-off, no record and no caller but one, by
//! the sequence of calls that is fastest in this place.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::file::Direct;
use super::load::with_threads;
use super::{Counts, Engine, Failure, Load, Sample};
use crate::disk::overwrite::{Overwriter, Sequence};

/// How long each sequence of calls is tried, after a tenth of this to warm up.
const TRIAL: Duration = Duration::from_millis(60);

/// One thread, one block after the other.
#[derive(Debug)]
pub(super) struct Floor;

impl Engine for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn ignores_callers(&self) -> bool {
        true
    }

    fn run(&self, dir: &Path, load: &Load) -> Result<Sample, Failure> {
        let direct = Direct::create(dir)?;
        let sequence = fastest(&direct, load)?;
        let flushes = AtomicU64::new(0);
        let load = Load { callers: 1, logs: 1, ..load.clone() };
        // Made on the caller's own thread, which alone may use its ring.
        let overwriter: Mutex<Option<Overwriter>> = Mutex::new(None);
        let counts = || Counts::new(flushes.load(Ordering::Relaxed), sequence.word());
        with_threads(&load, &counts, |_, _| {
            let mut slot = overwriter.lock().unwrap_or_else(PoisonError::into_inner);
            let overwriter = match &mut *slot {
                Some(overwriter) => overwriter,
                none => none.insert(Overwriter::new(&direct.file, direct.block_bytes, sequence)?),
            };
            overwriter.write(direct.claim(direct.block_bytes))?;
            flushes.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }
}

/// Tries each sequence for a moment, on a thread that nobody else uses, and returns the one with the shortest median.
fn fastest(direct: &Direct, load: &Load) -> Result<Sequence, Failure> {
    let mut best: Option<(Duration, Sequence)> = None;
    for sequence in Sequence::ALL {
        let median = thread::scope(|scope| {
            scope.spawn(|| median(direct, sequence, load)).join().map_err(|_| "a trial of the floor panicked")
        })?;
        match median {
            Ok(median) if best.is_none_or(|(least, _)| median < least) => best = Some((median, sequence)),
            Ok(_) => {}
            // io_uring may be refused; the first sequence needs nothing special.
            Err(error) if best.is_none() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(best.ok_or("no way to write")?.1)
}

fn median(direct: &Direct, sequence: Sequence, load: &Load) -> Result<Duration, Failure> {
    load.sit();
    let mut overwriter = Overwriter::new(&direct.file, direct.block_bytes, sequence)?;
    let begin = Instant::now();
    let mut took = Vec::new();
    while begin.elapsed() < TRIAL || took.is_empty() {
        let before = Instant::now();
        overwriter.write(direct.claim(direct.block_bytes))?;
        if begin.elapsed() > TRIAL / 10 {
            took.push(before.elapsed());
        }
    }
    took.sort_unstable();
    Ok(took[took.len() / 2])
}
