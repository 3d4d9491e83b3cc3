//! A set of arenas: takes pools from the fullest one, and says which memory can go back.
//!
//! ```text
//! bucket   1        2        3    ...    63          0
//!        [a]-[b]   [c]       -          [d]-[e]    [full]-[full]-...
//!         one pool free                 empty      no pool free
//! ```
//!
//! A pool is taken from the first arena of the lowest bucket that has one, so that nearly empty
//! arenas drain (CPython's `usable_arenas` has the same order). A pool taken or put back moves its
//! arena to the neighbouring bucket: a constant number of steps, whatever the number of arenas.
//! What can be given back is queued, so that to find it costs no walk over all arenas either.
//!
//! No call here goes to the system: memory is mapped ([`MappedChunk::map`]) and given back
//! ([`DetachedArena::purge`], [`FreePools::purge`], [`UnusedChunk::unmap`]) between two calls, so
//! that a caller with a lock need not hold it meanwhile.
//!
//! Invariants:
//!
//! 1. Every arena in use is in exactly one bucket, that of its number of free pools.
//! 2. Bit k of `occupied` is set if and only if bucket k is not empty.
//! 3. A chunk is in `roomy` if it has an idle arena, else in `solid`.
//! 4. `arenas` is the number of arenas in use, `in_use` that of pools taken, `chunk_arenas` that
//!    of arenas in all chunks, `empty` that of arenas in the last bucket, `queued` that of arenas in `due`.
//! 5. An arena in use is in `due` if and only if it has whole runs of free pools with memory, and
//!    the source has not refused to take them.
//!
//! It does not know what pools hold.

use crate::arena::{ALL_POOLS, ArenaRef, Due, arena_base, pool_index};
use crate::chunk::{ChunkRef, DetachedArena, MappedChunk, UnusedChunk};
use crate::layout_math::{ARENA_SIZE, MAX_CHUNK_ARENAS, POOL_SIZE, POOLS_PER_ARENA, USABLE_POOLS};
use crate::list::List;
use crate::page_source::PageSource;
use core::ptr::NonNull;

/// Pools that are purged together: 64 KiB, aligned. Less would cost more in page faults and
/// system calls than it gives.
const PURGE_POOLS: u32 = 4;

/// In place of a time: the source refused to take an arena's pools back; not to be asked again
/// before another pool becomes free there.
const REFUSED: u64 = u64::MAX;

/// A pool that was taken: 16 KiB, aligned to 16 KiB.
#[derive(Debug)]
pub struct TakenPool {
    /// Its base.
    pub base: NonNull<u8>,
    /// Whether all of it reads as zero (its pages may then not be resident yet).
    pub zero: bool,
}

/// Arenas and the pools free in them.
#[derive(Debug)]
pub struct Arenas {
    buckets: [List<ArenaRef>; POOLS_PER_ARENA],
    occupied: u64,
    roomy: List<ChunkRef>,
    solid: List<ChunkRef>,
    due: List<Due>,
    queued: usize,
    empty: usize,
    arenas: usize,
    peak: usize,
    in_use: usize,
    peak_in_use: usize,
    chunk_arenas: usize,
}

// SAFETY: the lists lead only to headers that belong to this value; whoever owns it owns them.
unsafe impl Send for Arenas {}

impl Arenas {
    /// No arenas.
    pub const fn new() -> Self {
        Arenas {
            buckets: [const { List::new() }; POOLS_PER_ARENA],
            occupied: 0,
            roomy: List::new(),
            solid: List::new(),
            due: List::new(),
            queued: 0,
            empty: 0,
            arenas: 0,
            peak: 0,
            in_use: 0,
            peak_in_use: 0,
            chunk_arenas: 0,
        }
    }

    /// Arenas in use; each is 1 MiB of mapped memory.
    pub fn arenas(&self) -> usize {
        self.arenas
    }

    /// The most arenas that were in use at once.
    pub fn peak_arenas(&self) -> usize {
        self.peak
    }

