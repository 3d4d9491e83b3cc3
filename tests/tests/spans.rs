//! Blocks of 513 to 4,096 bytes where a program uses many of a size: they are cut from spans, large
//! pieces of the system allocator's memory.
//!
//! Whether there are spans is seen in [`memory`]: as long as there is one, some of its bytes are
//! free. Each case makes sure that it works on spans, fills and checks its blocks, and ends with
//! everything freed: then the counters must say what they said before, and after `trim` no span may
//! be left. No unsafe here.

use std::ffi::c_void;
use std::process::ExitCode;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use alloc_global::{PoolAlloc, memory, stats, thread_flush, trim};
use tests::block::{Block, Process, layout};
use tests::cases::{self, Case, with_setting};
use tests::process::{Ended, fork};
use tests::raw_thread::{self, Key, ROUNDS};
use tests::{assert_nothing_left, invariants, run};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// The sizes of blocks that may lie in spans.
const SIZES: [usize; 12] = [640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096];

/// Bytes of a class that a thread uses when it gets spans (docs/memory.md).
const MANY: usize = 2 << 20;

/// Bytes of a span.
const SPAN: u64 = 260 << 10;

/// A child that has not ended by then hangs: its work takes milliseconds.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    cases::main(&[
        Case::new("a_program_that_uses_few_blocks_of_a_size_gets_no_spans", few),
        Case::new("blocks_of_each_size_are_apart_and_keep_their_bytes", each_size),
        Case::new("aligned_blocks_come_from_spans_from_the_first_on", || leaves_nothing(aligned)),
        Case::new("blocks_freed_in_any_order_serve_again", || leaves_nothing(any_order)),
        Case::new("random_programs_agree_with_a_model", || leaves_nothing(random)).within(240),
        Case::new("reallocs_keep_what_both_sizes_share", || leaves_nothing(resized)),
        Case::new("recycled_blocks_are_zeroed_where_that_is_asked", || leaves_nothing(zeroed)),
        Case::new("threads_hand_blocks_on_and_end", || leaves_nothing(handed_on)).within(240),
        Case::new("spans_are_added_and_given_back_by_many_threads_at_once", churn).within(240),
        Case::new("threads_without_a_cache_free_and_resize_blocks", || leaves_nothing(orphans)),
        Case::new("a_child_uses_and_frees_what_it_inherits", inherited).within(240),
        Case::new("forks_while_threads_work_leave_spans_whole", storm).within(240),
        Case::new("trim_gives_all_of_it_back", trims),
        Case::new("pages_of_free_blocks_go_back_though_others_are_live", pages),
        Case::new("what_arrays_hold_goes_back_after_a_rest", rested).within(240),
        Case::new("outgrown_blocks_leave_their_spans_to_other_sizes", || leaves_nothing(outgrown)),
        Case::new(PURGED, || with_setting(PURGED, "POOLALLOC_PURGE_DELAY_MS", "50", purged)),
        Case::new(UNCACHED, || with_setting(UNCACHED, "POOLALLOC_FALLBACK_CACHE", "0", uncached)),
        Case::new(AT_ONCE, || with_setting(AT_ONCE, "POOLALLOC_PURGE_DELAY_MS", "0", all)),
        Case::new(SAMPLED, || with_setting(SAMPLED, "POOLALLOC_SAMPLE", "1k", all)).within(240),
        Case::new(TRACED, || with_setting(TRACED, "POOLALLOC_TRACE", "8", all)).within(240),
    ])
}

const PURGED: &str = "what_is_cached_and_what_it_pins_goes_back_after_a_rest";
const UNCACHED: &str = "where_nothing_is_cached_there_are_no_spans";
const AT_ONCE: &str = "spans_work_where_memory_goes_back_at_once";
const SAMPLED: &str = "spans_work_where_blocks_are_sampled";
const TRACED: &str = "spans_work_where_every_block_is_traced";

