//! Kill -9: a writer in a process of its own is killed at random moments, again and again on the same log, and a witness
//! in another process knows what was acknowledged, shown and truncated. A rival tries to open the log beside it.

pub(crate) mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use ringwal::{Log, OpenError, State, verify};

use super::manner::Manner;
use super::rig::{Reaped, Rng, Scratch, child, fingerprint};
use super::survivor::{self, Survivor, lively, runtime};
use super::witness::{Heard, Witness, Wrong};
use super::workload::Ident;
use writer::{BYTES_MAX, CYCLE_OF_CHECK, CYCLE_OF_RIVAL, CYCLES_PER_LIFE, Habit, Life};

/// Kills of one log before a fresh one is begun, so that reading all of it stays quick.
pub(crate) const KILLS_PER_LOG: u32 = 10;

/// Nothing that should be quick takes longer.
const LONG: Duration = Duration::from_secs(60);

/// When the parent kills.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the child begins to open the log.
    Opening(Duration),
    /// So long after the first acknowledgement.
    Appending(Duration),
}

/// What was met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) kills: u32,
    /// Kills over an append in flight.
    pub(crate) in_flight: u32,
    /// Kills before the log was open.
    pub(crate) opening: u32,
    pub(crate) acks: usize,
    pub(crate) rivals_refused: u32,
    pub(crate) torn_tails: u32,
    pub(crate) copied: u64,
    /// The greatest segment's id.
    pub(crate) segments: u64,
    /// Rows of the recovery table, methods with depths, habits.
    pub(crate) labels: BTreeMap<String, u32>,
}

impl Counts {
    fn count(&mut self, label: &str) {
        *self.labels.entry(label.to_owned()).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.in_flight += other.in_flight;
        self.opening += other.opening;
        self.acks += other.acks;
        self.rivals_refused += other.rivals_refused;
        self.torn_tails += other.torn_tails;
        self.copied += other.copied;
        self.segments += other.segments;
        for (label, n) in &other.labels {
            *self.labels.entry(label.clone()).or_default() += n;
        }
    }
}

/// One log, drawn from a seed, whose writers are killed so often.
pub(crate) fn kill_writers(seed: u64, kills: u32) -> Result<Counts, Vec<Wrong>> {
    let mut rng = Rng::new(seed);
    let manner = Manner::of(usize::try_from(seed % 12).unwrap());
    // The largest record has to fit into a segment so often as batches are in flight, and once more.
    let segment_min = (32 << 10) * manner.depth as u64;
    let scratch = Scratch::new("kills");
    let life = Life {
        dir: scratch.join("log"),
        segment_bytes: ((64 << 10) << rng.below(3)).max(segment_min),
        manner,
        habit: [Habit::Appends, Habit::Trims, Habit::Cuts][usize::try_from(rng.below(3)).unwrap()],
        number: 0,
    };
    let mut victim = Victim { life, rng, witness: Witness::new(BYTES_MAX), counts: Counts::default() };
    for number in 0..kills {
        victim.life.number = number;
        victim.die(number + 1 == kills)?;
    }
    victim.counts.segments = greatest_segment(&victim.life.dir);
    Ok(victim.counts)
}

struct Victim {
    life: Life,
    rng: Rng,
    witness: Witness,
    counts: Counts,
}

impl Victim {
    /// One life: a writer, its end, and what is left.
    fn die(&mut self, last: bool) -> Result<(), Vec<Wrong>> {
        let (acks, unanswered, opened) =
            (self.witness.acks.len(), self.witness.unanswered(), self.witness.opened.len());
        let moment = match self.rng.below(8) {
            0 => Moment::Opening(Duration::from_micros(self.rng.below(8_000))),
            _ => Moment::Appending(Duration::from_micros(self.rng.below(25_000))),
        };
        let rival = self.kill_once(moment).map_err(|wrong| vec![wrong])?;
        let counts = &mut self.counts;
        counts.kills += 1;
        counts.count(&format!("{} depth {}", self.life.manner.word(), self.life.manner.depth));
        counts.count(self.life.habit.word());
        counts.in_flight += u32::from(self.witness.unanswered() > unanswered);
        counts.opening += u32::from(self.witness.opened.len() == opened);
        counts.acks += self.witness.acks.len().saturating_sub(acks);
        counts.rivals_refused += u32::from(matches!(rival, Some(Rival::Refused)));
        for opened in &self.witness.opened[opened..] {
            counts.count(&opened.label);
            counts.torn_tails += u32::from(opened.torn_bytes > 0);
            counts.copied += opened.copied;
        }
        if !self.witness.failures.is_empty() {
            return Err(self.witness.failures.iter().map(|line| Wrong::new("A10", line)).collect());
        }
        if self.life.dir.exists() {
            self.look().map_err(|wrong| vec![wrong])?;
            // Otherwise the next writer recovers, and may be killed while it does.
            if self.rng.one_in(2) || last || rival == Some(Rival::Welcome) {
                self.check()?;
            }
        }
        match rival {
            Some(Rival::Welcome) => Err(vec![Wrong::new("P10", "a second writer was not refused")]),
            _ => Ok(()),
        }
    }

