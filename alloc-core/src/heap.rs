//! A private heap: pools by class over a page source, for one thread.
//!
//! ```text
//! alloc(layout) -> bin of its class -> pool -> block
//!                    | no free block          ^
//!                    v                        |
//!                  arenas: a free pool --------
//!                    | none
//!                    v
//!                  page source: a chunk
//! ```
//!
//! This is Python's private heap without a global allocator. Requests without a class are mapped
//! page by page from the source: right for the few large tables of a program, wrong for
//! thousands of blocks of a kilobyte.
//!
//! Invariants: those of `arenas`, `bin` and `pool`, and
//!
//! 1. every pool taken from `arenas` is in the bin of its class, with owner 0;
//! 2. the blocks out of a bin are the sum over its pools.
//!
//! It is not for sharing between threads (`!Sync`); `alloc-global` builds that.

use crate::arenas::Arenas;
use crate::bin::Bin;
use crate::chunk::MappedChunk;
use crate::free_bits::Block;
use crate::layout_math::{PAGE_SIZE, round_up};
use crate::page_source::{OsPages, PageSource};
use crate::pool::Fault;
use crate::size_class::{CLASS_TABLE, SizeClass};
use crate::walk::{PoolView, Usage};
use core::alloc::Layout;
use core::cell::{RefCell, RefMut};
use core::mem::MaybeUninit;

/// The only owner in a private heap.
const OWNER: u8 = 0;

/// A private heap of blocks. Dropped, it gives its arenas back to the source, with all blocks of
/// size classes; of others it keeps no list, so those go back by `dealloc` alone.
///
/// ```
/// use alloc_core::{Heap, OsPages};
/// use std::alloc::Layout;
/// let heap = Heap::new(OsPages);
/// let layout = Layout::new::<[u64; 3]>();
/// let block = heap.alloc(layout).expect("memory");
/// assert_eq!(heap.usage().live_blocks, 1);
/// // SAFETY: from `alloc` of this heap with this layout, not used any more.
/// unsafe { heap.dealloc(block, layout) };
/// assert_eq!(heap.usage().live_blocks, 0);
/// heap.check().unwrap();
/// ```
#[derive(Debug)]
pub struct Heap<S: PageSource = OsPages> {
    inner: RefCell<Inner>,
    source: S,
}

#[derive(Debug)]
struct Inner {
    arenas: Arenas,
    bins: [Bin; CLASS_TABLE],
}

impl<S: PageSource> Heap<S> {
    /// A heap without memory; the first request maps some.
    pub const fn new(source: S) -> Self {
        let bins = [const { Bin::new() }; CLASS_TABLE];
        Heap { inner: RefCell::new(Inner { arenas: Arenas::new(), bins }), source }
    }

    /// The page source.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// A block for `layout`, or `None` where the source has no more. A size of 0 is served as 1.
    pub fn alloc(&self, layout: Layout) -> Option<Block> {
        let Some(class) = SizeClass::of(layout.size(), layout.align()) else {
            let len = round_up(layout.size().max(1), PAGE_SIZE)?;
            return self.source.map(len, layout.align().max(PAGE_SIZE));
        };
        let mut block = [MaybeUninit::uninit()];
        if self.take(class, &mut block) == 0 {
            return None;
        }
        let [block] = block;
        // SAFETY: `take` wrote the one element.
        Some(unsafe { block.assume_init() })
    }

    /// Takes a block back.
    ///
    /// # Safety
    ///
    /// `block` came from `alloc` of this heap with the same `layout`, and is not used any more.
    ///
    /// # Panics
    ///
    /// If the block is free already and its pool still holds it.
    pub unsafe fn dealloc(&self, block: Block, layout: Layout) {
        match SizeClass::of(layout.size(), layout.align()) {
            // SAFETY: the caller's promise.
            Some(class) => unsafe { self.give(class, &mut [block]) },
            None => {
                // `alloc` rounded the same size without overflow.
                let len = layout.size().max(1).next_multiple_of(PAGE_SIZE);
                // SAFETY: mapped by `alloc` with this length.
                unsafe { self.source.unmap(block, len) }
            }
        }
    }

