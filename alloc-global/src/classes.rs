//! Counters per size class, and the page in the spirit of CPython's `sys._debugmallocstats`.
//!
//! Invariant: the bytes that the page lists sum to the mapped bytes, which is its last line of that list.
//!
//! No unsafe here. All locks are held for the walk, as for [`check`](crate::check()); nothing is
//! allocated meanwhile.

use crate::census::{Census, ClassCount};
use crate::{Stats, stats, thread};
use alloc_core::{CLASSES, POOL_SIZE, SizeClass};
use core::fmt;

/// What one size class of the pools did and holds.
///
/// ```
/// let classes = alloc_global::class_stats();
/// assert_eq!(classes.len(), 64);
/// let of_24_bytes = &classes[2];
/// assert_eq!(of_24_bytes.size, 24);
/// assert_eq!(of_24_bytes.live_bytes, 24 * of_24_bytes.live_blocks);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ClassStats {
    /// Bytes of a block: 8, 16, ... 512.
    pub size: u64,
    /// Blocks handed out since the process began; a `realloc` that moved into this class is among them.
    pub allocs: u64,
    /// Blocks that came back since the process began; a `realloc` that moved out of this class is
    /// among them.
    pub deallocs: u64,
    /// Blocks in the program's hands.
    pub live_blocks: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Free blocks in the caches of threads, and in the depot: on their way from one thread to another.
    pub cached_blocks: u64,
    /// Free blocks in pools, those not touched yet among them.
    pub free_blocks: u64,
    /// Pools of this class, 16 KiB each.
    pub pools: u64,
}

/// The counters of all 64 size classes, smallest first.
///
/// Exact under the same conditions as [`stats`](crate::stats()). Costs a step per pool; other
/// threads wait at their slow paths meanwhile.
pub fn class_stats() -> Vec<ClassStats> {
    // First: from here on nothing is allocated.
    let mut classes = Vec::with_capacity(CLASSES);
    let census = Census::take();
    classes.extend(SizeClass::all().map(|class| class_of(&census, class)));
    classes
}

pub(crate) fn class_of(census: &Census, class: SizeClass) -> ClassStats {
    let count = census.class(class);
    let mut allocs = thread::orphan_allocs(class);
    thread::for_each_cache(|cache| allocs = allocs.wrapping_add(cache.counts(class).1));
    ClassStats {
        size: class.size() as u64,
        allocs,
        deallocs: allocs.saturating_sub(count.live()),
        live_blocks: count.live(),
        live_bytes: count.live() * class.size() as u64,
        cached_blocks: count.cached,
        free_blocks: count.free(),
        pools: count.pools,
    }
}

/// Everything about the pools on one page, to be printed: what [`debug_page`] found.
#[derive(Clone, Copy, Debug)]
pub struct DebugPage {
    census: Census,
    stats: Stats,
}

/// Looks at all pools, for a page in the spirit of CPython's `sys._debugmallocstats`: a row per
/// size class in use, then arenas, then bytes by part, which sum to the mapped bytes, then the
/// fallback.
///
/// Costs a step per pool; other threads wait at their slow paths meanwhile. Neither this nor
/// printing the page allocates.
///
/// ```
/// println!("{}", alloc_global::debug_page());
/// ```
pub fn debug_page() -> DebugPage {
    DebugPage { stats: stats(), census: Census::take() }
}

impl fmt::Display for DebugPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "class  size    pools  blocks in use       cached    available")?;
        writeln!(f, "-----  ----  -------  -------------  -----------  -----------")?;
        for class in SizeClass::all() {
            let ClassCount { pools, cached, .. } = self.census.class(class);
            if pools == 0 {
                continue;
            }
            let (live, free) = (self.census.class(class).live(), self.census.class(class).free());
            let (index, size) = (class.index(), class.size());
            writeln!(f, "{index:>5}  {size:>4}  {pools:>7}  {live:>13}  {cached:>11}  {free:>11}")?;
        }
        writeln!(f)?;
        let counts = [
            ("arenas in use", self.census.arenas),
            ("arenas without a block", self.census.empty_arenas),
            ("arenas at peak", self.census.peak_arenas),
            ("pools in use", self.census.pools()),
            ("pools at peak", self.census.peak_pools),
            ("free pools", self.census.free_pools),
            ("pools given back", self.census.given_back),
        ];
        for (name, value) in counts {
            writeln!(f, "# {name:<36} {value:>16}")?;
        }
        self.bytes(f)
    }
}

impl DebugPage {
    /// The parts in bytes, their sum, and the fallback, which has no part in that sum.
    fn bytes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.census.bytes();
        let parts = [
            ("bytes in blocks in use", bytes.live),
            ("bytes in cached blocks", bytes.cached),
            ("bytes in available blocks", bytes.free_blocks),
            ("bytes in free pools", bytes.free_pools),
            ("bytes given back", bytes.given_back),
            ("bytes in metadata", bytes.metadata),
            ("bytes lost at the ends of pools", bytes.rounding),
            ("bytes mapped (sum)", bytes.sum()),
        ];
        writeln!(f)?;
        for (name, value) in parts {
            writeln!(f, "+ {name:<36} {value:>16}")?;
        }
        let fallback = [
            ("fallback blocks in use", self.stats.fallback_live_blocks),
            ("bytes in fallback blocks in use", self.stats.fallback_live_bytes),
            ("bytes in cached fallback blocks", self.stats.fallback_cached_bytes),
        ];
        writeln!(f)?;
        for (name, value) in fallback {
            writeln!(f, "# {name:<36} {value:>16}")?;
        }
        writeln!(f, "# (a pool is {} KiB, an arena 64 pools)", POOL_SIZE >> 10)
    }
}
