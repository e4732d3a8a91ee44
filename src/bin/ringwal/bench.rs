//! `ringwal bench`: engines against one another on one machine, interleaved, so that the ratios mean something.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ringwal::engines::compare::{Candidate, Comparison, Leg, Rate};
use ringwal::engines::facts::{Facts, load_average};
use ringwal::engines::{self, Pins, Sample, report};

use crate::failure::{Failure, note};
use crate::output;
use crate::progress::Bar;
use crate::signals::Interrupt;

/// The share of each window that does not count, unless it is given.
const WARM_UP: f64 = 0.1;
/// What a record may have at most.
const PAYLOAD_BYTES_MAX: u64 = 16 << 20;

/// Compare ringwal with what people write instead, and with the disk's own floor
///
/// Each caller appends a record, waits until it is durable, and repeats (closed loop); with --rate, appends arrive at a
/// fixed rate instead, and latency counts from the arrival (open loop). Every engine writes the same bytes, in a fresh
/// sub-directory that is removed afterwards; rounds are interleaved and their order rotates. Baselines run on a growing
/// file (/grow) and on one prepared like ringwal's (/direct); ratios are to the faster of the two. `null` is ringwal
/// without a disk: what the work of ringwal and of this load costs by itself. A thread that appends alone (the floor, a
/// blocking engine with one caller, ringwal-local's) is pinned to the core that takes the disk's interrupts, where there
/// is one: a Log pins its ring thread by itself. `floor` is one durable 4 KiB overwrite after the other by whichever
/// calls are fastest here. In the table `method` is how most batches were made durable; a line `chose` tells how the next
/// one would be, and why: how many in flight, `gathering` if it waits a moment for callers that were just served, `on the
/// disk's core` if the ring thread keeps to it. Without options the whole comparison takes about four minutes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to make the sub-directories: on the disk in question
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Which engines: ringwal, ringwal-local, ringwal-syscalls, null, null-local, leader, channel, threadpool, tokio-uring,
    /// naive, floor
    #[arg(long = "engine", value_name = "NAME", value_delimiter = ',', value_parser = engine,
          default_value = "ringwal,ringwal-local,null,leader,channel,threadpool,naive,floor")]
    engines: Vec<String>,
    /// How many append at the same time (in an open loop: at most)
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,16,256,2048",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    callers: Vec<u32>,
    /// The size of a record in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u64).range(..=PAYLOAD_BYTES_MAX))]
    payload: u64,
    /// How long each engine runs in each round; the first tenth does not count
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds more, at the beginning of each run, that do not count
    #[arg(long, value_name = "S", value_parser = seconds)]
    warm_up: Option<f64>,
    /// How many rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Open loop: so many appends arrive per second, all callers together; or, as in 50%, this share of what the engine
    /// did in a closed loop just before
    #[arg(long, value_name = "N|P%", value_parser = Rate::parse)]
    rate: Option<Rate>,
    /// The size of ringwal's segments in bytes: small ones put rotations inside the window
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    segment_bytes: Option<u64>,
    /// Lets ringwal keep only so many bytes of records and use the segments before them again, as a log does whose
    /// application takes snapshots: with --warm-up, nothing is zero-filled inside the window
    #[arg(long, value_name = "BYTES")]
    keep: Option<u64>,
    /// How ringwal makes batches durable, several for a row each: auto, linked-fdatasync, dsync-write,
    /// write-fdatasync, syscalls
    #[arg(long = "method", value_name = "NAME", value_delimiter = ',', value_parser = method)]
    methods: Vec<Method>,
    /// How many of ringwal's batches may be in flight, several for a row each (`auto` stays as it is)
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=64))]
    flight_max: Vec<u32>,
    /// Several logs on the disk; the callers are spread over them
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    logs: u32,
    /// Append the lines of this file, over and over, instead of records of one size
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    input: Option<PathBuf>,
    /// One JSON object per line for each engine, callers and round, instead of the table
    #[arg(long)]
    json: bool,
}

