//! Visits to a thread's cache of large blocks: who may use it, and how it is emptied.
//!
//! The owner visits on every allocation and free above 4 KiB, and where an array of those from 1 KiB
//! on is empty or full; any thread visits the caches of threads that rest, to give back what they
//! keep (`turn` says how the two stay apart).
//!
//! It does not decide what is cached: that is `fallback`.

use crate::cache::Cache;
use crate::large_class::LargeClass;
use crate::latency::{self, Path};
use crate::mid_class::CacheBin;
use crate::prefetch::fetch;
use crate::watch::HeldDrain;
use crate::{depot, fallback, glibc_heap, purge, spans, thread, watch};
use alloc_core::Block;
use core::alloc::Layout;
use core::iter;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

/// Bytes that a thread had in use for it to look at the end of its heap.
const MUCH: usize = 1 << 20;

/// How often a thread that leaves asks for its own cache before it goes without.
const RETIRE_TRIES: u32 = 64;

/// Gives a cached block back to the registered fallback.
pub(crate) fn free_erased(class: LargeClass, block: Block) {
    free_to_registered(class, block);
    thread::note_freed(class.size());
}

/// Gives a block back to its span or the registered fallback, which is counted already.
pub(crate) fn free_to_registered(class: LargeClass, block: Block) {
    // SAFETY: a free block of that class (invariant 1 of the cache), and the caller's.
    if unsafe { spans::give(class, &mut [block]) } > 0 {
        free_layout_to_registered(block, class.layout());
    }
}

/// The same for blocks of 513 to 4,096 bytes.
pub(crate) fn free_mids_to_registered(class: LargeClass, blocks: &mut [Block]) {
    // SAFETY: free blocks of that class (invariant 2 of the cache), and the caller's.
    let others = unsafe { spans::give(class, blocks) };
    let Some(blocks) = blocks.get(..others) else { return };
    // Other work came since the oldest were freed. Allocators write to a block that is freed, to
    // the word before it and, glibc for one, to what follows it.
    for block in blocks {
        fetch(block.as_ptr().wrapping_sub(size_of::<usize>()));
        fetch(block.as_ptr().wrapping_add(class.size()));
    }
    for block in blocks {
        free_layout_to_registered(*block, class.layout());
    }
}

/// Gives back what the registered fallback gave for a layout.
pub(crate) fn free_layout_to_registered(memory: NonNull<u8>, layout: Layout) {
    // Acquire: pairs with the Release of `most_steps` after it was registered. The block was cached
    // because somebody saw that, Relaxed, here or before it came here by a lock or a turn.
    fence(Ordering::Acquire);
    // Acquire: pairs with the Release in `register`.
    let registered = fallback::REGISTERED.load(Ordering::Acquire);
    // SAFETY: blocks are cached only once a fallback is registered, and it lives for good.
    let dealloc = unsafe { (*registered).dealloc };
    latency::timed(Path::Fallback, || {
        // USER CODE: a fallback's.
        // SAFETY: memory of that fallback, allocated with that layout.
        unsafe { dealloc(registered, memory.as_ptr(), layout) }
    });
}

/// Gives everything in a thread's cache of the fallback's blocks back. Returns bytes; 0 if another
/// thread is at it, or the cache is in use by its owner.
pub(crate) fn flush(cache: &'static Cache) -> usize {
    glibc_heap::trimming(|| {
        flush_mids(cache, false) + Visit::of_owner(cache).map_or(0, |visit| visit.flush())
    })
}

/// The part of it that needs no visit: blocks in arrays.
fn flush_mids(cache: &'static Cache, pass_on: bool) -> usize {
    let mut bytes = 0;
    for bin in CacheBin::mids().filter(|bin| cache.has_mid(*bin)) {
        let free = |class: LargeClass, blocks: &mut [Block]| {
            bytes += class.size() * blocks.len();
            free_mids_to_registered(class, blocks);
        };
        // SAFETY: the caller's own cache, or nobody's.
        unsafe { cache.give_mid(bin, u32::MAX, pass_on, |_, _| 0, free) };
    }
    bytes
}

/// Empties the cache of a thread that leaves, and what it was granted.
pub(crate) fn retire(cache: &'static Cache) {
    flush_mids(cache, true);
    let Some(visit) = Visit::of_patient_owner(cache) else { return };
    visit.pass_on(|len| len);
    let had_much = cache.large.peak() >= MUCH;
    drop(visit);
    let empty = || {
        if let Some(visit) = Visit::of_patient_owner(cache) {
            visit.flush();
            cache.large.forget();
        }
    };
    if had_much {
        // Begun without a visit: it may wait for glibc.
        glibc_heap::trimming(|| {
            empty();
            glibc_heap::trim_own();
        });
    } else {
        empty();
    }
}

/// Gives back what other threads' caches hold, as far as they are not in use right now.
pub(crate) fn flush_others() -> usize {
    visit_others(|cache| cache.large.cached() > 0, Visit::flush)
}

