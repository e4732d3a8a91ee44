//! The walk: along the chain from a start, over valid batches that link to one another, to its end.

use super::segment::Found;
use super::settled::last_records;
use super::survey::{Refusal, Survey, next_lsn};
use crate::format::Verdict;
use crate::journal::PathSegment;
use crate::lsn::{Lsn, SegmentId};

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
    pub(super) claimed: Lsn,
    pub(super) trim: Lsn,
    /// The greatest fencing term of its batches.
    pub(crate) term: u64,
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
            term: start.header.term,
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
        self.term = self.term.max(next.header.term);
        if next.header.count > 0 {
            self.unproved.push(*next);
        }
        self.claim(next.header.durable);
    }

    /// Everything up to `durable` was durable.
    pub(super) fn claim(&mut self, durable: Lsn) {
        self.claimed = self.claimed.max(durable);
        let proved = self.unproved.iter().take_while(|found| found.header.last() <= self.claimed).count();
        if let Some(last) = self.unproved.drain(..proved).next_back() {
            self.proved = Some(last);
        }
    }
}

pub(super) fn walk(survey: &mut Survey<'_>, start: &Found) -> Result<Walk, Refusal> {
    let mut walk = Walk::new(start);
    extend(survey, &mut walk)?;
    Ok(walk)
}

/// Goes on as far as the chain leads; whether it led any further.
pub(super) fn extend(survey: &mut Survey<'_>, walk: &mut Walk) -> Result<bool, Refusal> {
    let before = walk.cur;
    while let Some(next) = survey.successor(&walk.cur)? {
        walk.take(&next);
    }
    Ok(walk.cur != before)
}

/// Walks from the newest segment whose first LSN is claimed durable or next to it, if the chain leads from there back to
/// `start`; else from `start`.
pub(super) fn walk_from_anchor(survey: &mut Survey<'_>, start: &Found) -> Result<Walk, Refusal> {
    let from = start.header.segment;
    let later: Vec<Found> =
        survey.segments.range(from.next()..).filter_map(|(_, seen)| seen.first().copied()).collect();
    let claimed = later.iter().map(|found| found.header.durable).max().unwrap_or_default();
    let anchor = later.iter().rev().find(|found| !found.header.cut && found.header.first <= claimed.next());
    if let Some(anchor) = anchor
        && let Verdict::Valid(anchor) = survey.batch_at(anchor.header.segment, 1)?
        && leads_back(survey, &anchor, from)?
    {
        let walked = walk(survey, &anchor)?;
        // Where nothing proves the anchor's own records, a cut would stand on what is before them: that must be whole.
        if walked.proved.is_some() || last_records(survey, &anchor, anchor.header.first.prev())?.is_some() {
            return Ok(walked);
        }
    }
    walk(survey, start)
}

/// Whether the links lead from `found`, the first batch of its segment, back to segment `to`.
fn leads_back(survey: &mut Survey<'_>, found: &Found, to: SegmentId) -> Result<bool, Refusal> {
    let mut cur = *found;
    while cur.header.segment != to {
        let Some(link) = cur.header.link else { return Ok(false) };
        let Some(before) = survey.linked_first(link, cur.header.segment, cur.header.first)? else { return Ok(false) };
        cur = before;
    }
    Ok(true)
}

/// Where the walk ended in each of its segments.
pub(super) fn ends_of(survey: &mut Survey<'_>, walk: &Walk) -> Result<Vec<(SegmentId, u32)>, Refusal> {
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
