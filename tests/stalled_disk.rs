//! A writer killed over a stalled disk: its process is gone, its last write is not, and so the lock must not be either.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod image;
    pub(crate) mod logwrites;
    pub(crate) mod powercut;
    pub(crate) mod rig;
    pub(crate) mod witness;
    pub(crate) mod workload;
}

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::powercut::{FileSystem, Recorder, STALL_MAX, unavailable};
use common::rig::{Reaped, child as child_in, role, say, skip};
use common::witness::{Heard, Witness};
use common::workload::{Load, Teller, run};
use ringwal::{Engine, Log, Method, OpenError, Options};

const BYTES_MAX: usize = 8192;

fn options() -> Options {
    // A ring thread that makes system calls itself keeps the killed process until they return, and its lock with it: the
    // question is what becomes of the lock where the process goes and the write stays.
    Options::default().segment_bytes(2 << 20).engine(Engine::Auto).require_uring(true).method(Method::LinkedFdatasync)
}

/// The writer. Runs only in a child; otherwise it returns at once.
#[test]
fn child() {
    if role().as_deref() != Some("writer") {
        return;
    }
    let teller = Arc::new(Teller::new());
    let log = Log::open(std::env::var("RINGWAL_DIR").unwrap(), options()).wait().unwrap();
    // The helper prepares segments with ordinary calls, which would keep a killed process: let it finish first.
    let segments = || {
        std::fs::read_dir(log.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension() == Some("seg".as_ref()))
            .count()
    };
    wait_for("the segments are ready", || segments() == 3);
    std::thread::sleep(Duration::from_millis(50));
    teller.line(&format!("\nO {} {} 0 0", log.recovery_report().label, log.recovery_report().last));
    run(&log, Load { cycle: 0, tasks: 4, threads: 1, records: u32::MAX, bytes_max: BYTES_MAX }, &teller);
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_lock_outlives_a_writer_that_was_killed_over_a_stalled_disk() {
    const TEST: &str = "the_lock_outlives_a_writer_that_was_killed_over_a_stalled_disk";
    if role().is_some() {
        return;
    }
    if let Some(why) = unavailable(FileSystem::Ext4) {
        return skip(TEST, &why);
    }
    let recorder = Recorder::start(FileSystem::Ext4).unwrap();
    match Log::open(recorder.path().join("probe"), options()).wait() {
        Ok(log) => log.close().wait().unwrap(),
        Err(OpenError::UringRefused { why }) => return skip(TEST, &format!("needs io_uring: {why}")),
        Err(error) => panic!("{error}"),
    }
    let (mut gone, mut attempts, mut acks, mut in_flight) = (0, 0, 0, 0);
    // A flush in flight keeps the process, too; a write does not. Which of the two meets the stall is chance.
    while gone < 1 {
        attempts += 1;
        assert!(attempts <= 60, "{gone} of {attempts} writers were gone while a write was in flight");
        let dir = recorder.path().join("wal");
        let mut witness = Witness::new(BYTES_MAX);
        gone += u32::from(kill_over_stalled_disk(&recorder, &dir, &mut witness));
        assert!(witness.unanswered() > 0, "nothing was in flight");
        acks += witness.acks.len();
        in_flight += witness.unanswered();
        let log = Log::open(&dir, options()).wait().unwrap();
        let records: Vec<_> = log
            .read(..)
            .unwrap()
            .map(|record| record.unwrap())
            .map(|record| (record.lsn.get(), record.payload))
            .collect();
        let wrong = witness.judge(&records, u64::MAX);
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(records.len() as u64, log.recovery_report().last.get());
        log.close().wait().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
    say(&format!(
        "stalled disk: {attempts} writers killed, {gone} of them gone with a write in flight; {acks} acknowledged, {in_flight} in flight"
    ));
}

/// Stalls the disk under a writer, kills it, and finds the lock held; true if its process was gone by then.
fn kill_over_stalled_disk(recorder: &Recorder, dir: &Path, witness: &mut Witness) -> bool {
    let mut writer = Reaped(child_in("writer").env("RINGWAL_DIR", dir).spawn().unwrap());
    let pipe = writer.0.stdout.take().unwrap();
    let acks = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            witness.hear_all(pipe, |kind| {
                acks.fetch_add(usize::from(*kind == Heard::Ack), Ordering::Relaxed);
            });
        });
        wait_for("the first acknowledgements", || acks.load(Ordering::Relaxed) > 20);
        let stall = recorder.stall(STALL_MAX);
        // Every acknowledgement that was on its way has come when none comes any more.
        let mut before = usize::MAX;
        wait_for("the writer stops", || {
            std::thread::sleep(Duration::from_millis(100));
            let now = acks.load(Ordering::Relaxed);
            std::mem::replace(&mut before, now) == now
        });
        writer.0.kill().unwrap();
        let deadline = Instant::now() + Duration::from_millis(500);
        let mut gone = false;
        while !gone && Instant::now() < deadline {
            gone = writer.0.try_wait().unwrap().is_some();
            std::thread::sleep(Duration::from_millis(2));
        }
        // Without `create`: making an entry durable would itself wait for the disk.
        let refused = Log::open(dir, options().create(false).lock_wait(Duration::from_millis(300))).wait();
        let over = stall.is_over();
        drop(stall);
        match &refused {
            _ if over => gone = false,
            Err(OpenError::Held { path, .. }) => assert_eq!(path, dir),
            other => panic!("something is still in flight (process gone: {gone}), yet: {other:?}"),
        }
        writer.0.wait().unwrap();
        gone
    })
}
