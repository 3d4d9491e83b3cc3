//! The heaps that all threads share: bins by heap and class, each with a lock, over one set of arenas.
//!
//! ```text
//! thread caches     [ ][ ][ ][ ][ ][ ]          half an array at a time
//!                     \  |  /  \  |  /
//! depot             a shelf per class           what one thread frees and another asked for stays here (`depot`)
//!                     \  |  /  \  |  /
//! heaps             heap 0 ... heap 3           a lock per heap and class
//!                          \  /
//! arenas                one lock                a pool at a time
//!                           |
//! page source           no lock held            a chunk at a time
//! ```
//!
//! No pool belongs to a thread. A block goes back to the heap whose number its pool's descriptor
//! carries, whoever frees it; so nothing is adopted when a thread ends, and there are no
//! lists of remote frees.
//!
//! Invariants (beside those of alloc-core):
//!
//! 1. All pools of bin `[heap][class]` carry that class and the owner `heap`.
//! 2. All pools come from `ARENAS`, all chunks from `OsPages`.
//! 3. No lock is held during a system call, and never two at once; excepted are a fork and who
//!    looks at all of it at one moment (`with_all_locked`), who both take them all, in one order.

use crate::fatal::Line;
use crate::latency::{self, Path};
use crate::lock::Lock;
use crate::shelf::Who;
use crate::{huge, purge, thread};
use alloc_core::{
    Arenas, Bin, Block, CLASS_TABLE, Emptied, Fault, MappedChunk, OsPages, SizeClass, Usage,
    owner_of,
};
use core::mem::MaybeUninit;
use crossbeam_utils::CachePadded;

mod depot;

/// Number of heaps. Threads are spread over them; docs/scaling.md says how many cores that carries.
pub(crate) const HEAPS: usize = 4;

type Bins = [CachePadded<Lock<Bin>>; CLASS_TABLE];

static BINS: [Bins; HEAPS] =
    [const { [const { CachePadded::new(Lock::new(Bin::new())) }; CLASS_TABLE] }; HEAPS];

static ARENAS: CachePadded<Lock<Arenas>> = CachePadded::new(Lock::new(Arenas::new()));

fn bin(heap: u8, class: SizeClass) -> Option<&'static Lock<Bin>> {
    Some(BINS.get(heap as usize)?.get(class.index())?)
}

/// Takes blocks for the end of `out`: what other threads passed on, and where that is less than
/// half of it, blocks out of pools, lowest address last, before them. Returns how many: at least
/// one unless the system has no more memory.
pub(crate) fn take(heap: u8, who: Who, class: SizeClass, out: &mut [MaybeUninit<Block>]) -> usize {
    let passed = depot::take(class, who, out);
    let rest = out.len() - passed;
    if rest <= passed {
        return passed;
    }
    let Some(out) = out.get_mut(..rest) else { return passed };
    passed + take_sorted(heap, class, out)
}

/// Takes blocks out of pools.
pub(crate) fn take_sorted(heap: u8, class: SizeClass, out: &mut [MaybeUninit<Block>]) -> usize {
    let Some(bin) = bin(heap, class) else { return 0 };
    let taken = bin.lock().take(out);
    if taken > 0 { taken } else { take_grown(heap, class, bin, out) }
}

#[cold]
fn take_grown(
    heap: u8,
    class: SizeClass,
    bin: &Lock<Bin>,
    out: &mut [MaybeUninit<Block>],
) -> usize {
    thread::note_pool();
    loop {
        let pool = ARENAS.lock().take_pool();
        if let Some(pool) = pool {
            let now = purge::now();
            let mut bin = bin.lock();
            // SAFETY: just taken, so ours; class and owner are those of this bin (1).
            unsafe { bin.add_pool_at(pool, class, heap, now) };
            return bin.take(out);
        }
        if !map_chunk() {
            return take_last(class, out);
        }
    }
}

/// Maps a chunk with no lock held (3) and adds it.
fn map_chunk() -> bool {
    let (arenas, reserved) = {
        let arenas = ARENAS.lock();
        (arenas.next_chunk(), arenas.reserved_bytes())
    };
    match latency::timed(Path::Arena, || MappedChunk::map(&OsPages, arenas)) {
        Some(chunk) => {
            huge::back_chunk(&chunk, reserved);
            // SAFETY: the system's pages stay until they are given back.
            unsafe { ARENAS.lock().add_chunk(chunk) };
            true
        }
        None => false,
    }
}

/// The system has no more: empty pools that bins keep, then blocks of any other heap.
#[cold]
fn take_last(class: SizeClass, out: &mut [MaybeUninit<Block>]) -> usize {
    flush_depot();
    drain_bins(purge::now());
    map_chunk();
    for heap in 0..HEAPS as u8 {
        let Some(bin) = bin(heap, class) else { continue };
        let pool = ARENAS.lock().take_pool();
        let mut bin = bin.lock();
        if let Some(pool) = pool {
            // SAFETY: just taken, so ours; class and owner are those of this bin (1).
            unsafe { bin.add_pool_at(pool, class, heap, purge::now()) };
        }
        let taken = bin.take(out);
        if taken > 0 {
            return taken;
        }
    }
    0
}

