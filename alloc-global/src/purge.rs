//! When free memory goes back to the system.
//!
//! ```text
//! pool empty -> bin keeps one -> arena -> all pools free: empty arena
//!                                 |            | older than the delay, and more than the reserve
//!                                 |            | older than three delays, and more than one
//!                                 v            v
//!                     runs of 64 KiB,      the arena's memory is given back
//!                     older than the delay
//! ```
//!
//! Free memory is kept for [`config::purge_delay_ms`], so that a program that comes back for it
//! pays no page faults. Nothing runs in the background by default; the clock is looked at on slow
//! paths. A thread that just freed much may never take one again: so whoever empties a pool makes
//! its own next allocations slow (`thread::gate_allocs`), a bounded number of them, and the first
//! one after the delay finds the memory due.
//!
//! The fallback keeps free memory of its own, and is told to keep it (`glibc_heap`). glibc's is
//! given back by `malloc_trim` once nothing was freed to the fallback for the delay, if it was a
//! megabyte or more, and after 20 delays whatever is freed meanwhile. What threads cache of its
//! blocks goes the same way once a thread's cache was not touched for the delay.
//!
//! Invariant: 1. `PENDING_SINCE` is 0 only if nothing became free since the last run, or that run
//! left nothing behind.
//!
//! No unsafe here. No lock is held while memory is given back.

use crate::latency::{self, Path};
use crate::{config, depot, fallback, glibc_heap, shared, spans, visit};
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// When the first memory became free that no run has seen yet, in milliseconds; 0 = none.
static PENDING_SINCE: AtomicU64 = AtomicU64::new(0);

/// Empty arenas that are kept past the delay: one in this many of the most there ever were.
const RESERVE_SHARE: usize = 16;

/// After this many delays the reserve goes too.
const RESERVE_DELAYS: u64 = 3;

/// After this many delays the fallback is asked for its free memory though more was freed to it meanwhile.
const FREED_DELAYS: u64 = 20;

/// Bytes freed to the fallback since it was last asked to give memory back, when they became enough
/// to ask, and when the last of them were.
static FREED: AtomicUsize = AtomicUsize::new(0);
static FREED_SINCE: AtomicU64 = AtomicU64::new(0);
static FREED_AT: AtomicU64 = AtomicU64::new(0);

/// Freed bytes for which the fallback is not asked: the question costs it a walk over its free
/// blocks. And cached ones for which no run is due.
pub(crate) const TOO_FEW: usize = 1 << 20;

/// Milliseconds of the coarse monotonic clock, at least 1. A few nanoseconds; it advances every few
/// milliseconds.
pub(crate) fn now() -> u64 {
    crate::clock::milliseconds().max(1)
}

/// Notes that memory became free.
#[inline]
pub(crate) fn note_pending(now: u64) {
    // Relaxed, here and below: only the time counts; what is due is looked up under locks.
    if PENDING_SINCE.load(Relaxed) == 0 {
        let _ = PENDING_SINCE.compare_exchange(0, now, Relaxed, Relaxed);
    }
}

/// The same, without a look at the clock if other memory waits already.
pub(crate) fn note_pending_now() {
    if PENDING_SINCE.load(Relaxed) == 0 {
        note_pending(now());
    }
}

/// Notes that a thread caches so many bytes of the fallback's blocks; whether they are enough to
/// wait for. Where free memory goes back at once they do not: they would never be used again.
pub(crate) fn note_cached(bytes: usize, now: u64) -> bool {
    let enough = bytes >= TOO_FEW && config::purge_delay_ms() != 0;
    if enough {
        note_pending(now);
    }
    enough
}

/// Notes bytes that were freed to the fallback; whether they are enough to wait for.
pub(crate) fn note_freed(bytes: usize, now: u64) -> bool {
    // Relaxed, in all of this: a sum and two times, no order.
    FREED_AT.store(now, Relaxed);
    let before = FREED.fetch_add(bytes, Relaxed);
    let enough = before + bytes >= TOO_FEW;
    if enough {
        if before < TOO_FEW {
            FREED_SINCE.store(now, Relaxed);
        }
        note_pending(now);
    }
    enough
}

/// Asks the fallback to give back what was freed to it, if all of it was by `old`, or enough of it
/// by `oldest`. Whether some waits on.
fn release_freed(old: u64, oldest: u64) -> bool {
    // Relaxed, here and below: see `note_freed`.
    if FREED.load(Relaxed) < TOO_FEW {
        return false;
    }
    if FREED_AT.load(Relaxed) > old && FREED_SINCE.load(Relaxed) > oldest {
        return true;
    }
    FREED.store(0, Relaxed);
    fallback::trim_system();
    false
}

thread_local! {
    /// Whether this thread is in the middle of a run.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Whether any memory is waiting to be given back.
#[inline]
pub(crate) fn is_pending() -> bool {
    PENDING_SINCE.load(Relaxed) != 0 && config::purge_delay_ms() != config::NEVER
}

/// Milliseconds until memory that waits is due; `None` if none waits or none ever goes.
pub(crate) fn due_in_ms() -> Option<u64> {
    is_pending().then(|| {
        let waited = now().saturating_sub(PENDING_SINCE.load(Relaxed));
        config::purge_delay_ms().saturating_sub(waited)
    })
}

/// Gives back what is due. Costs one load and a look at the clock if nothing is. Returns bytes.
pub(crate) fn run_if_due() -> usize {
    let since = PENDING_SINCE.load(Relaxed);
    let delay = config::purge_delay_ms();
    if since == 0 || delay == config::NEVER {
        return 0;
    }
    let now = now();
    if now.saturating_sub(since) < delay {
        return 0;
    }
    // A run frees what caches hold, which may be enough for another, within it: as many of them as
    // threads rest, on one stack. What it leaves is noted when it ends.
    if WITHIN.get() {
        return 0;
    }
    // One thread runs; what becomes free meanwhile is noted anew.
    if PENDING_SINCE.compare_exchange(since, 0, Relaxed, Relaxed).is_err() {
        return 0;
    }
    WITHIN.set(true);
    let bytes = latency::timed(Path::Purge, || run(now, delay));
    WITHIN.set(false);
    bytes
}

#[cold]
fn run(now: u64, delay: u64) -> usize {
    let old = now.saturating_sub(delay);
    shared::sweep_depot(old);
    // What bins keep has not been used since they got it, or it would not be empty.
    shared::drain_bins(old);
    let oldest = now.saturating_sub(delay.saturating_mul(RESERVE_DELAYS));
    let reserve = (shared::peak_arenas() / RESERVE_SHARE).max(1);
    let bytes =
        shared::release(reserve, old) + shared::release(1, oldest) + shared::release_pools(old);
    let empty_caches = || {
        depot::sweep();
        if visit::sweep_resting(now, delay) >= TOO_FEW {
            // It lay there for the delay: no need to wait once more.
            FREED_AT.store(old, Relaxed);
        }
        // After what caches and the depot held of their blocks.
        spans::drain();
    };
    match depot::bytes() + visit::granted() {
        0 => empty_caches(),
        _ => glibc_heap::trimming(empty_caches),
    }
    let (bytes_of_spans, spans_wait) = spans::purge(delay == 0);
    let waits =
        spans_wait | shared::is_purgeable() | (depot::bytes() > 0) | (visit::granted() >= TOO_FEW);
    let long_ago = now.saturating_sub(delay.saturating_mul(FREED_DELAYS));
    if release_freed(old, long_ago) | waits {
        note_pending(now);
    }
    bytes + bytes_of_spans
}
