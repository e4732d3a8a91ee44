//! ringwal as a synchronous standby of a real PostgreSQL.
//!
//! `receive` connects to a server as a physical replication client and keeps its WAL in a log. It tells the server what
//! is durable as soon as it is, so that a COMMIT that waits for its synchronous standby waits for a group commit here:
//! the place of `pg_receivewal --synchronous`. `restore` writes the WAL back as segment files, from which PostgreSQL
//! recovers.
//!
//! To see all of it, with a server of its own that is killed under load (PostgreSQL 12 or newer must be installed):
//!
//! ```sh
//! cargo run --release --features cli --example pg_receiver -- demo
//! ```
//!
//! # With your own server
//!
//! It needs nothing but what any standby needs: `wal_level = replica` (the default), a free `max_wal_senders` and
//! `max_replication_slots`, and a line in `pg_hba.conf` for `replication`.
//!
//! ```sh
//! cargo build --release --features cli --example pg_receiver && cd target/release/examples
//! ./pg_receiver receive LOG --connection "host=localhost user=postgres" --slot ringwal --name ringwal &
//! pg_basebackup -h localhost -U postgres -X none -D BACKUP    # once the receiver runs
//! psql -h localhost -U postgres -c "ALTER SYSTEM SET synchronous_standby_names = 'ringwal'"
//! psql -h localhost -U postgres -c "SELECT pg_reload_conf()"
//! ```
//!
//! From now on a commit is acknowledged when it is durable in two places. When the server is lost:
//!
//! ```sh
//! ./pg_receiver restore LOG --into WAL
//! touch BACKUP/recovery.signal
//! postgres -D BACKUP -c "restore_command=cp '$PWD/WAL/%f' '%p'" -c synchronous_standby_names=
//! ```
//!
//! The password comes from the connection string or PGPASSWORD. There is no TLS: across a network use a tunnel.
//!
//! # What it promises
//!
//! - A position is fed back as flushed only when every byte before it is durable in the log.
//! - The log's WAL is contiguous, of one system and one timeline. A gap, another system or another timeline is refused
//!   in words; it follows no promotion: begin a new log after one.
//! - It starts at the beginning of the segment that the server is in, and after any end, a kill -9 too, behind the last
//!   durable byte. The slot keeps the server from removing what it has not received; without `--slot` it may.
//! - A lost server is tried again until it is back; SIGINT and SIGTERM make durable what came and tell the server.
//! - The log grows for ever: this example removes nothing.
//!
//! # How fast
//!
//! ```sh
//! cargo run --release --features cli --example pg_receiver -- compare
//! ```
//!
//! runs pgbench with no standby, with `pg_receivewal --synchronous` and with this, in turns on one server. What a
//! standby can win is bounded by what the server spends on waiting for any: one that keeps nothing is the ceiling.
//!
//! Exit codes: 0 done, 1 a check failed, 2 damaged, 3 usage, I/O or the server's refusal, 130 ended by a signal.
//!
//! # Where to read on
//!
//! `receive` is the main part, `wire` the protocol, `chunk` the record, `restore` the way back; `server` runs
//! PostgreSQL for `demo`, `compare` and the tests.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a program")]

mod chunk;
mod compare;
mod demo;
mod failure;
mod receive;
mod restore;
mod server;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use chunk::PgLsn;
use failure::{Failure, Result};

#[derive(Debug, Parser)]
#[command(about = "A synchronous standby of PostgreSQL that keeps its WAL in a ringwal log")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive a server's WAL into the log DIR, and feed back what is durable
    Receive {
        /// The log's directory; made if it is missing
        dir: PathBuf,
        /// How to reach the server: "host=.. port=.. user=.. password=..", or postgresql://..
        #[arg(long)]
        connection: String,
        /// The physical replication slot to use; made if it is missing
        #[arg(long)]
        slot: Option<String>,
        /// The name for synchronous_standby_names
        #[arg(long, default_value = "ringwal")]
        name: String,
        /// End when the connection does
        #[arg(long)]
        no_loop: bool,
    },
    /// Write the log's WAL as segment files
    Restore {
        /// The log's directory
        dir: PathBuf,
        /// Where the segment files go; made if it is missing
        #[arg(long)]
        into: PathBuf,
        /// Where to stop, such as 0/16B3740
        #[arg(long)]
        to_lsn: Option<PgLsn>,
    },
    /// Run a server, kill it under load, and find every acknowledged commit again
    Demo {
        /// How long the load runs
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Clients of pgbench, and as many that check
        #[arg(long, default_value_t = 8)]
        clients: usize,
        /// Where everything is put: a real disk
        #[arg(long, default_value = "/var/tmp")]
        dir: PathBuf,
        /// Leave it there
        #[arg(long)]
        keep: bool,
    },
    /// Commits a second beside pg_receivewal --synchronous
    Compare {
        /// How many clients commit at once
        #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
        clients: Vec<u32>,
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How long each measurement runs
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Where everything is put: the disk that is measured
        #[arg(long, default_value = "/var/tmp")]
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            // Asked for help, or used wrongly.
            return ExitCode::from(if error.use_stderr() { 3 } else { 0 });
        }
    };
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pg_receiver: {}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Receive { dir, connection, slot, name, no_loop } => {
            let config = connection.parse();
            let config = config.map_err(|error| Failure::usage(format!("the connection string: {}", whole(&error))))?;
            let odd =
                |slot: &String| !slot.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_')) || slot.is_empty();
            if let Some(slot) = slot.as_ref().filter(|slot| odd(slot)) {
                return Err(Failure::usage(format!("slot {slot:?}: a name is of a-z, 0-9 and _")));
            }
            receive::receive(&receive::Request { dir, config, slot, name, no_loop })
        }
        Command::Restore { dir, into, to_lsn } => {
            let restored = restore::restore(&dir, &into, to_lsn)?;
            let restore::Restored { source, start, end, segments, kept } = restored;
            println!(
                "{segments} segments, {kept} of them there already: {start} to {end}, timeline {}, system {}",
                source.timeline, source.system
            );
            Ok(())
        }
        Command::Demo { seconds, clients, dir, keep } => {
            demo::demo(&demo::Plan { parent: dir, seconds: seconds.max(1), clients: clients.max(1), keep })
        }
        Command::Compare { clients, rounds, seconds, dir } => {
            compare::compare(&compare::Plan { parent: dir, clients, rounds: rounds.max(1), seconds: seconds.max(1) })
        }
    }
}

/// An error with its causes, on one line.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
