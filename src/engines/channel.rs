//! A channel to one writer thread: each append sends its record and waits for the answer; the thread takes what has
//! arrived, writes it, flushes once, and answers all. What most people write when they need a log in an async program.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::sync::oneshot;

use super::async_load::{Appender, runtime, with_tasks};
use super::file::{Kind, LogFile, each_log};
use super::frame::{Frame, framed_bytes};
use super::{Counts, Engine, Failure, Load, Sample};
use crate::disk::Buffer;

/// As much as ringwal puts in a batch.
const BATCH_BYTES: usize = 1 << 20;
const GONE: &str = "the writer thread is gone";

/// Appenders on one side, a thread with the file on the other.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

impl Engine for Channel {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, dir: &Path, load: &Load) -> Result<Sample, Failure> {
        let runtime = runtime()?;
        let flushes = AtomicU64::new(0);
        let files = each_log(dir, load, |dir| LogFile::create(dir, self.kind))?;
        thread::scope(|scope| {
            let senders = files.iter().map(|file| {
                let (sender, receiver) = channel();
                let flushes = &flushes;
                scope.spawn(move || write(file, load.payload_max(), &receiver, flushes));
                sender
            });
            let counts = || Counts::new(flushes.load(Ordering::Relaxed), "write+fdatasync");
            // The senders end with the tasks, and the threads with the senders.
            with_tasks(load, &runtime, &counts, senders.collect())
        })
    }
}

/// A record on its way. It is shared, not copied, as `Bytes` would be.
#[derive(Debug)]
struct Request {
    payloads: Arc<[Box<[u8]>]>,
    at: usize,
    done: oneshot::Sender<Result<(), String>>,
}

impl Appender for Sender<Request> {
    async fn append(&self, payloads: &Arc<[Box<[u8]>]>, at: usize) -> Result<(), Failure> {
        let (done, answer) = oneshot::channel();
        let request = Request { payloads: Arc::clone(payloads), at, done };
        self.send(request).map_err(|_| GONE)?;
        Ok(answer.await.map_err(|_| GONE)??)
    }
}

/// The writer thread: until every sender is gone.
fn write(file: &LogFile, payload_max: usize, requests: &Receiver<Request>, flushes: &AtomicU64) {
    let mut buffer = Buffer::new(file.padded(framed_bytes(payload_max).max(BATCH_BYTES)));
    let (mut answers, mut last) = (Vec::new(), 0);
    let mut next = requests.recv().ok();
    while let Some(first) = next.take() {
        let mut bytes = 0;
        let mut request = Some(first);
        while let Some(Request { payloads, at, done }) = request.take() {
            let frame = Frame::new(&payloads[at]);
            let len = frame.len();
            last += 1;
            frame.put(last, &mut buffer[bytes..]);
            bytes += len;
            answers.push(done);
            match requests.try_recv() {
                Ok(more) if bytes + framed_bytes(more.payloads[more.at].len()) <= buffer.len() => request = Some(more),
                Ok(more) => next = Some(more),
                Err(_) => {}
            }
        }
        let written = file.append(&mut buffer, bytes).and_then(|()| file.sync());
        flushes.fetch_add(1, Ordering::Relaxed);
        let answer = written.map_err(|error| error.to_string());
        // A caller that no longer listens does not want to know.
        answers.drain(..).for_each(|done| drop(done.send(answer.clone())));
        next = next.or_else(|| requests.recv().ok());
    }
}
