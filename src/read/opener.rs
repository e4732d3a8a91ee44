//! What an opening writes: the opening itself, copies of what nothing proves durable, the seal; and what it clears away.

use std::collections::BTreeMap;

use super::assess::Assessment;
use super::recover::{Opened, RecoveryReport, Surroundings};
use super::segment::{self, Found, Segment};
use super::settled::last_records;
use super::survey::{Refusal, Survey};
use super::walk::Walk;
use crate::disk::{Buffer, Directory};
use crate::error::{Damage, OpenError};
use crate::format::segment::{segment_name, spare_name};
use crate::format::{BatchHeader, Kind, RecordCrc, RecordKind, SegmentHeader, Verdict, record};
use crate::journal::placement::SPARES_MAX;
use crate::journal::recovery::Row;
use crate::journal::{Chain, PathSegment, Placement, Shape, Space, Terms};
use crate::lsn::{LogId, Lsn, SegmentId};
use crate::options::Limits;
use crate::runtime::prepare::{AtOnce, prepare};
use crate::runtime::recycle;
use crate::seeded;

/// What is being written by an opening.
pub(super) struct Opener<'a> {
    dir: &'a dyn Directory,
    limits: &'a Limits,
    created_ns: u64,
    pub(super) chain: Chain,
    placement: Placement,
    /// The files of the current segment and the ready ones.
    files: BTreeMap<SegmentId, Segment>,
    path: Vec<PathSegment>,
    next_segment: SegmentId,
    /// Unused segments that do not suit the options.
    unfit: Vec<SegmentId>,
    /// Numbers of the spares that may be used again.
    spares: Vec<u64>,
    /// Segments written to and not yet flushed.
    unsynced: Vec<SegmentId>,
    records_copied: u64,
}

