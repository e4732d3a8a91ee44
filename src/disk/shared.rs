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
    /// None only while it is dropped or finished. Nothing reads it, nor makes a slice of it, before it is finished: that
    /// would be a view of bytes which those with claims are writing.
    buffer: Option<Buffer>,
    /// Its length in bytes, asked before the first claim.
    len: usize,
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
        Self { len: buffer.len(), buffer: Some(buffer), used, claims }
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
        let len = self.len;
        assert!(at >= self.used && end <= len, "{at}..{end} of {len} was handed out or is outside");
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

#[cfg(all(test, not(ringwal_loom)))]
mod tests {
    use super::*;

    fn shared() -> SharedBuffer {
        SharedBuffer::new(Buffer::new(4096), 64, Arc::default())
    }

    #[test]
    fn the_buffer_comes_back_when_every_claim_is_committed() {
        let mut shared = shared();
        let mut first = shared.claim(64, 100);
        shared.slice(164, 10).fill(2);
        let mut last = shared.claim(174, 100);
        last.bytes().fill(3);
        assert!(!last.commit(u64::MAX), "nobody waits yet");
        let shared = shared.finish().unwrap_err();
        first.bytes().fill(1);
        assert!(first.commit(3), "the last, and it is waited for");
        let (buffer, sum, claims) = shared.finish().unwrap();
        assert_eq!(sum, 2);
        assert!(buffer[64..164].iter().all(|byte| *byte == 1) && buffer[174..274].iter().all(|byte| *byte == 3));
        assert_eq!(buffer[164..174], [2; 10]);
        let (_, sum, _) = SharedBuffer::new(buffer, 0, claims).finish().unwrap();
        assert_eq!(sum, 0, "claims begin anew");
    }

    #[test]
    #[should_panic(expected = "handed out")]
    fn a_range_is_handed_out_once() {
        let mut shared = shared();
        shared.slice(64, 100);
        shared.claim(163, 1);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_range_lies_in_the_buffer() {
        shared().claim(4090, 7);
    }
}

#[cfg(all(test, ringwal_loom))]
#[expect(unsafe_code, reason = "the model's cells are opened by hand")]
mod loom_model {
    use loom::cell::UnsafeCell;

    use super::*;
    use crate::disk::Notify;
    #[cfg(ringwal_seeded_bugs)]
    use crate::sync::catches;
    use crate::sync::{Mutex, lock, model};

    /// Two claim and fill a part each, as long as the buffer is to be had; the owner takes it at any moment, and finishes
    /// it as soon as it is told. The cells stand for the bytes, so that loom sees who may read them.
    fn what_is_finished_is_whole(bug: Option<&'static str>) {
        model(bug, 3, || {
            let shared = SharedBuffer::new(Buffer::new(4096), 0, Arc::default());
            let shared = Arc::new(Mutex::new((Some(shared), 0)));
            let bytes = Arc::new([UnsafeCell::new(0u8), UnsafeCell::new(0u8)]);
            let notify = Arc::new(Notify::new().unwrap());
            let fill =
                |(shared, bytes, notify): (Arc<Mutex<(Option<SharedBuffer>, usize)>>, Arc<[_; 2]>, Arc<Notify>)| {
                    let mut open = lock(&shared);
                    let (Some(buffer), at) = &mut *open else { return };
                    let (mut claim, mine) = (buffer.claim(*at, 1), *at);
                    *at += 1;
                    drop(open);
                    claim.bytes().fill(7);
                    let cell: &UnsafeCell<u8> = &bytes[mine];
                    // SAFETY: the range is the claim's alone: this is what loom checks.
                    cell.with_mut(|byte| unsafe { *byte = 7 });
                    if claim.commit(10) {
                        notify.wake();
                    }
                };
            let threads = [0, 1].map(|_| {
                let its = (shared.clone(), bytes.clone(), notify.clone());
                loom::thread::spawn(move || fill(its))
            });
            let (taken, claims) = {
                let mut open = lock(&shared);
                (open.0.take(), open.1)
            };
            let finished = taken.expect("nobody else takes it").finish().or_else(|shared| {
                notify.park(None);
                shared.finish()
            });
            let (buffer, sum, _) = finished.expect("told by the last");
            assert_eq!(sum, 10 * claims as u64);
            for at in 0..claims {
                // SAFETY: as above.
                assert_eq!((buffer[at], bytes[at].with(|byte| unsafe { *byte })), (7, 7));
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    #[test]
    fn loom_what_is_finished_is_whole() {
        what_is_finished_is_whole(None);
    }

    #[cfg(ringwal_seeded_bugs)]
    #[test]
    fn loom_catches_careless_claims() {
        let bugs = ["stage-commit-relaxed", "stage-finish-relaxed", "stage-no-recheck", "stage-commit-silent"];
        for bug in bugs.into_iter().chain(["stage-take-uncommitted"]) {
            assert!(catches(bug, what_is_finished_is_whole), "{bug}");
        }
    }
}
