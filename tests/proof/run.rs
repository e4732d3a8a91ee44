//! One run of one rig: it hands out seeds until there is enough, counts, and writes down what came of it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};

use crate::rigs::Rig;
use crate::summary::{Line, Origin, Summary};

/// When it is enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    pub(crate) count: Option<u64>,
    pub(crate) minutes: Option<f64>,
    /// Whether the first violation ends it.
    pub(crate) first_ends: bool,
}

/// Violations after which a run ends: one cause shows itself again and again.
const VIOLATIONS_MAX: usize = 20;
/// How often what was counted so far is written down: whoever ends a long run loses no more than this.
const LINE_EVERY: Duration = Duration::from_secs(600);

/// One run. Shared by a rig's threads.
pub(crate) struct Run {
    rig: &'static Rig,
    goal: Goal,
    seed: u64,
    jobs: usize,
    began: Instant,
    next: AtomicU64,
    count: AtomicU64,
    stopped: Arc<AtomicBool>,
    /// Set when the rig has returned.
    over: AtomicBool,
    labels: Mutex<BTreeMap<String, u64>>,
    violations: AtomicUsize,
    bar: ProgressBar,
}

impl Run {
    pub(crate) fn new(rig: &'static Rig, goal: Goal, seed: Option<u64>, jobs: Option<usize>) -> Result<Self, String> {
        let cores = || std::thread::available_parallelism().map_or(2, usize::from);
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs() << 20);
        let seed = seed.unwrap_or_else(clock);
        let stopped = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second one ends the program.
            signal_hook::flag::register_conditional_default(signal, stopped.clone()).map_err(|e| e.to_string())?;
            signal_hook::flag::register(signal, stopped.clone()).map_err(|e| e.to_string())?;
        }
        let style = "{prefix} {wide_bar} {human_pos}/{human_len} {msg} {per_sec} eta {eta}";
        let bar = match goal.count {
            Some(count) => ProgressBar::new(count),
            None => ProgressBar::no_length(),
        };
        let style = ProgressStyle::with_template(style).map_err(|error| error.to_string())?;
        let bar = bar.with_style(style).with_prefix(rig.name).with_message(rig.unit);
        Ok(Self {
            rig,
            goal,
            seed,
            jobs: jobs.unwrap_or_else(cores).max(1),
            began: Instant::now(),
            next: AtomicU64::new(seed),
            count: AtomicU64::new(0),
            stopped,
            over: AtomicBool::new(false),
            labels: Mutex::default(),
            violations: AtomicUsize::new(0),
            bar,
        })
    }

    /// The first seed.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// How many threads the rig may use.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs
    }

    /// Whether this is no more than what continuous integration tries: then each try is made as thoroughly as it can be.
    pub(crate) fn is_slice(&self) -> bool {
        self.goal.count.is_some_and(|wanted| wanted <= self.rig.slice)
    }

    /// How many are wanted, if that is what ends it.
    pub(crate) fn wanted(&self) -> Option<u64> {
        self.goal.count
    }

    /// False once the count or the time is reached, somebody ended the program, or enough has gone wrong.
    pub(crate) fn goes_on(&self) -> bool {
        let time = |minutes: f64| self.began.elapsed().as_secs_f64() < minutes * 60.0;
        let count = self.count.load(Ordering::Relaxed);
        !self.stopped.load(Ordering::Relaxed)
            && self.violations.load(Ordering::Relaxed) < if self.goal.first_ends { 1 } else { VIOLATIONS_MAX }
            && self.goal.minutes.is_none_or(time)
            && self.goal.count.is_none_or(|wanted| count < wanted)
    }

    /// The next seed, unless it is enough.
    pub(crate) fn next(&self) -> Option<u64> {
        self.goes_on().then(|| self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// `n` more were tried.
    pub(crate) fn tried(&self, n: u64) {
        self.count.fetch_add(n, Ordering::Relaxed);
        self.bar.inc(n);
    }

    /// The tries met `label` so often.
    pub(crate) fn met(&self, label: &str, n: u64) {
        if n == 0 {
            return;
        }
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        match labels.get_mut(label) {
            Some(count) => *count += n,
            None => drop(labels.insert(label.to_owned(), n)),
        }
    }

    /// What the assertion says did not hold: one of A1 to A11, as the oracle names them.
    pub(crate) fn violated(&self, assertion: &str, what: impl Display, seed: u64) {
        self.violations.fetch_add(1, Ordering::Relaxed);
        self.met(&format!("violated {assertion}"), 1);
        let again = format!("proof run {} --seed {seed} --count 1 --jobs 1", self.rig.name);
        self.bar.suspend(|| eprintln!("VIOLATION {assertion} ({}; again: {again}): {what}", self.rig.name));
    }

    /// Runs the rig to its end; whether everything held.
    pub(crate) fn carry_out(&self, summary: &Summary, origin: &Origin) -> Result<bool, String> {
        let result = std::thread::scope(|scope| {
            let keeper = scope.spawn(|| self.keep(summary, origin));
            let result = (self.rig.run)(self);
            self.over.store(true, Ordering::Release);
            keeper.thread().unpark();
            let kept = keeper.join().unwrap_or_else(|_| Err("writing the summary failed".to_owned()));
            result.and(kept)
        });
        self.bar.finish_and_clear();
        result.map_err(|why| format!("{}: {why}", self.rig.name))?;
        let (count, violations) = (self.count.load(Ordering::Relaxed), self.violations.load(Ordering::Relaxed));
        let seconds = self.began.elapsed().as_secs_f64();
        let (rig, unit) = (self.rig.name, self.rig.unit);
        println!("ran {rig}: {count} {unit}, {violations} violations, {seconds:.0} s, from seed {}", self.seed());
        if count == 0 {
            return Err(format!("{}: tried nothing", self.rig.name));
        }
        Ok(violations == 0)
    }

    /// Writes down what was counted, now and then and at the end.
    fn keep(&self, summary: &Summary, origin: &Origin) -> Result<(), String> {
        let (mut count, mut violations, mut seed) = (0, 0, self.seed);
        while !self.over.load(Ordering::Acquire) {
            std::thread::park_timeout(LINE_EVERY);
            let labels = std::mem::take(&mut *self.labels.lock().unwrap_or_else(PoisonError::into_inner));
            let now = (self.count.load(Ordering::Relaxed), self.violations.load(Ordering::Relaxed));
            let next = self.next.load(Ordering::Relaxed);
            if now != (count, violations) {
                summary.add(&Line {
                    rig: self.rig.name.to_owned(),
                    seeds: format!("{seed}..{next}"),
                    count: now.0 - count,
                    violations: (now.1 - violations) as u64,
                    labels,
                    origin: origin.clone(),
                })?;
            }
            (count, violations, seed) = (now.0, now.1, next);
        }
        Ok(())
    }
}
