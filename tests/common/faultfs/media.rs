//! What the disk with faults holds: files and names, each as it is seen now and as a power cut would leave it.
//!
//! Until a flush succeeds, each 512-byte sector of a write is old or new after a power cut, and so is a file's length.
//! A flush that fails drops what it covered: the bytes are still read back, as from a page cache, but no later flush
//! makes them durable; only writing them anew does. A change of a name is durable with the next sync of the directory;
//! before that a cut keeps the first so many changes (a journalled file system) or any of them (one that orders nothing).

use std::collections::{BTreeMap, BTreeSet};

use crate::common::rig::Rng;

/// What a power cut keeps or loses as a whole.
pub(crate) const SECTOR: usize = 512;

/// A file's bytes.
#[derive(Clone, Debug, Default)]
struct File {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last flush.
    unflushed: BTreeSet<usize>,
    /// Sectors that a failed flush covered.
    dropped: BTreeSet<usize>,
}

/// The sectors of `len` bytes at `offset`.
fn sectors(offset: usize, len: usize) -> std::ops::Range<usize> {
    offset / SECTOR..(offset + len).div_ceil(SECTOR)
}

/// Copies one sector as far as both have it.
fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let end = ((sector + 1) * SECTOR).min(from.len()).min(to.len());
    if let (Some(from), Some(to)) = (from.get(sector * SECTOR..end), to.get_mut(sector * SECTOR..end)) {
        to.copy_from_slice(from);
    }
}

impl File {
    fn whole(bytes: Vec<u8>) -> Self {
        Self { now: bytes.clone(), durable: bytes, ..Self::default() }
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(data);
        for sector in sectors(offset, data.len()) {
            self.unflushed.insert(sector);
            self.dropped.remove(&sector);
        }
    }

    fn make_durable(&mut self, sectors: impl IntoIterator<Item = usize>) {
        if self.durable.len() != self.now.len() {
            self.durable.resize(self.now.len(), 0);
        }
        for sector in sectors {
            if !self.dropped.contains(&sector) {
                copy_sector(&self.now, &mut self.durable, sector);
            }
        }
    }

    fn after_cut(&self, rng: &mut Rng) -> Self {
        let mut left = self.durable.clone();
        if left.len() != self.now.len() && rng.one_in(2) {
            left.resize(self.now.len(), 0);
        }
        // As often as not all of a file shares one fate: a cut that tears everything leaves little to recover.
        let fate = rng.below(4);
        for sector in self.unflushed.union(&self.dropped) {
            if fate == 0 || fate > 1 && rng.one_in(2) {
                copy_sector(&self.now, &mut left, *sector);
            }
        }
        Self::whole(left)
    }
}

/// A change of the directory.
#[derive(Clone, Debug)]
enum Change {
    Create { name: String, file: u64 },
    Rename { from: String, to: String, file: u64 },
    Remove { name: String, file: u64 },
}

type Entries = BTreeMap<String, u64>;

/// Replays one change on entries that may lack the changes before it.
fn replay(entries: &mut Entries, change: &Change) {
    // A name goes only if it leads where the change believed.
    let mut drop_name = |name: &String, file: &u64| {
        if entries.get(name) == Some(file) {
            entries.remove(name);
        }
    };
    match change {
        Change::Remove { name, file } => drop_name(name, file),
        Change::Rename { from, to, file } => {
            drop_name(from, file);
            entries.insert(to.clone(), *file);
        }
        Change::Create { name, file } => {
            entries.insert(name.clone(), *file);
        }
    }
}

/// One flat directory of files. Files are numbered; a number is never used twice, so that a descriptor from before a
/// power cut leads nowhere behind it.
#[derive(Clone, Debug)]
pub(crate) struct Media {
    files: BTreeMap<u64, File>,
    names: Entries,
    durable_names: Entries,
    unsynced: Vec<Change>,
    next: u64,
}

impl Media {
    /// An empty directory; its files are numbered from `first`.
    pub(crate) fn new(first: u64) -> Self {
        let (names, durable_names) = (Entries::new(), Entries::new());
        Self { files: BTreeMap::new(), names, durable_names, unsynced: Vec::new(), next: first }
    }

