//! How batches fly: which flush method, how many in flight, and whether to wait for the callers that were just served.
//!
//! No setting is best everywhere. A drive that honours forced unit access makes RWF_DSYNC the cheapest method, a consumer
//! drive makes it 2.4 times slower than a flush; a second batch in flight serves sixteen callers well and halves the
//! batches of a thousand. So the log finds out, on live batches, and keeps looking:
//!
//! ```text
//!            ┌───────────── loads: one class for each power of two of records on their way ─────────────┐
//!  flushes ─►│ class 0: best so far │ class 1: best so far │ ...  each begins with its neighbour's best  │─► Choice
//!            └────────────────────────────────────────────────────────────────────────────────────────────┘
//!                     ▲ a trial: windows of the best and of one candidate in turn, each pair compared
//! ```
//!
//! - **Windows, in pairs.** A candidate gets a window of a few flushes between two of the best: noise that lasts longer
//!   than a window falls on both. The first flushes after a change do not count. The costs of a pair give one ratio; a
//!   few ratios give a verdict ([`trial`]). Never tried is tried first, then what lost by the least.
//! - **What costs.** Time for each record decides: in a closed loop that is what callers feel. Where arrivals set the pace
//!   it is the same for all, and the records' mean latency decides instead; the cost is the geometric mean of the two.
//!   A latency that hides callers which have not come back yet would flatter waiting for them, so that it only counts
//!   against gathering, never for it.
//! - **A budget.** Time lost to trials is paid from a purse into which 1 % of the time flows ([`CREDIT_SHARE`]); an arm
//!   that lost is tried again after a pause that doubles. A load that was never seen before gets an advance.
//! - **No flapping.** A candidate must win by [`GAIN`] beyond doubt, and by more the more often the best has just changed.
//! - **Change.** When the best itself becomes much slower or faster than it was, every pause is over.
//!
//! Sans-I/O: time and results are arguments. Nothing here can endanger a promise: each choice is a correct one.

mod choice;
mod load;
mod trial;

#[cfg(test)]
mod device;
#[cfg(test)]
mod tests;

use std::time::Duration;

#[cfg(any(test, feature = "sim"))]
use crate::method::Method;
pub(crate) use choice::{Choice, Prior, Rules};
use load::Load;
use trial::{Cost, Trial, Verdict, Window};

/// The part of the time that trials may cost.
const CREDIT_SHARE: f64 = 0.01;
/// The purse holds at most this, or a few windows of a slow device.
const CREDIT_MAX: Duration = Duration::from_millis(50);
/// How many flushes of a slow device the purse holds in any case.
const CREDIT_FLUSHES: u32 = 32;
/// What a load that was never seen before may spend at once.
const ADVANCE: Duration = Duration::from_millis(60);
/// By how much a candidate must be better, as a natural logarithm.
const GAIN: f64 = 0.03;
/// By how much more for each recent change of the best.
const GAIN_FOR_EACH_CHANGE: f64 = 0.02;
/// A change of the best counts half after this time.
const CHANGE_HALF_LIFE: Duration = Duration::from_secs(10);
/// The pause after an arm lost, doubled each time up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The best has changed its nature when its cost moves by this factor and stays there for so many windows.
const DRIFT: f64 = 1.7;
const DRIFT_WINDOWS: u32 = 3;

/// A batch that landed, as far as the tuner cares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Landing {
    pub(crate) choice: Choice,
    pub(crate) records: u32,
    /// When it was submitted and when its completion was seen.
    pub(crate) submitted: Duration,
    pub(crate) landed: Duration,
    /// How long its records had waited for it on average.
    pub(crate) waited: Duration,
}

/// What is known of an arm under one load.
#[derive(Clone, Copy, Debug)]
struct Arm {
    choice: Choice,
    /// Its cost against the best's when it was last tried; 1 is as good.
    ratio: Option<f64>,
    not_before: Duration,
    pause: Duration,
}

/// One class of load: the best arm for it, and what is known of the others.
#[derive(Clone, Debug)]
struct Class {
    best: usize,
    arms: Vec<Arm>,
    /// The best with the ring thread elsewhere, where that is a choice.
    elsewhere: Option<Arm>,
    /// The best's cost over many windows, and for how many it has been far from that.
    usual: Option<f64>,
    drifting: u32,
    /// Recent changes of the best, each fading.
    changes: f64,
    changed: Duration,
}

/// Chooses how batches fly. See the module.
#[derive(Clone, Debug)]
pub(crate) struct Tuner {
    rules: Rules,
    load: Load,
    classes: Vec<Option<Class>>,
    window: Window,
    trial: Option<Trial>,
    credit: f64,
    advance: f64,
    credited: Duration,
    /// How long the latest flush took: it outlasts its window.
    flush: Duration,
    /// Whether a method that blocks the thread may be chosen just now.
    may_block: bool,
    /// Whether what there is to tell has changed since it was last told.
    news: bool,
    /// A test's hand at the wheel.
    #[cfg(any(test, feature = "sim"))]
    steered: Option<Choice>,
}

