//! `PoolAlloc`: the face of `GlobalAlloc`.
//!
//! The fast paths are inlined into `__rust_alloc` and, with fat LTO, into their callers, where the size
//! class of a constant layout folds away. Everything else is cold and out of line, so that the
//! part that is inlined stays small: what grew it made every call site slower.

use crate::cache::bump;
use crate::fallback::{Fallback, resize_in_class};
use crate::large_class::fallback_layout;
use crate::mid_class::CacheBin;
use crate::{thread, watch};
use alloc_core::{CLASSES, MAX_SMALL, class_index};
use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{NonNull, null_mut};
use std::alloc::System;

/// A global allocator: requests up to 512 bytes come from size-classed pools, larger ones
/// from the fallback `F`, and so do those whose alignment rounds them up to more than 512.
///
/// ```
/// use alloc_global::PoolAlloc;
///
/// #[global_allocator]
/// static ALLOC: PoolAlloc = PoolAlloc::new();
///
/// let numbers: Vec<Box<u64>> = (0..1000).map(Box::new).collect();
/// assert!(alloc_global::stats().live_blocks >= 1000);
/// # drop(numbers);
/// ```
///
/// All values of this type share one set of pools and thread caches; they differ in their fallback
/// only. It never panics: what cannot be served is null, as the trait has it. A breach of the
/// trait's contract that is noticed (a double free, a wrong layout) ends the process with one line
/// on standard error that starts with `poolalloc: `.
pub struct PoolAlloc<F: GlobalAlloc = System> {
    fallback: Fallback<F>,
}

impl Default for PoolAlloc<System> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: GlobalAlloc> fmt::Debug for PoolAlloc<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolAlloc").finish_non_exhaustive()
    }
}

impl PoolAlloc<System> {
    /// With the system allocator as fallback.
    pub const fn new() -> Self {
        Self::with_fallback(System)
    }
}

impl<F: GlobalAlloc> PoolAlloc<F> {
    /// With another allocator as fallback. As a global allocator it must also be `Sync` and
    /// `'static`, as one in a static is anyway.
    ///
    /// ```
    /// use alloc_global::PoolAlloc;
    /// use std::alloc::System;
    /// static ALLOC: PoolAlloc<System> = PoolAlloc::with_fallback(System);
    /// ```
    pub const fn with_fallback(fallback: F) -> Self {
        PoolAlloc { fallback: Fallback::new(fallback) }
    }

    /// Starts a background thread that gives free memory back while the program is idle (see
    /// `POOLALLOC_PURGE_DELAY_MS`), unless it runs already. Returns whether it runs now.
    ///
    /// Without it memory goes back on slow paths of the allocator, which an idle program does not take.
    ///
    /// Its stack has 64 KiB, on which a fallback other than the system allocator has its `dealloc`
    /// called, too.
    pub fn spawn_purger(&self) -> bool {
        crate::purger::spawn()
    }
}

