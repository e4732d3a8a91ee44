//! The rig `faults`: for every operation of a run of 200 appends and every fault, that fault at that operation.

use std::thread;

use crate::common::faultfs::{Fault, FaultFs, Op, Span, What, unavailable};
use crate::common::manner::Manner;
use crate::history_faults::{Case, Start, Tally, history};
use crate::run::Run;

/// The methods, each with 1, 2 and 4 batches in flight.
const MANNERS: u64 = 12;

/// Every kind of fault, and at which operations: as many as a run without faults has of them, and some more.
const FAULTS: &[(Op, u64, &[(What, Span)])] = &[];

pub(crate) fn missing() -> Option<String> {
    unavailable()
}

pub(crate) fn run(run: &Run) -> Result<(), String> {
    let _ = (FAULTS, MANNERS);
    let disks: Result<Vec<_>, _> = (0..run.jobs()).map(|_| FaultFs::mount()).collect();
    thread::scope(|scope| {
        for disk in disks? {
            scope.spawn(move || {
                while let Some(seed) = run.next() {
                    let case = Case { manner: Manner::of(seed as usize), start: Start::Fresh, fault: None, seed };
                    let mut tally = Tally::new();
                    let t = std::time::Instant::now();
                    if let Err(violation) = history(&disk, case, &mut tally) {
                        run.violated(violation.assertion, format!("{case}: {}", violation.text), seed);
                    }
                    eprintln!("{case} {:?} {tally:#?}", t.elapsed());
                    for (label, n) in &tally {
                        run.met(label, *n);
                    }
                    run.tried(1);
                }
            });
        }
        Ok(())
    })
}
