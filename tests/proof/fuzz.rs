//! The rig `fuzz`: libFuzzer on the targets of `tests/fuzz`, each with its share of the executions.
//!
//! What one run finds out about reaching new code is kept under `tests/fuzz/corpus`, for the next.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::Run;

/// A target, its share of a hundred executions, and the longest input that makes sense.
struct Target {
    name: &'static str,
    share: u64,
    input_bytes_max: u32,
}

const TARGETS: [Target; 6] = [
    Target { name: "directory", share: 11, input_bytes_max: 64 },
    Target { name: "recovery", share: 11, input_bytes_max: 300 },
    Target { name: "shipping", share: 12, input_bytes_max: 400 },
    Target { name: "batch", share: 22, input_bytes_max: 700 },
    Target { name: "record", share: 21, input_bytes_max: 300 },
    Target { name: "segment", share: 23, input_bytes_max: 128 },
];

/// Executions of a round, over all targets: whoever looks at the progress sees some every minute.
const ROUND: u64 = 2_000_000;
/// A unit that takes longer than this hangs, in seconds.
const HANGS_AFTER: u32 = 60;
/// Where the flags of the build say that programs go.
const PROGRAMS: &str = "target/x86_64-unknown-linux-gnu/release";

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

pub(crate) fn missing() -> Option<String> {
    let there = |program: &str| {
        let mut command = Command::new(program);
        command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let compiler = ["c++", "g++", "clang++"].into_iter().any(there);
    match (cfg!(target_arch = "x86_64"), there("cargo"), compiler) {
        (false, ..) => Some("the flags in tests/fuzz/.cargo are for x86_64".to_owned()),
        (_, false, _) => Some("no cargo to build the targets with".to_owned()),
        (.., false) => Some("no C++ compiler to build libFuzzer with".to_owned()),
        _ => None,
    }
}

/// Builds, then runs all targets round by round.
pub(crate) fn run(run: &Run) -> Result<(), String> {
    build()?;
    let mut left = run.wanted().unwrap_or(u64::MAX);
    while run.goes_on() && left > 0 {
        let round = left.min(ROUND);
        left -= round;
        let work =
            Mutex::new(TARGETS.iter().map(|target| (target, (round * target.share).div_ceil(100))).collect::<Vec<_>>());
        let next = || work.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let results = thread::scope(|scope| {
            let worker = || {
                while let Some((target, executions)) = next().filter(|_| run.goes_on()) {
                    fuzz(run, target, executions)?;
                }
                Ok::<(), String>(())
            };
            let workers: Vec<_> = (0..run.jobs()).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join()).collect::<Vec<_>>()
        });
        for result in results {
            result.map_err(|_| "a thread of the rig fell over".to_owned())??;
        }
    }
    Ok(())
}

fn build() -> Result<(), String> {
    let mut command = Command::new("cargo");
    // The flags stand in tests/fuzz/.cargo, which cargo finds from there; flags of the environment would hide them.
    command.current_dir(home()).env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
    if cfg!(ringwal_seeded_bugs) {
        command.args(["--config", "build.rustflags=['--cfg=ringwal_seeded_bugs']", "--config"]);
        command.arg("build.target-dir='target/seeded'");
    }
    let status = command.args(["build", "--release", "--quiet"]).stdin(Stdio::null()).status();
    match status.map_err(|error| format!("cargo: {error}"))?.success() {
        true => Ok(()),
        false => Err("the fuzz targets do not build".to_owned()),
    }
}

fn program(target: &Target) -> PathBuf {
    let programs =
        if cfg!(ringwal_seeded_bugs) { PROGRAMS.replacen("target", "target/seeded", 1) } else { PROGRAMS.into() };
    home().join(programs).join(target.name)
}

/// Runs one target for so many executions, and goes on behind what it finds.
fn fuzz(run: &Run, target: &Target, executions: u64) -> Result<(), String> {
    let mut left = executions;
    while left > 0
        && let Some(seed) = run.next()
    {
        let found = once(run, target, left, seed)?;
        let done =
            found.executions.ok_or_else(|| format!("{} did not say what it executed: {}", target.name, found.said))?;
        run.tried(done.min(left));
        run.met(target.name, done.min(left));
        left = left.saturating_sub(done.max(1));
        if let Some(input) = found.input {
            let again = format!("cd tests/fuzz && cargo run --release --bin {} -- {input}", target.name);
            run.violated(&found.assertion, format!("{}: {}; this input: {again}", target.name, found.said), seed);
        }
    }
    Ok(())
}

/// What a run of libFuzzer told.
#[derive(Debug, Default)]
struct Found {
    executions: Option<u64>,
    /// The file that holds what made it fall over.
    input: Option<String>,
    assertion: String,
    said: String,
}

fn once(run: &Run, target: &Target, executions: u64, seed: u64) -> Result<Found, String> {
    let corpus = home().join("corpus").join(target.name);
    let artifacts = home().join("artifacts").join(target.name);
    for dir in [&corpus, &artifacts] {
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    let mut command = Command::new(program(target));
    // 0 would mean a seed from the clock.
    command.arg(format!("-seed={}", seed % u64::from(u32::MAX) + 1)).arg(format!("-runs={executions}"));
    command.arg(format!("-max_len={}", target.input_bytes_max)).arg(format!("-timeout={HANGS_AFTER}"));
    command.args(["-print_final_stats=1", "-rss_limit_mb=1024", "-verbosity=1"]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display())).arg(&corpus);
    command.arg(home().join("seeds").join(target.name));
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", target.name))?;
    let told = child.stderr.take().expect("standard error is a pipe");
    let reader = thread::spawn(move || read(BufReader::new(told)));
    wait(run, &mut child).map_err(|error| format!("{}: {error}", target.name))?;
    reader.join().map_err(|_| "what a target says cannot be read".to_owned())
}

/// Until it ends; asked to, once the run is over.
fn wait(run: &Run, child: &mut Child) -> std::io::Result<()> {
    let id = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let mut asked = false;
    while child.try_wait()?.is_none() {
        thread::sleep(Duration::from_millis(20));
        if !run.goes_on() && !asked {
            // It tells what it did, and ends.
            let _ = kill(id, Signal::SIGINT);
            asked = true;
        }
    }
    Ok(())
}

fn read(told: impl std::io::Read) -> Found {
    let mut found = Found { assertion: "A10".to_owned(), ..Found::default() };
    let mut panicked = false;
    for line in BufReader::new(told).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            found.executions = count.trim().parse().ok();
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            found.input = Some(path.trim().to_owned());
        } else if panicked || line.contains("libFuzzer: timeout") || line.contains("libFuzzer: out-of-memory") {
            panicked = false;
            found.said = line.chars().take(500).collect();
            found.assertion = assertion(&line).unwrap_or("A10").to_owned();
        } else if line.contains("panicked at ") {
            panicked = true;
        }
    }
    found
}

/// The assertion that a panic names: "A3: ..." somewhere in the line.
fn assertion(line: &str) -> Option<&str> {
    let names = line.split(' ').filter_map(|word| word.strip_suffix(':'));
    names.into_iter().find(|name| name.strip_prefix('A').is_some_and(|number| number.parse::<u8>().is_ok()))
}
