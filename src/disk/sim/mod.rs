//! A seeded, deterministic disk that can be crashed at any operation: the same traits as the real one, one shared
//! state, no thread and no clock. The same seed and the same calls give the same bytes and the same [`Sim::trace`].
//!
//! ## The model
//!
//! - **Bytes** (`media`): each file has durable bytes and an ordered list of pending writes. Reads see durable plus
//!   all *landed* pending writes. A write of the data plane is in flight until it completes, in an order that the seed
//!   draws; before that it may or may not be visible, and it may be short, cancelled or fail.
//! - **Flush**: makes durable exactly the writes that had completed before it was *issued*: never one that was still in
//!   flight then, even if it completes while the flush runs. [`FlushScope`] says whether it reaches other files'
//!   bytes; a file's length is carried by its own sync only.
//! - **Methods**, each with its own meaning (`plane`). Linked: the flush is issued some time after the write completed.
//!   RWF_DSYNC: one result for both; [`Dsync`] says whether the write makes its own
//!   bytes durable and nobody else's, or a flush is issued as soon as it completed. Write, then fdatasync: the flush is issued at `kick`, for those
//!   writes whose completion `reap` had seen. System calls: both at `kick`. What is in flight goes on beside a `kick`.
//! - **A failed flush** fails once; later ones succeed, but what it covered is *cursed*: visible until the power is
//!   cut, and made durable by no later flush.
//! - **Names** (`names`): visible at once, durable with the directory's sync.
//! - **Power cut**: each 512-byte sector of each un-flushed write is old, new or (rarely) garbage; un-synced names
//!   survive as a prefix or a subset; a file's length is anything between.
//! - **Kill**: what was submitted lands whole, un-flushed. With [`SimOptions::late`] (a lock that does not outlive its
//!   process) it lands during the next opening instead.
//! - **Operations**: every change by the control plane and every event of the data plane counts one. After
//!   [`Sim::crash_after`] so many, every call fails with EIO and changes nothing: counting up enumerates every crash
//!   point of a run. [`Sim::film`] does the same in one run.
//!
//! Recording the log id is atomic and durable. Locks, threads and time are not modelled; a flush never lies.

mod disk;
mod files;
mod kick;
mod media;
mod names;
mod plane;
pub mod rng;
mod sparse;
mod state;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use disk::SimDisk;

use super::Directory;
use files::SimDirectory;
use media::Inode;
use names::Node;
use rng::Rng;
use state::{Media, State};

/// Which writes a sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushScope {
    /// Those of every file: a device's cache is flushed as a whole.
    Device,
    /// Those of the synced file only: all that the system promises.
    File,
}

/// What a write with RWF_DSYNC comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dsync {
    /// The device writes its bytes through (FUA): durable by themselves, and nothing else is.
    Through,
    /// A flush behind it, which covers what had completed when it was issued.
    Flushed,
    /// It is refused with EOPNOTSUPP.
    Refused,
}

/// What a simulation is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimOptions {
    /// The block size, in bytes: 512, 1024, 4096.
    pub block_bytes: u32,
    /// Which writes a sync makes durable.
    pub flush: FlushScope,
    /// What a write with RWF_DSYNC comes to.
    pub dsync: Dsync,
    /// Whether a killed process's writes may land after the next opening: what a lock that outlives them prevents.
    pub late: bool,
    /// Whether space can be reserved: not every file system has fallocate(2).
    pub reserves: bool,
    /// The directory's path, for messages.
    pub path: PathBuf,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            block_bytes: 512,
            flush: FlushScope::Device,
            dsync: Dsync::Through,
            late: false,
            reserves: true,
            path: PathBuf::from("/sim"),
        }
    }
}

