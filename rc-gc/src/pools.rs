//! Pools of Gc objects: which blocks of a pool are free, which hold candidates.
//!
//! The thin layer between the collector and `alloc-core`'s arenas: a pool is 16 KiB with blocks of
//! one size, and its 256-byte slot in the arena's metadata pool is a [`PoolDesc`].
//!
//! ```text
//! descriptor   0 next      8 prev      16 heap     24 reciprocal (4)
//!             28 size (2) 30 capacity (2) 32 used (2) 34 class (1) 35 shape (1) 36 state (1)
//!             40 next old  48 prev old
//!             64 free [8]   bit set: the block is free, and in no cache
//!            128 noted [8]  two words each, `fresh` and `stale`: two bits for each candidate, which say
//!                           in which generation it is looked for: `fresh` alone 0, `stale` alone 1, both 2
//!
//! block, shape 0   | header 16 | value ...           sized, alignment up to 16
//! block, shape 1   | metadata or gap 16 | header 16 | value ...     unsized, or alignment 32
//! ```
//!
//! A block is handed out as the lowest set bit of a *word*, 64 bits taken from `free` as one, so
//! there is no list to follow and blocks come in address order. A block that is freed only sets
//! its bit: in the [`Cache`], if it is of the word that is being handed out, else in the pool.
//!
//! Invariants (checked by [`PoolRef::check`] and `Heap::check`):
//!
//! 1. `size`, `capacity`, `reciprocal` are those of `class`; blocks are at least 32 bytes, so that
//!    512 bits are enough.
//! 2. `used` = `capacity` - bits set in `free`: blocks that hold an object or are in a cache.
//! 3. The pool is in its class's list exactly if `state` has LISTED, and then `used < capacity`.
//! 4. A bit in `fresh` or `stale` belongs to an object with PURPLE that is neither LEAF nor DEAD.
//! 5. `state` has IN_FRESH (IN_MID, IN_OLD) exactly if the pool is in the heap's list of that name;
//!    it is, if it has a candidate of generation 0 (1, 2).
//! 6. `near` of a cache is NOWHERE or the first of 64 blocks of a pool of the cache's class and shape;
//!    none of them that is in the cache is free in the pool.
//!
//! It does not know when to collect, or what an object is worth.

mod cache;
mod lists;

use std::cell::Cell;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;

use alloc_core::{
    ARENA_SIZE, CLASS_STEP, MAX_SMALL, POOL_SIZE, POOLS_PER_ARENA, SLOT_SIZE, SizeClass,
    blocks_per_pool, class_index, reciprocal, slot_of,
};

use crate::header::{Header, Obj};
use crate::heap::Inner;

pub(crate) use cache::Cache;
pub(crate) use lists::{OldList, PoolList};

/// Words in each bitmap: 512 blocks.
pub(crate) const WORDS: usize = 8;
/// The least size of a block.
pub(crate) const MIN_BLOCK: usize = POOL_SIZE / (WORDS * 64);
/// Bytes before the header, per step of shape.
pub(crate) const SHAPE_STEP: usize = 16;
/// Number of shapes.
pub(crate) const SHAPES: usize = 2;

/// In its class's list: has free blocks.
pub(crate) const LISTED: u8 = 1;
/// In the heap's list of pools with fresh candidates.
pub(crate) const IN_FRESH: u8 = 2;
/// In the heap's list of pools with candidates that survived a collection of generation 0.
pub(crate) const IN_MID: u8 = 4;

/// In the heap's list of pools with candidates that survived a collection of generation 1.
pub(crate) const IN_OLD: u8 = 8;

/// Where objects of one layout go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into a pool of this class and shape.
    Pool { class: usize, shape: usize },
    /// To the global allocator.
    Large,
}

impl Place {
    /// For a value of this size and alignment; `unsized` asks for 16 bytes of metadata.
    #[inline]
    pub(crate) const fn of(size: usize, align: usize, unsized_: bool) -> Place {
        let shape = if unsized_ || align == 32 { 1 } else { 0 };
        let fits = if unsized_ { align <= 16 } else { align <= 32 };
        // `verify` wants each object apart.
        if cfg!(feature = "verify")
            || !fits
            || size > MAX_SMALL - size_of::<Header>() - shape * SHAPE_STEP
        {
            return Place::Large;
        }
        let total = size_of::<Header>() + shape * SHAPE_STEP + size;
        let total = if total < MIN_BLOCK { MIN_BLOCK } else { total };
        // The header needs an alignment of 8; both shapes put the value at a multiple of 16 or 32.
        let class = class_index(total, align);
        if class * CLASS_STEP > MAX_SMALL { Place::Large } else { Place::Pool { class, shape } }
    }
}

