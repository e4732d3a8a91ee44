//! Engines against one another on one machine: round by round, in an order that rotates, so that ratios mean something.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::load::{Limit, Load, Pins, Sample};
use super::{Engine, Failure};
use crate::log::LocalLog;

/// An open loop's arrivals per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// So many, all callers together.
    PerSecond(f64),
    /// This share of what the same engine did in a closed loop with the same callers just before.
    Share(f64),
}

impl Rate {
    /// `20000` or `50%`.
    ///
    /// # Errors
    /// Anything else, in one sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (digits, share) = text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
        let value: f64 = digits.parse().map_err(|_| "give appends per second, or a share as in 50%".to_owned())?;
        match share {
            true if (1.0..=200.0).contains(&value) => Ok(Self::Share(value / 100.0)),
            true => Err("give 1% to 200%".to_owned()),
            false if (1.0..=1e8).contains(&value) => Ok(Self::PerSecond(value)),
            false => Err("give 1 to 100,000,000 appends per second".to_owned()),
        }
    }

    /// As a table's row says it.
    #[must_use]
    pub fn word(self) -> String {
        match self {
            Self::PerSecond(rate) => format!("at {rate}/s"),
            Self::Share(share) => format!("at {:.0}%", share * 100.0),
        }
    }
}

/// An engine, and what is chosen for it by hand.
#[derive(Clone, Copy)]
pub struct Candidate {
    /// The engine.
    pub engine: &'static dyn Engine,
    /// What is not left to it.
    pub pins: Pins,
}

impl Candidate {
    /// With nothing pinned.
    #[must_use]
    pub fn new(engine: &'static dyn Engine) -> Self {
        Self { engine, pins: Pins::default() }
    }

    /// The engine's name, and its pins behind an `@`: `ringwal@dsync-write/4`.
    #[must_use]
    pub fn label(&self) -> String {
        let Pins { method, flight_max } = self.pins;
        let depth = flight_max.map(|batches| format!("/{batches}")).unwrap_or_default();
        match (method, flight_max) {
            (None, None) => self.engine.name().to_owned(),
            (method, _) => format!("{}@{}{depth}", self.engine.name(), method.unwrap_or("auto")),
        }
    }
}

/// One run of one engine.
#[derive(Clone, Debug)]
pub struct Leg {
    /// Its [`Candidate::label`].
    pub engine: String,
    /// How many callers it had.
    pub callers: usize,
    /// Rounds count from 0.
    pub round: u32,
    /// The mean size of a record in bytes.
    pub payload: usize,
    /// None in a closed loop; otherwise the arrivals per second, and how they were asked for.
    pub rate: Option<(f64, Rate)>,
    /// The size of a segment, if it was asked for.
    pub segment_bytes: Option<u64>,
    /// How much is kept behind, if not everything.
    pub keep_bytes: Option<u64>,
    /// How many logs.
    pub logs: usize,
    /// What was measured.
    pub sample: Sample,
}

/// What every engine of a comparison is given.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Where each run gets a fresh sub-directory.
    pub dir: PathBuf,
    /// Numbers of callers, each for itself.
    pub callers: Vec<usize>,
    /// How many rounds.
    pub rounds: u32,
    /// Seconds of each run that do not count, at its beginning.
    pub warm_up: f64,
    /// Seconds of each run that count.
    pub seconds: f64,
    /// An open loop, if any.
    pub rate: Option<Rate>,
    /// What is appended.
    pub payloads: Arc<[Box<[u8]>]>,
    /// The size of segments; none for the default.
    pub segment_bytes: Option<u64>,
    /// How much ringwal keeps behind, in bytes of records; none for everything.
    pub keep_bytes: Option<u64>,
    /// How many logs on the one disk.
    pub logs: usize,
    /// Ends the present run early.
    pub stop: Arc<AtomicBool>,
}

/// A run to come: who, with how many callers, in which round.
pub type Step = (Candidate, usize, u32);

impl Comparison {
    /// Records of one size in a closed loop on one log.
    #[must_use]
    pub fn new(dir: &Path, payload: usize) -> Self {
        Self {
            dir: dir.to_owned(),
            callers: vec![1],
            rounds: 5,
            warm_up: 0.1,
            seconds: 1.0,
            rate: None,
            payloads: vec![vec![b'r'; payload].into_boxed_slice()].into(),
            segment_bytes: None,
            keep_bytes: None,
            logs: 1,
            stop: Arc::new(AtomicBool::new(false)),
        }
    }

