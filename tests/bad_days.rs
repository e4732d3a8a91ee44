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
    pub(crate) mod witness;
    pub(crate) mod workload;
}

use std::fmt::Display;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use common::powercut::{Mount, run};
use common::rig::{Reaped, Rng, Scratch, child as child_in, fingerprint, is_root, role, skip};
use nix::sys::resource::{Resource, setrlimit};
use ringwal::{AppendError, Log, Lsn, OpenError, Options, Reader, State, SubmitError, verify};

const SEGMENT_BYTES: u64 = 64 << 10;
const NOBODY: u32 = 65534;
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

/// One line that names the path.
fn told_well(error: &impl Display, path: &Path) {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 400, "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text} does not name {}", path.display());
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
        "unprivileged" => unprivileged(&dir),
        "no-uring" => without_uring(&dir),
        "no-memlock" => {
            setrlimit(Resource::RLIMIT_MEMLOCK, 0, 0).unwrap();
            let log = open(&dir).unwrap();
            append(&log, b"record").unwrap();
            log.close().wait().unwrap();
        }
        "no-descriptors" => without_descriptors(&dir),
        "die-unclean" => {
            let log = Log::open(&dir, options().allow_volatile(true).idle_seal(std::time::Duration::from_secs(60)))
                .wait()
                .unwrap();
            for lsn in 1..=5 {
                append(&log, &payload(lsn)).unwrap();
            }
            wait_for_ready(&dir);
            std::process::abort();
        }
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

