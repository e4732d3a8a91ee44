//! Following a log: every durable record, in order, across rotations and truncations, never one that is not durable.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod driven;
    pub(crate) mod rig;
}

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use common::driven::Driven;
use common::rig::Scratch;
use ringwal::{Log, Lsn, Options, ReadError, Tail, TruncateError};

/// For waits that should be short: longer is a failure, and nothing else is timed.
const LONG: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options::default().segment_bytes(1 << 20)
}

fn open(driven: Driven, dir: &Path, options: Options) -> Log {
    driven.open(dir, options).unwrap()
}

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
    many_tails_see_every_record_across_rotations,
    a_tail_that_starts_behind_catches_up_and_goes_on,
    a_tail_at_the_live_end_sleeps_until_there_is_something,
    a_tail_ends_with_the_log,
    truncating_before_frees_segments_durably_and_tells_readers,
    reading_finds_its_place_in_a_long_segment,
    truncating_after_takes_back_for_good_and_the_log_goes_on,
    appends_that_meet_a_new_epoch_wait_and_go_on,
    who_reads_while_the_log_is_cut_back_is_told_and_never_mixes_branches,
);

/// What record `lsn` holds: of very different lengths.
fn payload(lsn: u64) -> Vec<u8> {
    let len = match lsn % 50 {
        0 => 0,
        1 => 40_000,
        rest => (rest * 37 % 900) as usize,
    };
    (0..len).map(|at| (lsn as usize * 31 + at * 7) as u8).collect()
}

/// Polls on this thread, sleeping in between; panics when that takes too long.
fn next(tail: &mut Tail) -> Option<Result<ringwal::Record, ReadError>> {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let begin = Instant::now();
    loop {
        match pin!(tail.next()).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(item) => return item,
            Poll::Pending => std::thread::park_timeout(LONG),
        }
        assert!(begin.elapsed() < LONG, "a tail that nobody wakes");
    }
}

fn append(log: &Log, lsns: std::ops::RangeInclusive<u64>) {
    let mut pending = std::collections::VecDeque::new();
    for lsn in lsns {
        let payload = payload(lsn);
        loop {
            match log.submit(&payload) {
                Ok(one) => break pending.push_back(one),
                Err(ringwal::SubmitError::Full) => match pending.pop_front() {
                    Some(one) => drop(one.wait().unwrap()),
                    None => std::thread::yield_now(),
                },
                Err(error) => panic!("{error}"),
            }
        }
    }
    for one in pending {
        one.wait().unwrap();
    }
}

fn expect(log: &Log, tail: &mut Tail, lsns: std::ops::RangeInclusive<u64>) {
    for lsn in lsns {
        let record = next(tail).unwrap().unwrap();
        assert_eq!(record.lsn, Lsn::new(lsn));
        assert!(record.payload == payload(lsn), "record {lsn}");
        assert!(record.lsn <= log.durable_lsn(), "shown before it was durable (P7)");
    }
}

fn many_tails_see_every_record_across_rotations(driven: Driven) {
    for recent in [0, 100_000, 16 << 20] {
        let scratch = Scratch::new("tail-many");
        let log = open(driven, &scratch.join("log"), options().recent_bytes_max(recent));
        std::thread::scope(|scope| {
            for from in [1, 1, 2, 500, 1500, 3000] {
                let log = log.clone();
                scope.spawn(move || {
                    let mut tail = log.tail(Lsn::new(from));
                    expect(&log, &mut tail, from..=3000);
                    assert_eq!(tail.next_lsn(), Lsn::new(3001));
                });
            }
            append(&log, 1..=3000);
        });
        assert!(log.stats().rotations > 0, "no rotation, no test");
        log.close().wait().unwrap();
    }
}

