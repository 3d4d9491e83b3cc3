//! What threads pass on of the fallback's blocks: by class, shared by all threads.
//!
//! ```text
//! a thread that frees                                            a thread that allocates
//! its cache of the class is full --► shelf [b][b][b][b]... --► its cache of the class is empty
//!                           a batch        a lock each        a batch
//! ```
//!
//! Where one thread allocates messages and another frees them, every block would go through the
//! fallback, whose own heaps are then locked by both threads for each. Here a lock is taken once a
//! batch, and for some tens of instructions. The idea is the depot of full magazines of Bonwick and
//! Adams (2001).
//!
//! A program of one thread, and threads that free what they allocated, have no use for it and pay
//! no memory: a shelf takes blocks only if another thread than the one that frees them asked for
//! some in vain since the last sweep.
//!
//! Invariants:
//!
//! 1. What lies on a shelf are blocks of its class of the registered fallback, each there once, and
//!    in no cache.
//! 2. There are at most `most(class)` of them.
//! 3. `BYTES` is the sum of their sizes, and of what is on its way in. At most [`MOST_BYTES`] lie
//!    on the shelves; blocks above [`SMALL`] raise the sum to [`most_bytes`] of their class at
//!    most.
//!
//! No lock is held while the fallback runs: who sweeps takes out what must go. Blocks count as
//! given back to the fallback, in all counters, while they lie here. It does not know what a cache
//! is, nor how a shelf holds blocks: that is `shelf`.

use crate::config;
use crate::large_class::{LARGE_CLASSES, LargeClass};
use crate::purge;
use crate::shelf::{Shelf, Slots, Stock};
use crate::stats;
use crate::visit::free_to_registered;
use alloc_core::Block;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crossbeam_utils::CachePadded;

pub(crate) use crate::shelf::Who;

/// Bytes of blocks of one class beyond the first two.
///
/// As much as a queue of messages may hold when it is emptied at once: less, and the rest goes
/// through the fallback.
const CLASS_BYTES: usize = 2 << 20;

/// The most blocks of a class.
const SLOTS: usize = 256;

/// Bytes of all blocks here at most.
const MOST_BYTES: usize = 16 << 20;

/// The largest blocks that may lie here up to that bound. Of larger ones few fill it, and a program
/// of a few MiB would hold several times what it uses.
const SMALL: usize = 64 << 10;

/// Larger ones find room as long as all blocks here are at most this part of the most that was ever in use.
const PEAK_PART: usize = 4;

/// Larger ones find room below this many bytes in any case.
const LEAST_BYTES: usize = 1 << 20;

/// Sizes of blocks up to 1 MiB.
const SHELF_SIZES: usize = 44;

const _: () = assert!(
    matches!(LargeClass::from_index(SHELF_SIZES - 1), Some(class) if class.size() == 1 << 20)
);

/// One for each class of those sizes and of alignments up to 128.
const SHELF_COUNT: usize = SHELF_KINDS * SHELF_SIZES;

const SHELF_KINDS: usize = 2;

/// The most blocks that one call hands over.
pub(crate) const BATCH: usize = 32;

static SHELVES: [CachePadded<Shelf>; SHELF_COUNT] =
    [const { CachePadded::new(Shelf::new()) }; SHELF_COUNT];

static SLOTS_OF: [Slots<SLOTS>; SHELF_COUNT] = [const { Slots::new() }; SHELF_COUNT];

/// See invariant 3.
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// The most blocks of a class that lie here.
const fn most(class: LargeClass) -> usize {
    match CLASS_BYTES / class.size() {
        ..2 => 2,
        SLOTS.. => SLOTS,
        fit => fit,
    }
}

/// The most bytes of all blocks here that blocks of a class may raise the sum to.
fn most_bytes(class: LargeClass) -> usize {
    let most = match class.size() {
        ..=SMALL => MOST_BYTES,
        _ => (stats::peak_published() / PEAK_PART).clamp(LEAST_BYTES, MOST_BYTES),
    };
    most.min(config::fallback_cache())
}

/// The shelf of a class, if it has one.
fn shelf_of(class: LargeClass) -> Option<(&'static Shelf, &'static Slots<SLOTS>)> {
    if class.rank() >= SHELF_SIZES || class.kind() >= SHELF_KINDS {
        return None;
    }
    let index = class.rank() + SHELF_SIZES * class.kind();
    Some((SHELVES.get(index)?, SLOTS_OF.get(index)?))
}

/// Calls `f` with every shelf.
fn for_each_shelf(mut f: impl FnMut(LargeClass, &Shelf, &Slots<SLOTS>)) {
    for class in (0..LARGE_CLASSES).filter_map(LargeClass::from_index) {
        if let Some((shelf, slots)) = shelf_of(class) {
            f(class, shelf, slots);
        }
    }
}

