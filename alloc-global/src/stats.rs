//! Counters: put together when asked for, from counts that each thread keeps for itself.
//!
//! The blocks in a program's hands are those out of the pools less those in caches; frees are allocations
//! less live blocks. So the fast path keeps one count, of allocations, and nothing is shared.
//!
//! No unsafe here. It locks each bin for a moment, and no two at once.

use crate::mid_class::{CacheBin, mid_place};
use crate::{depot, owner, shared, thread};
use alloc_core::{ARENA_SIZE, SizeClass};
use core::fmt;
use core::ops::Sub;
use core::sync::atomic::{AtomicIsize, AtomicU64, Ordering::Relaxed};

/// Counters of the whole process.
///
/// Pool blocks and fallback blocks are counted together unless named otherwise. Exact for the calls
/// of the calling thread, and for all threads that rest; a thread that works meanwhile may have
/// some of its calls in and some not, so that a count may step back between two readings. Bytes of
/// a pool block are those of its size class; bytes of a fallback block those of its `Layout`, or,
/// up to 4,096, of the class that the layout is rounded to (640, 768, 896, 1,024, 1,280 ... 4,096:
/// four for each doubling).
///
/// ```
/// let before = alloc_global::stats();
/// let after = alloc_global::stats();
/// let between = after - before;
/// assert_eq!(between.live_blocks, 0);
/// println!("{after}");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Calls that allocated a block since the process began; `realloc` is not among them.
    pub allocs: u64,
    /// Calls that freed a block since the process began; `realloc` is not among them.
    pub deallocs: u64,
    /// Calls of `realloc` since the process began, in place or not.
    pub reallocs: u64,
    /// Those of them after which the block was where it was before.
    pub reallocs_in_place: u64,
    /// Those of them after which it was elsewhere.
    pub reallocs_moved: u64,
    /// Bytes copied for that. Blocks that the fallback itself moved are not in it: it may have
    /// moved pages without copying.
    pub realloc_bytes_copied: u64,
    /// Blocks in the program's hands.
    pub live_blocks: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// The most that `live_bytes` was. Low by at most 64 KiB per thread at work, high by at most what
    /// thread caches held at that moment.
    pub peak_live_bytes: u64,
    /// Arenas in use.
    pub arenas: u64,
    /// The most arenas that were in use at once.
    pub peak_arenas: u64,
    /// Pools in use.
    pub pools: u64,
    /// The most pools that were in use at once.
    pub peak_pools: u64,
    /// Bytes of arenas in use: 1 MiB each.
    pub mapped_bytes: u64,
    /// Bytes of `mapped_bytes` in no block of the program: free, cached, metadata or rounding.
    pub free_bytes: u64,
    /// Blocks of the fallback in the program's hands.
    pub fallback_live_blocks: u64,
    /// Their bytes.
    pub fallback_live_bytes: u64,
    /// Requests above 512 bytes that were served, from the fallback or a thread's cache of its
    /// blocks, since the process began; a `realloc` that moved there is among them.
    pub fallback_allocs: u64,
    /// Blocks of the fallback that came back since the process began; a `realloc` that moved away
    /// is among them.
    pub fallback_deallocs: u64,
    /// Bytes of free fallback blocks in the caches of threads, and on their way from one thread to another.
    pub fallback_cached_bytes: u64,
    /// Blocks handed out one by one to threads without a cache: before the first or after the last
    /// moment at which they can have one. Rare.
    pub orphan_allocs: u64,
    /// Threads that have a cache now. One that ended without its end being seen counts until its
    /// cache is wanted.
    pub threads: u64,
}