    /// Takes blocks of `class` for the end of `out`, lowest address last, and returns how many.
    ///
    /// Fewer than `out` holds only where the source has no more.
    pub fn take(&self, class: SizeClass, out: &mut [MaybeUninit<Block>]) -> usize {
        let mut inner = self.inner.borrow_mut();
        let mut left = out.len();
        while left > 0 {
            left -= inner.bins[class.index()].take(&mut out[..left]);
            if left > 0 && !self.grow(&mut inner, class) {
                break;
            }
        }
        out.len() - left
    }

    /// Gives the bin of `class` a free pool.
    fn grow(&self, inner: &mut RefMut<'_, Inner>, class: SizeClass) -> bool {
        let pool = inner.arenas.take_pool().or_else(|| {
            match MappedChunk::map(&self.source, inner.arenas.next_chunk()) {
                // SAFETY: the source is this heap's own.
                Some(chunk) => unsafe { inner.arenas.add_chunk(chunk) },
                // The last resort: empty pools that other bins keep.
                None => Self::drain_bins(inner),
            }
            inner.arenas.take_pool()
        });
        let Some(pool) = pool else { return false };
        // SAFETY: just taken; owner 0 is that of all pools here.
        unsafe { inner.bins[class.index()].add_pool(pool, class, OWNER) };
        true
    }

    fn drain_bins(inner: &mut RefMut<'_, Inner>) {
        for index in 0..CLASS_TABLE {
            let emptied = inner.bins[index].drain_empty();
            // SAFETY: all pools come from these arenas.
            unsafe { emptied.put_back(&mut inner.arenas, 0) };
        }
    }

    /// Gives blocks of `class` back. The order of `blocks` is not kept.
    ///
    /// # Safety
    ///
    /// Each came from this heap for that class, and is not used any more.
    ///
    /// # Panics
    ///
    /// If one of them is free already and its pool still holds it.
    pub unsafe fn give(&self, class: SizeClass, blocks: &mut [Block]) {
        let mut inner = self.inner.borrow_mut();
        // SAFETY: the caller's promise; owner 0 is that of all pools here.
        let given = unsafe { inner.bins[class.index()].give(blocks, class, OWNER) };
        // SAFETY: all pools come from these arenas.
        unsafe { given.emptied.put_back(&mut inner.arenas, 0) };
        self.release(&mut inner, 1);
        drop(inner);
        match given.fault {
            None => {}
            Some(Fault::DoubleFree(block)) => panic!("double free of block {block:p}"),
            Some(Fault::WrongClass(block, _)) => panic!("block {block:p} has another size class"),
            Some(Fault::NotABlock(block)) => panic!("{block:p} is not the address of a block"),
        }
    }

    /// Gives empty arenas back, all but `keep`; returns bytes.
    fn release(&self, inner: &mut RefMut<'_, Inner>, keep: usize) -> usize {
        let mut bytes = 0;
        while let Some(arena) = inner.arenas.detach_empty(keep, u64::MAX) {
            // SAFETY: all chunks come from this source.
            let purged = unsafe { arena.purge(&self.source) };
            bytes += purged;
            // SAFETY: detached just now.
            let chunk = unsafe { inner.arenas.reattach(arena, purged > 0) };
            if let Some(chunk) = chunk {
                // SAFETY: all chunks come from this source.
                unsafe { chunk.unmap(&self.source) };
            }
            if purged == 0 {
                break;
            }
        }
        bytes
    }

