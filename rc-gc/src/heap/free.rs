//! How an object's memory goes back: to the word that is handed out, its pool, the arenas, the
//! global allocator.
//!
//! ```text
//!  free ─┬─ of the word handed out last ──► Cache
//!        ├─ in a pool ──► free bit ─► pool was full: into its class's list
//!        │                            pool is empty: to the arenas, unless it is the only one listed
//!        └─ LARGE ──► global allocator
//! ```
//!
//! The last object of a heap that is retired takes the heap with it. Nothing here looks at values.

use std::ptr::NonNull;

use alloc_core::CLASS_STEP;

use super::Inner;
use crate::header::{LARGE, LEAF, Obj, PURPLE};
use crate::pools::{IN_FRESH, IN_MID, IN_OLD, LISTED, Place, PoolRef, SHAPE_STEP};
use crate::thread::free_if_done;

impl Inner {
    /// Gives an object's memory back; and a retired heap, if the object was its last.
    ///
    /// # Safety
    /// The object is of this heap; its value is dropped or moved out, its side box freed; nothing
    /// leads to it. The caller uses neither the object nor (unless others hold it) the heap
    /// afterwards.
    #[inline(always)]
    pub(crate) unsafe fn free(heap: NonNull<Inner>, obj: Obj) {
        if obj.has(LARGE) {
            // SAFETY: by contract.
            return unsafe { Inner::free_large(heap, obj) };
        }
        // SAFETY: just tested.
        let pool = unsafe { PoolRef::of(obj) };
        let index = pool.index_of(obj);
        if obj.word() & PURPLE != 0 && !obj.has(LEAF) {
            pool.clear_candidate(index);
        }
        // SAFETY: by contract.
        unsafe { Inner::free_block(heap, pool, index) };
    }

    /// `free` for an object in a pool, which is no candidate. `place` is where an object of its type goes,
    /// which need not be where this one is.
    ///
    /// # Safety
    /// As for `free`.
    #[inline(always)]
    pub(crate) unsafe fn free_near(heap: NonNull<Inner>, obj: Obj, place: Place) {
        if let Place::Pool { class, shape } = place {
            // SAFETY: by contract; not used across the call that may free the heap.
            let cache = &unsafe { heap.as_ref() }.caches[shape][class];
            let block = obj.header().addr().get() - shape * SHAPE_STEP;
            if cache.push(block, class * CLASS_STEP) {
                return;
            }
        }
        // SAFETY: by contract in a pool.
        let pool = unsafe { PoolRef::of(obj) };
        // SAFETY: by contract.
        unsafe { Inner::free_block(heap, pool, pool.index_of(obj)) };
    }

    /// `free` for an object in block `index` of a pool, which is no candidate.
    ///
    /// # Safety
    /// As for `free`.
    #[inline(always)]
    pub(crate) unsafe fn free_block(heap: NonNull<Inner>, pool: PoolRef, index: usize) {
        // SAFETY: by contract; not used across the call that may free the heap.
        let inner = unsafe { heap.as_ref() };
        inner.freed.set(inner.freed.get() + 1);
        if pool.put_block(index) == 0 || !pool.is(LISTED) {
            // SAFETY: by contract.
            unsafe { Inner::pool_changed(heap, pool) };
        }
    }

    /// `free` for all objects of word `at` of a pool whose bit is set; they may be candidates.
    ///
    /// # Safety
    /// As for `free`.
    pub(crate) unsafe fn free_blocks(heap: NonNull<Inner>, pool: PoolRef, at: usize, bits: u64) {
        // SAFETY: by contract; not used across the call that may free the heap.
        let inner = unsafe { heap.as_ref() };
        inner.freed.set(inner.freed.get() + u64::from(bits.count_ones()));
        if pool.put_blocks(at, bits) == 0 || !pool.is(LISTED) {
            // SAFETY: by contract.
            unsafe { Inner::pool_changed(heap, pool) };
        }
    }

    /// # Safety
    /// As for `free`; the object is LARGE.
    #[inline(always)]
    unsafe fn free_large(heap: NonNull<Inner>, obj: Obj) {
        // SAFETY: by contract.
        let inner = unsafe { heap.as_ref() };
        inner.freed.set(inner.freed.get() + 1);
        // SAFETY: by contract.
        unsafe { inner.large.free(obj) };
        // SAFETY: by contract the caller is done with the heap.
        unsafe { free_if_done(heap) };
    }

    /// A pool that was full has a free block, or has no object left. One empty pool per class is
    /// kept, if it is the only one with free blocks.
    ///
    /// # Safety
    /// As for `free`; the pool is of this heap.
    #[cold]
    unsafe fn pool_changed(heap: NonNull<Inner>, pool: PoolRef) {
        // SAFETY: by contract.
        let inner = unsafe { heap.as_ref() };
        let list = &inner.lists[pool.shape()][pool.class()];
        if !pool.is(LISTED) {
            list.push_back(pool);
        }
        if pool.used() != 0 {
            return;
        }
        // While it is in a list of candidates it stays.
        if !pool.is(IN_FRESH | IN_MID) && (inner.retired.get() || !list.is_only(pool)) {
            inner.release(pool);
        }
        // SAFETY: by contract the caller is done with the heap.
        unsafe { free_if_done(heap) };
    }

    /// Releases what became empty while it was in the lists of candidates.
    pub(crate) fn release_if_empty(&self, pool: PoolRef) {
        let list = &self.lists[pool.shape()][pool.class()];
        if pool.used() == 0 && !pool.is(IN_FRESH | IN_MID) && !list.is_only(pool) {
            self.release(pool);
        }
    }

    /// Gives a pool that holds nothing back to the arenas.
    pub(super) fn release(&self, pool: PoolRef) {
        debug_assert!(pool.used() == 0 && !pool.is(IN_FRESH | IN_MID));
        if pool.is(IN_OLD) {
            self.old.remove(pool);
        }
        self.lists[pool.shape()][pool.class()].remove(pool);
        self.caches[pool.shape()][pool.class()].forget(pool);
        // SAFETY: taken in `new_pool`; no block is used, no list has it (pool invariants 3 and 5).
        unsafe { self.arenas.borrow_mut().put_pool(pool.base(), 0) };
    }
}
