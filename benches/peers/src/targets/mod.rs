//! `targets`: every row of the table of targets, measured by itself.
//!
//! Each outcome is appended to the JSON file as soon as its row is done: an interrupted run goes on where it stopped,
//! and a row that is asked for by name is measured again. The table shows the latest outcome of every row in the file.

mod bytes;
mod callers;
mod loads;
mod opening;
pub mod pins;

use std::io::Write;
use std::path::{Path, PathBuf};

use ringwal::engines::compare::{Candidate, Comparison, Leg};
use ringwal::engines::facts::{Facts, load_average};
use ringwal::engines::report;
pub use ringwal::engines::report::Spread;
use ringwal::engines::{self, Engine, Failure};
use serde_json::{Value, json};

use crate::output::{Lines, directory};
use crate::peers;

/// Measure the rows of the table of targets, all that the file lacks or those that are named
///
/// Rows: one, sixteen, many, most, bytes, cpu, rotations, open-loop, opening, large, scan. (`pins` is a command of its
/// own, for each file system: see places.sh.)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to measure: on the disk in question
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// How many rounds of each row
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each run
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How large the large log is, in GiB
    #[arg(long, default_value_t = 10)]
    large_gib: u64,
    /// Where outcomes are kept
    #[arg(long, default_value = "targets.jsonl")]
    json: PathBuf,
    /// Only print what the file holds
    #[arg(long)]
    report: bool,
    /// Rows to measure, measured before or not
    rows: Vec<String>,
}

type Row = fn(&mut Bench) -> Result<(), Failure>;

/// In the order of the table.
const ROWS: [(&str, Row); 11] = [
    ("one", callers::one),
    ("sixteen", callers::sixteen),
    ("many", callers::many),
    ("most", callers::most),
    ("bytes", bytes::run),
    ("cpu", loads::cpu),
    ("rotations", loads::rotations),
    ("open-loop", loads::open_loop),
    ("opening", opening::new_log),
    ("large", opening::large_log),
    ("scan", opening::scan),
];

pub fn run(args: &Args) -> Result<(), Failure> {
    if let Some(unknown) = args.rows.iter().find(|name| !ROWS.iter().any(|(known, _)| *known == name.as_str())) {
        let known: Vec<_> = ROWS.iter().map(|(name, _)| *name).collect();
        return Err(format!("no row {unknown}; there are {}", known.join(", ")).into());
    }
    if !args.report {
        measure(args)?;
    }
    table(&args.json)
}

