//! The heat map: arenas by pools, with what each pool serves, how full it is, whose it is and how old.
//!
//! ```text
//! 7f12a4000000 #9999*5..____  ...   one character per pool, 64 to an arena
//!              ^ ^   ^^ ^ ^
//!              | |   || | given back: no memory
//!              | |   || free
//!              | |   |tenths of its blocks that are out
//!              | |   full
//!              metadata
//! ```
//!
//! Memory for the map is reserved first, in a pass that only counts; the second pass fills it with
//! all locks held and allocates nothing. Where more arenas came meanwhile than were reserved for,
//! both are done again.
//!
//! No list says which pool the blocks in other threads' caches come from, and their arrays cannot
//! be read while they work. So blocks count as live that are out of their pool, but for those in
//! the calling thread's cache and in the depot.
//!
//! Unsafe only to promise the walk that all locks are held.

use crate::{purge, shared, thread};
use alloc_core::{ARENA_SIZE, ArenaView, Block, POOL_SIZE, POOLS_PER_ARENA, PoolUse};
use core::fmt;

/// Room for arenas that come while memory is reserved.
const SPARE: usize = 8;

/// What a pool serves as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum PoolState {
    /// Headers and descriptors: the first pool of each arena.
    #[default]
    Metadata,
    /// No blocks; its memory is kept.
    Free,
    /// No blocks and no memory: given back, or never touched.
    GivenBack,
    /// Blocks of one size class.
    Used,
}

impl PoolState {
    /// The word for it in reports.
    pub fn name(self) -> &'static str {
        match self {
            PoolState::Metadata => "metadata",
            PoolState::Free => "free",
            PoolState::GivenBack => "given back",
            PoolState::Used => "used",
        }
    }
}

/// One pool, 16 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PoolMap {
    /// What it serves as. If that is not [`PoolState::Used`], all that follows but `age_ms` is 0.
    pub state: PoolState,
    /// Bytes of its blocks.
    pub class_size: u32,
    /// The heap that it belongs to, 0 to 3.
    pub owner: u8,
    /// Blocks out of it: in the program's hands, or in the cache of another thread.
    pub live: u32,
    /// Blocks of it in the calling thread's cache or in the depot.
    pub cached: u32,
    /// Blocks that fit.
    pub capacity: u32,
    /// Milliseconds, in steps of the system's coarse clock. Used: since the pool was taken; free:
    /// since a pool of its arena last became free. 0 where that is not known: metadata, pools
    /// without memory, pools of 8-byte blocks.
    pub age_ms: u64,
}

/// One arena, 1 MiB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ArenaMap {
    /// Its first address.
    pub start: u64,
    /// Its 64 pools, in the order of their addresses.
    pub pools: Vec<PoolMap>,
}

/// All arenas in use, in the order of their addresses. See [`heatmap`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HeatMap {
    /// The arenas.
    pub arenas: Vec<ArenaMap>,
}

/// Maps every pool of every arena: what it serves, how full it is, and since when.
///
/// Costs a step per pool, with all other threads waiting at their slow paths, and about 2 KiB per
/// arena for the result. Blocks in the caches of other threads count as live (`thread_flush` in
/// those threads gives them back).
///
/// ```
/// let kept: Vec<Box<[u8; 48]>> = (0..10_000).map(|_| Box::new([0; 48])).collect();
/// let map = alloc_global::heatmap();
/// assert!(map.arenas.iter().all(|arena| arena.pools.len() == 64));
/// println!("{map}");
/// # drop(kept);
/// ```
pub fn heatmap() -> HeatMap {
    let mut room = shared::arenas().0 + SPARE;
    loop {
        let mut map = HeatMap { arenas: (0..room).map(|_| empty_arena()).collect() };
        let found = fill(&mut map.arenas);
        if found <= room {
            map.arenas.truncate(found);
            map.arenas.sort_unstable_by_key(|arena| arena.start);
            thread::for_each_own_cached(|block| move_to_cached(&mut map.arenas, block));
            shared::for_each_in_depot(|block| move_to_cached(&mut map.arenas, block));
            return map;
        }
        room = found + SPARE;
    }
}

/// Counts a block as cached. Blocks that were taken after the map was made, into pools that were
/// free then, are in neither count.
fn move_to_cached(arenas: &mut [ArenaMap], block: Block) {
    let address = block.addr().get();
    let start = (address & !(ARENA_SIZE - 1)) as u64;
    let Ok(at) = arenas.binary_search_by_key(&start, |arena| arena.start) else { return };
    let pools = arenas.get_mut(at).map(|arena| arena.pools.as_mut_slice()).unwrap_or_default();
    if let Some(pool) = pools.get_mut(address % ARENA_SIZE / POOL_SIZE)
        && let Some(live) = pool.live.checked_sub(1)
    {
        pool.live = live;
        pool.cached += 1;
    }
}

