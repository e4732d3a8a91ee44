//! Reading ahead: the next stretch of a file is read by a thread of its own while the one before is being checked.
//!
//! The thread is started by the first stretch that is asked for and ends with its [`Ahead`]. Two stretches are in memory
//! at most: the one that is read, and the reader's own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::disk::{Buffer, SegmentFile};
use crate::error::IoFailure;
use crate::lsn::SegmentId;

/// A stretch of a file.
type Stretch = (Arc<dyn SegmentFile>, u64, usize);

/// One stretch on its way, at most.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    thread: Option<Channel>,
    pending: Option<(SegmentId, u64)>,
}

#[derive(Debug)]
struct Channel {
    wanted: SyncSender<Stretch>,
    read: Receiver<Result<(Buffer, usize), IoFailure>>,
}

impl Ahead {
    /// Begins to read `len` bytes at `offset` of a segment. Without a thread to be had, does nothing.
    pub(crate) fn start(&mut self, id: SegmentId, file: &Arc<dyn SegmentFile>, offset: u64, len: usize) {
        self.forget();
        if self.thread.is_none() {
            self.thread = spawn().ok();
        }
        if let Some(channel) = &self.thread
            && channel.wanted.send((file.clone(), offset, len)).is_ok()
        {
            self.pending = Some((id, offset));
        }
    }

    /// What was read at `offset` of segment `id`, and how long it is; none if something else was asked for.
    pub(crate) fn take(&mut self, id: SegmentId, offset: u64) -> Result<Option<(Buffer, usize)>, IoFailure> {
        if self.pending != Some((id, offset)) {
            return Ok(None);
        }
        self.pending = None;
        self.thread.as_ref().and_then(|channel| channel.read.recv().ok()).transpose()
    }

    /// Drops what is on its way: it is not wanted, or the file may have changed since.
    pub(crate) fn forget(&mut self) {
        if self.pending.take().is_some()
            && let Some(channel) = &self.thread
        {
            let _ = channel.read.recv();
        }
    }
}

fn spawn() -> std::io::Result<Channel> {
    let (wanted, work) = sync_channel::<Stretch>(1);
    let (done, read) = sync_channel(1);
    let main = move || {
        for (file, offset, len) in work {
            let mut buffer = Buffer::new(len);
            let result = file.read_at(&mut buffer[..len], offset).map(|len| (buffer, len));
            if done.send(result).is_err() {
                break;
            }
        }
    };
    thread::Builder::new().name("ringwal-read".to_owned()).spawn(main)?;
    Ok(Channel { wanted, read })
}
