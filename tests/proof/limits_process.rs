//! Limits of the process: resources, what a sandbox forbids, forks, clocks.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{ForkResult, fork, pipe};
use ringwal::{AppendError, Cause, IoFailure, Log, Op, OpenError};

use crate::common::rig::{Reaped, say};
use crate::common::told::told_well;
use crate::limits_cases::{
    Need, Place, SEGMENT_BYTES, append_next, append_to, append_until_refused, append_when_there_is_room,
    block_file_size_signal, block_on, holds, missing,
};

const NOBODY: u32 = 65534;

/// Sets the soft limit; the hard one stays, so that it can be lifted again.
fn limit(resource: Resource, soft: u64) {
    let (_, hard) = getrlimit(resource).unwrap();
    setrlimit(resource, soft.min(hard), hard).unwrap();
}

fn lift(resource: Resource) {
    limit(resource, u64::MAX);
}

/// A thread or a ring that cannot be had is nobody's file.
fn told(failure: &IoFailure, place: &Place) {
    match failure.op {
        Op::Ring | Op::Spawn => assert!(!failure.to_string().contains('\n'), "{failure}"),
        _ => told_well(failure, &place.log()),
    }
}

pub(crate) fn file_size_at_opening(place: &Place) {
    block_file_size_signal();
    limit(Resource::RLIMIT_FSIZE, SEGMENT_BYTES / 2);
    let error = place.open().unwrap_err();
    assert!(matches!(&error, OpenError::NoSpace(failure) if failure.errno == libc::EFBIG), "{error:?}");
    told_well(&error, &place.log());
    lift(Resource::RLIMIT_FSIZE);
    place.reopens(0);
}

pub(crate) fn file_size_under_way(place: &Place) {
    block_file_size_signal();
    let log = place.open().unwrap();
    append_to(&log, 20);
    // In the middle of a block: some write will be cut short, and its rest refused.
    limit(Resource::RLIMIT_FSIZE, SEGMENT_BYTES / 2 + 2048);
    let (last, error) = append_until_refused(&log);
    let AppendError::Poisoned(Cause::Io(failure)) = &error else { panic!("{error:?}") };
    assert_eq!((failure.op, failure.errno), (Op::Write, libc::EFBIG), "{failure:?}");
    told_well(&error, &place.log());
    assert_eq!(log.close().wait().unwrap_err(), error, "every caller is told the same");
    lift(Resource::RLIMIT_FSIZE);
    place.reopens(last);
}

/// Opens /dev/null until no descriptor is left.
fn hoard() -> Vec<File> {
    limit(Resource::RLIMIT_NOFILE, 64);
    let hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(hoard.len() < 64);
    hoard
}

pub(crate) fn descriptors_at_opening(place: &Place) {
    let log = place.open().unwrap();
    append_to(&log, 100);
    log.close().wait().unwrap();
    let mut hoard = hoard();
    // However many are left, until it works.
    let mut refusals = 0;
    let log = loop {
        match place.open() {
            Ok(log) => break log,
            Err(OpenError::Io(failure)) if failure.errno == libc::EMFILE => {
                told(&failure, place);
                refusals += 1;
            }
            Err(error) => panic!("with {} in the hoard: {error:?}", hoard.len()),
        }
        drop(hoard.pop().expect("it works with all of them"));
    };
    assert!(refusals >= 3, "only {refusals} refusals");
    holds(&log, 100);
    drop(hoard);
    append_to(&log, 110);
    log.close().wait().unwrap();
    place.reopens(110);
}

pub(crate) fn descriptors_under_way(place: &Place) {
    let log = place.open().unwrap();
    append_to(&log, 20);
    let mut hoard = hoard();
    // Another segment needs another file, and the one that was left gives back what it had: somebody else takes that.
    let error = loop {
        hoard.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
        if let Err(error) = append_next(&log) {
            break error;
        }
        assert!(log.durable_lsn().get() < 10_000, "nothing ever refuses");
    };
    let last = log.durable_lsn().get();
    assert!(matches!(&error, AppendError::NoSpace(failure) if failure.errno == libc::EMFILE), "{error:?}");
    told_well(&error, &place.log());
    drop(hoard);
    append_when_there_is_room(&log);
    holds(&log, last + 1);
    log.close().wait().unwrap();
    place.reopens(last + 1);
}

