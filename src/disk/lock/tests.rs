//! The lock between handles, processes, and the dead.

use super::*;
use crate::disk::scratch::{Scratch, alone};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

const LONG: Duration = Duration::from_secs(60);
/// Set for the child process that holds the lock of the directory it names.
const CHILD: &str = "RINGWAL_TEST_LOCK_DIR";

fn open(path: &std::path::Path) -> RealDirectory {
    RealDirectory::open(path, false).unwrap()
}

/// Not a test by itself: what the child process of the tests below does.
#[test]
fn child_holds_the_lock() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let dir = open(path.as_ref());
    let _lock = dir.lock(Duration::ZERO).unwrap();
    std::fs::write(dir.join("held"), "").unwrap();
    // Until the parent kills us, or dies.
    let _end = std::io::stdin().read(&mut [0]);
}

fn holding_child(scratch: &Scratch) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "disk::lock::tests::child_holds_the_lock", "--nocapture"])
        .env(CHILD, &**scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    while !scratch.join("held").exists() {
        assert_eq!(child.try_wait().unwrap(), None, "the child ended early");
        thread::sleep(Duration::from_millis(1));
    }
    let _banner = output.read_line(&mut line);
    child
}

#[test]
fn two_handles_in_one_process_exclude_each_other() {
    let _turn = alone();
    let scratch = Scratch::new();
    let (a, b) = (open(&scratch), open(&scratch));
    let lock = a.lock(Duration::ZERO).unwrap();
    let pid = std::process::id();
    // At once, though it might wait: the holder is alive.
    assert!(matches!(b.lock(LONG), Err(OpenError::Held { by: Some(by), .. }) if by == pid));
    assert_eq!(b.holder().unwrap(), Some(Some(pid)));
    drop(lock);
    assert_eq!(b.holder().unwrap(), None);
    b.lock(Duration::ZERO).unwrap();
}

#[test]
fn a_duplicate_of_the_descriptor_keeps_the_lock() {
    let _turn = alone();
    let scratch = Scratch::new();
    let dir = open(&scratch);
    let lock = dir.lock(Duration::ZERO).unwrap();
    let held = lock.as_fd().try_clone_to_owned().unwrap();
    drop(lock);
    assert!(matches!(dir.lock(Duration::ZERO), Err(OpenError::Held { .. })));
    drop(held);
    let lock = dir.lock(Duration::ZERO).unwrap();
    let _held = lock.as_fd().try_clone_to_owned().unwrap();
    lock.release();
    dir.lock(Duration::ZERO).unwrap();
}

#[test]
fn another_process_is_refused_and_told_the_pid_and_its_death_frees_the_lock() {
    let _turn = alone();
    let scratch = Scratch::new();
    let mut child = holding_child(&scratch);
    let dir = open(&scratch);
    assert!(matches!(dir.lock(LONG), Err(OpenError::Held { by: Some(by), .. }) if by == child.id()));
    assert_eq!(dir.holder().unwrap(), Some(Some(child.id())));
    child.kill().unwrap();
    // Not waited for yet: a zombie is not a holder that one must be refused for.
    dir.lock(LONG).unwrap();
    child.wait().unwrap();
}

/// A lock whose text names a process that is no more, as a ring leaves it behind.
fn orphaned(dir: &RealDirectory) -> Lock {
    let lock = dir.lock(Duration::ZERO).unwrap();
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let line = Holder { pid: child.id(), started: 1 }.line();
    write_at(&lock.fd, line.as_bytes(), 0).unwrap();
    lock
}

#[test]
fn a_dead_holder_is_waited_for_and_then_refused() {
    let _turn = alone();
    let scratch = Scratch::new();
    let dir = open(&scratch);
    let lock = orphaned(&dir);
    let (wait, before) = (Duration::from_millis(50), Instant::now());
    assert!(matches!(open(&scratch).lock(wait), Err(OpenError::Held { by: None, .. })));
    assert!(before.elapsed() >= wait);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(30));
            drop(lock);
        });
        open(&scratch).lock(LONG).unwrap();
    });
}

#[test]
fn a_reused_pid_is_not_the_holder() {
    let _turn = alone();
    let us = Holder::this_process();
    assert!(us.started > 0 && us.is_alive());
    assert!(!Holder { started: us.started + 1, ..us }.is_alive());
    assert!(Holder { started: 0, ..us }.is_alive());
    assert!(!Holder { pid: u32::MAX, started: 0 }.is_alive());
}

#[test]
fn the_log_id_survives_beside_the_pid() {
    let _turn = alone();
    let scratch = Scratch::new();
    let dir = open(&scratch);
    assert_eq!((dir.recorded_log_id().unwrap(), dir.holder().unwrap()), (None, None));
    let id = LogId::new(*b"0123456789abcdef");
    let lock = dir.lock(Duration::ZERO).unwrap();
    assert_eq!(dir.recorded_log_id().unwrap(), None);
    dir.record_log_id(id).unwrap();
    drop(lock);
    let _lock = dir.lock(Duration::ZERO).unwrap();
    assert_eq!(dir.recorded_log_id().unwrap(), Some(id));
    assert_eq!(dir.holder().unwrap(), Some(Some(std::process::id())));
    let text = std::fs::read(scratch.join(LOCK)).unwrap();
    assert_eq!(text.len(), TEXT_LEN);
    assert_eq!(std::fs::metadata(scratch.join(LOCK)).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_garbled_text_is_no_log_id_and_no_reason_to_hang() {
    let _turn = alone();
    let scratch = Scratch::new();
    let dir = open(&scratch);
    for garbage in [&b""[..], b"pid", &[0xff; 200], &[0; 4096], "pid          1 \u{20ac}".as_bytes()] {
        std::fs::write(scratch.join(LOCK), garbage).unwrap();
        assert_eq!(dir.recorded_log_id().unwrap(), None);
        assert_eq!(dir.holder().unwrap(), None);
        dir.lock(Duration::ZERO).unwrap();
    }
}

#[test]
fn odd_things_under_the_name_are_refused_and_untouched() {
    let _turn = alone();
    let scratch = Scratch::new();
    let dir = open(&scratch);
    let (lock, elsewhere) = (scratch.join(LOCK), scratch.join("elsewhere"));
    let refused = |word: &str| {
        assert!(matches!(dir.lock(LONG), Err(OpenError::NotALog { what, .. }) if what.contains(word)), "{word}");
        assert!(dir.holder().is_err() && dir.recorded_log_id().is_err());
    };
    std::os::unix::fs::symlink(&elsewhere, &lock).unwrap();
    refused("symbolic link");
    assert!(!elsewhere.exists());
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    refused("directory");
    std::fs::remove_dir(&lock).unwrap();
    nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("FIFO");
    std::fs::remove_file(&lock).unwrap();
    std::fs::write(&elsewhere, "precious").unwrap();
    std::fs::hard_link(&elsewhere, &lock).unwrap();
    refused("hard link");
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"precious");
}
