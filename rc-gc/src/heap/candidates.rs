//! How an object becomes a candidate, and stops being one: PURPLE, and a bit in its pool or a place
//! in the list of large ones.
//!
//! The first candidate of a pool puts the pool into a list of its heap (pool invariant 5).
//! It does not know what candidates are good for.

use std::ptr::NonNull;

use super::Inner;
use crate::header::{LARGE, LEAF, Obj, PURPLE};
use crate::pools::{IN_FRESH, IN_MID, IN_OLD, PoolRef};

impl Inner {
    /// Notes an object as a candidate: the first decrement to non-zero.
    ///
    /// # Safety
    /// The object is of this heap, and neither LEAF nor DEAD; it is no candidate.
    pub(crate) unsafe fn set_candidate(&self, obj: Obj) {
        obj.set_word(obj.word() | PURPLE);
        if obj.has(LARGE) {
            // SAFETY: just tested.
            unsafe { self.large.set_candidate(obj, self.generation_of(obj)) };
        } else {
            // SAFETY: just tested.
            let pool = unsafe { PoolRef::of(obj) };
            // SAFETY: by contract. A collection or a drop is under way, which keeps the heap.
            unsafe { Inner::set_pool_candidate(pool.heap(), pool, obj) };
        }
    }

    /// The part of `set_candidate` that is the pool's: a bit, for the generation that the object is
    /// in, so that no collection of a younger one looks at it. The pool's first puts the pool into
    /// a list; see `noted`.
    ///
    /// # Safety
    /// The object is in that pool of that heap. If nothing keeps the heap, it is not used
    /// afterwards, nor is the object.
    #[inline(always)]
    pub(crate) unsafe fn set_pool_candidate(heap: NonNull<Inner>, pool: PoolRef, obj: Obj) {
        // SAFETY: a heap lives as long as its objects; not used across the calls at the end.
        let inner = unsafe { heap.as_ref() };
        let index = pool.index_of(obj);
        if obj.epoch() >= inner.epoch() {
            pool.set_fresh(index);
            if !pool.is(IN_FRESH) {
                // SAFETY: by contract.
                unsafe { Inner::list_fresh(heap, pool) };
            }
        } else {
            pool.set_stale(index);
            if obj.epoch() < inner.middle_from.get() {
                pool.set_fresh(index);
                if !pool.is(IN_OLD) {
                    // SAFETY: by contract.
                    unsafe { Inner::list_old(heap, pool) };
                }
            } else if !pool.is(IN_MID) {
                // SAFETY: by contract.
                unsafe { Inner::list_mid(heap, pool) };
            }
        }
    }

    /// # Safety
    /// As for `set_pool_candidate`.
    #[cold]
    #[inline(never)]
    unsafe fn list_fresh(heap: NonNull<Inner>, pool: PoolRef) {
        pool.set_state(IN_FRESH, 0);
        // SAFETY: by contract.
        unsafe { heap.as_ref() }.fresh.borrow_mut().push(pool);
        // SAFETY: by contract.
        unsafe { Inner::noted(heap) };
    }

    /// # Safety
    /// As for `set_pool_candidate`.
    #[cold]
    #[inline(never)]
    unsafe fn list_mid(heap: NonNull<Inner>, pool: PoolRef) {
        pool.set_state(IN_MID, 0);
        // SAFETY: by contract.
        unsafe { heap.as_ref() }.mid.borrow_mut().push(pool);
        // SAFETY: by contract.
        unsafe { Inner::noted(heap) };
    }

    /// # Safety
    /// As for `set_pool_candidate`.
    #[cold]
    #[inline(never)]
    unsafe fn list_old(heap: NonNull<Inner>, pool: PoolRef) {
        // SAFETY: by contract.
        unsafe { heap.as_ref() }.old.push(pool);
        // SAFETY: by contract.
        unsafe { Inner::noted(heap) };
    }

    /// `set_candidate` for an object that may be one already.
    ///
    /// # Safety
    /// The object is of this heap, and neither LEAF nor DEAD.
    pub(crate) unsafe fn set_candidate_anew(&self, obj: Obj) {
        // SAFETY: by contract.
        unsafe { self.clear_candidate(obj) };
        // SAFETY: by contract, and no candidate any more.
        unsafe { self.set_candidate(obj) };
    }

    /// Forgets an object as a candidate: it is known to be live, or about to be dropped.
    ///
    /// # Safety
    /// The object is of this heap.
    #[inline]
    pub(crate) unsafe fn clear_candidate(&self, obj: Obj) {
        if obj.word() & PURPLE == 0 || obj.has(LEAF) {
            return;
        }
        obj.set_word(obj.word() & !PURPLE);
        if obj.has(LARGE) {
            // SAFETY: just tested.
            unsafe { self.large.clear_candidate(obj) };
            return;
        }
        // SAFETY: just tested.
        let pool = unsafe { PoolRef::of(obj) };
        pool.clear_candidate(pool.index_of(obj));
    }
}
