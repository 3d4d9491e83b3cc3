//! The profile against what each case did: samples within their error, traces exactly.
//!
//! A case counts its own blocks in regions that it names, so that the sites of the standard library and of other cases stay out of
//! its sums. Samples are drawn from a seed, in processes whose threads begin one after another: a case that
//! passes once passes again. Blocks in a thread's cache count as live where blocks are sampled, so each thread is joined
//! (a scope alone waits for its closure only, not for what follows it) or flushed before a case asks what is left.
//! No unsafe here.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use alloc_global::{
    PoolAlloc, Region, Site, Snapshot, start_sampling, start_tracing, stats, stop_profiling,
    thread_flush, untracked,
};
use tests::block::Block;
use tests::cases::{self, Case, run_self};
use tests::invariants;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn main() -> ExitCode {
    cases::main(&[
        Case::new(SAMPLED, sampled).within(240),
        Case::new("sampling_begun_at_run_time_is_unbiased_too", sampled_later).within(240),
        Case::new("flushing_between_samples_does_not_bias_them", flushed),
        Case::new("changes_of_the_rate_do_not_bias_samples", changed),
        Case::new("changes_by_another_thread_do_not_bias_samples_either", changed_by_others),
        Case::new("traces_count_each_block_of_a_region_and_thread", traced),
        Case::new("a_thread_on_its_fast_paths_follows_a_switch_when_it_flushes", followed),
        Case::new("traces_follow_realloc", reallocated),
        Case::new("traces_tell_temporary_blocks_and_lifetimes", temporary),
        Case::new("untracked_blocks_are_in_no_site", left_out),
        Case::new("after_stop_nothing_is_new_and_frees_are_seen", stopped),
        Case::new("switching_while_threads_work_loses_nothing", switched).within(240),
    ])
}

const SAMPLED: &str = "samples_agree_with_exact_counts_and_all_records_end";

/// Mean bytes between two samples, where not said otherwise.
const RATE: u64 = 16 << 10;

const SIZES: [usize; 10] = [8, 24, 64, 200, 512, 640, 1_024, 3_000, 20_000, 65_536];

/// Sums over the sites that a test chose.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    allocs: f64,
    alloc_bytes: f64,
    live: f64,
    live_bytes: f64,
    requested: f64,
    temporary: f64,
    ended: f64,
    live_samples: u64,
}

fn sums(snapshot: &Snapshot, wanted: impl Fn(&Site) -> bool) -> Sums {
    let mut sums = Sums::default();
    for site in snapshot.sites.iter().filter(|site| wanted(site)) {
        sums.allocs += site.allocs;
        sums.alloc_bytes += site.alloc_bytes;
        sums.live += site.live;
        sums.live_bytes += site.live_bytes;
        sums.requested += site.live_requested_bytes;
        sums.temporary += site.temporary;
        sums.ended += site.lifetimes.counts.iter().sum::<f64>();
        sums.live_samples += site.live_samples;
    }
    sums
}

fn of_region(name: &str) -> Sums {
    sums(&Snapshot::take(), |site| site.region == name)
}

/// Bytes that a block of these takes: four classes for each doubling above 512 bytes.
fn taken(size: usize) -> usize {
    match size {
        ..=512 => size.next_multiple_of(8),
        _ => size.next_multiple_of(1 << ((size - 1).ilog2() - 2)),
    }
}

/// Asserts that an estimate of `count` blocks of `size` bytes lies within four standard errors.
fn within(found: &Sums, count: u64, size: usize, rate: u64) {
    // A sample is chosen by the bytes of its class, above 4 KiB by those of its layout; so are bytes of call sites.
    let (count, size) = (count as f64, if size > 4_096 { size } else { taken(size) } as f64);
    let chance = 1.0 - (-size / rate as f64).exp();
    // Each block is a sample or not, and one that is stands for 1 / chance.
    let error = (count * (1.0 - chance) / chance).sqrt();
    let off = (found.allocs - count).abs();
    assert!(off <= 4.0 * error + 0.01 * count, "{size}: {} for {count} +- {error}", found.allocs);
    let off = (found.alloc_bytes - count * size).abs();
    assert!(off <= (4.0 * error + 0.01 * count) * size, "{size}: {found:?} for {count}");
}

