//! `pins`: what ringwal chooses by itself against each method and depth pinned, in one place (a file system on a device).
//!
//! Every pin is tried for a moment; those that did best there then run round by round beside `Auto`. Both get a warm-up
//! that does not count: the question is what the steady state is worth, not how fast it is found.

use std::path::PathBuf;

use ringwal::engines::compare::{Candidate, Comparison};
use ringwal::engines::facts::Facts;
use ringwal::engines::report::short;
use ringwal::engines::{self, Failure, METHODS, Pins};

use super::{Bench, Goal, Spread, median, rate, ratios};
use crate::output::{Lines, directory};
use crate::peers;

/// Compare what ringwal chooses with every method and depth pinned, here
///
/// benches/places.sh makes file systems on loop devices and runs this in each.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where: on the file system in question
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// What to call it in the table
    #[arg(long)]
    place: String,
    /// How many append at the same time
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,4,16,64,256,2048")]
    callers: Vec<usize>,
    /// How many batches in flight to pin
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,4,8")]
    depths: Vec<usize>,
    /// How many pins, of those that did best when tried, run beside Auto
    #[arg(long, default_value_t = 3)]
    finalists: usize,
    /// How many rounds
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each run
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Seconds more at the beginning of each run that do not count
    #[arg(long, default_value_t = 3.0)]
    warm_up: f64,
    /// Where outcomes are kept
    #[arg(long, default_value = "targets.jsonl")]
    json: PathBuf,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let dir = directory(&args.dir)?;
    if args.rounds == 0 || args.finalists == 0 || args.callers.contains(&0) {
        return Err("give at least one round, one finalist and one caller".into());
    }
    let mut bench = Bench {
        facts: Facts::of(&dir),
        dir,
        rounds: args.rounds,
        seconds: args.seconds,
        large_bytes: 0,
        peers: peers::all(),
        lines: Lines::append_to(Some(&args.json))?,
        row: "pins",
    };
    let mut table = vec!["| callers | Auto chose | best pinned | Auto / best pinned |\n|---|---|---|---|".to_owned()];
    for callers in &args.callers {
        table.push(one(&mut bench, args, *callers)?);
    }
    println!("{}: {}\n\n{}", args.place, bench.facts, table.join("\n"));
    Ok(())
}

/// One number of callers: its row of the table.
fn one(bench: &mut Bench, args: &Args, callers: usize) -> Result<String, Failure> {
    let Some(engine) = engines::find("ringwal").pop() else { return Err("no ringwal".into()) };
    // Plain system calls block the ring thread: one batch at a time, whatever may be in flight.
    let depths = |method: &str| if method == "syscalls" { vec![1] } else { args.depths.clone() };
    let pin =
        |method, flight_max| Candidate { engine, pins: Pins { method: Some(method), flight_max: Some(flight_max) } };
    let pinned: Vec<Candidate> =
        METHODS.iter().flat_map(|method| depths(method).into_iter().map(move |depth| pin(*method, depth))).collect();
    let base = bench.comparison(callers);
    let trial = Comparison { rounds: 2, seconds: args.seconds / 2.0, warm_up: 0.05, ..base.clone() };
    let tried = bench.legs(&trial, &pinned)?;
    let mut rated: Vec<(f64, Candidate)> =
        pinned.into_iter().map(|pin| (median(&tried, &pin.label(), rate), pin)).collect();
    rated.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut finalists: Vec<Candidate> = rated.iter().take(args.finalists).map(|(_, pin)| *pin).collect();
    finalists.insert(0, Candidate::new(engine));
    let comparison = Comparison { warm_up: args.warm_up, ..base };
    let legs = bench.legs(&comparison, &finalists)?;
    let labels = finalists[1..].iter().map(Candidate::label);
    let best = labels.max_by(|a, b| median(&legs, a, rate).total_cmp(&median(&legs, b, rate))).unwrap_or_default();
    let values = ratios(&legs, "ringwal", &best, rate);
    let chose = legs.iter().rev().find(|leg| leg.engine == "ringwal").map_or("", |leg| leg.sample.method);
    let detail = format!(
        "Auto ({chose}) {}/s, {best} {}/s",
        short(median(&legs, "ringwal", rate)),
        short(median(&legs, &best, rate))
    );
    bench.keep(
        &format!("{}, {callers} callers: Auto against the best pinned", args.place),
        Goal::AtLeast(0.95),
        &values,
        &detail,
    )?;
    let Spread { min, median: middle, max } = Spread::of(values.iter().copied());
    Ok(format!("| {callers} | {chose} | {best} | {middle:.2} ({min:.2}..{max:.2}) |"))
}
