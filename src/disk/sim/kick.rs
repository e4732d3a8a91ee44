//! What the simulated ring thread does by itself: it sees completions at `reap`, and at `kick` it makes the system calls of
//! those flights that ask for them. While it waits for one, what is in flight goes on.

use super::plane::{Bench, Stage, Trip};
use super::state::{State, What};
use crate::disk::Method;
use crate::seeded;

impl Bench {
    /// Whether there is anything to do at `kick`.
    pub(super) fn blocks(&self) -> bool {
        self.trips.iter().flatten().any(|trip| is_queued(trip) || is_due(trip))
    }

    fn numbers(&self, wanted: impl Fn(&Trip) -> bool) -> Vec<usize> {
        let trips = self.trips.iter().enumerate();
        trips.filter(|(_, trip)| trip.as_ref().is_some_and(&wanted)).map(|(number, _)| number).collect()
    }
}

fn is_queued(trip: &Trip) -> bool {
    matches!(trip.stage, Stage::Queued)
}

/// Its write was seen to be complete, and the ring thread is to sync its file.
fn is_due(trip: &Trip) -> bool {
    matches!(trip.stage, Stage::SyncDue) && trip.write.method == Method::WriteThenFdatasync
}

impl State {
    /// The ring thread sees the completions that it has to see before it syncs.
    pub(super) fn see(&mut self, bench: usize) {
        for number in self.benches[bench].numbers(|trip| matches!(trip.stage, Stage::Unseen { .. })) {
            let Some(mut trip) = self.benches[bench].trips[number].take() else { continue };
            let Stage::Unseen { res } = trip.stage else { continue };
            let step = trip.flight.on_write(res);
            self.follow(bench, number, trip, step);
        }
    }

    /// The ring thread makes its system calls.
    pub(super) fn kick(&mut self, bench: usize) {
        // As submitted.
        let mut queued = self.benches[bench].numbers(is_queued);
        queued.sort_by_key(|number| self.benches[bench].trips[*number].as_ref().map(|trip| trip.write.token));
        queued.into_iter().for_each(|number| self.carry_out(bench, number));
        while let Some(first) = self.benches[bench].numbers(is_due).first().copied() {
            if self.is_frozen() {
                return;
            }
            self.sync_for(bench, first);
        }
    }

    /// One write and its sync, to the end.
    fn carry_out(&mut self, bench: usize, number: usize) {
        while !self.is_frozen()
            && let Some(mut trip) = self.benches[bench].trips[number].take()
        {
            if is_queued(&trip) {
                self.step(What::Submit, trip.inode, trip.write.offset);
                let len = trip.write.len;
                trip.stage = self.start(&mut trip, 0, len);
                self.benches[bench].trips[number] = Some(trip);
            } else {
                self.happen(bench, number, trip);
            }
            self.go_on();
        }
    }

    /// One sync of a flight's file. It serves every flight on that file whose write was seen to be complete before it.
    fn sync_for(&mut self, bench: usize, first: usize) {
        let Some(Trip { inode, write, .. }) = &self.benches[bench].trips[first] else { return };
        let (inode, token) = (*inode, write.token);
        let served = self.benches[bench].numbers(|trip| is_due(trip) && trip.inode == inode);
        self.step(What::SyncIssued, inode, token);
        let issued_at = self.operations;
        self.go_on();
        if self.is_frozen() {
            return;
        }
        self.step(What::SyncEnded, inode, token);
        let res = self.end_sync(inode, issued_at);
        if res == 0 && seeded::is("m22") {
            self.serve_unseen(bench, inode);
        }
        for number in served {
            let Some(mut trip) = self.benches[bench].trips[number].take() else { continue };
            let step = trip.flight.on_sync(res);
            self.follow(bench, number, trip, step);
        }
    }

    /// What is in flight does not wait for the ring thread.
    fn go_on(&mut self) {
        for _ in 0..self.rng.index(3) {
            self.tick(None);
        }
    }

    /// Seeded bug m22: a sync also serves flights on the file whose writes were not seen to be complete.
    fn serve_unseen(&mut self, bench: usize, inode: u64) {
        for trip in self.benches[bench].trips.iter_mut().flatten() {
            let unseen = matches!(trip.stage, Stage::Writing { .. } | Stage::Unseen { .. });
            if unseen && trip.inode == inode && trip.write.method == Method::WriteThenFdatasync {
                let _ = trip.flight.on_sync(0);
            }
        }
    }
}
