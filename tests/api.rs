//! The contracts of the public handle, on a real disk.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod driven;
    pub(crate) mod rig;
}

use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use common::driven::Driven;
use common::rig::{Scratch, skip};
use ringwal::{AppendError, Engine, Log, Lsn, OpenError, Options, ReadError, Reader, Runtime, SubmitError};

/// For waits that should be short: longer is a failure, and nothing else is timed.
const LONG: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options::default().segment_bytes(1 << 20)
}

fn open(driven: Driven, dir: &Path) -> Log {
    driven.open(dir, options()).unwrap()
}

/// Each of these tests with a ring thread, and with a thread that has other things to do.
macro_rules! either_way {
    ($($test:ident),+ $(,)?) => {
        mod on_a_ring_thread {
            $(#[test] fn $test() { super::$test(super::Driven::RingThread); })+
        }
        mod inside_a_callers_thread {
            $(#[test] fn $test() { super::$test(super::Driven::CallersThread); })+
        }
    };
}

either_way!(
    an_acknowledged_record_is_there_for_the_next_opening,
    lsns_are_dense_from_many_tasks_on_every_runtime,
    at_the_bound_submit_is_refused_and_append_waits_its_turn,
    waiters_are_served_in_turn_and_dropped_ones_block_nobody,
    a_dropped_append_appends_nothing_before_its_first_poll_and_hurts_nobody_after,
    groups_take_consecutive_lsns_among_others,
    slots_take_their_lsn_at_commit_small_and_large,
    sync_and_wait_durable_tell_of_everything_before,
    close_makes_durable_what_was_appended_and_refuses_the_rest,
    a_panic_of_the_ring_thread_resolves_every_future,
    an_idle_log_seals_itself_so_that_readers_see_everything,
    delay_max_gathers_company_and_ends,
    times_without_end_are_never,
    every_engine_keeps_the_same_contract,
);

/// A bare executor: a thread and a waker that unparks it.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    let deadline = Instant::now() + LONG;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        assert!(Instant::now() < deadline, "a future does not resolve");
        std::thread::park_timeout(LONG);
    }
}

fn multi() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

fn current() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Polls once; whether it was ready.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn payloads(log: &Log) -> Vec<Vec<u8>> {
    log.read(..).unwrap().map(|record| record.unwrap().payload.to_vec()).collect()
}

fn an_acknowledged_record_is_there_for_the_next_opening(driven: Driven) {
    let scratch = Scratch::new("durable");
    let dir = scratch.join("log");
    let log = open(driven, &dir);
    assert_eq!((log.first_lsn(), log.durable_lsn(), log.appended_lsn()), (Lsn::new(1), Lsn::ZERO, Lsn::ZERO));
    assert_eq!(log.path(), dir);
    for number in 1..=20u64 {
        let lsn = block_on(log.append(&number.to_le_bytes())).unwrap();
        assert_eq!(lsn, Lsn::new(number));
        assert!(log.durable_lsn() >= lsn);
        assert_eq!(log.get(lsn).unwrap().unwrap().payload.as_ref(), number.to_le_bytes());
    }
    block_on(log.close()).unwrap();
    let reader = Reader::open(&dir).unwrap();
    assert_eq!((reader.first_lsn(), reader.durable_lsn(), reader.unclaimed()), (Lsn::new(1), Lsn::new(20), 0));
    let range: Vec<_> =
        reader.read(Lsn::new(5)..Lsn::new(8)).unwrap().map(|record| record.unwrap().lsn.get()).collect();
    assert_eq!(range, [5, 6, 7]);
    assert!(reader.get(Lsn::new(21)).unwrap().is_none());
    assert!(matches!(reader.read(Lsn::ZERO..), Ok(_) | Err(ReadError::Truncated { .. })));
    let log = open(driven, &dir);
    assert_eq!(log.recovery_report().label, "R10");
    assert_eq!(block_on(log.append(b"next")).unwrap(), Lsn::new(21));
    block_on(log.close()).unwrap();
}

/// Many tasks append; every LSN comes once, and in each task in order.
async fn appenders(log: Log, tasks: u64, each: u64) -> Vec<u64> {
    let mut lsns = Vec::new();
    let mut set = Vec::new();
    for task in 0..tasks {
        let log = log.clone();
        set.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            for number in 0..each {
                mine.push(log.append(format!("{task}/{number}").as_bytes()).await.unwrap().get());
            }
            assert!(mine.is_sorted(), "a task's records in its order");
            mine
        }));
    }
    for task in set {
        lsns.extend(task.await.unwrap());
    }
    lsns.sort_unstable();
    lsns
}

