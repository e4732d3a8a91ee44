//! The simulated control plane. Every call that changes something acts at once and counts as one operation.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use nix::libc::{EBADF, EEXIST, EINVAL, EIO, EISDIR, ELOOP, ENOENT, ENOSPC};

use super::Sim;
use super::media::{Inode, SECTOR};
use super::names::Node;
use super::rng::mix_bytes;
use super::state::{State, What};
use crate::disk::{Access, DirEntry, Directory, EntryKind, SegmentFile};
use crate::error::{IoFailure, Op};
use crate::lsn::LogId;

/// The simulated directory, as one process sees it.
pub(super) struct SimDirectory {
    sim: Sim,
    generation: u64,
    path: Arc<Path>,
    block_bytes: u32,
}

impl fmt::Debug for SimDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDirectory").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What names add to the trace.
fn name_hash(name: &str) -> u64 {
    mix_bytes(0, name.as_bytes())
}

impl SimDirectory {
    pub(super) fn new(sim: Sim) -> Self {
        let state = sim.state();
        let (generation, block_bytes) = (state.generation, state.options.block_bytes);
        let path = state.options.path.as_path().into();
        drop(state);
        Self { sim, generation, path, block_bytes }
    }

    fn run<T>(&self, op: Op, name: &str, act: impl FnOnce(&mut State) -> Result<T, i32>) -> Result<T, IoFailure> {
        let mut state = self.sim.state();
        let result = if state.is_dead(self.generation) { Err(EIO) } else { act(&mut state) };
        result.map_err(|errno| {
            let path = if name.is_empty() { self.path.clone() } else { self.path.join(name).into() };
            IoFailure::from_errno(op, path, 0, errno)
        })
    }

    fn file(&self, name: &str, inode: u64, access: Access) -> Arc<dyn SegmentFile> {
        Arc::new(SimFile {
            sim: self.sim.clone(),
            generation: self.generation,
            path: self.path.join(name).into(),
            name: name.into(),
            inode,
            access,
            block: self.block_bytes as usize,
        })
    }
}

