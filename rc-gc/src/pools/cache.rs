//! The free blocks that a class has at hand: a word of a pool's bitmap.
//!
//! Pool invariant 6 holds for each [`Cache`]. It does not know when a word is needed.

use std::cell::Cell;
use std::ptr::NonNull;

use alloc_core::POOL_SIZE;

use super::PoolRef;

/// A word of free blocks, ready to be handed out. What is freed of the same word comes back here, so
/// that an object that is made and dropped costs the pool nothing.
pub(crate) struct Cache {
    /// Blocks that are free, the lowest first.
    bits: Cell<u64>,
    /// The block of bit 0.
    first: Cell<NonNull<u8>>,
    /// Address of `first` if all 64 blocks behind it are of its pool, else NOWHERE.
    near: Cell<usize>,
}

/// An address that no block is near to.
const NOWHERE: usize = 0;

impl Cache {
    /// No blocks.
    pub(crate) const fn new() -> Self {
        Cache {
            bits: Cell::new(0),
            first: Cell::new(NonNull::dangling()),
            near: Cell::new(NOWHERE),
        }
    }

    /// Whether there is no block.
    pub(crate) fn is_empty(&self) -> bool {
        self.bits.get() == 0
    }

    /// The number of blocks.
    pub(crate) fn len(&self) -> u32 {
        self.bits.get().count_ones()
    }

    /// Takes the lowest free block. `size` is that of the class.
    #[inline(always)]
    pub(crate) fn pop(&self, size: usize) -> Option<NonNull<u8>> {
        let bits = self.bits.get();
        if bits == 0 {
            return None;
        }
        self.bits.set(bits & (bits - 1));
        let offset = bits.trailing_zeros() as usize * size;
        // SAFETY: a set bit is a block of the word that begins at `first` (`fill`).
        Some(unsafe { self.first.get().add(offset) })
    }

    /// Takes the block at address `block` back, if it is of the word that was here last. `size` is that of
    /// the class. The block may belong to any pool.
    #[inline(always)]
    pub(crate) fn push(&self, block: usize, size: usize) -> bool {
        let offset = block.wrapping_sub(self.near.get());
        if offset >= 64 * size {
            return false;
        }
        let bit = 1 << (offset / size);
        debug_assert!(self.bits.get() & bit == 0, "a block is free already");
        self.bits.set(self.bits.get() | bit);
        true
    }

    /// Takes a word from a pool that has one; how many blocks it has.
    #[inline]
    pub(crate) fn fill(&self, pool: PoolRef) -> Option<u32> {
        debug_assert!(self.is_empty());
        let (bits, first) = pool.take_word()?;
        self.first.set(first);
        self.bits.set(bits);
        let offset = first.addr().get() & (POOL_SIZE - 1);
        let whole = offset + 64 * pool.block_size() <= pool.capacity() * pool.block_size();
        self.near.set(if whole { first.addr().get() } else { NOWHERE });
        Some(bits.count_ones())
    }

    /// Puts all blocks back into their pool, if there are any: the pool, and how many.
    pub(crate) fn flush(&self) -> Option<(PoolRef, u32)> {
        self.near.set(NOWHERE);
        let bits = self.bits.replace(0);
        if bits == 0 {
            return None;
        }
        let first = self.first.get();
        // SAFETY: a block of a pool that stays taken: the word's blocks were counted as used.
        let pool = unsafe { PoolRef::containing(first) };
        pool.put_word(bits, first);
        Some((pool, bits.count_ones()))
    }

    /// Which blocks of word `at` of a pool are here.
    #[cfg(feature = "report")]
    pub(crate) fn bits_of(&self, pool: PoolRef, at: usize) -> u64 {
        let first = pool.base().addr().get() + at * 64 * pool.block_size();
        if self.first.get().addr().get() == first { self.bits.get() } else { 0 }
    }

    /// Forgets the word that was here last, if it was one of `pool`, which is given back.
    pub(crate) fn forget(&self, pool: PoolRef) {
        if self.near.get() & !(POOL_SIZE - 1) == pool.base().addr().get() {
            debug_assert!(self.is_empty());
            self.near.set(NOWHERE);
        }
    }
}
