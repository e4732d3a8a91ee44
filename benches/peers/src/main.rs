//! `ringwal-peers`: ringwal against other log writers, every row of the table of targets, and pages drawn from it all.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- compare --dir DIR --callers 1,16,256
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- targets --dir DIR [ROW..]
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- pins --dir DIR --place NAME
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- plots --out benches/results FILE..
//! ```
//!
//! Every command that measures appends lines of JSON to `--json FILE` as it goes, so that what was measured is kept even
//! if it is interrupted.

mod compare;
mod output;
mod peers;
mod plots;
mod targets;

use std::process::ExitCode;

use clap::Parser;
use ringwal::engines::Failure;

/// ringwal against other log writers, and the pages drawn from what was measured
#[derive(Debug, Parser)]
enum Command {
    Compare(compare::Args),
    Targets(targets::Args),
    Pins(targets::pins::Args),
    Plots(plots::Args),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Compare(args) => compare::run(&args),
        Command::Targets(args) => targets::run(&args),
        Command::Pins(args) => targets::pins::run(&args),
        Command::Plots(args) => plots::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    eprintln!("ringwal-peers: {failure}");
    ExitCode::from(3)
}
