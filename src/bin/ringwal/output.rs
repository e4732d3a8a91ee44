//! Standard output, buffered; a closed one is told from a failing one by [`Failure`](crate::failure::Failure)'s `From`.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Large enough that a pipe's reader is woken rarely.
const BUFFER_BYTES: usize = 64 << 10;

/// Standard output, locked and buffered. Call `flush` before it is dropped: only that reports errors.
pub(crate) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock())
}

/// Prints one line and flushes it.
pub(crate) fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", line.replace('\n', " "))?;
    out.flush()
}

/// Whether standard output is a pipe whose reader has gone.
pub(crate) fn is_gone() -> bool {
    let out = io::stdout();
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
    // Closed at its reader's end, a pipe has an error to tell.
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}
