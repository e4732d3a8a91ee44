//! Group commit with nothing but the standard library: whoever finds no leader becomes it and writes for all.

use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::file::{Kind, LogFile, each_log};
use super::frame::{Frame, framed_bytes};
use super::load::with_threads;
use super::{Counts, Engine, Failure, Load, Sample};
use crate::disk::Buffer;

/// As much as ringwal puts in a batch.
const BATCH_BYTES: usize = 1 << 20;

/// Leader and followers.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

impl Engine for Leader {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, dir: &Path, load: &Load) -> Result<Sample, Failure> {
        let commits = each_log(dir, load, |dir| Commit::create(dir, self.kind, load))?;
        let flushes = || commits.iter().map(|commit| commit.flushes.load(Ordering::Relaxed)).sum();
        with_threads(load, &|| Counts::new(flushes(), "write+fdatasync"), |caller, payload| {
            commits[caller % commits.len()].append(payload)
        })
    }
}

#[derive(Debug)]
struct Commit {
    file: LogFile,
    state: Mutex<State>,
    changed: Condvar,
    flushes: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// Records that wait for the next write.
    staging: Buffer,
    /// The other buffer; none while a leader writes it.
    spare: Option<Buffer>,
    staged: usize,
    /// The last record staged.
    last: u64,
    /// The last record that is durable.
    durable: u64,
    failed: Option<String>,
}

impl Commit {
    fn create(dir: &Path, kind: Kind, load: &Load) -> Result<Self, Failure> {
        let file = LogFile::create(dir, kind)?;
        let buffer_bytes = file.padded(framed_bytes(load.payload_max()).max(BATCH_BYTES));
        let state = State {
            staging: Buffer::new(buffer_bytes),
            spare: Some(Buffer::new(buffer_bytes)),
            staged: 0,
            last: 0,
            durable: 0,
            failed: None,
        };
        Ok(Self { file, state: Mutex::new(state), changed: Condvar::new(), flushes: AtomicU64::new(0) })
    }

    fn append(&self, payload: &[u8]) -> Result<(), Failure> {
        let frame = Frame::new(payload);
        let len = frame.len();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.staged + len > state.staging.len() && state.failed.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (mine, at) = (state.last + 1, state.staged);
        state.last = mine;
        state.staged += len;
        frame.put(mine, &mut state.staging[at..]);
        loop {
            if state.durable >= mine {
                return Ok(());
            }
            if let Some(failed) = &state.failed {
                return Err(failed.clone().into());
            }
            let Some(spare) = state.spare.take() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let mut full = mem::replace(&mut state.staging, spare);
            let (bytes, last) = (mem::take(&mut state.staged), state.last);
            drop(state);
            let written = self.file.append(&mut full, bytes).and_then(|()| self.file.sync());
            self.flushes.fetch_add(1, Ordering::Relaxed);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.spare = Some(full);
            match written {
                Ok(()) => state.durable = last,
                Err(error) => state.failed = Some(error.to_string()),
            }
            self.changed.notify_all();
        }
    }
}
