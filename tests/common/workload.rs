//! What a writer child appends: records that are a function of who wrote them, by every way of appending there is, each
//! attempt and each acknowledgement told to the witness before the next step.

use std::io::Write as _;
use std::sync::{Arc, Mutex};

use ringwal::{Log, Lsn, SubmitError};

use super::rig::Rng;
use super::witness::{Position, Witness};

/// Who wrote a record: the child (or the log's cycle), its producer, and the producer's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ident {
    pub(crate) cycle: u32,
    pub(crate) producer: u32,
    pub(crate) i: u32,
}

impl Ident {
    fn rng(self) -> Rng {
        let mut rng = Rng::new(u64::from(self.cycle) << 40 ^ u64::from(self.producer) << 32 ^ u64::from(self.i));
        rng.next();
        rng
    }

    /// The record's bytes, as many as `sizes` say; members of groups have at least 16.
    pub(crate) fn payload(self, sizes: impl Into<Sizes>, grouped: bool) -> Vec<u8> {
        let mut rng = self.rng();
        let len = match sizes.into() {
            Sizes::Exactly(len) => len,
            Sizes::UpTo(max) => mixed_len(&mut rng, max, grouped),
        };
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&rng.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

fn mixed_len(rng: &mut Rng, max: usize, grouped: bool) -> usize {
    let len = match rng.below(10) {
        0 => 0,
        1..=4 => rng.below(100),
        5..=8 => rng.below(2000),
        _ => rng.below(8192),
    };
    usize::try_from(if grouped { 16 + len % 1500 } else { len }.min(max as u64)).unwrap()
}

/// How long a workload's records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// Most are short, some empty, none longer than this.
    UpTo(usize),
    /// All alike (and at least 16 bytes): what stands in a dead tail looks like what comes after it.
    Exactly(usize),
}

impl Default for Sizes {
    fn default() -> Self {
        Self::UpTo(0)
    }
}

impl From<usize> for Sizes {
    fn from(max: usize) -> Self {
        Self::UpTo(max)
    }
}

/// Who hears it.
#[derive(Debug)]
enum Ear {
    /// A pipe that the parent holds: whole lines, each one write, so that a kill loses none.
    Pipe,
    /// A witness in this process: what it writes may lose its power, but nobody kills it.
    Witness(Arc<Mutex<Witness>>),
}

/// A writer's mouth: what it says has been heard when the call returns.
#[derive(Debug)]
pub(crate) struct Teller {
    ear: Ear,
    /// Read at each acknowledgement: how far the recorder of the disk is.
    position: Option<Position>,
}

impl Teller {
    /// For a child.
    pub(crate) fn new() -> Self {
        let position = std::env::var_os("RINGWAL_POSITION").map(|path| Position::open(path.as_ref()));
        Self { ear: Ear::Pipe, position }
    }

    pub(crate) fn to(witness: Arc<Mutex<Witness>>, position: Position) -> Self {
        Self { ear: Ear::Witness(witness), position: Some(position) }
    }

    pub(crate) fn line(&self, line: &str) {
        match &self.ear {
            Ear::Witness(witness) => drop(witness.lock().unwrap().hear(line)),
            Ear::Pipe => {
                let mut out = std::io::stdout().lock();
                // A parent that is gone needs no witness; this child will not outlive it for long.
                if out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
                    std::process::exit(3);
                }
            }
        }
    }

    /// How far the recorder of the disk is.
    fn position(&self) -> u64 {
        self.position.as_ref().map_or(0, Position::read)
    }

    /// Before it is staged. `group` is the number of the first record of its group and how many they are.
    pub(crate) fn attempt(&self, ident: Ident, group: Option<(u32, u32)>) {
        let (first, count) = group.unwrap_or((ident.i, 1));
        self.line(&format!("T {} {} {} {first} {count}", ident.cycle, ident.producer, ident.i));
    }

    /// After the log said that it is durable.
    pub(crate) fn acknowledged(&self, lsn: Lsn, ident: Ident, payload: &[u8]) {
        // Read before the line is formed, after the acknowledgement: never earlier than what made it durable.
        let position = self.position();
        let (crc, len) = (crc32fast::hash(payload), payload.len());
        let Ident { cycle, producer, i } = ident;
        self.line(&format!("A {lsn} {crc} {len} {cycle} {producer} {i} {position}"));
    }

