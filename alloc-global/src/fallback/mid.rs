//! Blocks of 513 to 4,096 bytes where the arrays that they share with the small ones are empty or
//! full (`mid_class`).
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
use crate::large_class::{LARGE_ALIGN, LargeClass, fallback_layout};
use crate::mid_class::{CacheBin, has_list};
use crate::spans::{self, SPAN_LAYOUT};
use crate::visit::{free_mids_to_registered, free_to_registered, settle_mids};
use crate::{depot, thread};
use alloc_core::Block;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::ptr::{NonNull, null_mut};

/// The most blocks that are asked for at once.
const MID_BATCH: usize = 16;

/// For how many spans that a thread makes it looks once what rests in its cache. With four instead
/// of two, outgrown blocks keep more spans; one is too soon for sizes that take turns.
const SPANS_SETTLED: u64 = 2;

impl<F: GlobalAlloc + Sync + 'static> Fallback<F> {
    /// A block for a bin above 64 that is empty, or that allocations were kept from.
    ///
    /// # Safety
    ///
    /// As for `GlobalAlloc::alloc`; `bin` is that of the layout, and this fallback is registered.
    pub(super) unsafe fn alloc_mid(&self, bin: CacheBin, layout: Layout, zeroed: bool) -> *mut u8 {
        let cache = thread::for_slow_alloc();
        let found = cache.and_then(|cache| {
            // SAFETY: the cache is this thread's.
            let kept = unsafe { take_kept(cache, bin) };
            // SAFETY: as above.
            kept.or_else(|| unsafe { self.take_from_span(cache, bin) })
        });
        if let Some(block) = found {
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

    /// A block out of a span, and more for the array, if the thread uses many of the class, it is
    /// aligned to more than 16, or a span of the size is there already.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    unsafe fn take_from_span(&self, cache: &'static Cache, bin: CacheBin) -> Option<Block> {
        let class = bin.mid_class().filter(|_| Self::is_system())?;
        let is_aligned = class.layout().align() > LARGE_ALIGN;
        if !is_aligned && !spans::are_there(class) && !cache.has_out(class, spans::MANY) {
            return None;
        }
        let live = if has_list(class) { make_way(Some(cache), class.size()) } else { 0 };
        // None where the array was shut.
        let wanted = Cell::new(0);
        let take = |class: LargeClass, places: &mut [_]| {
            wanted.set(places.len());
            let taken = spans::take(class, places);
            cache.note_bytes((class.size() * taken).cast_signed());
            taken
        };
        // SAFETY: the cache is this thread's.
        if !unsafe { cache.take_mid(bin, take) } {
            // SAFETY: as above.
            let more = wanted.get() > 0
                && self.add_span(cache, class)
                && unsafe { cache.take_mid(bin, take) };
            if !more {
                return None;
            }
        }
        if has_list(class) {
            note_fresh(Some(class), live.saturating_add(class.size()));
        }
        // SAFETY: the cache is this thread's.
        unsafe { cache.pop(bin) }
    }

    /// Asks for the memory of a span of a class. Whether there is one more.
    fn add_span(&self, cache: &'static Cache, class: LargeClass) -> bool {
        Self::teach();
        if cache.note_span() >= SPANS_SETTLED {
            settle_mids(cache);
        }
        // USER CODE: none: the fallback is the system allocator.
        // SAFETY: the size is not 0.
        let memory = unsafe { self.ask(SPAN_LAYOUT, false) };
        let Some(span) = NonNull::new(memory) else { return false };
        // SAFETY: of the registered fallback, just now.
        let added = unsafe { spans::add(class, span) };
        if !added {
            // SAFETY: allocated just now with this layout.
            unsafe { self.give(memory, SPAN_LAYOUT) };
        }
        added
    }

    /// Asks for more blocks of a bin above 64 that was found empty: the more often that was so, the more.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread; `asked` is what the fallback is asked for on behalf
    /// of `bin`.
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
        // The first one last, so that it is handed out first: programs walk what they built in the
        // order in which they built it, and memory is fastest upwards.
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

    /// Takes a block for a bin above 64 that is full: makes room by growth, or by giving the older
    /// half back.
    ///
    /// # Safety
    ///
    /// As for `GlobalAlloc::dealloc`; `bin` is that of the block's layout, and this fallback is registered.
    pub(super) unsafe fn dealloc_mid(&self, bin: CacheBin, block: *mut u8) {
        // SAFETY: the caller's contract: it came from `alloc`, which was not null.
        let freed = unsafe { NonNull::new_unchecked(block) };
        let Some(cache) = thread::attached() else {
            thread::note_mid_orphan_free(bin);
            // SAFETY: the caller's promise.
            return unsafe { give_back(bin, freed) };
        };
        cache.tick();
        // SAFETY: the cache is this thread's. Not full: frees are watched, or the tick made room.
        if unsafe { cache.push(bin, freed) } {
            return;
        }
        // SAFETY: the cache is this thread's.
        if !unsafe { cache.grow_mid(bin) } {
            // SAFETY: the cache is this thread's, and this fallback is registered.
            let keep = |class: LargeClass, old: &[_]| unsafe { keep_mids(cache, class, old) };
            let half = cache.mid_half(bin);
            // SAFETY: the cache is this thread's.
            unsafe { cache.give_mid(bin, half, true, keep, free_mids_to_registered) };
        }
        // SAFETY: the cache is this thread's.
        if !unsafe { cache.push(bin, freed) } {
            // The fallback called back in and filled it again.
            cache.note_mid_gone(bin);
            // SAFETY: the caller's promise.
            unsafe { give_back(bin, freed) };
        }
    }
}

/// Gives a block of a bin above 64 back.
///
/// # Safety
///
/// It is a free block of that bin, of the registered fallback, and the caller's.
unsafe fn give_back(bin: CacheBin, block: Block) {
    if let Some(class) = bin.mid_class() {
        free_to_registered(class, block);
    }
}

/// A block of a bin above 64 that was found empty, if there is one all the same, the thread's cache
/// of large blocks has some, or other threads left some in the depot.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;

    #[test]
    fn zeroed_blocks_out_of_spans_are_zeroed() {
        let layout = Layout::from_size_align(1000, 8).unwrap();
        let bin = CacheBin::of(layout).unwrap();
        let class = bin.mid_class().unwrap();
        let system = Fallback::new(System);
        // A thread of its own: nobody else's blocks are in its arrays.
        let work = move || {
            let mut dirty = Vec::new();
            for _ in 0..3 * spans::MANY / layout.size() {
                dirty.push(vec![0xA5_u8; layout.size()]);
            }
            // Half of those in spans, so that no span goes back.
            dirty.chunks_mut(2).for_each(|two| two[0] = Vec::new());
            let mut out_of_spans = 0;
            for _ in 0..100 {
                crate::thread_flush();
                // SAFETY: the bin is that of the layout; the blocks above registered the system allocator.
                let block = NonNull::new(unsafe { system.alloc_mid(bin, layout, true) }).unwrap();
                out_of_spans += usize::from(spans::has(class, block));
                // SAFETY: allocated just now with so many bytes, all of them written.
                let bytes =
                    unsafe { core::slice::from_raw_parts_mut(block.as_ptr(), layout.size()) };
                assert!(bytes.iter().all(|byte| *byte == 0), "recycled memory shows");
                bytes.fill(0xA5);
                // SAFETY: the caller's block, of that bin.
                unsafe { system.dealloc_mid(bin, block.as_ptr()) };
            }
            assert!(out_of_spans > 0, "nothing was tested");
        };
        std::thread::spawn(work).join().unwrap();
    }
}
