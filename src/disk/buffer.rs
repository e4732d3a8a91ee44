//! Memory that the kernel reads: page-aligned [`Buffer`]s and the bounded pool they come from.
//!
//! A buffer has exactly one owner at any time: who fills it, the disk (from `submit` to `reap`), or the pool. The
//! kernel's view of it needs no lifetime in the types because the disk owns the buffer for as long as that view lasts.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// The alignment, and the granularity of sizes: what O_DIRECT asks for on every known device.
pub(crate) const BUFFER_ALIGN: usize = 4096;

/// A pool makes room for so many buffers at once; for more when they come, should its bound ever allow as many.
const ROOM_MAX: usize = 1024;

/// Page-aligned memory, zeroed when made (not when reused).
pub(crate) struct Buffer {
    ptr: NonNull<u8>,
    layout: Layout,
    fixed: Option<u16>,
}

#[expect(unsafe_code, reason = "a buffer owns its memory, as a Box does, and only its address is shared")]
// SAFETY: a Buffer is the only owner of its allocation, and bytes are Send.
unsafe impl Send for Buffer {}

#[expect(unsafe_code, reason = "page alignment needs the allocator's own interface")]
impl Buffer {
    /// A zeroed buffer of at least `bytes`, rounded up to whole pages and at least one.
    pub(crate) fn new(bytes: usize) -> Self {
        let size = round_up(bytes);
        let Ok(layout) = Layout::from_size_align(size, BUFFER_ALIGN) else {
            // Only sizes above isize::MAX get here; no allocator could serve them.
            handle_alloc_error(Layout::new::<u8>());
        };
        // SAFETY: the layout's size is not zero: `round_up` returns at least one page.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout) };
        Self { ptr, layout, fixed: None }
    }

    /// Where its byte `at` lies, for who hands out parts of it.
    ///
    /// # Panics
    /// If that is behind its end.
    pub(super) fn at(&mut self, at: usize) -> NonNull<u8> {
        assert!(at <= self.layout.size(), "behind the end");
        // SAFETY: within the allocation, or one byte behind it.
        unsafe { self.ptr.add(at) }
    }

    /// Its index among the ring's registered buffers, if it is one.
    pub(crate) fn fixed(&self) -> Option<u16> {
        self.fixed
    }

    /// Notes its index among the ring's registered buffers.
    pub(crate) fn set_fixed(&mut self, index: u16) {
        self.fixed = Some(index);
    }
}

#[expect(unsafe_code, reason = "the view of the owned memory")]
impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is an allocation of that size, all of it initialised (zeroed when made); the borrow of `self`
        // keeps it alive and keeps others from writing: the kernel only ever reads it.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.layout.size()) }
    }
}

#[expect(unsafe_code, reason = "the view of the owned memory")]
impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and the exclusive borrow of the only owner makes the view exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.layout.size()) }
    }
}

#[expect(unsafe_code, reason = "the counterpart of `alloc_zeroed`")]
impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from `alloc_zeroed` with this very layout and is freed once, here.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.len()).field("fixed", &self.fixed).finish()
    }
}

/// A bounded stock of buffers of one size, and one-off larger ones within the same bound.
///
/// What was put back last is taken first: its pages are warm. In the steady state nothing is allocated.
#[derive(Debug)]
pub(crate) struct BufferPool {
    buffer_bytes: usize,
    bytes_max: usize,
    in_use: usize,
    free: Vec<Buffer>,
}

impl BufferPool {
    /// An empty pool of buffers of `buffer_bytes` (rounded up to whole pages), `bytes_max` in all; they are made when
    /// first needed.
    pub(crate) fn new(buffer_bytes: usize, bytes_max: usize) -> Self {
        Self::with_buffers(buffer_bytes, bytes_max, Vec::new())
    }

    /// A pool that begins with `buffers`, made and registered elsewhere, each of `buffer_bytes`.
    pub(crate) fn with_buffers(buffer_bytes: usize, bytes_max: usize, mut buffers: Vec<Buffer>) -> Self {
        let buffer_bytes = round_up(buffer_bytes);
        debug_assert!(buffers.iter().all(|buffer| buffer.len() == buffer_bytes));
        // `take` hands out the last: begin with the lowest indices.
        buffers.reverse();
        let count_max = (bytes_max / buffer_bytes).clamp(1, ROOM_MAX);
        buffers.reserve_exact(count_max.saturating_sub(buffers.len()));
        Self { buffer_bytes, bytes_max, in_use: 0, free: buffers }
    }

