//! `ringwal receive`: a standby.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ringwal::{Options, Progress, ShipError, Standby, Tls};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use crate::failure::{Failure, note};
use crate::progress::Spinner;
use crate::signals::Interrupt;
use crate::transport::{self, TlsArgs, Wire};

/// A source that was not heard of for so long gives way to one that knocks.
const SILENT: Duration = Duration::from_secs(3);
/// How often that is looked at, and progress is told.
const LOOK: Duration = Duration::from_millis(250);
/// How many may be shaking hands at once.
const KNOCKING_MAX: usize = 16;

/// Follow a log that `ringwal ship`, or a program that uses the library, sends
///
/// DIR becomes the standby's copy; it is made if its parent exists. What is acknowledged is durable. One source is
/// followed at a time; one that has fallen silent gives way to the next. SIGINT and SIGTERM: what was received becomes
/// durable, the log is sealed. Anything but a loopback address needs certificates on both sides.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The copy's directory
    dir: PathBuf,
    /// The address to listen on: HOST:PORT
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// End when the first connection ends
    #[arg(long)]
    once: bool,
    /// The size of new segment files, in bytes; larger if a record of the source would not fit
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    segment_bytes: u64,
    #[command(flatten)]
    tls: TlsArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::note()?;
    let tls = args.tls.load(&args.listen)?;
    let addresses = transport::resolve(&args.listen)?;
    transport::runtime()?.block_on(async {
        let unheard = |error| Failure::usage(format!("signals cannot be handled: {error}"));
        let interrupted = interrupt.wait().map_err(unheard)?;
        let listener = TcpListener::bind(&*addresses).await;
        let listener = listener.map_err(|error| Failure::usage(format!("{}: {error}", args.listen)))?;
        // Larger than what any source with default options sends; segments may be of any length.
        let options = Options::default().segment_bytes(args.segment_bytes.max(64 << 20));
        let standby = Standby::open(&args.dir, options).await.map_err(|error| Failure::open(&args.dir, &error))?;
        let mut standby = standby.named(args.dir.display().to_string());
        let ended = tokio::select! {
            () = interrupted => Err(Failure::interrupted()),
            ended = receive(args, &mut standby, knocks(listener, tls)) => ended,
        };
        if let Some(log) = standby.log() {
            let closed = log.close().await;
            closed.map_err(|error| Failure::usage(format!("{}: {error}", args.dir.display())))?;
        }
        ended
    })
}

/// Who connects, after the handshake. A stranger that does not get on with it is in nobody's way.
fn knocks(listener: TcpListener, tls: Option<Tls>) -> mpsc::Receiver<Box<dyn Wire>> {
    let (send, knocks) = mpsc::channel(1);
    let places = Arc::new(Semaphore::new(KNOCKING_MAX));
    tokio::spawn(async move {
        while let Ok(place) = places.clone().acquire_owned().await {
            let Ok((stream, peer)) = listener.accept().await else {
                // Out of descriptors, or it was gone again.
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let (tls, send) = (tls.clone(), send.clone());
            tokio::spawn(async move {
                match transport::accepted(stream, tls.as_ref()).await {
                    Ok(stream) => drop(send.send(stream).await),
                    Err(error) => note(&format!("{peer}: {error}")),
                }
                drop(place);
            });
        }
    });
    knocks
}

/// One source after the other.
async fn receive(args: &Args, standby: &mut Standby, mut knocks: mpsc::Receiver<Box<dyn Wire>>) -> Result<(), Failure> {
    let (progress, spinner) = (standby.progress(), Spinner::start("waiting for a source"));
    let mut waiting = None;
    loop {
        let stream = match waiting.take() {
            Some(stream) => stream,
            None => {
                let Some(stream) = knocks.recv().await else { return Ok(()) };
                stream
            }
        };
        let mut following = pin!(standby.follow(stream));
        let ended = loop {
            tokio::select! {
                ended = &mut following => break Some(ended),
                Some(stream) = knocks.recv() => waiting = Some(stream),
                () = tokio::time::sleep(LOOK) => spinner.say(told(&progress)),
            }
            if waiting.is_some() && progress.silent_for().is_some_and(|silent| silent > SILENT) {
                break None;
            }
        };
        spinner.say("waiting for a source".to_owned());
        match ended {
            Some(Err(error @ ShipError::Log { .. })) => return Err(transport::failed(args.dir.display(), &error)),
            Some(Ok(())) if args.once => return Ok(()),
            Some(Err(error)) if args.once => return Err(transport::failed(&args.listen, &error)),
            // The other side comes again, or tells its people.
            None | Some(Ok(()) | Err(ShipError::Connection { .. })) => {}
            Some(Err(error)) => spinner.suspend(|| note(&format!("{}: {error}", args.listen))),
        }
    }
}

fn told(progress: &Progress) -> String {
    let (durable, source) = (progress.durable_lsn(), progress.source_lsn());
    match progress.behind_for() {
        None => format!("durable up to LSN {durable}; up to date"),
        Some(time) => {
            format!(
                "durable up to LSN {durable}; {} records, {:.1} s behind",
                source.since(durable),
                time.as_secs_f64()
            )
        }
    }
}