fn block(size: usize, tag: usize) -> Block {
    // Each block of a class another size, and another alignment.
    Block::new(size - tag % 100, 1 << (tag % 5), tag as u64).expect("memory")
}

/// 4 MiB of blocks of a class.
fn batch(size: usize) -> Vec<Block> {
    (0..2 * MANY / size).map(|tag| block(size, tag)).collect()
}

/// Twice as many blocks of a class as a thread has when it gets spans: for threads that did not
/// free what others allocated.
fn many(size: usize) -> Vec<Block> {
    let blocks = batch(size);
    assert!(memory().fallback_free > 0, "{size}: no span");
    blocks
}

/// Has spans of all classes.
fn all_sizes() -> Vec<Block> {
    SIZES.iter().flat_map(|&size| many(size)).collect()
}

/// A block of any class, now and then of a size that is served elsewhere.
fn any(rng: &mut fastrand::Rng) -> Block {
    Block::new(any_size(rng), 1 << rng.u32(0..8), rng.u64(..)).expect("memory")
}

fn any_size(rng: &mut fastrand::Rng) -> usize {
    match rng.u32(0..20) {
        0 => rng.usize(1..=512),
        1 => rng.usize(4_097..20_000),
        _ => rng.usize(513..=4_096),
    }
}

fn shuffle(blocks: &mut [Block], seed: u64) {
    fastrand::Rng::with_seed(seed).shuffle(blocks);
}

/// Runs `body` in a warmed-up process and checks that it left nothing behind, in counters and in spans.
fn leaves_nothing(body: fn()) {
    body();
    trim();
    let before = stats();
    body();
    assert_nothing_left(before, stats());
    settle();
}

/// Everything is freed: no span is left once memory goes back.
fn settle() {
    invariants().expect("invariants");
    trim();
    assert_eq!(memory().fallback_free, 0, "a span is left\n{}", memory());
    assert_eq!(stats().fallback_cached_bytes, 0);
    invariants().expect("invariants");
}

fn few() {
    for size in SIZES {
        let blocks: Vec<Block> = (0..MANY / size / 2).map(|tag| block(size, tag)).collect();
        assert_eq!(memory().fallback_free, 0, "{} blocks of {size} are not many", blocks.len());
    }
    settle();
}

/// What a thread caches of a size that it no longer asks for lies all over that size's spans.
fn outgrown() {
    let kept = || memory().fallback_free + stats().fallback_cached_bytes;
    for (at, &size) in SIZES.iter().enumerate() {
        let mut outgrown = batch(size);
        shuffle(&mut outgrown, at as u64);
        drop(outgrown);
        let before = kept();
        assert!(before > 4 * SPAN, "{size}: {before} bytes are kept\n{}", memory());
        let next = many(SIZES[(at + 1) % SIZES.len()]);
        assert!(kept() < before / 2, "{size}: of {before}, {} are kept\n{}", kept(), memory());
        drop(next);
        trim();
    }
}

fn each_size() {
    leaves_nothing(|| {
        for size in SIZES {
            let blocks = many(size);
            let mut places: Vec<_> = blocks.iter().map(Block::addr).collect();
            places.sort_unstable();
            let gaps = places.windows(2).map(|two| two[1] - two[0]);
            assert!(gaps.clone().all(|gap| gap >= size), "{size}: blocks overlap");
            // The system allocator has a header before each.
            let dense = gaps.filter(|&gap| gap == size).count();
            assert!(dense > places.len() / 3, "{size}: {dense} of {} in spans", places.len());
            let free = memory().fallback_free;
            assert!(free < 2 * SPAN, "{size}: {free} bytes are free in spans");
            invariants().expect("invariants");
            blocks.iter().for_each(Block::verify);
            drop(blocks);
            trim();
        }
    });
}

