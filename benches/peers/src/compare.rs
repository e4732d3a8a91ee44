//! `compare`: any of ringwal's engines and of the peers, interleaved round by round in one run.

use std::io::Write;
use std::path::PathBuf;

use ringwal::engines::compare::{Candidate, Comparison, Rate};
use ringwal::engines::facts::Facts;
use ringwal::engines::{self, Engine, Failure, report};

use crate::output::{Lines, directory};
use crate::peers;

/// The closest in kind: logs, not databases. More columns than these nobody reads.
const REFERENCES: [&str; 2] = ["okaywal", "raft-engine"];

/// Compare ringwal with other log writers
///
/// Closed loop, or open loop with --rate. Each peer runs at its best number of threads up to the callers of the row,
/// which is tried out before its first round; its settings are in the README beside this program.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to make the sub-directories: on the disk in question
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Which engines: those of `ringwal bench`, and okaywal, raft-engine, rocksdb, fjall, walrus
    #[arg(
        long = "engine",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "ringwal,okaywal,raft-engine,rocksdb,fjall,walrus,floor"
    )]
    engines: Vec<String>,
    /// How many append at the same time
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,16,256")]
    callers: Vec<usize>,
    /// The size of a record in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    payload: usize,
    /// How long each engine runs in each round
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// How many rounds
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Open loop: appends per second, or a share (50%) of the closed loop just before
    #[arg(long, value_name = "N|P%", value_parser = Rate::parse)]
    rate: Option<Rate>,
    /// The size of ringwal's segments in bytes
    #[arg(long, value_name = "BYTES")]
    segment_bytes: Option<u64>,
    /// How much ringwal keeps behind, in bytes of records, using the segments before again; default everything
    #[arg(long)]
    keep: Option<u64>,
    /// Append one JSON object per line to this file for each engine, callers and round
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let dir = directory(&args.dir)?;
    peers::walrus::prepare(&dir)?;
    let comparison = Comparison {
        callers: args.callers.clone(),
        rounds: args.rounds,
        seconds: args.seconds,
        rate: args.rate,
        segment_bytes: args.segment_bytes,
        keep_bytes: args.keep,
        ..Comparison::new(&dir, args.payload)
    };
    if comparison.callers.is_empty() || comparison.callers.contains(&0) || comparison.rounds == 0 {
        return Err("give at least one round and one caller".into());
    }
    let mut candidates = Vec::new();
    let peers = peers::all();
    for name in &args.engines {
        let found = find(&peers, name);
        if found.is_empty() {
            return Err(format!("no such engine: {name}").into());
        }
        candidates.extend(found.into_iter().map(Candidate::new));
    }
    let (facts, mut lines, mut failure) = (Facts::of(&dir), Lines::append_to(args.json.as_deref())?, None);
    let legs = comparison.run(&candidates, |leg| {
        eprintln!("{} callers, round {}: {} {:.0}/s", leg.callers, leg.round + 1, leg.engine, leg.sample.per_second());
        failure = failure.take().or(lines.say(&report::json(leg, &facts)).err());
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    let mut out = std::io::stdout().lock();
    report::heading(&mut out, &dir, &facts, &legs, None)?;
    writeln!(
        out,
        "records of {} bytes; {} rounds of {} s, interleaved; medians, and (min..max) over the rounds",
        args.payload, args.rounds, args.seconds
    )?;
    for callers in &args.callers {
        report::table(&mut out, &legs, *callers, &REFERENCES)?;
    }
    Ok(())
}

/// Of ringwal's engines (both files of a baseline) or of the peers.
pub fn find(peers: &[&'static dyn Engine], name: &str) -> Vec<&'static dyn Engine> {
    let own = engines::find(name);
    if own.is_empty() { peers.iter().copied().filter(|peer| peer.name() == name).collect() } else { own }
}
