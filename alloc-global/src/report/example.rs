//! A made-up report with every part filled, and made-up symbols for it: for examples, for tests of
//! formats, and for whoever writes a reader.
//!
//! It agrees with itself as a real one does: parts sum to what they are parts of, estimates are
//! near the exact counters. Nothing in it was measured. It is the same on every call.
//!
//! No unsafe here.

use super::frame::Frame;
use super::model::*;
use crate::{
    ArenaMap, BetterClass, ClassStats, Dropped, HeatMap, Lifetimes, Memory, Module, Peak, Pin,
    PoolMap, PoolState, Rounding, RoundingSite, Rss, RssPart, Site, Snapshot, Stats,
};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const POOL: u64 = 16 << 10;
const ARENAS: u64 = 12;
const MIB: u64 = 1 << 20;
const FALLBACK_LIVE: u64 = 9 * MIB + 12_345;
const FALLBACK_CACHED: u64 = MIB + 4_096;

/// Functions by address: module offset, then inlined calls, the innermost first, as
/// `(function, file, line, column)`.
type Place = (u64, &'static [(&'static str, &'static str, u32, u32)]);

const PROGRAM: u64 = 0x55d0_0000_0000;
const LIBRARY: u64 = 0x7f00_0000_0000;

const PLACES: &[Place] = &[
    (
        PROGRAM + 0x3000,
        &[
            ("server::cache::Entry::new", "src/cache.rs", 21, 9),
            ("server::cache::insert", "src/cache.rs", 44, 20),
        ],
    ),
    (PROGRAM + 0x3400, &[("server::handle", "src/main.rs", 52, 13)]),
    (PROGRAM + 0x3800, &[("server::main", "src/main.rs", 14, 5)]),
    (PROGRAM + 0x4000, &[("server::http::parse", "src/http.rs", 88, 17)]),
    (PROGRAM + 0x4400, &[("server::render::page", "src/render.rs", 130, 9)]),
    (PROGRAM + 0x4800, &[("server::log::line", "src/log.rs", 31, 24)]),
    (PROGRAM + 0x4c00, &[("<server::session::Store as Open>::open", "src/session.rs", 63, 9)]),
    (
        PROGRAM + 0x5000,
        &[
            ("alloc::raw_vec::RawVec<T,A>::grow_one", "raw_vec.rs", 340, 13),
            ("alloc::vec::Vec<T,A>::push", "vec/mod.rs", 2513, 18),
        ],
    ),
    (PROGRAM + 0x5400, &[("<alloc::string::String as Clone>::clone", "string.rs", 2340, 9)]),
    (PROGRAM + 0x6000, &[("__rustc::__rust_alloc", "alloc.rs", 14, 9)]),
    (
        PROGRAM + 0x7000,
        &[("std::sys::backtrace::__rust_begin_short_backtrace", "backtrace.rs", 158, 18)],
    ),
];

/// What is known of these addresses: nothing of those in the made-up library.
pub fn symbols(addresses: &[u64]) -> Vec<Vec<Frame>> {
    let frame = |&(function, file, line, column): &(&str, &str, u32, u32)| Frame {
        function: function.to_owned(),
        file: Some(file.to_owned()),
        line: Some(line),
        column: Some(column),
    };
    let frames = |address: &u64| {
        let place = PLACES.iter().find(|(at, _)| at == address);
        place.map_or(Vec::new(), |(_, calls)| calls.iter().map(frame).collect())
    };
    addresses.iter().map(frames).collect()
}

/// The report.
///
/// ```
/// use alloc_global::report::example;
///
/// let memory = example::report().memory;
/// let parts = [memory.live, memory.cached, memory.free_blocks, memory.free_pools];
/// let rest = [memory.given_back, memory.metadata, memory.rounding];
/// assert_eq!(memory.mapped, parts.iter().chain(&rest).sum::<u64>());
/// ```
pub fn report() -> Report {
    let heatmap = heatmap();
    let classes = classes(&heatmap);
    let memory = memory(&heatmap, &classes);
    let stats = stats(&memory, &classes);
    let started = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let taken = started + Duration::from_secs(95);
    Report {
        requested: Some(requested(&classes)),
        rounding: Some(rounding(&classes)),
        snapshot: Some(snapshot(stats, taken)),
        pins: Some(pins()),
        rss: Some(rss(&memory)),
        latency: Some(latency()),
        gc: Some(gc()),
        time_line: time_line(&stats),
        mappings: vec![Mapping {
            start: PROGRAM + 0x2000,
            end: PROGRAM + 0x10_0000,
            offset: 0x1000,
            path: "/usr/bin/server".to_owned(),
        }],
        program: "/usr/bin/server".to_owned(),
        pid: 4_321,
        started,
        taken,
        tool_ns: 38_400_000,
        stats,
        memory,
        classes: Some(classes),
        heatmap: Some(heatmap),
        ..Report::empty()
    }
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    /// One of `0..sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn heatmap() -> HeatMap {
    let mut dice = Dice(5);
    let arenas = (0..ARENAS).map(|number| ArenaMap {
        start: 0x7e00_0000_0000 + number * MIB,
        pools: (0..64).map(|pool| self::pool(&mut dice, number, pool)).collect(),
    });
    HeatMap { arenas: arenas.collect() }
}

/// A pool: the first eight arenas are full of them, three are held by a few blocks, one is mostly free.
fn pool(dice: &mut Dice, arena: u64, number: u64) -> PoolMap {
    const SIZES: [u32; 8] = [16, 24, 32, 48, 64, 128, 256, 504];
    let (in_use, live_percent) = match arena {
        0..8 => (95, 60 + dice.roll(40)),
        8..11 => (30, 1 + dice.roll(6)),
        _ => (5, 50),
    };
    let mut pool = PoolMap {
        state: PoolState::Metadata,
        class_size: 0,
        owner: 0,
        live: 0,
        cached: 0,
        capacity: 0,
        age_ms: 0,
    };
    if number == 0 {
        return pool;
    }
    if dice.roll(100) >= in_use {
        pool.state = if arena > 10 { PoolState::GivenBack } else { PoolState::Free };
        return pool;
    }
    let size = SIZES[dice.roll(8) as usize];
    pool.state = PoolState::Used;
    pool.class_size = size;
    pool.owner = dice.roll(4) as u8;
    pool.capacity = POOL as u32 / size;
    pool.live = (u64::from(pool.capacity) * live_percent / 100).max(1) as u32;
    pool.cached = (pool.capacity - pool.live) / 8;
    pool.age_ms = dice.roll(90_000);
    pool
}

fn used(heatmap: &HeatMap) -> impl Iterator<Item = &PoolMap> {
    let pools = heatmap.arenas.iter().flat_map(|arena| &arena.pools);
    pools.filter(|pool| pool.state == PoolState::Used)
}

fn classes(heatmap: &HeatMap) -> Vec<ClassStats> {
    let mut classes: BTreeMap<u64, ClassStats> = BTreeMap::new();
    for pool in used(heatmap) {
        let size = u64::from(pool.class_size);
        let class = classes.entry(size).or_insert(ClassStats { size, ..ClassStats::default() });
        class.live_blocks += u64::from(pool.live);
        class.live_bytes += u64::from(pool.live) * size;
        class.cached_blocks += u64::from(pool.cached);
        class.free_blocks += u64::from(pool.capacity - pool.live - pool.cached);
        class.pools += 1;
    }
    for class in classes.values_mut() {
        class.deallocs = class.live_blocks * (4_096 / class.size);
        class.allocs = class.deallocs + class.live_blocks;
    }
    classes.into_values().collect()
}

fn memory(heatmap: &HeatMap, classes: &[ClassStats]) -> Memory {
    let count = |state| {
        let pools = heatmap.arenas.iter().flat_map(|arena| &arena.pools);
        pools.filter(|pool| pool.state == state).count() as u64 * POOL
    };
    let sum = |of: fn(&ClassStats) -> u64| classes.iter().map(|class| of(class) * class.size).sum();
    let blocks = used(heatmap).map(|pool| u64::from(pool.capacity) * u64::from(pool.class_size));
    Memory {
        mapped: ARENAS * MIB,
        live: sum(|class| class.live_blocks),
        cached: sum(|class| class.cached_blocks),
        free_blocks: sum(|class| class.free_blocks),
        free_pools: count(PoolState::Free),
        given_back: count(PoolState::GivenBack),
        metadata: count(PoolState::Metadata),
        rounding: count(PoolState::Used) - blocks.sum::<u64>(),
        fallback_live: FALLBACK_LIVE,
        fallback_cached: FALLBACK_CACHED,
        fallback_free: 0,
        due_in_ms: Some(312),
    }
}

fn stats(memory: &Memory, classes: &[ClassStats]) -> Stats {
    let sum = |of: fn(&ClassStats) -> u64| classes.iter().map(of).sum::<u64>();
    let fallback = 714;
    let live_bytes = memory.live + memory.fallback_live;
    Stats {
        allocs: sum(|class| class.allocs) + 61_003 + fallback,
        deallocs: sum(|class| class.deallocs) + 61_003,
        reallocs: 48_211,
        reallocs_in_place: 39_870,
        reallocs_moved: 8_341,
        realloc_bytes_copied: 17_440_102,
        live_blocks: sum(|class| class.live_blocks) + fallback,
        live_bytes,
        peak_live_bytes: live_bytes + 3 * MIB,
        arenas: ARENAS,
        peak_arenas: ARENAS + 3,
        pools: classes.iter().map(|class| class.pools).sum(),
        peak_pools: classes.iter().map(|class| class.pools).sum::<u64>() + 131,
        mapped_bytes: memory.mapped,
        free_bytes: memory.mapped - memory.live,
        fallback_live_blocks: fallback,
        fallback_live_bytes: memory.fallback_live,
        fallback_cached_bytes: memory.fallback_cached,
        fallback_allocs: 61_003 + fallback,
        fallback_deallocs: 61_003,
        orphan_allocs: 307,
        threads: 23,
    }
}

fn requested(classes: &[ClassStats]) -> Vec<Requested> {
    let rows = classes.iter().flat_map(|class| {
        // Most requests fill their block; some are a word short, a few need half of it.
        [(0, 0.75), (4, 0.2), (class.size / 2, 0.05)].map(|(short, share)| Requested {
            size: class.size - short,
            class_size: class.size,
            blocks: class.live_blocks as f64 * share,
            blocks_error: (class.live_blocks as f64 * share * 20.0).sqrt(),
        })
    });
    rows.collect()
}

/// What goes with [`requested`], for the classes that lose most; and one above those of pools.
fn rounding(classes: &[ClassStats]) -> Vec<Rounding> {
    let rounding = |size: u64, blocks: f64, lost: f64| Rounding {
        class_size: size,
        blocks,
        requested_bytes: size as f64 * blocks - lost,
        lost_bytes: lost,
        lost_bytes_error: lost / 8.0,
        additional: None,
        other: None,
        sites: ROWS.first().map_or(Vec::new(), |row| {
            let (lost_bytes, lost_bytes_error) = (lost * 0.6, lost / 10.0);
            vec![RoundingSite { stack: row.5.to_vec(), lost_bytes, lost_bytes_error }]
        }),
    };
    let mut rows: Vec<Rounding> = classes
        .iter()
        .map(|class| {
            let blocks = class.live_blocks as f64;
            rounding(class.size, blocks, blocks * (0.8 + class.size as f64 / 40.0))
        })
        .collect();
    let better = |size, saved_bytes| {
        Some(BetterClass { size, saved_bytes, saved_bytes_error: saved_bytes / 8.0 })
    };
    rows.push(Rounding {
        additional: better(1_312, 640.0 * 224.0),
        other: better(1_504, 900.0 * 32.0),
        ..rounding(1_536, 900.0, 640.0 * 236.0)
    });
    rows.sort_by(|a, b| b.lost_bytes.total_cmp(&a.lost_bytes));
    rows
}

/// The sites: share of what is live in percent, mean block, thread, region, temporary share, and
/// the stack's offsets.
type Row = (f64, f64, &'static str, &'static str, f64, &'static [u64]);

const MAIN: u64 = PROGRAM + 0x3800;
const HANDLE: u64 = PROGRAM + 0x3400;
const BEGIN: u64 = PROGRAM + 0x7000;
const ALLOC: u64 = PROGRAM + 0x6000;

const ROWS: &[Row] = &[
    (
        35.0,
        900.0,
        "worker-1",
        "request",
        0.1,
        &[ALLOC, PROGRAM + 0x5000, PROGRAM + 0x4000, HANDLE, MAIN, BEGIN],
    ),
    (
        17.0,
        900.0,
        "worker-2",
        "request",
        0.1,
        &[ALLOC, PROGRAM + 0x5000, PROGRAM + 0x4000, HANDLE, MAIN, BEGIN],
    ),
    (22.0, 64.0, "worker-1", "request", 0.0, &[ALLOC, PROGRAM + 0x3000, HANDLE, MAIN, BEGIN]),
    (
        12.0,
        256.0,
        "worker-2",
        "request",
        0.6,
        &[ALLOC, PROGRAM + 0x5400, PROGRAM + 0x4400, HANDLE, MAIN],
    ),
    (6.0, 48.0, "main", "", 0.9, &[ALLOC, PROGRAM + 0x5400, PROGRAM + 0x4800, MAIN, BEGIN]),
    (4.0, 128.0, "main", "startup", 0.0, &[ALLOC, PROGRAM + 0x4c00, MAIN, BEGIN]),
    (2.5, 504.0, "worker-1", "", 0.0, &[ALLOC, LIBRARY + 0x2000, PROGRAM + 0x4400, HANDLE]),
    (1.5, 32.0, "7", "", 0.2, &[]),
];

fn snapshot(stats: Stats, taken: SystemTime) -> Snapshot {
    let rate = 512 << 10;
    // Estimates are off by a little.
    let sites = ROWS.iter().map(|row| site(row, stats.live_bytes as f64 * 0.983, rate as f64));
    Snapshot {
        stats,
        rate,
        sites: sites.collect(),
        modules: vec![
            Module {
                start: PROGRAM,
                end: PROGRAM + 0x10_0000,
                bias: PROGRAM,
                path: "/usr/bin/server".to_owned(),
                build_id: "0123456789abcdef".to_owned(),
            },
            Module {
                start: LIBRARY,
                end: LIBRARY + 0x20_0000,
                bias: LIBRARY,
                path: "/lib/libc.so.6".to_owned(),
                build_id: "fedcba9876543210".to_owned(),
            },
        ],
        dropped: Dropped { stacks: 2, blocks: 5, truncated: 17, corrupt: 1 },
        tool_bytes: 786_432,
        taken,
        duration: Duration::from_secs(90),
    }
}

fn site(&(percent, mean, thread, region, temporary, stack): &Row, all: f64, rate: f64) -> Site {
    let live_bytes = all * percent / 100.0;
    let live = live_bytes / mean;
    // What a program sets up at its start it often keeps.
    let freed = if region == "startup" { 0.0 } else { live * (3.0 + 40.0 * temporary) };
    let mut lifetimes = Lifetimes::default();
    // A hump around a millisecond, and a tail.
    let shares = [0.05, 0.1, 0.2, 0.3, 0.2, 0.1, 0.04, 0.01];
    for (count, share) in lifetimes.counts.iter_mut().skip(6).zip(shares) {
        *count = freed * share;
    }
    let of_rate = 1.0 - libm::exp(-mean / rate);
    // Of so many blocks, each in with that chance.
    let variance = |blocks: f64| blocks * (1.0 - of_rate) / of_rate;
    Site {
        stack: stack.to_vec(),
        truncated: thread == "worker-1" && region.is_empty(),
        region: region.to_owned(),
        thread: thread.to_owned(),
        allocs: live + freed,
        alloc_bytes: (live + freed) * mean,
        alloc_bytes_variance: variance(live + freed) * mean * mean,
        live,
        live_variance: variance(live),
        live_bytes,
        live_bytes_variance: variance(live) * mean * mean,
        live_requested_bytes: live_bytes * 0.94,
        live_lost_bytes: live_bytes * 0.06,
        most: Peak { bytes: live_bytes * 1.5, blocks: live * 1.5 },
        at_peak: Peak { bytes: live_bytes * 1.25, blocks: live * 1.25 },
        temporary: freed * temporary,
        samples: ((live + freed) * of_rate).ceil() as u64,
        live_samples: (live * of_rate).ceil() as u64,
        lifetimes,
    }
}

fn pins() -> Vec<Pin> {
    let pin = |stack: &[u64], arenas, blocks, bytes| Pin {
        site: stack.first().map_or(String::new(), |call| format!("{call:#x}")),
        threads: Vec::new(),
        stack: stack.to_vec(),
        arenas,
        blocks,
        bytes,
        would_return_bytes: arenas * (MIB - POOL) - bytes,
    };
    vec![
        pin(&[ALLOC, PROGRAM + 0x4c00, MAIN, BEGIN], 2, 61, 7_808),
        pin(&[ALLOC, PROGRAM + 0x5400, PROGRAM + 0x4800, MAIN, BEGIN], 1, 9, 432),
        Pin {
            site: "blocks of 64 bytes, heap 1".to_owned(),
            threads: vec!["main".to_owned(), "worker-3".to_owned()],
            ..pin(&[], 1, 7, 448)
        },
    ]
}

fn rss(memory: &Memory) -> Rss {
    let outside = 5 * MIB + 49_152;
    let parts = vec![
        RssPart { name: "live", bytes: memory.live, setting: "" },
        RssPart { name: "rounding", bytes: memory.rounding, setting: "" },
        RssPart { name: "thread caches", bytes: memory.cached, setting: "thread_flush()" },
        RssPart { name: "free blocks", bytes: memory.free_blocks, setting: "" },
        RssPart {
            name: "free pools",
            bytes: memory.free_pools,
            setting: "POOLALLOC_PURGE_DELAY_MS",
        },
        RssPart { name: "metadata", bytes: memory.metadata, setting: "" },
        RssPart {
            name: "fallback",
            bytes: memory.fallback_live + memory.fallback_cached,
            setting: "POOLALLOC_FALLBACK_CACHE",
        },
        RssPart { name: "outside the allocator", bytes: outside, setting: "" },
    ];
    Rss { resident: parts.iter().map(|part| part.bytes).sum(), parts }
}

fn latency() -> Vec<Latency> {
    let mut dice = Dice(11);
    let paths = [
        ("fast", 20_000, 3),
        ("refill", 6_000, 120),
        ("arena", 200, 2_500),
        ("fallback", 3_000, 90),
        ("purge", 40, 30_000),
    ];
    let latency = paths.into_iter().map(|(path, count, typical)| {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000_000, 2).ok()?;
        for _ in 0..count {
            // Each doubling of the time is a quarter as frequent.
            let doublings = u64::from(dice.roll(1 << 30).leading_zeros() - 34) / 2;
            histogram.saturating_record((typical << doublings) + dice.roll(typical));
        }
        Some(Latency { path, histogram })
    });
    latency.flatten().collect()
}

fn gc() -> GcReport {
    let of = |name: &str, objects, size| GcType {
        name: name.to_owned(),
        objects,
        bytes: objects * size,
    };
    let generation = |collections, pause, candidates, freed| GcGeneration {
        collections,
        pause_p50_ns: pause,
        pause_p99_ns: pause * 5,
        pause_max_ns: pause * 9,
        candidates,
        freed,
        retained: candidates - freed,
    };
    GcReport {
        types: vec![of("server::Node", 40_112, 64), of("server::Scope<T>", 3_004, 96)],
        generations: vec![
            generation(812, 41_000, 812_000, 700_313),
            generation(74, 160_000, 111_687, 60_001),
            generation(6, 2_100_000, 240_000, 4_118),
        ],
    }
}

/// A start, a peak, and a plateau.
fn time_line(stats: &Stats) -> Vec<TimePoint> {
    let mut dice = Dice(3);
    let point = |step: u64| {
        let percent = match step {
            0..30 => 3 * step + 5,
            30..40 => 115 - dice.roll(4),
            _ => 97 + dice.roll(6),
        };
        let live_bytes = stats.live_bytes * percent / 100;
        let mapped_bytes =
            (stats.mapped_bytes * percent.clamp(40, 110) / 100).next_multiple_of(MIB);
        let resident_bytes = live_bytes + 9 * MIB;
        TimePoint { ms: step * 950, live_bytes, mapped_bytes, resident_bytes }
    };
    (0..101).map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_agrees_with_itself() {
        let report = report();
        let memory = &report.memory;
        let blocks = [memory.live, memory.cached, memory.free_blocks, memory.rounding];
        let pools = [memory.free_pools, memory.given_back, memory.metadata];
        assert_eq!(memory.mapped, blocks.iter().chain(&pools).sum::<u64>());
        let stats = &report.stats;
        assert_eq!(stats.live_bytes, memory.live + memory.fallback_live);
        assert_eq!(stats.live_blocks, stats.allocs - stats.deallocs);
        let sites = &report.snapshot.as_ref().expect("a snapshot").sites;
        let live: f64 = sites.iter().map(|site| site.live_bytes).sum();
        assert!((live / stats.live_bytes as f64 - 1.0).abs() < 0.05);
        assert!(sites.iter().all(|site| site.live <= site.allocs && site.temporary <= site.allocs));
        let rss = report.rss.as_ref().expect("parts");
        assert_eq!(rss.resident, rss.parts.iter().map(|part| part.bytes).sum::<u64>());
        let latency = report.latency.as_ref().expect("paths");
        assert_eq!(latency.len(), 5);
        assert!(latency.iter().all(|latency| latency.histogram.len() >= 40));
    }

    #[test]
    fn the_example_is_the_same_on_every_call() {
        assert_eq!(format!("{:?}", report()), format!("{:?}", report()));
    }
}
