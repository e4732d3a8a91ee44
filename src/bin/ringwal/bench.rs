//! `ringwal bench`: engines against one another on one machine, interleaved, so that the ratios mean something.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ringwal::engines::{self, Engine, Limit, Load, Sample};

use crate::failure::{Failure, note};
use crate::output;
use crate::progress::Bar;
use crate::signals::Interrupt;

mod report;

/// The share of each window that does not count.
const WARM_UP: f64 = 0.1;
/// Synchronous engines have a thread for each caller; more would measure the scheduler.
const THREADS_MAX: usize = 1024;
/// What a record may have at most.
const PAYLOAD_BYTES_MAX: u64 = 16 << 20;

/// Compare ringwal with what people write instead, and with the disk's own floor
///
/// Each caller appends a record, waits until it is durable, and repeats. Every engine writes the same bytes, in a fresh
/// sub-directory that is removed afterwards; rounds are interleaved and their order rotates. Baselines run on a growing
/// file and on a prepared one like ringwal's; ratios are to the faster of the two. Without options this takes about two
/// and a half minutes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to make the sub-directories: on the disk in question
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Which engines: ringwal, ringwal-local, ringwal-syscalls, null, null-local, leader, threadpool, tokio-uring, naive, floor
    #[arg(long = "engine", value_name = "NAME", value_delimiter = ',', value_parser = engine,
          default_value = "ringwal,leader,threadpool,naive,floor")]
    engines: Vec<String>,
    /// How many append at the same time
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,16,256",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    callers: Vec<u32>,
    /// The size of a record in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u64).range(..=PAYLOAD_BYTES_MAX))]
    payload: u64,
    /// How long each engine runs in each round; the first tenth does not count
    #[arg(long, default_value_t = 1.2, value_parser = seconds)]
    seconds: f64,
    /// How many rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Append the lines of this file, over and over, instead of records of one size
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    input: Option<PathBuf>,
    /// One JSON object per line for each engine, callers and round, instead of the table
    #[arg(long)]
    json: bool,
}

fn engine(name: &str) -> Result<String, String> {
    if engines::find(name).is_empty() {
        return Err(format!("no such engine; there are {}", engines::names().join(", ")));
    }
    Ok(name.to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.05..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("give 0.05 to 3600".to_owned()) }
}

/// One run of one engine.
struct Leg {
    engine: &'static str,
    callers: u32,
    round: u32,
    sample: Sample,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::note()?;
    let bench = Bench::new(args, interrupt.flag())?;
    let chosen = chosen(args);
    let legs = bench.plan(&chosen);
    let bar = Bar::start(legs.len() as u64);
    let mut done: Vec<Leg> = Vec::new();
    for (engine, callers, round) in legs {
        bar.step(&format!("{}, {callers} callers, round {}", engine.name(), round + 1));
        let sample = bench.run(engine, callers, args.seconds)?;
        if interrupt.came() {
            return Err(Failure::interrupted());
        }
        let leg = Leg { engine: engine.name(), callers, round, sample };
        if args.json {
            bar.suspend(|| output::say(&report::json(&leg, bench.payload_bytes())))?;
        }
        done.push(leg);
    }
    drop(bar);
    if args.json {
        return Ok(());
    }
    let floor = match done.iter().find(|leg| leg.engine == "floor") {
        Some(_) => None,
        None => engines::find("floor").pop().map(|floor| bench.run(floor, 1, 0.5)).transpose()?,
    };
    if interrupt.came() {
        return Err(Failure::interrupted());
    }
    bench.print(&done, floor)
}

/// The engines asked for, each once, in that order.
fn chosen(args: &Args) -> Vec<&'static dyn Engine> {
    let mut chosen: Vec<&'static dyn Engine> = Vec::new();
    for engine in args.engines.iter().flat_map(|name| engines::find(name)) {
        if !chosen.iter().any(|known| known.name() == engine.name()) {
            chosen.push(engine);
        }
    }
    chosen
}

struct Bench<'a> {
    args: &'a Args,
    /// How busy the machine was before: others' work shows in every figure.
    load_before: Option<f64>,
    dir: PathBuf,
    payloads: Arc<[Box<[u8]>]>,
    stop: Arc<AtomicBool>,
}