impl Tuner {
    pub(crate) fn new(rules: Rules) -> Self {
        let first = rules.first_alone();
        let classes = vec![None; load::CLASSES];
        let mut tuner = Self {
            rules,
            load: Load::default(),
            classes,
            window: Window::new(first),
            trial: None,
            credit: 0.0,
            advance: 0.0,
            credited: Duration::ZERO,
            flush: Duration::ZERO,
            may_block: true,
            news: true,
            #[cfg(any(test, feature = "sim"))]
            steered: None,
        };
        tuner.enter_class(Duration::ZERO);
        tuner
    }

    /// How the next batch flies.
    pub(crate) fn choice(&self) -> Choice {
        #[cfg(any(test, feature = "sim"))]
        if let Some(steered) = self.steered {
            return steered;
        }
        let wanted = match &self.trial {
            Some(trial) if trial.on_candidate => trial.candidate,
            _ => self.best(),
        };
        if self.may_block || !wanted.blocks() { wanted } else { self.rules.without_blocking(wanted) }
    }

    /// The best known arm for the present load.
    pub(crate) fn best(&self) -> Choice {
        let class = self.class();
        class.arms[class.best].choice
    }

    /// How many records are on their way, roughly: submitted or staged when a batch lands.
    pub(crate) fn load(&self) -> f64 {
        self.load.records()
    }

    /// What was chosen and why, if there is anything new to tell.
    pub(crate) fn news(&mut self) -> Option<String> {
        std::mem::take(&mut self.news).then(|| self.reason())
    }

    /// What was chosen and why, in a few words.
    pub(crate) fn reason(&self) -> String {
        let class = self.class();
        let best = class.arms[class.best].choice;
        let runner_up = class.others().filter_map(|arm| Some((arm.ratio?, arm.choice)));
        match runner_up.min_by(|a, b| a.0.total_cmp(&b.0)) {
            _ if class.others().next().is_none() => format!("{best}: pinned"),
            None => format!("{best}: not compared yet, with about {:.0} waiting", self.load.records()),
            Some((ratio, next)) => {
                let waiting = self.load.records();
                format!("{best}: with about {waiting:.0} waiting, {next} takes {ratio:.2} times as long")
            }
        }
    }

