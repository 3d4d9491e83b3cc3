//! Who names a fallback is asked for each block, also where it only hands requests on to the system
//! allocator: spans are for that alone.
//!
//! The fallback has no state, so its blocks are cached as the system allocator's are. It enters
//! each block with its layout (`tests::ledger`), which it must be given back with, and sees no
//! request that is larger than what the program asked for.

use std::alloc::{GlobalAlloc, Layout};
use std::process::ExitCode;

use alloc_global::{PoolAlloc, memory, stats, trim};
use tests::block::Block;
use tests::cases::{self, Case};
use tests::invariants;
use tests::ledger::{Ledger, Shared};

/// The system allocator, by another name.
#[derive(Clone, Copy, Debug)]
struct Named;

static LEDGER: Ledger = Ledger::new();

#[global_allocator]
static ALLOC: PoolAlloc<Named> = PoolAlloc::with_fallback(Named);

// SAFETY: hands every request on to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Named {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { Shared(&LEDGER).alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { Shared(&LEDGER).alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { Shared(&LEDGER).dealloc(block, layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { Shared(&LEDGER).realloc(block, layout, size) }
    }
}

fn main() -> ExitCode {
    cases::main(&[
        Case::new("a_named_fallback_is_asked_for_each_block", asked),
        Case::new("a_named_fallback_gets_back_what_it_gave", given_back),
    ])
}

/// 3 MiB of each of four classes: a thread has that many blocks where the system allocator's come
/// from spans.
fn many() -> Vec<Block> {
    let sizes = [640, 1_024, 2_048, 4_096];
    let of = |size| (0..(3 << 20) / size).map(move |tag: usize| (size - tag % 100, tag as u64));
    // Room for all at once, or the list itself would be a larger request.
    let mut blocks = Vec::with_capacity(16_384);
    for (size, tag) in sizes.into_iter().flat_map(of) {
        blocks.push(Block::new(size, 1 << (tag % 8), tag).expect("memory"));
    }
    blocks
}

fn asked() {
    trim();
    let (live, before) = (LEDGER.live_blocks(), LEDGER.entries());
    let blocks = many();
    let out = LEDGER.live_blocks() - live;
    assert!(out > blocks.len(), "{out} blocks are out of the fallback, {} in use", blocks.len());
    assert_eq!(memory().fallback_free, 0, "a span");
    let now = LEDGER.entries();
    assert!(now.allocs - before.allocs > blocks.len() as u64, "{now:?}");
    // The list of blocks is the largest request.
    let list = blocks.capacity() * size_of::<Block>();
    assert!(now.largest <= (list * 5 / 4) as u64, "{now:?}");
    drop(blocks);
    trim();
    let now = LEDGER.entries();
    assert_eq!((now.faults, LEDGER.live_blocks()), (0, live), "{now:?}");
    invariants().expect("invariants");
}

fn given_back() {
    let mut rng = fastrand::Rng::with_seed(8);
    let mut blocks = many();
    rng.shuffle(&mut blocks);
    for block in &mut blocks {
        assert!(block.resize(rng.usize(400..6_000)));
    }
    rng.shuffle(&mut blocks);
    blocks.truncate(blocks.len() / 4);
    trim();
    assert_eq!(memory().fallback_free, 0, "a span");
    assert_eq!(LEDGER.live_blocks() as u64, stats().fallback_live_blocks, "{}", stats());
    drop(blocks);
    trim();
    assert_eq!(LEDGER.live_blocks() as u64, stats().fallback_live_blocks, "{}", stats());
    assert_eq!(LEDGER.entries().faults, 0, "{:?}", LEDGER.entries());
    invariants().expect("invariants");
}
