//! The drain: the cache that a thread which samples takes its blocks from. How it comes, and how it
//! goes while it may be in the middle of being emptied.
//!
//! ```text
//! choose_mode -> take_drain: an idle cache -> ... -> drop_drain -> leave_drain: idle again
//!                                                                  | held: `is_given_up`
//!                                                                  '-> when `HeldDrain` is dropped
//! ```
//!
//! What it holds, and when, is invariant 2 of `watch`. No unsafe here.

use super::large;
use crate::cache::Cache;
use crate::{caches, owner, thread};
use alloc_core::SizeClass;
use core::sync::atomic::Ordering;

pub(super) fn take_drain(cache: &'static Cache) -> bool {
    let Some(drain) = caches::take_idle() else { return false };
    drain.owner.set(owner::current());
    // Relaxed, here and where it is cleared: for counts only.
    drain.is_drain.store(true, Ordering::Relaxed);
    // Taking one may have run a fallback's code, which came here first.
    if let Some(former) = cache.watch.drain.replace(Some(drain)) {
        cache.before.set(cache.before.get().less(former.totals()));
        leave_drain(cache, former);
    }
    cache.before.set(cache.before.get().plus(drain.totals()));
    true
}

/// The drain is about to be emptied unused: what it holds counts again among the allocations that
/// are no samples (2). Forgotten, they would bring the next sample forward, and estimates would be
/// too high.
fn restore_left(cache: &Cache) {
    restore_left_small(cache);
    large::restore_left_large(cache);
}

/// The same for blocks of the size classes.
pub(crate) fn restore_left_small(cache: &Cache) {
    let Some(drain) = cache.watch.drain.get() else { return };
    for class in SizeClass::all() {
        if let Some(left) = cache.watch.left.get(class.index()) {
            // At most 512: the cast keeps the value.
            left.set(left.get().saturating_add(drain.counts(class).0 as u32));
        }
    }
}

pub(super) fn drop_drain(cache: &'static Cache) {
    restore_left(cache);
    if let Some(drain) = cache.watch.drain.take() {
        // Nothing may take from it while it is emptied.
        thread::aim(cache);
        cache.before.set(cache.before.get().less(drain.totals()));
        leave_drain(cache, drain);
    }
}

/// Leaves a drain that this thread no longer takes from to others; later if it is being emptied.
pub(super) fn leave_drain(cache: &'static Cache, drain: &'static Cache) {
    if is_same(cache.watch.held.get(), drain) {
        cache.watch.is_given_up.set(true);
        return;
    }
    drain.is_drain.store(false, Ordering::Relaxed);
    drain.owner.leave();
    caches::retire(drain);
}

fn is_same(held: Option<&'static Cache>, drain: &'static Cache) -> bool {
    held.is_some_and(|held| core::ptr::eq(held, drain))
}

/// A drain that stays this thread's until this is dropped.
pub(crate) struct HeldDrain {
    cache: &'static Cache,
    drain: &'static Cache,
    /// What was held before, and whether that was given up.
    outer: (Option<&'static Cache>, bool),
}

/// This thread's drain, for who empties it. That runs a fallback's code, which may call back in and
/// act on a change of what is watched: the drain would be another thread's by the time it returns.
pub(crate) fn hold_drain(cache: &'static Cache) -> Option<HeldDrain> {
    let watch = &cache.watch;
    let drain = watch.drain.get()?;
    let outer = (watch.held.replace(Some(drain)), watch.is_given_up.get());
    // It is in use, so if it is held already it was not given up.
    watch.is_given_up.set(false);
    Some(HeldDrain { cache, drain, outer })
}

impl HeldDrain {
    /// Whether this thread no longer takes from it.
    pub(crate) fn is_given_up(&self) -> bool {
        self.cache.watch.is_given_up.get()
    }
}

impl core::ops::Deref for HeldDrain {
    type Target = &'static Cache;
    fn deref(&self) -> &&'static Cache {
        &self.drain
    }
}

impl Drop for HeldDrain {
    fn drop(&mut self) {
        let watch = &self.cache.watch;
        watch.held.set(self.outer.0);
        if is_same(self.outer.0, self.drain) {
            // Up to who holds it, too.
            return;
        }
        if watch.is_given_up.replace(self.outer.1) {
            leave_drain(self.cache, self.drain);
        }
    }
}
