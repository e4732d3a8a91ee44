//! The source's end of a connection for a log that another process may be writing: read by a thread of its own, which is
//! never more than a few batches ahead.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::serve::{self, HEARTBEAT, Origin};
use crate::error::{Damage, OpenError, ReadError};
use crate::format::HeldBatch;
use crate::lsn::{LogId, Lsn};
use crate::options::Options;
use crate::read::follow::Follow;
use crate::runtime::errands::{Errand, Promise, errand};
use crate::runtime::sync::{Arc, Mutex, lock};
use crate::ship::{ShipError, SourceConfig, SourceEvent, Standing};

/// How many batches are read ahead.
const AHEAD: usize = 4;

/// How soon a thread that waits for records notices that nobody waits for it.
const NOTICE: Duration = Duration::from_millis(500);

/// Ships the log in a directory to standbys, read-only, beside its writer or without one. It shows what a
/// [`Reader`](crate::Reader) shows, and nobody waits for its standbys.
#[derive(Clone)]
pub struct Shipper {
    path: PathBuf,
    heartbeat: Duration,
    acked: Arc<AtomicU64>,
    damage: Arc<Mutex<Option<Damage>>>,
}

impl fmt::Debug for Shipper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shipper").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Shipper {
    /// Of the log in `path`.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        Self { path, heartbeat: HEARTBEAT, acked: Arc::default(), damage: Arc::default() }
    }

    /// The last record that a standby has acknowledged to this shipper.
    #[must_use]
    pub fn acked_lsn(&self) -> Lsn {
        Lsn::new(self.acked.load(Ordering::Relaxed))
    }

    /// The damage on which a connection ended, if one did.
    #[must_use]
    pub fn damage(&self) -> Option<Damage> {
        lock(&self.damage).clone()
    }

    /// Serves the standby at the other end of `stream` until the connection ends: `Ok` if in order. Of a TCP connection set
    /// `TCP_NODELAY` first. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// Why it ended; [`ShipError::is_passing`] tells whether another connection may help.
    ///
    /// # Cancel safety
    /// Dropping it breaks the connection.
    pub async fn ship<S: AsyncRead + AsyncWrite + Unpin + Send>(&self, stream: S) -> Result<(), ShipError> {
        let path = self.path.clone();
        let opening = Errand::start(move || Follow::open(path, Lsn::ZERO));
        let opened = std::future::poll_fn(|cx| opening.poll(cx)).await;
        let follow = match opened {
            Some(Ok(follow)) => follow,
            Some(Err(error)) => return Err(self.open_failed(&error)),
            None => return Err(ShipError::Log { what: "looking at the log panicked".to_owned() }),
        };
        let Some(log_id) = follow.log_id() else {
            return Err(ShipError::Connection { what: format!("{}: there is no log yet", self.path.display()) });
        };
        // What another process allows is not written anywhere: the longest batch of a log with default options. One that is
        // longer is refused when it comes.
        let limits = Options::default().blank_limits().map_err(|error| ShipError::Log { what: error.to_string() })?;
        let config = SourceConfig {
            log_id,
            term: follow.term(),
            first: follow.first_lsn(),
            durable: follow.durable_lsn(),
            batch_bytes_max: limits.batch_bytes_bound() as u64,
            ..serve::config(self.heartbeat)
        };
        let origin = Beside::start(follow, log_id, self.damage.clone())?;
        let served = serve::serve(origin, config, stream, |event| {
            if let SourceEvent::Acked { durable } = event {
                self.acked.fetch_max(durable.get(), Ordering::Relaxed);
            }
            None
        });
        served.await
    }

    fn open_failed(&self, error: &OpenError) -> ShipError {
        if let OpenError::Damaged(damage) = error {
            *lock(&self.damage) = Some(damage.clone());
        }
        let what = error.to_string();
        if let OpenError::Missing { .. } = error { ShipError::Connection { what } } else { ShipError::Log { what } }
    }
}

