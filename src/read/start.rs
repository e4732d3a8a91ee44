//! T: where the live chain begins.

use super::segment::Found;
use super::survey::{Refusal, Seen, Survey, next_lsn};
use crate::format::{Kind, Verdict};
use crate::lsn::{Epoch, Lsn, SegmentId};

/// A start of the chain, or why there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Start {
    pub(super) found: Option<Found>,
    /// An opening without effect whose epoch was used all the same.
    pub(super) void_used: Option<Found>,
    pub(super) any_data: bool,
}

/// The effective cut opening of the greatest epoch, else the first batch of the lowest used segment, where the chain may
/// begin with it.
pub(super) fn find_start(survey: &mut Survey<'_>) -> Result<Start, Refusal> {
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
        && may_begin(survey, &found)
    {
        start.found = Some(found);
        return Ok(start);
    }
    start.any_data = epoch_was_used(survey, SegmentId::default(), None)?;
    Ok(start)
}

/// Whether the chain may begin with the first batch of its lowest used segment: a cut opening is either effective, or no
/// part of it. A copy may if the segment that it links into is gone. An opening's copies can go on in further segments,
/// and truncation takes the ones before away with the opening: by then it had taken effect, since the trim mark stands
/// behind its seal. While that segment is there it is the opening that is damaged. (Whether the records before the copy
/// were truncated, or are missing, is judged with the settled part.)
fn may_begin(survey: &Survey<'_>, found: &Found) -> bool {
    match found.header.kind {
        Kind::Copy => found.header.link.is_some_and(|link| survey.segment(link.segment).is_none()),
        _ => !found.header.cut,
    }
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

/// Whether a data or seal batch (of `epoch`, if given; else any batch that claims a record durable, too) stands in `from`
/// or a later segment.
fn epoch_was_used(survey: &mut Survey<'_>, from: SegmentId, epoch: Option<Epoch>) -> Result<bool, Refusal> {
    let ids: Vec<SegmentId> = survey.segments.range(from..).map(|(id, _)| *id).collect();
    for id in ids {
        let strays = survey.strays(id, 1)?;
        let used = |found: &Found| matches!(found.header.kind, Kind::Data | Kind::Seal);
        let ours = |found: &Found| match epoch {
            Some(epoch) => used(found) && found.header.epoch == epoch,
            // An opening that only took effect for a moment: what it stood on is gone.
            None => used(found) || found.header.durable > Lsn::ZERO,
        };
        if strays.found.iter().any(ours) {
            return Ok(true);
        }
    }
    Ok(false)
}
