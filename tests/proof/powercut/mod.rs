//! Power cuts on real file systems: a writer's disk is recorded, and the log is opened again from every state in which a
//! cut can leave it.

mod chains;
mod tally;

pub(crate) use chains::{double, triple};

use std::thread;

use crate::common::cuts::{Cut, for_each_cut};
use crate::common::image::Image;
use crate::common::powercut::{FileSystem, mount_privately, unavailable};
use crate::common::recording::{Plan, Recording, Trouble, record};
use crate::common::replay::Replay;
use crate::common::rig::Rng;
use crate::common::survivor::{Survivor, recover};
use crate::common::tape::Tape;
use crate::common::witness::Wrong;
use crate::run::Run;
use tally::Tally;

/// Steps of a recording: thousands of cuts.
const STEPS: u64 = 60;
/// For each write, how many cuts leave any part of what was not flushed.
const TORN: usize = 2;
/// Of so many cuts one is looked at from all sides.
const THOROUGH_EVERY: u64 = 16;
/// Cuts of one recording that are told when they go wrong.
const TOLD_MAX: usize = 3;

pub(crate) fn missing_ext4() -> Option<String> {
    unavailable(FileSystem::Ext4)
}

pub(crate) fn missing_xfs() -> Option<String> {
    unavailable(FileSystem::Xfs)
}

pub(crate) fn ext4(run: &Run) -> Result<(), String> {
    on_each_thread(run, |_| FileSystem::Ext4, single)
}

pub(crate) fn xfs(run: &Run) -> Result<(), String> {
    on_each_thread(run, |_| FileSystem::Xfs, single)
}

/// What a thread has of its own.
struct Bench {
    tape: Tape,
    replay: Replay,
}

impl Bench {
    fn new(fs: FileSystem) -> Result<Self, String> {
        Ok(Self { tape: Tape::new(fs)?, replay: Replay::new(fs)? })
    }
}

/// Tries seeds on every thread until there is enough. An error of the rig's ends the thread, and the run with it.
fn on_each_thread(
    run: &Run,
    fs: impl Fn(usize) -> FileSystem + Sync,
    attempt: impl Fn(&Run, u64, &Bench) -> Result<(), Trouble> + Sync,
) -> Result<(), String> {
    let work = |number: usize| {
        mount_privately()?;
        let bench = Bench::new(fs(number))?;
        while let Some(seed) = run.next() {
            match attempt(run, seed, &bench) {
                Ok(()) => {}
                Err(Trouble::Log(wrong)) => run.violated(wrong.assertion, wrong.what, seed),
                Err(Trouble::Rig(why)) => return Err(format!("seed {seed}: {why}")),
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..run.jobs()).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
    })
}

/// One recording, and every cut in it.
fn single(run: &Run, seed: u64, bench: &Bench) -> Result<(), Trouble> {
    let plan = Plan::of(seed, STEPS);
    let recording = record(&bench.tape, bench.tape.file_system().blank()?, &plan)?;
    let mut tally = Tally::new(run, &plan, bench.tape.file_system());
    tally.recording(&recording);
    try_cuts(run, seed, bench, (&plan, &recording), TORN, &mut tally)
}

/// Opens the log behind every cut in a recording.
fn try_cuts(
    run: &Run,
    seed: u64,
    bench: &Bench,
    (plan, recording): (&Plan, &Recording),
    torn: usize,
    tally: &mut Tally<'_>,
) -> Result<(), Trouble> {
    let (mut number, mut wrong, mut trouble) = (0, 0, None);
    let bounds = (recording.began, recording.ended);
    for_each_cut(&recording.base, &recording.entries, bounds, torn, &mut Rng::new(seed), |image, cut| {
        number += 1;
        let judged = try_cut(bench, (plan, recording), image, cut, number);
        match judged {
            Ok(Ok(survivor)) => tally.cut(cut, &survivor),
            Ok(Err(wrongs)) => {
                wrong += 1;
                for Wrong { assertion, what } in wrongs {
                    run.violated(assertion, format_args!("{}, {cut:?}: {what}", plan.label()), seed);
                }
            }
            Err(why) => trouble = Some(format!("{cut:?}: {why}")),
        }
        run.tried(1);
        trouble.is_none() && wrong < TOLD_MAX
    });
    trouble.map_or(Ok(()), |why| Err(Trouble::Rig(why)))
}

/// Opens the log behind one cut; what survived, or what is wrong with it.
fn try_cut(
    bench: &Bench,
    (plan, recording): (&Plan, &Recording),
    image: &Image,
    cut: Cut,
    number: u64,
) -> Result<Result<Survivor, Vec<Wrong>>, String> {
    let thorough = number.is_multiple_of(THOROUGH_EVERY);
    bench.replay.mounted(image, |at| {
        let survivor =
            recover(&at.join("wal"), &plan.options_of_next(number), thorough).map_err(|wrong| vec![wrong])?;
        let wrong = recording.witness.judge_from(survivor.first, &survivor.records, cut.position);
        if wrong.is_empty() { Ok(survivor) } else { Err(wrong) }
    })
}
