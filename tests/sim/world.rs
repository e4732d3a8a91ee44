//! One seeded history on the simulated disk, and the oracle that watches it.
//!
//! A history is up to six lives of one directory: open (recover), append, seal, rotate, close, and between them a kill, a
//! power cut, or a crash after the n-th operation, also inside recovery. The oracle knows every record that was staged and
//! every one that was acknowledged or shown, and asserts A1-A8 and A11 after each opening.

use std::collections::BTreeMap;
use std::time::Duration;

use ringwal::harness::{Call, Life, batches, first_segment_bytes, judge, shown};
use ringwal::sim::rng::Rng;
use ringwal::sim::{Dsync, Faults, FlushScope, Sim, SimOptions, Snapshot};
use ringwal::{AppendError, Lsn, Method, OpenError, Options, RecoveryMode, SubmitError};

use crate::crowd::Crowd;

/// What a history broke: the assertion, and how.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) assertion: &'static str,
    pub(crate) text: String,
}

pub(crate) fn violated<T>(assertion: &'static str, text: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { assertion, text: text.into() })
}

/// What the histories met: shown, so that a rig that tests nothing is seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    pub(crate) fn add(&mut self, what: &str, n: u64) {
        match self.counts.get_mut(what) {
            Some(count) => *count += n,
            None => {
                self.counts.insert(what.to_owned(), n);
            }
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other.counts.iter().for_each(|(what, n)| self.add(what, *n));
    }

    pub(crate) fn get(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }
}

/// The oracle: what was staged, and how much of it was promised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    staged: Vec<Vec<u8>>,
    groups: Vec<(usize, usize)>,
    promised: usize,
    /// The first record retained.
    first: usize,
    /// Truncations that were begun and cut short: each happened or not.
    after: Vec<usize>,
    before: Option<usize>,
}

impl Oracle {
    pub(crate) fn stage(&mut self, lsn: Lsn, record: Vec<u8>) -> Result<(), Violation> {
        self.staged.push(record);
        if lsn.get() != self.staged.len() as u64 {
            return violated("A2", format!("LSN {lsn} handed out for record {}", self.staged.len()));
        }
        Ok(())
    }

    pub(crate) fn stage_group(&mut self, records: &[Vec<u8>]) {
        self.groups.push((self.staged.len() + 1, self.staged.len() + records.len()));
        self.staged.extend_from_slice(records);
    }

    /// Everything up to `lsn` was acknowledged or shown.
    pub(crate) fn promise(&mut self, lsn: Lsn) -> Result<(), Violation> {
        let lsn = usize::try_from(lsn.get()).unwrap();
        if lsn > self.staged.len() {
            return violated("A3", format!("{lsn} promised of {} staged", self.staged.len()));
        }
        self.promised = self.promised.max(lsn);
        Ok(())
    }

    /// What a reader was shown must be what was staged; it is promised from now on (A7).
    pub(crate) fn shown(&mut self, records: &[(Lsn, Vec<u8>)]) -> Result<(), Violation> {
        self.same(records)?;
        self.promise(records.last().map_or(Lsn::ZERO, |(lsn, _)| *lsn))
    }