impl Directory for SimDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> Result<Vec<DirEntry>, IoFailure> {
        self.run(Op::List, "", |state| {
            let media = &state.media;
            let kind = |node| match node {
                Node::File(inode) => {
                    EntryKind::File { len: media.inode(inode).map_or(0, |inode| inode.visible().len() as u64) }
                }
                Node::Odd(what) => EntryKind::Odd(what),
            };
            Ok(media.names.iter().map(|(name, node)| DirEntry { name: name.to_owned(), kind: kind(node) }).collect())
        })
    }

    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn SegmentFile>, IoFailure> {
        let inode = self.run(Op::Open, name, |state| match state.media.names.get(name) {
            None => Err(ENOENT),
            Some(Node::Odd("a directory")) => Err(EISDIR),
            Some(Node::Odd(_)) => Err(ELOOP),
            Some(Node::File(inode)) => Ok(inode),
        })?;
        Ok(self.file(name, inode, access))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn SegmentFile>, IoFailure> {
        let inode = self.run(Op::Create, name, |state| {
            state.step(What::Create, name_hash(name), 0);
            state.control_fault(true)?;
            if state.media.names.get(name).is_some() {
                return Err(EEXIST);
            }
            let inode = state.media.new_inode(Inode::default());
            state.media.names.create(name, Node::File(inode));
            Ok(inode)
        })?;
        Ok(self.file(name, inode, Access::ReadWrite))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.run(Op::Rename, from, |state| {
            state.step(What::Rename, name_hash(from), name_hash(to));
            state.control_fault(false)?;
            if state.media.names.get(from).is_none() {
                return Err(ENOENT);
            }
            if state.media.names.get(to).is_some() {
                return Err(EEXIST);
            }
            state.media.names.rename(from, to);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> Result<(), IoFailure> {
        self.run(Op::Remove, name, |state| {
            state.step(What::Remove, name_hash(name), 0);
            state.control_fault(false)?;
            if state.media.names.get(name).is_none() {
                return Err(ENOENT);
            }
            state.media.names.remove(name);
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), IoFailure> {
        self.run(Op::SyncDirectory, "", |state| {
            state.step(What::SyncDirectory, 0, 0);
            state.control_fault(false)?;
            state.media.names.sync();
            Ok(())
        })
    }

    fn block_bytes(&self) -> Result<u32, IoFailure> {
        self.run(Op::Stat, "", |state| Ok(state.options.block_bytes))
    }

    fn recorded_log_id(&self) -> Result<Option<LogId>, IoFailure> {
        self.run(Op::Lock, "", |state| Ok(state.media.log_id))
    }

    fn record_log_id(&self, log_id: LogId) -> Result<(), IoFailure> {
        self.run(Op::Lock, "", |state| {
            state.step(What::RecordLogId, mix_bytes(0, &log_id.bytes()), 0);
            state.control_fault(false)?;
            state.media.log_id = Some(log_id);
            Ok(())
        })
    }
}

impl State {
    /// A call of the control plane may fail, and then does nothing.
    fn control_fault(&mut self, takes_space: bool) -> Result<(), i32> {
        if self.rng.chance(self.faults.control_error) {
            self.stats.failed_control += 1;
            return Err(EIO);
        }
        let full = self.faults.space_bytes.is_some_and(|space| self.space_used() > space);
        if takes_space && (self.rng.chance(self.faults.no_space) || full) {
            self.stats.no_space += 1;
            return Err(ENOSPC);
        }
        Ok(())
    }

    fn read(&mut self, inode: u64, buf: &mut [u8], offset: u64) -> Result<usize, i32> {
        let Self { media, rng, faults, stats, astray, .. } = self;
        let file = media.inode_mut(inode).ok_or(EBADF)?;
        let len = file.visible().len();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(len);
        let count = buf.len().min(len - start);
        let (first, end) = (start / SECTOR, (start + count).div_ceil(SECTOR));
        if count > 0 && rng.chance(faults.read_sticky) {
            file.unreadable.insert(first + rng.index(end - first));
        }
        if rng.chance(faults.read_error) || file.unreadable.range(first..end).next().is_some() {
            stats.failed_reads += 1;
            return Err(EIO);
        }
        let from = match astray {
            Some(0) => rng.index((len - count) / SECTOR + 1) * SECTOR,
            _ => start,
        };
        *astray = astray.and_then(|left| left.checked_sub(1));
        file.visible().read(from, &mut buf[..count]);
        Ok(count)
    }

    fn write_at(&mut self, inode: u64, buf: &[u8], offset: u64) -> Result<(), i32> {
        self.step(What::WriteAt, inode, offset);
        self.room(inode, offset.saturating_add(buf.len() as u64))?;
        self.stats.writes += 1;
        let id = self.media.start(inode, usize::try_from(offset).unwrap_or(usize::MAX), buf);
        let now = self.operations;
        let Self { media, rng, faults, stats, .. } = self;
        let file = media.inode_mut(inode).ok_or(EBADF)?;
        if rng.chance(faults.write_error) {
            stats.failed_writes += 1;
            file.fail(id, now, rng);
            return Err(EIO);
        }
        file.complete(id, now);
        Ok(())
    }

    fn allocate(&mut self, inode: u64, len: u64) -> Result<(), i32> {
        self.step(What::Allocate, inode, len);
        self.control_fault(true)?;
        self.room(inode, len)?;
        let file = self.media.inode_mut(inode).ok_or(EBADF)?;
        file.allocate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(())
    }
}

/// One open file of one process.
struct SimFile {
    sim: Sim,
    generation: u64,
    path: Arc<Path>,
    name: Box<str>,
    inode: u64,
    access: Access,
    block: usize,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("path", &self.path).field("inode", &self.inode).finish_non_exhaustive()
    }
}

impl SimFile {
    fn run<T>(&self, op: Op, offset: u64, act: impl FnOnce(&mut State) -> Result<T, i32>) -> Result<T, IoFailure> {
        let mut state = self.sim.state();
        let result = if state.is_dead(self.generation) { Err(EIO) } else { act(&mut state) };
        result.map_err(|errno| IoFailure::from_errno(op, self.path.clone(), offset, errno))
    }

    /// O_DIRECT refuses what is not aligned. The address is not looked at: it would make runs differ.
    fn aligned(&self, len: usize, offset: u64) -> Result<(), i32> {
        let fits = len.is_multiple_of(self.block) && offset.is_multiple_of(self.block as u64);
        if fits { Ok(()) } else { Err(EINVAL) }
    }

    fn writable(&self) -> Result<(), i32> {
        if self.access == Access::ReadWrite { Ok(()) } else { Err(EBADF) }
    }
}

impl SegmentFile for SimFile {
    fn path(&self) -> &Arc<Path> {
        &self.path
    }

    fn len(&self) -> Result<u64, IoFailure> {
        self.run(Op::Stat, 0, |state| {
            state.media.inode(self.inode).map(|inode| inode.visible().len() as u64).ok_or(EBADF)
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, IoFailure> {
        self.run(Op::Read, offset, |state| {
            self.aligned(buf.len(), offset)?;
            state.read(self.inode, buf, offset)
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), IoFailure> {
        self.run(Op::Write, offset, |state| {
            self.writable()?;
            self.aligned(buf.len(), offset)?;
            state.write_at(self.inode, buf, offset)
        })
    }

    fn allocate(&self, len: u64) -> Result<bool, IoFailure> {
        self.run(Op::Allocate, 0, |state| {
            self.writable()?;
            if state.options.reserves {
                state.allocate(self.inode, len)?;
            }
            Ok(state.options.reserves)
        })
    }

    fn sync(&self) -> Result<(), IoFailure> {
        self.run(Op::Sync, 0, |state| {
            state.step(What::SyncFile, self.inode, 0);
            let now = state.operations;
            match state.end_sync(self.inode, now) {
                0 => Ok(()),
                res => Err(-res),
            }
        })
    }

    fn is_still_named(&self) -> bool {
        let state = self.sim.state();
        !state.is_dead(self.generation) && state.media.names.get(&self.name) == Some(Node::File(self.inode))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn sim_inode(&self) -> Option<u64> {
        Some(self.inode)
    }
}
