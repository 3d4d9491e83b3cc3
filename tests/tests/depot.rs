//! Large blocks that one thread allocates and another frees: they reach threads that ask for some
//! past the fallback.
//!
//! The fallback is `tests::ledger::Ledger`, which counts its calls, checks every layout and knows
//! every block that it has out. So these cases notice a block that was passed to two threads, one
//! that was given back twice or never, and whether the fallback was asked at all. No unsafe here.

use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use alloc_global::{PoolAlloc, stats, thread_flush, trim};
use tests::block::Block;
use tests::cases::{self, Case};
use tests::ledger::{Ledger, Shared};
use tests::{invariants, run};

#[global_allocator]
static ALLOC: PoolAlloc<Shared> = PoolAlloc::with_fallback(Shared(&LEDGER));

static LEDGER: Ledger = Ledger::new();

/// What is kept for threads that ask holds at most so many bytes (docs/memory.md).
const MOST: u64 = 16 << 20;

fn main() -> ExitCode {
    cases::main(&[
        Case::new("what_one_thread_frees_another_is_given", passes),
        Case::new("a_thread_that_ends_leaves_its_blocks_to_those_that_ask", leaves),
        Case::new("one_thread_alone_leaves_nothing", alone),
        Case::new("no_more_is_kept_than_the_bound", bound),
        Case::new("of_large_blocks_no_more_is_kept_than_a_part_of_the_peak", part),
        Case::new("trim_gives_all_of_it_back", trims),
        Case::new("what_nobody_takes_goes_back_by_itself", fades),
        Case::new("many_threads_pass_blocks_round", round),
        Case::new("threads_that_change_their_parts_keep_no_more_than_is_in_use", parts),
    ])
}

fn block(rng: &mut fastrand::Rng) -> Block {
    // Up to 4 KiB blocks go another way than above.
    let size = if rng.bool() { rng.usize(513..=4_096) } else { rng.usize(4_097..40_000) };
    Block::new(size, 1 << rng.u32(0..=7), rng.u64(..)).expect("memory")
}

/// One thread allocates `batches` times a hundred blocks, this one frees them.
fn pass(batches: usize) {
    let (sender, receiver) = sync_channel::<Vec<Block>>(2);
    let producer = thread::spawn(move || {
        let mut rng = fastrand::Rng::with_seed(batches as u64);
        for _ in 0..batches {
            let batch = (0..100).map(|_| block(&mut rng)).collect();
            sender.send(batch).expect("a receiver");
        }
    });
    receiver.into_iter().for_each(drop);
    // Joined, not only scoped: its destructors have run then.
    producer.join().expect("no panic");
}

/// The fallback made no complaint, and has out what the program holds and no more.
fn settle(before: usize) {
    trim();
    let entries = LEDGER.entries();
    assert_eq!(entries.faults, 0, "{entries:?}");
    assert_eq!(LEDGER.live_blocks(), before);
    let now = stats();
    assert_eq!((now.fallback_live_blocks, now.fallback_cached_bytes), (before as u64, 0), "{now}");
    invariants().expect("invariants");
}

/// Makes what lives for as long as the process, and says how many blocks the fallback has out.
fn begin() -> usize {
    assert!(ALLOC.cache_fallback());
    pass(2);
    trim();
    LEDGER.live_blocks()
}

fn passes() {
    let live = begin();
    pass(20);
    let before = LEDGER.entries().allocs;
    pass(400);
    let asked = LEDGER.entries().allocs - before;
    assert!(asked < 40_000 / 4, "the fallback was asked for {asked} of 40,000 blocks");
    settle(live);
}

fn leaves() {
    let live = begin();
    let wave = || {
        let started = Arc::new(Barrier::new(4));
        run(4, move |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            started.wait();
            let blocks: Vec<Block> = (0..50).map(|_| block(&mut rng)).collect();
            started.wait();
            drop(blocks);
        });
    };
    wave();
    let before = LEDGER.entries().allocs;
    (0..50).for_each(|_| wave());
    let asked = LEDGER.entries().allocs - before;
    assert!(asked < 50 * 4 * 50 / 2, "the fallback was asked for {asked} of 10,000 blocks");
    settle(live);
}