/// Blocks of each size for each thread and round.
fn per_round(size: usize) -> u64 {
    (60_000 / size as u64).clamp(2, 600)
}

const THREADS: usize = 4;
const ROUNDS: u64 = 40;

fn name(size: usize) -> String {
    format!("size {size}")
}

/// What one thread does: blocks of all sizes in regions, the newest freed here, others by the next thread or by the
/// first one after this has ended.
fn work(index: usize, shelves: &[Mutex<Vec<Block>>], kept: &Mutex<Vec<Block>>) {
    let mut rng = fastrand::Rng::with_seed(index as u64);
    let names = SIZES.map(name);
    let mut fresh: Vec<Block> = Vec::with_capacity(1_000);
    for round in 0..ROUNDS {
        for (size, name) in SIZES.iter().zip(&names) {
            let region = Region::enter(name);
            fresh.extend((0..per_round(*size)).map(|tag| Block::new(*size, 8, tag).expect("one")));
            drop(region);
            let mut next = shelves[(index + 1) % THREADS].lock().expect("no panic");
            next.extend(fresh.drain(..fresh.len() / 2));
            drop(next);
            if round % 16 == 0 {
                kept.lock().expect("no panic").extend(fresh.pop());
            }
            fresh.clear();
        }
        let mine = std::mem::take(&mut *shelves[index].lock().expect("no panic"));
        let mut mine = mine;
        let _region = Region::enter("size moved");
        for block in mine.iter_mut().step_by(7) {
            assert!(block.resize(rng.usize(1..=2_000)), "memory");
        }
        if round % 10 == 0 {
            invariants().expect("invariants");
        }
    }
}

/// All threads' work, begun one after another. Returns how many blocks are alive in the middle, by the counters.
fn exchange() -> u64 {
    let shelves: Vec<Mutex<Vec<Block>>> = (0..THREADS).map(|_| Mutex::default()).collect();
    let kept = Mutex::new(Vec::new());
    let (barrier, (begun, begins)) = (Barrier::new(THREADS), mpsc::channel());
    thread_flush();
    let before = stats().live_blocks;
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for index in 0..THREADS {
            let (shelves, kept, barrier, begun) = (&shelves, &kept, &barrier, begun.clone());
            threads.push(scope.spawn(move || {
                drop(std::hint::black_box(Box::new(index)));
                begun.send(()).expect("the first thread waits");
                barrier.wait();
                work(index, shelves, kept);
            }));
            begins.recv().expect("it begins");
        }
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
    let mut count = 0;
    for shelf in shelves {
        count += shelf.into_inner().expect("no panic").drain(..).inspect(Block::verify).count();
    }
    let kept = kept.into_inner().expect("no panic");
    kept.iter().for_each(Block::verify);
    let alive = stats().live_blocks - before;
    // The vector that holds them, and what the channel keeps.
    assert!((kept.len() as u64..kept.len() as u64 + 8).contains(&alive), "{alive} {count}");
    let exact = kept.len() as u64;
    drop(kept);
    drop((begun, begins));
    thread_flush();
    assert!(stats().live_blocks <= before + 4, "{before} {}", stats().live_blocks);
    exact
}

fn verify_exchange() {
    let exact = exchange();
    assert_eq!(exact, (THREADS * SIZES.len()) as u64 * ROUNDS.div_ceil(16));
    invariants().expect("invariants");
    let snapshot = Snapshot::take();
    assert_eq!(snapshot.rate, RATE);
    for size in SIZES {
        let count = THREADS as u64 * ROUNDS * per_round(size);
        within(&sums(&snapshot, |site| site.region == name(size)), count, size, RATE);
    }
    let left = sums(&snapshot, |site| site.region.starts_with("size"));
    assert_eq!((left.live, left.live_bytes, left.requested, left.live_samples), (0., 0., 0., 0));
    // The records of samples may end in weights of fractions: sums of them, not of whole blocks.
    assert!((left.allocs - left.ended).abs() < 1e-6 * left.allocs, "{left:?}");
    assert_eq!((snapshot.dropped.blocks, snapshot.dropped.stacks), (0, 0));
}

