//! A log inside its caller's own thread: what its descriptor tells, on which executors it runs, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod rig;
}

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use common::rig::{Scratch, child as child_in, role, skip};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringwal::{AppendError, Cause, Engine, LocalLog, Log, Lsn, OpenError, Options};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// For waits that should be short: longer is a failure, and nothing else is timed.
const LONG: Duration = Duration::from_secs(20);
const ENGINES: [Engine; 2] = [Engine::Auto, Engine::Syscalls];

fn options(engine: Engine) -> Options {
    Options::default().segment_bytes(1 << 20).engine(engine)
}

fn open(dir: &Path, engine: Engine) -> LocalLog {
    LocalLog::open(dir, options(engine)).wait().unwrap()
}

/// Whether the descriptor is readable within `timeout`.
fn readable(log: &LocalLog, timeout: Duration) -> bool {
    let timeout = PollTimeout::try_from(timeout).unwrap();
    poll(&mut [PollFd::new(log.as_fd(), PollFlags::POLLIN)], timeout) == Ok(1)
}

/// Drives by the descriptor alone: a turn whenever it is readable, and never otherwise.
fn drive_until(log: &LocalLog, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(readable(log, LONG), "{what}: the descriptor tells nothing");
        assert!(Instant::now() < deadline, "{what}: not within {LONG:?}");
        log.turn();
    }
}

/// Drives until there is nothing left to do: sealed, all segments ready, the descriptor silent.
fn calm(log: &LocalLog) {
    let deadline = Instant::now() + LONG;
    while log.turn() != Some(Duration::MAX) || readable(log, Duration::from_millis(30)) {
        assert!(Instant::now() < deadline, "the log never becomes calm");
    }
}

fn current() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Inside a current-thread runtime with a place for local tasks.
fn inside<F: Future>(future: F) -> F::Output {
    let set = LocalSet::new();
    let output = set.block_on(&current(), async { tokio::time::timeout(LONG, future).await });
    output.expect("a future does not resolve")
}

fn label(dir: &Path) -> (&'static str, u64) {
    let log = Log::open(dir, options(Engine::Auto)).wait().unwrap();
    let found = (log.recovery_report().label, log.durable_lsn().get());
    log.close().wait().unwrap();
    found
}

#[test]
fn the_descriptor_tells_of_a_completion_an_idle_seal_and_a_wake_up_from_any_thread() {
    let scratch = Scratch::new("local-tells");
    for (at, engine) in ENGINES.into_iter().enumerate() {
        let log = open(&scratch.join(&format!("log-{at}")), engine);
        calm(&log);
        // An append in this thread, its completion, and the seal behind it.
        let (seals, pending) = (log.stats().seals, log.submit(b"here").unwrap());
        assert!(readable(&log, LONG), "an append when nothing was in flight");
        drive_until(&log, "a completion", || log.durable_lsn() >= pending.lsn());
        drive_until(&log, "an idle seal", || log.stats().seals > seals);
        calm(&log);
        // And in another.
        let other = log.log().clone();
        let thread = std::thread::spawn(move || other.submit(b"elsewhere").unwrap().wait().unwrap());
        drive_until(&log, "a wake-up from another thread", || log.durable_lsn() == Lsn::new(2));
        assert_eq!(thread.join().unwrap(), Lsn::new(2));
        // The due time by itself, without any other event.
        let due = log.turn().unwrap();
        assert!(due <= Duration::from_millis(10), "{due:?}");
        let seals = log.stats().seals;
        drive_until(&log, "a due time", || log.stats().seals > seals);
        log.close().wait().unwrap();
        assert_eq!(log.turn(), None, "it is over");
    }
}

#[test]
fn the_descriptor_tells_of_a_prepared_segment() {
    let scratch = Scratch::new("local-prepared");
    for (at, engine) in ENGINES.into_iter().enumerate() {
        let log = open(&scratch.join(&format!("log-{at}")), engine);
        let record = vec![7; 100_000];
        // Nobody turns meanwhile: what is ready is soon used up.
        let mut pending = Vec::new();
        while let Ok(one) = log.submit(&record) {
            pending.push(one);
            assert!(pending.len() < 100, "more segments are ready than there should be");
        }
        let next = log.appended_lsn().next();
        let mut append = Box::pin(log.append(&record));
        let mut done = append.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert_eq!((done, log.appended_lsn().next()), (false, next), "it has to wait for a segment");
        drive_until(&log, "a prepared segment", || {
            done = done || append.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
            done
        });
        assert_eq!((log.durable_lsn(), log.stats().rotations >= 1), (next, true));
        drop(append);
        log.close().wait().unwrap();
    }
}

