//! Blocks of 513 to 4,096 bytes where the arrays that they share with the small ones are empty or full (`mid_class`).
//!
//! ```text
//! empty:  half an array out of the thread's cache of large blocks, if it keeps such, or the depot; else one block of
//!         the fallback for the program, and more for the array the more often that was so
//! full:   a longer array, or its older half goes to the depot, if others asked; to the thread's cache, as long as its bound
//!         holds; to the fallback
//! ```
//!
//! It does not know the fast paths: those are `pool_alloc`'s.

use super::kept::{keep_mids, make_way, note_fresh, take_mids};
use super::{Fallback, make_room};
use crate::cache::Cache;
use crate::large_class::{LargeClass, fallback_layout};
use crate::mid_class::{CacheBin, has_list};
use crate::{depot, thread};
use alloc_core::Block;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

/// The most blocks that are asked for at once.
const MID_BATCH: usize = 16;

impl<F: GlobalAlloc + Sync + 'static> Fallback<F> {
    /// A block for a bin above 64 that is empty, or that allocations were kept from.
    ///
    /// # Safety
    ///
    /// As for `GlobalAlloc::alloc`; `bin` is that of the layout, and this fallback is registered.
    pub(super) unsafe fn alloc_mid(&self, bin: CacheBin, layout: Layout, zeroed: bool) -> *mut u8 {
        let cache = thread::for_slow_alloc();
        // SAFETY: the cache is this thread's.
        if let Some(block) = cache.and_then(|cache| unsafe { take_kept(cache, bin) }) {
            if zeroed {
                // SAFETY: at least `size` bytes that are the caller's.
                unsafe { block.write_bytes(0, layout.size()) };
            }
            return block.as_ptr();
        }
        let asked = fallback_layout(layout);
        let listed = bin.mid_class().filter(|class| has_list(*class));
        let live = if listed.is_some() { make_way(cache, asked.size()) } else { 0 };
        // SAFETY: the size is at least that of the caller's layout, so not 0.
        let mut block = unsafe { self.ask(asked, zeroed) };
        if block.is_null() && make_room() {
            // SAFETY: as above.
            block = unsafe { self.ask(asked, zeroed) };
        }
        if !block.is_null() {
            thread::note_mid_fresh(cache, bin);
            if listed.is_some() {
                note_fresh(listed, live.saturating_add(asked.size()));
            }
            if let (Some(cache), false) = (cache, zeroed) {
                // SAFETY: as above.
                unsafe { self.stock_mid(cache, bin, asked) };
            }
        }
        block
    }

    /// Asks for more blocks of a bin above 64 that was found empty: the more often that was so, the more.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread; `asked` is what the fallback is asked for on behalf of `bin`.
    unsafe fn stock_mid(&self, cache: &'static Cache, bin: CacheBin, asked: Layout) {
        let mut stock = [null_mut(); MID_BATCH];
        let want = (cache.mid_half(bin) as usize / 2).saturating_sub(1);
        for slot in stock.iter_mut().take(want) {
            // USER CODE: a fallback's. It may call back in, so nothing of the cache is at hand meanwhile.
            // SAFETY: the size is not 0.
            *slot = unsafe { self.ask(asked, false) };
            if slot.is_null() {
                break;
            }
        }
        // The first one last, so that it is handed out first: programs walk what they built in the order in which they built
        // it, and memory is fastest upwards.
        for block in stock.iter().rev().copied().filter_map(NonNull::new) {
            // SAFETY: the cache is this thread's.
            if unsafe { cache.push(bin, block) } {
                cache.note_mid_stocked(bin);
            } else {
                // SAFETY: just allocated with this layout.
                unsafe { self.give(block.as_ptr(), asked) };
            }
        }
    }

    /// Takes a block for a bin above 64 that is full: makes room by growth, or by giving the older half back.
    ///
    /// # Safety
    ///
    /// As for `GlobalAlloc::dealloc`; `bin` is that of the block's layout, and this fallback is registered.
    pub(super) unsafe fn dealloc_mid(&self, bin: CacheBin, block: *mut u8, layout: Layout) {
        let Some(cache) = thread::attached() else {
            thread::note_mid_orphan_free(bin);
            // SAFETY: it came from there with this layout.
            return unsafe { self.give(block, fallback_layout(layout)) };
        };
        cache.tick();
        // SAFETY: the caller's contract: it came from `alloc`, which was not null.
        let freed = unsafe { NonNull::new_unchecked(block) };
        // SAFETY: the cache is this thread's. Not full: frees are watched, or the tick made room.
        if unsafe { cache.push(bin, freed) } {
            return;
        }
        // SAFETY: the cache is this thread's.
        if !unsafe { cache.grow_mid(bin) } {
            let free = |class: LargeClass, old: Block| {
                // SAFETY: a block of this fallback, allocated with the class's layout.
                unsafe { self.give(old.as_ptr(), class.layout()) };
            };
            // SAFETY: the cache is this thread's, and this fallback is registered.
            let keep = |class: LargeClass, old: &[_]| unsafe { keep_mids(cache, class, old) };
            // SAFETY: the cache is this thread's.
            unsafe { cache.give_mid(bin, cache.mid_half(bin), true, keep, free) };
        }
        // SAFETY: the cache is this thread's.
        if !unsafe { cache.push(bin, freed) } {
            // The fallback called back in and filled it again.
            cache.note_mid_gone(bin);
            // SAFETY: it came from there with this layout.
            unsafe { self.give(block, fallback_layout(layout)) };
        }
    }
}

/// A block of a bin above 64 that was found empty, if there is one all the same, the thread's cache of large blocks has some, or other
/// threads left some in the depot.
///
/// # Safety
///
/// The cache is that of the calling thread.
unsafe fn take_kept(cache: &'static Cache, bin: CacheBin) -> Option<Block> {
    // SAFETY: the caller's promise.
    if let Some(block) = unsafe { cache.pop(bin) } {
        return Some(block);
    }
    // SAFETY: the caller's promise.
    unsafe { cache.grow_mid(bin) };
    // SAFETY: the caller's promise.
    let own = unsafe { cache.take_mid(bin, |class, places| take_mids(cache, class, places)) };
    let others = |class: LargeClass, places: &mut [_]| {
        let taken = depot::take(class, cache.who(), places);
        cache.note_bytes((class.size() * taken).cast_signed());
        taken
    };
    // SAFETY: the caller's promise.
    if !own && !unsafe { cache.take_mid(bin, others) } {
        return None;
    }
    // SAFETY: the caller's promise.
    unsafe { cache.pop(bin) }
}
