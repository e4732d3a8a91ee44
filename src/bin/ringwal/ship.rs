//! `ringwal ship`: sends a log to a standby, beside whoever writes it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ringwal::{ShipError, Shipper, Tls};

use crate::failure::{Failure, note};
use crate::signals::Interrupt;
use crate::transport::{self, TlsArgs};

/// How long to wait before another connection is tried: twice as long each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Send a log to a standby that runs `ringwal receive`, and go on with what is appended
///
/// Reads beside the log's writer, or without one, and sends what is durable beyond doubt. Where to begin the standby
/// says. A connection that breaks is made again; a standby that may not follow this log ends the command with exit code
/// 1. Anything but a loopback address needs certificates on both sides.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The log's directory
    dir: PathBuf,
    /// The standby's address: HOST:PORT
    #[arg(long, value_name = "ADDR")]
    to: String,
    #[command(flatten)]
    tls: TlsArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::note()?;
    let tls = args.tls.load(&args.to)?;
    if !args.dir.is_dir() {
        return Err(Failure::usage(format!("{}: there is no such directory; check the path", args.dir.display())));
    }
    transport::runtime()?.block_on(async {
        let unheard = |error| Failure::usage(format!("signals cannot be handled: {error}"));
        let interrupted = interrupt.wait().map_err(unheard)?;
        tokio::select! {
            () = interrupted => Err(Failure::interrupted()),
            failure = ship(args, tls.as_ref()) => Err(failure),
        }
    })
}

/// One connection after the other.
async fn ship(args: &Args, tls: Option<&Tls>) -> Failure {
    let shipper = Shipper::new(&args.dir);
    let mut pause = PAUSE_MIN;
    let mut told = false;
    loop {
        let (began, acked) = (Instant::now(), shipper.acked_lsn());
        let ended = match transport::connect(&args.to, tls).await {
            Ok(stream) => shipper.ship(stream).await,
            Err(error) => Err(error),
        };
        if shipper.acked_lsn() > acked || began.elapsed() > PAUSE_MAX {
            (pause, told) = (PAUSE_MIN, false);
        }
        match ended.err().unwrap_or(ShipError::Closed) {
            error if error.is_passing() => {
                if !told {
                    note(&format!("{}: {error}; trying on", args.to));
                }
                told = true;
            }
            error => match shipper.damage() {
                Some(damage) => return Failure::damaged(&damage),
                None => return transport::failed(&args.to, &error),
            },
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}
