//! A heap that has ended and whose objects are still held: what of them becomes garbage.
//!
//! ```text
//! handle dropped, others are left ─► first candidate of its pool ─► full collection, while there is credit
//!                                                                        └─► heap freed, if nothing is left
//! ```
//!
//! Nothing is allocated there any more, so no allocation starts a collection. A decrement does:
//! whatever made garbage of a cycle was one. So that most need no collection to be noticed, no pool
//! is in a list of candidates; the first candidate puts it there, off the fast path. A pool that is
//! in one, because there was no credit, is not looked for.
//!
//! Credit is paid with visits and earned with objects freed: a large structure to which many
//! handles lead is not gone over for each of them.

use std::ptr::NonNull;

use super::Inner;
use crate::collector::is_tracing;
use crate::generations::Generation;
use crate::pools::{IN_FRESH, IN_MID, IN_OLD, PoolRef};
use crate::release::{Panic, discard};
use crate::thread::free_if_done;

/// Visits that need not be earned: some hundredths of a second in large collections, a second in a
/// million small ones.
const CREDIT: i64 = 1 << 20;

impl Inner {
    /// Ends the heap: new objects are large ones from now on.
    pub(crate) fn set_retired(&self) {
        self.retired.set(true);
        self.credit.set(CREDIT);
        self.flush_caches();
        self.unlist();
    }

    /// Takes all pools out of the lists of candidates, and gives back what is empty.
    pub(crate) fn unlist(&self) {
        for pool in self.fresh.take().into_iter().chain(self.mid.take()) {
            pool.set_state(0, IN_FRESH | IN_MID);
        }
        self.old.drain(|_| {});
        self.release_listed();
    }

    /// Puts all pools that have candidates into a list; how many pools there are.
    fn relist(&self) -> i64 {
        let mut pools = 0;
        self.for_each_pool(|pool| {
            pools += 1;
            if pool.has_candidates() && !pool.is(IN_OLD) {
                self.old.push(pool);
            }
        });
        pools
    }

    /// A pool has a candidate and did not, or a large object is one; if the heap has ended, that
    /// collects. USER CODE: its panics go no further, as in `thread::retire`; at the end of a
    /// thread they could only abort the process.
    ///
    /// # Safety
    /// The heap exists. If no collection and no drop in it is under way, the caller does not use it
    /// afterwards, nor an object of it that it does not hold.
    #[inline(always)]
    pub(crate) unsafe fn noted(heap: NonNull<Inner>) {
        // SAFETY: by contract.
        if unsafe { heap.as_ref() }.is_retired() {
            // SAFETY: by contract.
            unsafe { Inner::noted_late(heap) };
        }
    }

    /// # Safety
    /// As for `noted`; the heap has ended.
    #[cold]
    #[inline(never)]
    unsafe fn noted_late(heap: NonNull<Inner>) {
        // SAFETY: by contract.
        let inner = unsafe { heap.as_ref() };
        if inner.credit.get() <= 0 {
            // SAFETY: by contract.
            return unsafe { free_if_done(heap) };
        }
        // SAFETY: by contract.
        let (_, panic) = unsafe { Inner::collect_ended(heap) };
        if let Some(panic) = panic {
            discard(panic);
        }
    }

    /// A full collection of a heap that has ended: the number of objects freed, and the first
    /// panic. USER CODE.
    ///
    /// # Safety
    /// As for `noted`.
    pub(crate) unsafe fn collect_ended(heap: NonNull<Inner>) -> (usize, Option<Panic>) {
        // SAFETY: by contract; it stays during the collection.
        let inner = unsafe { heap.as_ref() };
        let (mut all, mut first) = (0, None);
        // Drops may leave new garbage: a few rounds only, as in `thread::retire`.
        for _ in 0..3 {
            if inner.collecting.get() || is_tracing() || inner.in_use() == 0 {
                break;
            }
            let (freed, panic) = inner.collect_round();
            all += freed;
            match &first {
                None => first = panic,
                Some(_) => panic.into_iter().for_each(discard),
            }
            if freed == 0 {
                break;
            }
        }
        if is_tracing() && !inner.collecting.get() {
            // Not now: with the next candidate, then.
            inner.unlist();
        }
        // SAFETY: by contract.
        unsafe { free_if_done(heap) };
        (all, first)
    }

    /// One round of `collect_ended`.
    fn collect_round(&self) -> (usize, Option<Panic>) {
        let visited = || self.counters.all()[Generation::Old.index()].visited as i64;
        let (pools, before) = (self.relist(), visited());
        let (freed, panic) = self.collect_now(Generation::Old);
        // A word of 64 blocks is asked for its candidates at a time: a pool costs a part of what a
        // visit does.
        let cost = pools / 64 + visited() - before - freed as i64;
        self.credit.set(self.credit.get() - cost.max(0));
        (freed, panic)
    }
}

impl PoolRef {
    /// Whether any block is a candidate.
    fn has_candidates(self) -> bool {
        (0..crate::pools::WORDS).any(|at| self.noted_word(at) != 0)
    }
}
