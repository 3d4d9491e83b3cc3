//! The answers about memory against blocks of our own: counters per class, the page, the heat map,
//! pins, resident memory.
//!
//! Each case fills and empties pools in a way that it can count by itself, then asks. Nothing else
//! allocates in these processes meanwhile, and one thread has nearly all of the cache, so the
//! answers must be exact where they say so. No unsafe here.

use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;

use alloc_global::report::{self, NoSymbols, Report};
use alloc_global::{
    ClassStats, DebugInfo, PoolAlloc, PoolState, class_stats, debug_page, explain_rss, heatmap,
    memory, pins, stats, thread_flush, trim,
};
use tests::block::Block;
use tests::cases::{self, Case};
use tests::{invariants, process, raw_thread};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn main() -> ExitCode {
    cases::main(&[
        Case::new("counters_per_class_are_exact", classes),
        Case::new("counters_per_class_sum_to_those_of_the_process", classes_sum),
        Case::new("the_page_sums_to_the_mapped_bytes", page),
        Case::new("reallocs_are_told_apart", reallocs),
        Case::new("requests_of_the_fallback_are_counted", fallback),
        Case::new("pools_arenas_and_threads_are_counted_now_and_at_peak", gauges),
        Case::new("the_heat_map_agrees_with_the_counters", heat),
        Case::new("the_heat_map_knows_ages", ages),
        Case::new("the_heat_map_holds_while_threads_work", heat_under_load),
        Case::new("pins_name_who_holds_nearly_empty_arenas", pinned),
        Case::new("without_a_profile_pins_name_the_threads_of_their_heap", pinned_by_threads),
        Case::new("pins_name_call_sites_where_blocks_are_traced", pinned_by_sites),
        Case::new("pins_of_reports_are_named_when_they_are_written", pinned_in_reports),
        Case::new("without_pins_that_many_bytes_return", unpinned),
        Case::new("resident_memory_is_explained_to_the_byte", rss),
        Case::new("untouched_memory_is_in_no_part", untouched),
    ])
}

fn blocks(count: u64, size: usize) -> Vec<Block> {
    (0..count).map(|tag| Block::new(size, 8, tag).expect("memory")).collect()
}

fn class(size: usize) -> ClassStats {
    class_stats()[size / 8 - 1]
}

fn classes() {
    for size in [8, 24, 264, 512] {
        let before = class(size);
        assert_eq!(before.size, size as u64);
        let mut kept = blocks(5_000, size);
        kept.truncate(1_234);
        let after = class(size);
        assert_eq!(after.allocs - before.allocs, 5_000, "{size}");
        assert_eq!(after.deallocs - before.deallocs, 5_000 - 1_234, "{size}");
        assert_eq!(after.live_blocks - before.live_blocks, 1_234, "{size}");
        assert_eq!(after.live_bytes, after.live_blocks * size as u64);
        let fit = (16_384 / size as u64).min(1_792);
        let all = after.live_blocks + after.cached_blocks + after.free_blocks;
        assert_eq!(all, after.pools * fit, "{size}: every block of a pool is somewhere");
        assert!(after.cached_blocks > 0, "{after:?}");
        thread_flush();
        assert_eq!(class(size).cached_blocks, 0);
    }
}

fn classes_sum() {
    let kept: Vec<Vec<Block>> = (1..=64).map(|class| blocks(100, class * 8)).collect();
    let all = class_stats();
    let now = stats();
    assert_eq!(all.len(), 64);
    let sum = |of: fn(&ClassStats) -> u64| all.iter().map(of).sum::<u64>();
    assert_eq!(sum(|class| class.live_blocks), now.live_blocks - now.fallback_live_blocks);
    assert_eq!(sum(|class| class.live_bytes), now.live_bytes - now.fallback_live_bytes);
    assert_eq!(sum(|class| class.pools), now.pools);
    // With the fallback's share these are the calls, and one of each for every `realloc` that moved.
    let allocs = sum(|class| class.allocs) + now.fallback_allocs;
    assert_eq!(allocs, now.allocs + now.reallocs_moved, "{now}");
    drop(kept);
}

