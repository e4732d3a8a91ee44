//! The real journal, stage, driver and recovery on the simulated disk, stepped by a test: no thread, no clock.
//!
//! Behind feature `sim`, for tests only: nothing here is part of the library's promises.

mod caller;
pub mod fuzz;
mod ship;

pub use caller::{Call, Caller};

use std::fmt;

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::disk::sim::Sim;
use crate::disk::sim::rng::Rng;
use crate::disk::{Access, Directory, Notify};
use crate::error::{AppendError, Damage, OpenError, ReadError, SubmitError, TruncateError};
use crate::format::Verdict;
use crate::format::segment::segment_name;
use crate::journal::recovery::Outcome;
use crate::journal::tuner::{Prior, Rules};
use crate::log::{Hosted, renewed};
use crate::lsn::{Epoch, Lsn};
use crate::method::Method;
use crate::options::{Limits, Options};
use crate::read::assess::{Depth, assess};
use crate::read::cursor::{Batches, Records};
use crate::read::recover::{self, RecoveryReport, Surroundings, Truncation};
use crate::read::survey::Survey;
use crate::runtime::append::{AppendBatch, Pending};
use crate::runtime::driver::Driver;
use crate::runtime::durable::End;
use crate::runtime::errands::{Errand, errand};
use crate::runtime::index::Index;
use crate::runtime::prepare::AtOnce;
use crate::runtime::renewal::{Renewal, Reopen};
use crate::runtime::sync::{Arc, Mutex, lock};
use crate::runtime::{Command, Inbox, Job, Shared, Workshop};
use crate::stats::StatsCell;

/// Keeps jobs until the test runs them.
#[derive(Debug, Default)]
struct Shelf(Mutex<Vec<Job>>);

impl Workshop for Shelf {
    fn request(&self, job: Job) {
        lock(&self.0).push(job);
    }
}

/// The options, with a first segment of so many bytes, from which segments grow to their full length.
#[must_use]
pub fn first_segment_bytes(options: Options, bytes: u64) -> Options {
    options.first_segment_bytes(bytes)
}

/// One opening for writing, from recovery to its end.
pub struct Life {
    driver: Driver,
    shared: Arc<Shared>,
    shelf: Arc<Shelf>,
    report: RecoveryReport,
    now: Duration,
    flight_max: usize,
    limits: Limits,
    cut: Option<Errand<Result<Lsn, TruncateError>>>,
    inbox: Arc<Inbox>,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("report", &self.report).finish_non_exhaustive()
    }
}

/// The judgement on a simulated directory: what `open` (not `whole`) or `verify` (`whole`) would say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Judgement {
    /// The row's label.
    pub label: &'static str,
    /// The first record.
    pub first: Lsn,
    /// The last record of the walk.
    pub last: Lsn,
    /// The greatest claim: what another process shows.
    pub claimed: Lsn,
    /// Whether it is damage.
    pub damaged: bool,
    /// Where, and of which records, if it is.
    pub damage: Option<Damage>,
}

/// Judges without changing anything.
///
/// # Errors
/// Unreadable, of a newer format, not a log.
pub fn judge(sim: &Sim, whole: bool) -> Result<Judgement, OpenError> {
    let dir = sim.directory();
    let mut survey = Survey::take(&*dir, Access::Read)?;
    let depth = if whole { Depth::Whole } else { Depth::Tail };
    let verdict = assess(&mut survey, depth)?;
    let damaged = verdict.row.outcome() == Outcome::Damage;
    Ok(Judgement {
        label: verdict.row.label(),
        first: verdict.first,
        last: verdict.last,
        claimed: verdict.claimed,
        damaged,
        damage: verdict.damage,
    })
}

/// The records that another process would be shown, with their LSNs.
///
/// # Errors
/// As [`judge`]; damage too.
pub fn shown(sim: &Sim) -> Result<Vec<(Lsn, Vec<u8>)>, OpenError> {
    collected(reader(sim)?)
}

/// The records that another process would be shown, one by one: each can fail on its own.
///
/// # Errors
/// As [`judge`]; damage too.
pub fn reader(sim: &Sim) -> Result<Records, OpenError> {
    let dir = sim.directory();
    let mut survey = Survey::take(&*dir, Access::Read)?;
    let verdict = assess(&mut survey, Depth::Tail)?;
    if let Some(damage) = verdict.damage {
        return Err(OpenError::Damaged(damage));
    }
    let index = Arc::new(Index::new(verdict.path, verdict.first));
    read(dir, index, verdict.first, verdict.claimed)
}

