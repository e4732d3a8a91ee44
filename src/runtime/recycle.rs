//! Freeing segments: each becomes a spare, to be used again by [`super::prepare`], or is removed.
//!
//! A spare keeps its bytes. None of them ever counts again: a batch is valid only in the segment whose id its header
//! carries, ids are never given twice, and a spare becomes a segment under a new id. That holds for batches of the
//! running epoch too, with the right nonce and an intact chain among themselves.
//!
//! Nothing may be in flight to a segment that is freed, and nothing may need it: it is dead, or a durable batch carries
//! a trim LSN above its records.

use nix::libc::EEXIST;

use crate::disk::{Directory, EntryKind};
use crate::error::IoFailure;
use crate::format::segment::{Name, parse_name, segment_name, spare_name};
use crate::lsn::SegmentId;

/// Frees one segment, durably: before the first new byte goes into the file, its old name leads nowhere. With `keep` it
/// becomes a spare, whose number is returned; unless somebody who copies files has put a spare of this number there.
///
/// # Errors
/// The first failure.
pub(crate) fn free(dir: &dyn Directory, id: SegmentId, keep: bool) -> Result<Option<u64>, IoFailure> {
    let named = segment_name(id);
    let kept = keep
        && match dir.rename(&named, &spare_name(id.get())) {
            Err(failure) if failure.errno == EEXIST => false,
            renamed => renamed.map(|()| true)?,
        };
    if !kept {
        dir.remove(&named)?;
    }
    dir.sync()?;
    Ok(kept.then_some(id.get()))
}

/// Frees every segment below `below`, the lowest id first: what is left is a chain at any moment. Up to `room` of those
/// that are `bytes` long become spares, whose numbers are returned.
///
/// # Errors
/// The first failure; spares made before it stay until the next opening.
pub(crate) fn free_below(
    dir: &dyn Directory,
    below: SegmentId,
    bytes: u64,
    room: usize,
) -> Result<Vec<u64>, IoFailure> {
    let mut segments: Vec<(SegmentId, u64)> = Vec::new();
    for entry in dir.list()? {
        if let (Name::Segment(id), EntryKind::File { len }) = (parse_name(&entry.name), entry.kind)
            && id < below
        {
            segments.push((id, len));
        }
    }
    segments.sort_unstable();
    let mut spares = Vec::new();
    for (id, len) in segments {
        spares.extend(free(dir, id, len == bytes && spares.len() < room)?);
    }
    Ok(spares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Sim, SimOptions};

    #[test]
    fn frees_the_lowest_first_and_keeps_what_is_alike() {
        let sim = Sim::new(1, SimOptions::default());
        let dir = sim.directory();
        for (id, len) in [(1, 512), (2, 1024), (3, 1024), (4, 1024), (5, 1024)] {
            dir.create(&segment_name(SegmentId::new(id))).unwrap().allocate(len).unwrap();
        }
        assert_eq!(free_below(&*dir, SegmentId::new(5), 1024, 2), Ok(vec![2, 3]));
        let mut names = sim.files();
        names.sort();
        assert_eq!(names, [spare_name(2), spare_name(3), segment_name(SegmentId::new(5))]);
    }

    #[test]
    fn a_spare_of_the_same_number_is_not_in_the_way() {
        let sim = Sim::new(1, SimOptions::default());
        let (dir, id) = (sim.directory(), SegmentId::new(3));
        dir.create(&segment_name(id)).unwrap();
        dir.create(&spare_name(3)).unwrap();
        assert_eq!(free(&*dir, id, true), Ok(None));
        assert_eq!(sim.files(), [spare_name(3)]);
    }
}
