//! The limits that a log meets: each case in a child process with that limit, from the error to the moment when there is
//! room again. What was acknowledged before is there afterwards, and the log goes on.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use ringwal::{AppendError, Log, Lsn, OpenError, Options};

use crate::common::manner::Manner;
use crate::common::rig::{Reaped, Rng, Scratch, child as child_in, everything_required, is_root};
use crate::{limits_disk, limits_process};

pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;
const NOBODY: u32 = 65534;
/// Longer than any case takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a child finds in its environment.
const DIR: &str = "RINGWAL_DIR";
const MANNER: &str = "RINGWAL_LIMITS_SEED";
const ROLE: &str = "limit ";

/// What a case needs beyond Linux and io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    Root,
    /// To become an unprivileged user: root would not meet the limit.
    Nobody,
    /// A setting of the whole machine: only where everything is required.
    Machine,
}

/// One limit.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) need: Need,
    run: fn(&Place),
}

const fn case(name: &'static str, need: Need, run: fn(&Place)) -> Case {
    Case { name, need, run }
}

pub(crate) const CASES: &[Case] = &[
    case("file size, at opening", Need::Nothing, limits_process::file_size_at_opening),
    case("file size, under way", Need::Nothing, limits_process::file_size_under_way),
    case("descriptors, at opening", Need::Nothing, limits_process::descriptors_at_opening),
    case("descriptors, under way", Need::Nothing, limits_process::descriptors_under_way),
    case("locked memory", Need::Nobody, limits_process::locked_memory),
    case("address space", Need::Nothing, limits_process::address_space),
    case("threads", Need::Nobody, limits_process::threads),
    case("io_uring_setup forbidden", Need::Nothing, limits_process::setup_forbidden),
    case("io_uring_register forbidden", Need::Nothing, limits_process::register_forbidden),
    case("io_uring_enter forbidden, under way", Need::Nothing, limits_process::enter_forbidden),
    case("io_uring disabled for all", Need::Machine, limits_process::disabled_for_all),
    case("io_uring disabled for users", Need::Machine, limits_process::disabled_for_users),
    case("fork with an open log", Need::Nothing, limits_process::fork_with_an_open_log),
    case("clocks that jump", Need::Root, limits_process::clocks_that_jump),
    case("full tmpfs", Need::Root, limits_disk::full_tmpfs),
    case("full ext4", Need::Root, limits_disk::full_ext4),
    case("full xfs", Need::Root, limits_disk::full_xfs),
    case("full disk and an unclean log", Need::Root, limits_disk::full_and_unclean),
    case("read-only mount", Need::Root, limits_disk::read_only),
    case("file system that gives up", Need::Root, limits_disk::gives_up),
    case("directory deleted", Need::Nothing, limits_disk::directory_deleted),
    case("permissions", Need::Nobody, limits_disk::permissions),
];

/// Where a case runs, and how its batches fly.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) manner: Manner,
}

