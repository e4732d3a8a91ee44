//! Real logs, made once by the real writer on the simulated disk: what the targets damage.

use std::sync::LazyLock;
use std::time::Duration;

use ringwal::harness::Life;
use ringwal::sim::{Sim, SimOptions, Snapshot};
use ringwal::{Lsn, Method, Options};

use crate::life::append;
use crate::layout::{BLOCK, BLOCK_INDEX, DURABLE, EPOCH, HEADER, SEGMENT_ID, is_batch};

/// The files of a directory: name and bytes, by name.
pub type Files = Vec<(String, Vec<u8>)>;

/// The records of a log, from the first to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The first record retained.
    pub first: u64,
    /// All records that were ever appended on this line, those before the first included.
    pub records: Vec<Vec<u8>>,
}

/// A batch that claims records durable: while it stands, they may not be missing in silence.
#[derive(Clone, Debug)]
struct Voucher {
    file: usize,
    offset: usize,
    durable: u64,
}

/// A log as its writer left it.
#[derive(Debug)]
pub struct Log {
    /// The options that it was written with.
    pub options: Options,
    snapshot: Snapshot,
    /// Its files.
    pub files: Files,
    /// Its files as they stood at the end of each earlier life.
    pub past: Vec<Files>,
    /// What it holds now, last; and what it held on lines that were cut off since.
    pub histories: Vec<History>,
    vouchers: Vec<Voucher>,
}

/// What a writer does.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Appends records of up to so many bytes, and waits until they are durable.
    Append(usize, usize),
    /// Appends a group.
    Group(usize),
    /// Stages records and does not wait: some may be on the disk.
    Stage(usize),
    /// Waits until the idle seal is written.
    Idle,
    /// Takes back so many records.
    CutBack(u64),
    /// Frees the segments of all but the last so many records.
    Trim(u64),
    /// Ends in order.
    Close,
    /// Is killed.
    Kill,
    /// Is killed after so many operations of the next opening.
    KillOpening(u64),
    /// Loses its power.
    PowerCut,
}

use Step::{Append, Close, CutBack, Group, Idle, Kill, KillOpening, PowerCut, Stage, Trim};

/// What was done to each log. A step that needs an open one opens it; the last step ends the last life.
const SCRIPTS: [&[Step]; 18] = [
    &[Append(6, 60), Append(3, 300), Close],
    &[Append(5, 90), Kill],
    &[Append(4, 200), Idle, Append(3, 40), Stage(5), PowerCut],
    &[Append(40, 200), Close],
    &[Append(30, 300), Idle, Trim(6), Append(24, 300), Close],
    &[Append(20, 300), Trim(4), Append(20, 300), Kill, Append(5, 100), Trim(6), Append(22, 300), Stage(3), PowerCut],
    &[Append(2, 50), Close, Append(2, 50), Close, Append(2, 50), Close, Append(2, 50), Close],
    &[Append(3, 50), Kill, Append(3, 50), Kill, Append(3, 50), Stage(2), PowerCut, Append(1, 50), Kill],
    &[Append(9, 80), CutBack(4), Append(5, 80), Close],
    &[Append(9, 80), Close, Append(3, 80), CutBack(5), Append(5, 80), Stage(4), Kill],
    &[Group(3), Append(2, 10), Group(5), Stage(1), Group(4), PowerCut, Group(2), Close],
    &[Close],
    &[Kill],
    &[Append(4, 40), Close, KillOpening(5)],
    &[Append(4, 40), Kill, KillOpening(3)],
    &[Append(20, 300), Stage(4), Kill, KillOpening(3), KillOpening(5)],
    &[Append(9, 80), Kill, Append(9, 300), Close, Append(4, 30), Close, KillOpening(6)],
    &[Append(8, 0), Kill, Append(8, 0), CutBack(3), Append(8, 0), PowerCut, Append(8, 0), Kill],
];

/// All logs. The last one is of another writer: what is foreign to the others.
pub static LOGS: LazyLock<Vec<Log>> = LazyLock::new(|| {
    let all = SCRIPTS.iter().enumerate();
    all.map(|(number, script)| Writer::new(number).run(script)).collect()
});

/// A log on its way.
struct Writer {
    number: usize,
    sim: Sim,
    options: Options,
    life: Option<Life>,
    lives: u64,
    /// Every record of the line, and the first that is retained.
    staged: History,
    appended: u64,
    past: Vec<Files>,
    histories: Vec<History>,
}

