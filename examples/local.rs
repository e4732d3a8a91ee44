//! A log without a thread of its own, in a current-thread runtime: `cargo run --features tokio --example local -- DIRECTORY`.
//!
//! The tasks append, the log's `drive` future writes and flushes beside them, all on one thread. Instead of tokio's
//! runtime it may be tokio-uring's; for others see `LocalLog::turn`.
#![allow(clippy::print_stdout, reason = "a program")]

use ringwal::{LocalLog, Options};
use tokio::task::{LocalSet, spawn_local};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: local DIRECTORY")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        let log = LocalLog::open(&dir, Options::default()).await?;
        let driven = spawn_local(log.drive());

        let lsn = log.append(b"hello").await?; // durable now, whatever happens next
        println!("hello is durable as record {lsn}");

        let callers: Vec<_> = (0..3)
            .map(|_| {
                let log = log.clone();
                spawn_local(async move { log.append(b"together").await })
            })
            .collect();
        for caller in callers {
            caller.await??;
        }
        println!("three more shared {} flush(es)", log.stats().flushes - 1);

        for record in log.read(lsn..)? {
            let record = record?;
            println!("{}: {}", record.lsn, String::from_utf8_lossy(&record.payload));
        }
        log.close().await?;
        driven.await?; // it ends with the log
        Ok(())
    })
}
