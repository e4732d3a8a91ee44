//! `receive`: a synchronous standby that keeps nothing but the WAL.
//!
//! One thread does everything: a current-thread runtime in which this task and the log's driver take turns. Chunks are
//! submitted as they come, without waiting for the disk; while one batch is being flushed the next one gathers; and
//! each time the log's durable end has moved, one status tells the server, whose commits wait for it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringwal::{LocalLog, Lsn, Options, Reader, SubmitError};
use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, interval, sleep};
use tokio_postgres::Config;

use super::chunk::{Chunk, HEADER_BYTES, PgLsn, Source};
use super::failure::{Failure, Result};
use super::wire::{self, Connection, Identity, WAL_AT, WireError};

/// How often the server hears of us when there is nothing new.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// A server that says nothing for so long, although it is asked, is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Between two attempts to connect: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long a first attempt waits for a slot that another connection uses: a predecessor's, which was killed just now.
const SLOT_WAIT: Duration = Duration::from_secs(5);

/// What is to be received, from where, to where.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) dir: PathBuf,
    pub(crate) config: Config,
    pub(crate) slot: Option<String>,
    pub(crate) name: String,
    /// Ends with the connection.
    pub(crate) no_loop: bool,
}

/// Receives until a signal or a failure ends it.
pub(crate) fn receive(request: &Request) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        check_directory(&request.dir)?;
        let log = LocalLog::open(&request.dir, Options::default()).await?;
        let driven = spawn_local(log.drive());
        let ended = match Receiver::new(request, log.clone()) {
            Ok(mut receiver) => receiver.run().await,
            Err(failure) => Err(failure),
        };
        let closed = log.close().await;
        let _ = driven.await;
        ended.and(closed.map_err(Failure::from))
    })
}

/// A log is made only in a new or empty directory: a wrong path is not to be littered.
fn check_directory(dir: &Path) -> Result<()> {
    // Whatever else is wrong with it, the opening says so.
    if let Ok(reader) = Reader::open(dir)
        && reader.durable_lsn() == Lsn::ZERO
        && reader.unclaimed() == 0
    {
        ringwal::verify(dir)?;
    }
    Ok(())
}

/// Why a connection ended.
enum Ended {
    /// To be tried again.
    Again(String),
    /// Not to be tried again.
    Final(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Final(failure)
    }
}

/// While it streams, what is lost may come back.
impl From<WireError> for Ended {
    fn from(error: WireError) -> Self {
        if error.is_loss() || error.is_passing() {
            Self::Again(error.to_string())
        } else {
            Self::Final(Failure::usage(error.to_string()))
        }
    }
}

struct Receiver<'a> {
    request: &'a Request,
    log: LocalLog,
    stop: Stop,
    /// Whose WAL the log holds; none while it holds nothing and no server was asked.
    source: Option<Source>,
    /// The end of what was given to the log.
    received: PgLsn,
    /// The end of what is durable.
    flushed: PgLsn,
    /// Records that are not durable yet, each with the end of its WAL.
    unsettled: VecDeque<(Lsn, PgLsn)>,
    /// Whether a server has ever answered.
    met: bool,
    since: Instant,
    chunks: u64,
    bytes: u64,
}

impl<'a> Receiver<'a> {
    /// Continues behind the last record of the log.
    fn new(request: &'a Request, log: LocalLog) -> Result<Self> {
        let last = log.get(log.durable_lsn())?;
        let last = last.as_ref().map(|last| Chunk::read(&request.dir, last.lsn, &last.payload)).transpose()?;
        let end = last.map(|chunk| chunk.end()).unwrap_or_default();
        Ok(Self {
            request,
            log,
            stop: Stop::new()?,
            source: last.map(|chunk| chunk.source),
            received: end,
            flushed: end,
            unsettled: VecDeque::new(),
            met: false,
            since: Instant::now(),
            chunks: 0,
            bytes: 0,
        })
    }

