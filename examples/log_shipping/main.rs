//! A key-value store on two sides: a primary, and a standby that has everything the primary ever acknowledged.
//!
//! ```text
//! cargo run --features cli --example log_shipping -- demo
//! cargo run --features cli --example log_shipping -- primary DIRECTORY --listen 127.0.0.1:7000
//! cargo run --features cli --example log_shipping -- standby DIRECTORY --primary 127.0.0.1:7000
//! ```
//!
//! Commands come from standard input, one a line, and are answered in order on standard output:
//!
//! ```text
//! set KEY VALUE    ok LSN shard I    durable here and at as many standbys as --sync says
//! del KEY          ok LSN shard I    likewise
//! get KEY          value VALUE, or: none
//! lag              lag RECORDS       at a standby: how far it is behind, as far as it knows
//! promote          promoted          at a standby: it follows nobody any more, and takes set and del
//! ```
//!
//! Thread per core: each shard is a thread with a tokio-uring runtime of its own, a map, and a log. The primary drives its
//! logs inside those threads ([`LocalLog`](ringwal::LocalLog)). Keys are spread over the shards by their hash, and each
//! shard's log is shipped over a connection of its own: shards share nothing.
//!
//! | module | what |
//! |---|---|
//! | `client` | talks to such a process: for the demo, and for tests |
//! | `command` | lines from standard input to shards, and their answers back in order |
//! | `demo` | both sides, killed and promoted |
//! | `greeting` | what is said on a connection before the log's own protocol: which shard |
//! | `primary` | a shard that takes changes |
//! | `standby` | a shard that follows |
//! | `store` | the map, the records, the directory |
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod client;
mod command;
mod demo;
mod greeting;
mod primary;
mod standby;
mod store;

use std::path::PathBuf;
use std::process::exit;
use std::thread;

use clap::{Parser, Subcommand};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use store::{Result, Settings};

/// A key-value store whose log is shipped to standbys
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Take changes, and have standbys follow
    Primary {
        /// Where the shards' logs are
        dir: PathBuf,
        /// The address at which standbys are served
        #[arg(long)]
        listen: String,
        /// How many shards, each with a thread of its own; by default one for each core, at most 2
        #[arg(long)]
        shards: Option<usize>,
        /// How many standbys must have a change before it is acknowledged
        #[arg(long, default_value_t = 1)]
        sync: usize,
        /// Take a directory in memory, too
        #[arg(long)]
        allow_volatile: bool,
    },
    /// Follow a primary
    Standby {
        /// Where the shards' logs are
        dir: PathBuf,
        /// The primary's address
        #[arg(long)]
        primary: String,
        /// Take a directory in memory, too
        #[arg(long)]
        allow_volatile: bool,
    },
    /// Start both, kill both, and look whether anything is missing
    Demo {
        /// Where a directory is made for that; by default where temporary ones are
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    match Cli::parse().role {
        Role::Primary { dir, listen, shards, sync, allow_volatile } => {
            let shards = store::shards_of_primary(&dir, shards)?;
            let settings = Settings { dir, shards, allow_volatile };
            let (senders, mut receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| unbounded_channel()).unzip();
            // Bound before anything else: an address in use should be told at once.
            let listener = std::net::TcpListener::bind(&listen).map_err(|error| format!("{listen}: {error}"))?;
            greeting::listen(listener, senders);
            // In reverse, so that the last one is at hand.
            receivers.reverse();
            serve(&settings.clone(), move |shard, commands| {
                let streams = receivers.pop().unwrap_or_else(|| unreachable!("one for each shard"));
                let settings = settings.clone();
                move || tokio_uring::start(primary::run(settings, shard, sync, commands, streams))
            })
        }
        Role::Standby { dir, primary, allow_volatile } => {
            let shards = standby::shards(&dir, &primary)?;
            let settings = Settings { dir, shards, allow_volatile };
            serve(&settings.clone(), move |shard, commands| {
                let (settings, primary) = (settings.clone(), primary.clone());
                move || tokio_uring::start(standby::run(settings, shard, primary, commands))
            })
        }
        Role::Demo { dir } => demo::run(&dir.unwrap_or_else(std::env::temp_dir)),
    }
}

/// Starts a thread for each shard, and serves standard input until it ends.
fn serve<M, R>(settings: &Settings, mut make: M) -> Result<()>
where
    M: FnMut(usize, command::Commands) -> R,
    R: FnOnce() -> Result<()> + Send + 'static,
{
    let mut shards: Vec<UnboundedSender<command::Command>> = Vec::new();
    let mut threads = Vec::new();
    for shard in 0..settings.shards {
        let (sender, commands) = unbounded_channel();
        let run = make(shard, commands);
        let run = move || {
            run().unwrap_or_else(|error| {
                // A shard that failed answers nobody any more: the process is over, as if it had been killed.
                eprintln!("shard {shard}: {error}");
                exit(1);
            });
        };
        threads.push(thread::Builder::new().name(format!("shard-{shard}")).spawn(run)?);
        shards.push(sender);
    }
    let answering = command::serve(shards)?;
    for thread in threads {
        thread.join().map_err(|_| "a shard panicked")?;
    }
    answering.join().map_err(|_| "the answering thread panicked")?;
    Ok(())
}
