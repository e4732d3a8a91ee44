//! The witness: another process, or another thread, that heard of every attempt, every acknowledgement and every truncation,
//! and of whatever a reader was shown; and the oracle over what is left.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::workload::{Ident, Sizes};

/// How many entries the recorder of the disk has.
#[derive(Clone, Debug)]
pub(crate) enum Position {
    /// A recorder in another process: read from the superblock of its file.
    File(Arc<File>),
    /// One in this process.
    Shared(Arc<AtomicU64>),
}

impl Position {
    pub(crate) fn open(path: &Path) -> Self {
        Self::File(Arc::new(File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))))
    }

    pub(crate) fn read(&self) -> u64 {
        match self {
            Self::File(file) => {
                let mut entries = [0; 8];
                file.read_exact_at(&mut entries, 16).unwrap();
                u64::from_le_bytes(entries)
            }
            Self::Shared(entries) => entries.load(Ordering::SeqCst),
        }
    }
}

/// What does not hold, and which assertion of the oracle says so.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) assertion: &'static str,
    pub(crate) what: String,
}

impl Wrong {
    pub(crate) fn new(assertion: &'static str, what: impl fmt::Display) -> Self {
        Self { assertion, what: what.to_string() }
    }
}

impl fmt::Debug for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.assertion, self.what)
    }
}

/// What the log said was durable, or a reader was shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    pub(crate) ident: Ident,
    pub(crate) crc: u32,
    pub(crate) len: usize,
    /// How far the recorder of the disk was.
    pub(crate) position: u64,
}

/// What a reader was shown under an LSN.
#[derive(Clone, Copy, Debug)]
struct Shown {
    crc: u32,
    len: usize,
    position: u64,
}

/// A record that was attempted.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    ident: Ident,
    /// The first number of its group and how many they are; 1 for a record on its own.
    first: u32,
    count: u32,
    /// How many cuts had begun by then.
    cuts: usize,
}

/// A truncation: from which position on it may have taken effect, and from which it must have.
#[derive(Clone, Copy, Debug)]
struct Truncation {
    lsn: u64,
    began: u64,
    done: Option<u64>,
}

impl Truncation {
    fn has_begun(&self, position: u64) -> bool {
        self.began <= position
    }

    fn is_done(&self, position: u64) -> bool {
        self.done.is_some_and(|done| done <= position)
    }
}

/// What an opening said.
#[derive(Clone, Debug)]
pub(crate) struct OpenLine {
    pub(crate) label: String,
    pub(crate) last: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) copied: u64,
}

/// What a recovery showed before anything else happened: it stays, at every position.
#[derive(Clone, Debug)]
struct Basis {
    first: u64,
    records: Vec<(usize, u32)>,
}

impl Basis {
    fn last(&self) -> u64 {
        self.first + self.records.len() as u64 - 1
    }

    fn holds(&self, lsn: u64, content: (usize, u32)) -> bool {
        self.records.get(usize::try_from(lsn.wrapping_sub(self.first)).unwrap_or(usize::MAX)) == Some(&content)
    }
}

/// Everything that was heard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witness {
    sizes: Sizes,
    basis: Option<Basis>,
    /// What stands under each LSN.
    pub(crate) acks: BTreeMap<u64, Ack>,
    /// What a truncation took back, with its number.
    taken: Vec<(usize, u64, Ack)>,
    shown: BTreeMap<u64, Shown>,
    attempts: usize,
    /// By length and checksum: a short record does not tell whose it is.
    by_content: HashMap<(usize, u32), Vec<Attempt>>,
    pub(crate) opened: Vec<OpenLine>,
    /// `truncate_before`: the first LSN that stays.
    trims: Vec<Truncation>,
    /// `truncate_after`: the last LSN that stays.
    cuts: Vec<Truncation>,
    /// Acknowledgements that contradict one another or an opening.
    pub(crate) contradictions: Vec<Wrong>,
    /// Contradictory lines that no child should print.
    pub(crate) failures: Vec<String>,
}

/// What was heard, line by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Start,
    Opened,
    Attempt,
    Ack,
    Else,
}

impl Witness {
    pub(crate) fn new(sizes: impl Into<Sizes>) -> Self {
        Self { sizes: sizes.into(), ..Self::default() }
    }

    /// Of what comes after a recovery that showed `records`, the first of which has (or would have) LSN `first`: they stay,
    /// and whatever else had been attempted until then is gone for ever.
    pub(crate) fn after<B: AsRef<[u8]>>(sizes: impl Into<Sizes>, first: u64, records: &[(u64, B)]) -> Self {
        let records = records.iter().map(|(_, payload)| content(payload.as_ref())).collect();
        Self { basis: Some(Basis { first, records }), ..Self::new(sizes) }
    }

