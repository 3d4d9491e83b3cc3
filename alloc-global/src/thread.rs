//! Which cache a thread uses: found, made, and left at the thread's end.
//!
//! ```text
//!              a new thread        first slow path                key destructor, third round
//! HOME      -> NOT_ATTACHED     -> its cache                  ->  DETACHED      all slow paths
//! FREES     -> NOT_ATTACHED     -> its cache | GATED          ->  DETACHED      the fast path of free
//! ALLOCS    -> NOT_ATTACHED     -> its cache | GATED | drain  ->  DETACHED      the fast path of alloc
//! ```
//!
//! `NOT_ATTACHED`, `GATED` and `DETACHED` are caches without room, so the fast paths need no test
//! for them: every operation on them is slow, and the slow path looks closer. Allocations have a
//! word of their own so that they can be made slow alone: a thread that just freed much goes on
//! freeing at full speed, and its next allocation sees whether memory is due to go back (`purge`).
//! What a thread watches (`watch`) moves both words.
//!
//! When a thread ends its cache is emptied and waits, warm, for another thread (`caches`). The end
//! is seen by a pthread key's destructor, which runs after the destructors of Rust's thread-locals,
//! and puts itself off for two more rounds so that it comes after the keys of others. What still
//! allocates after that is served by the shared heaps, one block at a time, and counted. A thread
//! that first allocates in the last of its destructors leaves its cache behind; such caches are
//! found by the death of their thread before new ones are mapped.
//!
//! Works before `main` and after it: everything here is in constant-initialised statics.

use crate::cache::{Cache, CacheTotals, bump};
pub(crate) use crate::caches::{for_each_cache, lock_idle, unlock_idle};
use crate::mid_class::CacheBin;
use crate::{
    caches, config, fork, latency, live_file, membarrier, owner, profile, purge, purger, shared,
    stats, visit, watch,
};
use alloc_core::{Block, CLASS_TABLE, CLASSES, SizeClass, keeping_errno};
use core::cell::Cell;
use core::mem::MaybeUninit;
use core::num::NonZeroUsize;
use core::ptr::{self, null_mut};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use once_cell::race::OnceNonZeroUsize;

/// What a thread starts with.
static NOT_ATTACHED: Cache = Cache::new();
/// What a thread has after its cache was given up.
static DETACHED: Cache = Cache::new();

/// What allocations have while they are gated.
static GATED: Cache = Cache::new();

/// Allocations that may be gated each time that a thread empties pools.
const GATE: u32 = 256;

/// Milliseconds between two sweeps of a thread's cache of large blocks.
pub(crate) const SWEEP_MS: u64 = 500;

thread_local! {
    // None needs a destructor or lazy initialisation: plain thread-local words.
    static HOME: Cell<&'static Cache> = const { Cell::new(&NOT_ATTACHED) };
    static ALLOCS: Cell<&'static Cache> = const { Cell::new(&NOT_ATTACHED) };
    static FREES: Cell<&'static Cache> = const { Cell::new(&NOT_ATTACHED) };
    /// How often the key's destructor ran in this thread.
    static EXIT_ROUNDS: Cell<u8> = const { Cell::new(0) };
}

/// Rounds in which the key's destructor only asks for another one; POSIX promises four rounds.
const PUT_OFF: u8 = 2;

/// The pthread key, plus one.
static KEY: OnceNonZeroUsize = OnceNonZeroUsize::new();

/// Blocks handed out to threads without a cache, by class.
static ORPHAN_ALLOCS: [AtomicU64; CLASS_TABLE] = [const { AtomicU64::new(0) }; CLASS_TABLE];

/// The cache that this thread's allocations try first: its own, or a static without room.
#[inline(always)]
pub(crate) fn alloc_cache() -> &'static Cache {
    ALLOCS.get()
}

/// The cache that this thread's frees try first: its own, or a static without room.
#[inline(always)]
pub(crate) fn free_cache() -> &'static Cache {
    FREES.get()
}

/// This thread's cache, or a static without room.
#[inline(always)]
pub(crate) fn home() -> &'static Cache {
    HOME.get()
}

