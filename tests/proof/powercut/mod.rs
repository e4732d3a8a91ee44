//! Power cuts on real file systems: a writer's disk is recorded, and the log is opened again from every state in which a
//! cut can leave it.

mod chains;
mod eio;
mod stall;
mod tally;

pub(crate) use chains::{double, triple};
pub(crate) use eio::flushes;
pub(crate) use stall::{missing as missing_daemon, stall};

use std::cell::OnceCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::cuts::for_each_cut;
use crate::common::powercut::{FileSystem, mount_privately, no_file_system};
use crate::common::recording::{MANNERS, Plan, Recording, Trouble, record};
use crate::common::replay::Replay;
use crate::common::rig::Rng;
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
    no_file_system(FileSystem::Ext4)
}

pub(crate) fn missing_xfs() -> Option<String> {
    no_file_system(FileSystem::Xfs)
}

pub(crate) fn missing_either() -> Option<String> {
    missing_ext4().or_else(missing_xfs)
}

pub(crate) fn ext4(run: &Run) -> Result<(), String> {
    on_each_thread(run, |run, seed, benches| single(run, seed, benches.of(FileSystem::Ext4)?))
}

pub(crate) fn xfs(run: &Run) -> Result<(), String> {
    on_each_thread(run, |run, seed, benches| single(run, seed, benches.of(FileSystem::Xfs)?))
}

/// A recorder and a disk to look at what it recorded.
struct Bench {
    tape: Tape,
    replay: Replay,
}

impl Bench {
    fn fs(&self) -> FileSystem {
        self.tape.file_system()
    }
}

/// What a thread has of its own: a bench for each file system that it was asked for.
#[derive(Default)]
struct Benches {
    ext4: OnceCell<Bench>,
    xfs: OnceCell<Bench>,
}

impl Benches {
    fn of(&self, fs: FileSystem) -> Result<&Bench, String> {
        let cell = match fs {
            FileSystem::Ext4 => &self.ext4,
            FileSystem::Xfs => &self.xfs,
        };
        if cell.get().is_none() {
            let bench = Bench { tape: Tape::new(fs)?, replay: Replay::new(fs)? };
            assert!(cell.set(bench).is_ok(), "it was empty");
        }
        cell.get().ok_or_else(|| "no bench".to_owned())
    }

    /// Each in turn, with every manner.
    fn for_seed(&self, seed: u64) -> Result<&Bench, String> {
        self.of(if (seed + seed / MANNERS).is_multiple_of(2) { FileSystem::Ext4 } else { FileSystem::Xfs })
    }
}

/// Tries seeds on every thread until there is enough. An error of the rig's ends the run.
fn on_each_thread(
    run: &Run,
    attempt: impl Fn(&Run, u64, &Benches) -> Result<(), Trouble> + Sync,
) -> Result<(), String> {
    let broken = AtomicBool::new(false);
    let work = || {
        mount_privately()?;
        let benches = Benches::default();
        while !broken.load(Ordering::Relaxed)
            && let Some(seed) = run.next()
        {
            match attempt(run, seed, &benches) {
                Ok(()) => {}
                Err(Trouble::Log(wrong)) => run.violated(wrong.assertion, wrong.what, seed),
                Err(Trouble::Rig(why)) => {
                    broken.store(true, Ordering::Relaxed);
                    return Err(format!("seed {seed}: {why}"));
                }
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..run.jobs()).map(|_| scope.spawn(work)).collect();
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        ends.into_iter().try_for_each(|end| end.unwrap_or_else(|_| Err("a thread panicked".to_owned())))
    })
}

/// One recording, and every cut in it.
fn single(run: &Run, seed: u64, bench: &Bench) -> Result<(), Trouble> {
    let plan = Plan::of(seed, STEPS);
    let recording = record(&bench.tape, bench.fs().blank()?, &plan)?;
    let mut tally = Tally::new(run, &plan, bench.fs());
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
    let (mut number, mut wrong, mut trouble) = (0_u64, 0, None);
    let bounds = (recording.began, recording.ended);
    for_each_cut(&recording.base, &recording.entries, bounds, torn, &mut Rng::new(seed), |image, cut| {
        number += 1;
        let thorough = number.is_multiple_of(THOROUGH_EVERY);
        match recording.survives(&bench.replay, image, cut, &plan.options_of_next(number), thorough) {
            Ok(Ok(survivor)) => tally.cut(cut, &survivor),
            Ok(Err(wrongs)) => {
                wrong += 1;
                let name = format!("cut-{}-{seed}-{}-{number}", bench.fs().name(), plan.link);
                let kept = Replay::keep(image, &name).map_or_else(|why| why, |path| path.display().to_string());
                for Wrong { assertion, what } in wrongs {
                    run.violated(assertion, format_args!("{}, {cut:?}, {kept}: {what}", plan.label()), seed);
                }
            }
            Err(why) => trouble = Some(format!("{cut:?}: {why}")),
        }
        run.tried(1);
        trouble.is_none() && wrong < TOLD_MAX
    });
    trouble.map_or(Ok(()), |why| Err(Trouble::Rig(why)))
}
