//! Switching what threads watch, from any thread; they act on it by themselves.
//!
//! No unsafe here.

use super::{EPOCH, PAUSED, RATE, SEED, WATCHED, mix, update};
use crate::{profile, thread};
use core::sync::atomic::Ordering;

/// Makes samples repeat from run to run, as far as the program does.
pub(crate) fn set_seed(seed: u64) {
    // Relaxed: threads that already drew keep what they have.
    SEED.store(mix(seed) | 1, Ordering::Relaxed);
}

/// Mean bytes between two samples; 0 where nothing is recorded, 1 where all is.
pub(crate) fn rate() -> u64 {
    // Relaxed: a value of its own.
    match RATE.load(Ordering::Relaxed) {
        PAUSED => 0,
        rate => rate,
    }
}

/// Whether anything is to be recorded now.
#[inline]
pub(crate) fn is_recording() -> bool {
    // Relaxed: who must not miss a change holds a lock that came to it through one who saw it (`is_done`).
    !matches!(RATE.load(Ordering::Relaxed), 0 | PAUSED)
}

/// Sets what threads record from their next slow path on: 0 = nothing, 1 = every block, else the mean bytes
/// between two samples.
pub(crate) fn set_rate(rate: u64) {
    if rate != 0 {
        note_watched();
    }
    if rate == 1 {
        profile::make_room_for_all();
    }
    // Relaxed: the Release below publishes it.
    RATE.store(rate, Ordering::Relaxed);
    // Release: pairs with the Acquire in `update`, which then reads this rate or a later one.
    EPOCH.fetch_add(1, Ordering::Release);
}

/// As [`set_rate`], and the calling thread acts on it now: its fast paths might never take it to a
/// slow one.
fn switch(rate: u64) {
    set_rate(rate);
    if let Some(cache) = thread::attached() {
        update(cache);
    }
}

/// Notes that blocks may have records from now on.
pub(crate) fn note_watched() {
    profile::prepare();
    // Relaxed: a thread that misses it for a moment is one that has not seen the change yet.
    WATCHED.store(true, Ordering::Relaxed);
}

/// Whether any block may have a record, or any scope may be open: never again false once it was true.
#[inline]
pub(crate) fn is_watched() -> bool {
    // Relaxed: see `note_watched`.
    WATCHED.load(Ordering::Relaxed)
}

/// Records a sample of what the process allocates from now on, `mean_bytes` apart on average (512
/// KiB is what production systems use): in the calling thread at once, in every other from its next
/// slow path on: when its cache has no block of a class, or no room for one, or at a request above
/// 4 KiB. A thread that only frees and takes the same few small blocks may not come to one;
/// [`thread_flush`](crate::thread_flush) makes it follow. 0 is taken for 1: every block.
///
/// Costs the fast paths nothing; each sample a walk of the stack. The same as `POOLALLOC_SAMPLE`.
///
/// ```
/// alloc_global::start_sampling(512 << 10);
/// // ...
/// let snapshot = alloc_global::Snapshot::take();
/// alloc_global::stop_profiling();
/// # assert_eq!(snapshot.rate, 512 << 10);
/// ```
pub fn start_sampling(mean_bytes: u64) {
    switch(mean_bytes.clamp(1, PAUSED - 1));
}

/// Records every block that the process allocates from now on, with its stack; threads see it as
/// they do [`start_sampling`]. The same as `POOLALLOC_TRACE`, with the depth of
/// [`limit_frames`](crate::limit_frames), 26 unless set.
///
/// Every operation goes out of line: an allocation and its free cost 80 to 400 ns more, least where
/// the program has frame pointers.
pub fn start_tracing() {
    switch(1);
}

/// Records no more blocks. What was recorded stays, and frees of those blocks are still seen: that
/// leaves threads with the cost of sampling, less the samples, until the last of those blocks is
/// freed. See [`stop_and_forget`].
pub fn stop_profiling() {
    if rate() != 0 {
        switch(PAUSED);
    }
}

/// As [`stop_profiling`], and forgets the blocks that are live: they count as freed, and how long
/// they lived is not known. From their next slow path on, threads pay what they paid before
/// anything was recorded.
///
/// ```
/// alloc_global::start_sampling(512 << 10);
/// let snapshot = alloc_global::Snapshot::take();
/// alloc_global::stop_and_forget();
/// # drop(snapshot);
/// # assert!(alloc_global::Snapshot::take().sites.iter().all(|site| site.live_samples == 0));
/// ```
pub fn stop_and_forget() {
    stop_profiling();
    // Nothing is added to a stripe after this.
    profile::forget_live();
    switch(0);
}
