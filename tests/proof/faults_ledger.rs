//! What was appended to a log, what came of it, and whether what the log holds agrees: assertions A1 to A4 and A7.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Instant;

use crate::common::rig::Rng;

/// What did not hold.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) assertion: &'static str,
    pub(crate) text: String,
}

pub(crate) fn violation(assertion: &'static str, text: impl std::fmt::Display) -> Violation {
    Violation { assertion, text: text.to_string() }
}

/// Who wrote a record: the opening, its caller, and the caller's own count. Every record begins with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ident {
    pub(crate) life: u32,
    pub(crate) caller: u32,
    pub(crate) i: u32,
}

const IDENT_BYTES: usize = 12;

impl Ident {
    pub(crate) fn payload(self) -> Vec<u8> {
        let Self { life, caller, i } = self;
        let mut rng = Rng::new(u64::from(life) << 40 ^ u64::from(caller) << 32 ^ u64::from(i));
        rng.next();
        let len = match rng.below(10) {
            0..=3 => rng.below(100),
            4..=7 => rng.below(2000),
            8 => rng.below(6000),
            // Of equal length: what one life wrote stands where another's stood.
            _ => 500,
        };
        let mut bytes: Vec<u8> = [life, caller, i].into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.extend((0..len).map(|_| rng.next().to_le_bytes()[0]));
        bytes
    }

    /// Whose record it is; none if it is nobody's, byte for byte.
    pub(crate) fn of(payload: &[u8]) -> Option<Self> {
        let mut words = payload
            .get(..IDENT_BYTES)?
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        let ident = Self { life: words.next()?, caller: words.next()?, i: words.next()? };
        (ident.payload() == payload).then_some(ident)
    }
}

/// What came of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// No answer, or one that leaves it open.
    Open,
    /// Acknowledged, or found by an opening.
    Kept(u64),
    /// Said not to be appended.
    Refused,
    /// An opening did not find it.
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The first of its group and how many they are.
    group: (u32, u32),
    begun: Instant,
    fate: Fate,
    acknowledged: bool,
}

/// Everything that was tried with one log.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<Ident, Entry>,
    /// Up to here somebody was shown records, or told that they are durable.
    shown: u64,
    /// The greatest first record that a truncation asked for, and that one said is durable.
    trim_asked: u64,
    trim: u64,
}

impl Ledger {
    /// Before the first of `count` records is given to the log.
    pub(crate) fn begin(&mut self, first: Ident, count: u32) {
        let begun = Instant::now();
        for i in first.i..first.i + count {
            let entry = Entry { group: (first.i, count), begun, fate: Fate::Open, acknowledged: false };
            self.entries.insert(Ident { i, ..first }, entry);
        }
    }

    pub(crate) fn acknowledge(&mut self, first: Ident, lsns: RangeInclusive<u64>) {
        for (lsn, i) in lsns.zip(first.i..) {
            if let Some(entry) = self.entries.get_mut(&Ident { i, ..first }) {
                (entry.fate, entry.acknowledged) = (Fate::Kept(lsn), true);
                self.shown = self.shown.max(lsn);
            }
        }
    }

    /// The log said that they were not appended.
    pub(crate) fn refuse(&mut self, first: Ident, count: u32) {
        for i in first.i..first.i + count {
            if let Some(entry) = self.entries.get_mut(&Ident { i, ..first }) {
                entry.fate = Fate::Refused;
            }
        }
    }

    /// Somebody was shown what is durable up to `lsn`.
    pub(crate) fn show(&mut self, lsn: u64) {
        self.shown = self.shown.max(lsn);
    }

    pub(crate) fn ask_trim(&mut self, first: u64) {
        self.trim_asked = self.trim_asked.max(first);
    }

    pub(crate) fn trimmed(&mut self, first: u64) {
        self.trim = self.trim.max(first);
    }

