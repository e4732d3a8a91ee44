//! Why shipping ended: one enum for both sides, since either may be the one that says it.

use std::fmt;
use std::time::Duration;

use super::wire::Refusal;
use crate::lsn::{LogId, Lsn};

/// Why a connection between a source and a sink ended. Told from one's own side, whoever found it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShipError {
    /// The standby holds records that the source does not: it was a primary, or the source lost its disk.
    Ahead {
        /// Our last durable record.
        ours: Lsn,
        /// Theirs.
        theirs: Lsn,
    },
    /// The other side said goodbye, or we did.
    Closed,
    /// The connection broke: said by this side alone.
    Connection {
        /// How.
        what: String,
    },
    /// The logs hold different records.
    Diverged {
        /// Our last durable record.
        ours: Lsn,
        /// Theirs.
        theirs: Lsn,
        /// The record at which they were compared: they part here or before.
        at: Lsn,
    },
    /// A record was sent twice.
    Duplicate {
        /// The record that was due.
        expected: Lsn,
        /// The one that came.
        found: Lsn,
    },
    /// The side with the smaller term is out of office: it must not acknowledge anything any more.
    Fenced {
        /// Our greatest term.
        ours: u64,
        /// Theirs.
        theirs: u64,
    },
    /// The logs are of different format versions.
    Format {
        /// Our format version.
        ours: u32,
        /// Theirs.
        theirs: u32,
    },
    /// A frame is longer than anything the other side may send: it is no ringwal, or the connection is damaged.
    FrameTooLarge {
        /// Its length in bytes.
        len: u64,
        /// The bound in bytes.
        max: u64,
    },
    /// Records are missing in between.
    Gap {
        /// The record that was due.
        expected: Lsn,
        /// The one that came.
        found: Lsn,
    },
    /// Bytes that mean nothing.
    Garbage {
        /// What is wrong with them.
        what: &'static str,
    },
    /// The source's batches can be longer than the longest group that the standby's log takes.
    GroupTooLarge {
        /// The batch, in bytes.
        len: u64,
        /// The bound in bytes.
        max: u64,
    },
    /// The log on this side failed or is closed: said by this side alone.
    Log {
        /// How.
        what: String,
    },
    /// The source sent records that are not durable with it (promise P7).
    NotDurable {
        /// Its last durable record.
        durable: Lsn,
        /// The last one it sent.
        found: Lsn,
    },
    /// The other side sent more than was allowed to be under way.
    Overrun {
        /// The bytes sent, in all.
        sent: u64,
        /// The bytes allowed, in all.
        credit: u64,
    },
    /// A frame of another connection.
    ReplayedSession,
    /// Nothing was heard for too long.
    Silent {
        /// How long.
        after: Duration,
    },
    /// A record's term is below that of the record before it, or above the source's own.
    Term {
        /// The term before it, or the source's.
        bound: u64,
        /// The record's.
        found: u64,
    },
    /// The records that the standby needs, or the one by which the logs are compared, were truncated away.
    Truncated {
        /// The source's first record.
        first: Lsn,
        /// The standby's last.
        last: Lsn,
    },
    /// The two sides do not trust one another's certificates, or one of them speaks no TLS: said by this side alone.
    Untrusted {
        /// What TLS says.
        what: String,
    },
    /// The other side refused for a reason that this version does not know.
    Unknown {
        /// The reason's number.
        code: u32,
    },
    /// The two sides speak no common version of the protocol.
    Version {
        /// The version we speak, or the oldest we understand if theirs is older.
        ours: u32,
        /// The version they speak, or the oldest they understand if ours is older.
        theirs: u32,
    },
    /// The two sides hold different logs.
    WrongLog {
        /// Our log.
        ours: LogId,
        /// Theirs.
        theirs: LogId,
    },
}