/// Without the privilege to lock memory all the same: what may be locked is for the registered buffers.
pub(crate) fn locked_memory(place: &Place) {
    let mut last = 0;
    for bytes in [64 << 10, 4096, 0] {
        setrlimit(Resource::RLIMIT_MEMLOCK, bytes, bytes).unwrap();
        let log = place.open().unwrap();
        last += 30;
        append_to(&log, last);
        log.close().wait().unwrap();
    }
    place.reopens(last);
}

/// With less and less memory to be had: what a child acknowledged before it ended, however it ended, is there.
pub(crate) fn address_space(place: &Place) {
    let log = place.open().unwrap();
    append_to(&log, 50);
    log.close().wait().unwrap();
    let mut last = 50;
    let mut ends = Vec::new();
    for kib in [0, 64, 512, 1 << 10, 2 << 10, 3 << 10, 5 << 10, 9 << 10, 17 << 10, 65 << 10] {
        let output = place.again("tight").env("RINGWAL_KIB", kib.to_string()).stderr(Stdio::piped()).output().unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = |word: &str| words.lines().rev().find_map(|line| line.strip_prefix(word)).map(str::to_owned);
        let acknowledged = told("A ").map_or(last, |lsn| lsn.parse().unwrap());
        ends.push(match (told("refused: "), output.status.success()) {
            (Some(error), true) => format!("{kib} KiB: {error}"),
            (None, true) => format!("{kib} KiB: done"),
            // Rust ends a process whose allocations fail.
            (_, false) => format!("{kib} KiB: {}", output.status),
        });
        let log = place.open().unwrap();
        last = log.durable_lsn().get();
        assert!(last >= acknowledged, "{kib} KiB: {acknowledged} was acknowledged, and the log ends at {last}");
        holds(&log, last);
        log.close().wait().unwrap();
    }
    say(&format!("address space: {}", ends.join(", ")));
    place.reopens(last);
}

/// With so much address space and no more, to the end.
fn tight(place: &Place) {
    let kib: u64 = std::env::var("RINGWAL_KIB").unwrap().parse().unwrap();
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let used: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    limit(Resource::RLIMIT_AS, used * 4096 + (kib << 10));
    let mut out = std::io::stdout();
    match place.open() {
        Err(error) => writeln!(out, "\nrefused: {error}").unwrap(),
        Ok(log) => {
            for _ in 0..100 {
                match append_next(&log) {
                    Ok(lsn) => writeln!(out, "\nA {lsn}").unwrap(),
                    Err(error) => return writeln!(out, "\nrefused: {error}").unwrap(),
                }
            }
            log.close().wait().unwrap();
        }
    }
}

pub(crate) fn threads(place: &Place) {
    limit(Resource::RLIMIT_NPROC, 0);
    let error = place.open().unwrap_err();
    assert!(matches!(&error, OpenError::Io(failure) if failure.op == Op::Spawn), "{error:?}");
    assert!(!error.to_string().contains('\n'));
    lift(Resource::RLIMIT_NPROC);
    place.reopens(0);
    // A log that is open has the threads that it needs; but the kernel's own, which run what a ring may not wait for, count
    // as well, and without any of them each flush is canceled.
    let log = place.open().unwrap();
    limit(Resource::RLIMIT_NPROC, 0);
    let (last, error) = append_until_refused_or(&log, 150);
    if let Some(error) = error {
        let canceled = |failure: &IoFailure| (failure.op, failure.errno) == (Op::Sync, libc::ECANCELED);
        assert!(matches!(&error, AppendError::Poisoned(Cause::Io(failure)) if canceled(failure)), "{error:?}");
        told_well(&error, &place.log());
    }
    let _ = log.close().wait();
    lift(Resource::RLIMIT_NPROC);
    place.reopens(last);
}

pub(crate) fn setup_forbidden(place: &Place) {
    forbid(libc::SYS_io_uring_setup);
    let log = refused_and_replaced(place, "seccomp");
    goes_on(place, &log);
}

