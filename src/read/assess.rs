//! From bytes to facts: where the chain begins, how far it goes, what stands off it, and which row of the recovery
//! table follows. Reads only.

use super::segment::Found;
use super::survey::{Refusal, Seen, Survey, next_lsn};
use crate::error::Damage;
use crate::format::{Kind, Verdict};
use crate::journal::PathSegment;
use crate::journal::recovery::{self, Facts, Outcome, Row};
use crate::lsn::{Epoch, Lsn, SegmentId};
use crate::seeded;

/// How often the end of the walk is read again before what stands behind it is called evidence of damage.
const REREADS_MAX: usize = 8;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What an opening needs: bodies from the newest segment whose first record is claimed durable (or next to it) on,
    /// links before that.
    Tail,
    /// Every byte.
    Whole,
}

/// What the walk along the chain found.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// The first batch walked.
    pub(crate) start: Found,
    /// The last batch.
    pub(crate) cur: Found,
    /// The segments walked, in order.
    pub(crate) path: Vec<PathSegment>,
    /// The last LSN.
    pub(crate) n: Lsn,
    /// The greatest D of its batches.
    claimed: Lsn,
    trim: Lsn,
    /// The last record-bearing batch that is claimed durable, if the walk met one.
    pub(crate) proved: Option<Found>,
    /// The record-bearing batches behind it.
    pub(crate) unproved: Vec<Found>,
}

impl Walk {
    fn new(start: &Found) -> Self {
        let before = start.header.first.prev();
        let mut walk = Self {
            start: *start,
            cur: *start,
            path: vec![PathSegment::new(&start.header)],
            n: before,
            // What a start stands on was proved durable when it was written.
            claimed: before,
            trim: start.header.trim,
            proved: None,
            unproved: Vec::new(),
        };
        walk.take(start);
        walk
    }

    fn take(&mut self, next: &Found) {
        if next.header.segment != self.cur.header.segment {
            self.path.push(PathSegment::new(&next.header));
        }
        self.cur = *next;
        self.n = next_lsn(next).prev();
        self.trim = self.trim.max(next.header.trim);
        if next.header.count > 0 {
            self.unproved.push(*next);
        }
        self.claim(next.header.durable);
    }

    /// Everything up to `durable` was durable.
    fn claim(&mut self, durable: Lsn) {
        self.claimed = self.claimed.max(durable);
        let proved = self.unproved.iter().take_while(|found| found.header.last() <= self.claimed).count();
        if let Some(last) = self.unproved.drain(..proved).next_back() {
            self.proved = Some(last);
        }
    }
}

/// Header-valid batches off the walk, and what else stands behind its end.
#[derive(Clone, Debug, Default)]
struct Evidence {
    claimed: Lsn,
    trim: Lsn,
    claim_beyond: bool,
    later_epoch: bool,
    /// Blocks behind the end that are neither zero nor stale; and those of them in the segment of the end.
    torn_bytes: u64,
    torn_bytes_here: u64,
}

/// Damage before it has its words: where, and which records.
#[derive(Clone, Copy, Debug)]
struct Spot {
    segment: SegmentId,
    block: u32,
    first: Lsn,
    last: Lsn,
}

/// A start of the chain, or why there is none.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    found: Option<Found>,
    /// An opening without effect whose epoch was used all the same.
    void_used: Option<Found>,
    any_data: bool,
}

/// The whole judgement on a directory.
#[derive(Clone, Debug)]
pub(crate) struct Assessment {
    pub(crate) row: Row,
    pub(crate) damage: Option<Damage>,
    /// The walk; none if there is no chain.
    pub(crate) walk: Option<Walk>,
    /// The live chain, oldest segment first.
    pub(crate) path: Vec<PathSegment>,
    /// The first retained record.
    pub(crate) first: Lsn,
    /// The last record.
    pub(crate) last: Lsn,
    /// The greatest claim: what may be shown before recovery made the rest durable.
    pub(crate) claimed: Lsn,
    /// Above every epoch seen.
    pub(crate) next_epoch: Epoch,
    pub(crate) trim: Lsn,
    /// The greatest segment in which a batch stands.
    pub(crate) used_max: SegmentId,
    pub(crate) torn_bytes: u64,
    /// The end of the walk: segment and block.
    pub(crate) end: (SegmentId, u32),
}

