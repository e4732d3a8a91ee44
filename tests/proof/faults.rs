//! The rig `faults`: for every operation of a run of 200 appends and every fault, that fault at that operation.

use std::thread;

use crate::common::faultfs::FaultFs;
use crate::faults_history::{Tally, history};
use crate::faults_plan::case;
use crate::run::Run;

pub(crate) fn run(run: &Run) -> Result<(), String> {
    // All are there before the first log is opened: a file system's threads would keep its files open.
    let disks: Result<Vec<_>, _> = (0..run.jobs()).map(|_| FaultFs::mount()).collect();
    thread::scope(|scope| {
        let workers: Vec<_> = disks?.into_iter().map(|disk| scope.spawn(move || work(run, disk))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err("a worker panicked".to_owned())))
    })
}

fn work(run: &Run, mut disk: FaultFs) -> Result<(), String> {
    while let Some(seed) = run.next() {
        let (case, mut tally) = (case(seed), Tally::new());
        match history(&disk, case, &mut tally) {
            Ok(0) => run.met("not reached", 1),
            Ok(_) => run.tried(1),
            Err(violation) => {
                run.tried(1);
                run.violated(violation.assertion, format!("{case}: {}", violation.text), seed);
                // Whoever hangs may still be at work on this one.
                disk = FaultFs::mount()?;
            }
        }
        for (label, n) in &tally {
            run.met(label, *n);
        }
    }
    Ok(())
}
