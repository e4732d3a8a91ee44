//! The one state behind every handle of a simulation: media, clock, faults, and the count of operations.

use std::fmt::Write as _;

use nix::libc::{EFBIG, EIO, ENOSPC};

use super::media::{Cruelty, Inode, Pending};
use super::names::{Names, Node};
use super::plane::Bench;
use super::rng::{Rng, mix, mix_bytes};
use super::{Faults, FlushScope, SimOptions, Stats};
use crate::lsn::LogId;

/// No simulated file is longer: whoever asks for more has miscounted, and must not take the machine's memory for it.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// All that outlives a process: what [`super::Snapshot`] copies. Cloning is cheap, the bytes are shared.
#[derive(Clone, Debug, Default)]
pub(super) struct Media {
    pub(super) inodes: Vec<Inode>,
    pub(super) names: Names,
    pub(super) log_id: Option<LogId>,
    writes: u64,
}

impl Media {
    /// The file under a name.
    pub(super) fn file(&self, name: &str) -> Option<(u64, &Inode)> {
        match self.names.get(name)? {
            Node::File(inode) => Some((inode, self.inode(inode)?)),
            Node::Odd(_) => None,
        }
    }

    pub(super) fn inode(&self, inode: u64) -> Option<&Inode> {
        self.inodes.get(usize::try_from(inode).ok()?)
    }

    pub(super) fn inode_mut(&mut self, inode: u64) -> Option<&mut Inode> {
        self.inodes.get_mut(usize::try_from(inode).ok()?)
    }

    pub(super) fn new_inode(&mut self, inode: Inode) -> u64 {
        self.inodes.push(inode);
        self.inodes.len() as u64 - 1
    }

    /// Takes a write that is now in flight; its number is what it is known by from here on.
    pub(super) fn start(&mut self, inode: u64, offset: usize, bytes: &[u8]) -> u64 {
        self.writes += 1;
        let id = self.writes;
        if let Some(inode) = self.inode_mut(inode) {
            inode.start(Pending::new(id, offset, bytes));
        }
        id
    }

    /// Frees what no name can lead to again. Only when no handle is left.
    fn forget_unreachable(&mut self) {
        let Self { inodes, names, .. } = self;
        for (number, inode) in inodes.iter_mut().enumerate() {
            if !names.may_lead_to(number as u64) {
                *inode = Inode::default();
            }
        }
    }

    pub(super) fn hash(&self) -> u64 {
        let log_id = self.log_id.map_or([0; 16], LogId::bytes);
        let hash = self.names.hash(mix_bytes(0, &log_id));
        self.names.iter().fold(hash, |hash, (_, node)| match node {
            Node::File(inode) => self.inode(inode).map_or(hash, |inode| inode.hash(hash)),
            Node::Odd(_) => hash,
        })
    }
}

/// The kinds of operations, as the trace hash tells them apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Create = 1,
    Rename,
    Remove,
    SyncDirectory,
    WriteAt,
    SyncFile,
    Allocate,
    RecordLogId,
    Submit,
    WriteEvent,
    SyncIssued,
    SyncEnded,
}

/// The whole simulation.
#[derive(Debug)]
pub(super) struct State {
    pub(super) options: SimOptions,
    pub(super) faults: Faults,
    pub(super) rng: Rng,
    pub(super) media: Media,
    pub(super) stats: Stats,
    /// Handles of an earlier generation belong to a process that is dead.
    pub(super) generation: u64,
    pub(super) benches: Vec<Bench>,
    /// The flights of all benches that have an event to come: (bench, flight).
    pub(super) ready: Vec<(usize, usize)>,
    /// Counts operations, and is the clock: no two happen at once.
    pub(super) operations: u64,
    pub(super) limit: Option<u64>,
    /// How many reads are left before one that goes astray.
    pub(super) astray: Option<u32>,
    pub(super) trace: u64,
    /// Writes that outlive the process that submitted them (seeded bug "late").
    late: Vec<(u64, Pending)>,
    /// The media before each operation, if they are kept.
    pub(super) film: Option<Vec<(u64, Media)>>,
}

impl State {
    pub(super) fn new(seed: u64, options: SimOptions) -> Self {
        Self {
            options,
            faults: Faults::default(),
            rng: Rng::new(seed),
            media: Media::default(),
            stats: Stats::default(),
            generation: 0,
            benches: Vec::new(),
            ready: Vec::new(),
            operations: 0,
            limit: None,
            astray: None,
            trace: 0,
            late: Vec::new(),
            film: None,
        }
    }

    /// Whether a handle may not do anything any more.
    pub(super) fn is_dead(&self, generation: u64) -> bool {
        generation != self.generation || self.is_frozen()
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.limit.is_some_and(|limit| self.operations >= limit)
    }

