//! Tests of `arenas`: order of use, what goes back, and every invariant after each step.

use super::*;
use crate::page_source::{FailingPages, FixedPages, OsPages};

fn grown<S: PageSource>(source: &S, arenas: usize) -> Arenas {
    let mut all = Arenas::new();
    while all.reserved_bytes() < arenas * ARENA_SIZE {
        // SAFETY: the tests keep the source until they are done with the arenas.
        unsafe { all.add_chunk(MappedChunk::map(source, arenas).unwrap()) };
    }
    all
}

fn take_all(arenas: &mut Arenas) -> Vec<NonNull<u8>> {
    core::iter::from_fn(|| arenas.take_pool().map(|pool| pool.base)).collect()
}

/// Detaches and purges all empty arenas but `keep`; returns bytes.
fn give_back<S: PageSource>(arenas: &mut Arenas, source: &S, keep: usize) -> usize {
    let mut bytes = 0;
    while let Some(arena) = arenas.detach_empty(keep, u64::MAX) {
        // SAFETY: the tests map all chunks from `source`.
        let purged = unsafe { arena.purge(source) };
        bytes += purged;
        // SAFETY: detached from there.
        let chunk = unsafe { arenas.reattach(arena, purged > 0) };
        if let Some(chunk) = chunk {
            // SAFETY: as above.
            unsafe { chunk.unmap(source) };
        }
        assert_eq!(arenas.check(), Ok(()));
    }
    bytes
}

#[test]
fn pools_are_distinct_aligned_zero_and_as_many_as_fit() {
    const ARENAS: usize = if cfg!(miri) { 1 } else { 4 };
    let mut arenas = grown(&OsPages, ARENAS);
    let mut seen = std::collections::BTreeSet::new();
    while let Some(pool) = arenas.take_pool() {
        assert!(pool.zero && pool.base.addr().get().is_multiple_of(POOL_SIZE));
        // SAFETY: the slot of a taken pool is its owner's.
        let slot = unsafe { crate::slot_of(pool.base).cast::<[u8; 256]>().read() };
        assert!(slot.iter().all(|&byte| byte == 0));
        assert!(seen.insert(pool.base));
        assert_eq!(arenas.check(), Ok(()));
    }
    assert_eq!(seen.len(), ARENAS * USABLE_POOLS);
    assert_eq!(arenas.pools_in_use(), seen.len());
    // SAFETY: no pool is used.
    unsafe { arenas.unmap_all(&OsPages) };
}

#[test]
fn a_pool_comes_from_the_fullest_arena() {
    let mut arenas = grown(&OsPages, 2);
    let pools = take_all(&mut arenas);
    let (first, second) = pools.split_at(USABLE_POOLS);
    // One free pool in the second arena, three in the first.
    for pool in first[..3].iter().chain(&second[..1]) {
        // SAFETY: taken above, put back once.
        unsafe { arenas.put_pool(*pool, 0) };
    }
    assert_eq!(arenas.take_pool().unwrap().base, second[0]);
    assert!(first[..3].contains(&arenas.take_pool().unwrap().base));
    assert_eq!(arenas.check(), Ok(()));
    // SAFETY: no pool is used.
    unsafe { arenas.unmap_all(&OsPages) };
}

#[test]
fn empty_arenas_beyond_the_reserve_go_back_and_their_chunk_with_the_last() {
    let pages = FailingPages::new(OsPages, usize::MAX, 0);
    let mut arenas = grown(&pages, 4);
    for pool in take_all(&mut arenas) {
        // SAFETY: taken above, put back once.
        unsafe { arenas.put_pool(pool, 5) };
    }
    assert!(arenas.detach_empty(0, 4).is_none(), "younger than asked for");
    assert_eq!(arenas.empty_arenas(), 4);
    // The first arena keeps the page with the chunk's header.
    let bytes = give_back(&mut arenas, &pages, 1);
    assert!(bytes >= 3 * ARENA_SIZE - 4096 && arenas.arenas() == 1);
    assert_eq!(take_all(&mut arenas).len(), 4 * USABLE_POOLS, "idle arenas come back");
    let mut taken = Vec::new();
    arenas.for_each_taken(|pool| taken.push(pool));
    for pool in taken {
        // SAFETY: taken above, put back once.
        unsafe { arenas.put_pool(pool, 5) };
    }
    give_back(&mut arenas, &pages, 0);
    assert_eq!((arenas.arenas(), arenas.reserved_bytes(), pages.mapped_bytes()), (0, 0, 0));
}

#[test]
fn free_pools_in_a_live_arena_are_purged_by_64_kib_and_read_zero_again() {
    let mut arenas = grown(&OsPages, 1);
    let pools = take_all(&mut arenas);
    for pool in &pools {
        // SAFETY: 16 KiB that this test owns.
        unsafe { pool.write_bytes(0xEE, POOL_SIZE) };
    }
    // Pools 4..=7 are one aligned run; 9 alone is not enough.
    for index in [4, 5, 6, 7, 9] {
        // SAFETY: taken above, put back once.
        unsafe { arenas.put_pool(pools[index - 1], 0) };
    }
    let detached = arenas.detach_pools(0).unwrap();
    assert_eq!(arenas.check(), Ok(()));
    // SAFETY: mapped from this source.
    assert_eq!(unsafe { detached.purge(&OsPages) }, 4 * POOL_SIZE);
    // SAFETY: detached from there, and purged.
    unsafe { arenas.reattach_pools(detached, true) };
    assert_eq!(arenas.check(), Ok(()));
    assert!(arenas.detach_pools(0).is_none());
    assert!(!arenas.take_pool().unwrap().zero, "a resident pool is taken first");
    let pool = arenas.take_pool().unwrap();
    assert!(pool.zero);
    // SAFETY: 16 KiB that this test owns.
    let bytes = unsafe { core::slice::from_raw_parts(pool.base.as_ptr(), POOL_SIZE) };
    assert!(bytes.iter().all(|&byte| byte == 0));
    // SAFETY: no pool is used.
    unsafe { arenas.unmap_all(&OsPages) };
}