    pub(crate) fn same(&self, records: &[(Lsn, Vec<u8>)]) -> Result<(), Violation> {
        let first = records.first().map_or(1, |(lsn, _)| usize::try_from(lsn.get()).unwrap());
        if first > self.first() {
            return violated("A1", format!("begins at {first} instead of {}", self.first));
        }
        for (at, (lsn, record)) in (first - 1..).zip(records) {
            if lsn.get() != at as u64 + 1 {
                return violated("A2", format!("LSN {lsn} stands at {}", at + 1));
            }
            match self.staged.get(at) {
                None => return violated("A3", format!("LSN {lsn} was never staged")),
                Some(staged) if staged != record => return violated("A3", format!("LSN {lsn} is another record")),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// An opening kept `records`: A1-A4, P4; from now on they are promised (A7).
    pub(crate) fn recovered(&mut self, records: &[(Lsn, Vec<u8>)]) -> Result<(), Violation> {
        self.same(records)?;
        let n = records.last().map_or(0, |(lsn, _)| usize::try_from(lsn.get()).unwrap());
        if self.after.contains(&n) {
            self.promised = n;
            self.groups.retain(|(_, last)| *last <= n);
        }
        if n < self.promised {
            return violated("A1", format!("{n} kept of {} promised", self.promised));
        }
        if let Some((first, last)) = self.groups.iter().find(|(first, last)| *first <= n && n < *last) {
            return violated("A4", format!("the group {first}..={last} was cut at {n}"));
        }
        self.staged.truncate(n);
        self.groups.retain(|(_, last)| *last <= n);
        self.promised = n;
        self.first = records.first().map_or(1, |(lsn, _)| usize::try_from(lsn.get()).unwrap());
        self.after.clear();
        self.before = None;
        Ok(())
    }

    /// A truncation of what stands before `n`, or behind it, has begun: it happens or not.
    pub(crate) fn truncating(&mut self, before: Option<usize>, after: Option<usize>) {
        self.before = self.before.max(before);
        self.after.extend(after);
    }

    /// The first record there may be.
    pub(crate) fn first(&self) -> usize {
        self.first.max(self.before.unwrap_or(1)).max(1)
    }

    /// The log was cut back behind record `n`.
    pub(crate) fn cut(&mut self, n: usize) {
        self.staged.truncate(n);
        self.groups.retain(|(_, last)| *last <= n);
        self.promised = n;
        self.after.clear();
    }

    /// A look at what stands there, without opening it: as `recovered`, but nothing is promised.
    pub(crate) fn would_recover(&self, n: usize) -> bool {
        (self.promised <= n || self.after.contains(&n)) && n <= self.staged.len()
    }
}

/// How a history is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Per million flushes and writes that fail.
    pub(crate) faults: bool,
    /// Damage one place at the end.
    pub(crate) rot: bool,
}

/// The world of one seed.
pub(crate) struct World<'a> {
    pub(crate) sim: Sim,
    pub(crate) rng: Rng,
    pub(crate) oracle: Oracle,
    pub(crate) tally: &'a mut Tally,
    pub(crate) options: Options,
    /// Whether method and depth change between one batch and the next, as a tuner changes them.
    mixed: bool,
    flight_max: usize,
    /// All records of this length, if set: so that a dead tail and its successor look alike.
    same_len: Option<usize>,
    record_max: usize,
    pub(crate) block_bytes: usize,
    counter: u64,
    /// The media at an earlier moment, from which another history of the same log may branch off.
    pub(crate) fork: Option<Snapshot>,
}

impl<'a> World<'a> {
    pub(crate) fn new(seed: u64, tally: &'a mut Tally) -> Self {
        let mut rng = Rng::new(seed);
        let block_bytes = [512, 512, 512, 1024, 4096][rng.index(5)];
        let flush = if rng.one_in(2) { FlushScope::Device } else { FlushScope::File };
        let dsync = [Dsync::Through, Dsync::Flushed, Dsync::Through, Dsync::Refused][rng.index(4)];
        let late = ringwal::seeded::is("late");
        let sim = Sim::new(rng.next_u64(), SimOptions { block_bytes, flush, dsync, late, ..SimOptions::default() });
        // Some logs grow to their segments' length.
        let grows = rng.one_in(4);
        let blocks = if grows { 32 + rng.below(40) } else { 16 + rng.below(12) };
        let flight_max = [1, 2, 4][rng.index(3)];
        let (method, mixed) = (Method::ALL[rng.index(4)], rng.one_in(3));
        tally.count(&format!("histories by {}, depth {flight_max}", if mixed { "turns" } else { method.word() }));
        let options = Options::default()
            .method(method)
            .block_bytes(block_bytes)
            .segment_bytes(blocks * u64::from(block_bytes))
            .flight_max(flight_max)
            .batch_bytes_max(block_bytes as usize * (1 + rng.index(3)))
            .pending_bytes_max(if rng.one_in(2) { 2 * blocks as usize * block_bytes as usize } else { 1 << 20 });
        let options = first_segment_bytes(options, if grows { 16 } else { blocks } * u64::from(block_bytes));
        // Now and then one that only a longer segment holds.
        let record_max = block_bytes as usize * if grows { 6 } else { 2 } - 160;
        let same_len = rng.one_in(3).then(|| [0, 8, 40, 300][rng.index(4)]);
        Self {
            sim,
            rng,
            oracle: Oracle::default(),
            tally,
            options,
            mixed,
            flight_max,
            same_len,
            record_max,
            block_bytes: block_bytes as usize,
            counter: 0,
            fork: None,
        }
    }

