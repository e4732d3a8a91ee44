//! A log that follows another: it belongs to a standby, which takes one source after the other.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};

use super::Log;
use super::open::random;
use super::primary::answered;
use super::serve::HANDSHAKE;
use super::session::Session;
use crate::error::{AppendError, OpenError, TruncateError};
use crate::lsn::{LogId, Lsn};
use crate::options::Options;
use crate::runtime::Command;
use crate::runtime::errands::{Errand, errand};
use crate::runtime::sync::{Arc, Mutex, lock};
use crate::ship::{Group, ShipError, Sink, SinkConfig, SinkEvent, Standing, WINDOW_BYTES, next_term};

/// Beside the log's files: who this standby is, as long as it keeps its log.
const ID_NAME: &str = "standby";

/// A standby: owns a copy of a source's log, and follows one connection after the other.
///
/// Nobody else may append to its log before [`Standby::promote`].
pub struct Standby {
    path: PathBuf,
    options: Options,
    id: [u8; 16],
    name: String,
    log: Option<Log>,
    /// The term of the records that are staged from now on, if that is known.
    records_term: Option<u64>,
    progress: Progress,
}

/// How far a standby is. Clones tell of the same one.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    inner: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    durable: AtomicU64,
    source: AtomicU64,
    times: Mutex<Times>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    heard: Option<Instant>,
    /// Since when it has not had everything.
    behind: Option<Instant>,
}

impl Progress {
    /// Everything up to here is durable at the standby.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        Lsn::new(self.inner.durable.load(Ordering::Acquire))
    }

    /// Everything up to here was durable at the source when it was last heard of.
    #[must_use]
    pub fn source_lsn(&self) -> Lsn {
        Lsn::new(self.inner.source.load(Ordering::Acquire))
    }

    /// For how long it has not had everything that it knows of; none if it has.
    #[must_use]
    pub fn behind_for(&self) -> Option<Duration> {
        lock(&self.inner.times).behind.map(|since| since.elapsed())
    }

    /// How long ago the source was last heard of; none before the first time.
    #[must_use]
    pub fn silent_for(&self) -> Option<Duration> {
        lock(&self.inner.times).heard.map(|heard| heard.elapsed())
    }

    fn heard(&self) {
        lock(&self.inner.times).heard = Some(Instant::now());
    }

    fn set(&self, durable: Lsn, source: Lsn) {
        self.inner.durable.store(durable.get(), Ordering::Release);
        self.inner.source.store(source.get(), Ordering::Release);
        let mut times = lock(&self.inner.times);
        if durable >= source {
            times.behind = None;
        } else if times.behind.is_none() {
            times.behind = Some(Instant::now());
        }
    }
}

/// Why a standby could not be promoted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PromoteError {
    /// It never followed anybody: there is no log.
    Empty,
    /// The new term could not be made durable.
    Log(TruncateError),
}

impl fmt::Display for PromoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is no log yet: let it follow first"),
            Self::Log(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PromoteError {}

impl fmt::Debug for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standby").field("path", &self.path).field("log", &self.log).finish_non_exhaustive()
    }
}

