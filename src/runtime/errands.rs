//! Blocking work for futures: a few threads that the whole process shares, started when there is work and gone when there
//! is none.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use super::sync::PoisonError;

/// How many errands run at once: they read disks, and more would only wait for one another.
const THREADS_MAX: usize = 4;

/// How long a thread waits for the next errand.
const IDLE: Duration = Duration::from_secs(1);

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Waiting {
    work: VecDeque<Work>,
    threads: usize,
    idle: usize,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { work: VecDeque::new(), threads: 0, idle: 0 });
static NEWS: Condvar = Condvar::new();

/// Something that is being done elsewhere.
pub(crate) struct Errand<T>(Arc<Mutex<Answer<T>>>);

/// Who holds this owes an errand its answer; dropped, the errand is told that there will be none.
pub(crate) struct Promise<T>(Arc<Mutex<Answer<T>>>);

struct Answer<T> {
    /// None while it is under way; the inner one is None if there is no answer.
    result: Option<Option<T>>,
    waker: Option<Waker>,
}

/// An errand and who owes its answer.
pub(crate) fn errand<T>() -> (Promise<T>, Errand<T>) {
    let answer = Arc::new(Mutex::new(Answer { result: None, waker: None }));
    (Promise(answer.clone()), Errand(answer))
}

impl<T> Promise<T> {
    /// Gives the answer.
    pub(crate) fn keep(self, answer: T) {
        self.settle(Some(answer));
    }

    fn settle(&self, result: Option<T>) {
        let mut answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answer.result.is_none() {
            answer.result = Some(result);
        }
        let waker = answer.waker.take();
        drop(answer);
        if let Some(waker) = waker {
            // A waker that panics must not take down whom it has nothing to do with.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.settle(None);
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promise").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Errand<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errand").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Errand<T> {
    /// Sends it on its way. Where no thread is to be had, it is done here and now.
    pub(crate) fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (promise, errand) = errand();
        send(Box::new(move || {
            // Its panic was told by its hook; the promise that it drops tells who waits.
            let _ = catch_unwind(AssertUnwindSafe(move || promise.keep(work())));
        }));
        errand
    }
}

impl<T> Errand<T> {
    /// Ready with the answer; none if there will be none.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Option<T>> {
        let mut answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = answer.result.take() {
            return Poll::Ready(result);
        }
        answer.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn send(work: Work) {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.work.push_back(work);
    if waiting.idle >= waiting.work.len() || waiting.threads == THREADS_MAX {
        NEWS.notify_one();
        return;
    }
    waiting.threads += 1;
    if thread::Builder::new().name("ringwal-errand".to_owned()).spawn(run).is_ok() {
        return;
    }
    waiting.threads -= 1;
    if waiting.threads == 0 {
        let work = std::mem::take(&mut waiting.work);
        drop(waiting);
        work.into_iter().for_each(|work| work());
    }
}

fn run() {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(work) = waiting.work.pop_front() {
            drop(waiting);
            work();
            waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        waiting.idle += 1;
        let (again, timeout) = NEWS.wait_timeout(waiting, IDLE).unwrap_or_else(PoisonError::into_inner);
        waiting = again;
        waiting.idle -= 1;
        if timeout.timed_out() && waiting.work.is_empty() {
            waiting.threads -= 1;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::append::block_on;
    use std::future::poll_fn;

    #[test]
    fn everything_is_done_and_a_panic_is_told() {
        let errands: Vec<_> = (0..100).map(|number| Errand::start(move || number * 2)).collect();
        for (number, errand) in errands.iter().enumerate() {
            assert_eq!(block_on(poll_fn(|cx| errand.poll(cx))), Some(2 * number));
        }
        let failed = Errand::<()>::start(|| panic!("asked to by a test"));
        assert_eq!(block_on(poll_fn(|cx| failed.poll(cx))), None);
    }
}
