//! Where a log is damaged and asked about: the simulated disk, which is quick, and real files through the public API.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringwal::harness::{self, Life};
use ringwal::sim::{Sim, SimOptions, Snapshot};
use ringwal::{Engine, Log, Lsn, Options, Reader, Runtime, State, verify};

use super::look::{Look, Shown, Verified};
use super::subject::{Files, Shape, Subject};

/// What becomes of one file: its bytes; none if its name is gone.
pub(crate) type Change<'a> = (&'a str, Option<&'a [u8]>);

pub(crate) trait Bench {
    fn subject(&self) -> &Arc<Subject>;

    /// What the library says of the log with these files changed.
    fn look(&mut self, changes: &[Change<'_>]) -> Look;
}

/// A log on the simulated disk.
#[derive(Debug)]
pub(crate) struct OnSim {
    subject: Arc<Subject>,
    sim: Sim,
    snapshot: Snapshot,
}

impl OnSim {
    pub(crate) fn make(number: u64) -> Self {
        let (subject, sim) = Subject::make(number, Shape::of(number));
        let snapshot = sim.snapshot();
        Self { subject: Arc::new(subject), sim, snapshot }
    }
}

impl Bench for OnSim {
    fn subject(&self) -> &Arc<Subject> {
        &self.subject
    }

    fn look(&mut self, changes: &[Change<'_>]) -> Look {
        let Self { subject, sim, snapshot } = self;
        sim.restore(snapshot);
        for (name, bytes) in changes {
            match bytes {
                Some(bytes) => sim.put(name, bytes),
                None => sim.delete(name),
            }
        }
        let before = sim.operations();
        let verify = harness::judge(sim, true).map(|verdict| Verified { label: verdict.label, damage: verdict.damage });
        let reader = harness::judge(sim, false)
            .and_then(|verdict| Ok(Shown::new(harness::reader(sim)?, verdict.first, subject)));
        let read_only = sim.operations() == before;
        let opened = Life::open(sim, &subject.shape.options(), 1);
        let changed = !read_only || opened.is_err() && sim.operations() != before;
        let open = opened.and_then(|life| Ok(Shown::new(life.records()?, life.report().first, subject)));
        Look { verify, reader, open, changed }
    }
}

/// A log in a directory.
#[derive(Debug)]
pub(crate) struct OnFiles {
    subject: Arc<Subject>,
    dir: PathBuf,
    runtime: Runtime,
}

impl OnFiles {
    /// In `dir`, which it makes.
    pub(crate) fn make(number: u64, dir: &Path) -> Self {
        let shape = Shape { block_bytes: 4096, segment_blocks: 16, bytes_min: 128 << 10, keeps: 30, sealed: true };
        let (subject, sim) = Subject::make(number, shape);
        let runtime = Runtime::builder().threads(1).engine(Engine::Syscalls).build().unwrap();
        fs::create_dir(dir).unwrap();
        write_files(dir, &super::subject::files_of(&sim));
        // The lock file comes with an opening on real files.
        let log = Log::open_on(&runtime, dir, options(shape)).wait().unwrap();
        log.close().wait().unwrap();
        let files = read_files(dir);
        let sim = Sim::new(number, SimOptions { block_bytes: shape.block_bytes, ..SimOptions::default() });
        files.iter().for_each(|(name, bytes)| sim.put(name, bytes));
        Self { subject: Arc::new(subject.on(&sim)), dir: dir.to_owned(), runtime }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Everything is as it was, also where an opening wrote or something odd stands.
    pub(crate) fn restore(&self) {
        for entry in fs::read_dir(&self.dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            if kind.is_dir() {
                fs::remove_dir_all(&path).unwrap();
            } else if !kind.is_file() || !self.subject.files.contains_key(name_of(&path)) {
                fs::remove_file(&path).unwrap();
            }
        }
        write_files(&self.dir, &self.subject.files);
    }

    /// What the library says of the directory as it is.
    pub(crate) fn look_again(&self) -> Look {
        let Self { subject, dir, runtime } = self;
        let before = read_files(dir);
        let verify = verify(dir).map(|verification| {
            let damage = match verification.state {
                State::Damaged(damage) => Some(damage),
                State::Empty | State::Clean | State::Torn { .. } => None,
                _ => panic!("{verification:?}"),
            };
            Verified { label: verification.label, damage }
        });
        let reader = Reader::open(dir).map(|reader| Shown::new(reader.read(..).unwrap(), reader.first_lsn(), subject));
        let read_only = read_files(dir) == before;
        let opened = Log::open_on(runtime, dir, options(subject.shape)).wait();
        let changed = !read_only || opened.is_err() && read_files(dir) != before;
        let open = opened.map(|log| {
            let shown = Shown::new(log.read(..=Lsn::MAX).unwrap(), log.first_lsn(), subject);
            log.close().wait().unwrap();
            shown
        });
        Look { verify, reader, open, changed }
    }
}

impl Bench for OnFiles {
    fn subject(&self) -> &Arc<Subject> {
        &self.subject
    }

    fn look(&mut self, changes: &[Change<'_>]) -> Look {
        for (name, bytes) in changes {
            match bytes {
                Some(bytes) => fs::write(self.dir.join(name), bytes).unwrap(),
                None => fs::remove_file(self.dir.join(name)).unwrap(),
            }
        }
        let look = self.look_again();
        self.restore();
        look
    }
}

/// A log in memory is not durable, and a flush costs nothing.
fn options(shape: Shape) -> Options {
    shape.options().allow_volatile(true).create(false)
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// The regular files in it.
fn read_files(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| (name_of(&entry.path()).to_owned(), fs::read(entry.path()).unwrap())).collect()
}

/// Writes what is not yet so.
fn write_files(dir: &Path, files: &Files) {
    for (name, bytes) in files {
        let path = dir.join(name);
        if fs::read(&path).ok().as_ref() != Some(bytes) {
            fs::write(&path, bytes).unwrap();
        }
    }
}
