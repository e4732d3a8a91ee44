//! A writer on a recorded disk that does everything a log is for: records alone, in groups, several at once, idle seals,
//! rotation, truncation at both ends, closing and opening again, each step told to the witness.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ringwal::{Engine, Log, Lsn, OpenError, Options, ReadError, Reader, SubmitError};
use tokio::runtime::Runtime;

use super::cuts::Cut;
use super::image::Image;
use super::logwrites::Entry;
use super::manner::Manner;
use super::replay::Replay;
use super::rig::Rng;
use super::survivor::{Survivor, lively, open, recover, runtime};
use super::tape::Tape;
use super::witness::{Witness, Wrong};
use super::workload::{Ident, Sizes, Teller};

/// Why there is no recording, or no judgement.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The rig's own.
    Rig(String),
    Log(Wrong),
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Rig(why)
    }
}

impl From<Wrong> for Trouble {
    fn from(wrong: Wrong) -> Self {
        Self::Log(wrong)
    }
}

/// Every method with each of three depths.
pub(crate) const MANNERS: u64 = 12;

/// What a writer does, drawn from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    seed: u64,
    pub(crate) manner: Manner,
    pub(crate) sizes: Sizes,
    segment_bytes: u64,
    idle_seal: Duration,
    steps: u64,
    /// Which crash in a row the recording comes after: 0 for a new log.
    pub(crate) link: u32,
    /// Whether a reader beside it is told of, too.
    reader: bool,
    /// Whether the recording ends with the log closed, or in the midst of it.
    closes: bool,
}

impl Plan {
    /// With everything in it. Each method and depth comes with every kind of record sizes.
    pub(crate) fn of(seed: u64, steps: u64) -> Self {
        let mut rng = Rng::new(seed);
        let manner = Manner::of(usize::try_from(seed % MANNERS).unwrap());
        let sizes = match rng.below(6) {
            0 => Sizes::Exactly(40),
            1 => Sizes::Exactly(700),
            2 => Sizes::Exactly(3900),
            3 => Sizes::Exactly(5000),
            _ => Sizes::UpTo(8192),
        };
        let segment_min = (32 << 10) * manner.depth as u64;
        Self {
            seed: rng.next(),
            manner,
            sizes,
            segment_bytes: ((64 << 10) << rng.below(2)).max(segment_min),
            idle_seal: Duration::from_millis([1, 3, 10, 3_600_000][usize::try_from(rng.below(4)).unwrap()]),
            steps,
            link: 0,
            reader: rng.one_in(2),
            closes: rng.one_in(2),
        }
    }

    /// With records that are alike, for a crash behind a crash.
    pub(crate) fn alike(mut self) -> Self {
        if let Sizes::UpTo(_) = self.sizes
            && !self.seed.is_multiple_of(4)
        {
            self.sizes = Sizes::Exactly(700);
        }
        self
    }

    /// What another writer does after a crash: records as long as those before, nothing taken back.
    pub(crate) fn after(&self, seed: u64, steps: u64) -> Self {
        let mut rng = Rng::new(seed);
        Self { seed: rng.next(), steps, link: self.link + 1, reader: rng.one_in(4), closes: rng.one_in(2), ..*self }
    }

    pub(crate) fn options(&self) -> Options {
        let options = Options::default().segment_bytes(self.segment_bytes).idle_seal(self.idle_seal);
        self.manner.set(options).depth(self.manner.depth)
    }

    /// As the next writer opens it: most by plain system calls, which is the same recovery with no ring to set up.
    pub(crate) fn options_of_next(&self, number: u64) -> Options {
        match number % 8 {
            0 => self.options(),
            _ => self.options().engine(Engine::Syscalls),
        }
    }

    /// As the tally calls it.
    pub(crate) fn label(&self) -> String {
        format!("{} depth {}", self.manner.word(), self.manner.depth)
    }
}

