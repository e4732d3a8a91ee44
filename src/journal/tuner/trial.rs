//! A candidate against the best: windows in turn, and when enough of them are enough.

use std::time::Duration;

use super::{Choice, Landing};

/// Flushes in a window that count, and those before them that do not, for each batch in flight: the change is still
/// working through, and callers have yet to find into step.
const COUNTED: u32 = 10;
const SETTLING: u32 = 3;
/// A pause between flushes that is longer than so many of them (and this) is not load: the window begins anew.
const LULL_FLUSHES: u32 = 16;
const LULL_MIN: Duration = Duration::from_millis(2);
/// Pairs before any verdict but a disaster, and the most.
const PAIRS_MIN: u32 = 5;
const PAIRS_MAX: u32 = 40;
/// A logarithm of the cost ratio that is a disaster: one pair decides.
const DISASTER: f64 = 0.4;
/// How many standard errors leave no doubt.
const ERRORS: f64 = 2.0;
/// No spread over the pairs is believed that is smaller than this.
const SPREAD_MIN: f64 = 0.01;

/// What a window cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Seconds for each record.
    pub(super) per_record: f64,
    /// Mean seconds from a record's staging to its durability.
    pub(super) latency: f64,
    /// Seconds in all.
    pub(super) elapsed: f64,
}

/// Some flushes of one choice in a row.
#[derive(Clone, Debug)]
pub(super) struct Window {
    choice: Choice,
    settling: u32,
    began: Duration,
    ended: Duration,
    flushes: u32,
    records: u64,
    /// Seconds, summed over records.
    latency: f64,
    /// The latest flush took this long.
    flush: Duration,
}

impl Window {
    pub(super) fn new(choice: Choice) -> Self {
        let zero = Duration::ZERO;
        Self {
            choice,
            settling: Self::settling(choice),
            began: zero,
            ended: zero,
            flushes: 0,
            records: 0,
            latency: 0.0,
            flush: zero,
        }
    }

    fn settling(choice: Choice) -> u32 {
        SETTLING * u32::try_from(choice.depth.clamp(1, 8)).unwrap_or(1)
    }

    /// Takes a landing; returns whether the window is full.
    pub(super) fn handle(&mut self, landing: &Landing) -> bool {
        let Landing { choice, records, submitted, landed, waited } = *landing;
        if choice != self.choice {
            return false;
        }
        self.flush = landed.saturating_sub(submitted);
        let lull = submitted.saturating_sub(self.ended) > LULL_MIN.max(self.flush * LULL_FLUSHES);
        if self.settling > 0 || lull {
            self.settling = if lull && self.settling == 0 { Self::settling(choice) } else { self.settling } - 1;
            (self.began, self.ended) = (landed, landed);
            (self.flushes, self.records, self.latency) = (0, 0, 0.0);
            return false;
        }
        self.ended = landed;
        self.flushes += 1;
        self.records += u64::from(records);
        self.latency += f64::from(records) * (self.flush + waited).as_secs_f64();
        self.flushes >= COUNTED
    }

    pub(super) fn cost(&self) -> Cost {
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let records = self.records.max(1) as f64;
        let elapsed = self.ended.saturating_sub(self.began).as_secs_f64();
        Cost { per_record: elapsed / records, latency: self.latency / records, elapsed }
    }
}

/// What the pairs say so far. Ratios are costs against the best's.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    Open,
    Better(f64),
    NotBetter(f64),
}

/// A candidate on trial.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    best: Choice,
    pub(super) candidate: Choice,
    /// Whose window it is.
    pub(super) on_candidate: bool,
    /// The best's window before the candidate's, and the candidate's.
    before: Cost,
    tried: Option<Cost>,
    /// Of the logarithms of the pairs' ratios.
    pairs: u32,
    sum: f64,
    squares: f64,
}

impl Trial {
    /// Begins with the candidate's window, behind one of the best that cost `before`.
    pub(super) fn new(best: Choice, candidate: Choice, before: Cost) -> Self {
        Self { best, candidate, on_candidate: true, before, tried: None, pairs: 0, sum: 0.0, squares: 0.0 }
    }

    /// Takes a window's cost; returns how many seconds were lost in it.
    pub(super) fn handle(&mut self, cost: Cost) -> f64 {
        let was_candidate = self.on_candidate;
        self.on_candidate = !was_candidate;
        if was_candidate {
            self.tried = Some(cost);
            return (cost.elapsed * (1.0 - self.before.per_record / cost.per_record)).max(0.0);
        }
        if let Some(tried) = self.tried.take() {
            let between = |one: f64, other: f64| (one.max(1e-12) * other.max(1e-12)).sqrt();
            let time = (tried.per_record / between(self.before.per_record, cost.per_record)).ln();
            let latency = (tried.latency / between(self.before.latency, cost.latency)).ln();
            // A latency that hides the callers who have not come back yet flatters gathering: it may only count against it.
            let latency = match (self.best.gather, self.candidate.gather) {
                (false, true) => latency.max(time),
                (true, false) => latency.min(time),
                _ => latency,
            };
            let log = f64::midpoint(time, latency);
            self.pairs += 1;
            self.sum += log;
            self.squares += log * log;
        }
        self.before = cost;
        0.0
    }

    /// Whether the candidate is better by `gain`, a logarithm: by the mean of the pairs and two standard errors.
    pub(super) fn verdict(&self, gain: f64) -> Verdict {
        let n = f64::from(self.pairs);
        if self.pairs == 0 {
            return Verdict::Open;
        }
        let mean = self.sum / n;
        if mean > DISASTER {
            return Verdict::NotBetter(mean.exp());
        }
        if self.pairs < PAIRS_MIN {
            return Verdict::Open;
        }
        let spread = ((self.squares / n - mean * mean).max(0.0) * n / (n - 1.0)).sqrt().max(SPREAD_MIN);
        let error = spread / n.sqrt();
        if mean + ERRORS * error < -gain {
            Verdict::Better(mean.exp())
        } else if mean - error > -gain || self.pairs >= PAIRS_MAX {
            Verdict::NotBetter(mean.exp())
        } else {
            Verdict::Open
        }
    }
}
