//! When a thread looks at what it allocates: never, at samples, or at every block.
//!
//! ```text
//! mode      alloc's fast path takes from   free's fast path puts into
//! Off       the thread's cache             the same
//! Sample    a second cache, the drain      the thread's cache
//! Every     nowhere: always slow           nowhere: always slow
//! ```
//!
//! Sampling costs the fast paths nothing. Bytes between two samples are exponentially distributed,
//! so the allocations of one class between two samples are geometrically distributed, classes
//! independent of each other: a countdown per class is the same as one in bytes; above 512 bytes
//! there is one in bytes for all (`large`). The drain holds at most as many blocks of a class as
//! may be handed out until the next sample; frees cannot refill it, so every allocation that is due
//! takes the slow path. Blocks that were freed are looked at when they leave the thread's cache, a
//! batch at a time: for the drain, for the shared heaps, for the fallback.
//!
//! When recording pauses, the mode stays `Sample` without samples, for the ends of what is on
//! record; once nothing is, it is `Off`.
//!
//! What is switched by another thread takes effect at a thread's next slow path; until then it may
//! hand out again a block whose recorded life is over, unseen.
//!
//! Invariants:
//!
//! 1. A thread has a drain if and only if its mode is `Sample`; the drain has the same owner as the cache.
//! 2. In mode `Sample` the drain holds at most `left[class]` blocks fewer than were due when it was
//!    filled: whichever allocation is a sample finds `left` at 0 and the drain empty. What it holds
//!    of the bins above 64 was taken off `left_bytes`.
//! 3. No block leaves a thread's cache for the program, the heaps or the fallback with a record of
//!    a former life, if its thread has seen that something is recorded.
//!
//! It does not know what is recorded of a block: that is `profile`.
//!
//! Sampling by bytes: Go's and jemalloc's heap profiles, tcmalloc's sampler.

use crate::cache::Cache;
use crate::mid_class::CacheBin;
use crate::scope::Scope;
use crate::{clock, profile, thread};
use alloc_core::{Block, CLASS_TABLE, SizeClass};
use core::cell::Cell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use drain::{drop_drain, leave_drain, take_drain};

mod drain;
mod large;
mod switch;

pub(crate) use drain::{HeldDrain, hold_drain, restore_left_small};
pub(crate) use large::{
    alloc_mid, large_alloc, large_free, large_resize, note_large_realloc, restore_left_large,
    restore_left_mid,
};
pub(crate) use switch::{is_recording, is_watched, note_watched, rate, set_rate, set_seed};
pub use switch::{start_sampling, start_tracing, stop_and_forget, stop_profiling};

/// Stands for a distance without end: nothing new is recorded, what is on record is followed.
const PAUSED: u64 = u64::MAX;

/// Counts changes of [`RATE`].
static EPOCH: AtomicU32 = AtomicU32::new(0);

/// Mean bytes between two samples; 0 = off, 1 = every block.
static RATE: AtomicU64 = AtomicU64::new(0);

/// Whether anything was ever watched in this process.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// What the threads' random numbers start from; each thread adds its turn. 0 = not chosen yet.
static SEED: AtomicU64 = AtomicU64::new(0);

/// See the head of this file. Zero bytes are `Off`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Mode {
    Off = 0,
    Sample = 1,
    Every = 2,
}

/// What a thread watches; part of its cache. Zero bytes: nothing, and no change seen.
pub(crate) struct Watch {
    /// The last change that this thread acted on.
    seen: Cell<u32>,
    mode: Cell<Mode>,
    /// Mean bytes between two samples; 0 = off, 1 = every block.
    rate: Cell<u64>,
    /// The cache that allocations take from in mode `Sample` (1).
    drain: Cell<Option<&'static Cache>>,
    /// The drain that is being emptied right now ([`hold_drain`]), and whether it was given up
    /// meanwhile.
    held: Cell<Option<&'static Cache>>,
    is_given_up: Cell<bool>,
    /// Scopes that count every operation of this thread, innermost first.
    scope: Cell<Option<NonNull<Scope>>>,
    /// State of the random numbers; 0 = not begun.
    random: Cell<u64>,
    /// Bytes above 512 bytes a block until the next sample.
    left_bytes: Cell<u64>,
    /// Allocations of a class that are none, before the next sample.
    left: [Cell<u32>; CLASS_TABLE],
}