/// The numbers of a page's lines that start with `mark`, by name.
fn lines(page: &str, mark: &str) -> Vec<(String, u64)> {
    let marked = page.lines().filter_map(|line| line.strip_prefix(mark));
    let split = marked.filter_map(|line| {
        let (name, number) = line.trim().rsplit_once(' ')?;
        Some((name.trim().to_owned(), number.parse().ok()?))
    });
    split.collect()
}

fn page() {
    let mut kept = blocks(20_000, 48);
    kept.extend(blocks(3_000, 512));
    kept.extend(blocks(10, 100_000));
    kept.truncate(21_000);
    let mapped = memory().mapped;
    let text = debug_page().to_string();
    let parts = lines(&text, "+ ");
    let (total, parts) = parts.split_last().expect("a sum");
    assert_eq!(parts.len(), 7, "{text}");
    assert_eq!(parts.iter().map(|part| part.1).sum::<u64>(), total.1, "{text}");
    assert_eq!(total.1, mapped, "{text}");
    let row = text.lines().find(|line| line.split_whitespace().nth(1) == Some("48")).expect("48");
    let numbers: Vec<u64> = row.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let now = class(48);
    let expected = [6, 48, now.pools, now.live_blocks, now.cached_blocks, now.free_blocks];
    assert_eq!(numbers, expected, "{text}");
    assert!(
        lines(&text, "# ")
            .iter()
            .any(|(name, arenas)| name == "arenas in use" && arenas << 20 == mapped)
    );
}

fn reallocs() {
    let before = stats();
    let mut block = Block::new(100, 8, 1).expect("memory");
    assert!(block.resize(104), "in place: the same class");
    assert!(block.resize(400), "moves to another class");
    assert!(block.resize(3_000), "moves to the fallback");
    assert!(block.resize(300), "and back");
    assert!(block.resize(297), "in place");
    let done = stats() - before;
    assert_eq!((done.reallocs, done.reallocs_in_place, done.reallocs_moved), (5, 2, 3), "{done}");
    assert_eq!(done.realloc_bytes_copied, 104 + 400 + 300, "{done}");
}

fn fallback() {
    let before = stats();
    let mut kept = blocks(100, 600);
    kept.extend(blocks(50, 5_000));
    kept.extend(blocks(2, 40 << 20));
    // The list itself grew on the fallback too: counted by hand it would be guessed; so compare
    // what is freed.
    let full = stats();
    assert!((full - before).fallback_allocs >= 152);
    kept.truncate(0);
    let freed = stats() - full;
    assert_eq!((freed.fallback_allocs, freed.fallback_deallocs), (0, 152));
    let now = stats();
    assert_eq!(now.fallback_allocs - now.fallback_deallocs, now.fallback_live_blocks);
}

fn gauges() {
    let before = stats();
    let kept = blocks(100_000, 64);
    let high = stats();
    assert!(high.pools >= before.pools + 100_000 * 64 / 16_384, "{high}");
    assert!(high.peak_pools >= high.pools && high.peak_arenas >= high.arenas, "{high}");
    drop(kept);
    trim();
    let low = stats();
    assert!(low.pools < high.pools && low.arenas < high.arenas, "{low}");
    assert_eq!((low.peak_pools, low.peak_arenas), (high.peak_pools, high.peak_arenas));
    let (ready, done) = (Barrier::new(5), Barrier::new(5));
    let asked = |index: usize| {
        drop(Block::new(24, 8, 1));
        ready.wait();
        if index == 4 {
            assert_eq!(stats().threads, low.threads + 5);
        }
        done.wait();
    };
    raw_thread::run(5, &asked);
    assert_eq!(stats().threads, low.threads);
    // A thread that samples has two caches.
    alloc_global::start_sampling(4096);
    drop(blocks(10_000, 40));
    assert_eq!(stats().threads, low.threads);
}