impl ShipError {
    /// Whether trying again could help: the network's failures end by themselves, refusals need a person.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Closed
                | Self::Connection { .. }
                | Self::Garbage { .. }
                | Self::FrameTooLarge { .. }
                | Self::ReplayedSession
                | Self::Silent { .. }
        ) || matches!(self, Self::Gap { .. } | Self::Duplicate { .. } | Self::Overrun { .. })
    }

    /// As it is sent to the other side.
    pub(super) fn to_wire(&self) -> Refusal {
        let none = [LogId::new([0; 16]); 2];
        let of = |code, numbers| Refusal { code, numbers, ids: none };
        match *self {
            Self::Ahead { ours, theirs } => of(1, [ours.get(), theirs.get(), 0]),
            // Why is nothing that the other side could act upon.
            Self::Closed | Self::Connection { .. } | Self::Log { .. } | Self::Untrusted { .. } => of(2, [0; 3]),
            Self::Diverged { ours, theirs, at } => of(3, [ours.get(), theirs.get(), at.get()]),
            Self::Duplicate { expected, found } => of(4, [expected.get(), found.get(), 0]),
            Self::Fenced { ours, theirs } => of(5, [ours, theirs, 0]),
            Self::Format { ours, theirs } => of(6, [ours.into(), theirs.into(), 0]),
            Self::FrameTooLarge { len, max } => of(7, [len, max, 0]),
            Self::Gap { expected, found } => of(8, [expected.get(), found.get(), 0]),
            Self::Garbage { .. } => of(9, [0; 3]),
            Self::GroupTooLarge { len, max } => of(10, [len, max, 0]),
            Self::NotDurable { durable, found } => of(11, [durable.get(), found.get(), 0]),
            Self::Overrun { sent, credit } => of(12, [sent, credit, 0]),
            Self::ReplayedSession => of(13, [0; 3]),
            Self::Silent { after } => of(14, [u64::try_from(after.as_millis()).unwrap_or(u64::MAX), 0, 0]),
            Self::Term { bound, found } => of(15, [bound, found, 0]),
            Self::Truncated { first, last } => of(16, [first.get(), last.get(), 0]),
            Self::Unknown { code } => of(code, [0; 3]),
            Self::Version { ours, theirs } => of(17, [ours.into(), theirs.into(), 0]),
            Self::WrongLog { ours, theirs } => Refusal { code: 18, numbers: [0; 3], ids: [ours, theirs] },
        }
    }

    /// What the other side said, from our side: its "ours" are our "theirs".
    pub(super) fn from_wire(refusal: &Refusal) -> Self {
        let [a, b, c] = refusal.numbers;
        let (x, y) = (Lsn::new(a), Lsn::new(b));
        let version = |number| u32::try_from(number).unwrap_or(u32::MAX);
        match refusal.code {
            1 => Self::Ahead { ours: y, theirs: x },
            2 => Self::Closed,
            3 => Self::Diverged { ours: y, theirs: x, at: Lsn::new(c) },
            4 => Self::Duplicate { expected: x, found: y },
            5 => Self::Fenced { ours: b, theirs: a },
            6 => Self::Format { ours: version(b), theirs: version(a) },
            7 => Self::FrameTooLarge { len: a, max: b },
            8 => Self::Gap { expected: x, found: y },
            9 => Self::Garbage { what: "the other side could not read what we sent" },
            10 => Self::GroupTooLarge { len: a, max: b },
            11 => Self::NotDurable { durable: x, found: y },
            12 => Self::Overrun { sent: a, credit: b },
            13 => Self::ReplayedSession,
            14 => Self::Silent { after: Duration::from_millis(a) },
            15 => Self::Term { bound: a, found: b },
            16 => Self::Truncated { first: x, last: y },
            17 => Self::Version { ours: version(b), theirs: version(a) },
            18 => Self::WrongLog { ours: refusal.ids[1], theirs: refusal.ids[0] },
            code => Self::Unknown { code },
        }
    }
}

