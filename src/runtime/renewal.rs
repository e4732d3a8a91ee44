//! A log that goes on in another epoch without being closed: cut back to an earlier record, or under a greater term.
//!
//! Nothing new is staged; what was staged becomes durable and is sealed; then the directory belongs to recovery for a
//! moment, which writes the new epoch's opening as if the log were being opened ([`Reopen`]); and appenders go on. The same
//! bytes, the same rules and the same tests as for an opening: there is no second way to cut a log.

use std::fmt;
use std::task::Waker;

use super::errands::Promise;
use super::sync::Arc;
use super::tenant::{Freeing, Preparing, Tenant};
use super::{Inbox, Job, PreparedFile, Truncated, Work, Workshop};
use crate::disk::{Directory, Disk};
use crate::error::{Cause, TruncateError};
use crate::journal::{Batcher, Chain, PathSegment};
use crate::lsn::{Lsn, SegmentId};

/// Recovers the directory, which is sealed and at rest, into a new epoch. Blocks on I/O.
pub(crate) type Reopen = Box<dyn FnOnce(&dyn Directory) -> Result<Box<Renewed>, Cause> + Send>;

/// What an epoch begins with.
#[derive(Debug)]
pub(crate) struct Renewed {
    pub(crate) chain: Chain,
    pub(crate) batcher: Batcher,
    pub(crate) files: Vec<(SegmentId, PreparedFile)>,
    pub(crate) path: Vec<PathSegment>,
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    pub(crate) next_segment: SegmentId,
    pub(crate) spares: Vec<u64>,
}

/// A wish for a new epoch.
pub(crate) struct Renewal {
    /// The last record that is to stay, if not all are.
    pub(crate) last: Option<Lsn>,
    pub(crate) reopen: Reopen,
    pub(crate) promise: Promise<Truncated>,
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Tenant {
    /// A new epoch is to begin.
    pub(super) fn handle_renew(&mut self, renewal: Renewal) {
        if !self.poisoned {
            self.renewals.push_back(renewal);
        }
    }

    /// Whether a new epoch is wished for and not yet beginning. Asked at every turn, before anything that costs more.
    fn awaits_renewal(&self) -> bool {
        !self.renewals.is_empty() && self.renewing.is_none() && !self.poisoned
    }

    /// Brings the log to rest for the new epoch that is wished for, if one is.
    pub(super) fn prepare_renewal(&mut self, workshop: &dyn Workshop) {
        if !self.awaits_renewal() {
            return;
        }
        self.shared.stage.hold();
        if self.preparing == Preparing::One {
            workshop.hurry();
        }
        self.journal.hasten_seal();
    }

    /// Once the log is at rest, hands its directory to recovery.
    pub(super) fn request_renewal(
        &mut self,
        tenant: usize,
        workshop: &dyn Workshop,
        inbox: &Arc<Inbox>,
        disk: &mut dyn Disk,
        woken: &mut Vec<Waker>,
    ) {
        if !self.awaits_renewal() {
            return;
        }
        let rests = self.in_flight == 0
            && self.journal.is_settled()
            && self.preparing != Preparing::One
            && !matches!(self.freeing, Freeing::Busy { .. })
            && !self.is_retaining()
            && !self.shared.stage.holds_records();
        if !rests {
            return;
        }
        let Some(Renewal { last, reopen, promise }) = self.renewals.pop_front() else { return };
        let marked = match self.freeing {
            Freeing::Marked { first, .. } => first,
            _ => Lsn::ZERO,
        };
        let (first, durable) = (self.shared.index.first().max(marked), self.journal.poll_durable());
        if let Some(refusal) = refusal(last, first, durable) {
            promise.keep(Err(refusal));
            if self.renewals.is_empty() {
                self.shared.stage.release_hold();
            }
            return;
        }
        for file in self.files.drain(..) {
            disk.detach(file.slot);
        }
        if let Some(last) = last.filter(|last| *last < durable) {
            // Before a file changes: who reads what goes is told so, instead of finding it damaged.
            let cuts = self.shared.durable.cut_back(last);
            self.shared.index.cut_back(last, cuts);
            self.shared.recent.cut_back(last, woken);
            self.shown = last;
        }
        self.renewing = Some(promise);
        workshop.request(Job {
            tenant,
            shared: self.shared.clone(),
            work: Work::Renew { reopen },
            inbox: inbox.clone(),
        });
    }

    pub(super) fn handle_renewed(
        &mut self,
        renewed: Result<Box<Renewed>, Cause>,
        disk: &mut dyn Disk,
        woken: &mut Vec<Waker>,
    ) {
        let Some(promise) = self.renewing.take() else { return };
        match renewed.and_then(|renewed| self.enter_epoch(*renewed, disk)) {
            Ok(last) => {
                promise.keep(Ok(last));
                self.begin_truncation();
            }
            // Dropped, the promise tells of the log's end.
            Err(cause) => self.poison(cause, woken),
        }
    }

    fn enter_epoch(&mut self, renewed: Renewed, disk: &mut dyn Disk) -> Result<Lsn, Cause> {
        let Renewed { chain, batcher, files, path, first, last, next_segment, spares } = renewed;
        for (id, file) in files {
            self.attach(id, &file, disk).map_err(Cause::Io)?;
        }
        let (nonce, term) = (chain.nonce, chain.term);
        self.journal.renew(chain, last);
        self.shared.index.renew(path, first);
        self.shared.set_term(term);
        (self.next_segment, self.spares) = (next_segment, spares);
        self.preparing = Preparing::Nothing;
        self.shared.stage.renew(batcher, nonce, self.shared.durable.cuts());
        self.mark_again();
        Ok(last)
    }
}

/// Why a log that holds `first..=durable` cannot be cut back to `last`.
fn refusal(last: Option<Lsn>, first: Lsn, durable: Lsn) -> Option<TruncateError> {
    let last = last?;
    if last > durable {
        Some(TruncateError::Beyond { durable })
    } else if last < first {
        Some(TruncateError::Below { first })
    } else {
        None
    }
}