impl Standby {
    /// Opens the standby's log in `path`, if there is one already; otherwise the first source says which log it is, and it
    /// is made then. `options` are best the source's: what must be larger here is made so.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub async fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let path = path.as_ref().to_path_buf();
        let options = options.following()?;
        let log = match Log::open(&path, options.clone().create(false)).await {
            Ok(log) => Some(log),
            Err(OpenError::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        let progress = Progress::default();
        progress.set(log.as_ref().map_or(Lsn::ZERO, Log::durable_lsn), Lsn::ZERO);
        let id = read_id(&path).unwrap_or_else(new_id);
        Ok(Self { path, options, id, name: String::new(), log, records_term: None, progress })
    }

    /// Gives it a name for people, of up to 64 bytes.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Its log, if it ever followed anybody: for reading.
    #[must_use]
    pub fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    /// How far it is, also while it follows.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Follows the source at the other end of `stream` until the connection ends: `Ok` if in order. Of a TCP connection set
    /// `TCP_NODELAY` first. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// Why it ended; [`ShipError::is_passing`] tells whether another connection may help.
    ///
    /// # Cancel safety
    /// Dropping it breaks the connection; what was received may become durable all the same.
    pub async fn follow<S: AsyncRead + AsyncWrite + Unpin + Send>(&mut self, stream: S) -> Result<(), ShipError> {
        let config = self.config().await?;
        self.progress.heard();
        let last = config.last;
        let mut following = Following {
            session: Session::new(Sink::new(config, Duration::ZERO), stream),
            standby: self,
            work: None,
            groups: VecDeque::new(),
            durable: last,
            source: Lsn::ZERO,
            wait: None,
            ended: None,
        };
        let ended = std::future::poll_fn(|cx| following.poll(cx)).await;
        following.session.finish().await;
        match ended {
            ShipError::Closed => Ok(()),
            error => Err(error),
        }
    }

    /// Makes it a primary's log: in a term that is above any that it knows and that nobody else draws, if `random` is.
    /// It never follows again. First read [what that takes](crate::ship#promoting).
    ///
    /// # Errors
    /// [`PromoteError`]; the log is closed then.
    pub async fn promote(self, random: u32) -> Result<Log, PromoteError> {
        let log = self.log.ok_or(PromoteError::Empty)?;
        log.begin_term(next_term(log.term(), random)).await.map_err(PromoteError::Log)?;
        Ok(log)
    }

    /// Where it stands, with nothing on its way.
    async fn config(&self) -> Result<SinkConfig, ShipError> {
        let (mut last, mut standing, mut term) = (Lsn::ZERO, Standing::default(), 0);
        if let Some(log) = &self.log {
            last = log.sync().await.map_err(|error| failed(&error))?;
            term = log.term();
            if last > Lsn::ZERO {
                let errand = log.standing(last);
                let read = std::future::poll_fn(|cx| errand.poll(cx).map(answered)).await;
                let read = read.map_err(|error| ShipError::Log { what: error.to_string() })?;
                standing = read.ok_or_else(|| ShipError::Log { what: format!("LSN {last} cannot be read") })?;
            }
        }
        // Blocks may turn out larger than these; the longest group does not depend on that.
        let limits = match &self.log {
            Some(log) => log.handle.limits.clone(),
            None => self.options.blank_limits().map_err(|error| ShipError::Log { what: error.to_string() })?,
        };
        Ok(SinkConfig {
            standby: self.id,
            name: self.name.clone(),
            log_id: self.log.as_ref().map(Log::log_id),
            term,
            last,
            standing,
            group_bytes_max: limits.group_bytes_max(),
            window_bytes: WINDOW_BYTES,
            challenge: random(),
            handshake: HANDSHAKE,
        })
    }
}

fn failed(error: &AppendError) -> ShipError {
    ShipError::Log { what: error.to_string() }
}

fn new_id() -> [u8; 16] {
    (u128::from(random()) << 64 | u128::from(random())).to_le_bytes()
}

/// The id that is kept beside the log; none if there is none that can be read.
fn read_id(path: &Path) -> Option<[u8; 16]> {
    let text = fs::read_to_string(path.join(ID_NAME)).ok()?;
    u128::from_str_radix(text.trim(), 16).ok().map(u128::to_le_bytes)
}

/// Keeps an id beside the log, durably, before the first record is acknowledged under it.
fn keep_id(path: &Path, id: [u8; 16]) -> std::io::Result<()> {
    if read_id(path) == Some(id) {
        return Ok(());
    }
    let new = path.join(format!("{ID_NAME}.new"));
    let mut file = File::create(&new)?;
    writeln!(file, "{:032x}", u128::from_le_bytes(id))?;
    file.sync_all()?;
    fs::rename(&new, path.join(ID_NAME))?;
    File::open(path)?.sync_all()
}

/// What a standby does for its log besides reading: one thing at a time.
enum Done {
    /// The log is there, in the source's term.
    Ready(Log),
    /// A group is staged; the records behind it are of this term unless that is changed.
    Staged(u64),
}

type Work<T> = Pin<Box<dyn Future<Output = Result<T, ShipError>> + Send>>;

/// One connection of a standby.
struct Following<'a, S> {
    session: Session<Sink, S>,
    standby: &'a mut Standby,
    work: Option<Work<Done>>,
    /// Received and not yet staged: bounded by the window.
    groups: VecDeque<Group>,
    durable: Lsn,
    source: Lsn,
    /// For more to be durable.
    wait: Option<Work<()>>,
    ended: Option<ShipError>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Following<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ShipError> {
        loop {
            let mut moved = match self.session.poll(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => false,
            };
            if self.session.heard() {
                self.standby.progress.heard();
            }
            while let Some(event) = self.session.machine.poll_event() {
                moved = true;
                if let SinkEvent::Ended(error) = event {
                    return Poll::Ready(self.ended.take().unwrap_or(error));
                }
                self.handle(event);
            }
            for step in [self.poll_work(cx), self.poll_durable(cx)] {
                match step {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(error)) => {
                        moved = true;
                        // The source is told that it is over, and not why: that is nothing it could change.
                        self.session.machine.close();
                        self.ended.get_or_insert(error);
                    }
                    Poll::Pending => {}
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn handle(&mut self, event: SinkEvent) {
        let standby = &self.standby;
        match event {
            SinkEvent::Welcome { log_id, term, durable, .. } => {
                let (path, options, id) = (standby.path.clone(), standby.options.clone(), standby.id);
                self.source = durable;
                self.work = Some(Box::pin(prepare(path, options, standby.log.clone(), id, (log_id, term))));
            }
            SinkEvent::Group(group) => self.groups.push_back(group),
            SinkEvent::Durable { source } => {
                self.source = source;
                standby.progress.set(self.durable, source);
            }
            SinkEvent::Ended(_) => {}
        }
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ShipError>> {
        let standby = &mut *self.standby;
        if self.work.is_none()
            && let Some(log) = &standby.log
            && let Some(group) = self.groups.pop_front()
        {
            self.work = Some(Box::pin(stage(log.clone(), group, standby.records_term.take())));
        }
        let Some(work) = &mut self.work else { return Poll::Pending };
        let done = ready!(work.as_mut().poll(cx));
        self.work = None;
        match done {
            Ok(Done::Ready(log)) => {
                standby.records_term = None;
                standby.log = Some(log);
                let now = self.session.now();
                self.session.machine.handle_ready(now);
            }
            Ok(Done::Staged(term)) => standby.records_term = Some(term),
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }

    fn poll_durable(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ShipError>> {
        let Some(log) = &self.standby.log else { return Poll::Pending };
        let wait = self.wait.get_or_insert_with(|| {
            let (log, next) = (log.clone(), self.durable.next());
            Box::pin(async move { log.wait_durable(next).await.map(|_| ()).map_err(|error| failed(&error)) })
        });
        let waited = ready!(wait.as_mut().poll(cx));
        self.wait = None;
        waited?;
        self.durable = log.durable_lsn();
        self.session.machine.handle_durable(self.durable);
        self.standby.progress.set(self.durable, self.source);
        Poll::Ready(Ok(()))
    }
}

/// Makes the log if there is none, and the source's term durable.
async fn prepare(
    path: PathBuf,
    options: Options,
    log: Option<Log>,
    id: [u8; 16],
    (log_id, term): (LogId, u64),
) -> Result<Done, ShipError> {
    let log = match log {
        Some(log) => log,
        None => create(&path, &options.log_id(log_id).term(term)).await?,
    };
    if log.term() < term {
        log.begin_term(term).await.map_err(|error| ShipError::Log { what: error.to_string() })?;
    }
    let kept = Errand::start(move || keep_id(&path, id));
    let kept = std::future::poll_fn(|cx| kept.poll(cx)).await.unwrap_or(Ok(()));
    kept.map_err(|error| ShipError::Log { what: format!("the standby's id cannot be kept: {error}") })?;
    Ok(Done::Ready(log))
}

/// Makes the log. Who followed before may have been dropped while it did the same, and still be letting it go.
async fn create(path: &Path, options: &Options) -> Result<Log, ShipError> {
    const TRIES: u32 = 20;
    let mut tries = 0;
    loop {
        tries += 1;
        match Log::open(path, options.clone()).await {
            Ok(log) => return Ok(log),
            Err(OpenError::Held { by, .. }) if by == Some(std::process::id()) && tries < TRIES => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(ShipError::Log { what: error.to_string() }),
        }
    }
}

/// Gives a group its LSNs, under its term; what comes behind is of `records_term` until then.
async fn stage(log: Log, group: Group, records_term: Option<u64>) -> Result<Done, ShipError> {
    if Some(group.term) != records_term {
        log.sync().await.map_err(|error| failed(&error))?;
        let (promise, kept) = errand();
        let shared = log.handle.shared.clone();
        let _ = log.handle.inbox.send(Command::RecordsTerm { shared, term: group.term, promise });
        // Nobody answers for a log that ended.
        std::future::poll_fn(|cx| kept.poll(cx)).await.ok_or_else(|| failed(&AppendError::Closed))?;
    }
    let mut batch = log.append_batch(&group.records);
    let last = std::future::poll_fn(|cx| batch.poll_staged(cx)).await.map_err(|error| failed(&error))?;
    let due = group.first.plus(group.records.len() as u64).prev();
    if last != due {
        let what = format!("{}: somebody else appends: LSN {last} where {due} was due", log.path().display());
        return Err(ShipError::Log { what });
    }
    Ok(Done::Staged(group.term))
}
