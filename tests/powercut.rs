//! Power cuts on real file systems, a slice of the proof's: a writer's disk is recorded, and the log is opened again from
//! the states in which a cut can leave it. `RINGWAL_CUTS=2000` for so many on ext4 and xfs each; the default is a few on
//! ext4. They are split over the methods, a recording for each; `RINGWAL_METHOD` and `RINGWAL_DEPTH` pin one. A writer
//! that acknowledges too early must be caught by the same rig, or its silence means nothing; and the recorder in this
//! process must be as good as the daemon that is one.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod cuts;
    pub(crate) mod image;
    pub(crate) mod logwrites;
    pub(crate) mod manner;
    pub(crate) mod powercut;
    pub(crate) mod recording;
    pub(crate) mod replay;
    pub(crate) mod rig;
    pub(crate) mod survivor;
    pub(crate) mod tape;
    pub(crate) mod witness;
    pub(crate) mod workload;
}

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::cuts::for_each_cut;
use common::image::Image;
use common::logwrites::Entry;
use common::manner::Manner;
use common::powercut::{FileSystem, Recorder, mount_privately, no_file_system, unavailable};
use common::recording::{Plan, Recording, record};
use common::replay::Replay;
use common::rig::{Rng, env_count, everything_required, say, skip};
use common::survivor::recover;
use common::tape::Tape;
use common::witness::{Position, Witness};
use common::workload::{Ident, Load, Sizes, Teller, run};
use ringwal::{Log, Method, Options};

const SIZES: Sizes = Sizes::UpTo(8192);

/// What a recording's cuts came to.
#[derive(Debug, Default)]
struct Counts {
    cuts: usize,
    torn: usize,
    /// Cuts after which something was wrong.
    violations: usize,
    first_violation: Option<String>,
    labels: BTreeMap<&'static str, usize>,
}

impl Counts {
    fn violated(&mut self, what: impl std::fmt::Debug) {
        self.violations += 1;
        self.first_violation.get_or_insert_with(|| format!("{what:?}"));
    }
}

/// About `wanted` of a recording's cuts.
fn some_cuts(recording: &Recording, replay: &Replay, plan: &Plan, wanted: usize, seed: u64) -> Counts {
    let bounds = (recording.began, recording.ended);
    let mut there = 0_usize;
    for_each_cut(&recording.base, &recording.entries, bounds, 1, &mut Rng::new(seed), |_, _| {
        there += 1;
        true
    });
    let (mut number, mut counts, mut choice) = (0, Counts::default(), Rng::new(!seed));
    for_each_cut(&recording.base, &recording.entries, bounds, 1, &mut Rng::new(seed), |image, cut| {
        number += 1;
        if number == there || choice.below(there as u64) < wanted as u64 {
            counts.cuts += 1;
            counts.torn += usize::from(cut.torn);
            let (options, thorough) = (plan.options_of_next(number as u64), counts.cuts % 8 == 0);
            match recording.survives(replay, image, cut, &options, thorough).unwrap() {
                Ok(survivor) => *counts.labels.entry(survivor.label).or_default() += 1,
                Err(wrong) => counts.violated((cut, wrong)),
            }
        }
        true
    });
    counts
}

/// Whether the rig cannot be had here.
fn skipped(test: &str, why: Option<String>) -> bool {
    why.is_some_and(|why| {
        skip(test, &why);
        true
    })
}

fn log_survives(test: &str, fs: FileSystem) {
    if skipped(test, no_file_system(fs)) {
        return;
    }
    mount_privately().unwrap();
    let (tape, replay) = (Tape::new(fs).unwrap(), Replay::new(fs).unwrap());
    let seed = Rng::seed() / 12 * 12;
    let wanted = env_count("RINGWAL_CUTS").unwrap_or(60).div_ceil(Method::ALL.len());
    let mut violations = 0;
    for method in 0..Method::ALL.len() as u64 {
        // Every method, and every depth with one of them.
        let plan = Plan::of(seed + method + 4 * (method % 3), (wanted as u64 / 10).clamp(10, 60));
        let recording = record(&tape, fs.blank().unwrap(), &plan).unwrap();
        let counts = some_cuts(&recording, &replay, &plan, wanted, seed);
        let (entries, acks, what) = (recording.entries.len(), recording.witness.acks.len(), plan.label());
        let fs = fs.name();
        say(&format!("powercut {fs} {what}: RINGWAL_SEED={seed}, {entries} entries, {acks} acknowledged, {counts:?}"));
        assert!(counts.labels.len() > 1 || wanted < 20, "the cuts met one state only: {counts:?}");
        violations += counts.violations;
    }
    assert_eq!(violations, 0);
}