fn read(dir: Arc<dyn Directory>, index: Arc<Index>, first: Lsn, last: Lsn) -> Result<Records, OpenError> {
    let cuts = index.cuts();
    Batches::new(dir, index, cuts, first, last).map(Records::of).map_err(unreadable)
}

fn collected(records: Records) -> Result<Vec<(Lsn, Vec<u8>)>, OpenError> {
    records.map(|record| record.map(|record| (record.lsn, record.payload.to_vec())).map_err(unreadable)).collect()
}

fn unreadable(error: ReadError) -> OpenError {
    match error {
        ReadError::Io(failure) => OpenError::Io(failure),
        ReadError::Damaged(damage) => OpenError::Damaged(damage),
        other => OpenError::NotALog { path: other.to_string().into(), what: "unreadable" },
    }
}

impl Life {
    /// Opens the log on `sim` for writing, recovering what is there. `seed` gives the nonces.
    ///
    /// # Errors
    /// As `Log::open`.
    pub fn open(sim: &Sim, options: &Options, seed: u64) -> Result<Self, OpenError> {
        Self::open_truncated(sim, options, seed, None, None)
    }

    /// As [`Life::open`], truncating records below `before` or above `after` (which must be claimed durable).
    ///
    /// # Errors
    /// As `Log::open`.
    pub fn open_truncated(
        sim: &Sim,
        options: &Options,
        seed: u64,
        before: Option<Lsn>,
        after: Option<Lsn>,
    ) -> Result<Self, OpenError> {
        let mut rng = Rng::new(seed);
        Self::open_with(sim, options, Box::new(move || rng.next_u64()), Truncation { before, after })
    }

    fn open_with(
        sim: &Sim,
        options: &Options,
        random: Box<dyn FnMut() -> u64 + Send>,
        truncation: Truncation,
    ) -> Result<Self, OpenError> {
        let dir = sim.directory();
        let limits: Limits = options.limits(dir.block_bytes().map_err(OpenError::Io)?)?;
        let mut outside = Surroundings { random, created_ns: 0 };
        let opened = recover::open(&*dir, &limits, &mut outside, truncation)?;
        let notify = Arc::new(Notify::new().map_err(|_| OpenError::RuntimeEnded)?);
        let inbox = Arc::new(Inbox::new(notify));
        let shelf = Arc::new(Shelf::default());
        let rules = Rules::new(Method::ALL, limits.pins, limits.flight_max, true, Prior::default());
        let stats = StatsCell::new(Method::LinkedFdatasync, true, None);
        let hosted = Hosted::new(opened, dir, &limits, &inbox, stats, rules, None);
        inbox.send(Command::Host(Box::new(hosted.tenancy))).map_err(|_| OpenError::RuntimeEnded)?;
        let mut driver = Driver::new(Box::new(sim.disk()), inbox.clone(), shelf.clone());
        driver.step(Duration::ZERO);
        hosted.answer.recv().unwrap_or(Err(OpenError::RuntimeEnded))?;
        Ok(Self {
            driver,
            shared: hosted.shared,
            shelf,
            report: hosted.report,
            now: Duration::ZERO,
            flight_max: limits.flight_max,
            limits,
            cut: None,
            inbox,
        })
    }

    /// What opening found.
    #[must_use]
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// Stages a record, as `Log::submit` does.
    ///
    /// # Errors
    /// As `Log::submit`.
    pub fn submit(&self, record: &[u8]) -> Result<Lsn, SubmitError> {
        Pending::submit(&self.shared, record).map(|pending| pending.lsn())
    }

