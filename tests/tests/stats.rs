//! The counters, against counters of our own.
//!
//! In the thread that made the calls, and at quiescence, every counter is exact: each case does
//! what it does between two readings, counts it by itself, and compares. Nothing else allocates in
//! these processes. The size of a block of a pool follows from the mission's words alone: 8-byte
//! steps to 512, a multiple of the alignment. No unsafe here.

use std::process::ExitCode;
use std::sync::Mutex;

use alloc_global::{
    PoolAlloc, Stats, measure, start_sampling, start_tracing, stats, stop_profiling, thread_flush,
    thread_stats, trim,
};
use tests::block::{Block, Process, layout};
use tests::cases::{self, Case};
use tests::invariants;
use tests::raw_thread;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn main() -> ExitCode {
    cases::main(&[
        Case::new("counters_of_calls_are_exact_in_their_own_thread", calls),
        Case::new("live_blocks_and_bytes_are_exact_after_every_call", live),
        Case::new("counters_are_exact_when_other_threads_have_ended", threads),
        Case::new("blocks_freed_by_another_thread_are_counted_once", crossing),
        Case::new("realloc_counts_once_and_moves_bytes_between_pools_and_fallback", reallocs),
        Case::new("the_peak_is_at_least_what_was_live_and_stays", peak),
        Case::new("pools_account_for_what_they_hold", pools),
        Case::new("readings_copy_subtract_and_print", readings),
        Case::new("reading_the_counters_changes_none", reading_is_free),
        Case::new("counts_of_a_thread_are_exact_whatever_it_watches", own_counts),
    ])
}

/// Size of the block that a pool serves for this request, or None where the fallback does.
fn class_size(size: usize, align: usize) -> Option<usize> {
    let rounded = size.next_multiple_of(align.max(8));
    (rounded <= 512).then_some(rounded)
}

/// Bytes that a block of the fallback counts for: up to 4,096 those of its class, else its layout's.
fn fallback_size(size: usize, align: usize) -> usize {
    let rounded = size.next_multiple_of(align.max(8));
    match rounded {
        ..=4096 if align <= 128 => rounded.next_multiple_of(rounded.next_power_of_two() / 8),
        _ => size,
    }
}

/// Counts beside the allocator; holds its blocks without allocating.
struct Oracle {
    blocks: [Option<Block>; 256],
    allocs: u64,
    deallocs: u64,
    reallocs: u64,
}

impl Oracle {
    fn new() -> Oracle {
        Oracle { blocks: [const { None }; 256], allocs: 0, deallocs: 0, reallocs: 0 }
    }

    /// One random call.
    fn step(&mut self, rng: &mut fastrand::Rng) {
        let size = if rng.u32(0..5) == 0 { rng.usize(1..9_000) } else { rng.usize(1..=512) };
        let slot = &mut self.blocks[rng.usize(..256)];
        match slot {
            None => {
                let asked = layout(size, 1 << rng.u32(0..8));
                let block = match rng.bool() {
                    true => Block::alloc(Process, asked, 1),
                    false => Block::zeroed(Process, asked, 1),
                };
                *slot = Some(block.expect("memory"));
                self.allocs += 1;
            }
            Some(block) if rng.u32(0..3) == 0 => {
                assert!(block.resize(size));
                self.reallocs += 1;
            }
            Some(_) => {
                *slot = None;
                self.deallocs += 1;
            }
        }
    }

    fn live(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().flatten()
    }

    /// Blocks and bytes that are live: all, and those of the fallback.
    fn sums(&self) -> [u64; 4] {
        let mut sums = [0; 4];
        for block in self.live() {
            let (size, align) = (block.layout().size(), block.layout().align());
            let class = class_size(size, align);
            sums[0] += 1;
            let fallback = fallback_size(size, align);
            sums[1] += class.unwrap_or(fallback) as u64;
            sums[2] += u64::from(class.is_none());
            sums[3] += if class.is_none() { fallback as u64 } else { 0 };
        }
        sums
    }
}

/// What changed since `before`: blocks and bytes that are live, all and the fallback's.
fn live_since(before: Stats) -> [u64; 4] {
    let now = stats();
    [
        now.live_blocks - before.live_blocks,
        now.live_bytes - before.live_bytes,
        now.fallback_live_blocks - before.fallback_live_blocks,
        now.fallback_live_bytes - before.fallback_live_bytes,
    ]
}

