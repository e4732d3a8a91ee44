//! Batches on their way from the appenders to the disk, and who waits for each of them. All of it under the stage's lock.
//!
//! A waiter's waker lies with the batch that holds its record: waking those whom a flush served is handing over a list,
//! whatever else waits. The lists, like the buffers, are used again.

use std::collections::VecDeque;
use std::task::Waker;

use super::sync::Arc;
use crate::disk::Buffer;
use crate::disk::shared::{Claims, SharedBuffer};
use crate::journal::{Batcher, Placing, Shape, Space, Staged};
use crate::lsn::Lsn;
use crate::seeded;

/// So many lists of wakers are kept for the next batches: what the pipeline holds in the steady state.
const SPARE_MAX: usize = 8;

/// A batch that is being filled.
#[derive(Debug)]
struct Filling {
    bytes: SharedBuffer,
    waiters: Vec<Waker>,
}

/// The open batch, those behind it on the way, and their waiters.
#[derive(Debug)]
pub(super) struct Batches {
    batcher: Batcher,
    /// The batcher knows its shape.
    open: Option<Filling>,
    /// Closed to further records and not yet taken, oldest first. Copies into them may be under way.
    closed: VecDeque<(Shape, Filling)>,
    /// Taken, not yet durable: the last LSN of each, and who waits for it, oldest first.
    flying: VecDeque<(Lsn, Vec<Waker>)>,
    /// Records staged and not yet taken.
    records: u32,
    spare_waiters: Vec<Vec<Waker>>,
    spare_claims: Vec<Arc<Claims>>,
}

impl Batches {
    pub(super) fn new(batcher: Batcher) -> Self {
        Self {
            batcher,
            open: None,
            closed: VecDeque::new(),
            flying: VecDeque::new(),
            records: 0,
            spare_waiters: Vec::new(),
            spare_claims: Vec::new(),
        }
    }

    /// Goes on in another epoch, with nothing staged. Everything flying has landed.
    pub(super) fn renew(&mut self, batcher: Batcher) {
        self.batcher = batcher;
    }

    /// What is staged.
    pub(super) fn staged(&self) -> Staged {
        match (self.closed.is_empty(), self.open.is_some()) {
            (false, _) => Staged::Closed,
            (true, true) => Staged::Open,
            (true, false) => Staged::Nothing,
        }
    }

    /// How many records are staged and not yet taken.
    pub(super) fn records(&self) -> u32 {
        self.records
    }

    /// The last LSN that was handed out.
    pub(super) fn appended(&self) -> Lsn {
        self.batcher.next_lsn().prev()
    }

    /// Where `records_bytes` bytes of records go.
    pub(super) fn placing(&self, records_bytes: usize) -> Placing {
        self.batcher.placing(records_bytes)
    }

    /// Closes the open batch and begins the next one in `buffer`. Returns where its first record goes.
    pub(super) fn begin(&mut self, buffer: Buffer, records_bytes: usize, rotates: bool) -> usize {
        if let (Some(shape), Some(full)) = (self.batcher.close(), self.open.take()) {
            self.closed.push_back((shape, full));
        }
        let at = self.batcher.begin(buffer.len(), records_bytes, rotates);
        let bytes = SharedBuffer::new(buffer, at, self.spare_claims.pop().unwrap_or_default());
        self.open = Some(Filling { bytes, waiters: self.spare_waiters.pop().unwrap_or_default() });
        at
    }

    /// Counts records into the open batch: the first one's LSN, and the buffer to write them into.
    pub(super) fn add(&mut self, count: u32, records_bytes: usize, waiter: Option<Waker>) -> (Lsn, &mut SharedBuffer) {
        let open = self.open.as_mut().expect("a place was found in the open batch");
        open.waiters.extend(waiter);
        self.records += count;
        (self.batcher.add(count, records_bytes), &mut open.bytes)
    }

    /// Adds to the open batch's digest.
    pub(super) fn mix(&mut self, terms: u64) {
        self.batcher.mix(terms);
    }

    /// The next batch, its buffer not yet headed or padded, if all of it is copied; otherwise the last to commit will be
    /// told that it is waited for. It is closed in any case, so that nobody joins who would be waited for too.
    pub(super) fn take(&mut self) -> Option<(Shape, Buffer)> {
        let (mut shape, Filling { bytes, waiters }) = match self.closed.pop_front() {
            Some(batch) => batch,
            None => {
                let open = self.open.take()?;
                (self.batcher.close()?, open)
            }
        };
        match bytes.finish() {
            Ok((buffer, terms, claims)) => {
                shape.digest = shape.digest.wrapping_add(terms);
                self.records -= shape.count;
                self.spare_claims.push(claims);
                self.flying.push_back((shape.last(), waiters));
                Some((shape, buffer))
            }
            Err(bytes) => {
                self.closed.push_front((shape, Filling { bytes, waiters }));
                None
            }
        }
    }

    /// Places a batch of no records (a seal). None if it would need a segment that is not to be had.
    pub(super) fn place_empty(&mut self) -> Option<Shape> {
        self.batcher.place_empty()
    }

    /// Everything up to `lsn` is durable: moves the wakers of those who waited for it to `woken`.
    pub(super) fn publish(&mut self, lsn: Lsn, woken: &mut Vec<Waker>) {
        while self.flying.front().is_some_and(|(last, _)| *last <= lsn) {
            let Some((_, mut waiters)) = self.flying.pop_front() else { return };
            if woken.is_empty() {
                std::mem::swap(woken, &mut waiters);
            } else {
                woken.append(&mut waiters);
            }
            if self.spare_waiters.len() < SPARE_MAX {
                self.spare_waiters.push(waiters);
            }
        }
    }

    /// The log ended: moves everybody's waker to `woken`.
    pub(super) fn finish(&mut self, woken: &mut Vec<Waker>) {
        let flying = self.flying.iter_mut().map(|(_, waiters)| waiters);
        let closed = self.closed.iter_mut().map(|(_, filling)| &mut filling.waiters);
        let open = self.open.iter_mut().map(|filling| &mut filling.waiters);
        let open = open.filter(|_| !seeded::is("stage-end-untold"));
        flying.chain(closed).chain(open).for_each(|waiters| woken.append(waiters));
    }

    /// Takes a newly prepared segment.
    pub(super) fn add_ready(&mut self, space: Space) {
        self.batcher.add_ready(space);
    }

    /// The length in blocks of the segment that should be prepared next, if one should.
    pub(super) fn segment_wanted(&self) -> Option<u32> {
        self.batcher.segment_wanted()
    }

    /// Whether there is a ready segment to go on in.
    pub(super) fn can_rotate(&self) -> bool {
        self.batcher.can_rotate()
    }

    /// How much of the current segment is used up, in thousandths.
    pub(super) fn used_permille(&self) -> u32 {
        self.batcher.used_permille()
    }
}
