//! What a directory holds, before anything is decided: its segments, their first batches, and the walk along the chain.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::segment::{Found, Segment, Window};
use crate::disk::{Access, Buffer, Directory, EntryKind};
use crate::error::{IoFailure, OpenError};
use crate::format::segment::{Name, SEGMENT_HEADER_BYTES, parse_name};
use crate::format::{Kind, Link, SEGMENT_BYTES_MAX, SegmentHeader, Verdict, batch_blocks};
use crate::lsn::{LogId, Lsn, SegmentId};
use crate::seeded;

/// Why a survey cannot go on: row R1 of the recovery table, or not a log at all.
#[derive(Debug)]
pub(crate) enum Refusal {
    Io(IoFailure),
    Newer { path: PathBuf, version: u32 },
    NotALog { path: PathBuf, what: &'static str },
}

impl From<IoFailure> for Refusal {
    fn from(failure: IoFailure) -> Self {
        Self::Io(failure)
    }
}

impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Io(failure) => Self::Io(failure),
            Refusal::Newer { path, version } => Self::NewerFormat { path, version },
            Refusal::NotALog { path, what } => Self::NotALog { path, what },
        }
    }
}

/// A segment file and the verdict on its first batch's header.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) segment: Segment,
    pub(crate) first: Verdict<Found>,
}

impl Seen {
    /// The first batch, if its header is valid.
    pub(crate) fn first(&self) -> Option<&Found> {
        match &self.first {
            Verdict::Valid(found) => Some(found),
            _ => None,
        }
    }
}

/// A file under a segment's name whose static block is bad, of another segment or of another log.
#[derive(Clone, Debug)]
pub(crate) struct BadSegment {
    pub(crate) id: SegmentId,
    /// Whether it cannot be what a crash left of a preparation: a batch of this log stands in it, or its static block is
    /// whole and of another log, another segment or a greater length. Such a file is nobody's to overwrite.
    pub(crate) damaged: bool,
}

/// What stands in a segment off the walk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strays {
    pub(crate) found: Vec<Found>,
    /// Blocks that are neither zero nor stale.
    pub(crate) torn_bytes: u64,
}

/// The survey of one directory.
#[derive(Debug)]
pub(crate) struct Survey<'a> {
    pub(crate) dir: &'a dyn Directory,
    pub(crate) log_id: Option<LogId>,
    /// Whether the lock file carries a log id.
    pub(crate) id_recorded: bool,
    pub(crate) segments: BTreeMap<SegmentId, Seen>,
    pub(crate) bad: Vec<BadSegment>,
    /// Numbers of the spare files.
    pub(crate) spares: Vec<u64>,
    /// Names that are not ours: mentioned and ignored.
    pub(crate) strangers: Vec<String>,
    pub(crate) window: Window,
}

impl<'a> Survey<'a> {
    /// Reads the directory, every static block and every first header. Changes nothing.
    pub(crate) fn take(dir: &'a dyn Directory, access: Access) -> Result<Self, Refusal> {
        let align = dir.block_bytes()?;
        let recorded = dir.recorded_log_id()?;
        let mut survey = Self {
            dir,
            log_id: recorded,
            id_recorded: recorded.is_some(),
            segments: BTreeMap::new(),
            bad: Vec::new(),
            spares: Vec::new(),
            strangers: Vec::new(),
            window: Window::new(align),
        };
        let mut ids = Vec::new();
        for entry in dir.list()? {
            match (parse_name(&entry.name), entry.kind) {
                (Name::Unknown, _) => survey.strangers.push(entry.name),
                (_, EntryKind::Odd(what)) => return Err(Refusal::NotALog { path: dir.path().join(entry.name), what }),
                (Name::Segment(id), _) => ids.push((id, entry.name)),
                (Name::Spare(number), _) => survey.spares.push(number),
                (Name::Lock | Name::Standby | Name::Cursor(_), _) => {}
            }
        }
        ids.sort_unstable();
        survey.spares.sort_unstable();
        survey.strangers.sort_unstable();
        let mut suspects = Vec::new();
        for (id, name) in ids {
            if let Some(suspect) = survey.take_segment(id, &name, align, access)? {
                suspects.push(suspect);
            }
        }
        for (segment, whole) in suspects {
            let damaged = whole || survey.holds_batch(&segment)?;
            survey.bad.push(BadSegment { id: segment.id(), damaged });
        }
        Ok(survey)
    }

