//! A heap of Gc objects: where memory comes from, and what the collector must remember.
//!
//! ```text
//!  Gc::new ─► Cache (64 free bits of one pool) ─► PoolList ─► Arenas ─► pages
//!                                                              (alloc-core)
//!  drop to zero ─► bit in Cache or PoolDesc  drop to non-zero ─► fresh bit, list of fresh pools
//! ```
//!
//! An object finds its heap through its pool's descriptor, or, without ISOLATED, by being one of its
//! thread's. Which heaps there are, and how they end, is `thread`'s.
//!
//! Invariants (checked by [`Inner::check`], with those of `header`, `pools` and `large`):
//!
//! 1. `born - freed` = blocks not free in all pools + large objects; blocks in caches are counted in.
//! 2. `pending` holds objects with count 0 whose values are whole, and no candidates; it is empty
//!    when `depth` is 0.
//! 3. `birth` is the present epoch; every epoch in a header is at most that.
//! 4. Once `retired`, no cache holds blocks, and the heap frees itself with its last object.
//!    Outside of collections no list has its pools then, unless its credit is spent (of pool
//!    invariant 5 only what it says of `state`): see `ended`.
//!
//! It does not decide what is garbage.

mod candidates;
mod ended;
mod free;
mod walk;

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use alloc_core::{Arenas, CLASS_STEP, CLASS_TABLE, MappedChunk, OsPages, SizeClass};

use crate::collector::Scratch;
use crate::generations::{STEP_BYTES, Schedule};
use crate::header::{Header, ISOLATED, LARGE, Obj, STEP};
use crate::large::{self, Large};
use crate::pools::{
    Cache, IN_FRESH, IN_MID, LISTED, OldList, Place, PoolList, PoolRef, SHAPE_STEP, SHAPES,
};
use crate::release::{Panic, guarded, resume};
use crate::side::Sides;
use crate::stats::Counters;

/// Chunks are backed by huge pages from this size of the heap on.
const HUGE_FROM: usize = 8 << 20;

/// A pool with less than this part of its blocks free is left to get more.
const RESERVE: usize = 32;
/// How many such pools are passed over before another is taken from the arenas.
const MOST_POOR: usize = 8;

/// A depth that no drop has.
pub(crate) const NEVER: u32 = u32::MAX;

/// Memory for an object whose header is not yet written.
#[repr(C)]
pub(crate) struct Room {
    pub(crate) header: NonNull<Header>,
    /// Mark word of an object born there now.
    pub(crate) mark: u32,
}

/// [`Inner::allocate`] where `pop` has nothing. Never unwinds, and the compiler knows it by the ABI:
/// see `Gc::new_inner`. Where memory ends it does not return.
#[cold]
#[inline(never)]
#[expect(improper_ctypes_definitions, reason = "the ABI is for `nounwind`, not for C")]
pub(crate) extern "C" fn allocate_slow(heap: &Inner, place: Place, value: Layout) -> Room {
    match heap.refill_or_large(place, value) {
        Some(room) => room,
        None => std::alloc::handle_alloc_error(value),
    }
}

/// The state of a heap. All of it is behind `Cell`s: user code may come back in at any marked point.
/// What allocating and dropping touch comes first.
#[repr(C)]
pub(crate) struct Inner {
    /// Drops under way, one inside the other.
    pub(crate) depth: Cell<u32>,
    /// Mark word of an object born now: the epoch, and ISOLATED.
    birth: Cell<u32>,
    /// The depth at which `pending` is emptied: 0 if it is not empty, else NEVER.
    pub(crate) drain_at: Cell<u32>,
    pub(crate) freed: Cell<u64>,
    born: Cell<u64>,
    /// Allocations until a collection is due; counted when a word is taken.
    pub(crate) budget: Cell<i64>,
    caches: [[Cache; CLASS_TABLE]; SHAPES],
    pub(crate) collecting: Cell<bool>,
    retired: Cell<bool>,
    /// What collections may cost once it is retired.
    credit: Cell<i64>,
    lists: [[PoolList; CLASS_TABLE]; SHAPES],
    arenas: RefCell<Arenas>,
    /// Objects whose drop was put off.
    pub(crate) pending: RefCell<Vec<Obj>>,
    /// The panic of a collection that an allocation started.
    deferred: Cell<Option<Panic>>,
    /// Pools with fresh candidates, and pools with candidates of generation 1.
    pub(crate) fresh: RefCell<Vec<PoolRef>>,
    pub(crate) mid: RefCell<Vec<PoolRef>>,
    /// Objects freed by full collections since `trim_some` last looked for pools to give back.
    untrimmed: Cell<u64>,
    /// Pools with candidates of generation 2.
    pub(crate) old: OldList,
    pub(crate) large: Large,
    pub(crate) sides: Sides,
    /// The first epoch of generation 1.
    pub(crate) middle_from: Cell<u32>,
    pub(crate) schedule: Schedule,
    pub(crate) counters: Counters,
    pub(crate) scratch: Cell<Option<Box<Scratch>>>,
    /// The thread's heaps, in a list that `thread` keeps.
    pub(crate) next: Cell<*const Inner>,
    /// Where the heap is, as its box said: what frees it needs more than a reference allows.
    here: Cell<NonNull<Inner>>,
}