impl fmt::Display for ShipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const AGAIN: &str = "connect again";
        match self {
            Self::Ahead { ours, theirs } => write!(
                f,
                "one log is ahead: ours is durable up to LSN {ours}, theirs up to {theirs}; \
                 the standby cannot follow: truncate it behind the source's, or make it anew"
            ),
            Self::Closed => f.write_str("the connection was closed in order"),
            Self::Connection { what } => write!(f, "the connection broke: {what}; {AGAIN}"),
            Self::Diverged { ours, theirs, at } => write!(
                f,
                "the logs part at LSN {at} or before (ours ends at {ours}, theirs at {theirs}); \
                 keep what is worth keeping of the standby's tail, then truncate it or make it anew"
            ),
            Self::Duplicate { expected, found } => {
                write!(f, "LSN {found} came again where {expected} was due; {AGAIN}")
            }
            Self::Fenced { ours, theirs } if ours < theirs => write!(
                f,
                "fenced: term {theirs} was given out after our {ours}; stop writing here and follow the new primary"
            ),
            Self::Fenced { ours, theirs } => {
                write!(f, "fenced off a source of term {theirs}, for term {ours} is known; connect to the new primary")
            }
            Self::Format { ours, theirs } => {
                write!(f, "our log has format {ours}, theirs {theirs}; use the same ringwal on both sides")
            }
            Self::FrameTooLarge { len, max } => {
                write!(f, "a frame of {len} bytes is over {max}; check that the other side is a ringwal")
            }
            Self::Gap { expected, found } => write!(f, "LSN {found} came where {expected} was due; {AGAIN}"),
            Self::Garbage { what } => write!(f, "{what}; {AGAIN}"),
            Self::GroupTooLarge { len, max } => write!(
                f,
                "a batch of {len} bytes is over the standby's bound of {max}; raise record_bytes_max of the standby"
            ),
            Self::Log { what } => f.write_str(what),
            Self::NotDurable { durable, found } => {
                write!(f, "LSN {found} was sent though only {durable} is durable; report this: it is a bug")
            }
            Self::Overrun { sent, credit } => {
                write!(f, "{sent} bytes were sent where {credit} were allowed; report this: it is a bug")
            }
            Self::ReplayedSession => write!(f, "a frame of another connection; {AGAIN}"),
            Self::Silent { after } => write!(f, "nothing was heard for {after:?}; check the network, {AGAIN}"),
            Self::Term { bound, found } => {
                write!(f, "a record of term {found} where {bound} is the bound; report this: it is a bug")
            }
            Self::Truncated { first, last } => write!(
                f,
                "the source's log begins at LSN {first} and the standby's ends at {last}; make the standby anew"
            ),
            Self::Untrusted { what } => {
                write!(f, "TLS: {what}; give both sides certificates of the same authority, for the right names")
            }
            Self::Unknown { code } => write!(f, "refused for reason {code}, which is new; use a newer ringwal"),
            Self::Version { ours, theirs } if ours < theirs => {
                write!(f, "they speak version {theirs}, we only {ours}; use a newer ringwal here")
            }
            Self::Version { ours, theirs } => {
                write!(f, "they speak version {theirs}, we need {ours}; use a newer ringwal there")
            }
            Self::WrongLog { ours, theirs } => {
                write!(f, "our log is {ours}, theirs {theirs}; connect the right ones, or use an empty directory")
            }
        }
    }
}

impl std::error::Error for ShipError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_says_the_other_reads_from_its_side() {
        let fenced = ShipError::Fenced { ours: 3, theirs: 2 };
        assert_eq!(ShipError::from_wire(&fenced.to_wire()), ShipError::Fenced { ours: 2, theirs: 3 });
        assert!(ShipError::from_wire(&fenced.to_wire()).to_string().contains("stop writing"));
        let (a, b) = (LogId::new([1; 16]), LogId::new([2; 16]));
        let wrong = ShipError::WrongLog { ours: a, theirs: b };
        assert_eq!(ShipError::from_wire(&wrong.to_wire()), ShipError::WrongLog { ours: b, theirs: a });
    }

    #[test]
    fn only_the_network_passes() {
        assert!(ShipError::ReplayedSession.is_passing() && ShipError::Closed.is_passing());
        assert!(!ShipError::Fenced { ours: 1, theirs: 2 }.is_passing());
        assert!(!ShipError::Unknown { code: 99 }.is_passing());
    }

    /// Every reason survives being sent there and back, apart from words.
    #[test]
    fn every_reason_has_a_number() {
        for code in 1..=18 {
            let ids = [LogId::new([1; 16]), LogId::new([2; 16])];
            let refusal = Refusal { code, numbers: [5, 6, 7], ids };
            let told = ShipError::from_wire(&refusal);
            assert_eq!(told.to_wire().code, code, "{told:?}");
            assert_eq!(ShipError::from_wire(&ShipError::from_wire(&told.to_wire()).to_wire()), told);
            assert!(!told.to_string().contains('\n'));
        }
        assert_eq!(
            ShipError::from_wire(&Refusal { code: 99, numbers: [0; 3], ids: [LogId::new([0; 16]); 2] }),
            ShipError::Unknown { code: 99 }
        );
    }
}