    /// How many records are acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.entries.values().filter(|entry| entry.acknowledged).count()
    }

    /// A record that was acknowledged although its append began after `instant`.
    pub(crate) fn acknowledged_since(&self, instant: Instant) -> Option<Ident> {
        self.entries.iter().find(|(_, entry)| entry.acknowledged && entry.begun > instant).map(|(ident, _)| *ident)
    }

    /// The greatest LSN that was acknowledged.
    pub(crate) fn last_acknowledged(&self) -> u64 {
        let lsn = |entry: &Entry| match entry.fate {
            Fate::Kept(lsn) if entry.acknowledged => lsn,
            _ => 0,
        };
        self.entries.values().map(lsn).max().unwrap_or(0)
    }

    /// Whether what an opening holds agrees with all that was said: records from `first` on, in order. From then on they
    /// are known, and what is not among them must never come back.
    pub(crate) fn judge(&mut self, first: u64, payloads: &[impl AsRef<[u8]>]) -> Result<(), Violation> {
        let last = first + payloads.len() as u64 - 1;
        if last < self.shown {
            return Err(violation("A1", format!("the log ends at {last}, and {} was durable", self.shown)));
        }
        if first < self.trim.max(1) || first > self.trim_asked.max(1) {
            let text = format!("it begins at {first}; truncations asked for {}, got {}", self.trim_asked, self.trim);
            return Err(violation("A2", text));
        }
        let found = self.identify(first, payloads)?;
        for (ident, entry) in &mut self.entries {
            match (found.get(ident), entry.fate) {
                (Some(lsn), Fate::Kept(known)) if *lsn != known => {
                    return Err(violation("A1", format!("{ident:?} stands at {lsn}, and was durable at {known}")));
                }
                (Some(lsn), Fate::Refused | Fate::Gone) => {
                    let text = format!("{ident:?} at {lsn}: {:?}, and there it is", entry.fate);
                    return Err(violation("A3", text));
                }
                (None, Fate::Kept(lsn)) if lsn >= first => {
                    return Err(violation("A1", format!("{ident:?}, durable at {lsn}, is not there")));
                }
                (Some(lsn), _) => entry.fate = Fate::Kept(*lsn),
                (None, Fate::Open) => entry.fate = Fate::Gone,
                (None, _) => {}
            }
        }
        self.show(last);
        self.groups(first)
    }

    /// Whose records they are: A2 and A3.
    fn identify(&self, first: u64, payloads: &[impl AsRef<[u8]>]) -> Result<BTreeMap<Ident, u64>, Violation> {
        let mut found = BTreeMap::new();
        let mut last_of: BTreeMap<u32, Ident> = BTreeMap::new();
        let mut life = 0;
        for (payload, lsn) in payloads.iter().zip(first..) {
            let ident = Ident::of(payload.as_ref());
            let Some(ident) = ident.filter(|ident| self.entries.contains_key(ident)) else {
                let text = format!("LSN {lsn}: {} bytes that nobody appended", payload.as_ref().len());
                return Err(violation("A3", text));
            };
            if found.insert(ident, lsn).is_some() {
                return Err(violation("A3", format!("{ident:?} stands twice, at {lsn} again")));
            }
            if ident.life < life || last_of.insert(ident.caller, ident).is_some_and(|before| before > ident) {
                return Err(violation("A2", format!("{ident:?} at {lsn} stands behind a later one")));
            }
            life = ident.life;
        }
        Ok(found)
    }

    /// Whole or not at all (P4), unless a truncation went through them.
    fn groups(&self, first: u64) -> Result<(), Violation> {
        for (ident, entry) in self.entries.iter().filter(|(ident, entry)| ident.i == entry.group.0) {
            let (from, count) = entry.group;
            let members = (from..from + count).filter_map(|i| self.entries.get(&Ident { i, ..*ident }));
            let lsns: Vec<_> =
                members.filter_map(|member| if let Fate::Kept(lsn) = member.fate { Some(lsn) } else { None }).collect();
            let together = lsns.windows(2).all(|pair| pair[1] == pair[0] + 1);
            if !lsns.is_empty() && (lsns.len() < count as usize && lsns[0] > first || !together) {
                return Err(violation("A3", format!("of the group of {count} at {ident:?} there are {lsns:?}")));
            }
        }
        Ok(())
    }
}
