//! `ringwal verify`: reads every byte and judges it in one line.

use std::path::PathBuf;

use ringwal::{State, Verification};

use crate::failure::Failure;
use crate::progress::Spinner;
use crate::{output, signals};

/// Check every byte of a log; changes nothing
///
/// Prints one line and ends with 0 if the log is clean (or empty), 1 if its tail is torn (the next opening for writing
/// cuts it), 2 if acknowledged data is damaged, 3 if DIR is missing, not a log, or unreadable. Beside a writer only what
/// is claimed durable is judged.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The log's directory
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    signals::end_at_once()?;
    let spinner = Spinner::start("reading the log");
    let verdict = ringwal::verify(&args.dir).map_err(|error| Failure::open(&args.dir, &error))?;
    drop(spinner);
    let dir = args.dir.display();
    let records = records(&verdict);
    let Verification { label, meaning, state, .. } = &verdict;
    match state {
        State::Empty => output::say(&format!("{dir}: empty: no log yet (row {label})"))?,
        State::Torn { bytes } => {
            output::say(&format!(
                "{dir}: {meaning} (row {label}): {bytes} bytes behind the last record, which the next opening for writing \
                 cuts; {records}"
            ))?;
            return Err(Failure::said(true));
        }
        State::Damaged(damage) => {
            output::say(&damage.to_string())?;
            return Err(Failure::said(false));
        }
        _ => output::say(&format!("{dir}: {meaning} (row {label}): {records}{}", writer(&verdict)))?,
    }
    Ok(())
}

fn records(verdict: &Verification) -> String {
    let (first, last) = (verdict.first, verdict.last);
    if last < first { "no records".to_owned() } else { format!("LSN {first} to {last}") }
}

fn writer(verdict: &Verification) -> String {
    match verdict.writer {
        None => String::new(),
        Some(None) => "; a writer holds it, what is in flight was not judged".to_owned(),
        Some(Some(pid)) => format!("; process {pid} holds it for writing, what is in flight was not judged"),
    }
}
