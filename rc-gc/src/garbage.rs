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
//! During 1 to 5 each object is pinned by one count, so that nothing user code drops can free it,
//! and none is VISITED while user code runs: another heap's collection in it must not take them for
//! its own. A panic in one object's code does not keep the others from their turn.
//!
//! It does not decide what is garbage.

use alloc_core::block_index;

use crate::collector::{ODD, Scratch};
use crate::header::{AHEAD, COUNT, DEAD, FINALIZER, IMMORTAL, LARGE, Obj, PURPLE, SIDE, VISITED};
use crate::heap::Inner;
use crate::pools::PoolRef;
use crate::release::{Panic, bury, finalize_value, guarded, run_callbacks};
use crate::stats::GenerationStats;

impl Inner {
    /// Does away with the garbage in `s.visited`, what is VISITED; the rest leaves the list. How
    /// many objects were freed, those that only garbage held included.
    pub(crate) fn dispose(
        &self,
        s: &mut Scratch,
        run: &mut GenerationStats,
        panic: &mut Option<Panic>,
    ) -> usize {
        // Blocks that go back into a word at hand are not counted in `freed`, those that drops take
        // out of one are in neither; so both differences are too low at times, and never too high.
        let (freed_before, live_before) = (self.freed.get(), self.live());
        if s.flags & FINALIZER != 0 {
            s.visited.retain(|obj| obj.has(VISITED));
            run.resurrected = self.finalize(s, panic) as u64;
        }
        let flags = s.flags | declare_dead(&mut s.visited, s.live != 0);
        let garbage = &s.visited[..];
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
        each(garbage, |obj| {
            let both = obj.both();
            if (both >> 32) as u32 == PURPLE + 1 && both as u32 & (SIDE | LARGE) == 0 {
                // SAFETY: dropped in step 5; but for the pin no handle is left. In a pool of this heap.
                unsafe { batch.add(self, obj) };
            } else {
                self.end_odd(obj);
            }
        });
        batch.flush(self);
    }

    /// Step 6 for an object that has a handle still, or more than a block of a pool.
    #[cold]
    #[inline(never)]
    fn end_odd(&self, obj: Obj) {
        let word = obj.decrement();
        // Where somebody has a dead handle, that frees it; or the last of its `Weak`s does. It is
        // no candidate.
        // SAFETY: of this heap.
        unsafe { self.clear_candidate(obj) };
        if word & (COUNT | IMMORTAL) == 0 {
            // SAFETY: dropped in step 5, and no handle is left.
            unsafe { bury(obj) };
        }
    }
}

/// Declares an object dead; its flags.
#[inline(always)]
fn declare(obj: Obj, both: u64) -> u32 {
    // The pin; and PURPLE, so that decrements by its fellows have nothing to note.
    obj.set_both(
        ((both + (1 << 32)) | u64::from(PURPLE) << 32 | u64::from(DEAD)) & !u64::from(VISITED),
    );
    both as u32
}

/// Step 3; keeps in the list what is VISITED. The flags of all of that. `mixed` is whether there is
/// anything else.
fn declare_dead(list: &mut Vec<Obj>, mixed: bool) -> u32 {
    let (mut flags, mut kept) = (0, 0);
    if !mixed {
        each(list, |obj| flags |= declare(obj, obj.both()));
        return flags;
    }
    for at in 0..list.len() {
        if let Some(later) = list.get(at + AHEAD) {
            later.prefetch();
        }
        let obj = list[at];
        let both = obj.both();
        if both as u32 & VISITED != 0 {
            flags |= declare(obj, both);
            list[kept] = obj;
            kept += 1;
        }
    }
    list.truncate(kept);
    flags
}

/// Calls `f` with each, and asks for those ahead.
#[inline(always)]
fn each(list: &[Obj], mut f: impl FnMut(Obj)) {
    let (far, near) = list.split_at(list.len().saturating_sub(AHEAD));
    for (&obj, later) in far.iter().zip(&list[list.len() - far.len()..]) {
        later.prefetch();
        f(obj);
    }
    for &obj in near {
        f(obj);
    }
}

/// Blocks of one word of one pool that are to be freed.
struct Batch {
    pool: Option<PoolRef>,
    /// The word, and which of its blocks.
    at: usize,
    bits: u64,
    /// Address of the header in the first block of the word; bytes that its 64 blocks take; for a
    /// division by their size.
    first: usize,
    span: usize,
    reciprocal: u32,
}

impl Batch {
    fn new() -> Self {
        Batch { pool: None, at: 0, bits: 0, first: 0, span: 0, reciprocal: 0 }
    }

    /// Adds an object; frees what was added before if it lies elsewhere.
    ///
    /// # Safety
    /// As for `Inner::free`, from the next `flush` on; the object lies in a pool.
    #[inline(always)]
    unsafe fn add(&mut self, heap: &Inner, obj: Obj) {
        let offset = obj.header().addr().get().wrapping_sub(self.first);
        if offset < self.span {
            self.bits |= 1 << block_index(offset, self.reciprocal);
        } else {
            // SAFETY: by contract.
            unsafe { self.start(heap, obj) };
        }
    }

    /// # Safety
    /// As for `add`.
    #[inline(never)]
    unsafe fn start(&mut self, heap: &Inner, obj: Obj) {
        self.flush(heap);
        // SAFETY: by contract.
        let pool = unsafe { PoolRef::of(obj) };
        let index = pool.index_of(obj);
        *self = Batch {
            pool: Some(pool),
            at: index / 64,
            bits: 1 << (index % 64),
            first: obj.header().addr().get() - index % 64 * pool.block_size(),
            span: (pool.capacity() - index / 64 * 64).min(64) * pool.block_size(),
            reciprocal: pool.reciprocal(),
        };
    }

    fn flush(&mut self, heap: &Inner) {
        if let Some(pool) = self.pool.take() {
            // SAFETY: `add`; a collection is under way, so the heap stays.
            unsafe { Inner::free_blocks(heap.pointer(), pool, self.at, self.bits) };
        }
    }
}

/// Step 5. One `catch_unwind` for all, and one more for each panic.
fn drop_all(garbage: &[Obj], panic: &mut Option<Panic>) {
    let mut left = garbage;
    while !left.is_empty() {
        guarded(panic, || {
            while let Some(first) = left.first() {
                let drop_run = first.vtable().drop_run;
                // SAFETY: the vtable is of the first's type; whole until now, and DEAD, so nothing
                // looks at them again. USER CODE.
                unsafe { drop_run(&mut left) };
            }
        });
    }
}
