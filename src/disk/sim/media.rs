//! One simulated file's bytes: what is durable, what is visible, and the writes in between.
//!
//! `durable` survives a power cut. `cache` is what reads see: durable plus every *landed* pending write, in the order in
//! which they landed. A pending write is in flight until it *completes*; it may land before that. A flush hardens the
//! landed writes that had completed before the flush was **issued**, unless they are *cursed* (an earlier flush of them
//! failed: the kernel has marked their pages clean, so no later flush carries them). Hardening a sector supersedes every
//! older pending version of it. A power cut picks old or new (rarely garbage) for each 512-byte sector of each pending
//! write on its own, in flight or not.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::rng::Rng;
use super::sparse::{Sparse, is_zero};

/// What a device keeps or loses as one.
pub(super) const SECTOR: usize = 512;

/// A write that no flush has made durable.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) id: u64,
    offset: usize,
    /// `None`: zeros.
    bytes: Option<Arc<[u8]>>,
    /// How many of `bytes` count: a short write wrote only the first ones.
    len: usize,
    landed: bool,
    /// When it completed, on the simulator's clock.
    completed_at: Option<u64>,
    cursed: bool,
    /// A bit for each sector that no longer counts: superseded by a hardened one, or never written. Empty: none.
    dead: Vec<u64>,
}

impl Pending {
    pub(super) fn new(id: u64, offset: usize, bytes: &[u8]) -> Self {
        Self {
            id,
            offset,
            bytes: (!is_zero(bytes)).then(|| bytes.into()),
            len: bytes.len(),
            landed: false,
            completed_at: None,
            cursed: false,
            dead: Vec::new(),
        }
    }

    const fn end(&self) -> usize {
        self.offset + self.len
    }

    const fn sectors(&self) -> usize {
        self.len / SECTOR
    }

    fn is_dead(&self, sector: usize) -> bool {
        self.dead.get(sector / 64).is_some_and(|word| word >> (sector % 64) & 1 == 1)
    }

    fn bury(&mut self, sector: usize) {
        if self.dead.is_empty() {
            self.dead = vec![0; self.sectors().div_ceil(64)];
        }
        self.dead[sector / 64] |= 1 << (sector % 64);
    }

    fn is_all_dead(&self) -> bool {
        !self.dead.is_empty() && (0..self.sectors()).all(|sector| self.is_dead(sector))
    }

    /// The bytes of one sector of the write.
    fn sector(&self, sector: usize) -> &[u8] {
        self.bytes.as_ref().map_or(&[0; SECTOR], |bytes| &bytes[sector * SECTOR..(sector + 1) * SECTOR])
    }

    /// Buries the sectors that lie in `start..end` of the file.
    fn bury_range(&mut self, start: usize, end: usize) {
        if start >= self.end() || end <= self.offset {
            return;
        }
        for sector in (start.max(self.offset) - self.offset) / SECTOR..(end.min(self.end()) - self.offset) / SECTOR {
            self.bury(sector);
        }
    }

    /// Copies the living sectors into `to`, which grows as needed.
    fn copy_to(&self, to: &mut Sparse) {
        to.grow(self.end());
        match &self.bytes {
            _ if !self.dead.is_empty() => {
                for sector in (0..self.sectors()).filter(|sector| !self.is_dead(*sector)) {
                    to.write(self.offset + sector * SECTOR, self.sector(sector));
                }
            }
            Some(bytes) => to.write(self.offset, &bytes[..self.len]),
            None => to.zero(self.offset, self.len),
        }
    }
}

/// How one power cut treats what it finds; drawn once for each, so that kind and cruel ones both occur.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cruelty {
    /// Of a million sectors, how many arrived.
    arrived: u32,
    /// Of a million sectors that were being written, how many are garbage.
    garbage: u32,
    /// Whether no cursed write arrived at all.
    curses_lose: bool,
}

impl Cruelty {
    pub(super) fn draw(rng: &mut Rng, garbage: u32) -> Self {
        const ARRIVED: [u32; 5] = [0, 250_000, 500_000, 750_000, 1_000_000];
        Self {
            arrived: ARRIVED[rng.index(ARRIVED.len())],
            // Most cuts have none: one garbage sector decides a whole recovery, and hides what the others would do.
            garbage: if rng.one_in(4) { garbage } else { 0 },
            curses_lose: rng.one_in(2),
        }
    }
}

/// What a power cut did to one file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Toll {
    /// Writes of which some sectors arrived and some did not.
    pub(super) torn: u64,
    /// Writes of which nothing arrived.
    pub(super) lost: u64,
    /// Sectors that became garbage.
    pub(super) garbage: u64,
}

