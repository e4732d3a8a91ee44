//! A directory that somebody made: opened for writing, read, appended to, opened again.
//!
//! Input: a few choices, then files, each a name and blocks. A block is zeros, a static block, a batch, a copy of an
//! earlier block, or plain bytes; what has a checksum gets it right, unless the choices damage it afterwards.
//!
//! What must hold: whoever only reads changes nothing, and neither does an opening that is refused before it writes. What
//! an opening shows is dense. A log that was opened takes records, ends, and opens again with all of them, unless the
//! bytes say that LSNs or epochs are at their end.

use std::sync::LazyLock;

use ringwal::harness::{Life, judge, shown};
use ringwal::sim::{Sim, Snapshot};
use ringwal::{LogId, Method, Options};

use crate::directory::{bounded, tell};
use crate::gauge::{Use, measure};
use crate::input::Input;
use crate::life::{Records, go_on};
use crate::layout::{
    BATCH_MAGIC, BLOCK, BLOCK_INDEX, COUNT, DIGEST, DURABLE, EPOCH, FIRST, FLAGS, HEADER, KIND, LINK_BLOCK, LINK_CRC,
    LINK_SEGMENT, LOG_ID, NONCE, Owner, RECORD_HEADER, RECORDS_BYTES, RESTATED_TO, SEGMENT_ID, SEGMENT_MAGIC, TERM,
    TRIM, VERSION, is_batch, seal_header, seal_records, seal_static,
};
use crate::logs::{Files, LOGS, sim_options};
use crate::record;

/// The most blocks of a file, and the most files.
const BLOCKS_MAX: usize = 20;
const FILES_MAX: usize = 4;

/// An empty directory that carries the log's id.
static NAMED: LazyLock<Snapshot> = LazyLock::new(|| {
    let sim = Sim::new(1, sim_options());
    let life = Life::open_named(&sim, &options(0), 1, LogId::new(record::LOG_ID));
    drop(life.expect("an empty directory opens"));
    sim.kill();
    sim.files().iter().for_each(|name| sim.delete(name));
    sim.snapshot()
});

/// The most that a log of the writer's own costs.
static CLEAN: LazyLock<Use> = LazyLock::new(|| {
    let costs = LOGS.iter().map(|log| measure(|| live(&log.disk(1), &log.options)).1);
    costs.fold(Use::default(), Use::max)
});

fn options(choices: u8) -> Options {
    Options::default()
        .method(Method::ALL[usize::from(choices >> 1) % 4])
        .block_bytes(512)
        .segment_bytes(16 * BLOCK as u64)
        .flight_max(1 + usize::from(choices >> 3) % 3)
        .pending_bytes_max(1 << 16)
}

/// Builds a directory and lets the library loose on it.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choices = input.byte();
    let files = Builder::new(&mut input).files();
    let sim = Sim::new(1, sim_options());
    if choices & 1 == 1 {
        sim.restore(&NAMED);
    }
    files.iter().for_each(|(name, bytes)| sim.put(name, bytes));
    tell(&sim);
    let ((), met) = measure(|| live(&sim, &options(choices)));
    bounded(met, *CLEAN, files.iter().map(|(_, bytes)| bytes.len()).max().unwrap_or(0));
}

/// Whether all batch headers say what a writer could have said, as far as one by one they tell: LSNs, epochs and segments
/// far from their end, nothing truncated that was not durable, nothing newer. Of others only P11 is asked.
fn plausible(sim: &Sim) -> bool {
    let far = |header: &[u8]| {
        [FIRST, EPOCH, DURABLE, TRIM, RESTATED_TO].iter().all(|field| field.get(header) < u64::MAX / 2)
            && TRIM.get(header) <= DURABLE.get(header) + 1
            && VERSION.get(header) == 1
            && (1..=4).contains(&KIND.get(header))
            && FLAGS.get(header) < 4
    };
    sim.files().iter().all(|name| {
        let bytes = sim.bytes(name).unwrap_or_default();
        !name.starts_with(|digit| digit > '7') && bytes.chunks(BLOCK).filter(|block| is_batch(block)).all(far)
    })
}

