//! `demo`: a server of its own, killed under load, and every acknowledged commit found in what its standby received.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::failure::{Failure, Result};
use super::restore::restore;
use super::server::{Home, Programs, Server, Witness, children_of, missing, recover, run, wait_for};
use nix::sys::signal::{Signal, kill};

/// The name that the server knows the receiver by, and its slot.
pub(crate) const NAME: &str = "ringwal";

/// How it is run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) parent: PathBuf,
    pub(crate) seconds: u64,
    pub(crate) clients: usize,
    pub(crate) keep: bool,
}

pub(crate) fn demo(plan: &Plan) -> Result<()> {
    let mut home = workshop(&plan.parent, plan.keep)?;
    let done = play(plan, &home);
    if plan.keep {
        println!("kept                {}", home.join("").display());
    }
    home.keep = plan.keep;
    done
}

fn play(plan: &Plan, home: &Home) -> Result<()> {
    let programs = Programs::find()?;
    let (data, backup, log, wal) = (home.join("data"), home.join("backup"), home.join("ringwal"), home.join("wal"));
    Server::init(&programs, &data)?;
    let server = Server::start(&programs, &data, &[])?;
    println!("server              {}", server.sql("SHOW server_version")?);
    let receiver = Receiver::start(&server, &log)?;
    run(server.client("pgbench").args(["-i", "-q", "-s", "2"]))?;
    server.back_up(&backup)?;
    server.wait_for_standby(NAME)?;
    println!("standby             {}", server.sql("SELECT application_name, sync_state FROM pg_stat_replication")?);

    let witness = Witness::start(&server, plan.clients)?;
    let mut pgbench = server.client("pgbench");
    pgbench.args([
        "-n",
        "-M",
        "prepared",
        "-c",
        &plan.clients.to_string(),
        "-T",
        &(plan.seconds * 10 + 60).to_string(),
    ]);
    let mut pgbench = Reaped(pgbench.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    std::thread::sleep(Duration::from_secs(plan.seconds));
    if witness.count() == 0 || pgbench.0.try_wait()?.is_some() {
        return Err(Failure::check("nothing was committed"));
    }
    server.kill();
    let acknowledged = witness.end();
    println!(
        "server killed       with {} commits acknowledged to the witness, and pgbench running",
        acknowledged.len()
    );

    drop(receiver);
    let restored = restore(&log, &wal, None)?;
    println!("restored            {} segments, {} to {}", restored.segments, restored.start, restored.end);
    let fresh = recover(&programs, &backup, &wal)?;
    let lost = missing(&fresh, &acknowledged)?;
    let sums = fresh.sql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)
            AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history),
            (SELECT count(*) FROM pgbench_history), (SELECT count(*) FROM witness)",
    )?;
    fresh.stop()?;
    let mut fields = sums.split('|');
    let (agree, history, rows) = (fields.next(), fields.next(), fields.next());
    println!("recovered           {} of pgbench's transactions, {} of the witness's", told(history), told(rows));
    if let Some(first) = lost.first() {
        return Err(Failure::check(format!("{} acknowledged commits are lost, the first is {first}", lost.len())));
    }
    if agree != Some("t") {
        return Err(Failure::check("pgbench's balances do not agree"));
    }
    println!("every acknowledged commit is there, and pgbench's balances agree");
    Ok(())
}

fn told(field: Option<&str>) -> &str {
    field.unwrap_or("none")
}

/// A directory for servers and logs. A signal removes it with all that runs there.
pub(crate) fn workshop(parent: &Path, keep: bool) -> Result<Home> {
    let home = Home::make(parent, "pg_receiver")?;
    let path = home.join("");
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            for pid in children_of(std::process::id()) {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                // A server ends its own children; the others have none.
                let signal = if name.trim() == "postgres" { Signal::SIGQUIT } else { Signal::SIGKILL };
                let _ = kill(pid, signal);
            }
            let gone = wait_for(Duration::from_secs(10), || Ok(children_of(std::process::id()).is_empty()));
            if gone.is_ok() && !keep {
                let _ = std::fs::remove_dir_all(path);
            }
            std::process::exit(130);
        }
    });
    Ok(home)
}

/// A child that is killed when dropped.
#[derive(Debug)]
pub(crate) struct Reaped(pub(crate) Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program, receiving.
pub(crate) struct Receiver;

impl Receiver {
    /// Starts it and waits until the server knows it.
    pub(crate) fn start(server: &Server, log: &Path) -> Result<Reaped> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("receive").arg(log).args(["--connection", &server.conninfo(), "--slot", NAME, "--name", NAME]);
        let receiver = Reaped(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
        server.wait_until_caught_up(NAME)?;
        Ok(receiver)
    }
}