/// One file's bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    durable: Sparse,
    cache: Sparse,
    /// Landed ones first, in the order of landing; then those that have not landed.
    pending: Vec<Pending>,
    /// Sectors that cannot be read.
    pub(super) unreadable: BTreeSet<usize>,
    /// The length that is certain to survive: metadata, which only the file's own sync carries.
    synced_len: usize,
    /// The length by allocation; zeros, where nothing was written.
    allocated: usize,
}

impl Inode {
    /// A file whose bytes are all durable.
    pub(super) fn with_bytes(bytes: &[u8]) -> Self {
        let synced_len = bytes.len();
        let bytes = Sparse::new(bytes);
        Self { durable: bytes.clone(), cache: bytes, synced_len, ..Self::default() }
    }

    /// What reads see.
    pub(super) const fn visible(&self) -> &Sparse {
        &self.cache
    }

    /// What is certain to survive.
    pub(super) const fn durable(&self) -> &Sparse {
        &self.durable
    }

    /// The space it takes.
    pub(super) fn space(&self) -> u64 {
        self.cache.len() as u64
    }

    /// How many writes no flush has covered.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn hash(&self, hash: u64) -> u64 {
        self.cache.hash(hash)
    }

    /// Makes the file at least `len` long; durable with its next sync.
    pub(super) fn allocate(&mut self, len: usize) {
        self.cache.grow(len);
        self.allocated = self.allocated.max(len);
    }

    /// The file's own sync succeeded, behind [`Inode::harden`]: its length is durable.
    pub(super) fn harden_len(&mut self) {
        self.durable.grow(self.allocated);
        self.synced_len = self.synced_len.max(self.durable.len());
    }

    /// Takes a write that is now in flight.
    pub(super) fn start(&mut self, write: Pending) {
        self.pending.push(write);
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.pending.iter().position(|write| write.id == id)
    }

    /// Whether the write is visible.
    pub(super) fn has_landed(&self, id: u64) -> bool {
        self.position(id).is_some_and(|at| self.pending[at].landed)
    }

    /// Makes an in-flight write visible.
    pub(super) fn land(&mut self, id: u64) {
        let Some(at) = self.position(id) else { return };
        if self.pending[at].landed {
            return;
        }
        let mut write = self.pending.remove(at);
        write.landed = true;
        write.copy_to(&mut self.cache);
        if !self.unreadable.is_empty() {
            let (first, end) = (write.offset / SECTOR, write.end() / SECTOR);
            self.unreadable.retain(|sector| !(first..end).contains(sector));
        }
        let behind = self.pending.iter().take_while(|write| write.landed).count();
        self.pending.insert(behind, write);
    }

    /// Completes a write with all its bytes.
    pub(super) fn complete(&mut self, id: u64, now: u64) {
        self.land(id);
        if let Some(at) = self.position(id) {
            self.pending[at].completed_at = Some(now);
        }
    }

    /// Completes a write of which only the first `len` bytes were written. It must not have landed.
    pub(super) fn complete_short(&mut self, id: u64, len: usize, now: u64) {
        let Some(at) = self.position(id) else { return };
        debug_assert!(!self.pending[at].landed, "a write that is visible as a whole is not short");
        self.pending[at].len = len;
        self.complete(id, now);
    }

    /// Ends a write that failed: any of its sectors may have arrived, and half the time no flush carries them.
    pub(super) fn fail(&mut self, id: u64, now: u64, rng: &mut Rng) {
        let Some(at) = self.position(id) else { return };
        let write = &mut self.pending[at];
        write.cursed = rng.one_in(2);
        if !write.landed {
            match rng.below(3) {
                0 => (0..write.sectors()).for_each(|sector| write.bury(sector)),
                1 => {}
                _ => {
                    for sector in 0..write.sectors() {
                        if rng.one_in(2) {
                            write.bury(sector);
                        }
                    }
                }
            }
        }
        if write.is_all_dead() {
            self.pending.remove(at);
        } else {
            self.complete(id, now);
        }
    }

    /// Ends a write of which nothing was written.
    pub(super) fn cancel(&mut self, id: u64) {
        if let Some(at) = self.position(id) {
            debug_assert!(!self.pending[at].landed, "what is visible cannot be cancelled");
            self.pending.remove(at);
        }
    }

    /// A flush that was issued at `issued_at` succeeded.
    pub(super) fn harden(&mut self, issued_at: u64) {
        let mut at = 0;
        while at < self.pending.len() {
            let write = &self.pending[at];
            if write.cursed || write.completed_at.is_none_or(|completed| completed >= issued_at) {
                at += 1;
                continue;
            }
            at = self.harden_at(at);
        }
    }

    /// One write reached the medium by itself, with what of the file's length it needs.
    pub(super) fn harden_one(&mut self, id: u64) {
        if let Some(at) = self.position(id) {
            let end = self.pending[at].end();
            self.harden_at(at);
            self.synced_len = self.synced_len.max(end);
        }
    }

    /// Makes the pending write at `at` durable. Returns where the one behind it is now.
    fn harden_at(&mut self, mut at: usize) -> usize {
        let write = self.pending.remove(at);
        write.copy_to(&mut self.durable);
        // Whatever is older under these sectors (cursed, or still in flight) can no longer come to light.
        let mut older = 0;
        while older < at {
            self.pending[older].bury_range(write.offset, write.end());
            if self.pending[older].is_all_dead() {
                self.pending.remove(older);
                at -= 1;
            } else {
                older += 1;
            }
        }
        at
    }

    /// One write failed to reach the medium by itself: no flush makes it durable.
    pub(super) fn curse_one(&mut self, id: u64) {
        if let Some(at) = self.position(id) {
            self.pending[at].cursed = true;
        }
    }

    /// A flush that was issued at `issued_at` failed: what it covered is never made durable by another one.
    /// Returns how many writes that struck.
    pub(super) fn curse(&mut self, issued_at: u64) -> u64 {
        let covered = self
            .pending
            .iter_mut()
            .filter(|write| !write.cursed && write.completed_at.is_some_and(|completed| completed < issued_at));
        covered.map(|write| write.cursed = true).count() as u64
    }

    /// Everything in flight completes, and counts as completed before any flush to come, on whatever clock.
    pub(super) fn finish_all(&mut self) {
        let ids: Vec<u64> = self.pending.iter().map(|write| write.id).collect();
        ids.into_iter().for_each(|id| self.complete(id, 0));
    }

    /// Takes out what is in flight and has not landed.
    pub(super) fn take_unlanded(&mut self) -> Vec<Pending> {
        let landed = self.pending.iter().take_while(|write| write.landed).count();
        self.pending.split_off(landed)
    }

    /// The power fails. Afterwards durable and visible are the same and nothing is pending.
    pub(super) fn power_cut(&mut self, rng: &mut Rng, cruelty: Cruelty, block: usize) -> Toll {
        let mut toll = Toll::default();
        let pending = std::mem::take(&mut self.pending);
        let old_len = self.synced_len;
        if pending.is_empty() && old_len == self.cache.len() {
            debug_assert_eq!(self.durable.hash(0), self.cache.hash(0), "nothing is pending, so nothing may differ");
            return toll;
        }
        let end = pending.iter().map(Pending::end).fold(self.cache.len(), usize::max);
        let media = &mut self.durable;
        media.grow(end);
        for write in &pending {
            let arrived = strike(write, media, rng, cruelty, &mut toll);
            let alive = (0..write.sectors()).filter(|sector| !write.is_dead(*sector)).count();
            toll.lost += u64::from(arrived == 0);
            toll.torn += u64::from(arrived > 0 && arrived < alive);
        }
        // The length is metadata and takes its own chance; it grows by whole blocks, as the writes did.
        let grown = match rng.below(3) {
            0 => old_len,
            1 => end,
            _ => old_len + rng.index((end - old_len) / block + 1) * block,
        };
        media.cut(grown);
        (self.synced_len, self.allocated) = (grown, 0);
        self.cache = self.durable.clone();
        toll
    }

    /// Changes durable and visible bytes alike, as rot does. Returns whether any byte changed.
    pub(super) fn rot(&mut self, change: impl Fn(&mut [u8]), offset: usize, len: usize) -> bool {
        let before = self.hash(0);
        for bytes in [&mut self.durable, &mut self.cache] {
            let end = bytes.len().min(offset.saturating_add(len));
            if offset < end {
                let mut range = vec![0; end - offset];
                bytes.read(offset, &mut range);
                change(&mut range);
                bytes.write(offset, &range);
            }
        }
        self.hash(0) != before
    }
}

/// One un-flushed write meets the power cut. Returns how many of its sectors arrived.
fn strike(write: &Pending, media: &mut Sparse, rng: &mut Rng, cruelty: Cruelty, toll: &mut Toll) -> usize {
    if write.cursed && cruelty.curses_lose {
        return 0;
    }
    // Large writes would all be torn if every sector were drawn on its own, so whole ones get their share.
    let arrived = match rng.below(4) {
        0 => 1_000_000,
        1 => 0,
        _ => cruelty.arrived,
    };
    let mut count = 0;
    for sector in (0..write.sectors()).filter(|sector| !write.is_dead(*sector)) {
        let at = write.offset + sector * SECTOR;
        if rng.chance(cruelty.garbage) {
            let mut noise = [0; SECTOR];
            rng.fill(&mut noise);
            media.write(at, &noise);
            toll.garbage += 1;
        } else if rng.chance(arrived) {
            media.write(at, write.sector(sector));
            count += 1;
        }
    }
    count
}
