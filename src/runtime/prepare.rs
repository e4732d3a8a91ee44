//! Preparing segments: created or taken from a spare, filled with zeros, made durable, and only then named.
//!
//! Runs on a helper thread (or inside an opening), never on the ring thread. The order is the point: whatever carries
//! a segment's name is complete, whenever the power goes.

use std::sync::Arc;

use crate::disk::{Buffer, Directory, SegmentFile};
use crate::error::IoFailure;
use crate::format::SegmentHeader;
use crate::format::segment::{segment_name, spare_name};

/// Zeros are written in pieces of this size: a flush that comes in between waits for one of them at most.
const ZERO_BYTES: usize = 256 << 10;

/// Says when the next piece of zeros may be written, so that appends are not disturbed.
pub(crate) trait Pace {
    /// Waits until the next piece is due; `done` thousandths are written. False: nobody needs the segment any more.
    fn wait(&mut self, done: u32) -> bool;
}

/// Full speed: somebody waits for it.
pub(crate) struct AtOnce;

impl Pace for AtOnce {
    fn wait(&mut self, _done: u32) -> bool {
        true
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
    let opened = dir.sync().and_then(|()| dir.open(&named, crate::disk::Access::ReadWrite));
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
    file.allocate(header.bytes())?;
    let len = usize::try_from(header.bytes()).unwrap_or(usize::MAX).min(ZERO_BYTES);
    let zeros = Buffer::new(len);
    let mut offset = 0;
    while offset < header.bytes() {
        if !pace.wait(u32::try_from(offset * 1000 / header.bytes()).unwrap_or(1000)) {
            return Ok(false);
        }
        let piece = usize::try_from(header.bytes() - offset).unwrap_or(usize::MAX).min(len);
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

    /// Gives up once so many thousandths are written.
    struct UpTo(u32);

    impl Pace for UpTo {
        fn wait(&mut self, done: u32) -> bool {
            done < self.0
        }
    }

    #[test]
    fn what_is_given_up_leaves_nothing_behind() {
        let sim = Sim::new(1, SimOptions::default());
        let dir = sim.directory();
        let blocks = u32::try_from(4 * ZERO_BYTES / 512).unwrap();
        let header = SegmentHeader {
            log_id: LogId::new([1; 16]),
            id: SegmentId::new(3),
            block_bytes: 512,
            blocks,
            created_ns: 0,
        };
        assert!(prepare(&*dir, &header, None, &mut UpTo(500)).unwrap().is_none());
        assert!(sim.files().is_empty());
        assert!(prepare(&*dir, &header, None, &mut UpTo(1001)).unwrap().is_some());
        assert_eq!(sim.files(), [segment_name(header.id)]);
    }
}
