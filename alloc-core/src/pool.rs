//! A pool's descriptor: which of its blocks are free.
//!
//! ```text
//! descriptor, 256 bytes: the pool's slot in its arena's metadata pool
//!   0 next            8 prev            16 reciprocal (4)  20 size (2)   22 capacity (2)
//!  24 free (2)       26 carved (2)      28 class (1), owner (1)               30 state (1)  31 zero (1)
//!  32 bits[28]: bit i of the whole is set if block i was carved and is free; only class 1 needs the last word
//! 248 in all other classes: when the pool was taken, in the unit of the caller's clock; 0 if that is not known
//!
//! pool, 16 KiB
//! +-------+-------+-----+----------------+---------------------------+------+
//! | block | block | ... | block carved-1 | not carved: never touched | rest |
//! +-------+-------+-----+----------------+---------------------------+------+
//!   0       size           (carved-1)*size                  capacity*size
//! ```
//!
//! For blocks of 64 bytes and more, all of it lies in one cache line. Free blocks are bits, not a list
//! through the blocks: they are handed out in address order, a batch needs no memory of
//! the blocks, and a double free is seen when it arrives here.
//!
//! Class and owner share a word, the tag, so that one comparison tells whether a block belongs where it
//! was given.
//!
//! Invariants of a descriptor in use (`class` is not 0):
//!
//! 1. `size`, `capacity` and `reciprocal` are those of `class`; they, `class` and `owner` do not
//!    change while any block of the pool is out.
//! 2. `carved <= capacity`; bits at or beyond `carved` are clear.
//! 3. `free` = number of bits set + `capacity - carved`; blocks out = `capacity - free`.
//! 4. `state` is LISTED if and only if the pool is in its bin's list, which holds if and only if
//!    `free > 0`.
//! 5. If `zero` is set, the memory from block `carved` on reads as zero.
//!
//! Which pool serves a request is not decided here, but in `bin`.

use crate::arena::{slot_of, slot_of_inside};
use crate::free_bits::{Block, carve, count_marked, take_marked};
use crate::layout_math::{
    MAX_BLOCKS, POOL_SHIFT, POOL_SIZE, POOLS_PER_ARENA, SLOT_SIZE, block_index, blocks_per_pool,
    reciprocal,
};
use crate::list::Linked;
use crate::size_class::{CLASS_STEP, SizeClass};
use core::cell::Cell;
use core::mem::{MaybeUninit, offset_of};
use core::ops::Deref;
use core::ptr::NonNull;

/// Words of 64 bits in a descriptor's bit map.
const WORDS: usize = MAX_BLOCKS / 64;

/// The word of the bit map that only class 1 needs; in other classes it holds when the pool was taken.
const STAMP: usize = WORDS - 1;

const _: () = assert!(offset_of!(PoolDesc, bits) + STAMP * 8 == 248);
const _: () = assert!(POOL_SIZE / (2 * CLASS_STEP) <= STAMP * 64, "class 2 has no bits there");

/// In no list: full, or on its way between a bin and the arenas.
pub(crate) const UNLISTED: u8 = 0;
/// In its bin's list.
pub(crate) const LISTED: u8 = 1;

#[repr(C)]
#[derive(Debug)]
pub(crate) struct PoolDesc {
    next: Cell<Option<PoolRef>>,
    prev: Cell<Option<PoolRef>>,
    reciprocal: Cell<u32>,
    size: Cell<u16>,
    capacity: Cell<u16>,
    free: Cell<u16>,
    carved: Cell<u16>,
    tag: Cell<Tag>,
    state: Cell<u8>,
    zero: Cell<bool>,
    bits: [Cell<u64>; WORDS],
}

const _: () = assert!(offset_of!(PoolDesc, reciprocal) == 16);
const _: () = assert!(offset_of!(PoolDesc, free) == 24);
const _: () = assert!(offset_of!(PoolDesc, tag) == 28);
const _: () = assert!(offset_of!(PoolDesc, bits) == 32);
const _: () = assert!(size_of::<PoolDesc>() == SLOT_SIZE);

/// What is wrong with a block that was given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The block is free already.
    DoubleFree(Block),
    /// The address lies in no pool that is in use. Found by who keeps pools of several owners; one
    /// inside a block of a pool in use counts as that block.
    NotABlock(Block),
    /// The block has another size class than it was given back for: the layout is wrong.
    WrongClass(Block, Option<SizeClass>),
}

