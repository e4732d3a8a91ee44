//! From bytes to facts: where the chain begins, how far it goes, what stands off it, and which row of the recovery
//! table follows. Reads only.

use super::segment::Found;
use super::settled::{Spot, check_settled, settled_path};
use super::start::find_start;
use super::survey::{Refusal, Seen, Survey};
use super::walk::{Walk, ends_of, extend, walk, walk_from_anchor};
use crate::error::Damage;
use crate::format::Kind;
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
    if start.found.is_none()
        && let Some(id) = survey.segments.keys().next()
    {
        spot = spot.or(Some(Spot { segment: *id, block: 1, first: Lsn::FIRST, last: Lsn::MAX }));
    }
    if let Some(start) = start.found {
        let end = verdict.follow(survey, &start, depth, &mut facts)?;
        spot = spot.or(Some(end));
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

    /// Walks from `start`, weighs what stands off the walk, and checks the links behind it. Tells where damage would be.
    fn follow(
        &mut self,
        survey: &mut Survey<'_>,
        start: &Found,
        depth: Depth,
        facts: &mut Facts,
    ) -> Result<Spot, Refusal> {
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
        self.claimed = if seeded::is("m14") { walk.n } else { walk.claimed };
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
        Ok(spot)
    }

    /// Scans what the walk does not cover.
    fn weigh(&mut self, survey: &mut Survey<'_>, epoch: Epoch, walk: &Walk, depth: Depth) -> Result<Evidence, Refusal> {
        let mut evidence = Evidence { trim: walk.trim, ..Evidence::default() };
        let ends = ends_of(survey, walk)?;
        let from = if seeded::is("stale-evidence") { SegmentId::default() } else { walk.path[0].id };
        let ids: Vec<SegmentId> = survey.segments.range(from..).map(|(id, _)| *id).collect();
        // Behind a close seal with nothing after it there was nothing in flight: ready segments need not be read to
        // their end at every opening.
        let may_skip = depth == Depth::Tail && walk.cur.header.close && Self::has_room_behind(survey, walk);
        for id in ids {
            let walked = ends.iter().find(|(walked, _)| *walked == id).map(|(_, end)| *end);
            let clean = may_skip && evidence.torn_bytes == 0;
            if walked.is_none() && clean && survey.looks_unused(id)? {
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
                // An epoch number is taken once: one nonce too many says that this batch's own opening is gone.
                let (epoch, nonce) = (walk.cur.header.epoch, walk.cur.header.nonce);
                let unopened = header.epoch > epoch || header.epoch == epoch && header.nonce != nonce;
                evidence.later_epoch |= used && unopened;
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