fn aligned() {
    for size in SIZES {
        for align in [32, 64, 128] {
            let of = |tag: usize| Block::new(size - tag % 100, align, tag as u64).expect("memory");
            let mut blocks = vec![of(0)];
            let free = memory().fallback_free;
            assert!(0 < free && free < SPAN, "{size} at {align}: {free} bytes are free in spans");
            // More than one span has, and as many that need no alignment beside them.
            blocks.extend((1..600).flat_map(|tag| [of(tag), block(size, tag)]));
            assert!(blocks.iter().all(|block| block.addr().is_multiple_of(block.layout().align())));
            shuffle(&mut blocks, align as u64);
            blocks.truncate(600);
            blocks.iter().for_each(Block::verify);
            // Those of both alignments lie in the same spans.
            thread_flush();
            let free = memory().fallback_free;
            blocks.extend((0..300).map(of));
            assert!(memory().fallback_free <= free, "{size} at {align}: a span more");
            invariants().expect("invariants");
            drop(blocks);
            trim();
            assert_eq!(memory().fallback_free, 0, "{size} at {align}: a span is left");
        }
    }
}

fn any_order() {
    for size in SIZES {
        let mut live = many(size);
        for round in 0..4 {
            shuffle(&mut live, round);
            let free = memory().fallback_free;
            let freed = live.len() * 3 / 4;
            live.truncate(live.len() - freed);
            thread_flush();
            let now = memory().fallback_free;
            assert!(now > free, "{size}: nothing came back");
            invariants().expect("invariants");
            live.extend((0..freed).map(|tag| block(size, tag)));
            live.iter().for_each(Block::verify);
            invariants().expect("invariants");
        }
        drop(live);
        // What is kept of this size says nothing of the next.
        trim();
    }
}

/// Blocks are checked whenever they are resized or dropped; the model is what each says that it holds.
fn random() {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut live = all_sizes();
    let most = live.len();
    for step in 0..200_000 {
        // Waves: spans become full, and empty.
        let grows = step / 20_000 % 2 == 0;
        match rng.u32(0..10) {
            0..3 if !live.is_empty() => {
                let at = rng.usize(..live.len());
                assert!(live[at].resize(any_size(&mut rng)));
            }
            3..6 if live.len() < most => live.push(any(&mut rng)),
            6..9 if grows && live.len() < most => live.push(any(&mut rng)),
            _ if !live.is_empty() => drop(live.swap_remove(rng.usize(..live.len()))),
            _ => {}
        }
        if step % 5_000 == 0 {
            invariants().expect("invariants");
        }
    }
    live.iter().for_each(Block::verify);
}

fn resized() {
    let mut blocks = all_sizes();
    shuffle(&mut blocks, 5);
    for (at, block) in blocks.iter_mut().enumerate() {
        let asked = block.layout().size();
        // Within a class, across its ends, into pools and above all spans, and back.
        for size in [asked + 1, asked - 1, 513, 512, 4_096, 4_097, 64, 100_000, asked] {
            if size < 100_000 || at % 64 == 0 {
                assert!(block.resize(size));
            }
        }
    }
    invariants().expect("invariants");
}

fn zeroed() {
    for size in SIZES {
        for _ in 0..2 {
            let count = many(size).len();
            let clean: Vec<Block> = (0..count)
                .map(|tag| Block::zeroed(Process, layout(size - tag % 100, 16), tag as u64))
                .map(|block| block.expect("memory"))
                .collect();
            clean.iter().for_each(Block::verify);
            drop(clean);
            thread_flush();
        }
    }
}

fn handed_on() {
    // Threads that freed what others allocated get spans late, if there are none.
    let pinned = all_sizes();
    let slots: Arc<[Mutex<Vec<Block>>; 4]> = Arc::default();
    for wave in 0..3 {
        let shared = Arc::clone(&slots);
        let started = Barrier::new(4);
        run(4, move |seed| {
            started.wait();
            let mut rng = fastrand::Rng::with_seed(wave * 4 + seed);
            let size = SIZES[rng.usize(..SIZES.len())];
            let mut own = batch(size);
            for _ in 0..200 {
                own.extend((0..rng.usize(1..100)).map(|tag| block(size, tag)));
                let rest = own.split_off(own.len() - rng.usize(..own.len() / 2));
                let mut slot = shared[rng.usize(..4)].lock().expect("no panic");
                let theirs = std::mem::replace(&mut *slot, rest);
                drop(slot);
                match rng.bool() {
                    true => own.extend(theirs),
                    false => theirs.iter().for_each(Block::verify),
                }
            }
            // Its blocks outlive the thread.
            shared[rng.usize(..4)].lock().expect("no panic").append(&mut own);
        });
        invariants().expect("invariants");
    }
    run(1, move |_| shared_out(slots.as_slice()));
    drop(pinned);
}

