//! Locks and atomics in one place, so that a model checker's can take theirs.
//!
//! The models (`RUSTFLAGS="--cfg ringwal_loom" cargo test --release --lib loom`) try every interleaving, within a bound,
//! of what stands beside them: they lie in `disk/shared`, `disk/notify`, `runtime/durable` and `runtime/stage`. The cfg
//! has our name because other crates of the build change too when they see a plain `loom`.

#[cfg(all(test, ringwal_loom))]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};
#[cfg(not(all(test, ringwal_loom)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};
// No protocol rests on these two: loom's could not hold a `dyn` or be shared with what is not modelled.
pub(crate) use std::sync::{Arc, PoisonError, RwLock};

/// Locks, also behind a thread that panicked while it held the lock: what the locks here guard is consistent between
/// any two statements that can panic, and promise P8 wants every future resolved even then.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cache lines of its own (two: they are fetched in pairs), so that who writes it slows nobody who only reads what
/// stands beside it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// Whether a model notices the deliberate mistake `bug`.
#[cfg(all(test, ringwal_loom, ringwal_seeded_bugs))]
pub(crate) fn catches(bug: &'static str, model: impl FnOnce(Option<&'static str>)) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model(Some(bug)))).is_err()
}

/// Tries every interleaving of `body`, with at most `preemptions` of them forced, and with a deliberate mistake.
#[cfg(all(test, ringwal_loom))]
pub(crate) fn model(bug: Option<&'static str>, preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    // The mistake is everybody's: one model at a time.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    #[cfg(ringwal_seeded_bugs)]
    crate::seeded::choose(bug);
    let _ = bug;
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}