    pub(crate) fn record(&mut self) -> Vec<u8> {
        self.counter += 1;
        let len = match self.same_len {
            Some(len) => len,
            None => match self.rng.below(8) {
                0 => 0,
                1..=4 => self.rng.index(64),
                5 | 6 => self.rng.index(400),
                _ => self.rng.index(self.record_max),
            },
        };
        let mut record = vec![0; len];
        let tag = self.counter.to_le_bytes();
        record.iter_mut().zip(tag.iter().cycle()).for_each(|(byte, tag)| *byte = *tag);
        record
    }

    /// Opens, checks what was kept, and hands the life out; none if the opening itself was cut short.
    pub(crate) fn open(&mut self) -> Result<Option<Life>, Violation> {
        let seed = self.rng.next_u64();
        let (before, after) = self.truncation();
        let replay = std::env::var_os("RINGWAL_SIM_SEED").is_some();
        if replay {
            println!(
                "opening (before {before:?}, after {after:?}), promised {} of {}",
                self.oracle.promised,
                self.oracle.staged.len()
            );
            batches(&self.sim).iter().for_each(|batch| println!("{}", batch.text));
        }
        match Life::open_truncated(&self.sim, &self.options, seed, before, after) {
            Ok(life) => {
                self.tally.count(life.report().label);
                self.tally.add("torn bytes", life.report().torn_bytes);
                self.tally.add("records copied", life.report().records_copied);
                self.oracle.recovered(&self.read(&life)?)?;
                Ok(Some(life))
            }
            Err(error) if self.sim.crashed() => {
                if replay {
                    println!("opening cut short: {error}; {:?}", self.sim.files());
                }
                self.tally.count("openings cut short");
                Ok(None)
            }
            Err(OpenError::Damaged(damage)) => violated("A8", format!("false alarm: {damage}")),
            Err(OpenError::Io(_) | OpenError::NoSpace(_)) if self.sim.faults().sync_error > 0 => {
                self.tally.count("openings failed by a fault");
                Ok(None)
            }
            Err(error) => violated("A5", format!("cannot open: {error}")),
        }
    }

    /// What a reader in the process sees; one that meets a fault asks again.
    fn read(&self, life: &Life) -> Result<Vec<(Lsn, Vec<u8>)>, Violation> {
        loop {
            match life.read() {
                Err(OpenError::Io(_)) if self.sim.faults().read_error > 0 && !self.sim.crashed() => {}
                read => return read.map_err(|error| Violation { assertion: "A8", text: error.to_string() }),
            }
        }
    }

    /// Sometimes an opening truncates: within what is claimed durable, as the public calls will.
    fn truncation(&mut self) -> (Option<Lsn>, Option<Lsn>) {
        if !self.rng.one_in(4) || self.sim.crashed() {
            return (None, None);
        }
        let Ok(verdict) = judge(&self.sim, false) else { return (None, None) };
        let (first, last) = (verdict.first.get(), verdict.claimed.get());
        if verdict.damaged || last <= first {
            return (None, None);
        }
        if self.rng.one_in(2) {
            let before = first + self.rng.below(last - first);
            self.tally.count("truncations before");
            self.oracle.truncating(usize::try_from(before).ok(), None);
            return (Some(Lsn::new(before)), None);
        }
        let after = first.max(last.saturating_sub(self.rng.below(8)));
        self.tally.count("truncations after");
        self.oracle.truncating(None, usize::try_from(after).ok());
        (None, Some(Lsn::new(after)))
    }