    /// Starts a writer, kills it at `moment`, and hears all that it said. Meanwhile a rival may try to open the log.
    fn kill_once(&mut self, moment: Moment) -> Result<Option<Rival>, Wrong> {
        let Self { life, rng, witness, .. } = self;
        let mut command = child("writer");
        life.tell(&mut command);
        let mut writer = Reaped(command.spawn().unwrap());
        let pipe = writer.0.stdout.take().unwrap();
        let (told, heard) = mpsc::channel();
        let acks = AtomicU32::new(0);
        let witness = Mutex::new(witness);
        std::thread::scope(|scope| {
            let (acks, witness) = (&acks, &witness);
            scope.spawn(move || {
                hear_all(pipe, witness, |kind| match kind {
                    Heard::Start => drop(told.send(Heard::Start)),
                    Heard::Ack if acks.fetch_add(1, Ordering::Relaxed) == 0 => drop(told.send(Heard::Ack)),
                    _ => {}
                });
            });
            let (wanted, pause) = match moment {
                Moment::Opening(pause) => (Heard::Start, pause),
                Moment::Appending(pause) => (Heard::Ack, pause),
            };
            let deadline = Instant::now() + LONG;
            let left = || deadline.saturating_duration_since(Instant::now());
            let came = std::iter::from_fn(|| heard.recv_timeout(left()).ok()).any(|kind| kind == wanted);
            // While the writer lives, and holds the log.
            let rival = match moment {
                Moment::Appending(_) if came && rng.one_in(2) => {
                    std::thread::sleep(Duration::from_micros(rng.below(1 + pause.as_micros() as u64)));
                    Some(rival(life, witness))
                }
                _ => None,
            };
            if came {
                std::thread::sleep(pause);
            }
            // A writer that ended by itself is a failed one: the exit status tells.
            let early = writer.0.try_wait().unwrap();
            writer.0.kill().unwrap();
            writer.0.wait().unwrap();
            match (early, came) {
                // A rival that was let in takes the files away under it.
                (Some(_), _) if matches!(rival, Some(Ok(Rival::Welcome))) => {}
                (Some(status), _) => {
                    return Err(Wrong::new("A10", format_args!("the writer ended by itself: {status}")));
                }
                (None, false) => return Err(Wrong::new("A10", "the writer made no progress for a minute")),
                (None, true) => {}
            }
            rival.transpose()
        })
    }

    /// Looks without opening for writing; what a reader is shown stays.
    fn look(&mut self) -> Result<(), Wrong> {
        let dir = &self.life.dir;
        // A killed writer's last write may land after its process is gone; its lock tells.
        let deadline = Instant::now() + LONG;
        let held = || verify(dir).map_err(|error| Wrong::new("A8", error)).map(|seen| seen.writer.is_some());
        while held()? {
            if Instant::now() > deadline {
                return Err(Wrong::new("A10", "a killed writer still holds the log after a minute"));
            }
        }
        for (lsn, payload) in survivor::look(dir, self.rng.one_in(4))? {
            self.witness.hear(&format!("V {lsn} {} {} 0", crc32fast::hash(&payload), payload.len()));
        }
        Ok(())
    }

    /// Opens, judges, appends, closes; opens again and finds the same.
    fn check(&mut self) -> Result<(), Vec<Wrong>> {
        let (log, found) = self.open().map_err(|wrong| vec![wrong])?;
        let wrong = self.witness.judge_from(found.first, &found.records, u64::MAX);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        self.use_again(log, found).map_err(|wrong| vec![wrong])
    }

