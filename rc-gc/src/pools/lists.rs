//! Lists of pools, linked through their descriptors: those with free blocks, and those with old candidates.
//!
//! The flag of a list says whether a pool is in it (pool invariants 3 and 5). No unsafe here.

use std::cell::Cell;

use super::{IN_OLD, LISTED, PoolRef};

/// Pools of one class and shape that have free blocks. First in, first out: a pool that stops being
/// full goes to the end, and has time to collect more free blocks.
pub(crate) struct PoolList {
    head: Cell<Option<PoolRef>>,
    tail: Cell<Option<PoolRef>>,
}

impl PoolList {
    /// No pools.
    pub(crate) const fn new() -> Self {
        PoolList { head: Cell::new(None), tail: Cell::new(None) }
    }

    /// The pool to allocate from.
    pub(crate) fn front(&self) -> Option<PoolRef> {
        self.head.get()
    }

    /// Adds a pool at the end.
    pub(crate) fn push_back(&self, pool: PoolRef) {
        debug_assert!(!pool.is(LISTED));
        pool.set_state(LISTED, 0);
        pool.next.set(None);
        pool.prev.set(self.tail.get());
        match self.tail.get() {
            Some(tail) => tail.next.set(Some(pool)),
            None => self.head.set(Some(pool)),
        }
        self.tail.set(Some(pool));
    }

    /// Adds a pool at the beginning.
    pub(crate) fn push_front(&self, pool: PoolRef) {
        debug_assert!(!pool.is(LISTED));
        pool.set_state(LISTED, 0);
        pool.prev.set(None);
        pool.next.set(self.head.get());
        match self.head.get() {
            Some(head) => head.prev.set(Some(pool)),
            None => self.tail.set(Some(pool)),
        }
        self.head.set(Some(pool));
    }

    /// Whether `pool`, which is in the list, is alone there.
    pub(crate) fn is_only(&self, pool: PoolRef) -> bool {
        pool.next.get().is_none() && pool.prev.get().is_none()
    }

    /// Calls `f` with each pool; `f` must leave the list alone.
    pub(crate) fn for_each(&self, mut f: impl FnMut(PoolRef)) {
        let mut at = self.head.get();
        while let Some(pool) = at {
            at = pool.next.get();
            f(pool);
        }
    }

    /// Takes a pool out.
    pub(crate) fn remove(&self, pool: PoolRef) {
        debug_assert!(pool.is(LISTED));
        pool.set_state(0, LISTED);
        match pool.prev.get() {
            Some(prev) => prev.next.set(pool.next.get()),
            None => self.head.set(pool.next.get()),
        }
        match pool.next.get() {
            Some(next) => next.prev.set(pool.prev.get()),
            None => self.tail.set(pool.prev.get()),
        }
    }
}

/// Pools with candidates of generation 2, in no order.
pub(crate) struct OldList {
    head: Cell<Option<PoolRef>>,
}

impl OldList {
    /// No pools.
    pub(crate) const fn new() -> Self {
        OldList { head: Cell::new(None) }
    }

    /// Adds a pool.
    pub(crate) fn push(&self, pool: PoolRef) {
        debug_assert!(!pool.is(IN_OLD));
        pool.set_state(IN_OLD, 0);
        let next = self.head.replace(Some(pool));
        pool.next_old.set(next);
        pool.prev_old.set(None);
        if let Some(next) = next {
            next.prev_old.set(Some(pool));
        }
    }

    /// Takes a pool out.
    pub(crate) fn remove(&self, pool: PoolRef) {
        debug_assert!(pool.is(IN_OLD));
        pool.set_state(0, IN_OLD);
        match pool.prev_old.get() {
            Some(prev) => prev.next_old.set(pool.next_old.get()),
            None => self.head.set(pool.next_old.get()),
        }
        if let Some(next) = pool.next_old.get() {
            next.prev_old.set(pool.prev_old.get());
        }
    }

    /// Takes all pools out, and calls `f` with each.
    pub(crate) fn drain(&self, mut f: impl FnMut(PoolRef)) {
        let mut at = self.head.take();
        while let Some(pool) = at {
            at = pool.next_old.get();
            pool.set_state(0, IN_OLD);
            f(pool);
        }
    }

    /// How many there are; `None` if one of them does not know of it.
    pub(crate) fn len(&self) -> Option<usize> {
        let (mut at, mut prev, mut len) = (self.head.get(), None, 0);
        while let Some(pool) = at {
            if !pool.is(IN_OLD) || pool.prev_old.get() != prev {
                return None;
            }
            (prev, at) = (at, pool.next_old.get());
            len += 1;
        }
        Some(len)
    }
}
