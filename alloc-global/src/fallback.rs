//! Requests above 512 bytes: the fallback's blocks, through the calling thread's cache.
//!
//! ```text
//! alloc:    cache of the class -> the depot -> the fallback, asked for the class's size
//! dealloc:  cache of the class, as long as the bound holds -> the depot, if others asked -> the fallback
//! realloc:  `resize`
//! ```
//!
//! glibc's blocks of 1 to 28 MiB are in neither as long as its heap keeps them (`glibc_heap`), but
//! for one of a thread.
//!
//! A thread that ends gives its cache back, and by then no `PoolAlloc` is at hand. So one fallback
//! of the process is registered, for good: the first zero-sized one that serves a request of this
//! kind (it has no state, so its type is all there is to remember), or one with state whose
//! `PoolAlloc` lives in a static and was told to
//! ([`PoolAlloc::cache_fallback`](crate::PoolAlloc::cache_fallback)). Others hand every request
//! straight to their fallback. Whether a block is cached never changes the layout that the fallback
//! sees.
//!
//! Before null is answered, what is kept for reuse goes back, and the fallback is asked once more.
//!
//! Nothing here holds a lock while the fallback runs.

use crate::cache::Cache;
use crate::config;
use crate::glibc_heap::{self, Keeps};
use crate::large_class::{LargeClass, fallback_layout};
use crate::latency::{self, Path};
use crate::mid_class::{CacheBin, MID_MAX, MID_STEPS, counted_bytes};
use crate::visit::free_to_registered;
use crate::{huge, spans, thread};
use alloc_core::{Block, CLASSES, keeping_errno};
use core::alloc::{GlobalAlloc, Layout};
use core::any::TypeId;
use core::ptr::{self, NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::alloc::System;

pub(crate) use back::{give_all_back, make_room, make_room_above, trim_system};
use kept::{
    ask_room, hold_alone, look_and_return, make_way, most_in_use, note_fresh, pass_on, pop, push,
    take_passed_on,
};
pub(crate) use resize::resize_in_class;

mod back;
mod kept;
mod mid;
mod resize;

/// From this size on, in bytes, `realloc` is left to the fallback: system allocators move
/// pages instead of copying them.
const MOVES_PAGES: usize = 128 << 10;

/// From this size on, in bytes, zeroed memory is left to the fallback: the system has it at hand.
const ZERO_AT_HAND: usize = 1 << 20;

/// Above this, in bytes, glibc's blocks are not cached where it keeps them: it makes one of the
/// free ones side by side, so that the memory that was used last serves other sizes too. The call
/// costs little beside what it takes to fill such a block (docs/measurements.md).
const LEFT_TO_GLIBC: usize = 1 << 20;

/// From this size on, in bytes, no machine has the addresses: nothing is given up to serve it.
const NEVER_THERE: usize = 1 << 47;

/// A fallback whose type is forgotten.
pub(crate) struct Registration {
    pub(crate) dealloc: unsafe fn(*const Registration, *mut u8, Layout),
}

/// The registered fallback: set once, never cleared, alive for good.
pub(crate) static REGISTERED: AtomicPtr<Registration> = AtomicPtr::new(null_mut());

/// A fallback and how to free its blocks without knowing its type.
///
/// Invariant: `registration` is the first field, so a pointer to the whole is a pointer to it.
#[repr(C)]
pub(crate) struct Fallback<F> {
    registration: Registration,
    /// The most steps of 8 bytes that thread caches serve for this `PoolAlloc`: 64, and 512 from
    /// when this fallback is known to be the registered one.
    most_steps: AtomicUsize,
    inner: F,
}

/// # Safety
///
/// `this` came from a `&'static Fallback<F>`; the rest is as for `GlobalAlloc::dealloc`.
unsafe fn dealloc_by_address<F: GlobalAlloc>(
    this: *const Registration,
    block: *mut u8,
    layout: Layout,
) {
    // SAFETY: the caller's promise.
    let fallback = unsafe { &*this.cast::<Fallback<F>>() };
    // SAFETY: the caller's promise: a block of that fallback with that layout.
    unsafe { fallback.inner.dealloc(block, layout) };
}

/// # Safety
///
/// `F` is zero-sized, and a value of it was used; the rest is as for `GlobalAlloc::dealloc`.
unsafe fn dealloc_by_type<F: GlobalAlloc + Sync>(
    _: *const Registration,
    block: *mut u8,
    layout: Layout,
) {
    // SAFETY: without a size any aligned address will do, and there is no state to be gone.
    let inner: &F = unsafe { NonNull::dangling().as_ref() };
    // SAFETY: the caller's promise: a block of that fallback with that layout.
    unsafe { inner.dealloc(block, layout) };
}

impl<F: GlobalAlloc> Fallback<F> {
    pub(crate) const fn new(inner: F) -> Self {
        let registration = Registration { dealloc: dealloc_by_address::<F> };
        Fallback { registration, most_steps: AtomicUsize::new(CLASSES), inner }
    }

    pub(crate) const fn inner(&self) -> &F {
        &self.inner
    }
}

impl<F: GlobalAlloc + Sync + 'static> Fallback<F> {
    /// What is registered for a fallback without state: its type.
    const BY_TYPE: &'static Registration = &Registration { dealloc: dealloc_by_type::<F> };

    /// Whether this fallback is the system allocator, so that its large blocks are pages of the
    /// process like any other.
    #[inline]
    fn is_system() -> bool {
        TypeId::of::<F>() == TypeId::of::<System>()
    }

    /// Whether a block of a class is better off with glibc than in a cache, of a thread that had
    /// `in_use` bytes at most.
    #[inline]
    fn is_left(class: LargeClass, block: *mut u8, in_use: usize) -> Keeps {
        match class.size() {
            size if size > LEFT_TO_GLIBC && Self::is_system() => {
                glibc_heap::keeps(block, size, in_use)
            }
            _ => Keeps::No,
        }
    }

    /// The most steps of 8 bytes for which the bins of thread caches may be used.
    #[inline(always)]
    pub(crate) fn most_steps(&self) -> usize {
        // Relaxed: the fallback was there before. Who frees what is cached from now on needs to see
        // what was registered, and has a fence for it: this is on the fast path.
        let most = self.most_steps.load(Ordering::Relaxed);
        // SAFETY: 64 at first, and never set to anything but 512. Lets the compiler fold constant sizes.
        unsafe { core::hint::assert_unchecked(most >= CLASSES) };
        most
    }

    /// Whether blocks of this fallback may be cached: this value registered it.
    #[inline]
    fn is_registered(&self) -> bool {
        // Relaxed: see `most_steps`.
        self.most_steps.load(Ordering::Relaxed) == MID_STEPS || self.try_register()
    }

    /// Registers a fallback without state, if none is registered yet.
    #[cold]
    fn try_register(&self) -> bool {
        // The settings are read when the first thread gets its cache.
        let ready = thread::attached().is_some() && config::fallback_cache() > 0;
        let stateless = size_of::<F>() == 0 && !core::mem::needs_drop::<F>();
        let registered = ready && stateless && register(ptr::from_ref(Self::BY_TYPE));
        if registered {
            if Self::is_system() {
                glibc_heap::begin();
            }
            // Release: pairs with the fence in `free_layout_to_registered`.
            self.most_steps.store(MID_STEPS, Ordering::Release);
        }
        registered
    }

    /// Registers a fallback that lives for good. Whether it is the registered one now.
    pub(crate) fn register(&'static self) -> bool {
        if self.is_registered() {
            return true;
        }
        if size_of::<F>() == 0 {
            return false;
        }
        if thread::attached().is_none() || config::fallback_cache() == 0 {
            return false;
        }
        // A pointer to the whole, never a reference to its first field: `dealloc_by_address`
        // reaches `inner` through it.
        let registered = register(ptr::from_ref(self).cast());
        if registered {
            // Release: pairs with the fence in `free_layout_to_registered`.
            self.most_steps.store(MID_STEPS, Ordering::Release);
        }
        registered
    }

    /// # Safety
    ///
    /// As for `GlobalAlloc::alloc`.
    #[inline]
    pub(crate) unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Nothing is kept for after a call on this path, so it needs no frame.
        if layout.size() > MID_MAX
            && self.most_steps() == MID_STEPS
            && let Some(class) = LargeClass::of(layout)
            && let Some((block, cache, look)) = pop(class, layout.size())
        {
            return if look { look_and_return(cache, block) } else { block.as_ptr() };
        }
        // SAFETY: the caller's promise.
        unsafe { self.alloc_otherwise(layout, false) }
    }

    /// Blocks of the bins above 64, smaller ones aligned to more than 128, zeroed ones, those that are
    /// not cached, and all before the fallback is registered.
    ///
    /// # Safety
    ///
    /// As for `GlobalAlloc::alloc`.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn alloc_otherwise(&self, layout: Layout, zeroed: bool) -> *mut u8 {
        if let Some(bin) = CacheBin::of(layout)
            && self.is_registered()
        {
            // SAFETY: the caller's promise.
            return unsafe { self.alloc_mid(bin, layout, zeroed) };
        }
        if let Some(class) = LargeClass::of(layout)
            && self.is_registered()
            && !(zeroed && class.size() >= ZERO_AT_HAND)
            && let Some(block) = take_kept(class, counted_bytes(layout))
        {
            if zeroed {
                // SAFETY: at least `size` bytes that are the caller's.
                unsafe { block.write_bytes(0, layout.size()) };
            }
            return block.as_ptr();
        }
        // SAFETY: the caller's promise.
        unsafe { self.alloc_fresh(layout, zeroed) }
    }

    /// A block from the fallback.
    ///
    /// # Safety
    ///
    /// As for `GlobalAlloc::alloc`.
    #[cold]
    #[inline(never)]
    unsafe fn alloc_fresh(&self, layout: Layout, zeroed: bool) -> *mut u8 {
        let asked = fallback_layout(layout);
        let live = make_way(thread::for_slow_alloc(), asked.size());
        // SAFETY: the size is at least that of the caller's layout, so not 0.
        let mut block = unsafe { self.ask(asked, zeroed) };
        if block.is_null() && asked.size() < NEVER_THERE && make_room() {
            // SAFETY: as above.
            block = unsafe { self.ask(asked, zeroed) };
        }
        if !block.is_null() {
            match zeroed {
                _ if !Self::is_system() => {}
                true => huge::back_zeroed(block, asked.size()),
                false => huge::back_block(block, asked.size()),
            }
            thread::count(|c| &c.fallback_allocs, 1);
            thread::count(|c| &c.fallback_bytes_in, counted_bytes(layout) as u64);
            thread::note_bytes(asked.size().cast_signed());
            let live = live.saturating_add(counted_bytes(layout));
            let most = most_in_use(live);
            let class = LargeClass::of(layout);
            note_fresh(class.filter(|class| Self::is_left(*class, block, most) == Keeps::No), live);
        }
        block
    }

    /// # Safety
    ///
    /// As for `GlobalAlloc::alloc`.
    unsafe fn ask(&self, layout: Layout, zeroed: bool) -> *mut u8 {
        // One heap of glibc's that is full leaves ENOMEM behind, though another one serves the block.
        let block = latency::timed(Path::Fallback, || {
            keeping_errno(|| {
                if zeroed {
                    // SAFETY: the caller's promise.
                    unsafe { self.inner.alloc_zeroed(layout) }
                } else {
                    // SAFETY: the caller's promise.
                    unsafe { self.inner.alloc(layout) }
                }
            })
        });
        self.look_after_heap(block, layout.size(), zeroed);
        block
    }

    /// # Safety
    ///
    /// As for `GlobalAlloc::dealloc`.
    #[inline(always)]
    pub(crate) unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() > MID_MAX
            && self.most_steps() == MID_STEPS
            && let Some(class) = LargeClass::of(layout)
        {
            // SAFETY: the caller's contract: it came from `alloc`, which was not null.
            let kept = unsafe { NonNull::new_unchecked(block) };
            // SAFETY: the caller's contract: of that class, and given up. This fallback is registered.
            if unsafe { push(class, kept, layout.size()) } {
                return;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.dealloc_otherwise(block, layout) };
    }

    /// # Safety
    ///
    /// As for `GlobalAlloc::dealloc`.
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_otherwise(&self, block: *mut u8, layout: Layout) {
        if let Some(bin) = CacheBin::of(layout)
            && self.is_registered()
        {
            // SAFETY: the caller's promise.
            return unsafe { self.dealloc_mid(bin, block) };
        }
        if layout.size() <= MID_MAX
            && self.is_registered()
            && let Some((class, kept)) = LargeClass::of(layout).zip(NonNull::new(block))
            // SAFETY: as in `dealloc`.
            && unsafe { push(class, kept, counted_bytes(layout)) }
        {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { self.dealloc_full(block, layout) };
    }

    /// Keeps a block if its class may have more room, or gives it back to the fallback.
    ///
    /// # Safety
    ///
    /// As for `GlobalAlloc::dealloc`.
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_full(&self, block: *mut u8, layout: Layout) {
        if let (Some(cache), true) = (thread::attached(), self.is_registered()) {
            let is_lesson = Self::teach();
            cache.tick();
            // SAFETY: the caller's contract: not null.
            let kept = unsafe { NonNull::new_unchecked(block) };
            // SAFETY: the caller's contract: it came from here with this layout, and is given up.
            // This fallback is registered.
            if unsafe { Self::keep(cache, kept, layout, is_lesson) } {
                return;
            }
        }
        let asked = fallback_layout(layout);
        thread::count(|c| &c.fallback_frees, 1);
        thread::count(|c| &c.fallback_bytes_out, counted_bytes(layout) as u64);
        // Blocks of another value, the one that registered.
        if Self::is_system()
            && let Some((class, block)) = LargeClass::of(layout).zip(NonNull::new(block))
            && spans::has(class, block)
        {
            free_to_registered(class, block);
        } else {
            if Self::is_system() {
                huge::note_freed(block, asked.size());
            }
            // SAFETY: it came from there with this layout.
            unsafe { self.give(block, asked) };
        }
        // When it is free: where there is no delay, all that is goes back now.
        thread::note_freed(asked.size());
    }

    /// Keeps a freed block in this thread's cache, or in the depot, if there is room.
    ///
    /// # Safety
    ///
    /// It is a free block of the registered fallback with that layout, and the caller's, who gives
    /// it up if it was kept.
    unsafe fn keep(cache: &'static Cache, block: Block, layout: Layout, is_lesson: bool) -> bool {
        let live = cache.own_fallback_live();
        let most = most_in_use(live);
        let Some(class) = LargeClass::of(layout) else { return false };
        let size = counted_bytes(layout);
        let live = live.saturating_sub(size);
        match Self::is_left(class, block.as_ptr(), most) {
            Keeps::No => ask_room(cache, live, size),
            Keeps::First => return false,
            // It is mapped by itself, or all that is free goes back now.
            Keeps::Other if is_lesson || config::purge_delay_ms() == 0 => return false,
            // SAFETY: the caller's promise.
            Keeps::Other => return unsafe { hold_alone(cache, class, block, size, live) },
        }
        // SAFETY: the caller's promise.
        let kept = unsafe { push(class, block, size) };
        kept || pass_on(cache, class, block, size, live)
    }

    /// # Safety
    ///
    /// As for `GlobalAlloc::dealloc`, of the fallback itself.
    unsafe fn give(&self, block: *mut u8, layout: Layout) {
        latency::timed(Path::Fallback, || {
            // SAFETY: the caller's promise.
            unsafe { self.inner.dealloc(block, layout) }
        });
    }

    /// Has glibc's heap backed by huge pages where it grows, and that of a thread lengthened.
    #[inline]
    fn look_after_heap(&self, block: *mut u8, size: usize, zeroed: bool) {
        if !Self::is_system() {
            return;
        }
        if glibc_heap::is_due(block, size) {
            // First: what `look` sets keeps glibc from learning.
            Self::teach();
            glibc_heap::look(block, size);
        }
        if !zeroed {
            glibc_heap::run_ahead(block, size);
        }
    }

    /// See [`glibc_heap::teach`].
    fn teach() -> bool {
        Self::is_system() && glibc_heap::teach()
    }
}

/// A block of a class above 4 KiB, or aligned to more than 128, out of this thread's cache, or of
/// what others passed on; `size` bytes are counted.
fn take_kept(class: LargeClass, size: usize) -> Option<Block> {
    match pop(class, size) {
        Some((block, cache, look)) => {
            if look {
                thread::tick(cache);
            }
            Some(block)
        }
        None => take_passed_on(class, size),
    }
}

/// Registers a fallback, which lives for good, unless one is registered. Which value did is kept in
/// that value: addresses of constants, and of functions, are not unique.
#[cold]
fn register(registration: *const Registration) -> bool {
    let this = registration.cast_mut();
    // Release: pairs with the Acquire in `free_erased`. Relaxed on failure: nothing is read.
    REGISTERED.compare_exchange(null_mut(), this, Ordering::Release, Ordering::Relaxed).is_ok()
}
