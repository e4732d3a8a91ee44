//! One seeded history on the simulated disk, and the oracle that watches it.
//!
//! A history is up to six lives of one directory: open (recover), append, seal, rotate, close, and between them a kill, a
//! power cut, or a crash after the n-th operation, also inside recovery. The oracle knows every record that was staged and
//! every one that was acknowledged or shown, and asserts A1-A8 and A11 after each opening.

use std::collections::BTreeMap;
use std::time::Duration;

use ringwal::harness::{Life, batches, first_segment_bytes, judge, shown};
use ringwal::sim::rng::Rng;
use ringwal::sim::{Dsync, Faults, FlushScope, Rot, Sim, SimOptions, Snapshot};
use ringwal::{AppendError, Lsn, Method, OpenError, Options, SubmitError};

/// What a history broke: the assertion, and how.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) assertion: &'static str,
    pub(crate) text: String,
}

fn violated<T>(assertion: &'static str, text: impl Into<String>) -> Result<T, Violation> {
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

    fn same(&self, records: &[(Lsn, Vec<u8>)]) -> Result<(), Violation> {
        let first = records.first().map_or(1, |(lsn, _)| usize::try_from(lsn.get()).unwrap());
        if first > self.first.max(self.before.unwrap_or(1)).max(1) {
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

    /// The log was cut back behind record `n`.
    fn cut(&mut self, n: usize) {
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
    options: Options,
    /// Whether method and depth change between one batch and the next, as a tuner changes them.
    mixed: bool,
    flight_max: usize,
    /// All records of this length, if set: so that a dead tail and its successor look alike.
    same_len: Option<usize>,
    record_max: usize,
    block_bytes: usize,
    counter: u64,
    /// The media at an earlier moment, from which another history of the same log may branch off.
    fork: Option<Snapshot>,
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
            .pending_bytes_max(1 << 20);
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

    fn record(&mut self) -> Vec<u8> {
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
                let records = life.read().map_err(|error| Violation { assertion: "A8", text: error.to_string() })?;
                self.oracle.recovered(&records)?;
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
            self.oracle.before = self.oracle.before.max(usize::try_from(before).ok());
            return (Some(Lsn::new(before)), None);
        }
        let after = first.max(last.saturating_sub(self.rng.below(8)));
        self.tally.count("truncations after");
        self.oracle.after.push(usize::try_from(after).unwrap());
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

    fn act(&mut self, life: &mut Life, poisoned_at: &mut Option<Lsn>) -> Result<(), Violation> {
        if self.mixed {
            life.steer(Method::ALL[self.rng.index(4)], 1 + self.rng.index(self.flight_max), self.rng.index(4) == 0);
        }
        match self.rng.below(16) {
            0..=4 => self.submit(life)?,
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
            15 if self.rng.one_in(5) => self.cut_back(life)?,
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

    /// A live log frees its oldest segments: of the running epoch, most of the time.
    fn recycle(&mut self, life: &Life) {
        let (first, last) =
            (self.oracle.first.max(self.oracle.before.unwrap_or(1)).max(1) as u64, life.durable().get());
        if first < last {
            let before = first + self.rng.below(last - first + 1);
            self.oracle.before = self.oracle.before.max(usize::try_from(before).ok());
            self.tally.count("segments freed below");
            life.recycle(Lsn::new(before));
        }
    }

    /// A live log takes back its last records, and goes on.
    fn cut_back(&mut self, life: &mut Life) -> Result<(), Violation> {
        let first = self.oracle.first.max(self.oracle.before.unwrap_or(1)).max(1) as u64;
        let durable = life.durable().get();
        if life.poisoned() || durable < first {
            return Ok(());
        }
        let last = first.max(durable.saturating_sub(self.rng.below(8)));
        self.oracle.after.push(usize::try_from(last).unwrap());
        life.truncate_after(Lsn::new(last), self.rng.next_u64());
        let meanwhile = self.rng.below(12);
        let (begins, mut contradicts) = (self.oracle.before, false);
        for round in 0..200 {
            if round == meanwhile {
                // At the same time somebody truncates the beginning: one of the two comes too late, if they contradict.
                let before = first + self.rng.below(durable - first + 1);
                // An empty log tells nobody where it ends: the oracle goes by its records.
                let before = before - u64::from(before == last + 1);
                self.oracle.before = self.oracle.before.max(usize::try_from(before).ok());
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
        let mut poisoned_at = None;
        for _ in 0..self.rng.below(120) {
            self.act(&mut life, &mut poisoned_at)?;
        }
        if self.rng.one_in(2) && !self.sim.crashed() {
            life.close();
            for _ in 0..400 {
                if life.closed() {
                    self.tally.count("closed");
                    break;
                }
                self.act(&mut life, &mut poisoned_at).or_else(|violation| match violation.text.contains("closed") {
                    true => Ok(()),
                    false => Err(violation),
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
        Ok(())
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
            self.sim.set_faults(if plan.faults && self.rng.one_in(2) { faults() } else { Faults::default() });
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

    /// `verify` agrees with what an opening would do, calls nothing damaged, and changes nothing.
    fn verify(&mut self) -> Result<(), Violation> {
        let before = self.sim.hash();
        for whole in [false, true] {
            let verdict =
                judge(&self.sim, whole).map_err(|error| Violation { assertion: "A5", text: error.to_string() })?;
            if verdict.damaged {
                return violated("A8", format!("false alarm {} (whole: {whole})", verdict.label));
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

    /// One damaged place: told, or nothing that was claimed durable is missing; never another record (A8).
    fn rot(&mut self) -> Result<(), Violation> {
        let claimed = judge(&self.sim, true).map(|verdict| verdict.claimed).unwrap_or_default();
        let names: Vec<String> = self.sim.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
        let Some(mut name) = names.get(self.rng.index(names.len().max(1))).cloned() else { return Ok(()) };
        let what = self.rng.below(10);
        // Nobody can tell when all the newest files are gone together.
        let newest = what == 0 && names.last() == Some(&name);
        let len = self.sim.bytes(&name).map_or(0, |bytes| bytes.len());
        match what {
            0 => self.sim.delete(&name),
            1 => self.sim.break_sector(&name, self.rng.index(len.max(1))),
            2 => names.iter().for_each(|name| self.sim.delete(name)),
            3 | 4 if self.fork.is_some() => self.graft(&name),
            _ => {
                let kind = [Rot::Flip, Rot::Garble, Rot::Zero][self.rng.index(3)];
                let mut at = self.used_offset(&name);
                // Openings and copies are few, and whole rows of the table are about them.
                let rare: Vec<_> =
                    batches(&self.sim).into_iter().filter(|b| matches!(b.kind, "opening" | "copy")).collect();
                if self.rng.one_in(2) && !rare.is_empty() {
                    let which = if self.rng.one_in(2) { rare.len() - 1 } else { self.rng.index(rare.len()) };
                    (name, at) = (rare[which].name.clone(), rare[which].offset + self.rng.index(100));
                } else if self.rng.one_in(8) {
                    at = self.rng.index(64);
                }
                // One block at most: whoever damages a batch and the only one that claims it leaves no trace.
                let in_block = self.block_bytes - at % self.block_bytes;
                let span = [1, 1, 64, in_block][self.rng.index(4)].min(in_block);
                self.sim.rot(&name, at, span.min(len.saturating_sub(at)), kind);
            }
        }
        let before = self.sim.hash();
        let verdict = judge(&self.sim, true);
        if std::env::var_os("RINGWAL_SIM_SEED").is_some() {
            println!("rot {what} of {name}, {claimed} claimed: {verdict:?}");
            batches(&self.sim).iter().for_each(|batch| println!("{}", batch.text));
        }
        let seed = self.rng.next_u64();
        let opened = match &verdict {
            Ok(verdict) => {
                self.tally.count(verdict.label);
                if !verdict.damaged && verdict.last < claimed && what != 2 && !newest {
                    return violated("A8", format!("{name}: {claimed} claimed, {verdict:?} after rot {what}"));
                }
                Life::open(&self.sim, &self.options, seed)
            }
            Err(_) => {
                self.tally.count("R1");
                Life::open(&self.sim, &self.options, seed)
            }
        };
        match opened {
            Err(_) if self.sim.hash() != before => violated("A9", "a refused opening changed a byte"),
            Err(_) => Ok(()),
            Ok(life) => match life.read() {
                Ok(_) if newest => Ok(()),
                Ok(records) => {
                    self.oracle.same(&records)?;
                    if records.last().map_or(Lsn::ZERO, |(lsn, _)| *lsn) < claimed {
                        return violated(
                            "A8",
                            format!("{name}: {} of {claimed} claimed, silently (rot {what})", records.len()),
                        );
                    }
                    Ok(())
                }
                Err(_) => Ok(()),
            },
        }
    }

    /// Puts a block of another history of the same log in the place of ours: a backup restored in part, a snapshot of the
    /// machine that lived on.
    fn graft(&mut self, name: &str) {
        let Some(fork) = self.fork.take() else { return };
        let other =
            Sim::new(self.rng.next_u64(), SimOptions { block_bytes: self.block_bytes as u32, ..SimOptions::default() });
        other.restore(&fork);
        other.kill();
        let seed = self.rng.next_u64();
        let Ok(mut life) = Life::open(&other, &self.options, seed) else { return };
        for _ in 0..1 + self.rng.below(8) {
            let record = self.record();
            let _ = life.submit(&record);
            life.step(Duration::ZERO);
            other.tick_all();
            life.prepare();
            life.step(Duration::ZERO);
        }
        let (Some(mut ours), Some(theirs)) = (self.sim.bytes(name), other.bytes(name)) else { return };
        let blocks = ours.chunks(self.block_bytes).zip(theirs.chunks(self.block_bytes));
        let zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
        let differ: Vec<usize> = blocks
            .enumerate()
            .filter(|(_, (ours, theirs))| ours != theirs && !zero(ours) && !zero(theirs))
            .map(|(at, _)| at * self.block_bytes)
            .collect();
        if differ.is_empty() {
            return;
        }
        let at = differ[self.rng.index(differ.len())];
        ours[at..at + self.block_bytes].copy_from_slice(&theirs[at..at + self.block_bytes]);
        self.sim.put(name, &ours);
        self.tally.count("blocks of another history");
    }

    /// Somewhere in what was written, most of the time.
    fn used_offset(&mut self, name: &str) -> usize {
        let bytes = self.sim.bytes(name).unwrap_or_default();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        self.rng.index(used)
    }
}

fn faults() -> Faults {
    Faults {
        write_error: 4_000,
        write_short: 20_000,
        write_interrupted: 20_000,
        sync_error: 20_000,
        sync_canceled: 20_000,
        garbage: 100_000,
        ..Faults::default()
    }
}
