//! What goes by itself, and what a named reader keeps.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod rig;
}

use std::path::Path;
use std::time::{Duration, Instant};

use common::rig::Scratch;
use ringwal::{CursorError, Log, Lsn, Options, Reader};

/// For waits that should be short: longer is a failure, and nothing else is timed.
const LONG: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options::default().segment_bytes(1 << 20).allow_volatile(true)
}

fn open(dir: &Path, options: Options) -> Log {
    Log::open(dir, options).wait().unwrap()
}

/// Appends about a megabyte.
fn fill(log: &Log) {
    for _ in 0..16 {
        log.append(&[7; 64 << 10]).wait().unwrap();
    }
}

fn bytes(dir: &Path) -> u64 {
    let segments = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let segments = segments.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".seg"));
    segments.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_log_keeps_so_many_bytes_and_what_a_cursor_wants() {
    let scratch = Scratch::new("retention-bytes");
    let dir = scratch.join("log");
    let log = open(&dir, options().retain_bytes(3 << 20));
    (0..12).for_each(|_| fill(&log));
    until("nothing went", || log.first_lsn() > Lsn::new(100));
    // Those that are kept, the one being written, those that are ready.
    assert!(bytes(&dir) <= 8 << 20, "{}", bytes(&dir));
    let mut cursor = log.cursor("slow").unwrap();
    assert_eq!(cursor.lsn(), log.first_lsn().prev());
    let wanted = cursor.lsn().next();
    (0..12).for_each(|_| fill(&log));
    assert!(log.first_lsn() <= wanted, "a cursor wants LSN {wanted}, the log begins at {}", log.first_lsn());
    assert_eq!(log.read(wanted..).unwrap().next().unwrap().unwrap().lsn, wanted);
    let done = log.durable_lsn().get() - 100;
    cursor.save(Lsn::new(done)).unwrap();
    fill(&log);
    fill(&log);
    until("a cursor that moved on holds nothing", || log.first_lsn() > wanted);
    assert!(log.first_lsn() <= Lsn::new(done + 1));
    log.close().wait().unwrap();
    // Another opening finds the cursor, and no file that is not the log's.
    let log = open(&dir, options());
    assert_eq!(log.recovery_report().strangers, [""; 0]);
    assert_eq!(log.cursors().unwrap(), [("slow".to_owned(), Lsn::new(done))]);
    assert_eq!(log.cursor("slow").unwrap().lsn(), Lsn::new(done));
    log.cursor("slow").unwrap().remove().unwrap();
    assert_eq!(log.cursors().unwrap(), []);
    assert!(matches!(log.cursor("no/name"), Err(CursorError::Name(_))));
    log.close().wait().unwrap();
    assert_eq!(Reader::open(&dir).unwrap().first_lsn(), log.first_lsn());
}

#[test]
fn what_every_cursor_is_done_with_goes() {
    let scratch = Scratch::new("retention-cursors");
    let dir = scratch.join("log");
    let log = open(&dir, options().retain_for_cursors(true));
    let (mut one, mut two) = (log.cursor("one").unwrap(), log.cursor("two").unwrap());
    (0..6).for_each(|_| fill(&log));
    assert_eq!(log.first_lsn(), Lsn::FIRST);
    one.save(log.durable_lsn()).unwrap();
    (0..2).for_each(|_| fill(&log));
    assert_eq!(log.first_lsn(), Lsn::FIRST, "the other one wants it");
    two.save(Lsn::new(60)).unwrap();
    (0..2).for_each(|_| fill(&log));
    until("nothing went", || log.first_lsn() > Lsn::FIRST);
    assert!(log.first_lsn() <= Lsn::new(61));
    log.close().wait().unwrap();
}

#[test]
fn age_counts_from_the_opening_whatever_the_age_of_the_runtime() {
    let scratch = Scratch::new("retention-runtime");
    let dir = scratch.join("log");
    let runtime = ringwal::Runtime::builder().build().unwrap();
    let log = open(&dir, options());
    (0..6).for_each(|_| fill(&log));
    log.close().wait().unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let aged = options().retain_age(Duration::from_millis(1100));
    let log = Log::open_on(&runtime, &dir, aged).wait().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(log.first_lsn(), Lsn::FIRST, "the log was opened a moment ago");
    std::thread::sleep(Duration::from_millis(1100));
    (0..2).for_each(|_| fill(&log));
    until("nothing went", || log.first_lsn() > Lsn::FIRST);
    log.close().wait().unwrap();
}

#[test]
fn a_log_that_is_cut_back_takes_its_cursors_along() {
    let scratch = Scratch::new("retention-cut");
    let log = open(&scratch.join("log"), options());
    fill(&log);
    let mut cursor = log.cursor("reader").unwrap();
    cursor.save(Lsn::new(12)).unwrap();
    log.truncate_after(Lsn::new(5)).wait().unwrap();
    assert_eq!(log.cursors().unwrap(), [("reader".to_owned(), Lsn::new(5))]);
    cursor.save(Lsn::new(3)).unwrap();
    assert_eq!(log.cursor("reader").unwrap().lsn(), Lsn::new(3));
    log.close().wait().unwrap();
}

#[test]
fn old_segments_go() {
    let scratch = Scratch::new("retention-age");
    let dir = scratch.join("log");
    let log = open(&dir, options().retain_age(Duration::from_secs(3600)));
    (0..6).for_each(|_| fill(&log));
    log.close().wait().unwrap();
    assert_eq!(log.first_lsn(), Lsn::FIRST);
    let log = open(&dir, options().retain_age(Duration::from_millis(1)));
    std::thread::sleep(Duration::from_millis(5));
    (0..2).for_each(|_| fill(&log));
    until("nothing went", || log.first_lsn() > Lsn::new(80));
    log.close().wait().unwrap();
}