pub(crate) fn sim_options() -> SimOptions {
    SimOptions { block_bytes: 512, ..SimOptions::default() }
}

impl Writer {
    fn new(number: usize) -> Self {
        let options = Options::default()
            .method(Method::ALL[number % 4])
            .block_bytes(512)
            .segment_bytes(16 * BLOCK as u64)
            .flight_max(1 + number % 3)
            .batch_bytes_max(BLOCK * (1 + number % 2))
            .pending_bytes_max(1 << 16);
        Self {
            number,
            sim: Sim::new(number as u64, sim_options()),
            options,
            life: None,
            lives: 0,
            staged: History { first: 1, records: Vec::new() },
            appended: 0,
            past: Vec::new(),
            histories: Vec::new(),
        }
    }

    fn run(mut self, script: &[Step]) -> Log {
        for (at, step) in script.iter().enumerate() {
            self.step(*step, at + 1 == script.len());
        }
        let files = files(&self.sim);
        let vouchers = vouchers(&files);
        self.histories.push(self.staged);
        Log {
            options: self.options,
            snapshot: self.sim.snapshot(),
            files,
            past: self.past,
            histories: self.histories,
            vouchers,
        }
    }

    fn open(&mut self) {
        self.lives += 1;
        let life = Life::open(&self.sim, &self.options, self.lives << 8 | self.number as u64);
        let life = life.expect("a log of one's own opens");
        let kept = usize::try_from(life.durable().get()).expect("few records");
        self.life = Some(life);
        self.cut(kept);
    }

    /// Behind `kept` another line begins.
    fn cut(&mut self, kept: usize) {
        if kept < self.staged.records.len() {
            self.histories.push(self.staged.clone());
            self.staged.records.truncate(kept);
        }
    }

    fn step(&mut self, step: Step, last: bool) {
        match step {
            Append(count, len) => {
                (0..count).for_each(|_| self.stage(len));
                self.settle();
            }
            Stage(count) => {
                (0..count).for_each(|_| self.stage(100));
                self.drive(4);
            }
            Group(count) => {
                let group: Vec<_> = (0..count).map(|_| self.record(30)).collect();
                let taken = self.life().submit_group(&group);
                assert!(taken.is_ok_and(|taken| taken), "there is room for a group");
                self.staged.records.extend(group);
                self.settle();
            }
            Idle => {
                self.life().step(Duration::from_secs(1));
                self.settle();
            }
            CutBack(count) => self.cut_back(count),
            Trim(keep) => self.trim(keep),
            Close => {
                self.life().close();
                self.drive(100);
                assert!(self.life().closed(), "a log closes");
                self.end(|_| {}, last);
            }
            Kill => {
                self.life();
                self.end(Sim::kill, last);
            }
            KillOpening(operations) => {
                self.sim.crash_after(Some(operations));
                let opened = Life::open(&self.sim, &self.options, self.appended);
                assert!(opened.is_err(), "an opening takes more than {operations} operations");
                self.end(Sim::kill, last);
            }
            PowerCut => self.end(Sim::power_cut, last),
        }
    }

    /// The life that goes on, or the next one.
    fn life(&mut self) -> &mut Life {
        if self.life.is_none() {
            self.open();
        }
        self.life.as_mut().expect("a life")
    }

    fn record(&mut self, max: usize) -> Vec<u8> {
        self.appended += 1;
        let tag = (self.appended << 8 | self.number as u64).to_le_bytes();
        let len = (usize::try_from(self.appended).expect("few") * 37 + max / 2) % (max + 1);
        tag.into_iter().cycle().take(len).collect()
    }

    fn stage(&mut self, max: usize) {
        let record = self.record(max);
        self.life();
        let taken = append(&self.sim, self.life.as_mut().expect("a life"), &record);
        assert!(taken.is_ok(), "an open log takes no record: {taken:?}");
        self.staged.records.push(record);
    }