// Cached blocks are freed by whichever thread gives them back, at any time: hence `Sync` and `'static`.
impl<F: GlobalAlloc + Sync + 'static> PoolAlloc<F> {
    /// The bin of thread caches that serves this layout: up to 64 those of the pools.
    #[inline(always)]
    fn bin(&self, layout: Layout) -> Option<CacheBin> {
        // SAFETY: 64 or `MID_STEPS`.
        unsafe { CacheBin::of_at_most(layout, self.fallback.most_steps()) }
    }

    /// The fallback.
    pub const fn fallback(&self) -> &F {
        self.fallback.inner()
    }
    /// Lets threads cache freed blocks of a fallback that has state. Returns whether this fallback's blocks
    /// are cached from now on: those of one per process can be, the first that asked. `false`, too, with
    /// `POOLALLOC_FALLBACK_CACHE=0`, and in a thread that has no cache.
    ///
    /// A fallback of size zero, `System` among them, needs no such call: the first that is asked
    /// for a block of more than 512 bytes, or gets one back, is the one. One with state must be
    /// there when a thread ends and gives its blocks back, hence the `'static`.
    ///
    /// ```
    /// use alloc_global::PoolAlloc;
    /// use std::alloc::{GlobalAlloc, Layout, System};
    ///
    /// struct Named(&'static str);
    /// # // SAFETY: forwards to the system allocator.
    /// unsafe impl GlobalAlloc for Named {
    ///     // ...
    /// #   unsafe fn alloc(&self, layout: Layout) -> *mut u8 { unsafe { System.alloc(layout) } }
    /// #   unsafe fn dealloc(&self, p: *mut u8, layout: Layout) { unsafe { System.dealloc(p, layout) } }
    /// }
    ///
    /// static ALLOC: PoolAlloc<Named> = PoolAlloc::with_fallback(Named("mine"));
    /// assert!(ALLOC.cache_fallback());
    /// ```
    pub fn cache_fallback(&'static self) -> bool {
        self.fallback.register()
    }

    /// All that the fast path does not serve. One way out of it, with the arguments it came with:
    /// each call site has a copy of the fast path, and what is around it must stay small.
    #[cold]
    #[inline(never)]
    unsafe fn alloc_out_of_line(&self, layout: Layout) -> *mut u8 {
        match small_index(layout) {
            Some(index) => thread::alloc_slow(index, layout.size()),
            // SAFETY: the caller's contract.
            None => unsafe { self.alloc_large(layout) },
        }
    }

    #[inline(always)]
    unsafe fn alloc_large(&self, layout: Layout) -> *mut u8 {
        if watch::is_watched() {
            // SAFETY: the caller's contract.
            return unsafe { self.alloc_watched(layout, false) };
        }
        // SAFETY: the caller's contract.
        unsafe { self.fallback.alloc(layout) }
    }

    #[cold]
    #[inline(never)]
    unsafe fn alloc_large_zeroed(&self, layout: Layout) -> *mut u8 {
        if watch::is_watched() {
            // SAFETY: the caller's contract.
            return unsafe { self.alloc_watched(layout, true) };
        }
        // SAFETY: the caller's contract.
        unsafe { self.fallback.alloc_otherwise(layout, true) }
    }

    /// Apart, so that the one above keeps nothing for after the call.
    #[cold]
    #[inline(never)]
    unsafe fn alloc_watched(&self, layout: Layout, zeroed: bool) -> *mut u8 {
        // Nearly always there is one, and only the drain has none (`watch`).
        let home = thread::home();
        if let (Some(bin), false, 0) = (self.bin(layout), zeroed, home.gate.get()) {
            // SAFETY: the cache is this thread's.
            if let Some(block) = unsafe { watch::alloc_mid(home, bin) } {
                return block.as_ptr();
            }
            // SAFETY: the cache is this thread's.
            if let Some(block) = unsafe { home.pop(bin) } {
                watch::large_alloc(block.as_ptr(), layout);
                return block.as_ptr();
            }
        }
        let block = match zeroed {
            // SAFETY: the caller's contract.
            true => unsafe { self.fallback.alloc_otherwise(layout, true) },
            // SAFETY: the caller's contract.
            false => unsafe { self.fallback.alloc(layout) },
        };
        watch::large_alloc(block, layout);
        block
    }

    /// As [`alloc_out_of_line`](Self::alloc_out_of_line).
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_out_of_line(&self, block: *mut u8, layout: Layout) {
        match small_index(layout) {
            Some(index) => {
                // SAFETY: the caller's contract: it came from `alloc`, which was not null.
                let block = unsafe { NonNull::new_unchecked(block) };
                // SAFETY: the index is that of the block's class; the block is the caller's.
                unsafe { thread::dealloc_slow(index, block) };
            }
            // SAFETY: the caller's contract.
            None => unsafe { self.dealloc_large(block, layout) },
        }
    }

    #[inline(always)]
    unsafe fn dealloc_large(&self, block: *mut u8, layout: Layout) {
        if watch::is_watched() {
            watch::large_free(block, layout);
        }
        // SAFETY: the caller's contract.
        unsafe { self.fallback.dealloc(block, layout) };
    }

    /// `realloc` of the fallback, for a profile a free and an allocation, unless the block stays as it is.
    #[cold]
    #[inline(never)]
    unsafe fn realloc_watched(&self, block: *mut u8, layout: Layout, new: Layout) -> *mut u8 {
        let stays = fallback_layout(layout) == fallback_layout(new);
        let (_, moves) = thread::own_reallocs();
        if !stays {
            // Before: once it is moved its address may be somebody else's.
            watch::large_free(block, layout);
        }
        // SAFETY: the caller's contract.
        let moved = unsafe { self.fallback.realloc(block, layout, new) };
        if !stays {
            match moved.is_null() {
                true => watch::large_alloc(block, layout),
                false => watch::large_alloc(moved, new),
            }
            watch::note_large_realloc(moves);
        } else if !moved.is_null() {
            watch::large_resize(moved, new);
        }
        moved
    }

    /// Out of line: what it saves is small beside what a `realloc` does, and inlined it made the
    /// functions around it so large that they were no longer inlined themselves.
    #[inline(never)]
    unsafe fn realloc_any(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size, rounded up to the alignment, fits isize.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let (layout, new) = (served(layout), served(new));
        // A thread without a cache counts in a static that others may write too: an error of a few.
        bump(&thread::home().counters.reallocs, 1);
        match (self.bin(layout), self.bin(new)) {
            (Some(old), Some(new)) if old == new => block,
            (Some(old), Some(new)) if old.index() <= CLASSES && new.index() <= CLASSES => {
                // SAFETY: the caller's contract: it came from `alloc`, which was not null.
                let block = unsafe { NonNull::new_unchecked(block) };
                let kept = layout.size().min(new_size);
                // SAFETY: the classes of both layouts, which hold `kept` bytes.
                unsafe { thread::realloc_small(block, (old, new), kept, new_size) }
            }
            (None, None) if !watch::is_watched() && resize_in_class(layout, new) => block,
            // SAFETY: the caller's contract.
            _ => unsafe { self.realloc_slow(block, layout, new) },
        }
    }

    /// `realloc` where the block may have to move.
    #[cold]
    #[inline(never)]
    unsafe fn realloc_slow(&self, block: *mut u8, layout: Layout, new: Layout) -> *mut u8 {
        if self.bin(layout).is_none() && self.bin(new).is_none() {
            if watch::is_watched() {
                // SAFETY: the caller's contract; neither layout is one that pools serve.
                return unsafe { self.realloc_watched(block, layout, new) };
            }
            // SAFETY: the caller's contract; neither layout is one that pools serve.
            return unsafe { self.fallback.realloc(block, layout, new) };
        }
        // SAFETY: the caller promises that the new size is not 0 and fits a layout.
        let moved = unsafe { self.alloc(new) };
        if moved.is_null() {
            return null_mut();
        }
        // SAFETY: both blocks are at least as large, and distinct.
        unsafe { thread::copy_moved(block, moved, layout.size().min(new.size())) };
        // SAFETY: the caller gives the block up.
        unsafe { self.dealloc(block, layout) };
        moved
    }
}