#[test]
fn ext4_power_cuts_lose_nothing_acknowledged() {
    log_survives("ext4_power_cuts_lose_nothing_acknowledged", FileSystem::Ext4);
}

#[test]
fn xfs_power_cuts_lose_nothing_acknowledged() {
    if env_count("RINGWAL_CUTS").is_some() || everything_required() {
        log_survives("xfs_power_cuts_lose_nothing_acknowledged", FileSystem::Xfs);
    }
}

/// The control: records one behind the other in a growing file, flushed after every `flush_every` of them, and each
/// acknowledged at once.
fn plain_writer(dir: &Path, flush_every: u32, teller: &Teller) {
    std::fs::create_dir_all(dir).unwrap();
    let mut file = std::fs::File::create(dir.join("plain")).unwrap();
    file.sync_all().unwrap();
    std::fs::File::open(dir).unwrap().sync_all().unwrap();
    std::fs::File::open(dir.parent().unwrap()).unwrap().sync_all().unwrap();
    for i in 0..100 {
        let ident = Ident { cycle: 0, producer: 0, i };
        let payload = ident.payload(SIZES, false);
        let mut record = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
        // The number is in the checksum: zeros are no record.
        record.extend_from_slice(&(crc32fast::hash(&payload) ^ (i + 1)).to_le_bytes());
        record.extend_from_slice(&payload);
        teller.attempt(ident, None);
        file.write_all(&record).unwrap();
        if (i + 1) % flush_every == 0 {
            file.sync_data().unwrap();
        }
        teller.acknowledged(u64::from(i + 1).into(), ident, &payload);
    }
}

