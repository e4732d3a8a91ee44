//! Preparing segments: created or taken from a spare, filled with zeros as far as there is time for it, made durable, and
//! only then named.
//!
//! Runs on a helper thread (or inside an opening), never on the ring thread. The order is the point: whatever carries
//! a segment's name is complete, whenever the power goes.

use std::sync::Arc;

use crate::disk::{Buffer, Directory, SegmentFile};
use crate::error::IoFailure;
use crate::format::SegmentHeader;
use crate::format::segment::{segment_name, spare_name};
use crate::seeded;

/// Zeros are written in pieces of this size: a flush that comes in between waits for one of them at most. Smaller ones
/// hit more flushes, larger ones hit them harder.
const PIECE_BYTES: usize = 256 << 10;

/// Says when the next piece of zeros may be written, so that appends are not disturbed.
pub(crate) trait Pace {
    /// Waits until there is something to do; `done` thousandths are written.
    fn wait(&mut self, done: u32) -> Fill;
}

/// What to do with the rest of a segment that is being filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Write the next piece of zeros.
    Piece,
    /// Leave the rest as it is: reserved, and read as zeros, but the first write of each block will change the file's
    /// metadata, and so its flush takes about twice as long.
    Enough,
    /// Nobody needs the segment any more.
    GiveUp,
}

/// All of it, at full speed.
pub(crate) struct AtOnce;

impl Pace for AtOnce {
    fn wait(&mut self, _done: u32) -> Fill {
        Fill::Piece
    }
}

/// Prepares the segment that `header` describes. With `spare`, the number of a spare file of the right length, that file
/// is used again: its old batches stay in it, and stale they are, by segment id. None if `pace` gave up.
///
/// # Errors
/// The first failure; the unfinished file is removed again, so that its space is not held.
pub(crate) fn prepare(
    dir: &dyn Directory,
    header: &SegmentHeader,
    spare: Option<u64>,
    pace: &mut dyn Pace,
) -> Result<Option<Arc<dyn SegmentFile>>, IoFailure> {
    let name = match spare {
        Some(number) => spare_name(number),
        None => spare_name(header.id.get()),
    };
    let prepared = match spare {
        Some(_) => reuse(dir, header, &name).map(|()| true),
        None => create(dir, header, &name, pace),
    };
    let named = segment_name(header.id);
    // Best effort at each failure: the one that matters is the first, and what is left under the name that it had at
    // that moment would stand in the way of the next try.
    let forget = |name: &str, failure| {
        let _ = dir.remove(name);
        failure
    };
    if !prepared.map_err(|failure| forget(&name, failure))? {
        dir.remove(&name)?;
        return Ok(None);
    }
    dir.rename(&name, &named).map_err(|failure| forget(&name, failure))?;
    let forgotten = seeded::is(if spare.is_some() { "m5" } else { "m4" });
    let synced = if forgotten { Ok(()) } else { dir.sync() };
    let opened = synced.and_then(|()| dir.open(&named, crate::disk::Access::ReadWrite));
    opened.map(Some).map_err(|failure| forget(&named, failure))
}

/// False if `pace` gave up.
fn create(dir: &dyn Directory, header: &SegmentHeader, name: &str, pace: &mut dyn Pace) -> Result<bool, IoFailure> {
    let file = match dir.create(name) {
        // Left over from a preparation that a crash interrupted.
        Err(failure) if failure.errno == nix::libc::EEXIST => {
            dir.remove(name)?;
            dir.create(name)?
        }
        created => created?,
    };
    // Reserve first: a full disk is told early, and extents come in one piece.
    let reserved = file.allocate(header.bytes())?;
    let left = |offset| usize::try_from(header.bytes() - offset).unwrap_or(usize::MAX);
    let zeros = Buffer::new(left(0).min(PIECE_BYTES));
    let mut offset = 0;
    while offset < header.bytes() {
        let piece = match pace.wait(u32::try_from(offset * 1000 / header.bytes()).unwrap_or(1000)) {
            // Nothing but zeros makes it as long as it has to be where space cannot be reserved.
            Fill::Enough if reserved => break,
            Fill::Piece | Fill::Enough => zeros.len().min(left(offset)),
            Fill::GiveUp => return Ok(false),
        };
        file.write_at(&zeros[..piece], offset)?;
        offset += piece as u64;
    }
    finish(&*file, header).map(|()| true)
}

fn reuse(dir: &dyn Directory, header: &SegmentHeader, name: &str) -> Result<(), IoFailure> {
    finish(&*dir.open(name, crate::disk::Access::ReadWrite)?, header)
}

fn finish(file: &dyn SegmentFile, header: &SegmentHeader) -> Result<(), IoFailure> {
    let mut block = Buffer::new(header.block_bytes as usize);
    let len = block.len().min(header.block_bytes as usize);
    header.encode(&mut block[..len]);
    file.write_at(&block[..len], 0)?;
    file.sync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Sim, SimOptions};
    use crate::lsn::{LogId, SegmentId};

    /// Something else once so many thousandths are written.
    struct UpTo(u32, Fill);

    impl Pace for UpTo {
        fn wait(&mut self, done: u32) -> Fill {
            if done < self.0 { Fill::Piece } else { self.1 }
        }
    }

    #[test]
    fn what_is_given_up_leaves_nothing_behind_and_what_is_enough_is_whole() {
        for reserves in [true, false] {
            leaves_nothing_or_a_whole_segment(Sim::new(1, SimOptions { reserves, ..SimOptions::default() }));
        }
    }

    fn leaves_nothing_or_a_whole_segment(sim: Sim) {
        let dir = sim.directory();
        let blocks = u32::try_from(4 * PIECE_BYTES / 512).unwrap();
        let header = SegmentHeader {
            log_id: LogId::new([1; 16]),
            id: SegmentId::new(3),
            block_bytes: 512,
            blocks,
            created_ns: 0,
        };
        assert!(prepare(&*dir, &header, None, &mut UpTo(500, Fill::GiveUp)).unwrap().is_none());
        assert!(sim.files().is_empty());
        let file = prepare(&*dir, &header, None, &mut UpTo(500, Fill::Enough)).unwrap().unwrap();
        assert_eq!((sim.files(), file.len()), (vec![segment_name(header.id)], Ok(header.bytes())));
        let mut end = [1; 512];
        assert_eq!((file.read_at(&mut end, header.bytes() - 512), end), (Ok(512), [0; 512]));
        let next = SegmentHeader { id: header.id.next(), ..header };
        assert!(prepare(&*dir, &next, None, &mut UpTo(1001, Fill::GiveUp)).unwrap().is_some());
        assert_eq!(sim.files(), [segment_name(header.id), segment_name(next.id)]);
    }
}
