//! The simulated data plane: flights whose events happen one at a time, in an order that the seed draws.
//!
//! A flight is, in turn: a write in flight (one event may make it visible before the one that completes it), a write
//! complete whose sync is not issued, a sync issued that has not ended. What comes next is decided by [`Flight`], the
//! same state machine that the real disks use, from the same raw results. What the ring thread does by itself happens at
//! `kick` (`kick`), while the others' events go on.

use std::path::Path;
use std::sync::Arc;

use nix::libc::{EAGAIN, EBADF, ECANCELED, EINTR, EIO, EOPNOTSUPP};

use super::Dsync;
use super::media::{Inode, SECTOR};
use super::state::{State, What};
use crate::disk::flight::{Flight, Step};
use crate::disk::{Completion, Method, Write};
use crate::error::{IoFailure, Op};
use crate::seeded;

/// Where a flight stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// To be carried out at `kick`, and not begun.
    Queued,
    /// The write is in flight: its number (or why it has none and will fail), its length, and what goes with it.
    Writing { id: Result<u64, i32>, len: usize, with: With },
    /// A write with RWF_DSYNC is complete; its flush covers what had completed before this moment.
    Flushing { res: i32, issued_at: u64 },
    /// The write is complete, with this result, and `reap` has not seen it.
    Unseen { res: i32 },
    /// The write is complete; the sync is not issued.
    SyncDue,
    /// The sync covers what had completed before this moment.
    Syncing { issued_at: u64 },
}

/// What goes with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum With {
    Nothing,
    /// A sync linked behind it.
    Sync,
    /// RWF_DSYNC.
    Dsync,
}

#[derive(Debug)]
pub(super) struct Trip {
    pub(super) write: Write,
    pub(super) flight: Flight,
    pub(super) inode: u64,
    pub(super) path: Arc<Path>,
    pub(super) stage: Stage,
}

impl Trip {
    /// Whether something happens to it without the ring thread's doing.
    pub(super) fn has_event(&self) -> bool {
        match self.stage {
            Stage::Queued | Stage::Unseen { .. } => false,
            Stage::SyncDue => self.write.method != Method::WriteThenFdatasync && !self.is_inline(),
            Stage::Writing { .. } | Stage::Flushing { .. } | Stage::Syncing { .. } => !self.is_inline(),
        }
    }

    pub(super) fn is_inline(&self) -> bool {
        self.write.method == Method::Syscalls
    }

    /// Whether its write is complete.
    fn is_written(&self) -> bool {
        !matches!(self.stage, Stage::Queued | Stage::Writing { .. })
    }
}

/// One disk's share of the state: its table of files, its flights, and what it may reap.
#[derive(Debug, Default)]
pub(super) struct Bench {
    pub(super) files: Vec<Option<(u64, Arc<Path>)>>,
    pub(super) trips: Vec<Option<Trip>>,
    free: Vec<usize>,
    pub(super) finished: Vec<Completion>,
}

impl Bench {
    pub(super) fn finish(&mut self, trip: Trip, result: Result<(), (Op, i32)>) {
        let Trip { write: Write { token, offset, buffer, method, .. }, flight, path, .. } = trip;
        let method = if flight.dsync_refused() { Method::LinkedFdatasync } else { method };
        let result = result.map_err(|(op, errno)| IoFailure::from_errno(op, path, offset, errno));
        self.finished.push(Completion { token, buffer, method, result });
    }

    /// Ends every flight with EIO: the machine is gone, and whoever waits must learn it.
    pub(super) fn fail_all(&mut self) {
        for at in 0..self.trips.len() {
            if let Some(trip) = self.trips[at].take() {
                self.finish(trip, Err((Op::Write, EIO)));
            }
        }
        self.trips.clear();
        self.free.clear();
    }

    pub(super) fn park(&mut self, trip: Trip) -> usize {
        if let Some(at) = self.free.pop() {
            self.trips[at] = Some(trip);
            return at;
        }
        self.trips.push(Some(trip));
        self.trips.len() - 1
    }

    pub(super) fn flying(&self) -> usize {
        self.trips.len() - self.free.len()
    }
}

