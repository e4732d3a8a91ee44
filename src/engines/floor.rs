//! The device's floor: the same durable overwrite of one block with no hand-off, no record and no caller but one.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::file::Direct;
use super::load::with_threads;
use super::{Engine, Failure, Load, Sample};
use crate::disk::Buffer;

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
        let mut block = Buffer::new(direct.block_bytes);
        block.fill(0x5a);
        let (len, flushes) = (direct.block_bytes, AtomicU64::new(0));
        let load = Load { callers: 1, ..load.clone() };
        let block = std::sync::Mutex::new(block);
        with_threads(&load, &|| flushes.load(Ordering::Relaxed), "write+fdatasync", |_| {
            let block = block.lock().map_err(|_| "a caller panicked")?;
            direct.file.write_at(&block[..len], direct.claim(len))?;
            direct.file.sync()?;
            flushes.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }
}
