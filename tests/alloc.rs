//! What the library takes from the allocator: next to nothing for an append, and never what a hostile length asks for.
//!
//! `RINGWAL_ALLOC_TRACE=n` prints where every n-th counted allocation came from.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that prints its figures")]
#![expect(unsafe_code, reason = "a global allocator that counts cannot be had without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringwal::{Log, Options, Reader, verify};

/// What every thread of the process asks for, while it is switched on.
struct Counting {
    on: AtomicBool,
    count: AtomicU64,
    largest: AtomicUsize,
    trace_every: AtomicU64,
}

#[global_allocator]
static ALLOCATOR: Counting = Counting {
    on: AtomicBool::new(false),
    count: AtomicU64::new(0),
    largest: AtomicUsize::new(0),
    trace_every: AtomicU64::new(0),
};

thread_local! {
    /// Taking a backtrace allocates: that is not counted, and not traced again.
    static TRACING: Cell<bool> = const { Cell::new(false) };
}

impl Counting {
    fn saw(&self, bytes: usize) {
        if !self.on.load(Relaxed) || TRACING.get() {
            return;
        }
        let count = self.count.fetch_add(1, Relaxed);
        self.largest.fetch_max(bytes, Relaxed);
        let every = self.trace_every.load(Relaxed);
        if every > 0 && count.is_multiple_of(every) {
            TRACING.set(true);
            println!("allocation {count}, {bytes} bytes\n{}", Backtrace::force_capture());
            TRACING.set(false);
        }
    }

    fn start(&self) {
        let every = std::env::var("RINGWAL_ALLOC_TRACE").ok().and_then(|n| n.parse().ok());
        self.trace_every.store(every.unwrap_or(0), Relaxed);
        self.count.store(0, Relaxed);
        self.largest.store(0, Relaxed);
        self.on.store(true, Relaxed);
    }

    /// How many allocations there were since the start, and the largest of them in bytes.
    fn stop(&self) -> (u64, usize) {
        self.on.store(false, Relaxed);
        (self.count.load(Relaxed), self.largest.load(Relaxed))
    }
}

