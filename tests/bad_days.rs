//! Bad days: everything that goes wrong around a log ends in a typed error, one line that names the path, the cause and
//! what to do; nothing is lost, nothing panics, and what was refused changed no byte.
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod image;
    pub(crate) mod logwrites;
    pub(crate) mod powercut;
    pub(crate) mod rig;
    pub(crate) mod told;
}

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use common::powercut::Mount;
use common::rig::{Reaped, Rng, Scratch, child as child_in, fingerprint, is_root, role, skip};
use common::told::told_well;
use ringwal::{AppendError, Log, Lsn, OpenError, Options, Reader, State, SubmitError, verify};

const SEGMENT_BYTES: u64 = 64 << 10;
const RECORDS: u64 = 300;

fn options() -> Options {
    Options::default().segment_bytes(SEGMENT_BYTES)
}

fn open(dir: &Path) -> Result<Log, OpenError> {
    Log::open(dir, options()).wait()
}

fn append(log: &Log, payload: &[u8]) -> Result<Lsn, AppendError> {
    block_on(log.append(payload))
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn payload(lsn: u64) -> Vec<u8> {
    let mut rng = Rng::new(lsn);
    (0..50 + rng.below(1200)).map(|_| rng.next() as u8).collect()
}

/// A closed log of several segments.
fn make_log(dir: &Path) {
    let log = open(dir).unwrap();
    for chunk in (1..=RECORDS).collect::<Vec<_>>().chunks(7) {
        let pending: Vec<_> = chunk.iter().map(|lsn| submit(&log, &payload(*lsn))).collect();
        assert!(pending.into_iter().all(|pending| pending.wait().is_ok()));
    }
    log.close().wait().unwrap();
    assert!(segments(dir).len() >= 4);
}

fn submit(log: &Log, payload: &[u8]) -> ringwal::Pending {
    loop {
        match log.submit(payload) {
            Err(SubmitError::Full) => std::thread::yield_now(),
            result => return result.unwrap(),
        }
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    files.sort();
    files
}

/// The segments in which records stand.
fn used_segments(dir: &Path) -> Vec<PathBuf> {
    let used: Vec<_> = ringwal::dump(dir)
        .unwrap()
        .into_iter()
        .filter(|segment| !segment.batches.is_empty())
        .map(|segment| segment.id)
        .collect();
    segments(dir).into_iter().filter(|path| used.iter().any(|id| path.ends_with(format!("{id}.seg")))).collect()
}

fn copy_log(from: &Path, scratch: &Scratch, name: &str) -> PathBuf {
    let to = scratch.join(name);
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

/// Opening for writing, for reading and verifying are refused alike, and change nothing.
fn refused(dir: &Path, at: &Path, expected: impl Fn(&OpenError) -> bool) {
    let before = fingerprint(dir);
    let errors = [open(dir).err(), Reader::open(dir).err(), verify(dir).err()];
    for (who, error) in ["open", "Reader", "verify"].into_iter().zip(errors) {
        let error = error.unwrap_or_else(|| panic!("{who} did not refuse {}", at.display()));
        assert!(expected(&error), "{who}: {error:?}");
        told_well(&error, at);
    }
    assert_eq!(before, fingerprint(dir), "a refused opening changed a file");
}

/// All records are there.
fn whole(log: &Log) {
    let mut expected = 1;
    for record in log.read(..=Lsn::new(RECORDS)).unwrap() {
        let record = record.unwrap();
        assert_eq!((record.lsn.get(), record.payload.as_ref()), (expected, &*payload(expected)));
        expected += 1;
    }
    assert_eq!(expected, RECORDS + 1);
}

fn patch(file: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(file).unwrap().write_all_at(bytes, offset).unwrap();
}

/// What the roles are: each runs in a child with its limits, and only there.
#[test]
fn child() {
    let Some(role) = role() else { return };
    let dir = PathBuf::from(std::env::var_os("RINGWAL_DIR").unwrap());
    match role.as_str() {
        "hold" => {
            let _log = open(&dir).unwrap();
            println_now("\nheld");
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        other => panic!("no role {other}"),
    }
}

fn println_now(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).unwrap();
}

#[test]
fn what_is_too_large_or_empty_is_refused_before_anything_is_written() {
    let scratch = Scratch::new("limits");
    let log = Log::open(scratch.join("log"), options().record_bytes_max(1000)).wait().unwrap();
    assert_eq!(append(&log, &[0; 1001]), Err(AppendError::TooLarge { len: 1001, max: 1000 }));
    assert!(matches!(log.submit(&[0; 1001]), Err(SubmitError::Append(AppendError::TooLarge { .. }))));
    assert!(matches!(block_on(log.reserve(1001)), Err(AppendError::TooLarge { .. })));
    assert_eq!(block_on(log.append_batch::<&[u8]>(&[])), Err(AppendError::EmptyGroup));
    assert!(matches!(block_on(log.append_batch(&[[0; 500], [0; 500]])), Err(AppendError::TooLarge { .. })));
    assert_eq!(log.appended_lsn(), Lsn::ZERO);
    assert_eq!(append(&log, b""), Ok(Lsn::new(1)));
    assert_eq!(append(&log, &[7; 1000]), Ok(Lsn::new(2)));
    assert_eq!(block_on(log.append_batch(&[[1; 494], [2; 494]])), Ok(Lsn::new(3)..=Lsn::new(4)));
    let lens: Vec<_> = log.read(..).unwrap().map(|record| record.unwrap().payload.len()).collect();
    assert_eq!(lens, [0, 1000, 494, 494]);
    log.close().wait().unwrap();
}

#[test]
fn a_missing_directory_and_a_file_in_its_place_are_named() {
    let scratch = Scratch::new("missing");
    let orphan = scratch.join("no/such/parent");
    refused_without_directory(&orphan, |error| matches!(error, OpenError::Missing { .. }));
    let absent = scratch.join("absent");
    let error = Log::open(&absent, options().create(false)).wait().unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }), "{error:?}");
    told_well(&error, &absent);
    assert!(!absent.exists(), "it was made all the same");
    let empty = scratch.join("empty");
    fs::create_dir(&empty).unwrap();
    let error = Log::open(&empty, options().create(false)).wait().unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }), "{error:?}");
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "something was made in it");
    let file = scratch.join("file");
    fs::write(&file, "text").unwrap();
    refused_without_directory(&file, |error| matches!(error, OpenError::NotALog { .. }));
    assert_eq!(fs::read(&file).unwrap(), b"text");
}