fn lsns_are_dense_from_many_tasks_on_every_runtime(driven: Driven) {
    let scratch = Scratch::new("dense");
    let log = open(driven, &scratch.join("log"));
    let expect = |from: u64, count: u64| (from..from + count).collect::<Vec<_>>();
    assert_eq!(multi().block_on(appenders(log.clone(), 32, 20)), expect(1, 640));
    assert_eq!(current().block_on(appenders(log.clone(), 16, 10)), expect(641, 160));
    let mut threads = Vec::new();
    for _ in 0..4 {
        let log = log.clone();
        threads.push(std::thread::spawn(move || {
            (0..20).map(|_| block_on(log.append(b"bare")).unwrap().get()).collect::<Vec<_>>()
        }));
    }
    let mut lsns: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    lsns.sort_unstable();
    assert_eq!(lsns, expect(801, 80));
    assert_eq!(payloads(&log).len(), 880);
    block_on(log.close()).unwrap();
}

#[test]
fn a_log_works_inside_tokio_uring() {
    let scratch = Scratch::new("tokio-uring");
    let dir = scratch.join("log");
    // It cannot be had everywhere; the log's own ring falls back, this one does not.
    let works = std::panic::catch_unwind(|| tokio_uring::start(async {})).is_ok();
    if !works {
        return skip("a_log_works_inside_tokio_uring", "io_uring is refused");
    }
    tokio_uring::start(async {
        let log = Log::open(&dir, options()).await.unwrap();
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let log = log.clone();
                tokio_uring::spawn(async move { log.append(b"inside").await.unwrap().get() })
            })
            .collect();
        let mut lsns = Vec::new();
        for task in tasks {
            lsns.push(task.await.unwrap());
        }
        lsns.sort_unstable();
        assert_eq!(lsns, (1..=8).collect::<Vec<_>>());
        log.close().await.unwrap();
    });
}

/// Room for two of the largest batches only.
fn tight() -> Options {
    Options::default()
        .segment_bytes(1 << 20)
        .record_bytes_max(60_000)
        .batch_bytes_max(64 << 10)
        .pending_bytes_max(128 << 10)
}

fn at_the_bound_submit_is_refused_and_append_waits_its_turn(driven: Driven) {
    let scratch = Scratch::new("bound");
    let log = driven.open(&scratch.join("log"), tight()).unwrap();
    let record = vec![7; 50_000];
    let mut full = 0;
    let mut pending = Vec::new();
    while full < 5 {
        match log.submit(&record) {
            Ok(one) => pending.push(one),
            Err(SubmitError::Full) => full += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(log.stats().pending_bytes <= 128 << 10, "memory is bounded");
        assert!(pending.len() < 10_000, "the bound is never met");
    }
    // Appends far over the bound: all get through.
    let runtime = multi();
    let peak = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (log, record, peak) = (log.clone(), record.clone(), peak.clone());
            runtime.spawn(async move {
                let lsn = log.append(&record).await.unwrap();
                peak.fetch_max(log.stats().pending_bytes, Ordering::Relaxed);
                lsn
            })
        })
        .collect();
    let mut lsns: Vec<_> = tasks.into_iter().map(|task| runtime.block_on(task).unwrap().get()).collect();
    lsns.sort_unstable();
    let first = pending.len() as u64 + 1;
    assert_eq!(lsns, (first..first + 64).collect::<Vec<_>>());
    assert!(peak.load(Ordering::Relaxed) <= 128 << 10);
    for (number, one) in pending.into_iter().enumerate() {
        assert_eq!(one.wait().unwrap().get(), number as u64 + 1);
    }
    block_on(log.close()).unwrap();
}