    /// Gives all free memory back that makes up 64 KiB or more; returns bytes.
    pub fn trim(&self) -> usize {
        let mut inner = self.inner.borrow_mut();
        Self::drain_bins(&mut inner);
        let mut bytes = self.release(&mut inner, 0);
        while let Some(pools) = inner.arenas.detach_pools(u64::MAX - 1) {
            // SAFETY: all chunks come from this source.
            let purged = unsafe { pools.purge(&self.source) };
            bytes += purged;
            // SAFETY: detached just now.
            unsafe { inner.arenas.reattach_pools(pools, purged > 0) };
        }
        bytes
    }

    /// Where all bytes are. Requests without a class are not in it.
    pub fn usage(&self) -> Usage {
        // SAFETY: all pools taken are in bins (1), which nobody uses meanwhile.
        unsafe { self.inner.borrow().arenas.usage() }
    }

    /// Calls `f` for each pool in use. `f` must not use this heap, and cannot keep what it is
    /// shown: the pool may be gone by then.
    ///
    /// ```compile_fail
    /// # use alloc_core::{Heap, OsPages};
    /// let mut kept = None;
    /// Heap::new(OsPages).for_each_pool(|pool| kept = Some(pool));
    /// ```
    pub fn for_each_pool(&self, f: impl FnMut(PoolView<'_>)) {
        // SAFETY: all pools taken are in bins (1), which nobody uses meanwhile.
        unsafe { self.inner.borrow().arenas.for_each_pool(f) }
    }

    /// Calls `f` with the class and address of each block that is out. `f` must not use this heap.
    pub fn for_each_block(&self, mut f: impl FnMut(SizeClass, Block)) {
        self.for_each_pool(|pool| pool.for_each_out(|block| f(pool.class(), block)));
    }

    /// Verifies every numbered invariant of the heap, its bins, pools and arenas; the first
    /// breach, if any. Costs a step per pool.
    pub fn check(&self) -> Result<(), &'static str> {
        let inner = self.inner.borrow();
        inner.arenas.check()?;
        let mut out = [0; CLASS_TABLE];
        let (mut pools, mut breach) = (0, None);
        self.for_each_pool(|pool| {
            pools += 1;
            out[pool.class().index()] += pool.out();
            if let Err(text) = pool.check() {
                breach = Some(text);
            } else if pool.owner() != OWNER {
                breach = Some("heap 1: a pool of another owner");
            }
        });
        for class in SizeClass::all() {
            let bin = &inner.bins[class.index()];
            bin.check(class, OWNER)?;
            if bin.out() != out[class.index()] {
                breach = Some("heap 2: the number of blocks out is wrong");
            }
        }
        let usage = self.usage();
        if pools != inner.arenas.pools_in_use() {
            breach = Some("heap 1: a taken pool is in no bin");
        } else if usage.live + usage.free + usage.metadata + usage.rounding != usage.mapped {
            breach = Some("usage: the parts do not sum to the mapped bytes");
        }
        breach.map_or(Ok(()), Err)
    }
}

impl<S: PageSource> Drop for Heap<S> {
    fn drop(&mut self) {
        // SAFETY: mapped from this source; blocks of a heap must not be used after it.
        unsafe { self.inner.get_mut().arenas.unmap_all(&self.source) };
    }
}

#[cfg(feature = "allocator-api2")]
mod api {
    //! allocator-api2's `Allocator` for a borrowed heap.

    use super::*;
    use allocator_api2::alloc::{AllocError, Allocator};
    use core::ptr::NonNull;

    // SAFETY: blocks stay valid until they are given back or the heap is dropped, which `&Heap`
    // outlives; a copied `&Heap` is the same heap.
    unsafe impl<S: PageSource> Allocator for &Heap<S> {
        fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
            let block = self.alloc(layout).ok_or(AllocError)?;
            Ok(NonNull::slice_from_raw_parts(block, layout.size()))
        }
        unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
            // SAFETY: the caller's promise: from `allocate` with a layout that fits. A layout that
            // fits has this size: `allocate` returns exactly what was asked for.
            unsafe { self.dealloc(block, layout) }
        }
    }
}

#[cfg(test)]
#[path = "heap_tests.rs"]
mod tests;