    /// Pools taken and not put back.
    pub fn pools_in_use(&self) -> usize {
        self.in_use
    }

    /// The most pools that were taken at once.
    pub fn peak_pools(&self) -> usize {
        self.peak_in_use
    }

    /// Arenas in use of which every pool is free.
    pub fn empty_arenas(&self) -> usize {
        self.empty
    }

    /// Bytes of address space in chunks, arenas not in use among them.
    pub fn reserved_bytes(&self) -> usize {
        self.chunk_arenas * ARENA_SIZE
    }

    /// How many arenas the next chunk should have: as many as there are, 2 to 32.
    pub fn next_chunk(&self) -> usize {
        self.chunk_arenas.clamp(2, MAX_CHUNK_ARENAS)
    }

    /// Adds a chunk that was mapped for these arenas.
    ///
    /// # Safety
    ///
    /// The chunk's source keeps its memory for as long as these arenas are used: nobody can hold
    /// them to it, for they do not know it.
    pub unsafe fn add_chunk<S: PageSource + ?Sized>(&mut self, chunk: MappedChunk<'_, S>) {
        let chunk = chunk.init();
        self.chunk_arenas += chunk.arenas.get() as usize;
        self.roomy.push_back(chunk);
    }

    /// Takes a free pool, from the fullest arena that has one; brings an idle arena into use if there is
    /// none. Its slot is all zero. `None`: a chunk must be added first.
    pub fn take_pool(&mut self) -> Option<TakenPool> {
        let usable = self.occupied & ALL_POOLS;
        let arena = if usable != 0 {
            self.buckets[usable.trailing_zeros() as usize].front()?
        } else {
            self.activate()?
        };
        // Pools that are resident first: a zero one may cost a page fault.
        let free = arena.free.get();
        let warm = free & !arena.zero.get();
        let index = if warm != 0 { warm } else { free }.trailing_zeros() as usize;
        let zero = self.rebucket(arena, |arena| arena.take(index));
        self.in_use += 1;
        self.peak_in_use = self.peak_in_use.max(self.in_use);
        Some(TakenPool { base: arena.pool(index), zero })
    }

    /// Puts a pool back. `now` is the time on any clock of the caller's.
    ///
    /// # Safety
    ///
    /// `base` came from `take_pool` of these arenas, and nothing uses the pool any more.
    pub unsafe fn put_pool(&mut self, base: NonNull<u8>, now: u64) {
        // SAFETY: a taken pool lies in an arena in use.
        let arena = unsafe { ArenaRef::from_base(arena_base(base)) };
        let bit = 1u64 << pool_index(base);
        let since = arena.since.get();
        arena.since.set(if since == REFUSED { now } else { since.max(now) });
        self.in_use -= 1;
        self.rebucket(arena, |arena| arena.free.set(arena.free.get() | bit));
    }

    /// Takes an arena out of use of which every pool is free, if more than `keep` such arenas
    /// would stay and it has been so since `before` or earlier; the one that has been longest, as a rule.
    pub fn detach_empty(&mut self, keep: usize, before: u64) -> Option<DetachedArena> {
        if self.empty <= keep {
            return None;
        }
        // They joined at the front.
        let mut longest_first = self.buckets[USABLE_POOLS].iter_back();
        let oldest = longest_first.find(|arena| arena.since.get() <= before)?;
        self.unlist(oldest);
        self.queue(oldest, false);
        self.arenas -= 1;
        let (base, chunk) = (oldest.base(), oldest.chunk);
        chunk.active.set(chunk.active.get() & !chunk.bit(base));
        Some(DetachedArena { base, chunk })
    }

