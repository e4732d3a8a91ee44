//! Every crash point of every small workload over a rotation, crashes inside recovery included, three deep.
//!
//! By every method, at depths 1, 2 and 4, and with methods that take turns from batch to batch. A workload is up to four
//! operations: appends (small, of two blocks, a group), a pause long enough for the idle seal, a close and a re-opening,
//! both truncations; begun so near the end of a segment that it rotates. The disk films itself before every operation;
//! each frame becomes a kill and power cuts in which nothing, everything, or a random part of what was not flushed
//! reached the medium. Recoveries are filmed and cut again, and so are the recoveries from those.

use std::time::Duration;

use ringwal::harness::Life;
use ringwal::sim::{Sim, SimOptions, Snapshot};
use ringwal::{Lsn, Method, Options};

use crate::world::{Oracle, Violation};

/// A step of a workload.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Small,
    TwoBlocks,
    Group,
    /// Long enough for the idle seal.
    Pause,
    /// Close and open again.
    Reopen,
    /// All but the last record may go.
    TruncateBefore,
    /// The last record goes.
    TruncateAfter,
}

const STEPS: [Step; 7] =
    [Step::Small, Step::TwoBlocks, Step::Group, Step::Pause, Step::Reopen, Step::TruncateBefore, Step::TruncateAfter];
const STEPS_MAX: u32 = 4;
/// Frames of one recovery that are cut again, at most; and of the recovery from that.
const NESTED_MAX: [usize; 2] = [8, 2];

/// What one run is like besides its steps.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// `None`: they take turns.
    method: Option<Method>,
    flight_max: usize,
    /// Complete each write before the next step, or leave them in flight.
    eager: bool,
    /// Records before the film begins: up to the last blocks of the first segment.
    lead: usize,
}

/// The ways in which a workload is run. All of them take time: unless everything is asked for, each workload takes the
/// methods in turn with its number.
fn manners(at: usize, all: bool) -> Vec<Manner> {
    let methods: Vec<_> = Method::ALL.iter().copied().map(Some).chain([None]).collect();
    let shapes = [(1, false, 9), (2, false, 9), (2, true, 10), (4, false, 9)];
    let ways = shapes.iter().enumerate().flat_map(|(shape, (flight_max, eager, lead))| {
        let turn = (at + shape) % methods.len();
        let chosen = methods.iter().enumerate().filter(move |(number, _)| all || *number == turn);
        chosen.map(move |(_, method)| Manner { method: *method, flight_max: *flight_max, eager: *eager, lead: *lead })
    });
    ways.collect()
}

fn options(flight_max: usize) -> Options {
    Options::default()
        .block_bytes(512)
        .segment_bytes(16 * 512)
        .flight_max(flight_max)
        .batch_bytes_max(512)
        .pending_bytes_max(1 << 16)
}

/// How many workloads there are.
pub(crate) fn count() -> usize {
    (0..=STEPS_MAX).map(|len| STEPS.len().pow(len)).sum()
}

/// A workload by its number: the shorter ones first.
fn workload(mut number: usize) -> Vec<Step> {
    let mut len = 0;
    while number >= STEPS.len().pow(len) {
        number -= STEPS.len().pow(len);
        len += 1;
    }
    (0..len).map(|at| STEPS[number / STEPS.len().pow(at) % STEPS.len()]).collect()
}

/// What was promised when a frame was taken.
struct Frame {
    snapshot: Snapshot,
    oracle: Oracle,
}

struct Run {
    sim: Sim,
    options: Options,
    life: Option<Life>,
    oracle: Oracle,
    frames: Vec<Frame>,
    manner: Manner,
    turns: usize,
    counter: u8,
}

impl Run {
    fn new(manner: Manner) -> Self {
        let sim = Sim::new(7, SimOptions::default());
        let mut run = Self {
            sim,
            options: options(manner.flight_max).method(manner.method.unwrap_or(Method::LinkedFdatasync)),
            life: None,
            oracle: Oracle::default(),
            frames: Vec::new(),
            manner,
            turns: 0,
            counter: 0,
        };
        run.open();
        for _ in 0..manner.lead {
            run.append(1, 8);
            run.settle();
        }
        run.sim.film(true);
        run
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().unwrap()
    }

