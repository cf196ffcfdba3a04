//! What stands in place of `common::sync`: loom's forms of the same.

use std::{
    ops::Deref,
    sync::{self, PoisonError},
};

pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};

pub(crate) use crate::notify::{Notified, Notify};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time of a run, which stands still: long after its begin.
pub(crate) fn now() -> u64 {
    1_000_000
}

/// [`std::sync::Arc`], whose count loom sees. Its orderings are those of std; loom's own `Arc` hides that
/// [`strong_count`](Self::strong_count) is a relaxed load.
#[derive(Debug)]
pub(crate) struct Arc<T>(sync::Arc<Counted<T>>);

#[derive(Debug)]
struct Counted<T> {
    strong: atomic::AtomicUsize,
    value: T,
}

impl<T> Arc<T> {
    pub(crate) fn new(value: T) -> Self {
        let strong = atomic::AtomicUsize::new(1);
        Self(sync::Arc::new(Counted { strong, value }))
    }

    pub(crate) fn strong_count(this: &Self) -> usize {
        this.0.strong.load(atomic::Ordering::Relaxed)
    }
}

impl<T: Default> Default for Arc<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        self.0.strong.fetch_add(1, atomic::Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        self.0.strong.fetch_sub(1, atomic::Ordering::Release);
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}
