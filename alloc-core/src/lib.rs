//! Arenas, pools and blocks in size classes: the engine under `PoolAlloc` and `Gc<T>`.
//!
//! By itself it is a private heap without any global state: [`Heap`] serves blocks of 8 to 512
//! bytes to one thread, from pages of the system, of a slice, or of a source that fails on purpose
//! ([`PageSource`]). With the feature `allocator-api2` a `&Heap` is an allocator for collections
//! that take one.
//!
//! ```
//! use alloc_core::{Heap, OsPages};
//! use std::alloc::Layout;
//!
//! let heap = Heap::new(OsPages);
//! let layout = Layout::new::<[u64; 5]>();
//! let block = heap.alloc(layout).expect("memory");
//! assert_eq!(heap.usage().live_blocks, 1);
//! // SAFETY: from `alloc` of this heap with this layout, and used no more.
//! unsafe { heap.dealloc(block, layout) };
//! assert!(heap.check().is_ok());
//! ```
//!
//! [`Heap`], [`PageSource`] and its sources, [`SizeClass`], and what a walk shows ([`Usage`],
//! [`ArenaView`], [`PoolView`]) are for users. All else is what `alloc-global` and `rc-gc` build
//! their heaps of, and changes with them.
// No unsafe here; the modules say what they use it for.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("alloc-core: 64-bit targets only; its headers are laid out for them");

mod arena;
mod arenas;
mod bin;
mod chunk;
mod errno;
mod free_bits;
mod heap;
mod layout_math;
mod list;
mod page_source;
mod pool;
mod size_class;
mod walk;

pub use arena::{pool_base, slot_of};
pub use arenas::{Arenas, FreePools, TakenPool};
pub use bin::{Bin, Emptied, Given, KEEP_EMPTY};
pub use chunk::{DetachedArena, MappedChunk, UnusedChunk};
pub use errno::keeping_errno;
pub use free_bits::{Block, carve, count_marked, take_marked};
pub use heap::Heap;
pub use layout_math::{
    ARENA_SIZE, HUGE_PAGE, MAX_BLOCKS, MAX_CHUNK_ARENAS, PAGE_SIZE, POOL_SIZE, POOLS_PER_ARENA,
    SLOT_SIZE, USABLE_POOLS, block_index, blocks_per_pool, reciprocal, round_up,
};
pub use list::{Linked, List};
pub use page_source::{FailingPages, FixedPages, OsPages, PageSource};
pub use pool::{Fault, owner_of};
pub use size_class::{CLASS_STEP, CLASS_TABLE, CLASSES, MAX_SMALL, SizeClass, class_index};
pub use walk::{ArenaView, PoolUse, PoolView, Usage};

/// The unit tests run on the allocator that is built on this crate, which Miri cannot run.
#[cfg(all(test, not(miri)))]
#[global_allocator]
static ALLOC: alloc_global::PoolAlloc = alloc_global::PoolAlloc::new();