/// Gives blocks of `class` back: to who asked for some, else each to the heap it came from. The
/// order of `blocks` is not kept. Returns whether pools became empty: then the caller, once it has
/// forgotten the blocks, is to look whether memory is due to go back (`thread::look_for_due`).
///
/// # Safety
///
/// Each came from `take` for this class, and is the caller's.
pub(crate) unsafe fn give(who: Who, class: SizeClass, blocks: &mut [Block]) -> bool {
    // SAFETY: the caller's promise.
    let rest = unsafe { depot::give(class, who, blocks) };
    let Some(rest) = blocks.get_mut(..rest) else { return false };
    // SAFETY: the caller's promise.
    unsafe { sort(class, rest, None) }
}

/// Gives a block of `class` back to the heap it came from. Returns what `give` does.
///
/// # Safety
///
/// As for [`give`].
pub(crate) unsafe fn give_one(class: SizeClass, block: Block) -> bool {
    // SAFETY: the caller's promise.
    unsafe { sort(class, &mut [block], None) }
}

/// Gives blocks of `class` back, each to the heap it came from. Pools that become empty do so now,
/// or count as empty `since` another time. The order of `blocks` is not kept.
///
/// # Safety
///
/// As for [`give`].
unsafe fn sort(class: SizeClass, mut blocks: &mut [Block], since: Option<u64>) -> bool {
    let mut emptied = false;
    while let Some(&first) = blocks.first() {
        // SAFETY: the caller's promise: it is out of a pool.
        let owner = unsafe { owner_of(first) };
        let Some(bin) = bin(owner, class) else {
            fault(Fault::NotABlock(first), class);
            return emptied;
        };
        // SAFETY: the caller's promise; class and owner are those of this bin (1).
        let given = unsafe { bin.lock().give(blocks, class, owner) };
        match since {
            None => emptied |= put_back(given.emptied),
            Some(at) => put_back_at(given.emptied, at),
        }
        if let Some(found) = given.fault {
            fault(found, class);
            return emptied;
        }
        let (others, _) = blocks.split_at_mut_checked(given.others).unwrap_or_default();
        blocks = others;
    }
    emptied
}

/// Puts pools back into their arenas. Whether there were any.
fn put_back(emptied: Emptied) -> bool {
    if emptied.is_empty() {
        return false;
    }
    let now = purge::now();
    // SAFETY: all pools come from these arenas (2).
    unsafe { emptied.put_back(&mut ARENAS.lock(), now) };
    purge::note_pending(now);
    true
}

/// Puts pools back as if they had become empty at that time.
fn put_back_at(emptied: Emptied, at: u64) {
    if !emptied.is_empty() {
        // SAFETY: all pools come from these arenas (2).
        unsafe { emptied.put_back(&mut ARENAS.lock(), at) };
    }
}

/// Gives empty arenas back to the system that have been so since `before`, all but `keep`.
/// Returns bytes.
pub(crate) fn release(keep: usize, before: u64) -> usize {
    let mut bytes = 0;
    loop {
        let arena = ARENAS.lock().detach_empty(keep, before);
        let Some(arena) = arena else { return bytes };
        // SAFETY: all chunks come from this source (2).
        let purged = unsafe { arena.purge(&OsPages) };
        bytes += purged;
        // SAFETY: detached from there.
        let chunk = unsafe { ARENAS.lock().reattach(arena, purged > 0) };
        if let Some(chunk) = chunk {
            // SAFETY: all chunks come from this source (2).
            unsafe { chunk.unmap(&OsPages) };
        }
        if purged == 0 {
            return bytes;
        }
    }
}

/// Gives free pools in arenas in use back to the system, by runs of 64 KiB, where none became free
/// after `before`. Returns bytes.
pub(crate) fn release_pools(before: u64) -> usize {
    let mut bytes = 0;
    loop {
        let pools = ARENAS.lock().detach_pools(before);
        let Some(pools) = pools else { return bytes };
        // SAFETY: all chunks come from this source (2).
        let purged = unsafe { pools.purge(&OsPages) };
        bytes += purged;
        // SAFETY: detached from there.
        unsafe { ARENAS.lock().reattach_pools(pools, purged > 0) };
    }
}

/// Sorts what lay in the depot since `before`. Pools that become empty count as free since then.
pub(crate) fn sweep_depot(before: u64) {
    depot::sweep(before, |class, blocks| {
        // SAFETY: free blocks of the class out of these heaps, and now ours (depot 1).
        unsafe { sort(class, blocks, Some(before)) };
    });
}

/// Sorts all that lies in the depot. Pools that become empty may go back at once.
fn flush_depot() {
    depot::flush(|class, blocks| {
        // SAFETY: as for `sweep_depot`.
        unsafe { sort(class, blocks, Some(0)) };
    });
}

/// Calls `f` with every block in the depot; `f` neither allocates nor frees.
pub(crate) fn for_each_in_depot(f: impl FnMut(Block)) {
    depot::for_each(f);
}

