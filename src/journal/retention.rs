//! What may go by itself: whole segments, by bytes, by age, and by what named readers are done with.

use std::time::Duration;

use super::PathSegment;
use crate::lsn::Lsn;
use crate::options::Retention;

/// A segment of the live chain as retention sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) segment: PathSegment,
    pub(crate) bytes: u64,
    /// How long ago the log went on to the next one; none if it is not known.
    pub(crate) left: Option<Duration>,
}

/// The first record to keep of the segments of `path`, oldest first, given the places of all cursors. What a cursor still
/// wants stays in any case.
pub(crate) fn first_kept(rules: &Retention, path: &[Kept], cursors: &[Lsn]) -> Option<Lsn> {
    let slowest = cursors.iter().min().copied();
    let mut behind: u64 = path.iter().map(|kept| kept.bytes).sum();
    let mut first = None;
    for pair in path.windows(2) {
        behind -= pair[0].bytes;
        let next = pair[1].segment.first;
        let wanted = slowest.is_some_and(|done| next.prev() > done);
        let by_bytes = rules.bytes.is_some_and(|bytes| behind >= bytes);
        let by_age = rules.age.zip(pair[0].left).is_some_and(|(age, left)| left >= age);
        let by_cursors = rules.cursors && slowest.is_some();
        if wanted || !(by_bytes || by_age || by_cursors) {
            break;
        }
        first = Some(next);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::SegmentId;

    /// Four segments of 100 bytes, ten records each; the older, the longer ago left.
    fn path() -> Vec<Kept> {
        let kept = |at: u64| Kept {
            segment: PathSegment { id: SegmentId::new(at + 1), first: Lsn::new(1 + 10 * at), link: None },
            bytes: 100,
            left: (at < 3).then(|| Duration::from_secs(30 - 10 * at)),
        };
        (0..4).map(kept).collect()
    }

    fn first(retention: Retention, cursors: &[u64]) -> Option<u64> {
        let cursors: Vec<Lsn> = cursors.iter().map(|lsn| Lsn::new(*lsn)).collect();
        first_kept(&retention, &path(), &cursors).map(Lsn::get)
    }

    #[test]
    fn what_is_beyond_a_bound_goes_unless_a_cursor_wants_it() {
        let none = Retention::default();
        assert_eq!(first(none, &[40]), None);
        let bytes = Retention { bytes: Some(200), ..none };
        assert_eq!(first(bytes, &[]), Some(21));
        assert_eq!(first(bytes, &[15, 99]), Some(11));
        assert_eq!(first(bytes, &[10]), Some(11));
        assert_eq!(first(bytes, &[9]), None);
        assert_eq!(first(Retention { bytes: Some(201), ..none }, &[]), Some(11));
        assert_eq!(first(Retention { bytes: Some(0), ..none }, &[]), Some(31), "the segment being written stays");
        let age = Retention { age: Some(Duration::from_secs(20)), ..none };
        assert_eq!(first(age, &[]), Some(21));
        assert_eq!(first(age, &[19]), Some(11));
        let cursors = Retention { cursors: true, ..none };
        assert_eq!(first(cursors, &[]), None, "nobody is done with anything");
        assert_eq!(first(cursors, &[25, 33]), Some(21));
        assert_eq!(first(Retention { cursors: true, ..bytes }, &[40]), Some(31));
    }
}
