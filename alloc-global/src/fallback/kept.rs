//! What a thread keeps of the fallback's blocks in lists, those above 1 KiB: taking them, putting
//! them back, moving between them, counting.
//!
//! The calling thread's own cache only; visits keep others out of it (`visit`). It does not call
//! the fallback but to give a block back that there is no room for.

use super::{LEFT_TO_GLIBC, MOVES_PAGES};
use crate::cache::{Cache, bump};
use crate::large_class::LargeClass;
use crate::mid_class::{counted_bytes, has_list};
use crate::visit::{Visit, free_erased};
use crate::{config, depot, purge, thread};
use alloc_core::Block;
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// Cached allocations between two looks at the clock.
const LOOK: u64 = 64;

/// Lets a thread's cache make way for bytes that come fresh from the fallback. Returns what is in
/// use without them.
pub(super) fn make_way(cache: Option<&'static Cache>, bytes: usize) -> usize {
    let Some(visit) = cache.and_then(Visit::of_owner) else { return 0 };
    let live = visit.cache.own_fallback_live();
    visit.shrink(live.saturating_add(bytes));
    let alone = if bytes > LEFT_TO_GLIBC { visit.cache.large.take_alone() } else { None };
    drop(visit);
    if let Some((class, block)) = alone {
        free_erased(class, block);
    }
    live
}

/// Works out how much this thread's cache may hold after a free of `size` bytes, which `live` no
/// longer has in it. If it holds much, sees to it that somebody looks when that is due to go back.
pub(super) fn ask_room(cache: &'static Cache, live: usize, size: usize) {
    let now = purge::now();
    if let Some(visit) = Visit::of_owner(cache) {
        let large = &visit.cache.large;
        // Not once for all: a thread may get its cache while the first one still reads the settings.
        large.set_limit(config::fallback_cache());
        large.grant(live, size);
        large.noted.set((now, cache.fallback_taken()));
    }
    // With the block that is about to be put in: the next ones may find room without a question.
    if purge::note_cached(cache.large.cached() + size, now) {
        thread::look_for_due(now);
    }
}

/// The most bytes that this thread had in use of late, `live` now.
pub(super) fn most_in_use(live: usize) -> usize {
    let visit = thread::attached().and_then(Visit::of_owner);
    visit.map_or(live, |visit| visit.cache.large.peak().max(live))
}

/// Caches a freed block that glibc is to have, until the next one is freed or a large one is asked
/// for: whoever empties the cache has something to free then in the heap of this thread, and only a
/// free gives back what is free at its end (`glibc_heap`).
///
/// # Safety
///
/// As for [`push`].
pub(super) unsafe fn hold_alone(
    cache: &'static Cache,
    class: LargeClass,
    block: Block,
    size: usize,
    live: usize,
) -> bool {
    let Some(visit) = Visit::of_owner(cache) else { return false };
    let before = visit.cache.large.take_alone();
    visit.cache.large.hold_alone(class);
    drop(visit);
    if let Some((class, block)) = before {
        free_erased(class, block);
    }
    ask_room(cache, live, size);
    // SAFETY: the caller's promise.
    unsafe { push(class, block, size) }
}

/// Tells this thread's cache what is in use, after a block came fresh from the fallback.
pub(super) fn note_fresh(class: Option<LargeClass>, live: usize) {
    if let Some(visit) = thread::attached().and_then(Visit::of_owner) {
        visit.cache.large.note_fresh(class, live);
    }
}

/// The same after the fallback made a block of this class out of one of another.
pub(super) fn note_grown(class: Option<LargeClass>, live: usize) {
    if let Some(visit) = thread::attached().and_then(Visit::of_owner) {
        visit.cache.large.note_grown(class, live);
    }
}

/// Takes a cached block of a class, of which `size` bytes are counted. Also this thread's cache, and
/// whether it is time to look at the clock.
#[inline]
pub(super) fn pop(class: LargeClass, size: usize) -> Option<(Block, &'static Cache, bool)> {
    let cache = thread::home();
    let visit = Visit::of_owner(cache)?;
    let block = cache.large.pop(class)?;
    drop(visit);
    let allocs = bump(&cache.counters.fallback_allocs, 1);
    bump(&cache.counters.fallback_bytes_in, size as u64);
    Some((block, cache, allocs.is_multiple_of(LOOK)))
}

#[cold]
#[inline(never)]
pub(super) fn look_and_return(cache: &'static Cache, block: Block) -> *mut u8 {
    if let Some(visit) = Visit::of_owner(cache) {
        visit.cache.large.tighten();
    }
    thread::tick(cache);
    block.as_ptr()
}

/// Caches a freed block, of which `size` bytes were counted, if there is room.
///
/// # Safety
///
/// It is a free block of that class of the registered fallback, and the caller's, who gives it up
/// if it was kept.
#[inline]
pub(super) unsafe fn push(class: LargeClass, block: Block, size: usize) -> bool {
    let cache = thread::home();
    let Some(visit) = Visit::of_owner(cache) else { return false };
    // SAFETY: the caller's promise.
    if !unsafe { cache.large.push(class, block) } {
        return false;
    }
    drop(visit);
    bump(&cache.counters.fallback_frees, 1);
    bump(&cache.counters.fallback_bytes_out, size as u64);
    true
}

/// The most blocks of a class that are taken from the depot at once.
const fn batch(class: LargeClass) -> usize {
    match (128 << 10) / class.size() {
        0 => 1,
        fit @ 1..8 => fit,
        8.. => 8,
    }
}

