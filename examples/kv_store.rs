//! A durable key-value store on the log: `cargo run --example kv_store -- DIRECTORY`.
//!
//! It reads commands from standard input, one a line, and answers each, in order, on standard output:
//!
//! ```text
//! put KEY VALUE    ok LSN            durable
//! get KEY          value VALUE, or: none
//! delete KEY       ok LSN            durable
//! list             list COUNT, then COUNT lines: KEY VALUE
//! snapshot         snapshot LSN      everything up to LSN is in the snapshot
//! ```
//!
//! What a log gives a store: the map lives in memory, every change is a record, and a change is answered when its
//! record is durable. After a crash the map is what the records say, read from the beginning or behind a snapshot.
//!
//! Commands are not answered one after another but in a pipeline: the next ones are read while earlier ones are on
//! their way to the disk, so that many changes share one flush. Answers keep their order, which is what makes that
//! safe: who reads a value that is not durable yet is answered only behind the change that put it there.
#![allow(clippy::print_stderr, reason = "a program")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use ringwal::{Log, Lsn, Options, Pending, SubmitError};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: kv_store DIRECTORY")?);
    let mut store = Store::open(&dir)?;
    eprintln!("{} keys, as of record {}", store.map.len(), store.applied);

    // The bound is how far reading commands may run ahead of answering them.
    let (answers, queue) = sync_channel(1024);
    let answering = thread::spawn(move || {
        answer_all(&queue, &dir).unwrap_or_else(|error| {
            // Not by way of `main`, which waits for the next command.
            eprintln!("{error}");
            exit(1);
        });
    });
    serve(&mut store, &answers)?;
    drop(answers);
    answering.join().map_err(|_| "the answering thread panicked")?;
    store.log.close().wait()?;
    Ok(())
}

/// Reads commands until there are no more, or nobody takes the answers.
fn serve(store: &mut Store, answers: &SyncSender<Answer>) -> Result<()> {
    for line in io::stdin().lock().lines() {
        let answer = match Command::parse(&line?) {
            Ok(Command::Put(key, value)) => store.change(Change::Put { key, value }),
            Ok(Command::Delete(key)) => store.change(Change::Delete { key }),
            Ok(Command::Get(key)) => Answer::Now(match store.map.get(&key) {
                Some(value) => format!("value {value}"),
                None => "none".to_owned(),
            }),
            Ok(Command::List) => Answer::Now(store.list()),
            Ok(Command::Snapshot) => Answer::Snapshot(store.map.clone(), store.applied),
            Err(why) => Answer::Now(format!("error: {why}")),
        };
        if answers.send(answer).is_err() {
            break;
        }
    }
    Ok(())
}

/// What to say to a command, and when.
enum Answer {
    /// As soon as it is this command's turn.
    Now(String),
    /// When the change is durable, too.
    WhenDurable(Pending),
    /// When this map, which is as of this record, is in the snapshot.
    Snapshot(BTreeMap<String, String>, Lsn),
}

/// Gives the answers in order. A change that cannot be made durable ends everything: the log accepts nothing after it,
/// and the map holds what the log does not.
fn answer_all(queue: &Receiver<Answer>, dir: &Path) -> Result<()> {
    let mut out = io::stdout().lock();
    for answer in queue {
        match answer {
            Answer::Now(text) => writeln!(out, "{text}")?,
            Answer::WhenDurable(pending) => writeln!(out, "ok {}", pending.wait()?)?,
            // A snapshot must not know more than the log. It does not: every change in it has been answered.
            Answer::Snapshot(map, lsn) => {
                snapshot::save(dir, &map, lsn)?;
                writeln!(out, "snapshot {lsn}")?;
            }
        }
        // Standard output to a terminal is flushed by line anyhow; whoever reads a pipe waits for the answer.
        out.flush()?;
    }
    Ok(())
}

enum Command {
    Put(String, String),
    Get(String),
    Delete(String),
    List,
    Snapshot,
}

impl Command {
    fn parse(line: &str) -> std::result::Result<Self, &'static str> {
        let mut words = line.splitn(3, ' ');
        let word = words.next().unwrap_or_default();
        let key = words.next().map(str::to_owned).filter(|key| !key.is_empty());
        let value = words.next().map(str::to_owned);
        match (word, key, value) {
            ("put", Some(key), Some(value)) => Ok(Self::Put(key, value)),
            ("get", Some(key), None) => Ok(Self::Get(key)),
            ("delete", Some(key), None) => Ok(Self::Delete(key)),
            ("list", None, None) => Ok(Self::List),
            ("snapshot", None, None) => Ok(Self::Snapshot),
            _ => Err("put KEY VALUE | get KEY | delete KEY | list | snapshot"),
        }
    }
}

/// A change of the map: what a record holds.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Put { key: String, value: String },
    Delete { key: String },
}

