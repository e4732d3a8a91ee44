//! The load of tokio tasks.

use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use super::Failure;
use super::load::{Caller, Load, Meter, Sample};

/// Appends from a task.
pub(super) trait Appender: Send + Sync + 'static {
    /// Returns when the record is durable.
    fn append(&self, payloads: &Arc<[Box<[u8]>]>, at: usize) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A multi-threaded runtime with tokio's defaults, as an application has.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_multi_thread().build()?)
}

/// Runs a load of tasks on `runtime`, one for each caller.
pub(super) fn with_tasks<A: Appender>(
    load: &Load,
    runtime: &Runtime,
    flushes: &dyn Fn() -> u64,
    method: &'static str,
    appender: A,
) -> Result<Sample, Failure> {
    let (meter, appender) = (Meter::new(load), Arc::new(appender));
    let tasks: Vec<_> = (0..load.callers)
        .map(|index| {
            let (meter, appender) = (Arc::clone(&meter), Arc::clone(&appender));
            runtime.spawn(async move {
                let mut caller = Caller::new(&meter, index);
                while let Some(at) = caller.next() {
                    if let Err(failure) = appender.append(&meter.payloads, at).await {
                        meter.give_up();
                        return Err(failure);
                    }
                    caller.done();
                }
                Ok(())
            })
        })
        .collect();
    meter.watch(flushes, method, || {
        runtime.block_on(async {
            let mut result = Ok(());
            // All of them, also behind a failure: none may outlive the run.
            for task in tasks {
                let done = task.await.unwrap_or_else(|panic| Err(panic.into()));
                result = result.and(done);
            }
            result
        })
    })
}
