//! The recovery table: every way a log can be found, each with a label and exactly one verdict.
//!
//! [`Facts`] are gathered by [`crate::read`]; nothing here reads a byte. Words: *T* is where the live chain begins (the
//! effective cut opening of the greatest epoch, else the first batch of the lowest used segment: a copy only where the
//! segment that it links into is gone, truncated with its opening); the *walk* goes from T over valid, linked batches to
//! its end *X* behind the batch `cur`, whose last LSN is *n*; *evidence* is every header-valid batch off the walk, in T's
//! segment or later, of an epoch not below T's.
//!
//! | label | found | verdict |
//! |---|---|---|
//! | R1 | a read error, or a newer version | refuse |
//! | R2-new | no segment, and the directory carries no log id | new log |
//! | R2-missing | no segment, but the directory carries a log id | damage |
//! | R3 | a segment with a bad or foreign header that holds a batch or is not above all used ones | damage |
//! | R4 | a segment is missing that the chain needs | damage |
//! | R5 | an opening without effect, but a data or seal batch of its epoch | damage |
//! | R6-empty | no T, only openings and copies | empty log |
//! | R6-damage | no T, but data or seals | damage |
//! | R7 | a link behind T fails at or above the trim LSN | damage |
//! | R8 | evidence claims D > n | damage |
//! | R9 | evidence: a data or seal batch of an epoch above `cur`'s, or of `cur`'s under another nonce | damage |
//! | R10 | `cur` is a close seal | clean: continue in place |
//! | R11 | nothing behind X | unsealed: keep all, cut opening |
//! | R12 | anything else | torn: keep ..n, cut opening |
//!
//! The first that holds speaks. Below, each row also demands that the ones above it do not hold, so that a test can show
//! that every combination of facts meets exactly one row.

/// What was found, each as a yes or no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// A read failed, or a newer version was met.
    pub(crate) unreadable: bool,
    /// The directory holds no segment.
    pub(crate) no_segments: bool,
    /// The directory carries a log id.
    pub(crate) id_recorded: bool,
    /// A segment's header is bad or foreign, and it is not simply unused.
    pub(crate) bad_segment: bool,
    /// A segment that the chain needs is missing.
    pub(crate) segment_missing: bool,
    /// An opening has no effect, but its epoch has a data or seal batch.
    pub(crate) void_opening_used: bool,
    /// There is no T.
    pub(crate) no_start: bool,
    /// There is a data or seal batch somewhere.
    pub(crate) any_data: bool,
    /// A link behind T fails at or above the trim LSN.
    pub(crate) link_broken: bool,
    /// Evidence claims D > n.
    pub(crate) claim_beyond: bool,
    /// Evidence holds a data or seal batch of an epoch above `cur`'s, or of `cur`'s under another nonce.
    pub(crate) later_epoch: bool,
    /// `cur` is a close seal.
    pub(crate) closed: bool,
    /// Everything behind X is zero, stale or unused.
    pub(crate) nothing_behind: bool,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Row {
    R1,
    R2New,
    R2Missing,
    R3,
    R4,
    R5,
    R6Empty,
    R6Damage,
    R7,
    R8,
    R9,
    R10,
    R11,
    R12,
}

/// What a row means for an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The I/O error or version speaks for itself; nothing changes.
    Refuse,
    /// Acknowledged data is damaged; nothing changes.
    Damage,
    /// There is no log yet.
    New,
    /// Continue behind the close seal.
    Continue,
    /// Keep what the walk found, behind a cut opening.
    Cut,
}

type Condition = fn(&Facts) -> bool;

/// The table, in order.
pub(crate) const TABLE: [(Row, Condition); 14] = [
    (Row::R1, |f| f.unreadable),
    (Row::R2New, |f| f.no_segments && !f.id_recorded),
    (Row::R2Missing, |f| f.no_segments && f.id_recorded),
    (Row::R3, |f| f.bad_segment),
    (Row::R4, |f| f.segment_missing),
    (Row::R5, |f| f.void_opening_used),
    (Row::R6Empty, |f| f.no_start && !f.any_data),
    (Row::R6Damage, |f| f.no_start && f.any_data),
    (Row::R7, |f| f.link_broken),
    (Row::R8, |f| f.claim_beyond),
    (Row::R9, |f| f.later_epoch),
    (Row::R10, |f| f.closed),
    (Row::R11, |f| f.nothing_behind),
    (Row::R12, |_| true),
];

/// The row that speaks.
pub(crate) fn decide(facts: &Facts) -> Row {
    TABLE.iter().find(|(_, holds)| holds(facts)).map_or(Row::R12, |(row, _)| *row)
}

