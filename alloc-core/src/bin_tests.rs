//! Tests of `bin` and of the pools behind it: blocks that come back in rows, alone, in no order, and twice.

use super::*;
use crate::chunk::MappedChunk;
use crate::layout_math::blocks_per_pool;
use crate::page_source::OsPages;
use std::collections::BTreeSet;

const OWNER: u8 = 3;
const POOLS: usize = 3;

/// A bin of three pools side by side, all of whose blocks are out, by address.
struct Full {
    arenas: Arenas,
    bin: Bin,
    class: SizeClass,
    blocks: Vec<Block>,
}

impl Full {
    fn new(class: SizeClass) -> Self {
        let mut arenas = Arenas::new();
        // SAFETY: the system's pages stay until they are given back.
        unsafe { arenas.add_chunk(MappedChunk::map(&OsPages, 1).unwrap()) };
        let mut bin = Bin::new();
        for _ in 0..POOLS {
            let pool = arenas.take_pool().unwrap();
            // SAFETY: just taken, and all of this class and owner.
            unsafe { bin.add_pool(pool, class, OWNER) };
        }
        let mut full = Full { arenas, bin, class, blocks: Vec::new() };
        full.blocks = full.take_all().into_iter().collect();
        assert_eq!(full.blocks.len(), POOLS * blocks_per_pool(class));
        full
    }

    fn take_all(&mut self) -> BTreeSet<Block> {
        let mut out = vec![MaybeUninit::uninit(); POOLS * blocks_per_pool(self.class)];
        let count = self.bin.take(&mut out);
        let skip = out.len() - count;
        // SAFETY: written by `take`, at the end.
        out.iter().skip(skip).map(|block| unsafe { block.assume_init() }).collect()
    }

    /// Gives blocks back, of which none empties its pool.
    fn give(&mut self, blocks: &[Block]) -> Option<Fault> {
        let before = self.bin.out();
        // SAFETY: out of this bin's pools, but for the one that a test gives twice.
        let given = unsafe { self.bin.give(&mut blocks.to_vec(), self.class, OWNER) };
        assert!(given.others == 0 && given.emptied.is_empty());
        assert_eq!(self.bin.check(self.class, OWNER), Ok(()));
        if given.fault.is_none() {
            assert_eq!(before - self.bin.out(), blocks.len());
        }
        given.fault
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        // SAFETY: no block is used any more.
        unsafe { core::mem::take(&mut self.arenas).unmap_all(&OsPages) };
    }
}

/// Knuth's MMIX generator: the tests here have no other.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }
}

fn classes() -> impl Iterator<Item = SizeClass> {
    // Miri takes minutes for the 6,144 blocks of the first class.
    SizeClass::all().step_by(if cfg!(miri) { 21 } else { 1 }).skip(usize::from(cfg!(miri)))
}

/// Puts some of the blocks into an order in which programs free: rows up and down, every second
/// block, blocks of two pools by turns.
fn mixed(blocks: &[Block], random: &mut Random) -> Vec<Block> {
    let mut left: BTreeSet<Block> = blocks.iter().copied().collect();
    let mut order = Vec::new();
    while left.len() > blocks.len() / 4 {
        let start = random.below(blocks.len());
        let len = 1 + random.below(random.0 as usize % 130 + 1);
        let row = blocks.iter().skip(start).take(len).filter(|block| left.contains(block));
        let mut row: Vec<Block> = row.copied().collect();
        match random.below(4) {
            0 => {}
            1 => row.reverse(),
            2 => row = row.into_iter().step_by(2).collect(),
            _ => {
                let far = blocks.iter().rev().skip(start).take(len);
                let far = far.filter(|block| left.contains(block) && !row.contains(block));
                row = far.zip(&row).flat_map(|(far, near)| [*far, *near]).collect();
            }
        }
        row.iter().for_each(|block| assert!(left.remove(block)));
        order.extend(row);
    }
    order
}

#[test]
fn blocks_come_back_in_any_order_each_once() {
    let mut random = Random(1);
    for class in classes() {
        let mut full = Full::new(class);
        // One of each pool stays out, so that none leaves the bin.
        let capacity = blocks_per_pool(class);
        let pinned: BTreeSet<Block> = full.blocks.iter().step_by(capacity).copied().collect();
        let loose: Vec<Block> =
            full.blocks.iter().filter(|block| !pinned.contains(block)).copied().collect();
        for _ in 0..if cfg!(miri) { 1 } else { 4 } {
            let order = mixed(&loose, &mut random);
            for part in order.chunks(1 + random.below(300)) {
                assert_eq!(full.give(part), None, "{class:?}");
            }
            assert_eq!(full.take_all(), order.into_iter().collect(), "{class:?}");
        }
    }
}

#[test]
fn a_block_that_comes_back_twice_in_a_row_is_found_and_those_before_it_are_free() {
    let mut random = Random(2);
    for class in classes() {
        let mut full = Full::new(class);
        let blocks = full.blocks.clone();
        for turn in 0..24 {
            // Too short to empty a pool.
            let len = 1 + random.below(150.min(blocks_per_pool(class) - 1));
            let start = random.below(blocks.len());
            let mut row: Vec<Block> = blocks.iter().skip(start).take(len).copied().collect();
            if turn % 2 == 0 {
                row.reverse();
            }
            let at = random.below(row.len());
            assert_eq!(full.give(&[row[at]]), None);
            assert_eq!(full.give(&row), Some(Fault::DoubleFree(row[at])), "{class:?}");
            assert_eq!(full.take_all(), row.into_iter().take(at + 1).collect(), "{class:?} {turn}");
        }
    }
}

#[test]
fn blocks_of_other_owners_are_left_at_the_front_in_their_order() {
    let mut random = Random(3);
    for class in classes() {
        let mut full = Full::new(class);
        // The blocks of the last pool are those of a second bin.
        let (mut other, capacity) = (Bin::new(), blocks_per_pool(class));
        let pool = full.arenas.take_pool().unwrap();
        // SAFETY: just taken; the only pool of this bin.
        unsafe { other.add_pool(pool, class, OWNER + 1) };
        let mut out = vec![MaybeUninit::uninit(); capacity];
        assert_eq!(other.take(&mut out), capacity);
        // SAFETY: written by `take`.
        let theirs = out.iter().skip(1).map(|block| unsafe { block.assume_init() });
        let (mut ours, mut theirs) = (full.blocks.iter().skip(1).take(capacity - 1), theirs);
        let (mut both, mut expected) = (Vec::new(), Vec::new());
        loop {
            let found = match random.below(2) {
                0 => ours.next().copied(),
                _ => theirs.next().inspect(|block| expected.push(*block)),
            };
            let Some(block) = found else { break };
            both.push(block);
        }
        let (count, before) = (both.len(), full.bin.out());
        // SAFETY: out of pools of this class and these two owners.
        let given = unsafe { full.bin.give(&mut both, class, OWNER) };
        assert_eq!((given.fault, both.get(..given.others)), (None, Some(&*expected)), "{class:?}");
        assert_eq!(before - full.bin.out(), count - expected.len());
        // SAFETY: what the first one left.
        let given = unsafe { other.give(&mut expected, class, OWNER + 1) };
        assert_eq!((given.others, given.fault), (0, None));
        assert_eq!(other.check(class, OWNER + 1), Ok(()));
    }
}