impl State {
    /// Lets one event happen, of `bench` or of any; false if there is none.
    pub(super) fn tick(&mut self, bench: Option<usize>) -> bool {
        if self.ready.is_empty() || self.is_frozen() {
            return false;
        }
        let at = match bench {
            None => self.rng.index(self.ready.len()),
            Some(bench) => {
                let own = |(_, (of, _)): &(usize, &(usize, usize))| *of == bench;
                let count = self.ready.iter().enumerate().filter(own).count();
                if count == 0 {
                    return false;
                }
                let nth = self.rng.index(count);
                let Some((at, _)) = self.ready.iter().enumerate().filter(own).nth(nth) else { return false };
                at
            }
        };
        let (bench, number) = self.ready[at];
        if let Some(trip) = self.benches[bench].trips[number].take() {
            self.happen(bench, number, trip);
        }
        true
    }

    /// The next event of one flight, which is out of its place meanwhile.
    pub(super) fn happen(&mut self, bench: usize, number: usize, mut trip: Trip) {
        let step = match trip.stage {
            Stage::Queued | Stage::Unseen { .. } => Step::Wait,
            Stage::Writing { id, len, .. } => {
                self.step(What::WriteEvent, trip.inode, trip.write.token);
                if id.is_ok_and(|id| self.lands_early(trip.inode, id)) {
                    Step::Wait
                } else {
                    let res = id.map_or_else(|errno| -errno, |id| self.end_write(trip.inode, id, len));
                    self.note(res.unsigned_abs().into(), trip.write.token);
                    self.written(bench, &mut trip, res)
                }
            }
            Stage::Flushing { res, issued_at } => {
                self.step(What::SyncEnded, trip.inode, trip.write.token);
                let failed = self.end_sync(trip.inode, issued_at);
                trip.flight.on_write(if failed < 0 { failed } else { res })
            }
            Stage::SyncDue => {
                self.step(What::SyncIssued, trip.inode, trip.write.token);
                if !trip.is_inline() && self.rng.chance(self.faults.sync_canceled) {
                    self.stats.interrupted += 1;
                    trip.flight.on_sync(-ECANCELED)
                } else {
                    trip.stage = Stage::Syncing { issued_at: self.operations };
                    Step::Wait
                }
            }
            Stage::Syncing { issued_at } => {
                self.step(What::SyncEnded, trip.inode, trip.write.token);
                let res = self.end_sync(trip.inode, issued_at);
                if res == 0 && seeded::is("m17") {
                    self.finish_written(bench);
                }
                trip.flight.on_sync(res)
            }
        };
        self.follow(bench, number, trip, step);
    }

    /// A write of a flight ended with `res`: what the flight makes of it, or what comes first.
    fn written(&mut self, bench: usize, trip: &mut Trip, res: i32) -> Step {
        let Stage::Writing { id, len, with } = trip.stage else { return Step::Wait };
        trip.stage = Stage::SyncDue;
        match with {
            With::Dsync if res > 0 && self.options.dsync == Dsync::Flushed => {
                // At once, so that it covers as little as it may: also its own write, which is complete by now.
                trip.stage = Stage::Flushing { res, issued_at: self.operations + 1 };
                Step::Wait
            }
            With::Dsync if res > 0 => {
                let res = self.write_through(trip.inode, id, res);
                if res > 0 && seeded::is("m23") {
                    self.finish_written(bench);
                }
                trip.flight.on_write(res)
            }
            With::Nothing if trip.write.method == Method::WriteThenFdatasync => {
                trip.stage = Stage::Unseen { res };
                Step::Wait
            }
            With::Sync if usize::try_from(res) != Ok(len) => broken_pair(&mut trip.flight, res, self.rng.one_in(2)),
            With::Nothing | With::Sync | With::Dsync => trip.flight.on_write(res),
        }
    }

    /// A write with RWF_DSYNC on a device that writes through: durable by itself, or failed.
    fn write_through(&mut self, inode: u64, id: Result<u64, i32>, res: i32) -> i32 {
        let failed = self.rng.chance(self.faults.sync_error);
        let (Ok(id), Some(file)) = (id, self.media.inode_mut(inode)) else { return -EBADF };
        self.stats.syncs += 1;
        if !failed {
            file.harden_one(id);
            return res;
        }
        file.curse_one(id);
        self.stats.failed_syncs += 1;
        self.stats.cursed += 1;
        -EIO
    }

