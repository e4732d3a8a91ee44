//! The oracle: which answers are right, given what was appended and what the damage left to tell of it.

use std::ops::{Range, RangeInclusive};

use ringwal::Epoch;
use ringwal::harness::Stray;

use super::bench::Change;
use super::look::{Look, Shown};
use super::subject::Subject;

/// The header of a batch.
const HEADER_BYTES: usize = 144;

/// What a damage did, worked out from the bytes and from nothing that recovery says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Harm {
    /// The greatest epoch of which a header still stands whole in its place.
    pub(crate) epoch: Epoch,
    /// The greatest LSN that such a header claims durable: what is vouched for.
    pub(crate) vouched: u64,
    /// The first record retained, as such a header says.
    pub(crate) trim: u64,
    /// Whether a batch of the chain is not as it was written, or stands in a segment that is not to be known any more.
    pub(crate) live: bool,
    /// Whether a file is gone, new, shorter, or has another static block, used or not.
    pub(crate) strange: bool,
    /// If all of it is in one segment: the records of its batches, or where those of none stand between them.
    pub(crate) records: Option<RangeInclusive<u64>>,
}

impl Harm {
    /// Of what happened to these files; all others are as they were.
    pub(crate) fn of(subject: &Subject, changed: &[Change<'_>]) -> Self {
        let mut harm =
            Self { epoch: Epoch::default(), vouched: 0, trim: 0, live: false, strange: false, records: None };
        let header = |batch: &Stray| batch.offset..batch.offset + HEADER_BYTES;
        let standing =
            || subject.batches.iter().filter(|(batch, _)| is_same(subject, changed, &batch.name, header(batch)));
        harm.epoch = standing().map(|(batch, _)| batch.epoch).max().unwrap_or_default();
        // What was claimed before records were taken back says nothing about those that came in their place.
        let back = subject.taken_back.iter().rfind(|back| back.by <= harm.epoch);
        let claim = |batch: &Stray| match back {
            Some(back) if batch.epoch < back.by => batch.durable.get().min(back.behind),
            _ => batch.durable.get(),
        };
        harm.vouched = standing().map(|(batch, _)| claim(batch)).max().unwrap_or(0);
        harm.trim = standing().map(|(batch, _)| batch.trim.get()).max().unwrap_or(0);
        let static_block = 0..subject.shape.block_bytes as usize;
        let is_strange = |(name, now): &Change<'_>| match (now, subject.files.get(*name)) {
            (Some(now), Some(before)) if name.ends_with(".seg") => {
                now.len() < before.len() || now.get(static_block.clone()) != before.get(static_block.clone())
            }
            (now, before) => now.is_some() != before.is_some(),
        };
        harm.strange = changed.iter().any(is_strange);
        for (batch, _) in subject.batches.iter().filter(|(_, live)| *live) {
            let all = batch.offset..batch.offset + batch.bytes;
            let same = |range| is_same(subject, changed, &batch.name, range);
            if same(all) && same(static_block.clone()) {
                continue;
            }
            harm.live = true;
            let (first, last) = around(subject, batch);
            harm.records = Some(match harm.records {
                None => first..=last,
                Some(records) => first.min(*records.start())..=last.max(*records.end()),
            });
        }
        let segments = changed.iter().filter(|(name, _)| name.ends_with(".seg")).count();
        harm.records = harm.records.filter(|_| segments == 1);
        harm
    }
}

/// The records that are in doubt without a batch: its own, as far as they were not truncated; around one of none, those
/// before and behind it; behind an opening, its copies may be missed or found where they were copied from.
fn around(subject: &Subject, batch: &Stray) -> (u64, u64) {
    let last_of = |batch: &Stray| batch.first.get() + u64::from(batch.count.max(1)) - 1;
    let first = (batch.first.get() - u64::from(batch.count == 0)).max(subject.first);
    let copies =
        subject.batches.iter().map(|(copy, _)| copy).filter(|copy| copy.kind == "copy" && copy.epoch == batch.epoch);
    let last = match batch.kind {
        "opening" => copies.map(|copy| last_of(copy) + 1).max().unwrap_or(0).max(last_of(batch)),
        _ => last_of(batch),
    };
    (first, last.max(first))
}