/// See the module. All zero in a slot that was just taken.
#[repr(C)]
pub(crate) struct PoolDesc {
    next: Cell<Option<PoolRef>>,
    prev: Cell<Option<PoolRef>>,
    heap: Cell<Option<NonNull<Inner>>>,
    reciprocal: Cell<u32>,
    size: Cell<u16>,
    capacity: Cell<u16>,
    used: Cell<u16>,
    class: Cell<u8>,
    shape: Cell<u8>,
    state: Cell<u8>,
    next_old: Cell<Option<PoolRef>>,
    prev_old: Cell<Option<PoolRef>>,
    _gap: [u8; 8],
    free: [Cell<u64>; WORDS],
    noted: [Noted; WORDS],
}

/// Candidates among 64 blocks; side by side, because most uses are of both.
#[repr(C)]
struct Noted {
    fresh: Cell<u64>,
    stale: Cell<u64>,
}

const _: () = assert!(offset_of!(PoolDesc, reciprocal) == 24);
const _: () = assert!(offset_of!(PoolDesc, used) == 32);
const _: () = assert!(offset_of!(PoolDesc, state) == 36);
const _: () = assert!(offset_of!(PoolDesc, next_old) == 40);
const _: () = assert!(offset_of!(PoolDesc, free) == 64);
const _: () = assert!(offset_of!(PoolDesc, noted) == 128);
const _: () = assert!(size_of::<PoolDesc>() == SLOT_SIZE);
const _: () = assert!(MIN_BLOCK == 32);

/// The descriptor of a pool that a heap has taken.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct PoolRef(NonNull<PoolDesc>);

impl Deref for PoolRef {
    type Target = PoolDesc;

    #[inline(always)]
    fn deref(&self) -> &PoolDesc {
        // SAFETY: a `PoolRef` is made only for pools that are taken, whose slot the heap owns; all
        // fields are `Cell`s and no `&mut PoolDesc` is ever made.
        unsafe { self.0.as_ref() }
    }
}

impl PoolRef {
    /// Sets up the descriptor of a pool just taken, all blocks free.
    ///
    /// # Safety
    /// `base` is a pool taken from an arena, its slot is zero and the caller's.
    pub(crate) unsafe fn init(
        base: NonNull<u8>,
        heap: &Inner,
        class: SizeClass,
        shape: usize,
    ) -> Self {
        let pool = PoolRef(slot_of(base).cast());
        let capacity = blocks_per_pool(class);
        pool.heap.set(Some(heap.pointer()));
        pool.reciprocal.set(reciprocal(class));
        pool.size.set(class.size() as u16);
        pool.capacity.set(capacity as u16);
        pool.class.set(class.index() as u8);
        pool.shape.set(shape as u8);
        for (index, word) in pool.free.iter().enumerate() {
            let bits = capacity.saturating_sub(index * 64).min(64);
            word.set(if bits == 64 { u64::MAX } else { (1 << bits) - 1 });
        }
        pool
    }

    /// The pool that `address` lies in. Two shifts, two masks and two subtractions; no memory.
    ///
    /// # Safety
    /// `address` is in a pool that is taken by a heap, with provenance for its arena.
    #[inline(always)]
    pub(crate) unsafe fn containing(address: NonNull<u8>) -> Self {
        let at = address.addr().get();
        // What `alloc_core::slot_of` computes, as an offset, which needs no test for zero.
        let slot = (at / POOL_SIZE) % POOLS_PER_ARENA * SLOT_SIZE;
        let back = at % ARENA_SIZE - slot;
        // SAFETY: the slot lies in the first pool of the same arena, below any other.
        let slot = unsafe { address.byte_sub(back) };
        debug_assert!(slot == slot_of(address));
        PoolRef(slot.cast())
    }

    /// The pool of an object.
    ///
    /// # Safety
    /// The object is not LARGE.
    #[inline(always)]
    pub(crate) unsafe fn of(obj: Obj) -> Self {
        // SAFETY: an object that is not LARGE lies in a pool of its heap (`Inner::allocate`).
        unsafe { PoolRef::containing(obj.header().cast()) }
    }

