//! The witness: another process that heard of every attempt and every acknowledgement, and the oracle over what is left.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::ChildStdout;

use super::workload::Ident;

/// How many entries the recorder of the disk has, read from its superblock.
#[derive(Debug)]
pub(crate) struct Position(std::fs::File);

impl Position {
    pub(crate) fn open(path: &Path) -> Self {
        Self(std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    pub(crate) fn read(&self) -> u64 {
        let mut entries = [0; 8];
        self.0.read_exact_at(&mut entries, 16).unwrap();
        u64::from_le_bytes(entries)
    }
}

/// What the log said was durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    pub(crate) ident: Ident,
    pub(crate) crc: u32,
    pub(crate) len: usize,
    /// How far the recorder of the disk was.
    pub(crate) position: u64,
}

/// A record that was attempted.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    ident: Ident,
    /// The first number of its group and how many they are; 1 for a record on its own.
    first: u32,
    count: u32,
}

/// What an opening said.
#[derive(Clone, Debug)]
pub(crate) struct OpenLine {
    pub(crate) label: String,
    pub(crate) last: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) copied: u64,
}

/// Everything that was heard.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    bytes_max: usize,
    pub(crate) acks: BTreeMap<u64, Ack>,
    attempts: usize,
    /// By length and checksum: a short record does not tell whose it is.
    by_content: HashMap<(usize, u32), Vec<Attempt>>,
    pub(crate) opened: Vec<OpenLine>,
    /// Acknowledgements that contradict one another or an opening.
    pub(crate) contradictions: Vec<String>,
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
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// Attempts that were never answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.attempts - self.acks.len()
    }

    /// Takes one line of a child.
    pub(crate) fn hear(&mut self, line: &str) -> Heard {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let number = |at: usize| rest.get(at).and_then(|word| word.parse::<u64>().ok());
        let small = |at: usize| number(at).and_then(|number| u32::try_from(number).ok());
        match (kind, rest.len()) {
            ("S", 0) => Heard::Start,
            ("O", 4) => {
                let (Some(last), Some(torn_bytes), Some(copied)) = (number(1), number(2), number(3)) else {
                    return Heard::Else;
                };
                if let Some((acked, _)) = self.acks.last_key_value()
                    && last < *acked
                {
                    self.contradictions.push(format!("opened at {last} although {acked} was acknowledged"));
                }
                self.opened.push(OpenLine { label: rest[0].to_owned(), last, torn_bytes, copied });
                Heard::Opened
            }
            ("T", 5) => {
                let (Some(cycle), Some(producer), Some(i), Some(first), Some(count)) =
                    (small(0), small(1), small(2), small(3), small(4))
                else {
                    return Heard::Else;
                };
                let ident = Ident { cycle, producer, i };
                let payload = ident.payload(self.bytes_max, count > 1);
                self.attempts += 1;
                let content = (payload.len(), crc32fast::hash(&payload));
                self.by_content.entry(content).or_default().push(Attempt { ident, first, count });
                Heard::Attempt
            }
            ("A", 7) => {
                let (Some(lsn), Some(crc), Some(len), Some(cycle), Some(producer), Some(i), Some(position)) =
                    (number(0), small(1), number(2), small(3), small(4), small(5), number(6))
                else {
                    return Heard::Else;
                };
                let ack =
                    Ack { ident: Ident { cycle, producer, i }, crc, len: usize::try_from(len).unwrap(), position };
                if self.acks.insert(lsn, ack).is_some() {
                    self.contradictions.push(format!("LSN {lsn} was acknowledged twice"));
                }
                if self.opened.last().is_some_and(|opened| lsn <= opened.last) {
                    self.contradictions
                        .push(format!("LSN {lsn} was acknowledged although the log was opened behind it"));
                }
                Heard::Ack
            }
            _ => {
                if line.contains("panicked") {
                    self.failures.push(line.to_owned());
                }
                Heard::Else
            }
        }
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

    /// The oracle: A1 to A4 of the records from LSN 1 on that a log holds, given what had been acknowledged when the
    /// recorder of the disk was at `position`. Returns what is wrong, in words, at most a handful.
    pub(crate) fn judge<B: AsRef<[u8]>>(&self, records: &[(u64, B)], position: u64) -> Vec<String> {
        let mut wrong = self.contradictions.clone();
        let due = || self.acks.iter().filter(|(_, ack)| ack.position <= position);
        // A1: durability. A2: no holes.
        let last = records.len() as u64;
        for (at, (lsn, _)) in records.iter().enumerate() {
            if *lsn != at as u64 + 1 {
                wrong.push(format!("record {} has LSN {lsn}", at + 1));
                return wrong;
            }
        }
        for (lsn, ack) in due() {
            match records.get(usize::try_from(*lsn).unwrap() - 1) {
                None => wrong.push(format!(
                    "LSN {lsn} was acknowledged ({:?}, position {}) and the log ends at {last}",
                    ack.ident, ack.position
                )),
                Some((_, payload)) => {
                    let payload = payload.as_ref();
                    if payload.len() != ack.len || crc32fast::hash(payload) != ack.crc {
                        wrong.push(format!("LSN {lsn} holds other bytes than were acknowledged"));
                    }
                }
            }
        }
        self.judge_origin(records, &mut wrong);
        wrong.truncate(8);
        wrong
    }

    /// A3: nothing invented or twice. A2 again: each producer's records in its order. Groups whole.
    fn judge_origin<B: AsRef<[u8]>>(&self, records: &[(u64, B)], wrong: &mut Vec<String>) {
        let mut used: HashMap<(usize, u32), usize> = HashMap::new();
        let mut order: HashMap<(u32, u32), u32> = HashMap::new();
        let mut cycle_before = 0;
        let mut groups: HashMap<(u32, u32, u32), (u32, Vec<u64>)> = HashMap::new();
        let mut seen = HashSet::new();
        for (lsn, payload) in records {
            let payload = payload.as_ref();
            let content = (payload.len(), crc32fast::hash(payload));
            let taken = used.entry(content).or_default();
            let Some(attempt) = self.by_content.get(&content).and_then(|attempts| attempts.get(*taken)) else {
                wrong.push(format!("LSN {lsn}: {} bytes that nobody attempted (so often)", payload.len()));
                continue;
            };
            *taken += 1;
            // What is too short tells no more than its count.
            if payload.len() < 16 {
                continue;
            }
            let ident = attempt.ident;
            if ident.payload(self.bytes_max, attempt.count > 1) != payload || !seen.insert(ident) {
                wrong.push(format!("LSN {lsn}: not byte by byte the record of {ident:?}, or a second time"));
            }
            let before = order.insert((ident.cycle, ident.producer), ident.i);
            if before.is_some_and(|before| before >= ident.i) || ident.cycle < cycle_before {
                wrong.push(format!("LSN {lsn}: {ident:?} stands behind a later record of its producer"));
            }
            cycle_before = ident.cycle;
            if attempt.count > 1 {
                let group =
                    groups.entry((ident.cycle, ident.producer, attempt.first)).or_insert((attempt.count, Vec::new()));
                group.1.push(*lsn);
            }
        }
        for ((cycle, producer, first), (count, lsns)) in groups {
            let consecutive = lsns.windows(2).all(|pair| pair[1] == pair[0] + 1);
            if lsns.len() != count as usize || !consecutive {
                wrong.push(format!(
                    "group {first} of producer {producer} in cycle {cycle}: LSNs {lsns:?} of {count} records"
                ));
            }
        }
    }
}