impl<'a> Bench<'a> {
    fn new(args: &'a Args, stop: Arc<AtomicBool>) -> Result<Self, Failure> {
        let unusable = |error| {
            Failure::usage(format!("{}: {error}; give --dir a directory on the disk in question", args.dir.display()))
        };
        let dir = fs::canonicalize(&args.dir).map_err(unusable)?;
        let payloads = match &args.input {
            Some(path) => lines(path)?,
            None => vec![vec![b'r'; usize::try_from(args.payload).unwrap_or(0)].into_boxed_slice()],
        };
        if args.callers.iter().any(|callers| *callers as usize > THREADS_MAX) {
            note(&format!("naive and leader run {THREADS_MAX} of the callers at most: each has a thread there"));
        }
        Ok(Self { args, load_before: load_average(), dir, payloads: payloads.into(), stop })
    }

    /// Round by round, numbers of callers in turn, engines in an order that rotates: (engine, callers, round).
    fn plan(&self, chosen: &[&'static dyn Engine]) -> Vec<(&'static dyn Engine, u32, u32)> {
        let mut legs = Vec::new();
        for round in 0..self.args.rounds {
            let mut order = chosen.to_vec();
            order.rotate_left(round as usize % chosen.len().max(1));
            for (index, callers) in self.args.callers.iter().enumerate() {
                for engine in &order {
                    match engine.ignores_callers() {
                        false => legs.push((*engine, *callers, round)),
                        true if index == 0 => legs.push((*engine, 1, round)),
                        true => {}
                    }
                }
            }
        }
        legs
    }

    fn run(&self, engine: &dyn Engine, callers: u32, seconds: f64) -> Result<Sample, Failure> {
        let scratch = Scratch::create(&self.dir)?;
        let load = Load {
            callers: callers as usize,
            payloads: Arc::clone(&self.payloads),
            limit: Limit::Time {
                warm_up: Duration::from_secs_f64(seconds * WARM_UP),
                measured: Duration::from_secs_f64(seconds * (1.0 - WARM_UP)),
            },
            stop: Arc::clone(&self.stop),
        };
        let sample = engine.run(&scratch.0, &load);
        sample.map_err(|error| Failure::usage(format!("{}: engine {}: {error}", self.dir.display(), engine.name())))
    }

    /// The mean size of a record.
    fn payload_bytes(&self) -> usize {
        let sum: usize = self.payloads.iter().map(|payload| payload.len()).sum();
        sum / self.payloads.len()
    }

    fn print(&self, legs: &[Leg], floor: Option<Sample>) -> Result<(), Failure> {
        let mut out = output::stdout();
        let device = engines::device_facts(&self.dir).unwrap_or_else(|| "unknown device".to_owned());
        report::heading(&mut out, &self.dir, &device, legs, floor.as_ref())?;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if let Some(load) = self.load_before.filter(|load| *load > cpus as f64 / 2.0) {
            writeln!(
                out,
                "BUSY: the load average was {load:.1} on {cpus} CPUs before this began: the figures show others' work, too"
            )?;
        }
        let what = match &self.args.input {
            Some(path) => format!("lines of {} ({} bytes on average)", path.display(), self.payload_bytes()),
            None => format!("records of {} bytes", self.args.payload),
        };
        writeln!(
            out,
            "{what}; {} rounds of {} s, interleaved; medians, and (min..max) over the rounds; * is the faster file of a baseline",
            self.args.rounds, self.args.seconds
        )?;
        for callers in &self.args.callers {
            report::table(&mut out, legs, *callers)?;
        }
        Ok(out.flush()?)
    }
}

/// The load average of the last minute, where the system tells.
fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The lines of a file, without their line feeds.
fn lines(path: &Path) -> Result<Vec<Box<[u8]>>, Failure> {
    let bytes =
        fs::read(path).map_err(|error| Failure::usage(format!("{}: {error}; check --input", path.display())))?;
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    if bytes.is_empty() {
        return Err(Failure::usage(format!("{}: empty; give --input a file with lines", path.display())));
    }
    Ok(text.split(|byte| *byte == b'\n').map(Box::from).collect())
}

/// A fresh sub-directory, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create(dir: &Path) -> Result<Self, Failure> {
        let mut number = 0u32;
        loop {
            let path = dir.join(format!("ringwal-bench-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
                Err(error) => return Err(Failure::usage(format!("{}: {error}; give another --dir", path.display()))),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            note(&format!("{}: {error}; remove it by hand", self.0.display()));
        }
    }
}