    /// Base of the pool, found from where its slot lies in the arena.
    #[inline]
    pub(crate) fn base(self) -> NonNull<u8> {
        let at = self.0.cast::<u8>().map_addr(|slot| {
            let arena = slot.get() & !(ARENA_SIZE - 1);
            let index = (slot.get() - arena) / SLOT_SIZE;
            NonZeroUsize::new(arena + index * POOL_SIZE).unwrap_or(NonZeroUsize::MIN)
        });
        debug_assert!(slot_of(at).addr() == self.0.addr());
        at
    }

    /// The heap that took the pool.
    #[inline(always)]
    pub(crate) fn heap(self) -> NonNull<Inner> {
        // SAFETY: set by `init` for as long as the pool is taken.
        unsafe { self.heap.get().unwrap_unchecked() }
    }

    /// Size of a block.
    #[inline(always)]
    pub(crate) fn block_size(self) -> usize {
        usize::from(self.size.get())
    }

    /// For `block_index`.
    pub(crate) fn reciprocal(self) -> u32 {
        self.reciprocal.get()
    }

    /// Index of the pool's class.
    pub(crate) fn class(self) -> usize {
        usize::from(self.class.get())
    }

    /// Shape of the pool's blocks.
    pub(crate) fn shape(self) -> usize {
        usize::from(self.shape.get())
    }

    /// Blocks that fit.
    pub(crate) fn capacity(self) -> usize {
        usize::from(self.capacity.get())
    }

    /// Blocks that are not free.
    pub(crate) fn used(self) -> usize {
        usize::from(self.used.get())
    }

    /// Whether one of `flags` is set.
    #[inline(always)]
    pub(crate) fn is(self, flags: u8) -> bool {
        self.state.get() & flags != 0
    }

    /// Sets and clears flags of the state.
    #[inline]
    pub(crate) fn set_state(self, set: u8, clear: u8) {
        self.state.set(self.state.get() & !clear | set);
    }

    /// Index of the block in which an object of this pool has its header.
    #[inline(always)]
    pub(crate) fn index_of(self, obj: Obj) -> usize {
        let offset = obj.header().addr().get() & (POOL_SIZE - 1);
        alloc_core::block_index(offset, self.reciprocal.get())
    }

    /// The object in block `index`.
    ///
    /// # Safety
    /// The block is in use by an object (header invariant 1).
    #[inline(always)]
    pub(crate) unsafe fn object(self, index: usize) -> Obj {
        let offset = index * self.block_size() + self.shape() * SHAPE_STEP;
        // SAFETY: `index` is below `capacity`: inside the pool.
        let header = unsafe { self.base().add(offset) };
        // SAFETY: by contract an object is there.
        unsafe { Obj::at(header.cast()) }
    }

    /// Takes a word of free blocks: its bits, and the address of the block of bit 0.
    #[inline]
    fn take_word(self) -> Option<(u64, NonNull<u8>)> {
        let index = self.free.iter().position(|word| word.get() != 0)?;
        let bits = self.free[index].replace(0);
        self.used.set(self.used.get() + bits.count_ones() as u16);
        // SAFETY: the word has a block, so its first block begins inside the pool.
        Some((bits, unsafe { self.base().add(index * 64 * self.block_size()) }))
    }

    /// Puts back what is left of a word. `first` is what `take_word` gave.
    fn put_word(self, bits: u64, first: NonNull<u8>) {
        let offset = first.addr().get() & (POOL_SIZE - 1);
        let index = offset / (64 * self.block_size());
        self.free[index].set(self.free[index].get() | bits);
        self.used.set(self.used.get() - bits.count_ones() as u16);
    }

    /// Frees block `index`; the number of blocks that are left in use.
    #[inline(always)]
    pub(crate) fn put_block(self, index: usize) -> u16 {
        let word = &self.free[index / 64 % WORDS];
        debug_assert!(word.get() >> (index % 64) & 1 == 0, "block {index} is free already");
        word.set(word.get() | 1 << (index % 64));
        let used = self.used.get() - 1;
        self.used.set(used);
        used
    }