    /// The mean size of a record.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        let sum: usize = self.payloads.iter().map(|payload| payload.len()).sum();
        sum / self.payloads.len().max(1)
    }

    /// Round by round, numbers of callers in turn, candidates in an order that rotates.
    #[must_use]
    pub fn plan(&self, candidates: &[Candidate]) -> Vec<Step> {
        let mut steps = Vec::new();
        for round in 0..self.rounds {
            let mut order = candidates.to_vec();
            order.rotate_left(round as usize % candidates.len().max(1));
            for (index, callers) in self.callers.iter().enumerate() {
                for candidate in &order {
                    match candidate.engine.ignores_callers() {
                        false => steps.push((*candidate, *callers, round)),
                        true if index == 0 => steps.push((*candidate, 1, round)),
                        true => {}
                    }
                }
            }
        }
        steps
    }

    /// Carries out a step: one run, or with [`Rate::Share`] a closed loop and an open one behind it.
    ///
    /// # Errors
    /// The engine's first failure, or the sub-directory's, with its path.
    pub fn carry_out(&self, (candidate, callers, round): Step) -> Result<Vec<Leg>, Failure> {
        let leg = |sample, rate| Leg {
            engine: candidate.label(),
            callers,
            round,
            payload: self.payload_bytes(),
            rate,
            segment_bytes: self.segment_bytes,
            keep_bytes: self.keep_bytes,
            logs: self.logs,
            sample,
        };
        // The floor has no open loop: it is what one caller can do at best.
        let rate = self.rate.filter(|_| !candidate.engine.ignores_callers());
        match rate {
            None => Ok(vec![leg(self.measure(&candidate, callers, None)?, None)]),
            Some(rate @ Rate::PerSecond(per_s)) => {
                Ok(vec![leg(self.measure(&candidate, callers, Some(per_s))?, Some((per_s, rate)))])
            }
            Some(rate @ Rate::Share(share)) => {
                let closed = self.measure(&candidate, callers, None)?;
                let per_s = (closed.per_second() * share).max(1.0);
                let open = self.measure(&candidate, callers, Some(per_s))?;
                Ok(vec![leg(closed, None), leg(open, Some((per_s, rate)))])
            }
        }
    }

    /// Every step, with `seen` called behind each leg.
    ///
    /// # Errors
    /// As [`Comparison::carry_out`].
    pub fn run(&self, candidates: &[Candidate], mut seen: impl FnMut(&Leg)) -> Result<Vec<Leg>, Failure> {
        let mut legs = Vec::new();
        for step in self.plan(candidates) {
            let done = self.carry_out(step)?;
            done.iter().for_each(&mut seen);
            legs.extend(done);
        }
        Ok(legs)
    }

    fn measure(&self, candidate: &Candidate, callers: usize, rate: Option<f64>) -> Result<Sample, Failure> {
        let scratch = Scratch::create(&self.dir)?;
        let load = Load {
            rate,
            logs: self.logs,
            segment_bytes: self.segment_bytes,
            keep_bytes: self.keep_bytes,
            core: LocalLog::disk_core(&self.dir),
            pins: candidate.pins,
            stop: Arc::clone(&self.stop),
            ..Load::new(
                callers,
                Arc::clone(&self.payloads),
                Limit::Time {
                    warm_up: Duration::from_secs_f64(self.warm_up),
                    measured: Duration::from_secs_f64(self.seconds),
                },
            )
        };
        let sample = candidate.engine.run(&scratch.0, &load);
        let removed = scratch.remove();
        let sample =
            sample.map_err(|error| format!("{}: engine {}: {error}", self.dir.display(), candidate.label()))?;
        removed?;
        Ok(sample)
    }
}

/// A fresh sub-directory, removed at the end and when dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn create(dir: &Path) -> Result<Self, Failure> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("ringwal-bench-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(format!("{}: {error}; give another --dir", path.display()).into()),
            }
        }
    }

    fn remove(&self) -> Result<(), Failure> {
        fs::remove_dir_all(&self.0)
            .map_err(|error: io::Error| format!("{}: {error}; remove it by hand", self.0.display()).into())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _removed_already = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_or_shares() {
        assert_eq!(Rate::parse("20000"), Ok(Rate::PerSecond(20000.0)));
        assert_eq!(Rate::parse("50%"), Ok(Rate::Share(0.5)));
        for wrong in ["", "%", "0", "0%", "500%", "-1", "fast", "nan"] {
            assert!(Rate::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn labels_tell_what_is_pinned() {
        let label = |method, flight_max| {
            Candidate { engine: super::super::ENGINES[0], pins: Pins { method, flight_max } }.label()
        };
        assert_eq!(label(None, None), "ringwal");
        assert_eq!(label(Some("syscalls"), None), "ringwal@syscalls");
        assert_eq!(label(Some("dsync-write"), Some(4)), "ringwal@dsync-write/4");
        assert_eq!(label(None, Some(4)), "ringwal@auto/4");
    }

    #[test]
    fn rounds_are_interleaved_and_rotate() {
        let find = |name| Candidate::new(super::super::find(name)[0]);
        let comparison = Comparison { callers: vec![1, 8], rounds: 2, ..Comparison::new(Path::new("."), 1) };
        let steps = comparison.plan(&[find("ringwal"), find("null"), find("floor")]);
        let words: Vec<_> = steps.iter().map(|(who, callers, round)| (who.label(), *callers, *round)).collect();
        let expected = [
            ("ringwal", 1, 0),
            ("null", 1, 0),
            ("floor", 1, 0),
            ("ringwal", 8, 0),
            ("null", 8, 0),
            ("null", 1, 1),
            ("floor", 1, 1),
            ("ringwal", 1, 1),
            ("null", 8, 1),
            ("ringwal", 8, 1),
        ];
        assert_eq!(words, expected.map(|(name, callers, round)| (name.to_owned(), callers, round)));
    }
}
