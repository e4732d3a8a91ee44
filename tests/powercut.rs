//! Power cuts on real file systems: every write and flush of a writer's disk is recorded, and the disk is rebuilt as it
//! would stand after a cut at any of them. `RINGWAL_CUTS=2000` for so many on ext4 and xfs each; the default is a few on
//! ext4. They are split over the methods, a recording for each; `RINGWAL_METHOD` and `RINGWAL_DEPTH` pin one. A writer that acknowledges too early must be caught by the same rig, or its silence means nothing.
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod logwrites;
    pub(crate) mod manner;
    pub(crate) mod powercut;
    pub(crate) mod rig;
    pub(crate) mod witness;
    pub(crate) mod workload;
}

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use common::logwrites::Entry;
use common::manner::Manner;
use common::powercut::{FileSystem, Recorder, Replay, unavailable};
use common::rig::{Reaped, Rng, child as child_in, env_count, role, say, skip};
use common::witness::{Position, Witness};
use common::workload::{Ident, Load, Teller, run};
use ringwal::{Log, Options, State, verify};

const BYTES_MAX: usize = 8192;
const SEGMENT_BYTES: u64 = 256 << 10;

fn options(manner: Manner) -> Options {
    manner.set(Options::default().segment_bytes(SEGMENT_BYTES))
}

/// The writers. Run only in a child; otherwise it returns at once.
#[test]
fn child() {
    let Some(role) = role() else { return };
    let records = env_count("RINGWAL_RECORDS").unwrap() as u32;
    let dir = std::env::var("RINGWAL_DIR").unwrap();
    let teller = Arc::new(Teller::new());
    teller.line("\nS");
    match role.as_str() {
        "log" => {
            let log = Log::open(&dir, options(Manner::of(0))).wait().unwrap();
            teller.line(&format!("O {} 0 0 0", log.recovery_report().label));
            run(&log, Load { cycle: 0, tasks: 4, threads: 2, records, bytes_max: BYTES_MAX }, &teller);
            assert_eq!(log.stats().method, Manner::of(0).word());
            log.close().wait().unwrap();
        }
        "honest" => plain_writer(dir.as_ref(), records, 1, &teller),
        "early" => plain_writer(dir.as_ref(), records, 16, &teller),
        other => panic!("no role {other}"),
    }
    teller.line("E");
}