fn live(sim: &Sim, options: &Options) {
    let before = sim.hash();
    let judged = [true, false].map(|whole| judge(sim, whole));
    let seen = shown(sim);
    assert_eq!(sim.hash(), before, "A6: who reads changed a byte");
    let room = plausible(sim);
    let life = match Life::open(sim, options, 0x5eed) {
        Ok(life) => life,
        Err(error) => {
            let decided = matches!(&judged[1], Ok(tail) if !tail.damaged);
            assert!(decided || sim.hash() == before, "A9: a refused opening changed a byte: {error}");
            return;
        }
    };
    assert!(matches!(&judged[1], Ok(tail) if !tail.damaged), "A8: opened, though damaged: {judged:?}");
    let records = life.read();
    if let Ok(records) = &records {
        dense(records);
        if let Ok(seen) = &seen {
            // Also what lies before a beginning that was moved meanwhile.
            let same = records.iter().all(|(lsn, record)| {
                seen.iter().find(|(other, _)| other == lsn).is_none_or(|(_, other)| other == record)
            });
            assert!(same, "A7: a reader was shown other records: {seen:?}, {records:?}");
        }
    }
    tell(sim);
    let (appended, refused) = go_on(sim, life);
    tell(sim);
    assert!(!room || refused.is_none(), "A5: an open log takes no record: {refused:?}");
    match Life::open(sim, options, 0x5eee).map(|life| (life.report().label, life.read())) {
        Ok((_, again)) if room => {
            let (Ok(records), Ok(again)) = (records, again) else { return };
            let all: Vec<_> = records.iter().cloned().chain(appended).collect();
            assert_eq!(again, all, "A6: another opening keeps other records");
        }
        Ok((_, Ok(again))) => dense(&again),
        Ok((_, Err(_))) => {}
        Err(error) => assert!(!room, "A5: a log that was open cannot be opened: {error}"),
    }
}

fn dense(records: &Records) {
    let dense = records.windows(2).all(|pair| pair[0].0.next() == pair[1].0);
    assert!(dense, "A2: records are missing in between: {records:?}");
}

/// Makes a directory of choices.
struct Builder<'a, 'b> {
    input: &'a mut Input<'b>,
    files: Files,
    /// The batch made last: (segment, block, CRC, next LSN), what the next one links to unless it is told otherwise.
    last: Option<(u64, u64, u32, u64)>,
    epoch: u64,
}

impl<'a, 'b> Builder<'a, 'b> {
    fn new(input: &'a mut Input<'b>) -> Self {
        Self { input, files: Vec::new(), last: None, epoch: 1 }
    }

    fn files(mut self) -> Files {
        for number in 1..=FILES_MAX as u64 {
            if self.input.is_empty() {
                break;
            }
            let (id, name) = self.name(number);
            let bytes = self.blocks(id);
            self.files.retain(|(other, _)| *other != name);
            self.files.push((name, bytes));
        }
        self.files
    }

    fn name(&mut self, number: u64) -> (u64, String) {
        let id = match self.input.index(8) {
            0 => u64::from(self.input.byte() % 8),
            1 => self.input.long(),
            2 => return (number, format!("{number:016x}.spare")),
            3 => return (0, ["a.cursor", "LOCK", "standby", "stranger"][self.input.index(4)].to_owned()),
            _ => number,
        };
        (id, format!("{id:016x}.seg"))
    }

    fn blocks(&mut self, id: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        let block_bytes = self.static_block(id, &mut bytes);
        while bytes.len() < BLOCKS_MAX * BLOCK && !self.input.is_empty() {
            match self.input.index(8) {
                0 => break,
                1 => bytes.resize(bytes.len() + BLOCK, 0),
                2 => self.copy(&mut bytes),
                3 => self.plain(&mut bytes),
                _ => self.batch(id, block_bytes, &mut bytes),
            }
        }
        // Most files are as long as they say.
        if self.input.byte() % 8 != 7 {
            bytes.resize(bytes.len().max(16 * BLOCK).next_multiple_of(BLOCK), 0);
        }
        bytes.truncate(2 * BLOCKS_MAX * BLOCK);
        bytes
    }