    fn open(&mut self) {
        let life = Life::open(&self.sim, &self.options, 1).unwrap();
        self.oracle.recovered(&life.read().unwrap()).unwrap();
        self.life = Some(life);
        self.settle();
    }

    /// Takes the film of what just happened; the promise is what held before it.
    fn cut_film(&mut self, before: &Oracle) {
        for (_, snapshot) in self.sim.film(true) {
            self.frames.push(Frame { snapshot, oracle: before.clone() });
        }
    }

    fn append(&mut self, count: usize, len: usize) {
        let records: Vec<Vec<u8>> = (0..count)
            .map(|_| {
                self.counter += 1;
                vec![self.counter; len]
            })
            .collect();
        if self.life().submit_group(&records).unwrap() {
            self.oracle.stage_group(&records);
        }
    }

    /// One event of the disk, one step of the driver, one segment prepared.
    fn turn(&mut self, later: Duration) {
        if self.manner.method.is_none() {
            self.turns += 1;
            let (method, depth) = (Method::ALL[self.turns % 4], self.manner.flight_max);
            self.life().steer(method, depth, false);
        }
        let before = self.oracle.clone();
        self.life().step(later);
        self.cut_film(&before);
        self.sim.tick();
        self.cut_film(&before);
        self.life().step(Duration::ZERO);
        let durable = self.life().durable();
        self.oracle.promise(durable).unwrap();
        let before = self.oracle.clone();
        self.life().prepare();
        self.cut_film(&before);
    }

    fn settle(&mut self) {
        for _ in 0..40 {
            self.turn(Duration::ZERO);
        }
    }

    /// Truncates the last durable record, unless it is the only one.
    fn cut_back(&mut self) {
        let last = self.life().durable().get().saturating_sub(1);
        if (last as usize) < self.oracle.first() {
            return;
        }
        self.oracle.truncating(None, Some(last as usize));
        self.life().truncate_after(Lsn::new(last), 3);
        for _ in 0..200 {
            self.turn(Duration::ZERO);
            if let Some(answer) = self.life().cut_back() {
                assert_eq!(answer.expect("the log goes on"), Ok(Lsn::new(last)));
                return self.oracle.cut(last as usize);
            }
        }
        panic!("cutting back never ends");
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Small => self.append(1, 8),
            Step::TwoBlocks => self.append(1, 700),
            Step::Group => self.append(2, 8),
            Step::Pause => {
                self.settle();
                self.turn(Duration::from_millis(11));
            }
            Step::Reopen => {
                self.life().close();
                self.settle();
                assert!(self.life().closed());
                let before = self.oracle.clone();
                self.life = Some(Life::open(&self.sim, &self.options, 2).unwrap());
                self.cut_film(&before);
            }
            Step::TruncateBefore => {
                let first = self.life().durable();
                self.oracle.truncating(usize::try_from(first.get()).ok(), None);
                self.life().recycle(first);
            }
            Step::TruncateAfter => self.cut_back(),
        }
        self.turn(Duration::ZERO);
        if self.manner.eager {
            self.settle();
        }
    }
}

