//! The private heap against the plain model: on a fixed slice, on a source that refuses, and in batches.
//!
//! These heaps have no global state, so a failing program is shortened in this process.

use std::alloc::Layout;
use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::ptr::NonNull;

use alloc_core::{FailingPages, FixedPages, Heap, OsPages, PageSource, SizeClass};
use alloc_global::PoolAlloc;
use tests::block::{Block, layout};
use tests::heap::Memory;
use tests::program::{Mix, Program, shrink};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn check<S: PageSource>(heap: &Heap<S>) -> Result<(), String> {
    heap.check().map_err(|violation| violation.to_string())
}

/// Runs `body` on the program; shortens and prints the program if that panics.
fn run_or_shrink(program: &Program, body: impl Fn(&Program)) {
    let fails = |program: &Program| catch_unwind(AssertUnwindSafe(|| body(program))).is_err();
    if !fails(program) {
        return;
    }
    let hook = take_hook();
    set_hook(Box::new(|_| ()));
    let least = shrink(program.places(), |places| fails(&program.keep(places)));
    set_hook(hook);
    let program = program.keep(&least);
    println!("{program}");
    body(&program);
    panic!("this program failed once, but not again: {program}");
}

#[test]
fn programs_on_a_fixed_slice_keep_to_the_model_and_run_out_cleanly() {
    const MIX: Mix = Mix { ops: 600, usual: 60_000, large: 300_000, align: 16 };
    let (mut short, mut whole) = (0, 0);
    for seed in 0..300 {
        let program = Program::random(seed, &MIX);
        // From one arena, which soon runs out, to what is plenty.
        let len = [2 << 20, 4 << 20, 24 << 20][seed as usize % 3];
        let nulls = std::cell::Cell::new(0);
        run_or_shrink(&program, |program| {
            let mut slice = vec![0xA5_u8; len];
            let heap = Heap::new(FixedPages::new(&mut slice));
            nulls.set(program.run(Memory(&heap), &mut || check(&heap)));
            let usage = heap.usage();
            assert_eq!((usage.live, usage.live_blocks), (0, 0), "everything was freed");
        });
        if nulls.get() > 0 { short += 1 } else { whole += 1 }
    }
    assert!(short > 100 && whole > 100, "{short} ran out, {whole} did not: both were meant");
}

#[test]
fn programs_on_pages_of_the_system_keep_to_the_model() {
    for seed in 0..1_500 {
        let program = Program::random(5_000_000 + seed, &Mix::WHOLE);
        run_or_shrink(&program, |program| {
            let pages = FailingPages::new(OsPages, usize::MAX, 0);
            let heap = Heap::new(&pages);
            let nulls = program.run(Memory(&heap), &mut || check(&heap));
            assert_eq!(nulls, 0, "null with memory to be had");
            heap.trim();
            check(&heap).expect("invariants after trim");
            drop(heap);
            assert_eq!(pages.mapped_bytes(), 0, "pages not given back");
        });
    }
}

/// A long program of small requests with large ones between, each null asked for again. Returns the nulls.
fn insist(heap: &Heap<&FailingPages<OsPages>>, refused: usize) -> usize {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut live = Vec::new();
    let mut nulls = 0;
    for tag in 0..3_000 {
        let size = if tag % 25 == 0 { rng.usize(513..100_000) } else { rng.usize(64..=512) };
        let mut tries = 0;
        let block = loop {
            match Block::alloc(Memory(heap), layout(size, 8), tag) {
                Some(block) => break block,
                None => {
                    check(heap).expect("invariants after a refused request");
                    nulls += 1;
                    tries += 1;
                    assert!(tries <= refused, "still null after the source served again");
                }
            }
        };
        live.push(block);
        if tag % 3 == 0 {
            live.swap_remove(rng.usize(..live.len()));
        }
    }
    nulls
}

#[test]
fn each_page_request_may_fail_in_turn_and_the_next_one_is_served() {
    // As many refusals in a row as a chunk of every size has, so that nothing smaller is served instead.
    const REFUSED: usize = 8;
    let calm = FailingPages::new(OsPages, usize::MAX, 0);
    assert_eq!(insist(&Heap::new(&calm), 0), 0);
    let requests = calm.requests();
    assert!(requests > 100, "{requests} requests are too few to mean anything");
    for first in 0..requests {
        let pages = FailingPages::new(OsPages, first, REFUSED);
        let heap = Heap::new(&pages);
        let nulls = insist(&heap, REFUSED);
        assert!(nulls > 0, "request {first} was refused, and nobody noticed");
        check(&heap).expect("invariants");
        assert_eq!(heap.usage().live, 0);
        drop(heap);
        assert_eq!(pages.mapped_bytes(), 0, "pages leaked after request {first} failed");
    }
}

