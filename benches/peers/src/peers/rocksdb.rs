//! RocksDB (crate rocksdb 0.25): `put` with `sync = true`, which waits for its log's fdatasync; writers queue up behind a
//! leader.
//!
//! Settings: pipelined writes ("Pipelined Write", RocksDB wiki: the log's and the memtable's stages overlap), recycled
//! log files (`recycle_log_file_num`, options.h: "reuse previously written log files"), a write buffer large enough that
//! no flush of the memtable falls into a run, automatic compactions and statistics dumps off.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use ringwal::engines::Failure;
use rocksdb::{DB, Options, WriteOptions};

use super::{Peer, Writer};

pub struct RocksDb;

impl Peer for RocksDb {
    fn name(&self) -> &'static str {
        "rocksdb"
    }

    fn method(&self) -> &'static str {
        "put(sync)"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Writer>, Failure> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_enable_pipelined_write(true);
        options.set_recycle_log_file_num(4);
        options.set_write_buffer_size(512 << 20);
        options.set_disable_auto_compactions(true);
        options.set_stats_dump_period_sec(0);
        let mut write = WriteOptions::default();
        write.set_sync(true);
        Ok(Box::new(Open { db: DB::open(&options, dir)?, write, next: AtomicU64::new(0) }))
    }
}

struct Open {
    db: DB,
    write: WriteOptions,
    next: AtomicU64,
}

impl Writer for Open {
    fn append(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        Ok(self.db.put_opt(key, payload, &self.write)?)
    }
}
