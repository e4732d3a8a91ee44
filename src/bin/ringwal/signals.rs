//! SIGINT and SIGTERM: noted first, at once the second time.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use crate::failure::{Failure, INTERRUPTED};

/// What a signal leaves behind.
#[derive(Debug)]
pub(crate) struct Interrupt {
    told: Arc<AtomicBool>,
    /// Readable once a signal came or somebody rang.
    pub(crate) wake: UnixStream,
    bell: UnixStream,
}

impl Interrupt {
    /// Notes the first SIGINT or SIGTERM; the second ends the process at once, with 130.
    pub(crate) fn note() -> Result<Self, Failure> {
        Self::register().map_err(|error| Failure::usage(format!("signals cannot be handled: {error}")))
    }

    fn register() -> io::Result<Self> {
        let told = Arc::new(AtomicBool::new(false));
        let (wake, bell) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            // In this order: the signal that sets the flag must not see it set.
            flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&told))?;
            flag::register(signal, Arc::clone(&told))?;
            pipe::register(signal, bell.try_clone()?)?;
        }
        Ok(Self { told, wake, bell })
    }

    /// Whether a signal came.
    pub(crate) fn came(&self) -> bool {
        self.told.load(Ordering::SeqCst)
    }

    /// A future that is ready once a signal came. Needs a tokio runtime with I/O.
    pub(crate) fn wait(&self) -> io::Result<impl Future<Output = ()> + use<>> {
        let wake = self.wake.try_clone()?;
        wake.set_nonblocking(true)?;
        let wake = tokio::net::UnixStream::from_std(wake)?;
        Ok(async move {
            // Should it fail, the second signal still ends the process.
            if wake.readable().await.is_err() {
                std::future::pending().await
            }
        })
    }

    /// The flag that a signal sets.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.told)
    }

    /// A bell that makes `wake` readable, for a thread that wants the reading to stop.
    pub(crate) fn bell(&self) -> Result<Bell, Failure> {
        let bell = self.bell.try_clone();
        bell.map(Bell).map_err(|error| Failure::usage(format!("no file descriptor is left: {error}; raise ulimit -n")))
    }
}

/// Wakes whoever waits for an [`Interrupt`].
#[derive(Debug)]
pub(crate) struct Bell(UnixStream);

impl Bell {
    pub(crate) fn ring(mut self) {
        // If it cannot be written to, it is full: awake already.
        let _full = self.0.write(&[1]);
    }
}

/// For commands that have nothing to finish: SIGINT ends the process with 130.
pub(crate) fn end_at_once() -> Result<(), Failure> {
    let always = Arc::new(AtomicBool::new(true));
    let registered = flag::register_conditional_shutdown(SIGINT, INTERRUPTED.into(), always);
    registered.map(|_| ()).map_err(|error| Failure::usage(format!("signals cannot be handled: {error}")))
}
