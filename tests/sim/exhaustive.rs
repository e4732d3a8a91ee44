//! Every crash point of every small workload over a rotation, the crash inside recovery included.
//!
//! By every method, at depths 1, 2 and 4, and with methods that take turns from batch to batch. A workload is up to three appends (small, of two blocks, a group), with or without a pause long enough for the idle
//! seal, a close, or a close and a re-opening between them, begun so near the end of a segment that it rotates. The
//! disk films itself before every operation; each frame becomes a kill and power cuts in which nothing, everything, or
//! a random part of what was not flushed reached the medium. Each recovery from one is filmed and cut again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ringwal::harness::Life;
use ringwal::sim::{Sim, SimOptions, Snapshot};
use ringwal::{Method, Options};

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
}

const STEPS: [Step; 5] = [Step::Small, Step::TwoBlocks, Step::Group, Step::Pause, Step::Reopen];
/// Frames of one recovery that are cut again, at most.
const NESTED_MAX: usize = 12;

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

/// Every workload with at most three appends and at most one pause or re-opening.
fn workloads() -> Vec<Vec<Step>> {
    let mut all: Vec<Vec<Step>> = vec![vec![]];
    let mut from = 0;
    for _ in 0..4 {
        let to = all.len();
        for at in from..to {
            for step in STEPS {
                let mut longer = all[at].clone();
                longer.push(step);
                let others = longer.iter().filter(|step| matches!(step, Step::Pause | Step::Reopen)).count();
                if longer.len() - others <= 3 && others <= 1 {
                    all.push(longer);
                }
            }
        }
        from = to;
    }
    all
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
        }
        self.turn(Duration::ZERO);
        if self.manner.eager {
            self.settle();
        }
    }
}

/// Checks one crash image, and with `nested` every crash of its recovery.
fn check(
    image: &Snapshot,
    oracle: &Oracle,
    options: &Options,
    how: Cut,
    nested: bool,
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
    if nested {
        sim.film(true);
    }
    let life = Life::open(&sim, options, 99)
        .map_err(|error| Violation { assertion: "A8", text: format!("cannot open: {error}") })?;
    let mut after = oracle.clone();
    after.recovered(&life.read().map_err(|error| Violation { assertion: "A8", text: error.to_string() })?)?;
    if nested {
        let film = sim.film(false);
        let stride = film.len().div_ceil(NESTED_MAX).max(1);
        for (_, frame) in film.iter().step_by(stride) {
            for inner in [Cut::Kill, Cut::Power(how.seed()), Cut::KillThenPower(how.seed() + 1)] {
                check(frame, oracle, options, inner, false, cuts)?;
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

/// One workload under every shape: (crash points, crashes).
fn exhaust(at: usize, steps: &[Step], nested_every: usize, all: bool) -> (u64, u64) {
    let (mut cuts, mut frames) = (0, 0);
    for manner in manners(at, all) {
        let mut run = Run::new(manner);
        steps.iter().for_each(|step| run.step(*step));
        run.settle();
        for (index, frame) in run.frames.iter().enumerate() {
            frames += 1;
            let seed = (at * 1000 + index) as u64;
            for how in [Cut::Kill, Cut::Power(seed), Cut::Power(seed + 1), Cut::KillThenPower(seed + 2)] {
                let nested = index % nested_every == at % nested_every;
                if let Err(violation) = check(&frame.snapshot, &frame.oracle, &run.options, how, nested, &mut cuts) {
                    panic!("{steps:?} ({manner:?}), frame {index}, {how:?}: {violation:?}");
                }
            }
        }
    }
    (frames, cuts)
}

#[test]
fn every_crash_point_of_every_small_workload() {
    // Crashes inside recovery are behind every 5th crash point, or every so many where time is short; and where it is very
    // short, each workload flies in one manner instead of all.
    let (all, nested_every) = match std::env::var("RINGWAL_EXHAUSTIVE") {
        Ok(all) if all == "all" => (true, 5),
        Ok(every) => (true, every.parse().expect("RINGWAL_EXHAUSTIVE is `all` or a number")),
        Err(_) => (false, 50),
    };
    let workloads = workloads();
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut sum = (0, 0);
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(steps) = workloads.get(at)
        {
            let (frames, cuts) = exhaust(at, steps, nested_every, all);
            sum = (sum.0 + frames, sum.1 + cuts);
        }
        sum
    };
    let (frames, cuts) = thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    println!("{} workloads, {frames} crash points, {cuts} crashes", workloads.len());
    assert!(frames > 50_000, "{frames} crash points are too few to mean anything");
}
