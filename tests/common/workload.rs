//! What a writer child appends: records that are a function of who wrote them, by every way of appending there is, each
//! attempt and each acknowledgement told to the witness before the next step.

use std::io::Write as _;
use std::sync::Arc;

use ringwal::{Log, Lsn, SubmitError};

use super::rig::Rng;

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

    /// The record's bytes, from 0 to `bytes_max` of them; members of groups have at least 16.
    pub(crate) fn payload(self, bytes_max: usize, grouped: bool) -> Vec<u8> {
        let mut rng = self.rng();
        let max = bytes_max as u64;
        let len = match rng.below(10) {
            0 => 0,
            1..=4 => rng.below(100),
            5..=8 => rng.below(2000),
            _ => rng.below(8192),
        };
        let len = usize::try_from(if grouped { 16 + len % 1500 } else { len }.min(max)).unwrap();
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&rng.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// The child's mouth: whole lines, each one write to a pipe that the parent holds, so that a kill loses none.
#[derive(Debug)]
pub(crate) struct Teller {
    /// Read at each acknowledgement: how far the recorder of the disk is.
    position: Option<super::witness::Position>,
}

impl Teller {
    pub(crate) fn new() -> Self {
        let position = std::env::var_os("RINGWAL_POSITION").map(|path| super::witness::Position::open(path.as_ref()));
        Self { position }
    }

    pub(crate) fn line(&self, line: &str) {
        let mut out = std::io::stdout().lock();
        // A parent that is gone needs no witness; this child will not outlive it for long.
        if out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
            std::process::exit(3);
        }
    }

    /// Before it is staged. `group` is the number of the first record of its group and how many they are.
    pub(crate) fn attempt(&self, ident: Ident, group: Option<(u32, u32)>) {
        let (first, count) = group.unwrap_or((ident.i, 1));
        self.line(&format!("T {} {} {} {first} {count}", ident.cycle, ident.producer, ident.i));
    }

    /// After the log said that it is durable.
    pub(crate) fn acknowledged(&self, lsn: Lsn, ident: Ident, payload: &[u8]) {
        // Read before the line is formed, after the acknowledgement: never earlier than what made it durable.
        let position = self.position.as_ref().map_or(0, super::witness::Position::read);
        let crc = crc32fast::hash(payload);
        self.line(&format!(
            "A {lsn} {crc} {} {} {} {} {position}",
            payload.len(),
            ident.cycle,
            ident.producer,
            ident.i
        ));
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
