//! Small blocks that one thread allocates and another frees: they reach threads that ask for some
//! past the pools.
//!
//! What waits for a thread that asks is what `class_stats` counts as cached once every thread's own
//! cache is empty. All sizes here are of one class each, which nothing else in the program uses. No
//! unsafe here.

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use alloc_global::{PoolAlloc, class_stats, stats, thread_flush, trim};
use tests::block::Block;
use tests::cases::{self, Case, with_setting};
use tests::invariants;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Bytes that one class may keep for threads that ask (docs/memory.md).
const MOST: usize = 64 << 10;
/// And blocks.
const MOST_BLOCKS: usize = 512;

const PASSES: &str = "what_one_thread_frees_another_is_given";
const AT_ONCE: &str = "without_a_delay_nothing_waits";
const BOUND: &str = "no_class_keeps_more_than_the_bound";

fn main() -> ExitCode {
    cases::main(&[
        Case::new(PASSES, || without_sweeps(PASSES, passes)),
        Case::new("one_thread_alone_leaves_nothing", alone),
        Case::new(BOUND, || without_sweeps(BOUND, bound)),
        Case::new(AT_ONCE, at_once),
        Case::new("trim_sorts_all_of_it", trims),
        Case::new("what_nobody_takes_goes_back_to_its_pools_by_itself", fades),
        Case::new("after_a_rest_all_of_it_goes_with_the_first_purge", rest),
        Case::new("many_threads_pass_blocks_round", round),
    ])
}

/// Runs `body` in a process with this delay of the purge.
fn with_delay(delay: &str, case: &str, body: fn()) {
    with_setting(case, "POOLALLOC_PURGE_DELAY_MS", delay, body);
}

/// Runs `body` in a process in which nothing that waits is forgotten, however slow the machine is.
fn without_sweeps(case: &str, body: fn()) {
    with_delay("never", case, body);
}

fn block(size: usize) -> Block {
    Block::new(size, 8, size as u64).expect("memory")
}

/// Free blocks of a class that are in no pool; in depots alone where no thread has any cached.
fn waiting(size: usize) -> usize {
    class_stats()[size.div_ceil(8) - 1].cached_blocks as usize
}

/// Blocks in the program's hands.
fn live(size: usize) -> u64 {
    class_stats()[size.div_ceil(8) - 1].live_blocks
}

/// Has a thread allocate `count` blocks, which it asks for in vain, and this one free them.
fn hand_over(size: usize, count: usize) {
    let blocks: Vec<Block> =
        thread::spawn(move || (0..count).map(|_| block(size)).collect()).join().expect("no panic");
    drop(blocks);
    thread_flush();
}

fn settle(size: usize) {
    assert_eq!(live(size), 0);
    trim();
    assert_eq!((waiting(size), live(size)), (0, 0));
    invariants().expect("invariants");
}

fn passes() {
    const SIZE: usize = 304;
    let blocks: Vec<Block> =
        thread::spawn(|| (0..1_000).map(|_| block(SIZE)).collect()).join().expect("no panic");
    let freed: HashSet<usize> = blocks.iter().map(|block| block.addr()).collect();
    drop(blocks);
    thread_flush();
    let kept = waiting(SIZE);
    assert!(kept > 0, "nothing waits");
    let taken: Vec<Block> =
        thread::spawn(move || (0..kept).map(|_| block(SIZE)).collect()).join().expect("no panic");
    let again = taken.iter().filter(|block| freed.contains(&block.addr())).count();
    // But for a few that are not worth a lock, and those that the first thread had left when it ended.
    assert!(again >= kept - kept / 8, "{again} of {kept}: they came from elsewhere");
    assert_eq!(live(SIZE), kept as u64);
    drop(taken);
    settle(SIZE);
}

fn alone() {
    const SIZE: usize = 312;
    for _ in 0..20 {
        let blocks: Vec<Block> = (0..2_000).map(|_| block(SIZE)).collect();
        drop(blocks);
        thread_flush();
        assert_eq!(waiting(SIZE), 0, "left for nobody");
    }
    settle(SIZE);
}

fn bound() {
    // The first is bounded by blocks, the others by bytes.
    for size in [24, 320, 496] {
        hand_over(size, 10_000);
        let kept = waiting(size);
        assert!(kept > 0 && kept <= MOST_BLOCKS && kept * size <= MOST, "{kept} of {size} bytes");
        trim();
        assert_eq!(waiting(size), 0);
    }
}

fn at_once() {
    with_delay("0", AT_ONCE, || {
        for size in [24, 320, 496] {
            hand_over(size, 10_000);
            assert_eq!(waiting(size), 0);
        }
        settle(320);
    });
}

fn trims() {
    for count in [1, 10, 100, 1_000] {
        hand_over(328, count);
        settle(328);
    }
}

fn fades() {
    const SIZE: usize = 336;
    // Where the machine is slow, the sweep may come between a question and the answer.
    while waiting(SIZE) == 0 {
        hand_over(SIZE, 1_000);
    }
    // The clock is looked at on slow paths.
    while waiting(SIZE) > 0 {
        tick();
        thread::sleep(Duration::from_millis(5));
    }
    settle(SIZE);
}

/// Slow paths, at which the clock is looked at.
fn tick() {
    let others: Vec<Box<[u8; 48]>> = (0..10_000).map(|_| Box::new([1; 48])).collect();
    drop(others);
    thread_flush();
}

fn rest() {
    const SIZE: usize = 344;
    while waiting(SIZE) == 0 {
        hand_over(SIZE, 1_000);
    }
    // Longer than the delay; too short for two purges to follow each other.
    thread::sleep(Duration::from_millis(700));
    tick();
    assert_eq!(waiting(SIZE), 0, "what lay there for the delay is still there");
    settle(SIZE);
}

fn round() {
    const THREADS: u64 = 6;
    let before = stats().live_blocks;
    let shelf: Arc<Mutex<Vec<Block>>> = Arc::default();
    let (sender, receiver) = sync_channel::<Vec<Block>>(4);
    let threads: Vec<_> = (0..THREADS)
        .map(|seed| {
            let (shelf, sender) = (Arc::clone(&shelf), sender.clone());
            thread::spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                for _ in 0..400 {
                    let mut batch: Vec<Block> =
                        (0..300).map(|_| block(rng.usize(1..=512))).collect();
                    rng.shuffle(&mut batch);
                    let mut shelf = shelf.lock().expect("no panic");
                    std::mem::swap(&mut *shelf, &mut batch);
                    drop(shelf);
                    assert!(batch.iter().all(Block::intact), "two threads have one block");
                    if rng.bool() {
                        sender.send(batch).expect("a receiver");
                    }
                }
            })
        })
        .collect();
    drop(sender);
    for batch in receiver {
        assert!(batch.iter().all(Block::intact), "two threads have one block");
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    drop(shelf);
    trim();
    let after = stats();
    // What the runtime keeps for a thread's first wait is a few blocks.
    assert!(after.live_blocks <= before + 16, "{before} blocks before\n{after}");
    invariants().expect("invariants");
}
