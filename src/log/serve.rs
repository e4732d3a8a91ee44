//! The source's end of a connection, whatever the records come from: a log of this process, or one that another writes.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::session::Session;
use crate::error::ReadError;
use crate::format::HeldBatch;
use crate::lsn::Lsn;
use crate::ship::{Batch, SILENT_BEATS, ShipError, Source, SourceConfig, SourceEvent, Standing};

/// How often a standby hears something, unless asked for otherwise.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a handshake may take.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where a source's records come from.
pub(super) trait Origin {
    /// How the log stands at `lsn`; none if it does not hold that record.
    fn poll_standing(&mut self, lsn: Lsn, cx: &mut Context<'_>) -> Poll<Result<Option<Standing>, ReadError>>;

    /// The durable batch that holds `from`, which follows upon the last one that was given. None: the log was closed.
    fn poll_batch(&mut self, from: Lsn, cx: &mut Context<'_>) -> Poll<Option<Result<HeldBatch, ReadError>>>;

    /// Everything up to here is durable.
    fn durable(&self) -> Lsn;
}

/// A source with everything but what the log says of itself.
pub(super) fn config(heartbeat: Duration) -> SourceConfig {
    SourceConfig {
        log_id: crate::lsn::LogId::new([0; 16]),
        term: 0,
        first: Lsn::FIRST,
        durable: Lsn::ZERO,
        batch_bytes_max: 0,
        challenge: super::open::random(),
        heartbeat,
        silence: heartbeat.saturating_mul(SILENT_BEATS),
        handshake: HANDSHAKE,
    }
}

/// Serves one standby until it ends. `told` hears of every event.
pub(super) async fn serve<O, S, T>(origin: O, config: SourceConfig, stream: S, mut told: T) -> Result<(), ShipError>
where
    O: Origin,
    S: AsyncRead + AsyncWrite + Unpin,
    T: FnMut(&SourceEvent) -> Option<ShipError>,
{
    let session = Session::new(Source::new(config, Duration::ZERO), stream);
    let mut serving =
        Serving { origin, session, last: config.durable, checking: None, next: None, ready: None, ended: None };
    let ended = std::future::poll_fn(|cx| serving.poll(cx, &mut told)).await;
    serving.session.finish().await;
    match ended {
        ShipError::Closed => Ok(()),
        error => Err(error),
    }
}

struct Serving<O, S> {
    origin: O,
    session: Session<Source, S>,
    /// The last record of which it is known that it is durable.
    last: Lsn,
    /// The record by which the logs are being compared.
    checking: Option<Lsn>,
    /// The next record to be fetched, while the standby follows.
    next: Option<Lsn>,
    /// One batch ahead of what was asked for: that it comes is the news for which the origin wakes.
    ready: Option<Batch>,
    ended: Option<ShipError>,
}

impl<O: Origin, S: AsyncRead + AsyncWrite + Unpin> Serving<O, S> {
    fn poll<T>(&mut self, cx: &mut Context<'_>, told: &mut T) -> Poll<ShipError>
    where
        T: FnMut(&SourceEvent) -> Option<ShipError>,
    {
        loop {
            self.know_durable(self.origin.durable());
            let mut moved = match self.session.poll(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => false,
            };
            moved |= self.check(cx);
            moved |= self.feed(cx);
            while let Some(event) = self.session.machine.poll_event() {
                moved = true;
                if let Some(error) = told(&event) {
                    self.ended.get_or_insert(error);
                }
                match event {
                    SourceEvent::Check { lsn } => self.checking = Some(lsn),
                    SourceEvent::Started { from, .. } => self.next = Some(from),
                    SourceEvent::Ended(error) => return Poll::Ready(self.ended.take().unwrap_or(error)),
                    SourceEvent::Acked { .. } | SourceEvent::Fenced { .. } => {}
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn know_durable(&mut self, lsn: Lsn) {
        self.last = self.last.max(lsn);
        self.session.machine.handle_durable(self.last);
    }

    fn check(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(lsn) = self.checking else { return false };
        let standing = match self.origin.poll_standing(lsn, cx) {
            Poll::Pending => return false,
            Poll::Ready(standing) => standing,
        };
        self.checking = None;
        match standing {
            Ok(Some(standing)) => self.session.machine.handle_checked(standing),
            Ok(None) => self.fail(ShipError::Log { what: format!("LSN {lsn} cannot be read") }),
            Err(error) => self.fail_reading(lsn, &error),
        }
        true
    }

    fn feed(&mut self, cx: &mut Context<'_>) -> bool {
        if self.session.machine.is_ended() {
            return false;
        }
        let mut moved = false;
        if self.ready.is_none()
            && let Some(next) = self.next
            && let Poll::Ready(fetched) = self.origin.poll_batch(next, cx)
        {
            moved = true;
            match fetched {
                None => self.session.machine.close(),
                Some(Err(error)) => self.fail_reading(next, &error),
                Some(Ok(held)) => {
                    self.know_durable(held.last);
                    self.next = Some(held.last.next());
                    self.ready = Batch::new(&held, next);
                }
            }
        }
        let source = &mut self.session.machine;
        if let Some(batch) = self.ready.take_if(|batch| source.poll_wants() == Some(batch.first)) {
            source.handle_batch(&batch);
            moved = true;
        }
        moved
    }

    fn fail_reading(&mut self, next: Lsn, error: &ReadError) {
        let error = match error {
            ReadError::Truncated { first } => ShipError::Truncated { first: *first, last: next.prev() },
            error => ShipError::Log { what: error.to_string() },
        };
        self.fail(error);
    }

    /// Ends for a reason of ours. The standby is told what concerns it.
    fn fail(&mut self, error: ShipError) {
        self.session.machine.refuse(error.clone());
        self.ended.get_or_insert(error);
    }
}
