//! `memory()`: every byte of the arenas is somewhere, and each part says what it should.
//!
//! The parts must sum to what is mapped at any moment, under load too; at rest they must agree with
//! `stats()`, and move as documented: a freed block is cached, then free in its pool, then its pool
//! is free, then given back. No unsafe here.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alloc_global::{Memory, PoolAlloc, memory, stats, thread_flush, trim};
use tests::block::Block;
use tests::cases::{self, Case, with_setting};
use tests::process::resident;
use tests::{invariants, raw_thread};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

const BUSY: &str = "what_was_freed_to_the_fallback_goes_back_though_more_is_freed";

fn main() -> ExitCode {
    cases::main(&[
        Case::new("the_parts_agree_with_the_counters_at_rest", at_rest),
        Case::new("a_block_goes_from_live_to_cached_to_free_to_given_back", stages),
        Case::new("the_parts_sum_to_what_is_mapped_while_threads_work", under_load),
        Case::new("large_blocks_are_cached_and_counted_and_flushed", large),
        Case::new("what_was_freed_to_the_fallback_goes_back_after_a_rest", fallback_rest),
        Case::new(BUSY, fallback_busy),
        Case::new("memory_of_blocks_above_a_megabyte_serves_other_sizes", other_sizes),
        Case::new("what_a_thread_may_cache_unseen_is_due_to_go_back", unseen).within(240),
        Case::new("trim_flushes_the_large_blocks_of_idle_threads", idle_threads),
        Case::new("allocations_of_threads_without_a_cache_are_counted_and_rare", orphans),
        Case::new("threads_without_a_cache_leave_the_peak_as_it_was", orphan_frees),
        Case::new("classes_that_rest_leave_their_pools_to_others", phases),
        Case::new("classes_that_rest_leave_their_pools_to_the_system", resting),
        Case::new("what_lies_untouched_is_swept_whatever_else_a_thread_does", swept),
        Case::new("a_block_that_outgrows_the_largest_class_is_not_copied", not_copied),
        Case::new("the_report_names_every_part", report),
    ])
}

/// A reading whose parts sum up.
fn reading() -> Memory {
    let now = memory();
    let parts = now.live + now.cached + now.free_blocks + now.free_pools;
    let sum = parts + now.given_back + now.metadata + now.rounding;
    assert_eq!(sum, now.mapped, "{now}");
    now
}

fn blocks(count: u64, size: usize) -> Vec<Block> {
    (0..count).map(|tag| Block::new(size, 8, tag).expect("memory")).collect()
}

/// glibc is taught to trim at 64 MiB only (`fallback`), so less than that goes back by our call or
/// not at all.
fn fallback_rest() {
    let before = resident();
    let live = blocks(768, 64 << 10);
    live.iter().for_each(Block::verify);
    let peak = resident() - before;
    assert!(peak >= 47 << 20, "{peak} bytes of 48 MiB are resident");
    drop(live);
    assert!(resident() - before > peak / 2, "kept for a while");
    thread::sleep(Duration::from_millis(700));
    drop(blocks(1, 64));
    let left = resident().saturating_sub(before);
    assert!(left <= peak / 10, "{left} of {peak} bytes are still resident\n{}", memory());
}

/// As many as glibc would not find out about by itself, with a block behind them that stays.
fn fallback_busy() {
    with_setting(BUSY, "POOLALLOC_PURGE_DELAY_MS", "20", || {
        // From the first free on glibc has them in its heap.
        drop(blocks(1, 3 << 19));
        let mut live = blocks(48, 3 << 19);
        let before = resident();
        live.drain(..47);
        let begin = Instant::now();
        while resident() + (60 << 20) > before {
            assert!(begin.elapsed() < Duration::from_secs(60), "still resident\n{}", memory());
            drop(blocks(1, 5 << 18));
            thread::sleep(Duration::from_millis(2));
        }
    });
}

fn other_sizes() {
    let gone = |count, size| {
        drop(blocks(count, size));
        assert!(memory().fallback_cached < 64 << 10, "{}", memory());
    };
    // What was mapped by itself before the first free is held until a large block is asked for.
    drop(blocks(1, 3 << 19));
    // A peak that would license a large cache.
    gone(8, 3 << 20);
    trim();
    let before = resident();
    (3..16).for_each(|half| gone(1, half << 19));
    let more = resident().saturating_sub(before);
    assert!(more <= 10 << 20, "{more} bytes more are resident, of blocks of up to 8 MiB");
}

/// What a thread caches of a class that it no longer uses lies all over that class's pools.
fn phases() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut phase = |size: usize| {
        let mut live = blocks(((8 << 20) / size) as u64, size);
        let mapped = reading().mapped;
        rng.shuffle(&mut live);
        drop(live);
        invariants().expect("invariants");
        mapped
    };
    let first = phase(32);
    for size in [48, 64, 80, 128, 256, 512, 16, 32] {
        let mapped = phase(size);
        let more = mapped.saturating_sub(first);
        assert!(more <= 4 << 20, "{size}: {mapped} bytes instead of {first}\n{}", memory());
    }
}

