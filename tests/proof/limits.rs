//! The rig `limits`: every limit that a log may meet, by each method and depth.

use std::thread;

use crate::limits_cases::{CASES, missing, try_case};
use crate::run::Run;

/// Every case, by four methods and three depths.
pub(crate) const TRIES: u64 = CASES.len() as u64 * 12;

pub(crate) fn run(run: &Run) -> Result<(), String> {
    let cases: Vec<_> = CASES.iter().map(|case| (case, missing(case.need))).collect();
    thread::scope(|scope| {
        for _ in 0..run.jobs() {
            scope.spawn(|| {
                while let Some(seed) = run.next() {
                    let (case, why_not) = &cases[usize::try_from(seed % cases.len() as u64).unwrap()];
                    if let Some(why) = why_not {
                        run.met(&format!("SKIPPED {}: {why}", case.name), 1);
                        continue;
                    }
                    run.tried(1);
                    match try_case(case, seed / cases.len() as u64) {
                        Ok(()) => run.met(case.name, 1),
                        Err(what) => run.violated("A8", format!("{}: {what}", case.name), seed),
                    }
                }
            });
        }
    });
    Ok(())
}
