//! Following: how late a tail sees a record, how fast it catches up, what sixteen of them cost the writer.
//!
//! `cargo bench --features cli --bench follow [-- ROUNDS]`: medians of interleaved rounds (5 unless said), with the least and
//! the greatest.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringwal::engines::report::Spread;
use ringwal::engines::{Limit, Load, find};
use ringwal::{Log, Lsn, Options};
use tokio::runtime::{Builder, Runtime};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const CALLERS: usize = 256;
const TAILS: usize = 16;
const RECORD: [u8; 256] = [b'r'; 256];
const MEASURED: Duration = Duration::from_millis(1500);
/// How much a tail catches up with, in records of 4 KiB.
const BEHIND: u64 = 96 << 10;
/// O_DIRECT, on x86-64 and aarch64 (with the bit of the latter).
const O_DIRECT: i32 = if cfg!(target_arch = "aarch64") { 0x1_0000 } else { 0x4000 };

fn main() -> Result<(), Failure> {
    // Under `cargo test` one short round shows that it works.
    let measures = std::env::args().any(|arg| arg == "--bench");
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(if measures { 5 } else { 1 });
    let base = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("follow-{}", std::process::id()));
    fs::create_dir_all(&base)?;
    let done = measure(&base, rounds, if measures { MEASURED } else { MEASURED / 15 });
    fs::remove_dir_all(&base)?;
    done
}

fn measure(base: &Path, rounds: usize, time: Duration) -> Result<(), Failure> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let behind = base.join("behind");
    build(&runtime, &behind, if time < MEASURED { BEHIND / 15 } else { BEHIND })?;
    let (mut lags, mut floors, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut tails, mut reads, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    let (mut alone, mut followed, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        floors.push(floor(&base.join("floor"), time)?);
        lags.push(lag(&base.join("lag"), time)?);
        ratios.push(lags[lags.len() - 1] / floors[floors.len() - 1]);
        reads.push(read_directly(&behind)?);
        tails.push(catch_up(&runtime, &behind)?);
        shares.push(tails[tails.len() - 1] / reads[reads.len() - 1]);
        alone.push(throughput(&runtime, &base.join("alone"), 0, time)?);
        followed.push(throughput(&runtime, &base.join("followed"), TAILS, time)?);
        costs.push(followed[followed.len() - 1] / alone[alone.len() - 1]);
    }
    say("a tail's lag behind the appender, p50 us", &lags)?;
    say("floor: one durable 4 KiB overwrite, p50 us", &floors)?;
    say("  lag / floor (target: at most 0.25)", &ratios)?;
    say("a tail catches up, MiB/s", &tails)?;
    say("O_DIRECT reads of the same files, 1 MiB each, MiB/s", &reads)?;
    say("  catching up / reading (target: at least 0.7)", &shares)?;
    say("256 callers, appends/s", &alone)?;
    say("256 callers and 16 tails, appends/s", &followed)?;
    say("  with tails / without (target: at least 0.9)", &costs)
}

fn say(what: &str, values: &[f64]) -> Result<(), Failure> {
    let Spread { min, median, max } = Spread::of(values.iter().copied());
    writeln!(std::io::stdout(), "{what:55} {median:12.2}  ({min:.2}..{max:.2})")?;
    Ok(())
}

/// The median of one durable overwrite, in microseconds, sitting where it fares best.
fn floor(dir: &Path, time: Duration) -> Result<f64, Failure> {
    fs::create_dir_all(dir)?;
    let limit = Limit::Time { warm_up: Duration::from_millis(200), measured: time };
    let mut load = Load::new(1, Arc::new([Box::from(RECORD)]), limit);
    load.core = ringwal::LocalLog::disk_core(dir);
    let engine = find("floor").into_iter().next().ok_or("no floor")?;
    let sample = engine.run(dir, &load)?;
    fs::remove_dir_all(dir)?;
    Ok(sample.latency_us(0.5))
}