/// Points the fast paths at what this thread's mode has them use.
pub(crate) fn aim(cache: &'static Cache) {
    if cache.watch.is_every() {
        ALLOCS.set(&GATED);
        FREES.set(&GATED);
    } else {
        ALLOCS.set(cache.watch.drain().unwrap_or(cache));
        FREES.set(cache);
    }
}

/// Whether `HOME` says that this thread has no cache.
#[inline(always)]
fn is_static(cache: &'static Cache) -> bool {
    ptr::eq(cache, &raw const NOT_ATTACHED) || ptr::eq(cache, &raw const DETACHED)
}

/// This thread's cache, made or found if it has none yet; `None` after the thread gave it up and where
/// there is no memory for one.
#[inline]
pub(crate) fn attached() -> Option<&'static Cache> {
    let cache = HOME.get();
    if ptr::eq(cache, &raw const NOT_ATTACHED) {
        return attach();
    }
    if ptr::eq(cache, &raw const DETACHED) { None } else { Some(cache) }
}

/// This thread's cache, if it has one.
pub(crate) fn own() -> Option<&'static Cache> {
    Some(HOME.get()).filter(|cache| !is_static(cache))
}

/// Makes this thread's next allocations slow, so that one of them sees when memory is due to go
/// back; at most [`GATE`] of them for each step of the clock.
pub(crate) fn gate_allocs(now: u64) {
    let cache = HOME.get();
    if is_static(cache) {
        return;
    }
    if cache.gated_at.get() != now {
        cache.gated_at.set(now);
        cache.gate.set(GATE);
    }
    if cache.gate.get() > 0 {
        ALLOCS.set(&GATED);
    }
}

/// An allocation came to the gate.
#[cold]
fn pass_gate(cache: &'static Cache) {
    purge::run_if_due();
    let left = cache.gate.get().saturating_sub(1);
    cache.gate.set(left);
    if left == 0 || !purge::is_pending() {
        cache.gate.set(0);
        aim(cache);
    }
}

/// Every so many slow paths: gives back what is due.
#[cold]
pub(crate) fn tick(cache: &'static Cache) {
    purge::run_if_due();
    #[cfg(feature = "report")]
    crate::time_line::tick();
    // Where every operation is looked at there is no fast path.
    if latency::is_on() && !cache.watch.is_every() {
        probe(cache);
    }
    watch::rest_if_done(cache);
    let now = purge::now();
    if now.saturating_sub(cache.swept_at()) >= SWEEP_MS {
        visit::sweep(cache, now);
    }
}

/// Times the fast path, with a class that the cache holds a block of; another one each time.
#[cold]
fn probe(cache: &'static Cache) {
    let first = cache.ticks.get() as usize / 64 % CLASSES;
    let mut classes = SizeClass::all().cycle().skip(first).take(CLASSES);
    // SAFETY: the cache is this thread's.
    if let Some(ticks) = classes.find_map(|class| unsafe { cache.probe(class) }) {
        latency::count(latency::Path::Fast, ticks);
    }
}

/// Serves a request that the fast path could not. `index` is at most 64; 0 (a size of 0) is
/// served as class 1. `size` is what the program asked for.
#[cold]
#[inline(never)]
pub(crate) fn alloc_slow(index: usize, size: usize) -> *mut u8 {
    let Some(class) = SizeClass::from_index(index.max(1)) else { return null_mut() };
    match attached() {
        Some(cache) => {
            if cache.gate.get() > 0 {
                pass_gate(cache);
            }
            if cache.watch.is_on() {
                // SAFETY: the cache is this thread's.
                return unsafe { watch::alloc(cache, class, size) };
            }
            // SAFETY: the cache is this thread's.
            unsafe { cache.refill(class) }
        }
        None => alloc_orphan(class),
    }
}

/// This thread's cache, for an allocation that comes from the fallback: it passes the gate, and
/// counts as a slow path.
pub(crate) fn for_slow_alloc() -> Option<&'static Cache> {
    let cache = attached()?;
    if cache.gate.get() > 0 {
        pass_gate(cache);
    }
    cache.tick();
    Some(cache)
}

