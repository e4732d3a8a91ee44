//! What stands on a disk: pages that images share, so that one for each crash costs no more than what differs.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use nix::unistd::{Whence, lseek64};

use super::logwrites::Entry;

pub(crate) const PAGE: usize = 4096;

type Page = [u8; PAGE];

const ZEROS: Page = [0; PAGE];

/// A disk's content. Pages of zeros take no room.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pages: Vec<Option<Arc<Page>>>,
}

impl Image {
    /// A disk of zeros.
    pub(crate) fn empty(bytes: u64) -> Self {
        Self { pages: vec![None; usize::try_from(bytes).unwrap() / PAGE] }
    }

    /// Of a file, at most as long as it is now, whole pages.
    pub(crate) fn of(file: &File) -> Self {
        let mut image = Self::empty(file.metadata().unwrap().len());
        for_each_page(file, |number, page| image.set(number, page));
        image
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.pages.len() * PAGE) as u64
    }

    fn set(&mut self, number: usize, page: &Page) {
        self.pages[number] = (*page != ZEROS).then(|| Arc::new(*page));
    }

    pub(crate) fn apply(&mut self, entry: &Entry) {
        self.write(entry.offset, &entry.data);
    }

    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) {
        let (mut at, mut data) = (offset, data);
        while !data.is_empty() {
            let (number, within) = (at / PAGE, at % PAGE);
            let (piece, rest) = data.split_at(data.len().min(PAGE - within));
            let page = self.pages[number].get_or_insert_with(|| Arc::new(ZEROS));
            Arc::make_mut(page)[within..within + piece.len()].copy_from_slice(piece);
            (at, data) = (at + piece.len(), rest);
        }
    }

    pub(crate) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        let mut at = offset;
        while bytes.len() < len {
            let within = at % PAGE;
            let page = self.pages[at / PAGE].as_deref().unwrap_or(&ZEROS);
            let piece = &page[within..PAGE.min(within + len - bytes.len())];
            bytes.extend_from_slice(piece);
            at += piece.len();
        }
        bytes
    }

    /// Makes the file, which has the image's length, hold the image. Only pages that either has are looked at.
    pub(crate) fn put(&self, file: &File) {
        let mut held = vec![false; self.pages.len()];
        for_each_page(file, |number, page| {
            held[number] = true;
            let wanted = self.pages[number].as_deref().unwrap_or(&ZEROS);
            if wanted != page {
                file.write_all_at(wanted, (number * PAGE) as u64).unwrap();
            }
        });
        for (number, page) in self.pages.iter().enumerate().filter(|(number, _)| !held[*number]) {
            if let Some(page) = page {
                file.write_all_at(&page[..], (number * PAGE) as u64).unwrap();
            }
        }
    }
}

/// Every page of the file that is not in a hole.
fn for_each_page(file: &File, mut look: impl FnMut(usize, &Page)) {
    let mut buffer = vec![0; 64 * PAGE];
    let mut at: i64 = 0;
    while let Ok(start) = lseek64(file, at, Whence::SeekData) {
        let end = lseek64(file, start, Whence::SeekHole).unwrap();
        let (mut from, end) = (usize::try_from(start).unwrap(), usize::try_from(end).unwrap());
        while from < end {
            let piece = &mut buffer[..(end - from).min(64 * PAGE)];
            file.read_exact_at(piece, from as u64).unwrap();
            for (number, page) in piece.chunks_exact(PAGE).enumerate() {
                look(from / PAGE + number, page.try_into().unwrap());
            }
            from += piece.len();
        }
        at = i64::try_from(end).unwrap();
    }
}