/// Judges what the survey found.
pub(crate) fn assess(survey: &mut Survey<'_>, depth: Depth) -> Result<Assessment, Refusal> {
    let mut facts = Facts {
        no_segments: survey.segments.is_empty() && survey.bad.is_empty(),
        id_recorded: survey.id_recorded,
        ..Facts::default()
    };
    let mut verdict = Assessment::nothing(survey);
    if facts.no_segments {
        return Ok(verdict.settle(survey, &facts, None));
    }
    let start = find_start(survey)?;
    facts.no_start = start.found.is_none();
    facts.any_data = start.any_data;
    facts.void_opening_used = start.void_used.is_some();
    let mut spot = start.void_used.map(|found| Spot {
        segment: found.header.segment,
        block: 1,
        first: found.header.first,
        last: found.header.restated_to,
    });
    if let Some(start) = start.found {
        let broken = verdict.follow(survey, &start, depth, &mut facts)?;
        spot = spot.or(broken);
    }
    if let Some(bad) = survey.bad.iter().find(|bad| bad.damaged || bad.id <= verdict.used_max) {
        facts.bad_segment = true;
        spot = Some(Spot { segment: bad.id, block: 0, first: verdict.first, last: Lsn::MAX });
    }
    if !facts.bad_segment
        && let Some(missing) = missing_above(survey, verdict.end.0)
    {
        facts.segment_missing = true;
        spot = Some(Spot { segment: missing, block: 0, first: verdict.last.next(), last: Lsn::MAX });
    }
    Ok(verdict.settle(survey, &facts, spot))
}

