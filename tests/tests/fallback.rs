//! Any allocator may stand behind the pools: here one that checks every layout it is handed.
//!
//! `tests::ledger::Ledger` knows every block it gave out and with which layout; its fresh blocks
//! are dirty, and what it takes back is overwritten. So these cases notice a layout that differs by
//! one byte, a block given back twice, recycled memory passed off as zeroed, and a block still used
//! after it went back. It can also refuse: then the pools must go on, and what cannot be served
//! must be null. No unsafe here.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Mutex;

use alloc_global::{PoolAlloc, stats, thread_flush, trim};
use tests::block::{Block, Process, layout as layout_of};
use tests::cases::{self, Case};
use tests::invariants;
use tests::ledger::{Ledger, Shared};
use tests::program::{Mix, Program};

#[global_allocator]
static ALLOC: PoolAlloc<Shared> = PoolAlloc::with_fallback(Shared(&LEDGER));

static LEDGER: Ledger = Ledger::new();

fn main() -> ExitCode {
    cases::main(&[
        Case::new("the_fallback_gets_back_what_it_gave_with_the_same_layout", || both(layouts)),
        Case::new("random_programs_keep_the_fallbacks_contract", || both(programs)).within(240),
        Case::new("small_requests_never_reach_the_fallback", || both(small_stays)),
        Case::new("large_requests_come_from_the_fallback", || both(large_comes)),
        Case::new("nothing_is_asked_for_that_the_program_does_not_want", || both(modest)),
        Case::new("alignments_beyond_the_classes_come_from_the_fallback", || both(aligned)),
        Case::new("recycled_blocks_are_zeroed_where_that_is_asked", || both(zeroed)),
        Case::new("after_a_flush_the_fallback_has_out_what_the_program_holds", || both(exact)),
        Case::new("a_fallback_that_refuses_leaves_the_pools_working", || both(refusal)),
        Case::new("a_refused_realloc_leaves_the_block_as_it_was", || both(refused_realloc)),
        Case::new("blocks_of_the_fallback_may_be_freed_by_any_thread", || both(across_threads)),
        Case::new("as_many_blocks_as_were_live_at_once_serve_again", served_again),
        Case::new("blocks_that_grew_are_kept_for_others_to_grow_into", grown),
        Case::new("what_nobody_touches_goes_back_after_a_rest", rest),
    ])
}

/// Runs `body` with the fallback handed every request, then with its blocks cached. Blocks
/// that were handed out before the change go back after it.
fn both(body: fn()) {
    let early: Vec<Block> =
        (1..40).map(|n| Block::new(n * n * 60, 8, n as u64).expect("memory")).collect();
    body();
    assert!(ALLOC.cache_fallback());
    drop(early);
    body();
    trim();
    assert_clean();
}

/// No fault so far.
fn assert_clean() {
    let entries = LEDGER.entries();
    assert_eq!(entries.faults, 0, "the fallback was handed what it never gave: {entries:?}");
}

fn layouts() {
    for align in (0..=16).map(|shift| 1 << shift) {
        for size in (1..1_300).step_by(7).chain([4_096, 16_384, 65_536, 1 << 20, (1 << 20) + 1]) {
            let mut block = Block::new(size, align, size as u64).expect("memory");
            for next in [size + 1, size * 2, size / 2 + 1, 512, 513, size] {
                assert!(block.resize(next));
            }
        }
        assert_clean();
    }
    trim();
    assert_clean();
    assert!(LEDGER.entries().allocs > 0);
    invariants().expect("invariants");
}

fn programs() {
    for seed in 0..2_000 {
        let program = Program::random(1_000_000 + seed, &Mix::WHOLE);
        assert_eq!(program.run(Process, &mut || Ok(())), 0, "null");
        assert_clean();
        if seed % 100 == 0 {
            trim();
            assert_clean();
        }
    }
    invariants().expect("invariants");
}

fn small_stays() {
    let before = LEDGER.entries().small;
    for align in [1, 2, 4, 8, 16] {
        let live: Vec<Block> =
            (1..=512).map(|size| Block::new(size, align, 1).expect("memory")).collect();
        for block in live {
            let mut block = block;
            assert!(block.resize(512));
            assert!(block.resize(1));
        }
    }
    let map: HashMap<u32, Box<[u8; 100]>> = (0..1_000).map(|n| (n, Box::new([7; 100]))).collect();
    assert_eq!(map.len(), 1_000);
    assert_eq!(LEDGER.entries().small, before, "pools are there for these");
}

