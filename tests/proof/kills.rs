//! Writers that are killed at random moments, as many as anybody wants.

use crate::common::kills::{KILLS_PER_LOG, kill_writers};
use crate::run::Run;

/// A seed is one log, whose writers are killed one after the other. Kills are moments, and no seed repeats a moment: what a
/// seed shows again is the kind of log.
pub(crate) fn random(run: &Run) -> Result<(), String> {
    std::thread::scope(|scope| {
        // A writer waits for its disk most of the time.
        for _ in 0..2 * run.jobs() {
            scope.spawn(|| {
                while let Some(seed) = run.next() {
                    log(run, seed);
                }
            });
        }
    });
    Ok(())
}

fn log(run: &Run, seed: u64) {
    let counts = match kill_writers(seed, KILLS_PER_LOG) {
        Ok(counts) => counts,
        Err(wrong) => {
            let assertion = wrong.first().map_or("A1", |wrong| wrong.assertion);
            run.violated(assertion, format!("{wrong:?}"), seed);
            return run.tried(1);
        }
    };
    for (label, n) in &counts.labels {
        run.met(label, u64::from(*n));
    }
    run.met("over an append in flight", u64::from(counts.in_flight));
    run.met("before the log was open", u64::from(counts.opening));
    run.met("acknowledged", counts.acks as u64);
    run.met("rivals refused", u64::from(counts.rivals_refused));
    run.met("torn tails", u64::from(counts.torn_tails));
    run.met("records copied", counts.copied);
    run.met("segments", counts.segments);
    run.tried(u64::from(counts.kills));
}
