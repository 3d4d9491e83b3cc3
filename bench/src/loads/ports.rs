//! The ideas of three well-known C allocator benchmarks, one thread each. No unsafe here.
//!
//! `alloc-test` is by OLogN, `sh6bench` by MicroQuill, `glibc-simple` is glibc's
//! `bench-malloc-simple`; all three are part of mimalloc-bench. Sizes and shapes follow the
//! originals, the code does not; times are not comparable with theirs.

use std::collections::VecDeque;

use super::block::{Block, MIN_SIZE};
use crate::workload::{Outcome, Scale, measure};

/// Fills and empties 2^16 slots: four of five operations hit a fifth of the slots, sizes up to
/// 1 KiB are Pareto distributed, and every byte is written.
pub(crate) fn alloc_test(scale: &Scale) -> Outcome {
    let slots = scale.keep(1 << 16);
    let units = scale.of(60_000_000);
    let mut rng = scale.rng(0);
    // Pareto with exponent 1 from 8 bytes: size = 8 / u, cut at 1 KiB.
    let sizes: Vec<u16> = (1..=4096u32).map(|i| (8 * 4096 / i).clamp(8, 1024) as u16).collect();
    measure(|| {
        let mut table: Vec<Option<Block>> = Vec::new();
        table.resize_with(slots, || None);
        let mut sum = 0u64;
        for i in 0..units {
            let bits = rng.u64(..);
            let reach = if bits.is_multiple_of(5) { slots } else { slots / 5 };
            let at = (((bits >> 32) * reach as u64) >> 32) as usize;
            table[at] = match table[at].take() {
                Some(block) => {
                    sum = sum.wrapping_add(block.free());
                    None
                }
                None => {
                    let size = usize::from(sizes[(bits >> 3) as usize % sizes.len()]);
                    Some(Block::filled(size, i as u32))
                }
            };
        }
        (units, sum)
    })
}

/// One thread's part of sh6bench and sh8bench: batches of growing sizes, freed last in first out
/// and first in first out in turn, while one block of eight outlives its batch by far.
pub(crate) struct Batches {
    batch: Vec<Block>,
    kept: VecDeque<Block>,
}

impl Batches {
    /// Blocks that outlive their batch.
    const KEPT: usize = 4_000;

    pub(crate) fn new() -> Self {
        Batches { batch: Vec::new(), kept: VecDeque::with_capacity(Self::KEPT + 1) }
    }

    /// One pass over all sizes. Each batch goes through `exchange` before it is freed, which may
    /// replace it by another thread's. Returns the blocks allocated and the sum of the marks freed.
    pub(crate) fn pass(&mut self, mut exchange: impl FnMut(&mut Vec<Block>)) -> (u64, u64) {
        let (mut units, mut sum) = (0, 0u64);
        for (step, size) in (MIN_SIZE..=1000).step_by(8).enumerate() {
            // Small blocks are as much more frequent as they are smaller.
            let count = (20_000 / size).max(20);
            units += count as u64;
            for i in 0..count {
                let block = Block::new(size, i as u32);
                if i % 8 == 0 { self.kept.push_back(block) } else { self.batch.push(block) }
            }
            exchange(&mut self.batch);
            if step % 2 == 0 {
                sum = self.batch.drain(..).rev().map(Block::free).fold(sum, u64::wrapping_add);
            } else {
                sum = self.batch.drain(..).map(Block::free).fold(sum, u64::wrapping_add);
            }
            let old = self.kept.len().saturating_sub(Self::KEPT);
            sum = self.kept.drain(..old).map(Block::free).fold(sum, u64::wrapping_add);
        }
        (units, sum)
    }

    /// Frees what outlived its batch; returns the sum of its marks.
    pub(crate) fn finish(self) -> u64 {
        self.kept.into_iter().map(Block::free).fold(0, u64::wrapping_add)
    }
}

/// Batches of growing sizes, LIFO and FIFO, some blocks kept.
pub(crate) fn sh6bench(scale: &Scale) -> Outcome {
    let rounds = scale.of(4_000);
    measure(|| {
        let mut batches = Batches::new();
        let (mut units, mut sum) = (0, 0u64);
        for _ in 0..rounds {
            let pass = batches.pass(|_| {});
            units += pass.0;
            sum = sum.wrapping_add(pass.1);
        }
        (units, sum.wrapping_add(batches.finish()))
    })
}

/// Batches of 25 to 1,600 blocks of 16, 32 and 64 bytes, freed in order.
pub(crate) fn glibc_simple(scale: &Scale) -> Outcome {
    let rounds = scale.of(15_000);
    let mut blocks: Vec<Block> = Vec::with_capacity(1600);
    measure(|| {
        let (mut units, mut sum) = (0, 0u64);
        for _ in 0..rounds {
            for count in [25, 100, 400, 1600] {
                for size in [16, 32, 64] {
                    blocks.extend((0..count).map(|i| Block::new(size, i)));
                    sum = blocks.drain(..).map(Block::free).fold(sum, u64::wrapping_add);
                    units += u64::from(count);
                }
            }
        }
        (units, sum)
    })
}
