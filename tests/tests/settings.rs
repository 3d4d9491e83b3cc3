//! The environment variables, and what they are for: how much free memory is kept, and for how long.
//!
//! A case that needs a setting starts itself again with it. The fallback is the ledger, which sees
//! each block that a cache holds back or hands on. Nothing here expects anything to be done by a
//! certain time: waiting has a limit, and that is all. No unsafe here.

use std::cell::Cell;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use alloc_global::{PoolAlloc, stats, thread_flush, trim};
use tests::block::{Block, Process, layout};
use tests::cases::{self, Case, run_self, with_setting};
use tests::invariants;
use tests::ledger::{Ledger, Shared};
use tests::process::resident;
use tests::raw_thread;

#[global_allocator]
static ALLOC: PoolAlloc<Shared> = PoolAlloc::with_fallback(Shared(&LEDGER));

static LEDGER: Ledger = Ledger::new();

const MIB: u64 = 1 << 20;

fn main() -> ExitCode {
    cases::main(&[
        Case::new("unknown_settings_and_bad_values_are_named_and_ignored", named),
        Case::new(RECYCLES, recycles),
        Case::new(NO_CACHE, no_cache),
        Case::new(AT_ONCE, at_once),
        Case::new(NEVER, never),
        Case::new(PURGER, purger),
        Case::new("trim_gives_back_what_a_peak_left", after_peak),
        Case::new("after_a_peak_and_an_idle_while_one_allocation_gives_it_back", idle),
        Case::new(CHURN, given_back_under_load).within(240),
    ])
}

const RECYCLES: &str = "a_freed_large_block_serves_the_next_request_of_its_size";
const NO_CACHE: &str = "without_a_cache_every_large_block_goes_straight_back";
const AT_ONCE: &str = "without_a_delay_free_arenas_go_back_at_once";
const NEVER: &str = "with_the_delay_never_free_arenas_stay_until_trim";
const CHURN: &str = "memory_that_goes_back_while_threads_work_is_zero_and_whole_again";
const PURGER: &str = "the_purger_gives_memory_back_while_the_program_is_idle";

fn named() {
    for (name, value, line) in [
        ("POOLALLOC_SPEED", "11", "unknown setting POOLALLOC_SPEED, ignored"),
        ("POOLALLOC_", "", "unknown setting POOLALLOC_, ignored"),
        ("POOLALLOC_FALLBACK_CACHE", "1x", "bad value in POOLALLOC_FALLBACK_CACHE=1x, ignored"),
        ("POOLALLOC_FALLBACK_CACHE", "-1", "bad value in POOLALLOC_FALLBACK_CACHE=-1, ignored"),
        ("POOLALLOC_PURGE_DELAY_MS", "", "bad value in POOLALLOC_PURGE_DELAY_MS=, ignored"),
        ("POOLALLOC_PURGE_DELAY_MS", "soon", "bad value in POOLALLOC_PURGE_DELAY_MS=soon, ignored"),
        ("POOLALLOC_UPDATE_BASELINE", "yes", "bad value in POOLALLOC_UPDATE_BASELINE=yes, ignored"),
        ("POOLALLOC_PURGER", "yes", "bad value in POOLALLOC_PURGER=yes, ignored"),
    ] {
        let output = run_self(&["--list"], &[(name, value)], Duration::from_secs(30));
        assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
        assert_eq!(output.stderr, format!("poolalloc: {line}\n"));
        assert_eq!(output.stdout.lines().count(), 9, "the program runs on as ever");
    }
    let long = "x".repeat(5_000);
    let output = run_self(&["--list"], &[("POOLALLOC_PURGER", &long)], Duration::from_secs(30));
    assert!(output.status.is_some_and(|status| status.success()));
    assert!(output.stderr.starts_with("poolalloc: bad value in POOLALLOC_PURGER=xxx"));
}

/// Sizes above 512 bytes, from all over the range that is worth recycling.
const SIZES: [usize; 6] = [513, 1_000, 4_096, 20_000, 100_000, 900_000];

fn recycles() {
    assert!(ALLOC.cache_fallback());
    for size in SIZES {
        drop(Block::new(size, 8, 1).expect("memory"));
        let before = LEDGER.entries();
        for round in 0..100 {
            drop(Block::new(size, 8, round).expect("memory"));
        }
        assert_eq!(LEDGER.entries(), before, "the fallback was asked again for {size} bytes");
    }
    let held = LEDGER.live_bytes();
    thread_flush();
    assert!(LEDGER.live_bytes() + 1_000_000 <= held, "a flush gives the fallback's blocks back");
    assert_eq!(LEDGER.entries().faults, 0);
}

