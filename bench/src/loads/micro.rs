//! Allocator calls and nothing else, one thread, blocks of up to 512 bytes. No unsafe here.
//!
//! What they show: the cost of a call with a warm cache (`pair`), of bursts (`batch-*`), and of
//! blocks that live for random times among few or many others (`replace-*`). They do not show what
//! a program gains from blocks that lie well for its own reads: the real programs do.

use std::hint::black_box;
use std::mem::MaybeUninit;

use fastrand::Rng;

use super::block::Block;
use crate::workload::{Outcome, Scale, measure};

/// Sixty-four bytes of which the first eight are written.
struct Cell {
    tag: u64,
    _rest: MaybeUninit<[u64; 7]>,
}

impl Cell {
    fn boxed(tag: u64) -> Box<Cell> {
        let cell = Box::new(Cell { tag, _rest: MaybeUninit::uninit() });
        // The address escapes, so the allocation cannot be optimised away.
        black_box(&*cell);
        cell
    }
}

/// Alloc and free of one constant size.
pub(crate) fn pair(scale: &Scale) -> Outcome {
    let units = scale.of(130_000_000);
    measure(|| {
        let mut sum = 0u64;
        for i in 0..units {
            let cell = Cell::boxed(i);
            sum = sum.wrapping_add(cell.tag);
        }
        (units, sum)
    })
}

/// Alloc and free of one of sixteen sizes, from a random sequence of 4,096.
pub(crate) fn pair_sizes(scale: &Scale) -> Outcome {
    const SIZES: [usize; 16] =
        [8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 400, 512];
    let mut rng = scale.rng(0);
    let sequence: Vec<usize> = (0..4096).map(|_| SIZES[rng.usize(..16)]).collect();
    let rounds = scale.of(28_000);
    measure(|| {
        let mut sum = 0u64;
        for round in 0..rounds {
            for &size in &sequence {
                let block = Block::new(size, round as u32);
                sum = sum.wrapping_add(block.free());
            }
        }
        (rounds * sequence.len() as u64, sum)
    })
}

/// Blocks of a batch.
const BATCH: usize = 10_000;

/// Allocates batches of 64-byte blocks and frees each batch in the order that `order` makes of
/// the positions 0, 1, 2, ...
fn batch(scale: &Scale, order: impl FnOnce(&mut Vec<u32>)) -> Outcome {
    let mut positions: Vec<u32> = (0..BATCH as u32).collect();
    order(&mut positions);
    let rounds = scale.of(9_000);
    let mut cells: Vec<Option<Box<Cell>>> = Vec::with_capacity(BATCH);
    measure(|| {
        let mut sum = 0u64;
        for round in 0..rounds {
            cells.extend((0..BATCH as u64).map(|i| Some(Cell::boxed(round ^ i))));
            for (i, &position) in positions.iter().enumerate() {
                if let Some(cell) = cells[position as usize].take() {
                    sum = sum.wrapping_add(cell.tag.wrapping_mul(i as u64));
                }
            }
            cells.clear();
        }
        (rounds * BATCH as u64, sum)
    })
}

/// Freed first in, first out.
pub(crate) fn batch_in_order(scale: &Scale) -> Outcome {
    batch(scale, |_| {})
}

/// Freed last in, first out.
pub(crate) fn batch_reversed(scale: &Scale) -> Outcome {
    batch(scale, |positions| positions.reverse())
}

/// Freed in an order that has nothing to do with that of the allocations.
pub(crate) fn batch_random(scale: &Scale) -> Outcome {
    batch(scale, |positions| scale.rng(0).shuffle(positions))
}

/// A size of 8..=512 bytes: half of them up to 64, a quarter up to 128, the rest evenly up to 256
/// or 512.
pub(crate) fn small_size(rng: &mut Rng) -> usize {
    let bits = rng.u32(..);
    let limit = 64usize << (bits & 7).trailing_zeros().min(3);
    8 + (((bits >> 3) as usize * (limit - 7)) >> 29)
}

/// Replaces random blocks of `live` by new ones of sizes from `size`, `units` times.
fn replace(scale: &Scale, live: usize, units: u64, size: impl Fn(&mut Rng) -> usize) -> Outcome {
    let mut rng = scale.rng(0);
    let mut blocks: Vec<Block> = (0..live).map(|i| Block::new(size(&mut rng), i as u32)).collect();
    measure(|| {
        let mut sum = 0u64;
        for i in 0..units {
            let slot = &mut blocks[rng.usize(..live)];
            let size = size(&mut rng);
            sum = sum.wrapping_add(slot.mark());
            *slot = Block::new(size, i as u32);
        }
        (units, sum)
    })
}

/// Few live blocks: they fit the processor's second-level cache.
pub(crate) fn replace_10k(scale: &Scale) -> Outcome {
    replace(scale, scale.keep(10_000), scale.of(60_000_000), small_size)
}

/// Many live blocks: every free misses the processor's caches.
pub(crate) fn replace_1m(scale: &Scale) -> Outcome {
    replace(scale, scale.keep(1_000_000), scale.of(5_000_000), small_size)
}

/// As `replace-10k` with one block of sixteen between 512 bytes and 64 KiB.
pub(crate) fn sizes_with_large(scale: &Scale) -> Outcome {
    replace(scale, scale.keep(20_000), scale.of(18_000_000), |rng| {
        if rng.u8(..16) == 0 {
            // Geometric: each of the seven doublings of 512 is as likely as the others.
            let base = 512usize << rng.u8(..7);
            base + 1 + rng.usize(..base)
        } else {
            small_size(rng)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_sizes_stay_within_8_and_512_and_half_are_at_most_64() {
        let mut rng = Rng::with_seed(1);
        let sizes: Vec<usize> = (0..100_000).map(|_| small_size(&mut rng)).collect();
        assert_eq!(sizes.iter().min(), Some(&8));
        assert_eq!(sizes.iter().max(), Some(&512));
        let up_to_64 = sizes.iter().filter(|&&size| size <= 64).count();
        assert!((50_000..80_000).contains(&up_to_64), "{up_to_64}");
    }

    #[test]
    fn a_cell_is_64_bytes() {
        assert_eq!(size_of::<Cell>(), 64);
    }
}
