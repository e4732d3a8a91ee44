//! Promise P8 where memory, segments or callers misbehave: every future resolves.

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod rig;
}

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::rig::Scratch;
use ringwal::{Log, Lsn, Options};

const LONG: Duration = Duration::from_secs(60);

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONG, future).await.expect("a future does not resolve") })
}

/// Memory for four of the largest records.
fn tight() -> Options {
    Options::default().segment_bytes(8 << 20).record_bytes_max(1 << 20).pending_bytes_max(5 << 20)
}

#[test]
fn more_large_appends_than_memory_holds_all_resolve() {
    let scratch = Scratch::new("liveness-large");
    let log = Log::open(scratch.join("log"), tight()).wait().unwrap();
    run(async {
        let tasks: Vec<_> = (0..64u8)
            .map(|at| {
                let log = log.clone();
                tokio::spawn(async move {
                    for len in [200_000, 900_000, 10] {
                        log.append(&vec![at; len]).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        log.close().await.unwrap();
    });
    assert_eq!(log.durable_lsn(), Lsn::new(3 * 64));
}

#[test]
fn held_slots_block_nobody_and_commit_past_those_who_wait() {
    let scratch = Scratch::new("liveness-slots");
    let log = Log::open(scratch.join("log"), tight()).wait().unwrap();
    run(async {
        let mut slots = Vec::new();
        while let Ok(slot) = tokio::time::timeout(Duration::from_millis(100), log.reserve(900_000)).await {
            slots.push(slot.unwrap());
        }
        assert!(slots.len() >= 2, "{} slots", slots.len());
        log.append(b"beside the slots").await.unwrap();
        let mut waiting = Box::pin(log.reserve(900_000));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        log.append(b"past one who waits for a slot").await.unwrap();
        let behind = log.append(&[7; 300_000]);
        let commits = async {
            for mut slot in slots {
                slot.put(&[1; 900_000]);
                slot.commit().await.unwrap();
            }
        };
        tokio::join!(commits, async { drop(waiting.await.unwrap()) }, async { behind.await.unwrap() });
        log.close().await.unwrap();
    });
}

#[test]
fn blocks_larger_than_a_page_take_large_records() {
    let scratch = Scratch::new("liveness-blocks");
    let options = Options::default().segment_bytes(16 << 20).block_bytes(16384);
    let log = Log::open(scratch.join("log"), options).wait().unwrap();
    let record: Vec<u8> = (0..1_572_500u32).map(|at| at.to_le_bytes()[0]).collect();
    run(async {
        let lsn = log.append(&record).await.unwrap();
        assert_eq!(log.get(lsn).unwrap().unwrap().payload, record);
        log.close().await.unwrap();
    });
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker of a test");
    }
}

#[test]
fn a_waker_that_panics_harms_nobody_else() {
    let scratch = Scratch::new("liveness-waker");
    let log = Log::open(scratch.join("log"), Options::default().segment_bytes(1 << 20)).wait().unwrap();
    for round in 0..20u8 {
        let mut bad = Box::pin(log.append(b"bad"));
        let waker = Waker::from(Arc::new(Panics));
        if let Poll::Ready(lsn) = bad.as_mut().poll(&mut Context::from_waker(&waker)) {
            lsn.unwrap();
        }
        run(async { log.append(&[round]).await.unwrap() });
    }
    run(async { log.close().await.unwrap() });
}

#[test]
fn a_rotten_lock_line_is_no_verdict_on_the_log() {
    let scratch = Scratch::new("liveness-lock-line");
    let dir = scratch.join("log");
    let log = Log::open(&dir, Options::default().segment_bytes(1 << 20)).wait().unwrap();
    run(async {
        log.append(b"kept").await.unwrap();
        log.close().await.unwrap();
    });
    drop(log);
    let lock = dir.join("LOCK");
    let mut text = std::fs::read(&lock).unwrap();
    let at = text.windows(4).position(|word| word == b"log ").unwrap() + 6;
    text[at] = if text[at] == b'0' { b'1' } else { b'0' };
    std::fs::write(&lock, text).unwrap();
    let log = Log::open(&dir, Options::default().segment_bytes(1 << 20)).wait().unwrap();
    assert_eq!(log.durable_lsn(), Lsn::FIRST);
}

#[test]
fn a_log_whose_directory_is_taken_away_fails_and_still_closes() {
    let scratch = Scratch::new("liveness-removed");
    let dir = scratch.join("log");
    let log = Log::open(&dir, Options::default().segment_bytes(1 << 20)).wait().unwrap();
    run(async {
        log.append(b"first").await.unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let mut left = 10_000;
        while log.append(&[1; 4000]).await.is_ok() && left > 0 {
            left -= 1;
        }
        assert!(left > 0, "segments come from nowhere");
        assert!(log.close().await.is_err());
    });
}
