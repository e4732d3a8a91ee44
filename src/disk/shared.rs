//! A buffer that many fill at once: [`SharedBuffer`].
//!
//! Its owner hands out ranges from the front to the back, each once: a slice to fill at once, or a [`Claim`] to fill
//! later and on another thread. It gets the [`Buffer`] back when every claim is committed.
//!
//! ## Why no byte is read before it is written
//!
//! One atomic holds twice the number of claims that are not committed, and in its lowest bit whether somebody waits for
//! the last. A claim is counted by the owner of the buffer, who alone makes claims. A committer fills its range, then
//! subtracts (release); `finish` sets the bit and reads the number in one step (acquire). So either it sees that all are
//! committed, and with that all their bytes; or the last committer sees the bit, and tells whoever waits.

use std::ptr::NonNull;

use super::Buffer;
use crate::seeded;
use crate::sync::{Arc, AtomicU64, Ordering};

/// Somebody waits for the last claim.
const AWAITED: u64 = 1;
/// A claim that is not committed.
const CLAIM: u64 = 2;

/// What those who fill a buffer share. Used again with the next buffer, so that none is allocated in the steady state.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    state: AtomicU64,
    /// The wrapping sum of what the committers said.
    sum: AtomicU64,
}

/// A buffer with one owner, who hands out disjoint ranges of it.
#[derive(Debug)]
pub(crate) struct SharedBuffer {
    /// None only while it is dropped or finished.
    buffer: Option<Buffer>,
    /// Everything before was handed out.
    used: usize,
    claims: Arc<Claims>,
}

/// A range of a [`SharedBuffer`] that belongs to one thread until it is committed.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Of a buffer that is not freed, moved or read before this is committed.
    at: NonNull<u8>,
    len: usize,
    claims: Arc<Claims>,
}

impl SharedBuffer {
    /// Nothing of `buffer` before `used` will be handed out. `claims` come from a buffer that is finished, or are new.
    pub(crate) fn new(buffer: Buffer, used: usize, claims: Arc<Claims>) -> Self {
        // Whoever still holds them has committed, and does not look again.
        claims.state.store(0, Ordering::Relaxed);
        claims.sum.store(0, Ordering::Relaxed);
        Self { buffer: Some(buffer), used, claims }
    }

    /// The range from `at` of `len` bytes, to be filled before anything else is asked of this.
    ///
    /// # Panics
    /// If it overlaps what was handed out before, or is not within the buffer.
    #[expect(unsafe_code, reason = "a view of a part of the buffer, beside claims of other parts")]
    pub(crate) fn slice(&mut self, at: usize, len: usize) -> &mut [u8] {
        let start = self.hand_out(at, len);
        // SAFETY: `hand_out` saw that the range lies in the buffer and was never handed out, so no claim overlaps it; it
        // is initialised as all of a buffer; `&mut self` keeps it from being finished or handed out again meanwhile.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// As [`SharedBuffer::slice`], to be filled later.
    ///
    /// # Panics
    /// As [`SharedBuffer::slice`].
    pub(crate) fn claim(&mut self, at: usize, len: usize) -> Claim {
        let start = self.hand_out(at, len);
        // Whoever finishes the buffer got it from here, by a lock or as the same thread: it sees the count.
        self.claims.state.fetch_add(CLAIM, Ordering::Relaxed);
        Claim { at: start, len, claims: self.claims.clone() }
    }

    /// The buffer, and the sum of what the committers said. As long as a claim is not committed it is given back as it
    /// is, and the last committer will be told that somebody waits.
    pub(crate) fn finish(mut self) -> Result<(Buffer, u64, Arc<Claims>), Self> {
        let claims = self.claims.clone();
        let order = if seeded::is("stage-finish-relaxed") { Ordering::Relaxed } else { Ordering::AcqRel };
        let unfinished = claims.state.load(Ordering::Acquire) > AWAITED
            && if seeded::is("stage-no-recheck") {
                claims.state.fetch_or(0, order) > AWAITED
            } else {
                claims.state.fetch_or(AWAITED, order) > AWAITED
            };
        if unfinished && !seeded::is("stage-take-uncommitted") {
            return Err(self);
        }
        match self.buffer.take() {
            Some(buffer) => Ok((buffer, claims.sum.load(Ordering::Relaxed), claims)),
            None => Err(self),
        }
    }

    fn hand_out(&mut self, at: usize, len: usize) -> NonNull<u8> {
        let buffer = self.buffer.as_mut().expect("only `finish` takes it");
        let end = at.checked_add(len).expect("a range is within a buffer");
        assert!(at >= self.used && end <= buffer.len(), "{at}..{end} of {} was handed out or is outside", buffer.len());
        self.used = end;
        buffer.at(at)
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        // Never so in practice: who holds a claim holds on to the stage. If it were, a leak is all that may come of it.
        if self.claims.state.load(Ordering::Acquire) > AWAITED {
            std::mem::forget(self.buffer.take());
        }
    }
}

impl Claim {
    /// The range.
    #[expect(unsafe_code, reason = "a view of a part of the buffer, beside claims of other parts")]
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the buffer lives until this is committed (`SharedBuffer` gives it up only then, and leaks it rather
        // than free it), the range was handed out to this claim alone, and `&mut self` makes the view exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }

    /// The range is filled; `term` goes into the sum. True if it was the last and somebody waits for it.
    #[must_use]
    pub(crate) fn commit(self, term: u64) -> bool {
        self.claims.sum.fetch_add(term, Ordering::Relaxed);
        let order = if seeded::is("stage-commit-relaxed") { Ordering::Relaxed } else { Ordering::AcqRel };
        self.claims.state.fetch_sub(CLAIM, order) == CLAIM | AWAITED && !seeded::is("stage-commit-silent")
    }
}
