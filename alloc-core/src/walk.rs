//! Walks over all pools of an [`Arenas`]: what each holds, and the sum of all bytes.
//!
//! The identity that [`Usage`] states holds whenever no pool is between a bin and the arenas:
//! `live + free + metadata + rounding = mapped`.
//!
//! It verifies descriptors one by one; lists are verified by their bins.

use crate::arena::ArenaRef;
use crate::arenas::Arenas;
use crate::free_bits::Block;
use crate::layout_math::{ARENA_SIZE, POOL_SIZE, POOLS_PER_ARENA};
use crate::pool::PoolRef;
use crate::size_class::SizeClass;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// What a pool in use holds, for as long as a walk looks at it.
#[derive(Clone, Copy, Debug)]
pub struct PoolView<'a> {
    pool: PoolRef,
    class: SizeClass,
    walk: PhantomData<&'a Arenas>,
}

impl PoolView<'_> {
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

    /// When the pool was taken, on the clock of who gave it to its bin; `None` if that was not
    /// said, and for pools of class 1, whose descriptors have no room for it.
    pub fn taken_at(&self) -> Option<u64> {
        self.pool.taken_at()
    }

    /// Verifies the pool's invariants.
    pub fn check(&self) -> Result<(), &'static str> {
        self.pool.check()
    }
}

/// What a pool of an arena serves as.
#[derive(Clone, Copy, Debug)]
pub enum PoolUse<'a> {
    /// The arena's header and descriptors: the first pool of each arena.
    Metadata,
    /// Nothing. Its memory is still there, or it is on its way between a bin and the arenas.
    Free,
    /// Nothing. It has no memory: given back, or never touched.
    GivenBack,
    /// Blocks.
    Used(PoolView<'a>),
}

/// An arena in use, for as long as a walk looks at it.
#[derive(Debug)]
pub struct ArenaView<'a> {
    arena: ArenaRef,
    walk: PhantomData<&'a Arenas>,
}

impl<'a> ArenaView<'a> {
    /// Its first address.
    pub fn base(&self) -> NonNull<u8> {
        self.arena.base()
    }

    /// When one of its pools last became free, on the clock of who put it back. `None`: not since
    /// the arena came into use, or the system refused to take its memory back.
    pub fn since(&self) -> Option<u64> {
        Some(self.arena.since.get()).filter(|since| *since != 0 && *since != u64::MAX)
    }