fn at_rest() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut live: Vec<Block> = Vec::with_capacity(2_000);
    for step in 0..20_000 {
        if live.len() == 2_000 || rng.u32(0..3) == 0 && !live.is_empty() {
            live.swap_remove(rng.usize(..live.len()));
        } else {
            let size = if rng.u32(0..9) == 0 { rng.usize(513..40_000) } else { rng.usize(1..512) };
            live.push(Block::new(size, 8, step).expect("memory"));
        }
        if step % 100 == 0 {
            let (memory, stats) = (reading(), stats());
            assert_eq!(
                memory.live,
                stats.live_bytes - stats.fallback_live_bytes,
                "{memory}{stats}"
            );
            assert_eq!(memory.mapped, stats.mapped_bytes);
            assert_eq!(memory.mapped - memory.live, stats.free_bytes);
            assert_eq!(memory.fallback_live, stats.fallback_live_bytes);
            assert_eq!(memory.fallback_cached, stats.fallback_cached_bytes);
        }
    }
    invariants().expect("invariants");
}

fn stages() {
    const BYTES: u64 = 20_000 * 256;
    trim();
    let start = reading();
    let blocks = blocks(20_000, 256);
    let full = reading();
    assert_eq!(full.live - start.live, BYTES);
    drop(blocks);
    let freed = reading();
    assert_eq!(freed.live, start.live);
    assert!(freed.cached > 0 && freed.cached <= 64 * (16 << 10), "{freed}");
    thread_flush();
    let flushed = reading();
    assert_eq!(flushed.cached, 0, "{flushed}");
    assert!(flushed.free_pools > 0, "{flushed}");
    assert!(flushed.due_in_ms.is_some(), "{flushed}");
    trim();
    let trimmed = reading();
    // What live blocks pin is less than a run of pools for each of them.
    assert!(trimmed.free_pools <= 8 * (64 << 10), "{trimmed}");
    assert!(trimmed.mapped < full.mapped, "{trimmed}");
}

fn under_load() {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut readings = 0;
            // Ordering: only the flag is read.
            while !done.load(Ordering::Relaxed) || readings == 0 {
                reading();
                readings += 1;
                thread::yield_now();
            }
            readings
        });
        raw_thread::run(6, &|seed| {
            let mut rng = fastrand::Rng::with_seed(seed as u64);
            let mut live: Vec<Block> = Vec::new();
            for _ in 0..60_000 {
                if live.len() > 400 {
                    live.truncate(rng.usize(..300));
                }
                let size = if rng.u32(0..16) == 0 { 5_000 } else { 512 };
                live.push(Block::new(rng.usize(1..=size), 8, 1).expect("memory"));
            }
        });
        // Ordering: the threads were joined.
        done.store(true, Ordering::Relaxed);
        assert!(watcher.join().expect("the parts summed up") > 0);
    });
    invariants().expect("invariants");
}

/// How much a thread may cache follows from what it did before; after this it did enough.
const WARM: usize = 300;

fn large() {
    for _ in 0..WARM {
        drop(Block::new(100_000, 8, 1));
    }
    thread_flush();
    assert_eq!(reading().fallback_cached, 0);
    let block = Block::new(100_000, 8, 1).expect("memory");
    let live = reading().fallback_live;
    drop(block);
    let freed = reading();
    assert_eq!(freed.fallback_live + 100_000, live);
    // A class is at most a quarter larger than the request.
    assert!((100_000..=125_000).contains(&freed.fallback_cached), "{freed}");
    thread_flush();
    assert_eq!(reading().fallback_cached, 0);
}

/// Frees that find room ask nobody; still somebody must see that there is something to give back.
fn unseen() {
    drop(Block::new(1 << 20, 8, 1));
    let freed = reading();
    assert!(freed.fallback_cached >= 1 << 20 && freed.due_in_ms.is_some(), "one\n{freed}");
    let held = blocks(50, 1 << 20);
    drop(held);
    let held = blocks(50, 1 << 20);
    // In use for longer than the delay, so that nothing waits any more.
    let begin = Instant::now();
    while reading().due_in_ms.is_some() {
        drop(blocks(200, 64));
        thread::sleep(Duration::from_millis(10));
        assert!(begin.elapsed() < Duration::from_secs(60), "{}", reading());
    }
    drop(held);
    let freed = reading();
    assert!(freed.fallback_cached >= 40 << 20 && freed.due_in_ms.is_some(), "many\n{freed}");
}