fn heat() {
    let mut kept = blocks(60_000, 48);
    kept.extend(blocks(10_000, 504));
    let mut rng = fastrand::Rng::with_seed(3);
    rng.shuffle(&mut kept);
    kept.truncate(40_000);
    trim();
    // Some of them are cached.
    kept.truncate(39_900);
    // In this order: the map's own memory comes from pools too.
    let map = heatmap();
    let (all, memory) = (class_stats(), memory());
    assert_eq!(map.arenas.len() as u64 * (1 << 20), memory.mapped);
    assert!(map.arenas.is_sorted_by_key(|arena| arena.start));
    assert!(map.arenas.iter().all(|arena| arena.start.is_multiple_of(1 << 20)));
    let pools = || map.arenas.iter().flat_map(|arena| &arena.pools);
    let bytes = |state| pools().filter(|pool| pool.state == state).count() as u64 * 16_384;
    assert_eq!(bytes(PoolState::Metadata), memory.metadata);
    assert_eq!(bytes(PoolState::Free), memory.free_pools);
    assert_eq!(bytes(PoolState::GivenBack), memory.given_back);
    for size in [48, 504] {
        let of_class = || pools().filter(|pool| pool.class_size == size);
        let class = &all[size as usize / 8 - 1];
        assert_eq!(of_class().count() as u64, class.pools);
        let live: u64 = of_class().map(|pool| u64::from(pool.live)).sum();
        let cached: u64 = of_class().map(|pool| u64::from(pool.cached)).sum();
        assert_eq!((live, cached), (class.live_blocks, class.cached_blocks), "one thread caches");
        assert!(cached > 0);
        assert!(of_class().all(|pool| pool.live <= pool.capacity && pool.owner < 4));
        assert!(of_class().all(|pool| pool.capacity == 16_384 / size));
    }
    let text = map.to_string();
    assert_eq!(text.lines().count(), map.arenas.len() + 2);
    let grid = |line: &&str| line.split_whitespace().nth(1).is_some_and(|row| row.len() == 64);
    assert_eq!(text.lines().filter(grid).count(), map.arenas.len(), "{text}");
}

fn ages() {
    let first = blocks(1_000, 504);
    std::thread::sleep(std::time::Duration::from_millis(120));
    let second = blocks(1_000, 496);
    let map = heatmap();
    let age = |size| {
        let of_class = map.arenas.iter().flat_map(|arena| &arena.pools);
        of_class.filter(|pool| pool.class_size == size).map(|pool| pool.age_ms).min().expect("one")
    };
    assert!(age(504) >= age(496) + 100, "{} {}", age(504), age(496));
    assert!(age(504) < 60_000, "{}", age(504));
    drop((first, second));
}

fn heat_under_load() {
    let work = |index: usize| {
        if index == 0 {
            for _ in 0..200 {
                let map = heatmap();
                let pools = map.arenas.iter().flat_map(|arena| &arena.pools);
                for pool in pools.filter(|pool| pool.state == PoolState::Used) {
                    assert!(pool.live <= pool.capacity && pool.class_size % 8 == 0);
                }
                let bytes = memory();
                assert!(bytes.live + bytes.cached <= bytes.mapped);
                let rss = explain_rss();
                assert_eq!(rss.parts.iter().map(|part| part.bytes).sum::<u64>(), rss.resident);
                assert!(pins().iter().all(|pin| pin.blocks > 0));
            }
        } else {
            let mut rng = fastrand::Rng::with_seed(index as u64);
            for _ in 0..60 {
                drop(blocks(3_000, rng.usize(1..600)));
            }
        }
    };
    raw_thread::run(4, &work);
    invariants().expect("invariants");
}

/// Fills many arenas with blocks of 64 bytes and keeps one in every 40,000.
fn nearly_empty() -> Vec<Block> {
    // Not in the profile, if one was asked for from outside: their site would be named in place of
    // their class.
    let mut all = alloc_global::untracked(|| blocks(400_000, 64));
    let mut index = 0;
    all.retain(|_| {
        index += 1;
        index % 40_000 == 0
    });
    thread_flush();
    trim();
    all
}

