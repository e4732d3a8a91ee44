//! Every fault at every operation of a run of 200 appends, as a list: which of them a seed stands for.

use ringwal::Method;

use crate::common::faultfs::{Fault, Op, Span, What};
use crate::common::manner::Manner;
use crate::faults_history::{Case, Start};

/// The methods, each with 1, 2 and 4 batches in flight.
const MANNERS: u64 = 12;
const STARTS: [Start; 3] = [Start::Cut, Start::Closed, Start::Fresh];

const LATE: What = What::Late(50);
const A_FEW: Span = Span::Times(3);

/// Faults of one kind of operation.
struct Kind {
    op: Op,
    /// Of files whose names end so.
    suffix: &'static str,
    /// Up to which operation: a run without faults has at most so many.
    bound: u64,
    faults: &'static [(What, Span)],
}

/// Everything that can happen.
const KINDS: [Kind; 12] = [
    Kind {
        op: Op::Write,
        suffix: "",
        bound: 130,
        faults: &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (What::NO_SPACE, Span::Sticky),
            (LATE, Span::Once),
            (What::PowerCut, Span::Once),
        ],
    },
    // What appends bring: cut short by the disk, or by a limit where io_uring stands between.
    Kind {
        op: Op::Write,
        suffix: ".seg",
        bound: 100,
        faults: &[
            (What::Half, Span::Once),
            (What::Half, A_FEW),
            (What::Unaligned, Span::Once),
            (What::Limited(2048), A_FEW),
            (What::Limited(4096), Span::Once),
            (What::Limited(5000), Span::Once),
            (What::Limited(9000), A_FEW),
        ],
    },
    // What did not take place is asked for again.
    Kind {
        op: Op::Write,
        suffix: ".seg",
        bound: 100,
        faults: &[(What::INTERRUPTED, Span::Once), (What::INTERRUPTED, A_FEW)],
    },
    Kind {
        op: Op::Flush,
        suffix: ".seg",
        bound: 100,
        faults: &[(What::CANCELED, Span::Once), (What::CANCELED, A_FEW)],
    },
    // What prepares a segment.
    Kind {
        op: Op::Write,
        suffix: ".spare",
        bound: 25,
        faults: &[
            (What::NO_SPACE, Span::Once),
            (What::NO_SPACE, Span::Sticky),
            (What::Half, Span::Once),
            (What::Half, A_FEW),
            (What::Unaligned, Span::Once),
            (What::Unaligned, A_FEW),
        ],
    },
    Kind {
        op: Op::Flush,
        suffix: "",
        bound: 120,
        faults: &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (LATE, Span::Once),
            (What::PowerCut, Span::Once),
        ],
    },
    Kind {
        op: Op::Read,
        suffix: "",
        bound: 45,
        faults: &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::Flip, Span::Once),
            (What::Flip, Span::Sticky),
            (What::Half, Span::Once),
            (What::Unaligned, Span::Once),
            (LATE, Span::Once),
        ],
    },
    Kind {
        op: Op::Allocate,
        suffix: "",
        bound: 12,
        faults: &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (What::NO_SPACE, Span::Sticky),
            (What::UNSUPPORTED, Span::Sticky),
            (LATE, Span::Once),
            (What::PowerCut, Span::Once),
        ],
    },
    Kind {
        op: Op::SyncDirectory,
        suffix: "",
        bound: 22,
        faults: &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (LATE, Span::Once),
            (What::PowerCut, Span::Once),
        ],
    },
    Kind {
        op: Op::Create,
        suffix: "",
        bound: 13,
        faults: &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (What::NO_SPACE, Span::Sticky),
            (What::PowerCut, Span::Once),
        ],
    },
    Kind {
        op: Op::Rename,
        suffix: "",
        bound: 16,
        faults: &[
            (What::EIO, Span::Once),
            (What::EIO, Span::Sticky),
            (What::NO_SPACE, Span::Once),
            (What::PowerCut, Span::Once),
        ],
    },
    Kind {
        op: Op::Remove,
        suffix: "",
        bound: 8,
        faults: &[(What::EIO, Span::Once), (What::EIO, Span::Sticky), (What::PowerCut, Span::Once)],
    },
];

/// How many faults there are at all operations.
const PLACES: u64 = {
    let (mut sum, mut at) = (0, 0);
    while at < KINDS.len() {
        sum += KINDS[at].bound * KINDS[at].faults.len() as u64;
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
    for Kind { op, suffix, bound, faults } in KINDS {
        for (what, span) in faults {
            if place < bound {
                return Fault { op, n: place + 1, what: *what, span: *span, suffix };
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
    let mut fault = fault(place);
    let short = matches!(fault.what, What::Half | What::Unaligned);
    if short && fault.suffix == ".seg" && manner.word() != Method::Syscalls.word() {
        fault.what = What::Limited(if fault.what == What::Half { 6144 } else { 777 });
    }
    let start = match STARTS[usize::try_from(rest / MANNERS).unwrap()] {
        // The last batches of a log that ended with a power cut are claimed by nobody: a bit that flips there looks like
        // a torn tail (the known limit of promise P5).
        Start::Cut if fault.what == What::Flip => Start::Closed,
        start => start,
    };
    Case { manner, start, fault: Some(fault), seed }
}