/// Puts the counters together. Costs about 10 µs and a few steps per thread.
pub fn stats() -> Stats {
    let mut stats = Stats::default();
    let mut pool_bytes = 0;
    for class in SizeClass::all() {
        let mut cached = shared::blocks_in_depot(class) as u64;
        stats.orphan_allocs += thread::orphan_allocs(class);
        thread::for_each_cache(|cache| {
            let (len, allocs) = cache.counts(class);
            cached += len;
            stats.allocs = stats.allocs.wrapping_add(allocs);
        });
        // A thread at work may have moved blocks between the two readings.
        let live = (shared::blocks_out(class) as u64).saturating_sub(cached);
        stats.live_blocks += live;
        pool_bytes += live * class.size() as u64;
    }
    let (mut moves, mut frees, mut bytes) = (0u64, 0u64, 0u64);
    let mut moved_by_fallback = 0u64;
    for bin in CacheBin::mids() {
        thread::for_each_counted(|cache| {
            let Some((len, allocs, class)) = cache.mid_counts(bin) else { return };
            let Some(out) = cache.counters.mid_out.get(mid_place(class)) else { return };
            let live = out.load(Relaxed).wrapping_sub(len);
            stats.allocs = stats.allocs.wrapping_add(allocs);
            stats.fallback_allocs = stats.fallback_allocs.wrapping_add(allocs);
            stats.fallback_cached_bytes += len * class.size() as u64;
            stats.fallback_live_blocks = stats.fallback_live_blocks.wrapping_add(live);
            bytes = bytes.wrapping_add(live.wrapping_mul(class.size() as u64));
        });
    }
    thread::for_each_counters(|counters| {
        stats.reallocs = stats.reallocs.wrapping_add(counters.reallocs.load(Relaxed));
        moves = moves.wrapping_add(counters.moves.load(Relaxed));
        moved_by_fallback = moved_by_fallback.wrapping_add(counters.fallback_moves.load(Relaxed));
        stats.realloc_bytes_copied =
            stats.realloc_bytes_copied.wrapping_add(counters.copied.load(Relaxed));
        let allocs = counters.fallback_allocs.load(Relaxed);
        stats.allocs = stats.allocs.wrapping_add(allocs);
        stats.fallback_allocs = stats.fallback_allocs.wrapping_add(allocs);
        stats.fallback_live_blocks = stats.fallback_live_blocks.wrapping_add(allocs);
        frees = frees.wrapping_add(counters.fallback_frees.load(Relaxed));
        bytes = bytes
            .wrapping_add(counters.fallback_bytes_in.load(Relaxed))
            .wrapping_sub(counters.fallback_bytes_out.load(Relaxed));
    });
    stats.fallback_cached_bytes += depot::bytes() as u64;
    let here = owner::here();
    thread::for_each_cache(|cache| {
        stats.fallback_cached_bytes += cache.large.cached() as u64;
        // Relaxed: a mark; nothing is read through it. In a child of fork the parent's threads are
        // not counted.
        let is_home = owner::is_of(cache.owner.get(), here) && !cache.is_drain.load(Relaxed);
        stats.threads += u64::from(is_home);
    });
    stats.reallocs_moved = moves.wrapping_add(moved_by_fallback).min(stats.reallocs);
    stats.reallocs_in_place = stats.reallocs - stats.reallocs_moved;
    // Moves may have been read later than allocations.
    stats.allocs = stats.allocs.wrapping_add(stats.orphan_allocs).saturating_sub(moves);
    stats.fallback_live_blocks = not_negative(stats.fallback_live_blocks.wrapping_sub(frees));
    stats.fallback_live_bytes = not_negative(bytes);
    stats.fallback_deallocs = stats.fallback_allocs.saturating_sub(stats.fallback_live_blocks);
    stats.live_blocks += stats.fallback_live_blocks;
    stats.live_bytes = pool_bytes + stats.fallback_live_bytes;
    stats.deallocs = stats.allocs.saturating_sub(stats.live_blocks);
    stats.arenas = shared::arenas().0 as u64;
    stats.peak_arenas = shared::peak_arenas() as u64;
    let (pools, peak_pools) = shared::pools();
    (stats.pools, stats.peak_pools) = (pools as u64, peak_pools as u64);
    stats.mapped_bytes = stats.arenas * ARENA_SIZE as u64;
    stats.free_bytes = stats.mapped_bytes.saturating_sub(pool_bytes);
    stats.peak_live_bytes = peak(stats.live_bytes);
    stats
}

/// Bytes that a thread may gather before it adds them to the sum: the error of the peak, per thread.
pub(crate) const PUBLISH: usize = 64 << 10;

