//! One opening of a log on the disk with faults: everything that appends, reads and truncates, what each is told, and
//! whether it may be told that: assertions A8, A10 and A11.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ringwal::{AppendError, Cause, IoFailure, Log, Lsn, OpenError, Options, ReadError, SubmitError, TruncateError};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

use crate::common::faultfs::FaultFs;
use crate::faults_ledger::{Ident, Ledger, Violation, violation};

/// Whatever is awaited comes by then (A10), with or without faults.
pub(crate) const BOUND: Duration = Duration::from_secs(60);
/// How long a caller that found no room waits before it asks again.
const PATIENCE: Duration = Duration::from_millis(10);
/// How many records a submitting caller has under way at once.
const OUTSTANDING: usize = 8;

/// How much a life appends: so many records by each of the four callers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) life: u32,
    pub(crate) each: u32,
    /// Whether somebody reads and truncates meanwhile.
    pub(crate) reads: bool,
}

/// What happened, besides what the ledger keeps.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The log's first failure, as a caller was told it, and what was durable then.
    pub(crate) poison: Option<(Cause, u64)>,
    pub(crate) no_space: u64,
    /// Reads that failed, each with a typed error.
    pub(crate) reads_failed: u64,
    /// The longest that anything took once the fault had struck.
    pub(crate) slowest: Duration,
    violations: Vec<Violation>,
}

/// One opening.
pub(crate) struct Life<'a> {
    pub(crate) fs: &'a FaultFs,
    pub(crate) log: Log,
    pub(crate) ledger: &'a Mutex<Ledger>,
    events: Mutex<Events>,
    load: Load,
    /// Everybody has appended what they wanted, or the log has ended.
    over: AtomicBool,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the log, within the bound.
pub(crate) fn open(runtime: &Runtime, path: &Path, options: &Options) -> Result<Result<Log, OpenError>, Violation> {
    let opened = runtime.block_on(async { timeout(BOUND, Log::open(path, options.clone())).await });
    opened.map_err(|_| violation("A10", format!("opening took longer than {BOUND:?}")))
}

/// Runs a life to its end and closes the log; the violations that it met, first.
pub(crate) fn live(
    runtime: &Runtime,
    fs: &FaultFs,
    log: Log,
    ledger: &Mutex<Ledger>,
    load: Load,
) -> Result<Events, Violation> {
    let life = Life { fs, log, ledger, events: Mutex::default(), load, over: AtomicBool::new(false) };
    thread::scope(|scope| {
        let reader = load.reads.then(|| {
            scope.spawn(|| life.follow());
            scope.spawn(|| life.read_and_truncate())
        });
        runtime.block_on(async {
            tokio::join!(life.one_by_one(), life.in_groups(), life.in_slots(), life.many_at_once());
        });
        life.over.store(true, Ordering::Relaxed);
        if reader.is_some_and(|reader| reader.join().is_err()) {
            life.violated("A10", "reading panicked");
        }
        lock(ledger).show(life.log.durable_lsn().get());
        runtime.block_on(life.close());
    });
    life.check_poison();
    let mut events = life.events.into_inner().unwrap_or_else(PoisonError::into_inner);
    if events.violations.is_empty() { Ok(events) } else { Err(events.violations.swap_remove(0)) }
}

/// What a caller does about an answer.
enum Next {
    Done,
    Again,
    End,
}