fn measure(args: &Args) -> Result<(), Failure> {
    let dir = directory(&args.dir)?;
    peers::walrus::prepare(&dir)?;
    if args.rounds == 0 || args.seconds < 0.05 {
        return Err("give at least one round and 0.05 seconds".into());
    }
    let known = outcomes(&args.json)?;
    let mut bench = Bench {
        facts: Facts::of(&dir),
        dir,
        rounds: args.rounds,
        seconds: args.seconds,
        large_bytes: args.large_gib << 30,
        peers: peers::all(),
        lines: Lines::append_to(Some(&args.json))?,
        row: "",
    };
    let mut failed = None;
    for (name, row) in ROWS {
        let wanted = match args.rows.is_empty() {
            true => !known.iter().any(|outcome| outcome["row"] == name),
            false => args.rows.iter().any(|asked| asked == name),
        };
        if wanted {
            eprintln!("== {name} (load average {:.1})", load_average().unwrap_or(f64::NAN));
            bench.row = name;
            // A row that cannot be measured here (no fio, no room) does not cost the others.
            if let Err(failure) = row(&mut bench) {
                eprintln!("{name}: {failure}");
                failed = Some(failure);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// What a figure has to be.
#[derive(Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Beside the table, to explain a row of it.
    None,
}

/// What rows have in common.
pub struct Bench {
    pub dir: PathBuf,
    pub facts: Facts,
    pub rounds: u32,
    pub seconds: f64,
    pub large_bytes: u64,
    pub peers: Vec<&'static dyn Engine>,
    lines: Lines,
    row: &'static str,
}

impl Bench {
    /// A comparison with the settings of every row: 256-byte records, so many callers.
    pub fn comparison(&self, callers: usize) -> Comparison {
        Comparison {
            callers: vec![callers],
            rounds: self.rounds,
            seconds: self.seconds,
            ..Comparison::new(&self.dir, 256)
        }
    }

    /// Those of these engines that there are.
    pub fn candidates(&self, names: &[&str]) -> Vec<Candidate> {
        names.iter().flat_map(|name| crate::compare::find(&self.peers, name)).map(Candidate::new).collect()
    }

    /// Runs a comparison; each leg goes to the file.
    pub fn legs(&mut self, comparison: &Comparison, candidates: &[Candidate]) -> Result<Vec<Leg>, Failure> {
        let (facts, lines) = (&self.facts, &mut self.lines);
        let mut failure = None;
        let legs = comparison.run(candidates, |leg| {
            let Leg { engine, callers, round, sample, .. } = leg;
            let (rate, p50, p999) = (sample.per_second(), sample.latency_us(0.5), sample.latency_us(0.999));
            eprintln!(
                "  {engine}, {callers} callers, round {}: {rate:.0}/s, {p50:.0} us, p99.9 {p999:.0} us",
                round + 1
            );
            failure = failure.take().or(lines.say(&report::json(leg, facts)).err());
        })?;
        failure.map_or(Ok(legs), Err)
    }

    /// Keeps an outcome: one value for each round.
    pub fn keep(&mut self, what: &str, goal: Goal, values: &[f64], detail: &str) -> Result<(), Failure> {
        let Spread { min, median, max } = Spread::of(values.iter().copied());
        let (goal, met) = match goal {
            Goal::AtMost(bound) => (format!("<= {bound}"), Some(median <= bound)),
            Goal::AtLeast(bound) => (format!(">= {bound}"), Some(median >= bound)),
            Goal::None => (String::new(), None),
        };
        let line = json!({
            "row": self.row, "what": what, "goal": goal, "median": median, "min": min, "max": max, "met": met,
            "values": values, "detail": detail, "machine": self.facts.json(),
        });
        eprintln!("  {what}: {median:.3} ({min:.3}..{max:.3}) {goal}");
        self.lines.say(&line.to_string())
    }
}

/// ringwal as its users have it: the default log, and the one driven inside the caller's thread where there is one.
pub fn own() -> Vec<&'static str> {
    ["ringwal", "ringwal-local"].into_iter().filter(|name| !engines::find(name).is_empty()).collect()
}

/// The ratios of the rounds of two engines in one figure; empty if either is missing.
pub fn ratios(legs: &[Leg], over: &str, under: &str, figure: impl Fn(&Leg) -> f64) -> Vec<f64> {
    let over = legs.iter().filter(|leg| leg.engine == over);
    let ratio = |leg: &Leg| {
        let beside = legs.iter().find(|other| other.engine == under && other.round == leg.round)?;
        Some(figure(leg) / figure(beside))
    };
    over.filter_map(ratio).collect()
}

/// The median of an engine's figure.
pub fn median(legs: &[Leg], engine: &str, figure: impl Fn(&Leg) -> f64) -> f64 {
    Spread::of(legs.iter().filter(|leg| leg.engine == engine).map(figure)).median
}

/// Appends per second.
pub fn rate(leg: &Leg) -> f64 {
    leg.sample.per_second()
}

/// The outcomes in a file, in its order; none if it does not exist.
pub fn outcomes(path: &Path) -> Result<Vec<Value>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            // A line that was cut off by a kill is no outcome.
            let values = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            Ok(values.filter(|value| !value["row"].is_null()).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

/// The latest outcomes, in the order of the rows, as a Markdown table.
pub fn table(path: &Path) -> Result<(), Failure> {
    let all = outcomes(path)?;
    let mut latest: Vec<&Value> = Vec::new();
    for outcome in &all {
        match latest.iter_mut().find(|old| old["row"] == outcome["row"] && old["what"] == outcome["what"]) {
            Some(old) => *old = outcome,
            None => latest.push(outcome),
        }
    }
    let place = |outcome: &Value| ROWS.iter().position(|(name, _)| outcome["row"] == *name).unwrap_or(ROWS.len());
    latest.sort_by_key(|outcome| place(outcome));
    let mut out = std::io::stdout().lock();
    writeln!(out, "| row | what | target | median (min..max) | met | detail |\n|---|---|---|---|---|---|")?;
    for outcome in latest {
        let word = |key: &str| outcome[key].as_str().unwrap_or("").to_owned();
        let number = |key: &str| outcome[key].as_f64().unwrap_or(f64::NAN);
        let met = match outcome["met"].as_bool() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        writeln!(
            out,
            "| {} | {} | {} | {:.2} ({:.2}..{:.2}) | {met} | {} |",
            word("row"),
            word("what"),
            word("goal"),
            number("median"),
            number("min"),
            number("max"),
            word("detail")
        )?;
    }
    Ok(())
}
