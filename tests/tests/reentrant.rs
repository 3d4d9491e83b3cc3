//! A fallback that uses the global allocator itself, as one that keeps a log does.
//!
//! Whenever it is called it allocates and frees in all ranges of sizes: also when a thread's cache
//! is being swept, flushed or given up, on slow paths, and while the first cache is made. Calls
//! from within go straight to the system. Every case ends with everything freed: a block that two
//! calls were handed shows in its bytes, one that was lost in the counters.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use alloc_global::{PoolAlloc, start_sampling, stats, stop_and_forget, thread_flush, trim};
use tests::block::{Block, Process};
use tests::cases::{self, Case, with_setting};
use tests::program::{Mix, Program};
use tests::{invariants, raw_thread};

#[global_allocator]
static ALLOC: PoolAlloc<Chatty> = PoolAlloc::with_fallback(Chatty);

fn main() -> ExitCode {
    cases::main(&[
        Case::new("programs_keep_to_the_model", programs).within(240),
        Case::new("threads_come_and_go_and_pass_blocks_on", threads).within(240),
        Case::new(PHASES, || at_once(PHASES, phases)).within(240),
        Case::new(PROGRAMS, || at_once(PROGRAMS, programs)).within(240),
        Case::new(THREADS, || at_once(THREADS, threads)).within(240),
        Case::new("a_cache_that_is_given_up_while_it_is_emptied_is_nobody_elses", given_up),
    ])
}

const PHASES: &str = "phases_where_memory_goes_back_at_once";
const PROGRAMS: &str = "programs_where_memory_goes_back_at_once";
const THREADS: &str = "threads_where_memory_goes_back_at_once";

/// Where there is no delay the fallback is called, too, whenever a pool becomes empty.
fn at_once(case: &str, body: fn()) {
    with_setting(case, "POOLALLOC_PURGE_DELAY_MS", "0", body);
}

struct Chatty;