    /// Does what the flight says, and puts it back in its place unless it is over.
    pub(super) fn follow(&mut self, bench: usize, number: usize, mut trip: Trip, step: Step) {
        match step {
            Step::Wait => {}
            Step::Sync => trip.stage = Stage::SyncDue,
            Step::WriteRest { offset, len } => trip.stage = self.start(&mut trip, offset, len),
            Step::Done(result) => {
                self.note(u64::from(result.is_ok()), trip.write.token);
                self.ready.retain(|ready| *ready != (bench, number));
                let bench = &mut self.benches[bench];
                bench.free.push(number);
                bench.finish(trip, result);
                return;
            }
        }
        let (known, has_event) = (self.ready.contains(&(bench, number)), trip.has_event());
        match (known, has_event) {
            (true, false) => self.ready.retain(|ready| *ready != (bench, number)),
            (false, true) => self.ready.push((bench, number)),
            _ => {}
        }
        self.benches[bench].trips[number] = Some(trip);
    }

    /// Starts a write of `len` bytes from `offset` in the buffer.
    pub(super) fn start(&mut self, trip: &mut Trip, offset: usize, len: usize) -> Stage {
        let with = match trip.write.method {
            Method::DsyncWrite if trip.flight.carries_dsync() => With::Dsync,
            Method::LinkedFdatasync if trip.flight.link() => With::Sync,
            _ => With::Nothing,
        };
        let at = trip.write.offset.saturating_add(offset as u64);
        self.stats.writes += 1;
        let refused = with == With::Dsync && self.options.dsync == Dsync::Refused;
        let room = if refused { Err(EOPNOTSUPP) } else { self.room(trip.inode, at.saturating_add(len as u64)) };
        let id = room.map(|()| {
            let place = usize::try_from(at).unwrap_or(usize::MAX);
            self.media.start(trip.inode, place, &trip.write.buffer[offset..offset + len])
        });
        Stage::Writing { id, len, with }
    }

    /// Makes an in-flight write visible now and then.
    fn lands_early(&mut self, inode: u64, id: u64) -> bool {
        let Some(inode) = self.media.inode_mut(inode) else { return false };
        if inode.has_landed(id) || !self.rng.one_in(4) {
            return false;
        }
        inode.land(id);
        true
    }

    /// A write ends: its result as in a CQE.
    fn end_write(&mut self, inode: u64, id: u64, len: usize) -> i32 {
        let now = self.operations;
        let Self { media, rng, faults, stats, options, .. } = self;
        let Some(file) = media.inode_mut(inode) else { return -EBADF };
        let landed = file.has_landed(id);
        let whole = i32::try_from(len).unwrap_or(i32::MAX);
        if rng.chance(faults.write_error) {
            stats.failed_writes += 1;
            file.fail(id, now, rng);
            return -EIO;
        }
        if !landed && rng.chance(faults.write_interrupted) {
            stats.interrupted += 1;
            file.cancel(id);
            return -[EINTR, EAGAIN, ECANCELED][rng.index(3)];
        }
        if !landed && rng.chance(faults.write_short) {
            stats.short += 1;
            let unit = if rng.one_in(2) { SECTOR } else { options.block_bytes as usize };
            let written = rng.index(len / unit) * unit;
            end_short(file, id, written, now);
            return i32::try_from(written).unwrap_or(whole);
        }
        file.complete(id, now);
        whole
    }

    /// Seeded bugs m17 and m23: one flight's success is taken for every write that is complete, whenever that was.
    fn finish_written(&mut self, bench: usize) {
        for number in 0..self.benches[bench].trips.len() {
            if let Some(trip) = self.benches[bench].trips[number].take_if(|trip| trip.is_written()) {
                self.follow(bench, number, trip, Step::Done(Ok(())));
            }
        }
    }
}

fn end_short(file: &mut Inode, id: u64, written: usize, now: u64) {
    if written == 0 {
        file.cancel(id);
    } else {
        file.complete_short(id, written, now);
    }
}

/// Tells the flight of a linked pair that its write was not whole, so that the sync was cancelled; both results may be
/// seen in either order.
fn broken_pair(flight: &mut Flight, res: i32, sync_first: bool) -> Step {
    if sync_first {
        let _ = flight.on_sync(-ECANCELED);
        return flight.on_write(res);
    }
    match flight.on_write(res) {
        Step::Wait => flight.on_sync(-ECANCELED),
        step => step,
    }
}

impl State {
    /// Ends a bench's flights without any of their events.
    pub(super) fn fail_bench(&mut self, bench: usize) {
        self.ready.retain(|(of, _)| *of != bench);
        self.benches[bench].fail_all();
    }
}