/// With `require_uring` an opening says why; without, system calls take over.
fn refused_and_replaced(place: &Place, cause: &str) -> Log {
    let error = Log::open(place.log(), place.options().require_uring(true)).wait().unwrap_err();
    let OpenError::UringRefused { why } = &error else { panic!("{error:?}") };
    assert!(why.contains(cause), "{why}");
    assert!(!error.to_string().contains('\n'));
    let log = place.open().unwrap();
    let told = log.stats().uring_refused;
    assert!(told.as_ref().is_some_and(|why| why.contains(cause)), "it says so once, in the stats: {told:?}");
    log
}

fn goes_on(place: &Place, log: &Log) {
    append_to(log, 100);
    holds(log, 100);
    log.close().wait().unwrap();
    place.reopens(100);
}

/// A ring without tables of files and buffers.
pub(crate) fn register_forbidden(place: &Place) {
    forbid(libc::SYS_io_uring_register);
    goes_on(place, &place.open().unwrap());
}

/// A sandbox that closes behind an open log.
pub(crate) fn enter_forbidden(place: &Place) {
    let log = Log::open(place.log(), place.options().require_uring(true)).wait().unwrap();
    append_to(&log, 50);
    forbid(libc::SYS_io_uring_enter);
    let (last, error) = append_until_refused_or(&log, 200);
    if let Some(error) = error {
        assert!(
            matches!(&error, AppendError::Poisoned(Cause::Io(failure)) if failure.errno == libc::EPERM),
            "{error:?}"
        );
        told_well(&error, &place.log());
    }
    let _ = log.close().wait();
    place.reopens(last);
}

/// What plain system calls do needs no ring.
fn append_until_refused_or(log: &Log, last: u64) -> (u64, Option<AppendError>) {
    while log.appended_lsn().get() < last {
        if let Err(error) = append_next(log) {
            return (log.durable_lsn().get(), Some(error));
        }
    }
    (last, None)
}

/// Makes a system call fail with EPERM in this process for good, as container runtimes do.
#[expect(unsafe_code, reason = "seccomp has no safe wrapper")]
fn forbid(call: libc::c_long) {
    use nix::libc::{
        BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, sock_filter,
        sock_fprog,
    };
    let statement = |code: u32, k: u32, jt, jf| sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let mut program = [
        statement(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        statement(BPF_JMP | BPF_JEQ | BPF_K, u32::try_from(call).unwrap(), 0, 1),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap(), 0, 0),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs().unwrap();
    let (mode, all_threads) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: `filter` describes `program`, and both outlive the call, which copies them.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, mode, all_threads, &raw const filter) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}

/// The sysctl kernel.io_uring_disabled, put back when this is dropped or this process ends, however it ends: a shell
/// holds the old value and waits for its standard input to close.
struct Disabled(Child);

impl Disabled {
    fn set(value: u32) -> Self {
        let file = "/proc/sys/kernel/io_uring_disabled";
        let script = format!(
            "trap '' INT TERM HUP; old=$(cat {file}); echo {value} > {file}; echo set; cat > /dev/null; echo $old > {file}"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut shell = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "set\n");
        Self(shell)
    }
}