/// Frees what threads left.
fn shared_out(slots: &[Mutex<Vec<Block>>]) {
    slots.iter().for_each(|slot| *slot.lock().expect("no panic") = Vec::new());
}

/// Two classes, so that threads meet at their bins, each from nothing to many blocks and back.
fn churn() {
    leaves_nothing(|| {
        run(4, |seed| {
            let size = [1_024, 3_072][seed as usize % 2];
            for round in 0..60 {
                let mut blocks = batch(size);
                shuffle(&mut blocks, round * 4 + seed);
                blocks.truncate(blocks.len() / 50);
                thread_flush();
                match seed {
                    0 => drop(trim()),
                    1 => invariants().expect("invariants"),
                    _ => drop(memory()),
                }
            }
        });
    });
}

/// What destructors of keys find, long after their thread's cache is gone.
static LEFT: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// Destructor of a key, with the rounds to come: frees, resizes and allocates.
extern "C" fn late(rounds: *mut c_void) {
    let rounds = rounds.addr();
    let mut left = LEFT.lock().expect("no panic");
    let from = left.len().saturating_sub(20);
    left.drain(from..).for_each(drop);
    for (number, size) in SIZES.into_iter().enumerate() {
        if let Some(block) = left.last_mut() {
            assert!(block.resize(513 + 300 * number));
        }
        left.push(block(size, number));
    }
    drop(left);
    if rounds > 1 {
        let key = *KEY.lock().expect("no panic");
        key.expect("made before").set(rounds - 1);
    }
}

static KEY: Mutex<Option<Key>> = Mutex::new(None);

fn orphans() {
    KEY.lock().expect("no panic").get_or_insert_with(|| Key::new(late));
    let mut blocks = all_sizes();
    shuffle(&mut blocks, 3);
    *LEFT.lock().expect("no panic") = blocks;
    for _ in 0..100 {
        raw_thread::run(4, &|seed| {
            let key = *KEY.lock().expect("no panic");
            key.expect("made above").set(ROUNDS);
            drop(block(SIZES[seed], seed));
        });
    }
    *LEFT.lock().expect("no panic") = Vec::new();
}

/// What each child does with what it has from its parent. 0 when all went well.
fn child(seed: u64, mut live: Vec<Block>) -> i32 {
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..10_000 {
        match rng.u32(0..3) {
            0 => live.push(any(&mut rng)),
            1 if !live.is_empty() => {
                let at = rng.usize(..live.len());
                if !live[at].resize(any_size(&mut rng)) {
                    return 3;
                }
            }
            _ if !live.is_empty() => drop(live.swap_remove(rng.usize(..live.len()))),
            _ => {}
        }
    }
    if live.iter().any(|block| !block.intact()) || invariants().is_err() {
        return 4;
    }
    drop(live);
    trim();
    i32::from(invariants().is_err())
}

fn inherited() {
    leaves_nothing(|| {
        let mut blocks = all_sizes();
        shuffle(&mut blocks, 1);
        for seed in 0..8 {
            let theirs = std::cell::Cell::new(std::mem::take(&mut blocks));
            let started = fork(|| {
                let code = child(seed, theirs.take());
                // The child was the only thread: what it freed has left every span.
                if code == 0 && memory().fallback_free != 0 { 5 } else { code }
            });
            assert_eq!(started.wait(LIMIT), Ended::Code(0));
            blocks = theirs.take();
            blocks.iter().for_each(Block::verify);
        }
    });
}