    /// A buffer of at least `bytes`, its content left over; `None` if that would be over the bound. A single buffer,
    /// however large, is always granted while nothing else is in use.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<Buffer> {
        let size = if bytes <= self.buffer_bytes { self.buffer_bytes } else { round_up(bytes) };
        if self.in_use > 0 && self.in_use.saturating_add(size) > self.bytes_max {
            return None;
        }
        let buffer = if size == self.buffer_bytes { self.free.pop() } else { None };
        let buffer = buffer.unwrap_or_else(|| {
            self.trim(size);
            Buffer::new(size)
        });
        self.in_use += size;
        Some(buffer)
    }

    /// Takes a buffer back. An oversize one is freed.
    pub(crate) fn put(&mut self, buffer: Buffer) {
        debug_assert!(self.in_use >= buffer.len());
        self.in_use -= buffer.len().min(self.in_use);
        if buffer.len() == self.buffer_bytes {
            self.free.push(buffer);
        }
    }

    /// How many bytes may still be taken.
    pub(crate) fn left_bytes(&self) -> usize {
        self.bytes_max.saturating_sub(self.in_use)
    }

    /// How many bytes of buffers are taken and not yet put back.
    pub(crate) fn in_use_bytes(&self) -> usize {
        self.in_use
    }

    /// Frees idle buffers so that `size` more bytes keep all memory, idle included, under the bound. Registered ones
    /// stay: their pages are pinned, freeing them would free nothing.
    fn trim(&mut self, size: usize) {
        let room = self.bytes_max.saturating_sub(self.in_use).saturating_sub(size);
        let mut idle = self.free.len() * self.buffer_bytes;
        let bytes = self.buffer_bytes;
        self.free.retain(|buffer| {
            let keep = idle <= room || buffer.fixed().is_some();
            idle -= if keep { 0 } else { bytes };
            keep
        });
    }
}

/// `bytes` in whole pages, at least one.
fn round_up(bytes: usize) -> usize {
    bytes.max(1).checked_next_multiple_of(BUFFER_ALIGN).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_zeroed_and_rounded_up() {
        for (bytes, size) in [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192)] {
            let mut buffer = Buffer::new(bytes);
            assert_eq!((buffer.len(), buffer.as_ptr() as usize % BUFFER_ALIGN), (size, 0));
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
            assert_eq!(buffer.iter().map(|byte| usize::from(*byte)).sum::<usize>(), 7 * size);
        }
    }

    #[test]
    fn debug_shows_sizes_and_no_content() {
        let mut buffer = Buffer::new(4096);
        buffer.fill(b'x');
        assert_eq!(format!("{buffer:?}"), "Buffer { bytes: 4096, fixed: None }");
    }

    #[test]
    fn the_pool_reuses_what_was_put_back_last() {
        let mut pool = BufferPool::new(4096, 4 * 4096);
        let (Some(a), Some(b)) = (pool.take(1), pool.take(4096)) else { panic!("under the bound") };
        let (at_a, at_b) = (a.as_ptr(), b.as_ptr());
        pool.put(a);
        pool.put(b);
        assert_eq!(pool.take(1).map(|buffer| buffer.as_ptr()), Some(at_b));
        assert_eq!(pool.take(1).map(|buffer| buffer.as_ptr()), Some(at_a));
    }

    #[test]
    fn the_pool_keeps_its_bound_but_grants_a_single_large_one() {
        let mut pool = BufferPool::new(4096, 2 * 4096);
        let Some(large) = pool.take(100_000) else { panic!("nothing is in use") };
        assert_eq!((large.len(), pool.in_use_bytes()), (102_400, 102_400));
        assert!(pool.take(1).is_none());
        pool.put(large);
        assert_eq!(pool.in_use_bytes(), 0);
        let taken: Vec<_> = (0..2).map_while(|_| pool.take(1)).collect();
        assert_eq!(taken.len(), 2);
        assert!(pool.take(1).is_none());
        taken.into_iter().for_each(|buffer| pool.put(buffer));
        assert_eq!(pool.in_use_bytes(), 0);
    }

    #[test]
    fn idle_buffers_count_against_an_oversize_one_unless_registered() {
        let mut registered = Buffer::new(4096);
        registered.set_fixed(0);
        let mut pool = BufferPool::with_buffers(4096, 4 * 4096, vec![registered]);
        let taken: Vec<_> = (0..4).map_while(|_| pool.take(1)).collect();
        taken.into_iter().for_each(|buffer| pool.put(buffer));
        let large = pool.take(2 * 4096);
        assert!(large.is_some());
        assert!(pool.free.len() <= 2, "{} idle", pool.free.len());
        assert!(pool.free.iter().any(|buffer| buffer.fixed().is_some()));
    }

    #[test]
    fn no_bound_at_all_costs_nothing() {
        let mut pool = BufferPool::new(4096, usize::MAX);
        assert!(pool.free.capacity() <= ROOM_MAX);
        assert!(pool.take(1).is_some());
    }

    #[test]
    fn an_impossible_size_is_refused_by_the_bound() {
        let mut pool = BufferPool::new(4096, 2 * 4096);
        let small = pool.take(1);
        assert!(small.is_some() && pool.take(usize::MAX).is_none());
    }
}