/// What a large object takes from the budget, in allocations: much memory that is garbage is not to
/// wait for many objects.
fn weight(bytes: usize) -> i64 {
    1 + (bytes / STEP_BYTES) as i64
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: all chunks are from `OsPages`; a heap is dropped only with no object left.
        unsafe { self.arenas.get_mut().unmap_all(&OsPages) };
    }
}

impl Inner {
    /// A new heap, to be freed by `retire` and the drop of its last object.
    pub(crate) fn create(isolated: bool) -> NonNull<Inner> {
        if let Some(heap) = crate::thread::take_spare(isolated) {
            // SAFETY: at hand, and nobody else's.
            unsafe { heap.as_ref() }.begin(isolated);
            crate::thread::enlist(heap);
            return heap;
        }
        let inner = Box::new(Inner {
            caches: [const { [const { Cache::new() }; CLASS_TABLE] }; SHAPES],
            birth: Cell::new(STEP),
            depth: Cell::new(0),
            budget: Cell::new(0),
            born: Cell::new(0),
            freed: Cell::new(0),
            drain_at: Cell::new(NEVER),
            deferred: Cell::new(None),
            collecting: Cell::new(false),
            retired: Cell::new(false),
            credit: Cell::new(0),
            lists: [const { [const { PoolList::new() }; CLASS_TABLE] }; SHAPES],
            arenas: RefCell::new(Arenas::new()),
            pending: RefCell::new(Vec::new()),
            fresh: RefCell::new(Vec::new()),
            mid: RefCell::new(Vec::new()),
            untrimmed: Cell::new(0),
            old: OldList::new(),
            large: Large::new(),
            sides: Sides::new(),
            middle_from: Cell::new(1),
            schedule: Schedule::new(),
            counters: Counters::new(),
            scratch: Cell::new(None),
            next: Cell::new(std::ptr::null()),
            here: Cell::new(NonNull::dangling()),
        });
        inner.begin(isolated);
        let heap = NonNull::from(Box::leak(inner));
        // SAFETY: just made.
        unsafe { heap.as_ref() }.here.set(heap);
        crate::thread::enlist(heap);
        heap
    }

    /// The heap of an object.
    ///
    /// # Safety
    /// The object is allocated, and stays so for as long as the result is used.
    #[inline(always)]
    pub(crate) unsafe fn of<'a>(obj: Obj) -> &'a Inner {
        // SAFETY: by contract.
        let heap = unsafe { Inner::pointer_of(obj) };
        // SAFETY: a heap lives as long as its objects (4).
        unsafe { heap.as_ref() }
    }

    /// The heap of an object, for what may free it.
    ///
    /// # Safety
    /// The object is allocated.
    #[inline(always)]
    pub(crate) unsafe fn pointer_of(obj: Obj) -> NonNull<Inner> {
        if obj.has(LARGE) {
            // SAFETY: just tested.
            return unsafe { large::heap_of(obj) };
        }
        // SAFETY: just tested.
        unsafe { PoolRef::of(obj) }.heap()
    }

    /// The heap, with all rights to it.
    pub(crate) fn pointer(&self) -> NonNull<Inner> {
        self.here.get()
    }

    /// Whether an object met while tracing belongs to this heap. Those of others count as outside.
    #[inline(always)]
    pub(crate) fn owns(&self, obj: Obj) -> bool {
        // A thread has one heap without ISOLATED, and all objects it can reach are its own.
        if (obj.mark() | self.birth.get()) & ISOLATED == 0 {
            return true;
        }
        // SAFETY: reached by a handle, so allocated.
        std::ptr::eq(unsafe { Inner::of(obj) }, self)
    }