/// Runs this binary's case again with settings, once.
fn with(case: &str, envs: &[(&str, &str)], body: fn()) {
    if std::env::var("PROFILE_CASE").is_ok() {
        return body();
    }
    let envs: Vec<_> = envs.iter().copied().chain([("PROFILE_CASE", "1")]).collect();
    let output = run_self(&["--case", case], &envs, Duration::from_secs(200));
    assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
    assert_eq!(output.stderr, "");
}

fn sampled() {
    let envs = [("POOLALLOC_SAMPLE", "16k"), ("POOLALLOC_SEED", "7"), ("POOLALLOC_TRACE", "0")];
    with(SAMPLED, &envs, verify_exchange);
}

fn sampled_later() {
    start_sampling(RATE);
    verify_exchange();
}

/// Blocks of 64 bytes and of 1,000, which are the fallback's, by pairs, with `between` called after each pair; their estimates must
/// be right.
fn pairs(rate: u64, count: u64, mut between: impl FnMut(u64)) {
    for (size, name, count) in [(64, "small", count), (1_000, "mid", count / 8)] {
        // A cache that holds many lets the drain hold many.
        drop(blocks(100, size));
        let region = Region::enter(name);
        for tag in 0..count / 2 {
            drop([Block::new(size, 8, tag), Block::new(size, 8, tag)]);
            between(tag);
        }
        drop(region);
        within(&of_region(name), count, size, rate);
    }
}

fn flushed() {
    start_sampling(RATE);
    pairs(RATE, 400_000, |_| thread_flush());
}

fn changed() {
    // Some three samples between two changes.
    start_sampling(2_048);
    pairs(4_096, 400_000, |tag| {
        if tag % 64 == 0 {
            start_sampling(if tag % 128 == 0 { 4_096 } else { 2_048 });
        }
    });
}

fn changed_by_others() {
    start_sampling(2_048);
    let (barrier, done) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            for rate in [4_096, 2_048].into_iter().cycle() {
                barrier.wait();
                // Ordering: the barrier's.
                if done.load(Ordering::Relaxed) {
                    return;
                }
                start_sampling(rate);
                barrier.wait();
            }
        });
        // The rate that makes for the greatest error; some two samples between two changes.
        pairs(4_096, 200_000, |tag| {
            if tag % 48 == 0 {
                barrier.wait();
                barrier.wait();
            }
        });
        // Ordering: the barrier's.
        done.store(true, Ordering::Relaxed);
        barrier.wait();
        other.join().expect("no panic");
    });
}

fn blocks(count: u64, size: usize) -> Vec<Block> {
    let mut all = Vec::with_capacity(count as usize);
    all.extend((0..count).map(|tag| Block::new(size, 8, tag).expect("memory")));
    all
}

fn traced() {
    start_tracing();
    let body = || {
        let mut mine = untracked(|| Vec::with_capacity(1_000));
        let outer = Region::enter("outer");
        mine.extend((0..100).map(|tag| Block::new(37, 1, tag).expect("memory")));
        {
            let _inner = Region::enter("inner");
            mine.extend((0..50).map(|tag| Block::new(600, 8, tag).expect("memory")));
            mine.extend((0..5).map(|tag| Block::new(100_000, 8, tag).expect("memory")));
        }
        mine.extend((0..10).map(|tag| Block::new(512, 8, tag).expect("memory")));
        drop(outer);
        mine
    };
    let threads: Vec<_> = (0..3)
        .map(|n| thread::Builder::new().name(format!("worker {n}")).spawn(body).expect("a thread"))
        .collect();
    let mut all: Vec<Vec<Block>> =
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
    // Freed by another thread than allocated them.
    all[1].drain(..30);
    all[2].clear();
    let snapshot = Snapshot::take();
    assert_eq!((snapshot.rate, snapshot.dropped.blocks), (1, 0));
    for (n, live) in [100., 70., 0.].into_iter().enumerate() {
        let of = |region: &str| {
            let thread = format!("worker {n}");
            sums(&snapshot, |site| site.region == region && site.thread == thread)
        };
        let (outer, inner) = (of("outer"), of("inner"));
        let rest = if n < 2 { 1. } else { 0. };
        assert_eq!((outer.allocs, outer.alloc_bytes), (110., 100. * 40. + 10. * 512.), "{n}");
        assert_eq!((outer.live, outer.live_bytes), (live + rest * 10., live * 40. + rest * 5_120.));
        assert_eq!(outer.requested, live * 37. + rest * 5_120.);
        let large = 5. * 100_000.;
        assert_eq!((inner.allocs, inner.alloc_bytes), (55., 50. * 640. + large));
        assert_eq!((inner.live, inner.requested), (rest * 55., rest * (30_000. + 500_000.)));
        assert_eq!(outer.allocs - outer.live, outer.ended);
    }
    drop(all);
    let left = sums(&Snapshot::take(), |site| ["outer", "inner"].contains(&&*site.region));
    assert_eq!((left.live, left.live_samples, left.allocs), (0., 0, 3. * 165.));
    invariants().expect("invariants");
}