    /// Takes one segment in; hands it back if its static block is not what it should be, and says whether that is whole.
    fn take_segment(
        &mut self,
        id: SegmentId,
        name: &str,
        align: u32,
        access: Access,
    ) -> Result<Option<(Segment, bool)>, Refusal> {
        let file = self.dir.open(name, access)?;
        // The first batch's header, too: of a large log every read counts.
        let block = (align as usize).max(SEGMENT_HEADER_BYTES);
        let mut begin = Buffer::new(2 * block);
        let len = file.read_at(&mut begin, 0)?;
        let path = file.path().to_path_buf();
        match SegmentHeader::decode(&begin[..len.min(block)]) {
            Verdict::Newer(version) => Err(Refusal::Newer { path, version }),
            // A segment got its name at its full length: a shorter one has lost what stood behind.
            Verdict::Valid(header)
                if header.id == id
                    && self.log_id.is_none_or(|log_id| log_id == header.log_id)
                    && file.len()? >= header.bytes() =>
            {
                self.log_id = Some(header.log_id);
                let segment = Segment { header, file };
                self.window.hold(&segment, begin, len);
                let first = self.window.header_at(&segment, 1, false)?;
                if let Verdict::Newer(version) = first {
                    return Err(Refusal::Newer { path, version });
                }
                self.segments.insert(id, Seen { segment, first });
                Ok(None)
            }
            verdict => {
                let bytes = file.len()?;
                if bytes > SEGMENT_BYTES_MAX {
                    return Err(Refusal::NotALog { path, what: "larger than any segment" });
                }
                let log_id = self.log_id.unwrap_or(LogId::new([0; 16]));
                let blocks = u32::try_from(bytes / u64::from(align)).unwrap_or(u32::MAX);
                let header = SegmentHeader { log_id, id, block_bytes: align, blocks, created_ns: 0 };
                Ok(Some((Segment { header, file }, matches!(verdict, Verdict::Valid(_)))))
            }
        }
    }

