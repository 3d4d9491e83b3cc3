//! The header of an arena: which of its pools are free, and which of those are zero.
//!
//! ```text
//! arena, 1 MiB, aligned to 1 MiB
//! +--------------------------------------------------+----------+-----+-----------+
//! | pool 0: 64 slots of 256 bytes                    | pool 1   | ... | pool 63   |
//! | slot 0: arena header, chunk header; slot i: pool i| 16 KiB   |     | 16 KiB    |
//! +--------------------------------------------------+----------+-----+-----------+
//!
//! arena header
//!   0 next   8 prev   16 chunk   24 free   32 zero   40 purging   48 since   56 due_next   64 due_prev   72 is_due
//! ```
//!
//! Metadata lies side by side and outside the pools: 64 headers at the starts of pools would all fall
//! into one set of the first-level cache (mimalloc 3 and CPython's arena objects separate them too).
//!
//! Invariants of an arena header:
//!
//! 1. Bit i of `free` is set if and only if pool i (1..=63) can be taken. Bit 0 is never set.
//! 2. `zero` is a subset of `free`: the 16 KiB of such a pool read as zero, and its pages have
//!    not been touched since they were mapped or purged.
//! 3. `purging` and `free` are disjoint: one caller is giving the memory of those pools back.
//! 4. The slot of a pool that was just taken is all zero; what it holds later is its owner's.
//! 5. An arena is in the bucket of its [`Arenas`](crate::Arenas) that matches the number of bits in
//!    `free`; and in its queue of those with memory to give back if and only if `is_due` is set.
//!
//! What to do with free pools and arenas is not decided here, but in `arenas`.

use crate::chunk::ChunkRef;
use crate::layout_math::{ARENA_SIZE, POOL_SHIFT, POOL_SIZE, POOLS_PER_ARENA, SLOT_SIZE};
use crate::list::Linked;
use core::cell::Cell;
use core::mem::offset_of;
use core::num::NonZeroUsize;
use core::ops::Deref;
use core::ptr::NonNull;

/// All pools that can hold blocks.
pub(crate) const ALL_POOLS: u64 = !1;

#[repr(C)]
#[derive(Debug)]
pub(crate) struct ArenaHeader {
    next: Cell<Option<ArenaRef>>,
    prev: Cell<Option<ArenaRef>>,
    pub(crate) chunk: ChunkRef,
    pub(crate) free: Cell<u64>,
    pub(crate) zero: Cell<u64>,
    pub(crate) purging: Cell<u64>,
    /// When a pool last became free, in the unit of the caller's clock.
    pub(crate) since: Cell<u64>,
    due_next: Cell<Option<Due>>,
    due_prev: Cell<Option<Due>>,
    pub(crate) is_due: Cell<bool>,
}

const _: () = assert!(offset_of!(ArenaHeader, chunk) == 16);
const _: () = assert!(offset_of!(ArenaHeader, free) == 24);
const _: () = assert!(size_of::<ArenaHeader>() <= 128);

/// A handle to the header of an arena that is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ArenaRef(NonNull<ArenaHeader>);

impl Deref for ArenaRef {
    type Target = ArenaHeader;
    #[inline]
    fn deref(&self) -> &ArenaHeader {
        // SAFETY: made by `init` or from a base that `init` was called for; all fields that change
        // are `Cell`s, so shared references may coexist.
        unsafe { self.0.as_ref() }
    }
}

impl Linked for ArenaRef {
    fn next(&self) -> &Cell<Option<ArenaRef>> {
        let header: &ArenaHeader = self;
        &header.next
    }
    fn prev(&self) -> &Cell<Option<ArenaRef>> {
        let header: &ArenaHeader = self;
        &header.prev
    }
}

/// An arena as a member of the queue of those with memory to give back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Due(pub(crate) ArenaRef);

impl Linked for Due {
    fn next(&self) -> &Cell<Option<Due>> {
        let header: &ArenaHeader = &self.0;
        &header.due_next
    }
    fn prev(&self) -> &Cell<Option<Due>> {
        let header: &ArenaHeader = &self.0;
        &header.due_prev
    }
}

impl ArenaRef {
    /// Writes the header of an arena that comes into use: all pools free and zero.
    ///
    /// # Safety
    ///
    /// `base` is an idle arena of `chunk`: mapped, exclusive, zero beyond its metadata.
    pub(crate) unsafe fn init(base: NonNull<u8>, chunk: ChunkRef) -> ArenaRef {
        let header = base.cast::<ArenaHeader>();
        let value = ArenaHeader {
            next: Cell::new(None),
            prev: Cell::new(None),
            chunk,
            free: Cell::new(ALL_POOLS),
            zero: Cell::new(ALL_POOLS),
            purging: Cell::new(0),
            since: Cell::new(0),
            due_next: Cell::new(None),
            due_prev: Cell::new(None),
            is_due: Cell::new(false),
        };
        // SAFETY: the caller's promise: exclusive, and aligned to an arena.
        unsafe { header.write(value) };
        ArenaRef(header)
    }

