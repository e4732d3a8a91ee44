//! Opening for writing: assess, decide, and only then write the opening of a new epoch.
//!
//! Every write here is an ordinary blocking one, before any ring thread exists. A crash at any step is an ordinary crash:
//! until the opening takes effect, what it stands on is untouched.

use std::collections::BTreeMap;

use super::assess::{Depth, assess};
use super::opener::{Basis, Opener};
use super::segment::Segment;
use super::survey::Survey;
use crate::disk::{Access, Directory};
use crate::error::OpenError;
use crate::format::segment::{Name, parse_name};
use crate::journal::recovery::{Outcome, Row};
use crate::journal::{Chain, PathSegment, Placement};
use crate::lsn::{Lsn, SegmentId};
use crate::options::{Limits, RecoveryMode};
use crate::seeded;

/// What an opening found, and what it did about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The row of the recovery table that spoke: "R10", say.
    pub label: &'static str,
    /// The row in words: "clean", "torn tail" and so on.
    pub meaning: &'static str,
    /// The first record kept; one above `last` if there is none.
    pub first: Lsn,
    /// The last record kept.
    pub last: Lsn,
    /// How many bytes stood behind the last record and were cut: what a crash had left of records that were never
    /// acknowledged.
    pub torn_bytes: u64,
    /// How many records were written again because nothing proved them durable.
    pub records_copied: u64,
    /// Names in the directory that are not the log's; they were left alone.
    pub strangers: Vec<String>,
}

/// Where the outside comes in: randomness and the date, so that a simulation can choose both.
pub(crate) struct Surroundings {
    /// 64 random bits at each call.
    pub(crate) random: Box<dyn FnMut() -> u64 + Send>,
    /// Nanoseconds since 1970, for the static blocks.
    pub(crate) created_ns: u64,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("created_ns", &self.created_ns).finish_non_exhaustive()
    }
}

/// What an opening truncates while it is at it: the recovery half of both truncations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Truncation {
    /// Records below go: marked by the opening and its seal, then removed segment by segment.
    pub(crate) before: Option<Lsn>,
    /// Records above go, by a cut opening that stands on the batch holding this one. It must be claimed durable. One below
    /// the first keeps none.
    pub(crate) after: Option<Lsn>,
}

/// A log that is open for writing, before its ring thread takes over.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) chain: Chain,
    pub(crate) placement: Placement,
    /// The current segment's file and those of the ready ones.
    pub(crate) files: BTreeMap<SegmentId, Segment>,
    /// The live chain.
    pub(crate) path: Vec<PathSegment>,
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    pub(crate) next_segment: SegmentId,
    pub(crate) spares: Vec<u64>,
    pub(crate) created_ns: u64,
    pub(crate) report: RecoveryReport,
}

/// Opens the log in `dir` for writing. The caller holds the writer's lock.
///
/// # Errors
/// Damage, a torn tail if the mode asks for consistency, or I/O. Nothing was changed by a refusal that comes before the
/// first write: everything is decided before it.
pub(crate) fn open(
    dir: &dyn Directory,
    limits: &Limits,
    surroundings: &mut Surroundings,
    truncation: Truncation,
) -> Result<Opened, OpenError> {
    let mut survey = Survey::take(dir, Access::ReadWrite)?;
    let mut verdict = assess(&mut survey, Depth::Tail)?;
    match verdict.row.outcome() {
        Outcome::Damage | Outcome::Refuse => {
            return Err(verdict.damage.map_or(OpenError::RuntimeEnded, OpenError::Damaged));
        }
        Outcome::Cut if verdict.row == Row::R12 && limits.recovery_mode == RecoveryMode::AbsoluteConsistency => {
            return Err(OpenError::Torn {
                path: dir.path().to_path_buf(),
                last: verdict.last,
                bytes: verdict.torn_bytes,
            });
        }
        Outcome::New | Outcome::Continue | Outcome::Cut => {}
    }
    if let Some(before) = truncation.before
        && !seeded::is("no-trim-mark")
    {
        verdict.trim = verdict.trim.max(before);
    }
    let mut opener = Opener::new(&survey, &verdict, limits, surroundings)?;
    // A segment may have got its name from a process that was killed before it synced the directory.
    dir.sync()?;
    opener.remove_unfit(&survey, verdict.used_max)?;
    let continues = verdict.row.outcome() == Outcome::Continue || seeded::is("idle-reopen") && verdict.ends_sealed();
    match verdict.walk.as_ref() {
        Some(walk)
            if truncation.after.is_none()
                && opener.fits_in_place(&survey, walk)
                && (continues || seeded::is("m11")) =>
        {
            opener.continue_behind(&mut survey, walk, verdict.end)?;
        }
        Some(walk) => {
            let basis = Basis::of(&mut survey, walk, truncation.after)?;
            verdict.last = truncation.after.unwrap_or(verdict.last);
            opener.cut(&mut survey, &basis, verdict.last)?;
        }
        None => opener.cut(&mut survey, &Basis::nothing(verdict.last), verdict.last)?,
    }
    if !seeded::is("no-opening-seal") {
        opener.seal(verdict.last)?;
    }
    if !survey.id_recorded {
        dir.record_log_id(opener.chain.log_id)?;
    }
    opener.clear_dead(&survey)?;
    // Also what a truncation had marked and a crash kept it from freeing.
    let marked = Some(verdict.trim).filter(|trim| *trim > Lsn::FIRST);
    if let Some(before) = truncation.before.max(marked) {
        verdict.first = verdict.first.max(before);
        opener.remove_trimmed(&survey, before)?;
    }
    Ok(opener.finish(&survey, &verdict))
}

/// Whether the directory holds anything of a log.
pub(crate) fn holds_log(dir: &dyn Directory) -> Result<bool, OpenError> {
    let ours = |name: &str| matches!(parse_name(name), Name::Segment(_));
    Ok(dir.recorded_log_id()?.is_some() || dir.list()?.iter().any(|entry| ours(&entry.name)))
}