impl Change {
    /// A record: one byte that says what it is, the key's length (4, little-endian), the key, the value.
    fn encode(&self) -> Vec<u8> {
        let (kind, key, value) = match self {
            Self::Put { key, value } => (b'p', key, value.as_str()),
            Self::Delete { key } => (b'd', key, ""),
        };
        let mut record = vec![kind];
        put_text(&mut record, key);
        record.extend_from_slice(value.as_bytes());
        record
    }

    fn decode(record: &[u8]) -> Result<Self> {
        let (kind, mut rest) = record.split_first().ok_or("an empty record")?;
        let key = take_text(&mut rest)?;
        match kind {
            b'p' => Ok(Self::Put { key, value: std::str::from_utf8(rest)?.to_owned() }),
            b'd' if rest.is_empty() => Ok(Self::Delete { key }),
            _ => Err("a record of another program".into()),
        }
    }

    fn apply(self, map: &mut BTreeMap<String, String>) {
        match self {
            Self::Put { key, value } => drop(map.insert(key, value)),
            Self::Delete { key } => drop(map.remove(&key)),
        }
    }
}

/// The map, and the log that it is rebuilt from.
struct Store {
    log: Log,
    map: BTreeMap<String, String>,
    /// The last record that the map contains.
    applied: Lsn,
}

impl Store {
    /// The map as of the last snapshot, and what the log says since then.
    fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let log = Log::open(dir.join("log"), Options::default()).wait()?;
        let (mut map, mut applied) = snapshot::load(dir)?;
        if applied > log.durable_lsn() {
            return Err(format!("the snapshot is of record {applied}, the log ends at {}", log.durable_lsn()).into());
        }
        for record in log.read(applied.next()..)? {
            let record = record?;
            Change::decode(&record.payload)?.apply(&mut map);
            applied = record.lsn;
        }
        Ok(Self { log, map, applied })
    }

    /// Changes the map. The change has its place in the log when this returns; a refused one has changed nothing.
    fn change(&mut self, change: Change) -> Answer {
        let record = change.encode();
        loop {
            match self.log.submit(&record) {
                Ok(pending) => {
                    self.applied = pending.lsn();
                    change.apply(&mut self.map);
                    return Answer::WhenDurable(pending);
                }
                // So much is on its way already: the disk will have made room soon.
                Err(SubmitError::Full) => thread::sleep(Duration::from_millis(1)),
                Err(error) => return Answer::Now(format!("error: {error}")),
            }
        }
    }

    fn list(&self) -> String {
        let mut text = format!("list {}", self.map.len());
        for (key, value) in &self.map {
            text.push_str(&format!("\n{key} {value}"));
        }
        text
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u32::try_from(text.len()).expect("a record is far below 4 GiB, and so is what it holds");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn take_text(bytes: &mut &[u8]) -> Result<String> {
    let (len, rest) = bytes.split_first_chunk::<4>().ok_or("a length is cut short")?;
    let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or("a text is cut short")?;
    *bytes = rest;
    Ok(std::str::from_utf8(text)?.to_owned())
}

fn take_u64(bytes: &mut &[u8]) -> Result<u64> {
    let (number, rest) = bytes.split_first_chunk().ok_or("a number is cut short")?;
    *bytes = rest;
    Ok(u64::from_le_bytes(*number))
}

/// The map in a file, so that a start reads only the records behind it.
///
/// Magic, LSN (8), count (8), keys and values each behind its length (4), CRC-32 of all that (4).
mod snapshot {
    use super::*;

    const MAGIC: &[u8] = b"KVSNAP01";

    /// Replaces the snapshot. At any moment, also after a crash, the name leads to the old one or to the new one, and
    /// that one is whole: the new one is durable before it takes the name, and the name before this returns.
    pub(super) fn save(dir: &Path, map: &BTreeMap<String, String>, lsn: Lsn) -> Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&lsn.get().to_le_bytes());
        bytes.extend_from_slice(&(map.len() as u64).to_le_bytes());
        for (key, value) in map {
            put_text(&mut bytes, key);
            put_text(&mut bytes, value);
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());

        let (unfinished, finished) = (dir.join("snapshot.new"), dir.join("snapshot"));
        let mut file = File::create(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &finished)?;
        File::open(dir)?.sync_all()?;
        Ok(())
    }

    /// The snapshot's map and LSN; an empty map and [`Lsn::ZERO`] if there is none.
    pub(super) fn load(dir: &Path) -> Result<(BTreeMap<String, String>, Lsn)> {
        let bytes = match fs::read(dir.join("snapshot")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            read => read?,
        };
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or("the snapshot is cut short")?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err("the snapshot is damaged".into());
        }
        let mut rest = body.strip_prefix(MAGIC).ok_or("the snapshot is of another kind")?;
        let lsn = Lsn::new(take_u64(&mut rest)?);
        let count = take_u64(&mut rest)?;
        let map = (0..count).map(|_| Ok((take_text(&mut rest)?, take_text(&mut rest)?)));
        Ok((map.collect::<Result<_>>()?, lsn))
    }
}