fn no_cache() {
    with_setting(NO_CACHE, "POOLALLOC_FALLBACK_CACHE", "0", || {
        ALLOC.cache_fallback();
        for size in SIZES {
            for round in 0..10 {
                let before = LEDGER.entries();
                let block = Block::new(size, 8, round).expect("memory");
                assert_eq!(LEDGER.entries().allocs, before.allocs + 1);
                drop(block);
                assert_eq!(LEDGER.entries().deallocs, before.deallocs + 1);
            }
        }
        assert_eq!(LEDGER.entries().faults, 0);
    });
}

/// Bytes of small blocks that make a peak.
const PEAK: u64 = 96 * MIB;

/// Allocates `PEAK` bytes in blocks of pools and frees them again, then makes a few requests.
fn peak() -> u64 {
    let block = |tag| Block::new(256, 8, tag).expect("memory");
    let blocks: Vec<Block> = (0..PEAK / 256).map(block).collect();
    let high = stats().arenas;
    assert!(high >= PEAK / MIB);
    drop(blocks);
    for size in 1..=512 {
        drop(Block::new(size, 8, 1).expect("memory"));
    }
    invariants().expect("invariants");
    high
}

fn at_once() {
    with_setting(AT_ONCE, "POOLALLOC_PURGE_DELAY_MS", "0", || {
        let before = stats().arenas;
        let high = peak();
        let after = stats().arenas;
        // What may stay: the reserve, a sixteenth of the most there was.
        assert!(after <= before + high / 16 + 1, "{after} arenas after a peak of {high}");
    });
}

fn never() {
    with_setting(NEVER, "POOLALLOC_PURGE_DELAY_MS", "never", || {
        let high = peak();
        let after = stats().arenas;
        assert!(after * 10 >= high * 9, "{after} arenas after a peak of {high}");
        let given = trim() as u64;
        assert!(given * 10 >= PEAK * 9, "trim gave {given} bytes back");
        assert!(stats().arenas <= 4, "{}", stats());
    });
}

thread_local! {
    /// Every thread has room for it beside its stack: more than a small stack as a whole.
    static LARGE: Cell<[u8; 300 << 10]> = const { Cell::new([0; 300 << 10]) };
}

fn purger() {
    LARGE.with(|large| std::hint::black_box(large.as_ptr()));
    with_setting(PURGER, "POOLALLOC_PURGER", "1", || {
        // The list of blocks is a large block of its own, and goes through this thread's cache.
        assert!(ALLOC.cache_fallback());
        let before = resident();
        peak();
        let start = Instant::now();
        // Nothing below allocates: without the purger nothing would change.
        while resident() > before + PEAK / 10 {
            let waited = start.elapsed();
            assert!(waited < Duration::from_secs(60), "{} bytes resident", resident());
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

fn after_peak() {
    let before = resident();
    peak();
    trim();
    let after = resident();
    assert!(after <= before + PEAK / 20, "{before} bytes resident before, {after} after");
}

fn idle() {
    const BYTES: u64 = 4 * PEAK;
    let block = |tag| Block::new(1 + tag as usize * 37 % 512, 8, tag).expect("memory");
    let blocks: Vec<Block> = (0..BYTES / 256).map(block).collect();
    let high = resident();
    assert!(high >= BYTES);
    drop(blocks);
    let start = Instant::now();
    // Idle for so long as the reserve may be kept, and one allocation; more only on a machine that is busy.
    loop {
        std::thread::sleep(Duration::from_secs(2));
        drop(Block::new(100, 8, 1));
        if resident() <= high / 20 {
            return;
        }
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(20), "{} of {high} bytes resident", resident());
    }
}

fn given_back_under_load() {
    with_setting(CHURN, "POOLALLOC_PURGE_DELAY_MS", "0", || {
        if std::env::var_os("POOLALLOC_HUGE_PAGES").is_none() {
            // In huge pages too: what is purged is then a part of one.
            let settings = [("POOLALLOC_PURGE_DELAY_MS", "0"), ("POOLALLOC_HUGE_PAGES", "always")];
            let output = run_self(&["--case", CHURN], &settings, Duration::from_secs(100));
            assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
        }
        raw_thread::run(4, &|seed| {
            let mut rng = fastrand::Rng::with_seed(seed as u64);
            for round in 0..60 {
                // Pools of one class after another fill up and are emptied: their arenas come and go.
                let size = rng.usize(16..=512);
                let blocks: Vec<Block> = (0..4_000)
                    .map(|tag| match tag % 2 {
                        0 => Block::new(size, 8, tag),
                        _ => Block::zeroed(Process, layout(size, 8), tag),
                    })
                    .map(|block| block.expect("memory"))
                    .collect();
                if round % 8 == seed {
                    trim();
                }
                drop(blocks);
            }
        });
        invariants().expect("invariants");
        assert!(stats().peak_arenas > stats().arenas, "{}", stats());
    });
}
