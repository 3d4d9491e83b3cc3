//! Requests above 512 bytes: the fallback's blocks, through the calling thread's cache.
//!
//! ```text
//! alloc:    cache of the class -> the fallback, asked for the class's size
//! dealloc:  cache of the class, as long as the bound holds -> the fallback
//! realloc:  in place within a class; below 128 KiB into a cached block; else the fallback's realloc
//! ```
//!
//! A thread that ends gives its cache back, and by then no `PoolAlloc` is at hand. So the first `PoolAlloc` that
//! caches a block registers itself, for good; others in the process hand every request straight
//! to their fallback. Whether a block is cached never changes the layout that the fallback sees.
//!
//! Nothing here holds a lock while the fallback runs.

use crate::cache::{Cache, bump};
use crate::config;
use crate::large_class::{LargeClass, fallback_layout};
use crate::thread;
use alloc_core::Block;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

/// From this size on, in bytes, `realloc` is left to the fallback: system allocators move
/// pages instead of copying them.
const MOVES_PAGES: usize = 128 << 10;

/// From this size on, in bytes, zeroed memory is left to the fallback: the system has it at hand.
const ZERO_AT_HAND: usize = 1 << 20;

/// A fallback whose type is forgotten.
pub(crate) struct Registration {
    dealloc: unsafe fn(*const Registration, *mut u8, Layout),
}

/// The registered fallback: set once, never cleared.
static REGISTERED: AtomicPtr<Registration> = AtomicPtr::new(null_mut());

/// A fallback and how to free its blocks without knowing its type.
///
/// Invariant: `registration` is the first field, so a pointer to it is a pointer to the whole.
#[repr(C)]
pub(crate) struct Fallback<F> {
    registration: Registration,
    inner: F,
}

unsafe fn dealloc_erased<F: GlobalAlloc>(
    this: *const Registration,
    block: *mut u8,
    layout: Layout,
) {
    // SAFETY: `this` is the first field of a registered `Fallback<F>`, which lives for good.
    let fallback = unsafe { &*this.cast::<Fallback<F>>() };
    // SAFETY: the caller's promise: a block of that fallback with that layout.
    unsafe { fallback.inner.dealloc(block, layout) };
}

impl<F: GlobalAlloc> Fallback<F> {
    pub(crate) const fn new(inner: F) -> Self {
        Fallback { registration: Registration { dealloc: dealloc_erased::<F> }, inner }
    }

    pub(crate) const fn inner(&self) -> &F {
        &self.inner
    }

    /// Whether blocks of this fallback may be cached: it is the registered one, or becomes it.
    #[inline]
    fn is_registered(&self) -> bool {
        // Relaxed: only compared. The pointed-to value is read in `free_erased` alone.
        let now = REGISTERED.load(Ordering::Relaxed);
        let this = ptr::from_ref(&self.registration).cast_mut();
        if now.is_null() { self.register() } else { ptr::eq(now, this) }
    }

    #[cold]
    fn register(&self) -> bool {
        let this = ptr::from_ref(self).cast::<Registration>().cast_mut();
        // Release: pairs with the Acquire in `free_erased`. Relaxed on failure: only compared.
        let set =
            REGISTERED.compare_exchange(null_mut(), this, Ordering::Release, Ordering::Relaxed);
        match set {
            Ok(_) => true,
            Err(now) => ptr::eq(now, this),
        }
    }

