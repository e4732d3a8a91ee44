//! The same inside tokio-uring: `cargo run --features cli --example quickstart_tokio_uring -- DIRECTORY`.
//!
//! The log has a ring thread of its own. Its futures need only a `Waker`, so that any executor will do. A log that is
//! driven inside this very thread is in the example `local`: it works here just as well.
#![allow(clippy::print_stdout, reason = "a program")]

use ringwal::{Log, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: quickstart_tokio_uring DIRECTORY")?;
    tokio_uring::start(async {
        let log = Log::open(&dir, Options::default()).await?;

        let lsn = log.append(b"hello").await?; // durable now, whatever happens next
        println!("hello is durable as record {lsn}");

        let lsns = log.append_batch(&["all", "or", "none"]).await?; // a group survives whole or not at all
        println!("the group is durable as records {}..={}", lsns.start(), lsns.end());

        for record in log.read(..)? {
            let record = record?;
            println!("{}: {}", record.lsn, String::from_utf8_lossy(&record.payload));
        }
        log.close().await?;
        Ok(())
    })
}