    /// Whether a header of this log stands anywhere in a segment.
    pub(crate) fn holds_batch(&mut self, segment: &Segment) -> Result<bool, Refusal> {
        let mut segment = segment.clone();
        segment.header.log_id = self.log_id.unwrap_or(segment.header.log_id);
        for block in 1..segment.header.blocks {
            if matches!(self.window.header_at(&segment, block, true)?, Verdict::Valid(_) | Verdict::Newer(_)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The segment with this id, if its static block is good.
    pub(crate) fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.get(&id).map(|seen| &seen.segment)
    }

    /// What stands at a block, its records included. An absent segment has nothing but bad blocks.
    pub(crate) fn batch_at(&mut self, id: SegmentId, block: u32) -> Result<Verdict<Found>, Refusal> {
        let Some(seen) = self.segments.get(&id) else { return Ok(Verdict::Bad) };
        if block >= seen.segment.header.blocks {
            return Ok(Verdict::Bad);
        }
        let verdict = self.window.batch_at(&seen.segment, block)?;
        self.refuse_newer(id, verdict)
    }

    /// What header stands at a block; see [`Survey::batch_at`].
    pub(crate) fn header_at(&mut self, id: SegmentId, block: u32, ahead: bool) -> Result<Verdict<Found>, Refusal> {
        let Some(seen) = self.segments.get(&id) else { return Ok(Verdict::Bad) };
        if block >= seen.segment.header.blocks {
            return Ok(Verdict::Bad);
        }
        let verdict = self.window.header_at(&seen.segment, block, ahead)?;
        self.refuse_newer(id, verdict)
    }

    fn refuse_newer(&self, id: SegmentId, verdict: Verdict<Found>) -> Result<Verdict<Found>, Refusal> {
        match (verdict, self.segment(id)) {
            (Verdict::Newer(version), Some(segment)) => {
                Err(Refusal::Newer { path: segment.path().to_path_buf(), version })
            }
            (verdict, _) => Ok(verdict),
        }
    }

    /// The batch behind `cur` on the chain: the valid one that links to it, behind it or in block 1 of a later segment.
    pub(crate) fn successor(&mut self, cur: &Found) -> Result<Option<Found>, Refusal> {
        let id = cur.header.segment;
        let Some(segment) = self.segment(id) else { return Ok(None) };
        let behind = cur.header.block + cur.header.blocks(segment.header.block_bytes);
        if let Verdict::Valid(next) = self.batch_at(id, behind)?
            && follows(cur, &next)
        {
            return Ok(Some(next));
        }
        let later: Vec<Found> =
            self.segments.range(id.next()..).filter_map(|(_, seen)| seen.first().copied()).collect();
        for next in later.into_iter().filter(|next| follows(cur, next)) {
            if let Verdict::Valid(next) = self.batch_at(next.header.segment, 1)? {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    /// Whether a segment's first blocks say that it was prepared (or recycled) and never written. Two of them: behind a
    /// cut opening, one block long, there is always a seal, so that losing the one block hides nothing.
    pub(crate) fn looks_unused(&mut self, id: SegmentId) -> Result<bool, Refusal> {
        let unused = |verdict| matches!(verdict, Verdict::Zero | Verdict::Stale(_));
        let first = self.segments.get(&id).is_some_and(|seen| unused(seen.first));
        Ok(first && unused(self.header_at(id, 2, false)?))
    }

    /// What stands in a segment from `block` on: header-valid batches, and how much is neither zero nor stale.
    pub(crate) fn strays(&mut self, id: SegmentId, block: u32) -> Result<Strays, Refusal> {
        let mut strays = Strays::default();
        let Some(header) = self.segment(id).map(|segment| segment.header) else { return Ok(strays) };
        // A stale header covers the blocks of its records: they have no header of their own to be told by.
        let mut stale_until = 0;
        for block in block..header.blocks {
            match self.header_at(id, block, true)? {
                Verdict::Zero => {}
                Verdict::Stale(records_bytes) => {
                    stale_until = block.saturating_add(batch_blocks(records_bytes as usize, header.block_bytes));
                }
                Verdict::Valid(found) => {
                    strays.found.push(found);
                    strays.torn_bytes += u64::from(header.block_bytes);
                }
                _ if block < stale_until => {}
                _ => strays.torn_bytes += u64::from(header.block_bytes),
            }
        }
        Ok(strays)
    }

    /// The first batch of the segment that `link` leads into, if the link holds: it leads into a segment below that of the
    /// batch which has it, to a batch that holds all records up to that batch's `first`.
    pub(crate) fn linked_first(&mut self, link: Link, below: SegmentId, first: Lsn) -> Result<Option<Found>, Refusal> {
        let linked = self.header_at(link.segment, link.block, false)?;
        // One behind a cut opening may hold more than the opening kept of it.
        let holds = matches!(linked, Verdict::Valid(found) if found.link() == link && next_lsn(&found) >= first);
        let begin = self.segments.get(&link.segment).and_then(Seen::first).copied();
        Ok(begin.filter(|begin| holds && begin.header.segment < below))
    }

    /// The block behind a batch.
    pub(crate) fn end_of(&self, found: &Found) -> u32 {
        let block_bytes = self.segment(found.header.segment).map_or(4096, |segment| segment.header.block_bytes);
        found.header.block + found.header.blocks(block_bytes)
    }

    /// The path of a segment's file, also of one that is missing.
    pub(crate) fn path_of(&self, id: SegmentId) -> Arc<Path> {
        match self.segment(id) {
            Some(segment) => segment.path().clone(),
            None => self.dir.path().join(crate::format::segment::segment_name(id)).into(),
        }
    }
}

/// Whether `next` is what comes behind `cur`. A cut opening never is: it begins a chain of its own.
pub(crate) fn follows(cur: &Found, next: &Found) -> bool {
    let (before, header) = (&cur.header, &next.header);
    if seeded::is("m10") || seeded::is("m11") {
        return !header.cut && header.first == next_lsn(cur);
    }
    let same_epoch = header.epoch == before.epoch && header.nonce == before.nonce;
    let in_order = match header.kind {
        Kind::Opening => (before.close || seeded::is("idle-reopen")) && header.epoch > before.epoch,
        Kind::Copy => same_epoch && matches!(before.kind, Kind::Opening | Kind::Copy),
        Kind::Data | Kind::Seal => same_epoch && !before.close,
    };
    header.link == Some(cur.link()) && !header.cut && in_order && header.first == next_lsn(cur)
}

/// The LSN behind a batch.
pub(crate) fn next_lsn(found: &Found) -> Lsn {
    found.header.last().next()
}