fn calls() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut oracle = Oracle::new();
    let before = stats();
    for _ in 0..50_000 {
        oracle.step(&mut rng);
    }
    let done = stats() - before;
    assert_eq!(
        (done.allocs, done.deallocs, done.reallocs),
        (oracle.allocs, oracle.deallocs, oracle.reallocs)
    );
}

fn live() {
    let mut rng = fastrand::Rng::with_seed(2);
    let mut oracle = Oracle::new();
    let before = stats();
    for step in 0..20_000 {
        oracle.step(&mut rng);
        assert_eq!(live_since(before), oracle.sums(), "after step {step}");
    }
    oracle.blocks.fill_with(|| None);
    assert_eq!(live_since(before), [0; 4]);
    invariants().expect("invariants");
}

fn threads() {
    let work = |index: usize| {
        let mut rng = fastrand::Rng::with_seed(index as u64);
        let mut oracle = Oracle::new();
        for _ in 0..20_000 {
            oracle.step(&mut rng);
        }
        oracle
    };
    // The same work here, counted by the oracle alone: what the threads must come to.
    let expected: Vec<Oracle> = (0..8).map(work).collect();
    let before = stats();
    raw_thread::run(8, &|index| drop(work(index)));
    let done = stats() - before;
    let frame = 2; // the lists of starts and of threads in `raw_thread::run`
    let sum = |count: fn(&Oracle) -> u64| expected.iter().map(count).sum::<u64>();
    let still_live: u64 = expected.iter().map(|oracle| oracle.live().count() as u64).sum();
    assert_eq!(done.allocs, sum(|oracle| oracle.allocs) + frame);
    assert_eq!(done.deallocs, sum(|oracle| oracle.deallocs) + still_live + frame);
    assert_eq!(done.reallocs, sum(|oracle| oracle.reallocs));
    assert_eq!(live_since(before), [0; 4]);
}

fn crossing() {
    let before = stats();
    for round in 0..20 {
        let slots = [const { Mutex::<Option<Block>>::new(None) }; 64];
        raw_thread::run(1, &|_| {
            for (n, slot) in slots.iter().enumerate() {
                *slot.lock().expect("no panic") = Block::new(n * 20 + 1, 8, round);
            }
        });
        let held = live_since(before);
        assert_eq!(held[0], 64, "round {round}");
        assert_eq!(held[2], (0..64).filter(|n| n * 20 + 1 > 512).count() as u64);
        raw_thread::run(1, &|_| {
            slots.iter().for_each(|slot| *slot.lock().expect("no panic") = None);
        });
        assert_eq!(live_since(before), [0; 4], "round {round}");
    }
}

fn reallocs() {
    let before = stats();
    let mut block = Block::new(10, 8, 1).expect("memory");
    assert_eq!(live_since(before), [1, 16, 0, 0]);
    for (count, (size, live)) in
        [(16, 16), (17, 24), (512, 512), (513, 640), (600, 640), (70_000, 70_000), (30, 32)]
            .into_iter()
            .enumerate()
    {
        assert!(block.resize(size));
        let fallback = size > 512;
        let expected = [1, live, u64::from(fallback), if fallback { live } else { 0 }];
        assert_eq!(live_since(before), expected, "resized to {size}");
        let done = stats() - before;
        assert_eq!((done.allocs, done.deallocs, done.reallocs), (1, 0, count as u64 + 1));
    }
    drop(block);
    assert_eq!(live_since(before), [0; 4]);
}

fn peak() {
    let before = stats();
    assert!(before.peak_live_bytes >= before.live_bytes);
    let mut live: [Option<Block>; 64] = [const { None }; 64];
    for slot in &mut live {
        *slot = Block::new(1 << 20, 8, 1);
    }
    let high = stats();
    assert!(high.live_bytes >= before.live_bytes + (64 << 20));
    assert!(high.peak_live_bytes >= high.live_bytes, "{high}");
    live.fill_with(|| None);
    let low = stats();
    assert!(low.peak_live_bytes >= high.live_bytes, "{low}");
    // Nothing larger was ever live, but for the stated error of the reading.
    assert!(low.peak_live_bytes <= high.live_bytes + (8 << 20), "{low}");

    let mut small: Vec<Block> = Vec::with_capacity(200_000);
    for tag in 0..200_000 {
        small.push(Block::new(480, 8, tag).expect("memory"));
    }
    let high = stats();
    assert!(high.peak_live_bytes >= high.live_bytes - (1 << 20), "{high}");
    drop(small);
    assert!(stats().peak_live_bytes + (1 << 20) >= high.live_bytes);
}