fn alone() {
    let live = begin();
    // A thread that nobody shares with: what it frees beyond its cache goes to the fallback.
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..20 {
        let blocks: Vec<Block> = (0..2_000).map(|_| block(&mut rng)).collect();
        drop(blocks);
        thread_flush();
        let now = stats();
        assert_eq!(now.fallback_cached_bytes, 0, "left for nobody\n{now}");
    }
    settle(live);
}

/// Has a thread allocate `count` blocks and end, having asked in vain for all but a few, and frees
/// them here.
fn hand_over(count: usize, block: fn(&mut fastrand::Rng) -> Block) {
    let mut rng = fastrand::Rng::with_seed(count as u64);
    let blocks: Vec<Block> = thread::scope(|scope| {
        scope.spawn(|| (0..count).map(|_| block(&mut rng)).collect()).join().expect("no panic")
    });
    drop(blocks);
}

fn part() {
    let live = begin();
    // Some 20 MB of eight classes, of each of which 2 MiB would find room.
    hand_over(32, |rng| Block::new(rng.usize(260_000..1_000_000), 8, rng.u64(..)).expect("memory"));
    thread_flush();
    let now = stats();
    let kept = now.fallback_cached_bytes;
    assert!(kept > 0 && kept <= now.peak_live_bytes / 4, "{kept} bytes are kept\n{now}");
    settle(live);
}

fn bound() {
    let live = begin();
    // 100 MB, of which this thread's own cache keeps little: it never had any in use itself.
    hand_over(10_000, block);
    thread_flush();
    let kept = stats().fallback_cached_bytes;
    assert!(kept > 0 && kept <= MOST, "{kept} bytes are kept");
    settle(live);
}

fn trims() {
    let live = begin();
    for count in [10, 100, 1_000] {
        hand_over(count, block);
        settle(live);
    }
}

fn fades() {
    let live = begin();
    hand_over(1_000, block);
    thread_flush();
    assert!(stats().fallback_cached_bytes > 0, "nothing was kept");
    // The clock is looked at on slow paths, of which small blocks take some too.
    while stats().fallback_cached_bytes > 0 {
        let blocks: Vec<Box<[u8; 48]>> = (0..10_000).map(|_| Box::new([1; 48])).collect();
        drop(blocks);
        thread_flush();
        thread::sleep(Duration::from_millis(5));
    }
    settle(live);
}

fn round() {
    let live = begin();
    let slots: [Mutex<Vec<Block>>; 8] = Default::default();
    let slots = Arc::new(slots);
    let shared = Arc::clone(&slots);
    run(8, move |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let mine: Vec<Block> = (0..rng.usize(1..60)).map(|_| block(&mut rng)).collect();
            let theirs = {
                let mut slot = shared[rng.usize(..8)].lock().expect("no panic");
                std::mem::replace(&mut *slot, mine)
            };
            theirs.iter().for_each(Block::verify);
        }
    });
    drop(slots);
    settle(live);
}

/// Two threads, of which first one allocates all blocks and the other frees them, then the other way:
/// what a thread allocated and another freed is not in use, and licenses no cache.
fn parts() {
    assert!(ALLOC.cache_fallback());
    let (there, here) = (sync_channel::<Vec<Block>>(1), sync_channel::<Vec<Block>>(1));
    let batches = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut next = move || Block::new(rng.usize(4_097..32_768), 8, 1).expect("memory");
        (0..200).map(move |_| (0..16).map(|_| next()).collect::<Vec<_>>())
    };
    // At most three batches of 288 KiB are on their way.
    let most = Arc::new(Mutex::new(0));
    let note = |most: &Mutex<u64>| {
        let mut most = most.lock().expect("no panic");
        *most = (*most).max(stats().fallback_cached_bytes);
    };
    let other = {
        let (most, sender, receiver) = (Arc::clone(&most), here.0, there.1);
        thread::spawn(move || {
            for seed in 0..4 {
                receiver.iter().take(200).for_each(drop);
                note(&most);
                batches(seed).for_each(|batch| sender.send(batch).expect("a receiver"));
            }
        })
    };
    for seed in 4..8 {
        batches(seed).for_each(|batch| there.0.send(batch).expect("a receiver"));
        here.1.iter().take(200).for_each(drop);
        note(&most);
    }
    other.join().expect("no panic");
    let most = *most.lock().expect("no panic");
    assert!(most <= 16 << 20, "{most} bytes were cached, of 57 MiB that passed each time");
    assert_eq!(LEDGER.entries().faults, 0);
}
