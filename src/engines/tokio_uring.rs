//! tokio-uring: `write_at` and `sync_data` for each append, on its one thread. io_uring without group commit.

use std::cell::{Cell, RefCell};
use std::fs::File as StdFile;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::File;

use super::async_load::all_of;
use super::file::{Direct, Kind, each_log};
use super::frame::{Frame, framed_bytes};
use super::meter::{Caller, Meter};
use super::{Counts, Engine, Failure, Load, Sample};
use crate::disk::buffer::BUFFER_ALIGN;

/// One record, one flush, many at a time, no threads.
#[derive(Debug)]
pub(super) struct TokioUring {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

impl Engine for TokioUring {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, dir: &Path, load: &Load) -> Result<Sample, Failure> {
        let files = each_log(dir, load, |dir| self.create(dir))?;
        let (meter, flushes) = (Meter::new(load), Arc::new(AtomicU64::new(0)));
        let (callers, record_bytes) = (load.callers, framed_bytes(load.payload_max()));
        let counted = Arc::clone(&flushes);
        thread::scope(|scope| {
            let thread = scope.spawn(|| start(&meter, callers, record_bytes, files, &counted));
            let counts = || Counts::new(flushes.load(Ordering::Relaxed), "uring write, fdatasync");
            meter.watch(&counts, || {
                thread.join().unwrap_or_else(|_| Err("tokio-uring panicked: is io_uring refused?".into()))
            })
        })
    }
}

impl TokioUring {
    fn create(&self, dir: &Path) -> Result<LogFile, Failure> {
        Ok(match self.kind {
            Kind::Grow => (StdFile::options().write(true).create_new(true).open(dir.join("log"))?, None),
            Kind::Direct => {
                let direct = Direct::create(dir)?;
                let fd = direct.file.fd().ok_or("a file without a descriptor")?.try_clone_to_owned()?;
                (StdFile::from(fd), Some(direct))
            }
        })
    }
}

/// A file as tokio-uring takes it; the prepared one knows its places.
type LogFile = (StdFile, Option<Direct>);

/// Runs the callers on this thread's ring.
fn start(
    meter: &Arc<Meter>,
    callers: usize,
    record_bytes: usize,
    files: Vec<LogFile>,
    flushes: &Arc<AtomicU64>,
) -> Result<(), Failure> {
    tokio_uring::start(async {
        let logs: Vec<_> = files
            .into_iter()
            .map(|(file, direct)| {
                let file = File::from_std(file);
                Rc::new(Shared {
                    file,
                    direct,
                    record_bytes,
                    end: Cell::new(0),
                    next: Cell::new(1),
                    free: RefCell::new(Vec::new()),
                    flushes: Arc::clone(flushes),
                })
            })
            .collect();
        let tasks: Vec<_> = (0..callers)
            .map(|index| {
                let (meter, shared) = (Arc::clone(meter), Rc::clone(&logs[index % logs.len()]));
                tokio_uring::spawn(async move {
                    let mut caller = Caller::new(&meter, index);
                    while let Some(at) = caller.next() {
                        caller.due().await;
                        if let Err(failure) = shared.append(&meter.payloads[at]).await {
                            meter.give_up();
                            return Err(failure);
                        }
                        caller.done();
                    }
                    Ok(())
                })
            })
            .collect();
        all_of(tasks).await
    })
}

struct Shared {
    file: File,
    direct: Option<Direct>,
    record_bytes: usize,
    end: Cell<u64>,
    next: Cell<u64>,
    free: RefCell<Vec<Vec<u8>>>,
    flushes: Arc<AtomicU64>,
}

impl Shared {
    async fn append(&self, payload: &[u8]) -> Result<(), Failure> {
        let block = self.direct.as_ref().map_or(1, |direct| direct.block_bytes);
        let room = self.record_bytes.next_multiple_of(block) + BUFFER_ALIGN;
        let mut buffer = self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; room]);
        // A vector's memory does not move: the aligned part of it stays where it is.
        let start = buffer.as_ptr().align_offset(BUFFER_ALIGN);
        let frame = Frame::new(payload);
        let (bytes, len) = (frame.len(), frame.len().next_multiple_of(block));
        frame.put(self.next.replace(self.next.get() + 1), &mut buffer[start..]);
        buffer[start + bytes..start + len].fill(0);
        let offset = match &self.direct {
            Some(direct) => direct.claim(len),
            None => self.end.replace(self.end.get() + len as u64),
        };
        let (written, slice) = self.file.write_all_at(buffer.slice(start..start + len), offset).await;
        self.free.borrow_mut().push(slice.into_inner());
        written?;
        self.file.sync_data().await?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