    fn submit(&mut self, life: &Life) -> Result<(), Violation> {
        if self.rng.one_in(5) {
            let records: Vec<_> = (0..2 + self.rng.index(3)).map(|_| self.record()).collect();
            match life.submit_group(&records) {
                Ok(true) => self.oracle.stage_group(&records),
                Ok(false) | Err(AppendError::TooLarge { .. } | AppendError::Poisoned(_) | AppendError::NoSpace(_)) => {}
                Err(error) => return violated("A5", format!("group refused: {error}")),
            }
            return Ok(());
        }
        let record = self.record();
        match life.submit(&record) {
            Ok(lsn) => self.oracle.stage(lsn, record),
            Err(SubmitError::Full | SubmitError::Append(AppendError::Poisoned(_) | AppendError::NoSpace(_))) => Ok(()),
            Err(error) => violated("A5", format!("record refused: {error}")),
        }
    }

    fn act(&mut self, life: &mut Life, crowd: &mut Crowd, poisoned_at: &mut Option<Lsn>) -> Result<(), Violation> {
        if self.mixed {
            life.steer(Method::ALL[self.rng.index(4)], 1 + self.rng.index(self.flight_max), self.rng.index(4) == 0);
        }
        match self.rng.below(20) {
            0..=3 => self.submit(life)?,
            4 if crowd.has_room() => self.call(life, crowd),
            16..=19 => crowd.stir(life, &mut self.rng, &mut self.oracle, self.tally)?,
            5..=10 => {
                self.sim.tick();
            }
            11 => {
                let spares = self.spares();
                life.prepare();
                self.tally.add("spares used again", spares.saturating_sub(self.spares()));
            }
            12 => life.step(Duration::from_millis(11)),
            13 if self.rng.one_in(4) => self.look()?,
            14 if self.rng.one_in(3) => self.recycle(life),
            15 if self.rng.one_in(5) => {
                crowd.cut = true;
                self.cut_back(life)?;
            }
            _ => life.step(Duration::from_micros(50)),
        }
        if life.poisoned() {
            let at = *poisoned_at.get_or_insert(life.durable());
            if life.durable() != at {
                return violated("A11", format!("{} acknowledged after the first failure at {at}", life.durable()));
            }
        }
        self.oracle.promise(life.durable())
    }

    /// Another caller comes.
    fn call(&mut self, life: &Life, crowd: &mut Crowd) {
        let call = [Call::Append, Call::Append, Call::Batch, Call::Reserve, Call::Sync][self.rng.index(5)];
        let count = match call {
            Call::Batch => 2 + self.rng.index(3),
            Call::Sync => 0,
            _ => 1,
        };
        let records = (0..count).map(|_| self.record()).collect();
        crowd.join(life, call, records);
    }

    /// A live log frees its oldest segments: of the running epoch, most of the time.
    fn recycle(&mut self, life: &Life) {
        let (first, last) = (self.oracle.first() as u64, life.durable().get());
        if first < last {
            let before = first + self.rng.below(last - first + 1);
            self.oracle.truncating(usize::try_from(before).ok(), None);
            self.tally.count("segments freed below");
            life.recycle(Lsn::new(before));
        }
    }

