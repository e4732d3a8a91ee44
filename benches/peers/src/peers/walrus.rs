//! walrus-rust 0.2: `append_for_topic` with `FsyncSchedule::SyncEach`.
//!
//! Settings: the fd backend (the default, which its README recommends: files opened with O_SYNC under `SyncEach`), and a
//! topic for each thread, as its own benchmark does (`make bench-scaling`): topics do not wait for one another. That
//! promises less than a log: there is no order between topics.
//!
//! Its directory comes from the environment, which [`prepare`] sets for the whole process by starting it anew; below it
//! each log has a directory named by its key.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringwal::engines::Failure;
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus as Wal};

use super::{Peer, Writer};

const DIR: &str = "WALRUS_DATA_DIR";

/// Starts this program anew with `dir` as walrus's directory, unless it is that already.
pub fn prepare(dir: &Path) -> io::Result<()> {
    if std::env::var_os(DIR).is_some_and(|known| known == dir) {
        return Ok(());
    }
    let program = std::env::current_exe()?;
    Err(Command::new(program).args(std::env::args_os().skip(1)).env(DIR, dir).env("WALRUS_QUIET", "1").exec())
}

pub struct Walrus;

impl Peer for Walrus {
    fn name(&self) -> &'static str {
        "walrus"
    }

    fn method(&self) -> &'static str {
        "SyncEach"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Writer>, Failure> {
        let base = std::env::var_os(DIR).ok_or("WALRUS_DATA_DIR is not set")?;
        let names: Vec<_> = dir.iter().rev().take(2).filter_map(|name| name.to_str()).collect();
        let key = format!("walrus-{}", names.join("-"));
        let files = Files(Path::new(&base).join(&key));
        let consistency = ReadConsistency::AtLeastOnce { persist_every: 1_000_000 };
        let wal = Wal::with_consistency_and_schedule_for_key(&key, consistency, FsyncSchedule::SyncEach)?;
        let topics = (0..super::THREADS_MAX).map(|thread| format!("topic-{thread}")).collect();
        Ok(Box::new(Open { wal, topics, _files: files }))
    }
}

struct Open {
    wal: Wal,
    topics: Vec<String>,
    _files: Files,
}

impl Writer for Open {
    fn append(&self, thread: usize, payload: &[u8]) -> Result<(), Failure> {
        Ok(self.wal.append_for_topic(&self.topics[thread], payload)?)
    }
}

/// Removed when dropped.
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}