impl Watch {
    pub(crate) const fn new() -> Watch {
        Watch {
            seen: Cell::new(0),
            mode: Cell::new(Mode::Off),
            rate: Cell::new(0),
            drain: Cell::new(None),
            held: Cell::new(None),
            is_given_up: Cell::new(false),
            scope: Cell::new(None),
            random: Cell::new(0),
            left_bytes: Cell::new(0),
            left: [const { Cell::new(0) }; CLASS_TABLE],
        }
    }

    /// Whether a slow path has anything to look at.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        // Relaxed: `update` looks again.
        self.mode.get() != Mode::Off || self.seen.get() != EPOCH.load(Ordering::Relaxed)
    }

    /// The cache that allocations take from, beside the thread's own.
    pub(crate) fn drain(&self) -> Option<&'static Cache> {
        self.drain.get()
    }

    /// Whether no operation of this thread may take a fast path.
    pub(crate) fn is_every(&self) -> bool {
        self.mode.get() == Mode::Every
    }

    pub(crate) fn scope(&self) -> Option<NonNull<Scope>> {
        self.scope.get()
    }

    /// A number in (0, 1].
    fn uniform(&self) -> f64 {
        let mut x = self.random.get();
        if x == 0 {
            // Relaxed, here and below: only makes threads differ.
            if SEED.load(Ordering::Relaxed) == 0 {
                let _ = SEED.compare_exchange(
                    0,
                    clock::nanoseconds() | 1,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
            x = mix(SEED.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)) | 1;
        }
        // Marsaglia's xorshift, 64 bits.
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        ((x >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Bytes until the next sample.
    fn draw_bytes(&self) -> f64 {
        // Not std's: that would make every program load the C library's mathematics at its start.
        -libm::log(self.uniform()) * self.rate.get() as f64
    }

    /// Allocations of blocks of `size` bytes that come before the next sample.
    fn draw_count(&self, size: usize) -> u32 {
        // Saturates.
        (self.draw_bytes() / size as f64) as u32
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): neighbours become strangers.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Ends the record of a block's former life, if there is one (3).
#[inline]
pub(crate) fn forget(block: Block) {
    if profile::is_recorded(block) {
        profile::on_free(block);
    }
}

/// The same for many blocks of a class, or above 512 bytes: one test for all of them, since hardly
/// any has a record.
#[inline]
pub(crate) fn forget_all(class: Option<SizeClass>, blocks: &[Block]) {
    if profile::are_recorded(class, blocks) {
        blocks.iter().copied().for_each(forget);
    }
}

/// Acts on a change of what is watched.
#[cold]
fn update(cache: &'static Cache) {
    let watch = &cache.watch;
    // Acquire: pairs with the Release in `set_rate`.
    watch.seen.set(EPOCH.load(Ordering::Acquire));
    // Relaxed: the Acquire above saw it stored.
    watch.rate.set(RATE.load(Ordering::Relaxed));
    if is_done(watch) {
        watch.rate.set(0);
    }
    choose_mode(cache);
    if watch.rate.get() > 1 {
        for class in SizeClass::all() {
            if let Some(left) = watch.left.get(class.index()) {
                left.set(watch.draw_count(class.size()));
            }
        }
        watch.left_bytes.set(watch.draw_bytes() as u64);
    }
}

/// Whether this thread follows blocks on record, and there are none. None can come: nothing is
/// recorded after this thread saw the pause, for who records asks whether to, under the lock of the
/// stripe that `is_empty` took.
fn is_done(watch: &Watch) -> bool {
    watch.rate.get() == PAUSED && profile::is_empty()
}

/// Ends what the pause left, once the last block on record was freed: the fast paths are as if
/// nothing had been watched.
#[inline]
pub(crate) fn rest_if_done(cache: &'static Cache) {
    if is_done(&cache.watch) {
        cache.watch.rate.set(0);
        choose_mode(cache);
    }
}

/// Takes up the mode that the rate and the scopes ask for.
fn choose_mode(cache: &'static Cache) {
    let watch = &cache.watch;
    let every = watch.rate.get() == 1 || watch.scope.get().is_some();
    drop_drain(cache);
    let mode = if every {
        Mode::Every
    } else if watch.rate.get() > 1 && take_drain(cache) {
        Mode::Sample
    } else {
        Mode::Off
    };
    watch.mode.set(mode);
    thread::aim(cache);
}

/// The thread of this cache leaves: it watches nothing any more.
pub(crate) fn leave(cache: &'static Cache) {
    restore_left_large(cache);
    let drain = cache.watch.drain.take();
    forget_thread(cache);
    if let Some(drain) = drain {
        leave_drain(cache, drain);
    }
}

/// The thread of this cache is dead: its drain is found by itself.
pub(crate) fn forget_thread(cache: &'static Cache) {
    cache.is_drain.store(false, Ordering::Relaxed);
    cache.watch.drain.set(None);
    cache.watch.held.set(None);
    cache.watch.is_given_up.set(false);
    cache.watch.scope.set(None);
    cache.watch.mode.set(Mode::Off);
    cache.watch.rate.set(0);
    cache.watch.seen.set(0);
}

/// In a child of fork: the drain too is that of a thread of this process.
pub(crate) fn adopt_after_fork(cache: &'static Cache) {
    if let Some(drain) = cache.watch.drain.get() {
        drain.owner.set(cache.owner.get());
        drain.large.adopt_after_fork();
    }
}

/// Opens or closes scopes: `scope` is the innermost one now.
pub(crate) fn set_scope(cache: &'static Cache, scope: Option<NonNull<Scope>>) {
    note_watched();
    cache.watch.scope.set(scope);
    choose_mode(cache);
}

/// Serves a request of a class on the slow path of a thread that watches.
///
/// # Safety
///
/// The cache is that of the calling thread.
#[cold]
pub(crate) unsafe fn alloc(cache: &'static Cache, class: SizeClass, size: usize) -> *mut u8 {
    // Relaxed: `update` looks again.
    if cache.watch.seen.get() != EPOCH.load(Ordering::Relaxed) {
        if cache.watch.mode.get() == Mode::Sample {
            // What was drawn before the change decides about this one too: it may be the very
            // sample that the drain ran out for, and a new draw would lose it.
            // SAFETY: the caller's promise.
            let block = unsafe { alloc_sample(cache, class, size) };
            update(cache);
            return block;
        }
        update(cache);
    }
    match cache.watch.mode.get() {
        // SAFETY: the caller's promise.
        Mode::Off => unsafe { cache.refill(class) },
        // SAFETY: the caller's promise.
        Mode::Sample => unsafe { alloc_sample(cache, class, size) },
        Mode::Every => {
            // SAFETY: the caller's promise.
            let block = unsafe { cache.refill(class) };
            if let Some(block) = NonNull::new(block) {
                note_alloc(cache, block, size, class.size(), || is_due(cache, class));
            }
            block
        }
    }
}

/// Whether this allocation of a class is a sample.
fn is_due(cache: &'static Cache, class: SizeClass) -> bool {
    let Some(left) = cache.watch.left.get(class.index()) else { return false };
    match left.get().checked_sub(1) {
        Some(less) => {
            left.set(less);
            false
        }
        None => {
            left.set(cache.watch.draw_count(class.size()));
            true
        }
    }
}

/// # Safety
///
/// The cache is that of the calling thread.
unsafe fn alloc_sample(cache: &'static Cache, class: SizeClass, size: usize) -> *mut u8 {
    // May run a fallback's code, which may call back in: before anything is looked at.
    cache.tick();
    let watch = &cache.watch;
    let (Some(drain), Some(left)) = (watch.drain.get(), watch.left.get(class.index())) else {
        // SAFETY: the caller's promise.
        return unsafe { cache.refill(class) };
    };
    // Not empty: allocations were gated.
    // SAFETY: the drain is the calling thread's too (1); a class is at most 64.
    if let Some(block) = unsafe { drain.pop(CacheBin::of_class(class)) } {
        return block.as_ptr();
    }
    if left.get() > 0 {
        // SAFETY: both are the calling thread's (1); the drain has none of this class.
        let moved = unsafe {
            cache.move_newest(CacheBin::of_class(class), drain, left.get(), |blocks| {
                forget_all(Some(class), blocks)
            })
        };
        if moved > 0 {
            left.set(left.get() - moved);
            // SAFETY: as above.
            unsafe { cache.lengthen_turns(class, moved) };
            // SAFETY: as above.
            return unsafe { drain.pop(CacheBin::of_class(class)) }
                .map_or(null_mut(), NonNull::as_ptr);
        }
    }
    let due = is_due(cache, class);
    // SAFETY: the caller's promise.
    unsafe { cache.widen(class) };
    // SAFETY: the caller's promise.
    let block = unsafe { cache.refill(class) };
    if let Some(block) = NonNull::new(block) {
        forget(block);
        if due && watch.rate.get() != PAUSED {
            profile::on_alloc(block, size, class.size(), watch.rate.get());
        }
    }
    block
}

/// Takes back a block of a class on the slow path of a thread that watches.
///
/// # Safety
///
/// As for [`Cache::push`].
#[cold]
pub(crate) unsafe fn dealloc(cache: &'static Cache, class: SizeClass, block: Block) {
    // Relaxed: `update` looks again.
    if cache.watch.seen.get() != EPOCH.load(Ordering::Relaxed) {
        update(cache);
    }
    if cache.watch.is_every() {
        note_free(cache, block, class.size());
    }
    // SAFETY: the caller's promise. There is room where the free did not fail for want of it.
    if !unsafe { cache.push(CacheBin::of_class(class), block) } {
        // SAFETY: the caller's promise.
        unsafe { cache.spill(class, block) };
    }
}

/// Records what there is to record of a new block; `due` says whether it is a sample.
fn note_alloc(
    cache: &'static Cache,
    block: Block,
    requested: usize,
    size: usize,
    due: impl FnOnce() -> bool,
) {
    forget(block);
    if let Some(scope) = cache.watch.scope.get() {
        // SAFETY: open scopes of this thread, by their owner.
        unsafe { Scope::note_alloc(scope, block, size) };
    }
    match cache.watch.rate.get() {
        0 | PAUSED => {}
        1 => profile::on_alloc(block, requested, size, 1),
        rate => {
            if due() {
                profile::on_alloc(block, requested, size, rate);
            }
        }
    }
}

fn note_free(cache: &'static Cache, block: Block, size: usize) {
    forget(block);
    if let Some(scope) = cache.watch.scope.get() {
        // SAFETY: open scopes of this thread, by their owner.
        unsafe { Scope::note_free(scope, block, size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_have_the_mean_asked_for() {
        let watch = Watch::new();
        watch.rate.set(4096);
        let n = 100_000;
        let mean = (0..n).map(|_| watch.draw_bytes()).sum::<f64>() / n as f64;
        // Standard error of the mean: 4096 / sqrt(n) = 13.
        assert!((mean - 4096.0).abs() < 65.0, "{mean}");
        // Geometric: the share of zeros is 1 - exp(-size / rate) = 0.1175.
        let zeros = (0..n).filter(|_| watch.draw_count(512) == 0).count() as f64 / n as f64;
        assert!((zeros - 0.1175).abs() < 0.006, "{zeros}");
    }
}
