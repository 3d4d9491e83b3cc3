//! All caches there are: mapped, waiting for a thread, taken, left, and found again after a thread
//! that died.
//!
//! ```text
//! ALL  -> cache -> cache -> cache ...       by next_all, never unmapped
//! IDLE -> cache -> ...                      by next_idle: those that wait for a thread, warm
//! ```
//!
//! Invariants:
//!
//! 1. A cache is on the list of idle ones, or it is one thread's (`owner`), never both.
//! 2. An idle cache holds no blocks; of the fallback's it may, if another thread was visiting it
//!    when its own thread ended.
//!
//! It does not know when threads begin and end: that is `thread`.

use crate::cache::Cache;
use crate::lock::Lock;
use crate::owner::Asking;
use crate::shared::HEAPS;
use crate::{owner, visit, watch};
use alloc_core::{OsPages, PAGE_SIZE, PageSource};
use core::ptr::{self, NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

/// Bytes mapped for a cache: whole pages, so that an idle one shares none.
const CACHE_STRIDE: usize = size_of::<Cache>().next_multiple_of(PAGE_SIZE);

/// Caches that wait for a thread, how many were made, and at how many it is time to look for those
/// of the dead.
struct Idle {
    head: Option<&'static Cache>,
    made: usize,
    look_at: usize,
}

// SAFETY: a list of caches that belong to no thread; whoever owns the list owns them.
unsafe impl Send for Idle {}

static IDLE: Lock<Idle> = Lock::new(Idle { head: None, made: 0, look_at: 1 });

/// All caches ever made, linked by `next_all`.
static ALL: AtomicPtr<Cache> = AtomicPtr::new(null_mut());

/// A cache for the calling thread, taken off the list or made.
pub(crate) fn take_idle() -> Option<&'static Cache> {
    loop {
        let mut idle = IDLE.lock();
        if let Some(cache) = idle.head {
            idle.head = cache.next_idle.take();
            return Some(cache);
        }
        let look = idle.made >= idle.look_at;
        drop(idle);
        if !(look && reclaim_dead() > 0) {
            return make_cache();
        }
    }
}

static ASKING: Asking = Asking::new();

/// Empties the caches of threads that ended without `at_exit`. Returns how many there were.
///
/// It costs a system call for each thread, so the next look is due when half as many caches were
/// taken or made: at most two calls for each, and a third of all caches may be those of the dead.
#[cold]
pub(crate) fn reclaim_dead() -> usize {
    if !ASKING.begin(owner::here().max(1)) {
        return 0;
    }
    let (mut asked, mut found) = (0usize, 0usize);
    for_each_cache(|cache| {
        asked += 1;
        if cache.owner.take_if_dead(owner::is_dead) {
            found += 1;
            watch::forget_thread(cache);
            retire(cache);
        }
    });
    ASKING.end();
    let mut idle = IDLE.lock();
    idle.look_at = idle.made + (asked / 2).saturating_sub(found);
    found
}

/// Maps a cache, with no lock held.
#[cold]
fn make_cache() -> Option<&'static Cache> {
    let start = OsPages.map(CACHE_STRIDE, PAGE_SIZE)?.cast::<Cache>();
    // SAFETY: zeroed, aligned to a page, never unmapped; zero bytes are an empty cache.
    let cache: &'static Cache = unsafe { start.as_ref() };
    {
        let mut idle = IDLE.lock();
        cache.heap.set((idle.made % HEAPS) as u8);
        idle.made += 1;
    }
    // Acquire: `next_all` of the head was set before the head was stored.
    let mut head = ALL.load(Ordering::Acquire);
    loop {
        cache.next_all.store(head, Ordering::Relaxed);
        let new = ptr::from_ref(cache).cast_mut();
        // Release: pairs with the Acquire of who walks from here. Acquire: as above.
        match ALL.compare_exchange(head, new, Ordering::Release, Ordering::Acquire) {
            Ok(_) => return Some(cache),
            Err(now) => head = now,
        }
    }
}

/// Empties a cache that no thread uses any more and leaves it to others.
pub(crate) fn retire(cache: &'static Cache) {
    visit::retire(cache);
    // SAFETY: nobody's until it is idle: its thread gave it up or is dead.
    unsafe { cache.flush(true) };
    leave_idle(cache);
}

/// Puts a cache that nobody uses on the list of those that wait.
pub(crate) fn leave_idle(cache: &'static Cache) {
    // Relaxed: a mark for statistics.
    cache.is_drain.store(false, Ordering::Relaxed);
    let mut idle = IDLE.lock();
    cache.next_idle.set(idle.head);
    idle.head = Some(cache);
}

/// Calls `f` with every cache ever made.
pub(crate) fn for_each_cache(mut f: impl FnMut(&'static Cache)) {
    // Acquire: pairs with the Release in `make_cache`.
    let mut at = NonNull::new(ALL.load(Ordering::Acquire));
    while let Some(cache) = at {
        // SAFETY: caches are never unmapped.
        let cache: &'static Cache = unsafe { cache.as_ref() };
        f(cache);
        // Relaxed: set before the cache could be found.
        at = NonNull::new(cache.next_all.load(Ordering::Relaxed));
    }
}

/// Calls `f` with the heap that a thread takes blocks from, and with the thread's number in the
/// kernel. A thread that samples has two.
pub(crate) fn for_each_thread(mut f: impl FnMut(u8, u32)) {
    for_each_cache(|cache| {
        if let Some(thread) = owner::thread_of(cache.owner.get()) {
            // Set before the cache could be found.
            f(cache.heap.get(), thread);
        }
    });
}

pub(crate) fn lock_idle() {
    IDLE.lock_for_fork();
}

pub(crate) fn unlock_idle() {
    IDLE.unlock_after_fork();
}
