//! Driving a log inside a tokio runtime: [`Drive`].

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::unix::AsyncFd;

use super::LocalLog;
use crate::error::{Cause, IoFailure, Op};
use crate::runtime::local::{Gathering, Local, Poller, Turned};

impl LocalLog {
    /// Drives the log inside the current tokio runtime (a current-thread one with I/O enabled, or tokio-uring's) until
    /// it is closed: spawn it with `spawn_local`, or join it with the work. A second one beside it is harmless and useless.
    ///
    /// Tasks that are woken together append together: the future lets them all have their go before it submits, so that
    /// they share one flush.
    ///
    /// If the runtime cannot watch the log's descriptor, the log is poisoned with the cause.
    ///
    /// # Panics
    /// When polled outside a tokio runtime, or in one without I/O; the log is poisoned before.
    ///
    /// # Cancel safety
    /// Dropped, it leaves the log without a driver, until somebody turns it or calls this again; and if it was all that
    /// was left of the log, it blocks until the log is closed.
    pub fn drive(&self) -> Drive {
        Drive { local: self.local.clone(), watched: None, gathering: Gathering::default() }
    }
}

/// Drives a log until it is closed. Made by [`LocalLog::drive`].
#[must_use = "futures do nothing unless polled"]
pub struct Drive {
    /// From the first poll on.
    watched: Option<AsyncFd<OwnedFd>>,
    local: Rc<Local>,
    gathering: Gathering,
}

impl fmt::Debug for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive").finish_non_exhaustive()
    }
}

impl Drive {
    /// Has the runtime watch the descriptor: a duplicate, because a runtime watches each number once.
    #[allow(
        deprecated,
        reason = "its successor is younger than the tokio that is asked for; an `OwnedFd` is safe in both"
    )]
    fn watch(&mut self) -> Result<&AsyncFd<OwnedFd>, IoFailure> {
        if self.watched.is_none() {
            let descriptor = self.local.as_fd().try_clone_to_owned().map_err(failed)?;
            let made = catch_unwind(AssertUnwindSafe(|| AsyncFd::new(descriptor)));
            let made = made.unwrap_or_else(|panic| {
                self.local.poison(&Cause::Panic("driven outside a tokio runtime with I/O enabled".into()));
                resume_unwind(panic)
            });
            self.watched = Some(made.map_err(failed)?);
        }
        Ok(self.watched.as_ref().unwrap_or_else(|| unreachable!("it was just made")))
    }

    /// Takes note of the descriptor's being readable, until the waker is registered for the next time.
    fn note_readable(&mut self, cx: &mut Context<'_>) -> Result<(), IoFailure> {
        let watched = self.watch()?;
        while let Poll::Ready(readable) = watched.poll_read_ready(cx) {
            // What comes from now on is an edge of its own: the turn is still to come.
            readable.map_err(failed)?.clear_ready();
        }
        Ok(())
    }
}

fn failed(error: io::Error) -> IoFailure {
    IoFailure::new(Op::Ring, Path::new("ringwal"), 0, &error)
}

impl Future for Drive {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Err(failure) = this.note_readable(cx) {
            this.local.poison(&Cause::Io(failure));
            return Poll::Ready(());
        }
        if this.local.is_gathering(&mut this.gathering) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match this.local.turn(Poller::Edge, Some(cx.waker())) {
            // For more to do now, its waker was woken.
            Turned::Sleep(_) | Turned::Again => Poll::Pending,
            Turned::Done => {
                this.watched = None;
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        if self.watched.take().is_some() {
            self.local.forget_waker();
        }
    }
}