/// Class and owner of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tag(u16);

impl Tag {
    #[inline(always)]
    pub(crate) const fn new(class: SizeClass, owner: u8) -> Tag {
        Tag(class.index() as u16 | (owner as u16) << 8)
    }

    #[inline]
    pub(crate) fn class(self) -> Option<SizeClass> {
        SizeClass::from_index((self.0 & 0xFF) as usize)
    }

    #[inline(always)]
    pub(crate) fn owner(self) -> u8 {
        (self.0 >> 8) as u8
    }
}

/// What [`PoolRef::give`] did.
pub(crate) struct GivenRun {
    /// Blocks taken back.
    pub(crate) count: usize,
    /// Blocks that were free before.
    pub(crate) before: usize,
    /// A block that was free already.
    pub(crate) double_free: Option<Block>,
}

/// A handle to the descriptor of a pool that was taken from its arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PoolRef(NonNull<PoolDesc>);

impl Deref for PoolRef {
    type Target = PoolDesc;
    #[inline(always)]
    fn deref(&self) -> &PoolDesc {
        // SAFETY: handles are made by `init` and `of_block` for pools that are taken; their slot
        // stays mapped and is theirs. All fields are `Cell`s, so shared references may coexist.
        unsafe { self.0.as_ref() }
    }
}

impl Linked for PoolRef {
    #[inline]
    fn next(&self) -> &Cell<Option<PoolRef>> {
        let desc: &PoolDesc = self;
        &desc.next
    }
    #[inline]
    fn prev(&self) -> &Cell<Option<PoolRef>> {
        let desc: &PoolDesc = self;
        &desc.prev
    }
}

impl PoolRef {
    /// Makes the pool at `base` one of `class`, with all blocks free and none carved.
    ///
    /// # Safety
    ///
    /// `base` was taken from an arena and is the caller's alone; its slot is all zero. If `zero`
    /// is set, so is its memory.
    pub(crate) unsafe fn init(base: NonNull<u8>, class: SizeClass, owner: u8, zero: bool) -> Self {
        let pool = PoolRef(slot_of(base).cast());
        let desc: &PoolDesc = &pool;
        let capacity = blocks_per_pool(class) as u16;
        desc.reciprocal.set(reciprocal(class));
        desc.size.set(class.size() as u16);
        desc.capacity.set(capacity);
        desc.free.set(capacity);
        desc.tag.set(Tag::new(class, owner));
        desc.zero.set(zero);
        pool
    }

    /// The pool that `block` lies in. Reads no memory.
    ///
    /// # Safety
    ///
    /// `block` lies in a pool that is taken, with provenance for its arena.
    #[inline(always)]
    pub(crate) unsafe fn of_block(block: Block) -> PoolRef {
        // SAFETY: the caller's promise.
        PoolRef(unsafe { slot_of_inside(block) }.cast())
    }

    /// The base of its pool: the arena's base, and the index of the slot times 16 KiB.
    #[inline]
    pub(crate) fn base(self) -> NonNull<u8> {
        let base = crate::arena::arena_base(self.0.cast());
        let index = (self.0.addr().get() / SLOT_SIZE) & (POOLS_PER_ARENA - 1);
        // SAFETY: the index is below 64: inside the arena.
        unsafe { base.add(index << POOL_SHIFT) }
    }

    #[inline(always)]
    pub(crate) fn tag(self) -> Tag {
        self.tag.get()
    }

    #[inline]
    pub(crate) fn free(self) -> usize {
        self.free.get() as usize
    }

    pub(crate) fn capacity(self) -> usize {
        self.capacity.get() as usize
    }

