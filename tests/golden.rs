//! Golden files: for each format version a few small logs, byte for byte, each with a dump that a person can read.
//!
//! Two questions, asked apart. Does today's writer still write these bytes? And does today's reader still read them,
//! whatever the writer does by then? When the format gets a new version, `v1-*` stay and only the first question moves
//! on to the new directories.
//!
//! `RINGWAL_BLESS=1 cargo test --test golden` writes the files anew: look at the difference before committing it. Files
//! are stored without the zero blocks at their end; the dump has their lengths.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use ringwal::harness::Life;
use ringwal::sim::{FlushScope, Sim, SimOptions};
use ringwal::{Log, Lsn, Options, Reader, State};

const BLOCK_BYTES: usize = 512;

/// The files of a log by name, whole.
type Files = BTreeMap<String, Vec<u8>>;

/// A log that some version of the writer left behind.
struct Golden {
    name: &'static str,
    /// Leaves the log on a simulated disk.
    write: fn(&Sim),
    /// What a reader that writes nothing is shown.
    shown: fn() -> Vec<Vec<u8>>,
    /// What an opening for writing keeps.
    kept: fn() -> Vec<Vec<u8>>,
}

const GOLDEN: [Golden; 2] = [
    Golden { name: "v1-clean", write: write_clean, shown: clean_records, kept: clean_records },
    Golden { name: "v1-torn", write: write_torn, shown: || torn_records(5), kept: || torn_records(6) },
];

/// A record that is easily found in a hex dump.
fn long(letter: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| if at % 64 == 0 { b'\n' } else { letter }).collect()
}

fn clean_records() -> Vec<Vec<u8>> {
    let short = [&b"first"[..], b"a", b"", b"group", b"", b"before the close seal", b"behind the in-place opening"];
    let mut records: Vec<_> = short.iter().map(|record| record.to_vec()).collect();
    records.extend([long(b'r', 1500), long(b's', 2000), b"in the second segment".to_vec()]);
    records
}

/// Data, a group, a zero-length record, an idle seal, a close seal; then an opening in place, a rotation, and a close.
fn write_clean(sim: &Sim) {
    let records = clean_records();
    let mut life = Life::open(sim, &options(), 1).unwrap();
    append(sim, &mut life, &records[0]);
    assert!(life.submit_group(&records[1..4]).unwrap());
    settle(sim, &mut life, Lsn::new(4));
    append(sim, &mut life, &records[4]);
    seal(sim, &mut life);
    append(sim, &mut life, &records[5]);
    close(sim, life);

    let mut life = Life::open(sim, &options(), 2).unwrap();
    assert_eq!(life.report().label, "R10");
    for record in &records[6..] {
        append(sim, &mut life, record);
    }
    close(sim, life);
    assert!(sim.files().len() >= 2, "it was meant to rotate: {:?}", sim.files());
}

fn torn_records(count: usize) -> Vec<Vec<u8>> {
    let mut records: Vec<_> = [&b"proved"[..], b"", b"copied"].iter().map(|record| record.to_vec()).collect();
    records.extend([long(b'c', 600), b"behind the cut".to_vec(), b"unclaimed".to_vec()]);
    records.truncate(count);
    records
}

/// A torn tail; an opening that cuts it off and copies what nothing proved durable; and a torn tail behind that.
fn write_torn(sim: &Sim) {
    let records = torn_records(6);
    let mut life = Life::open(sim, &options(), 3).unwrap();
    append(sim, &mut life, &records[0]);
    append(sim, &mut life, &records[1]);
    assert!(life.submit_group(&records[2..4]).unwrap());
    settle(sim, &mut life, Lsn::new(4));
    life.submit(&long(b't', 1200)).unwrap();
    life.step(Duration::ZERO);
    sim.tick_all();
    tear(sim, life, b't');

    let mut life = Life::open(sim, &options(), 4).unwrap();
    assert_eq!((life.report().label, life.report().records_copied), ("R12", 2));
    append(sim, &mut life, &records[4]);
    append(sim, &mut life, &records[5]);
    life.submit(&long(b'u', 1200)).unwrap();
    life.step(Duration::ZERO);
    sim.tick_all();
    tear(sim, life, b'u');
}

fn options() -> Options {
    let segment_bytes = 16 * BLOCK_BYTES as u64;
    Options::default().block_bytes(512).segment_bytes(segment_bytes).flight_max(1).pending_bytes_max(1 << 20)
}

