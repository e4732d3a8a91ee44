//! The other log writers, each at its best documented settings and its best number of threads.
//!
//! All of them block, so each caller is a thread. What a peer makes of many callers depends on how many threads it is
//! given, and a program that uses it would give it the number that suits it: [`AtBest`] finds that number, up to the
//! callers of the row, before the first round, and keeps it.

mod fjall;
mod okaywal;
mod raft_engine;
mod rocksdb;
pub mod walrus;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ringwal::engines::{Counts, Engine, Failure, Limit, Load, Sample, with_threads};

/// More threads than this never helped any of them here.
const THREADS_MAX: usize = 256;
/// How long each number of threads is tried.
const TRIAL: Limit = Limit::Time { warm_up: Duration::from_millis(60), measured: Duration::from_millis(300) };

/// Another log writer.
pub trait Peer: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// How it makes a record durable, for the table.
    fn method(&self) -> &'static str;

    /// A fresh log in the empty directory `dir`.
    fn open(&self, dir: &Path) -> Result<Box<dyn Writer>, Failure>;
}

/// A peer's open log.
pub trait Writer: Send + Sync {
    /// Returns when the record is durable. `thread` tells the callers apart.
    fn append(&self, thread: usize, payload: &[u8]) -> Result<(), Failure>;
}

/// All of them.
pub fn all() -> Vec<&'static dyn Engine> {
    let peers: [Box<dyn Peer>; 5] = [
        Box::new(okaywal::OkayWal),
        Box::new(raft_engine::RaftEngine),
        Box::new(rocksdb::RocksDb),
        Box::new(fjall::Fjall),
        Box::new(walrus::Walrus),
    ];
    let at_best = |peer| {
        let engine: &'static dyn Engine = Box::leak(Box::new(AtBest { peer, tried: Mutex::new(BTreeMap::new()) }));
        engine
    };
    peers.into_iter().map(at_best).collect()
}

/// A peer with the number of threads that it does best with.
struct AtBest {
    peer: Box<dyn Peer>,
    /// Appends per second, by the longest payload and the number of threads.
    tried: Mutex<BTreeMap<(usize, usize), f64>>,
}

impl Engine for AtBest {
    fn name(&self) -> &'static str {
        self.peer.name()
    }

    fn run(&self, dir: &Path, load: &Load) -> Result<Sample, Failure> {
        if load.logs > 1 {
            return Err("a peer has one log here; leave --logs out".into());
        }
        let threads = self.threads(dir, load)?;
        let mut sample = self.put(&dir.join("run"), &Load { callers: threads, ..load.clone() })?;
        sample.threads = Some(threads);
        Ok(sample)
    }
}

impl AtBest {
    /// The best of 1, 2, 4 and so on up to the callers.
    fn threads(&self, dir: &Path, load: &Load) -> Result<usize, Failure> {
        let numbers = std::iter::successors(Some(1), |threads| Some(threads * 2));
        let mut best = (1, 0.0);
        for threads in numbers.take_while(|threads| *threads <= load.callers.min(THREADS_MAX)) {
            let rate = self.try_with(threads, dir, load)?;
            if rate > best.1 {
                best = (threads, rate);
            }
        }
        Ok(best.0)
    }

    /// Tried once for all rows: what a number of threads yields does not depend on how many callers there might be.
    fn try_with(&self, threads: usize, dir: &Path, load: &Load) -> Result<f64, Failure> {
        let key = (load.payload_max(), threads);
        if let Some(rate) = self.tried.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*rate);
        }
        let trial = Load { callers: threads, limit: TRIAL, rate: None, ..load.clone() };
        let rate = self.put(&dir.join(format!("trial-{threads}")), &trial)?.per_second();
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).insert(key, rate);
        Ok(rate)
    }

    fn put(&self, dir: &Path, load: &Load) -> Result<Sample, Failure> {
        fs::create_dir(dir)?;
        let writer = self.peer.open(dir)?;
        let counts = || Counts::new(0, self.peer.method());
        let sample = with_threads(load, &counts, |thread, payload| writer.append(thread, payload));
        drop(writer);
        fs::remove_dir_all(dir)?;
        sample
    }
}
