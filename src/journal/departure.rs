//! When a staged batch leaves: at once, unless somebody is worth waiting for a moment.
//!
//! Callers that were just served come back. Where the tuner has found that to pay, a batch waits for them with nothing in
//! flight, at most half a flush; and a second batch in flight is begun only for its share of those who wait, not for the
//! first that comes.

use std::time::Duration;

use super::Wake;
use super::tuner::Choice;

/// Of the time that a flush takes: how long to wait for callers to come back.
const PATIENCE: f64 = 0.5;
/// The weight of the latest flush in the mean.
const WEIGHT: u32 = 8;

/// Who was served, and when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Departures {
    /// Records that were published since a batch left: their callers may be on their way back.
    served: u64,
    /// Those, and the ones that were staged when the last of them landed.
    expected: u64,
    /// When the last of them landed.
    landed: Duration,
    /// How long a flush takes, roughly.
    flush: Duration,
}

/// Whether to leave, with `records` staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    Now,
    /// Not before so many records are staged, or this time has come (or a batch lands).
    Hold(Wake, Option<Duration>),
}

impl Departures {
    /// A batch landed after `took`, and made `records` durable.
    pub(super) fn handle_landed(&mut self, records: u64, took: Duration, now: Duration) {
        self.flush = if self.flush.is_zero() { took } else { (self.flush * (WEIGHT - 1) + took) / WEIGHT };
        self.served += records;
        self.landed = now;
        self.expected = 0;
    }

    /// A batch left.
    pub(super) fn handle_left(&mut self) {
        (self.served, self.expected) = (0, 0);
    }

    /// Whether a batch of the `staged` records should leave, beside `in_flight` others. About `load` records are on their
    /// way in all.
    pub(super) fn poll(
        &mut self,
        choice: Choice,
        in_flight: usize,
        staged: u32,
        load: f64,
        now: Duration,
    ) -> Departure {
        if in_flight > 0 {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
            let share = (load / choice.depth.max(1) as f64) as u32;
            let share = share.max(1);
            return if staged >= share { Departure::Now } else { Departure::Hold(Wake::AtRecords(share), None) };
        }
        if !choice.gather || self.served == 0 {
            return if staged > 0 { Departure::Now } else { Departure::Hold(Wake::AtNext, None) };
        }
        if self.expected == 0 {
            self.expected = self.served + u64::from(staged);
        }
        let until = self.landed + self.flush.mul_f64(PATIENCE);
        if u64::from(staged) >= self.expected || now >= until {
            if staged > 0 { Departure::Now } else { Departure::Hold(Wake::AtNext, None) }
        } else {
            Departure::Hold(Wake::AtRecords(u32::try_from(self.expected).unwrap_or(u32::MAX)), Some(until))
        }
    }
}