    fn open(&mut self) -> Result<(Log, Survivor), Wrong> {
        let (log, found) = survivor::open(&self.life.dir, &self.life.options())?;
        let last = found.first + found.records.len() as u64 - 1;
        self.witness.hear(&format!("O {} {last} {} {}", found.label, found.torn_bytes, found.copied));
        self.counts.count(found.label);
        self.counts.torn_tails += u32::from(found.torn_bytes > 0);
        self.counts.copied += found.copied;
        Ok((log, found))
    }

    fn use_again(&mut self, log: Log, mut found: Survivor) -> Result<(), Wrong> {
        let ident = Ident { cycle: self.life.number * CYCLES_PER_LIFE + CYCLE_OF_CHECK, producer: 0, i: 0 };
        let next = found.first + found.records.len() as u64;
        let lsn = append(&log, ident, &Mutex::new(&mut self.witness))?;
        if lsn != next {
            return Err(Wrong::new("A5", format_args!("the next record got LSN {lsn} instead of {next}")));
        }
        found.records.push((lsn, ident.payload(BYTES_MAX, false)));
        close(log)?;
        let (log, again) = self.open()?;
        if again.label != "R10" || again.first != found.first || again.records != found.records {
            return Err(Wrong::new("A6", format_args!("opened again ({}), it shows something else", again.label)));
        }
        close(log)?;
        let before = fingerprint(&self.life.dir);
        match verify(&self.life.dir) {
            Ok(verification) if matches!(verification.state, State::Clean) => {}
            other => return Err(Wrong::new("A8", format_args!("verify of a closed log: {other:?}"))),
        }
        match before == fingerprint(&self.life.dir) {
            true => Ok(()),
            false => Err(Wrong::new("A6", "verify changed a file")),
        }
    }
}

/// What became of a second writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rival {
    Refused,
    /// It was let in, and appended.
    Welcome,
}

/// Opens the log for writing although another process does.
fn rival(life: &Life, witness: &Mutex<&mut Witness>) -> Result<Rival, Wrong> {
    let began = Instant::now();
    match Log::open(&life.dir, life.options()).wait() {
        Err(OpenError::Held { .. }) if began.elapsed() < LONG => Ok(Rival::Refused),
        Ok(log) => {
            for i in 0..20 {
                let cycle = life.number * CYCLES_PER_LIFE + CYCLE_OF_RIVAL;
                // The two are in each other's way: what became of this one is for the witness to say.
                if append(&log, Ident { cycle, producer: 1, i }, witness).is_err() {
                    break;
                }
            }
            let _ = log.close().wait();
            Ok(Rival::Welcome)
        }
        other => Err(Wrong::new("A8", format_args!("a second writer after {:?}: {other:?}", began.elapsed()))),
    }
}

/// Appends a record and tells the witness of it.
fn append(log: &Log, ident: Ident, witness: &Mutex<&mut Witness>) -> Result<u64, Wrong> {
    let payload = ident.payload(BYTES_MAX, false);
    let Ident { cycle, producer, i } = ident;
    witness.lock().unwrap().hear(&format!("T {cycle} {producer} {i} {i} 1"));
    let lsn = runtime().block_on(lively(log.append(&payload)))?;
    let (crc, len) = (crc32fast::hash(&payload), payload.len());
    witness.lock().unwrap().hear(&format!("A {lsn} {crc} {len} {cycle} {producer} {i} 0"));
    Ok(lsn.get())
}

fn close(log: Log) -> Result<(), Wrong> {
    log.close().wait().map_err(|error| Wrong::new("A5", format_args!("close: {error}")))
}

/// Hears a child to its end, beside others whom the witness hears.
fn hear_all(pipe: std::process::ChildStdout, witness: &Mutex<&mut Witness>, mut heard: impl FnMut(&Heard)) {
    for line in std::io::BufRead::lines(std::io::BufReader::new(pipe)) {
        // A line cut short by the kill is not one.
        let Ok(line) = line else { break };
        heard(&witness.lock().unwrap().hear(&line));
    }
}

fn greatest_segment(dir: &Path) -> u64 {
    let ids = std::fs::read_dir(dir).unwrap().filter_map(|entry| {
        let name = PathBuf::from(entry.unwrap().file_name());
        u64::from_str_radix(name.to_str()?.strip_suffix(".seg")?, 16).ok()
    });
    ids.max().unwrap_or(0)
}
