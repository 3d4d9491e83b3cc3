//! Walks over all pools of an [`Arenas`]: what each holds, and the sum of all bytes.
//!
//! The identity that [`Usage`] states holds whenever no pool is between a bin and the arenas:
//! `live + free + metadata + rounding = mapped`.
//!
//! It verifies descriptors one by one; lists are verified by their bins.

use crate::arenas::Arenas;
use crate::layout_math::{ARENA_SIZE, POOL_SIZE};
use crate::pool::{Block, PoolRef};
use crate::size_class::SizeClass;
use core::ptr::NonNull;

/// What a pool in use holds.
#[derive(Clone, Copy, Debug)]
pub struct PoolView {
    pool: PoolRef,
    class: SizeClass,
}

impl PoolView {
    /// Address of its first block.
    pub fn base(&self) -> NonNull<u8> {
        self.pool.base()
    }

    /// Class of its blocks.
    pub fn class(&self) -> SizeClass {
        self.class
    }

    /// Owner that was named when the pool was added to a bin.
    pub fn owner(&self) -> u8 {
        self.pool.tag().owner()
    }

    /// Blocks that are out: in a program's hands or in a cache.
    pub fn out(&self) -> usize {
        self.pool.capacity() - self.pool.free()
    }

    /// Blocks that fit.
    pub fn capacity(&self) -> usize {
        self.pool.capacity()
    }

    /// Calls `f` with the address of each block that is out.
    pub fn for_each_out(&self, f: impl FnMut(Block)) {
        self.pool.for_each_out(f);
    }

    /// Verifies the pool's invariants.
    pub fn check(&self) -> Result<(), &'static str> {
        self.pool.check()
    }
}

/// Where the bytes of all arenas are.
///
/// `mapped == live + free + metadata + rounding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of arenas in use.
    pub mapped: usize,
    /// Bytes of blocks that are out.
    pub live: usize,
    /// Bytes of free blocks and free pools.
    pub free: usize,
    /// Bytes of free pools; they are part of `free`.
    pub free_pools: usize,
    /// Bytes of metadata pools.
    pub metadata: usize,
    /// Bytes at the ends of pools where no whole block fits.
    pub rounding: usize,
    /// Pools in use.
    pub pools: usize,
    /// Blocks that are out.
    pub live_blocks: usize,
}

impl Arenas {
    /// Calls `f` for each pool that a bin has.
    ///
    /// # Safety
    ///
    /// All pools taken from these arenas were given to bins, or are not yet initialised; nobody
    /// uses those bins meanwhile.
    pub unsafe fn for_each_pool(&self, mut f: impl FnMut(PoolView)) {
        self.for_each_taken(|base| {
            // SAFETY: `base` is a pool that is taken.
            let pool = unsafe { PoolRef::of_block(base) };
            if let Some(class) = pool.class() {
                f(PoolView { pool, class });
            }
        });
    }

    /// Adds up where all bytes are. Costs a step per pool.
    ///
    /// # Safety
    ///
    /// As for [`for_each_pool`](Arenas::for_each_pool).
    pub unsafe fn usage(&self) -> Usage {
        let mut usage = Usage {
            mapped: self.arenas() * ARENA_SIZE,
            metadata: self.arenas() * POOL_SIZE,
            ..Usage::default()
        };
        // SAFETY: the caller's promise.
        unsafe {
            self.for_each_pool(|pool| {
                let size = pool.class().size();
                usage.pools += 1;
                usage.live_blocks += pool.out();
                usage.live += pool.out() * size;
                usage.free += (pool.capacity() - pool.out()) * size;
                usage.rounding += POOL_SIZE - pool.capacity() * size;
            })
        };
        usage.free_pools = usage.mapped - usage.metadata - usage.pools * POOL_SIZE;
        usage.free += usage.free_pools;
        usage
    }
}
