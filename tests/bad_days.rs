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
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};

use common::powercut::Mount;
use common::rig::{Reaped, Rng, Scratch, child as child_in, fingerprint, is_root, role, say, skip};
use common::told::told_well;
use ringwal::{AppendError, Log, Lsn, OpenError, Options, ReadError, Reader, State, SubmitError, verify};

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

fn flip(file: &Path, offset: u64, mask: u8) {
    let mut byte = [0];
    File::open(file).unwrap().read_exact_at(&mut byte, offset).unwrap();
    patch(file, offset, &[byte[0] ^ mask]);
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
fn odd_things_under_our_names_are_refused() {
    let scratch = Scratch::new("odd");
    let good = scratch.join("good");
    make_log(&good);
    let not_a_log = |error: &OpenError| matches!(error, OpenError::NotALog { .. });
    let name = "00000000000000ff.seg";
    for (kind, make) in [
        ("fifo", &(|path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()) as &dyn Fn(&Path)),
        ("symlink", &|path| symlink("/etc/passwd", path).unwrap()),
        ("directory", &|path| fs::create_dir(path).unwrap()),
        ("second-link", &|path| fs::hard_link(&segments(path.parent().unwrap())[0], path).unwrap()),
    ] {
        let dir = copy_log(&good, &scratch, kind);
        make(&dir.join(name));
        // Of two names for one file either may be told.
        let at = if kind == "second-link" { dir.clone() } else { dir.join(name) };
        refused(&dir, &at, not_a_log);
    }
    let dir = copy_log(&good, &scratch, "lock");
    let (lock, aside) = (dir.join("LOCK"), scratch.join("aside"));
    fs::rename(&lock, &aside).unwrap();
    symlink(&aside, &lock).unwrap();
    let before = (fingerprint(&dir), fs::read(&aside).unwrap());
    let error = open(&dir).unwrap_err();
    assert!(not_a_log(&error), "{error:?}");
    told_well(&error, &lock);
    assert_eq!(before, (fingerprint(&dir), fs::read(&aside).unwrap()));
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

fn damaged(error: &OpenError) -> bool {
    matches!(error, OpenError::Damaged(_))
}

/// Opening refuses damage and `verify` says it; nothing changes.
fn damage_is_told(dir: &Path, at: &Path) {
    let before = fingerprint(dir);
    for error in [
        open(dir).map(|log| format!("{:?}", log.recovery_report())),
        Reader::open(dir).map(|reader| format!("{reader:?}")),
    ] {
        let error = error.unwrap_err();
        assert!(damaged(&error), "{error:?}");
        told_well(&error, at);
    }
    let verification = verify(dir).unwrap();
    let State::Damaged(damage) = &verification.state else { panic!("{verification:?}") };
    told_well(damage, at);
    assert!(damage.first <= damage.last);
    assert_eq!(before, fingerprint(dir), "a refused opening changed a file");
}

#[test]
fn a_missing_segment_is_damage() {
    let scratch = Scratch::new("missing-segment");
    let good = scratch.join("good");
    make_log(&good);
    let used = used_segments(&good);
    for (number, segment) in used.iter().enumerate() {
        let dir = copy_log(&good, &scratch, &format!("without-{number}"));
        let gone = dir.join(segment.file_name().unwrap());
        fs::remove_file(&gone).unwrap();
        damage_is_told(&dir, &dir);
    }
    let dir = copy_log(&good, &scratch, "without-all");
    segments(&dir).iter().for_each(|segment| fs::remove_file(segment).unwrap());
    damage_is_told(&dir, &dir);
}

#[test]
fn a_foreign_segment_is_damage() {
    let scratch = Scratch::new("foreign");
    let (good, other) = (scratch.join("good"), scratch.join("other"));
    make_log(&good);
    make_log(&other);
    let used = used_segments(&good);
    // Not the newest: without it nothing tells that there was more (the known limit of promise P5).
    for (number, segment) in used.iter().enumerate().take(used.len() - 1) {
        let dir = copy_log(&good, &scratch, &format!("foreign-{number}"));
        let name = segment.file_name().unwrap();
        fs::copy(other.join(name), dir.join(name)).unwrap();
        damage_is_told(&dir, &dir.join(name));
    }
    // Two of its own, swapped.
    let dir = copy_log(&good, &scratch, "swapped");
    let (a, b) = (dir.join(used[1].file_name().unwrap()), dir.join(used[2].file_name().unwrap()));
    fs::rename(&a, dir.join("x")).unwrap();
    fs::rename(&b, &a).unwrap();
    fs::rename(dir.join("x"), &b).unwrap();
    damage_is_told(&dir, &dir);
}

#[test]
fn a_segment_cut_short_is_damage() {
    let scratch = Scratch::new("short");
    let good = scratch.join("good");
    make_log(&good);
    let mut rng = Rng::new(11);
    let used = used_segments(&good);
    let mut refusals = 0;
    for (number, segment) in used.iter().enumerate() {
        let ends =
            ringwal::dump(&good).unwrap()[number].batches.last().map(|batch| batch.offset + batch.bytes).unwrap();
        let lengths = [0, 1, 511, 4095, 4096, 4097, 8192, ends - 4096, ends - 1, ends, ends + 1];
        for length in lengths.into_iter().chain((0..4).map(|_| rng.below(SEGMENT_BYTES))) {
            let dir = copy_log(&good, &scratch, "cut");
            let file = dir.join(segment.file_name().unwrap());
            OpenOptions::new().write(true).open(&file).unwrap().set_len(length).unwrap();
            let before = fingerprint(&dir);
            let verification = verify(&dir);
            assert_eq!(before, fingerprint(&dir));
            // The known limit of promise P5: the newest file is lost altogether.
            let lost = number + 1 == used.len() && length < 8192;
            if length < ends && !lost {
                // Everything in it was claimed durable when the log was closed.
                let verification = verification.unwrap();
                assert!(
                    matches!(verification.state, State::Damaged(_)),
                    "segment {number} cut to {length}: {verification:?}"
                );
            }
            match open(&dir) {
                // Older segments are read only when their records are.
                Ok(log) if lost => log.close().wait().unwrap(),
                Ok(log) => reads_truly(&log, length < ends, &format!("segment {number} cut to {length} of {ends}")),
                Err(error) => {
                    refusals += 1;
                    assert!(damaged(&error), "segment {number} cut to {length}: {error:?}");
                    assert_eq!(before, fingerprint(&dir));
                }
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    }
    assert!(refusals > 0);
}

/// Every record is read as it was written, or not at all; with `fails`, one read must fail, and say which records.
fn reads_truly(log: &Log, fails: bool, what: &str) {
    let mut expected = 1;
    let mut failure = None;
    for record in log.read(..=Lsn::new(RECORDS)).unwrap() {
        match record {
            Ok(record) => {
                assert_eq!((record.lsn.get(), record.payload.as_ref()), (expected, &*payload(expected)), "{what}");
                expected += 1;
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(ReadError::Damaged(damage)) => {
            assert!(fails, "{what}: {damage}");
            assert!(
                damage.first.get() <= expected && expected <= damage.last.get(),
                "{what}: {damage} while reading {expected}"
            );
            told_well(&damage, log.path());
        }
        Some(error) => panic!("{what}: {error:?}"),
        None => {
            assert!(!fails, "{what}: nothing was noticed");
            assert_eq!(expected, RECORDS + 1, "{what}");
        }
    }
    log.close().wait().unwrap();
}

#[test]
fn flipped_bits_are_found_and_never_read() {
    let scratch = Scratch::new("flips");
    let good = scratch.join("good");
    make_log(&good);
    let dump = ringwal::dump(&good).unwrap();
    let places: Vec<_> = dump
        .iter()
        .flat_map(|segment| {
            segment.batches.iter().filter(|batch| batch.count > 0).map(|batch| (segment.id, batch.clone()))
        })
        .collect();
    let mut rng = Rng::new(5);
    let (mut refused, mut at_read) = (0, 0);
    for _ in 0..60 {
        let (id, batch) = &places[rng.below(places.len() as u64) as usize];
        let offset = batch.offset + rng.below(batch.bytes);
        let dir = copy_log(&good, &scratch, "flip");
        let file = dir.join(format!("{id}.seg"));
        flip(&file, offset, 1 << rng.below(8));
        let what = format!("{}: offset {offset}, batch {}..+{}", file.display(), batch.first, batch.count);
        let before = fingerprint(&dir);
        let verification = verify(&dir).unwrap();
        let State::Damaged(damage) = verification.state else { panic!("{what}: {verification:?}") };
        assert!(damage.first <= batch.first && damage.last >= batch.first, "{what}: {damage}");
        // Where a segment's first batch is gone, the end of the segment before it may be named.
        let at_the_start = batch.offset == 4096 && damage.path.as_ref() < file.as_path();
        assert!(at_the_start || damage.path.as_ref() == file, "{what}: {damage}");
        assert!(at_the_start || damage.offset == batch.offset, "{what}: {damage}");
        match open(&dir) {
            Ok(log) => {
                at_read += 1;
                reads_truly(&log, true, &what);
            }
            Err(error) => {
                refused += 1;
                assert!(damaged(&error), "{what}: {error:?}");
                assert_eq!(before, fingerprint(&dir), "{what}");
            }
        }
        fs::remove_dir_all(&dir).unwrap();
    }
    say(&format!("bad days: 60 flipped bits, {refused} refused at opening, {at_read} found by verify and by reading"));
    assert!(refused > 0 && at_read > 0);
}

#[test]
fn garbage_behind_a_segment_and_empty_files_lose_nothing() {
    let scratch = Scratch::new("garbage");
    let good = scratch.join("good");
    make_log(&good);
    for (number, segment) in segments(&good).iter().enumerate() {
        for garbage in [vec![0xa5; 100], vec![0xa5; 8192], vec![0; 4096]] {
            let dir = copy_log(&good, &scratch, "garbage");
            let file = dir.join(segment.file_name().unwrap());
            OpenOptions::new().append(true).open(&file).unwrap().write_all(&garbage).unwrap();
            let log = open(&dir).unwrap_or_else(|error| panic!("garbage behind segment {number}: {error}"));
            reads_truly(&log, false, "garbage behind a segment");
            fs::remove_dir_all(&dir).unwrap();
        }
    }
    // An empty file under the next name: a crash while it was prepared.
    let dir = copy_log(&good, &scratch, "empty");
    let next = segments(&dir).len() as u64 + 1;
    File::create(dir.join(format!("{next:016x}.seg"))).unwrap();
    let log = open(&dir).unwrap();
    reads_truly(&log, false, "an empty segment");
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
