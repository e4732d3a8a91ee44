//! ringwal inside the callers' own thread: all of them are tasks of one current-thread runtime, which drives the log.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

use super::async_load::all_of;
use super::meter::{Caller, Meter};
use super::own::{counts, pinned, snapshots};
use super::{Engine, Failure, Load, Sample};
use crate::log::{LocalLog, Log};
use crate::options::{self, Options};

/// ringwal without a ring thread, with one of its disks.
#[derive(Debug)]
pub(super) struct Local {
    name: &'static str,
    engine: options::Engine,
}

/// As it comes.
pub(super) static RINGWAL: Local = Local { name: "ringwal-local", engine: options::Engine::Auto };
/// Without a disk: what our own work costs.
pub(super) static NULL: Local = Local { name: "null-local", engine: options::Engine::Null };

impl Engine for Local {
    fn name(&self) -> &'static str {
        self.name
    }

    fn takes_pins(&self) -> bool {
        self.engine == options::Engine::Auto
    }

    fn run(&self, dir: &Path, load: &Load) -> Result<Sample, Failure> {
        if load.logs > 1 {
            return Err("one thread drives one log here: leave --logs at 1".into());
        }
        let volatile = self.engine == options::Engine::Null;
        let options = pinned(Options::default().engine(self.engine).allow_volatile(volatile), load);
        let (opened, open) = channel();
        let (started, start) = channel();
        thread::scope(|scope| {
            let thread = scope.spawn(move || drive(dir, options, load, &opened, &start));
            let join = || thread.join().unwrap_or_else(|_| Err("the callers' thread panicked".into()));
            let Ok(log) = open.recv() else { return Err(join().err().unwrap_or_else(|| "no log".into())) };
            let meter = Meter::new(load);
            started.send(Arc::clone(&meter))?;
            let logs = [log];
            snapshots(&logs, load, || meter.watch(&|| counts(&logs), join))
        })
    }
}

/// Opens the log, waits for the start, and runs the callers.
fn drive(
    dir: &Path,
    options: Options,
    load: &Load,
    opened: &Sender<Log>,
    start: &Receiver<Arc<Meter>>,
) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        let log = LocalLog::open(dir, options).await?;
        // A thread that owns its core, as this engine is for, chooses which: see `LocalLog::disk_core`.
        load.sit();
        opened.send(log.log().clone())?;
        let meter = start.recv()?;
        let driven = spawn_local(log.drive());
        let tasks: Vec<_> = (0..load.callers)
            .map(|index| {
                let (meter, log) = (Arc::clone(&meter), log.clone());
                spawn_local(async move {
                    let mut caller = Caller::new(&meter, index);
                    while let Some(at) = caller.next() {
                        caller.due().await;
                        if let Err(failure) = log.append(&meter.payloads[at]).await {
                            meter.give_up();
                            return Err(Failure::from(failure));
                        }
                        caller.done();
                    }
                    Ok(())
                })
            })
            .collect();
        let result = all_of(tasks).await;
        let closed = log.close().await;
        driven.await?;
        result.and(closed.map_err(Failure::from))
    })
}