// SAFETY: every call is passed on to the system's allocator as it came; counting touches no memory of either.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.saw(layout.size());
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.saw(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` came from `System` under this layout, by the three other functions.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.saw(size);
        // SAFETY: as for `dealloc`; the caller's promise about `size` is passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// The allocator counts for one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory on a real file system; removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("alloc-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const CALLERS: usize = 64;
const RECORD_BYTES: usize = 256;
const WARM_APPENDS: u64 = 100_000;

const APPENDS: u64 = 1_000_000;

#[test]
fn a_warm_append_allocates_nothing() {
    let _alone = alone();
    let scratch = Scratch::new("append");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let log = runtime.block_on(Log::open(&scratch.0, Options::default().allow_volatile(true))).unwrap();

    // Every caller draws the number of its next append: the first one to be counted starts the count, and the first one
    // beyond them ends it. Nothing is spawned in between.
    let drawn = Arc::new(AtomicU64::new(0));
    let counted = Arc::new(Mutex::new(None));
    let call = |_| {
        let (log, drawn, counted) = (log.clone(), drawn.clone(), counted.clone());
        runtime.spawn(async move {
            let record = [7; RECORD_BYTES];
            loop {
                let number = drawn.fetch_add(1, Relaxed);
                if number == WARM_APPENDS {
                    ALLOCATOR.start();
                } else if number == WARM_APPENDS + APPENDS {
                    *counted.lock().unwrap() = Some(ALLOCATOR.stop());
                }
                if number >= WARM_APPENDS + APPENDS {
                    return;
                }
                log.append(&record).await.unwrap();
            }
        })
    };
    let callers: Vec<_> = (0..CALLERS).map(call).collect();
    for caller in callers {
        runtime.block_on(caller).unwrap();
    }
    let (allocations, largest) = counted.lock().unwrap().expect("the count has ended");
    let each = allocations as f64 / APPENDS as f64;
    let stats = log.stats();
    println!("{allocations} allocations, the largest {largest} bytes, in {APPENDS} appends: {each:.6} each");
    println!("{}, {} flushes, {} rotations", stats.method, stats.flushes, stats.rotations);
    runtime.block_on(log.close()).unwrap();
    assert!(each < 0.001, "{each} allocations for each append; RINGWAL_ALLOC_TRACE=100 shows where from");
}

const BLOCK_BYTES: usize = 4096;
const SEGMENT_BYTES: usize = 16 * BLOCK_BYTES;

/// Readers look ahead so far, and never take much more than that for a log of small segments.
const READ_BYTES_MAX: usize = 4 << 20;

/// Reading sixteen blocks takes milliseconds.
const HANG_TIME: Duration = Duration::from_secs(60);

/// A header claims 4 GiB of records, and its CRC agrees.
fn claim_records(segment: &mut [u8]) {
    for block in segment.chunks_exact_mut(BLOCK_BYTES).filter(|block| block.starts_with(b"RWALBTCH")) {
        // Openings and seals hold no records: theirs is a lie that is seen at once.
        if block[12] == 3 {
            block[60..64].copy_from_slice(&0xffff_ff00_u32.to_le_bytes());
            let crc = crc32fast::hash(&block[..140]);
            block[140..144].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

/// A record claims 4 GiB.
fn claim_payload(segment: &mut [u8]) {
    for block in segment.chunks_exact_mut(BLOCK_BYTES).filter(|block| block.starts_with(b"RWALBTCH")) {
        if block[12] == 3 {
            block[144..148].copy_from_slice(&u32::MAX.to_le_bytes());
        }
    }
}

/// The static block claims a segment of 16 TiB, and its CRC agrees.
fn claim_segment(segment: &mut [u8]) {
    let bytes = u64::from(u32::MAX) * BLOCK_BYTES as u64;
    segment[40..48].copy_from_slice(&bytes.to_le_bytes());
    let crc = crc32fast::hash(&segment[..60]);
    segment[60..64].copy_from_slice(&crc.to_le_bytes());
}

/// Makes a log, changes its first segment, and lets everybody who reads it have a look: who takes too much at once?
/// What they answer is for other tests to judge.
fn offences(name: &str, change: fn(&mut [u8])) -> Vec<String> {
    let scratch = Scratch::new(name);
    let options =
        Options::default().segment_bytes(SEGMENT_BYTES as u64).pending_bytes_max(1 << 20).allow_volatile(true);
    let log = Log::open(&scratch.0, options.clone()).wait().unwrap();
    for record in [&b"one"[..], b"two", b"three"] {
        log.append(record).wait().unwrap();
    }
    log.close().wait().unwrap();
    drop(log);
    let path = scratch.0.join("0000000000000001.seg");
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, &bytes).unwrap();

    let mut offences = Vec::new();
    let mut measure = |who: &str, read: &dyn Fn()| {
        ALLOCATOR.start();
        read();
        let (_, largest) = ALLOCATOR.stop();
        println!("{name}: {who} takes {largest} bytes at once");
        if largest > READ_BYTES_MAX {
            offences.push(format!("{name}: {who} takes {largest} bytes at once"));
        }
    };
    measure("dump", &|| drop(ringwal::dump(&scratch.0)));
    measure("verify", &|| drop(verify(&scratch.0)));
    measure("a reader", &|| {
        if let Ok(Ok(records)) = Reader::open(&scratch.0).map(|reader| reader.read(..)) {
            records.for_each(drop);
        }
    });
    measure("an opening", &|| drop(Log::open(&scratch.0, options.clone()).wait()));
    offences
}

/// As [`offences`], with an end to waiting.
fn offences_in_time(name: &'static str, change: fn(&mut [u8])) -> Vec<String> {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(offences(name, change)));
    told.recv_timeout(HANG_TIME).unwrap_or_else(|_| vec![format!("{name}: hangs")])
}

#[test]
fn hostile_lengths_of_batches_and_records_are_not_allocated() {
    let _alone = alone();
    let found = [offences_in_time("records", claim_records), offences_in_time("payload", claim_payload)].concat();
    assert!(found.is_empty(), "{}", found.join("; "));
}

#[test]
fn a_hostile_length_of_a_segment_is_not_believed() {
    let _alone = alone();
    let both: fn(&mut [u8]) = |segment| {
        claim_records(segment);
        claim_segment(segment);
    };
    let found = [offences_in_time("segment", claim_segment), offences_in_time("both", both)].concat();
    assert!(found.is_empty(), "{}", found.join("; "));
}
