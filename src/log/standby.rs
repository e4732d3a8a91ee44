//! A log that follows another: it belongs to a standby, which takes one source after the other.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::future::Future;
use std::io::{ErrorKind, Write as _};
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
use crate::error::{AppendError, IoFailure, Op, OpenError, TruncateError};
use crate::format::segment::STANDBY_NAME;
use crate::lsn::{LogId, Lsn};
use crate::options::Options;
use crate::runtime::Command;
use crate::runtime::errands::{Errand, errand};
use crate::runtime::sync::{Arc, Mutex, lock};
use crate::ship::{Group, ShipError, Sink, SinkConfig, SinkEvent, Standing, WINDOW_BYTES, next_term};

/// Beside the log's files: who this standby is, as long as it keeps its log, and the greatest term that it was shown. The
/// log says the term too, but only where an epoch begins: while a standby catches up, its records are of earlier ones.
const ID_NAME: &str = STANDBY_NAME;

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
    /// A new epoch may still be beginning that nobody waits for any more.
    unsettled: bool,
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
    /// There is no greater term.
    Exhausted,
}

impl fmt::Display for PromoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is no log yet: let it follow first"),
            Self::Log(error) => error.fmt(f),
            Self::Exhausted => f.write_str("the greatest term of all was given out: begin another log"),
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
        let kept = Kept::read(&path)?;
        let options = options.term(kept.map_or(0, |kept| kept.term));
        let log = match Log::open(&path, options.clone().create(false)).await {
            Ok(log) => Some(log),
            Err(OpenError::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        let progress = Progress::default();
        progress.set(log.as_ref().map_or(Lsn::ZERO, Log::durable_lsn), Lsn::ZERO);
        let id = kept.map_or_else(new_id, |kept| kept.id);
        Ok(Self { path, options, id, name: String::new(), log, records_term: None, unsettled: false, progress })
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
    /// Dropping it breaks the connection; what the log has taken becomes durable all the same, and what was received and
    /// not taken yet comes again with the next connection.
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
            over: None,
        };
        let ended = std::future::poll_fn(|cx| following.poll(cx)).await;
        let Following { session, .. } = following;
        session.finish().await;
        // In order: what was received is durable here, too.
        match (ended, &self.log) {
            (ShipError::Closed, Some(log)) => log.sync().await.map(|_| ()).map_err(|error| failed(&error)),
            (ShipError::Closed, None) => Ok(()),
            (error, _) => Err(error),
        }
    }

    /// The greatest term that it was shown.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::term)
    }

    /// Makes it a primary's log: in a term that is above any that it knows and that nobody else draws, if `random` is.
    /// It never follows again. With more than one standby use [`Standby::promote_above`], and read
    /// [what that takes](crate::ship#promoting) first.
    ///
    /// # Errors
    /// [`PromoteError`]; the log is closed then.
    pub async fn promote(self, random: u32) -> Result<Log, PromoteError> {
        self.promote_above(0, random).await
    }

    /// As [`Standby::promote`], above `known` too: the greatest [`Standby::term`] of all standbys that are to follow it.
    /// One that was shown a greater term would fence it.
    ///
    /// # Errors
    /// As [`Standby::promote`].
    pub async fn promote_above(mut self, known: u64, random: u32) -> Result<Log, PromoteError> {
        self.settle().await.map_err(PromoteError::Log)?;
        let log = self.log.ok_or(PromoteError::Empty)?;
        let known = log.term().max(known);
        let term = next_term(known, random);
        if term <= known {
            return Err(PromoteError::Exhausted);
        }
        log.begin_term(term).await.map_err(PromoteError::Log)?;
        Ok(log)
    }

    /// Waits for an epoch that a connection began and nobody waited for: until then the log's term is not its last word.
    async fn settle(&mut self) -> Result<(), TruncateError> {
        if let (Some(log), true) = (&self.log, self.unsettled) {
            log.begin_term(0).await?;
            self.records_term = None;
        }
        self.unsettled = false;
        Ok(())
    }

    /// Where it stands, with nothing on its way.
    async fn config(&mut self) -> Result<SinkConfig, ShipError> {
        self.settle().await.map_err(|error| ShipError::Log { what: error.to_string() })?;
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

/// What is kept beside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    id: [u8; 16],
    term: u64,
}