impl Life<'_> {
    fn violated(&self, assertion: &'static str, text: impl std::fmt::Display) {
        lock(&self.events).violations.push(violation(assertion, text));
    }

    /// Something that began then has just been answered.
    fn took(&self, began: Instant) {
        if let (_, Some(strike)) = self.fs.strikes() {
            let since = strike.at.max(began).elapsed();
            let mut events = lock(&self.events);
            events.slowest = events.slowest.max(since);
        }
    }

    fn poisoned(&self, cause: Cause) {
        let durable = self.log.durable_lsn().get();
        lock(&self.events).poison.get_or_insert((cause, durable));
    }

    /// Nothing is acknowledged after the first failure was told (A11), and every caller is told the same one (A8).
    fn check_poison(&self) {
        let Some((_, durable)) = lock(&self.events).poison.clone() else { return };
        let (now, acknowledged) = (self.log.durable_lsn().get(), lock(self.ledger).last_acknowledged());
        if now != durable || acknowledged > durable {
            let text = format!("poisoned at {durable}, then durable {now}, acknowledged {acknowledged}");
            self.violated("A11", text);
        }
    }

    fn ident(&self, caller: u32, i: u32) -> Ident {
        Ident { life: self.load.life, caller, i }
    }

    /// Waits for an answer within the bound and writes it down.
    async fn answer<T>(
        &self,
        first: Ident,
        count: u32,
        began: Instant,
        answer: impl Future<Output = Result<T, AppendError>>,
        lsns: impl FnOnce(&T) -> std::ops::RangeInclusive<Lsn>,
    ) -> Next {
        let Ok(answer) = timeout(BOUND, answer).await else {
            self.violated("A10", format!("no answer for {first:?} within {BOUND:?}"));
            return Next::End;
        };
        self.took(began);
        match answer {
            Ok(answer) => {
                let lsns = lsns(&answer);
                lock(self.ledger).acknowledge(first, lsns.start().get()..=lsns.end().get());
                Next::Done
            }
            Err(error) => self.failed(first, count, error).await,
        }
    }

    async fn failed(&self, first: Ident, count: u32, error: AppendError) -> Next {
        match error {
            AppendError::Poisoned(cause) => {
                self.poisoned(cause);
                Next::End
            }
            AppendError::NoSpace(failure) => {
                lock(self.ledger).refuse(first, count);
                self.told_well(&failure);
                lock(&self.events).no_space += 1;
                // Somebody makes room once it is missed, and then there must be room again.
                self.fs.mend();
                if self.fs.strikes().1.is_some_and(|strike| strike.at.elapsed() > BOUND) {
                    self.violated("A10", format!("there is room, and still: {failure}"));
                    return Next::End;
                }
                sleep(PATIENCE).await;
                Next::Again
            }
            error => {
                self.violated("A8", format!("{first:?}: {error:?}"));
                Next::End
            }
        }
    }

    fn told_well(&self, failure: &IoFailure) {
        let text = failure.to_string();
        if text.contains('\n') || !failure.path.starts_with(self.fs.path()) || failure.errno == 0 {
            self.violated("A8", format!("not told well: {text:?}"));
        }
    }

    async fn one_by_one(&self) {
        let mut i = 0;
        while i < self.load.each {
            let ident = self.ident(0, i);
            let payload = ident.payload();
            lock(self.ledger).begin(ident, 1);
            match self.answer(ident, 1, Instant::now(), self.log.append(&payload), |lsn| *lsn..=*lsn).await {
                Next::Done => i += 1,
                Next::Again => {}
                Next::End => return,
            }
        }
    }

    async fn in_groups(&self) {
        let mut i = 0;
        while i < self.load.each {
            let (first, count) = (self.ident(1, i), 2 + i % 3);
            let payloads: Vec<_> = (i..i + count).map(|i| Ident { i, ..first }.payload()).collect();
            lock(self.ledger).begin(first, count);
            match self.answer(first, count, Instant::now(), self.log.append_batch(&payloads), Clone::clone).await {
                Next::Done => i += count,
                Next::Again => {}
                Next::End => return,
            }
        }
    }

    async fn in_slots(&self) {
        let mut i = 0;
        while i < self.load.each {
            let ident = self.ident(2, i);
            let payload = ident.payload();
            lock(self.ledger).begin(ident, 1);
            let append = async {
                let mut slot = self.log.reserve(payload.len() + 5).await?;
                slot.put(&payload);
                slot.commit().await
            };
            match self.answer(ident, 1, Instant::now(), append, |lsn| *lsn..=*lsn).await {
                Next::Done => i += 1,
                Next::Again => {}
                Next::End => return,
            }
        }
    }

    async fn many_at_once(&self) {
        let mut under_way = std::collections::VecDeque::new();
        let mut i = 0;
        let mut full_since = None;
        while i < self.load.each || !under_way.is_empty() {
            if i == self.load.each || under_way.len() == OUTSTANDING {
                let Some((ident, began, pending)) = under_way.pop_front() else { return };
                if let Next::End = self.answer(ident, 1, began, pending, |lsn: &Lsn| *lsn..=*lsn).await {
                    i = self.load.each;
                }
                continue;
            }
            let ident = self.ident(3, i);
            lock(self.ledger).begin(ident, 1);
            match self.log.submit(&ident.payload()) {
                Ok(pending) => {
                    under_way.push_back((ident, Instant::now(), pending));
                    (i, full_since) = (i + 1, None);
                }
                Err(SubmitError::Full) => {
                    lock(self.ledger).refuse(ident, 1);
                    if full_since.get_or_insert_with(Instant::now).elapsed() > BOUND {
                        return self.violated("A10", "full for ever");
                    }
                    sleep(Duration::from_millis(1)).await;
                }
                Err(SubmitError::Append(error)) => {
                    if let Next::End = self.failed(ident, 1, error).await {
                        i = self.load.each;
                    }
                }
                Err(error) => return self.violated("A8", format!("{error:?}")),
            }
        }
    }
}

