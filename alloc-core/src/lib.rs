//! Arenas, pools and blocks in size classes: the engine under `PoolAlloc` and `Gc<T>`.
//!
//! No unsafe here; the modules say what they use it for.

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
