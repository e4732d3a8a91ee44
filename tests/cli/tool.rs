//! The program under test, run in a directory of the test's own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// Small segments: a test should not wait for 64 MiB of zeros.
pub(crate) const SEGMENT: [&str; 2] = ["--segment-bytes", "2097152"];

/// A directory that is removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwal"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Done {
    /// Expects this exit code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", String::from_utf8_lossy(&self.out), self.err);
        self
    }

    /// Expects an exit code, nothing but what precedes on standard output, and one line on standard error with all of
    /// `words`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        let done = self.code(code);
        assert!(done.err.ends_with('\n') && done.err.lines().count() == 1, "not one line: {:?}", done.err);
        for word in words {
            assert!(done.err.contains(word), "no {word:?} in {:?}", done.err);
        }
        assert!(!done.err.contains("Error") && !done.err.contains("panicked"), "{:?}", done.err);
        done
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }
}

/// Runs the program with these bytes on standard input.
pub(crate) fn run_with<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &[u8]) -> Done {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may end without reading all of it.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Done { code: output.status.code(), out: output.stdout, err: String::from_utf8(output.stderr).unwrap() }
}

pub(crate) fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Done {
    run_with(args, b"")
}

/// `ringwal COMMAND DIR` with more arguments.
pub(crate) fn on(command: &str, dir: &Path, more: &[&str]) -> Done {
    run(with(command, dir, more))
}

fn with<'a>(command: &'a str, dir: &'a Path, more: &'a [&str]) -> Vec<&'a OsStr> {
    let mut args = vec![OsStr::new(command), dir.as_os_str()];
    args.extend(more.iter().map(OsStr::new));
    args
}

/// Appends and expects success; small segments.
#[track_caller]
pub(crate) fn append(dir: &Path, more: &[&str], input: &[u8]) -> Done {
    let more: Vec<&str> = SEGMENT.iter().chain(more).copied().collect();
    run_with(with("append", dir, &more), input)
}

/// An `append` whose standard input stays open.
pub(crate) struct Appending {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: BufReader<ChildStdout>,
}

impl Appending {
    pub(crate) fn start(dir: &Path) -> Self {
        let mut child = command(with("append", dir, &SEGMENT)).stdin(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout }
    }

    /// Writes bytes and waits for as many LSNs as there are lines in them: the input stays open meanwhile.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Vec<u64> {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(bytes).unwrap();
        stdin.flush().unwrap();
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        (0..lines).map(|_| self.line().trim_end().parse().unwrap()).collect()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    /// Ends it with SIGKILL, and waits until the kernel has ended its writes: until then the lock is held.
    pub(crate) fn kill(self, dir: &Path) {
        self.signal(nix::sys::signal::Signal::SIGKILL);
        assert_eq!(self.end().code, None);
        while on("verify", dir, &[]).text().contains("holds it") {
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Done {
        drop(self.stdin.take());
        let mut out = Vec::new();
        std::io::Read::read_to_end(&mut self.stdout, &mut out).unwrap();
        let output = self.child.wait_with_output().unwrap();
        Done { code: output.status.code(), out, err: String::from_utf8(output.stderr).unwrap() }
    }
}

/// The batches that `dump --json` shows, segments left out.
pub(crate) fn batches(dir: &Path) -> Vec<serde_json::Value> {
    let dump = on("dump", dir, &["--json"]).code(0);
    let lines = dump.text().lines().map(|line| serde_json::from_str(line).unwrap());
    lines.filter(|line: &serde_json::Value| line.get("kind").is_some()).collect()
}

/// The file of a batch, and its offset and length in it.
pub(crate) fn place(dir: &Path, batch: &serde_json::Value) -> (PathBuf, u64, u64) {
    let file = dir.join(format!("{}.seg", batch["segment"].as_str().unwrap()));
    (file, batch["offset"].as_u64().unwrap(), batch["bytes"].as_u64().unwrap())
}

/// Changes bytes of a file.
pub(crate) fn patch(file: &Path, offset: u64, change: impl FnOnce(&mut [u8]), len: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, offset).unwrap();
}
