//! Making a ring: the best set-up that this kernel takes, and a round trip to see that it works.

use std::io;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use nix::errno::Errno;

use super::key::Key;
use crate::disk::probe::RingRefused;

/// Only a filtered ring takes this long for nothing.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Which rung of the ladder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    /// Linux 6.1: completions are processed on this thread, when it asks.
    Deferred,
    /// Linux 5.19: this thread is not interrupted for completions.
    Cooperative,
    /// Linux 5.15.
    Plain,
}

/// A ring with room for `entries` submissions, on the highest rung that holds.
pub(super) fn make(entries: u32) -> Result<(IoUring, Setup), RingRefused> {
    let mut refused = io::Error::from(Errno::EINVAL);
    for setup in [Setup::Deferred, Setup::Cooperative, Setup::Plain] {
        match build(entries, setup) {
            Ok(mut ring) => {
                trial(&mut ring).map_err(|error| RingRefused::new(&error))?;
                return Ok((ring, setup));
            }
            // An older kernel does not know a flag: one rung down.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => refused = error,
            Err(error) => return Err(RingRefused::new(&error)),
        }
    }
    Err(RingRefused::new(&refused))
}

pub(super) fn build(entries: u32, setup: Setup) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    // Both completions of every write that fits into the submission queue, with room to spare for wake-ups.
    builder.dontfork().setup_clamp().setup_cqsize(entries.saturating_mul(4));
    match setup {
        // TASKRUN_FLAG tells without a system call whether there is something to ask for.
        Setup::Deferred => builder.setup_submit_all().setup_taskrun_flag().setup_single_issuer().setup_defer_taskrun(),
        Setup::Cooperative => builder.setup_submit_all().setup_taskrun_flag().setup_coop_taskrun(),
        Setup::Plain => &mut builder,
    };
    builder.build(entries)
}

/// Sends one request that does nothing through the ring.
fn trial(ring: &mut IoUring) -> io::Result<()> {
    super::offer::push(ring, &opcode::Nop::new().build().user_data(Key::TRIAL.bits()));
    let timeout = Timespec::from(TRIAL_TIMEOUT);
    loop {
        match ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout)) {
            Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    match ring.completion().next() {
        Some(cqe) if cqe.result() == 0 => Ok(()),
        Some(cqe) => Err(io::Error::from_raw_os_error(-cqe.result())),
        None => Err(io::Error::from(Errno::ETIME)),
    }
}