    /// Ends what `detach_empty` began: the arena becomes idle if its memory was given back, else
    /// it comes back into use. Returns its chunk if no arena of it is in use any more.
    ///
    /// # Safety
    ///
    /// `arena` was detached from these arenas; `purged` says whether [`DetachedArena::purge`] gave
    /// bytes back.
    pub unsafe fn reattach(&mut self, arena: DetachedArena, purged: bool) -> Option<UnusedChunk> {
        let DetachedArena { base, chunk } = arena;
        let bit = chunk.bit(base);
        if !purged {
            chunk.active.set(chunk.active.get() | bit);
            // A source that refuses may have given back some of it, its header among that.
            // SAFETY: detached: mapped, and nobody's but this value's.
            let arena = unsafe { ArenaRef::init(base, chunk) };
            arena.zero.set(0);
            arena.since.set(REFUSED);
            self.arenas += 1;
            self.list(arena);
            return None;
        }
        if chunk.idle.get() == 0 {
            self.solid.remove(chunk);
            self.roomy.push_back(chunk);
        }
        chunk.idle.set(chunk.idle.get() | bit);
        if chunk.idle.get() != chunk.all() {
            return None;
        }
        self.roomy.remove(chunk);
        self.chunk_arenas -= chunk.arenas.get() as usize;
        Some(UnusedChunk::new(chunk))
    }

    /// Takes free pools out of an arena in use whose memory can be given back: all its aligned
    /// runs of 64 KiB that are free and not zero, if none of its pools became free after `before`.
    pub fn detach_pools(&mut self, before: u64) -> Option<FreePools> {
        // One look at each; who is too young goes to the back, so that the next call begins behind them.
        for _ in 0..self.queued {
            let Due(arena) = self.due.front()?;
            if arena.since.get() <= before {
                let runs = arena.runs();
                self.rebucket(arena, |arena| {
                    arena.free.set(arena.free.get() & !runs);
                    arena.purging.set(arena.purging.get() | runs);
                });
                return Some(FreePools { arena, pools: runs });
            }
            self.due.remove(Due(arena));
            self.due.push_back(Due(arena));
        }
        None
    }

    /// Whether there is memory that a later `detach_empty` with `keep` 1 or `detach_pools` would give.
    pub fn is_purgeable(&self) -> bool {
        self.empty > 1 || self.queued > 0
    }

    /// Ends what `detach_pools` began.
    ///
    /// # Safety
    ///
    /// `pools` were detached from these arenas; `purged` says whether [`FreePools::purge`] gave bytes back.
    pub unsafe fn reattach_pools(&mut self, pools: FreePools, purged: bool) {
        let FreePools { arena, pools } = pools;
        self.rebucket(arena, |arena| {
            arena.purging.set(arena.purging.get() & !pools);
            arena.free.set(arena.free.get() | pools);
            if purged {
                arena.zero.set(arena.zero.get() | pools);
            } else {
                // Not again at once: the source refused.
                arena.since.set(REFUSED);
            }
        });
    }

    /// Calls `f` with the base of every pool taken.
    pub fn for_each_taken(&self, mut f: impl FnMut(NonNull<u8>)) {
        self.for_each_arena(|arena| arena.taken().for_each(&mut f));
    }

    /// Calls `f` for each arena in use with its base and the bit masks of its free pools and of
    /// those among them that are not resident.
    pub fn for_each_arena_masks(&self, mut f: impl FnMut(NonNull<u8>, u64, u64)) {
        self.for_each_arena(|arena| f(arena.base(), arena.free.get(), arena.zero.get()));
    }

    /// Calls `f` for each chunk with its base, the number of its arenas, and the bit mask of those in use.
    pub fn for_each_chunk(&self, mut f: impl FnMut(NonNull<u8>, usize, u32)) {
        for chunk in self.roomy.iter().chain(self.solid.iter()) {
            f(chunk.base(), chunk.arenas.get() as usize, chunk.active.get());
        }
    }