impl Place {
    pub(crate) fn options(&self) -> Options {
        self.manner.set(Options::default().segment_bytes(SEGMENT_BYTES)).allow_volatile(true)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub(crate) fn open(&self) -> Result<Log, OpenError> {
        self.open_at(&self.log())
    }

    pub(crate) fn open_at(&self, path: &Path) -> Result<Log, OpenError> {
        Log::open(path, self.options()).wait()
    }

    /// Opened anew, the log holds the records up to `last`, and goes on.
    pub(crate) fn reopens(&self, last: u64) {
        let log = self.open().unwrap();
        // What was refused by poison may have survived.
        let found = log.durable_lsn().get();
        assert!((last..=last + 1).contains(&found), "{last} was durable, and the log ends at {found}");
        holds(&log, found);
        append_to(&log, found + 10);
        log.close().wait().unwrap();
        let log = self.open().unwrap();
        holds(&log, found + 10);
        log.close().wait().unwrap();
    }

    /// This program again, for another part of the case.
    pub(crate) fn again(&self, part: &str) -> Command {
        let mut command = child_in(part);
        command.env(DIR, &self.dir);
        command
    }
}

/// Record `lsn` of every log here.
pub(crate) fn payload(lsn: u64) -> Vec<u8> {
    let mut rng = Rng::new(lsn);
    (0..50 + rng.below(1200)).map(|_| rng.next().to_le_bytes()[0]).collect()
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn append_next(log: &Log) -> Result<u64, AppendError> {
    block_on(log.append(&payload(log.appended_lsn().get() + 1))).map(Lsn::get)
}

/// Appends until the log has `last` records.
pub(crate) fn append_to(log: &Log, last: u64) {
    while log.appended_lsn().get() < last {
        append_next(log).unwrap();
    }
}

/// Appends until it is refused: the last record, and why no more.
pub(crate) fn append_until_refused(log: &Log) -> (u64, AppendError) {
    for _ in 0..100_000 {
        if let Err(error) = append_next(log) {
            return (log.durable_lsn().get(), error);
        }
    }
    panic!("nothing ever refuses");
}

/// Appends one more as soon as there is room again.
pub(crate) fn append_when_there_is_room(log: &Log) {
    let began = Instant::now();
    while let Err(error) = append_next(log) {
        assert!(matches!(error, AppendError::NoSpace(_)), "{error:?}");
        assert!(began.elapsed() < PATIENCE / 2, "there is room, and still: {error}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The log holds the records 1 to `last`, byte for byte, and no more.
pub(crate) fn holds(log: &Log, last: u64) {
    assert_eq!(log.durable_lsn().get(), last, "{:?}", log.recovery_report());
    let mut expected = 0;
    for record in log.read(..).unwrap() {
        let record = record.unwrap();
        expected += 1;
        assert_eq!((record.lsn.get(), record.payload.as_ref()), (expected, &*payload(expected)));
    }
    assert_eq!(expected, last);
}

/// Whoever writes beyond a limit on file sizes is told by a signal, too, unless it is blocked.
pub(crate) fn block_file_size_signal() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block().unwrap();
}

/// Why a case cannot run here; none if it can.
pub(crate) fn missing(need: Need) -> Option<String> {
    match need {
        Need::Nothing => None,
        Need::Machine if !everything_required() => {
            Some("changes a setting of the whole machine; runs only under RINGWAL_REQUIRE=all".to_owned())
        }
        Need::Root | Need::Machine | Need::Nobody if !is_root() => Some("needs root".to_owned()),
        Need::Root | Need::Machine => None,
        Need::Nobody => {
            let scratch = Scratch::new("limits");
            let program = std::env::current_exe().ok()?;
            let open = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
            let closed = scratch.path().ancestors().chain(program.ancestors()).find(|path| !open(path));
            closed.map(|path| format!("an unprivileged user cannot reach {}", path.display()))
        }
    }
}

/// Runs a case in a child; what it complains of.
pub(crate) fn try_case(case: &Case, seed: u64) -> Result<(), String> {
    let scratch = Scratch::new("limits");
    let mut command = child_in(&format!("{ROLE}{}", case.name));
    command.env(DIR, scratch.path()).env(MANNER, seed.to_string()).stderr(Stdio::piped());
    if case.need == Need::Nobody {
        chown(scratch.path(), Some(NOBODY), Some(NOBODY)).map_err(|error| error.to_string())?;
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut child = Reaped(command.spawn().map_err(|error| error.to_string())?);
    let complaints = gather(child.0.stderr.take());
    let words = gather(child.0.stdout.take());
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("not done within {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if status.success() {
        return Ok(());
    }
    let text = [words, complaints].map(|thread| thread.join().unwrap_or_default()).concat();
    Err(format!("{status}: {text}"))
}

fn gather(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_string(&mut text);
        }
        text
    })
}

/// The child's side. False if the role is none of these.
pub(crate) fn child(role: &str) -> bool {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return false };
    let seed = std::env::var(MANNER).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let place = Place { dir, manner: Manner::of(seed) };
    if limits_process::part(role, &place) || limits_disk::part(role, &place) {
        return true;
    }
    let Some(case) = role.strip_prefix(ROLE).and_then(|name| CASES.iter().find(|case| case.name == name)) else {
        return false;
    };
    if is_root() {
        // Whatever is mounted goes with the process, however that ends.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    }
    (case.run)(&place);
    true
}