fn append(sim: &Sim, life: &mut Life, record: &[u8]) {
    loop {
        match life.submit(record) {
            Ok(lsn) => return settle(sim, life, lsn),
            // The next segment is being prepared.
            Err(_) => turn(sim, life),
        }
    }
}

/// Everything that can happen now, happens: one batch at a time, so that D does not depend on who is quick.
fn turn(sim: &Sim, life: &mut Life) {
    life.prepare();
    life.step(Duration::ZERO);
    sim.tick_all();
    life.step(Duration::ZERO);
}

fn settle(sim: &Sim, life: &mut Life, lsn: Lsn) {
    for _ in 0..100 {
        if life.durable() >= lsn {
            return;
        }
        turn(sim, life);
    }
    panic!("{lsn} does not become durable");
}

/// Lets the log be idle until it seals itself.
fn seal(sim: &Sim, life: &mut Life) {
    life.step(Duration::from_millis(11));
    turn(sim, life);
}

fn close(sim: &Sim, mut life: Life) {
    life.close();
    for _ in 0..100 {
        if life.closed() {
            return;
        }
        turn(sim, &mut life);
    }
    panic!("does not close");
}

/// Kills the process and zeroes the sector where the record of `letter`s begins, as a lost one would be: the header's.
/// A header that survives would still say what was durable.
fn tear(sim: &Sim, life: Life, letter: u8) {
    drop(life);
    sim.kill();
    for name in sim.files() {
        let mut bytes = sim.bytes(&name).unwrap();
        let run = bytes.windows(8).position(|window| window == [letter; 8]);
        if let Some(at) = run {
            bytes[at - at % BLOCK_BYTES..][..BLOCK_BYTES].fill(0);
            return sim.put(&name, &bytes);
        }
    }
    panic!("the record to be torn is nowhere");
}

/// What today's writer leaves.
fn written(golden: &Golden) -> Files {
    let options = SimOptions { block_bytes: 512, flush: FlushScope::File, ..SimOptions::default() };
    let sim = Sim::new(7, options);
    (golden.write)(&sim);
    sim.files().into_iter().map(|name| (name.clone(), sim.bytes(&name).unwrap())).collect()
}

fn golden_dir(golden: &Golden) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(golden.name)
}

/// Where the files are stored; blessed before the first look at them, if that was asked for.
fn stored_dir(golden: &Golden) -> PathBuf {
    static BLESSED: Once = Once::new();
    if std::env::var_os("RINGWAL_BLESS").is_some() {
        BLESSED.call_once(|| GOLDEN.iter().for_each(bless));
    }
    golden_dir(golden)
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..used.next_multiple_of(BLOCK_BYTES).min(bytes.len())]
}

fn stored_dump(golden: &Golden) -> String {
    let path = stored_dir(golden).join("dump.txt");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; RINGWAL_BLESS=1 makes it", path.display()))
}

/// The stored files, each as long as the dump says it is.
fn stored(golden: &Golden) -> Files {
    let dump = stored_dump(golden);
    let files = dump.lines().filter_map(|line| line.strip_prefix("file "));
    let read = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, len) = (words.next().unwrap(), words.next().unwrap().parse().unwrap());
        let mut bytes = fs::read(stored_dir(golden).join(name)).unwrap();
        assert!(bytes.len() <= len && bytes == trimmed(&bytes), "{name} is not stored as it should be");
        bytes.resize(len, 0);
        (name.to_owned(), bytes)
    };
    files.map(read).collect()
}

fn bless(golden: &Golden) {
    let (dir, files) = (golden_dir(golden), written(golden));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    for (name, bytes) in &files {
        fs::write(dir.join(name), trimmed(bytes)).unwrap();
    }
    let place = Placed::new(golden, &files, "bless");
    fs::write(dir.join("dump.txt"), dump(&files, &place.0)).unwrap();
}

/// A real directory that holds the files; removed when dropped.
struct Placed(PathBuf);