impl<'a> Opener<'a> {
    pub(super) fn new(
        survey: &Survey<'a>,
        verdict: &Assessment,
        limits: &'a Limits,
        outside: &mut Surroundings,
    ) -> Result<Self, OpenError> {
        if let (Some(found), Some(wanted)) = (survey.log_id, limits.log_id)
            && found != wanted
        {
            return Err(OpenError::WrongLog { path: survey.dir.path().to_path_buf(), found, wanted });
        }
        let log_id = survey.log_id.or(limits.log_id).unwrap_or_else(|| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(outside.random)().to_le_bytes());
            id[8..].copy_from_slice(&(outside.random)().to_le_bytes());
            LogId::new(id)
        });
        let nonce = (outside.random)();
        let nonce = if seeded::is("no-nonce") || seeded::is("payload-blind-link") { 0 } else { nonce };
        let term = verdict.walk.as_ref().map_or(0, |walk| walk.term).max(limits.term);
        let chain = Chain { log_id, epoch: verdict.next_epoch, nonce, term, trim: verdict.trim, link: None };
        // Unused segments above all used ones are ready. One that does not suit goes, and so do those above it, so that
        // ids stay without gaps.
        let suits = |segment: &Segment| {
            segment.header.blocks >= limits.first_blocks && segment.header.block_bytes == limits.block_bytes
        };
        let named = survey.segments.keys().copied().chain(survey.bad.iter().map(|bad| bad.id));
        let mut unused: Vec<SegmentId> = named.filter(|id| *id > verdict.used_max).collect();
        unused.sort_unstable();
        let good = unused.iter().take_while(|id| survey.segment(**id).is_some_and(suits)).count();
        let unfit = unused.split_off(good);
        let next_segment = unused.last().copied().unwrap_or(verdict.used_max).next();
        let files: BTreeMap<_, _> = unused.iter().filter_map(|id| Some((*id, survey.segment(*id)?.clone()))).collect();
        let ready: Vec<Space> = files.values().map(space_of).collect();
        Ok(Self {
            dir: survey.dir,
            limits,
            created_ns: outside.created_ns,
            chain,
            placement: Placement::new(NOWHERE, 0, ready),
            files,
            path: verdict.path.clone(),
            next_segment,
            unfit,
            spares: Vec::new(),
            unsynced: Vec::new(),
            records_copied: 0,
        })
    }

    /// Removes what cannot be used: unfit segments, the greatest id first, and spares that a crash left half made.
    pub(super) fn remove_unfit(&mut self, survey: &Survey<'_>, used_max: SegmentId) -> Result<(), OpenError> {
        while let Some(id) = self.unfit.pop() {
            self.dir.remove(&segment_name(id))?;
            self.dir.sync()?;
        }
        for number in &survey.spares {
            if self.spares.len() < SPARES_MAX && self.was_segment(*number, used_max)? {
                self.spares.push(*number);
            } else {
                self.dir.remove(&spare_name(*number))?;
            }
        }
        Ok(())
    }

    /// Whether a spare is a whole segment that was freed, to be used again as it is: it still carries its own id, one that
    /// was used. What is being prepared carries the id that it is to have.
    fn was_segment(&self, number: u64, used_max: SegmentId) -> Result<bool, OpenError> {
        let (file, verdict) = segment::open(self.dir, &spare_name(number))?;
        Ok(match verdict {
            Verdict::Valid(header) => {
                let freed = header.id.get() == number && header.id <= used_max && header.log_id == self.chain.log_id;
                freed && self.is_alike(&header) && file.len()? == header.bytes()
            }
            _ => false,
        })
    }

    /// Whether a file's length is that of a segment under the present options: only such a one is used again.
    fn is_alike(&self, header: &SegmentHeader) -> bool {
        header.bytes() == self.limits.segment_bytes() && header.block_bytes == self.limits.block_bytes
    }

    /// Whether the log can go on in the segment where it was closed.
    pub(super) fn fits_in_place(&self, survey: &Survey<'_>, walk: &Walk) -> bool {
        let segment = survey.segment(walk.cur.header.segment);
        segment.is_some_and(|segment| segment.header.block_bytes == self.limits.block_bytes)
    }

    /// Row R10: writes the close seal again, byte for byte, and flushes it: it may never have reached the medium. Then
    /// the opening follows in place.
    pub(super) fn continue_behind(
        &mut self,
        survey: &mut Survey<'_>,
        walk: &Walk,
        end: (SegmentId, u32),
    ) -> Result<(), OpenError> {
        let Some(segment) = survey.segment(end.0).cloned() else { return Err(OpenError::RuntimeEnded) };
        if !seeded::is("no-reseal") {
            let seal = survey.window.bytes_of(&segment, &walk.cur).map_err(Refusal::Io)?;
            let mut buffer = Buffer::new(seal.len());
            buffer[..seal.len()].copy_from_slice(seal);
            let len = seal.len();
            segment.file.write_at(&buffer[..len], segment.offset(walk.cur.header.block))?;
            segment.file.sync()?;
        }
        let ready: Vec<Space> = self.files.values().map(space_of).collect();
        self.placement = Placement::new(space_of(&segment), end.1, ready);
        self.files.insert(end.0, segment);
        self.chain.link = Some(walk.cur.link());
        let shape = self.place(0, walk.n.next())?;
        let header = self.chain.header(Kind::Opening, &shape, walk.n);
        self.write(&header, &shape, &[])?;
        self.flush()
    }

    /// Every other row: a cut opening in a segment above all used ones, with copies of what nothing proves durable.
    pub(super) fn cut(&mut self, survey: &mut Survey<'_>, basis: &Basis, last: Lsn) -> Result<(), OpenError> {
        let keeps = |segment: &PathSegment| basis.proved.is_some_and(|found| segment.id <= found.header.segment);
        self.path.retain(keeps);
        self.chain.link = basis.proved.as_ref().map(Found::link);
        // The opening stands in block 1, wherever the copies go.
        self.placement = std::mem::replace(&mut self.placement, Placement::new(NOWHERE, 0, [])).leave();
        let shape = self.place(0, basis.kept.next())?;
        let mut header = self.chain.header(Kind::Opening, &shape, basis.kept);
        header.cut = true;
        header.restated_to = last;
        self.write(&header, &shape, &[])?;
        // Flushed before the first copy: a segment whose first block is zero or stale then never hides batches of an
        // epoch that nobody else has seen, and openings need not read ready segments to their end.
        self.flush()?;
        for found in &basis.copies {
            self.copy(survey, found, basis.kept)?;
        }
        if seeded::is("m15") {
            wipe(survey, &basis.copies)?;
        }
        self.flush()
    }

    /// Writes the records of a batch again, under this epoch.
    fn copy(&mut self, survey: &mut Survey<'_>, found: &Found, kept: Lsn) -> Result<(), OpenError> {
        let Some(segment) = survey.segment(found.header.segment).cloned() else { return Err(OpenError::RuntimeEnded) };
        let mut shape = self.place(found.header.records_bytes as usize, found.header.first)?;
        let mut body = Vec::with_capacity(shape.records_bytes);
        let source = survey.window.bytes_of(&segment, found).map_err(Refusal::Io)?;
        for record in found.header.records(source) {
            let Ok(record) = record else { return Err(OpenError::Damaged(changed_underfoot(&segment, found))) };
            let at = body.len();
            body.resize(at + crate::format::record_bytes(record.payload.len()), 0);
            let crc = RecordCrc::of_kind(record.kind, record.payload, self.chain.log_id, self.chain.nonce);
            shape.digest = shape.digest.wrapping_add(record::encode(crc, record.lsn, record.payload, &mut body[at..]));
            shape.count += u32::from(record.kind == RecordKind::User);
        }
        self.records_copied += u64::from(shape.count);
        let mut header = self.chain.header(Kind::Copy, &shape, kept);
        // Theirs, not that of the epoch which writes them again: it says under whom they were appended.
        header.term = found.header.term;
        self.write(&header, &shape, &body)
    }

    /// Flushes a seal behind the opening: only now may the kept records be shown.
    pub(super) fn seal(&mut self, last: Lsn) -> Result<(), OpenError> {
        let shape = self.place(0, last.next())?;
        let header = self.chain.header(Kind::Seal, &shape, last);
        self.write(&header, &shape, &[])?;
        self.flush()
    }

    /// A place for a batch of `records_bytes`; prepares a segment if none is ready.
    fn place(&mut self, records_bytes: usize, first: Lsn) -> Result<Shape, OpenError> {
        let fits = if records_bytes == 0 {
            self.placement.has_block()
        } else {
            records_bytes <= self.placement.records_bytes_behind(0)
        };
        if !fits && !self.placement.rotate(records_bytes) {
            self.prepare_for(records_bytes)?;
            self.placement.rotate(records_bytes);
        }
        let block_bytes = self.placement.next().block_bytes;
        let place = self.placement.take(crate::format::batch_blocks(records_bytes, block_bytes));
        Ok(Shape { place, first, count: 0, records_bytes, digest: 0 })
    }

    /// Prepares a segment that holds a batch of `records_bytes`. A short one, since somebody waits for it: the full length
    /// is the helper's work.
    fn prepare_for(&mut self, records_bytes: usize) -> Result<(), OpenError> {
        let ready: Vec<SegmentId> = self.placement.drain_ready();
        for id in ready.into_iter().rev() {
            self.files.remove(&id);
            self.dir.remove(&segment_name(id))?;
            self.dir.sync()?;
            self.next_segment = id;
        }
        let blocks = crate::format::batch_blocks(records_bytes, self.limits.block_bytes)
            + 1
            + crate::journal::placement::SEAL_BLOCKS;
        let header = SegmentHeader {
            log_id: self.chain.log_id,
            id: self.next_segment,
            block_bytes: self.limits.block_bytes,
            blocks: blocks.max(self.limits.first_blocks),
            created_ns: self.created_ns,
        };
        let segment =
            Segment { header, file: prepare(self.dir, &header, None, &mut AtOnce)?.ok_or(OpenError::RuntimeEnded)? };
        self.placement.add_ready(space_of(&segment));
        self.files.insert(header.id, segment);
        self.next_segment = header.id.next();
        Ok(())
    }

    fn write(&mut self, header: &BatchHeader, shape: &Shape, body: &[u8]) -> Result<(), OpenError> {
        let mut buffer = Buffer::new(shape.bytes());
        let len = shape.bytes();
        buffer[crate::format::BATCH_HEADER_BYTES..][..body.len()].copy_from_slice(body);
        if self.path.last().is_none_or(|last| last.id != header.segment) {
            self.path.push(PathSegment { id: header.segment, first: header.first, link: header.link });
        }
        self.chain.append(header, &mut buffer);
        let Some(segment) = self.files.get(&header.segment) else { return Err(OpenError::RuntimeEnded) };
        segment.file.write_at(&buffer[..len], shape.place.offset())?;
        if self.unsynced.last() != Some(&header.segment) {
            self.unsynced.push(header.segment);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), OpenError> {
        if seeded::is("m13") {
            return Ok(());
        }
        for id in self.unsynced.drain(..) {
            if let Some(segment) = self.files.get(&id) {
                segment.file.sync()?;
            }
        }
        Ok(())
    }

    /// Turns segments that are no longer on the chain into spares, or removes them.
    pub(super) fn clear_dead(&mut self, survey: &Survey<'_>) -> Result<(), OpenError> {
        let current = self.placement.next().segment;
        if seeded::is("leave-dead") {
            return Ok(());
        }
        for (id, seen) in survey.segments.range(..current) {
            if self.path.iter().any(|segment| segment.id == *id) {
                continue;
            }
            self.free(*id, &seen.segment.header)?;
        }
        Ok(())
    }

    fn free(&mut self, id: SegmentId, header: &SegmentHeader) -> Result<(), OpenError> {
        let keep = self.is_alike(header);
        if let Some(number) = recycle::free(self.dir, id, keep && self.spares.len() < SPARES_MAX)? {
            self.spares.push(number);
        }
        Ok(())
    }

    /// Removes whole segments all of whose records are below `first`, the lowest id first, the directory synced each
    /// time: what is left is a chain at any moment.
    pub(super) fn remove_trimmed(&mut self, survey: &Survey<'_>, first: Lsn) -> Result<(), OpenError> {
        while self.path.get(1).is_some_and(|next| next.first <= first) {
            let gone = self.path.remove(0);
            if let Some(header) = survey.segment(gone.id).map(|segment| segment.header) {
                self.free(gone.id, &header)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(self, survey: &Survey<'_>, verdict: &Assessment) -> Opened {
        let terms = Terms { full_blocks: self.limits.segment_blocks, shares: self.limits.shares() };
        let report = RecoveryReport {
            label: verdict.row.label(),
            meaning: verdict.row.meaning(),
            first: verdict.first,
            last: verdict.last,
            torn_bytes: verdict.torn_bytes,
            records_copied: self.records_copied,
            strangers: survey.strangers.clone(),
        };
        Opened {
            chain: self.chain,
            placement: self.placement.on(terms),
            files: self.files,
            path: self.path,
            first: verdict.first,
            last: verdict.last,
            next_segment: self.next_segment,
            spares: self.spares,
            created_ns: self.created_ns,
            report,
        }
    }
}

/// A segment without blocks: whatever is placed behind it goes to the next one.
const NOWHERE: Space = Space { id: SegmentId::new(0), block_bytes: 4096, blocks: 0 };

fn space_of(segment: &Segment) -> Space {
    Space { id: segment.id(), block_bytes: segment.header.block_bytes, blocks: segment.header.blocks }
}

/// What a cut opening stands on.
pub(super) struct Basis {
    /// P: the last record-bearing batch proved durable.
    proved: Option<Found>,
    /// The last LSN that P holds for this chain.
    kept: Lsn,
    /// The batches behind it, to be written again.
    copies: Vec<Found>,
}

impl Basis {
    /// An empty log.
    pub(super) fn nothing(kept: Lsn) -> Self {
        Self { proved: None, kept, copies: Vec::new() }
    }

    /// Of what the walk found; of no more than `after`, if given.
    pub(super) fn of(survey: &mut Survey<'_>, walk: &Walk, after: Option<Lsn>) -> Result<Self, OpenError> {
        let from = match walk.proved {
            Some(found) if after.is_none() && !seeded::is("no-copy") => found,
            None if after.is_none() && !seeded::is("no-copy") => walk.start,
            _ => walk.cur,
        };
        let copies = if after.is_some() || seeded::is("no-copy") { Vec::new() } else { walk.unproved.clone() };
        // An unproved batch at the start of the walk is copied, and what stands before it is the basis.
        let below = copies.first().map_or(Lsn::MAX, |found| found.header.first.prev()).min(after.unwrap_or(Lsn::MAX));
        Ok(match last_records(survey, &from, below)? {
            Some((found, kept)) => Self { proved: Some(found), kept, copies },
            None => Self { proved: None, kept: below.min(walk.n), copies },
        })
    }
}

/// A seeded bug: what is copied goes before the copies are durable.
fn wipe(survey: &Survey<'_>, copies: &[Found]) -> Result<(), OpenError> {
    for header in copies.iter().map(|found| &found.header) {
        let Some(segment) = survey.segment(header.segment) else { continue };
        let zeros = Buffer::new(segment.header.block_bytes as usize);
        segment.file.write_at(&zeros[..segment.header.block_bytes as usize], segment.offset(header.block))?;
        segment.file.sync()?;
    }
    Ok(())
}

/// A batch that was whole when the chain was walked and is not any more.
fn changed_underfoot(segment: &Segment, found: &Found) -> Damage {
    Damage {
        label: Row::R7.label(),
        path: segment.path().clone(),
        segment: segment.id(),
        offset: segment.offset(found.header.block),
        first: found.header.first,
        last: found.header.last(),
        what: "a batch changed while it was read",
    }
}
