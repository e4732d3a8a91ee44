//! The settled part of the chain: what stands before the walk, reached backward by links.

use super::segment::Found;
use super::survey::{Refusal, Seen, Survey, follows, next_lsn};
use crate::format::Verdict;
use crate::journal::PathSegment;
use crate::lsn::{Lsn, SegmentId};

/// Damage before it has its words: where, and which records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) segment: SegmentId,
    pub(super) block: u32,
    pub(super) first: Lsn,
    pub(super) last: Lsn,
}

/// The chain up to and including a segment, and where it breaks: (missing segment or not, spot).
pub(super) struct Settled {
    pub(super) path: Vec<PathSegment>,
    pub(super) broken: Option<(bool, Spot)>,
}

/// Follows the links back from `to`, down to the trim LSN or the beginning.
pub(super) fn settled_path(survey: &mut Survey<'_>, to: &PathSegment, trim: Lsn) -> Result<Settled, Refusal> {
    let mut settled = Settled { path: vec![*to], broken: None };
    let mut cur = *to;
    while let Some(link) = cur.link {
        if cur.first <= trim && survey.segment(link.segment).is_none() {
            break;
        }
        match survey.linked_first(link, cur.id, cur.first)? {
            Some(first) => {
                cur = PathSegment::new(&first.header);
                settled.path.push(cur);
            }
            None if cur.first <= trim => break,
            None => {
                let first = survey.segments.get(&link.segment).and_then(Seen::first);
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
pub(super) fn check_settled(
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
                (Verdict::Valid(found), Some(cur)) if follows(cur, &found) => found,
                _ if next.first <= trim => break,
                _ => {
                    // A seal or an opening stands between two records: the next one is in doubt.
                    let first = expected.max(trim);
                    let spot = Spot { segment: segment.id, block, first, last: next.first.prev().max(first) };
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
