//! Resident memory explained: every resident byte of the process in one of its parts.
//!
//! ```text
//! resident (smaps_rollup)
//! +------------------------------------------------+----------------------------+-----------------+
//! | arenas, page by page (mincore)                 | fallback (its counters,    | the rest:       |
//! | live, cache, rounding, free blocks, free pools,| mallinfo2)                 | files, stacks,  |
//! | metadata, reserve; caches themselves           | live, cached, other, free  | other mappings  |
//! +------------------------------------------------+----------------------------+-----------------+
//! ```
//!
//! Invariant: the parts sum to `resident`, always.
//!
//! In arenas each byte is counted if its page is resident, by what it serves. Which pages of the
//! fallback's blocks are resident nobody but the kernel knows; they are taken to be, live ones
//! first, as far as there is anonymous memory that is not in arenas. A large block that the program
//! did not write to yet is therefore overstated, at the cost of the parts after it.
//!
//! The order of work: memory for the answer, addresses of arenas (all locks held), `mincore` and
//! `smaps_rollup` (no lock held), then the walk (all locks held). Exact where the other threads
//! rest; where they work, what moved meanwhile is in the wrong part, and arenas that came meanwhile
//! are in the rest.
//!
//! Unsafe only to promise the walk that all locks are held.

use crate::cache::Cache;
use crate::census::Census;
use crate::residency::{self, Malloc, Pages, Resident};
use crate::{profile, shared, spans, stats, thread};
use alloc_core::{ARENA_SIZE, ArenaView, PAGE_SIZE, POOL_SIZE, PoolUse, PoolView};
use core::fmt;

/// Room for arenas that come while memory is reserved.
const SPARE: usize = 64;

/// The resident memory of the process by what it serves. See [`explain_rss`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Rss {
    /// Resident bytes of the process, as the system counts them.
    pub resident: u64,
    /// The parts; they sum to `resident`.
    pub parts: Vec<RssPart>,
}

/// One part of the resident memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RssPart {
    /// What it is.
    pub name: &'static str,
    /// How many bytes of it are resident.
    pub bytes: u64,
    /// The setting or call that changes it, or why none does.
    pub setting: &'static str,
}

/// Splits the resident memory of the process to the byte into what it serves, with the setting that
/// changes each part.
///
/// What was given back to the system is in no part: it is not resident. Costs a system call and
/// some microseconds per arena, a step per pool (and per block in pools that are partly resident)
/// with all other threads waiting at their slow paths, and the kernel's walk for `smaps_rollup`,
/// about a millisecond per resident GiB. Where the system does not say what is resident, arenas
/// count in full and the rest is unknown: 0.
///
/// ```
/// let rss = alloc_global::explain_rss();
/// assert_eq!(rss.parts.iter().map(|part| part.bytes).sum::<u64>(), rss.resident);
/// println!("{rss}");
/// ```
pub fn explain_rss() -> Rss {
    let mut rss = Rss { resident: 0, parts: Vec::with_capacity(16) };
    let mut arenas = arena_list();
    let counters = stats();
    for arena in &mut arenas {
        arena.pages = residency::arena_pages(arena.start);
    }
    let malloc = residency::malloc_info().unwrap_or_default();
    let resident = residency::resident();
    let mut pools = walk(&mut arenas);
    // What caches hold, of the blocks that are out and resident.
    let cached = Census::take().bytes().cached.min(pools.live);
    pools.cached = cached;
    pools.live -= cached;
    pools.caches = caches();
    pools.profile = profile::tool_bytes() as u64;
    let free = spans::free();
    // No part of what glibc gave out: whether it is resident is another question.
    let mut malloc = malloc;
    malloc.in_use = malloc.in_use.saturating_sub(free.untouched);
    let fallback = [counters.fallback_live_bytes, counters.fallback_cached_bytes, free.touched];
    rss.put_together(&pools, fallback, malloc, resident);
    rss
}

/// An arena, in use or not, and which of its pages are resident.
#[derive(Clone, Copy, Debug)]
struct Arena {
    start: usize,
    pages: Pages,
    in_use: bool,
}

/// The addresses of all arenas of all chunks, in order.
fn arena_list() -> Vec<Arena> {
    let mut room = shared::arenas().1 / ARENA_SIZE + SPARE;
    loop {
        let mut list: Vec<Arena> = Vec::with_capacity(room);
        let mut found = 0;
        shared::with_all_locked(|all| {
            all.for_each_chunk(|base, arenas, _| {
                for index in 0..arenas {
                    // Never beyond the capacity: nothing may be allocated here.
                    if list.len() < list.capacity() {
                        let start = base.addr().get() + index * ARENA_SIZE;
                        list.push(Arena { start, pages: Pages::default(), in_use: false });
                    }
                    found += 1;
                }
            });
        });
        if found <= room {
            list.sort_unstable_by_key(|arena| arena.start);
            return list;
        }
        room = found + SPARE;
    }
}

