//! A census: one walk over all pools, with a sum per size class. What all answers about bytes rest on.
//!
//! ```text
//! arena  =  metadata | free pools | given back | pools of class 1 | ... | pools of class 64
//! pools of a class  =  live | cached | free blocks | rounding
//! ```
//!
//! Invariants:
//!
//! 1. The parts sum to the bytes of the arenas:
//!    `metadata + free + given back + sum of POOL_SIZE * pools = mapped`, and per class
//!    `capacity >= out >= cached`.
//! 2. Nothing is allocated while the locks are held: all sums lie on the stack.
//!
//! Unsafe only to promise the walk that all locks are held.

use crate::{shared, thread};
use alloc_core::{ARENA_SIZE, CLASS_TABLE, POOL_SIZE, PoolUse, SizeClass};

/// What there is of one class.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClassCount {
    /// Pools in use.
    pub(crate) pools: u64,
    /// Blocks that fit in them.
    pub(crate) capacity: u64,
    /// Blocks out of them: in the program's hands, or cached.
    pub(crate) out: u64,
    /// Blocks in the caches of threads, and on their way from one to another.
    pub(crate) cached: u64,
}

impl ClassCount {
    /// Blocks in the program's hands.
    pub(crate) fn live(&self) -> u64 {
        self.out.saturating_sub(self.cached)
    }

    /// Blocks free in pools, those not carved yet among them.
    pub(crate) fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.out)
    }
}

/// See the head of this file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Census {
    classes: [ClassCount; CLASS_TABLE],
    /// Arenas in use.
    pub(crate) arenas: u64,
    /// Those of them of which every pool is free.
    pub(crate) empty_arenas: u64,
    /// The most arenas that were in use at once.
    pub(crate) peak_arenas: u64,
    /// The most pools that were in use at once.
    pub(crate) peak_pools: u64,
    /// Free pools with memory.
    pub(crate) free_pools: u64,
    /// Free pools without.
    pub(crate) given_back: u64,
}

/// Bytes by part; they sum to `mapped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    pub(crate) mapped: u64,
    pub(crate) live: u64,
    pub(crate) cached: u64,
    pub(crate) free_blocks: u64,
    pub(crate) free_pools: u64,
    pub(crate) given_back: u64,
    pub(crate) metadata: u64,
    pub(crate) rounding: u64,
}

impl Census {
    /// Walks all pools. Costs a step per pool and per thread and class; other threads wait at their
    /// slow paths meanwhile.
    pub(crate) fn take() -> Census {
        shared::with_all_locked(|arenas| {
            let mut census = Census {
                classes: [ClassCount::default(); CLASS_TABLE],
                arenas: arenas.arenas() as u64,
                empty_arenas: arenas.empty_arenas() as u64,
                peak_arenas: arenas.peak_arenas() as u64,
                peak_pools: arenas.peak_pools() as u64,
                free_pools: 0,
                given_back: 0,
            };
            let count = |arena: alloc_core::ArenaView| {
                for pool in arena.pools() {
                    match pool {
                        PoolUse::Metadata => {}
                        PoolUse::Free => census.free_pools += 1,
                        PoolUse::GivenBack => census.given_back += 1,
                        PoolUse::Used(pool) => {
                            let index = pool.class().index();
                            let Some(class) = census.classes.get_mut(index) else { continue };
                            class.pools += 1;
                            class.capacity += pool.capacity() as u64;
                            class.out += pool.out() as u64;
                        }
                    }
                }
            };
            // SAFETY: all locks are held: pools are in bins that nobody uses, or have no class.
            unsafe { arenas.for_each_arena_view(count) };
            census.count_cached();
            census
        })
    }

    /// Adds up what caches and the depot hold; never more than is out, though threads push and pop
    /// meanwhile.
    fn count_cached(&mut self) {
        for class in SizeClass::all() {
            let mut cached = shared::blocks_in_depot(class) as u64;
            thread::for_each_cache(|cache| cached += cache.counts(class).0);
            if let Some(count) = self.classes.get_mut(class.index()) {
                count.cached = cached.min(count.out);
            }
        }
    }

    /// What there is of one class.
    pub(crate) fn class(&self, class: SizeClass) -> ClassCount {
        self.classes.get(class.index()).copied().unwrap_or_default()
    }

    /// Pools that serve a class.
    pub(crate) fn pools(&self) -> u64 {
        self.classes.iter().map(|class| class.pools).sum()
    }

    /// Bytes by part.
    pub(crate) fn bytes(&self) -> Bytes {
        let pool = POOL_SIZE as u64;
        let mut bytes = Bytes {
            mapped: self.arenas * ARENA_SIZE as u64,
            metadata: self.arenas * pool,
            free_pools: self.free_pools * pool,
            given_back: self.given_back * pool,
            ..Bytes::default()
        };
        for class in SizeClass::all() {
            let (count, size) = (self.class(class), class.size() as u64);
            bytes.live += count.live() * size;
            bytes.cached += count.cached * size;
            bytes.free_blocks += count.free() * size;
            bytes.rounding += count.pools * pool - count.capacity * size;
        }
        bytes
    }
}

impl Bytes {
    /// The sum of the parts: equal to `mapped`.
    pub(crate) fn sum(&self) -> u64 {
        self.live
            + self.cached
            + self.free_blocks
            + self.free_pools
            + self.given_back
            + self.metadata
            + self.rounding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_sum_to_the_mapped_bytes_whatever_is_in_use() {
        let mut census = Census::take();
        assert_eq!(census.bytes().sum(), census.bytes().mapped);
        // 62 free pools and one of class 3 in an arena of its own.
        census.arenas += 1;
        census.free_pools += 60;
        census.given_back += 2;
        let class = SizeClass::of(24, 8).unwrap();
        let added = ClassCount { pools: 1, capacity: 682, out: 100, cached: 7 };
        let count = &mut census.classes[class.index()];
        count.pools += added.pools;
        count.capacity += added.capacity;
        count.out += added.out;
        count.cached += added.cached;
        assert_eq!(census.bytes().sum(), census.bytes().mapped);
        assert_eq!((added.live(), added.free()), (93, 582));
    }
}