/// Checks one crash image, and so many frames of its recovery, and of the recovery from each of those.
fn check(
    image: &Snapshot,
    oracle: &Oracle,
    options: &Options,
    how: Cut,
    nested: &[usize],
    cuts: &mut u64,
) -> Result<(), Violation> {
    let sim = Sim::new(how.seed(), SimOptions::default());
    sim.restore(image);
    match how {
        Cut::Kill => sim.kill(),
        Cut::KillThenPower(_) => {
            sim.kill();
            sim.power_cut();
        }
        Cut::Power(_) => sim.power_cut(),
    }
    *cuts += 1;
    if !nested.is_empty() {
        sim.film(true);
    }
    let life = Life::open(&sim, options, 99)
        .map_err(|error| Violation { assertion: "A8", text: format!("cannot open: {error}") })?;
    let mut after = oracle.clone();
    after.recovered(&life.read().map_err(|error| Violation { assertion: "A8", text: error.to_string() })?)?;
    if let [frames_max, deeper @ ..] = nested {
        let film = sim.film(false);
        let stride = film.len().div_ceil(*frames_max).max(1);
        let from = how.seed() as usize % stride;
        for (_, frame) in film.iter().skip(from).step_by(stride) {
            for inner in [Cut::Kill, Cut::Power(how.seed()), Cut::KillThenPower(how.seed() + 1)] {
                check(frame, oracle, options, inner, deeper, cuts)?;
            }
        }
    }
    // A5: it goes on, and what it acknowledges is there.
    let mut life = life;
    let record = vec![0xee; 8];
    let lsn = life.submit(&record).map_err(|error| Violation { assertion: "A5", text: error.to_string() })?;
    after.stage(lsn, record)?;
    for _ in 0..6 {
        life.step(Duration::ZERO);
        sim.tick_all();
        life.prepare();
    }
    if life.durable() != lsn {
        return Err(Violation { assertion: "A5", text: format!("{lsn} is not durable") });
    }
    Ok(())
}

/// How a frame ends.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Kill,
    Power(u64),
    KillThenPower(u64),
}

impl Cut {
    fn seed(self) -> u64 {
        match self {
            Self::Kill => 0,
            Self::Power(seed) | Self::KillThenPower(seed) => seed,
        }
    }
}

/// What came of a workload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Exhausted {
    /// Moments at which it was cut.
    pub(crate) points: u64,
    /// Crashes, those inside recovery included.
    pub(crate) crashes: u64,
}

/// The workload of this number in every manner (or in each shape by one method), with crashes inside recovery behind every
/// so many points.
pub(crate) fn exhaust(number: usize, nested_every: usize, all: bool) -> Result<Exhausted, Violation> {
    let steps = workload(number);
    let mut sum = Exhausted::default();
    for manner in manners(number, all) {
        let mut run = Run::new(manner);
        steps.iter().for_each(|step| run.step(*step));
        run.settle();
        for (index, frame) in run.frames.iter().enumerate() {
            sum.points += 1;
            let seed = (number * 1000 + index) as u64;
            for how in [Cut::Kill, Cut::Power(seed), Cut::Power(seed + 1), Cut::KillThenPower(seed + 2)] {
                let nested = index % nested_every == number % nested_every;
                let nested = if nested { &NESTED_MAX[..] } else { &[] };
                check(&frame.snapshot, &frame.oracle, &run.options, how, nested, &mut sum.crashes).map_err(
                    |found| Violation {
                        text: format!("{steps:?} ({manner:?}), point {index}, {how:?}: {}", found.text),
                        ..found
                    },
                )?;
            }
        }
    }
    Ok(sum)
}

#[test]
fn every_crash_point_of_every_small_workload() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    // Where time is short, those of up to two operations and some of the others, each in one manner of each shape.
    let all = std::env::var("RINGWAL_EXHAUSTIVE").is_ok_and(|all| all == "all");
    let short = (0..=2).map(|len| STEPS.len().pow(len)).sum();
    let chosen: Vec<_> = (0..count()).filter(|number| all || *number < short || number.is_multiple_of(40)).collect();
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut sum = Exhausted::default();
        while let Some(number) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let one =
                exhaust(*number, if all { 100 } else { 400 }, all).unwrap_or_else(|violation| panic!("{violation:?}"));
            sum = Exhausted { points: sum.points + one.points, crashes: sum.crashes + one.crashes };
        }
        sum
    };
    let (first, second) = thread::scope(|scope| {
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        let [first, second] = workers.map(|worker| worker.join().unwrap());
        (first, second)
    });
    let (points, crashes) = (first.points + second.points, first.crashes + second.crashes);
    println!("{} workloads, {points} crash points, {crashes} crashes", chosen.len());
    assert!(points > 20_000, "{points} crash points are too few to mean anything");
}