    /// A live log takes back its last records, and goes on.
    fn cut_back(&mut self, life: &mut Life) -> Result<(), Violation> {
        let first = self.oracle.first() as u64;
        let durable = life.durable().get();
        if life.poisoned() || durable < first {
            return Ok(());
        }
        let last = first.max(durable.saturating_sub(self.rng.below(8)));
        self.oracle.truncating(None, usize::try_from(last).ok());
        life.truncate_after(Lsn::new(last), self.rng.next_u64());
        let meanwhile = self.rng.below(12);
        let (begins, mut contradicts) = (self.oracle.before, false);
        for round in 0..200 {
            if round == meanwhile {
                // At the same time somebody truncates the beginning: one of the two comes too late, if they contradict.
                let before = first + self.rng.below(durable - first + 1);
                // An empty log tells nobody where it ends: the oracle goes by its records.
                let before = before - u64::from(before == last + 1);
                self.oracle.truncating(usize::try_from(before).ok(), None);
                contradicts = before > last + 1;
                life.recycle(Lsn::new(before));
            }
            life.step(Duration::from_micros(50));
            // Records below the mark become durable first.
            self.oracle.promise(life.durable().max(Lsn::new(last)))?;
            self.sim.tick();
            life.prepare();
            match life.cut_back() {
                None => {}
                Some(Some(Ok(kept))) => {
                    if kept != Lsn::new(last) || life.durable() != kept || life.appended() != kept {
                        return violated("A3", format!("cut back to {kept} instead of {last}"));
                    }
                    self.oracle.cut(usize::try_from(last).unwrap());
                    if contradicts {
                        self.oracle.before = begins;
                    }
                    self.tally.count("cut back alive");
                    return Ok(());
                }
                Some(_) => return Ok(()),
            }
        }
        match self.sim.crashed() {
            true => Ok(()),
            false => violated("A5", "cutting back never ends"),
        }
    }

    fn spares(&self) -> u64 {
        self.sim.files().iter().filter(|name| name.ends_with(".spare")).count() as u64
    }

    /// Another process looks: what it is shown is promised from then on, and nothing it reads changes a byte.
    fn look(&mut self) -> Result<(), Violation> {
        if self.sim.crashed() {
            return Ok(());
        }
        let before = self.sim.hash();
        match shown(&self.sim) {
            Ok(records) => self.oracle.shown(&records)?,
            Err(OpenError::Damaged(damage)) => {
                return violated("A8", format!("false alarm beside the writer: {damage}"));
            }
            Err(OpenError::Io(_)) if self.sim.faults().read_error > 0 => self.tally.count("looks failed by a fault"),
            Err(error) => return violated("A5", format!("cannot read: {error}")),
        }
        if self.sim.hash() != before {
            return violated("A6", "a reader changed a byte");
        }
        self.tally.count("looks");
        Ok(())
    }

    /// One life, to whatever end.
    fn live(&mut self) -> Result<(), Violation> {
        if self.rng.one_in(3) {
            let operations = 1 + self.rng.below(24);
            self.sim.crash_after(Some(operations));
        }
        let Some(mut life) = self.open()? else { return Ok(()) };
        if self.rng.one_in(2) {
            let operations = 1 + self.rng.below(60);
            self.sim.crash_after(Some(operations));
        }
        let (mut poisoned_at, mut crowd) = (None, Crowd::default());
        for _ in 0..self.rng.below(120) {
            self.act(&mut life, &mut crowd, &mut poisoned_at)?;
        }
        if self.rng.one_in(2) && !self.sim.crashed() {
            life.close();
            for _ in 0..400 {
                if life.closed() {
                    self.tally.count("closed");
                    break;
                }
                self.act(&mut life, &mut crowd, &mut poisoned_at).or_else(|violation| {
                    match violation.text.contains("closed") {
                        true => Ok(()),
                        false => Err(violation),
                    }
                })?;
                self.sim.tick();
                life.prepare();
                life.step(Duration::from_micros(50));
                self.oracle.promise(life.durable())?;
            }
        }
        if poisoned_at.is_some() {
            self.tally.count("poisoned");
        }
        self.settle(&mut life, &mut crowd)
    }

