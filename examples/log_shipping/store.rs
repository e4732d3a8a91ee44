//! The map in memory, the records that it is made of, and the directory in which the shards' logs are.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;

use ringwal::{Log, Lsn, Options, Record};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What all shards of a process have in common.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) dir: PathBuf,
    pub(crate) shards: usize,
    pub(crate) allow_volatile: bool,
}

impl Settings {
    pub(crate) fn shard_dir(&self, shard: usize) -> PathBuf {
        self.dir.join(format!("shard-{shard}"))
    }

    pub(crate) fn options(&self) -> Options {
        Options::default().segment_bytes(8 << 20).allow_volatile(self.allow_volatile)
    }
}

/// The first record of a reign. Nothing of an earlier reign counts as replicated before one of this reign is: see
/// [`ringwal::ship::Quorum`].
pub(crate) const PROMOTED: &[u8] = b"promoted";

/// A change of the map: a record is its text.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Set { key: String, value: String },
    Del { key: String },
}

impl Change {
    pub(crate) fn encode(&self) -> String {
        match self {
            Self::Set { key, value } => format!("set {key} {value}"),
            Self::Del { key } => format!("del {key}"),
        }
    }

    /// A record, or a command: they look the same.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        let word = words.next()?;
        let key = words.next().filter(|key| !key.is_empty())?.to_owned();
        match (word, words.next()) {
            ("set", Some(value)) => Some(Self::Set { key, value: value.to_owned() }),
            ("del", None) => Some(Self::Del { key }),
            _ => None,
        }
    }

    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Set { key, .. } | Self::Del { key } => key,
        }
    }
}

/// What the records say, up to one of them.
#[derive(Default)]
pub(crate) struct Map {
    values: HashMap<String, String>,
    pub(crate) applied: Lsn,
}

impl Map {
    /// What a log says that is open for writing.
    pub(crate) fn recover(log: &Log) -> Result<Self> {
        let mut map = Self::default();
        for record in log.read(..)? {
            map.apply_record(&record?)?;
        }
        Ok(map)
    }

    pub(crate) fn apply_record(&mut self, record: &Record) -> Result<()> {
        if record.payload == PROMOTED {
            self.applied = record.lsn;
            return Ok(());
        }
        let text = std::str::from_utf8(&record.payload)?;
        self.apply(Change::decode(text).ok_or("a record of another program")?, record.lsn);
        Ok(())
    }

    pub(crate) fn apply(&mut self, change: Change, lsn: Lsn) {
        match change {
            Change::Set { key, value } => drop(self.values.insert(key, value)),
            Change::Del { key } => drop(self.values.remove(&key)),
        }
        self.applied = lsn;
    }

    pub(crate) fn get(&self, key: &str) -> String {
        self.values.get(key).map_or_else(|| "none".to_owned(), |value| format!("value {value}"))
    }
}

/// The shard of a key: the same in every process, and for ever.
pub(crate) fn shard_of(key: &str, shards: usize) -> usize {
    crc32fast::hash(key.as_bytes()) as usize % shards
}

/// How many shards the directory has, if it was used before.
pub(crate) fn shards(dir: &Path) -> Result<Option<usize>> {
    match fs::read_to_string(dir.join("shards")) {
        Ok(text) => Ok(Some(text.trim().parse().map_err(|error| format!("{}/shards: {error}", dir.display()))?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Keeps the number of shards, before there is any: another number would look for keys in other shards.
pub(crate) fn keep_shards(dir: &Path, shards: usize) -> Result<()> {
    fs::create_dir_all(dir)?;
    let (unfinished, finished) = (dir.join("shards.new"), dir.join("shards"));
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{shards}")?;
    file.sync_all()?;
    fs::rename(&unfinished, &finished)?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

/// How many shards a primary has: what was said the first time.
pub(crate) fn shards_of_primary(dir: &Path, asked: Option<usize>) -> Result<usize> {
    if let Some(kept) = shards(dir)? {
        return match asked {
            Some(asked) if asked != kept => Err(format!("{} has {kept} shards, not {asked}", dir.display()).into()),
            _ => Ok(kept),
        };
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let shards = asked.unwrap_or(cores.min(2));
    if !(1..=64).contains(&shards) {
        return Err("between 1 and 64 shards".into());
    }
    keep_shards(dir, shards)?;
    Ok(shards)
}