thread_local! {
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Calls of the fallback from outside.
static CALLS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What this thread's next call of `dealloc` does.
    static NEXT: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Whether the fallback does only that.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Allocates and frees a little of everything, unless this is done already.
fn chat() {
    // Ordering: a switch.
    if QUIET.load(Ordering::Relaxed) || WITHIN.replace(true) {
        return;
    }
    // Ordering: a count.
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let size = |n: u64| [24, 700, 200, 5_000, 512, 1_000, 70_000, 8][(call + n) as usize % 8];
    let mut blocks: [_; 5] = std::array::from_fn(|n| Block::new(size(n as u64), 8, call));
    if let Some(block) = &mut blocks[0] {
        assert!(block.resize(size(7)));
    }
    if call.is_multiple_of(64) {
        thread_flush();
    }
    drop(blocks);
    WITHIN.set(false);
}

// SAFETY: the system's blocks; whatever is allocated beside is freed before.
unsafe impl GlobalAlloc for Chatty {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        chat();
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        chat();
        if let Some(next) = NEXT.take() {
            next();
        }
        note_freed(block);
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(block, layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        chat();
        // SAFETY: the caller's contract is the same.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// Runs `body` twice; the second time must leave as many blocks as it found.
fn leaves_nothing(mut body: impl FnMut()) {
    body();
    let (before, calls) = (stats(), CALLS.load(Ordering::Relaxed));
    body();
    let after = stats();
    assert!(CALLS.load(Ordering::Relaxed) > calls + 1_000, "the fallback was hardly asked");
    assert_eq!(after.live_blocks, before.live_blocks, "{after}");
    assert_eq!(after.live_bytes, before.live_bytes, "{after}");
    assert_eq!(after.fallback_live_blocks, before.fallback_live_blocks, "{after}");
    invariants().expect("invariants");
}

fn programs() {
    leaves_nothing(|| {
        for seed in 0..400 {
            let mut steps = 0;
            Program::random(9_000_000 + seed, &Mix::WHOLE).run(Process, &mut || {
                steps += 1;
                match steps % 23 {
                    0 => drop(trim()),
                    7 => thread_flush(),
                    _ => {}
                }
                if steps % 16 == 0 { invariants() } else { Ok(()) }
            });
        }
    });
}

/// Classes are used one after the other, and when pools become empty so much of the fallback's lies
/// in the cache, untouched, that it goes back.
fn phases() {
    let block = |tag: u64, size| Block::new(size, 8, tag).expect("memory");
    let mut rng = fastrand::Rng::with_seed(1);
    leaves_nothing(|| {
        for round in 0..40 {
            for size in [24, 40, 200, 512, 8] {
                let mut small = Vec::with_capacity(4_000);
                // More than last time, so that the cache is asked for room when they are freed.
                drop((0..80 + 4 * round).map(|tag| block(tag, 30_000)).collect::<Vec<_>>());
                small.extend((0..4_000).map(|tag| block(tag, size)));
                rng.shuffle(&mut small);
                small.clear();
            }
        }
        thread_flush();
    });
}

fn threads() {
    let passed: Mutex<Vec<Block>> = Mutex::default();
    leaves_nothing(|| {
        for wave in 0..12 {
            // So that the fallback is asked anew for what threads left to each other.
            trim();
            raw_thread::run(6, &|index| {
                let mut rng = fastrand::Rng::with_seed(wave * 6 + index as u64);
                for _ in 0..20 {
                    let sizes = [512, 1_024, 30_000, 300_000];
                    let mut own: Vec<Block> = (0..20)
                        .map(|n| Block::new(rng.usize(1..=sizes[n % 4]), 8, n as u64))
                        .map(|block| block.expect("memory"))
                        .collect();
                    let mut passed = passed.lock().expect("no panic");
                    let from = passed.len().saturating_sub(12);
                    let theirs = passed.split_off(from);
                    passed.extend(own.drain(..10));
                    drop(passed);
                    drop((theirs, own));
                }
            });
        }
        *passed.lock().expect("no panic") = Vec::new();
        thread_flush();
    });
}

/// How far the two threads of [`given_up`] are.
static STEP: AtomicU64 = AtomicU64::new(0);

/// Blocks that lie in the second thread's cache.
static CACHED: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

/// How many of them went back to the fallback.
static STOLEN: AtomicU64 = AtomicU64::new(0);

fn note_freed(block: *mut u8) {
    // Acquire: pairs with the Release of who stored it.
    if CACHED.iter().any(|cached| cached.load(Ordering::Acquire) == block.addr()) {
        // Ordering: a count.
        STOLEN.fetch_add(1, Ordering::Relaxed);
    }
}

fn go_on(step: u64) {
    // Release: pairs with the Acquire in `wait_for`.
    STEP.store(step, Ordering::Release);
}

fn wait_for(step: u64) {
    // Acquire: pairs with the Release in `go_on`.
    while STEP.load(Ordering::Acquire) < step {
        std::thread::yield_now();
    }
}

/// A thread that samples has a second cache. It ends to sample in the middle of emptying that one,
/// and another thread takes whichever cache is free.
fn given_up() {
    QUIET.store(true, Ordering::Relaxed);
    raw_thread::run(2, &|index| if index == 0 { empties() } else { takes() });
    assert_eq!(STOLEN.load(Ordering::Relaxed), 0, "blocks out of another thread's cache");
    QUIET.store(false, Ordering::Relaxed);
    invariants().expect("invariants");
}

fn blocks(size: usize, count: u64) -> Vec<Block> {
    (0..count).map(|tag| Block::new(size, 8, tag).expect("memory")).collect()
}

fn empties() {
    assert!(ALLOC.cache_fallback());
    start_sampling(1 << 40);
    for size in [1_000, 3_000] {
        drop(blocks(size, 20));
        // Some of what was freed lies in the second cache then.
        drop(blocks(size, 1));
    }
    NEXT.set(Some(|| {
        stop_and_forget();
        // Enough for a slow path, which sees to it.
        drop(blocks(136, 600));
        go_on(1);
        wait_for(2);
    }));
    thread_flush();
    assert!(NEXT.take().is_none(), "nothing was given back");
    go_on(3);
}

fn takes() {
    wait_for(1);
    let own = blocks(3_000, CACHED.len() as u64);
    let addresses = own.iter().map(Block::addr);
    for (cached, address) in CACHED.iter().zip(addresses) {
        // Release: pairs with the Acquire in `note_freed`.
        cached.store(address, Ordering::Release);
    }
    drop(own);
    go_on(2);
    wait_for(3);
    for cached in &CACHED {
        // Release: as above. They go back when this thread ends.
        cached.store(0, Ordering::Release);
    }
}