/// Gives back half of what lay untouched in the calling thread's cache since the last sweep, and of
/// arrays all of it: each block of a span, or a pool, holds all of it. Nothing where it is in use:
/// then the next tick tries again.
pub(crate) fn sweep(cache: &'static Cache, now: u64) {
    let Some(visit) = Visit::of_owner(cache) else { return };
    cache.set_swept_at(now);
    let had_alone = cache.large.has_alone();
    visit.sweep();
    cache.compare_sooner();
    let round = glibc_heap::round();
    let is_new = cache.round.replace(round) != round && cache.large.peak() >= MUCH;
    // Whoever looks later would find nothing to free in this thread's heap.
    let is_new = is_new || had_alone && !cache.large.has_alone();
    drop(visit);
    if is_new {
        glibc_heap::trim_own();
    }
    give_resting_mids(cache);
    // SAFETY: the caller's own cache.
    unsafe { cache.settle_at_sweep() };
}

/// Before a thread makes more spans: gives back what lies in its cache of sizes that have them and
/// were not used since it did so last. Each such block keeps all of its span from other sizes.
#[cold]
pub(crate) fn settle_mids(cache: &'static Cache) {
    let Some(visit) = Visit::of_owner(cache) else { return };
    visit.cache.large.for_each_resting(spans::may_have, |class, count| visit.give(class, count));
    drop(visit);
    give_resting_mids(cache);
}

/// Gives back what lies in arrays of the calling thread that were not used since this was done last.
fn give_resting_mids(cache: &'static Cache) {
    cache.forget_spans();
    for bin in CacheBin::mids().filter(|bin| cache.rests(*bin)) {
        // SAFETY: the caller's own cache.
        unsafe { cache.give_mid(bin, u32::MAX, false, |_, _| 0, free_mids_to_registered) };
    }
    if let Some(drain) = watch::hold_drain(cache) {
        give_drained(cache, &drain, |bin| drain.rests(bin));
    }
}

/// Gives back what lies in some arrays of the calling thread's drain. Returns bytes.
fn give_drained(
    cache: &'static Cache,
    drain: &HeldDrain,
    which: impl Fn(CacheBin) -> bool,
) -> usize {
    let mut bytes = 0;
    for bin in CacheBin::mids().filter(|bin| which(*bin)) {
        // Given up, all that was in it was restored, and the thread may have another.
        if !drain.is_given_up() {
            watch::restore_left_mid(cache, bin);
        }
        let free = |class: LargeClass, blocks: &mut [Block]| {
            bytes += class.size() * blocks.len();
            free_mids_to_registered(class, blocks);
        };
        // SAFETY: the caller's too.
        unsafe { drain.give_mid(bin, u32::MAX, false, |_, _| 0, free) };
    }
    bytes
}

/// As [`flush`], of the calling thread's drain; blocks of size classes are not among them.
pub(crate) fn flush_drain(cache: &'static Cache, drain: &HeldDrain) -> usize {
    glibc_heap::trimming(|| give_drained(cache, drain, |bin| drain.has_mid(bin)))
}

/// Gives back what lies in the calling thread's cache if it was not touched for so long, and sweeps
/// those of others. Returns bytes.
pub(crate) fn sweep_resting(now: u64, delay_ms: u64) -> usize {
    let own = thread::own().and_then(Visit::of_owner);
    let bytes = own.map_or(0, |visit| match visit.rests(now, delay_ms) {
        true => visit.flush(),
        false => {
            visit.cache.large.tighten();
            0
        }
    });
    bytes + sweep_others(now, 2 * thread::SWEEP_MS)
}

/// Sweeps the caches of threads that did not do so themselves for a while. Returns bytes given back.
pub(crate) fn sweep_others(now: u64, idle_ms: u64) -> usize {
    // Asked before the visit, which keeps the owner out and costs a system call.
    let is_due = |cache: &Cache| now.saturating_sub(cache.swept_at()) >= idle_ms;
    visit_others(is_due, |visit| {
        visit.cache.set_swept_at(now);
        if visit.rests(now, idle_ms) { visit.flush() } else { visit.sweep() }
    })
}

/// Bytes of blocks above 512 bytes that all threads cache or may come to cache unseen, but for
/// those in arrays.
pub(crate) fn granted() -> usize {
    let mut bytes = 0;
    thread::for_each_cache(|cache| bytes += cache.large.granted());
    bytes
}

fn visit_others(is_due: impl Fn(&Cache) -> bool, mut f: impl FnMut(&Visit) -> usize) -> usize {
    let mut bytes = 0;
    thread::for_each_cache(|cache| {
        if cache.large.granted() > 0 && is_due(cache) {
            // Begun before the visit: it may wait for glibc.
            bytes += glibc_heap::trimming(|| Visit::of_another(cache).map_or(0, |visit| f(&visit)));
        }
    });
    bytes
}

/// A cache of large blocks that this thread alone may use until the visit ends.
pub(crate) struct Visit {
    pub(crate) cache: &'static Cache,
    owner: bool,
}

