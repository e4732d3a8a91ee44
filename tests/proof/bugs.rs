//! Each deliberate mistake in turn, until a rig catches it by an assertion.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::common::bugs::{Bug, LOG, NO_LOCK, SHIPPING};
use crate::rigs::RIGS;

/// Whether each was caught.
pub(crate) fn catch_all(names: &[String], rigs: &[String], minutes: f64) -> Result<bool, String> {
    if !cfg!(ringwal_seeded_bugs) {
        return Err("no mistakes are compiled in: build with RUSTFLAGS=\"--cfg ringwal_seeded_bugs\"".to_owned());
    }
    let known = |name: &String| LOG.iter().chain(SHIPPING).any(|bug| bug.0 == name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        return Err(format!("no mistake is called {name}"));
    }
    if let Some(rig) = rigs.iter().find(|rig| RIGS.iter().all(|known| known.name != *rig)) {
        return Err(format!("no rig {rig}"));
    }
    let mut missed = Vec::new();
    println!("| mistake | what it does | caught by | through | after |\n|---|---|---|---|---|");
    for bug in LOG.iter().chain(SHIPPING).filter(|bug| names.is_empty() || names.iter().any(|name| name == bug.0)) {
        let suits: Vec<_> = match rigs {
            [] => suiting(bug).to_vec(),
            given => given.iter().map(String::as_str).collect(),
        };
        if !caught(bug, &suits, minutes)? {
            missed.push(bug.0);
        }
    }
    if !missed.is_empty() {
        println!("missed: {}", missed.join(", "));
    }
    Ok(missed.is_empty())
}

/// The rigs that should see it, the quickest first.
fn suiting(bug: &Bug) -> &'static [&'static str] {
    match bug.0 {
        NO_LOCK => &["kills"],
        name if name.starts_with("ship-") => &["ship"],
        _ => &["sim", "exhaustive"],
    }
}

fn caught(bug: &Bug, rigs: &[&str], minutes: f64) -> Result<bool, String> {
    let (name, what) = bug;
    for rig in rigs {
        let began = Instant::now();
        if let Some(assertion) = violated(name, rig, minutes)? {
            println!("| {name} | {what} | {rig} | {assertion} | {:.1} s |", began.elapsed().as_secs_f64());
            return Ok(true);
        }
    }
    println!("| {name} | {what} | **nobody** ({}) | | |", rigs.join(", "));
    Ok(false)
}

/// The assertion that did not hold when `rig` ran, in a process of its own, with the mistake switched on.
fn violated(bug: &str, rig: &str, minutes: f64) -> Result<Option<String>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let summary = std::env::temp_dir().join(format!("ringwal-bugs-{}.jsonl", std::process::id()));
    let mut command = Command::new(program);
    command
        .args(["run", rig, "--first-ends", "--seed", "1", "--minutes", &minutes.to_string(), "--summary"])
        .arg(&summary);
    command.env("RINGWAL_SEEDED_BUG", bug).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{rig}: {error}"))?;
    let _ = std::fs::remove_file(summary);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let assertion = told.lines().find_map(|line| line.strip_prefix("VIOLATION ")?.split(' ').next());
    Ok(assertion.map(str::to_owned))
}
