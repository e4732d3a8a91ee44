//! `ringwal diskcheck check`: is everything that was acknowledged there?

use std::path::PathBuf;

use ringwal::{Log, Lsn, OpenError, ReadError, Record};

use super::Place;
use super::acks::{Ack, parse};
use crate::failure::Failure;
use crate::progress::Spinner;
use crate::wait::wait;
use crate::{output, signals};

/// How many bad records are named.
const NAMED_MAX: usize = 5;

/// Open the log, which recovers it, and compare it with what was acknowledged
///
/// Ends with 1 if an acknowledged record is missing or changed, with 2 if the log is damaged. A last line without a line
/// feed counts as not acknowledged.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// What `write` printed
    #[arg(long, value_name = "FILE")]
    acks: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    signals::end_at_once()?;
    let file = args.acks.display();
    let bytes = std::fs::read(&args.acks).map_err(|error| Failure::usage(format!("{file}: {error}; check --acks")))?;
    let acks = parse(&bytes).map_err(|line| {
        Failure::usage(format!("{file}: line {line} is not ACK LSN LENGTH CRC32; give what diskcheck write printed"))
    })?;
    if let Some(pair) = acks.windows(2).find(|pair| pair[0].lsn == pair[1].lsn) {
        return Err(Failure::check(format!("{file}: LSN {} was acknowledged twice", pair[0].lsn)));
    }
    // Opened for writing: what recovery keeps is made durable before it is shown here.
    let Some(log) = open(&args.place)? else {
        let nothing = Comparison { missing: acks.iter().map(|ack| ack.lsn).collect(), ..Comparison::default() };
        nothing.judge(&args.place.dir().display().to_string(), acks.len())?;
        return Ok(output::say(&format!("{}: no log, and nothing was acknowledged", args.place.dir().display()))?);
    };
    let compared = Comparison::of(&log, &acks);
    let report = log.recovery_report().clone();
    let closed = wait(log.close());
    let compared = compared.map_err(|error| Failure::read(args.place.dir(), &error))?;
    compared.judge(args.place.dir().display().to_string().as_str(), acks.len())?;
    closed.map_err(|error| Failure::usage(format!("{}: {error}", args.place.dir().display())))?;
    let unacknowledged = compared.records.saturating_sub(acks.len() as u64);
    output::say(&format!(
        "{}: all {} acknowledged records are there and unchanged; the log holds {} to {}, {unacknowledged} of them not \
         acknowledged (in flight at the end, or another run's); opening found it {} (row {}), {} bytes cut",
        args.place.dir().display(),
        acks.len(),
        report.first,
        report.last,
        report.meaning,
        report.label,
        report.torn_bytes,
    ))?;
    Ok(())
}

/// The log, or none if the directory is there and holds none: power may go before the first segment has its name.
fn open(place: &Place) -> Result<Option<Log>, Failure> {
    match place.try_open(false) {
        Err(OpenError::Missing { path }) if path.is_dir() => Ok(None),
        opened => opened.map(Some).map_err(|error| Failure::open(place.dir(), &error)),
    }
}

/// What the log says to the acknowledgements.
#[derive(Debug, Default)]
struct Comparison {
    records: u64,
    missing: Vec<Lsn>,
    changed: Vec<Lsn>,
    /// Where the LSNs are not dense.
    gap: Option<Lsn>,
}

impl Comparison {
    fn of(log: &Log, acks: &[Ack]) -> Result<Self, ReadError> {
        let _spinner = Spinner::start("comparing");
        let mut found = Self::default();
        let mut acks = acks.iter().copied().peekable();
        let mut expected = log.first_lsn();
        for record in log.read(..)? {
            let Record { lsn, payload, .. } = record?;
            found.records += 1;
            if lsn != expected {
                found.gap.get_or_insert(expected);
            }
            expected = lsn.next();
            while let Some(ack) = acks.next_if(|ack| ack.lsn < lsn) {
                found.missing.push(ack.lsn);
            }
            if let Some(ack) = acks.next_if(|ack| ack.lsn == lsn)
                && ack != Ack::of(lsn, &payload)
            {
                found.changed.push(lsn);
            }
        }
        found.missing.extend(acks.map(|ack| ack.lsn));
        Ok(found)
    }

    fn judge(&self, dir: &str, acknowledged: usize) -> Result<(), Failure> {
        let mut faults = Vec::new();
        for (lsns, what) in [(&self.missing, "missing"), (&self.changed, "changed")] {
            if !lsns.is_empty() {
                let named: Vec<String> = lsns.iter().take(NAMED_MAX).map(Lsn::to_string).collect();
                let more = if lsns.len() > NAMED_MAX { ", ..." } else { "" };
                faults.push(format!("{} {what} (LSN {}{more})", lsns.len(), named.join(", ")));
            }
        }
        if let Some(lsn) = self.gap {
            faults.push(format!("LSN {lsn} skipped: LSNs are not dense"));
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(Failure::check(format!(
            "{dir}: of {acknowledged} acknowledged records {}; keep a copy of the directory: the disk, its cache or this \
             program broke a promise",
            faults.join(", ")
        )))
    }
}
