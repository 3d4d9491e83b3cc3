//! Ends garbage: finalize, check again, declare dead, drop, free. In that order for all of it.
//!
//! | step | user code | what it sees |
//! |---|---|---|
//! | 1 finalizers | `Finalize` | everything intact; may resurrect |
//! | 2 check again | `Trace` | |
//! | 3 declare dead | | from here on `Weak::upgrade` is `None`, dereferencing panics |
//! | 4 callbacks | `Weak` callbacks | dead handles only |
//! | 5 drop values | `Drop` | dead handles only |
//! | 6 free | | objects with a dead handle left somewhere stay until that is dropped |
//!
//! During 1 to 5 each object is pinned by one count, so that nothing user code drops can free it, and none is
//! VISITED while user code runs: another heap's collection in it must not take them for its own. A
//! panic in one object's code does not keep the others from their turn.
//!
//! It does not decide what is garbage.

use crate::collector::{GROUP, ODD, Scratch, prefetch_at};
use std::ptr::NonNull;

use crate::header::{COUNT, DEAD, FINALIZER, IMMORTAL, LARGE, Obj, PURPLE, SIDE, VISITED};
use crate::heap::Inner;
use crate::pools::PoolRef;
use crate::release::{Panic, bury, drop_value, finalize_value, guarded, run_callbacks};
use crate::stats::GenerationStats;

impl Inner {
    /// Does away with the garbage in `s.visited`. How many objects were freed, those that only
    /// garbage held included.
    pub(crate) fn dispose(
        &self,
        s: &mut Scratch,
        run: &mut GenerationStats,
        panic: &mut Option<Panic>,
    ) -> usize {
        // Blocks that go back into a word at hand are not counted in `freed`, those that drops take out of one are in
        // neither; so both differences are too low at times, and never too high.
        let (freed_before, live_before) = (self.freed.get(), self.live());
        if s.flags & FINALIZER != 0 {
            run.resurrected = self.finalize(s, panic) as u64;
        }
        let garbage = &s.visited[..];
        let mut flags = s.flags;
        for (at, obj) in garbage.iter().enumerate() {
            prefetch_at(garbage, at + GROUP);
            let mark = obj.mark();
            flags |= mark;
            obj.set_mark(mark & !VISITED | DEAD);
            // The pin; and PURPLE, so that decrements by its fellows have nothing to note.
            obj.set_word((obj.word() + 1) | PURPLE);
        }
        if flags & ODD != 0 {
            garbage.iter().filter(|obj| obj.has(SIDE)).for_each(|&obj| run_callbacks(obj, panic));
        }
        drop_all(garbage, panic);
        let counted = self.freed.get() - freed_before;
        let freed_by_drops = live_before.saturating_sub(self.live()).max(counted);
        self.end(garbage);
        run.collected = garbage.len() as u64;
        garbage.len() + freed_by_drops as usize
    }

    /// Steps 1 and 2; how many objects came back.
    #[cold]
    fn finalize(&self, s: &mut Scratch, panic: &mut Option<Panic>) -> usize {
        for &obj in &s.visited {
            // SAFETY: of this heap. A candidate again, with its bit, if it comes back.
            unsafe { self.clear_candidate(obj) };
            obj.increment();
            obj.clear(VISITED);
        }
        for &obj in &s.visited {
            if obj.has(FINALIZER) {
                obj.clear(FINALIZER);
                // SAFETY: garbage, but whole and pinned. USER CODE.
                guarded(panic, || unsafe { finalize_value(obj) });
            }
        }
        self.recheck(s, panic)
    }

    /// Step 6. Objects that lie together are freed together, a word of a pool's bitmap at a time.
    fn end(&self, garbage: &[Obj]) {
        let mut batch = Batch::new();
        for (at, &obj) in garbage.iter().enumerate() {
            prefetch_at(garbage, at + GROUP);
            let word = obj.decrement();
            if word & (COUNT | IMMORTAL) != 0 {
                // Somebody has a dead handle. It is no candidate; the last handle frees it.
                // SAFETY: of this heap.
                unsafe { self.clear_candidate(obj) };
            } else if obj.has(SIDE | LARGE) {
                // It may stay, for its `Weak`s.
                // SAFETY: of this heap.
                unsafe { self.clear_candidate(obj) };
                // SAFETY: dropped in step 5, and no handle is left.
                unsafe { bury(obj) };
            } else {
                // SAFETY: as above, in a pool of this heap.
                unsafe { batch.add(self, obj) };
            }
        }
        batch.flush(self);
    }
}

/// Blocks of one word of one pool that are to be freed.
struct Batch {
    pool: Option<PoolRef>,
    at: usize,
    bits: u64,
}

impl Batch {
    fn new() -> Self {
        Batch { pool: None, at: 0, bits: 0 }
    }

    /// Adds an object; frees what was added before if it lies elsewhere.
    ///
    /// # Safety
    /// As for `Inner::free`, from the next `flush` on; the object lies in a pool.
    #[inline(always)]
    unsafe fn add(&mut self, heap: &Inner, obj: Obj) {
        // SAFETY: by contract.
        let pool = unsafe { PoolRef::of(obj) };
        let index = pool.index_of(obj);
        if self.pool != Some(pool) || self.at != index / 64 {
            self.flush(heap);
            (self.pool, self.at, self.bits) = (Some(pool), index / 64, 0);
        }
        self.bits |= 1 << (index % 64);
    }

    fn flush(&mut self, heap: &Inner) {
        if let Some(pool) = self.pool.take() {
            // SAFETY: `add`; a collection is under way, so the heap stays.
            unsafe { Inner::free_blocks(NonNull::from(heap), pool, self.at, self.bits) };
        }
    }
}

/// Step 5. One `catch_unwind` for all, and one more for each panic.
fn drop_all(garbage: &[Obj], panic: &mut Option<Panic>) {
    let mut next = 0;
    while next < garbage.len() {
        guarded(panic, || {
            while let Some(&obj) = garbage.get(next) {
                next += 1;
                prefetch_at(garbage, next + GROUP);
                // SAFETY: whole until now, and DEAD, so nothing looks at it again. USER CODE.
                unsafe { drop_value(obj) };
            }
        });
    }
}