    /// Stages a group: the first poll of `Log::append_batch`. False if there was no room.
    ///
    /// # Errors
    /// As `Log::append_batch`.
    pub fn submit_group(&self, records: &[Vec<u8>]) -> Result<bool, AppendError> {
        let before = self.shared.stage.appended();
        let mut future = std::pin::pin!(AppendBatch::new(&self.shared, records));
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(self.shared.stage.appended() > before),
        }
    }

    /// One step of the driver, `later` after the one before.
    pub fn step(&mut self, later: Duration) {
        self.now += later;
        self.driver.step(self.now);
    }

    /// From here on every batch is made durable by `method`, and at most `depth` are in flight (and at most the
    /// `flight_max` of the options): what a tuner changes between one batch and the next.
    pub fn steer(&mut self, method: Method, depth: usize, gather: bool) {
        self.driver.steer(method, depth.min(self.flight_max), gather);
    }

    /// Runs a job that was asked of the helper, if there is one: segments are prepared or freed.
    pub fn prepare(&mut self) -> bool {
        let job = lock(&self.shelf.0).pop();
        job.map(|job| job.run(&mut AtOnce)).is_some()
    }

    /// Frees the segments all of whose records are below `first`, to be used again: what `truncate_before` does.
    pub fn recycle(&self, first: Lsn) {
        let (promise, _) = errand();
        let _ = self.inbox.send(Command::TruncateBefore { shared: self.shared.clone(), first, promise });
    }

    /// Takes back the records above `last`, as `Log::truncate_after` does; `seed` gives the new epoch's nonce. Answered by
    /// [`Life::cut_back`] once the driver and the helper have done their work.
    pub fn truncate_after(&mut self, last: Lsn, seed: u64) {
        let (promise, errand) = errand();
        let (limits, mut rng) = (self.limits.clone(), Rng::new(seed));
        let mut outside = Surroundings { random: Box::new(move || rng.next_u64()), created_ns: 0 };
        let reopen: Reopen = Box::new(move |dir| renewed(dir, &limits, Some(last), &mut outside));
        let renewal = Renewal { last: Some(last), reopen, promise };
        let _ = self.inbox.send(Command::Renew { shared: self.shared.clone(), renewal });
        self.cut = Some(errand);
    }

    /// What came of a [`Life::truncate_after`], if it is answered; the inner one is none if the log ended first.
    pub fn cut_back(&mut self) -> Option<Option<Result<Lsn, TruncateError>>> {
        match self.cut.as_ref()?.poll(&Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    /// What has been acknowledged.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.shared.durable.lsn()
    }

    /// The last LSN handed out.
    #[must_use]
    pub fn appended(&self) -> Lsn {
        self.shared.stage.appended()
    }

    /// Whether the log ended by its first failure.
    #[must_use]
    pub fn poisoned(&self) -> bool {
        matches!(self.shared.durable.end(), Some(End::Poisoned(_)))
    }

    /// Begins to close.
    pub fn close(&self) {
        self.shared.stage.close();
    }

    /// Whether it is closed and let go.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.shared.durable.poll_released(Waker::noop()).is_ready()
    }

    /// What a reader in this process sees.
    ///
    /// # Errors
    /// I/O, damage.
    pub fn read(&self) -> Result<Vec<(Lsn, Vec<u8>)>, OpenError> {
        collected(self.records()?)
    }

    /// The same, one by one: each can fail on its own.
    ///
    /// # Errors
    /// I/O, damage.
    pub fn records(&self) -> Result<Records, OpenError> {
        read(self.shared.dir.clone(), self.shared.index.clone(), self.shared.index.first(), self.durable())
    }
}

/// A header-valid batch, wherever it stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stray {
    /// The file's name.
    pub name: String,
    /// Where it begins in the file, in bytes.
    pub offset: usize,
    /// How many bytes it takes, padding included.
    pub bytes: usize,
    /// "opening", "copy", "data" or "seal".
    pub kind: &'static str,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its first record's LSN; the next one's, in a batch of none.
    pub first: Lsn,
    /// How many records it holds.
    pub count: u32,
    /// What it claims durable.
    pub durable: Lsn,
    /// What it says is the first record retained.
    pub trim: Lsn,
    /// The batch it links to: the file's name, and where it begins in it, in bytes.
    pub link: Option<(String, usize)>,
    /// Whether its records and padding are whole.
    pub whole: bool,
    /// For a person who replays a seed.
    pub text: String,
}

/// Every header-valid batch, in the order of the segments' ids.
#[must_use]
pub fn batches(sim: &Sim) -> Vec<Stray> {
    let dir = sim.directory();
    let mut all = Vec::new();
    let Ok(mut survey) = Survey::take(&*dir, Access::Read) else { return all };
    let segments: Vec<_> = survey.segments.values().map(|seen| seen.segment.clone()).collect();
    for segment in segments {
        let Ok(strays) = survey.strays(segment.id(), 1) else { continue };
        for found in strays.found {
            let header = found.header;
            let whole = survey.batch_at(segment.id(), header.block);
            let whole = whole.is_ok_and(|verdict| matches!(verdict, Verdict::Valid(_)));
            let offset = |block| usize::try_from(segment.offset(block)).unwrap_or(usize::MAX);
            all.push(Stray {
                name: segment_name(segment.id()),
                offset: offset(header.block),
                bytes: header.bytes(segment.header.block_bytes),
                kind: header.kind.word(),
                epoch: header.epoch,
                first: header.first,
                count: header.count,
                durable: header.durable,
                trim: header.trim,
                link: header.link.map(|link| (segment_name(link.segment), offset(link.block))),
                whole,
                text: format!("{}{header:?}", if whole { "" } else { "BAD " }),
            });
        }
    }
    all
}
