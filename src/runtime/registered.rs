//! Cursors: the durable places of named readers, each a file beside the segments, written by its reader alone.

use std::sync::Arc;

use crate::disk::{Access, Buffer, Directory, SegmentFile};
use crate::error::CursorError;
use crate::format::segment::{Name, cursor_name, parse_name};
use crate::format::{CursorSlot, Verdict};
use crate::lsn::{LogId, Lsn};

/// A named place in a log, durable: everything up to it is done with, what is behind it is still wanted. Automatic retention
/// ([`Options::retain_bytes`](crate::Options::retain_bytes) and the like) frees nothing that a cursor still wants.
///
/// It is its reader's alone: two readers under one name overwrite each other's place. Its methods block on I/O. A log that
/// is cut back ([`Log::truncate_after`](crate::Log::truncate_after)) takes cursors that stood above back with it.
///
/// ```no_run
/// # fn f(log: &ringwal::Log) -> Result<(), Box<dyn std::error::Error>> {
/// let mut cursor = log.cursor("indexer")?; // where it was left, or at the log's beginning
/// for record in log.read(cursor.lsn().next()..)? {
///     let record = record?;
///     // ... use it, and every so often:
///     cursor.save(record.lsn)?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Cursor {
    dir: Arc<dyn Directory>,
    name: String,
    file: Arc<dyn SegmentFile>,
    slot: CursorSlot,
    block_bytes: usize,
}

impl Cursor {
    /// Opens the cursor of this name, or makes it, at `lsn`.
    pub(crate) fn open(dir: Arc<dyn Directory>, log_id: LogId, name: &str, lsn: Lsn) -> Result<Self, CursorError> {
        let file_name = cursor_name(name).ok_or_else(|| CursorError::Name(name.into()))?;
        let block_bytes = dir.block_bytes()? as usize;
        let known = dir.list()?.iter().any(|entry| entry.name == file_name);
        let file = if known { dir.open(&file_name, Access::ReadWrite)? } else { dir.create(&file_name)? };
        let slot = match read(&*file, block_bytes, log_id)? {
            Some(slot) => slot,
            None => {
                // Also one that a crash left half made.
                file.allocate(2 * block_bytes as u64)?;
                let slot = CursorSlot { log_id, sequence: 1, lsn };
                write(&*file, block_bytes, slot)?;
                dir.sync()?;
                slot
            }
        };
        Ok(Self { dir, name: file_name, file, slot, block_bytes })
    }

    /// Everything up to here is done with.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.slot.lsn
    }

    /// Everything up to `lsn` is done with, durably when this returns: one write and one flush. It may go back.
    ///
    /// # Errors
    /// I/O: the place is the old one or the new one then.
    pub fn save(&mut self, lsn: Lsn) -> Result<(), CursorError> {
        // A log that was cut back has written here, too.
        let known = read(&*self.file, self.block_bytes, self.slot.log_id)?.map_or(0, |slot| slot.sequence);
        let slot = CursorSlot { sequence: known.max(self.slot.sequence) + 1, lsn, ..self.slot };
        write(&*self.file, self.block_bytes, slot)?;
        self.slot = slot;
        Ok(())
    }

    /// Gives the place up: nothing is kept for it any more.
    ///
    /// # Errors
    /// I/O.
    pub fn remove(self) -> Result<(), CursorError> {
        self.dir.remove(&self.name)?;
        Ok(self.dir.sync()?)
    }
}

