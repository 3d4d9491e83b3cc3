//! What is watched of blocks above 512 bytes, and how those of up to 4,096 are sampled: they pass
//! through the drain like the small ones, a few at a time.
//!
//! What counts down is one distance in bytes for all of them. It is charged for a block when that
//! goes to the drain, and gets back what lies there when the drain is emptied (2 in `watch`).
//!
//! A block that goes through the drain was taken by the thread's cache, and comes back to it:
//! counts of what came from the fallback stay there, but for blocks that leave the drain another
//! way.

use super::{EPOCH, Mode, PAUSED, Watch, forget, forget_all, note_alloc, update};
use crate::cache::Cache;
use crate::large_class::fallback_layout;
use crate::mid_class::{CacheBin, counted};
use crate::scope::Scope;
use crate::{profile, thread};
use alloc_core::Block;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

/// Blocks at a time.
const TURN: u64 = 16;

/// A block of a bin above 64 for an allocation that is no sample. `None` where it may be one, the
/// cache has no block of the bin, or nothing is sampled.
///
/// # Safety
///
/// The cache is that of the calling thread.
pub(crate) unsafe fn alloc_mid(cache: &'static Cache, bin: CacheBin) -> Option<Block> {
    let watch = &cache.watch;
    // Relaxed: `update` looks again.
    if watch.seen.get() != EPOCH.load(Ordering::Relaxed) {
        return None;
    }
    let (drain, size) = (watch.drain.get()?, bin.mid_class()?.size() as u64);
    // Not empty: allocations were gated.
    // SAFETY: the drain is the calling thread's too (1).
    if let Some(block) = unsafe { drain.pop(bin) } {
        return Some(block);
    }
    // At most 16: the cast keeps the value.
    let most = TURN.min(watch.left_bytes.get() / size) as u32;
    // SAFETY: both are the calling thread's (1); the drain has none of this bin.
    let moved = unsafe { cache.move_newest(bin, drain, most, |blocks| forget_all(None, blocks)) };
    watch.left_bytes.set(watch.left_bytes.get() - size * u64::from(moved));
    cache.note_drained(moved);
    // SAFETY: as above.
    unsafe { drain.pop(bin) }
}

impl Watch {
    /// Whether an allocation of `size` bytes above 512 is a sample.
    #[inline]
    fn is_large_due(&self, size: u64) -> bool {
        match self.left_bytes.get().checked_sub(size) {
            Some(left) => {
                self.left_bytes.set(left);
                false
            }
            None => {
                // Saturates.
                self.left_bytes.set(self.draw_bytes() as u64);
                true
            }
        }
    }
}

/// As `restore_left`, for what the drain holds of the bins above 64.
pub(crate) fn restore_left_large(cache: &Cache) {
    CacheBin::mids().for_each(|bin| restore_left_mid(cache, bin));
}

/// The same for one bin.
pub(crate) fn restore_left_mid(cache: &Cache, bin: CacheBin) {
    let left = &cache.watch.left_bytes;
    if let Some(drain) = cache.watch.drain.get()
        && let Some((len, _, class)) = drain.mid_counts(bin)
    {
        left.set(left.get().saturating_add(len * class.size() as u64));
        cache.hand_mids_over(drain, class, len);
    }
}

/// A block above 512 bytes was handed out.
#[cold]
#[inline(never)]
pub(crate) fn large_alloc(block: *mut u8, layout: Layout) {
    let (Some(block), Some(cache)) = (NonNull::new(block), thread::attached()) else { return };
    let watch = &cache.watch;
    if watch.seen.get() != EPOCH.load(Ordering::Relaxed) {
        update(cache);
    }
    let size = fallback_layout(layout).size();
    let due = || watch.is_large_due(counted(layout.size() as u64, size as u64));
    if watch.mode.get() == Mode::Sample {
        // Most often this is all; no scope is open.
        forget(block);
        if due() && watch.rate.get() != PAUSED {
            profile::on_alloc(block, layout.size(), size, watch.rate.get());
        }
    } else {
        note_alloc(cache, block, layout.size(), size, due);
    }
}

/// A block above 512 bytes comes back.
#[cold]
#[inline(never)]
pub(crate) fn large_free(block: *mut u8, layout: Layout) {
    let Some(block) = NonNull::new(block) else { return };
    forget(block);
    // SAFETY: open scopes of this thread, by their owner.
    let note = |scope| unsafe { Scope::note_free(scope, block, fallback_layout(layout).size()) };
    thread::attached().and_then(|cache| cache.watch.scope.get()).map(note);
}

/// A block above 512 bytes stays where it is, with another layout.
pub(crate) fn large_resize(block: *mut u8, new: Layout) {
    if let Some(block) = NonNull::new(block)
        && profile::is_recorded(block)
    {
        profile::on_resize(block, new.size());
    }
}

/// A free and an allocation above 512 bytes were one `realloc`; `moves` is what the thread's count
/// of such stood at before.
pub(crate) fn note_large_realloc(moves: u64) {
    let Some(scope) = thread::attached().and_then(|cache| cache.watch.scope.get()) else { return };
    // Otherwise the scope finds it in that count when it closes.
    if thread::own_reallocs().1 == moves {
        // SAFETY: open scopes of this thread, by their owner.
        unsafe { Scope::note_realloc(scope) };
    }
}