impl Assessment {
    /// Whether the walk ended with a seal of either kind.
    pub(crate) fn ends_sealed(&self) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.cur.header.kind == Kind::Seal)
    }

    fn nothing(survey: &Survey<'_>) -> Self {
        let firsts = || survey.segments.values().filter_map(Seen::first);
        Self {
            row: Row::R2New,
            damage: None,
            walk: None,
            path: Vec::new(),
            first: Lsn::FIRST,
            last: Lsn::ZERO,
            claimed: Lsn::ZERO,
            next_epoch: firsts().map(|found| found.header.epoch).max().unwrap_or_default().next(),
            trim: Lsn::FIRST,
            used_max: firsts().map(|found| found.header.segment).max().unwrap_or_default(),
            torn_bytes: 0,
            end: (SegmentId::default(), 1),
        }
    }

    /// Walks from `start`, weighs what stands off the walk, and checks the links behind it.
    fn follow(
        &mut self,
        survey: &mut Survey<'_>,
        start: &Found,
        depth: Depth,
        facts: &mut Facts,
    ) -> Result<Option<Spot>, Refusal> {
        let mut walk = match depth {
            Depth::Tail => walk_from_anchor(survey, start)?,
            Depth::Whole => walk(survey, start)?,
        };
        let mut evidence = self.weigh(survey, start.header.epoch, &walk, depth)?;
        for _ in 0..REREADS_MAX {
            if !evidence.claim_beyond && !evidence.later_epoch {
                break;
            }
            // Beside a live writer the end may have been written since it was read: only a batch that stays bad while
            // later ones claim it is damage.
            survey.window.forget();
            if !extend(survey, &mut walk)? {
                break;
            }
            evidence = self.weigh(survey, start.header.epoch, &walk, depth)?;
        }
        walk.claim(evidence.claimed.min(walk.n));
        self.next_epoch = self.next_epoch.max(walk.cur.header.epoch.next());
        self.trim = walk.trim.max(evidence.trim);
        self.last = walk.n;
        self.claimed = walk.claimed;
        self.end = (walk.cur.header.segment, survey.end_of(&walk.cur));
        self.torn_bytes = evidence.torn_bytes;
        facts.claim_beyond = evidence.claim_beyond;
        facts.later_epoch = evidence.later_epoch;
        facts.closed = walk.cur.header.close;
        facts.nothing_behind = evidence.torn_bytes == 0;
        let mut spot = Spot { segment: self.end.0, block: self.end.1, first: walk.n.next(), last: Lsn::MAX };
        // Nothing stands behind the end in its own segment: what is missing began the next one.
        if evidence.torn_bytes_here == 0 && survey.segment(spot.segment.next()).is_some() {
            (spot.segment, spot.block) = (spot.segment.next(), 1);
        }
        if evidence.claim_beyond {
            spot.last = evidence.claimed;
        }
        let settled = settled_path(survey, &walk.path[0], self.trim)?;
        self.path = settled.path;
        self.path.extend_from_slice(&walk.path[1..]);
        let mut broken = settled.broken;
        if broken.is_none() && depth == Depth::Whole {
            broken = check_settled(survey, &self.path, &walk.path[0], self.trim)?;
        }
        self.first = self.path.first().map_or(Lsn::FIRST, |segment| segment.first).max(self.trim);
        if let Some((missing, at)) = broken {
            spot = at;
            facts.segment_missing = missing;
            facts.link_broken = !missing;
        }
        self.walk = Some(walk);
        Ok(Some(spot))
    }

    /// Scans what the walk does not cover.
    fn weigh(&mut self, survey: &mut Survey<'_>, epoch: Epoch, walk: &Walk, depth: Depth) -> Result<Evidence, Refusal> {
        let mut evidence = Evidence { trim: walk.trim, ..Evidence::default() };
        let ends = ends_of(survey, walk)?;
        let from = if seeded::is("stale-evidence") { SegmentId::default() } else { walk.path[0].id };
        let ids: Vec<SegmentId> = survey.segments.range(from..).map(|(id, _)| *id).collect();
        for id in ids {
            let walked = ends.iter().find(|(walked, _)| *walked == id).map(|(_, end)| *end);
            // Behind a close seal with nothing after it there was nothing in flight: ready segments need not be read to
            // their end at every opening.
            let clean = walk.cur.header.close && evidence.torn_bytes == 0 && Self::has_room_behind(survey, walk);
            if walked.is_none() && clean && depth == Depth::Tail && survey.looks_unused(id)? {
                continue;
            }
            let strays = survey.strays(id, walked.unwrap_or(1))?;
            if id >= walk.cur.header.segment {
                evidence.torn_bytes += strays.torn_bytes;
            }
            if id == walk.cur.header.segment {
                evidence.torn_bytes_here = strays.torn_bytes;
            }
            for header in strays.found.iter().map(|found| &found.header) {
                self.next_epoch = self.next_epoch.max(header.epoch.next());
                self.used_max = self.used_max.max(id);
                if header.epoch < epoch && !seeded::is("stale-evidence") {
                    continue;
                }
                evidence.claimed = evidence.claimed.max(header.durable);
                evidence.trim = evidence.trim.max(header.trim);
                evidence.claim_beyond |= header.durable > walk.n;
                let used = matches!(header.kind, Kind::Data | Kind::Seal);
                evidence.later_epoch |= used && header.epoch > walk.cur.header.epoch;
                evidence.claim_beyond |= seeded::is("exist") && id > walk.cur.header.segment;
            }
        }
        Ok(evidence)
    }

    /// Whether what follows the walk would stand in the same segment.
    fn has_room_behind(survey: &Survey<'_>, walk: &Walk) -> bool {
        let segment = survey.segment(walk.cur.header.segment);
        segment.is_some_and(|segment| survey.end_of(&walk.cur) < segment.header.blocks)
    }

    /// Lets the table speak, and gives damage its words.
    fn settle(mut self, survey: &Survey<'_>, facts: &Facts, spot: Option<Spot>) -> Self {
        self.row = recovery::decide(facts);
        if self.row.outcome() == Outcome::Damage {
            let none = Spot { segment: SegmentId::default(), block: 0, first: Lsn::FIRST, last: Lsn::MAX };
            let spot = spot.unwrap_or(none);
            let path = match self.row {
                Row::R2Missing => survey.dir.path().into(),
                _ => survey.path_of(spot.segment),
            };
            let block_bytes = survey.segment(spot.segment).map_or(0, |segment| segment.header.block_bytes);
            self.damage = Some(Damage {
                label: self.row.label(),
                path,
                segment: spot.segment,
                offset: u64::from(spot.block) * u64::from(block_bytes),
                first: spot.first,
                last: spot.last,
                what: self.row.meaning(),
            });
        }
        self
    }
}

/// The effective cut opening of the greatest epoch, else the first batch of the lowest used segment.
fn find_start(survey: &mut Survey<'_>) -> Result<Start, Refusal> {
    let mut start = Start::default();
    let mut cuts: Vec<Found> =
        survey.segments.values().filter_map(Seen::first).filter(|found| found.header.cut).copied().collect();
    cuts.sort_by_key(|found| (found.header.epoch, found.header.segment));
    while let Some(cut) = cuts.pop() {
        if takes_effect(survey, &cut)? {
            start.found = Some(cut);
            return Ok(start);
        }
        let epoch = cut.header.epoch;
        if epoch_was_used(survey, cut.header.segment, Some(epoch))? {
            start.void_used.get_or_insert(cut);
        }
    }
    let mut lowest = None;
    let ids: Vec<SegmentId> = survey.segments.keys().copied().collect();
    for id in ids {
        if is_used(survey, id)? {
            lowest = Some(id);
            break;
        }
    }
    if let Some(id) = lowest
        && let Verdict::Valid(found) = survey.batch_at(id, 1)?
        && !found.header.cut
        && found.header.kind != Kind::Copy
    {
        start.found = Some(found);
        return Ok(start);
    }
    start.any_data = epoch_was_used(survey, SegmentId::default(), None)?;
    Ok(start)
}