fn reallocated() {
    start_tracing();
    // Each move is a free and an allocation in the region where it happens; what stays is neither.
    for (from, to, news) in [
        (37, 40, 0.),
        (40, 100, 1.),
        (600, 630, 0.),
        (100, 700, 1.),
        (700, 100, 1.),
        (5_000, 5_050, 0.),
        (3_000, 50_000, 1.),
        (50_000, 2_000, 1.),
        (2_000_000, 4_000_000, 1.),
    ] {
        let born = format!("born {from} {to}");
        let moved = format!("moved {from} {to}");
        let mut all = {
            let mut all = untracked(|| Vec::with_capacity(20));
            let _region = Region::enter(&born);
            all.extend((0..20).map(|tag| Block::new(from, 8, tag).expect("memory")));
            all
        };
        let region = Region::enter(&moved);
        for block in &mut all {
            assert!(block.resize(to), "memory");
        }
        drop(region);
        let (old, new) = (of_region(&born), of_region(&moved));
        assert_eq!((old.allocs, old.live), (20., 20. * (1. - news)), "{born}");
        assert_eq!((new.allocs, new.live), (20. * news, 20. * news), "{moved}");
        // Up to 4 KiB the bytes of the block, above it those of the layout, as in the counters.
        let bytes = if to > 4_096 { to } else { taken(to) } as f64;
        assert_eq!(new.live_bytes, 20. * news * bytes, "{moved}");
        if to > 4_096 {
            assert_eq!(old.live_bytes, 20. * (1. - news) * bytes, "{born}");
        }
        all.iter().for_each(Block::verify);
        drop(all);
        assert_eq!((of_region(&born).live, of_region(&moved).live), (0., 0.), "{born}");
    }
    invariants().expect("invariants");
}

fn temporary() {
    start_tracing();
    let mut pair: [Option<Block>; 2] = [None, None];
    {
        let _region = Region::enter("brief");
        for tag in 0..10 {
            drop(Block::new(48, 8, tag));
            drop(Block::new(9_000, 8, tag));
        }
    }
    {
        let _region = Region::enter("longer");
        for tag in 0..10 {
            pair[0] = Block::new(48, 8, tag);
            pair[1] = Block::new(48, 8, tag);
            pair[0] = None;
            pair[1] = None;
        }
    }
    let aged = {
        let _region = Region::enter("aged");
        Block::new(48, 8, 1)
    };
    thread::sleep(Duration::from_millis(80));
    drop(aged);
    let snapshot = Snapshot::take();
    let of = |name: &str| sums(&snapshot, |site| site.region == name);
    let (brief, longer) = (of("brief"), of("longer"));
    assert_eq!((brief.allocs, brief.temporary, brief.live), (20., 20., 0.));
    // The second of each pair is the last that was allocated before its end.
    assert_eq!((longer.allocs, longer.temporary, longer.live), (20., 10., 0.));
    let aged = snapshot.sites.iter().find(|site| site.region == "aged").expect("a site");
    // 80 ms by a clock of a few milliseconds: at least 65,536 us.
    assert_eq!(aged.lifetimes.counts[16..].iter().sum::<f64>(), 1.);
    assert_eq!(aged.lifetimes.counts[..16].iter().sum::<f64>(), 0.);
}

fn left_out() {
    start_tracing();
    let region = Region::enter("out");
    let hidden = untracked(|| blocks(100, 64));
    let nested = untracked(|| untracked(|| blocks(10, 2_000)));
    let caught = std::panic::catch_unwind(|| untracked(|| std::panic::resume_unwind(Box::new(0))));
    assert!(caught.is_err());
    assert_eq!(of_region("out").live, 0.);
    let seen = blocks(5, 64);
    drop(region);
    // The vector is in the region too.
    assert_eq!((of_region("out").live, seen.len()), (6., 5));
    // A block of the profile that is freed where nothing is recorded is free all the same.
    untracked(|| drop(seen));
    assert_eq!(of_region("out").live, 0.);
    drop((hidden, nested));
}