fn waiters_are_served_in_turn_and_dropped_ones_block_nobody(driven: Driven) {
    let scratch = Scratch::new("turns");
    // Slots of the pool are the bound here, and they stay where they are until they are dropped.
    let options = Options::default()
        .segment_bytes(4 << 20)
        .record_bytes_max(200 << 10)
        .batch_bytes_max(256 << 10)
        .pending_bytes_max(512 << 10);
    let log = driven.open(&scratch.join("log"), options).unwrap();
    let mut slots = Vec::new();
    loop {
        let mut reserve = Box::pin(log.reserve(200 << 10));
        match poll_once(reserve.as_mut()) {
            Poll::Ready(slot) => slots.push(slot.unwrap()),
            Poll::Pending => break,
        }
        assert!(slots.len() < 100, "the bound is never met");
    }
    let (one, gone, two) = (vec![1; 190 << 10], vec![2; 190 << 10], vec![3; 190 << 10]);
    let mut first = Box::pin(log.append(&one));
    let mut dropped = Box::pin(log.append(&gone));
    let mut second = Box::pin(log.append(&two));
    for append in [&mut first, &mut dropped, &mut second] {
        assert!(poll_once(append.as_mut()).is_pending());
    }
    assert!(matches!(log.submit(&gone), Err(SubmitError::Full)));
    assert_eq!(log.appended_lsn(), Lsn::ZERO, "nobody has an LSN yet");
    drop(dropped);
    slots.clear();
    // Polled the other way round: the turn decides, not the poll.
    assert!(poll_once(second.as_mut()).is_pending());
    let lsns = block_on(poll_fn(|cx| {
        let one = first.as_mut().poll(cx);
        let two = second.as_mut().poll(cx);
        match (one, two) {
            (Poll::Ready(one), Poll::Pending) => Poll::Ready((one, None)),
            (Poll::Ready(one), Poll::Ready(two)) => Poll::Ready((one, Some(two))),
            (Poll::Pending, Poll::Ready(two)) => panic!("{two:?} before its turn"),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    }));
    assert_eq!(lsns.0.unwrap(), Lsn::new(1));
    block_on(log.wait_durable(Lsn::new(2))).unwrap();
    assert_eq!(payloads(&log), [one.clone(), two.clone()]);
    block_on(log.close()).unwrap();
}

fn a_dropped_append_appends_nothing_before_its_first_poll_and_hurts_nobody_after(driven: Driven) {
    let scratch = Scratch::new("cancel");
    let log = open(driven, &scratch.join("log"));
    drop(log.append(b"never polled"));
    assert_eq!(log.appended_lsn(), Lsn::ZERO);
    let mut kept = 0;
    for _ in 0..50 {
        let mut append = Box::pin(log.append(b"polled once"));
        let _ = poll_once(append.as_mut());
        drop(append);
        kept += 1;
    }
    let last = block_on(log.append(b"after")).unwrap();
    assert_eq!(last.get(), kept + 1, "a poll that found room took an LSN");
    assert_eq!(payloads(&log).len() as u64, last.get(), "no hole");
    // The same of the other futures.
    let batch: [&[u8]; 2] = [b"a", b"b"];
    drop(log.append_batch(&batch));
    drop(log.reserve(10));
    drop(block_on(log.reserve(300 << 10)));
    drop(log.submit(b"nobody waits").unwrap());
    drop(log.wait_durable(Lsn::new(9999)));
    assert_eq!(block_on(log.append(b"end")).unwrap().get(), last.get() + 2);
    block_on(log.close()).unwrap();
}

fn groups_take_consecutive_lsns_among_others(driven: Driven) {
    let scratch = Scratch::new("groups");
    let log = open(driven, &scratch.join("log"));
    let runtime = multi();
    let tasks: Vec<_> = (0..16u8)
        .map(|task| {
            let log = log.clone();
            runtime.spawn(async move {
                for round in 0..10u8 {
                    let group: Vec<_> = (0..5u8).map(|member| vec![task, round, member]).collect();
                    let lsns = log.append_batch(&group).await.unwrap();
                    assert_eq!(lsns.end().since(*lsns.start()), 4);
                    log.append(b"between").await.unwrap();
                    for (member, record) in log.read(lsns).unwrap().enumerate() {
                        assert_eq!(record.unwrap().payload, group[member]);
                    }
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
    assert_eq!(log.durable_lsn(), Lsn::new(16 * 10 * 6));
    block_on(log.close()).unwrap();
}

fn slots_take_their_lsn_at_commit_small_and_large(driven: Driven) {
    let scratch = Scratch::new("slots");
    let log = driven.open(&scratch.join("log"), Options::default().segment_bytes(8 << 20)).unwrap();
    for len in [0, 1, 4096, (128 << 10) - 1, 128 << 10, 1 << 20, 2 << 20] {
        let mut held = block_on(log.reserve(len)).unwrap();
        let before = block_on(log.append(b"meanwhile")).unwrap();
        let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let (head, tail) = bytes.split_at(len / 3);
        held.put(head);
        assert_eq!(held.remaining(), len - head.len());
        held.put(tail);
        let lsn = block_on(held.commit()).unwrap();
        assert_eq!(lsn, before.next(), "a held slot blocks nobody");
        assert!(log.get(lsn).unwrap().unwrap().payload == bytes, "{len} bytes");
        // Filled in part, and through the slice.
        let mut part = block_on(log.reserve(len)).unwrap();
        let filled = len / 2;
        part.as_mut()[..filled].fill(9);
        part.filled_to(filled);
        let lsn = block_on(part.commit()).unwrap();
        assert!(log.get(lsn).unwrap().unwrap().payload == vec![9; filled]);
        drop(block_on(log.reserve(len)).unwrap());
    }
    block_on(log.close()).unwrap();
}

fn sync_and_wait_durable_tell_of_everything_before(driven: Driven) {
    let scratch = Scratch::new("sync");
    let log = open(driven, &scratch.join("log"));
    assert_eq!(block_on(log.sync()).unwrap(), Lsn::ZERO);
    let pending: Vec<_> = (0..100).map(|_| log.submit(b"record").unwrap()).collect();
    assert_eq!(log.appended_lsn(), Lsn::new(100));
    assert!(block_on(log.sync()).unwrap() >= Lsn::new(100));
    assert!(pending.into_iter().all(|one| matches!(poll_once(pin!(one)), Poll::Ready(Ok(_)))));
    // Of a record that nobody has appended yet, too.
    let waiter = {
        let log = log.clone();
        std::thread::spawn(move || block_on(log.wait_durable(Lsn::new(105))).unwrap())
    };
    for _ in 0..5 {
        block_on(log.append(b"record")).unwrap();
    }
    assert!(waiter.join().unwrap() >= Lsn::new(105));
    // The end of the log ends it.
    let waiter = {
        let log = log.clone();
        std::thread::spawn(move || block_on(log.wait_durable(Lsn::new(999))))
    };
    std::thread::sleep(Duration::from_millis(20));
    block_on(log.close()).unwrap();
    assert_eq!(waiter.join().unwrap(), Err(AppendError::Closed));
}

fn close_makes_durable_what_was_appended_and_refuses_the_rest(driven: Driven) {
    let scratch = Scratch::new("close");
    let dir = scratch.join("log");
    let log = open(driven, &dir);
    let other = log.clone();
    let pending: Vec<_> = (0..500).map(|_| log.submit(b"record").unwrap()).collect();
    block_on(log.close()).unwrap();
    for (number, one) in pending.into_iter().enumerate() {
        assert_eq!(block_on(one).unwrap().get(), number as u64 + 1);
    }
    assert_eq!(block_on(other.append(b"late")), Err(AppendError::Closed));
    assert!(matches!(other.submit(b"late"), Err(SubmitError::Append(AppendError::Closed))));
    assert!(matches!(block_on(other.reserve(200 << 10)), Err(AppendError::Closed)));
    assert_eq!(block_on(other.append_batch(&[b"late"])), Err(AppendError::Closed));
    assert_eq!(other.durable_lsn(), Lsn::new(500), "it can still be asked");
    block_on(other.close()).unwrap();
    let again = open(driven, &dir);
    assert_eq!((again.recovery_report().label, again.durable_lsn()), ("R10", Lsn::new(500)));
    // The last handle's drop closes, in the background.
    again.submit(b"dropped").map(drop).unwrap();
    drop(again);
    let mut opened = None;
    wait_until("the dropped log is let go", || match driven.open(&dir, options()) {
        Ok(log) => opened.replace(log).is_none(),
        Err(OpenError::Held { .. }) => false,
        Err(error) => panic!("{error}"),
    });
    let log = opened.unwrap();
    assert_eq!((log.recovery_report().label, log.durable_lsn()), ("R10", Lsn::new(501)));
    block_on(log.close()).unwrap();
}

fn a_panic_of_the_ring_thread_resolves_every_future(driven: Driven) {
    let scratch = Scratch::new("panic");
    let dir = scratch.join("log");
    // Nothing is acknowledged before the panic: batches wait for company.
    let log = driven.open(&dir, tight().delay_max(Duration::from_secs(60))).unwrap();
    let staged: Vec<_> = (0..10).map(|_| log.submit(b"staged").unwrap()).collect();
    let waiter = {
        let log = log.clone();
        std::thread::spawn(move || block_on(log.wait_durable(Lsn::new(10))))
    };
    log.panic_for_tests();
    let poisoned =
        |result: &Result<Lsn, AppendError>| matches!(result, Err(AppendError::Poisoned(ringwal::Cause::Panic(_))));
    for one in staged {
        let result = block_on(one);
        assert!(poisoned(&result), "{result:?}");
    }
    let result = waiter.join().unwrap();
    assert!(poisoned(&result), "{result:?}");
    let result = block_on(log.append(b"after"));
    assert!(poisoned(&result), "{result:?}");
    assert!(matches!(block_on(log.close()), Err(AppendError::Poisoned(_))), "close returns, and tells");
    drop(log);
    let log = open(driven, &dir);
    assert_eq!(block_on(log.append(b"works again")).unwrap(), log.appended_lsn());
    block_on(log.close()).unwrap();
}

#[test]
fn a_runtime_serves_several_logs_on_pinned_threads() {
    let scratch = Scratch::new("runtime");
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let runtime = Runtime::builder().cores(0..cores).build().unwrap();
    assert_eq!(runtime.threads(), cores);
    let dirs: Vec<_> = (0..4).map(|number| scratch.join(&format!("log-{number}"))).collect();
    let logs: Vec<_> = dirs.iter().map(|dir| Log::open_on(&runtime, dir, options()).wait().unwrap()).collect();
    let tokio = multi();
    for log in &logs {
        assert_eq!(tokio.block_on(appenders(log.clone(), 8, 20)).len(), 160);
    }
    // One closes, the others go on.
    block_on(logs[0].close()).unwrap();
    for log in &logs[1..] {
        assert_eq!(block_on(log.append(b"still here")).unwrap(), Lsn::new(161));
    }
    drop(runtime);
    block_on(logs[1].append(b"the runtime's handle is gone")).unwrap();
    for log in &logs[1..] {
        block_on(log.close()).unwrap();
    }
    for (dir, last) in dirs.iter().zip([160, 162, 161, 161]) {
        assert_eq!(Reader::open(dir).unwrap().durable_lsn(), Lsn::new(last));
    }
    assert!(Runtime::builder().cores([4095]).build().is_err(), "a core that does not exist");
}

fn an_idle_log_seals_itself_so_that_readers_see_everything(driven: Driven) {
    let scratch = Scratch::new("idle");
    let dir = scratch.join("log");
    let log = open(driven, &dir);
    for round in 1..=3 {
        let pending: Vec<_> = (0..10).map(|_| log.submit(b"record").unwrap()).collect();
        assert!(pending.into_iter().all(|one| one.wait().is_ok()));
        wait_until("the idle seal", || {
            let reader = Reader::open(&dir).unwrap();
            assert!(reader.durable_lsn().get() + reader.unclaimed() <= round * 10);
            reader.durable_lsn() == Lsn::new(round * 10) && reader.unclaimed() == 0
        });
        // A reader may see it while its flush is still under way.
        wait_until("the seal is counted", || log.stats().seals >= round);
    }
    let seals = log.stats().seals;
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(log.stats().seals, seals, "a sealed log is left alone");
    block_on(log.close()).unwrap();
}

fn delay_max_gathers_company_and_ends(driven: Driven) {
    let scratch = Scratch::new("delay");
    let log = driven.open(&scratch.join("log"), options().delay_max(Duration::from_millis(50))).unwrap();
    let before = log.stats().flushes;
    let pending: Vec<_> = (0..20).map(|_| log.submit(b"record").unwrap()).collect();
    assert!(pending.into_iter().all(|one| one.wait().is_ok()));
    assert!(log.stats().flushes - before < 20, "records that came within the delay share batches");
    assert_eq!(block_on(log.append(b"alone")).unwrap(), Lsn::new(21));
    // Closing does not wait for it.
    let log = {
        block_on(log.close()).unwrap();
        driven.open(&scratch.join("slow"), options().delay_max(Duration::from_secs(3600))).unwrap()
    };
    let one = log.submit(b"record").unwrap();
    block_on(log.close()).unwrap();
    assert_eq!(one.wait().unwrap(), Lsn::new(1));
}

fn times_without_end_are_never(driven: Driven) {
    let scratch = Scratch::new("never");
    let never = options().idle_seal(Duration::MAX).lock_wait(Duration::MAX);
    let log = driven.open(&scratch.join("unsealed"), never).unwrap();
    for lsn in 1..=2 {
        assert_eq!(block_on(log.append(b"record")).unwrap(), Lsn::new(lsn));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(log.stats().seals, 0, "never idle for long enough");
    block_on(log.close()).unwrap();
    let log = driven.open(&scratch.join("held"), options().delay_max(Duration::MAX)).unwrap();
    let one = log.submit(b"record").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    block_on(log.close()).unwrap();
    assert_eq!(one.wait().unwrap(), Lsn::new(1));
}

#[test]
fn options_out_of_bounds_are_named_and_make_nothing() {
    let scratch = Scratch::new("options");
    let dir = scratch.join("log");
    let cases = [
        ("block_bytes", Options::default().block_bytes(3000)),
        ("block_bytes", Options::default().block_bytes(1 << 20)),
        ("segment_bytes", Options::default().segment_bytes(0)),
        ("segment_bytes", Options::default().segment_bytes(17 << 30)),
        ("flight_max", Options::default().flight_max(0)),
        ("flight_max", Options::default().flight_max(65)),
        ("record_bytes_max", Options::default().record_bytes_max(0)),
        ("record_bytes_max", Options::default().record_bytes_max(2 << 30)),
        ("batch_bytes_max", Options::default().batch_bytes_max(0)),
        ("pending_bytes_max", Options::default().pending_bytes_max(0)),
    ];
    for (option, options) in cases {
        match Log::open(&dir, options).wait() {
            Err(OpenError::Options(error)) => {
                assert_eq!(error.option, option);
                assert!(error.to_string().contains(option) && !error.why.is_empty());
            }
            other => panic!("{option}: {other:?}"),
        }
    }
    let files = std::fs::read_dir(&dir).map_or(0, Iterator::count);
    assert_eq!(files, 0, "a refused opening left files");
    // And at the bounds.
    for options in [
        Options::default().segment_bytes(64 << 10),
        Options::default().segment_bytes(1 << 20).flight_max(64),
        Options::default().block_bytes(65536),
    ] {
        let dir = scratch.join("bounds");
        let log = Log::open(&dir, options).wait().unwrap();
        assert_eq!(block_on(log.append(b"record")).unwrap(), Lsn::new(1));
        block_on(log.close()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

fn every_engine_keeps_the_same_contract(driven: Driven) {
    let scratch = Scratch::new("engines");
    for (name, engine) in [("auto", Engine::Auto), ("syscalls", Engine::Syscalls)] {
        let dir = scratch.join(name);
        let log = driven.open(&dir, options().engine(engine)).unwrap();
        assert_eq!(multi().block_on(appenders(log.clone(), 16, 50)).len(), 800);
        assert_eq!(log.stats().records, 800);
        assert_eq!(payloads(&log).len(), 800);
        block_on(log.close()).unwrap();
        // What one wrote the other opens.
        let other = if engine == Engine::Auto { Engine::Syscalls } else { Engine::Auto };
        let log = driven.open(&dir, options().engine(other)).unwrap();
        assert_eq!((log.recovery_report().label, log.durable_lsn()), ("R10", Lsn::new(800)));
        block_on(log.close()).unwrap();
    }
}

#[test]
fn an_abandoned_opening_lets_go() {
    let scratch = Scratch::new("abandoned");
    let dir = scratch.join("log");
    drop(Log::open(&dir, options()));
    assert!(!dir.exists(), "an opening that was never polled does nothing");
    let mut opening = Box::pin(Log::open(&dir, options()));
    assert!(poll_once(opening.as_mut()).is_pending());
    drop(opening);
    let mut opened = None;
    wait_until("the abandoned opening lets go", || match Log::open(&dir, options()).wait() {
        Ok(log) => opened.replace(log).is_none(),
        Err(OpenError::Held { .. }) => false,
        Err(error) => panic!("{error}"),
    });
    assert_eq!(block_on(opened.unwrap().append(b"record")).unwrap(), Lsn::new(1));
}