fn modest() {
    for size in [600, 2_000, 100_000, 3 << 20] {
        for _ in 0..100 {
            drop(Block::new(size, 8, 1));
        }
    }
    trim();
    // A class is at most a quarter larger than the request.
    let largest = LEDGER.entries().largest;
    assert!(largest <= (3 << 20) * 5 / 4, "{largest} bytes were asked for");
}

fn large_comes() {
    let (blocks, bytes) = (LEDGER.live_blocks(), LEDGER.live_bytes());
    let before = stats();
    // In sizes that no cache has seen, so that each is a block of its own.
    let live: Vec<Block> =
        (0..200).map(|n| Block::new(513 + n * 97, 8, 1).expect("memory")).collect();
    let asked: usize = live.iter().map(|block| block.layout().size()).sum();
    let now = stats() - before;
    // The list of blocks is one more: 200 blocks of this type are more than 512 bytes.
    assert_eq!(now.fallback_live_blocks, 201);
    assert!(now.fallback_live_bytes as usize >= asked);
    assert!(LEDGER.live_blocks() + 64 >= blocks + 201, "they must have come from somewhere");
    assert!(LEDGER.live_bytes() + (1 << 20) >= bytes + asked);
    drop(live);
    trim();
    assert!(LEDGER.live_blocks() <= blocks + 64, "trim gives the fallback's blocks back");
    assert_clean();
}

fn aligned() {
    for align in (10..=21).map(|shift| 1 << shift) {
        for size in [1, 100, 512, 513, 10_000] {
            let before = LEDGER.live_blocks();
            let block = Block::new(size, align, 3).expect("memory");
            assert!(LEDGER.live_blocks() >= before, "{size} aligned {align}");
            drop(block);
        }
    }
    trim();
    assert_clean();
}

/// 3,000 blocks: more than any list of addresses of fixed length would have room for.
fn batch(size: usize, align: usize) -> Vec<Block> {
    (0..3_000).map(|tag| Block::new(size, align, tag).expect("memory")).collect()
}

fn served_again() {
    assert!(ALLOC.cache_fallback());
    for (size, align) in [(2_000, 8), (3_000, 64), (2_304, 256), (4_096, 4_096)] {
        let first = batch(size, align);
        let bytes = LEDGER.live_bytes();
        drop(first);
        let asked = LEDGER.entries().allocs;
        for _ in 0..3 {
            batch(size, align).iter().for_each(Block::verify);
        }
        let more = LEDGER.entries().allocs - asked;
        // Some are, where this takes so long that sweeps come between.
        assert!(more < 3_000, "{size} aligned {align}: {more} of 9,000 came fresh");
        assert!(LEDGER.live_bytes() <= bytes + (64 << 10), "no more than at the peak");
        trim();
    }
    assert!(LEDGER.live_bytes() < 1 << 20);
    assert_clean();
}

fn grown() {
    assert!(ALLOC.cache_fallback());
    // Side by side, so that the fallback has to move them.
    let grow = || {
        let mut blocks: Vec<Block> =
            (0..8).map(|tag| Block::new(5_000, 8, tag).expect("memory")).collect();
        blocks.iter_mut().for_each(|block| assert!(block.resize(10_000)));
        blocks.iter().for_each(Block::verify);
    };
    grow();
    let before = LEDGER.entries().reallocs;
    assert!(before > 0, "nothing is kept at first");
    (0..50).for_each(|_| grow());
    let asked = LEDGER.entries().reallocs - before;
    assert!(asked < 100, "the fallback was asked for {asked} of 400");
    assert_clean();
}

fn rest() {
    assert!(ALLOC.cache_fallback());
    let before = LEDGER.live_bytes();
    drop(batch(2_000, 8));
    assert!(LEDGER.live_bytes() > before + (1 << 20), "kept for a while");
    std::thread::sleep(std::time::Duration::from_millis(700));
    drop(Block::new(64, 8, 1).expect("memory"));
    let left = LEDGER.live_bytes().saturating_sub(before);
    assert!(left < 1 << 20, "{left} bytes are still there");
    assert_clean();
}

