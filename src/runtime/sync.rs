//! Locks and atomics in one place, so that a model checker's can take theirs.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Locks, also behind a thread that panicked while it held the lock: what the locks here guard is consistent between
/// any two statements that can panic, and promise P8 wants every future resolved even then.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
