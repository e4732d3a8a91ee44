//! Counts what is allocated: the promise is that no input makes the library allocate from an unchecked length.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counted for each thread.
#[derive(Debug)]
pub struct Gauge;

#[global_allocator]
static GAUGE: Gauge = Gauge;

/// What some work allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// The most that was held at once, in bytes.
    pub peak: usize,
    /// The largest single allocation, in bytes.
    pub largest: usize,
}

impl Use {
    /// The greater of either.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { peak: self.peak.max(other.peak), largest: self.largest.max(other.largest) }
    }
}

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static MET: Cell<Use> = const { Cell::new(Use { peak: 0, largest: 0 }) };
}

fn grow(bytes: usize) {
    let live = LIVE.get().wrapping_add(bytes);
    LIVE.set(live);
    let met = MET.get();
    // What another thread allocated and this one freed may have taken it below zero.
    let peak = if live > usize::MAX / 2 { 0 } else { live };
    MET.set(met.max(Use { peak, largest: bytes }));
}

fn shrink(bytes: usize) {
    LIVE.set(LIVE.get().wrapping_sub(bytes));
}

// SAFETY: every call goes to the system's allocator as it came; counting touches thread-locals without a destructor and
// allocates nothing.
unsafe impl GlobalAlloc for Gauge {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promises are the ones that `System` asks for; so below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        shrink(layout.size());
        grow(size);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// Does some work; tells what it allocated on this thread, beyond what was held before.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Use) {
    let before = LIVE.get();
    MET.set(Use { peak: before, largest: 0 });
    let done = work();
    let met = MET.get();
    (done, Use { peak: met.peak.saturating_sub(before), largest: met.largest })
}
