//! How much of the local rate is left when a standby follows, asynchronously, on the same machine.
//!
//! `cargo test --release --test shipping measure -- --ignored --nocapture`

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringwal::{Log, Options, Primary, Standby};

use crate::common::link::{pair, until};
use crate::common::rig::{Scratch, env_count, say};

const CALLERS: usize = 256;
const RECORD_BYTES: usize = 128;

/// Appends per second with all callers at it.
async fn rate(primary: &Primary, time: Duration) -> f64 {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (primary, stop, count) = (primary.clone(), stop.clone(), count.clone());
            tokio::spawn(async move {
                let record = [7; RECORD_BYTES];
                while !stop.load(Ordering::Relaxed) {
                    primary.append(&record).await.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(time / 4).await;
    let (before, began) = (count.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(time).await;
    let rate = (count.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    rate
}

async fn with(dir: &Path, follow: bool, time: Duration) -> (f64, f64) {
    let log = Log::open(dir.join("a"), Options::default()).await.unwrap();
    let primary = Primary::new(log, 0);
    if !follow {
        return (rate(&primary, time).await, 0.0);
    }
    let mut standby = Standby::open(dir.join("b"), Options::default()).await.unwrap();
    let (progress, (near, far)) = (standby.progress(), pair().await);
    let serving = primary.clone();
    let served = tokio::spawn(async move { serving.serve(far).await });
    let follows = tokio::spawn(async move { standby.follow(near).await });
    let rate = rate(&primary, time).await;
    let (last, began) = (primary.log().durable_lsn(), Instant::now());
    until("it caught up", || progress.durable_lsn() >= last).await;
    let behind = began.elapsed().as_secs_f64();
    served.abort();
    let _ = follows.await;
    (rate, behind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure() {
    let rounds = env_count("RINGWAL_ROUNDS").unwrap_or(5);
    let time = Duration::from_millis(env_count("RINGWAL_MS").unwrap_or(4000) as u64);
    let (mut alone, mut shipped) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for follow in [round % 2 == 1, round % 2 == 0] {
            let scratch = Scratch::new("measure");
            let (rate, behind) = with(scratch.path(), follow, time).await;
            say(&format!("{} {rate:.0}/s, caught up after {behind:.3} s", if follow { "shipped" } else { "alone  " }));
            if follow { &mut shipped } else { &mut alone }.push(rate);
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (alone, shipped) = (median(&mut alone), median(&mut shipped));
    say(&format!(
        "{CALLERS} callers, {RECORD_BYTES} B: alone {alone:.0}/s, shipped {shipped:.0}/s: {:.0} %",
        100.0 * shipped / alone
    ));
}