impl Drop for Disabled {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

pub(crate) fn disabled_for_all(place: &Place) {
    // No longer than it takes: others on this machine may want a ring.
    let disabled = Disabled::set(2);
    let log = refused_and_replaced(place, "io_uring_disabled is 2");
    drop(disabled);
    goes_on(place, &log);
}

pub(crate) fn disabled_for_users(place: &Place) {
    let _disabled = Disabled::set(1);
    // Root may, others need its group.
    let log = Log::open(place.dir.join("root"), place.options().require_uring(true)).wait().unwrap();
    append_to(&log, 10);
    log.close().wait().unwrap();
    if let Some(why) = missing(Need::Nobody) {
        return say(&format!("SKIPPED: io_uring_disabled for an unprivileged user: {why}"));
    }
    std::os::unix::fs::chown(&place.dir, Some(NOBODY), Some(NOBODY)).unwrap();
    let output = place.again("user").uid(NOBODY).gid(NOBODY).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn fork_with_an_open_log(place: &Place) {
    let log = place.open().unwrap();
    append_to(&log, 50);
    // Until it has sealed: nobody holds a lock of it then, that the child would find locked for ever.
    std::thread::sleep(Duration::from_millis(100));
    let (told, tell) = pipe().unwrap();
    #[expect(unsafe_code, reason = "a fork is unsafe in a process with threads")]
    // SAFETY: the child works on its copies of memory only, of which none is locked, and leaves without any destructor.
    let forked = unsafe { fork() }.unwrap();
    let ForkResult::Parent { child } = forked else {
        drop(told);
        careless(place, log, &mut File::from(tell));
    };
    drop(tell);
    append_to(&log, 100);
    let mut words = String::new();
    let mut told = File::from(told);
    let mut byte = [0];
    while told.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        words.push(char::from(byte[0]));
    }
    assert_eq!(words, "the child was refused");
    append_to(&log, 150);
    holds(&log, 150);
    log.close().wait().unwrap();
    // The child still lives and has all descriptors, the lock's too.
    place.reopens(150);
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(child, None).unwrap();
    place.reopens(160);
}

/// What a forked child may do that does not know better.
fn careless(place: &Place, log: Log, tell: &mut File) -> ! {
    let pending = log.submit(b"from the child");
    let _ = (log.durable_lsn(), log.stats());
    drop(pending);
    let mut close = std::pin::pin!(log.close());
    let waker = std::task::Waker::noop();
    let _ = close.as_mut().poll(&mut std::task::Context::from_waker(waker));
    drop(log);
    let word = match Log::open(place.log(), place.options().lock_wait(Duration::from_millis(200))).wait() {
        Err(OpenError::Held { .. }) => "the child was refused\n",
        _ => "the child opened the log\n",
    };
    let _ = tell.write_all(word.as_bytes());
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// Lives in time namespaces whose clocks are far apart, each killed: monotonic clocks that go back from one opening to the
/// next, as no reboot does it to them. (The real time cannot be set for one process alone; a log only writes it down.)
pub(crate) fn clocks_that_jump(place: &Place) {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: i64 = uptime.split('.').next().unwrap().parse().unwrap();
    let mut last = 0;
    for seconds in [864_000, -uptime / 2, 0, 315_360_000, -uptime + 10] {
        let mut life = elsewhen(place, "clock-life", seconds);
        let output = life.env("RINGWAL_LAST", last.to_string()).stderr(Stdio::piped()).output().unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        last += 60;
        assert!(words.contains(&format!("\nappended {last}\n")), "{words}{}", String::from_utf8_lossy(&output.stderr));
    }
    // Who holds the log in another time is alive in this one.
    let mut holder = Reaped(elsewhen(place, "clock-hold", 864_000).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(holder.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "held"));
    let refusal = Log::open(place.log(), place.options().lock_wait(Duration::from_millis(300))).wait().unwrap_err();
    assert!(matches!(refusal, OpenError::Held { .. }), "{refusal:?}");
    told_well(&refusal, &place.log());
    drop(holder);
    place.reopens(last);
}

/// A part of the case whose clocks are so many seconds off.
fn elsewhen(place: &Place, part: &str, seconds: i64) -> Command {
    let part = place.again(part);
    let mut command = Command::new("unshare");
    command.args(["--time", "--fork", "--kill-child"]);
    command.args(["--monotonic", &seconds.to_string(), "--boottime", &seconds.to_string()]);
    command.arg(part.get_program()).args(part.get_args());
    command.envs(part.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

fn clock_life(place: &Place) {
    let last: u64 = std::env::var("RINGWAL_LAST").unwrap().parse().unwrap();
    let log = place.open().unwrap();
    holds(&log, last);
    append_to(&log, last + 30);
    // The idle seal comes by the clock.
    std::thread::sleep(Duration::from_millis(50));
    append_to(&log, last + 60);
    let mut out = std::io::stdout();
    writeln!(out, "\nappended {}", last + 60).and_then(|()| out.flush()).unwrap();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// A part of a case, in a child of its child.
pub(crate) fn part(role: &str, place: &Place) -> bool {
    match role {
        "tight" => tight(place),
        "user" => goes_on(place, &refused_and_replaced(place, "io_uring_group")),
        "clock-life" => clock_life(place),
        "clock-hold" => {
            let _log = place.open().unwrap();
            let mut out = std::io::stdout();
            writeln!(out, "\nheld").and_then(|()| out.flush()).unwrap();
            block_on(std::future::pending::<()>());
        }
        _ => return false,
    }
    true
}