fn empty_arena() -> ArenaMap {
    ArenaMap { start: 0, pools: vec![PoolMap::default(); POOLS_PER_ARENA] }
}

/// Fills as many as there is room for; returns how many arenas there are.
fn fill(arenas: &mut [ArenaMap]) -> usize {
    let now = purge::now();
    shared::with_all_locked(|all| {
        let mut found = 0;
        let see = |view: ArenaView| {
            if let Some(arena) = arenas.get_mut(found) {
                arena.start = view.base().addr().get() as u64;
                for (to, pool) in arena.pools.iter_mut().zip(view.pools()) {
                    *to = map_pool(&view, pool, now);
                }
            }
            found += 1;
        };
        // SAFETY: all locks are held: pools are in bins that nobody uses, or have no class.
        unsafe { all.for_each_arena_view(see) };
        found
    })
}

pub(crate) fn map_pool(arena: &ArenaView, pool: PoolUse, now: u64) -> PoolMap {
    let age = |since: Option<u64>| since.map_or(0, |since| now.saturating_sub(since));
    match pool {
        PoolUse::Metadata => PoolMap::default(),
        PoolUse::GivenBack => PoolMap { state: PoolState::GivenBack, ..PoolMap::default() },
        PoolUse::Free => {
            PoolMap { state: PoolState::Free, age_ms: age(arena.since()), ..PoolMap::default() }
        }
        // The casts keep the values: a pool has at most 1,792 blocks, of at most 512 bytes.
        PoolUse::Used(pool) => PoolMap {
            state: PoolState::Used,
            class_size: pool.class().size() as u32,
            owner: pool.owner(),
            live: pool.out() as u32,
            cached: 0,
            capacity: pool.capacity() as u32,
            age_ms: age(pool.taken_at()),
        },
    }
}

impl PoolMap {
    /// Its character in the grid that [`HeatMap`] prints.
    pub fn symbol(&self) -> char {
        match self.state {
            PoolState::Metadata => '#',
            PoolState::Free => '.',
            PoolState::GivenBack => '_',
            PoolState::Used => {
                let out = self.live + self.cached;
                if out >= self.capacity {
                    return '*';
                }
                let tenths = (out * 10).checked_div(self.capacity).unwrap_or(0);
                char::from_digit(tenths, 10).unwrap_or('*')
            }
        }
    }
}

impl ArenaMap {
    /// Bytes of blocks out of its pools, in percent of what fits into 63 pools; from 0 to 100.
    pub fn occupancy_percent(&self) -> u32 {
        let out = |pool: &PoolMap| u64::from(pool.live + pool.cached) * u64::from(pool.class_size);
        let bytes: u64 = self.pools.iter().map(out).sum();
        let fits = (alloc_core::USABLE_POOLS * alloc_core::POOL_SIZE) as u64;
        // At most 100.
        (bytes * 100 / fits) as u32
    }
}

impl fmt::Display for HeatMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "arenas by pools: # metadata, . free, _ given back, 0-9 tenths of the blocks out, * full"
        )?;
        for arena in &self.arenas {
            write!(f, "{:>12x} ", arena.start)?;
            for pool in &arena.pools {
                write!(f, "{}", pool.symbol())?;
            }
            writeln!(f, " {:>3} %", arena.occupancy_percent())?;
        }
        writeln!(f, "{} arenas", self.arenas.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_tell_states_and_tenths_apart() {
        let used = |live, cached, capacity| {
            let state = PoolState::Used;
            PoolMap { state, live, cached, capacity, class_size: 64, ..PoolMap::default() }.symbol()
        };
        assert_eq!((used(0, 0, 256), used(25, 0, 256), used(26, 0, 256)), ('0', '0', '1'));
        assert_eq!((used(128, 0, 256), used(255, 0, 256), used(200, 56, 256)), ('5', '9', '*'));
        let other = |state| PoolMap { state, ..PoolMap::default() }.symbol();
        assert_eq!(other(PoolState::Metadata), '#');
        assert_eq!(other(PoolState::Free), '.');
        assert_eq!(other(PoolState::GivenBack), '_');
    }

    #[test]
    fn a_map_prints_a_line_of_64_per_arena() {
        let mut arena = empty_arena();
        arena.start = 0x7f00_0010_0000;
        let (state, class_size) = (PoolState::Used, 512);
        for pool in arena.pools.iter_mut().skip(1) {
            *pool = PoolMap { state, class_size, live: 16, capacity: 32, ..PoolMap::default() };
        }
        assert_eq!(arena.occupancy_percent(), 50);
        let text = HeatMap { arenas: vec![arena] }.to_string();
        let line = text.lines().nth(1).unwrap();
        assert_eq!(line, format!("7f0000100000 #{}  50 %", "5".repeat(63)));
    }
}
