//! okaywal 0.3: group commit behind a mutex, preallocated segments, one fsync for all who wait.
//!
//! Settings: `preallocate_bytes` 64 MiB instead of 1 MiB and `checkpoint_after_bytes` 48 MiB, below it as its
//! documentation asks, so that the file need not grow and checkpoints are rare ("Preallocating files is critical for
//! performance", README; `Configuration`, docs.rs/okaywal). `LogVoid` checkpoints nothing.

use std::path::Path;

use okaywal::{Configuration, LogVoid, WriteAheadLog};
use ringwal::engines::Failure;

use super::{Peer, Writer};

pub struct OkayWal;

impl Peer for OkayWal {
    fn name(&self) -> &'static str {
        "okaywal"
    }

    fn method(&self) -> &'static str {
        "write+fdatasync"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Writer>, Failure> {
        let configuration =
            Configuration::default_for(dir).preallocate_bytes(64 << 20).checkpoint_after_bytes(48 << 20);
        Ok(Box::new(Open(configuration.open(LogVoid)?)))
    }
}

struct Open(WriteAheadLog);

impl Writer for Open {
    fn append(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(payload)?;
        entry.commit()?;
        Ok(())
    }
}