/// Blocks of a class in the depot.
pub(crate) fn blocks_in_depot(class: SizeClass) -> usize {
    depot::len(class)
}

/// Puts all empty pools that bins keep back into their arenas, as if at the time `now`.
pub(crate) fn drain_bins(now: u64) {
    for bin in BINS.iter().flatten() {
        let emptied = bin.lock().drain_empty();
        put_back_at(emptied, now);
    }
}

/// Gives everything back that is free and makes up 64 KiB or more. Returns bytes.
pub(crate) fn trim() -> usize {
    flush_depot();
    drain_bins(0);
    release(0, u64::MAX) + release_pools(u64::MAX)
}

/// Pools in use now, and the most that were at once.
pub(crate) fn pools() -> (usize, usize) {
    let arenas = ARENAS.lock();
    (arenas.pools_in_use(), arenas.peak_pools())
}

/// The most arenas that were in use at once.
pub(crate) fn peak_arenas() -> usize {
    ARENAS.lock().peak_arenas()
}

/// Whether there is memory left that could be given back later.
pub(crate) fn is_purgeable() -> bool {
    depot::is_stocked() || ARENAS.lock().is_purgeable()
}

/// Ends the process: `GlobalAlloc`'s contract was broken.
#[cold]
fn fault(fault: Fault, class: SizeClass) {
    match fault {
        Fault::DoubleFree(block) => Line::double_free(block, class.size()),
        Fault::NotABlock(block) => Line::new()
            .text("free of what is no block: ")
            .address(block.addr().get())
            .text(" size ")
            .number(class.size())
            .abort(),
        Fault::WrongClass(block, actual) => {
            Line::wrong_layout(block, actual.map_or(0, SizeClass::size), class.size())
        }
    }
}

/// Blocks out of the pools of `class`, over all heaps: in programs' hands, in caches, and in the depot.
pub(crate) fn blocks_out(class: SizeClass) -> usize {
    (0..HEAPS as u8).filter_map(|heap| bin(heap, class)).map(|bin| bin.lock().out()).sum()
}

/// Arenas in use and bytes of address space reserved for them and more.
pub(crate) fn arenas() -> (usize, usize) {
    let arenas = ARENAS.lock();
    (arenas.arenas(), arenas.reserved_bytes())
}

/// Takes every lock in one order, so that a child of `fork` finds what they guard whole.
pub(crate) fn lock_all() {
    depot::lock_all();
    BINS.iter().flatten().for_each(|bin| bin.lock_for_fork());
    ARENAS.lock_for_fork();
}

/// Frees what `lock_all` took.
pub(crate) fn unlock_all() {
    ARENAS.unlock_after_fork();
    BINS.iter().flatten().for_each(|bin| bin.unlock_after_fork());
    depot::unlock_all();
}

/// Calls `look` while nobody can change bins, pools or arenas: other threads wait at their slow paths.
///
/// `look` must neither allocate nor free, nor panic: this thread holds every lock. What it may rely
/// on: all pools are in bins that nobody uses, or have no class yet or any more.
pub(crate) fn with_all_locked<R>(look: impl FnOnce(&Arenas) -> R) -> R {
    // A handler of fork that comes after ours: the locks are the fork's to free.
    if crate::lock::holds_all() {
        return look(&ARENAS.lock());
    }
    lock_all();
    crate::lock::set_holds_all(true);
    let result = look(&ARENAS.lock());
    crate::lock::set_holds_all(false);
    unlock_all();
    result
}

/// Verifies every invariant of bins, pools and arenas while nobody can change them.
pub(crate) fn check() -> Result<Usage, &'static str> {
    with_all_locked(check_locked)
}

fn check_locked(arenas: &Arenas) -> Result<Usage, &'static str> {
    arenas.check()?;
    let mut out = [[0usize; CLASS_TABLE]; HEAPS];
    let mut breach = None;
    let mut record = |owner: u8, class: SizeClass, blocks: usize| {
        *out.get_mut(owner as usize)?.get_mut(class.index())? += blocks;
        Some(())
    };
    // SAFETY: all pools in bins, and this thread holds all locks.
    unsafe {
        arenas.for_each_pool(|pool| {
            if let Err(text) = pool.check() {
                breach = Some(text);
            }
            if record(pool.owner(), pool.class(), pool.out()).is_none() {
                breach = Some("shared 1: a pool of no heap");
            }
        })
    };
    for (heap, (bins, out)) in BINS.iter().zip(&out).enumerate() {
        for class in SizeClass::all() {
            let bin = bins.get(class.index()).ok_or("shared: no such class")?.lock();
            bin.check(class, heap as u8)?;
            if out.get(class.index()) != Some(&bin.out()) {
                breach = Some("bin 2: the number of blocks out is wrong");
            }
        }
    }
    // SAFETY: as above.
    let usage = unsafe { arenas.usage() };
    if usage.live + usage.free + usage.metadata + usage.rounding != usage.mapped {
        breach = Some("usage: the parts do not sum to the mapped bytes");
    }
    breach.map_or(Ok(usage), Err)
}
