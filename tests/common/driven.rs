//! The same log, driven in either way: by a ring thread of its own, or inside a thread that it shares with others.

use std::path::Path;
use std::sync::mpsc;

use ringwal::{LocalLog, Log, OpenError, Options};
use tokio::task::{LocalSet, spawn_local};

/// Who drives the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driven {
    /// Its own ring thread.
    RingThread,
    /// A thread with a current-thread runtime; callers are elsewhere.
    CallersThread,
}

impl Driven {
    /// Opens a log. Dropping its last handle closes it in the background either way.
    pub(crate) fn open(self, dir: &Path, options: Options) -> Result<Log, OpenError> {
        match self {
            Self::RingThread => Log::open(dir, options).wait(),
            Self::CallersThread => {
                let (told, opened) = mpsc::channel();
                let dir = dir.to_path_buf();
                std::thread::spawn(move || drive(&dir, options, &told));
                opened.recv().unwrap()
            }
        }
    }
}

fn drive(dir: &Path, options: Options, told: &mpsc::Sender<Result<Log, OpenError>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        match LocalLog::open(dir, options).await {
            Ok(local) => {
                let driven = spawn_local(local.drive());
                told.send(Ok(local.log().clone())).unwrap();
                drop(local);
                driven.await.unwrap();
            }
            Err(error) => told.send(Err(error)).unwrap(),
        }
    });
}