/// A layout as it is served: what std allocates for a panic has 56 bytes and asks for an alignment of
/// 8, but LLVM's unwinder, with which std is linked where the C library is not glibc, writes to it
/// with instructions that need 16, and blocks of 56 bytes are aligned to 8. It took any `malloc` to
/// align to 16 (rust-lang/rust#161368, which asks for 16 from then on). The unwinder of GCC does not.
#[inline(always)]
const fn served(layout: Layout) -> Layout {
    const PANIC: Layout = Layout::new::<[u64; 7]>();
    let is_one = layout.size() == PANIC.size() && layout.align() <= PANIC.align();
    if cfg!(not(target_env = "gnu")) && is_one {
        // SAFETY: a power of two, and 56 rounded up to it fits isize.
        return unsafe { Layout::from_size_align_unchecked(PANIC.size(), 16) };
    }
    layout
}

/// The index of the class of pools that serves a layout. Most large ones are told by their size alone.
#[inline(always)]
fn small_index(layout: Layout) -> Option<usize> {
    if layout.size() > MAX_SMALL {
        return None;
    }
    Some(class_index(layout.size(), layout.align())).filter(|index| *index <= CLASSES)
}

// SAFETY: blocks of pools are distinct, stay valid until freed, and keep size and alignment by the
// construction of size classes; other requests are the fallback's, with unchanged layouts. Nothing
// here unwinds.
unsafe impl<F: GlobalAlloc + Sync + 'static> GlobalAlloc for PoolAlloc<F> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let layout = served(layout);
        if let Some(bin) = self.bin(layout)
            // SAFETY: the cache is this thread's.
            && let Some(block) = unsafe { thread::alloc_cache().pop(bin) }
        {
            return block.as_ptr();
        }
        // SAFETY: the caller's contract.
        unsafe { self.alloc_out_of_line(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let layout = served(layout);
        // SAFETY: the caller's contract: it came from `alloc`, which was not null.
        let freed = unsafe { NonNull::new_unchecked(block) };
        if let Some(bin) = self.bin(layout)
            // SAFETY: the cache is this thread's; the layout is that of `alloc`.
            && unsafe { thread::free_cache().push(bin, freed) }
        {
            return;
        }
        // SAFETY: the caller's contract.
        unsafe { self.dealloc_out_of_line(block, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if self.bin(layout).is_none() {
            // SAFETY: the caller's contract.
            return unsafe { self.alloc_large_zeroed(layout) };
        }
        // SAFETY: the caller's contract.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: at least `size` bytes that are the caller's.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { self.realloc_any(block, layout, new_size) }
    }
}
