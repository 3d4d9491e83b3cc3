//! Allocators that are values: made, moved, used and dropped, in a program whose global allocator
//! is another one.
//!
//! `GlobalAlloc` asks of a caller only that each block goes back to the allocator it came from. An
//! allocator may therefore be dropped when its blocks are back, although caches may still hold
//! memory of its fallback, and its bytes may be used for something else. These processes do not use
//! `PoolAlloc` globally: the one that is would be the first, and the first is what such a program
//! gets wrong.

use std::alloc::{GlobalAlloc, Layout, System};
use std::mem::MaybeUninit;
use std::process::ExitCode;

use alloc_global::{PoolAlloc, thread_flush, trim};
use tests::block::{Block, layout};
use tests::cases::{self, Case};
use tests::ledger::{Ledger, Shared};
use tests::program::{Mix, Program};
use tests::{invariants, raw_thread};

#[global_allocator]
static GLOBAL: System = System;

static FIRST: Ledger = Ledger::new();
static SECOND: Ledger = Ledger::new();

fn main() -> ExitCode {
    cases::main(&[
        Case::new("two_allocators_never_mix_the_blocks_of_their_fallbacks", two),
        Case::new("an_allocator_may_be_dropped_when_its_blocks_are_back", dropped),
        Case::new("an_allocator_may_be_moved_while_its_blocks_are_out", moved),
    ])
}

/// An allocator by reference.
#[derive(Clone, Copy)]
struct Via<'a>(&'a PoolAlloc<Shared>);

// SAFETY: forwards every call to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Via<'_> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { self.0.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { self.0.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { self.0.dealloc(block, layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { self.0.realloc(block, layout, size) }
    }
}

fn assert_clean(ledger: &Ledger) {
    assert_eq!(ledger.entries().faults, 0, "handed what it never gave: {:?}", ledger.entries());
}

/// Makes, frees and recycles blocks on both sides of 512 bytes.
fn work(memory: Via<'_>) {
    for _ in 0..3 {
        let block = |size| Block::alloc(memory, layout(size, 8), size as u64).expect("memory");
        let blocks: Vec<_> = (1..300).map(|n| block(n * 37)).collect();
        drop(blocks);
    }
}

fn two() {
    let (first, second) =
        (PoolAlloc::with_fallback(Shared(&FIRST)), PoolAlloc::with_fallback(Shared(&SECOND)));
    for seed in 0..300 {
        let program = Program::random(7_000_000 + seed, &Mix::WHOLE);
        let memory = if seed % 2 == 0 { &first } else { &second };
        assert_eq!(program.run(Via(memory), &mut invariants), 0);
        assert_clean(&FIRST);
        assert_clean(&SECOND);
    }
    raw_thread::run(4, &|index| work(Via(if index % 2 == 0 { &first } else { &second })));
    trim();
    assert_clean(&FIRST);
    assert_clean(&SECOND);
    assert_eq!((FIRST.live_blocks(), SECOND.live_blocks()), (0, 0), "kept after trim");
}

fn dropped() {
    let mut place = MaybeUninit::<PoolAlloc<Shared>>::uninit();
    for _ in 0..5 {
        work(Via(place.write(PoolAlloc::with_fallback(Shared(&FIRST)))));
        // SAFETY: written above.
        unsafe { place.assume_init_drop() };
        // The place is used for something else.
        // SAFETY: inside the value, which is gone.
        unsafe { place.as_mut_ptr().write_bytes(0xFF, 1) };
        thread_flush();
        assert_clean(&FIRST);
    }
    trim();
    assert_eq!(FIRST.live_blocks(), 0, "the fallback's blocks are not given back");
}

fn moved() {
    let here = PoolAlloc::with_fallback(Shared(&FIRST));
    work(Via(&here));
    // SAFETY: the size is not zero.
    let block = unsafe { here.alloc(layout(3_000, 8)) };
    let mut there = Box::new(here);
    // SAFETY: allocated by this allocator, which has moved, with this layout.
    unsafe { there.dealloc(block, layout(3_000, 8)) };
    work(Via(&there));
    *there = PoolAlloc::with_fallback(Shared(&FIRST));
    drop(there);
    trim();
    assert_clean(&FIRST);
    assert_eq!(FIRST.live_blocks(), 0, "the fallback's blocks are not given back");
}