fn pinned() {
    let kept = nearly_empty();
    let pins = pins();
    assert!(pins.is_sorted_by(|a, b| a.would_return_bytes >= b.would_return_bytes));
    let found: Vec<_> = pins.iter().filter(|pin| pin.site.contains("64 bytes")).collect();
    let blocks: u64 = found.iter().map(|pin| pin.blocks).sum();
    // One arena may hold so much else that it is not nearly empty.
    assert!((9..=10).contains(&blocks), "{pins:?}");
    let bytes: u64 = found.iter().map(|pin| pin.would_return_bytes).sum();
    // Each is alone in its arena, of which the runs of 64 KiB went back: its own run, and the first
    // with the metadata.
    assert!(bytes >= 9 * (2 * 16_384), "{pins:?}");
    assert!(bytes <= 10 << 20, "{pins:?}");
    assert!(found.iter().all(|pin| pin.bytes == pin.blocks * 64 && pin.arenas > 0));
    drop(kept);
}

/// Three threads have three of the four heaps, or where a profile was asked for from outside, of
/// more, for that has caches of its own.
fn pinned_by_threads() {
    let (asked, done) = (Barrier::new(3), Barrier::new(3));
    let alone = std::env::var_os("POOLALLOC_SAMPLE").is_none();
    thread::scope(|scope| {
        let hold = || {
            let kept = nearly_empty();
            asked.wait();
            done.wait();
            drop(kept);
        };
        for name in ["holder", "other"] {
            thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, hold).expect("one");
        }
        let own = nearly_empty();
        asked.wait();
        let pins = pins();
        for name in ["holder", "other", "main"] {
            let is_of = |threads: &[String]| match alone {
                true => threads == [name],
                false => threads.iter().any(|thread| thread == name),
            };
            let of_thread = pins.iter().filter(|pin| is_of(&pin.threads));
            let blocks: u64 =
                of_thread.filter(|pin| pin.site.contains("64 bytes")).map(|pin| pin.blocks).sum();
            // What one of them freed another may have been given; arenas that hold more are not
            // nearly empty.
            assert!(blocks > 0, "{name} {pins:?}");
        }
        let shown = |pin: &alloc_global::Pin| pin.to_string().contains("holder");
        assert!(pins.iter().any(shown), "{pins:?}");
        done.wait();
        drop(own);
    });
}

#[inline(never)]
fn the_culprit() -> Box<[u64; 8]> {
    std::hint::black_box(Box::new([1; 8]))
}

/// An arena that five blocks of the culprit hold, each of them traced.
fn arena_held_by_five() -> [Box<[u64; 8]>; 5] {
    let mut all = blocks(400_000, 64);
    alloc_global::start_tracing();
    let culprits = [(); 5].map(|()| the_culprit());
    alloc_global::stop_profiling();
    all.truncate(1);
    drop(all);
    thread_flush();
    trim();
    culprits
}

fn pinned_by_sites() {
    let culprits = arena_held_by_five();
    let pins = pins();
    let named: Vec<_> = pins.iter().filter(|pin| pin.site.contains("the_culprit")).collect();
    assert_eq!(named.len(), 1, "{pins:?}");
    assert_eq!((named[0].blocks, named[0].bytes, named[0].arenas), (5, 320, 1), "{pins:?}");
    assert!(named[0].site.contains("answers.rs:"), "{}", named[0].site);
    assert!(named[0].would_return_bytes >= 16_384, "{pins:?}");
    drop(culprits);
}

