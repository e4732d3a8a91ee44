//! One history on the disk with faults: a life before, a life with the fault, and what re-opening finds, with and without
//! a power cut in between: assertions A1 to A11.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use nix::libc::{EFBIG, EIO, ENOSPC};
use ringwal::{Cause, IoFailure, Log, OpenError, Options};
use tokio::runtime::Runtime;

use crate::common::faultfs::{Fault, FaultFs, Op, Span, Strike, What};
use crate::common::manner::Manner;
use crate::common::rig::Rng;
use crate::faults_ledger::{Ledger, Violation, violation};
use crate::faults_life::{Events, Load, live, lock, open};

/// Records of the life with the fault: 200 in all.
const EACH: u32 = 50;
const SEGMENT_BYTES: u64 = 64 << 10;

/// What the fault finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// An empty directory.
    Fresh,
    /// A log that was closed.
    Closed,
    /// A log that ended with a power cut.
    Cut,
}

/// One history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) manner: Manner,
    pub(crate) start: Start,
    pub(crate) fault: Option<Fault>,
    pub(crate) seed: u64,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { manner, start, fault, .. } = self;
        write!(f, "{} at depth {}, {start:?}, {fault:?}", manner.word(), manner.depth)
    }
}

/// Whether what fails like this is asked for again.
fn asked_again(what: What) -> bool {
    matches!(what, What::INTERRUPTED | What::CANCELED)
}

/// What was met, and how often.
pub(crate) type Tally = BTreeMap<String, u64>;

struct History<'a> {
    fs: &'a FaultFs,
    case: Case,
    options: Options,
    runtime: Runtime,
    rng: Rng,
    ledger: Mutex<Ledger>,
    life: u32,
    tally: &'a mut Tally,
}

/// Runs a history; returns how often its fault struck.
pub(crate) fn history(fs: &FaultFs, case: Case, tally: &mut Tally) -> Result<u64, Violation> {
    let options = Options::default().segment_bytes(SEGMENT_BYTES).require_uring(true);
    let options = case.manner.set(options).depth(case.manner.depth);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut rng = Rng::new(case.seed);
    fs.format(rng.next());
    let mut history = History { fs, case, options, runtime, rng, ledger: Mutex::default(), life: 0, tally };
    history.prologue()?;
    let strikes = history.with_fault()?;
    history.epilogue()?;
    Ok(strikes)
}