    /// Counts one operation of a living handle: a crash may come before it or after it, never inside.
    pub(super) fn step(&mut self, what: What, about: u64, detail: u64) {
        debug_assert!(!self.is_frozen());
        if let Some(film) = &mut self.film {
            film.push((self.operations, self.media.clone()));
        }
        self.operations += 1;
        self.note(what as u64, mix(about, detail));
        if !self.late.is_empty() && self.rng.one_in(2) {
            self.land_late();
        }
    }

    /// Mixes into the trace what happened.
    pub(super) fn note(&mut self, what: u64, about: u64) {
        self.trace = mix(mix(self.trace, what), about);
    }

    fn land_late(&mut self) {
        let (inode, write) = self.late.remove(0);
        let (id, now) = (write.id, self.operations);
        self.stats.late += 1;
        if let Some(inode) = self.media.inode_mut(inode) {
            inode.start(write);
            inode.complete(id, now);
        }
    }

    /// Whether a file may grow to `end` bytes.
    pub(super) fn room(&self, inode: u64, end: u64) -> Result<(), i32> {
        if end > FILE_BYTES_MAX {
            return Err(EFBIG);
        }
        let (Some(space), Some(inode)) = (self.faults.space_bytes, self.media.inode(inode)) else { return Ok(()) };
        let more = end.saturating_sub(inode.space());
        if more > 0 && self.space_used() + more > space { Err(ENOSPC) } else { Ok(()) }
    }

    /// The space that all named files take.
    pub(super) fn space_used(&self) -> u64 {
        let space = |(_, node)| match node {
            Node::File(inode) => self.media.inode(inode).map_or(0, Inode::space),
            Node::Odd(_) => 0,
        };
        self.media.names.iter().map(space).sum()
    }

    /// A sync of `inode`, issued at `issued_at`, ends now: its result as in a CQE.
    pub(super) fn end_sync(&mut self, inode: u64, issued_at: u64) -> i32 {
        self.stats.syncs += 1;
        let failed = self.rng.chance(self.faults.sync_error);
        let every = self.options.flush == FlushScope::Device;
        let mut cursed = 0;
        for (number, file) in self.media.inodes.iter_mut().enumerate() {
            let own = number as u64 == inode;
            if !own && (!every || file.pending() == 0) {
                continue;
            }
            if failed {
                cursed += file.curse(issued_at);
            } else {
                file.harden(issued_at);
                if own {
                    file.harden_len();
                }
            }
        }
        if failed {
            self.stats.failed_syncs += 1;
            self.stats.cursed += cursed;
            self.note(u64::MAX, cursed);
            return -EIO;
        }
        0
    }

    /// The power fails: what no flush covered is old or new, sector by sector, and every handle is dead.
    pub(super) fn power_cut(&mut self) {
        self.stats.power_cuts += 1;
        self.late.clear();
        let Self { media, rng, stats, options, faults, .. } = self;
        let cruelty = Cruelty::draw(rng, faults.garbage);
        stats.lost_entries += media.names.power_cut(rng);
        for inode in &mut media.inodes {
            let toll = inode.power_cut(rng, cruelty, options.block_bytes as usize);
            stats.torn += toll.torn;
            stats.lost += toll.lost;
            stats.garbage += toll.garbage;
        }
        self.end_process();
    }

    /// The process is killed: what it submitted completes, what was not flushed stays un-flushed.
    pub(super) fn kill(&mut self) {
        self.stats.kills += 1;
        let late = self.options.late || crate::seeded::is("late");
        for (number, inode) in self.media.inodes.iter_mut().enumerate() {
            if late {
                self.late.extend(inode.take_unlanded().into_iter().map(|write| (number as u64, write)));
            }
            inode.finish_all();
        }
        self.end_process();
    }

    /// Every handle dies, and the countdown with them.
    pub(super) fn end_process(&mut self) {
        self.limit = None;
        self.generation += 1;
        self.ready.clear();
        self.benches.iter_mut().for_each(Bench::fail_all);
        self.media.forget_unreachable();
        let hash = self.media.hash();
        self.note(0, hash);
    }

    /// Puts other media in place. What was in flight in them still is: a power cut or a kill must follow.
    pub(super) fn restore(&mut self, media: Media) {
        self.late.clear();
        self.end_process();
        self.media = media;
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!(
            "{} operations, {} events to come, {} unsynced changes of the directory\n",
            self.operations,
            self.ready.len(),
            self.media.names.unsynced(),
        );
        for (name, node) in self.media.names.iter() {
            // Writing to a String cannot fail.
            let _ = match (node, node.inode().and_then(|inode| self.media.inode(inode))) {
                (Node::File(number), Some(file)) => writeln!(
                    text,
                    "{name}: file {number}, {} bytes visible, {} durable, {} writes not flushed, hash {:016x}",
                    file.visible().len(),
                    file.durable().len(),
                    file.pending(),
                    file.hash(0),
                ),
                (node, _) => writeln!(text, "{name}: {node:?}"),
            };
        }
        text
    }
}

impl Node {
    const fn inode(self) -> Option<u64> {
        match self {
            Self::File(inode) => Some(inode),
            Self::Odd(_) => None,
        }
    }
}