impl Visit {
    #[inline]
    pub(crate) fn of_owner(cache: &'static Cache) -> Option<Visit> {
        // Not `then_some`: a visit that never began must not be ended.
        cache.large.turn.enter().then(|| Visit { cache, owner: true })
    }

    /// The same for a thread that leaves: another may be at it. Its visit is short, and in a child of
    /// fork it may never end: what is left then waits for the next visit.
    #[cold]
    fn of_patient_owner(cache: &'static Cache) -> Option<Visit> {
        for _ in 0..RETIRE_TRIES {
            if let Some(visit) = Visit::of_owner(cache) {
                return Some(visit);
            }
            // SAFETY: always callable.
            unsafe { libc::sched_yield() };
        }
        None
    }

    #[cold]
    fn of_another(cache: &'static Cache) -> Option<Visit> {
        cache.large.turn.claim().then(|| Visit { cache, owner: false })
    }

    /// Gives cached blocks back, the largest first, until the bound holds with `live` bytes in use.
    pub(crate) fn shrink(&self, live: usize) {
        let mut excess = self.cache.large.excess(live);
        while excess > 0 {
            let Some((class, block)) = self.cache.large.pop_largest() else { return };
            free_erased(class, block);
            excess = excess.saturating_sub(class.size());
        }
    }

    /// Leaves `share` of the cached blocks of each class to threads that asked for some.
    pub(crate) fn pass_on(&self, share: impl Fn(u32) -> u32) {
        for class in self.cache.large.filled() {
            if depot::is_wanted(class, self.cache.who()) {
                self.pass_class(class, None, share(self.cache.large.len(class)));
            }
        }
    }

    /// Leaves a block that was freed, which is not in the cache, and up to `count` cached ones of its
    /// class to threads that asked for some. Returns how many found room, the freed one first.
    pub(crate) fn pass_class(&self, class: LargeClass, freed: Option<Block>, count: u32) -> usize {
        let cached = iter::from_fn(|| self.cache.large.pop(class)).take(count as usize);
        let mut blocks = [const { MaybeUninit::uninit() }; depot::BATCH];
        let mut filled = 0;
        for (slot, block) in blocks.iter_mut().zip(freed.into_iter().chain(cached)) {
            slot.write(block);
            filled += 1;
        }
        let Some(blocks) = blocks.get(..filled) else { return 0 };
        // SAFETY: blocks of that class, the caller's and out of this cache.
        let given = unsafe { depot::give(class, blocks) };
        self.cache.note_bytes(-(class.size() * given).cast_signed());
        for block in blocks.iter().skip(given.max(freed.iter().count())) {
            // SAFETY: written above.
            let block = unsafe { block.assume_init() };
            // SAFETY: a block of that class, out of this cache, that did not go.
            if !unsafe { self.cache.large.push(class, block) } {
                free_erased(class, block);
            }
        }
        given
    }

    fn flush(&self) -> usize {
        let bytes = self.cache.large.cached();
        while let Some((class, block)) = self.cache.large.pop_largest() {
            free_erased(class, block);
        }
        self.cache.large.tighten();
        bytes
    }

    /// Whether much lies in the cache, and none of it was touched for so long.
    fn rests(&self, now: u64, delay_ms: u64) -> bool {
        let (noted_at, allocs) = self.cache.large.noted.get();
        self.cache.large.cached() >= purge::TOO_FEW
            && now.saturating_sub(noted_at) >= delay_ms
            && self.cache.fallback_taken() == allocs
    }

    /// Gives back half of what lay untouched since the last sweep.
    fn sweep(&self) -> usize {
        let before = self.cache.large.cached();
        let live = self.cache.fallback_live();
        self.cache.large.sweep(live, |class, idle| self.give(class, idle.div_ceil(2)));
        before.saturating_sub(self.cache.large.cached())
    }

    /// Gives `count` cached blocks of a class back.
    fn give(&self, class: LargeClass, count: u32) {
        for _ in 0..count {
            let Some(block) = self.cache.large.pop(class) else { return };
            free_erased(class, block);
        }
    }
}

impl Drop for Visit {
    #[inline]
    fn drop(&mut self) {
        if self.owner {
            self.cache.large.turn.leave();
        } else {
            self.cache.large.turn.unclaim();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_that_is_refused_does_not_end_the_one_that_runs() {
        static CACHE: Cache = Cache::new();
        let running = Visit::of_owner(&CACHE).unwrap();
        for _ in 0..2 {
            assert!(Visit::of_owner(&CACHE).is_none(), "the owner is in the middle of something");
        }
        drop(running);
        crate::membarrier::register();
        let Some(other) = Visit::of_another(&CACHE) else {
            return assert!(!crate::membarrier::heavy_fence(), "refused for no reason");
        };
        for _ in 0..2 {
            assert!(Visit::of_another(&CACHE).is_none() && Visit::of_owner(&CACHE).is_none());
        }
        drop(other);
        assert!(Visit::of_owner(&CACHE).is_some());
    }
}