#[test]
fn a_source_that_refuses_large_chunks_serves_smaller_ones() {
    let mut memory = vec![0u8; 3 << 20];
    let pages = FixedPages::new(&mut memory);
    let mut arenas = Arenas::new();
    while let Some(chunk) = MappedChunk::map(&pages, 32) {
        // SAFETY: the memory outlives the arenas.
        unsafe { arenas.add_chunk(chunk) };
    }
    // Two or three mebibytes of it, as its alignment falls.
    let count = take_all(&mut arenas).len();
    assert!(count == USABLE_POOLS || count == 2 * USABLE_POOLS || count == 3 * USABLE_POOLS);
    assert_eq!(arenas.check(), Ok(()));
}

#[test]
fn an_address_is_told_from_any_other() {
    let mut arenas = grown(&OsPages, 2);
    let pool = arenas.take_pool().unwrap().base.addr().get();
    assert!(arenas.contains(pool) && arenas.contains(pool + POOL_SIZE - 1));
    assert!(!arenas.contains(pool & !(ARENA_SIZE - 1)), "metadata");
    assert!(!arenas.contains(pool + ARENA_SIZE), "idle arena");
    assert!(
        !arenas.contains(0)
            && !arenas.contains(usize::MAX)
            && !arenas.contains(&raw const arenas as usize)
    );
    // SAFETY: no pool is used.
    unsafe { arenas.unmap_all(&OsPages) };
}

#[test]
fn runs_are_whole_and_aligned() {
    assert_eq!(full_runs(0), 0);
    assert_eq!(full_runs(0b1110), 0b1110, "the first run has no pool 0");
    assert_eq!(full_runs(0b1111_0110), 0b1111_0000);
    assert_eq!(full_runs(ALL_POOLS), ALL_POOLS);
    let mut pools = 1u64;
    for _ in 0..if cfg!(miri) { 10 } else { 10_000 } {
        pools =
            pools.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Dense enough for runs to be there.
        let pools = (pools | pools.rotate_left(7) | pools.rotate_left(23)) & ALL_POOLS;
        let runs = (0..16).map(|run| (0xF << (4 * run)) & ALL_POOLS);
        let full = runs.filter(|run| pools & run == *run).fold(0, |all, run| all | run);
        assert_eq!(full_runs(pools), full, "{pools:b}");
    }
}

/// A source that can be told to take nothing back.
struct Keeping(core::cell::Cell<bool>);

// SAFETY: forwards to a source that keeps the contract; what it refuses it leaves as it is.
unsafe impl PageSource for Keeping {
    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        OsPages.map(len, align)
    }
    unsafe fn unmap(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { OsPages.unmap(start, len) }
    }
    unsafe fn purge(&self, start: NonNull<u8>, len: usize) -> bool {
        // SAFETY: the caller's promise.
        !self.0.get() && unsafe { OsPages.purge(start, len) }
    }
}

#[test]
fn what_is_old_enough_is_found_once_behind_what_is_not() {
    let source = Keeping(core::cell::Cell::new(false));
    let mut arenas = grown(&source, 8);
    let pools = take_all(&mut arenas);
    // One pool of each arena stays in use; every other arena is old.
    for (number, arena) in pools.chunks(USABLE_POOLS).enumerate() {
        for pool in &arena[1..] {
            // SAFETY: taken above, put back once.
            unsafe { arenas.put_pool(*pool, if number % 2 == 0 { 10 } else { 20 }) };
        }
        assert_eq!(arenas.check(), Ok(()));
    }
    assert!(arenas.is_purgeable() && arenas.detach_pools(9).is_none());
    for refuse in [true, false] {
        source.0.set(refuse);
        let mut found = 0;
        while let Some(pools) = arenas.detach_pools(10) {
            // SAFETY: mapped from this source.
            let purged = unsafe { pools.purge(&source) };
            // SAFETY: detached from there.
            unsafe { arenas.reattach_pools(pools, purged > 0) };
            assert_eq!(arenas.check(), Ok(()));
            found += 1;
        }
        assert_eq!(found, 4, "each of the old ones, once");
        // What was refused is asked for again after another pool became free.
        for arena in pools.chunks(USABLE_POOLS).step_by(2).filter(|_| refuse) {
            // SAFETY: taken above; put back once, as the last of its arena.
            unsafe { arenas.put_pool(arena[0], 10) };
        }
    }
    assert_eq!(arenas.empty_arenas(), 4);
    assert!(arenas.detach_empty(4, 10).is_none() && arenas.detach_empty(3, 10).is_some());
    // SAFETY: no pool is used.
    unsafe { arenas.unmap_all(&OsPages) };
}