fn idle_threads() {
    let gate = std::sync::Barrier::new(5);
    let work = || (0..WARM).for_each(|_| drop(blocks(5, 40_000)));
    let (kept, left) = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                work();
                gate.wait();
                // Idle, with its cache.
                gate.wait();
                // The cache works on.
                work();
            });
        }
        gate.wait();
        let kept = reading().fallback_cached;
        trim();
        let left = reading().fallback_cached;
        gate.wait();
        (kept, left)
    });
    assert!(kept >= 4 * 40_000, "{kept} bytes are cached: nothing to flush");
    assert_eq!(left, 0, "idle threads keep their large blocks");
    invariants().expect("invariants");
}

/// Allocates in a destructor that runs after the thread's cache is gone.
extern "C" fn late(rounds: *mut std::ffi::c_void) {
    drop(blocks(10, 100));
    if rounds.addr() > 1 {
        KEY.get().expect("made below").set(rounds.addr() - 1);
    }
}

static KEY: std::sync::OnceLock<raw_thread::Key> = std::sync::OnceLock::new();

fn orphans() {
    let before = stats();
    raw_thread::run(64, &|_| drop(blocks(1_000, 100)));
    assert_eq!(
        stats().orphan_allocs,
        before.orphan_allocs,
        "threads of the usual kind have a cache"
    );
    let key = *KEY.get_or_init(|| raw_thread::Key::new(late));
    raw_thread::run(64, &|_| {
        drop(blocks(10, 100));
        key.set(raw_thread::ROUNDS);
    });
    let after = stats();
    // 10 blocks and, growing, their list, in each of four rounds; the cache may serve the first ones.
    let orphans = after.orphan_allocs - before.orphan_allocs;
    assert!((64..=64 * 4 * 16).contains(&orphans), "{orphans} blocks without a cache");
    assert_eq!(after.live_blocks, before.live_blocks);
}

/// Blocks of threads that ended, on their way to being freed by threads without a cache.
static LEFT: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// In the last round, when the thread's cache is gone, frees what it allocated before.
extern "C" fn free_late(rounds: *mut std::ffi::c_void) {
    if rounds.addr() > 1 {
        return LATE.get().expect("made below").set(rounds.addr() - 1);
    }
    let mut left = LEFT.lock().expect("nobody panics");
    left.clear();
}

static LATE: std::sync::OnceLock<raw_thread::Key> = std::sync::OnceLock::new();

fn orphan_frees() {
    let key = *LATE.get_or_init(|| raw_thread::Key::new(free_late));
    let work = |_| {
        LEFT.lock().expect("nobody panics").extend(blocks(500, 600));
        key.set(raw_thread::ROUNDS);
    };
    raw_thread::run(1, &work);
    let before = stats().peak_live_bytes;
    for _ in 0..100 {
        raw_thread::run(1, &work);
    }
    // Each round has 300 kB live at most; 100 of them counted in and not out would be 30 MB.
    let grown = stats().peak_live_bytes - before;
    assert!(grown < 2 << 20, "the peak grew by {grown} bytes");
}

fn swept() {
    (0..WARM).for_each(|_| drop(blocks(5, 40_000)));
    let kept = reading().fallback_cached;
    assert!(kept >= 5 * 40_000, "{kept} bytes are cached: nothing to sweep");
    let start = Instant::now();
    // Requests that no cache serves, so every look at the clock happens on their way.
    while reading().fallback_cached > kept / 4 {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", reading());
        take_slow_paths();
    }
}

/// None of which needs a pool or a span.
fn take_slow_paths() {
    for _ in 0..64 {
        drop(std::hint::black_box(Vec::<u8>::with_capacity(33 << 20)));
    }
}

fn resting() {
    let mut live = blocks((8 << 20) / 32, 32);
    fastrand::Rng::with_seed(1).shuffle(&mut live);
    drop(live);
    let pinned = reading().free_blocks;
    assert!(pinned > 1 << 20, "{pinned} bytes are pinned: nothing to see");
    let start = Instant::now();
    while reading().free_blocks > pinned / 4 {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", reading());
        take_slow_paths();
    }
}

fn not_copied() {
    let mut bytes = Vec::<u8>::with_capacity(20 << 20);
    bytes.extend([1, 2, 3]);
    let before = stats().realloc_bytes_copied;
    bytes.reserve_exact(40 << 20);
    bytes.shrink_to(10 << 20);
    assert_eq!((&bytes[..], bytes.capacity()), (&[1, 2, 3][..], 10 << 20));
    assert_eq!(stats().realloc_bytes_copied, before);
}

fn report() {
    drop(blocks(100, 1_000));
    let (now, text) = (reading(), reading().to_string());
    for bytes in [now.mapped, now.live, now.cached, now.metadata, now.fallback_cached] {
        assert!(text.contains(&bytes.to_string()), "{bytes} is not in\n{text}");
    }
}
