//! What `open`, a reader in another process and `verify` make of a directory, held against what was appended.

use std::path::Path;

use ringwal::{Damage, Epoch, Lsn, OpenError, ReadError, Record};

use super::subject::{Subject, TakenBack};

/// What somebody was shown, up to the first failure.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// The first record, and the last of those behind it that are byte by byte what was appended.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// A record that is not, which was never appended so, or was taken back by that epoch.
    pub(crate) wrong: Option<(u64, Option<Epoch>)>,
    pub(crate) failure: Option<ReadError>,
}

impl Shown {
    pub(crate) fn new(records: impl Iterator<Item = Result<Record, ReadError>>, first: Lsn, truth: &Subject) -> Self {
        let first = first.get();
        let mut shown = Self { first, last: first - 1, wrong: None, failure: None };
        for record in records {
            match record {
                Ok(record) => {
                    let lsn = shown.last + 1;
                    if record.lsn.get() != lsn || at(&truth.records, lsn - 1) != Some(&record.payload) {
                        let before = |back: &&TakenBack| {
                            lsn > back.behind && at(&back.records, lsn - back.behind - 1) == Some(&record.payload)
                        };
                        let taken_back = truth.taken_back.iter().find(before).map(|back| back.by);
                        shown.wrong = Some((record.lsn.get(), taken_back));
                        break;
                    }
                    shown.last = lsn;
                }
                Err(failure) => {
                    shown.failure = Some(failure);
                    break;
                }
            }
        }
        shown
    }
}

fn at(records: &[Vec<u8>], index: u64) -> Option<&[u8]> {
    records.get(usize::try_from(index).ok()?).map(Vec::as_slice)
}

/// What `verify` says.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) label: &'static str,
    pub(crate) damage: Option<Damage>,
}

/// The answers of all three.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) verify: Result<Verified, OpenError>,
    pub(crate) reader: Result<Shown, OpenError>,
    pub(crate) open: Result<Shown, OpenError>,
    /// Whether verifying, reading or a refused opening changed a file.
    pub(crate) changed: bool,
}

impl Look {
    /// Whether anybody was told of anything. `verify` must be: who opens meets damage only where it reads.
    pub(crate) fn is_told(&self) -> bool {
        !matches!(&self.verify, Ok(verified) if verified.damage.is_none())
    }

    /// The error that `verify` gave, or the damage that it found, with the path that it names.
    pub(crate) fn named(&self) -> Option<(&Path, Option<&Damage>)> {
        match &self.verify {
            Ok(Verified { damage, .. }) => damage.as_ref().map(|damage| (&*damage.path, Some(damage))),
            Err(OpenError::Damaged(damage)) => Some((&damage.path, Some(damage))),
            Err(OpenError::NewerFormat { path, .. } | OpenError::NotALog { path, .. }) => Some((path, None)),
            Err(OpenError::Io(failure)) => Some((&failure.path, None)),
            Err(_) => None,
        }
    }
}