fn zeroed() {
    for round in 0..3 {
        for size in (1..2_000).step_by(3).chain([5_000, 50_000, 1 << 20, 3 << 20]) {
            let dirty: Vec<Block> =
                (0..4).map(|tag| Block::new(size, 8, !tag).expect("memory")).collect();
            drop(dirty);
            let clean: Vec<Block> = (0..4)
                .map(|tag| Block::zeroed(Process, layout_of(size, 8), tag).expect("memory"))
                .collect();
            clean.iter().for_each(Block::verify);
        }
        if round == 1 {
            trim();
        }
    }
    assert_clean();
}

fn exact() {
    let mut rng = fastrand::Rng::with_seed(6);
    let size = |rng: &mut fastrand::Rng| match rng.u32(0..20) {
        0 => rng.usize(100_000..3_000_000),
        1..10 => rng.usize(513..20_000),
        _ => rng.usize(1..513),
    };
    let mut live: Vec<Block> = Vec::with_capacity(100);
    for step in 0..6_000 {
        match rng.u32(0..3) {
            0 if !live.is_empty() => drop(live.swap_remove(rng.usize(..live.len()))),
            1 if !live.is_empty() => {
                let at = rng.usize(..live.len());
                assert!(live[at].resize(size(&mut rng)));
            }
            _ if live.len() < 100 => {
                let align = 1 << rng.u32(0..8);
                live.push(Block::new(size(&mut rng), align, step).expect("memory"));
            }
            _ => {}
        }
        if step % 20 == 0 {
            thread_flush();
            let now = stats();
            assert_eq!(now.fallback_cached_bytes, 0);
            assert_eq!(now.fallback_live_blocks, LEDGER.live_blocks() as u64, "step {step}\n{now}");
            assert!(now.fallback_live_bytes <= LEDGER.live_bytes() as u64);
        }
    }
}

fn refusal() {
    // What the process itself needs of large blocks is made before.
    let mut live: Vec<Block> = Vec::with_capacity(4_000);
    trim();
    LEDGER.refuse(true);
    for size in (1..=512).cycle().take(3_000) {
        live.push(Block::new(size, 8, size as u64).expect("pools need no fallback"));
    }
    let large = [1 << 21, 5 << 20, 40 << 20].map(|size| Block::new(size, 8, 1));
    let aligned = Block::new(8, 1 << 16, 1);
    let zeroed = Block::zeroed(Process, layout_of(7 << 20, 8), 1);
    LEDGER.refuse(false);
    assert!(large.iter().all(Option::is_none), "the fallback refused");
    assert!(aligned.is_none() && zeroed.is_none(), "the fallback refused");
    live.push(Block::new(2 << 20, 8, 1).expect("it serves again"));
    drop(live);
    assert_clean();
    invariants().expect("invariants");
}

fn refused_realloc() {
    let sizes = [8, 100, 512, 513, 1_000, 70_000];
    let mut blocks = sizes.map(|size| Block::new(size, 8, size as u64).expect("memory"));
    trim();
    LEDGER.refuse(true);
    let grown = blocks.each_mut().map(|block| block.resize(9 << 20));
    // A class away: the pools can serve it.
    let small = blocks[0].resize(200);
    LEDGER.refuse(false);
    assert_eq!(grown, [false; 6]);
    assert!(small);
    for (block, size) in blocks.iter().zip([200, 100, 512, 513, 1_000, 70_000]) {
        assert_eq!(block.layout().size(), size);
        block.verify();
    }
    assert!(blocks.each_mut().map(|block| block.resize(2_000)).iter().all(|&done| done));
    drop(blocks);
    assert_clean();
}

fn across_threads() {
    let shelf: Mutex<Vec<Block>> = Mutex::default();
    std::thread::scope(|scope| {
        for seed in 0..6 {
            let shelf = &shelf;
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                for _ in 0..15_000 {
                    let block = Block::new(rng.usize(400..9_000), 8, rng.u64(..));
                    let mut shelf = shelf.lock().expect("no panic");
                    shelf.push(block.expect("memory"));
                    let at = rng.usize(..shelf.len());
                    let other = (shelf.len() > 100).then(|| shelf.swap_remove(at));
                    drop(shelf);
                    if let Some(mut other) = other
                        && rng.bool()
                    {
                        assert!(other.resize(rng.usize(1..9_000)));
                    }
                }
            });
        }
    });
    drop(shelf);
    assert_clean();
    invariants().expect("invariants");
}
