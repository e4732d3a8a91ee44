//! What an opened log must still be able to do: take records, and end in order.

use std::time::Duration;

use ringwal::harness::Life;
use ringwal::sim::Sim;
use ringwal::{Lsn, SubmitError};

/// How many turns of driver and disk anything here may take: far more than it needs.
const TURNS_MAX: usize = 200;

/// What a log holds: records and their LSNs.
pub type Records = Vec<(Lsn, Vec<u8>)>;

/// One turn of the driver, its helper and the disk.
pub fn turn(sim: &Sim, life: &mut Life) {
    life.step(Duration::from_micros(50));
    life.prepare();
    sim.tick_all();
}

/// Appends one record.
///
/// # Errors
/// As [`Life::submit`]; [`SubmitError::Full`] if that lasts.
pub fn append(sim: &Sim, life: &mut Life, payload: &[u8]) -> Result<Lsn, SubmitError> {
    for _ in 0..TURNS_MAX {
        match life.submit(payload) {
            Err(SubmitError::Full) => turn(sim, life),
            done => return done,
        }
    }
    Err(SubmitError::Full)
}

/// Appends a few records and ends in order. What was appended, and what kept it from appending more.
pub fn go_on(sim: &Sim, mut life: Life) -> (Records, Option<SubmitError>) {
    let (mut appended, mut refused) = (Records::new(), None);
    for payload in [&b"one more"[..], &[7; 300], b""] {
        match append(sim, &mut life, payload) {
            Ok(lsn) => appended.push((lsn, payload.to_vec())),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    life.close();
    for _ in 0..TURNS_MAX {
        turn(sim, &mut life);
        if life.closed() {
            break;
        }
    }
    assert!(life.closed(), "A10: an open log does not close");
    let last = appended.last().map_or(life.durable(), |(lsn, _)| *lsn);
    let kept = life.durable() == last || life.poisoned();
    assert!(kept, "A1: appended records up to {last} are durable up to {} after closing", life.durable());
    (appended, refused)
}