/// Whether these bytes of a file are as they were.
fn is_same(subject: &Subject, changed: &[Change<'_>], name: &str, range: Range<usize>) -> bool {
    match changed.iter().find(|(changed, _)| *changed == name) {
        None => true,
        Some((_, now)) => now.is_some_and(|now| now.get(range.clone()) == subject.files[name].get(range)),
    }
}

/// What came of one damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Told by `verify`, and by `open` if it reads there, else by reading.
    Detected(&'static str),
    /// Every record is there and `verify` says what it said before.
    Harmless,
    /// Every record is there, and the end is called torn: it was the last seal that was hit, which nothing vouches for.
    SealTorn,
    /// Records are gone for which nothing vouches any more.
    Window,
    /// Something that must not be, by the oracle's assertion.
    Violation(&'static str, String),
}

impl Outcome {
    /// For a tally.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Detected(how) => how,
            Self::Harmless => "harmless",
            Self::SealTorn => "all kept, told as torn",
            Self::Window => "window",
            Self::Violation(..) => "violation",
        }
    }
}

/// Judges what `open`, a reader and `verify` made of it.
pub(crate) fn judge(subject: &Subject, harm: &Harm, look: &Look) -> Outcome {
    let violation = |assertion, what: &str| Outcome::Violation(assertion, format!("{what}; {harm:?}; {look:?}"));
    let shown: Vec<&Shown> = [&look.open, &look.reader].into_iter().flatten().collect();
    let wrong = || shown.iter().filter_map(|shown| shown.wrong);
    match wrong().find(|(_, taken_back)| taken_back.is_none_or(|by| by <= harm.epoch)) {
        Some((lsn, Some(_))) => return violation("A3", &format!("LSN {lsn} was taken back, and comes again")),
        Some((lsn, None)) => return violation("A3", &format!("LSN {lsn} is not what was appended")),
        // The newest files are gone, and what they told with them.
        None if wrong().count() > 0 => return Outcome::Window,
        None => {}
    }
    if look.changed {
        return violation("A9", "a refusal changed a file");
    }
    let silent =
        |shown: &&&Shown| shown.failure.is_none() && (shown.last < harm.vouched || shown.first > subject.first);
    if let Some(shown) = shown.iter().find(silent) {
        return violation(
            "A8",
            &format!("records are missing in silence: {} to {} were shown", shown.first, shown.last),
        );
    }
    if look.is_told() {
        return told(subject, harm, look).unwrap_or_else(|(assertion, what)| violation(assertion, what));
    }
    let (Ok(open), Ok(_)) = (&look.open, &look.reader) else {
        return violation("A8", "verify is content, and opening is refused");
    };
    if shown.iter().any(|shown| shown.failure.is_some()) {
        return violation("A8", "verify is content, and a record cannot be read");
    }
    match &look.verify {
        _ if open.last < subject.last => Outcome::Window,
        Ok(verified) if verified.label == subject.label => Outcome::Harmless,
        _ => Outcome::SealTorn,
    }
}

/// `verify` told: rightly, and of the right place?
fn told(subject: &Subject, harm: &Harm, look: &Look) -> Result<Outcome, (&'static str, &'static str)> {
    if !harm.live && !harm.strange {
        return Err(("A8", "a false alarm"));
    }
    let Some((_, damage)) = look.named() else { return Err(("A8", "no path was named")) };
    let Some(damage) = damage else { return Ok(Outcome::Detected("detected: refused as odd")) };
    let text = damage.to_string();
    if text.contains('\n') || text.len() > 400 || !text.contains(&*damage.path.to_string_lossy()) {
        return Err(("A8", "not told in one line that names the path"));
    }
    if damage.first > damage.last {
        return Err(("A8", "no records were named"));
    }
    // Where nothing tells any more what was truncated, that is missed first.
    if let Some(records) = &harm.records
        && harm.trim == subject.first
        && (damage.first.get() > *records.end() || damage.last.get() < *records.start())
    {
        return Err(("A8", "other records were named"));
    }
    Ok(Outcome::Detected(if look.open.is_err() { "detected at opening" } else { "detected by verify and reading" }))
}