impl Placed {
    fn new(golden: &Golden, files: &Files, purpose: &str) -> Self {
        let name = format!("golden-{}-{purpose}-{}", golden.name, std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        for (name, bytes) in files {
            fs::write(dir.join(name), bytes).unwrap();
        }
        Self(dir)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The log in `dir`, in words, as the public functions see it.
fn dump(files: &Files, dir: &Path) -> String {
    let mut text = String::new();
    for (name, bytes) in files {
        writeln!(text, "file {name} {} bytes, {} stored", bytes.len(), trimmed(bytes).len()).unwrap();
    }
    for segment in ringwal::dump(dir).unwrap() {
        let (id, log_id) = (segment.id.get(), segment.log_id);
        writeln!(text, "\nsegment {id}: log {log_id}, {} bytes in blocks of {}", segment.bytes, segment.block_bytes)
            .unwrap();
        for batch in segment.batches {
            let flags = [(batch.cut, " cut"), (batch.close, " close"), (!batch.whole, " TORN")];
            let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
            let link = batch.link.map_or("nothing".to_owned(), |(id, block)| format!("{}:{block}", id.get()));
            writeln!(
                text,
                "  {:>5} +{:<5}{}{flags}: epoch {}, first LSN {}, {} records, durable {}, behind {link}",
                batch.offset, batch.bytes, batch.kind, batch.epoch, batch.first, batch.count, batch.durable
            )
            .unwrap();
        }
    }
    let verdict = ringwal::verify(dir).unwrap();
    writeln!(text, "\n{} {}: {}..={}", verdict.label, verdict.meaning, verdict.first, verdict.last).unwrap();
    match verdict.state {
        State::Torn { bytes } => writeln!(text, "torn, {bytes} bytes").unwrap(),
        state => writeln!(text, "{state:?}").unwrap(),
    }
    text.push_str("\nwhat a reader is shown\n");
    for record in Reader::open(dir).unwrap().read(..).unwrap() {
        let record = record.unwrap();
        let start = String::from_utf8_lossy(&record.payload[..record.payload.len().min(40)]).into_owned();
        writeln!(text, "  {}: {} bytes {start:?}", record.lsn, record.payload.len()).unwrap();
    }
    text
}

fn payloads(records: ringwal::Records) -> Vec<Vec<u8>> {
    let numbered = records.enumerate().map(|(at, record)| {
        let record = record.unwrap();
        assert_eq!(record.lsn.get(), at as u64 + 1);
        record.payload.to_vec()
    });
    numbered.collect()
}

#[test]
fn todays_writer_writes_the_golden_bytes() {
    for golden in &GOLDEN {
        let (written, stored) = (written(golden), stored(golden));
        let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&written), names(&stored), "{}", golden.name);
        for (name, bytes) in &written {
            let stored = &stored[name];
            assert_eq!(bytes.len(), stored.len(), "{}/{name}", golden.name);
            let differs = bytes.iter().zip(stored).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{}/{name}: the first offset that differs", golden.name);
        }
    }
}

#[test]
fn a_history_leaves_the_same_bytes_each_time() {
    for golden in &GOLDEN {
        assert!(written(golden) == written(golden), "{}", golden.name);
    }
}

#[test]
fn todays_reader_reads_the_golden_bytes() {
    for golden in &GOLDEN {
        let files = stored(golden);
        let place = Placed::new(golden, &files, "read");
        let reader = Reader::open(&place.0).unwrap();
        assert_eq!(payloads(reader.read(..).unwrap()), (golden.shown)(), "{}", golden.name);
        assert_eq!(dump(&files, &place.0), stored_dump(golden), "{}: the dump", golden.name);
        for (name, bytes) in &files {
            assert!(&fs::read(place.0.join(name)).unwrap() == bytes, "{name}: reading changed it");
        }
    }
}

#[test]
fn todays_writer_goes_on_behind_the_golden_bytes() {
    for golden in &GOLDEN {
        let place = Placed::new(golden, &stored(golden), "write");
        // A real directory wants larger blocks than the stored log has: the log goes on in a segment of its own.
        let options = Options::default().segment_bytes(1 << 20).allow_volatile(true);
        let mut expected = (golden.kept)();
        let log = Log::open(&place.0, options).wait().unwrap();
        assert_eq!(payloads(log.read(..).unwrap()), expected, "{}", golden.name);
        log.append(b"behind").wait().unwrap();
        expected.push(b"behind".to_vec());
        log.close().wait().unwrap();
        assert_eq!(payloads(Reader::open(&place.0).unwrap().read(..).unwrap()), expected, "{}", golden.name);
    }
}

#[test]
fn golden_files_are_small() {
    for golden in &GOLDEN {
        let total: u64 =
            fs::read_dir(stored_dir(golden)).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(total < 32 << 10, "{}: {total} bytes", golden.name);
    }
}
