//! Panics, whose exception the unwinder wants aligned to 16 bytes though std asks for 8. No unsafe here.

use std::hint::black_box;
use std::panic::{catch_unwind, resume_unwind};

use alloc_global::PoolAlloc;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

#[test]
fn an_exception_may_take_any_block_of_its_class() {
    // As large as what std allocates for a panic: held, so that each panic finds another block.
    let mut held = Vec::new();
    for round in 0..300 {
        let payload = catch_unwind(|| resume_unwind(Box::new(round))).expect_err("it unwinds");
        assert_eq!(payload.downcast_ref::<i32>(), Some(&round));
        held.push(black_box(Box::new([round as u64; 7])));
    }
    assert!(held.iter().enumerate().all(|(round, block)| **block == [round as u64; 7]));
}

#[test]
fn blocks_as_large_as_an_exception_grow_and_shrink() {
    for (from, to) in [(7, 8), (7, 3), (7, 60), (7, 200), (6, 7), (60, 7), (200, 7), (7, 7)] {
        let mut words: Vec<u64> = Vec::with_capacity(from);
        words.extend(0..from.min(to) as u64);
        let more = to.saturating_sub(words.len());
        words.reserve_exact(more);
        words.shrink_to(to);
        assert_eq!(words.capacity(), to);
        words.resize(to, 7);
        assert!(words.iter().take(from.min(to)).enumerate().all(|(at, word)| *word == at as u64));
        assert_eq!(black_box(vec![0u8; 56]), [0; 56]);
    }
}