    /// Attempts that were never answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.attempts - self.acks.len() - self.taken.len()
    }

    /// Takes one line of a writer.
    pub(crate) fn hear(&mut self, line: &str) -> Heard {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next().unwrap_or_default();
        let numbers: Option<Vec<u64>> = words.clone().map(|word| word.parse().ok()).collect();
        match (kind, numbers.as_deref()) {
            ("S", Some([])) => return Heard::Start,
            ("T", Some(&[cycle, producer, i, first, count])) => {
                return self.hear_attempt(cycle, producer, i, first, count);
            }
            ("A", Some(&[lsn, crc, len, cycle, producer, i, position])) => {
                let ident = Ident { cycle: small(cycle), producer: small(producer), i: small(i) };
                return self.hear_ack(lsn, Ack { ident, crc: small(crc), len: wide(len), position });
            }
            ("V", Some(&[lsn, crc, len, position])) => {
                self.shown.entry(lsn).or_insert(Shown { crc: small(crc), len: wide(len), position });
            }
            ("B", Some(&[lsn, position])) => self.trims.push(Truncation { lsn, began: position, done: None }),
            ("b", Some(&[position])) => done(&mut self.trims, position),
            ("C", Some(&[lsn, position])) => self.hear_cut(lsn, position),
            ("c", Some(&[position])) => done(&mut self.cuts, position),
            ("O", _) => return self.hear_opening(words),
            _ if line.contains("panicked") => self.failures.push(line.to_owned()),
            _ => {}
        }
        Heard::Else
    }

    fn hear_opening<'a>(&mut self, mut words: impl Iterator<Item = &'a str>) -> Heard {
        let label = words.next().unwrap_or_default().to_owned();
        let numbers: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
        let Some(&[last, torn_bytes, copied]) = numbers.as_deref() else { return Heard::Else };
        self.settle_cut(last);
        if let Some(acked) = self.acks.last_key_value().map(|(lsn, _)| *lsn)
            && last < acked
        {
            self.contradict("A1", format_args!("opened at {last} although {acked} was acknowledged"));
        }
        self.opened.push(OpenLine { label, last, torn_bytes, copied });
        Heard::Opened
    }

    fn hear_attempt(&mut self, cycle: u64, producer: u64, i: u64, first: u64, count: u64) -> Heard {
        let ident = Ident { cycle: small(cycle), producer: small(producer), i: small(i) };
        let payload = ident.payload(self.sizes, count > 1);
        self.attempts += 1;
        let attempt = Attempt { ident, first: small(first), count: small(count), cuts: self.cuts.len() };
        self.by_content.entry(content(&payload)).or_default().push(attempt);
        Heard::Attempt
    }

    fn hear_ack(&mut self, lsn: u64, ack: Ack) -> Heard {
        if self.acks.insert(lsn, ack).is_some() {
            self.contradict("A2", format_args!("LSN {lsn} was acknowledged twice"));
        }
        let opened = self.opened.last().map_or(0, |opened| opened.last);
        if self.cuts.is_empty() && lsn <= opened || self.basis.as_ref().is_some_and(|basis| lsn <= basis.last()) {
            self.contradict("A2", format_args!("LSN {lsn} was acknowledged although the log was opened behind it"));
        }
        Heard::Ack
    }

    /// What is about to be cut off was acknowledged all the same, until then.
    fn hear_cut(&mut self, lsn: u64, position: u64) {
        let number = self.cuts.len();
        self.cuts.push(Truncation { lsn, began: position, done: None });
        self.taken.extend(self.acks.split_off(&(lsn + 1)).into_iter().map(|(lsn, ack)| (number, lsn, ack)));
        // Shown records were acknowledged, or are about to be: the reader rests while the log is cut.
        drop(self.shown.split_off(&(lsn + 1)));
    }

    /// Who was killed while it cut the log off either had done so or not: whoever opens it sees where it ends.
    fn settle_cut(&mut self, last: u64) {
        let number = self.cuts.len().wrapping_sub(1);
        match self.cuts.last_mut() {
            Some(cut) if cut.done.is_none() && last <= cut.lsn => cut.done = Some(cut.began),
            Some(cut) if cut.done.is_none() => {
                self.cuts.pop();
                let back = self.taken.extract_if(.., |(of, ..)| *of == number).map(|(_, lsn, ack)| (lsn, ack));
                self.acks.extend(back);
            }
            _ => {}
        }
    }

    fn contradict(&mut self, assertion: &'static str, what: fmt::Arguments<'_>) {
        self.contradictions.push(Wrong::new(assertion, what));
    }

    /// Hears a child to its end. `heard` is told of every line.
    pub(crate) fn hear_all(&mut self, pipe: ChildStdout, mut heard: impl FnMut(&Heard)) {
        for line in BufReader::new(pipe).lines() {
            // A line cut short by the kill is not one.
            let Ok(line) = line else { break };
            let kind = self.hear(&line);
            heard(&kind);
        }
    }

    /// The oracle over a log that was never truncated: see [`Witness::judge_from`].
    pub(crate) fn judge<B: AsRef<[u8]>>(&self, records: &[(u64, B)], position: u64) -> Vec<Wrong> {
        self.judge_from(1, records, position)
    }

    /// The oracle: A1 to A4 and A7 of the records that a log holds, the first of which has (or would have) LSN `first`,
    /// given what had been acknowledged, shown and truncated when the recorder of the disk was at `position`. Returns what
    /// is wrong, at most a handful.
    pub(crate) fn judge_from<B: AsRef<[u8]>>(&self, first: u64, records: &[(u64, B)], position: u64) -> Vec<Wrong> {
        let mut wrong = self.contradictions.clone();
        if let Some((at, (lsn, _))) = records.iter().enumerate().find(|(at, (lsn, _))| *lsn != first + *at as u64) {
            wrong.push(Wrong::new("A2", format_args!("record {} behind LSN {first} has LSN {lsn}", at + 1)));
            return wrong;
        }
        let found = Found { first, contents: records.iter().map(|(_, payload)| content(payload.as_ref())).collect() };
        self.judge_first(first, position, &mut wrong);
        self.judge_due(&found, position, &mut wrong);
        self.judge_origin(&found, records, position, &mut wrong);
        wrong.truncate(8);
        wrong
    }

    /// A3: what was truncated stays away. A1: nothing else goes with it.
    fn judge_first(&self, first: u64, position: u64, wrong: &mut Vec<Wrong>) {
        let begins = self.basis.as_ref().map_or(1, |basis| basis.first);
        let of = |holds: fn(&Truncation, u64) -> bool| {
            let trims = self.trims.iter().filter(|trim| holds(trim, position));
            trims.map(|trim| trim.lsn).fold(begins, u64::max)
        };
        let (least, most) = (of(Truncation::is_done), of(Truncation::has_begun));
        if first < least {
            wrong.push(Wrong::new("A3", format_args!("the log begins at {first}, and was truncated before {least}")));
        }
        if first > most {
            wrong.push(Wrong::new("A1", format_args!("the log begins at {first}, truncated before {most} at most")));
        }
    }

    /// The cuts that took effect: a pending one is told by where the log ends.
    fn cuts_in_effect(&self, last: u64, position: u64) -> usize {
        let in_effect = |cut: &&Truncation| cut.is_done(position) || cut.has_begun(position) && last == cut.lsn;
        self.cuts.iter().take_while(in_effect).count()
    }

    /// A1: durability. A7: what was shown stays.
    fn judge_due(&self, found: &Found, position: u64, wrong: &mut Vec<Wrong>) {
        let cuts = self.cuts_in_effect(found.last(), position);
        let standing = self.acks.iter().map(|(lsn, ack)| (*lsn, ack));
        let taken = self.taken.iter().filter(|(number, ..)| *number >= cuts).map(|(_, lsn, ack)| (*lsn, ack));
        for (lsn, ack) in standing.chain(taken).filter(|(lsn, ack)| ack.position <= position && *lsn >= found.first) {
            found.expect(lsn, (ack.len, ack.crc), wrong, "A1", || {
                format!("acknowledged ({:?}, position {} of {position})", ack.ident, ack.position)
            });
        }
        for (lsn, shown) in self.shown.iter().filter(|(lsn, shown)| shown.position <= position && **lsn >= found.first)
        {
            let content = (shown.len, shown.crc);
            found.expect(*lsn, content, wrong, "A7", || {
                format!("shown to a reader (position {} of {position})", shown.position)
            });
        }
        if let Some(basis) = &self.basis {
            for (lsn, content) in (basis.first..).zip(&basis.records).filter(|(lsn, _)| *lsn >= found.first) {
                found.expect(lsn, *content, wrong, "A7", || "shown by the recovery before".to_owned());
            }
        }
    }

    /// A3: nothing invented, twice, or back from where a truncation or a crash had sent it. A2 again: each producer's
    /// records in its order. A4: groups whole.
    fn judge_origin<B: AsRef<[u8]>>(&self, found: &Found, records: &[(u64, B)], position: u64, wrong: &mut Vec<Wrong>) {
        let cuts = &self.cuts[..self.cuts_in_effect(found.last(), position)];
        let mut used: HashMap<(usize, u32), usize> = HashMap::new();
        let mut order: HashMap<(u32, u32), u32> = HashMap::new();
        let mut cycle_before = 0;
        let mut groups: HashMap<(u32, u32, u32), (u32, Vec<u64>)> = HashMap::new();
        let mut seen = HashSet::new();
        for ((lsn, payload), content) in records.iter().zip(&found.contents) {
            let payload = payload.as_ref();
            if self.basis.as_ref().is_some_and(|basis| basis.holds(*lsn, *content)) {
                continue;
            }
            let taken = used.entry(*content).or_default();
            let Some(attempt) = self.by_content.get(content).and_then(|attempts| attempts.get(*taken)) else {
                let bytes = payload.len();
                wrong.push(Wrong::new("A3", format_args!("LSN {lsn}: {bytes} bytes that nobody attempted (so often)")));
                continue;
            };
            *taken += 1;
            // What is too short tells no more than its count.
            if payload.len() < 16 {
                continue;
            }
            let ident = attempt.ident;
            if ident.payload(self.sizes, attempt.count > 1) != payload || !seen.insert(ident) {
                let what =
                    format_args!("LSN {lsn}: not byte by byte the record of {ident:?}, or a second time").to_string();
                wrong.push(Wrong::new("A3", what));
            }
            if cuts.iter().skip(attempt.cuts).any(|cut| cut.lsn < *lsn) {
                wrong.push(Wrong::new("A3", format_args!("LSN {lsn}: {ident:?} is back, and had been cut off")));
            }
            let before = order.insert((ident.cycle, ident.producer), ident.i);
            if before.is_some_and(|before| before >= ident.i) || ident.cycle < cycle_before {
                wrong.push(Wrong::new(
                    "A2",
                    format_args!("LSN {lsn}: {ident:?} stands behind a later record of its producer"),
                ));
            }
            cycle_before = ident.cycle;
            if attempt.count > 1 {
                let group =
                    groups.entry((ident.cycle, ident.producer, attempt.first)).or_insert((attempt.count, Vec::new()));
                group.1.push(*lsn);
            }
        }
        let bounds = cuts.iter().map(|cut| cut.lsn).collect::<Vec<_>>();
        for ((cycle, producer, first), (count, lsns)) in groups {
            if !is_whole(&lsns, count, found.first, &bounds) {
                wrong.push(Wrong::new(
                    "A4",
                    format_args!(
                        "group {first} of producer {producer} in cycle {cycle}: LSNs {lsns:?} of {count} records"
                    ),
                ));
            }
        }
    }
}