impl History<'_> {
    fn met(&mut self, label: impl Into<String>) {
        *self.tally.entry(label.into()).or_default() += 1;
    }

    fn live(&mut self, log: Log, each: u32, reads: bool) -> Result<Events, Violation> {
        self.life += 1;
        live(&self.runtime, self.fs, log, &self.ledger, Load { life: self.life, each, reads })
    }

    fn open(&self) -> Result<Result<Log, OpenError>, Violation> {
        open(&self.runtime, self.fs.path(), &self.options)
    }

    /// Opens a log on a disk that is well, and judges what it holds.
    fn reopen(&mut self) -> Result<Log, Violation> {
        let log = self.open()?.map_err(|error| {
            let assertion = if matches!(error, OpenError::Damaged(_)) { "A8" } else { "A5" };
            violation(assertion, format!("a disk that is well, and open says {error}"))
        })?;
        self.met(format!("row {}", log.recovery_report().label));
        self.judge(&log)?;
        Ok(log)
    }

    fn judge(&self, log: &Log) -> Result<(), Violation> {
        let first = log.first_lsn();
        let records = log.read(first..).map_err(|error| violation("A1", format!("reading anew: {error}")))?;
        let records: Result<Vec<_>, _> = records.map(|record| record.map(|record| record.payload)).collect();
        let records = records.map_err(|error| violation("A1", format!("reading anew: {error}")))?;
        lock(&self.ledger).judge(first.get(), &records)
    }

    /// The life before the fault.
    fn prologue(&mut self) -> Result<(), Violation> {
        if self.case.start == Start::Fresh {
            return Ok(());
        }
        let log = self.reopen()?;
        if self.case.start == Start::Cut {
            let n = 1 + self.rng.below(30);
            self.fs.arm(Some(Fault { op: Op::Flush, n, what: What::PowerCut, span: Span::Once, suffix: "" }));
        }
        self.live(log, EACH / 5, false)?;
        if self.case.start == Start::Cut {
            self.cut();
        }
        Ok(())
    }

    /// Cuts the power, if it is not off already, and restores it. Nobody may have the log open.
    fn cut(&mut self) {
        self.fs.cut_power();
        self.fs.restore_power();
    }

    /// The life with the fault. Returns how often it struck.
    fn with_fault(&mut self) -> Result<u64, Violation> {
        self.fs.arm(self.case.fault);
        let before = self.fs.contents();
        match self.open()? {
            Err(error) => {
                self.check_refusal(&error, &before)?;
                self.ended("not opened");
            }
            Ok(log) => {
                let events = self.live(log, EACH, true)?;
                let (_, strike) = self.fs.strikes();
                self.check_events(&events, strike.as_ref())?;
            }
        }
        let (strikes, _) = self.fs.strikes();
        Ok(strikes)
    }

    /// An opening was refused: for the fault's reason, and as little changed as the reason allows (A8, A9).
    fn check_refusal(&self, error: &OpenError, before: &BTreeMap<String, Vec<u8>>) -> Result<(), Violation> {
        let text = error.to_string();
        let Some(fault) = self.case.fault else {
            return Err(violation("A8", format!("no fault, and: {text}")));
        };
        let expected = match error {
            OpenError::Io(failure) | OpenError::NoSpace(failure) => self.is_of(fault, failure),
            OpenError::Damaged(damage) => fault.what == What::Flip && damage.path.starts_with(self.fs.path()),
            OpenError::NotALog { .. } | OpenError::NewerFormat { .. } => fault.what == What::Flip,
            _ => false,
        };
        if !expected || text.contains('\n') {
            return Err(violation("A8", format!("{fault}: {error:?}")));
        }
        if fault.op == Op::Read {
            let without_lock = |files: &BTreeMap<String, Vec<u8>>| {
                files
                    .iter()
                    .filter(|(name, _)| *name != "LOCK")
                    .map(|(name, bytes)| (name.clone(), bytes.clone()))
                    .collect::<Vec<_>>()
            };
            if without_lock(before) != without_lock(&self.fs.contents()) {
                return Err(violation("A9", format!("{fault}: refused ({text}), and files changed")));
            }
        }
        Ok(())
    }

    /// Whether a failure is what the fault causes.
    fn is_of(&self, fault: Fault, failure: &IoFailure) -> bool {
        let errno = match fault.what {
            What::Fails(errno) => errno,
            What::PowerCut => EIO,
            // What flies behind the write that is cut short is beyond the limit. And who writes in plain calls takes a
            // write of less than a sector for a lack of space.
            What::Limited(_) if failure.errno == ENOSPC => ENOSPC,
            What::Limited(_) => EFBIG,
            _ => return false,
        };
        failure.errno == errno && failure.path.starts_with(self.fs.path()) && !failure.to_string().contains('\n')
    }

    /// Whether callers were told what they should be (A8, A11).
    fn check_events(&mut self, events: &Events, strike: Option<&Strike>) -> Result<(), Violation> {
        if events.slowest > Duration::from_secs(1) {
            self.met("answered after more than 1 s");
        }
        let Some((fault, strike)) = self.case.fault.zip(strike) else {
            return match (&events.poison, self.case.fault) {
                // The write behind the one that is to be cut short came first.
                (Some((Cause::Io(failure), _)), Some(fault))
                    if failure.errno == EFBIG && self.is_of(fault, failure) =>
                {
                    Ok(())
                }
                (Some((cause, _)), _) => Err(violation("A8", format!("nothing failed, and: {cause}"))),
                (None, _) => Ok(()),
            };
        };
        let fails = matches!(fault.what, What::Fails(_) | What::PowerCut) && !asked_again(fault.what);
        if let Some((cause, _)) = &events.poison
            && (asked_again(fault.what) || !matches!(cause, Cause::Io(failure) if self.is_of(fault, failure)))
        {
            return Err(violation("A8", format!("{fault}: {cause:?}")));
        }
        // What the log writes into a segment is what it acknowledges; other files it prepares, and then tells later.
        if fails && matches!(fault.op, Op::Write | Op::Flush) && strike.name.ends_with(".seg") {
            if events.poison.is_none() {
                return Err(violation("A11", format!("{fault} in {}: nobody was told", strike.name)));
            }
            if let Some(ident) = lock(&self.ledger).acknowledged_since(strike.at) {
                return Err(violation(
                    "A11",
                    format!("{fault} in {}, and then {ident:?} was acknowledged", strike.name),
                ));
            }
        }
        self.ended(match events {
            Events { poison: Some(_), .. } => "poisoned",
            Events { no_space: 1.., .. } => "no space, then went on",
            Events { reads_failed: 1.., .. } => "all acknowledged, reads failed",
            _ => "all acknowledged",
        });
        Ok(())
    }

    /// How the life with the fault ended.
    fn ended(&mut self, how: &str) {
        if let Some(fault) = self.case.fault {
            self.met(format!("{fault}: {how}"));
            self.met(format!("{}: {how}", self.case.manner.word()));
        }
    }

    /// Crashes in the middle of recovery, up to three of them.
    fn crash_recovery(&mut self) -> Result<(), Violation> {
        for _ in 0..3 {
            if self.rng.one_in(2) {
                break;
            }
            let ops = [Op::Write, Op::Flush, Op::SyncDirectory, Op::Create, Op::Rename, Op::Allocate];
            let op = ops[usize::try_from(self.rng.below(ops.len() as u64)).unwrap_or(0)];
            let fault = Fault { op, n: 1 + self.rng.below(8), what: What::PowerCut, span: Span::Once, suffix: "" };
            self.fs.arm(Some(fault));
            match self.open()? {
                Err(OpenError::Io(failure)) if self.is_of(fault, &failure) => self.met("recovery crashed"),
                Err(error) => return Err(violation("A8", format!("{fault}: {error:?}"))),
                // Judged when the power is back.
                Ok(log) => drop(self.live(log, 1, false)?),
            }
            self.fs.arm(None);
            self.cut();
        }
        Ok(())
    }

    /// The disk is well again: everything acknowledged is there, the log goes on, and so it is after a power cut.
    fn epilogue(&mut self) -> Result<(), Violation> {
        self.fs.arm(None);
        if self.fs.is_off() || self.rng.one_in(2) {
            self.cut();
            self.met("power cut before re-opening");
        } else {
            self.met("re-opened at once");
        }
        self.crash_recovery()?;
        let log = self.reopen()?;
        let acknowledged = lock(&self.ledger).acknowledged();
        let n = 1 + self.rng.below(30);
        self.fs.arm(Some(Fault { op: Op::Flush, n, what: What::PowerCut, span: Span::Once, suffix: "" }));
        self.live(log, EACH / 5, false)?;
        let more = lock(&self.ledger).acknowledged() - acknowledged;
        if more == 0 && self.fs.strikes().0 == 0 {
            return Err(violation("A5", "a log that was recovered acknowledged nothing"));
        }
        self.fs.arm(None);
        self.cut();
        let log = self.reopen()?;
        self.live(log, 2, false)?;
        let log = self.reopen()?;
        self.live(log, 0, false)?;
        Ok(())
    }
}
