//! `compare`: how many commits a second a server makes that waits for its standby, by who the standby is.
//!
//! The receivers run all the time; those whose turn it is not are stopped (SIGSTOP), so that each has the disk for
//! itself beside the server, and keeps what it has learned. A turn begins when the receiver has caught up.

use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::demo::{NAME, Reaped, Receiver, workshop};
use super::failure::{Failure, Result};
use super::server::{Home, Programs, Server, run};

const PEER: &str = "pg_receivewal";

/// One small commit.
const SCRIPT: &str = "INSERT INTO ticks (note) VALUES ('a small commit');\n";

/// What is measured.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) parent: PathBuf,
    pub(crate) clients: Vec<u32>,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
}

/// Commits a second in the rounds, for one number of clients.
#[derive(Debug, Default)]
struct Rates {
    alone: Vec<f64>,
    peer: Vec<f64>,
    ours: Vec<f64>,
}

pub(crate) fn compare(plan: &Plan) -> Result<()> {
    let home = workshop(&plan.parent, false)?;
    let bench = Bench::start(&home)?;
    // Once round for nothing: files grow, plans are made, the log finds out what its disk likes.
    bench.round(plan.clients.last().copied().unwrap_or(1), plan.seconds, &mut Rates::default())?;
    println!("commits a second, median of {} rounds of {} s (least..most)", plan.rounds, plan.seconds);
    println!("| clients | no standby | {PEER} --synchronous | ringwal | ringwal / {PEER}, by round |");
    println!("|---|---|---|---|---|");
    for clients in &plan.clients {
        let mut rates = Rates::default();
        for _ in 0..plan.rounds {
            bench.round(*clients, plan.seconds, &mut rates)?;
        }
        let ratios: Vec<f64> = rates.ours.iter().zip(&rates.peer).map(|(ours, peer)| ours / peer).collect();
        let Rates { alone, peer, ours } = &rates;
        let (alone, peer, ours) = (spread(alone, 0), spread(peer, 0), spread(ours, 0));
        println!("| {clients} | {alone} | {peer} | {ours} | {} |", spread(&ratios, 2));
    }
    println!("Server and standby flush to one disk here, so their flushes compete; with a disk each, both are faster.");
    Ok(())
}

/// A server and its two receivers, both stopped.
struct Bench {
    server: Server,
    script: PathBuf,
    ours: Reaped,
    peer: Reaped,
}

impl Bench {
    fn start(home: &Home) -> Result<Self> {
        let programs = Programs::find()?;
        Server::init(&programs, &home.join("data"))?;
        // Nothing else is to write meanwhile, and nobody is to miss a receiver that is stopped.
        let settings = [
            "wal_sender_timeout=0",
            "checkpoint_timeout=1h",
            "max_wal_size=20GB",
            "autovacuum=off",
            "max_connections=200",
        ];
        let server = Server::start(&programs, &home.join("data"), &settings)?;
        server.sql("CREATE TABLE ticks (id bigserial PRIMARY KEY, note text)")?;
        let script = home.join("commit.sql");
        std::fs::write(&script, SCRIPT)?;
        let ours = Receiver::start(&server, &home.join("ringwal"))?;
        let wal = home.join(PEER);
        programs.make_dir(&wal)?;
        run(server.client(PEER).args(["--slot", PEER, "--create-slot", "--if-not-exists"]))?;
        let mut peer = server.client(PEER);
        peer.args(["--synchronous", "--slot", PEER, "-D"]).arg(&wal).env("PGAPPNAME", PEER);
        let peer = Reaped(peer.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        server.wait_until_caught_up(PEER)?;
        stop(&ours)?;
        stop(&peer)?;
        Ok(Self { server, script, ours, peer })
    }

    /// All three, one after another.
    fn round(&self, clients: u32, seconds: u64, rates: &mut Rates) -> Result<()> {
        rates.alone.push(self.rate(clients, seconds)?);
        rates.peer.push(self.turn(&self.peer, PEER, clients, seconds)?);
        rates.ours.push(self.turn(&self.ours, NAME, clients, seconds)?);
        Ok(())
    }

    /// With commits that wait for this receiver.
    fn turn(&self, receiver: &Reaped, name: &str, clients: u32, seconds: u64) -> Result<f64> {
        send(receiver, Signal::SIGCONT)?;
        self.server.wait_until_caught_up(name)?;
        self.server.wait_for_standby(name)?;
        let rate = self.rate(clients, seconds)?;
        self.server.wait_for_standby("")?;
        stop(receiver)?;
        Ok(rate)
    }

    fn rate(&self, clients: u32, seconds: u64) -> Result<f64> {
        let mut pgbench = self.server.client("pgbench");
        pgbench.args(["-n", "-M", "prepared", "-f"]).arg(&self.script);
        pgbench.args(["-c", &clients.to_string(), "-j", &clients.min(2).to_string(), "-T", &seconds.to_string()]);
        let report = run(&mut pgbench)?;
        let rate = report.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        rate.ok_or_else(|| Failure::usage(format!("pgbench says no rate: {report}")))
    }
}

fn stop(receiver: &Reaped) -> Result<()> {
    send(receiver, Signal::SIGSTOP)
}

fn send(receiver: &Reaped, signal: Signal) -> Result<()> {
    let pid = i32::try_from(receiver.0.id()).map_err(|error| Failure::usage(error.to_string()))?;
    kill(Pid::from_raw(pid), signal).map_err(|error| Failure::usage(error.to_string()))
}

/// "median (least..most)".
fn spread(values: &[f64], digits: usize) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), sorted.last()) {
        (Some(least), Some(most)) => {
            let middle = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
            format!("{middle:.digits$} ({least:.digits$}..{most:.digits$})")
        }
        _ => "none".to_owned(),
    }
}
