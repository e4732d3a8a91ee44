//! The load of tokio tasks.

use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::Failure;
use super::load::{Counts, Load, Sample};
use super::meter::{Caller, Meter};

/// Appends from a task.
pub(super) trait Appender: Send + Sync + 'static {
    /// Returns when the record is durable.
    fn append(&self, payloads: &Arc<[Box<[u8]>]>, at: usize) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A multi-threaded runtime with tokio's defaults, as an application has.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_multi_thread().build()?)
}

/// Runs a load of tasks on `runtime`, one for each caller, spread over `appenders` (one for each log).
pub(super) fn with_tasks<A: Appender>(
    load: &Load,
    runtime: &Runtime,
    counts: &dyn Fn() -> Counts,
    appenders: Vec<A>,
) -> Result<Sample, Failure> {
    let meter = Meter::new(load);
    let appenders: Vec<Arc<A>> = appenders.into_iter().map(Arc::new).collect();
    let tasks: Vec<_> = (0..load.callers)
        .map(|index| {
            let (meter, appender) = (Arc::clone(&meter), Arc::clone(&appenders[index % appenders.len()]));
            runtime.spawn(async move {
                let mut caller = Caller::new(&meter, index);
                while let Some(at) = caller.next() {
                    caller.due().await;
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
    drop(appenders);
    meter.watch(counts, || runtime.block_on(all_of(tasks)))
}

/// Waits for all callers, also behind a failure: none may outlive the run.
pub(super) async fn all_of(tasks: Vec<JoinHandle<Result<(), Failure>>>) -> Result<(), Failure> {
    let mut result = Ok(());
    for task in tasks {
        let done = task.await.unwrap_or_else(|panic| Err(panic.into()));
        result = result.and(done);
    }
    result
}
