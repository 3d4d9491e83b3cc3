//! One watched event: from the slow paths of the allocator into the profile's tables.
//!
//! Reached from `GlobalAlloc`: nothing here allocates from the allocator, panics, or waits on a lock while
//! another is held.
//!
//! No unsafe here.

use alloc_core::Block;

/// A block was allocated and chosen: stands for `1 / (1 - exp(-size / rate))` blocks like it, or, where `rate`
/// is at most 1, for itself.
///
/// `requested` is the size of the layout, `size` what the block takes: that of its class, or of the
/// layout that the fallback was asked for.
pub(crate) fn on_alloc(_block: Block, _requested: usize, _size: usize, _rate: u64) {}

/// Whether a block may be among those chosen: false for sure, or true most likely. A few instructions.
#[inline]
pub(crate) fn is_recorded(_block: Block) -> bool {
    false
}

/// A block for which [`is_recorded`] held is free.
pub(crate) fn on_free(_block: Block) {}
