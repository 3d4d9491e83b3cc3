//! A bin: the pools of one size class that one owner has, and batches of their blocks.
//!
//! ```text
//! take:  front [pool]-[pool]-[pool]-[empty pool] back  <- a pool that was full and got a block back
//! ```
//!
//! Blocks are taken from the front pool until it is full. A pool that stops being full joins at the
//! back: it gathers free blocks while the others are used up. At the front it would be emptied
//! of its one free block at once, and the slow path would run for every block.
//!
//! Invariants:
//!
//! 1. `pools` holds exactly the pools of this class and owner with a free block.
//! 2. `out` is the number of blocks out of the bin's pools, full pools among them.
//! 3. `empty` is the number of listed pools with every block free; at most [`KEEP_EMPTY`].
//!
//! It maps no memory and takes no lock: who holds it exclusively, holds its pools' descriptors.

use crate::arenas::{Arenas, TakenPool};
use crate::free_bits::Block;
use crate::list::{Linked, List};
use crate::pool::{Fault, LISTED, PoolRef, Tag, UNLISTED};
use crate::size_class::SizeClass;
use core::cell::Cell;
use core::mem::MaybeUninit;

/// Empty pools that a bin keeps, so that a program that hovers at a pool's boundary does not take and
/// put back a pool each time.
pub const KEEP_EMPTY: usize = 1;

/// The pools of one class and owner.
#[derive(Debug)]
pub struct Bin {
    pools: List<PoolRef>,
    out: usize,
    empty: usize,
}

// SAFETY: the list leads only to descriptors of the bin's pools; whoever owns the bin owns them.
unsafe impl Send for Bin {}

impl Bin {
    /// A bin without pools.
    pub const fn new() -> Self {
        Bin { pools: List::new(), out: 0, empty: 0 }
    }

    /// Blocks out of this bin's pools.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Takes blocks for the end of `out` and returns how many: fewer than `out` holds only where the bin
    /// has no more; then [`add_pool`](Bin::add_pool) gives it more.
    pub fn take(&mut self, out: &mut [MaybeUninit<Block>]) -> usize {
        let mut left = out.len();
        while left > 0 {
            let Some(pool) = self.pools.front() else { break };
            let Some(rest) = out.get_mut(..left) else { break };
            self.empty -= pool.is_empty() as usize;
            left -= pool.take(rest);
            if pool.free() == 0 {
                self.pools.remove(pool);
                pool.set_state(UNLISTED);
            }
        }
        let taken = out.len() - left;
        self.out += taken;
        taken
    }

    /// Makes `pool` one of this bin.
    ///
    /// # Safety
    ///
    /// The pool is the caller's alone; `class` and `owner` are those of all pools of this bin.
    pub unsafe fn add_pool(&mut self, pool: TakenPool, class: SizeClass, owner: u8) {
        // SAFETY: the caller's promise.
        unsafe { self.add_pool_at(pool, class, owner, 0) };
    }

    /// As [`add_pool`](Bin::add_pool), and notes that it was at the time `now` on the caller's
    /// clock; 0 is no time.
    ///
    /// # Safety
    ///
    /// As for [`add_pool`](Bin::add_pool).
    pub unsafe fn add_pool_at(&mut self, pool: TakenPool, class: SizeClass, owner: u8, now: u64) {
        // SAFETY: just taken: its slot is zero (arena invariant 4), and it is the caller's.
        let pool = unsafe { PoolRef::init(pool.base, class, owner, pool.zero) };
        pool.set_taken_at(now);
        pool.set_state(LISTED);
        self.pools.push_front(pool);
        self.empty += 1;
    }