/// Resident bytes of arenas and caches, by what they serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pools {
    live: u64,
    cached: u64,
    rounding: u64,
    free_blocks: u64,
    free_pools: u64,
    metadata: u64,
    reserve: u64,
    caches: u64,
    profile: u64,
}

impl Pools {
    fn sum(&self) -> u64 {
        self.live
            + self.cached
            + self.rounding
            + self.free_blocks
            + self.free_pools
            + self.metadata
            + self.reserve
            + self.caches
            + self.profile
    }

    /// Adds a pool in use.
    fn add(&mut self, pool: &PoolView, pages: &Pages, start: usize) {
        let resident = pages.bytes(start, start + POOL_SIZE);
        let size = pool.class().size();
        let end = start + pool.capacity() * size;
        let all = resident == POOL_SIZE as u64;
        let out = if all {
            (pool.out() * size) as u64
        } else if resident == 0 {
            0
        } else {
            let mut sum = 0;
            pool.for_each_out(|block| {
                let at = block.addr().get() % ARENA_SIZE;
                sum += pages.bytes(at, at + size);
            });
            sum
        };
        let rounding = pages.bytes(end, start + POOL_SIZE);
        self.live += out;
        self.rounding += rounding;
        self.free_blocks += resident.saturating_sub(rounding).saturating_sub(out);
    }
}

/// Walks all arenas in use. `arenas` is in order.
fn walk(arenas: &mut [Arena]) -> Pools {
    let mut sums = Pools::default();
    shared::with_all_locked(|all| {
        let see = |view: ArenaView| {
            let base = view.base().addr().get();
            let Ok(at) = arenas.binary_search_by_key(&base, |arena| arena.start) else { return };
            let Some(arena) = arenas.get_mut(at) else { return };
            arena.in_use = true;
            let pages = arena.pages;
            let used = view.pools().filter(|pool| matches!(pool, PoolUse::Used(_))).count();
            for (index, pool) in view.pools().enumerate() {
                let start = index * POOL_SIZE;
                let resident = pages.bytes(start, start + POOL_SIZE);
                match pool {
                    PoolUse::Metadata => sums.metadata += resident,
                    PoolUse::Used(pool) => sums.add(&pool, &pages, start),
                    PoolUse::Free if used > 0 => sums.free_pools += resident,
                    // Empty arenas; and what huge pages brought along.
                    PoolUse::Free | PoolUse::GivenBack => sums.reserve += resident,
                }
            }
        };
        // SAFETY: all locks are held: pools are in bins that nobody uses, or have no class.
        unsafe { all.for_each_arena_view(see) };
    });
    // Arenas not in use: what huge pages brought along, and the headers of chunks.
    for arena in arenas.iter().filter(|arena| !arena.in_use) {
        sums.reserve += arena.pages.bytes(0, ARENA_SIZE);
    }
    sums
}

/// Resident bytes of the threads' caches themselves.
fn caches() -> u64 {
    let len = size_of::<Cache>().next_multiple_of(PAGE_SIZE);
    let mut bytes = 0;
    thread::for_each_cache(|cache| {
        bytes += residency::resident_bytes(core::ptr::from_ref(cache).addr(), len);
    });
    bytes
}

