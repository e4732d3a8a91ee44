//! A seed's history: here, or in a child where a limit of the whole process belongs to it.

use std::io::{Read as _, Write as _};

use nix::sys::signal::{SigSet, Signal};

use crate::common::faultfs::{FaultFs, What};
use crate::common::rig::{Reaped, child as child_in};
use crate::faults_history::{Tally, history};
use crate::faults_ledger::{ASSERTIONS, Violation, violation};
use crate::faults_plan::case;

const ROLE: &str = "faults ";

/// Runs the history that a seed stands for; returns how often its fault struck.
pub(crate) fn try_seed(disk: &FaultFs, seed: u64, tally: &mut Tally) -> Result<u64, Violation> {
    let case = case(seed);
    match case.fault {
        Some(fault) if matches!(fault.what, What::Limited(_)) => try_in_child(seed, tally),
        _ => history(disk, case, tally),
    }
}

fn try_in_child(seed: u64, tally: &mut Tally) -> Result<u64, Violation> {
    let failed = |error: std::io::Error| violation("A10", format!("the child: {error}"));
    let mut child = Reaped(child_in(&format!("{ROLE}{seed}")).spawn().map_err(failed)?);
    let mut words = String::new();
    if let Some(mut pipe) = child.0.stdout.take() {
        pipe.read_to_string(&mut words).map_err(failed)?;
    }
    let status = child.0.wait().map_err(failed)?;
    let mut strikes = None;
    for line in words.lines() {
        match line.split_once('\t') {
            Some(("met", label)) => *tally.entry(label.to_owned()).or_default() += 1,
            Some(("struck", times)) => strikes = times.parse().ok(),
            Some((word, text)) => {
                if let Some(assertion) = ASSERTIONS.iter().find(|assertion| **assertion == word) {
                    return Err(violation(assertion, text));
                }
            }
            None => {}
        }
    }
    strikes.ok_or_else(|| violation("A10", format!("the child ended without a word: {status}")))
}

/// The child's side. False if the role is none of these.
pub(crate) fn child(role: &str) -> bool {
    let Some(seed) = role.strip_prefix(ROLE).and_then(|seed| seed.parse().ok()) else { return false };
    // Who writes beyond the limit gets a signal as well, which would end the process.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block().unwrap();
    let mut tally = Tally::new();
    let tried = FaultFs::mount().map_err(|why| violation("A10", why));
    let tried = tried.and_then(|disk| history(&disk, case(seed), &mut tally));
    let mut text = String::from("\n");
    for (label, count) in &tally {
        text.extend((0..*count).map(|_| format!("met\t{label}\n")));
    }
    text += &match tried {
        Ok(strikes) => format!("struck\t{strikes}\n"),
        Err(violation) => format!("{}\t{}\n", violation.assertion, violation.text),
    };
    std::io::stdout().write_all(text.as_bytes()).unwrap();
    true
}