/// The control: records one behind the other in a growing file, flushed after every `flush_every` of them, and each
/// acknowledged at once.
fn plain_writer(dir: &Path, records: u32, flush_every: u32, teller: &Teller) {
    std::fs::create_dir_all(dir).unwrap();
    let mut file = std::fs::File::create(dir.join("plain")).unwrap();
    file.sync_all().unwrap();
    std::fs::File::open(dir).unwrap().sync_all().unwrap();
    std::fs::File::open(dir.parent().unwrap()).unwrap().sync_all().unwrap();
    for i in 0..records {
        let ident = Ident { cycle: 0, producer: 0, i };
        let payload = ident.payload(BYTES_MAX, false);
        let mut record = (payload.len() as u32).to_le_bytes().to_vec();
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
        let number = records.len() as u64 + 1;
        let word = |at: usize| bytes.get(at..at + 4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
        let (Some(len), Some(crc)) = (word(at), word(at + 4)) else { return records };
        let Some(payload) = bytes.get(at + 8..at + 8 + len as usize) else { return records };
        if crc32fast::hash(payload) ^ number as u32 != crc {
            return records;
        }
        records.push((number, payload.to_vec()));
        at += 8 + len as usize;
    }
}

/// What a writer left behind.
struct Recording {
    entries: Vec<Entry>,
    witness: Witness,
    /// How many entries there were when the writer began, and when it ended.
    began: usize,
    ended: usize,
}

fn record(fs: FileSystem, role: &str, manner: Option<Manner>, records: u32) -> Recording {
    let recorder = Recorder::start(fs).unwrap();
    assert_eq!(recorder.file_system(), fs);
    let position = Position::open(&recorder.log());
    let began = position.read() as usize;
    let mut command = child_in(role);
    command.env("RINGWAL_DIR", recorder.path().join("wal")).env("RINGWAL_POSITION", recorder.log());
    command.env("RINGWAL_RECORDS", records.to_string());
    if let Some(manner) = manner {
        manner.tell(&mut command);
    }
    let mut writer = Reaped(command.spawn().unwrap());
    let mut witness = Witness::new(BYTES_MAX);
    witness.hear_all(writer.0.stdout.take().unwrap(), |_| {});
    assert!(writer.0.wait().unwrap().success(), "the writer failed: {:?}", witness.failures);
    assert_eq!(witness.unanswered(), 0);
    let ended = position.read() as usize;
    Recording { entries: recorder.finish(), witness, began, ended }
}

#[derive(Debug, Default)]
struct Counts {
    cuts: usize,
    torn_cuts: usize,
    /// Cuts after which something was wrong.
    violations: usize,
    first_violation: Option<String>,
    labels: BTreeMap<&'static str, usize>,
    torn_tails: usize,
    copied: u64,
    records: usize,
    ms_per_cut: u128,
}

/// The cuts: spread evenly, all of them if they are few.
fn cuts(recording: &Recording, wanted: usize) -> Vec<usize> {
    // The recorder writes its count down at a flush: behind the last one there may be more.
    let (from, to) = (recording.began, recording.ended.min(recording.entries.len()));
    let there = to - from + 1;
    let count = wanted.min(there);
    (0..wanted.max(count)).map(|number| from + number * (there - 1) / (wanted - 1).max(1)).collect()
}

/// One power cut.
struct Cut {
    cut: usize,
    /// Every entry before this one is on the disk.
    sure: usize,
    /// Of the entries from there to this one anything may be.
    next_flush: usize,
}

impl Cut {
    /// The power goes at entry `cut`. `torn`: only what was flushed by then is sure, and any part of what was written
    /// since, or was about to be, may be there, too.
    fn new(entries: &[Entry], cut: usize, torn: bool) -> Self {
        if !torn {
            return Self { cut, sure: cut, next_flush: cut };
        }
        let sure = entries[..cut].iter().rposition(|entry| entry.flush).map_or(0, |last| last + 1);
        let next_flush = entries[cut..].iter().position(|entry| entry.flush).map_or(entries.len(), |next| cut + next);
        Self { cut, sure, next_flush }
    }
}

/// Cuts the power again and again and judges what `look` finds.
fn cut_all(
    fs: FileSystem,
    recording: &Recording,
    wanted: usize,
    rng: &mut Rng,
    mut look: impl FnMut(&Path, &mut Counts) -> Result<Vec<(u64, Vec<u8>)>, String>,
) -> Counts {
    let mut counts = Counts::default();
    let mut replay = Replay::new(fs);
    let started = Instant::now();
    let entries = &recording.entries;
    let mut plan: Vec<_> = cuts(recording, wanted)
        .into_iter()
        .enumerate()
        .map(|(number, cut)| Cut::new(entries, cut, number % 2 == 1))
        .collect();
    // The replay only ever goes forward.
    plan.sort_by_key(|cut| cut.sure);
    for Cut { cut, sure, next_flush } in plan {
        let torn = next_flush > sure;
        let extra = &entries[sure..next_flush];
        counts.cuts += 1;
        counts.torn_cuts += usize::from(torn);
        let judged = replay.cut(entries, sure, extra, rng, |at| look(&at.join("wal"), &mut counts));
        let wrong = match judged.and_then(|found| found) {
            Ok(found) => {
                counts.records += found.len();
                recording.witness.judge(&found, sure as u64)
            }
            Err(why) => vec![why],
        };
        if !wrong.is_empty() {
            counts.violations += 1;
            counts.first_violation.get_or_insert_with(|| format!("cut {cut} (sure {sure}, torn {torn}): {wrong:?}"));
        }
    }
    counts.ms_per_cut = started.elapsed().as_millis() / counts.cuts.max(1) as u128;
    counts
}

/// Opens the log after the cut, as its next writer would.
fn look_at_log(dir: &Path, manner: Manner, counts: &mut Counts) -> Result<Vec<(u64, Vec<u8>)>, String> {
    if dir.exists() {
        let verification = verify(dir).map_err(|error| format!("verify: {error}"))?;
        if let State::Damaged(damage) = verification.state {
            return Err(format!("verify: {damage}"));
        }
    }
    let log = Log::open(dir, options(manner)).wait().map_err(|error| format!("open: {error}"))?;
    let report = log.recovery_report();
    *counts.labels.entry(report.label).or_default() += 1;
    counts.torn_tails += usize::from(report.torn_bytes > 0);
    counts.copied += report.records_copied;
    let records: Result<Vec<_>, _> = log.read(..).map_err(|error| format!("read: {error}"))?.collect();
    let records = records.map_err(|error| format!("read: {error}"))?;
    let lsn = log.append(b"after the cut");
    let lsn = block_on(lsn).map_err(|error| format!("append: {error}"))?;
    if lsn.get() != records.len() as u64 + 1 {
        return Err(format!("the next record got LSN {lsn} behind {} records", records.len()));
    }
    log.close().wait().map_err(|error| format!("close: {error}"))?;
    Ok(records.into_iter().map(|record| (record.lsn.get(), record.payload.to_vec())).collect())
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Records and cuts; none where the rig cannot be had.
fn rig(test: &str, fs: FileSystem) -> bool {
    if role().is_some() {
        return false;
    }
    if let Some(why) = unavailable(fs) {
        skip(test, &why);
        return false;
    }
    true
}

fn log_survives(test: &str, fs: FileSystem) {
    if !rig(test, fs) {
        return;
    }
    let wanted = env_count("RINGWAL_CUTS").unwrap_or(40);
    let (seed, manners) = (Rng::seed(), Manner::each());
    let mut violations = 0;
    for manner in &manners {
        let wanted = wanted.div_ceil(manners.len());
        let recording = record(fs, "log", Some(*manner), (wanted as u32 / 5).clamp(60, 400));
        let look = |dir: &Path, counts: &mut Counts| look_at_log(dir, *manner, counts);
        let counts = cut_all(fs, &recording, wanted, &mut Rng::new(seed), look);
        let (entries, acks) = (recording.ended - recording.began, recording.witness.acks.len());
        let what = format!("powercut {} {} depth {}", fs.name(), manner.word(), manner.depth);
        say(&format!("{what}: RINGWAL_SEED={seed}, {entries} entries, {acks} acknowledged, {counts:?}"));
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
    if env_count("RINGWAL_CUTS").is_some() || common::rig::everything_required() {
        log_survives("xfs_power_cuts_lose_nothing_acknowledged", FileSystem::Xfs);
    }
}

/// The rig is trusted only if it sees a writer that acknowledges before its flush, and clears the same one that does not.
#[test]
fn the_rig_catches_a_writer_that_acknowledges_early_and_clears_an_honest_one() {
    if !rig("the_rig_catches_a_writer_that_acknowledges_early_and_clears_an_honest_one", FileSystem::Ext4) {
        return;
    }
    let wanted = env_count("RINGWAL_CUTS").map_or(30, |cuts| cuts / 10 + 30);
    for (role, caught) in [("honest", false), ("early", true)] {
        let recording = record(FileSystem::Ext4, role, None, 200);
        let mut rng = Rng::new(7);
        let counts = cut_all(FileSystem::Ext4, &recording, wanted, &mut rng, |dir, _| Ok(plain_records(dir)));
        say(&format!("powercut control {role}: {counts:?}"));
        assert_eq!(counts.violations > 0, caught, "{role}: {counts:#?}");
    }
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