impl Row {
    /// As `verify`, the report and errors print it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::R1 => "R1",
            Self::R2New => "R2-new",
            Self::R2Missing => "R2-missing",
            Self::R3 => "R3",
            Self::R4 => "R4",
            Self::R5 => "R5",
            Self::R6Empty => "R6-empty",
            Self::R6Damage => "R6-damage",
            Self::R7 => "R7",
            Self::R8 => "R8",
            Self::R9 => "R9",
            Self::R10 => "R10",
            Self::R11 => "R11",
            Self::R12 => "R12",
        }
    }

    /// In words.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::R1 => "unreadable",
            Self::R2New => "no log yet",
            Self::R2Missing => "the log's segments are gone",
            Self::R3 => "a segment's header is bad or of another log",
            Self::R4 => "a segment is missing",
            Self::R5 => "an opening that was used has lost its copies",
            Self::R6Empty => "empty: only an opening that never took effect",
            Self::R6Damage => "the beginning of the log is gone",
            Self::R7 => "a batch that the chain needs is bad",
            Self::R8 => "a batch claims records that are gone",
            Self::R9 => "an opening that was used is gone",
            Self::R10 => "clean",
            Self::R11 => "unsealed, nothing cut",
            Self::R12 => "torn tail",
        }
    }

    /// What it means for an opening.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::R8 | Self::R9 if crate::seeded::is("m12") => Outcome::Cut,
            Self::R1 => Outcome::Refuse,
            Self::R2New => Outcome::New,
            Self::R2Missing | Self::R3 | Self::R4 | Self::R5 | Self::R6Damage | Self::R7 | Self::R8 | Self::R9 => {
                Outcome::Damage
            }
            Self::R6Empty | Self::R11 | Self::R12 => Outcome::Cut,
            Self::R10 => Outcome::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(bits: u32) -> Facts {
        let bit = |at: u32| bits >> at & 1 == 1;
        Facts {
            unreadable: bit(0),
            no_segments: bit(1),
            id_recorded: bit(2),
            bad_segment: bit(3),
            segment_missing: bit(4),
            void_opening_used: bit(5),
            no_start: bit(6),
            any_data: bit(7),
            link_broken: bit(8),
            claim_beyond: bit(9),
            later_epoch: bit(10),
            closed: bit(11),
            nothing_behind: bit(12),
        }
    }

    /// The rows written out as patterns, independently of the table: for each fact yes (1), no (0) or any (-).
    /// Order of facts: unreadable, no_segments, id_recorded, bad_segment, segment_missing, void_opening_used, no_start,
    /// any_data, link_broken, claim_beyond, later_epoch, closed, nothing_behind.
    const PATTERNS: [(Row, &str); 14] = [
        (Row::R1, "1------------"),
        (Row::R2New, "010----------"),
        (Row::R2Missing, "011----------"),
        (Row::R3, "00-1---------"),
        (Row::R4, "00-01--------"),
        (Row::R5, "00-001-------"),
        (Row::R6Empty, "00-00010-----"),
        (Row::R6Damage, "00-00011-----"),
        (Row::R7, "00-0000-1----"),
        (Row::R8, "00-0000-01---"),
        (Row::R9, "00-0000-001--"),
        (Row::R10, "00-0000-0001-"),
        (Row::R11, "00-0000-00001"),
        (Row::R12, "00-0000-00000"),
    ];

    fn meets(pattern: &str, bits: u32) -> bool {
        pattern.bytes().enumerate().all(|(at, want)| match want {
            b'0' => bits >> at & 1 == 0,
            b'1' => bits >> at & 1 == 1,
            _ => true,
        })
    }

    #[test]
    fn every_combination_of_evidence_meets_exactly_one_row() {
        let mut met = std::collections::BTreeMap::new();
        for bits in 0..1 << 13 {
            let rows: Vec<Row> = PATTERNS.iter().filter(|(_, p)| meets(p, bits)).map(|(row, _)| *row).collect();
            assert_eq!(rows.len(), 1, "{:?} meets {rows:?}", facts(bits));
            assert_eq!(decide(&facts(bits)), rows[0], "{:?}", facts(bits));
            *met.entry(rows[0]).or_insert(0) += 1;
        }
        assert_eq!(met.len(), TABLE.len(), "every row is met: {met:?}");
    }

    #[test]
    fn labels_are_unique() {
        let labels: std::collections::BTreeSet<_> = TABLE.iter().map(|(row, _)| row.label()).collect();
        assert_eq!(labels.len(), TABLE.len());
    }
}