impl Rss {
    /// Makes parts of the sums, so that they are the whole. `fallback`: live and cached bytes, and
    /// those free in spans.
    fn put_together(
        &mut self,
        pools: &Pools,
        fallback: [u64; 3],
        malloc: Malloc,
        resident: Option<Resident>,
    ) {
        let own = pools.sum();
        // What moved meanwhile must not make the parts more than the whole.
        let all = resident.map_or(own, |resident| resident.all.max(own));
        let anonymous = resident.map_or(own, |resident| resident.anonymous.clamp(own, all));
        let mut left = anonymous - own;
        let mut take = |bytes: u64| {
            let taken = bytes.min(left);
            left -= taken;
            taken
        };
        let [live, cached, spans] = fallback.map(&mut take);
        let other = take(malloc.in_use.saturating_sub(live + cached + spans));
        let free = take(malloc.free);
        self.resident = all;
        self.parts.clear();
        let caches = "thread_flush(), trim(), or the thread's end";
        self.parts.extend([
            part("live", pools.live, "the program's: a profile says whose"),
            part("rounding", pools.rounding, "none: ends of pools, shorter than a block"),
            part("cache", pools.cached, caches),
            part("free blocks", pools.free_blocks, "none: live neighbours hold them (pins)"),
            part("free pools", pools.free_pools, "POOLALLOC_PURGE_DELAY_MS, trim(): four in a row"),
            part("metadata", pools.metadata, "none: one pool of each arena"),
            part("thread caches", pools.caches, "none: the most threads at once"),
            part(
                "reserve",
                pools.reserve,
                "POOLALLOC_PURGE_DELAY_MS, trim(), POOLALLOC_HUGE_PAGES",
            ),
            part("profile", pools.profile, "POOLALLOC_SAMPLE, POOLALLOC_TRACE"),
            part("fallback live", live, "the program's: a profile says whose"),
            part("fallback cached", cached, "POOLALLOC_FALLBACK_CACHE, trim()"),
            part("free in spans", spans, "POOLALLOC_PURGE_DELAY_MS, trim()"),
            part("malloc, other", other, "C libraries; headers; rounding of the fallback"),
            part("fallback free", free, "trim(), MALLOC_ARENA_MAX, MALLOC_TRIM_THRESHOLD_"),
            part("outside, anonymous", left, "none: stacks, written data, other mappings"),
            part("outside, files", all - anonymous, "none: code and mapped files"),
        ]);
    }
}

fn part(name: &'static str, bytes: u64, setting: &'static str) -> RssPart {
    RssPart { name, bytes, setting }
}

impl fmt::Display for Rss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for RssPart { name, bytes, setting } in &self.parts {
            let percent = (bytes * 100).checked_div(self.resident).unwrap_or(0);
            writeln!(f, "{name:<20} {bytes:>16} {percent:>3} %  {setting}")?;
        }
        writeln!(f, "{:<20} {:>16}", "= resident", self.resident)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOLS: Pools = Pools {
        live: 1,
        cached: 2,
        rounding: 4,
        free_blocks: 8,
        free_pools: 16,
        metadata: 32,
        reserve: 64,
        caches: 128,
        profile: 256,
    };

    fn explain(fallback: [u64; 3], malloc: Malloc, resident: Option<Resident>) -> Rss {
        let mut rss = Rss::default();
        rss.put_together(&POOLS, fallback, malloc, resident);
        let sum: u64 = rss.parts.iter().map(|part| part.bytes).sum();
        assert_eq!(sum, rss.resident, "{rss}");
        rss
    }

    fn bytes(rss: &Rss, name: &str) -> u64 {
        rss.parts.iter().find(|part| part.name == name).map(|part| part.bytes).unwrap()
    }

    #[test]
    fn what_nobody_claims_is_outside() {
        let malloc = Malloc { in_use: 400, free: 50 };
        let resident = Some(Resident { all: 2000, anonymous: 1000 });
        let rss = explain([180, 100, 20], malloc, resident);
        assert_eq!(rss.resident, 2000);
        assert_eq!((bytes(&rss, "fallback live"), bytes(&rss, "fallback cached")), (180, 100));
        assert_eq!(bytes(&rss, "free in spans"), 20);
        assert_eq!((bytes(&rss, "malloc, other"), bytes(&rss, "fallback free")), (100, 50));
        assert_eq!(bytes(&rss, "outside, anonymous"), 1000 - 511 - 450);
        assert_eq!(bytes(&rss, "outside, files"), 1000);
    }

    #[test]
    fn the_fallback_gets_no_more_than_there_is() {
        let malloc = Malloc { in_use: 1 << 40, free: 50 };
        let resident = Some(Resident { all: 2000, anonymous: 1000 });
        let rss = explain([1 << 40, 100, 10], malloc, resident);
        assert_eq!(bytes(&rss, "fallback live"), 1000 - 511);
        assert_eq!((bytes(&rss, "fallback cached"), bytes(&rss, "fallback free")), (0, 0));
    }

    #[test]
    fn parts_sum_where_the_system_says_too_little_or_nothing() {
        let rss =
            explain([10, 10, 10], Malloc::default(), Some(Resident { all: 10, anonymous: 5 }));
        assert_eq!(rss.resident, POOLS.sum());
        let rss = explain([10, 10, 10], Malloc::default(), None);
        assert_eq!((rss.resident, bytes(&rss, "fallback live")), (POOLS.sum(), 0));
    }
}
