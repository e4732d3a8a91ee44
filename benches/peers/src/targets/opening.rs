//! Opening a new log, opening a large clean one, and reading one as recovery and `verify` do.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ringwal::engines::Failure;
use ringwal::{Log, Options};

use super::{Bench, Goal, Spread};

/// O_DIRECT on the architectures that this is run on.
const O_DIRECT: i32 = if cfg!(target_arch = "aarch64") { 0o200_000 } else { 0o40_000 };
const CHUNK_BYTES: usize = 1 << 20;
/// How large the log that is scanned is.
const SCAN_BYTES: u64 = 1 << 30;
/// As many openings stand behind each value.
const OPENINGS: u32 = 5;

/// Opening a new log, against zero-filling a segment's length.
pub fn new_log(bench: &mut Bench) -> Result<(), Failure> {
    let scratch = Scratch::create(&bench.dir)?;
    let (mut opened, mut filled) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let mut took = Vec::new();
        for _ in 0..OPENINGS {
            let dir = scratch.0.join("log");
            let begin = Instant::now();
            let log = Log::open(&dir, Options::default()).wait()?;
            took.push(begin.elapsed().as_secs_f64() * 1e3);
            log.close().wait()?;
            fs::remove_dir_all(&dir)?;
        }
        opened.push(Spread::of(took.into_iter()).median);
        filled.push(zero_fill(&scratch.0.join("zeros"), 64 << 20)?);
    }
    let zeros = Spread::of(filled.iter().copied()).median;
    let ratio = Spread::of(opened.iter().zip(&filled).map(|(open, fill)| open / fill)).median;
    let detail = format!("zero-filling 64 MiB takes {zeros:.0} ms, ratio {ratio:.2}");
    bench.keep("opening a new log, ms", Goal::AtMost(20.0), &opened, &detail)
}

/// Opening a clean log of many segments.
pub fn large_log(bench: &mut Bench) -> Result<(), Failure> {
    let scratch = Scratch::create(&bench.dir)?;
    let dir = scratch.0.join("log");
    eprintln!("  writing {} GiB", bench.large_bytes >> 30);
    fill(&dir, bench.large_bytes, 64 << 10)?;
    let mut took = Vec::new();
    let mut dropped = true;
    for _ in 0..bench.rounds {
        // Directory entries and inodes from the disk, where this user may ask for it.
        dropped &= fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
        let begin = Instant::now();
        let log = Log::open(&dir, Options::default()).wait()?;
        took.push(begin.elapsed().as_secs_f64() * 1e3);
        log.close().wait()?;
    }
    let bytes = total(&segments(&dir)?)?;
    let caches = if dropped { "caches dropped before each" } else { "caches warm" };
    let detail =
        format!("{:.1} GiB in {} segments; {caches}", bytes as f64 / f64::from(1 << 30), segments(&dir)?.len());
    bench.keep(&format!("opening a clean {} GiB log, ms", bench.large_bytes >> 30), Goal::AtMost(100.0), &took, &detail)
}

/// Reading and checking every byte of a log, against reading the same files with O_DIRECT, one chunk after the other.
pub fn scan(bench: &mut Bench) -> Result<(), Failure> {
    for record_bytes in [256, 4096] {
        let scratch = Scratch::create(&bench.dir)?;
        let dir = scratch.0.join("log");
        fill(&dir, SCAN_BYTES, record_bytes)?;
        let files = segments(&dir)?;
        let (mut values, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            let begin = Instant::now();
            let bytes = read_all(&files)?;
            let read = begin.elapsed().as_secs_f64();
            let begin = Instant::now();
            let verdict = ringwal::verify(&dir)?;
            let scanned = begin.elapsed().as_secs_f64();
            if verdict.last < verdict.first {
                return Err(format!("{}: nothing to scan", dir.display()).into());
            }
            values.push(read / scanned);
            rates.push(bytes as f64 / read / f64::from(1 << 20));
        }
        let detail = format!(
            "{} MiB; O_DIRECT reads {:.0} MiB/s in chunks of 1 MiB",
            total(&files)? >> 20,
            Spread::of(rates.into_iter()).median
        );
        let goal = if record_bytes == 256 { Goal::AtLeast(0.8) } else { Goal::None };
        bench.keep(&format!("scan of {record_bytes}-byte records against an O_DIRECT read"), goal, &values, &detail)?;
    }
    Ok(())
}

/// Writes a log of so many bytes and closes it.
fn fill(dir: &Path, bytes: u64, record_bytes: usize) -> Result<(), Failure> {
    let log = Log::open(dir, Options::default()).wait()?;
    let per_group = (512 << 10) / record_bytes;
    let group = vec![vec![b'r'; record_bytes]; per_group];
    let groups = bytes / (per_group * record_bytes) as u64;
    // Two threads: one group is written while the next is taken.
    std::thread::scope(|scope| {
        let write = || -> Result<(), Failure> {
            for _ in 0..groups / 2 {
                block_on(log.append_batch(&group))?;
            }
            Ok(())
        };
        let other = scope.spawn(write);
        write().and(other.join().unwrap_or_else(|_| Err("a writer panicked".into())))
    })?;
    Ok(log.close().wait()?)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let (mut future, mut context) = (std::pin::pin!(future), std::task::Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(done) => return done,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// The segments of a log, in order.
fn segments(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn total(files: &[PathBuf]) -> Result<u64, Failure> {
    files.iter().map(|file| Ok(fs::metadata(file)?.len())).sum()
}

/// The aligned part of a buffer that O_DIRECT takes.
fn aligned(buffer: &mut [u8]) -> &mut [u8] {
    let start = buffer.as_ptr().align_offset(4096);
    &mut buffer[start..start + CHUNK_BYTES]
}

fn read_all(files: &[PathBuf]) -> Result<u64, Failure> {
    let mut buffer = vec![0; CHUNK_BYTES + 4096];
    let (chunk, mut bytes) = (aligned(&mut buffer), 0);
    for path in files {
        let mut file = File::options().read(true).custom_flags(O_DIRECT).open(path)?;
        loop {
            match file.read(chunk)? {
                0 => break,
                read => bytes += read as u64,
            }
        }
    }
    Ok(bytes)
}

/// How many milliseconds it takes to write so many zeros and make them durable.
fn zero_fill(path: &Path, bytes: u64) -> Result<f64, Failure> {
    use std::io::Write;
    let mut buffer = vec![0; CHUNK_BYTES + 4096];
    let chunk = aligned(&mut buffer);
    let begin = Instant::now();
    let mut file = File::options().write(true).create_new(true).custom_flags(O_DIRECT).open(path)?;
    for _ in 0..bytes / CHUNK_BYTES as u64 {
        file.write_all(chunk)?;
    }
    file.sync_data()?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    fs::remove_file(path)?;
    Ok(took)
}

/// Removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(format!("ringwal-opening-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}; give another --dir", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}