/// What a writer left behind.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) base: Image,
    pub(crate) entries: Vec<Entry>,
    pub(crate) witness: Witness,
    /// How many entries there were when the writer began, and when it ended.
    pub(crate) began: usize,
    pub(crate) ended: usize,
    /// What the recovery at its beginning found.
    pub(crate) opened: Survivor,
    /// Segments that were used again.
    pub(crate) recycled: u64,
}

impl Recording {
    /// Opens the log as a cut left it; what survived, or what is wrong with it. The error is the rig's.
    pub(crate) fn survives(
        &self,
        replay: &Replay,
        image: &Image,
        cut: Cut,
        options: &Options,
        thorough: bool,
    ) -> Result<Result<Survivor, Vec<Wrong>>, String> {
        replay.mounted(image, |at| {
            let survivor = recover(&at.join("wal"), options, thorough).map_err(|wrong| vec![wrong])?;
            let wrong = self.witness.judge_from(survivor.first, &survivor.records, cut.position);
            if wrong.is_empty() { Ok(survivor) } else { Err(wrong) }
        })
    }
}

/// Has a writer carry out `plan` on a log in the directory `wal` of the file system on `base`.
pub(crate) fn record(tape: &Tape, base: Image, plan: &Plan) -> Result<Recording, Trouble> {
    tape.put_in(base.clone());
    let position = tape.position();
    // Behind a crash the file system's own recovery is a part of it.
    let mut began = 0;
    let mount = tape.mount()?;
    if plan.link == 0 {
        began = usize::try_from(position.read()).unwrap();
    }
    let dir = tape.path().join("wal");
    let witness = Arc::new(Mutex::new(Witness::new(plan.sizes)));
    let (log, opened) = open(&dir, &plan.options())?;
    if plan.link > 0 {
        *witness.lock().unwrap() = Witness::after(plan.sizes, opened.first, &opened.records);
    }
    let teller = Arc::new(Teller::to(witness.clone(), position.clone()));
    let mut writer = Writer::new(log, &dir, plan, teller);
    writer.write()?;
    let before = usize::try_from(position.read()).unwrap();
    let recycled = writer.recycled();
    writer.log.close().wait().map_err(|error| Wrong::new("A5", format_args!("close: {error}")))?;
    let ended = if plan.closes { usize::try_from(position.read()).unwrap() } else { before };
    drop(writer);
    drop(mount);
    let witness = witness.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if witness.unanswered() > 0 {
        return Err(Wrong::new("A10", format_args!("{} appends were never answered", witness.unanswered())).into());
    }
    Ok(Recording { base, entries: tape.take(), witness, began, ended, opened, recycled })
}

/// The writer.
struct Writer<'a> {
    log: Log,
    dir: PathBuf,
    plan: &'a Plan,
    rng: Rng,
    teller: Arc<Teller>,
    runtime: Runtime,
    cycle: u32,
    /// The next record's number of each producer.
    next: [u32; PRODUCERS],
    watch: Arc<Watch>,
    /// The names under which a segment's file was seen.
    names: BTreeMap<u64, BTreeSet<OsString>>,
}

const PRODUCERS: usize = 6;

impl<'a> Writer<'a> {
    fn new(log: Log, dir: &Path, plan: &'a Plan, teller: Arc<Teller>) -> Self {
        let (runtime, dir, rng) = (runtime(), dir.to_path_buf(), Rng::new(plan.seed));
        let watch = Arc::new(Watch::default());
        Self {
            log,
            dir,
            plan,
            rng,
            teller,
            runtime,
            cycle: plan.link * 1000,
            next: [0; PRODUCERS],
            watch,
            names: BTreeMap::new(),
        }
    }

    fn write(&mut self) -> Result<(), Wrong> {
        if !self.plan.reader {
            return self.steps();
        }
        let (dir, teller, watch) = (self.dir.clone(), self.teller.clone(), self.watch.clone());
        watch.shown.store(self.log.durable_lsn().get(), Ordering::Relaxed);
        let reader = std::thread::spawn(move || watch.run(&dir, &teller));
        let written = self.steps();
        self.watch.over.store(true, Ordering::Relaxed);
        reader.join().unwrap()?;
        written
    }

