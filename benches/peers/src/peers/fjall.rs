//! fjall 3: `insert`, then `persist(PersistMode::SyncData)`.
//!
//! Settings: `manual_journal_persist(true)` on the database and on the keyspace, so that nothing is flushed to the
//! system twice ("Set to true to handle persistence manually, e.g. manually using PersistMode::SyncData", docs.rs/fjall);
//! journal compression off; a memtable large enough that no flush falls into a run.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use ringwal::engines::Failure;

use super::{Peer, Writer};

pub struct Fjall;

impl Peer for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn method(&self) -> &'static str {
        "persist(SyncData)"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Writer>, Failure> {
        let database =
            Database::builder(dir).manual_journal_persist(true).journal_compression(CompressionType::None).open()?;
        let options = || KeyspaceCreateOptions::default().manual_journal_persist(true).max_memtable_size(512 << 20);
        let keyspace = database.keyspace("log", options)?;
        Ok(Box::new(Open { database, keyspace, next: AtomicU64::new(0) }))
    }
}

struct Open {
    database: Database,
    keyspace: Keyspace,
    next: AtomicU64,
}

impl Writer for Open {
    fn append(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        self.keyspace.insert(key, payload)?;
        Ok(self.database.persist(PersistMode::SyncData)?)
    }
}