impl Kept {
    /// None if it never was kept. One that cannot be read is no reason to become somebody else.
    fn read(path: &Path) -> Result<Option<Self>, OpenError> {
        let file = path.join(ID_NAME);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(IoFailure::new(Op::Read, file.as_path(), 0, &error).into()),
        };
        let mut words = text.split_whitespace();
        let id = words.next().and_then(|word| u128::from_str_radix(word, 16).ok());
        let term = words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
        match (id, term) {
            (Some(id), Some(term)) => Ok(Some(Self { id: id.to_le_bytes(), term })),
            _ => Err(OpenError::NotALog { path: file, what: "does not say which standby this is" }),
        }
    }

    /// Keeps it, durably, before the first record is acknowledged under it.
    fn keep(self, path: &Path) -> Result<(), OpenError> {
        if Self::read(path)? == Some(self) {
            return Ok(());
        }
        let new = path.join(format!("{ID_NAME}.new"));
        let failed = |error: std::io::Error| IoFailure::new(Op::Write, new.as_path(), 0, &error);
        let mut file = File::create(&new).map_err(failed)?;
        writeln!(file, "{:032x} {:016x}", u128::from_le_bytes(self.id), self.term).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&new, path.join(ID_NAME)).map_err(failed)?;
        Ok(File::open(path).and_then(|dir| dir.sync_all()).map_err(failed)?)
    }
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
    /// Why the connection is over: what was received is still taken into the log.
    over: Option<ShipError>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Following<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ShipError> {
        loop {
            let mut moved = self.poll_session(cx);
            for step in [self.poll_work(cx), self.poll_durable(cx)] {
                match step {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(error)) => {
                        moved = true;
                        // The source is told that it is over, and not why: that is nothing it could change.
                        self.session.machine.close();
                        self.groups.clear();
                        self.over = Some(error);
                    }
                    Poll::Pending => {}
                }
            }
            if self.work.is_none()
                && self.groups.is_empty()
                && let Some(over) = self.over.take()
            {
                return Poll::Ready(over);
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// What the source has to say, as long as it says something.
    fn poll_session(&mut self, cx: &mut Context<'_>) -> bool {
        if self.over.is_some() {
            return false;
        }
        let mut moved = match self.session.poll(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => {
                self.over = Some(error);
                true
            }
            Poll::Pending => false,
        };
        if self.session.heard() {
            self.standby.progress.heard();
        }
        while let Some(event) = self.session.machine.poll_event() {
            moved = true;
            match event {
                SinkEvent::Ended(error) => {
                    self.over.get_or_insert(error);
                }
                event => self.handle(event),
            }
        }
        moved
    }

    fn handle(&mut self, event: SinkEvent) {
        let standby = &self.standby;
        match event {
            SinkEvent::Welcome { log_id, term, durable, .. } => {
                let (path, options, id) = (standby.path.clone(), standby.options.clone(), standby.id);
                self.source = durable;
                self.standby.unsettled = true;
                let standby = &self.standby;
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
                (standby.records_term, standby.unsettled) = (None, false);
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
    // Kept first: from here on it knows the term, whatever happens.
    let kept = Kept { id, term: term.max(log.term()) };
    let keeping = Errand::start(move || kept.keep(&path));
    let keeping = std::future::poll_fn(|cx| keeping.poll(cx)).await.unwrap_or(Ok(()));
    keeping.map_err(|error| ShipError::Log { what: error.to_string() })?;
    if log.term() < term {
        log.begin_term(term).await.map_err(|error| ShipError::Log { what: error.to_string() })?;
    }
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