/// Bytes of blocks out of the pools (caches among them) and of the fallback's live blocks, as published.
static PUBLISHED: AtomicIsize = AtomicIsize::new(0);

/// The most that `PUBLISHED`, or a reading of `stats`, ever was.
static PEAK: AtomicIsize = AtomicIsize::new(0);

/// How often [`PEAK`] rose.
static PEAKS: AtomicU64 = AtomicU64::new(0);

/// Adds what a thread gathered.
#[cold]
pub(crate) fn publish(bytes: isize) {
    // Relaxed, here and below: a sum and its maximum; nobody infers anything else from them.
    let now = PUBLISHED.fetch_add(bytes, Relaxed).wrapping_add(bytes);
    raise(now);
}

/// The most bytes that were ever live, as far as published.
pub(crate) fn peak_published() -> usize {
    usize::try_from(PEAK.load(Relaxed)).unwrap_or(0)
}

/// The number of the last peak: changes whenever the process has more bytes live than ever before,
/// as far as published.
#[inline]
pub(crate) fn peaks() -> u64 {
    PEAKS.load(Relaxed)
}

fn raise(now: isize) {
    if now > PEAK.load(Relaxed) && PEAK.fetch_max(now, Relaxed) < now {
        PEAKS.fetch_add(1, Relaxed);
    }
}

/// Bytes of blocks out of the pools, caches among them, and of the fallback's: off by at most 64
/// KiB a thread.
#[cfg(feature = "report")]
pub(crate) fn published_bytes() -> u64 {
    // Never negative for long: what was published of frees before their allocations.
    PUBLISHED.load(Relaxed).max(0).unsigned_abs() as u64
}

fn peak(live: u64) -> u64 {
    let live = isize::try_from(live).unwrap_or(isize::MAX);
    raise(live);
    PEAK.load(Relaxed).max(live).unsigned_abs() as u64
}

/// A wrapped difference that a thread at work made negative for a moment reads as 0.
fn not_negative(difference: u64) -> u64 {
    if difference > i64::MAX as u64 { 0 } else { difference }
}

/// Every field with its name in the table, in the order of the table.
macro_rules! for_each_field {
    ($what:ident) => {
        $what! {
            "allocs" allocs, "deallocs" deallocs, "reallocs" reallocs,
            "reallocs in place" reallocs_in_place, "reallocs moved" reallocs_moved,
            "realloc bytes copied" realloc_bytes_copied,
            "live blocks" live_blocks, "live bytes" live_bytes, "peak live bytes" peak_live_bytes,
            "arenas" arenas, "peak arenas" peak_arenas, "pools" pools, "peak pools" peak_pools,
            "mapped bytes" mapped_bytes, "free bytes" free_bytes,
            "fallback live blocks" fallback_live_blocks,
            "fallback live bytes" fallback_live_bytes,
            "fallback allocs" fallback_allocs, "fallback deallocs" fallback_deallocs,
            "fallback cached bytes" fallback_cached_bytes,
            "orphan allocs" orphan_allocs, "threads" threads,
        }
    };
}

/// What happened between two readings. Counts that can fall (live, arenas, bytes) stop at 0.
impl Sub for Stats {
    type Output = Stats;

    fn sub(self, before: Stats) -> Stats {
        macro_rules! subtract {
            ($($name:literal $field:ident,)*) => {
                Stats { $($field: self.$field.saturating_sub(before.$field)),* }
            };
        }
        for_each_field!(subtract)
    }
}

impl Stats {
    /// Every counter with its name, in the order in which [`Display`](fmt::Display) writes them.
    ///
    /// ```
    /// let stats = alloc_global::stats();
    /// assert!(stats.rows().any(|row| row == ("live bytes", stats.live_bytes)));
    /// ```
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        macro_rules! list {
            ($($name:literal $field:ident,)*) => { [$(($name, self.$field)),*].into_iter() };
        }
        for_each_field!(list)
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.rows() {
            writeln!(f, "{name:<21} {value:>16}")?;
        }
        Ok(())
    }
}
