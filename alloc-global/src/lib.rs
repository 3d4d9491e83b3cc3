//! `PoolAlloc`: scaffold of the face, every request to the fallback.
use std::alloc::{GlobalAlloc, Layout, System};

/// The allocator.
#[derive(Debug)]
pub struct PoolAlloc<F: GlobalAlloc = System> {
    fallback: F,
}

impl PoolAlloc<System> {
    /// With the system allocator as fallback.
    pub const fn new() -> Self {
        PoolAlloc { fallback: System }
    }
}

impl Default for PoolAlloc<System> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: GlobalAlloc> PoolAlloc<F> {
    /// With another fallback.
    pub const fn with_fallback(fallback: F) -> Self {
        PoolAlloc { fallback }
    }
}

// SAFETY: forwards to an allocator that keeps the contract.
unsafe impl<F: GlobalAlloc> GlobalAlloc for PoolAlloc<F> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the fallback's.
        unsafe { self.fallback.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the fallback's.
        unsafe { self.fallback.dealloc(ptr, layout) }
    }
}

/// Counters.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Allocations.
    pub allocs: u64,
    /// Deallocations.
    pub deallocs: u64,
    /// Reallocations.
    pub reallocs: u64,
    /// Live blocks.
    pub live_blocks: u64,
    /// Live bytes.
    pub live_bytes: u64,
    /// Peak.
    pub peak_live_bytes: u64,
    /// Arenas.
    pub arenas: u64,
    /// Mapped bytes.
    pub mapped_bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
    /// Fallback blocks.
    pub fallback_live_blocks: u64,
    /// Fallback bytes.
    pub fallback_live_bytes: u64,
}

/// Counters now.
pub fn stats() -> Stats {
    Stats::default()
}

/// Hands memory back.
pub fn trim() -> usize {
    0
}
