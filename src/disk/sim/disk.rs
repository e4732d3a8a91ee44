//! [`SimDisk`]: the simulated data plane as the driver sees it. What happens inside is in `plane` and `kick`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use nix::libc::{EBADF, EINVAL, EIO};

use super::Sim;
use super::plane::{Bench, Stage, Trip};
use super::state::{State, What};
use crate::disk::flight::Flight;
use crate::disk::{BufferPool, Completion, Disk, FileSlot, Method, Notify, SegmentFile, Write};
use crate::error::{IoFailure, Op};

/// The data plane of one simulated ring thread.
pub(crate) struct SimDisk {
    sim: Sim,
    generation: u64,
    bench: usize,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("bench", &self.bench).finish_non_exhaustive()
    }
}

impl SimDisk {
    pub(super) fn new(sim: Sim) -> Self {
        let mut state = sim.state();
        let (generation, bench) = (state.generation, state.benches.len());
        state.benches.push(Bench::default());
        drop(state);
        Self { sim, generation, bench }
    }

    /// What makes it impossible to even start the write: (errno, whose file).
    fn refuse(&self, state: &State, write: &Write) -> Result<(u64, Arc<Path>), (i32, Arc<Path>)> {
        let file = state.benches[self.bench].files.get(write.file.0 as usize);
        let Some((inode, path)) = file.cloned().flatten() else {
            return Err((EBADF, state.options.path.as_path().into()));
        };
        let block = state.options.block_bytes as usize;
        if state.is_dead(self.generation) {
            return Err((EIO, path));
        }
        let aligned = write.offset.is_multiple_of(block as u64) && write.len.is_multiple_of(block);
        if !aligned || write.len == 0 || write.len > write.buffer.len() {
            return Err((EINVAL, path));
        }
        Ok((inode, path))
    }
}

impl Disk for SimDisk {
    fn attach(&mut self, file: &Arc<dyn SegmentFile>) -> Result<FileSlot, IoFailure> {
        let mut state = self.sim.state();
        let inode = match file.sim_inode() {
            _ if state.is_dead(self.generation) => Err(EIO),
            None => Err(EBADF),
            Some(inode) => Ok(inode),
        };
        let inode = inode.map_err(|errno| IoFailure::from_errno(Op::Ring, file.path().clone(), 0, errno))?;
        let entry = Some((inode, file.path().clone()));
        let files = &mut state.benches[self.bench].files;
        let at = files.iter().position(Option::is_none).unwrap_or(files.len());
        if at == files.len() {
            files.push(entry);
        } else {
            files[at] = entry;
        }
        Ok(FileSlot(u32::try_from(at).unwrap_or(u32::MAX)))
    }

    fn hold(&mut self, _lock: std::os::fd::BorrowedFd<'_>) -> Result<FileSlot, IoFailure> {
        // A slot that no write finds: the simulated lock is that `kill` lands everything before the next opening.
        Ok(FileSlot(u32::MAX))
    }

    fn detach(&mut self, slot: FileSlot) {
        let mut state = self.sim.state();
        let in_use = state.benches[self.bench].trips.iter().flatten().any(|trip| trip.write.file == slot);
        debug_assert!(!in_use, "a file is detached while a write to it is in flight");
        if let Some(entry) = state.benches[self.bench].files.get_mut(slot.0 as usize) {
            *entry = None;
        }
    }

    fn submit(&mut self, mut write: Write) {
        if !Method::ALL.contains(&write.method) {
            write.method = Method::LinkedFdatasync;
        }
        let mut state = self.sim.state();
        let dsync = write.method == Method::DsyncWrite;
        let flight = if dsync { Flight::dsync(write.len) } else { Flight::new(write.len) };
        let stage = Stage::Queued;
        match self.refuse(&state, &write) {
            Err((errno, path)) => {
                let trip = Trip { write, flight, inode: u64::MAX, path, stage };
                state.benches[self.bench].finish(trip, Err((Op::Write, errno)));
            }
            Ok((inode, path)) => {
                let mut trip = Trip { write, flight, inode, path, stage };
                if !trip.is_inline() {
                    state.step(What::Submit, inode, trip.write.offset);
                    let len = trip.write.len;
                    trip.stage = state.start(&mut trip, 0, len);
                }
                let has_event = trip.has_event();
                let number = state.benches[self.bench].park(trip);
                if has_event {
                    state.ready.push((self.bench, number));
                }
            }
        }
    }

    fn kick(&mut self) {
        let mut state = self.sim.state();
        if !state.is_dead(self.generation) {
            state.kick(self.bench);
        }
    }

    fn blocks(&self) -> bool {
        self.sim.state().benches[self.bench].blocks()
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        let mut state = self.sim.state();
        if state.is_dead(self.generation) {
            state.fail_bench(self.bench);
        } else {
            state.see(self.bench);
        }
        out.append(&mut state.benches[self.bench].finished);
    }

    fn wait(&mut self, _notify: &Notify, _wakeable: bool, _timeout: Option<Duration>) {
        self.kick();
        let mut state = self.sim.state();
        if !state.is_dead(self.generation) {
            state.tick(None);
        }
    }

    fn in_flight(&self) -> usize {
        let state = self.sim.state();
        let bench = &state.benches[self.bench];
        bench.flying() + bench.finished.len()
    }

    fn methods(&self) -> &'static [Method] {
        Method::ALL
    }

    fn pool(&mut self, buffer_bytes: usize, bytes_max: usize) -> io::Result<BufferPool> {
        Ok(BufferPool::new(buffer_bytes, bytes_max))
    }
}

impl Drop for SimDisk {
    /// Waits for what is in flight, as every disk does, unless the machine is gone.
    fn drop(&mut self) {
        let mut state = self.sim.state();
        while !state.is_dead(self.generation) && state.benches[self.bench].flying() > 0 {
            state.tick(Some(self.bench));
            state.see(self.bench);
            if !state.is_dead(self.generation) {
                state.kick(self.bench);
            }
        }
        state.fail_bench(self.bench);
        state.benches[self.bench] = Bench::default();
    }
}