/// Whether a group is there as a whole, except for what a truncation inside it took.
fn is_whole(lsns: &[u64], count: u32, first: u64, cuts: &[u64]) -> bool {
    let consecutive = lsns.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let trimmed = lsns.first() == Some(&first) && first > 1;
    let cut = lsns.last().is_some_and(|last| cuts.contains(last));
    consecutive && (lsns.len() == count as usize || lsns.len() < count as usize && (trimmed || cut))
}

/// What a log holds.
struct Found {
    first: u64,
    contents: Vec<(usize, u32)>,
}

impl Found {
    fn last(&self) -> u64 {
        self.first + self.contents.len() as u64 - 1
    }

    /// The record with this LSN must be there, with these bytes.
    fn expect(
        &self,
        lsn: u64,
        content: (usize, u32),
        wrong: &mut Vec<Wrong>,
        assertion: &'static str,
        why: impl Fn() -> String,
    ) {
        match usize::try_from(lsn - self.first).ok().and_then(|at| self.contents.get(at)) {
            None => {
                let last = self.last();
                wrong.push(Wrong::new(assertion, format_args!("LSN {lsn} was {} and the log ends at {last}", why())));
            }
            Some(there) if *there != content => {
                wrong.push(Wrong::new(assertion, format_args!("LSN {lsn} holds other bytes than were {}", why())));
            }
            Some(_) => {}
        }
    }
}

fn content(payload: &[u8]) -> (usize, u32) {
    (payload.len(), crc32fast::hash(payload))
}

fn done(truncations: &mut [Truncation], position: u64) {
    truncations.last_mut().expect("it began").done = Some(position);
}

fn small(number: u64) -> u32 {
    u32::try_from(number).expect("a small number")
}

fn wide(number: u64) -> usize {
    usize::try_from(number).expect("a length")
}
