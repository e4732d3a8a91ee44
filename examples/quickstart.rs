//! Twenty lines: open, append, read back, close.

use ringwal::{Log, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "quickstart-log".to_owned());
    let log = Log::open(&dir, Options::default()).await?;
    println!("{}: {:?}", log.recovery_report().meaning, log.recovery_report());
    let lsn = log.append(b"hello").await?;
    println!("durable at {lsn}");
    let lsns = log.append_batch(&["a", "b", "c"]).await?;
    println!("{lsns:?}");
    for record in log.read(..)? {
        let record = record?;
        println!("{} {:?}", record.lsn, record.payload);
    }
    println!("{:?}", log.stats().flush_us.max());
    log.close().await?;
    Ok(())
}