/// Whether there are blocks of a class. If not, notes that `who` asked.
#[inline]
pub(crate) fn is_stocked(class: LargeClass, who: Who) -> bool {
    let Some((shelf, _)) = shelf_of(class) else { return false };
    let stocked = shelf.len() > 0;
    if !stocked {
        shelf.note_asked(who);
    }
    stocked
}

/// Takes up to `out.len()` blocks of a class, the newest last; without any, notes that `who` asked.
/// Returns how many.
pub(crate) fn take(class: LargeClass, who: Who, out: &mut [MaybeUninit<Block>]) -> usize {
    let (Some((shelf, slots)), true) = (shelf_of(class), is_stocked(class, who)) else {
        return 0;
    };
    let taken = shelf.take(slots, out);
    // Relaxed, here and below: a sum and a bound, no order.
    BYTES.fetch_sub(taken * class.size(), Relaxed);
    taken
}

/// Whether a free by `who` may leave blocks of a class here.
#[inline]
pub(crate) fn is_wanted(class: LargeClass, who: Who) -> bool {
    shelf_of(class)
        .is_some_and(|(shelf, _)| shelf.is_asked_by_another(who) && shelf.len() < most(class))
}

/// Leaves blocks of a class for others. Returns how many found room: the first ones.
///
/// # Safety
///
/// They are free blocks of the registered fallback, of that class, and the caller's.
pub(crate) unsafe fn give(class: LargeClass, blocks: &[MaybeUninit<Block>]) -> usize {
    let Some((shelf, slots)) = shelf_of(class) else { return 0 };
    let bytes = blocks.len() * class.size();
    let room = most_bytes(class).saturating_sub(BYTES.fetch_add(bytes, Relaxed));
    let fit = blocks.get(..room / class.size()).unwrap_or(blocks);
    // SAFETY: the caller's promise.
    let given = if fit.is_empty() { 0 } else { unsafe { shelf.give(slots, most(class), fit) } };
    // Mostly none: threads that free would take the sum's line from each other for nothing.
    if given < blocks.len() {
        BYTES.fetch_sub(bytes - given * class.size(), Relaxed);
    }
    if given > 0 {
        purge::note_pending_now();
    }
    given
}

/// Gives what lay untouched since the last sweep back to the fallback, and forgets who asked.
/// Returns bytes.
pub(crate) fn sweep() -> usize {
    empty(Stock::sweep)
}

/// Gives everything back to the fallback, and forgets who asked. Returns bytes.
pub(crate) fn flush() -> usize {
    empty(|stock| stock.len())
}

/// Gives the `count` oldest blocks of each shelf back.
fn empty(count: impl Fn(&mut Stock) -> usize) -> usize {
    let mut bytes = 0;
    for_each_shelf(|class, shelf, slots| {
        shelf.forget_asked();
        if shelf.len() == 0 {
            return;
        }
        let mut out = [const { MaybeUninit::<Block>::uninit() }; SLOTS];
        let gone = shelf.take_oldest(slots, &count, &mut out);
        BYTES.fetch_sub(gone * class.size(), Relaxed);
        for block in out.iter().take(gone) {
            // SAFETY: a block that lay there (1).
            let block = unsafe { block.assume_init() };
            free_to_registered(class, block);
        }
        bytes += gone * class.size();
    });
    bytes
}

/// Bytes of the blocks here, and of those on their way in.
pub(crate) fn bytes() -> usize {
    BYTES.load(Relaxed)
}

/// Takes every lock in one order; see `fork`.
pub(crate) fn lock_for_fork() {
    SHELVES.iter().for_each(|shelf| shelf.lock_for_fork());
}

/// Counts anew in a child of fork, before the locks are freed: another thread may have been between
/// a shelf and the sum.
pub(crate) fn recount_after_fork() {
    let mut bytes = 0;
    for_each_shelf(|class, shelf, _| bytes += class.size() * shelf.len());
    BYTES.store(bytes, Relaxed);
}

/// Frees what `lock_for_fork` took.
pub(crate) fn unlock_after_fork() {
    SHELVES.iter().for_each(|shelf| shelf.unlock_after_fork());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelf_has_room_for_two_of_the_largest_and_not_for_more_than_its_slots() {
        let mut shelves = Vec::new();
        for_each_shelf(|class, shelf, _| {
            let most = most(class);
            assert!((2..=SLOTS).contains(&most) && most * class.size() <= CLASS_BYTES);
            shelves.push(core::ptr::from_ref(shelf));
        });
        shelves.dedup();
        assert_eq!(shelves.len(), SHELF_COUNT);
    }
}