/// A method by its word; none for what ringwal chooses.
#[derive(Clone, Copy, Debug)]
struct Method(Option<&'static str>);

fn method(name: &str) -> Result<Method, String> {
    if name == "auto" {
        return Ok(Method(None));
    }
    let known = engines::METHODS.iter().find(|known| **known == name);
    known.map(|known| Method(Some(known))).ok_or_else(|| format!("there are auto, {}", engines::METHODS.join(", ")))
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

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::note()?;
    let load_before = load_average();
    let comparison = Comparison { stop: interrupt.flag(), ..comparison(args)? };
    let facts = Facts::of(&comparison.dir);
    let steps = comparison.plan(&candidates(args));
    let carry_out = |comparison: &Comparison, step| {
        let legs = comparison.carry_out(step).map_err(|error| Failure::usage(error.to_string()));
        if interrupt.came() { Err(Failure::interrupted()) } else { legs }
    };
    let bar = Bar::start(steps.len() as u64);
    let mut done: Vec<Leg> = Vec::new();
    for step in steps {
        let (candidate, callers, round) = &step;
        bar.step(&format!("{}, {callers} callers, round {}", candidate.label(), round + 1));
        for leg in carry_out(&comparison, step)? {
            if args.json {
                bar.suspend(|| output::say(&report::json(&leg, &facts)))?;
            }
            done.push(leg);
        }
    }
    drop(bar);
    if args.json {
        return Ok(());
    }
    let mut floor = None;
    if let (false, Some(engine)) = (done.iter().any(|leg| leg.engine == "floor"), engines::find("floor").pop()) {
        let short = Comparison { seconds: 0.5, ..comparison.clone() };
        floor = carry_out(&short, (Candidate::new(engine), 1, 0))?.pop().map(|leg| leg.sample);
    }
    print(args, &comparison, &facts, load_before, &done, floor.as_ref())
}

/// What every engine is given.
fn comparison(args: &Args) -> Result<Comparison, Failure> {
    let unusable = |error| {
        Failure::usage(format!("{}: {error}; give --dir a directory on the disk in question", args.dir.display()))
    };
    let dir = fs::canonicalize(&args.dir).map_err(unusable)?;
    if args.callers.iter().any(|callers| *callers as usize > engines::THREADS_MAX) {
        note(&format!("naive and leader run {} of the callers at most: each has a thread there", engines::THREADS_MAX));
    }
    let mut comparison = Comparison::new(&dir, usize::try_from(args.payload).unwrap_or(0));
    if let Some(path) = &args.input {
        comparison.payloads = lines(path)?.into();
    }
    // Without --warm-up it is part of the window, so that --seconds says how long a run takes.
    let (warm_up, seconds) = match args.warm_up {
        Some(warm_up) => (warm_up, args.seconds),
        None => (args.seconds * WARM_UP, args.seconds * (1.0 - WARM_UP)),
    };
    Ok(Comparison {
        callers: args.callers.iter().map(|callers| *callers as usize).collect(),
        rounds: args.rounds,
        warm_up,
        seconds,
        rate: args.rate,
        segment_bytes: args.segment_bytes,
        keep_bytes: args.keep,
        logs: args.logs as usize,
        ..comparison
    })
}

/// The engines asked for, each once, in that order; those that take pins once for each pin.
fn candidates(args: &Args) -> Vec<Candidate> {
    let mut chosen: Vec<Candidate> = Vec::new();
    for engine in args.engines.iter().flat_map(|name| engines::find(name)) {
        let pins = if engine.takes_pins() { pins(args) } else { vec![Pins::default()] };
        for pins in pins {
            let candidate = Candidate { engine, pins };
            if !chosen.iter().any(|known| known.label() == candidate.label()) {
                chosen.push(candidate);
            }
        }
    }
    chosen
}

/// Each method with each depth. `auto` among several methods is what ringwal does by itself: no depth for it.
fn pins(args: &Args) -> Vec<Pins> {
    let depths: Vec<Option<usize>> = match &args.flight_max[..] {
        [] => vec![None],
        depths => depths.iter().map(|batches| Some(*batches as usize)).collect(),
    };
    if args.methods.is_empty() {
        return depths.iter().map(|flight_max| Pins { method: None, flight_max: *flight_max }).collect();
    }
    let each = args.methods.iter().flat_map(|Method(method)| match method {
        None => vec![Pins::default()],
        method => depths.iter().map(|flight_max| Pins { method: *method, flight_max: *flight_max }).collect(),
    });
    each.collect()
}

fn print(
    args: &Args,
    comparison: &Comparison,
    facts: &Facts,
    load_before: Option<f64>,
    legs: &[Leg],
    floor: Option<&Sample>,
) -> Result<(), Failure> {
    let mut out = output::stdout();
    report::heading(&mut out, &comparison.dir, facts, legs, floor)?;
    if let Some(load) = load_before.filter(|load| *load > facts.cores as f64 / 2.0) {
        writeln!(
            out,
            "BUSY: the load average was {load:.1} on {} CPUs before this began: the figures show others' work, too",
            facts.cores
        )?;
    }
    let mut what = match &args.input {
        Some(path) => format!("lines of {} ({} bytes on average)", path.display(), comparison.payload_bytes()),
        None => format!("records of {} bytes", args.payload),
    };
    if let Some(bytes) = args.segment_bytes {
        what += &format!("; segments of {bytes} bytes");
    }
    if let Some(bytes) = args.keep {
        what += &format!("; {bytes} bytes kept");
    }
    if args.logs > 1 {
        what += &format!("; {} logs", args.logs);
    }
    writeln!(
        out,
        "{what}; {} rounds of {} s, interleaved; medians, and (min..max) over the rounds; * is the faster file of a baseline",
        args.rounds, args.seconds
    )?;
    for callers in &comparison.callers {
        report::table(&mut out, legs, *callers, &report::REFERENCES)?;
    }
    Ok(out.flush()?)
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