    async fn run(&mut self) -> Result<()> {
        let mut backoff = BACKOFF.0;
        loop {
            let began = Instant::now();
            let why = match self.session().await {
                Ended::Final(failure) => return Err(failure),
                Ended::Again(why) => why,
            };
            if self.request.no_loop && self.met {
                eprintln!("{why}; {}", self.summary());
                return Ok(());
            }
            if began.elapsed() > BACKOFF.1 {
                backoff = BACKOFF.0;
            }
            eprintln!("{why}; trying again");
            select! {
                () = self.stop.requested() => return Err(self.wind_up(None).await),
                () = sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// One connection, from its beginning to its end.
    async fn session(&mut self) -> Ended {
        let connecting = connect(self.request, self.source, self.received);
        let connected = select! {
            () = self.stop.requested() => None,
            connected = connecting => Some(connected),
        };
        match connected {
            None => Ended::Final(self.wind_up(None).await),
            Some(Ok((mut connection, identity, start))) => {
                self.met = true;
                self.source = Some(identity.source);
                self.received = start;
                let Source { system, timeline, .. } = identity.source;
                eprintln!("receiving from {start} on timeline {timeline} of system {system}");
                match self.stream(&mut connection, identity.source).await {
                    Err(ended) => ended,
                    Ok(()) => Ended::Again("the server ended the stream".to_owned()),
                }
            }
            Some(Err(Refusal::Failure(failure))) => Ended::Final(failure),
            Some(Err(Refusal::Wire(error))) => self.judge(error),
        }
    }

    /// A server that was never reached is a wrong connection string; a slot in use is a predecessor's for a while.
    fn judge(&self, error: WireError) -> Ended {
        let patient = if error.is_slot_in_use() { self.met || self.since.elapsed() < SLOT_WAIT } else { true };
        let again = if error.is_loss() { self.met } else { error.is_passing() && patient };
        if again { Ended::Again(error.to_string()) } else { Ended::Final(Failure::usage(error.to_string())) }
    }

    /// Takes what the server sends and tells it what is durable.
    async fn stream(&mut self, connection: &mut Connection, source: Source) -> std::result::Result<(), Ended> {
        let mut tick = interval(STATUS_EVERY);
        let mut heard = Instant::now();
        loop {
            let oldest = self.unsettled.front().map_or(Lsn::ZERO, |(lsn, _)| *lsn);
            select! {
                biased;
                () = self.stop.requested() => return Err(Ended::Final(self.wind_up(Some(connection)).await)),
                durable = self.log.wait_durable(oldest), if oldest != Lsn::ZERO => {
                    self.settle(durable.map_err(Failure::from)?);
                    connection.status(self.received, self.flushed, false).await?;
                }
                _ = tick.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(Ended::Again(format!("the server said nothing for {SILENCE_MAX:?}")));
                    }
                    connection.status(self.received, self.flushed, true).await?;
                }
                filled = connection.fill() => {
                    filled?;
                    heard = Instant::now();
                    while let Some(message) = connection.next()? {
                        match self.take(source, message).await? {
                            Flow::On => {}
                            Flow::Answer => connection.status(self.received, self.flushed, false).await?,
                            Flow::End => return Ok(()),
                        }
                    }
                }
            }
        }
    }

    /// One message of the stream.
    async fn take(&mut self, source: Source, message: &mut [u8]) -> std::result::Result<Flow, Ended> {
        match (message[0], message.get(5)) {
            (b'd', Some(b'w')) if message.len() >= WAL_AT => self.keep(source, message).await?,
            (b'd', Some(b'k')) => {
                if message.last() == Some(&1) {
                    return Ok(Flow::Answer);
                }
            }
            // CopyDone: a timeline ended. CommandComplete: the server shuts down, and knows that all is durable here.
            (b'c' | b'C', _) => return Ok(Flow::End),
            (b'E', _) => return Err(wire::error_in(message).into()),
            (b'N' | b'S', _) => {}
            (tag, _) => {
                let text = format!("the server sent a message {:?} inside the stream", char::from(tag));
                return Err(Failure::usage(text).into());
            }
        }
        Ok(Flow::On)
    }

    /// Gives a chunk to the log. The message becomes the record: our header is written over the server's.
    async fn keep(&mut self, source: Source, message: &mut [u8]) -> Result<()> {
        let start = message[6..].first_chunk().map_or(0, |start| u64::from_be_bytes(*start));
        if PgLsn(start) != self.received {
            let (received, start) = (self.received, PgLsn(start));
            return Err(Failure::check(format!("a gap: the log ends at {received}, and the server sent from {start}")));
        }
        source.put(self.received, &mut message[WAL_AT - HEADER_BYTES..]);
        let record = &message[WAL_AT - HEADER_BYTES..];
        let lsn = match self.log.submit(record) {
            Ok(pending) => pending.lsn(),
            // A segment is being prepared, or the disk is far behind: the server waits meanwhile.
            Err(SubmitError::Full) => self.log.append(record).await?,
            Err(SubmitError::Append(error)) => return Err(error.into()),
            Err(error) => return Err(Failure::usage(error.to_string())),
        };
        let len = message.len() - WAL_AT;
        self.received = self.received.plus(len);
        self.unsettled.push_back((lsn, self.received));
        self.chunks += 1;
        self.bytes += len as u64;
        Ok(())
    }

    /// Everything up to `durable` is.
    fn settle(&mut self, durable: Lsn) {
        while let Some((lsn, end)) = self.unsettled.front().copied()
            && lsn <= durable
        {
            self.flushed = end;
            self.unsettled.pop_front();
        }
    }

    /// Makes durable what was received and tells the server for the last time.
    async fn wind_up(&mut self, connection: Option<&mut Connection>) -> Failure {
        match self.log.sync().await {
            Ok(durable) => self.settle(durable),
            Err(error) => return error.into(),
        }
        if let Some(connection) = connection {
            // The server may be gone; what is durable it will hear of next time.
            let _ = connection.status(self.received, self.flushed, false).await;
            let _ = connection.done().await;
        }
        Failure::stopped(format!("stopped; {}", self.summary()))
    }

    fn summary(&self) -> String {
        let (end, chunks, bytes, flushes) = (self.flushed, self.chunks, self.bytes, self.log.stats().flushes);
        format!("durable up to {end}: {bytes} bytes in {chunks} chunks came, and {flushes} flushes were made")
    }
}

/// How the stream goes on.
enum Flow {
    On,
    /// The server wants to hear of us.
    Answer,
    End,
}

/// Why there is no stream.
enum Refusal {
    Wire(WireError),
    Failure(Failure),
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Connects, checks that the server is the log's, and starts the stream where the log ends.
async fn connect(
    request: &Request,
    source: Option<Source>,
    received: PgLsn,
) -> std::result::Result<(Connection, Identity, PgLsn), Refusal> {
    let mut connection = Connection::open(&request.config, &request.name).await?;
    let identity = connection.identify().await?;
    let start = match source {
        // Whole segments, so that the restored files are whole.
        None => identity.flushed.segment_start(identity.source.segment_bytes),
        Some(source) => {
            source.check("the log", &identity.source, "the server")?;
            if received > identity.flushed {
                let flushed = identity.flushed;
                let text = format!("the log ends at {received}, ahead of the server, whose WAL ends at {flushed}");
                return Err(Failure::check(text).into());
            }
            received
        }
    };
    if let Some(slot) = &request.slot {
        connection.ensure_slot(slot).await?;
    }
    connection.start(request.slot.as_deref(), start, identity.source.timeline).await?;
    Ok((connection, identity, start))
}

/// SIGINT and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn requested(&mut self) {
        select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
