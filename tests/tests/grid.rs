//! Every size to 1,100 bytes with every alignment, and the corners of realloc.
//!
//! Random programs find what is often wrong; a grid finds what is wrong in one place. No unsafe here.

use std::alloc::Layout;

use alloc_global::PoolAlloc;
use tests::block::{Block, Process, layout};
use tests::invariants;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Alignments 1..=64 KiB.
fn aligns() -> impl Iterator<Item = usize> {
    (0..=16).map(|shift| 1 << shift)
}

fn block(layout: Layout, tag: u64) -> Block {
    Block::alloc(Process, layout, tag).expect("memory")
}

#[test]
fn every_small_layout_is_served_aligned_and_apart() {
    for align in aligns() {
        let live: Vec<Block> =
            (1..=1_100).map(|size| block(layout(size, align), size as u64)).collect();
        invariants().expect("invariants");
        let mut spans: Vec<_> =
            live.iter().map(|block| (block.addr(), block.layout().size())).collect();
        spans.sort_unstable();
        for pair in spans.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?} overlap");
        }
    }
    invariants().expect("invariants");
}

#[test]
fn zeroed_blocks_are_zero_although_the_memory_was_used_before() {
    for align in [1, 8, 16, 32, 64, 512, 4096] {
        for size in (1..=1_100).chain([4_096, 70_000, 1 << 20]) {
            drop(block(layout(size, align), u64::MAX - size as u64));
            let again = Block::zeroed(Process, layout(size, align), 1).expect("memory");
            let third = Block::zeroed(Process, layout(size, align), 2).expect("memory");
            again.verify();
            drop(third);
        }
    }
}

/// Sizes around every limit that the mission or common sense knows: classes, pools, arenas, the page.
fn corners() -> Vec<usize> {
    let mut sizes = vec![1, 2, 3];
    for limit in
        [8, 16, 24, 64, 128, 256, 504, 512, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 20, 2 << 20]
    {
        sizes.extend([limit - 1, limit, limit + 1]);
    }
    sizes
}

#[test]
fn realloc_between_all_corners_keeps_bytes_and_alignment() {
    for align in [1, 8, 16, 32, 128, 1 << 12, 1 << 16] {
        for from in corners() {
            for to in corners() {
                // Pairs of megabytes copy for long and tell nothing new at each alignment.
                if from.min(to) < 1 << 16 || align == 8 {
                    let mut moved = block(layout(from, align), (from ^ to) as u64);
                    assert!(moved.resize(to), "{from} to {to} aligned {align}");
                }
            }
        }
    }
    invariants().expect("invariants");
}

#[test]
fn a_block_that_grows_byte_by_byte_and_shrinks_again_keeps_its_bytes() {
    for align in [1, 16, 64] {
        let mut grown = block(layout(1, align), 3);
        let neighbours: Vec<Block> =
            (0..64).map(|tag| block(layout(8 + tag as usize, align), tag)).collect();
        for size in (2..=1_500).chain((1..1_500).rev()) {
            assert!(grown.resize(size));
        }
        neighbours.iter().for_each(Block::verify);
    }
}

#[test]
fn over_aligned_blocks_up_to_two_mebibytes_are_served() {
    for shift in 12..=21 {
        for size in [1, 8, 512, 513, 5_000, 1 << 16] {
            let align = 1 << shift;
            let mut large = block(layout(size, align), 9);
            assert!(large.resize(size * 2));
            assert!(large.addr().is_multiple_of(align));
        }
    }
}