fn pools() {
    let blocks: Vec<Block> = (0..40_000).map(|n| Block::new(64, 8, n).expect("memory")).collect();
    let now = stats();
    let small = now.live_bytes - now.fallback_live_bytes;
    assert!(now.mapped_bytes >= now.arenas << 20, "{now}");
    assert!(now.mapped_bytes >= small + now.free_bytes, "{now}");
    assert!(now.arenas >= 3, "40,000 blocks of 64 bytes are more than two arenas: {now}");
    // Headers and rounding are small: what is mapped is mostly live or free.
    assert!(small + now.free_bytes >= now.mapped_bytes / 100 * 94, "{now}");
    drop(blocks);
    trim();
    let then = stats();
    assert!(then.arenas < now.arenas, "{then}");
    assert!(then.mapped_bytes < now.mapped_bytes, "{then}");
    assert!(then.arenas <= 4, "{then}");
}

fn readings() {
    fn is_plain<T: Copy + Send + Sync + std::fmt::Debug + std::fmt::Display>(_: T) {}
    let before = stats();
    is_plain(before);
    let kept = Block::new(100, 8, 1);
    let after = stats();
    let (first, second) = (stats(), stats());
    let same = second - first;
    assert_eq!((same.allocs, same.deallocs, same.reallocs), (0, 0, 0));
    assert_eq!((after - before).allocs, 1);
    drop(kept);
    // A gauge that fell: no panic, whatever the build checks.
    let _ = stats() - after;
    let text = after.to_string();
    for number in [after.allocs, after.live_blocks, after.arenas] {
        let digits: String = text.chars().filter(|c| c.is_ascii_digit()).collect();
        assert!(digits.contains(&number.to_string()), "{number} is not in {text}");
    }
}

fn reading_is_free() {
    let before = stats();
    for _ in 0..1_000 {
        let now = stats();
        assert_eq!((now.allocs, now.deallocs), (before.allocs, before.deallocs));
    }
    assert_eq!(live_since(before), [0; 4]);
}

/// In threads that come one after the other, and so share caches, and side by side: each sees what
/// it did itself, also while it takes up and leaves the ways of sampling and tracing, and gives
/// back what its cache holds.
fn own_counts() {
    let work = |index: usize| {
        let mut rng = fastrand::Rng::with_seed(index as u64);
        let mut oracle = Oracle::new();
        assert_eq!(thread_stats(), alloc_global::ThreadStats::default());
        let mut allocated = 0;
        for step in 0..30_000 {
            oracle.step(&mut rng);
            match step % 997 {
                0 => start_sampling(4096),
                200 => start_tracing(),
                400 => stop_profiling(),
                600 => thread_flush(),
                // Opens and closes a scope; its own block is not the oracle's.
                800 => drop(measure(|| oracle.step(&mut rng)).expect("a measurement")),
                _ => {}
            }
            let seen = thread_stats();
            let calls = (seen.allocs, seen.deallocs, seen.reallocs);
            let probe = if step >= 800 { 1 } else { 0 };
            let counted = (oracle.allocs + probe, oracle.deallocs + probe, oracle.reallocs);
            // Whether `PoolAlloc` is installed is found out once in a process, with a block.
            let counted_before = (oracle.allocs, oracle.deallocs, oracle.reallocs);
            assert!(calls == counted || calls == counted_before, "{step}: {calls:?} {counted:?}");
            let live: u64 = oracle.sums()[1];
            assert_eq!(seen.alloc_bytes - seen.dealloc_bytes, live, "after step {step}");
            assert!(seen.alloc_bytes >= allocated);
            allocated = seen.alloc_bytes;
        }
    };
    raw_thread::run(1, &work);
    raw_thread::run(1, &work);
    raw_thread::run(4, &work);
    // One that only frees what another allocated.
    let slots = [const { Mutex::<Option<Block>>::new(None) }; 64];
    raw_thread::run(1, &|_| {
        for (n, slot) in slots.iter().enumerate() {
            *slot.lock().unwrap() = Block::alloc(Process, layout(1 + n * 40, 8), 1);
        }
        assert_eq!((thread_stats().allocs, thread_stats().deallocs), (64, 0));
    });
    raw_thread::run(1, &|_| {
        slots.iter().for_each(|slot| *slot.lock().unwrap() = None);
        assert_eq!((thread_stats().allocs, thread_stats().deallocs), (0, 64));
    });
}