    /// Puts new objects under ISOLATED, where the heap is not the only one its thread can reach.
    pub(crate) fn isolate(&self) {
        self.birth.set(self.birth.get() | ISOLATED);
    }

    /// The first epoch of a heap that is new, or as good as that.
    fn begin(&self, isolated: bool) {
        self.birth.set(STEP | if isolated { ISOLATED } else { 0 });
        self.refill_budget();
    }

    /// Makes a heap that has ended what `create` would make, but for memory at hand, if that is an arena at
    /// most; else `false`. It holds no object, and nothing of its thread: any other may have it.
    pub(crate) fn renew(&self) -> bool {
        let panic = self.deferred.take();
        let panicked = panic.is_some();
        self.deferred.set(panic);
        if panicked || self.arenas.borrow().arenas() > 1 {
            return false;
        }
        for pool in self.fresh.take().into_iter().chain(self.mid.take()) {
            pool.set_state(0, IN_FRESH | IN_MID);
        }
        self.flush_caches();
        self.release_listed();
        if self.in_use() != 0 || self.arenas.borrow().pools_in_use() != 0 {
            return false;
        }
        self.middle_from.set(1);
        self.retired.set(false);
        self.schedule.reset();
        self.counters.reset();
        self.scratch.set(self.scratch.take().filter(|scratch| scratch.is_small()));
        self.large.shrink();
        true
    }

    /// Whether the heap has ended.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Mark word for an object born now.
    #[inline(always)]
    pub(crate) fn birth(&self) -> u32 {
        self.birth.get()
    }

    /// The present epoch.
    pub(crate) fn epoch(&self) -> u32 {
        self.birth.get() / STEP
    }

    /// Starts the next epoch: whatever exists is no longer in the youngest generation.
    pub(crate) fn next_epoch(&self) {
        if self.epoch() == crate::header::STEPS {
            // Once in 16 million collections: everything is old, and time starts anew.
            self.flush_caches();
            self.for_each(|obj| obj.set_mark(obj.mark() & (STEP - 1)));
            self.birth.set(self.birth.get() & (STEP - 1));
            self.middle_from.set(1);
        }
        self.birth.set(self.birth.get() + STEP);
    }

    /// Whether allocations start collections.
    pub(crate) fn refill_budget(&self) {
        self.budget.set(i64::from(self.schedule.budget()));
    }

    /// The lowest free block of the class's cache, for an object whose header is not yet written.
    #[inline(always)]
    pub(crate) fn pop(&self, place: Place) -> Option<NonNull<Header>> {
        let Place::Pool { class, shape } = place else { return None };
        let block = self.caches[shape][class].pop(class * CLASS_STEP)?;
        // SAFETY: a block has room for what its shape puts before the header.
        Some(unsafe { block.add(shape * SHAPE_STEP) }.cast())
    }

    /// Memory for an object. May collect: USER CODE, whose panic waits for `resume_deferred`.
    pub(crate) fn allocate(&self, place: Place, value: Layout) -> Room {
        match self.pop(place) {
            Some(header) => Room { header, mark: self.birth() },
            None => allocate_slow(self, place, value),
        }
    }

    /// Memory where `pop` has nothing.
    fn refill_or_large(&self, place: Place, value: Layout) -> Option<Room> {
        if self.budget.get() <= 0 {
            let mut panic = None;
            // USER CODE: drops of what is collected. Nothing is held across it.
            guarded(&mut panic, || self.budget_spent());
            if panic.is_some() {
                self.deferred.set(panic);
            }
        }
        match place {
            Place::Pool { class, shape } if !self.retired.get() => {
                if self.caches[shape][class].is_empty() {
                    self.refill(class, shape)?;
                }
                Some(Room { header: self.pop(place)?, mark: self.birth() })
            }
            _ => {
                self.budget.set(self.budget.get() - weight(value.size()));
                let header = self.large.allocate(self, value)?;
                self.born.set(self.born.get() + 1);
                Some(Room { header, mark: self.birth() | LARGE })
            }
        }
    }

    /// Bytes outside of the heap are owned by objects of it: they take from the budget, and where
    /// that makes a collection due, the next allocation sees it, whichever class it is of. Nothing
    /// is collected here.
    pub(crate) fn charge(&self, bytes: usize) {
        let steps = self.schedule.charge(bytes);
        let before = self.budget.get();
        let left = before.saturating_sub_unsigned(steps);
        self.budget.set(left);
        if left <= 0 && before > 0 {
            self.flush_caches();
        }
    }