#[test]
fn one_refused_request_in_every_hundred_is_survived() {
    for first in 0..50 {
        let pages = FailingPages::new(OsPages, first, 1);
        let heap = Heap::new(&pages);
        insist(&heap, 1);
        check(&heap).expect("invariants");
        drop(heap);
        assert_eq!(pages.mapped_bytes(), 0);
    }
}

#[test]
fn a_walk_finds_exactly_the_blocks_that_are_out() {
    let heap = Heap::new(OsPages);
    let mut rng = fastrand::Rng::with_seed(11);
    let mut model: BTreeSet<(SizeClass, usize)> = BTreeSet::new();
    let mut out: Vec<(SizeClass, NonNull<u8>)> = Vec::new();
    for step in 0..600 {
        let class = SizeClass::from_index(rng.usize(1..=64)).expect("a class");
        if rng.u32(0..100) < 55 {
            let mut batch = [MaybeUninit::uninit(); 100];
            let count = rng.usize(0..=100);
            assert_eq!(heap.take(class, &mut batch[..count]), count);
            for block in &batch[..count] {
                // SAFETY: `take` wrote the `count` blocks it said.
                let block = unsafe { block.assume_init() };
                assert!(model.insert((class, block.addr().get())), "handed out twice");
                out.push((class, block));
            }
        } else {
            rng.shuffle(&mut out);
            let mut batch = Vec::new();
            let count = rng.usize(0..=150);
            out.retain(|&(other, block)| {
                let take = other == class && batch.len() < count;
                if take {
                    batch.push(block);
                    model.remove(&(class, block.addr().get()));
                }
                !take
            });
            // SAFETY: taken above for this class, and in `out` no more.
            unsafe { heap.give(class, &mut batch) };
        }
        if step % 10 == 0 {
            heap.trim();
        }
        heap.check().expect("invariants");
        let mut found = BTreeSet::new();
        heap.for_each_block(|class, block| {
            assert!(found.insert((class, block.addr().get())), "walked twice");
        });
        assert_eq!(found, model, "step {step}");
        let bytes: usize = model.iter().map(|(class, _)| class.size()).sum();
        assert_eq!((heap.usage().live, heap.usage().live_blocks), (bytes, model.len()));
    }
}

#[test]
fn a_second_free_is_refused_and_the_heap_goes_on() {
    let heap = Heap::new(OsPages);
    for size in [1, 8, 24, 100, 256, 504, 512] {
        let layout = layout(size, 1);
        let blocks: Vec<_> = (0..300).map(|_| heap.alloc(layout).expect("memory")).collect();
        for &block in blocks.iter().step_by(2) {
            // SAFETY: allocated above with this layout.
            unsafe { heap.dealloc(block, layout) };
        }
        for &block in blocks.iter().step_by(2) {
            // SAFETY: not kept on purpose: its pool still has live blocks, and says that it panics.
            let again = || unsafe { heap.dealloc(block, layout) };
            assert!(catch_unwind(AssertUnwindSafe(again)).is_err(), "{size} bytes freed twice");
        }
        heap.check().expect("invariants");
        for &block in blocks.iter().skip(1).step_by(2) {
            // SAFETY: allocated above with this layout.
            unsafe { heap.dealloc(block, layout) };
        }
        heap.check().expect("invariants");
        assert_eq!(heap.usage().live_blocks, 0);
    }
}

#[test]
fn extreme_layouts_are_none_or_valid() {
    let heap = Heap::new(OsPages);
    for shift in 0..63 {
        let align = 1_usize << shift;
        let largest = isize::MAX as usize - (align - 1);
        for size in [0, 1, 512, 513, 1 << 30, 1 << 47, largest / 2, largest - 1, largest] {
            let Ok(layout) = Layout::from_size_align(size, align) else { continue };
            let Some(block) = heap.alloc(layout) else {
                // A page aligned to 4 GiB is there on any machine of 64 bits.
                assert!(size > 1 << 20 || shift > 32, "{layout:?} was refused");
                continue;
            };
            assert!(block.addr().get().is_multiple_of(align), "{layout:?}");
            // SAFETY: the block is ours; a size of 0 is served as 1.
            unsafe { block.write(1) };
            // SAFETY: allocated above with this layout.
            unsafe { heap.dealloc(block, layout) };
        }
    }
    heap.check().expect("invariants");
}