    /// The arena that starts at `base`.
    ///
    /// # Safety
    ///
    /// `base` is the base of an arena in use, with provenance for all of it.
    #[inline]
    pub(crate) unsafe fn from_base(base: NonNull<u8>) -> ArenaRef {
        ArenaRef(base.cast())
    }

    pub(crate) fn base(self) -> NonNull<u8> {
        self.0.cast()
    }

    pub(crate) fn free_pools(self) -> usize {
        self.free.get().count_ones() as usize
    }

    /// Pools that are taken: neither free nor being purged.
    pub(crate) fn taken(self) -> impl Iterator<Item = NonNull<u8>> {
        let mut bits = ALL_POOLS & !self.free.get() & !self.purging.get();
        core::iter::from_fn(move || {
            if bits == 0 {
                return None;
            }
            let index = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            Some(self.pool(index))
        })
    }

    /// Base of pool `index`, 1..=63.
    pub(crate) fn pool(self, index: usize) -> NonNull<u8> {
        debug_assert!((1..POOLS_PER_ARENA).contains(&index));
        // SAFETY: `index` is below 64 (callers take it from bit masks): inside the arena.
        unsafe { self.base().add(index * POOL_SIZE) }
    }

    /// Takes pool `index` (a bit of `free`) and clears its slot (4). Returns whether it is zero.
    pub(crate) fn take(self, index: usize) -> bool {
        let bit = 1u64 << index;
        let zero = self.zero.get() & bit != 0;
        self.free.set(self.free.get() & !bit);
        self.zero.set(self.zero.get() & !bit);
        // SAFETY: slot `index` lies in the metadata pool of the arena.
        let slot = unsafe { self.base().add(index * SLOT_SIZE) };
        // SAFETY: 256 bytes, and the slot of a free pool is nobody's (1).
        unsafe { slot.write_bytes(0, SLOT_SIZE) };
        zero
    }
}

/// The base of the arena that `address` lies in.
#[inline(always)]
pub(crate) fn arena_base(address: NonNull<u8>) -> NonNull<u8> {
    address.map_addr(|a| {
        // An address inside an arena is at least 1 MiB: no arena starts at 0.
        NonZeroUsize::new(a.get() & !(ARENA_SIZE - 1)).unwrap_or(NonZeroUsize::MIN)
    })
}

/// Index of the pool that `address` lies in, 0..=63.
#[inline(always)]
pub(crate) fn pool_index(address: NonNull<u8>) -> usize {
    (address.addr().get() >> POOL_SHIFT) & (POOLS_PER_ARENA - 1)
}

/// The slot that holds the metadata of the pool in which `address` lies. Two shifts, two masks and
/// an or; it reads no memory.
///
/// The result is meaningful only if `address` lies in a pool (not the first) of an arena in use.
#[inline(always)]
pub fn slot_of(address: NonNull<u8>) -> NonNull<u8> {
    address.map_addr(|a| {
        let offset = ((a.get() >> POOL_SHIFT) & (POOLS_PER_ARENA - 1)) * SLOT_SIZE;
        let slot = (a.get() & !(ARENA_SIZE - 1)) | offset;
        NonZeroUsize::new(slot).unwrap_or(NonZeroUsize::MIN)
    })
}

/// As [`slot_of`], without the test for null.
///
/// # Safety
///
/// `address` lies in an arena.
#[inline(always)]
pub(crate) unsafe fn slot_of_inside(address: NonNull<u8>) -> NonNull<u8> {
    address.map_addr(|a| {
        let offset = ((a.get() >> POOL_SHIFT) & (POOLS_PER_ARENA - 1)) * SLOT_SIZE;
        // SAFETY: an address inside an arena is at least 1 MiB: no arena starts at 0.
        unsafe { NonZeroUsize::new_unchecked((a.get() & !(ARENA_SIZE - 1)) | offset) }
    })
}

/// The base of the pool in which `address` lies.
#[inline(always)]
pub fn pool_base(address: NonNull<u8>) -> NonNull<u8> {
    address.map_addr(|a| NonZeroUsize::new(a.get() & !(POOL_SIZE - 1)).unwrap_or(NonZeroUsize::MIN))
}