    pub(crate) fn class(self) -> Option<SizeClass> {
        self.tag.get().class()
    }

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.free.get() == self.capacity.get()
    }

    #[inline]
    pub(crate) fn set_state(self, state: u8) {
        self.state.set(state);
    }

    /// Whether the last word of the bit map holds a time.
    fn has_stamp(self) -> bool {
        self.capacity() <= STAMP * 64
    }

    /// Notes when the pool was taken, where there is room for it.
    pub(crate) fn set_taken_at(self, now: u64) {
        if let (true, Some(word)) = (self.has_stamp(), self.bits.get(STAMP)) {
            word.set(now);
        }
    }

    /// When the pool was taken, if that is known.
    pub(crate) fn taken_at(self) -> Option<u64> {
        let stamp = self.bits.get(STAMP).filter(|_| self.has_stamp())?;
        Some(stamp.get()).filter(|at| *at != 0)
    }

    /// Forgets the class: the pool is on its way back to its arena.
    pub(crate) fn retire(self) {
        self.tag.set(Tag(0));
    }

    /// Takes blocks for the end of `out` and returns how many: as many as it has and `out` holds.
    ///
    /// The lowest address comes last, so that who pops from the end goes up through the pool.
    pub(crate) fn take(self, out: &mut [MaybeUninit<Block>]) -> usize {
        let desc: &PoolDesc = &self;
        let size = desc.size.get() as usize;
        let base = self.base();
        let want = out.len().min(desc.free.get() as usize);
        // What is left to fill; the part behind it is done.
        let mut left =
            out.len().checked_sub(want).and_then(|skip| out.get_mut(skip..)).unwrap_or_default();
        // Carved blocks first: their memory was touched before.
        let carved = desc.carved.get() as usize;
        if !left.is_empty() && desc.free.get() > desc.capacity.get() - desc.carved.get() {
            let words = desc.bits.get(..carved.div_ceil(64)).unwrap_or_default();
            // SAFETY: a set bit is a carved block (2): inside the pool.
            left = unsafe { take_marked(words, base, size, left) };
        }
        if !left.is_empty() {
            // SAFETY: below the capacity, as some are free and not carved (3): inside the pool.
            let next = unsafe { base.add(carved * size) };
            // SAFETY: `left` blocks are free and not carved (3): all inside the pool.
            unsafe { carve(next, size, left) };
            desc.carved.set((carved + left.len()) as u16);
        }
        desc.free.set(desc.free.get() - want as u16);
        want
    }

    /// Whether two blocks lie in one pool.
    #[inline(always)]
    pub(crate) fn is_shared(block: Block, other: Block) -> bool {
        (block.addr().get() ^ other.addr().get()) < POOL_SIZE
    }

    /// Takes back one block, and returns how many were free before; `None` if it is free already.
    /// Three quarters of the instructions of a run of one.
    ///
    /// # Safety
    ///
    /// It is out of this pool, and the caller's.
    #[inline(always)]
    pub(crate) unsafe fn give_one(self, block: Block) -> Option<usize> {
        let desc: &PoolDesc = &self;
        let index = block_index(block.addr().get() % POOL_SIZE, desc.reciprocal.get());
        // SAFETY: a block of this pool has an index below its capacity.
        let word = unsafe { desc.bits.get_unchecked(index / 64) };
        let bits = word.get();
        let more = bits | 1 << (index % 64);
        if more == bits {
            return None;
        }
        word.set(more);
        let before = desc.free.get();
        // At most as many as were out: at most the capacity.
        desc.free.set(before.wrapping_add(1));
        Some(before as usize)
    }

    /// Takes back `first`, and those of `rest` that follow it as far as they lie in this pool.
    ///
    /// Out of line: in one function with [`give_one`](PoolRef::give_one), which runs as often, both
    /// lack registers.
    ///
    /// # Safety
    ///
    /// Those blocks are out of this pool, and the caller's.
    #[inline(never)]
    pub(crate) unsafe fn give(self, first: Block, rest: &[Cell<Block>]) -> GivenRun {
        let desc: &PoolDesc = &self;
        let reciprocal = desc.reciprocal.get();
        let size = desc.size.get() as usize;
        let (before, last) = (desc.free.get(), desc.capacity.get() as usize - 1);
        let place = |block: Block| {
            let index = block_index(block.addr().get() % POOL_SIZE, reciprocal);
            // SAFETY: a block of this pool has an index below its capacity.
            (unsafe { desc.bits.get_unchecked(index / 64) }, index)
        };
        // The word is kept at hand as long as blocks lie in it: through memory each one would wait for the
        // store of the one before.
        let (mut word, mut index) = place(first);
        let mut bits = word.get();
        let (mut block, mut left) = (first, rest);
        let double_free = loop {
            let more = bits | 1 << (index % 64);
            if more == bits {
                break Some(block);
            }
            bits = more;
            let Some(mut next) = left.first().map(Cell::get) else { break None };
            // What was allocated together and is freed in that order, or the reverse of it, lies
            // side by side.
            let step = next.addr().get().wrapping_sub(block.addr().get());
            let up = step == size;
            if up || step == size.wrapping_neg() {
                let clear =
                    if up { clear_above(bits, index, last) } else { clear_below(bits, index) };
                let count = side_by_side(block, step, left.get(..clear).unwrap_or(left));
                bits |= if up {
                    ones(count) << (index % 64) << 1
                } else {
                    ones(count) << (index % 64 - count)
                };
                left = left.get(count..).unwrap_or_default();
                let Some(other) = left.first().map(Cell::get) else { break None };
                next = other;
            }
            if !Self::is_shared(first, next) {
                break None;
            }
            block = next;
            left = left.get(1..).unwrap_or_default();
            let (other, other_index) = place(block);
            if !core::ptr::eq(other, word) {
                word.set(bits);
                bits = other.get();
                word = other;
            }
            index = other_index;
        };
        word.set(bits);
        let count = 1 + rest.len() - left.len() - double_free.is_some() as usize;
        // At most as many as were out: the sum is at most the capacity.
        desc.free.set(before.wrapping_add(count as u16));
        GivenRun { count, before: before as usize, double_free }
    }

    /// Calls `f` with every block that is out.
    pub(crate) fn for_each_out(self, mut f: impl FnMut(Block)) {
        let size = self.size.get() as usize;
        for index in 0..self.carved.get() as usize {
            let word = self.bits.get(index / 64).map_or(0, Cell::get);
            if word >> (index % 64) & 1 == 0 {
                // SAFETY: below `carved` (2): inside the pool.
                f(unsafe { self.base().add(index * size) });
            }
        }
    }

    /// Verifies invariants 1 to 4; 5 costs a pass over the pool and is left to tests.
    pub(crate) fn check(self) -> Result<(), &'static str> {
        let Some(class) = self.class() else {
            return Err("pool: a descriptor without a class");
        };
        let capacity = blocks_per_pool(class);
        if self.capacity() != capacity
            || self.size.get() as usize != class.size()
            || self.reciprocal.get() != reciprocal(class)
        {
            return Err("pool 1: size, capacity or reciprocal do not fit the class");
        }
        let carved = self.carved.get() as usize;
        if carved > capacity {
            return Err("pool 2: more blocks carved than fit");
        }
        let words = if self.has_stamp() { STAMP } else { WORDS };
        let words = self.bits.get(..words).unwrap_or_default();
        let Some(set) = count_marked(words, carved) else {
            return Err("pool 2: a block is free that was never carved");
        };
        if self.free() != set + capacity - carved {
            return Err("pool 3: the number of free blocks is wrong");
        }
        if (self.state.get() == LISTED) != (self.free() > 0) {
            return Err("pool 4: listed and full, or free and unlisted");
        }
        Ok(())
    }
}

