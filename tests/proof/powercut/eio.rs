//! The n-th flush to the disk fails, for every n, once or from then on: nothing is acknowledged behind it, every future
//! resolves, and what had been acknowledged is there: when the log is opened again, and when the power went with all that
//! the failed flush was for.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringwal::{Log, Options, Pending, SubmitError};

use super::{Bench, on_each_thread};
use crate::common::image::Image;
use crate::common::logwrites::Entry;
use crate::common::manner::Manner;
use crate::common::recording::{MANNERS, Trouble};
use crate::common::survivor::{Survivor, open, recover};
use crate::common::tape::Faulty;
use crate::common::witness::{Witness, Wrong};
use crate::common::workload::{Ident, Sizes, Teller};
use crate::run::Run;

/// How long the run is in which every flush fails once.
const APPENDS: u32 = 200;
/// How many are submitted before the oldest is waited for.
const AT_ONCE: usize = 3;
/// Behind the failed flush every future resolves within this.
const RESOLVED_WITHIN: Duration = Duration::from_secs(1);
const SIZES: Sizes = Sizes::UpTo(2000);

/// A seed is a method, a depth, a file system, and once or for ever; every flush of its run fails in turn.
pub(crate) fn flushes(run: &Run) -> Result<(), String> {
    on_each_thread(run, |run, seed, benches| {
        let bench = benches.for_seed(seed)?;
        let manner = Manner::of(usize::try_from(seed % MANNERS).unwrap());
        for number in 1.. {
            let once = (seed / MANNERS / 2).is_multiple_of(2);
            let faulty = if once { Faulty::Once(number) } else { Faulty::From(number) };
            match fail(bench, manner, faulty)? {
                Some(label) => run.met(label, 1),
                None => break,
            }
            run.met(if once { "once" } else { "from then on" }, 1);
            run.met(&format!("{} {} depth {}", bench.fs().name(), manner.word(), manner.depth), 1);
            run.tried(1);
            if !run.goes_on() {
                break;
            }
        }
        Ok(())
    })
}

fn options(manner: Manner) -> Options {
    manner.set(Options::default().segment_bytes((64 << 10).max((32 << 10) * manner.depth as u64))).depth(manner.depth)
}

/// One run with one fault; what came of it, or none if there were not that many flushes.
fn fail(bench: &Bench, manner: Manner, faulty: Faulty) -> Result<Option<&'static str>, Trouble> {
    let tape = &bench.tape;
    let base = bench.fs().blank()?;
    tape.put_in(base.clone());
    let mount = tape.mount()?;
    let witness = Arc::new(Mutex::new(Witness::new(SIZES)));
    let teller = Teller::to(witness.clone(), tape.position());
    let dir = tape.path().join("wal");
    tape.fail(faulty);
    let written = write(&dir, manner, &teller)?;
    let Some((failed_at, failed)) = tape.failed() else { return Ok(None) };
    let witness = witness.lock().unwrap().clone();
    if let Some(resolved) = written.resolved
        && resolved.saturating_duration_since(failed) > RESOLVED_WITHIN
    {
        let late = resolved - failed;
        return Err(Wrong::new("A10", format_args!("{faulty:?}: the last future resolved after {late:?}")).into());
    }
    tape.fail(Faulty::None);
    let ended = usize::try_from(tape.position().read()).unwrap();
    // The file system may have given up, too: then it has to be mounted again.
    if let Ok((log, survivor)) = open(&dir, &options(manner)) {
        judge(&witness, &survivor, u64::MAX, faulty, "opened again")?;
        let _ = log.close().wait();
    }
    drop(mount);
    let mount = tape.mount()?;
    let survivor = recover(&dir, &options(manner), false)?;
    judge(&witness, &survivor, u64::MAX, faulty, "mounted again")?;
    drop(mount);
    cut(bench, manner, (&base, &tape.take()[..ended], failed_at), &witness, faulty)?;
    Ok(Some(written.label))
}

fn judge(witness: &Witness, survivor: &Survivor, position: u64, faulty: Faulty, when: &str) -> Result<(), Wrong> {
    let wrong = witness.judge_from(survivor.first, &survivor.records, position).into_iter().next();
    wrong.map_or(Ok(()), |Wrong { assertion, what }| {
        Err(Wrong::new(assertion, format_args!("{faulty:?}, {when}: {what}")))
    })
}