/// Takes a block of a class, of which `size` bytes are counted, and some for the cache, that other
/// threads left in the depot.
pub(super) fn take_passed_on(class: LargeClass, size: usize) -> Option<Block> {
    let who = thread::attached()?.who();
    if !depot::is_stocked(class, who) {
        return None;
    }
    let cache = thread::for_slow_alloc()?;
    let room = {
        let visit = Visit::of_owner(cache)?;
        let large = &visit.cache.large;
        large.set_limit(config::fallback_cache());
        let live = cache.own_fallback_live();
        large.grant(live, 0);
        large.open(class);
        large.room(class, live)
    };
    let mut blocks = [const { MaybeUninit::uninit() }; 8];
    let blocks = blocks.get_mut(..room.clamp(1, batch(class)))?;
    let taken = depot::take(class, who, blocks);
    let (newest, others) = blocks.get(..taken)?.split_last()?;
    cache.note_bytes((class.size() * taken).cast_signed());
    // SAFETY: they came from the depot: free blocks of that class.
    unsafe { put_back(cache, class, others) };
    bump(&cache.counters.fallback_allocs, 1);
    bump(&cache.counters.fallback_bytes_in, size as u64);
    // SAFETY: the depot wrote it.
    Some(unsafe { newest.assume_init() })
}

/// Leaves a freed block, of which `size` bytes were counted and for which this thread's cache
/// has no room, to threads that asked for some, and what the cache has of each class that they
/// asked for, or half of that where this thread has blocks in use: there is room for a while then.
pub(super) fn pass_on(
    cache: &'static Cache,
    class: LargeClass,
    block: Block,
    size: usize,
    live: usize,
) -> bool {
    if !depot::is_wanted(class, cache.who()) {
        return false;
    }
    let Some(visit) = Visit::of_owner(cache) else { return false };
    let share = |len: u32| if live > 0 { len.div_ceil(2) } else { len };
    if visit.pass_class(class, Some(block), share(cache.large.len(class))) == 0 {
        return false;
    }
    bump(&cache.counters.fallback_frees, 1);
    bump(&cache.counters.fallback_bytes_out, size as u64);
    cache.large.open(class);
    visit.pass_on(share);
    true
}

/// Puts blocks that the array of a bin above 64 has no room for into this thread's cache. How many
/// found room, the first ones.
///
/// # Safety
///
/// They are free blocks of that class of the registered fallback, and the caller's, who gives up
/// those that were kept.
pub(super) unsafe fn keep_mids(
    cache: &'static Cache,
    class: LargeClass,
    blocks: &[MaybeUninit<Block>],
) -> usize {
    if !has_list(class) {
        return 0;
    }
    let live = cache.own_fallback_live();
    ask_room(cache, live, 0);
    let Some(visit) = Visit::of_owner(cache) else { return 0 };
    let large = &visit.cache.large;
    let room = large.room(class, live);
    let keep = |block: &&MaybeUninit<Block>| {
        // SAFETY: the caller's promise.
        let block = unsafe { block.assume_init() };
        // SAFETY: the caller's promise.
        unsafe { large.push(class, block) }
    };
    blocks.iter().take(room).take_while(keep).count()
}

/// Takes such blocks out again, the newest last. How many.
pub(super) fn take_mids(
    cache: &'static Cache,
    class: LargeClass,
    places: &mut [MaybeUninit<Block>],
) -> usize {
    let Some(visit) = Visit::of_owner(cache) else { return 0 };
    let large = &visit.cache.large;
    let mut count = 0;
    for place in &mut *places {
        let Some(block) = large.pop(class) else { break };
        place.write(block);
        count += 1;
    }
    if let Some(taken) = places.get_mut(..count) {
        taken.reverse();
    }
    count
}

/// Puts blocks into this thread's cache that had room for them just now.
///
/// # Safety
///
/// They are free blocks of that class of the registered fallback, and the caller's, who gives them
/// up.
unsafe fn put_back(cache: &'static Cache, class: LargeClass, blocks: &[MaybeUninit<Block>]) {
    let visit = Visit::of_owner(cache);
    for block in blocks {
        // SAFETY: the caller's promise.
        let block = unsafe { block.assume_init() };
        // SAFETY: the caller's promise.
        let push = |visit: &Visit| unsafe { visit.cache.large.push(class, block) };
        if !visit.as_ref().is_some_and(push) {
            free_erased(class, block);
        }
    }
}

/// Moves a block below 128 KiB into a cached one of the new class, if there is one.
///
/// # Safety
///
/// As for [`Fallback::realloc`]; `old` and `class` are those of the two layouts.
pub(super) unsafe fn move_cached(
    block: *mut u8,
    layout: Layout,
    new: Layout,
    old: LargeClass,
    class: LargeClass,
) -> Option<*mut u8> {
    if old.size() >= MOVES_PAGES {
        return None;
    }
    let (moved, cache, look) = pop(class, counted_bytes(new))?;
    if look {
        thread::tick(cache);
    }
    // SAFETY: both blocks are at least as large, and distinct.
    unsafe { thread::copy_moved(block, moved.as_ptr(), layout.size().min(new.size())) };
    // SAFETY: the caller's contract: not null.
    let left = unsafe { NonNull::new_unchecked(block) };
    // SAFETY: the block that was moved from: of class `old`, and nobody uses it any more.
    if !unsafe { push(old, left, counted_bytes(layout)) } {
        thread::count(|c| &c.fallback_frees, 1);
        thread::count(|c| &c.fallback_bytes_out, counted_bytes(layout) as u64);
        free_erased(old, left);
    }
    Some(moved.as_ptr())
}

pub(super) fn count_change(old: Layout, new: Layout) {
    thread::count(|c| &c.fallback_bytes_in, counted_bytes(new) as u64);
    thread::count(|c| &c.fallback_bytes_out, counted_bytes(old) as u64);
}