/// Every cursor of the log, by name.
pub(crate) fn all(dir: &dyn Directory, log_id: LogId) -> Result<Vec<(String, Lsn)>, CursorError> {
    let block_bytes = dir.block_bytes()? as usize;
    let mut found = Vec::new();
    for entry in dir.list()? {
        if let Name::Cursor(name) = parse_name(&entry.name) {
            let file = dir.open(&entry.name, Access::Read)?;
            found.extend(read(&*file, block_bytes, log_id)?.map(|slot| (name, slot.lsn)));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Takes every cursor above `last` back to it: what was there is gone.
pub(crate) fn lower(dir: &dyn Directory, last: Lsn) -> Result<(), CursorError> {
    let block_bytes = dir.block_bytes()? as usize;
    for entry in dir.list()? {
        if let Name::Cursor(_) = parse_name(&entry.name) {
            let file = dir.open(&entry.name, Access::ReadWrite)?;
            // One that cannot be read keeps everything until somebody looks at it.
            if let Ok(Some(slot)) = read_any(&*file, block_bytes)
                && slot.lsn > last
            {
                write(&*file, block_bytes, CursorSlot { sequence: slot.sequence + 1, lsn: last, ..slot })?;
            }
        }
    }
    Ok(())
}

/// The slot that counts; none if the cursor was never made.
fn read(file: &dyn SegmentFile, block_bytes: usize, log_id: LogId) -> Result<Option<CursorSlot>, CursorError> {
    match read_any(file, block_bytes)? {
        Some(slot) if slot.log_id != log_id => {
            Err(CursorError::Damaged { path: file.path().to_path_buf(), what: "of another log" })
        }
        slot => Ok(slot),
    }
}

fn read_any(file: &dyn SegmentFile, block_bytes: usize) -> Result<Option<CursorSlot>, CursorError> {
    let mut buffer = Buffer::new(2 * block_bytes);
    let len = file.read_at(&mut buffer[..2 * block_bytes], 0)?;
    let damaged = |what| CursorError::Damaged { path: file.path().to_path_buf(), what };
    let (mut best, mut bad): (Option<CursorSlot>, bool) = (None, false);
    for block in buffer[..len].chunks(block_bytes) {
        match CursorSlot::decode(block) {
            Verdict::Valid(slot) if best.is_none_or(|best| best.sequence < slot.sequence) => best = Some(slot),
            Verdict::Newer(_) => return Err(damaged("of a newer format")),
            Verdict::Valid(_) | Verdict::Zero => {}
            Verdict::Stale(_) | Verdict::Bad => bad = true,
        }
    }
    match best {
        None if bad => Err(damaged("damaged")),
        best => Ok(best),
    }
}

fn write(file: &dyn SegmentFile, block_bytes: usize, slot: CursorSlot) -> Result<(), CursorError> {
    let mut buffer = Buffer::new(block_bytes);
    slot.encode(&mut buffer[..block_bytes]);
    file.write_at(&buffer[..block_bytes], slot.sequence % 2 * block_bytes as u64)?;
    Ok(file.sync()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Rot, Sim, SimOptions};

    const LOG: LogId = LogId::new([4; 16]);

    fn open(sim: &Sim) -> Result<Cursor, CursorError> {
        Cursor::open(sim.directory(), LOG, "indexer", Lsn::new(3))
    }

    #[test]
    fn a_place_survives_and_a_torn_save_leaves_the_one_before() {
        let sim = Sim::new(1, SimOptions::default());
        let mut cursor = open(&sim).unwrap();
        assert_eq!(cursor.lsn(), Lsn::new(3));
        for lsn in 4..=10 {
            cursor.save(Lsn::new(lsn)).unwrap();
        }
        sim.power_cut();
        assert_eq!(open(&sim).unwrap().lsn(), Lsn::new(10));
        assert_eq!(all(&*sim.directory(), LOG).unwrap(), [("indexer".to_owned(), Lsn::new(10))]);
        // Sequence 8 stands in the first slot.
        assert!(sim.rot("indexer.cursor", 0, 512, Rot::Garble));
        assert_eq!(open(&sim).unwrap().lsn(), Lsn::new(9));
        let mut cursor = open(&sim).unwrap();
        cursor.save(Lsn::new(20)).unwrap();
        assert_eq!(open(&sim).unwrap().lsn(), Lsn::new(20));
        open(&sim).unwrap().remove().unwrap();
        sim.power_cut();
        assert_eq!(all(&*sim.directory(), LOG).unwrap(), []);
    }

    #[test]
    fn every_cut_of_a_making_and_a_save_leaves_a_place_or_none() {
        for operations in 0..30 {
            let sim = Sim::new(operations, SimOptions::default());
            sim.crash_after(Some(operations));
            let made = open(&sim).and_then(|mut cursor| cursor.save(Lsn::new(8)).map(|()| cursor));
            sim.crash_after(None);
            sim.power_cut();
            let found = all(&*sim.directory(), LOG).unwrap();
            let place = found.first().map(|(_, lsn)| lsn.get());
            match made {
                Ok(_) => assert_eq!(place, Some(8), "after {operations}"),
                Err(_) => assert!(matches!(place, None | Some(3 | 8)), "{place:?} after {operations}"),
            }
            open(&sim).unwrap().save(Lsn::new(9)).unwrap();
            assert_eq!(open(&sim).unwrap().lsn(), Lsn::new(9));
        }
    }

    #[test]
    fn names_other_logs_and_damage_are_refused() {
        let sim = Sim::new(1, SimOptions::default());
        for name in ["", "a/b", "..", "A", "x.y", &"n".repeat(65)] {
            let opened = Cursor::open(sim.directory(), LOG, name, Lsn::ZERO);
            assert!(matches!(opened, Err(CursorError::Name(_))), "{name}");
        }
        open(&sim).unwrap();
        let other = Cursor::open(sim.directory(), LogId::new([5; 16]), "indexer", Lsn::ZERO);
        assert!(matches!(other, Err(CursorError::Damaged { .. })));
        assert!(sim.rot("indexer.cursor", 0, 1024, Rot::Garble));
        assert!(matches!(open(&sim), Err(CursorError::Damaged { .. })));
        assert!(matches!(all(&*sim.directory(), LOG), Err(CursorError::Damaged { .. })));
    }
}