    /// After a reader was shown it.
    pub(crate) fn shown(&self, lsn: Lsn, payload: &[u8]) {
        let position = self.position();
        self.line(&format!("V {lsn} {} {} {position}", crc32fast::hash(payload), payload.len()));
    }

    /// Before everything below `first` is given up.
    pub(crate) fn trims(&self, first: Lsn) {
        self.line(&format!("B {first} {}", self.position()));
    }

    pub(crate) fn trimmed(&self) {
        self.line(&format!("b {}", self.position()));
    }

    /// Before everything above `last` is taken back.
    pub(crate) fn cuts(&self, last: Lsn) {
        self.line(&format!("C {last} {}", self.position()));
    }

    pub(crate) fn cut(&self) {
        self.line(&format!("c {}", self.position()));
    }
}

/// How much to append.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) cycle: u32,
    /// Tasks that append one after another, in all the ways.
    pub(crate) tasks: u32,
    /// Threads that submit several before they wait.
    pub(crate) threads: u32,
    /// Records of each.
    pub(crate) records: u32,
    pub(crate) bytes_max: usize,
}

/// Appends until everything was appended or the log ends.
pub(crate) fn run(log: &Log, load: Load, teller: &Arc<Teller>) {
    let submitters: Vec<_> = (0..load.threads)
        .map(|number| {
            let (log, teller) = (log.clone(), teller.clone());
            std::thread::spawn(move || submitter(&log, load, load.tasks + number, &teller))
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let tasks: Vec<_> = (0..load.tasks)
        .map(|producer| {
            let (log, teller) = (log.clone(), teller.clone());
            runtime.spawn(async move { appender(&log, load, producer, &teller).await })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    submitters.into_iter().for_each(|thread| thread.join().unwrap());
}

async fn appender(log: &Log, load: Load, producer: u32, teller: &Teller) {
    let mut rng = Rng::new(u64::from(load.cycle) << 20 | u64::from(producer));
    let mut i = 0;
    while i < load.records {
        let ident = Ident { cycle: load.cycle, producer, i };
        match rng.below(8) {
            0 | 1 => {
                let count = 2 + u32::try_from(rng.below(4)).unwrap();
                let idents: Vec<_> = (i..i + count).map(|i| Ident { i, ..ident }).collect();
                let payloads: Vec<_> = idents.iter().map(|ident| ident.payload(load.bytes_max, true)).collect();
                idents.iter().for_each(|ident| teller.attempt(*ident, Some((i, count))));
                let lsns = log.append_batch(&payloads).await.unwrap();
                for (offset, (ident, payload)) in idents.iter().zip(&payloads).enumerate() {
                    teller.acknowledged(lsns.start().plus(offset as u64), *ident, payload);
                }
                i += count;
            }
            2 => {
                let payload = ident.payload(load.bytes_max, false);
                let mut slot = log.reserve(payload.len() + 10).await.unwrap();
                slot.put(&payload);
                teller.attempt(ident, None);
                teller.acknowledged(slot.commit().await.unwrap(), ident, &payload);
                i += 1;
            }
            _ => {
                let payload = ident.payload(load.bytes_max, false);
                teller.attempt(ident, None);
                teller.acknowledged(log.append(&payload).await.unwrap(), ident, &payload);
                i += 1;
            }
        }
    }
}

fn submitter(log: &Log, load: Load, producer: u32, teller: &Teller) {
    let mut pending = std::collections::VecDeque::new();
    let settle = |pending: &mut std::collections::VecDeque<(Ident, Vec<u8>, ringwal::Pending)>| {
        if let Some((ident, payload, answer)) = pending.pop_front() {
            teller.acknowledged(answer.wait().unwrap(), ident, &payload);
        }
    };
    for i in 0..load.records {
        let ident = Ident { cycle: load.cycle, producer, i };
        let payload = ident.payload(load.bytes_max, false);
        teller.attempt(ident, None);
        let answer = loop {
            match log.submit(&payload) {
                Ok(answer) => break answer,
                Err(SubmitError::Full) if pending.is_empty() => std::thread::yield_now(),
                Err(SubmitError::Full) => settle(&mut pending),
                Err(error) => panic!("{error}"),
            }
        };
        pending.push_back((ident, payload, answer));
        if pending.len() >= 8 {
            settle(&mut pending);
        }
    }
    while !pending.is_empty() {
        settle(&mut pending);
    }
}