/// How often what fails, in parts of a million; all 0 by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A write fails with EIO; any of its sectors may have been written.
    pub write_error: u32,
    /// A write of the data plane stops short, at a sector or a block.
    pub write_short: u32,
    /// A write of the data plane ends with EINTR, EAGAIN or ECANCELED, having written nothing.
    pub write_interrupted: u32,
    /// A sync fails with EIO, once; what it covered is cursed. So does the flush in a write with RWF_DSYNC.
    pub sync_error: u32,
    /// A sync of the data plane is cancelled before it runs.
    pub sync_canceled: u32,
    /// A create, rename, remove, allocate or sync of the directory fails with EIO, having done nothing.
    pub control_error: u32,
    /// A create or allocate fails with ENOSPC.
    pub no_space: u32,
    /// The space for all files, in bytes: what would go beyond it fails with ENOSPC.
    pub space_bytes: Option<u64>,
    /// A read fails with EIO; the next may succeed.
    pub read_error: u32,
    /// A sector becomes unreadable, until it is written again.
    pub read_sticky: u32,
    /// A sector that was being written when the power failed is garbage. Holds in a quarter of the cuts.
    pub garbage: u32,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Writes started, repeats and rests included.
    pub writes: u64,
    /// Syncs of files ended, failed ones included.
    pub syncs: u64,
    /// Writes that stopped short.
    pub short: u64,
    /// Writes interrupted and syncs cancelled.
    pub interrupted: u64,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Writes that a failed sync cursed.
    pub cursed: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Other calls that failed with EIO.
    pub failed_control: u64,
    /// Calls that failed for lack of space.
    pub no_space: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Kills.
    pub kills: u64,
    /// Un-flushed writes of which a power cut kept a part.
    pub torn: u64,
    /// Un-flushed writes of which a power cut kept nothing.
    pub lost: u64,
    /// Sectors that a power cut made garbage.
    pub garbage: u64,
    /// Changes of the directory that a power cut lost.
    pub lost_entries: u64,
    /// Writes that landed after their process was gone.
    pub late: u64,
}

/// A kind of rot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// One bit, drawn.
    Flip,
    /// Every byte, drawn.
    Garble,
    /// Every byte becomes zero.
    Zero,
}

/// The media at one moment, in-flight writes included. Cheap: bytes are shared until they change.
#[derive(Clone, Debug)]
pub struct Snapshot(Media);

/// A handle to one simulation, with its controls. Clones share the state.
#[derive(Clone, Debug)]
pub struct Sim {
    shared: Arc<Mutex<State>>,
}

impl Sim {
    /// An empty directory on a new disk.
    #[must_use]
    pub fn new(seed: u64, options: SimOptions) -> Self {
        debug_assert!(options.block_bytes.is_power_of_two() && options.block_bytes >= 512);
        Self { shared: Arc::new(Mutex::new(State::new(seed, options))) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panicking test must still be able to describe what it found.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory, for a process that starts now. It dies with the next [`Sim::power_cut`] or [`Sim::kill`].
    #[must_use]
    pub(crate) fn directory(&self) -> Arc<dyn Directory> {
        Arc::new(SimDirectory::new(self.clone()))
    }

    /// A data plane, for a ring thread of a process that starts now.
    #[must_use]
    pub(crate) fn disk(&self) -> SimDisk {
        SimDisk::new(self.clone())
    }

    /// Lets one event of the data plane happen, drawn from all that can; false if there is none.
    pub fn tick(&self) -> bool {
        self.state().tick(None)
    }

    /// Lets events happen until there are none. Returns how many.
    pub fn tick_all(&self) -> usize {
        let mut state = self.state();
        let mut count = 0;
        while state.tick(None) {
            count += 1;
        }
        count
    }

    /// How many flights have an event to come.
    #[must_use]
    pub fn events(&self) -> usize {
        self.state().ready.len()
    }

    /// Cuts the power. Every handle is dead afterwards and the countdown is off; open anew.
    pub fn power_cut(&self) {
        self.state().power_cut();
    }

    /// Kills the process: kill -9. Every handle is dead afterwards and the countdown is off; open anew.
    pub fn kill(&self) {
        self.state().kill();
    }

    /// Lets `operations` more operations happen; then every call fails with EIO and changes nothing, until the next
    /// [`Sim::power_cut`] or [`Sim::kill`]. `None`: no limit.
    pub fn crash_after(&self, operations: Option<u64>) {
        let mut state = self.state();
        state.limit = operations.map(|more| state.operations.saturating_add(more));
    }

    /// How many operations happened.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Whether the countdown of [`Sim::crash_after`] has run out.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.state().is_frozen()
    }

    /// The faults in force.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.state().faults
    }