    pub(crate) fn find(&self, name: &str) -> Option<u64> {
        self.names.get(name).copied()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, u64)> {
        self.names.iter().map(|(name, file)| (name.as_str(), *file))
    }

    /// The name of a file, if it has one.
    pub(crate) fn name_of(&self, file: u64) -> Option<&str> {
        self.names.iter().find(|(_, found)| **found == file).map(|(name, _)| name.as_str())
    }

    pub(crate) fn len(&self, file: u64) -> Option<usize> {
        self.files.get(&file).map(|file| file.now.len())
    }

    pub(crate) fn bytes(&self, file: u64) -> Option<&[u8]> {
        self.files.get(&file).map(|file| file.now.as_slice())
    }

    pub(crate) fn create(&mut self, name: &str) -> u64 {
        let file = self.next;
        self.next += 1;
        self.files.insert(file, File::default());
        self.names.insert(name.to_owned(), file);
        self.unsynced.push(Change::Create { name: name.to_owned(), file });
        file
    }

    /// Renames a name that exists; false if it does not.
    pub(crate) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(file) = self.names.remove(from) else { return false };
        self.names.insert(to.to_owned(), file);
        self.unsynced.push(Change::Rename { from: from.to_owned(), to: to.to_owned(), file });
        true
    }

    /// Removes a name; the file stays as long as somebody may have it open.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let Some(file) = self.names.remove(name) else { return false };
        self.unsynced.push(Change::Remove { name: name.to_owned(), file });
        true
    }

    pub(crate) fn sync_names(&mut self) {
        self.unsynced.clear();
        self.durable_names = self.names.clone();
    }

    pub(crate) fn write(&mut self, file: u64, offset: usize, data: &[u8]) {
        if let Some(file) = self.files.get_mut(&file) {
            file.write(offset, data);
        }
    }

    pub(crate) fn resize(&mut self, file: u64, len: usize) {
        if let Some(file) = self.files.get_mut(&file) {
            file.now.resize(len, 0);
        }
    }

    pub(crate) fn flush(&mut self, file: u64) {
        if let Some(file) = self.files.get_mut(&file) {
            let unflushed = std::mem::take(&mut file.unflushed);
            file.make_durable(unflushed);
        }
    }

    /// Makes durable what one write brought, and nothing else.
    pub(crate) fn flush_range(&mut self, file: u64, offset: usize, len: usize) {
        if let Some(file) = self.files.get_mut(&file) {
            let touched = sectors(offset, len);
            file.unflushed.retain(|sector| !touched.contains(sector));
            file.make_durable(touched);
        }
    }

    /// A flush failed, and with it goes all that it covered.
    pub(crate) fn drop_unflushed(&mut self, file: u64) {
        if let Some(file) = self.files.get_mut(&file) {
            let unflushed = std::mem::take(&mut file.unflushed);
            file.dropped.extend(unflushed);
        }
    }

    /// A write that carried its own flush lost it, and so what it brought.
    pub(crate) fn drop_range(&mut self, file: u64, offset: usize, len: usize) {
        if let Some(file) = self.files.get_mut(&file) {
            for sector in sectors(offset, len) {
                file.unflushed.remove(&sector);
                file.dropped.insert(sector);
            }
        }
    }

    /// The same disk, formatted.
    pub(crate) fn emptied(&self) -> Self {
        Self::new(self.next)
    }

    /// What is left once the power is back.
    pub(crate) fn after_cut(&self, rng: &mut Rng) -> Self {
        let mut names = self.durable_names.clone();
        let kept_first = rng.one_in(2).then(|| rng.below(self.unsynced.len() as u64 + 1));
        for (at, change) in self.unsynced.iter().enumerate() {
            if kept_first.map_or_else(|| rng.one_in(2), |first| (at as u64) < first) {
                replay(&mut names, change);
            }
        }
        let mut left = Self::new(self.next);
        for (name, file) in names {
            let file = self.files[&file].after_cut(rng);
            left.names.insert(name, left.next);
            left.files.insert(left.next, file);
            left.next += 1;
        }
        left.durable_names = left.names.clone();
        left
    }
}