    fn steps(&mut self) -> Result<(), Wrong> {
        // Behind a crash nothing is taken back: what comes back then had been dead.
        let kinds = if self.plan.link == 0 { 16 } else { 13 };
        for _ in 0..self.plan.steps {
            match self.rng.below(kinds) {
                0..=5 => self.burst()?,
                6 | 7 => self.group()?,
                8 => self.several()?,
                9 => std::thread::sleep(self.plan.idle_seal.min(Duration::from_millis(10)) + Duration::from_millis(3)),
                10..=12 => self.truncate_before()?,
                13 => self.truncate_after()?,
                14 => self.reopen()?,
                _ => self.alone(0)?,
            }
        }
        Ok(())
    }

    fn ident(&mut self, producer: usize) -> Ident {
        let i = self.next[producer];
        self.next[producer] += 1;
        Ident { cycle: self.cycle, producer: u32::try_from(producer).unwrap(), i }
    }

    /// Several producers at once, one record after the other each.
    fn burst(&mut self) -> Result<(), Wrong> {
        let producers = 1 + usize::try_from(self.rng.below(PRODUCERS as u64)).unwrap();
        let each = 1 + self.rng.below(4);
        let tasks: Vec<_> = (0..producers)
            .map(|producer| {
                let idents: Vec<_> = (0..each).map(|_| self.ident(producer)).collect();
                let (log, teller, sizes) = (self.log.clone(), self.teller.clone(), self.plan.sizes);
                self.runtime.spawn(async move {
                    for ident in idents {
                        append(&log, &teller, ident, sizes).await?;
                    }
                    Ok(())
                })
            })
            .collect();
        tasks.into_iter().try_for_each(|task| self.runtime.block_on(task).unwrap())
    }

    fn alone(&mut self, producer: usize) -> Result<(), Wrong> {
        let ident = self.ident(producer);
        self.runtime.block_on(append(&self.log, &self.teller, ident, self.plan.sizes))
    }

    fn group(&mut self) -> Result<(), Wrong> {
        let count = 2 + u32::try_from(self.rng.below(3)).unwrap();
        let idents: Vec<_> = (0..count).map(|_| self.ident(0)).collect();
        let payloads: Vec<_> = idents.iter().map(|ident| ident.payload(self.plan.sizes, true)).collect();
        idents.iter().for_each(|ident| self.teller.attempt(*ident, Some((idents[0].i, count))));
        let lsns = self.runtime.block_on(lively(self.log.append_batch(&payloads)))?;
        for (offset, (ident, payload)) in idents.iter().zip(&payloads).enumerate() {
            self.teller.acknowledged(lsns.start().plus(offset as u64), *ident, payload);
        }
        Ok(())
    }

    /// Submitted without waiting in between.
    fn several(&mut self) -> Result<(), Wrong> {
        let mut pending = Vec::new();
        for _ in 0..2 + self.rng.below(8) {
            let ident = self.ident(1);
            let payload = ident.payload(self.plan.sizes, false);
            self.teller.attempt(ident, None);
            match self.log.submit(&payload) {
                Ok(answer) => pending.push((ident, payload, answer)),
                Err(SubmitError::Full) => {
                    let lsn = self.runtime.block_on(lively(self.log.append(&payload)))?;
                    self.teller.acknowledged(lsn, ident, &payload);
                }
                Err(error) => return Err(Wrong::new("A5", format_args!("submit: {error}"))),
            }
        }
        for (ident, payload, answer) in pending {
            let lsn = self.runtime.block_on(lively(answer))?;
            self.teller.acknowledged(lsn, ident, &payload);
        }
        Ok(())
    }