fn storm() {
    leaves_nothing(|| {
        run(4, |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            for round in 0..25 {
                let size = SIZES[rng.usize(..SIZES.len())];
                let mut blocks = batch(size);
                shuffle(&mut blocks, round);
                blocks.truncate(rng.usize(..blocks.len()));
                if seed == 0 {
                    let theirs = std::cell::Cell::new(Vec::new());
                    theirs.set(blocks);
                    let started = fork(|| child(round, theirs.take()));
                    assert_eq!(started.wait(LIMIT), Ended::Code(0));
                }
            }
        });
    });
}

fn trims() {
    let before = stats();
    for _ in 0..3 {
        let mut blocks = all_sizes();
        shuffle(&mut blocks, 2);
        // Each span keeps some.
        blocks.truncate(blocks.len() / 20);
        trim();
        assert!(memory().fallback_free > 0, "what is used is not given back");
        blocks.iter().for_each(Block::verify);
        drop(blocks);
        settle();
    }
    let after = stats();
    assert_eq!(after.fallback_live_blocks, before.fallback_live_blocks, "{after}");
    assert_eq!(after.fallback_live_bytes, before.fallback_live_bytes, "{after}");
}

/// Frees many blocks and works on, without their sizes, until what the thread caches went back by
/// itself. Whether the spans that became empty by that went with it.
fn goes_at_once() -> bool {
    let mut small = Vec::with_capacity(500);
    let mut blocks: Vec<Block> =
        SIZES.iter().filter(|&&size| size > 1_024).flat_map(|&size| many(size)).collect();
    // What was allocated first, and lies in no span, is freed last: it stays in the thread's arrays.
    blocks.reverse();
    drop(blocks);
    while stats().fallback_cached_bytes > 1 << 20 {
        small.extend((0..500).map(|_| Box::new([1_u8; 48])));
        small.clear();
        thread::sleep(Duration::from_millis(1));
    }
    invariants().expect("invariants");
    let free = memory().fallback_free;
    trim();
    free == 0
}

fn purged() {
    // A thread that rests before it freed all of them keeps the others.
    assert!((0..10).any(|_| goes_at_once()), "empty spans are left every time");
}

/// What a thread's arrays hold of blocks in spans does not hold the spans for good, as long as the
/// thread works.
fn rested() {
    let mut blocks = all_sizes();
    shuffle(&mut blocks, 11);
    drop(blocks);
    let begin = Instant::now();
    while memory().fallback_free > 0 {
        // Small blocks, in and out of pools.
        drop((0..1000).map(|tag| Block::new(64, 8, tag)).collect::<Vec<_>>());
        assert!(begin.elapsed() < LIMIT, "{}", memory());
    }
}

/// Pages between live blocks go back.
fn pages() {
    let mut blocks = many(1024);
    let mut number = 0;
    blocks.retain(|_| {
        number += 1;
        number % 100 == 0
    });
    let before = memory().fallback_free;
    let bytes = trim();
    assert!(bytes as u64 > before / 2, "{bytes} of {before}");
    blocks.iter().for_each(Block::verify);
    assert_eq!(trim(), 0, "once is enough");
    blocks.extend(batch(1024));
    blocks.iter().for_each(Block::verify);
    drop(blocks);
    settle();
}

fn uncached() {
    let blocks: Vec<Block> = SIZES.into_iter().flat_map(batch).collect();
    assert_eq!(memory().fallback_free, 0, "a span");
    drop(blocks);
    settle();
}

/// The cases above that say most, and that no span is added where there is a free block.
fn all() {
    let blocks = all_sizes();
    let free = memory().fallback_free;
    assert!(free < 2 * SIZES.len() as u64 * SPAN, "{free} bytes are free in spans");
    drop(blocks);
    leaves_nothing(resized);
    leaves_nothing(zeroed);
    leaves_nothing(any_order);
    leaves_nothing(handed_on);
}
