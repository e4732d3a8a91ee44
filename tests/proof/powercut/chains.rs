//! Crash after crash: a log is opened from what a cut left, written to, cut again, and so on. The writers' records are of
//! equal length, so that what comes after a crash looks like what the crash had left.

use super::tally::Tally;
use super::{Bench, TORN, on_each_thread, try_cuts};
use crate::common::cuts::{Cut, for_each_cut};
use crate::common::image::Image;
use crate::common::recording::{Plan, Recording, Trouble, record};
use crate::common::rig::Rng;
use crate::run::Run;

/// Steps of a recording that more crashes follow, and of each that comes after a crash.
const STEPS: u64 = 16;
const STEPS_AFTER: u64 = 5;
/// How many cuts of a recording are gone on from.
const BRANCHES: usize = 4;

/// Every cut behind a second opening.
pub(crate) fn double(run: &Run) -> Result<(), String> {
    on_each_thread(run, |run, seed, benches| chain(run, seed, benches.for_seed(seed)?, 2))
}

/// Every cut behind a third opening.
pub(crate) fn triple(run: &Run) -> Result<(), String> {
    on_each_thread(run, |run, seed, benches| chain(run, seed, benches.for_seed(seed)?, 3))
}

fn chain(run: &Run, seed: u64, bench: &Bench, links: u32) -> Result<(), Trouble> {
    let plan = Plan::of(seed, STEPS).alike();
    let recording = record(&bench.tape, bench.fs().blank()?, &plan)?;
    let mut tally = Tally::new(run, &plan, bench.fs());
    tally.recording(&recording);
    let mut rng = Rng::new(seed);
    follow(run, seed, bench, (&plan, &recording), links, &mut rng, &mut tally)
}

/// Goes on from some cuts of a recording.
fn follow(
    run: &Run,
    seed: u64,
    bench: &Bench,
    (plan, recording): (&Plan, &Recording),
    links: u32,
    rng: &mut Rng,
    tally: &mut Tally<'_>,
) -> Result<(), Trouble> {
    for (image, cut) in some_cuts(recording, rng) {
        if !run.goes_on() {
            break;
        }
        let next_plan = plan.after(rng.next(), STEPS_AFTER);
        let next = record(&bench.tape, image, &next_plan)?;
        let wrong = recording.witness.judge_from(next.opened.first, &next.opened.records, cut.position);
        if let Some(wrong) = wrong.into_iter().next() {
            return Err(wrong.into());
        }
        tally.recording(&next);
        if next_plan.link + 1 == links {
            try_cuts(run, seed, bench, (&next_plan, &next), TORN, tally)?;
        } else {
            follow(run, seed, bench, (&next_plan, &next), links, rng, tally)?;
        }
    }
    Ok(())
}

/// Some of the cuts, each as likely as any other.
fn some_cuts(recording: &Recording, rng: &mut Rng) -> Vec<(Image, Cut)> {
    let mut chosen = Vec::new();
    let (mut number, mut choice) = (0, rng.clone());
    let bounds = (recording.began, recording.ended);
    for_each_cut(&recording.base, &recording.entries, bounds, TORN, rng, |image, cut| {
        number += 1;
        if chosen.len() < BRANCHES {
            chosen.push((image.clone(), cut));
        } else if let Some(place) = chosen.get_mut(usize::try_from(choice.below(number)).unwrap()) {
            *place = (image.clone(), cut);
        }
        true
    });
    chosen
}