/// Takes back a block that the fast path could not.
///
/// # Safety
///
/// `index` is at most 64 and that of the block's class; the block is the caller's.
#[cold]
#[inline(never)]
pub(crate) unsafe fn dealloc_slow(index: usize, block: Block) {
    let Some(class) = SizeClass::from_index(index.max(1)) else { return };
    match attached() {
        // SAFETY: the cache is this thread's; the caller's promise.
        Some(cache) if cache.watch.is_on() => unsafe { watch::dealloc(cache, class, block) },
        // SAFETY: the cache is this thread's; the caller's promise.
        Some(cache) => unsafe { cache.spill(class, block) },
        None => {
            if watch::is_watched() {
                watch::forget(block);
            }
            stats::publish(-class.size().cast_signed());
            // SAFETY: the caller's promise.
            if unsafe { shared::give_one(class, block) } {
                look_for_due(purge::now());
            }
        }
    }
}

/// Moves a block of one class to a block of another.
///
/// # Safety
///
/// Both bins are those of size classes; the block is the caller's and of class `old`; `kept` bytes
/// fit both classes, of which `new` fits `size` bytes.
#[inline(never)]
pub(crate) unsafe fn realloc_small(
    block: Block,
    (old, new): (CacheBin, CacheBin),
    kept: usize,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promise; the cache is this thread's.
    let moved = match unsafe { alloc_cache().pop(new) } {
        Some(moved) => moved.as_ptr(),
        None => alloc_slow(new.index(), size),
    };
    if moved.is_null() {
        return moved;
    }
    // SAFETY: both blocks hold as many bytes, and are distinct.
    unsafe { copy_moved(block.as_ptr(), moved, kept) };
    // SAFETY: the caller's promise; the cache is this thread's.
    if !unsafe { free_cache().push(old, block) } {
        // SAFETY: the caller's promise.
        unsafe { dealloc_slow(old.index(), block) };
    }
    moved
}

/// Copies the `kept` bytes of a block that `realloc` moves, and counts them.
///
/// # Safety
///
/// Both blocks hold as many bytes, and are distinct.
#[inline(always)]
pub(crate) unsafe fn copy_moved(block: *mut u8, moved: *mut u8, kept: usize) {
    // SAFETY: the caller's promise.
    unsafe { block.copy_to_nonoverlapping(moved, kept) };
    // Threads without a cache count in one place: what is lost there would be missing for good.
    count(|c| &c.moves, 1);
    count(|c| &c.copied, kept as u64);
}

/// A class is about to get one more pool on behalf of this thread.
pub(crate) fn note_pool() {
    let cache = HOME.get();
    if !is_static(cache) {
        cache.note_pool();
    }
}

/// A block for a thread without a cache.
fn alloc_orphan(class: SizeClass) -> *mut u8 {
    let mut block = [MaybeUninit::uninit()];
    if shared::take_sorted(0, class, &mut block) == 0 {
        return null_mut();
    }
    stats::publish(class.size().cast_signed());
    if let Some(count) = ORPHAN_ALLOCS.get(class.index()) {
        // Relaxed: a count, no order.
        count.fetch_add(1, Ordering::Relaxed);
    }
    let [block] = block;
    // SAFETY: `take` wrote the one element.
    unsafe { block.assume_init() }.as_ptr()
}

/// Gives this thread a cache.
#[cold]
fn attach() -> Option<&'static Cache> {
    let key = exit_key();
    let cache = caches::take_idle()?;
    if !is_static(HOME.get()) {
        // Looking for one ran a fallback's code, which came here first.
        caches::leave_idle(cache);
        return Some(HOME.get());
    }
    cache.owner.set(owner::current());
    cache.before.set(cache.totals());
    HOME.set(cache);
    aim(cache);
    if let Some(key) = key {
        // SAFETY: a key of ours; the value is only handed back to `at_exit`. Where this fails, the
        // death of the thread is found out later.
        unsafe { libc::pthread_setspecific(key, ptr::from_ref(cache).cast()) };
    }
    Some(cache)
}