fn stopped() {
    start_tracing();
    let region = Region::enter("before");
    let mut small = blocks(1_000, 72);
    let mut large = blocks(1_000, 2_000);
    drop(region);
    stop_profiling();
    let region = Region::enter("after");
    let unseen = blocks(500, 72);
    drop(region);
    small.truncate(600);
    large.truncate(500);
    thread_flush();
    assert_eq!(of_region("before").live, 600. + 500. + 2.);
    // In another thread, which never recorded anything itself.
    thread::scope(|scope| drop(scope.spawn(move || drop((small, large))).join()));
    assert_eq!(of_region("before").live, 0.);
    assert_eq!(of_region("after").allocs, 0.);
    let other = thread::spawn(|| blocks(100, 72)).join().expect("no panic");
    drop((unseen, other));
    start_tracing();
    let region = Region::enter("again");
    let again = blocks(10, 72);
    drop(region);
    assert_eq!((of_region("again").live, of_region("before").live), (11., 0.));
    drop(again);
    invariants().expect("invariants");
}

fn switched() {
    let (done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let shelf = Mutex::new(Vec::new());
    let churn = |seed: u64| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut live: Vec<Block> = Vec::with_capacity(1_001);
        // Ordering: only the flag is read.
        while !done.load(Ordering::Relaxed) {
            let region = Region::enter("churn");
            for _ in 0..200 {
                let size =
                    if rng.u32(0..16) == 0 { rng.usize(513..9_000) } else { rng.usize(1..=512) };
                live.push(Block::new(size, 8, rng.u64(..)).expect("memory"));
                if rng.bool() {
                    let at = rng.usize(..live.len());
                    assert!(live[at].resize(rng.usize(1..2_000)), "memory");
                }
            }
            drop(region);
            while live.len() > 500 {
                let block = live.swap_remove(rng.usize(..live.len()));
                if rng.bool() {
                    shelf.lock().expect("no panic").push(block);
                }
            }
            let mut theirs = shelf.lock().expect("no panic");
            let many = theirs.len() / 2;
            let some: Vec<Block> = theirs.drain(..many).collect();
            drop(theirs);
            drop(some);
            // Ordering: a count.
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let churn = &churn;
        let threads: Vec<_> = (0..3).map(|seed| scope.spawn(move || churn(seed))).collect();
        for turn in 0..300u64 {
            match turn % 6 {
                0 => start_sampling(1_024),
                1 => start_tracing(),
                2 | 5 => stop_profiling(),
                3 => start_sampling(100_000),
                _ => start_sampling(1),
            }
            let before = rounds.load(Ordering::Relaxed);
            while rounds.load(Ordering::Relaxed) < before + 4 {
                thread::yield_now();
            }
            if turn % 20 == 0 {
                invariants().expect("invariants");
                assert!(Snapshot::take().sites.iter().all(|site| site.live >= 0.));
            }
        }
        // Ordering: only the flag is read.
        done.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
    drop(shelf);
    thread_flush();
    invariants().expect("invariants");
    let left = of_region("churn");
    assert!(left.allocs > 10_000., "{left:?}");
    assert_eq!((left.live, left.live_samples), (0., 0), "{left:?}");
}

/// A thread that takes and frees one block in turn comes to no slow path; `thread_flush` takes it there.
fn followed() {
    let barrier = std::sync::Barrier::new(2);
    let pairs = |region: &str| {
        let _region = Region::enter(region);
        (0..100).for_each(|tag| drop(Block::new(48, 8, tag).expect("memory")));
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            pairs("before");
            barrier.wait();
            // Another thread switches here.
            barrier.wait();
            alloc_global::thread_flush();
            pairs("after");
        });
        barrier.wait();
        start_tracing();
        barrier.wait();
    });
    let snapshot = Snapshot::take();
    let of = |region: &str| sums(&snapshot, |site| site.region == region).allocs;
    assert_eq!((of("before"), of("after")), (0., 100.));
}