    /// Sets the faults in force.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// After `reads` more, one read returns what stands elsewhere in its file. Returns whether an earlier one is still to
    /// come.
    pub fn misdirect_read(&self, reads: Option<u32>) -> bool {
        std::mem::replace(&mut self.state().astray, reads).is_some()
    }

    /// Goes on with another stream of random numbers.
    pub fn reseed(&self, seed: u64) {
        self.state().rng = Rng::new(seed);
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state().stats
    }

    /// A hash of all that happened, in order: equal for two runs of one seed, or something is not deterministic.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.state().trace
    }

    /// A hash of everything visible: names, bytes, the recorded log id.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.state().media.hash()
    }

    /// What is on the disk, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        self.state().describe()
    }

    /// The media as they are.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.state().media.clone())
    }

    /// Puts these media in place; every handle is dead. A [`Sim::power_cut`] or [`Sim::kill`] must follow if anything
    /// was in flight in them.
    pub fn restore(&self, snapshot: &Snapshot) {
        self.state().restore(snapshot.0.clone());
    }

    /// Keeps (or stops keeping) a snapshot from before every operation, and returns those kept so far, each with the
    /// number of operations that it had seen.
    pub fn film(&self, keep: bool) -> Vec<(u64, Snapshot)> {
        let film = std::mem::replace(&mut self.state().film, keep.then(Vec::new));
        film.unwrap_or_default().into_iter().map(|(operations, media)| (operations, Snapshot(media))).collect()
    }

    /// The names of all files.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let state = self.state();
        let files = state.media.names.iter().filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(name, _)| name.to_owned()).collect()
    }

    /// A file's visible bytes.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.state().media.file(name).map(|(_, inode)| inode.visible().to_vec())
    }

    /// Puts a file in place, durably, instead of whatever has the name: a copy, a swap, a cut, an extension.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        state.media.names.remove(name);
        let inode = state.media.new_inode(Inode::with_bytes(bytes));
        state.media.names.create(name, Node::File(inode));
        state.media.names.sync();
    }

    /// Puts something odd in place, durably: "a directory", "a symbolic link".
    pub fn put_odd(&self, name: &str, what: &'static str) {
        let names = &mut self.state().media.names;
        names.remove(name);
        names.create(name, Node::Odd(what));
        names.sync();
    }

    /// Removes a name, durably.
    pub fn delete(&self, name: &str) {
        let names = &mut self.state().media.names;
        names.remove(name);
        names.sync();
    }

    /// Lets `len` bytes from `offset` of a file rot, durable and visible alike. Returns whether any byte changed.
    pub fn rot(&self, name: &str, offset: usize, len: usize, kind: Rot) -> bool {
        let mut state = self.state();
        let drawn = state.rng.next_u64();
        let Some((number, _)) = state.media.file(name) else { return false };
        let Some(inode) = state.media.inode_mut(number) else { return false };
        let change = |bytes: &mut [u8]| match kind {
            Rot::Flip => {
                let mut rng = Rng::new(drawn);
                let at = rng.index(bytes.len());
                bytes[at] ^= 1 << rng.below(8);
            }
            Rot::Garble => Rng::new(drawn).fill(bytes),
            Rot::Zero => bytes.fill(0),
        };
        inode.rot(change, offset, len)
    }

    /// Makes the sector at `offset` of a file unreadable, until it is written again.
    pub fn break_sector(&self, name: &str, offset: usize) {
        let mut state = self.state();
        if let Some((number, _)) = state.media.file(name)
            && let Some(inode) = state.media.inode_mut(number)
        {
            inode.unreadable.insert(offset / media::SECTOR);
        }
    }
}