/// A report has stacks, which are named when it is written, by whatever symbols there are then.
fn pinned_in_reports() {
    let culprits = arena_held_by_five();
    let report = Report::gather();
    let pins = report.pins.iter().flatten().filter(|pin| !pin.stack.is_empty());
    assert!(pins.clone().all(|pin| pin.site.starts_with("0x")), "{:?}", report.pins);
    assert!(pins.map(|pin| pin.blocks).sum::<u64>() >= 5, "{:?}", report.pins);
    assert!(!report::json(&report, &NoSymbols).contains("the_culprit"));
    let json = report::json(&report, &DebugInfo);
    let (_, pins) = json.split_once("\"pins\":[").expect("pins");
    let pins = pins.split("\"profile\"").next().expect("their end");
    assert!(pins.contains("\"site\":\"answers::the_culprit ("), "{pins}");
    // What metrics and profiles do not show is not walked.
    for light in [Report::gather_metrics(), Report::gather_profile()] {
        assert!(light.pins.is_none() && light.heatmap.is_none() && light.snapshot.is_some());
    }
    drop(culprits);
}

fn unpinned() {
    // Where a profile was asked for from outside, the first answer reads debug information, and
    // what is kept of that would settle in the arenas in question.
    drop(pins());
    let kept = nearly_empty();
    let promised: u64 = pins()
        .iter()
        .filter(|pin| pin.site.contains("64 bytes"))
        .map(|pin| pin.would_return_bytes)
        .sum();
    let resident = || {
        let now = memory();
        now.mapped - now.given_back
    };
    let before = resident();
    drop(kept);
    thread_flush();
    trim();
    let gone = before - resident();
    assert!(gone >= promised, "{promised} bytes were to return, {gone} did");
}

fn part(rss: &alloc_global::Rss, name: &str) -> u64 {
    let part = rss.parts.iter().find(|part| part.name == name);
    part.unwrap_or_else(|| panic!("no part {name} in\n{rss}")).bytes
}

fn explained() -> alloc_global::Rss {
    let rss = explain_rss();
    assert_eq!(rss.parts.iter().map(|part| part.bytes).sum::<u64>(), rss.resident, "{rss}");
    assert!(rss.parts.iter().all(|part| !part.setting.is_empty()));
    assert_eq!(rss.to_string().lines().count(), rss.parts.len() + 1);
    rss
}

fn rss() {
    let start = explained();
    // To the last block, so that all of the list is written to: what is not would be overstated.
    let mut kept = Vec::with_capacity(302_000);
    kept.extend((0..300_000).map(|tag| Block::new(128, 8, tag).expect("memory")));
    kept.extend((0..2_000).map(|tag| Block::new(10_000, 8, tag).expect("memory")));
    let full = explained();
    let (small, large) = (300_000 * 128, 2_000 * 10_000);
    let grown = |name| part(&full, name) - part(&start, name);
    assert!(grown("live").abs_diff(small) < 1 << 16, "{full}");
    let list = kept.capacity() as u64 * size_of::<Block>() as u64;
    assert!(grown("fallback live").abs_diff(large + list) < 1 << 20, "{full}");
    let system = process::resident();
    assert!(full.resident.abs_diff(system) < 1 << 20, "{system} against\n{full}");
    kept.truncate(100);
    let freed = explained();
    let free = ["cache", "free blocks", "free pools", "reserve"];
    let sum: u64 = free.iter().map(|name| part(&freed, name)).sum();
    assert!(sum >= small / 10 * 9, "freed memory is kept, and said so:\n{freed}");
    trim();
    let trimmed = explained();
    let sum: u64 = free.iter().map(|name| part(&trimmed, name)).sum();
    assert!(sum < 4 << 20, "{trimmed}");
    assert!(trimmed.resident + small / 2 < full.resident, "{trimmed}");
}

fn untouched() {
    let start = explained();
    // One block of each class: a pool each, of which one page is touched.
    let kept: Vec<Block> =
        (1..=64).map(|class| Block::new(class * 8, 8, 1).expect("memory")).collect();
    let now = explained();
    let pools: u64 = class_stats().iter().map(|class| class.pools).sum();
    let own = ["live", "cache", "free blocks", "rounding"];
    let resident: u64 = own.iter().map(|name| part(&now, name)).sum();
    assert!(resident <= pools * 16_384 / 2, "{resident} of {pools} pools are resident\n{now}");
    assert!(resident >= pools * 4_096, "{resident} of {pools} pools are resident\n{now}");
    assert!(now.resident > start.resident);
    drop(kept);
}
