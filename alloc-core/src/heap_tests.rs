//! Tests of the private heap: blocks in order, batches, giving back, exhaustion.

use super::*;
use crate::layout_math::{ARENA_SIZE, blocks_per_pool};
use crate::page_source::{FailingPages, FixedPages};

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

#[test]
fn a_fresh_pool_hands_out_its_blocks_in_address_order() {
    let heap = Heap::new(OsPages);
    for class in SizeClass::all() {
        let layout = layout(class.size());
        let first = heap.alloc(layout).unwrap().addr().get();
        for index in 1..blocks_per_pool(class) {
            let address = heap.alloc(layout).unwrap().addr().get();
            assert_eq!(address, first + index * class.size(), "{class:?}");
        }
        assert_eq!(heap.check(), Ok(()));
    }
}

#[test]
fn alignments_to_512_come_from_pools_and_hold() {
    let heap = Heap::new(OsPages);
    for shift in 0..=9 {
        let align = 1 << shift;
        for size in 1..=512 {
            let layout = Layout::from_size_align(size, align).unwrap();
            let block = heap.alloc(layout).unwrap();
            assert!(block.addr().get().is_multiple_of(align), "{layout:?}");
            // SAFETY: `size` bytes that are this test's.
            unsafe { block.write_bytes(0xA5, size) };
        }
    }
    assert_eq!(heap.usage().live_blocks, 10 * 512);
    assert_eq!(heap.check(), Ok(()));
}

#[test]
fn a_batch_is_taken_and_given_back_whole_and_empty_arenas_leave() {
    let source = FailingPages::new(OsPages, usize::MAX, 0);
    let heap = Heap::new(&source);
    let class = SizeClass::of(48, 8).unwrap();
    const BLOCKS: usize = if cfg!(miri) { 10_000 } else { 200_000 };
    let mut blocks = vec![MaybeUninit::uninit(); BLOCKS];
    assert_eq!(heap.take(class, &mut blocks), blocks.len());
    // SAFETY: all written.
    let mut blocks: Vec<Block> = blocks.iter().map(|b| unsafe { b.assume_init() }).collect();
    let distinct: std::collections::BTreeSet<_> = blocks.iter().collect();
    assert_eq!(distinct.len(), blocks.len());
    assert!(heap.usage().mapped >= BLOCKS * 48);
    for batch in blocks.chunks_mut(64) {
        // SAFETY: taken above, each once.
        unsafe { heap.give(class, batch) };
    }
    assert_eq!(heap.check(), Ok(()));
    let usage = heap.usage();
    assert_eq!((usage.live_blocks, usage.pools), (0, crate::bin::KEEP_EMPTY));
    assert!(usage.mapped <= 3 * ARENA_SIZE);
    heap.trim();
    assert_eq!((heap.usage().mapped, source.mapped_bytes()), (0, 0));
}

#[test]
fn an_exhausted_source_is_none_and_what_is_freed_is_served_again() {
    let mut memory = vec![0u8; 7 << 20];
    let heap = Heap::new(FixedPages::new(&mut memory));
    let mut blocks = Vec::new();
    while let Some(block) = heap.alloc(layout(512)) {
        blocks.push(block);
    }
    assert!(blocks.len() >= 3 * 63 * 32);
    assert!(heap.alloc(layout(8)).is_none());
    assert_eq!(heap.check(), Ok(()));
    let count = blocks.len();
    for block in blocks.drain(..) {
        // SAFETY: from `alloc` above with this layout.
        unsafe { heap.dealloc(block, layout(512)) };
    }
    assert_eq!(heap.check(), Ok(()));
    let again = core::iter::from_fn(|| heap.alloc(layout(256))).count();
    assert!(again >= 2 * count - 64, "{again} blocks of 256 bytes after {count} of 512");
}

#[test]
fn a_source_that_fails_at_any_request_leaves_the_heap_valid() {
    for failing in 0..12 {
        let source = FailingPages::new(OsPages, failing, 6);
        let heap = Heap::new(&source);
        let mut served = 0;
        for round in 0..40_000 {
            let size = 8 + round % 505;
            served += heap.alloc(layout(size)).is_some() as usize;
        }
        assert_eq!(heap.check(), Ok(()), "request {failing}");
        assert_eq!(heap.usage().live_blocks, served);
        assert!(heap.alloc(layout(64)).is_some(), "the source works again");
        drop(heap);
        assert_eq!(source.mapped_bytes(), 0);
    }
}