    /// Its 64 pools in the order of their addresses.
    pub fn pools(&self) -> impl Iterator<Item = PoolUse<'a>> + use<'a> {
        let arena = self.arena;
        (0..POOLS_PER_ARENA).map(move |index| {
            let bit = 1u64 << index;
            if index == 0 {
                return PoolUse::Metadata;
            } else if arena.free.get() & bit != 0 {
                return match arena.zero.get() & bit {
                    0 => PoolUse::Free,
                    _ => PoolUse::GivenBack,
                };
            }
            // SAFETY: a pool that is not free lies in an arena in use, and its slot is a descriptor.
            let pool = unsafe { PoolRef::of_block(arena.pool(index)) };
            // Without a class: between a bin and the arenas, or being given back.
            let view = |class| PoolUse::Used(PoolView { pool, class, walk: PhantomData });
            pool.class().map_or(PoolUse::Free, view)
        })
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
    pub unsafe fn for_each_pool(&self, mut f: impl FnMut(PoolView<'_>)) {
        self.for_each_taken(|base| {
            // SAFETY: `base` is a pool that is taken.
            let pool = unsafe { PoolRef::of_block(base) };
            if let Some(class) = pool.class() {
                f(PoolView { pool, class, walk: PhantomData });
            }
        });
    }

    /// Calls `f` for each arena in use.
    ///
    /// # Safety
    ///
    /// As for [`for_each_pool`](Arenas::for_each_pool).
    pub unsafe fn for_each_arena_view(&self, mut f: impl FnMut(ArenaView<'_>)) {
        self.for_each_arena_masks(|base, _, _| {
            // SAFETY: the base of an arena in use.
            let arena = unsafe { ArenaRef::from_base(base) };
            f(ArenaView { arena, walk: PhantomData });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bin::Bin;
    use crate::chunk::MappedChunk;
    use crate::page_source::OsPages;
    use core::mem::MaybeUninit;

    /// Arenas with one pool of each of two classes, taken at the time 7, and a free one that was
    /// put back at 9.
    fn walked(look: impl FnOnce(&Arenas)) {
        let mut arenas = Arenas::new();
        // SAFETY: the system's pages stay until they are given back.
        unsafe { arenas.add_chunk(MappedChunk::map(&OsPages, 2).unwrap()) };
        let mut bins = [Bin::new(), Bin::new()];
        for (bin, size) in bins.iter_mut().zip([8, 16]) {
            let class = SizeClass::of(size, 8).unwrap();
            let pool = arenas.take_pool().unwrap();
            // SAFETY: just taken; each bin has one class and the owner 3.
            unsafe { bin.add_pool_at(pool, class, 3, 7) };
            let mut blocks = [MaybeUninit::uninit(); 100];
            assert_eq!(bin.take(&mut blocks), 100);
        }
        let freed = arenas.take_pool().unwrap();
        // SAFETY: just taken, not used.
        unsafe { arenas.put_pool(freed.base, 9) };
        look(&arenas);
        for (bin, size) in bins.iter().zip([8, 16]) {
            assert_eq!(bin.check(SizeClass::of(size, 8).unwrap(), 3), Ok(()));
        }
        // SAFETY: mapped from there; no block is used any more.
        unsafe { arenas.unmap_all(&OsPages) };
    }

    #[test]
    fn a_view_tells_what_each_pool_serves_as() {
        walked(|arenas| {
            let mut seen = 0;
            let see = |arena: ArenaView| {
                seen += 1;
                assert_eq!(arena.since(), Some(9));
                let pools: std::vec::Vec<PoolUse> = arena.pools().collect();
                assert_eq!(pools.len(), POOLS_PER_ARENA);
                assert!(matches!(pools[0], PoolUse::Metadata));
                for (pool, class, taken) in [(pools[1], 1, None), (pools[2], 2, Some(7))] {
                    let PoolUse::Used(pool) = pool else { panic!("{pool:?}") };
                    assert_eq!((pool.class().index(), pool.owner(), pool.out()), (class, 3, 100));
                    assert_eq!(pool.taken_at(), taken);
                    assert_eq!(pool.check(), Ok(()));
                }
                assert!(matches!(pools[3], PoolUse::Free));
                assert!(pools[4..].iter().all(|pool| matches!(pool, PoolUse::GivenBack)));
            };
            // SAFETY: all pools taken are in bins that nobody uses.
            unsafe { arenas.for_each_arena_view(see) };
            assert_eq!(seen, 1);
        });
    }

    #[test]
    fn chunks_and_peaks_are_told() {
        walked(|arenas| {
            let mut chunks = std::vec::Vec::new();
            arenas.for_each_chunk(|_, arenas, active| chunks.push((arenas, active)));
            assert_eq!(chunks, [(2, 1)]);
            assert_eq!((arenas.pools_in_use(), arenas.peak_pools()), (2, 3));
        });
    }

    #[test]
    fn the_smallest_class_uses_every_bit_of_its_descriptor() {
        let mut arenas = Arenas::new();
        // SAFETY: the system's pages stay until they are given back.
        unsafe { arenas.add_chunk(MappedChunk::map(&OsPages, 1).unwrap()) };
        let class = SizeClass::of(8, 8).unwrap();
        let mut bin = Bin::new();
        // SAFETY: just taken; the bin has one class and owner.
        unsafe { bin.add_pool_at(arenas.take_pool().unwrap(), class, 0, u64::MAX) };
        let mut blocks = [MaybeUninit::uninit(); 1792];
        assert_eq!(bin.take(&mut blocks), 1792);
        // SAFETY: all were written.
        let mut blocks = blocks.map(|block| unsafe { block.assume_init() });
        // SAFETY: out of this bin, and not used.
        let given = unsafe { bin.give(&mut blocks, class, 0) };
        assert_eq!((given.others, given.fault), (0, None));
        assert_eq!((bin.out(), bin.check(class, 0)), (0, Ok(())));
        // SAFETY: mapped from there; no block is used any more.
        unsafe { arenas.unmap_all(&OsPages) };
    }
}