fn a_tail_that_starts_behind_catches_up_and_goes_on(driven: Driven) {
    let scratch = Scratch::new("tail-behind");
    let dir = scratch.join("log");
    let log = open(driven, &dir, options());
    append(&log, 1..=2500);
    log.close().wait().unwrap();
    let log = open(driven, &dir, options());
    let mut slow = log.tail(Lsn::ZERO);
    let mut late = log.tail(Lsn::new(2400));
    expect(&log, &mut slow, 1..=100);
    append(&log, 2501..=2600);
    expect(&log, &mut late, 2400..=2600);
    expect(&log, &mut slow, 101..=2600);
    append(&log, 2601..=2610);
    expect(&log, &mut slow, 2601..=2610);
    log.close().wait().unwrap();
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn a_tail_at_the_live_end_sleeps_until_there_is_something(driven: Driven) {
    let scratch = Scratch::new("tail-sleep");
    let log = open(driven, &scratch.join("log"), options());
    append(&log, 1..=10);
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let poll = |tail: &mut Tail| pin!(tail.next()).poll(&mut Context::from_waker(&waker)).is_pending();
    let mut tail = log.tail(Lsn::new(11));
    assert!(poll(&mut tail));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(count.0.load(Ordering::SeqCst), 0, "woken for nothing");
    append(&log, 11..=11);
    let begin = Instant::now();
    while count.0.load(Ordering::SeqCst) == 0 {
        assert!(begin.elapsed() < LONG, "not woken");
        std::thread::yield_now();
    }
    expect(&log, &mut tail, 11..=11);
    // One that waits for what is far ahead is not shown what comes before.
    let mut ahead = log.tail(Lsn::new(15));
    assert!(poll(&mut ahead));
    append(&log, 12..=16);
    expect(&log, &mut ahead, 15..=16);
    drop(tail);
    log.close().wait().unwrap();
}

fn a_tail_ends_with_the_log(driven: Driven) {
    let scratch = Scratch::new("tail-end");
    let dir = scratch.join("log");
    let log = open(driven, &dir, options());
    let mut tail = log.tail(Lsn::FIRST);
    append(&log, 1..=20);
    log.close().wait().unwrap();
    expect(&log, &mut tail, 1..=20);
    assert!(next(&mut tail).is_none());
    assert!(next(&mut tail).is_none());
    let log = open(driven, &dir, options());
    let mut tail = log.tail(Lsn::new(20));
    expect(&log, &mut tail, 20..=20);
    log.panic_for_tests();
    assert!(matches!(next(&mut tail), Some(Err(ReadError::Poisoned(_)))));
    assert!(next(&mut tail).is_none());
}

fn segments(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".seg")).count()
}