#[test]
#[should_panic(expected = "double free of block")]
fn a_double_free_is_named() {
    let heap = Heap::new(OsPages);
    let block = heap.alloc(layout(40)).unwrap();
    // SAFETY: not kept, but the heap must notice and does not touch the block.
    unsafe { heap.dealloc(block, layout(40)) };
    // SAFETY: as above.
    unsafe { heap.dealloc(block, layout(40)) };
}

#[test]
fn requests_without_a_class_are_mapped_and_unmapped() {
    let source = FailingPages::new(OsPages, usize::MAX, 0);
    let heap = Heap::new(&source);
    for (size, align) in [(513, 1), (1 << 20, 4096), (100, 1 << 20), (5000, 16)] {
        let layout = Layout::from_size_align(size, align).unwrap();
        let block = heap.alloc(layout).unwrap();
        assert!(block.addr().get().is_multiple_of(align));
        // SAFETY: `size` bytes that are this test's.
        unsafe { block.write_bytes(1, size) };
        // SAFETY: from `alloc` with this layout.
        unsafe { heap.dealloc(block, layout) };
    }
    assert_eq!(source.mapped_bytes(), 0);
    assert!(heap.alloc(Layout::from_size_align(isize::MAX as usize, 1).unwrap()).is_none());
}

#[cfg(feature = "allocator-api2")]
#[test]
fn a_vector_lives_in_a_private_heap() {
    let heap = Heap::new(OsPages);
    let mut vec = allocator_api2::vec::Vec::new_in(&heap);
    for value in 0..100_000u32 {
        vec.push(value);
    }
    assert!(vec.iter().copied().eq(0..100_000));
    drop(vec);
    assert_eq!(heap.usage().live_blocks, 0);
}

#[test]
fn an_arena_whose_memory_was_only_half_given_back_serves_again() {
    let source = FailingPages::new(OsPages, usize::MAX, 0).refusing_purges();
    let heap = Heap::new(&source);
    let class = SizeClass::of(512, 8).unwrap();
    let mut blocks = vec![MaybeUninit::uninit(); 4 * ARENA_SIZE / 512];
    for _ in 0..3 {
        assert_eq!(heap.take(class, &mut blocks), blocks.len());
        // SAFETY: all written.
        let mut taken: Vec<Block> = blocks.iter().map(|b| unsafe { b.assume_init() }).collect();
        for block in &taken {
            // SAFETY: 512 bytes that are this test's.
            unsafe { block.write_bytes(0xA5, 512) };
        }
        assert_eq!(heap.check(), Ok(()));
        let arenas = heap.usage().mapped;
        // SAFETY: taken above, each once.
        unsafe { heap.give(class, &mut taken) };
        assert_eq!(heap.trim(), 0, "all of it was refused");
        assert_eq!((heap.check(), heap.usage().mapped), (Ok(()), arenas));
    }
}

#[test]
fn a_heap_is_whole_after_a_double_free_that_it_found() {
    let heap = Heap::new(OsPages);
    let class = SizeClass::of(512, 8).unwrap();
    let mut blocks = vec![MaybeUninit::uninit(); 4 * blocks_per_pool(class)];
    assert_eq!(heap.take(class, &mut blocks), blocks.len());
    // SAFETY: all written.
    let taken: Vec<Block> = blocks.iter().map(|b| unsafe { b.assume_init() }).collect();
    let twice = taken[0];
    let give_twice = std::panic::AssertUnwindSafe(|| {
        // SAFETY: not kept: the second is free by then, which is what is tested.
        unsafe { heap.give(class, &mut [twice, twice]) };
    });
    assert!(std::panic::catch_unwind(give_twice).is_err());
    assert_eq!(heap.check(), Ok(()));
    // SAFETY: the rest, each once.
    unsafe { heap.give(class, &mut taken[1..].to_vec()) };
    assert_eq!((heap.check(), heap.usage().live_blocks), (Ok(()), 0));
    // Into a pool that is empty and kept, where nothing is taken back before it is found.
    let give_again = std::panic::AssertUnwindSafe(|| {
        // SAFETY: not kept: it is free, which is what is tested.
        unsafe { heap.give(class, &mut [twice]) };
    });
    assert!(std::panic::catch_unwind(give_again).is_err());
    assert_eq!(heap.check(), Ok(()));
}
