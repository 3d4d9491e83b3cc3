//! The geometry of arenas, pools and descriptors, and checked rounding.
//!
//! ```text
//! chunk   up to 32 MiB of address space, a whole number of arenas      (page source)
//! arena   1 MiB, aligned to 1 MiB: 64 pools, the first holds metadata
//! pool    16 KiB, aligned to 16 KiB: blocks of one size class
//! slot    256 bytes of metadata for a pool, in the arena's first pool
//! ```
//!
//! No unsafe here. It knows numbers only.

use crate::size_class::SizeClass;

/// Size and alignment of an arena, in bytes.
pub const ARENA_SIZE: usize = 1 << 20;

/// Size and alignment of a pool, in bytes.
pub const POOL_SIZE: usize = 1 << 14;

/// Base-two logarithm of [`POOL_SIZE`].
pub(crate) const POOL_SHIFT: u32 = POOL_SIZE.trailing_zeros();

/// Pools in an arena, the metadata pool among them.
pub const POOLS_PER_ARENA: usize = ARENA_SIZE / POOL_SIZE;

/// Pools of an arena that can hold blocks.
pub const USABLE_POOLS: usize = POOLS_PER_ARENA - 1;

/// Bytes of metadata per pool.
pub const SLOT_SIZE: usize = POOL_SIZE / POOLS_PER_ARENA;

/// Page size assumed of the system; mappings are multiples of it.
pub const PAGE_SIZE: usize = 4096;

/// Size of a huge page: what a chunk is aligned to, so that two arenas can share one.
pub const HUGE_PAGE: usize = 2 << 20;

/// Largest number of arenas in a chunk.
pub const MAX_CHUNK_ARENAS: usize = 32;

/// Blocks that a descriptor can tell apart: 28 words of 64 bits.
pub const MAX_BLOCKS: usize = 28 * 64;

const _: () = assert!(SLOT_SIZE == 256);
const _: () = assert!(POOLS_PER_ARENA == u64::BITS as usize);
const _: () = assert!(MAX_CHUNK_ARENAS <= u32::BITS as usize);

/// Blocks of this class in a pool: all that fit, but at most [`MAX_BLOCKS`] (only class 1 has more).
///
/// ```
/// # use alloc_core::{SizeClass, blocks_per_pool};
/// assert_eq!(blocks_per_pool(SizeClass::of(64, 8).unwrap()), 256);
/// assert_eq!(blocks_per_pool(SizeClass::of(8, 8).unwrap()), 1792);
/// ```
#[inline]
pub const fn blocks_per_pool(class: SizeClass) -> usize {
    let fit = POOL_SIZE / class.size();
    if fit < MAX_BLOCKS { fit } else { MAX_BLOCKS }
}

/// `value` rounded up to a multiple of `align`, a power of two; `None` on overflow.
#[inline]
pub const fn round_up(value: usize, align: usize) -> Option<usize> {
    debug_assert!(align.is_power_of_two());
    match value.checked_add(align - 1) {
        Some(sum) => Some(sum & !(align - 1)),
        None => None,
    }
}

/// Multiplier that divides an offset in a pool by the class's size: `(offset * m) >> 32`.
///
/// Exact for every offset below 16 KiB and every class, as the tests show.
#[inline]
pub const fn reciprocal(class: SizeClass) -> u32 {
    // At most 2^29 + 1: the cast keeps the value.
    ((1u64 << 32) / class.size() as u64 + 1) as u32
}

/// The number of the block that contains `offset` (bytes from the pool's base).
#[inline(always)]
pub const fn block_index(offset: usize, reciprocal: u32) -> usize {
    ((offset as u64 * reciprocal as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reciprocal_divides_exactly() {
        for class in SizeClass::all() {
            let m = reciprocal(class);
            for offset in 0..POOL_SIZE {
                assert_eq!(block_index(offset, m), offset / class.size());
            }
        }
    }

    #[test]
    fn a_pool_wastes_less_than_a_block_except_in_class_one() {
        for class in SizeClass::all() {
            let rest = POOL_SIZE - blocks_per_pool(class) * class.size();
            assert!(rest < class.size() || class.index() == 1, "{class:?} leaves {rest}");
        }
    }

    #[test]
    fn rounding_refuses_to_overflow() {
        assert_eq!(round_up(1, 16), Some(16));
        assert_eq!(round_up(32, 16), Some(32));
        assert_eq!(round_up(usize::MAX, 1), Some(usize::MAX));
        assert_eq!(round_up(usize::MAX - 6, 8), None);
    }
}