    fn drive(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.life().step(Duration::from_micros(50));
            self.sim.tick();
            self.life().prepare();
        }
    }

    /// Until everything is durable and nothing is on its way.
    fn settle(&mut self) {
        self.drive(300);
        let life = self.life();
        assert_eq!(life.durable(), life.appended(), "what is appended becomes durable");
    }

    fn cut_back(&mut self, count: u64) {
        let last = self.staged.records.len() as u64 - count;
        let seed = self.appended;
        self.life().truncate_after(Lsn::new(last), seed);
        self.drive(100);
        let answer = self.life().cut_back();
        assert!(matches!(answer, Some(Some(Ok(_)))), "a log can be cut back: {answer:?}");
        self.cut(usize::try_from(last).expect("few"));
    }

    fn trim(&mut self, keep: u64) {
        let first = self.staged.records.len() as u64 - keep;
        self.life().recycle(Lsn::new(first));
        self.drive(100);
        self.staged.first = first;
    }

    fn end(&mut self, how: impl FnOnce(&Sim), last: bool) {
        self.life = None;
        how(&self.sim);
        if !last {
            self.past.push(files(&self.sim));
        }
    }
}

/// The files on a simulated disk.
fn files(sim: &Sim) -> Files {
    let bytes = |name: String| sim.bytes(&name).map(|bytes| (name, bytes));
    sim.files().into_iter().filter_map(bytes).collect()
}

/// The batches of the last epoch, which nothing has cut off.
fn vouchers(files: &Files) -> Vec<Voucher> {
    let blocks = files.iter().enumerate().filter(|(_, (name, _))| name.ends_with(".seg")).flat_map(|(file, (_, bytes))| {
        bytes.chunks(BLOCK).enumerate().map(move |(at, block)| (file, at * BLOCK, block))
    });
    // Not what an earlier use of the file left there.
    let in_place = |file: usize, offset: usize, block: &[u8]| {
        let id = files[file].0.strip_suffix(".seg").and_then(|id| u64::from_str_radix(id, 16).ok());
        id == Some(SEGMENT_ID.get(block)) && BLOCK_INDEX.get(block) == (offset / BLOCK) as u64
    };
    let batches: Vec<_> =
        blocks.filter(|(file, offset, block)| is_batch(block) && in_place(*file, *offset, block)).collect();
    let last = batches.iter().map(|(_, _, block)| EPOCH.get(block)).max().unwrap_or(0);
    let of_last = batches.into_iter().filter(|(_, _, block)| EPOCH.get(block) == last);
    of_last.map(|(file, offset, block)| Voucher { file, offset, durable: DURABLE.get(block) }).collect()
}

impl Log {
    /// A new disk with this log on it.
    #[must_use]
    pub fn disk(&self, seed: u64) -> Sim {
        let sim = Sim::new(seed, sim_options());
        sim.restore(&self.snapshot);
        sim
    }

    /// Up to where a batch of `files` that still stands claims records durable.
    #[must_use]
    pub fn vouched(&self, files: &Files) -> u64 {
        let stands = |voucher: &&Voucher| {
            let (name, before) = &self.files[voucher.file];
            let now = files.iter().find(|(now, _)| now == name).map(|(_, bytes)| bytes);
            let same = |bytes: &Vec<u8>| {
                let header = voucher.offset..voucher.offset + HEADER;
                bytes.len() >= before.len() && bytes[..BLOCK] == before[..BLOCK] && bytes[header.clone()] == before[header]
            };
            now.is_some_and(same)
        };
        self.vouchers.iter().filter(stands).map(|voucher| voucher.durable).max().unwrap_or(0)
    }

    /// Whether these records are a beginning of what the log holds or once held.
    #[must_use]
    pub fn held(&self, records: &[(Lsn, Vec<u8>)]) -> bool {
        let begins = |history: &&History| {
            let first = records.first().map_or(1, |(lsn, _)| lsn.get());
            let from = usize::try_from(first - 1).unwrap_or(usize::MAX);
            let same = |(at, (lsn, payload)): (usize, &(Lsn, Vec<u8>))| {
                lsn.get() == first + at as u64 && history.records.get(from + at) == Some(payload)
            };
            first <= history.first.max(1) && records.iter().enumerate().all(same)
        };
        self.histories.iter().any(|history| begins(&history))
    }

    /// Whether each of these records was appended at its LSN, on whatever line.
    #[must_use]
    pub fn ever_held(&self, records: &[(Lsn, Vec<u8>)]) -> bool {
        records.iter().all(|(lsn, payload)| {
            let at = usize::try_from(lsn.get() - 1).unwrap_or(usize::MAX);
            self.histories.iter().any(|history| history.records.get(at) == Some(payload))
        })
    }
}
