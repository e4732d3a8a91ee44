//! `ringwal diskcheck`: does this disk keep what it acknowledges? Write, cut the power, check.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringwal::{LocalLog, Log, OpenError, Options};

use crate::failure::Failure;
use crate::wait::wait;

mod acks;
mod check;
mod write;

/// Find out whether a disk keeps what it acknowledges
///
/// `write` appends and prints one line for each record once it is durable: keep the lines on another machine. Cut the
/// power or kill the process whenever you like. `check` then opens the log again and compares.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Write(write::Args),
    Check(check::Args),
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Write(args) => write::run(args),
        Command::Check(args) => check::run(args),
    }
}

/// What both commands take.
#[derive(Debug, clap::Args)]
struct Place {
    /// The log's directory
    dir: PathBuf,
    /// The size of new segment files, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    segment_bytes: u64,
}

impl Place {
    fn try_open(&self, create: bool) -> Result<Log, OpenError> {
        wait(Log::open(&self.dir, self.options(create)))
    }

    /// As [`Place::try_open`], but driven inside a thread that the log does not have to itself.
    fn try_open_local(&self, create: bool) -> Result<Log, OpenError> {
        let (dir, options) = (self.dir.clone(), self.options(create));
        let (told, opened) = std::sync::mpsc::channel();
        let main = move || match LocalLog::open(dir, options).wait() {
            Ok(local) => {
                let _ = told.send(Ok(local.log().clone()));
                while local.turn().is_some() {
                    let mut fds = [PollFd::new(local.as_fd(), PollFlags::POLLIN)];
                    // A signal: one turn more than needed.
                    let _early = poll(&mut fds, PollTimeout::NONE);
                }
            }
            Err(error) => drop(told.send(Err(error))),
        };
        std::thread::spawn(main);
        opened.recv().unwrap_or(Err(OpenError::RuntimeEnded))
    }

    fn options(&self, create: bool) -> Options {
        Options::default().segment_bytes(self.segment_bytes).create(create)
    }

    fn dir(&self) -> &Path {
        &self.dir
    }
}