    /// Frees the blocks of word `at` whose bit is set, and forgets them as candidates; the number of
    /// blocks that are left in use.
    #[inline]
    pub(crate) fn put_blocks(self, at: usize, bits: u64) -> u16 {
        debug_assert!(self.free[at].get() & bits == 0, "a block of word {at} is free already");
        self.free[at].set(self.free[at].get() | bits);
        self.noted[at].fresh.set(self.noted[at].fresh.get() & !bits);
        self.noted[at].stale.set(self.noted[at].stale.get() & !bits);
        let used = self.used.get() - bits.count_ones() as u16;
        self.used.set(used);
        used
    }

    /// Notes block `index`, which is no candidate, as one of generation 0.
    #[inline(always)]
    pub(crate) fn set_fresh(self, index: usize) {
        let word = &self.noted[index / 64 % WORDS].fresh;
        word.set(word.get() | 1 << (index % 64));
    }

    /// Notes block `index`, which is no candidate, as one of generation 1.
    #[inline(always)]
    pub(crate) fn set_stale(self, index: usize) {
        let word = &self.noted[index / 64 % WORDS].stale;
        word.set(word.get() | 1 << (index % 64));
    }

    /// Forgets block `index` as a candidate.
    #[inline(always)]
    pub(crate) fn clear_candidate(self, index: usize) {
        let (at, mask) = (index / 64 % WORDS, !(1 << (index % 64)));
        self.noted[at].fresh.set(self.noted[at].fresh.get() & mask);
        self.noted[at].stale.set(self.noted[at].stale.get() & mask);
    }

    /// Whether block `index` is noted as a candidate.
    pub(crate) fn is_candidate(self, index: usize) -> bool {
        let at = index / 64 % WORDS;
        (self.noted[at].fresh.get() | self.noted[at].stale.get()) >> (index % 64) & 1 != 0
    }

    /// Word `at` of the candidates.
    pub(crate) fn noted_word(self, at: usize) -> u64 {
        self.noted[at].fresh.get() | self.noted[at].stale.get()
    }

    /// Makes word `at` of the candidates of generation 0 ones of generation 1; their bits.
    #[inline]
    pub(crate) fn age_candidates(self, at: usize) -> u64 {
        let (fresh, stale) = (self.noted[at].fresh.get(), self.noted[at].stale.get());
        self.noted[at].fresh.set(fresh & stale);
        self.noted[at].stale.set(fresh | stale);
        fresh & !stale
    }

    /// Makes word `at` of the candidates of generation 1 ones of generation 2; their bits.
    #[inline]
    pub(crate) fn retire_candidates(self, at: usize) -> u64 {
        let (fresh, stale) = (self.noted[at].fresh.get(), self.noted[at].stale.get());
        self.noted[at].fresh.set(fresh | stale);
        stale & !fresh
    }

    /// Takes all candidates of word `at`.
    pub(crate) fn take_candidates(self, at: usize) -> u64 {
        self.noted[at].fresh.replace(0) | self.noted[at].stale.replace(0)
    }

    /// Word `at` of the blocks that are in use: by objects, if no cache holds any.
    pub(crate) fn used_word(self, at: usize) -> u64 {
        let capacity = usize::from(self.capacity.get());
        let bits = capacity.saturating_sub(at * 64).min(64);
        let all = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        all & !self.free[at].get()
    }

    /// Verifies invariants 1, 2 and the parts of 3, 4 and (if `listed`) 5 that can be seen here.
    pub(crate) fn check(self, listed: bool) -> Result<(), &'static str> {
        let class = SizeClass::from_index(self.class()).ok_or("pool 1: no such class")?;
        let capacity = blocks_per_pool(class);
        if self.block_size() != class.size() || usize::from(self.capacity.get()) != capacity {
            return Err("pool 1: size or capacity is not the class's");
        }
        let used: u32 = (0..WORDS).map(|at| self.used_word(at).count_ones()).sum();
        if used as usize != self.used() {
            return Err("pool 2: used blocks and free bits do not add up");
        }
        if (0..WORDS).any(|at| self.noted_word(at) & !self.used_word(at) != 0) {
            return Err("pool 4: a free block is a candidate");
        }
        if self.is(LISTED) != (self.used() < capacity) {
            return Err("pool 3: listed without a free block, or the reverse");
        }
        for noted in &self.noted {
            let (fresh, stale) = (noted.fresh.get(), noted.stale.get());
            let lost = fresh & !stale != 0 && !self.is(IN_FRESH)
                || stale & !fresh != 0 && !self.is(IN_MID);
            if listed && lost {
                return Err("pool 5: a candidate that no collection of its generation would find");
            }
        }
        Ok(())
    }
}