    /// Whether `address` lies in an arena in use, outside its metadata. Reads no memory of the
    /// address; costs a step per chunk.
    pub fn contains(&self, address: usize) -> bool {
        self.roomy.iter().chain(self.solid.iter()).any(|chunk| {
            let offset = address.wrapping_sub(chunk.base().addr().get());
            offset < chunk.len()
                && chunk.active.get() >> (offset / ARENA_SIZE) & 1 != 0
                && offset % ARENA_SIZE >= POOL_SIZE
        })
    }

    /// Unmaps every chunk, whatever its arenas hold.
    ///
    /// # Safety
    ///
    /// `source` is the one they were mapped from, and no pool is used any more.
    pub unsafe fn unmap_all<S: PageSource + ?Sized>(&mut self, source: &S) {
        let mut rest = core::mem::take(self);
        for list in [&mut rest.roomy, &mut rest.solid] {
            while let Some(chunk) = list.pop_front() {
                // SAFETY: the caller's promise.
                unsafe { UnusedChunk::new(chunk).unmap(source) };
            }
        }
    }

    fn for_each_arena(&self, mut f: impl FnMut(ArenaRef)) {
        for chunk in self.roomy.iter().chain(self.solid.iter()) {
            chunk.active_arenas().for_each(&mut f);
        }
    }

    /// Brings an idle arena into use and puts it into its bucket.
    fn activate(&mut self) -> Option<ArenaRef> {
        let chunk = self.roomy.front()?;
        let index = chunk.idle.get().trailing_zeros();
        let bit = 1 << index;
        chunk.idle.set(chunk.idle.get() & !bit);
        chunk.active.set(chunk.active.get() | bit);
        if chunk.idle.get() == 0 {
            self.roomy.remove(chunk);
            self.solid.push_back(chunk);
        }
        // SAFETY: it was idle until now: zero memory (chunk invariant 3) that nobody uses.
        let arena = unsafe { ArenaRef::init(chunk.arena_base(index), chunk) };
        self.arenas += 1;
        self.peak = self.peak.max(self.arenas);
        self.list(arena);
        Some(arena)
    }

    fn rebucket<T>(&mut self, arena: ArenaRef, change: impl FnOnce(ArenaRef) -> T) -> T {
        self.unlist(arena);
        let result = change(arena);
        self.list(arena);
        result
    }

    fn list(&mut self, arena: ArenaRef) {
        let bucket = arena.free_pools();
        self.buckets[bucket].push_front(arena);
        self.occupied |= 1 << bucket;
        self.empty += (bucket == USABLE_POOLS) as usize;
        self.queue(arena, arena.wants_purge());
    }

    /// Puts an arena into the queue of those with memory to give back, or takes it out (5).
    fn queue(&mut self, arena: ArenaRef, is_due: bool) {
        match (arena.is_due.replace(is_due), is_due) {
            (false, true) => {
                self.due.push_back(Due(arena));
                self.queued += 1;
            }
            (true, false) => {
                self.due.remove(Due(arena));
                self.queued -= 1;
            }
            _ => {}
        }
    }

    fn unlist(&mut self, arena: ArenaRef) {
        let bucket = arena.free_pools();
        self.buckets[bucket].remove(arena);
        self.empty -= (bucket == USABLE_POOLS) as usize;
        if self.buckets[bucket].is_empty() {
            self.occupied &= !(1 << bucket);
        }
    }