    /// Gives up what is old, while records go on coming.
    fn truncate_before(&mut self) -> Result<(), Wrong> {
        let (first, durable) = (self.log.first_lsn().get(), self.log.durable_lsn().get());
        let first = first + self.rng.below(durable + 2 - first);
        let teller = self.teller.clone();
        let log = self.log.clone();
        let trim = self.runtime.spawn(async move {
            teller.trims(first.into());
            lively(log.truncate_before(first.into())).await?;
            teller.trimmed();
            Ok(())
        });
        let appended = self.alone(0);
        self.note_names();
        self.runtime.block_on(trim).unwrap().and(appended)
    }

    fn note_names(&mut self) {
        for entry in std::fs::read_dir(&self.dir).unwrap().flatten() {
            let is_segment = entry.path().extension() == Some("seg".as_ref());
            if let (true, Ok(meta)) = (is_segment, entry.metadata()) {
                self.names.entry(meta.ino()).or_default().insert(entry.file_name());
            }
        }
    }

    /// How often a segment's file was used again under another name, as far as was seen.
    fn recycled(&mut self) -> u64 {
        self.note_names();
        self.names.values().map(|names| names.len() as u64 - 1).sum()
    }

    /// Takes back what is new. Nobody appends and nobody reads meanwhile, so that it is clear what goes.
    fn truncate_after(&mut self) -> Result<(), Wrong> {
        let (first, durable) = (self.log.first_lsn().get(), self.log.durable_lsn().get());
        if durable < first {
            return Ok(());
        }
        let last = durable - self.rng.below(8.min(durable + 1 - first));
        let watch = self.watch.clone();
        let _resting = watch.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.teller.cuts(last.into());
        self.runtime.block_on(lively(self.log.truncate_after(last.into())))?;
        self.teller.cut();
        self.watch.shown.fetch_min(last, Ordering::Relaxed);
        self.cycle += 1;
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), Wrong> {
        self.runtime.block_on(lively(self.log.close()))?;
        let (log, survivor) = open(&self.dir, &self.plan.options())?;
        self.log = log;
        let last = survivor.first + survivor.records.len() as u64 - 1;
        self.teller.line(&format!("O {} {last} {} {}", survivor.label, survivor.torn_bytes, survivor.copied));
        if survivor.label != "R10" {
            return Err(Wrong::new("A6", format_args!("a closed log was opened as {}", survivor.label)));
        }
        self.cycle += 1;
        Ok(())
    }
}

async fn append(log: &Log, teller: &Teller, ident: Ident, sizes: Sizes) -> Result<(), Wrong> {
    let payload = ident.payload(sizes, false);
    teller.attempt(ident, None);
    let lsn = lively(log.append(&payload)).await?;
    teller.acknowledged(lsn, ident, &payload);
    Ok(())
}

/// A reader beside the writer, as another process would be one.
#[derive(Debug, Default)]
struct Watch {
    /// Read-locked while the reader looks.
    gate: RwLock<()>,
    /// The last LSN that it was shown.
    shown: AtomicU64,
    over: AtomicBool,
}

impl Watch {
    fn run(&self, dir: &Path, teller: &Teller) -> Result<(), Wrong> {
        while !self.over.load(Ordering::Relaxed) {
            self.look(dir, teller)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn look(&self, dir: &Path, teller: &Teller) -> Result<(), Wrong> {
        let _looking = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let reader = match Reader::open(dir) {
            Ok(reader) => reader,
            Err(OpenError::Damaged(damage)) => return Err(Wrong::new("A8", format_args!("reader: {damage}"))),
            // It came between two states of the directory.
            Err(_) => return Ok(()),
        };
        let from = Lsn::from(self.shown.load(Ordering::Relaxed) + 1).max(reader.first_lsn());
        // What was truncated meanwhile is not there any more.
        let Ok(records) = reader.read(from..) else { return Ok(()) };
        for record in records {
            match record {
                Ok(record) => {
                    teller.shown(record.lsn, &record.payload);
                    self.shown.store(record.lsn.get(), Ordering::Relaxed);
                }
                Err(ReadError::Damaged(damage)) => return Err(Wrong::new("A8", format_args!("reader: {damage}"))),
                Err(_) => break,
            }
        }
        Ok(())
    }
}