/// Those who do not append.
impl Life<'_> {
    async fn close(&self) {
        let began = Instant::now();
        let Ok(closed) = timeout(BOUND, self.log.close()).await else {
            return self.violated("A10", format!("closing took longer than {BOUND:?}"));
        };
        self.took(began);
        match closed {
            Err(AppendError::Poisoned(cause)) => self.poisoned(cause),
            Err(error) => self.violated("A8", format!("closing: {error:?}")),
            Ok(()) => {}
        }
    }

    /// Follows the log to its end: whatever is shown has to stay.
    fn follow(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut tail = self.log.tail(self.log.first_lsn());
        loop {
            let expected = tail.next_lsn();
            match runtime.block_on(async { timeout(2 * BOUND, tail.next()).await }) {
                Err(_) => return self.violated("A10", "a tail that does not end"),
                Ok(None) => return,
                Ok(Some(Ok(record))) => {
                    if record.lsn != expected || Ident::of(&record.payload).is_none() {
                        return self.violated("A8", format!("a tail showed {} for {expected}", record.lsn));
                    }
                    lock(self.ledger).show(record.lsn.get());
                }
                Ok(Some(Err(ReadError::Truncated { first }))) => tail = self.log.tail(first),
                Ok(Some(Err(ReadError::Poisoned(_)))) => return,
                Ok(Some(Err(error))) => return self.read_failed(&error),
            }
        }
    }

    fn read_and_truncate(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let total = u64::from(4 * self.load.each);
        let begun = self.log.durable_lsn().get();
        for step in 1..=3 {
            while self.log.durable_lsn().get() < begun + total * step / 4 && !self.over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            let durable = self.log.durable_lsn().get();
            self.read_all(durable);
            if step < 3 && durable > 10 {
                runtime.block_on(self.truncate_before(durable - 10));
            }
        }
    }

    async fn truncate_before(&self, first: u64) {
        lock(self.ledger).ask_trim(first);
        let began = Instant::now();
        let Ok(truncated) = timeout(BOUND, self.log.truncate_before(Lsn::new(first))).await else {
            return self.violated("A10", format!("truncating took longer than {BOUND:?}"));
        };
        self.took(began);
        match truncated {
            Ok(first) => lock(self.ledger).trimmed(first.get()),
            Err(TruncateError::Poisoned(cause)) => self.poisoned(cause),
            Err(TruncateError::NoSpace(failure)) => {
                self.told_well(&failure);
                self.fs.mend();
            }
            // It is durable all the same.
            Err(TruncateError::Io(failure)) => {
                self.told_well(&failure);
                lock(self.ledger).trimmed(first);
            }
            Err(error) => self.violated("A8", format!("truncating: {error:?}")),
        }
    }

    fn read_all(&self, durable: u64) {
        let first = self.log.first_lsn();
        let records = match self.log.read(first..=Lsn::new(durable)) {
            Ok(records) => records,
            Err(error) => return self.read_failed(&error),
        };
        let mut expected = first.get();
        for record in records {
            match record {
                Ok(record) if record.lsn.get() == expected && Ident::of(&record.payload).is_some() => expected += 1,
                Ok(record) => {
                    let text = format!("read LSN {} with {} wrong bytes", record.lsn, record.payload.len());
                    return self.violated("A8", text);
                }
                Err(error) => return self.read_failed(&error),
            }
        }
        if expected != durable + 1 {
            self.violated("A2", format!("of {first} to {durable} a read gave no more than to {}", expected - 1));
        }
        lock(self.ledger).show(durable);
    }

    fn read_failed(&self, error: &ReadError) {
        match error {
            ReadError::Io(failure) => self.told_well(failure),
            ReadError::Damaged(damage) if damage.path.starts_with(self.fs.path()) => {}
            error => self.violated("A8", format!("reading: {error:?}")),
        }
        lock(&self.events).reads_failed += 1;
    }
}