/// What the reading thread is asked for.
enum Wish {
    Standing(Lsn, Promise<Result<Option<Standing>, ReadError>>),
    /// Every batch from here on.
    Batches(Lsn, Sender<Result<HeldBatch, ReadError>>),
}

/// A log that another process may be writing.
struct Beside {
    wishes: Sender<Wish>,
    shown: Arc<AtomicU64>,
    check: Option<Errand<Result<Option<Standing>, ReadError>>>,
    batches: Option<Receiver<Result<HeldBatch, ReadError>>>,
    /// Where to say on which damage it ended.
    damage: Arc<Mutex<Option<Damage>>>,
}

impl Beside {
    fn start(follow: Follow, log_id: LogId, damage: Arc<Mutex<Option<Damage>>>) -> Result<Self, ShipError> {
        let (wishes, wished) = mpsc::channel(1);
        let shown = Arc::new(AtomicU64::new(follow.durable_lsn().get()));
        let term = follow.term();
        let reading = Reading { follow, log_id, term, shown: shown.clone() };
        let spawned = thread::Builder::new().name("ringwal-ship".to_owned()).spawn(move || reading.run(wished));
        spawned.map_err(|error| ShipError::Log { what: format!("no thread is left: {error}") })?;
        Ok(Self { wishes, shown, check: None, batches: None, damage })
    }
}

impl Origin for Beside {
    fn poll_standing(&mut self, lsn: Lsn, cx: &mut Context<'_>) -> Poll<Result<Option<Standing>, ReadError>> {
        let check = self.check.get_or_insert_with(|| {
            let (promise, errand) = errand();
            // A thread that is gone drops the promise.
            let _ = self.wishes.try_send(Wish::Standing(lsn, promise));
            errand
        });
        check.poll(cx).map(super::primary::answered)
    }

    fn poll_batch(&mut self, from: Lsn, cx: &mut Context<'_>) -> Poll<Option<Result<HeldBatch, ReadError>>> {
        let batches = self.batches.get_or_insert_with(|| {
            let (send, batches) = mpsc::channel(AHEAD);
            let _ = self.wishes.try_send(Wish::Batches(from, send));
            batches
        });
        let polled = batches.poll_recv(cx);
        if let Poll::Ready(Some(Err(ReadError::Damaged(damage)))) = &polled {
            *lock(&self.damage) = Some(damage.clone());
        }
        polled
    }

    fn durable(&self) -> Lsn {
        Lsn::new(self.shown.load(Ordering::Acquire))
    }
}

/// The thread's side.
struct Reading {
    follow: Follow,
    log_id: LogId,
    term: u64,
    shown: Arc<AtomicU64>,
}

impl Reading {
    fn run(mut self, mut wished: Receiver<Wish>) {
        while let Some(wish) = wished.blocking_recv() {
            match wish {
                Wish::Standing(lsn, promise) => {
                    promise.keep(self.follow.batch(lsn).map(|held| held.and_then(|held| Standing::of(&held, lsn))));
                }
                Wish::Batches(from, out) => self.feed(from, &out),
            }
        }
    }

    fn feed(&mut self, mut from: Lsn, out: &Sender<Result<HeldBatch, ReadError>>) {
        while !out.is_closed() {
            match self.follow.batch(from) {
                Ok(Some(held)) => {
                    from = held.last.next();
                    if out.blocking_send(Ok(held)).is_err() {
                        return;
                    }
                }
                Ok(None) => match self.follow.refresh() {
                    // Another term, or even another log: a new connection tells the standby.
                    Ok(_) if (self.follow.term(), self.follow.log_id()) != (self.term, Some(self.log_id)) => return,
                    Ok(true) => self.shown.store(self.follow.durable_lsn().get(), Ordering::Release),
                    Ok(false) => self.follow.wait(NOTICE),
                    Err(error) => return drop(out.blocking_send(Err(error))),
                },
                Err(error) => return drop(out.blocking_send(Err(error))),
            }
        }
    }
}
