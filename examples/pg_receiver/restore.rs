//! `restore`: the log's WAL as PostgreSQL's segment files, for `restore_command` and `pg_waldump`.
//!
//! The last segment is filled with zeros to its full length and has its final name: a recovery takes files of the full
//! length only, and ends where the zeros begin.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use ringwal::{Log, OpenError, Options, Reader, Records};

use super::chunk::{Chunk, PgLsn, Source};
use super::failure::{Failure, Result};

/// What was restored.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) source: Source,
    pub(crate) start: PgLsn,
    pub(crate) end: PgLsn,
    /// Segments, and how many of them stood there already.
    pub(crate) segments: u32,
    pub(crate) kept: u32,
}

/// Writes the segments of the log in `dir` into the directory `into`, up to `to`.
pub(crate) fn restore(dir: &Path, into: &Path, to: Option<PgLsn>) -> Result<Restored> {
    // Opened for writing, because that settles the last records of a receiver that was killed; beside a live one a
    // reader shows what has been claimed durable.
    let (records, _log) = match Log::open(dir, Options::default().create(false)).wait() {
        Ok(log) => (log.read(..)?, Some(log)),
        Err(OpenError::Held { .. }) => (Reader::open(dir)?.read(..)?, None),
        Err(error) => return Err(error.into()),
    };
    fs::create_dir_all(into).map_err(Failure::of(into.display()))?;
    let mut segments: Option<Segments> = None;
    for record in records_of(records) {
        let record = record?;
        let chunk = Chunk::read(dir, record.lsn, &record.payload)?;
        let segments = match &mut segments {
            Some(segments) => segments,
            None => segments.insert(Segments::begin(into, &chunk)?),
        };
        segments.add(&chunk, to.unwrap_or(PgLsn(u64::MAX)))?;
        if to.is_some_and(|to| segments.next >= to) {
            break;
        }
    }
    let segments = segments.ok_or_else(|| Failure::check(format!("{} holds no WAL", dir.display())))?;
    let restored = segments.finish()?;
    match to {
        Some(to) if restored.end < to => {
            Err(Failure::check(format!("the log ends at {}, before {to}; what there is was restored", restored.end)))
        }
        _ => Ok(restored),
    }
}

fn records_of(records: Records) -> impl Iterator<Item = Result<ringwal::Record>> {
    records.map(|record| record.map_err(Failure::from))
}

/// The segment that is being filled, and what is common to all.
struct Segments {
    into: PathBuf,
    source: Source,
    /// Where the first record starts.
    start: PgLsn,
    /// Where the next record must.
    next: PgLsn,
    /// As long as a segment; zeros from `next` on.
    bytes: Vec<u8>,
    written: u32,
    kept: u32,
}

impl Segments {
    fn begin(into: &Path, first: &Chunk<'_>) -> Result<Self> {
        let Chunk { source, start, .. } = *first;
        if start != start.segment_start(source.segment_bytes) {
            return Err(Failure::check(format!("the log begins at {start}, which is not the start of a segment")));
        }
        let bytes = vec![0; source.segment_bytes as usize];
        Ok(Self { into: into.to_path_buf(), source, start, next: start, bytes, written: 0, kept: 0 })
    }

    /// Adds a chunk, which must follow on the last, up to `to`.
    fn add(&mut self, chunk: &Chunk<'_>, to: PgLsn) -> Result<()> {
        self.source.check("the log's beginning", &chunk.source, "a later record")?;
        if chunk.start != self.next {
            let (next, start) = (self.next, chunk.start);
            return Err(Failure::damaged(format!("a gap: WAL up to {next} is followed by WAL from {start}")));
        }
        let wanted = usize::try_from(to.0.saturating_sub(chunk.start.0)).unwrap_or(usize::MAX);
        let mut wal = &chunk.wal[..chunk.wal.len().min(wanted)];
        while !wal.is_empty() {
            let at = (self.next.0 % u64::from(self.source.segment_bytes)) as usize;
            let (now, rest) = wal.split_at(wal.len().min(self.bytes.len() - at));
            self.bytes[at..at + now.len()].copy_from_slice(now);
            self.next = self.next.plus(now.len());
            wal = rest;
            if at + now.len() == self.bytes.len() {
                self.save(PgLsn(self.next.0 - now.len() as u64))?;
                self.bytes.fill(0);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Restored> {
        if self.next != self.next.segment_start(self.source.segment_bytes) {
            self.save(self.next)?;
        }
        sync_directory(&self.into)?;
        if let Some(parent) = self.into.parent() {
            sync_directory(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
        }
        let Self { source, start, next: end, written, kept, .. } = self;
        Ok(Restored { source, start, end, segments: written + kept, kept })
    }

    /// Writes the segment that `within` lies in. The name leads to nothing or to the whole of it.
    fn save(&mut self, within: PgLsn) -> Result<()> {
        let path = self.into.join(self.source.segment_name(within));
        match fs::read(&path) {
            Ok(there) if there == self.bytes => {
                self.kept += 1;
                return Ok(());
            }
            Ok(there) => self.check_older(&path, &there)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::of(path.display())(error)),
        }
        let unfinished = path.with_extension("restoring");
        let write = || {
            let mut file = File::create(&unfinished)?;
            file.write_all(&self.bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)
        };
        write().map_err(Failure::of(path.display()))?;
        self.written += 1;
        Ok(())
    }

    /// Nothing is overwritten, except that what an earlier restoring left of a last segment, its beginning and zeros,
    /// may be completed.
    fn check_older(&self, path: &Path, there: &[u8]) -> Result<()> {
        let len = there.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if there.len() == self.bytes.len() && self.bytes.starts_with(&there[..len]) {
            return Ok(());
        }
        let differs = there.iter().zip(&self.bytes).position(|(theirs, ours)| theirs != ours);
        let differs = differs.unwrap_or(there.len().min(self.bytes.len()));
        let path = path.display();
        Err(Failure::check(format!("{path} exists and differs from the log at byte {differs}; it is left alone")))
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Failure::of(path.display()))
}
