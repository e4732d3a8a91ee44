//! Batches from disk for who must not block: read by an errand, a few megabytes at a time, the next while the last are
//! being used.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use super::cursor::Batches;
use crate::error::{Cause, ReadError};
use crate::format::HeldBatch;
use crate::runtime::errands::Errand;

/// How much is brought at once, in bytes; at least one batch.
const FETCH_BYTES: usize = 2 << 20;

type Fetched = (Batches, VecDeque<HeldBatch>, Option<ReadError>);

/// One load of batches on its way.
#[derive(Debug)]
pub(super) struct Fetch(Errand<Fetched>);

impl Fetch {
    /// Begins to read on from where `batches` stands.
    pub(super) fn start(batches: Batches) -> Self {
        Self(Errand::start(move || fetch(batches)))
    }

    /// Ready with what was read, and with what it failed on behind that.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<Fetched, ReadError>> {
        self.0.poll(cx).map(|fetched| fetched.ok_or(ReadError::Poisoned(Cause::Panic("while reading ahead".into()))))
    }
}

fn fetch(mut batches: Batches) -> Fetched {
    let (mut load, mut bytes, mut failure) = (VecDeque::new(), 0, None);
    while bytes < FETCH_BYTES {
        match batches.advance() {
            Ok(Some(batch)) => {
                bytes += batch.len();
                load.push_back(batch);
            }
            Ok(None) => break,
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    (batches, load, failure)
}