    /// Verifies the invariants of this file and of `arena` and `chunk`; the first breach, if any.
    pub fn check(&self) -> Result<(), &'static str> {
        let (mut arenas, mut taken, mut listed) = (0, 0, 0);
        let mut breach = None;
        self.for_each_arena(|arena| {
            arenas += 1;
            taken += arena.taken().count();
            let (free, zero, purging) = (arena.free.get(), arena.zero.get(), arena.purging.get());
            if free & 1 != 0 {
                breach = Some("arena 1: the metadata pool is free");
            } else if zero & !free != 0 {
                breach = Some("arena 2: a pool is zero but not free");
            } else if purging & free != 0 {
                breach = Some("arena 3: a pool is free and being purged");
            } else if self.buckets[arena.free_pools()].iter().all(|other| other != arena) {
                breach = Some("arenas 1: an arena is not in its bucket");
            } else if arena.is_due.get() != arena.wants_purge() {
                breach = Some(
                    "arenas 5: an arena is queued that has nothing to give, or is not that has",
                );
            }
        });
        for (index, bucket) in self.buckets.iter().enumerate() {
            listed += bucket.iter().count();
            if (self.occupied >> index & 1 != 0) == bucket.is_empty() {
                breach = Some("arenas 2: the mask of buckets is wrong");
            }
        }
        let chunks = self.roomy.iter().map(|chunk| (chunk, true));
        let chunks = chunks.chain(self.solid.iter().map(|chunk| (chunk, false)));
        let mut in_chunks = 0;
        for (chunk, roomy) in chunks {
            in_chunks += chunk.arenas.get() as usize;
            let (active, idle) = (chunk.active.get(), chunk.idle.get());
            if active & idle != 0 || (active | idle) & !chunk.all() != 0 {
                breach = Some("chunk 2: an arena is both in use and idle, or beyond the chunk");
            } else if roomy == (idle == 0) {
                breach = Some("arenas 3: a chunk is in the wrong list");
            }
        }
        if listed != arenas || arenas != self.arenas || in_chunks != self.chunk_arenas {
            breach = Some("arenas 4: the number of arenas is wrong");
        } else if self.due.iter().count() != self.queued
            || self.buckets[USABLE_POOLS].iter().count() != self.empty
        {
            breach = Some("arenas 4: the number of empty or queued arenas is wrong");
        } else if taken != self.in_use {
            breach = Some("arenas 4: the number of pools in use is wrong");
        }
        breach.map_or(Ok(()), Err)
    }
}

impl Default for Arenas {
    fn default() -> Self {
        Arenas::new()
    }
}

impl ArenaRef {
    /// Its pools whose memory can be given back.
    fn runs(self) -> u64 {
        full_runs(self.free.get() & !self.zero.get())
    }

    fn wants_purge(self) -> bool {
        self.runs() != 0 && self.since.get() != REFUSED
    }
}

/// Those bits of `pools` that form whole aligned runs of [`PURGE_POOLS`].
///
/// Pool 0 is never free, so the first run counts without it.
fn full_runs(pools: u64) -> u64 {
    // Lowest bit of each run.
    const FIRST: u64 = u64::MAX / ((1 << PURGE_POOLS) - 1);
    let with_metadata = pools | 1;
    let pairs = with_metadata & (with_metadata >> 1);
    let full = pairs & (pairs >> 2) & FIRST;
    (full * ((1 << PURGE_POOLS) - 1)) & ALL_POOLS
}

const _: () = assert!(PURGE_POOLS == 4, "`full_runs` folds twice");

/// Free pools of one arena on their way to having their memory given back.
#[derive(Debug)]
#[must_use = "pools that are dropped while detached are lost to their arena"]
pub struct FreePools {
    arena: ArenaRef,
    pools: u64,
}

impl FreePools {
    /// Gives their memory back. Returns bytes given back; 0 where the source refused.
    ///
    /// # Safety
    ///
    /// `source` is the one that the arena's chunk was mapped from.
    pub unsafe fn purge<S: PageSource + ?Sized>(&self, source: &S) -> usize {
        let mut rest = self.pools;
        let mut bytes = 0;
        while rest != 0 {
            let first = rest.trailing_zeros();
            let count = (rest >> first).trailing_ones();
            rest &= !((u64::MAX >> (u64::BITS - count)) << first);
            let len = count as usize * POOL_SIZE;
            // SAFETY: the pools are detached (arena invariant 3): this value owns their memory.
            if !unsafe { source.purge(self.arena.pool(first as usize), len) } {
                return 0;
            }
            bytes += len;
        }
        bytes
    }
}

#[cfg(test)]
#[path = "arenas_tests.rs"]
mod tests;