fn refused_without_directory(path: &Path, expected: impl Fn(&OpenError) -> bool) {
    for error in [open(path).unwrap_err(), Reader::open(path).unwrap_err(), verify(path).unwrap_err()] {
        assert!(expected(&error), "{error:?}");
        told_well(&error, path);
    }
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let scratch = Scratch::new("newer");
    let good = scratch.join("good");
    make_log(&good);
    // The static block, and the header of a segment's first batch: version, then the checksum over what precedes it.
    for (name, offset, crc_at) in [("static", 0, 60), ("batch", 4096, 140)] {
        let dir = copy_log(&good, &scratch, name);
        let file = used_segments(&dir).pop().unwrap();
        let mut header = vec![0; crc_at];
        File::open(&file).unwrap().read_exact_at(&mut header, offset).unwrap();
        header[8..12].copy_from_slice(&99u32.to_le_bytes());
        let crc = crc32fast::hash(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        patch(&file, offset, &header);
        refused(&dir, &file, |error| matches!(error, OpenError::NewerFormat { version: 99, .. }));
    }
}

#[test]
fn a_second_writer_is_told_who_holds_the_log_and_readers_are_welcome() {
    let scratch = Scratch::new("held");
    let dir = scratch.join("log");
    make_log(&dir);
    let mut holder = Reaped(child_in("hold").env("RINGWAL_DIR", &dir).spawn().unwrap());
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(holder.0.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap() == "held"));
    let error = open(&dir).unwrap_err();
    assert!(matches!(&error, OpenError::Held { by: Some(pid), .. } if *pid == holder.0.id()), "{error:?}");
    told_well(&error, &dir);
    assert!(error.to_string().contains(&holder.0.id().to_string()));
    let reader = Reader::open(&dir).unwrap();
    assert_eq!(reader.read(..).unwrap().filter(|record| record.is_ok()).count() as u64, RECORDS);
    let verification = verify(&dir).unwrap();
    assert!(matches!(verification.state, State::Clean), "{verification:?}");
    assert_eq!(verification.writer, Some(Some(holder.0.id())));
    holder.0.kill().unwrap();
    holder.0.wait().unwrap();
    let log = open(&dir).unwrap();
    whole(&log);
    // The same process is no exception.
    let error = open(&dir).unwrap_err();
    assert!(matches!(error, OpenError::Held { by: Some(pid), .. } if pid == std::process::id()), "{error:?}");
    log.close().wait().unwrap();
}

/// A tmpfs of the test's own.
fn tmpfs(test: &str, scratch: &Scratch, kind: &str, size: &str) -> Option<Mount> {
    if !is_root() {
        skip(test, "needs root, to mount");
        return None;
    }
    match Mount::new(kind, &format!("{size}mode=0777"), "none", &scratch.join("mnt")) {
        Ok(mount) => Some(mount),
        Err(why) => {
            skip(test, &why);
            None
        }
    }
}

#[test]
fn a_file_system_that_forgets_is_refused_unless_allowed() {
    let scratch = Scratch::new("volatile");
    for kind in ["tmpfs", "ramfs"] {
        let Some(mount) = tmpfs("a_file_system_that_forgets_is_refused_unless_allowed", &scratch, kind, "") else {
            return;
        };
        let dir = scratch.join("mnt/log");
        let error = open(&dir).unwrap_err();
        assert!(matches!(&error, OpenError::Volatile { file_system, .. } if *file_system == kind), "{error:?}");
        told_well(&error, &dir);
        let log = Log::open(&dir, options().allow_volatile(true)).wait().unwrap();
        append(&log, b"record").unwrap();
        log.close().wait().unwrap();
        drop(log);
        drop(mount);
    }
}

#[test]
fn strangers_are_mentioned_and_left_alone() {
    let scratch = Scratch::new("strangers");
    let dir = scratch.join("log");
    make_log(&dir);
    fs::write(dir.join("README"), "hello").unwrap();
    fs::write(dir.join("0000000000000001.seg.bak"), "copy").unwrap();
    fs::create_dir(dir.join("lost+found")).unwrap();
    let log = open(&dir).unwrap();
    let mut strangers = log.recovery_report().strangers.clone();
    strangers.sort();
    assert_eq!(strangers, ["0000000000000001.seg.bak", "README", "lost+found"]);
    whole(&log);
    log.close().wait().unwrap();
    assert_eq!(fs::read(dir.join("README")).unwrap(), b"hello");
    assert!(matches!(verify(&dir).unwrap().state, State::Clean));
}
