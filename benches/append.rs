//! Appends per second: every engine, 1, 16 and 256 callers. `ringwal bench` is the one to quote: it interleaves.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringwal::engines::{ENGINES, Engine, Failure, Limit, Load};

const CALLERS: [usize; 3] = [1, 16, 256];
const PAYLOAD_BYTES: usize = 256;
const APPENDS_MIN: u64 = 200;

/// A fresh directory under cargo's target directory: /tmp may be a tmpfs.
fn scratch() -> Result<PathBuf, Failure> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("append-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// How long `asked` appends take, the engine's preparations left out. Few of them would only show how it starts: then
/// more are made, and the time is their share.
fn time(engine: &dyn Engine, callers: usize, asked: u64) -> Result<Duration, Failure> {
    let dir = scratch()?;
    let count = asked.max(APPENDS_MIN + 8 * callers as u64);
    let payloads = vec![vec![b'r'; PAYLOAD_BYTES].into_boxed_slice()].into();
    let load = Load::new(callers, payloads, Limit::Count(count));
    let sample = engine.run(&dir, &load);
    fs::remove_dir_all(&dir)?;
    Ok(sample?.elapsed.mul_f64(asked as f64 / count as f64))
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(1));
    for callers in CALLERS {
        for engine in ENGINES.iter().filter(|engine| callers == 1 || !engine.ignores_callers()) {
            group.bench_function(BenchmarkId::new(engine.name(), callers), |b| {
                b.iter_custom(|count| match time(*engine, callers, count) {
                    Ok(elapsed) => elapsed,
                    Err(failure) => panic!("{}: {failure}", engine.name()),
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
