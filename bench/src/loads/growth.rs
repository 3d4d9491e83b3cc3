//! Blocks above 512 bytes: vectors and strings that grow, random large sizes, batches, aligned
//! buffers. One thread. No unsafe here.
//!
//! They measure what lies behind the pools: the fallback, its cache, reallocation, page faults.

use std::hint::black_box;

use super::block::Block;
use crate::workload::{Outcome, Scale, fold, measure};

/// Pushes into 64 vectors in turn, each from empty to a random length of up to 64 Ki elements.
pub(crate) fn vec_growth(scale: &Scale) -> Outcome {
    const VECS: usize = 64;
    let rounds = scale.of(800);
    let mut rng = scale.rng(0);
    measure(|| {
        let mut units = 0;
        let mut sum = 0u64;
        for _ in 0..rounds {
            // Lengths spread geometrically, so that short vectors are as frequent as long ones.
            let mut left: Vec<usize> = (0..VECS)
                .map(|_| {
                    let base = 16usize << rng.u8(..12);
                    base + rng.usize(..base)
                })
                .collect();
            let mut vecs: Vec<Vec<u64>> = Vec::new();
            vecs.resize_with(VECS, Vec::new);
            while !left.is_empty() {
                for i in (0..left.len()).rev() {
                    let count = left[i].min(32);
                    vecs[i].extend(std::iter::repeat_n(i as u64, count));
                    black_box(&vecs[i]);
                    units += count as u64;
                    left[i] -= count;
                    if left[i] == 0 {
                        left.swap_remove(i);
                        let vec = vecs.swap_remove(i);
                        sum = fold(sum, vec.len() as u64 ^ vec[vec.len() / 2]);
                    }
                }
            }
        }
        (units, sum)
    })
}

/// Strings grown line by line to megabytes, and byte vectors grown by exact reserves.
pub(crate) fn realloc_growth(scale: &Scale) -> Outcome {
    const LINES: [&str; 3] = [
        "an arena holds pools, and a pool holds blocks of one size class\n",
        "a block above the largest class comes from the fallback\n",
        "growing in place costs nothing; moving costs a copy\n",
    ];
    const LONGEST: usize = 4 << 20;
    let rounds = scale.of(9_000);
    let mut rng = scale.rng(0);
    measure(|| {
        let mut units = 0;
        let mut sum = 0u64;
        for _ in 0..rounds {
            let mut text = String::new();
            let end = LONGEST >> rng.u8(..8);
            while text.len() < end {
                text.push_str(LINES[text.len() % 3]);
                units += 1;
            }
            sum = fold(sum, text.len() as u64);

            // `reserve_exact` is realloc with every step: small ones first, then a 16th more.
            let mut bytes: Vec<u8> = Vec::new();
            while bytes.len() < end {
                let step = 64 + bytes.len() / 16;
                bytes.reserve_exact(step);
                bytes.resize(bytes.len() + step, bytes.len() as u8);
                units += 1;
            }
            sum = fold(sum, u64::from(bytes[bytes.len() / 2]));
            black_box((&text, &bytes));
        }
        (units, sum)
    })
}

/// Replaces random blocks among `live` by blocks of sizes that `size` draws.
fn replace(
    scale: &Scale,
    units: u64,
    live: usize,
    size: impl Fn(&mut fastrand::Rng) -> usize,
) -> Outcome {
    let units = scale.of(units);
    let mut rng = scale.rng(0);
    let mut blocks: Vec<Block> = (0..live).map(|i| Block::new(size(&mut rng), i as u32)).collect();
    measure(|| {
        let mut sum = 0u64;
        for i in 0..units {
            let slot = &mut blocks[rng.usize(..live)];
            sum = sum.wrapping_add(slot.mark());
            *slot = Block::new(size(&mut rng), i as u32);
        }
        (units, sum)
    })
}

/// 200 blocks of 513 bytes to 1 MiB, geometrically distributed.
pub(crate) fn large_mix(scale: &Scale) -> Outcome {
    replace(scale, 6_000_000, 200, |rng| {
        let base = 512usize << rng.u8(..11);
        base + 1 + rng.usize(..base)
    })
}

/// 1,000 blocks of sizes at and beside those at which allocators change their way.
pub(crate) fn edges(scale: &Scale) -> Outcome {
    const SIZES: [usize; 14] =
        [504, 512, 513, 520, 640, 641, 1_016, 1_024, 1_025, 1_032, 1_280, 1_281, 2_048, 2_049];
    replace(scale, 30_000_000, 1_000, |rng| SIZES[rng.usize(..SIZES.len())])
}

/// Allocates batches of 10,000 blocks of 1 to 8 KB, and frees each in random order.
pub(crate) fn batch_large(scale: &Scale) -> Outcome {
    let batch = scale.keep(10_000);
    let rounds = scale.of(240);
    let mut rng = scale.rng(0);
    measure(|| {
        let mut sum = 0u64;
        for round in 0..rounds {
            let mut blocks: Vec<Block> =
                (0..batch).map(|_| Block::new(rng.usize(1_000..8_000), round as u32)).collect();
            rng.shuffle(&mut blocks);
            sum = blocks.iter().fold(sum, |sum, block| sum.wrapping_add(block.mark()));
        }
        (rounds * batch as u64, sum)
    })
}

/// A buffer of whole lines of a cache, of sectors of a disk, or of pages; none of them initialised
/// but the first.
enum Buffer {
    Lines(Vec<Line>),
    Sectors(Vec<Sector>),
    Pages(Vec<Page>),
}

#[repr(align(64))]
struct Line([u64; 8]);

#[repr(align(512))]
struct Sector([u64; 64]);

#[repr(align(4096))]
struct Page([u64; 512]);

/// Replaces random buffers among 500, of 64 bytes to 64 KiB, aligned to 64, 512 or 4,096.
pub(crate) fn aligned(scale: &Scale) -> Outcome {
    const LIVE: usize = 500;
    let units = scale.of(6_000_000);
    let mut rng = scale.rng(0);
    let buffer = |rng: &mut fastrand::Rng, i: u64| match rng.u8(..4) {
        0 | 1 => {
            let mut lines = Vec::with_capacity(rng.usize(1..128));
            lines.push(Line([i; 8]));
            Buffer::Lines(lines)
        }
        2 => {
            let mut sectors = Vec::with_capacity(rng.usize(1..32));
            sectors.push(Sector([i; 64]));
            Buffer::Sectors(sectors)
        }
        _ => {
            let mut pages = Vec::with_capacity(rng.usize(1..16));
            pages.push(Page([i; 512]));
            Buffer::Pages(pages)
        }
    };
    let mut buffers: Vec<Buffer> = (0..LIVE).map(|i| buffer(&mut rng, i as u64)).collect();
    measure(|| {
        let mut sum = 0u64;
        for i in 0..units {
            let slot = &mut buffers[rng.usize(..LIVE)];
            sum = sum.wrapping_add(match slot {
                Buffer::Lines(lines) => lines[0].0[0],
                Buffer::Sectors(sectors) => sectors[0].0[0],
                Buffer::Pages(pages) => pages[0].0[0],
            });
            *slot = buffer(&mut rng, i);
        }
        (units, sum)
    })
}
