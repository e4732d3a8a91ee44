//! The rig `faults`: for every operation of a run of 200 appends and every fault, that fault at that operation.

use std::thread;

use crate::common::faultfs::{Fault, FaultFs, Op, Span, What, unavailable};
use crate::common::manner::Manner;
use crate::faults_history::{Case, Start, Tally, history};
use crate::run::Run;

/// The methods, each with 1, 2 and 4 batches in flight.
const MANNERS: u64 = 12;
const STARTS: [Start; 3] = [Start::Cut, Start::Closed, Start::Fresh];

const LATE: What = What::Late(50);
const A_FEW: Span = Span::Times(3);

/// What can happen to each kind of operation, and up to which one: a run without faults has at most so many.
const FAULTS: [(Op, u64, &[(What, Span)]); 8] = [
    (
        Op::Write,
        130,
        &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (What::NO_SPACE, Span::Sticky),
            (What::Half, Span::Once),
            (What::Half, A_FEW),
            (What::Unaligned, Span::Once),
            (What::Unaligned, A_FEW),
            (LATE, Span::Once),
            (What::PowerCut, Span::Once),
        ],
    ),
    (
        Op::Flush,
        120,
        &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (LATE, Span::Once),
            (What::PowerCut, Span::Once),
        ],
    ),
    (
        Op::Read,
        45,
        &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::Flip, Span::Once),
            (What::Flip, Span::Sticky),
            (What::Half, Span::Once),
            (What::Unaligned, Span::Once),
            (LATE, Span::Once),
        ],
    ),
    (
        Op::Allocate,
        12,
        &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (What::NO_SPACE, Span::Sticky),
            (What::UNSUPPORTED, Span::Sticky),
            (LATE, Span::Once),
            (What::PowerCut, Span::Once),
        ],
    ),
    (
        Op::SyncDirectory,
        22,
        &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (LATE, Span::Once),
            (What::PowerCut, Span::Once),
        ],
    ),
    (
        Op::Create,
        13,
        &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (What::NO_SPACE, Span::Sticky),
            (What::PowerCut, Span::Once),
        ],
    ),
    (
        Op::Rename,
        16,
        &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (What::PowerCut, Span::Once),
        ],
    ),
    (Op::Remove, 8, &[(What::EIO, Span::Once), (What::EIO, Span::Sticky), (What::PowerCut, Span::Once)]),
];

/// How many faults there are at all operations.
const PLACES: u64 = {
    let (mut sum, mut at) = (0, 0);
    while at < FAULTS.len() {
        sum += FAULTS[at].1 * FAULTS[at].2.len() as u64;
        at += 1;
    }
    sum
};

/// So many seeds in a row are every fault at every operation, by every method and depth, from every start.
pub(crate) const CASES: u64 = PLACES * MANNERS * STARTS.len() as u64;

/// Cases in a row are far from each other, so that a few of them are a bit of everything. A prime that does not divide
/// their number.
const STRIDE: u64 = 1_000_003;

/// The fault at a place of the list of all.
fn fault(mut place: u64) -> Fault {
    for (op, bound, kinds) in FAULTS {
        for (what, span) in kinds {
            if place < bound {
                return Fault { op, n: place + 1, what: *what, span: *span, suffix: "" };
            }
            place -= bound;
        }
    }
    unreachable!("there are {PLACES} places");
}

/// The history that a seed stands for.
pub(crate) fn case(seed: u64) -> Case {
    let index = u128::from(seed) * u128::from(STRIDE) % u128::from(CASES);
    let index = u64::try_from(index).unwrap();
    let (place, rest) = (index / MANNERS / 3, index % (MANNERS * 3));
    let manner = Manner::of(usize::try_from(rest % MANNERS).unwrap());
    let fault = fault(place);
    let start = match STARTS[usize::try_from(rest / MANNERS).unwrap()] {
        // The last batches of a log that ended with a power cut are claimed by nobody: a bit that flips there looks like
        // a torn tail (the known limit of promise P5).
        Start::Cut if fault.what == What::Flip => Start::Closed,
        start => start,
    };
    Case { manner, start, fault: Some(fault), seed }
}

pub(crate) fn missing() -> Option<String> {
    unavailable()
}

pub(crate) fn run(run: &Run) -> Result<(), String> {
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
