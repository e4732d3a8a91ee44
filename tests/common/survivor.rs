//! What a log is like after a crash, as its next writer finds it.

use std::path::Path;
use std::time::Duration;

use ringwal::{Log, OpenError, Options, Reader, State, verify};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::rig::fingerprint;
use super::witness::Wrong;

/// A log that was opened again.
#[derive(Debug)]
pub(crate) struct Survivor {
    pub(crate) first: u64,
    pub(crate) records: Vec<(u64, Vec<u8>)>,
    pub(crate) label: &'static str,
    pub(crate) torn_bytes: u64,
    pub(crate) copied: u64,
}

/// Opens the log after a crash, and appends (A5). `thorough`: looks, too, what a reader was shown before (A7), whether
/// looking changed anything, and whether opening it once more shows the same (A6).
pub(crate) fn recover(dir: &Path, options: &Options, thorough: bool) -> Result<Survivor, Wrong> {
    let shown = match dir.exists() {
        true => look(dir, thorough)?,
        false => Vec::new(),
    };
    let (log, survivor) = open(dir, options)?;
    if let Some((lsn, _)) = shown.iter().find(|record| !survivor.records.contains(record)) {
        return Err(Wrong::new("A7", format_args!("LSN {lsn} was shown to a reader before the log was opened")));
    }
    let next = survivor.first + survivor.records.len() as u64;
    let lsn = runtime().block_on(lively(log.append(b"after the cut")))?;
    if lsn.get() != next {
        return Err(Wrong::new("A5", format_args!("the next record got LSN {lsn} instead of {next}")));
    }
    log.close().wait().map_err(|error| Wrong::new("A5", format_args!("close: {error}")))?;
    if thorough {
        let (log, again) = open(dir, options)?;
        let same = again.records.split_last().is_some_and(|(last, before)| {
            before == survivor.records && last.1 == b"after the cut" && again.first == survivor.first
        });
        if !same || again.label != "R10" {
            let what = format!("opened again: {} to {} ({})", again.first, again.records.len(), again.label);
            return Err(Wrong::new("A6", what));
        }
        log.close().wait().map_err(|error| Wrong::new("A5", format_args!("close: {error}")))?;
    }
    Ok(survivor)
}

/// One that runs on its caller's thread.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// No future takes longer.
const LIVELY: Duration = Duration::from_secs(60);

/// Every future resolves (A10), and on a disk without faults with success (A5).
pub(crate) async fn lively<T, E: std::fmt::Display>(future: impl Future<Output = Result<T, E>>) -> Result<T, Wrong> {
    match timeout(LIVELY, future).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Wrong::new("A5", error)),
        Err(_) => Err(Wrong::new("A10", format_args!("not resolved within {} s", LIVELY.as_secs()))),
    }
}

/// Looks without opening for writing: nothing changes, and nothing is called damaged. What a reader is shown.
pub(crate) fn look(dir: &Path, thorough: bool) -> Result<Vec<(u64, Vec<u8>)>, Wrong> {
    let before = thorough.then(|| fingerprint(dir));
    let verification = verify(dir).map_err(|error| Wrong::new("A8", format_args!("verify: {error}")))?;
    if let State::Damaged(damage) = verification.state {
        return Err(Wrong::new("A8", format_args!("verify: {damage}")));
    }
    let mut shown = Vec::new();
    if thorough && let Ok(reader) = Reader::open(dir) {
        let wrong = |error| Wrong::new("A8", format_args!("reader: {error}"));
        for record in reader.read(..).map_err(wrong)? {
            let record = record.map_err(wrong)?;
            shown.push((record.lsn.get(), record.payload.to_vec()));
        }
    }
    if before.is_some_and(|before| before != fingerprint(dir)) {
        return Err(Wrong::new("A6", "verify or a reader changed a file"));
    }
    Ok(shown)
}

/// Opens it and reads all of it.
pub(crate) fn open(dir: &Path, options: &Options) -> Result<(Log, Survivor), Wrong> {
    let log = match Log::open(dir, options.clone()).wait() {
        Ok(log) => log,
        Err(error @ (OpenError::Damaged(_) | OpenError::Torn { .. })) => {
            return Err(Wrong::new("A8", format_args!("open: {error}")));
        }
        Err(error) => return Err(Wrong::new("A5", format_args!("open: {error}"))),
    };
    let report = log.recovery_report().clone();
    let wrong = |error| Wrong::new("A5", format_args!("read: {error}"));
    let records: Result<Vec<_>, _> = log.read(..).map_err(wrong)?.collect();
    let records = records.map_err(wrong)?;
    let survivor = Survivor {
        first: log.first_lsn().get(),
        records: records.into_iter().map(|record| (record.lsn.get(), record.payload.to_vec())).collect(),
        label: report.label,
        torn_bytes: report.torn_bytes,
        copied: report.records_copied,
    };
    let last = survivor.first + survivor.records.len() as u64 - 1;
    if report.last.get() != last || log.durable_lsn().get() != last {
        let (told, durable) = (report.last, log.durable_lsn());
        return Err(Wrong::new(
            "A2",
            format_args!("opened at {told}, durable {durable}, and {last} is the last to read"),
        ));
    }
    Ok((log, survivor))
}