/// The power goes while the flush fails; or, if every later one fails, too, at the end. What no flush covered is lost.
fn cut(
    bench: &Bench,
    manner: Manner,
    (base, entries, failed_at): (&Image, &[Entry], usize),
    witness: &Witness,
    faulty: Faulty,
) -> Result<(), Trouble> {
    let flushed = entries[..failed_at].iter().rposition(|entry| entry.flush).map_or(0, |flush| flush + 1);
    let mut image = base.clone();
    entries[..flushed].iter().for_each(|entry| image.apply(entry));
    let position = match faulty {
        Faulty::From(_) => entries.len(),
        _ => failed_at,
    };
    let judged = bench.replay.mounted(&image, |at| {
        let survivor = recover(&at.join("wal"), &options(manner), false)?;
        judge(witness, &survivor, position as u64, faulty, "after a power cut")
    });
    Ok(judged??)
}

/// What a writer met.
struct Written {
    label: &'static str,
    /// When the last future had resolved, if any failed.
    resolved: Option<Instant>,
}

/// Appends until something fails; then nothing more may be acknowledged that was appended behind it.
fn write(dir: &Path, manner: Manner, teller: &Teller) -> Result<Written, Wrong> {
    let Ok(log) = Log::open(dir, options(manner)).wait() else {
        return Ok(Written { label: "open failed", resolved: Some(Instant::now()) });
    };
    let mut pending = VecDeque::new();
    let (mut failed, mut ended) = (None, false);
    for i in 0..APPENDS {
        let ident = Ident { cycle: 0, producer: 0, i };
        let payload = ident.payload(SIZES, false);
        teller.attempt(ident, None);
        let Some(answer) = submit(&log, &payload, &mut pending, &mut failed, teller)? else {
            ended = true;
            break;
        };
        pending.push_back((ident, payload, answer));
        if pending.len() >= AT_ONCE {
            settle(&mut pending, &mut failed, teller)?;
        }
        if failed.is_some() {
            break;
        }
    }
    while !pending.is_empty() {
        settle(&mut pending, &mut failed, teller)?;
    }
    ended |= failed.is_some();
    let resolved = ended.then(Instant::now);
    if ended && log.submit(b"behind the failure").is_ok_and(|answer| answer.wait().is_ok()) {
        return Err(Wrong::new("A11", "an append was acknowledged behind a failed one"));
    }
    let closed = log.close().wait();
    let label = match (ended, closed) {
        (true, _) => "poisoned",
        (false, Err(_)) => "close failed",
        (false, Ok(())) => "unharmed",
    };
    Ok(Written { label, resolved })
}

type Waiting = VecDeque<(Ident, Vec<u8>, Pending)>;

/// None if the log has ended.
fn submit(
    log: &Log,
    payload: &[u8],
    pending: &mut Waiting,
    failed: &mut Option<u64>,
    teller: &Teller,
) -> Result<Option<Pending>, Wrong> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match log.submit(payload) {
            Ok(answer) => return Ok(Some(answer)),
            Err(SubmitError::Full) if !pending.is_empty() => settle(pending, failed, teller)?,
            Err(SubmitError::Full) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(100)),
            Err(SubmitError::Full) => return Err(Wrong::new("A10", "no room for 60 s")),
            Err(_) => return Ok(None),
        }
    }
}

/// Waits for the oldest. `failed` is the first LSN that failed.
fn settle(pending: &mut Waiting, failed: &mut Option<u64>, teller: &Teller) -> Result<(), Wrong> {
    let Some((ident, payload, answer)) = pending.pop_front() else { return Ok(()) };
    let lsn = answer.lsn().get();
    match answer.wait() {
        Ok(lsn) if failed.is_some() => {
            Err(Wrong::new("A11", format_args!("LSN {lsn} was acknowledged behind LSN {failed:?}, which failed")))
        }
        Ok(lsn) => {
            teller.acknowledged(lsn, ident, &payload);
            Ok(())
        }
        Err(_) => {
            failed.get_or_insert(lsn);
            Ok(())
        }
    }
}