    /// Takes back those of `blocks` that belong to this bin; those of other owners move to the
    /// front. What lies behind these is unspecified.
    ///
    /// Works through runs of blocks of one pool: what is freed together often lies together. In a
    /// run that lies side by side a block costs some seven instructions, in others 25, alone 47.
    ///
    /// # Safety
    ///
    /// Every block is out of a pool of some bin, and the caller's; `class` and `owner` are this bin's.
    #[inline]
    pub unsafe fn give(&mut self, blocks: &mut [Block], class: SizeClass, owner: u8) -> Given {
        let tag = Tag::new(class, owner);
        let mut given = Given { others: 0, emptied: Emptied(List::new()), fault: None };
        let blocks = Cell::from_mut(blocks).as_slice_of_cells();
        let (mut rest, mut front) = (blocks, blocks.iter());
        let mut taken_back = 0;
        while let Some((first, tail)) = rest.split_first() {
            let first = first.get();
            // SAFETY: the caller's promise.
            let pool = unsafe { PoolRef::of_block(first) };
            if pool.tag() != tag {
                if pool.class() != Some(class) {
                    given.fault = Some(Fault::WrongClass(first, pool.class()));
                    break;
                }
                // All before it are done, so there is room.
                if let Some(place) = front.next() {
                    place.set(first);
                    given.others += 1;
                }
                rest = tail;
                continue;
            }
            if tail.first().is_none_or(|next| !PoolRef::is_shared(first, next.get())) {
                // SAFETY: the caller's promise: it is out of its pool.
                let Some(before) = (unsafe { pool.give_one(first) }) else {
                    given.fault = Some(Fault::DoubleFree(first));
                    break;
                };
                taken_back += 1;
                self.settle(pool, before, &mut given.emptied);
                rest = tail;
                continue;
            }
            // SAFETY: the caller's promise: they are out of pools.
            let run = unsafe { pool.give(first, tail) };
            taken_back += run.count;
            if let Some(block) = run.double_free {
                if run.count > 0 {
                    self.settle_before_fault(pool, run.before, &mut given.emptied);
                }
                given.fault = Some(Fault::DoubleFree(block));
                break;
            }
            self.settle(pool, run.before, &mut given.emptied);
            rest = rest.get(run.count..).unwrap_or_default();
        }
        self.out -= taken_back;
        given
    }

    /// Puts a pool where it belongs after blocks were given back to it that had `before` free ones.
    #[inline(always)]
    fn settle(&mut self, pool: PoolRef, before: usize, emptied: &mut Emptied) {
        if before == 0 {
            self.pools.push_back(pool);
            pool.set_state(LISTED);
        }
        if pool.is_empty() {
            self.pool_emptied(pool, emptied);
        }
    }

    /// The same, out of the way: who goes on after a fault has a bin that is whole.
    #[cold]
    #[inline(never)]
    fn settle_before_fault(&mut self, pool: PoolRef, before: usize, emptied: &mut Emptied) {
        self.settle(pool, before, emptied);
    }

    #[cold]
    fn pool_emptied(&mut self, pool: PoolRef, emptied: &mut Emptied) {
        self.pools.remove(pool);
        if self.empty < KEEP_EMPTY {
            self.empty += 1;
            // Last in line: partly used pools come first.
            self.pools.push_back(pool);
        } else {
            pool.set_state(UNLISTED);
            pool.retire();
            emptied.0.push_back(pool);
        }
    }

    /// Takes out all empty pools.
    pub fn drain_empty(&mut self) -> Emptied {
        let mut emptied = Emptied(List::new());
        if self.empty > 0 {
            let mut at = self.pools.front();
            while let Some(pool) = at {
                at = pool.next().get();
                if pool.is_empty() {
                    self.pools.remove(pool);
                    pool.set_state(UNLISTED);
                    pool.retire();
                    emptied.0.push_back(pool);
                }
            }
            self.empty = 0;
        }
        emptied
    }

    /// Verifies invariants 1 and 3, as far as the list shows them.
    pub fn check(&self, class: SizeClass, owner: u8) -> Result<(), &'static str> {
        let mut empty = 0;
        for pool in self.pools.iter() {
            pool.check()?;
            if pool.class() != Some(class) || pool.tag().owner() != owner || pool.free() == 0 {
                return Err("bin 1: a pool is listed that does not belong there");
            }
            empty += pool.is_empty() as usize;
        }
        if empty != self.empty {
            return Err("bin 3: the number of empty pools is wrong");
        }
        Ok(())
    }
}

impl Default for Bin {
    fn default() -> Self {
        Bin::new()
    }
}

/// What became of blocks that were given to a bin.
#[derive(Debug)]
#[must_use]
pub struct Given {
    /// How many belong to other owners: they are the first of the slice now.
    pub others: usize,
    /// Pools that became empty and left the bin.
    pub emptied: Emptied,
    /// A block that could not be taken back; it was left out.
    pub fault: Option<Fault>,
}

/// Pools that left a bin, to be put back into their arenas.
#[derive(Debug)]
#[must_use = "pools that are dropped here never return to their arena"]
pub struct Emptied(List<PoolRef>);

impl Emptied {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the pools back. `now` is the time on any clock of the caller's. Returns how many.
    ///
    /// # Safety
    ///
    /// The pools were taken from `arenas`.
    pub unsafe fn put_back(mut self, arenas: &mut Arenas, now: u64) -> usize {
        let mut count = 0;
        while let Some(pool) = self.0.pop_front() {
            // SAFETY: the caller's promise; the pool is empty and in no list.
            unsafe { arenas.put_pool(pool.base(), now) };
            count += 1;
        }
        count
    }
}

#[cfg(test)]
#[path = "bin_tests.rs"]
mod tests;