    /// Lets the panic of a collection go on that an allocation started.
    #[cold]
    #[inline(never)]
    pub(crate) fn resume_deferred(&self) {
        resume(self.deferred.take());
    }

    /// Takes a word of free blocks into an empty cache.
    fn refill(&self, class: usize, shape: usize) -> Option<()> {
        let list = &self.lists[shape][class];
        let pool = self.rich_pool(list).or_else(|| self.new_pool(class, shape)).or(list.front())?;
        let blocks = self.caches[shape][class].fill(pool)?;
        if pool.used() == pool.capacity() {
            list.remove(pool);
        }
        self.born.set(self.born.get() + u64::from(blocks));
        self.budget.set(self.budget.get() - i64::from(blocks));
        Some(())
    }

    /// The pool to allocate from, if one of the first has more than a few free blocks; those that
    /// have not go to the end.
    ///
    /// In a heap whose objects come and go at random, and that is as large as it needs to be, each
    /// pool has a free block or two when its turn comes, and nearly each allocation would be a new
    /// word. A reserve of a thirty-second lets words fill up, and objects that are made together
    /// lie together.
    fn rich_pool(&self, list: &PoolList) -> Option<PoolRef> {
        for _ in 0..MOST_POOR {
            let pool = list.front()?;
            if pool.capacity() - pool.used() >= pool.capacity() / RESERVE {
                return Some(pool);
            }
            list.remove(pool);
            list.push_back(pool);
        }
        None
    }

    /// Takes a pool from the arenas; it is the next to be allocated from.
    fn new_pool(&self, class: usize, shape: usize) -> Option<PoolRef> {
        let mut arenas = self.arenas.borrow_mut();
        let taken = match arenas.take_pool() {
            Some(taken) => taken,
            None => {
                let chunk = MappedChunk::map(&OsPages, arenas.next_chunk())?;
                if arenas.reserved_bytes() >= HUGE_FROM {
                    chunk.advise_huge();
                }
                // SAFETY: the system's pages stay until they are given back.
                unsafe { arenas.add_chunk(chunk) };
                arenas.take_pool()?
            }
        };
        let class_ = SizeClass::from_index(class)?;
        // SAFETY: just taken: ours alone, its slot zero.
        let pool = unsafe { PoolRef::init(taken.base, self, class_, shape) };
        self.lists[shape][class].push_front(pool);
        Some(pool)
    }

    /// Puts the blocks of all caches back, so that blocks in use are exactly objects.
    pub(crate) fn flush_caches(&self) {
        for (shape, caches) in self.caches.iter().enumerate() {
            for (class, cache) in caches.iter().enumerate() {
                let Some((pool, blocks)) = cache.flush() else { continue };
                self.born.set(self.born.get() - u64::from(blocks));
                if !pool.is(LISTED) {
                    self.lists[shape][class].push_back(pool);
                }
            }
        }
    }

    /// Blocks that are not free, those in caches among them.
    pub(crate) fn in_use(&self) -> u64 {
        self.born.get() - self.freed.get()
    }

    /// Objects in the heap, dead ones that are still held among them.
    pub(crate) fn live(&self) -> u64 {
        let cached = self.caches.iter().flatten().map(Cache::len);
        self.in_use() - u64::from(cached.sum::<u32>())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use crate::header::STEPS;
    use crate::{Gc, Generation, Heap};

    #[test]
    fn when_epochs_run_out_everything_is_old_and_time_starts_anew() {
        type Ring = RefCell<Option<Gc<Knot>>>;
        #[derive(rc_gc::Trace)]
        struct Knot(Ring);
        let heap = Heap::new();
        let inner = heap.inner();
        inner
            .birth
            .set(inner.birth.get() % crate::header::STEP + (STEPS - 1) * crate::header::STEP);
        inner.middle_from.set(STEPS - 1);
        let knot = || {
            let knot = Gc::new_in(Knot(RefCell::default()), &heap);
            *knot.0.borrow_mut() = Some(knot.clone());
            knot
        };
        let kept = knot();
        let _young_garbage = knot();
        heap.collect_generation(Generation::Young);
        assert_eq!((inner.epoch(), Gc::generation(&kept)), (STEPS, Generation::Middle));
        let young = knot();
        drop(_young_garbage);
        heap.collect_generation(Generation::Young);
        assert_eq!((inner.epoch(), Gc::generation(&kept)), (1, Generation::Old));
        assert_eq!(Gc::generation(&young), Generation::Old);
        drop((kept, young));
        assert_eq!(heap.collect(), 3);
        heap.check().unwrap();
    }
}
