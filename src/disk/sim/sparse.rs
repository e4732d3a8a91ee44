//! Bytes of a simulated file, in shared pages, with nothing stored for zeros: most of a prepared segment is zeros, and
//! a simulation lives thousands of short lives a second.

use std::sync::Arc;

use super::rng::{mix, mix_bytes};

const PAGE: usize = 4096;

/// A file's bytes. Cloning shares the pages.
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    len: usize,
    /// `None`: zeros. Bytes behind `len` are zero.
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
}

/// Whether there is nothing but zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Two steps, so that the long one is vectorised.
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |seen, byte| seen | byte) == 0)
}

/// The pieces of `start..start + len` by page: (page, offset in the page, offset in the range, length).
fn pieces(start: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (page, within) = ((start + at) / PAGE, (start + at) % PAGE);
        let piece = (PAGE - within).min(len - at);
        let from = at;
        at += piece;
        (piece > 0).then_some((page, within, from, piece))
    })
}

impl Sparse {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut sparse = Self::default();
        sparse.write(0, bytes);
        sparse
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Makes it at least `len` long, with zeros.
    pub(super) fn grow(&mut self, len: usize) {
        if len > self.len {
            self.len = len;
            self.pages.resize(len.div_ceil(PAGE), None);
        }
    }

    /// Makes it at most `len` long.
    pub(super) fn cut(&mut self, len: usize) {
        if len < self.len {
            let tail = len.next_multiple_of(PAGE).min(self.len) - len;
            self.zero(len, tail);
            self.len = len;
            self.pages.truncate(len.div_ceil(PAGE));
        }
    }

    /// Writes `bytes` at `start`, growing as needed.
    pub(super) fn write(&mut self, start: usize, bytes: &[u8]) {
        self.grow(start + bytes.len());
        for (page, within, from, len) in pieces(start, bytes.len()) {
            let (page, bytes) = (&mut self.pages[page], &bytes[from..from + len]);
            if is_zero(bytes) && (page.is_none() || len == PAGE) {
                *page = None;
                continue;
            }
            let page = page.get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within..within + len].copy_from_slice(bytes);
        }
    }

    /// Writes `len` zeros at `start`, growing as needed.
    pub(super) fn zero(&mut self, start: usize, len: usize) {
        self.grow(start + len);
        for (page, within, _, len) in pieces(start, len) {
            match &mut self.pages[page] {
                page if len == PAGE => *page = None,
                Some(page) => Arc::make_mut(page)[within..within + len].fill(0),
                None => {}
            }
        }
    }

    /// Fills `buf` from `start`; both must lie within the length.
    pub(super) fn read(&self, start: usize, buf: &mut [u8]) {
        for (page, within, from, len) in pieces(start, buf.len()) {
            let buf = &mut buf[from..from + len];
            match &self.pages[page] {
                Some(page) => buf.copy_from_slice(&page[within..within + len]),
                None => buf.fill(0),
            }
        }
    }

    /// All bytes.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes);
        bytes
    }

    /// The same for the same bytes, however they are stored.
    pub(super) fn hash(&self, hash: u64) -> u64 {
        let pages = self.pages.iter().enumerate();
        let stored =
            pages.filter_map(|(at, page)| page.as_ref().filter(|page| !is_zero(&page[..])).map(|page| (at, page)));
        stored.fold(mix(hash, self.len as u64), |hash, (at, page)| mix_bytes(mix(hash, at as u64), &page[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    #[test]
    fn it_behaves_like_a_vector_and_hashes_by_content() {
        let mut rng = Rng::new(1);
        let (mut sparse, mut plain) = (Sparse::default(), Vec::new());
        for _ in 0..3000 {
            let (start, len) = (rng.index(5 * PAGE), rng.index(2 * PAGE));
            let byte = if rng.one_in(3) { 0 } else { 7 };
            match rng.below(8) {
                0 => {
                    sparse.cut(start);
                    plain.truncate(start);
                }
                kind => {
                    plain.resize(plain.len().max(start + len), 0);
                    plain[start..start + len].fill(if kind == 1 { 0 } else { byte });
                    if kind == 1 { sparse.zero(start, len) } else { sparse.write(start, &vec![byte; len]) }
                }
            }
            assert!(sparse.to_vec() == plain && sparse.len() == plain.len());
            assert_eq!(sparse.hash(0), Sparse::new(&plain).hash(0));
        }
        let hash = sparse.hash(0);
        sparse.grow(sparse.len() + 1);
        assert_ne!(sparse.hash(0), hash, "the length counts");
    }
}
