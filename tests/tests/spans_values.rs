//! Two values of the allocator: what one handed out the other takes back, also of blocks that lie in spans.
//!
//! All values share pools and caches, and only the first one that is asked for a block above 512
//! bytes has its blocks cached. So a program that names another value in one place, say for a
//! collection with an allocator of its own, has both at the same blocks.

use std::alloc::{GlobalAlloc, Layout};
use std::process::ExitCode;

use alloc_global::{PoolAlloc, memory, stats, thread_flush, trim};
use tests::block::{Block, Process, layout};
use tests::cases::{self, Case};
use tests::invariants;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

static OTHER: PoolAlloc = PoolAlloc::new();

/// Blocks come from the process's allocator; the other value resizes them and takes them back.
#[derive(Clone, Copy, Debug)]
struct Mixed;

// SAFETY: both values are of one type and share all memory; blocks of one are blocks of the other.
unsafe impl GlobalAlloc for Mixed {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { Process.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { OTHER.dealloc(block, layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { OTHER.realloc(block, layout, size) }
    }
}

fn main() -> ExitCode {
    cases::main(&[
        Case::new("one_value_frees_what_another_handed_out", freed),
        Case::new("one_value_resizes_what_another_handed_out", resized),
        Case::new("a_block_counts_the_same_whichever_value_has_it", counted),
    ])
}

/// Many blocks of a class of 513 to 4,096 bytes, of the size of the class, aligned to 8 to 128.
fn many(size: usize) -> Vec<Block<Mixed>> {
    let of =
        |tag: usize| Block::alloc(Mixed, layout(size, 8 << (tag % 5)), tag as u64).expect("memory");
    let blocks = (0..(4 << 20) / size).map(of).collect();
    assert!(memory().fallback_free > 0, "{size}: no span");
    blocks
}

/// Runs `body` for a size of each kind, and checks that it left nothing behind.
fn each(body: fn(usize)) {
    // The first value that frees such a block is the one whose blocks are cached.
    drop(Block::new(1_000, 8, 1));
    for size in [640, 1_024, 2_048, 4_096] {
        trim();
        let before = stats();
        body(size);
        thread_flush();
        let after = stats();
        assert_eq!(after.fallback_live_blocks, before.fallback_live_blocks, "{after}");
        assert_eq!(after.fallback_live_bytes, before.fallback_live_bytes, "{after}");
        invariants().expect("invariants");
        trim();
        assert_eq!(memory().fallback_free, 0, "a span is left\n{}", memory());
    }
}

fn freed() {
    each(|size| {
        let mut blocks = many(size);
        fastrand::Rng::with_seed(1).shuffle(&mut blocks);
    });
}

fn resized() {
    each(|size| {
        let mut blocks = many(size);
        fastrand::Rng::with_seed(2).shuffle(&mut blocks);
        for block in &mut blocks {
            // Classes above and below, out of all bins, and into pools; the last size is one of a
            // class again.
            for size in [size * 2, size / 2 + 1, 8_192, 512, 4_096] {
                assert!(block.resize(size));
            }
        }
        blocks.iter().for_each(Block::verify);
    });
}

/// Requests between two classes, with all alignments: what is counted is not a matter of who is
/// asked.
fn counted() {
    drop(Block::new(1_000, 8, 1));
    let ask = |value: &PoolAlloc, layout: Layout| {
        // SAFETY: the size is not 0.
        let block = unsafe { value.alloc(layout) };
        assert!(!block.is_null());
        block
    };
    for (size, align) in [(520, 8), (700, 64), (3_000, 16), (600, 256), (8, 1_024), (5_000, 8)] {
        let layout = layout(size, align);
        let (mut live, before) = (Vec::with_capacity(400), stats());
        for round in 0..400 {
            let (one, other) = if round % 2 == 0 { (&ALLOC, &OTHER) } else { (&OTHER, &ALLOC) };
            live.push(ask(one, layout));
            if round % 4 < 3 {
                let block = live.pop().expect("just pushed");
                // SAFETY: from a value of the same type, with this layout, not used any more.
                unsafe { other.dealloc(block, layout) };
            }
        }
        let per_block = (stats() - before).fallback_live_bytes / live.len() as u64;
        let class = size + size / 4 + align;
        assert!((size..class).contains(&(per_block as usize)), "{layout:?}: {per_block} bytes");
        for block in live.drain(..) {
            // SAFETY: as above.
            unsafe { OTHER.dealloc(block, layout) };
        }
        let after = stats();
        assert_eq!(after.fallback_live_blocks, before.fallback_live_blocks, "{layout:?}: {after}");
        assert_eq!(after.fallback_live_bytes, before.fallback_live_bytes, "{layout:?}: {after}");
    }
}