    /// Left alone, every caller gets an answer, unless the machine is gone.
    fn settle(&mut self, life: &mut Life, crowd: &mut Crowd) -> Result<(), Violation> {
        if self.rng.one_in(2) {
            return Ok(());
        }
        self.sim.set_faults(Faults::default());
        for _ in 0..100 {
            self.sim.tick_all();
            life.prepare();
            // A segment that could not be prepared is tried again after a while.
            life.step(Duration::from_millis(1 + self.rng.below(30)));
            crowd.stir_all(life, &mut self.oracle, self.tally)?;
            self.oracle.promise(life.durable())?;
        }
        if self.sim.crashed() {
            return Ok(());
        }
        self.tally.count("left alone");
        crowd.ends(life, &mut self.oracle, self.tally)
    }

    /// What the disk does wrong for a life: writes and flushes, or everything else too.
    fn faults(&mut self) -> Faults {
        let device = Faults {
            write_error: 4_000,
            write_short: 20_000,
            write_interrupted: 20_000,
            sync_error: 20_000,
            sync_canceled: 20_000,
            garbage: 100_000,
            ..Faults::default()
        };
        match self.rng.one_in(2) {
            true => device,
            false => Faults { control_error: 10_000, no_space: 20_000, read_error: 5_000, ..device },
        }
    }

    fn crash(&mut self) {
        self.sim.crash_after(None);
        if self.rng.one_in(2) {
            self.sim.power_cut();
            self.tally.count("power cuts");
        } else {
            self.sim.kill();
            self.tally.count("kills");
            if self.rng.one_in(3) {
                self.sim.power_cut();
                self.tally.count("power cuts after kills");
            }
        }
    }

    /// The whole history.
    pub(crate) fn run(&mut self, plan: Plan) -> Result<(), Violation> {
        for _ in 0..1 + self.rng.below(6) {
            let faults = if plan.faults && self.rng.one_in(2) { self.faults() } else { Faults::default() };
            self.sim.set_faults(faults);
            self.live()?;
            self.crash();
            if self.rng.one_in(3) {
                self.fork = Some(self.sim.snapshot());
            }
        }
        self.sim.set_faults(Faults::default());
        self.sim.kill();
        self.verify()?;
        if plan.rot {
            return self.rot();
        }
        // A5 and A6: open, close, open: the same records, and the log goes on.
        for _ in 0..2 {
            let Some(mut life) = self.open()? else { return violated("A5", "cannot open at the end") };
            self.submit(&life)?;
            life.close();
            for _ in 0..100 {
                life.step(Duration::from_micros(50));
                life.prepare();
                self.sim.tick_all();
            }
            if !life.closed() {
                return violated("A10", "does not close");
            }
            self.oracle.promise(life.durable())?;
        }
        Ok(())
    }

    /// Who asked for absolute consistency is told of the torn tail, and nothing changes.
    fn refuses_a_torn_tail(&mut self) -> Result<(), Violation> {
        let strict = self.options.clone().recovery_mode(RecoveryMode::AbsoluteConsistency);
        match Life::open(&self.sim, &strict, 1) {
            Err(OpenError::Torn { .. }) => Ok(()),
            other => violated("A8", format!("a torn tail is not refused: {other:?}")),
        }
    }

    /// `verify` agrees with what an opening would do, calls nothing damaged, and changes nothing.
    fn verify(&mut self) -> Result<(), Violation> {
        let before = self.sim.hash();
        for whole in [false, true] {
            let verdict =
                judge(&self.sim, whole).map_err(|error| Violation { assertion: "A5", text: error.to_string() })?;
            if verdict.damaged {
                return violated("A8", format!("false alarm {} (whole: {whole})", verdict.label));
            }
            if verdict.label == "R12" {
                self.refuses_a_torn_tail()?;
            }
            if !self.oracle.would_recover(usize::try_from(verdict.last.get()).unwrap()) {
                return violated("A1", format!("{} judged as {:?}", self.oracle.promised, verdict));
            }
        }
        if self.sim.hash() != before {
            return violated("A6", "verify changed a byte");
        }
        Ok(())
    }
}