    /// Takes the wheel, for tests: any choice may follow any other.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn steer(&mut self, method: Method, depth: usize, gather: bool) {
        self.steered = Some(Choice { method, depth, gather, home: false });
    }

    /// Says whether blocking methods are permitted: not while one thread serves several logs.
    pub(crate) fn permit_blocking(&mut self, permitted: bool) {
        if self.may_block != permitted {
            self.may_block = permitted;
            self.start_over();
        }
    }

    /// `records` were on their way when a batch landed.
    pub(crate) fn handle_load(&mut self, records: u64, now: Duration) {
        if self.load.handle(records) {
            self.enter_class(now);
        }
    }

    /// A batch of records landed.
    pub(crate) fn handle_landing(&mut self, landing: &Landing) {
        self.flush = landing.landed.saturating_sub(landing.submitted);
        self.earn(landing.landed);
        if self.class().others().next().is_none() || !self.window.handle(landing) {
            return;
        }
        let (cost, now) = (self.window.cost(), landing.landed);
        let gain = self.gain(now);
        match &mut self.trial {
            None => {
                self.watch(cost, now);
                self.trial = self.next_trial(cost, now);
            }
            Some(trial) => {
                let lost = trial.handle(cost);
                let verdict = trial.verdict(gain);
                self.spend(lost);
                match verdict {
                    Verdict::Open => {}
                    Verdict::Better(ratio) => self.conclude(ratio, true, now),
                    Verdict::NotBetter(ratio) => self.conclude(ratio, false, now),
                }
            }
        }
        self.window = Window::new(self.choice());
    }

    fn class(&self) -> &Class {
        self.classes[self.load.class()].as_ref().unwrap_or_else(|| unreachable!("a class is made when it is entered"))
    }

    fn class_mut(&mut self) -> &mut Class {
        let class = self.classes[self.load.class()].as_mut();
        class.unwrap_or_else(|| unreachable!("a class is made when it is entered"))
    }

    /// The load belongs to a class, perhaps one that was never seen: it begins with its nearest neighbour's best.
    fn enter_class(&mut self, now: Duration) {
        let at = self.load.class();
        if self.classes[at].is_none() {
            // One caller alone says nothing about many, nor many about one.
            let known = (1..load::CLASSES).flat_map(|far| [at.checked_sub(far), Some(at + far)]).flatten();
            let nearest = known.filter(|near| at > 0 && *near > 0).find_map(|near| self.classes.get(near)?.as_ref());
            let first = match nearest {
                Some(class) => class.arms[class.best].choice,
                None if at == 0 => self.rules.first_alone(),
                None => self.rules.first(),
            };
            let arms = if at == 0 { self.rules.arms_alone() } else { self.rules.arms() };
            let arms = arms.into_iter().map(|choice| Arm::new(Choice { home: first.home, ..choice }, now));
            let arms: Vec<_> = arms.collect();
            let best = arms.iter().position(|arm| arm.choice == first).unwrap_or(0);
            let elsewhere = self.rules.home.then(|| Arm::new(arms[best].choice.elsewhere(), now));
            let changed = Duration::ZERO;
            self.classes[at] = Some(Class { best, arms, elsewhere, usual: None, drifting: 0, changes: 0.0, changed });
            self.advance = ADVANCE.as_secs_f64();
        }
        self.start_over();
    }

    fn start_over(&mut self) {
        self.news = true;
        self.trial = None;
        self.window = Window::new(self.choice());
    }

    /// Time flows into the purse.
    fn earn(&mut self, now: Duration) {
        let most = CREDIT_MAX.max(self.flush * CREDIT_FLUSHES).as_secs_f64();
        self.credit = (self.credit + CREDIT_SHARE * now.saturating_sub(self.credited).as_secs_f64()).min(most);
        self.credited = now;
    }

    fn spend(&mut self, lost: f64) {
        let advanced = lost.min(self.advance);
        self.advance -= advanced;
        self.credit -= lost - advanced;
    }

    /// A window of the best, outside trials: has it changed its nature?
    fn watch(&mut self, cost: Cost, now: Duration) {
        let class = self.class_mut();
        let Some(usual) = class.usual else {
            class.usual = Some(cost.per_record);
            return;
        };
        let factor = cost.per_record / usual;
        if (DRIFT.recip()..=DRIFT).contains(&factor) {
            class.drifting = 0;
            class.usual = Some(usual + (cost.per_record - usual) / 16.0);
            return;
        }
        class.drifting += 1;
        if class.drifting >= DRIFT_WINDOWS {
            class.drifting = 0;
            class.usual = Some(cost.per_record);
            let all = class.arms.iter_mut().chain(&mut class.elsewhere);
            all.for_each(|arm| *arm = Arm::new(arm.choice, now));
        }
    }

    /// The next candidate, if one is due and can be paid for.
    fn next_trial(&mut self, cost: Cost, now: Duration) -> Option<Trial> {
        let purse = self.credit + self.advance;
        let may_block = self.may_block;
        let class = self.class();
        let best = class.arms[class.best].choice;
        let due = class.others().filter(|arm| arm.not_before <= now);
        let due = due.filter(|arm| may_block || !arm.choice.blocks());
        // Never tried before tried, and the cheaper to try first.
        let arm = due.min_by(|a, b| a.ratio.unwrap_or(0.0).total_cmp(&b.ratio.unwrap_or(0.0)))?;
        let expected = (arm.ratio.unwrap_or(1.3) - 1.0).max(0.0) * cost.elapsed;
        (expected <= purse).then(|| Trial::new(best, arm.choice, cost))
    }

    fn gain(&self, now: Duration) -> f64 {
        let class = self.class();
        let age = now.saturating_sub(class.changed).as_secs_f64() / CHANGE_HALF_LIFE.as_secs_f64();
        GAIN + GAIN_FOR_EACH_CHANGE * class.changes * (-age).exp2()
    }

    /// A trial is over.
    fn conclude(&mut self, ratio: f64, better: bool, now: Duration) {
        let Some(trial) = self.trial.take() else { return };
        self.news = true;
        let recent = (self.gain(now) - GAIN) / GAIN_FOR_EACH_CHANGE;
        let class = self.class_mut();
        let loss = if better { ratio.recip() } else { ratio };
        match (class.arms.iter().position(|arm| arm.choice == trial.candidate), &mut class.elsewhere) {
            (Some(at), _) if better => {
                class.arms[class.best].lose(loss, now);
                class.best = at;
            }
            (Some(at), _) => class.arms[at].lose(loss, now),
            (None, Some(elsewhere)) => {
                elsewhere.lose(loss, now);
                if better {
                    class.arms.iter_mut().for_each(|arm| arm.choice = arm.choice.elsewhere());
                }
            }
            (None, None) => return,
        }
        if let Some(elsewhere) = &mut class.elsewhere {
            elsewhere.choice = class.arms[class.best].choice.elsewhere();
        }
        if better {
            class.usual = None;
            class.changes = recent + 1.0;
            class.changed = now;
        }
    }
}

impl Class {
    /// All but the best.
    fn others(&self) -> impl Iterator<Item = &Arm> {
        let others = self.arms.iter().enumerate().filter(|(at, _)| *at != self.best).map(|(_, arm)| arm);
        others.chain(&self.elsewhere)
    }
}

impl Arm {
    fn new(choice: Choice, now: Duration) -> Self {
        Self { choice, ratio: None, not_before: now, pause: PAUSE_MIN }
    }

    fn lose(&mut self, ratio: f64, now: Duration) {
        self.ratio = Some(ratio);
        self.not_before = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}
