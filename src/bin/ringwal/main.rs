//! `ringwal`: appends to logs, reads, verifies and measures them.
//!
//! Scripts depend on the exit codes ([`failure`]) and on one record or verdict per line of standard output.

mod append;
mod bench;
mod cat;
mod diskcheck;
mod dump;
mod failure;
mod output;
mod progress;
mod receive;
mod ship;
mod signals;
mod transport;
mod verify;
mod wait;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use failure::Failure;

/// A write-ahead log on io_uring: what is acknowledged is durable.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 ok; 1 torn tail (verify) or a check that failed; 2 damaged; \
                        3 usage or I/O; 130 interrupted.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Append(append::Args),
    Cat(cat::Args),
    Verify(verify::Args),
    Dump(dump::Args),
    Bench(bench::Args),
    Diskcheck(diskcheck::Args),
    Receive(receive::Args),
    Ship(ship::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let done = match &cli.command {
        Command::Append(args) => append::run(args),
        Command::Cat(args) => cat::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Diskcheck(args) => diskcheck::run(args),
        Command::Receive(args) => receive::run(args),
        Command::Ship(args) => ship::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

/// What clap has to say: help on standard output, errors as one line.
fn explain(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed standard output is not a failure.
            let _closed = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _closed = error.print();
            ExitCode::from(failure::USAGE)
        }
        _ => {
            // The first paragraph is the error; tips and usage follow, and --help has them too.
            let text = error.render().to_string();
            let first: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            let line = first.join(" ");
            let line = line.strip_prefix("error: ").unwrap_or(&line);
            Failure::usage(format!("{line}; see ringwal --help")).tell()
        }
    }
}