/// As many low bits as that, fewer than 64.
#[inline(always)]
const fn ones(count: usize) -> u64 {
    (1 << count) - 1
}

/// How many bits above that of block `index` are clear, one after the other, in its word and up to
/// that of block `last`.
#[inline(always)]
fn clear_above(bits: u64, index: usize, last: usize) -> usize {
    let at = index % 64;
    let clear = (bits >> at >> 1).trailing_zeros() as usize;
    clear.min(63 - at).min(last.saturating_sub(index))
}

/// How many bits below that of block `index` are clear, one after the other, in its word.
#[inline(always)]
fn clear_below(bits: u64, index: usize) -> usize {
    let at = index % 64;
    ((bits << (63 - at) << 1).leading_zeros() as usize).min(at)
}

/// How many of `blocks` lie `step` bytes behind the one before, the first of them behind `block`.
#[inline(always)]
fn side_by_side(block: Block, step: usize, blocks: &[Cell<Block>]) -> usize {
    let mut last = block.addr().get();
    let follows = |next: &&Cell<Block>| {
        last = last.wrapping_add(step);
        next.get().addr().get() == last
    };
    blocks.iter().take_while(follows).count()
}

/// The owner that was named when the pool of `block` was added to a bin. Reads the descriptor.
///
/// # Safety
///
/// `block` is out of a pool of some bin.
#[inline]
pub unsafe fn owner_of(block: Block) -> u8 {
    // SAFETY: the caller's promise; while a block is out its pool's tag does not change (1).
    let pool = unsafe { PoolRef::of_block(block) };
    pool.tag().owner()
}
