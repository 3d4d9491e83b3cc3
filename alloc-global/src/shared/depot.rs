//! The depot of the shared heaps: what threads pass on of the blocks of pools, past the pools.
//!
//! ```text
//! a thread that frees                                              a thread that allocates
//! its array of the class is full --► shelf [b][b][b][b]... --► its array of the class is empty
//!                         half of it      a lock each      half of it
//! ```
//!
//! Where one thread allocates what another frees, each block would be sorted into its pool, and
//! looked for there again: some 50 and 40 instructions where the blocks of a batch lie in as many
//! pools. Here a batch costs a lock and two copies of its addresses. As in the depot of the
//! fallback's blocks ([`crate::depot`]), which has the same source, a shelf takes blocks only if
//! another thread than the one that frees them asked in vain since the last sweep: one thread
//! alone, and threads that keep to themselves, sort theirs into pools, so that pools become free. A
//! thread that ends is nobody by then (`who` is 0): what it asked for itself counts, and the next
//! thread finds what it left.
//!
//! Invariants:
//!
//! 1. What lies on a shelf are blocks of its class out of the shared heaps, each there once, and in
//!    no cache.
//! 2. There are at most `most(class)` of them: 64 KiB, or [`SLOTS`] blocks.
//!
//! For bins and pools these blocks are out; the counters count them as free in a cache. It does not
//! know bins: who sweeps sorts them.

use crate::shelf::{Shelf, Slots, Stock, Who};
use crate::{config, purge};
use alloc_core::{Block, CLASS_TABLE, SizeClass};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crossbeam_utils::CachePadded;

/// Bytes of blocks of one class: some batches.
const CLASS_BYTES: usize = 64 << 10;

/// The most blocks of a class.
const SLOTS: usize = 512;

/// Fewer blocks than this are not worth the lock.
const LEAST: usize = 4;

/// A shelf, and when blocks last came to it.
struct Place {
    shelf: Shelf,
    given_at: AtomicU64,
}

/// One for each class; index 0 stays unused.
static PLACES: [CachePadded<Place>; CLASS_TABLE] =
    [const { CachePadded::new(Place { shelf: Shelf::new(), given_at: AtomicU64::new(0) }) };
        CLASS_TABLE];

static SLOTS_OF: [Slots<SLOTS>; CLASS_TABLE] = [const { Slots::new() }; CLASS_TABLE];

/// The most blocks of a class that lie here.
fn most(class: SizeClass) -> usize {
    (CLASS_BYTES / class.size()).min(SLOTS)
}

fn place_of(class: SizeClass) -> Option<(&'static Place, &'static Slots<SLOTS>)> {
    Some((PLACES.get(class.index())?, SLOTS_OF.get(class.index())?))
}

/// Takes blocks for the end of `out`, the newest last; without any, notes that `who` asked. Returns
/// how many.
#[inline]
pub(super) fn take(class: SizeClass, who: Who, out: &mut [MaybeUninit<Block>]) -> usize {
    let Some((Place { shelf, .. }, slots)) = place_of(class) else { return 0 };
    let there = shelf.len();
    if there < LEAST {
        shelf.note_asked(who);
        return 0;
    }
    let before = out.len() - there.min(out.len());
    let Some(end) = out.get_mut(before..) else { return 0 };
    let taken = shelf.take(slots, end);
    // Another thread may have been faster: then they lie before the end.
    let short = end.len() - taken;
    if short > 0 {
        end.copy_within(..taken, short);
    }
    taken
}

/// Leaves the last of `blocks` here, if another thread than `who` asked for some. Returns how many
/// are left to be sorted: the first ones.
///
/// # Safety
///
/// They are blocks of that class out of the shared heaps, and the caller's.
#[inline]
pub(super) unsafe fn give(class: SizeClass, who: Who, blocks: &mut [Block]) -> usize {
    let all = blocks.len();
    let Some((Place { shelf, given_at }, slots)) = place_of(class) else { return all };
    // Without a delay all that is free goes back at once, also from within a sweep, whose blocks
    // must not come back here.
    if !shelf.is_asked_by_another(who) || config::purge_delay_ms() == 0 {
        return all;
    }
    let room = most(class).saturating_sub(shelf.len()).min(all);
    if room < LEAST {
        return all;
    }
    let rest = all - room;
    let Some(last) = blocks.get_mut(rest..) else { return all };
    // SAFETY: what is initialised may be looked at as what need not be.
    let passed = unsafe { &*(core::ptr::from_ref(&*last) as *const [MaybeUninit<Block>]) };
    // SAFETY: the caller's promise.
    let given = unsafe { shelf.give(slots, most(class), passed) };
    // Others may have been faster: what found no room follows the rest.
    last.copy_within(given.., 0);
    let now = purge::now();
    // Relaxed: a time, no order.
    given_at.store(now, Relaxed);
    purge::note_pending(now);
    all - given
}

/// Takes what is to go off each shelf, calls `sort` with it, and forgets who asked.
fn empty(
    count: impl Fn(&Place, &mut Stock) -> usize,
    mut sort: impl FnMut(SizeClass, &mut [Block]),
) {
    for class in SizeClass::all() {
        let Some((place, slots)) = place_of(class) else { continue };
        place.shelf.forget_asked();
        if place.shelf.len() == 0 {
            continue;
        }
        let mut out = [const { MaybeUninit::<Block>::uninit() }; SLOTS];
        let gone = place.shelf.take_oldest(slots, |stock| count(place, stock), &mut out);
        let Some(gone) = out.get_mut(..gone) else { continue };
        // SAFETY: so many were written, and both types have one layout.
        sort(class, unsafe { &mut *(core::ptr::from_mut(gone) as *mut [Block]) });
    }
}

/// Calls `sort` with what lay here since `before`: all on shelves to which nothing came since, and
/// what was not touched since the last sweep on the others.
pub(super) fn sweep(before: u64, sort: impl FnMut(SizeClass, &mut [Block])) {
    let old = |place: &Place, stock: &mut Stock| {
        let untouched = stock.sweep();
        // Relaxed: see `give`.
        if place.given_at.load(Relaxed) <= before { stock.len() } else { untouched }
    };
    empty(old, sort);
}

/// Calls `sort` with all.
pub(super) fn flush(sort: impl FnMut(SizeClass, &mut [Block])) {
    empty(|_, stock| stock.len(), sort);
}

/// Whether any block lies here.
pub(super) fn is_stocked() -> bool {
    PLACES.iter().any(|place| place.shelf.len() > 0)
}

/// Blocks of a class that lie here.
pub(super) fn len(class: SizeClass) -> usize {
    place_of(class).map_or(0, |(place, _)| place.shelf.len())
}

/// Calls `f` with every block that lies here; `f` neither allocates nor frees.
pub(super) fn for_each(mut f: impl FnMut(Block)) {
    for (place, slots) in PLACES.iter().zip(&SLOTS_OF) {
        place.shelf.for_each(slots, &mut f);
    }
}

/// Takes every lock in one order; see `shared`.
pub(super) fn lock_all() {
    PLACES.iter().for_each(|place| place.shelf.lock_for_fork());
}

/// Frees what `lock_all` took.
pub(super) fn unlock_all() {
    PLACES.iter().for_each(|place| place.shelf.unlock_after_fork());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelf_has_room_for_batches_and_not_for_more_than_its_slots() {
        for class in SizeClass::all() {
            assert!(
                (128..=SLOTS).contains(&most(class)) && most(class) * class.size() <= CLASS_BYTES
            );
        }
    }
}
