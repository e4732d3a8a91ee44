//! `ringwal append`: standard input to records, LSNs to standard output once they are durable.
//!
//! One thread reads and submits, another waits for the durable LSN and prints. So a slow writer at the other end of the
//! pipe sees every line acknowledged without having to send the next one.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;
use ringwal::{AppendError, Log, Lsn, Options, SubmitError};

use crate::failure::{Failure, note};
use crate::output;
use crate::signals::{Bell, Interrupt};
use crate::wait::wait;

/// How much is read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// No log opened here takes larger records: what is longer is refused before all of it is in memory.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// Append the lines of standard input; print each record's LSN once it is durable
///
/// One record for each line, without the line feed (a carriage return stays); an empty line is a record of no bytes, and
/// a last line without a line feed counts. DIR is made if its parent exists. SIGINT and SIGTERM stop the reading: complete
/// lines that were read become durable and are printed, the log is sealed; a second signal ends at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The log's directory
    dir: PathBuf,
    /// The size of new segment files, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    segment_bytes: u64,
    /// All of standard input is one record
    #[arg(long)]
    raw: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::note()?;
    let options = Options::default().segment_bytes(args.segment_bytes);
    let log = wait(Log::open(&args.dir, options)).map_err(|error| Failure::open(&args.dir, &error))?;
    let (first, bell) = (log.appended_lsn().next(), interrupt.bell()?);
    let printer = {
        let log = log.clone();
        thread::spawn(move || print(&log, first, bell))
    };
    let mut input = Input { log: &log, interrupt: &interrupt, lines: 0, partial: Vec::new(), raw: args.raw };
    let read = input.read();
    // Whatever ended the reading: what was submitted becomes durable, is sealed and printed.
    let closed = wait(log.close());
    let printed = printer.join().unwrap_or_else(|_| Err(Failure::usage("the printing thread panicked")));
    printed?;
    read?;
    closed.map_err(|error| failed(&log, &error))?;
    if interrupt.came() { Err(Failure::interrupted()) } else { Ok(()) }
}

fn failed(log: &Log, error: &AppendError) -> Failure {
    Failure::usage(format!("{}: {error}", log.path().display()))
}

/// Prints the LSNs from `next` on, in order, each once it is durable, until the log is closed.
fn print(log: &Log, next: Lsn, bell: Bell) -> Result<(), Failure> {
    let printed = print_durable(log, next);
    if printed.is_err() {
        // Nobody sees what else would be appended.
        bell.ring();
    }
    printed
}

fn print_durable(log: &Log, mut next: Lsn) -> Result<(), Failure> {
    let mut out = output::stdout();
    loop {
        let waited = wait(log.wait_durable(next));
        let durable = waited.as_ref().map_or_else(|_| log.durable_lsn(), |lsn| *lsn);
        while next <= durable {
            writeln!(out, "{next}")?;
            next = next.next();
        }
        out.flush()?;
        match waited {
            Ok(_) => {}
            Err(AppendError::Closed) => return Ok(()),
            Err(error) => return Err(failed(log, &error)),
        }
    }
}

/// Standard input on its way into the log.
struct Input<'a> {
    log: &'a Log,
    interrupt: &'a Interrupt,
    lines: u64,
    /// The line whose end was not read yet; with `raw`, everything so far.
    partial: Vec<u8>,
    raw: bool,
}

impl Input<'_> {
    /// Reads to the end, or until a signal or the printer says stop.
    fn read(&mut self) -> Result<(), Failure> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let Some(len) = self.read_chunk(&mut chunk)? else {
                if !self.partial.is_empty() {
                    note(&format!("stopped within a record: its {} bytes were not appended", self.partial.len()));
                }
                return Ok(());
            };
            if len == 0 {
                break;
            }
            self.take(&chunk[..len])?;
        }
        if self.raw || !self.partial.is_empty() {
            let last = std::mem::take(&mut self.partial);
            self.submit(&last)?;
        }
        Ok(())
    }

    /// The next bytes: none of them at the end, `None` if the reading is to stop.
    fn read_chunk(&self, chunk: &mut [u8]) -> Result<Option<usize>, Failure> {
        let stdin = std::io::stdin();
        let failed =
            |errno: Errno| Failure::usage(format!("standard input: {}; nothing more was appended", errno.desc()));
        loop {
            let wanted = PollFlags::POLLIN;
            let mut fds = [PollFd::new(stdin.as_fd(), wanted), PollFd::new(self.interrupt.wake.as_fd(), wanted)];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.map_err(failed)?,
            };
            if fds[1].any().unwrap_or(true) {
                return Ok(None);
            }
            match unistd::read(&stdin, chunk) {
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                other => return other.map(Some).map_err(failed),
            }
        }
    }

    /// Takes bytes in: every line that they end is submitted.
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !self.raw
            && let Some(end) = bytes.iter().position(|byte| *byte == b'\n')
        {
            if self.partial.is_empty() {
                self.submit(&bytes[..end])?;
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(&bytes[..end]);
                self.submit(&line)?;
                line.clear();
                self.partial = line;
            }
            bytes = &bytes[end + 1..];
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > RECORD_BYTES_MAX {
            return Err(self.refused(&AppendError::TooLarge { len: self.partial.len(), max: RECORD_BYTES_MAX }));
        }
        Ok(())
    }

    /// Submits a record; at the bound, waits for the oldest that is not durable yet.
    fn submit(&mut self, record: &[u8]) -> Result<(), Failure> {
        loop {
            let error = match self.log.submit(record) {
                // The printer waits for it, by its LSN.
                Ok(_pending) => {
                    self.lines += 1;
                    return Ok(());
                }
                Err(SubmitError::Full) => match self.make_room(record) {
                    Ok(false) => continue,
                    Ok(true) => {
                        self.lines += 1;
                        return Ok(());
                    }
                    Err(error) => error,
                },
                Err(SubmitError::Append(error)) => error,
                Err(error) => return Err(Failure::usage(format!("{}: {error}", self.log.path().display()))),
            };
            return Err(self.refused(&error));
        }
    }

    /// Waits until there may be room. With nothing in flight, it is the next segment that is missing: then the record is
    /// appended by the call that waits for that, and this says so.
    fn make_room(&self, record: &[u8]) -> Result<bool, AppendError> {
        let durable = self.log.durable_lsn();
        if self.log.appended_lsn() > durable {
            return wait(self.log.wait_durable(durable.next())).map(|_| false);
        }
        wait(self.log.append(record)).map(|_| true)
    }

    /// Says which record was refused and why.
    fn refused(&self, error: &AppendError) -> Failure {
        let place =
            if self.raw { "standard input".to_owned() } else { format!("standard input, line {}", self.lines + 1) };
        match error {
            AppendError::TooLarge { len, max } => Failure::usage(format!(
                "{place}: {len} bytes or more are over the {max} that a record of {} may have; stopped there, what \
                 precedes it is durable: split it{}",
                self.log.path().display(),
                if *max < RECORD_BYTES_MAX { " or set a larger --segment-bytes" } else { "" }
            )),
            _ => Failure::usage(format!("{place}: {}: {error}", self.log.path().display())),
        }
    }
}