fn truncating_before_frees_segments_durably_and_tells_readers(driven: Driven) {
    let scratch = Scratch::new("tail-truncate");
    let dir = scratch.join("log");
    let log = open(driven, &dir, options());
    append(&log, 1..=20_000);
    let before = segments(&dir);
    let mut behind = log.tail(Lsn::new(50));
    expect(&log, &mut behind, 50..=51);
    let mut old = log.read(Lsn::new(50)..).unwrap();
    assert!(matches!(log.truncate_before(Lsn::new(20_002)).wait(), Err(TruncateError::Beyond { .. })));
    assert_eq!(log.first_lsn(), Lsn::FIRST);
    assert_eq!(log.truncate_before(Lsn::new(15_000)).wait(), Ok(Lsn::new(15_000)));
    assert_eq!(log.first_lsn(), Lsn::new(15_000));
    assert!(segments(&dir) < before, "nothing was freed");
    assert_eq!(log.truncate_before(Lsn::new(10)).wait(), Ok(Lsn::new(15_000)), "it never goes back");
    assert!(matches!(log.read(Lsn::new(14_999)..), Err(ReadError::Truncated { first }) if first == Lsn::new(15_000)));
    // What was read before goes on, without a gap, until it is told.
    let mut expected = 52;
    loop {
        match next(&mut behind).unwrap() {
            Ok(record) => assert_eq!(record.lsn, Lsn::new(expected)),
            Err(ReadError::Truncated { first }) => break assert_eq!(first, Lsn::new(15_000)),
            Err(error) => panic!("{error}"),
        }
        expected += 1;
        assert!(expected < 15_000, "it read what was truncated");
    }
    assert!(next(&mut behind).is_none());
    let told = old.by_ref().find_map(Result::err);
    assert!(matches!(told, None | Some(ReadError::Truncated { .. })), "{told:?}");
    append(&log, 20_001..=20_500);
    assert_eq!(log.truncate_before(Lsn::new(20_501)).wait(), Ok(Lsn::new(20_501)));
    assert_eq!(log.read(..).unwrap().count(), 0);
    log.close().wait().unwrap();
    assert_eq!(log.truncate_before(Lsn::new(20_501)).wait(), Err(TruncateError::Closed));
    let log = open(driven, &dir, options());
    assert_eq!((log.first_lsn(), log.durable_lsn()), (Lsn::new(20_501), Lsn::new(20_500)));
    append(&log, 20_501..=20_600);
    let mut tail = log.tail(Lsn::new(20_501));
    expect(&log, &mut tail, 20_501..=20_600);
    let mut gone = log.tail(Lsn::new(20_000));
    assert!(matches!(next(&mut gone), Some(Err(ReadError::Truncated { .. }))));
    log.close().wait().unwrap();
}

fn reading_finds_its_place_in_a_long_segment(driven: Driven) {
    let scratch = Scratch::new("tail-seek");
    let dir = scratch.join("log");
    let log = open(driven, &dir, options().segment_bytes(16 << 20));
    append(&log, 1..=20_000);
    let get = |lsn: u64| {
        let record = log.get(Lsn::new(lsn)).unwrap().unwrap();
        assert_eq!(record.lsn, Lsn::new(lsn));
        assert!(record.payload == payload(lsn), "record {lsn}");
    };
    (1..=20_000).step_by(397).chain([1, 2, 19_999, 20_000]).for_each(get);
    assert_eq!(log.get(Lsn::new(20_001)).unwrap(), None);
    log.close().wait().unwrap();
}

fn truncating_after_takes_back_for_good_and_the_log_goes_on(driven: Driven) {
    let scratch = Scratch::new("tail-cut");
    let dir = scratch.join("log");
    let log = open(driven, &dir, options());
    append(&log, 1..=3000);
    let (mut ahead, mut behind) = (log.tail(Lsn::new(2990)), log.tail(Lsn::new(100)));
    expect(&log, &mut ahead, 2990..=3000);
    expect(&log, &mut behind, 100..=150);
    assert!(matches!(log.truncate_after(Lsn::new(3001)).wait(), Err(TruncateError::Beyond { .. })));
    assert!(matches!(log.truncate_after(Lsn::ZERO).wait(), Err(TruncateError::Below { .. })));
    assert_eq!(log.durable_lsn(), Lsn::new(3000));
    assert_eq!(log.truncate_after(Lsn::new(2500)).wait(), Ok(Lsn::new(2500)));
    assert_eq!((log.durable_lsn(), log.appended_lsn()), (Lsn::new(2500), Lsn::new(2500)));
    assert_eq!(log.read(Lsn::new(2500)..).unwrap().count(), 1);
    assert!(matches!(next(&mut ahead), Some(Err(ReadError::CutBack { last })) if last == Lsn::new(2500)));
    assert!(next(&mut ahead).is_none());
    // The same LSNs, other records: as long, so that what stood there before would fit.
    let other = |lsn: u64| payload(lsn).iter().map(|byte| byte ^ 0x55).collect::<Vec<_>>();
    for lsn in 2501..=2600 {
        assert_eq!(log.append(&other(lsn)).wait().unwrap(), Lsn::new(lsn));
    }
    for round in 0..2 {
        let mut tail = log.tail(Lsn::new(2400));
        for lsn in 2400..=2600 {
            let record = next(&mut tail).unwrap().unwrap();
            let expected = if lsn <= 2500 { payload(lsn) } else { other(lsn) };
            assert!(record.lsn == Lsn::new(lsn) && record.payload == expected, "record {lsn}, round {round}");
        }
        assert_eq!(log.get(Lsn::new(2550)).unwrap().unwrap().payload, other(2550));
        assert_eq!(log.truncate_after(Lsn::new(2600)).wait(), Ok(Lsn::new(2600)));
    }
    assert_eq!(log.term(), 0);
    assert_eq!(log.begin_term(7).wait(), Ok(Lsn::new(2600)));
    assert_eq!(log.begin_term(3).wait(), Ok(Lsn::new(2600)), "terms never fall");
    assert_eq!(log.term(), 7);
    log.close().wait().unwrap();
    assert_eq!(log.truncate_after(Lsn::new(10)).wait(), Err(TruncateError::Closed));
    let log = open(driven, &dir, options());
    assert_eq!((log.durable_lsn(), log.term()), (Lsn::new(2600), 7));
    let found = log.read(..).unwrap().map(|record| record.unwrap());
    assert_eq!(
        found.map(|record| record.payload.len()).sum::<usize>(),
        (1..=2600).map(|lsn| payload(lsn).len()).sum::<usize>()
    );
    log.close().wait().unwrap();
    drop(behind);
}