/// The key whose destructor sees threads end, made together with the handlers of fork. Two threads that
/// race for it may make two keys; one of them is used by all.
fn exit_key() -> Option<libc::pthread_key_t> {
    let key = KEY.get_or_try_init(|| {
        let mut key = 0;
        // SAFETY: writes the key; the destructor fits its signature.
        let made = unsafe { libc::pthread_key_create(&raw mut key, Some(at_exit)) } == 0;
        keeping_errno(start_process);
        if made { NonZeroUsize::new(key as usize + 1).ok_or(()) } else { Err(()) }
    });
    // The cast keeps the value: it was a key.
    key.ok().map(|key| (key.get() - 1) as libc::pthread_key_t)
}

/// What is done once, when the first thread gets its cache.
fn start_process() {
    static STARTED: AtomicBool = AtomicBool::new(false);
    // Relaxed: only decides who does it.
    if !STARTED.swap(true, Ordering::Relaxed) {
        config::read_environment();
        crate::module::stay();
        fork::register();
        membarrier::register();
        if config::trace_frames() > 0 {
            profile::set_depth(config::trace_frames());
        }
        if config::first_rate() != 0 {
            watch::set_rate(config::first_rate());
        }
        if config::purger() {
            purger::spawn();
        }
        live_file::start_from_environment();
        #[cfg(feature = "report")]
        crate::report::start_from_environment();
    }
}

/// Runs in a thread that ends, after the destructors of its Rust thread-locals.
unsafe extern "C" fn at_exit(value: *mut libc::c_void) {
    let round = EXIT_ROUNDS.get();
    EXIT_ROUNDS.set(round + 1);
    if round < PUT_OFF {
        if let Some(key) = KEY.get() {
            // The cast keeps the value: it was a key.
            let key = (key.get() - 1) as libc::pthread_key_t;
            // SAFETY: a key of ours; the value is that which it had.
            unsafe { libc::pthread_setspecific(key, value) };
        }
        return;
    }
    detach();
}

/// Empties this thread's cache and leaves it to others; from now on the thread has none.
fn detach() {
    let cache = HOME.replace(&DETACHED);
    ALLOCS.set(&DETACHED);
    FREES.set(&DETACHED);
    profile::leave();
    if !is_static(cache) {
        cache.owner.leave();
        watch::leave(cache);
        caches::retire(cache);
        purge::run_if_due();
    }
}

/// Gives back what this thread's cache holds. Returns the bytes that went to the fallback.
pub(crate) fn flush() -> usize {
    let Some(cache) = attached() else { return 0 };
    // SAFETY: the cache is this thread's.
    unsafe { cache.flush(false) };
    let Some(drain) = watch::hold_drain(cache) else { return visit::flush(cache) };
    watch::restore_left_small(cache);
    // SAFETY: the drain is this thread's too.
    unsafe { drain.flush(false) };
    visit::flush_drain(cache, &drain) + visit::flush(cache)
}

/// Notes that a block for a bin above 64 came from the fallback, for a thread that has this cache or none.
pub(crate) fn note_mid_fresh(cache: Option<&'static Cache>, bin: CacheBin) {
    match cache {
        Some(cache) => cache.note_mid_fresh(bin),
        None => DETACHED.note_mid_orphan(bin, 1),
    }
}

/// Notes that a thread without a cache gave such a block back.
pub(crate) fn note_mid_orphan_free(bin: CacheBin) {
    DETACHED.note_mid_orphan(bin, -1);
}

