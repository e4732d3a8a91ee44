//! What every harness test needs: a scratch directory, seeded randomness, loud skips, children of the same program.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The environment variable that tells a child what it is for.
const ROLE: &str = "RINGWAL_CHILD";

/// Says something even when the test passes: the test runner captures only the print macros.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says loudly that a test cannot run here; fails it where everything is required.
pub(crate) fn skip(test: &str, why: &str) {
    assert!(!everything_required(), "{test} cannot run and RINGWAL_REQUIRE=all: {why}");
    say(&format!("SKIPPED: {test}: {why}"));
}

/// Whether a test that cannot run counts as failed.
pub(crate) fn everything_required() -> bool {
    std::env::var_os("RINGWAL_REQUIRE").is_some_and(|value| value == "all")
}

/// A number from the environment.
pub(crate) fn env_count(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Whether the test runs as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed from `RINGWAL_SEED`, else from the clock.
    pub(crate) fn seed() -> u64 {
        let now = || {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |since| u64::from(since.subsec_nanos()) | 1)
        };
        std::env::var("RINGWAL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(now)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `times`.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// A directory of the test's own on a real disk, removed afterwards.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Self::place().join(format!("{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// In memory, where the machine has a file system for that: quick, and gone with the power.
    pub(crate) fn in_memory(name: &str) -> Option<Self> {
        let path = Path::new("/dev/shm").join(format!("ringwal-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).ok().map(|()| Self(path))
    }

    /// Where all of them are.
    pub(crate) fn place() -> &'static Path {
        // A program that is no test has no such variable.
        Path::new(option_env!("CARGO_TARGET_TMPDIR").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tmp")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("RINGWAL_KEEP").is_some() {
            say(&format!("kept: {}", self.0.display()));
            return;
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What this process is for, if it was started by [`child`].
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// This program again, to run its test `child` only, in a role. Its standard output is a pipe.
pub(crate) fn child(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--quiet", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// A child that is killed and reaped when the test ends.
#[derive(Debug)]
pub(crate) struct Reaped(pub(crate) Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every file under `dir` by name, with a checksum of its bytes and its length.
pub(crate) fn fingerprint(dir: &Path) -> Vec<(String, u64, u32)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| {
            let bytes = std::fs::read(entry.path()).unwrap();
            (entry.file_name().to_string_lossy().into_owned(), bytes.len() as u64, crc32fast::hash(&bytes))
        })
        .collect();
    files.sort();
    files
}