fn appends_that_meet_a_new_epoch_wait_and_go_on(driven: Driven) {
    let scratch = Scratch::new("tail-epochs");
    let dir = scratch.join("log");
    let log = open(driven, &dir, options());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let appenders: Vec<_> = (0..4u8)
            .map(|who| {
                let (log, stop) = (log.clone(), &stop);
                scope.spawn(move || {
                    let mut count = 0u64;
                    while !stop.load(Ordering::SeqCst) {
                        match count % 3 {
                            0 => drop(log.append(&[who; 300]).wait().unwrap()),
                            1 => drop(log.append_batch(&[[who; 10], [who; 10]]).wait().unwrap()),
                            _ => drop(log.append(&vec![who; 200_000]).wait().unwrap()),
                        }
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for round in 0..20u64 {
            let begin = Instant::now();
            while log.durable_lsn() < Lsn::new(10) && begin.elapsed() < LONG {
                std::thread::yield_now();
            }
            let kept = log.durable_lsn();
            let last = if round % 2 == 0 { kept } else { Lsn::new(kept.get() / 2 + 1) };
            assert_eq!(log.truncate_after(last).wait(), Ok(last));
            assert!(log.begin_term(round).wait().unwrap() >= last);
        }
        stop.store(true, Ordering::SeqCst);
        for appender in appenders {
            assert!(appender.join().unwrap() > 0);
        }
    });
    let last = log.sync().wait().unwrap();
    for record in log.read(..).unwrap() {
        let record = record.unwrap();
        assert!(record.payload.iter().all(|byte| *byte == record.payload[0]), "torn {}", record.lsn);
    }
    assert_eq!(log.read(..).unwrap().count() as u64, last.get());
    log.close().wait().unwrap();
    assert_eq!(ringwal::verify(&dir).unwrap().last, last);
}

fn who_reads_while_the_log_is_cut_back_is_told_and_never_mixes_branches(driven: Driven) {
    let scratch = Scratch::new("tail-branches");
    let dir = scratch.join("log");
    let log = open(driven, &dir, options());
    append(&log, 1..=2000);
    let mut begun = log.read(..).unwrap();
    for lsn in 1..=100 {
        assert_eq!(begun.next().unwrap().unwrap().lsn, Lsn::new(lsn));
    }
    let fresh = log.read(..).unwrap();
    let mut waiting = log.tail(Lsn::new(2100));
    let waker = Waker::noop();
    assert!(pin!(waiting.next()).poll(&mut Context::from_waker(waker)).is_pending());
    let mut follow = ringwal::Follow::open(&dir, Lsn::new(1990)).unwrap();
    while follow.next_lsn() <= Lsn::new(1999) {
        shown(&mut follow).unwrap();
    }
    // Grown beyond where it was, and cut back again, before anybody looks.
    let sync = log.sync();
    assert_eq!(log.truncate_after(Lsn::new(500)).wait(), Ok(Lsn::new(500)));
    assert!(sync.wait().is_ok(), "what was appended before was durable");
    append(&log, 501..=2500);
    assert_eq!(log.truncate_after(Lsn::new(2400)).wait(), Ok(Lsn::new(2400)));
    for mut records in [begun, fresh] {
        let last = records.by_ref().map_while(Result::ok).map(|record| record.lsn).last();
        assert!(last.is_none_or(|last| last <= Lsn::new(500)), "{last:?} of what was taken back");
    }
    let told = loop {
        match shown(&mut follow) {
            Ok(record) => assert!(record.lsn <= Lsn::new(2000)),
            Err(error) => break error,
        }
    };
    assert!(matches!(told, ReadError::CutBack { last } if last == Lsn::new(500)), "{told}");
    assert!(follow.refresh().is_err() && follow.next_ready().is_err(), "that is final");
    // It was shown nothing: it goes on waiting for what it asked for.
    expect(&log, &mut waiting, 2100..=2400);
    log.close().wait().unwrap();
}

/// The next record that another process would be shown, waiting for it.
fn shown(follow: &mut ringwal::Follow) -> Result<ringwal::Record, ReadError> {
    let begin = Instant::now();
    loop {
        if let Some(record) = follow.next(Duration::from_millis(100))? {
            return Ok(record);
        }
        assert!(begin.elapsed() < LONG, "nothing is shown");
    }
}

#[test]
fn another_process_follows_across_rotations_and_is_told_of_truncations() {
    let scratch = Scratch::new("follow");
    let dir = scratch.join("log");
    let log = Log::open(&dir, options()).wait().unwrap();
    append(&log, 1..=10);
    let mut follow = ringwal::Follow::open(&dir, Lsn::ZERO).unwrap();
    let mut late = ringwal::Follow::open(&dir, Lsn::new(5000)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| append(&log, 11..=8000));
        for lsn in 1..=8000 {
            let record = shown(&mut follow).unwrap();
            assert!(record.lsn == Lsn::new(lsn) && record.payload == payload(lsn), "record {lsn}");
        }
    });
    assert_eq!(shown(&mut late).unwrap().lsn, Lsn::new(5000));
    assert_eq!(follow.next(Duration::ZERO).unwrap(), None);
    // What is shown stays, and what comes next is gone.
    let mut behind = ringwal::Follow::open(&dir, Lsn::new(100)).unwrap();
    assert_eq!(shown(&mut behind).unwrap().lsn, Lsn::new(100));
    log.truncate_before(Lsn::new(7000)).wait().unwrap();
    let told = loop {
        match shown(&mut behind) {
            Ok(record) => assert!(record.lsn < Lsn::new(7000)),
            Err(error) => break error,
        }
    };
    assert!(matches!(told, ReadError::Truncated { first } if first == Lsn::new(7000)), "{told}");
    append(&log, 8001..=8010);
    assert_eq!(shown(&mut follow).unwrap().lsn, Lsn::new(8001));
    log.truncate_after(Lsn::new(7990)).wait().unwrap();
    let told = loop {
        match shown(&mut follow) {
            Ok(record) => assert!(record.lsn <= Lsn::new(8010)),
            Err(error) => break error,
        }
    };
    assert!(matches!(told, ReadError::CutBack { last } if last == Lsn::new(7990)), "{told}");
    log.close().wait().unwrap();
}
