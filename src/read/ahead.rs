//! Reading ahead: the next stretches of a file are read by a thread of their own while the one before is being checked.
//!
//! The thread is started by the first stretch that is asked for and ends with its [`Ahead`]. It always has the next one to
//! go on with ([`DEPTH`]): waking it for each would cost as much time as a good part of the reading.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::disk::{Buffer, SegmentFile};
use crate::error::IoFailure;
use crate::lsn::SegmentId;

/// How many stretches are on their way, at most.
const DEPTH: usize = 2;

/// A stretch of a file, and memory for it, if there is any.
type Stretch = (Arc<dyn SegmentFile>, u64, usize, Option<Buffer>);

/// Stretches of one segment on their way, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    thread: Option<Channel>,
    pending: VecDeque<(SegmentId, u64)>,
    /// Where the last of them ends.
    end: u64,
    /// Memory for the next one: fresh memory costs a page fault for each 4 KiB, about as much as checking them.
    spare: Option<Buffer>,
}

#[derive(Debug)]
struct Channel {
    wanted: SyncSender<Stretch>,
    read: Receiver<Result<(Buffer, usize), IoFailure>>,
}

impl Ahead {
    /// Sees to it that what lies from `offset` on in a segment is being read, in stretches of `len` bytes, before `end`.
    /// Without a thread to be had, does nothing.
    pub(crate) fn start(&mut self, id: SegmentId, file: &Arc<dyn SegmentFile>, offset: u64, len: usize, end: u64) {
        if self.pending.front().is_none_or(|first| *first != (id, offset)) {
            self.forget();
            self.end = offset;
        }
        if self.thread.is_none() {
            self.thread = spawn().ok();
        }
        let Some(channel) = &self.thread else { return };
        while self.pending.len() < DEPTH && self.end < end {
            let stretch = (file.clone(), self.end, len, self.spare.take());
            if channel.wanted.send(stretch).is_err() {
                return;
            }
            self.pending.push_back((id, self.end));
            self.end += len as u64;
        }
    }

    /// What was read at `offset` of segment `id`, and how long it is; none if something else was asked for.
    pub(crate) fn take(&mut self, id: SegmentId, offset: u64) -> Result<Option<(Buffer, usize)>, IoFailure> {
        if self.pending.front() != Some(&(id, offset)) {
            return Ok(None);
        }
        self.pending.pop_front();
        self.thread.as_ref().and_then(|channel| channel.read.recv().ok()).transpose()
    }

    /// Memory that [`Ahead::take`] gave, for the next stretch.
    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        self.spare = Some(buffer);
    }

    /// Drops what is on its way: it is not wanted, or the file may have changed since.
    pub(crate) fn forget(&mut self) {
        for _ in self.pending.drain(..) {
            if let Some(channel) = &self.thread {
                let _ = channel.read.recv();
            }
        }
    }
}

fn spawn() -> std::io::Result<Channel> {
    let (wanted, work) = sync_channel::<Stretch>(DEPTH);
    let (done, read) = sync_channel(DEPTH);
    let main = move || {
        for (file, offset, len, spare) in work {
            let mut buffer = spare.filter(|spare| spare.len() >= len).unwrap_or_else(|| Buffer::new(len));
            let result = file.read_at(&mut buffer[..len], offset).map(|len| (buffer, len));
            if done.send(result).is_err() {
                break;
            }
        }
    };
    thread::Builder::new().name("ringwal-read".to_owned()).spawn(main)?;
    Ok(Channel { wanted, read })
}