/// How long after an append resolved a tail in another thread shows its record, in microseconds; 0 if it was first.
fn lag(dir: &Path, time: Duration) -> Result<f64, Failure> {
    let log = Log::open(dir, Options::default()).wait()?;
    let begun = Instant::now();
    let stop = AtomicBool::new(false);
    let (mut done, mut seen) = (Vec::new(), Vec::new());
    thread::scope(|scope| -> Result<(), Failure> {
        let tailing = scope.spawn(|| -> Result<(), Failure> {
            let runtime = Builder::new_current_thread().build()?;
            let mut tail = log.tail(Lsn::FIRST);
            while let Some(record) = runtime.block_on(tail.next()) {
                record?;
                seen.push(begun.elapsed());
            }
            Ok(())
        });
        let appending = scope.spawn(|| -> Result<(), Failure> {
            while !stop.load(Ordering::Relaxed) {
                log.append(&RECORD).wait()?;
                done.push(begun.elapsed());
            }
            Ok(())
        });
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        appending.join().map_err(|_| "the appender panicked")??;
        log.close().wait()?;
        tailing.join().map_err(|_| "the tail panicked")?
    })?;
    fs::remove_dir_all(dir)?;
    let lags = seen.iter().zip(&done).skip(20).map(|(seen, done)| seen.saturating_sub(*done).as_secs_f64() * 1e6);
    Ok(Spread::of(lags).median)
}

/// A closed log for who catches up.
fn build(runtime: &Runtime, dir: &Path, records: u64) -> Result<(), Failure> {
    runtime.block_on(async {
        let log = Log::open(dir, Options::default()).await?;
        let group = vec![[b'c'; 4084]; 64];
        for _ in 0..records / 64 {
            log.append_batch(&group).await?;
        }
        log.close().await?;
        Ok(())
    })
}

/// MiB a second of records, from the first to the last of a log that was just opened.
fn catch_up(runtime: &Runtime, dir: &Path) -> Result<f64, Failure> {
    runtime.block_on(async {
        let log = Log::open(dir, Options::default()).await?;
        let begun = Instant::now();
        let mut tail = log.tail(Lsn::FIRST);
        let (mut bytes, mut last) = (0, Lsn::ZERO);
        while last < log.durable_lsn() {
            let record = tail.next().await.ok_or("the log ended")??;
            bytes += record.payload.len();
            last = record.lsn;
        }
        let took = begun.elapsed();
        log.close().await?;
        Ok(bytes as f64 / f64::from(1 << 20) / took.as_secs_f64())
    })
}

/// MiB a second of the segments in `dir`, read one after the other.
fn read_directly(dir: &Path) -> Result<f64, Failure> {
    let mut memory = vec![0; (1 << 20) + 4096];
    let at = memory.as_ptr().align_offset(4096);
    let buffer = &mut memory[at..at + (1 << 20)];
    let begun = Instant::now();
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            let file = fs::OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path)?;
            let mut offset = 0;
            while let read @ 1.. = file.read_at(buffer, offset)? {
                offset += read as u64;
            }
            bytes += offset;
        }
    }
    Ok(bytes as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64())
}

/// Appends a second of 256 tasks, with so many tails at the live end, each of which looks at every record.
fn throughput(runtime: &Runtime, dir: &Path, tails: usize, time: Duration) -> Result<f64, Failure> {
    let per_s = runtime.block_on(async {
        let log = Log::open(dir, Options::default()).await?;
        let (stop, appended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (log, stop, appended) = (log.clone(), stop.clone(), appended.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        log.append(&RECORD).await?;
                        appended.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<_, Failure>(())
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let followers: Vec<_> = (0..tails)
            .map(|_| {
                let mut tail = log.tail(log.durable_lsn().next());
                tokio::spawn(async move {
                    let mut bytes = 0;
                    while let Some(record) = tail.next().await {
                        bytes += record?.payload.len();
                    }
                    Ok::<_, Failure>(bytes)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (begun, before) = (Instant::now(), appended.load(Ordering::Relaxed));
        tokio::time::sleep(time).await;
        let per_s = (appended.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await??;
        }
        log.close().await?;
        for follower in followers {
            follower.await??;
        }
        Ok::<_, Failure>(per_s)
    })?;
    fs::remove_dir_all(dir)?;
    Ok(per_s)
}
