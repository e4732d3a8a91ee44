//! Opening for writing: a log that was closed, and one that was left behind in the middle of its work.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringwal::{Log, Options};
use tokio::runtime::{Builder, Runtime};

type Failure = Box<dyn std::error::Error>;

const SEGMENT_BYTES: u64 = 4 << 20;
const RECORD_BYTES: usize = 256;
const RECORDS: [usize; 2] = [1_000, 50_000];

fn options() -> Options {
    Options::default().segment_bytes(SEGMENT_BYTES)
}

/// Copies a directory of files.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Two logs of `records` records in `base`: `unclean` is copied from under its writer, `clean` is what that leaves.
fn build(runtime: &Runtime, base: &Path, records: usize) -> Result<(), Failure> {
    let clean = base.join("clean");
    if base.exists() {
        fs::remove_dir_all(base)?;
    }
    fs::create_dir_all(base)?;
    runtime.block_on(async {
        let log = Log::open(&clean, options()).await?;
        let group = vec![vec![b'r'; RECORD_BYTES]; 100];
        for _ in 0..records / group.len() {
            log.append_batch(&group).await?;
        }
        // The helper thread may still be giving the next segment its name.
        while let Err(error) = copy(&clean, &base.join("unclean")) {
            if error.kind() != ErrorKind::NotFound {
                return Err(error.into());
            }
        }
        log.close().await?;
        Ok(())
    })
}

/// How long so many openings of fresh copies take; copying and closing do not count.
fn time(runtime: &Runtime, template: &Path, dir: &Path, openings: u64) -> Result<Duration, Failure> {
    let mut took = Duration::ZERO;
    for _ in 0..openings {
        copy(template, dir)?;
        let begin = Instant::now();
        let log = runtime.block_on(Log::open(dir, options()))?;
        took += begin.elapsed();
        runtime.block_on(log.close())?;
    }
    Ok(took)
}

fn recover(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let base = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("recover-{}", std::process::id()));
    let mut group = c.benchmark_group("open");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(1));
    for records in RECORDS {
        build(&runtime, &base, records).unwrap_or_else(|failure| panic!("{}: {failure}", base.display()));
        for kind in ["clean", "unclean"] {
            let (template, dir) = (base.join(kind), base.join("opened"));
            group.bench_function(BenchmarkId::new(kind, records), |b| {
                b.iter_custom(|openings| {
                    let took = time(&runtime, &template, &dir, openings);
                    took.unwrap_or_else(|failure| panic!("{}: {failure}", dir.display()))
                });
            });
        }
    }
    group.finish();
    let _left_behind = fs::remove_dir_all(&base);
}

criterion_group!(benches, recover);
criterion_main!(benches);
