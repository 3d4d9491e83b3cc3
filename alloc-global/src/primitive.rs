//! What lock, turn and owner are made of, in one place, so that `tests/loom.rs` can put loom's
//! versions here.
//!
//! No unsafe here.

pub(crate) use crate::membarrier::heavy_fence;
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The cheap side of an asymmetric fence: keeps the compiler from moving memory accesses across it.
#[inline(always)]
pub(crate) fn light_fence() {
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// How often a lock looks again before it sleeps: as long as `Backoff` sees fit.
pub(crate) fn spin(mut look: impl FnMut() -> bool) -> bool {
    let backoff = crossbeam_utils::Backoff::new();
    while !backoff.is_completed() {
        if look() {
            return true;
        }
        backoff.snooze();
    }
    false
}

/// A place that a model checker watches: nothing here.
#[derive(Debug)]
pub(crate) struct Watched;

impl Watched {
    pub(crate) const fn new() -> Self {
        Watched
    }

    /// The holder of the lock enters what it guards.
    #[inline(always)]
    pub(crate) fn touch(&self) {}
}

pub(crate) use crate::futex;