/// A hand-written executor: its tasks, whose turn it is, and poll(2) when it is nobody's.
struct Bare {
    tasks: RefCell<Vec<Option<Task>>>,
}

type Task = (Pin<Box<dyn Future<Output = ()>>>, Arc<Flag>);

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Bare {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().push(Some((Box::pin(task), Arc::new(Flag(AtomicBool::new(true))))));
    }

    fn run(&self, log: &LocalLog) {
        let deadline = Instant::now() + LONG;
        while self.tasks.borrow().iter().any(Option::is_some) {
            assert!(Instant::now() < deadline, "a task does not end");
            for slot in &mut *self.tasks.borrow_mut() {
                let Some((task, flag)) = slot else { continue };
                if flag.0.swap(false, Ordering::Acquire)
                    && task.as_mut().poll(&mut Context::from_waker(&Waker::from(flag.clone()))).is_ready()
                {
                    *slot = None;
                }
            }
            log.turn();
            let woken = self.tasks.borrow().iter().flatten().any(|(_, flag)| flag.0.load(Ordering::Acquire));
            assert!(woken || self.tasks.borrow().iter().all(Option::is_none) || readable(log, LONG), "nobody is woken");
        }
    }
}

#[test]
fn it_runs_on_a_bare_poll_loop_and_shares_flushes() {
    let scratch = Scratch::new("local-bare");
    for (at, engine) in ENGINES.into_iter().enumerate() {
        let dir = scratch.join(&format!("log-{at}"));
        let log = open(&dir, engine);
        let bare = Bare { tasks: RefCell::default() };
        let lsns = Rc::new(RefCell::new(Vec::new()));
        for task in 0..32u8 {
            let (log, lsns) = (log.clone(), lsns.clone());
            bare.spawn(async move {
                for _ in 0..50 {
                    let lsn = log.append(&[task; 2000]).await.unwrap();
                    lsns.borrow_mut().push(lsn.get());
                }
            });
        }
        bare.run(&log);
        lsns.borrow_mut().sort_unstable();
        assert_eq!(*lsns.borrow(), (1..=1600).collect::<Vec<_>>());
        let flushes = log.stats().flushes;
        // One for each round, and a few where a segment ended.
        assert!(flushes <= 60, "{flushes} flushes for 50 rounds of 32 tasks");
        log.close().wait().unwrap();
        assert_eq!(label(&dir), ("R10", 1600));
    }
}

