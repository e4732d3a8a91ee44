//! The proof: every rig that tries to make ringwal lose something, as long as anybody lets it.
//!
//! ```sh
//! cargo run --release --features cli,sim --example proof -- list
//! cargo run --release --features cli,sim --example proof -- run sim --count 10000000
//! cargo run --release --features cli,sim --example proof -- table
//! ```
//!
//! A rig is a function that tries and tallies ([`rigs`]); a run gives it seeds and says when it is enough ([`run`]); what
//! came of it is one line in a summary file ([`summary`]), which counts as long as the sources that it proved are as they
//! were. `cargo test` runs a few tries of most rigs, `.ci/run` a slice of each.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]
#![allow(clippy::unwrap_used, reason = "a rig that fails says where")]

#[path = "../common"]
mod common {
    #![allow(dead_code, reason = "each program uses its part")]
    pub(crate) mod bugs;
    pub(crate) mod cuts;
    pub(crate) mod damage;
    pub(crate) mod driven;
    pub(crate) mod faultfs;
    pub(crate) mod image;
    pub(crate) mod kills;
    pub(crate) mod logwrites;
    pub(crate) mod manner;
    pub(crate) mod powercut;
    pub(crate) mod recording;
    pub(crate) mod replay;
    pub(crate) mod rig;
    pub(crate) mod ship_kills;
    pub(crate) mod survivor;
    pub(crate) mod tape;
    pub(crate) mod told;
    pub(crate) mod witness;
    pub(crate) mod workload;
}

#[path = "../sim/crowd.rs"]
mod crowd;
#[path = "../sim/exhaustive.rs"]
mod exhaustive;
#[path = "../sim/history.rs"]
mod history;
#[path = "../sim/rot.rs"]
mod rot;
#[allow(dead_code, reason = "the test uses all of it")]
#[path = "../sim/world.rs"]
mod world;

/// The simulated network's histories.
#[path = "../ship_sim"]
mod ship_sim {
    pub(crate) mod history;
    pub(crate) mod net;
    pub(crate) mod node;
    pub(crate) mod world;
}

mod bugs;
mod damage;
mod faults;
mod faults_history;
mod faults_ledger;
mod faults_life;
mod faults_plan;
mod faults_try;
mod fuzz;
mod kills;
mod limits;
mod limits_cases;
mod limits_disk;
mod limits_process;
mod powercut;
mod rigs;
mod run;
mod ship;
mod sim;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use rigs::{RIGS, Rig};
use run::{Goal, Run};
use summary::Summary;

/// Tries to make ringwal lose something, and counts.
#[derive(Parser)]
#[command(name = "proof", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every rig: what it tries, how much of it is wanted, and whether it can run here.
    List,
    /// Runs rigs, one after the other. Exit code 1: something that was promised did not hold.
    Run(RunArguments),
    /// Switches each deliberate mistake on in turn and shows which rig catches it, and how soon. Needs a build with
    /// RUSTFLAGS="--cfg ringwal_seeded_bugs". Exit code 1: one was missed.
    Bugs {
        /// Some of them; all unless given.
        names: Vec<String>,
        /// Rigs to try, in this order until one catches it; those that suit it unless given.
        #[arg(long, value_name = "RIG,..", value_delimiter = ',')]
        rigs: Vec<String>,
        /// How long a rig may try.
        #[arg(long, value_name = "M", default_value_t = 10.0)]
        minutes: f64,
    },
    /// What all runs in the summary add up to, for the sources as they are now.
    Table {
        /// The summary file.
        #[arg(long, value_name = "FILE", default_value_os_t = Summary::committed())]
        summary: PathBuf,
    },
}

#[derive(Parser)]
struct RunArguments {
    /// Names of rigs, or `all`.
    #[arg(required = true)]
    rigs: Vec<String>,
    /// How many tries of each; without this and --minutes, the slice that continuous integration runs.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// How long each may take.
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// The first seed: from the clock unless given. A violation prints the one that shows it again.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Ends at the first violation.
    #[arg(long)]
    first_ends: bool,
    /// How many threads a rig may use: the machine's cores unless given.
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Where a line is added for each run.
    #[arg(long, value_name = "FILE", default_value_os_t = Summary::committed())]
    summary: PathBuf,
}

fn main() -> ExitCode {
    if let Some(role) = common::rig::role() {
        rigs::child(&role);
        return ExitCode::SUCCESS;
    }
    let done = match Arguments::parse().command {
        Command::List => {
            list();
            Ok(true)
        }
        Command::Run(arguments) => run_all(&arguments),
        Command::Bugs { names, rigs, minutes } => bugs::catch_all(&names, &rigs, minutes),
        Command::Table { summary } => Summary::at(summary).table(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            eprintln!("proof: {why}");
            ExitCode::from(3)
        }
    }
}

fn list() {
    for rig in RIGS {
        println!("{:<16} {}", rig.name, rig.what);
        println!("{:<16} wanted: {} {}; a slice is {}", "", rig.target, rig.unit, rig.slice);
        if let Some(why) = (rig.missing)() {
            println!("{:<16} cannot run here: {why}", "");
        }
    }
}

/// Whether all promises held.
fn run_all(arguments: &RunArguments) -> Result<bool, String> {
    let chosen = chosen(&arguments.rigs)?;
    let summary = Summary::at(arguments.summary.clone());
    let origin = summary::Origin::read()?;
    let mut held = true;
    for rig in chosen {
        if let Some(why) = (rig.missing)() {
            common::rig::skip(rig.name, &why);
            continue;
        }
        let goal = match (arguments.count, arguments.minutes) {
            (None, None) => (Some(rig.slice), None),
            given => given,
        };
        let goal = Goal { count: goal.0, minutes: goal.1, first_ends: arguments.first_ends };
        let run = Run::new(rig, goal, arguments.seed, arguments.jobs)?;
        held &= run.carry_out(&summary, &origin)?;
    }
    Ok(held)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Rig>, String> {
    if names.iter().any(|name| name == "all") {
        return Ok(RIGS.iter().collect());
    }
    let find = |name: &String| {
        let known = || RIGS.iter().map(|rig| rig.name).collect::<Vec<_>>().join(", ");
        RIGS.iter().find(|rig| rig.name == name).ok_or_else(|| format!("no rig {name}; there are {}", known()))
    };
    names.iter().map(find).collect()
}