    fn static_block(&mut self, id: u64, bytes: &mut [u8]) -> usize {
        let choices = self.input.byte();
        bytes[..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8] = 1;
        let block_bytes = if choices & 7 == 7 { 512usize << self.input.index(9) } else { BLOCK };
        bytes[12..16].copy_from_slice(&(block_bytes as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(&record::LOG_ID);
        bytes[32..40].copy_from_slice(&id.to_le_bytes());
        let len = if choices & 56 == 56 { self.input.long() } else { 16 * BLOCK as u64 };
        bytes[40..48].copy_from_slice(&len.to_le_bytes());
        if choices & 192 == 192 {
            let at = self.input.index(64);
            bytes[at] ^= self.input.byte();
        }
        if choices & 64 == 0 || choices & 128 == 0 || self.input.bit() {
            seal_static(bytes);
        }
        block_bytes.min(4096)
    }

    fn copy(&mut self, bytes: &mut Vec<u8>) {
        let from = self.input.index(bytes.len() / BLOCK) * BLOCK;
        let copied = bytes[from..from + BLOCK].to_vec();
        bytes.extend(copied);
    }

    fn plain(&mut self, bytes: &mut Vec<u8>) {
        let at = bytes.len();
        bytes.resize(at + BLOCK, 0);
        let taken = self.input.take(32);
        bytes[at..at + taken.len()].copy_from_slice(taken);
    }

    /// A field that is as it should be, or as somebody says.
    fn field(&mut self, odd: bool, usual: u64) -> u64 {
        if odd { self.input.long() } else { usual }
    }

    fn batch(&mut self, id: u64, block_bytes: usize, bytes: &mut Vec<u8>) {
        let at = bytes.len();
        let (kind, odd) = (self.input.byte(), self.input.short());
        bytes.resize(at + HEADER, 0);
        let block = (at / block_bytes) as u64;
        let (segment, before, crc, next) = self.last.unwrap_or((0, 0, 0, 1));
        self.epoch += u64::from(kind & 3 == 0);
        let first = self.field(odd & 1 == 1, next);
        let nonce = 77 + self.epoch;
        let owner = Owner { log_id: record::LOG_ID, nonce, first };
        let (count, digest) = if kind & 3 == 1 || kind & 3 == 2 { self.records(bytes, at, owner) } else { (0, 0) };
        let stored = bytes.len() - at - HEADER;
        let header = &mut bytes[at..];
        header[..8].copy_from_slice(BATCH_MAGIC);
        header[LOG_ID.0..][..16].copy_from_slice(&record::LOG_ID);
        for (bit, (field, usual)) in [
            (KIND, u64::from(kind & 3) + 1),
            (FLAGS, u64::from(kind >> 2 & 3)),
            (EPOCH, self.epoch),
            (NONCE, nonce),
            (SEGMENT_ID, id),
            (BLOCK_INDEX, block),
            (RECORDS_BYTES, stored as u64),
            (COUNT, count),
            (DIGEST, digest),
            (DURABLE, first.saturating_sub(1)),
            (TRIM, 1),
            (RESTATED_TO, if kind & 3 == 0 { first.saturating_sub(1) } else { 0 }),
            (TERM, 0),
            (LINK_SEGMENT, segment),
            (LINK_BLOCK, before),
        ]
        .into_iter()
        .enumerate()
        {
            let value = self.field(odd >> (bit + 1) & 1 == 1, usual);
            field.set(header, value);
        }
        FIRST.set(header, first);
        VERSION.set(header, 1 + u64::from(kind == 255));
        LINK_CRC.set(header, crc.into());
        let crc = seal_header(header);
        if kind & 96 == 96 {
            let flipped = self.input.index(header.len());
            header[flipped] ^= 1;
        }
        // A dead tail is one to which nothing links.
        if kind & 16 == 0 {
            self.last = Some((SEGMENT_ID.get(header), BLOCK_INDEX.get(header), crc, first.saturating_add(count)));
        }
        bytes.resize(bytes.len().next_multiple_of(block_bytes), 0);
    }

    fn records(&mut self, bytes: &mut Vec<u8>, at: usize, owner: Owner) -> (u64, u64) {
        for _ in 0..1 + self.input.index(4) {
            let (len, kind) = (self.input.byte(), self.input.byte());
            let begin = bytes.len();
            bytes.resize(begin + RECORD_HEADER + usize::from(len), 0);
            bytes[begin] = len;
            bytes[begin + 4] = 1 + u8::from(kind > 200);
            bytes[begin + RECORD_HEADER..].fill(kind);
        }
        let (count, digest, _) = seal_records(&mut bytes[at + HEADER..], owner);
        (count.into(), digest)
    }
}
