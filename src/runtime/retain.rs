//! Finding out what need not be kept: the helper's part of retention, which is to ask the directory.

use std::collections::BTreeMap;
use std::time::Duration;

use super::registered;
use crate::disk::{Directory, EntryKind};
use crate::format::segment::{Name, parse_name};
use crate::journal::PathSegment;
use crate::journal::retention::{self, Kept};
use crate::lsn::{LogId, Lsn, SegmentId};
use crate::options::Retention;

/// The first record to keep, if anything may go. What cannot be found out (a cursor that is damaged) is kept.
pub(super) fn first_kept(
    dir: &dyn Directory,
    log_id: LogId,
    rules: &Retention,
    path: Vec<(PathSegment, Option<Duration>)>,
) -> Option<Lsn> {
    let lengths: BTreeMap<SegmentId, u64> = dir.list().ok()?.iter().filter_map(length).collect();
    let cursors: Vec<Lsn> = registered::all(dir, log_id).ok()?.into_iter().map(|(_, lsn)| lsn).collect();
    let kept = |(segment, left): (PathSegment, Option<Duration>)| Kept {
        segment,
        bytes: lengths.get(&segment.id).copied().unwrap_or(0),
        left,
    };
    let path: Vec<Kept> = path.into_iter().map(kept).collect();
    retention::first_kept(rules, &path, &cursors)
}

fn length(entry: &crate::disk::DirEntry) -> Option<(SegmentId, u64)> {
    match (parse_name(&entry.name), entry.kind) {
        (Name::Segment(id), EntryKind::File { len }) => Some((id, len)),
        _ => None,
    }
}