/// Whether a batch of this log stands in a segment.
fn is_used(survey: &mut Survey<'_>, id: SegmentId) -> Result<bool, Refusal> {
    let Some(seen) = survey.segments.get(&id) else { return Ok(false) };
    if seen.first().is_some() {
        return Ok(true);
    }
    let segment = seen.segment.clone();
    survey.holds_batch(&segment)
}

/// A cut opening takes effect only with all the copies it announces.
fn takes_effect(survey: &mut Survey<'_>, cut: &Found) -> Result<bool, Refusal> {
    let (mut cur, mut restated) = (*cut, cut.header.first.prev());
    while restated < cut.header.restated_to {
        match survey.successor(&cur)? {
            Some(next) if next.header.kind == Kind::Copy => {
                restated = next_lsn(&next).prev();
                cur = next;
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Whether a data or seal batch (of `epoch`, if given) stands in `from` or a later segment.
fn epoch_was_used(survey: &mut Survey<'_>, from: SegmentId, epoch: Option<Epoch>) -> Result<bool, Refusal> {
    let ids: Vec<SegmentId> = survey.segments.range(from..).map(|(id, _)| *id).collect();
    for id in ids {
        let strays = survey.strays(id, 1)?;
        let used = |found: &Found| matches!(found.header.kind, Kind::Data | Kind::Seal);
        if strays.found.iter().any(|found| used(found) && epoch.is_none_or(|epoch| found.header.epoch == epoch)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn walk(survey: &mut Survey<'_>, start: &Found) -> Result<Walk, Refusal> {
    let mut walk = Walk::new(start);
    extend(survey, &mut walk)?;
    Ok(walk)
}

/// Goes on as far as the chain leads; whether it led any further.
fn extend(survey: &mut Survey<'_>, walk: &mut Walk) -> Result<bool, Refusal> {
    let before = walk.cur;
    while let Some(next) = survey.successor(&walk.cur)? {
        walk.take(&next);
    }
    Ok(walk.cur != before)
}

/// Walks from the newest segment whose first LSN is claimed durable or next to it, if the chain leads from there back to
/// `start`; else from `start`.
fn walk_from_anchor(survey: &mut Survey<'_>, start: &Found) -> Result<Walk, Refusal> {
    let from = start.header.segment;
    let later: Vec<Found> =
        survey.segments.range(from.next()..).filter_map(|(_, seen)| seen.first().copied()).collect();
    let claimed = later.iter().map(|found| found.header.durable).max().unwrap_or_default();
    let anchor = later.iter().rev().find(|found| !found.header.cut && found.header.first <= claimed.next());
    if let Some(anchor) = anchor
        && let Verdict::Valid(anchor) = survey.batch_at(anchor.header.segment, 1)?
        && leads_back(survey, &anchor, from)?
    {
        return walk(survey, &anchor);
    }
    walk(survey, start)
}

/// Whether the links lead from `found`, the first batch of its segment, back to segment `to`.
fn leads_back(survey: &mut Survey<'_>, found: &Found, to: SegmentId) -> Result<bool, Refusal> {
    let mut cur = *found;
    while cur.header.segment != to {
        let Some(before) = linked_segment(survey, &cur)? else { return Ok(false) };
        cur = before;
    }
    Ok(true)
}

/// The first batch of the segment that `found` links into, if the link holds.
fn linked_segment(survey: &mut Survey<'_>, found: &Found) -> Result<Option<Found>, Refusal> {
    let Some(link) = found.header.link else { return Ok(None) };
    let holds =
        matches!(survey.header_at(link.segment, link.block, false)?, Verdict::Valid(linked) if linked.link() == link);
    let first = survey.segments.get(&link.segment).and_then(Seen::first).copied();
    Ok(first.filter(|first| holds && first.header.segment < found.header.segment))
}

/// Where the walk ended in each of its segments.
fn ends_of(survey: &mut Survey<'_>, walk: &Walk) -> Result<Vec<(SegmentId, u32)>, Refusal> {
    let mut ends = Vec::with_capacity(walk.path.len());
    for pair in walk.path.windows(2) {
        if let Some(link) = pair[1].link
            && let Verdict::Valid(last) = survey.header_at(link.segment, link.block, false)?
        {
            ends.push((pair[0].id, survey.end_of(&last)));
        }
    }
    ends.push((walk.cur.header.segment, survey.end_of(&walk.cur)));
    Ok(ends)
}

/// The chain up to and including a segment, and where it breaks: (missing segment or not, spot).
struct Settled {
    path: Vec<PathSegment>,
    broken: Option<(bool, Spot)>,
}

/// Follows the links back from `to`, down to the trim LSN or the beginning.
fn settled_path(survey: &mut Survey<'_>, to: &PathSegment, trim: Lsn) -> Result<Settled, Refusal> {
    let mut settled = Settled { path: vec![*to], broken: None };
    let mut cur = *to;
    while let Some(link) = cur.link {
        if cur.first <= trim && survey.segment(link.segment).is_none() {
            break;
        }
        let first = survey.segments.get(&link.segment).and_then(Seen::first).copied();
        let holds =
            matches!(survey.header_at(link.segment, link.block, false)?, Verdict::Valid(found) if found.link() == link);
        match first.filter(|first| holds && first.header.segment < cur.id) {
            Some(first) => {
                cur = PathSegment::new(&first.header);
                settled.path.push(cur);
            }
            None if cur.first <= trim => break,
            None => {
                let first = first.map_or(trim, |first| first.header.first);
                let spot = Spot { segment: link.segment, block: link.block, first, last: cur.first.prev() };
                settled.broken = Some((survey.segment(link.segment).is_none(), spot));
                break;
            }
        }
    }
    if settled.broken.is_none() && cur.link.is_none() && cur.first > trim {
        // Nothing is linked before it, yet the log should begin earlier.
        let spot = Spot { segment: cur.id, block: 1, first: trim, last: cur.first.prev() };
        settled.broken = Some((true, spot));
    }
    settled.path.reverse();
    Ok(settled)
}

/// Reads every batch of the chain before `to`, bodies included.
fn check_settled(
    survey: &mut Survey<'_>,
    path: &[PathSegment],
    to: &PathSegment,
    trim: Lsn,
) -> Result<Option<(bool, Spot)>, Refusal> {
    for pair in path.windows(2).take_while(|pair| pair[0].id < to.id) {
        let (segment, next) = (pair[0], pair[1]);
        let mut expected = segment.first;
        let mut cur: Option<Found> = None;
        loop {
            let block = cur.as_ref().map_or(1, |cur| survey.end_of(cur));
            let found = match (survey.batch_at(segment.id, block)?, &cur) {
                (Verdict::Valid(found), None) => found,
                (Verdict::Valid(found), Some(cur)) if super::survey::follows(cur, &found) => found,
                _ if next.first <= trim => break,
                _ => {
                    let spot = Spot { segment: segment.id, block, first: expected.max(trim), last: next.first.prev() };
                    return Ok(Some((false, spot)));
                }
            };
            if next.link == Some(found.link()) {
                break;
            }
            expected = next_lsn(&found);
            cur = Some(found);
        }
    }
    Ok(None)
}

/// The lowest id that is missing between the end of the walk and the greatest id there is.
fn missing_above(survey: &Survey<'_>, end: SegmentId) -> Option<SegmentId> {
    let named = survey.segments.keys().copied().chain(survey.bad.iter().map(|bad| bad.id));
    let mut ids: Vec<SegmentId> = named.filter(|id| *id > end).collect();
    ids.sort_unstable();
    // Without a chain the end is 0: the first segment of all must be there, since nothing was ever trimmed.
    let mut expected = end.next();
    for id in ids {
        if id != expected {
            return Some(expected);
        }
        expected = expected.next();
    }
    None
}

/// The last record-bearing batch at or before `from` on the chain that holds a record up to `below`, and the last of
/// those records: a cut opening behind the batch may have ended it early.
pub(crate) fn last_records(survey: &mut Survey<'_>, from: &Found, below: Lsn) -> Result<Option<(Found, Lsn)>, Refusal> {
    let (mut cur, mut bound) = (*from, below);
    loop {
        if cur.header.count > 0 && cur.header.first <= bound {
            return Ok(Some((cur, cur.header.last().min(bound))));
        }
        if cur.header.cut {
            bound = bound.min(cur.header.first.prev());
        }
        let Some(link) = cur.header.link else { return Ok(None) };
        match survey.header_at(link.segment, link.block, false)? {
            Verdict::Valid(before) if before.link() == link => cur = before,
            _ => return Ok(None),
        }
    }
}