/// Calls `f` with every cache ever made, and with the static in which threads without one count.
pub(crate) fn for_each_counted(mut f: impl FnMut(&'static Cache)) {
    f(&DETACHED);
    for_each_cache(f);
}

/// Calls `f` with every block of the size classes that this thread's cache holds; `f` neither
/// allocates nor frees.
pub(crate) fn for_each_own_cached(mut f: impl FnMut(Block)) {
    let cache = HOME.get();
    // SAFETY: this thread's, or a static without room; `f` is as promised.
    unsafe { cache.for_each_cached(&mut f) };
    if let Some(drain) = cache.watch.drain() {
        // SAFETY: this thread's too.
        unsafe { drain.for_each_cached(&mut f) };
    }
}

/// Calls `f` with every block of 513 to 4,096 bytes that this thread's cache holds; `f` neither
/// allocates nor frees.
pub(crate) fn for_each_own_mid(f: impl FnMut(Block)) {
    // SAFETY: this thread's, or a static without room; `f` is as promised.
    unsafe { HOME.get().for_each_mid_cached(f) };
}

/// Gives back what this thread's cache holds of the fallback's blocks.
pub(crate) fn flush_large() {
    let Some(cache) = own() else { return };
    if let Some(drain) = watch::hold_drain(cache) {
        visit::flush_drain(cache, &drain);
    }
    visit::flush(cache);
}

/// Blocks of a class that were handed out to threads without a cache.
pub(crate) fn orphan_allocs(class: SizeClass) -> u64 {
    // Relaxed: a count, no order.
    ORPHAN_ALLOCS.get(class.index()).map_or(0, |count| count.load(Ordering::Relaxed))
}

/// The counters of this thread; those of a shared static where it has no cache.
#[inline]
pub(crate) fn count(f: impl FnOnce(&crate::cache::Counters) -> &AtomicU64, by: u64) {
    let cache = HOME.get();
    if is_static(cache) {
        match attached() {
            Some(cache) => drop(bump(f(&cache.counters), by)),
            // Relaxed: a count, no order. Here many threads may write.
            None => drop(f(&DETACHED.counters).fetch_add(by, Ordering::Relaxed)),
        }
    } else {
        bump(f(&cache.counters), by);
    }
}

/// Adds to the bytes in use, for the peak.
pub(crate) fn note_bytes(bytes: isize) {
    let cache = HOME.get();
    if is_static(cache) { stats::publish(bytes) } else { cache.note_bytes(bytes) }
}

/// Notes bytes that go back to the fallback.
pub(crate) fn note_freed(bytes: usize) {
    note_bytes(-bytes.cast_signed());
    match own() {
        Some(cache) => cache.note_freed(bytes),
        // It has no gate; whoever looks next sees that memory waits.
        None => drop(purge::note_freed(bytes, purge::now())),
    }
}

/// Much became free at the time `now`: sees to it that it is looked at when it is due.
pub(crate) fn look_for_due(now: u64) {
    if config::purge_delay_ms() == 0 {
        purge::run_if_due();
    } else {
        gate_allocs(now);
    }
}

/// Calls `f` with the counters of every thread that ever was.
pub(crate) fn for_each_counters(mut f: impl FnMut(&crate::cache::Counters)) {
    f(&NOT_ATTACHED.counters);
    f(&DETACHED.counters);
    for_each_cache(|cache| f(&cache.counters));
}

/// In a child of fork: this thread's cache is that of a thread of this process, and no other is.
pub(crate) fn adopt_after_fork() {
    owner::note_fork();
    profile::adopt_after_fork();
    let cache = HOME.get();
    if !is_static(cache) {
        cache.owner.set(owner::current());
        cache.large.adopt_after_fork();
        watch::adopt_after_fork(cache);
    }
}

/// What this thread did since it has its cache; nothing where it has none.
pub(crate) fn own_totals() -> CacheTotals {
    let Some(cache) = attached() else { return CacheTotals::NONE };
    let drain = cache.watch.drain().map_or(CacheTotals::NONE, Cache::totals);
    cache.totals().plus(drain).less(cache.before.get())
}

/// Calls of `realloc` in this thread, and how many of them moved a small block or one into or out
/// of the pools.
pub(crate) fn own_reallocs() -> (u64, u64) {
    let counters = &HOME.get().counters;
    // Relaxed: this thread's own.
    (counters.reallocs.load(Ordering::Relaxed), counters.moves.load(Ordering::Relaxed))
}