/// The control's records up to the first that is not whole.
fn plain_records(dir: &Path) -> Vec<(u64, Vec<u8>)> {
    let bytes = std::fs::read(dir.join("plain")).unwrap_or_default();
    let (mut records, mut at) = (Vec::new(), 0);
    loop {
        let number = records.len() as u32 + 1;
        let word = |at: usize| bytes.get(at..at + 4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
        let (Some(len), Some(crc)) = (word(at), word(at + 4)) else { return records };
        let Some(payload) = bytes.get(at + 8..at + 8 + len as usize) else { return records };
        if crc32fast::hash(payload) ^ number != crc {
            return records;
        }
        records.push((u64::from(number), payload.to_vec()));
        at += 8 + len as usize;
    }
}

/// What any writer left on any recorder.
struct Track {
    base: Image,
    entries: Vec<Entry>,
    witness: Witness,
    /// How many entries there were when the writer began, and when it ended.
    bounds: (usize, usize),
}

/// On the recorder in this process.
fn on_tape(tape: &Tape, write: impl FnOnce(&Path, &Arc<Teller>)) -> Track {
    let base = tape.file_system().blank().unwrap();
    tape.put_in(base.clone());
    let mount = tape.mount().unwrap();
    let (witness, bounds) = written(&tape.path(), &tape.position(), write);
    drop(mount);
    Track { base, entries: tape.take(), witness, bounds }
}

/// On the daemon.
fn on_daemon(fs: FileSystem, write: impl FnOnce(&Path, &Arc<Teller>)) -> Track {
    let recorder = Recorder::start(fs).unwrap();
    let (witness, bounds) = written(&recorder.path(), &Position::open(&recorder.log()), write);
    let entries = recorder.finish();
    // It writes its count down at a flush: behind the last one there may be more.
    Track { base: Image::empty(fs.disk_bytes()), bounds: (bounds.0, bounds.1.min(entries.len())), entries, witness }
}

fn written(at: &Path, position: &Position, write: impl FnOnce(&Path, &Arc<Teller>)) -> (Witness, (usize, usize)) {
    let read = || usize::try_from(position.read()).unwrap();
    let (began, witness) = (read(), Arc::new(Mutex::new(Witness::new(SIZES))));
    write(&at.join("wal"), &Arc::new(Teller::to(witness.clone(), position.clone())));
    let witness = witness.lock().unwrap().clone();
    assert_eq!(witness.unanswered(), 0);
    (witness, (began, read()))
}

/// Every `every`th cut of a control's track.
fn control(track: &Track, replay: &Replay, every: usize) -> Counts {
    let (mut counts, mut number) = (Counts::default(), 0);
    for_each_cut(&track.base, &track.entries, track.bounds, 1, &mut Rng::new(7), |image, cut| {
        number += 1;
        if number % every == 0 {
            counts.cuts += 1;
            counts.torn += usize::from(cut.torn);
            let records = replay.mounted(image, |at| plain_records(&at.join("wal"))).unwrap();
            let wrong = track.witness.judge(&records, cut.position);
            if !wrong.is_empty() {
                counts.violated((cut, wrong));
            }
        }
        true
    });
    counts
}

/// The rig is trusted only if it sees a writer that acknowledges before its flush, and clears the same one that does not.
fn early_is_caught(what: &str, replay: &Replay, mut track: impl FnMut(u32) -> Track) {
    // An early writer's disk has few flushes, and so few cuts.
    for (role, flush_every, caught, every) in [("honest", 1, false, 6), ("early", 16, true, 1)] {
        let counts = control(&track(flush_every), replay, every);
        say(&format!("powercut control {what} {role}: {counts:?}"));
        assert!(counts.cuts >= 20 && (counts.violations > 0) == caught, "{what} {role}: {counts:#?}");
    }
}

#[test]
fn the_rig_catches_a_writer_that_acknowledges_early_and_clears_an_honest_one() {
    const TEST: &str = "the_rig_catches_a_writer_that_acknowledges_early_and_clears_an_honest_one";
    for fs in [FileSystem::Ext4, FileSystem::Xfs] {
        if skipped(TEST, no_file_system(fs)) {
            continue;
        }
        mount_privately().unwrap();
        let (tape, replay) = (Tape::new(fs).unwrap(), Replay::new(fs).unwrap());
        early_is_caught(fs.name(), &replay, |flush_every| {
            on_tape(&tape, |dir, teller| plain_writer(dir, flush_every, teller))
        });
    }
}

/// A recorder that has nothing to do with this process says the same.
#[test]
fn the_daemon_records_the_same() {
    const FS: FileSystem = FileSystem::Ext4;
    if skipped("the_daemon_records_the_same", unavailable(FS)) {
        return;
    }
    mount_privately().unwrap();
    let replay = Replay::new(FS).unwrap();
    early_is_caught("daemon", &replay, |flush_every| {
        on_daemon(FS, |dir, teller| plain_writer(dir, flush_every, teller))
    });
    let options = Manner::of(0).set(Options::default().segment_bytes(256 << 10));
    let track = on_daemon(FS, |dir, teller| {
        let log = Log::open(dir, options.clone()).wait().unwrap();
        run(&log, Load { cycle: 0, tasks: 3, threads: 1, records: 10, bytes_max: 8192 }, teller);
        log.close().wait().unwrap();
    });
    let (mut counts, mut number) = (Counts::default(), 0);
    for_each_cut(&track.base, &track.entries, track.bounds, 1, &mut Rng::new(7), |image, cut| {
        number += 1;
        if number % 6 == 0 {
            counts.cuts += 1;
            match replay.mounted(image, |at| recover(&at.join("wal"), &options, false)).unwrap() {
                Ok(survivor) => {
                    let wrong = track.witness.judge_from(survivor.first, &survivor.records, cut.position);
                    if !wrong.is_empty() {
                        counts.violated((cut, wrong));
                    }
                }
                Err(wrong) => counts.violated((cut, wrong)),
            }
        }
        true
    });
    say(&format!("powercut daemon: {counts:?}"));
    assert!(counts.cuts >= 10 && counts.violations == 0, "{counts:#?}");
}

/// Six records, of which the first two are truncated away and the last two cut off, each followed by what comes after.
#[test]
fn the_oracle_knows_truncation_and_exposure() {
    let mut witness = Witness::new(SIZES);
    let ident = |i: u32| Ident { cycle: 0, producer: 20, i };
    let payload = |i: u32| ident(i).payload(SIZES, false);
    let append = |witness: &mut Witness, lsn: u64, i: u32, position: u64| {
        let bytes = payload(i);
        let (crc, len) = (crc32fast::hash(&bytes), bytes.len());
        witness.hear(&format!("T 0 20 {i} {i} 1"));
        witness.hear(&format!("A {lsn} {crc} {len} 0 20 {i} {position}"));
    };
    (0..6).for_each(|i| append(&mut witness, u64::from(i) + 1, i, 10));
    witness.hear("B 3 20");
    witness.hear("b 30");
    witness.hear("C 4 40");
    witness.hear("c 50");
    append(&mut witness, 5, 6, 60);
    let shown = payload(7);
    witness.hear("T 0 20 7 7 1");
    witness.hear(&format!("V 6 {} {} 70", crc32fast::hash(&shown), shown.len()));
    let log = |first: u64, of: &[u32]| (first, (first..).zip(of.iter().map(|i| payload(*i))).collect::<Vec<_>>());
    let judge = |(first, records): (u64, Vec<(u64, Vec<u8>)>), position: u64| {
        let wrong = witness.judge_from(first, &records, position);
        wrong.first().map_or("", |wrong| wrong.assertion)
    };
    let right = [
        (log(1, &[0, 1, 2, 3, 4, 5]), 20),
        (log(3, &[2, 3, 4, 5]), 20),
        (log(3, &[2, 3, 4, 5]), 40),
        (log(3, &[2, 3]), 40),
        (log(3, &[2, 3]), 50),
        (log(3, &[2, 3, 6]), 60),
        (log(3, &[2, 3, 6, 7]), 70),
    ];
    for (log, position) in right {
        assert_eq!(judge(log.clone(), position), "", "{log:?} at {position}");
    }
    let wrong = [
        ("A1", log(2, &[1, 2, 3, 4, 5]), 19, "gone before the truncation began"),
        ("A1", log(4, &[3, 4, 5]), 30, "one more is gone than was truncated"),
        ("A3", log(2, &[1, 2, 3, 4, 5]), 30, "a truncated record is back"),
        ("A1", log(3, &[2, 3]), 39, "cut off before the cut began"),
        ("A1", log(3, &[2, 3, 4]), 40, "half cut off"),
        ("A3", log(3, &[2, 3, 4]), 50, "a record that was cut off is back"),
        ("A1", log(3, &[2, 3]), 60, "what came after the cut is gone"),
        ("A1", log(3, &[2, 3, 4]), 60, "and what was cut off is in its place"),
        ("A7", log(3, &[2, 3, 6]), 70, "a reader was shown more"),
        ("A2", (3, vec![(3, payload(2)), (5, payload(3))]), 30, "a hole"),
    ];
    for (assertion, log, position, why) in wrong {
        assert_eq!(judge(log, position), assertion, "{why}");
    }
}

/// What a recovery showed stays, and what it had not shown stays away.
#[test]
fn the_oracle_knows_a_crash_behind_a_crash() {
    let ident = |cycle: u32, i: u32| Ident { cycle, producer: 20, i };
    let payload = |cycle: u32, i: u32| ident(cycle, i).payload(SIZES, false);
    let basis: Vec<_> = (4..=5).map(|lsn: u64| (lsn, payload(0, u32::try_from(lsn).unwrap()))).collect();
    let mut witness = Witness::after(SIZES, 4, &basis);
    witness.hear("T 1 20 0 0 1");
    let judge = |of: &[(u32, u32)]| {
        let records: Vec<_> = (4..).zip(of.iter().map(|(cycle, i)| payload(*cycle, *i))).collect();
        witness.judge_from(4, &records, 0).first().map_or("", |wrong| wrong.assertion)
    };
    assert_eq!(judge(&[(0, 4), (0, 5)]), "");
    assert_eq!(judge(&[(0, 4), (0, 5), (1, 0)]), "");
    assert_eq!(judge(&[(0, 4)]), "A7", "shown, and gone");
    assert_eq!(judge(&[(0, 4), (1, 0)]), "A7", "shown, and another");
    assert_eq!(judge(&[(0, 4), (0, 5), (0, 6)]), "A3", "out of the dead tail");
    assert_eq!(judge(&[(0, 4), (0, 5), (1, 0), (0, 6)]), "A3", "out of the dead tail, behind a new one");
}

#[test]
fn a_log_of_writes_is_read_as_it_was_written() {
    let scratch = common::rig::Scratch::new("logwrites");
    let path = scratch.join("log");
    let file = std::fs::File::create(&path).unwrap();
    let sector = |words: [u64; 4]| {
        let mut sector = [0; 512];
        for (at, word) in words.iter().enumerate() {
            sector[at * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        sector
    };
    file.write_all_at(&sector([0x006a_7366_7773_6872, 1, 2, 512]), 0).unwrap();
    file.write_all_at(&sector([3, 1, 0, 0]), 512).unwrap();
    file.write_all_at(&[7; 512], 1024).unwrap();
    file.write_all_at(&sector([0, 0, 1, 0]), 1536).unwrap();
    let entries = common::logwrites::read(&path);
    assert_eq!((entries[0].offset, entries[0].data.len(), entries[0].flush), (1536, 512, false));
    assert!(entries[1].flush && entries[1].data.is_empty());
    assert_eq!(Position::open(&path).read(), 2);
}