    /// The calling thread's cache, if it may hold blocks of this fallback.
    #[inline]
    fn cache(&self) -> Option<&'static Cache> {
        let cache = thread::attached()?;
        (config::fallback_cache() > 0 && self.is_registered()).then_some(cache)
    }

    /// # Safety
    ///
    /// As for `GlobalAlloc::alloc`.
    pub(crate) unsafe fn alloc(&self, layout: Layout, zeroed: bool) -> *mut u8 {
        let class = LargeClass::of(layout);
        if let (Some(class), Some(cache)) = (class, self.cache()) {
            cache.large.note_alloc(class.size());
            if !(zeroed && class.size() >= ZERO_AT_HAND)
                && let Some(block) = cache.large.pop(class)
            {
                count_in(cache, layout.size());
                if zeroed {
                    // SAFETY: at least `size` bytes that are the caller's.
                    unsafe { block.write_bytes(0, layout.size()) };
                }
                return block.as_ptr();
            }
            // The cache makes way for what comes fresh from the fallback.
            shrink(cache, 0);
        }
        let asked = fallback_layout(layout);
        let block = if zeroed {
            // SAFETY: the size is at least that of the caller's layout, so not 0.
            unsafe { self.inner.alloc_zeroed(asked) }
        } else {
            // SAFETY: as above.
            unsafe { self.inner.alloc(asked) }
        };
        if !block.is_null() {
            match thread::attached() {
                Some(cache) => count_in(cache, layout.size()),
                None => {
                    thread::count(|c| &c.fallback_allocs, 1);
                    thread::count(|c| &c.fallback_bytes_in, layout.size() as u64);
                }
            }
        }
        block
    }

    /// # Safety
    ///
    /// As for `GlobalAlloc::dealloc`.
    pub(crate) unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let (Some(class), Some(cache)) = (LargeClass::of(layout), self.cache()) {
            count_out(cache, layout.size());
            cache.large.note_free(class.size());
            // SAFETY: the caller's contract: it came from `alloc`, which was not null.
            let kept = unsafe { NonNull::new_unchecked(block) };
            if keep(cache, class, kept) {
                return;
            }
        } else {
            thread::count(|c| &c.fallback_frees, 1);
            thread::count(|c| &c.fallback_bytes_out, layout.size() as u64);
        }
        // SAFETY: it came from there with this layout.
        unsafe { self.inner.dealloc(block, fallback_layout(layout)) };
    }

    /// `realloc` from the fallback to the fallback.
    ///
    /// # Safety
    ///
    /// As for `GlobalAlloc::realloc`; neither layout is one that pools serve.
    pub(crate) unsafe fn realloc(&self, block: *mut u8, layout: Layout, new: Layout) -> *mut u8 {
        let (old_class, new_class) = (LargeClass::of(layout), LargeClass::of(new));
        if old_class.is_some() && old_class == new_class {
            count_change(layout.size(), new.size());
            return block;
        }
        let (asked_old, asked_new) = (fallback_layout(layout), fallback_layout(new));
        if asked_old.align() == asked_new.align() {
            if let (Some(old), Some(class), Some(cache)) = (old_class, new_class, self.cache()) {
                // SAFETY: the caller's contract.
                if let Some(moved) = unsafe { move_cached(cache, block, layout, new, old, class) } {
                    return moved;
                }
                cache.large.note_free(old.size());
                cache.large.note_alloc(class.size());
                shrink(cache, 0);
            }
            // SAFETY: it came from there with `asked_old`; the new size is that of a layout.
            let moved = unsafe { self.inner.realloc(block, asked_old, asked_new.size()) };
            if !moved.is_null() {
                count_change(layout.size(), new.size());
            }
            return moved;
        }
        // From a class (alignment 16) to a request handed on as it is, or back.
        // SAFETY: the caller's contract.
        let moved = unsafe { self.alloc(new, false) };
        if !moved.is_null() {
            thread::count(|c| &c.moves, 1);
            // SAFETY: both blocks are at least as large, and distinct.
            unsafe { block.copy_to_nonoverlapping(moved, layout.size().min(new.size())) };
            // SAFETY: the caller gives the block up.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

/// Moves a block below 128 KiB into a cached one of the new class, if there is one.
///
/// # Safety
///
/// As for [`Fallback::realloc`]; `old` and `class` are those of the two layouts.
unsafe fn move_cached(
    cache: &'static Cache,
    block: *mut u8,
    layout: Layout,
    new: Layout,
    old: LargeClass,
    class: LargeClass,
) -> Option<*mut u8> {
    if old.size() >= MOVES_PAGES {
        return None;
    }
    let moved = cache.large.pop(class)?;
    cache.large.note_free(old.size());
    cache.large.note_alloc(class.size());
    count_change(layout.size(), new.size());
    let kept = layout.size().min(new.size());
    // SAFETY: both blocks are at least as large, and distinct.
    unsafe { block.copy_to_nonoverlapping(moved.as_ptr(), kept) };
    // SAFETY: the caller's contract: not null.
    let left = unsafe { NonNull::new_unchecked(block) };
    if !keep(cache, old, left) {
        free_erased(old, left);
    }
    Some(moved.as_ptr())
}

/// Puts a freed block into the cache if the bound allows it.
fn keep(cache: &'static Cache, class: LargeClass, block: Block) -> bool {
    cache.tick();
    shrink(cache, class.size());
    cache.large.excess(class.size(), config::fallback_cache()) == 0
        && cache.large.push(class, block)
}

/// Gives cached blocks back until the bound holds with `more` bytes; the largest first, but none for
/// the sake of a block that is larger itself.
fn shrink(cache: &'static Cache, more: usize) {
    while cache.large.excess(more, config::fallback_cache()) > 0 {
        let Some((class, block)) = cache.large.pop_largest() else { return };
        if class.size() < more {
            cache.large.push(class, block);
            return;
        }
        free_erased(class, block);
    }
}

/// Gives a cached block back to the registered fallback.
fn free_erased(class: LargeClass, block: Block) {
    // Acquire: pairs with the Release in `register`.
    let registered = REGISTERED.load(Ordering::Acquire);
    // SAFETY: blocks are cached only once a fallback is registered, and it lives for good.
    let dealloc = unsafe { (*registered).dealloc };
    // SAFETY: a block of that fallback, allocated with the class's layout (invariant 1 of the cache).
    unsafe { dealloc(registered, block.as_ptr(), class.layout()) };
}

/// Gives everything in a thread's cache of the fallback's blocks back. Returns bytes.
pub(crate) fn flush(cache: &'static Cache) -> usize {
    let bytes = cache.large.cached();
    while let Some((class, block)) = cache.large.pop_largest() {
        free_erased(class, block);
    }
    bytes
}

/// Gives back half of what lay untouched since the last sweep.
pub(crate) fn sweep(cache: &'static Cache) {
    cache.large.sweep(|class, count| {
        for _ in 0..count {
            let Some(block) = cache.large.pop(class) else { return };
            free_erased(class, block);
        }
    });
}

/// Asks the system allocator to give its free memory back, where it has a call for that.
pub(crate) fn trim_system() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: always callable; it touches free memory of the system allocator only.
    unsafe {
        libc::malloc_trim(0)
    };
}

fn count_in(cache: &Cache, bytes: usize) {
    cache.note_bytes(bytes.cast_signed());
    bump(&cache.counters.fallback_allocs, 1);
    bump(&cache.counters.fallback_bytes_in, bytes as u64);
}

fn count_out(cache: &Cache, bytes: usize) {
    cache.note_bytes(-bytes.cast_signed());
    bump(&cache.counters.fallback_frees, 1);
    bump(&cache.counters.fallback_bytes_out, bytes as u64);
}

fn count_change(old: usize, new: usize) {
    if let Some(cache) = thread::attached() {
        cache.note_bytes(new.cast_signed().wrapping_sub(old.cast_signed()));
    }
    thread::count(|c| &c.fallback_bytes_in, new as u64);
    thread::count(|c| &c.fallback_bytes_out, old as u64);
}
