//! raft-engine 0.4 (TiKV): a write leader takes what others have queued; `write(batch, sync = true)`.
//!
//! Settings: log recycling on and prefilled (`enable-log-recycle`, `prefill-for-recycle`; "written blocks" without
//! extension, raft-engine#301), with as much prefilled as a run writes; compression off, for its own time is what is
//! compared and the payloads would vanish. Each thread puts one key of a region of its own, which costs it least: no
//! entry index grows.

use std::path::Path;

use raft_engine::{Config, Engine, LogBatch, ReadableSize};
use ringwal::engines::Failure;

use super::{Peer, Writer};

pub struct RaftEngine;

impl Peer for RaftEngine {
    fn name(&self) -> &'static str {
        "raft-engine"
    }

    fn method(&self) -> &'static str {
        "write+fdatasync"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Writer>, Failure> {
        let config = Config {
            dir: dir.to_str().ok_or("a path that is no text")?.to_owned(),
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize::mb(128),
            purge_threshold: ReadableSize::mb(256),
            enable_log_recycle: true,
            prefill_for_recycle: true,
            prefill_limit: Some(ReadableSize::mb(384)),
            ..Config::default()
        };
        Ok(Box::new(Open(Engine::open(config)?)))
    }
}

struct Open(Engine);

impl Writer for Open {
    fn append(&self, thread: usize, payload: &[u8]) -> Result<(), Failure> {
        let mut batch = LogBatch::with_capacity(1);
        batch.put(thread as u64 + 1, b"key".to_vec(), payload.to_vec())?;
        self.0.write(&mut batch, true)?;
        Ok(())
    }
}