/// So many tasks append so often, each waiting for its record.
async fn appenders(log: &LocalLog, tasks: u64, each: u64) {
    let tasks: Vec<JoinHandle<()>> = (0..tasks)
        .map(|task| {
            let log = log.clone();
            spawn_local(async move {
                for number in 0..each {
                    log.append(format!("{task}/{number}").as_bytes()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
fn tasks_of_a_runtime_that_are_woken_together_share_one_flush() {
    let scratch = Scratch::new("local-tokio");
    for (at, engine) in ENGINES.into_iter().enumerate() {
        let dir = scratch.join(&format!("log-{at}"));
        inside(async {
            let log = LocalLog::open(&dir, options(engine)).await.unwrap();
            let driven = spawn_local(log.drive());
            appenders(&log, 200, 20).await;
            let stats = log.stats();
            assert_eq!(stats.records, 4000);
            assert!(stats.flushes <= 24, "{} flushes for 20 rounds: there are cohorts", stats.flushes);
            log.close().await.unwrap();
            driven.await.unwrap();
        });
        assert_eq!(label(&dir), ("R10", 4000));
    }
}

#[test]
fn tasks_beside_the_local_set_share_one_flush_too() {
    let scratch = Scratch::new("local-beside");
    let dir = scratch.join("log");
    let runtime = current();
    runtime.block_on(async {
        let log = LocalLog::open(&dir, options(Engine::Auto)).await.unwrap();
        let work = async {
            // Not local: they are in the runtime's own queue, the driver is in the root future.
            let tasks: Vec<_> = (0..200u64)
                .map(|_| {
                    let log = log.log().clone();
                    tokio::spawn(async move {
                        for _ in 0..20 {
                            log.append(b"beside").await.unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            let flushes = log.stats().flushes;
            assert!(flushes <= 30, "{flushes} flushes for 20 rounds: there are cohorts");
            log.close().await.unwrap();
        };
        tokio::join!(log.drive(), work);
    });
    assert_eq!(label(&dir), ("R10", 4000));
}

#[test]
fn it_runs_inside_tokio_uring() {
    let scratch = Scratch::new("local-tokio-uring");
    let dir = scratch.join("log");
    if std::panic::catch_unwind(|| tokio_uring::start(async {})).is_err() {
        return skip("it_runs_inside_tokio_uring", "io_uring is refused");
    }
    tokio_uring::start(async {
        let log = LocalLog::open(&dir, options(Engine::Auto)).await.unwrap();
        let driven = tokio_uring::spawn(log.drive());
        appenders(&log, 32, 20).await;
        assert_eq!(log.stats().records, 640);
        log.close().await.unwrap();
        driven.await.unwrap();
    });
    assert_eq!(label(&dir), ("R10", 640));
}

#[test]
fn waiting_in_the_driving_thread_drives() {
    let scratch = Scratch::new("local-wait");
    for (at, engine) in ENGINES.into_iter().enumerate() {
        let log = open(&scratch.join(&format!("log-{at}")), engine);
        for number in 1..=20 {
            assert_eq!(log.submit(b"record").unwrap().wait().unwrap(), Lsn::new(number));
        }
        // Two at once, and one with a ring thread of its own.
        let second = open(&scratch.join(&format!("second-{at}")), engine);
        let own = Log::open(scratch.join(&format!("own-{at}")), options(engine)).wait().unwrap();
        let (one, two) = (log.submit(b"record").unwrap(), second.submit(b"record").unwrap());
        assert_eq!(own.submit(b"record").unwrap().wait().unwrap(), Lsn::new(1));
        assert_eq!((two.wait().unwrap(), one.wait().unwrap()), (Lsn::new(1), Lsn::new(21)));
        assert!(log.sync().wait().unwrap() >= Lsn::new(21));
        own.close().wait().unwrap();
        second.close().wait().unwrap();
        log.close().wait().unwrap();
    }
    // Beside a future that drives, in a task.
    inside(async {
        let log = LocalLog::open(scratch.join("tasks"), options(Engine::Auto)).await.unwrap();
        let driven = spawn_local(log.drive());
        for number in 1..=20 {
            let lsn = if number % 2 == 0 { log.append(b"a").await } else { log.submit(b"b").unwrap().wait() };
            assert_eq!(lsn.unwrap(), Lsn::new(number));
        }
        log.close().wait().unwrap();
        driven.await.unwrap();
    });
}

#[test]
fn the_last_drop_closes_and_resolves_every_future() {
    let scratch = Scratch::new("local-drop");
    for (at, engine) in ENGINES.into_iter().enumerate() {
        let dir = scratch.join(&format!("log-{at}"));
        let log = open(&dir, engine);
        let elsewhere = log.log().clone();
        let waiter = {
            let log = log.log().clone();
            std::thread::spawn(move || log.wait_durable(Lsn::new(999)).wait())
        };
        let staged: Vec<_> = (0..100).map(|_| log.submit(b"staged").unwrap()).collect();
        let again = log.clone();
        drop(log);
        again.turn();
        drop(again);
        for (number, one) in staged.into_iter().enumerate() {
            assert_eq!(one.wait().unwrap().get(), number as u64 + 1);
        }
        assert_eq!(waiter.join().unwrap(), Err(AppendError::Closed));
        assert!(matches!(elsewhere.submit(b"late"), Err(ringwal::SubmitError::Append(AppendError::Closed))));
        elsewhere.close().wait().unwrap();
        assert_eq!(label(&dir), ("R10", 100));
    }
}

#[test]
fn a_driving_future_closes_what_is_dropped_in_the_background() {
    let scratch = Scratch::new("local-background");
    let dir = scratch.join("log");
    inside(async {
        let log = LocalLog::open(&dir, options(Engine::Auto)).await.unwrap();
        let driven = spawn_local(log.drive());
        log.append(b"one").await.unwrap();
        let pending = log.submit(b"two").unwrap();
        drop(log);
        driven.await.unwrap();
        assert_eq!(pending.await.unwrap(), Lsn::new(2));
    });
    assert_eq!(label(&dir), ("R10", 2));
}

#[test]
fn driving_may_stop_and_go_on_by_any_means() {
    let scratch = Scratch::new("local-stop");
    let dir = scratch.join("log");
    inside(async {
        let log = LocalLog::open(&dir, options(Engine::Auto)).await.unwrap();
        for _ in 0..10 {
            let driven = spawn_local(log.drive());
            log.append(b"driven").await.unwrap();
            driven.abort();
            assert!(driven.await.unwrap_err().is_cancelled());
            // By turns, told by the descriptor alone.
            let pending = log.submit(b"turned").unwrap();
            drive_until(&log, "the rest", || log.durable_lsn() >= pending.lsn());
        }
        // Two at once.
        let both = [spawn_local(log.drive()), spawn_local(log.drive())];
        log.append(b"driven by two").await.unwrap();
        both[1].abort();
        log.append(b"driven by one").await.unwrap();
        log.close().await.unwrap();
    });
    assert_eq!(label(&dir), ("R10", 22));
}

#[test]
fn a_runtime_that_ends_takes_the_log_with_it_and_loses_nothing() {
    let scratch = Scratch::new("local-runtime");
    let dir = scratch.join("log");
    let pending = Rc::new(RefCell::new(Vec::new()));
    let (set, runtime) = (LocalSet::new(), current());
    set.block_on(&runtime, async {
        let log = LocalLog::open(&dir, options(Engine::Auto)).await.unwrap();
        spawn_local(log.drive());
        let pending = pending.clone();
        spawn_local(async move {
            (0..50).for_each(|_| pending.borrow_mut().push(log.submit(b"record").unwrap()));
            std::future::pending::<()>().await;
            drop(log);
        });
        tokio::task::yield_now().await;
    });
    drop(set);
    drop(runtime);
    let pending = std::mem::take(&mut *pending.borrow_mut());
    assert_eq!(pending.len(), 50);
    pending.into_iter().for_each(|one| assert!(one.wait().is_ok()));
    assert_eq!(label(&dir), ("R10", 50));
}

#[test]
fn outside_a_runtime_driving_panics_and_nobody_waits_for_ever() {
    let scratch = Scratch::new("local-outside");
    let log = open(&scratch.join("log"), Engine::Auto);
    let pending = log.submit(b"record").unwrap();
    let mut drive = Box::pin(log.drive());
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drive.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }));
    assert!(polled.is_err());
    assert!(matches!(pending.wait(), Err(AppendError::Poisoned(Cause::Panic(_)))));
    assert!(matches!(log.close().wait(), Err(AppendError::Poisoned(_))));
}

#[test]
fn a_panic_of_the_driver_resolves_every_future() {
    let scratch = Scratch::new("local-panic");
    let dir = scratch.join("log");
    let log = LocalLog::open(&dir, options(Engine::Auto).delay_max(Duration::from_secs(60))).wait().unwrap();
    let staged = log.submit(b"staged").unwrap();
    log.panic_for_tests();
    drive_until(&log, "the end", || log.turn().is_none());
    assert!(matches!(staged.wait(), Err(AppendError::Poisoned(Cause::Panic(_)))));
    assert!(matches!(log.close().wait(), Err(AppendError::Poisoned(_))));
    let again = open(&dir, Engine::Auto);
    assert_eq!(again.submit(b"works again").unwrap().wait().unwrap(), Lsn::new(1));
}

/// What fails in a child, whose file sizes are limited.
#[test]
fn child() {
    if role().as_deref() != Some("poisoned") {
        return;
    }
    let dir = std::env::var("RINGWAL_DIR").unwrap();
    inside(async {
        // Segments of their full length exist: only a limit below that makes a write fail.
        let log = LocalLog::open(&dir, options(Engine::Auto)).await.unwrap();
        let driven = spawn_local(log.drive());
        log.append(b"fine").await.unwrap();
        #[expect(unsafe_code, reason = "signal dispositions are unsafe to change")]
        // SAFETY: ignoring a signal runs no handler.
        unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGXFSZ, nix::sys::signal::SigHandler::SigIgn) }
            .unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_FSIZE, 4096, 4096).unwrap();
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let log = log.clone();
                spawn_local(async move { log.append(b"fails").await })
            })
            .collect();
        for one in waiting {
            assert!(matches!(one.await.unwrap(), Err(AppendError::Poisoned(Cause::Io(_)))));
        }
        assert!(matches!(log.append(b"later").await, Err(AppendError::Poisoned(Cause::Io(_)))));
        assert_eq!(log.durable_lsn(), Lsn::new(1));
        assert!(matches!(log.close().await, Err(AppendError::Poisoned(Cause::Io(_)))));
        driven.await.unwrap();
    });
    println!("poisoned as it should be");
}

#[test]
fn a_failed_write_poisons_and_ends_the_driving() {
    let scratch = Scratch::new("local-poison");
    let output = child_in("poisoned").env("RINGWAL_DIR", scratch.join("log")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("poisoned as it should be"), "{output:?}");
    assert_eq!(label(&scratch.join("log")).1, 1);
}

#[test]
fn what_one_wrote_the_other_opens() {
    let scratch = Scratch::new("local-files");
    let dir = scratch.join("log");
    for round in 0..6u64 {
        let payload = round.to_le_bytes();
        if round % 2 == 0 {
            let log = open(&dir, ENGINES[usize::try_from(round / 2 % 2).unwrap()]);
            assert_eq!(log.submit(&payload).unwrap().wait().unwrap(), Lsn::new(round + 1));
            log.close().wait().unwrap();
        } else {
            let log = Log::open(&dir, options(Engine::Auto)).wait().unwrap();
            assert_eq!(log.recovery_report().label, "R10");
            assert_eq!(log.submit(&payload).unwrap().wait().unwrap(), Lsn::new(round + 1));
            log.close().wait().unwrap();
        }
    }
    let log = open(&dir, Engine::Auto);
    let found: Vec<_> = log.read(..).unwrap().map(|record| record.unwrap().payload.to_vec()).collect();
    assert_eq!(found, (0..6u64).map(|round| round.to_le_bytes().to_vec()).collect::<Vec<_>>());
    assert!(matches!(
        Log::open(&dir, options(Engine::Auto).lock_wait(Duration::ZERO)).wait(),
        Err(OpenError::Held { .. })
    ));
}

#[test]
fn an_abandoned_opening_lets_go() {
    let scratch = Scratch::new("local-abandoned");
    let dir = scratch.join("log");
    drop(LocalLog::open(&dir, options(Engine::Auto)));
    assert!(!dir.exists(), "an opening that was never polled does nothing");
    let mut opening = Box::pin(LocalLog::open(&dir, options(Engine::Auto)));
    assert!(opening.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(opening);
    let deadline = Instant::now() + LONG;
    let log = loop {
        match Log::open(&dir, options(Engine::Auto)).wait() {
            Ok(log) => break log,
            Err(OpenError::Held { .. }) => assert!(Instant::now() < deadline, "the opening is never let go"),
            Err(error) => panic!("{error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert_eq!(log.submit(b"record").unwrap().wait().unwrap(), Lsn::new(1));
}

#[test]
fn appends_without_a_system_call_wake_the_waker_and_leave_the_descriptor_alone() {
    let scratch = Scratch::new("local-waker");
    let log = open(&scratch.join("log"), Engine::Auto);
    calm(&log);
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(flag.clone());
    log.turn_with(&waker);
    let pending = log.submit(b"record").unwrap();
    assert!(flag.0.load(Ordering::Acquire), "the waker is woken");
    assert!(!readable(&log, Duration::from_millis(20)), "and the descriptor has nothing to tell");
    log.turn_with(&waker);
    let turns = Cell::new(0);
    drive_until(&log, "the completion", || {
        turns.set(turns.get() + 1);
        log.durable_lsn() >= pending.lsn()
    });
    assert!(turns.get() < 50, "{} turns for one record", turns.get());
    let (sender, receiver) = mpsc::channel();
    let other = log.log().clone();
    log.turn_with(&waker);
    std::thread::spawn(move || sender.send(other.submit(b"elsewhere").unwrap().wait()).unwrap());
    let deadline = Instant::now() + LONG;
    while receiver.try_recv().is_err() {
        assert!(Instant::now() < deadline, "the other thread's record");
        if flag.0.swap(false, Ordering::AcqRel) || readable(&log, Duration::from_millis(1)) {
            log.turn_with(&waker);
        }
    }
}
