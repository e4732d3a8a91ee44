//! How far a log is durable here and at k standbys. Sans-I/O: acknowledgements in, one LSN out, which never goes back.

use std::collections::BTreeMap;

use crate::lsn::Lsn;

/// Counts standbys by id.
///
/// Nothing is promised before it reaches a record of this reign: an earlier record at k standbys could still lose against
/// a longer tail of a reign in between, when the next primary is chosen by its last record (Raft, section 5.4.2). Nobody
/// waits for those here: their appenders waited at the primary before.
#[derive(Clone, Debug)]
pub struct Quorum {
    k: usize,
    start: Lsn,
    local: Lsn,
    /// Of each the connection that counts, and how far it has acknowledged.
    standbys: BTreeMap<[u8; 16], (u64, Lsn)>,
    promised: Lsn,
    members: u64,
}

/// One connection of a standby. What comes late from a connection that was replaced counts for nothing: the standby's disk
/// may be a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    standby: [u8; 16],
    number: u64,
}

impl Quorum {
    /// Waits for `k` standbys; with 0 for none. `start` is the last record of an earlier term.
    #[must_use]
    pub fn new(k: usize, start: Lsn) -> Self {
        Self { k, start, local: Lsn::ZERO, standbys: BTreeMap::new(), promised: Lsn::ZERO, members: 0 }
    }

    /// Everything up to `lsn` is durable here.
    pub fn handle_local(&mut self, lsn: Lsn) {
        self.local = self.local.max(lsn);
        self.advance();
    }

    /// A standby begins with everything up to `lsn`. If it was there before it replaces its old self.
    pub fn handle_started(&mut self, standby: [u8; 16], lsn: Lsn) -> Member {
        self.members += 1;
        self.standbys.insert(standby, (self.members, lsn));
        self.advance();
        Member { standby, number: self.members }
    }

    /// Everything up to `lsn` is durable at a standby.
    pub fn handle_acked(&mut self, member: Member, lsn: Lsn) {
        if let Some((number, acked)) = self.standbys.get_mut(&member.standby)
            && *number == member.number
        {
            *acked = lsn.max(*acked);
            self.advance();
        }
    }

    /// A connection is gone. What was promised stays.
    pub fn handle_left(&mut self, member: Member) {
        if self.standbys.get(&member.standby).is_some_and(|(number, _)| *number == member.number) {
            self.standbys.remove(&member.standby);
        }
    }

    /// Everything up to here is durable here and at k standbys, or was; [`Lsn::ZERO`] before that holds of any record of
    /// this reign.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.promised
    }

    /// How many standbys there are.
    #[must_use]
    pub fn standbys(&self) -> usize {
        self.standbys.len()
    }

    fn advance(&mut self) {
        let mut acked: Vec<Lsn> = self.standbys.values().map(|(_, lsn)| *lsn).collect();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        let held = match self.k.checked_sub(1) {
            None => self.local,
            Some(at) => acked.get(at).map_or(Lsn::ZERO, |lsn| self.local.min(*lsn)),
        };
        if held > self.start {
            self.promised = self.promised.max(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 16] = [1; 16];
    const B: [u8; 16] = [2; 16];

    #[test]
    fn the_kth_standby_and_the_local_log_decide() {
        let mut quorum = Quorum::new(2, Lsn::ZERO);
        quorum.handle_local(Lsn::new(10));
        let a = quorum.handle_started(A, Lsn::new(8));
        assert_eq!(quorum.durable(), Lsn::ZERO);
        let b = quorum.handle_started(B, Lsn::new(5));
        assert_eq!(quorum.durable(), Lsn::new(5));
        quorum.handle_acked(b, Lsn::new(12));
        quorum.handle_acked(a, Lsn::new(12));
        assert_eq!(quorum.durable(), Lsn::new(10), "not before it is durable here");
        quorum.handle_local(Lsn::new(11));
        assert_eq!(quorum.durable(), Lsn::new(11));
    }

    #[test]
    fn a_standby_that_comes_back_counts_once_and_nothing_promised_is_taken_back() {
        let mut quorum = Quorum::new(2, Lsn::ZERO);
        quorum.handle_local(Lsn::new(20));
        let old = quorum.handle_started(A, Lsn::new(9));
        let new = quorum.handle_started(A, Lsn::new(9));
        assert_eq!((quorum.durable(), quorum.standbys()), (Lsn::ZERO, 1));
        quorum.handle_left(old);
        assert_eq!(quorum.standbys(), 1, "its new self stays");
        let b = quorum.handle_started(B, Lsn::new(9));
        quorum.handle_left(new);
        assert_eq!(quorum.durable(), Lsn::new(9));
        quorum.handle_acked(new, Lsn::new(10));
        assert_eq!(quorum.standbys(), 1, "who has left does not count");
        quorum.handle_started(A, Lsn::new(3));
        quorum.handle_acked(old, Lsn::new(12));
        quorum.handle_acked(b, Lsn::new(12));
        assert_eq!(quorum.durable(), Lsn::new(9), "its new self knows less");
    }

    #[test]
    fn with_none_to_wait_for_the_local_log_decides() {
        let mut quorum = Quorum::new(0, Lsn::ZERO);
        quorum.handle_local(Lsn::new(3));
        quorum.handle_local(Lsn::new(2));
        assert_eq!(quorum.durable(), Lsn::new(3));
    }

    #[test]
    fn records_of_earlier_reigns_are_promised_with_the_first_of_this_one() {
        let mut quorum = Quorum::new(1, Lsn::new(7));
        quorum.handle_local(Lsn::new(9));
        let a = quorum.handle_started(A, Lsn::new(7));
        assert_eq!(quorum.durable(), Lsn::ZERO);
        quorum.handle_acked(a, Lsn::new(8));
        assert_eq!(quorum.durable(), Lsn::new(8));
    }
}
