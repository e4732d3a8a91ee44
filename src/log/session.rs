//! A state machine of shipping, a stream and a clock, introduced to one another.
//!
//! One poll moves what can be moved without waiting: the time to the machine, the machine's pieces to the stream, the
//! stream's bytes to the machine. It leaves wakers with timer and stream; nothing is looked at again for no reason.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::ship::{ShipError, Sink, Source};

/// How much is read at once.
const READ_BYTES: usize = 128 << 10;

/// How many bytes of pieces are taken off a machine at once, and how many pieces are written at once.
const WRITE_BYTES: usize = 256 << 10;
const WRITE_PIECES: usize = 64;

/// How long the last word may take, and the other side to hang up behind it.
const LINGER: Duration = Duration::from_secs(1);

/// What either machine has.
pub(super) trait Machine {
    fn bytes(&mut self, bytes: &[u8], now: Duration);
    fn time(&mut self, now: Duration);
    fn transmit(&mut self) -> Option<Bytes>;
    fn timeout(&self) -> Option<Duration>;
}

macro_rules! machine {
    ($name:ident) => {
        impl Machine for $name {
            fn bytes(&mut self, bytes: &[u8], now: Duration) {
                self.handle_bytes(bytes, now);
            }

            fn time(&mut self, now: Duration) {
                self.handle_time(now);
            }

            fn transmit(&mut self) -> Option<Bytes> {
                self.poll_transmit()
            }

            fn timeout(&self) -> Option<Duration> {
                self.poll_timeout()
            }
        }
    };
}
machine!(Source);
machine!(Sink);

/// One connection.
pub(super) struct Session<M, S> {
    pub(super) machine: M,
    stream: S,
    began: Instant,
    timer: Pin<Box<Sleep>>,
    input: Box<[u8]>,
    /// Taken off the machine and not yet taken by the stream: refilled only when it is empty, so that a machine that makes
    /// its words when it is asked makes them once.
    out: VecDeque<Bytes>,
    unflushed: bool,
    /// Bytes came since somebody asked.
    heard: bool,
    /// Nothing can be written any more; the other side may have said why.
    deaf: Option<ShipError>,
}

impl<M: Machine, S: AsyncRead + AsyncWrite + Unpin> Session<M, S> {
    /// A connection that begins now; the machine begins at time 0.
    pub(super) fn new(machine: M, stream: S) -> Self {
        Self {
            machine,
            stream,
            began: Instant::now(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            input: vec![0; READ_BYTES].into(),
            out: VecDeque::new(),
            unflushed: false,
            heard: false,
            deaf: None,
        }
    }

    /// The time since it began: what the machine takes for now.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether bytes came since this was asked.
    pub(super) fn heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Ready when something moved: the machine may have news, and is to be polled again.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ShipError>> {
        let mut moved = self.poll_timer(cx);
        moved |= self.poll_write(cx);
        match self.poll_read(cx) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(gone("the other side hung up"))),
            Poll::Ready(Ok(_)) => moved = true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(&error))),
            Poll::Pending => {
                if let Some(error) = self.deaf.clone() {
                    return Poll::Ready(Err(error));
                }
            }
        }
        if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(due) = self.machine.timeout() else { return false };
        let deadline = tokio::time::Instant::from_std(self.began + due);
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        // A timer that fired stays ready until it is set anew, which the machine's next deadline does.
        if self.timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        let now = self.now().max(due);
        self.machine.time(now);
        true
    }

    /// Whether anything was written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while self.deaf.is_none() {
            if self.out.is_empty() {
                self.refill();
            }
            if self.out.is_empty() {
                if self.unflushed {
                    match Pin::new(&mut self.stream).poll_flush(cx) {
                        Poll::Ready(Ok(())) => self.unflushed = false,
                        Poll::Ready(Err(error)) => self.deaf = Some(broken(&error)),
                        Poll::Pending => {}
                    }
                }
                break;
            }
            let mut slices = [IoSlice::new(&[]); WRITE_PIECES];
            let count = self.out.len().min(WRITE_PIECES);
            slices.iter_mut().zip(&self.out).for_each(|(slice, piece)| *slice = IoSlice::new(piece));
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]) {
                Poll::Ready(Ok(0)) => self.deaf = Some(gone("it takes no more bytes")),
                Poll::Ready(Ok(len)) => {
                    self.consume(len);
                    (moved, self.unflushed) = (true, true);
                }
                Poll::Ready(Err(error)) => self.deaf = Some(broken(&error)),
                Poll::Pending => break,
            }
        }
        moved
    }

    fn refill(&mut self) {
        let mut bytes = 0;
        while bytes < WRITE_BYTES
            && let Some(piece) = self.machine.transmit()
        {
            bytes += piece.len();
            self.out.push_back(piece);
        }
    }

    fn consume(&mut self, mut len: usize) {
        while let Some(piece) = self.out.front_mut() {
            let taken = len.min(piece.len());
            piece.advance(taken);
            len -= taken;
            if !piece.is_empty() {
                return;
            }
            self.out.pop_front();
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(&mut self.input);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        let len = buffer.filled().len();
        if let Poll::Ready(Ok(())) = polled {
            let now = self.began.elapsed();
            self.machine.bytes(&self.input[..len], now);
            self.heard |= len > 0;
        }
        polled.map_ok(|()| len)
    }

    /// Sends the machine's last words, and waits a moment for the other side to hang up: what it has not read would
    /// otherwise be thrown away under its feet.
    pub(super) async fn finish(mut self) {
        let last_words = std::future::poll_fn(|cx| {
            loop {
                self.poll_write(cx);
                let said = self.deaf.is_some() || self.out.is_empty() && !self.unflushed;
                if said {
                    let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
                }
                match self.poll_read(cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let _ = tokio::time::timeout(LINGER, last_words).await;
    }
}

fn gone(what: &str) -> ShipError {
    ShipError::Connection { what: what.to_owned() }
}

/// TLS tells what it does not like as invalid data: trying again would not help.
pub(super) fn broken(error: &io::Error) -> ShipError {
    let what = error.to_string();
    if error.kind() == io::ErrorKind::InvalidData {
        ShipError::Untrusted { what }
    } else {
        ShipError::Connection { what }
    }
}