/// Until two segments are ready behind the current one.
fn wait_for_ready(dir: &Path) {
    for _ in 0..500 {
        let spares =
            fs::read_dir(dir).unwrap().any(|entry| entry.unwrap().path().extension().is_some_and(|e| e == "spare"));
        if !spares && segments(dir).len() >= 3 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("no segments are ready");
}

/// Runs a role in a child to its end.
fn in_child(role: &str, dir: &Path, user: Option<u32>) {
    let mut command = child_in(role);
    command.env("RINGWAL_DIR", dir).stderr(std::process::Stdio::piped());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{role}: {}{}", text(&output.stdout), text(&output.stderr));
}

/// A directory in which nobody may work, if this test can become nobody.
fn nobodys(test: &str, scratch: &Scratch) -> Option<PathBuf> {
    if !is_root() {
        skip(test, "needs root, to become somebody else");
        return None;
    }
    let open = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
    let program = std::env::current_exe().unwrap();
    if let Some(closed) = scratch.path().ancestors().chain(program.ancestors()).find(|path| !open(path)) {
        skip(test, &format!("an unprivileged user cannot reach {}", closed.display()));
        return None;
    }
    let dir = scratch.join("nobody");
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
    Some(dir)
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
fn a_full_file_system_stops_appends_only_until_there_is_room() {
    let scratch = Scratch::new("full");
    let test = "a_full_file_system_stops_appends_only_until_there_is_room";
    let Some(_mount) = tmpfs(test, &scratch, "tmpfs", "size=1m,") else { return };
    let dir = scratch.join("mnt/log");
    let ballast = scratch.join("mnt/ballast");
    fs::write(&ballast, vec![1; 400 << 10]).unwrap();
    let log = Log::open(&dir, options().allow_volatile(true)).wait().unwrap();
    let mut last = 0;
    let refusal = loop {
        match append(&log, &payload(last + 1)) {
            Ok(lsn) => last = lsn.get(),
            Err(error) => break error,
        }
        assert!(last < 2000, "the file system is never full");
    };
    assert!(matches!(&refusal, AppendError::NoSpace(failure) if failure.errno == nix::libc::ENOSPC), "{refusal:?}");
    told_well(&refusal, &dir);
    assert_eq!(log.durable_lsn().get(), last, "nothing was appended that was refused");
    let read = |log: &Log| {
        log.read(..)
            .unwrap()
            .map(|record| record.unwrap())
            .filter(|record| *record.payload == payload(record.lsn.get()))
            .count() as u64
    };
    assert_eq!(read(&log), last);
    assert!(matches!(append(&log, &payload(last + 1)), Err(AppendError::NoSpace(_))), "it goes on saying so");
    fs::remove_file(&ballast).unwrap();
    // The next segment takes a moment.
    let mut tries = 0;
    while let Err(error) = append(&log, &payload(last + 1)) {
        assert!(matches!(error, AppendError::NoSpace(_)), "{error:?}");
        tries += 1;
        assert!(tries < 500, "there is room and appends are still refused");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(read(&log), last + 1, "nothing is missing and nothing stands twice");
    log.close().wait().unwrap();
}

#[test]
fn an_unclean_log_opens_on_a_full_file_system() {
    let scratch = Scratch::new("full-open");
    let Some(_mount) = tmpfs("an_unclean_log_opens_on_a_full_file_system", &scratch, "tmpfs", "size=1m,") else {
        return;
    };
    let dir = scratch.join("mnt/log");
    let status = child_in("die-unclean").env("RINGWAL_DIR", &dir).stderr(std::process::Stdio::null()).status().unwrap();
    assert!(!status.success());
    let mut ballast = File::create(scratch.join("mnt/ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let log = Log::open(&dir, options().allow_volatile(true)).wait().unwrap();
    assert_eq!(log.recovery_report().last, Lsn::new(5), "{:?}", log.recovery_report());
    assert_eq!(log.recovery_report().label, "R11");
    for record in log.read(..).unwrap() {
        let record = record.unwrap();
        assert_eq!(record.payload, payload(record.lsn.get()));
    }
    log.close().wait().unwrap();
}

#[test]
fn a_read_only_mount_can_be_read_and_verified_but_not_opened() {
    let scratch = Scratch::new("read-only");
    let Some(_mount) = tmpfs("a_read_only_mount_can_be_read_and_verified_but_not_opened", &scratch, "tmpfs", "") else {
        return;
    };
    let (good, dir) = (scratch.join("good"), scratch.join("mnt/log"));
    make_log(&good);
    fs::create_dir(&dir).unwrap();
    for entry in fs::read_dir(&good).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    run("mount", &["-o", "remount,ro", scratch.join("mnt").to_str().unwrap()]).unwrap();
    let error = Log::open(&dir, options().allow_volatile(true)).wait().unwrap_err();
    assert!(matches!(&error, OpenError::Io(failure) if failure.errno == nix::libc::EROFS), "{error:?}");
    told_well(&error, &dir);
    assert!(matches!(verify(&dir).unwrap().state, State::Clean));
    assert_eq!(Reader::open(&dir).unwrap().read(..).unwrap().count() as u64, RECORDS);
}

#[test]
fn permissions_are_told_to_an_unprivileged_user() {
    let scratch = Scratch::new("permissions");
    let Some(dir) = nobodys("permissions_are_told_to_an_unprivileged_user", &scratch) else { return };
    in_child("unprivileged", &dir, Some(NOBODY));
}

fn unprivileged(dir: &Path) {
    assert!(!is_root());
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let denied = |error: &OpenError| matches!(error, OpenError::Io(failure) if failure.errno == nix::libc::EACCES);
    // A directory that may not be written to.
    let closed = dir.join("closed");
    fs::create_dir(&closed).unwrap();
    mode(&closed, 0o555);
    let error = open(&closed).unwrap_err();
    assert!(denied(&error), "{error:?}");
    told_well(&error, &closed);
    // Nor one below it.
    let below = closed.join("log");
    let error = open(&below).unwrap_err();
    assert!(denied(&error) || matches!(error, OpenError::Missing { .. }), "{error:?}");
    told_well(&error, &below);
    // A segment that may not be read.
    let log = dir.join("log");
    make_log(&log);
    for segment in [0, 1] {
        let segment = &segments(&log)[segment];
        mode(segment, 0o000);
        for error in [open(&log).unwrap_err(), Reader::open(&log).unwrap_err(), verify(&log).unwrap_err()] {
            assert!(denied(&error), "{error:?}");
            told_well(&error, segment);
        }
        mode(segment, 0o600);
    }
    // A log's directory that became read-only: what fits is appended, then the cause is told.
    let log = open(&log).unwrap();
    whole(&log);
    log.close().wait().unwrap();
}

#[test]
fn a_forbidden_io_uring_is_told_and_replaced() {
    let scratch = Scratch::new("no-uring");
    in_child("no-uring", &scratch.join("log"), None);
}

fn without_uring(dir: &Path) {
    forbid_uring();
    let error = Log::open(dir, options().require_uring(true)).wait().unwrap_err();
    let OpenError::UringRefused { why } = &error else { panic!("{error:?}") };
    assert!(why.contains("seccomp"), "{why}");
    assert!(!error.to_string().contains('\n'));
    let log = open(dir).unwrap();
    append(&log, b"record").unwrap();
    assert!(log.stats().uring_refused.is_some_and(|why| why.contains("seccomp")), "it says so once, in the stats");
    log.close().wait().unwrap();
}

/// Makes io_uring_setup fail with EPERM in this process for good, as container runtimes do.
#[expect(unsafe_code, reason = "prctl has no safe wrapper for filters")]
fn forbid_uring() {
    use nix::libc::{
        self, BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
        sock_filter, sock_fprog,
    };
    let statement = |code: u32, k: u32, jt, jf| sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        statement(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        statement(BPF_JMP | BPF_JEQ | BPF_K, libc::SYS_io_uring_setup as u32, 0, 1),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs().unwrap();
    // SAFETY: `filter` describes `program`, and both outlive the call, which copies them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const filter,
        )
    };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn without_locked_memory_a_log_works_all_the_same() {
    let scratch = Scratch::new("no-memlock");
    let Some(dir) = nobodys("without_locked_memory_a_log_works_all_the_same", &scratch) else { return };
    in_child("no-memlock", &dir.join("log"), Some(NOBODY));
}

#[test]
fn used_up_descriptors_are_told_and_pass() {
    let scratch = Scratch::new("no-descriptors");
    in_child("no-descriptors", &scratch.join("log"), None);
}

fn without_descriptors(dir: &Path) {
    make_log(dir);
    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(hoard.len() < 64);
    let before_left = hoard.len();
    // However many are left, until it works.
    let mut refusals = 0;
    let log = loop {
        match open(dir) {
            Ok(log) => break log,
            Err(OpenError::Io(failure)) if failure.errno == nix::libc::EMFILE => refusals += 1,
            Err(error) => panic!("with {} left: {error:?}", before_left - hoard.len()),
        }
        drop(hoard.pop().expect("it works with all of them"));
    };
    assert!(refusals >= 3, "only {refusals} refusals");
    whole(&log);
    drop(hoard);
    append(&log, b"record").unwrap();
    log.close().wait().unwrap();
    let log = open(dir).unwrap();
    whole(&log);
    log.close().wait().unwrap();
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
