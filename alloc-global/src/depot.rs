//! What threads pass on of the fallback's blocks: by class, shared by all threads.
//!
//! ```text
//! a thread that frees                                            a thread that allocates
//! its cache of the class is full --► shelf [b][b][b][b]... --► its cache of the class is empty
//!                           a batch        a lock each        a batch
//! ```
//!
//! Where one thread allocates messages and another frees them, every block would go through the fallback, whose own heaps are
//! then locked by both threads for each. Here a lock is taken once a batch, and for some tens of instructions. The
//! idea is the depot of full magazines of Bonwick and Adams (2001).
//!
//! A program of one thread, and threads that free what they allocated, have no use for it and pay no memory: a
//! shelf takes blocks only if another thread than the one that frees them asked for some in vain since the last sweep.
//!
//! Invariants:
//!
//! 1. The first `len` slots of a shelf are blocks of its class of the registered fallback, each there once, and in no cache.
//! 2. `untouched <= len <= most(class)`, and `len` beside the lock is that behind it whenever the lock is free.
//! 3. `BYTES` is the sum of `len` times size, and what is on its way in. At most [`MOST_BYTES`] lie on the shelves.
//!
//! No lock is held while the fallback runs: who sweeps takes out what must go. Blocks count as given back to the fallback,
//! in all counters, while they lie here. It does not know what a cache is.

use crate::config;
use crate::large_class::{LARGE_CLASSES, LargeClass};
use crate::lock::Lock;
use crate::purge;
use crate::visit::free_to_registered;
use alloc_core::Block;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use crossbeam_utils::CachePadded;

/// The most blocks of one class.
const SLOTS: usize = 256;

/// Bytes of blocks of one class beyond the first two.
///
/// As much as a queue of messages may hold when it is emptied at once: less, and the rest goes through the fallback.
const CLASS_BYTES: usize = 2 << 20;

/// Bytes of all blocks here.
const MOST_BYTES: usize = 16 << 20;

/// Sizes of blocks up to 1 MiB.
const SHELF_SIZES: usize = 44;

const _: () = assert!(
    matches!(LargeClass::from_index(SHELF_SIZES - 1), Some(class) if class.size() == 1 << 20)
);

/// One for each class of those sizes.
const SHELF_COUNT: usize = 2 * SHELF_SIZES;

/// The most blocks that one call hands over.
pub(crate) const BATCH: usize = 32;

/// Stands for two threads that asked.
const SEVERAL: usize = 1;

/// The blocks of one class, but for the blocks.
struct Shelf {
    /// Who asked in vain since the last sweep: nobody (0), one thread, [`SEVERAL`].
    asked: AtomicUsize,
    /// A copy for who only looks.
    len: AtomicU32,
    stock: Lock<Stock>,
}

struct Stock {
    len: usize,
    /// The least there was since the last sweep.
    untouched: usize,
}

/// The slots of a shelf. Apart from their lock: a fork takes all locks, and would copy each page that has one.
struct Slots(UnsafeCell<[MaybeUninit<Block>; SLOTS]>);

// SAFETY: reached by who holds the shelf's lock only; free blocks belong to nobody, so any thread may take them out.
unsafe impl Sync for Slots {}

static SHELVES: [CachePadded<Shelf>; SHELF_COUNT] =
    [const { CachePadded::new(Shelf::new()) }; SHELF_COUNT];

static SLOTS_OF: [Slots; SHELF_COUNT] = [const { Slots::new() }; SHELF_COUNT];

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

/// The shelf of a class, if it has one.
fn shelf_of(class: LargeClass) -> Option<(&'static Shelf, &'static Slots)> {
    if class.rank() >= SHELF_SIZES {
        return None;
    }
    let index = class.rank() + SHELF_SIZES * usize::from(class.is_wide());
    Some((SHELVES.get(index)?, SLOTS_OF.get(index)?))
}

/// Calls `f` with every shelf.
fn for_each_shelf(mut f: impl FnMut(LargeClass, &Shelf, &Slots)) {
    for class in (0..LARGE_CLASSES).filter_map(LargeClass::from_index) {
        if let Some((shelf, slots)) = shelf_of(class) {
            f(class, shelf, slots);
        }
    }
}

/// A thread, as the depot tells them apart: the address of its cache.
pub(crate) type Who = usize;

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

/// Takes up to `out.len()` blocks of a class, the newest last; without any, notes that `who` asked. Returns how many.
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
    let bound = MOST_BYTES.min(config::fallback_cache());
    let bytes = blocks.len() * class.size();
    if BYTES.fetch_add(bytes, Relaxed) + bytes > bound {
        BYTES.fetch_sub(bytes, Relaxed);
        return 0;
    }
    // SAFETY: the caller's promise.
    let given = unsafe { shelf.give(slots, most(class), blocks) };
    BYTES.fetch_sub(bytes - given * class.size(), Relaxed);
    purge::note_pending(purge::now());
    given
}

/// Gives what lay untouched since the last sweep back to the fallback, and forgets who asked. Returns bytes.
pub(crate) fn sweep() -> usize {
    empty(|stock| core::mem::replace(&mut stock.untouched, stock.len))
}

/// Gives everything back to the fallback, and forgets who asked. Returns bytes.
pub(crate) fn flush() -> usize {
    empty(|stock| stock.len)
}

/// Gives the `count` oldest blocks of each shelf back.
fn empty(count: impl Fn(&mut Stock) -> usize) -> usize {
    let mut bytes = 0;
    for_each_shelf(|class, shelf, slots| {
        // Relaxed: a hint.
        shelf.asked.store(0, Relaxed);
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
    SHELVES.iter().for_each(|shelf| shelf.stock.lock_for_fork());
}

/// Counts anew in a child of fork, before the locks are freed: another thread may have been between a shelf and the sum.
pub(crate) fn recount_after_fork() {
    let mut bytes = 0;
    for_each_shelf(|class, shelf, _| bytes += class.size() * shelf.len());
    BYTES.store(bytes, Relaxed);
}

/// Frees what `lock_for_fork` took.
pub(crate) fn unlock_after_fork() {
    SHELVES.iter().for_each(|shelf| shelf.stock.unlock_after_fork());
}

impl Slots {
    const fn new() -> Slots {
        Slots(UnsafeCell::new([MaybeUninit::uninit(); SLOTS]))
    }

    /// Slot `at`, or where the last one ends.
    fn at(&self, at: usize) -> *mut MaybeUninit<Block> {
        self.0.get().cast::<MaybeUninit<Block>>().wrapping_add(at.min(SLOTS))
    }
}

impl Shelf {
    const fn new() -> Shelf {
        Shelf {
            asked: AtomicUsize::new(0),
            len: AtomicU32::new(0),
            stock: Lock::new(Stock { len: 0, untouched: 0 }),
        }
    }

    /// How many blocks there are, or were a moment ago.
    fn len(&self) -> usize {
        // Relaxed, here and below: a hint. The blocks themselves are read under the lock.
        self.len.load(Relaxed) as usize
    }

    fn set_len(&self, stock: &mut Stock, len: usize) {
        stock.len = len;
        stock.untouched = stock.untouched.min(len);
        // The cast keeps the value: at most `SLOTS`.
        self.len.store(len as u32, Relaxed);
    }

    fn note_asked(&self, who: Who) {
        let asked = self.asked.load(Relaxed);
        // Mostly so: nothing to write.
        if asked != who && asked != SEVERAL {
            self.asked.store(if asked == 0 { who } else { SEVERAL }, Relaxed);
        }
    }

    fn is_asked_by_another(&self, who: Who) -> bool {
        let asked = self.asked.load(Relaxed);
        asked != 0 && asked != who
    }

    /// Moves the newest blocks to `out`. Returns how many.
    fn take(&self, slots: &Slots, out: &mut [MaybeUninit<Block>]) -> usize {
        let mut stock = self.stock.lock();
        let taken = stock.len.min(out.len());
        let rest = stock.len - taken;
        // SAFETY: so many blocks lie from there on (1), and the lock is held.
        unsafe { out.as_mut_ptr().copy_from_nonoverlapping(slots.at(rest), taken) };
        self.set_len(&mut stock, rest);
        taken
    }

    /// Puts blocks in, until there are `most`. Returns how many.
    ///
    /// # Safety
    ///
    /// They are blocks that may lie here (1), and the caller's.
    unsafe fn give(&self, slots: &Slots, most: usize, blocks: &[MaybeUninit<Block>]) -> usize {
        let mut stock = self.stock.lock();
        let given = blocks.len().min(most.min(SLOTS).saturating_sub(stock.len));
        // SAFETY: room for so many behind the last one, and the lock is held.
        unsafe { slots.at(stock.len).copy_from_nonoverlapping(blocks.as_ptr(), given) };
        let len = stock.len + given;
        self.set_len(&mut stock, len);
        given
    }

    /// Moves the `count` oldest blocks to `out`. Returns how many.
    fn take_oldest(
        &self,
        slots: &Slots,
        count: impl Fn(&mut Stock) -> usize,
        out: &mut [MaybeUninit<Block>; SLOTS],
    ) -> usize {
        let mut stock = self.stock.lock();
        let gone = count(&mut stock).min(stock.len);
        let rest = stock.len - gone;
        // SAFETY: so many blocks lie there (1), and the lock is held.
        unsafe { out.as_mut_ptr().copy_from_nonoverlapping(slots.at(0), gone) };
        // SAFETY: the rest of them move to the beginning, as above.
        unsafe { slots.at(0).copy_from(slots.at(gone), rest) };
        self.set_len(&mut stock, rest);
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::NonNull;

    /// A shelf of its own, and blocks that nobody looks into.
    struct Case {
        shelf: Shelf,
        slots: Slots,
    }

    fn block(number: usize) -> Block {
        NonNull::new(core::ptr::without_provenance_mut(16 * number)).unwrap()
    }

    impl Case {
        fn new() -> Case {
            Case { shelf: Shelf::new(), slots: Slots::new() }
        }

        fn give(&self, most: usize, numbers: impl Iterator<Item = usize>) -> usize {
            let blocks: Vec<_> = numbers.map(|number| MaybeUninit::new(block(number))).collect();
            // SAFETY: addresses, which nobody looks behind.
            unsafe { self.shelf.give(&self.slots, most, &blocks) }
        }

        fn numbers(out: &[MaybeUninit<Block>]) -> Vec<usize> {
            // SAFETY: the caller passes what was written.
            out.iter().map(|block| unsafe { block.assume_init() }.addr().get() / 16).collect()
        }

        fn take(&self, count: usize) -> Vec<usize> {
            let mut out = vec![MaybeUninit::uninit(); count];
            let taken = self.shelf.take(&self.slots, &mut out);
            Case::numbers(&out[..taken])
        }

        fn sweep(&self) -> Vec<usize> {
            let mut out = [MaybeUninit::uninit(); SLOTS];
            let count = |stock: &mut Stock| core::mem::replace(&mut stock.untouched, stock.len);
            let gone = self.shelf.take_oldest(&self.slots, count, &mut out);
            Case::numbers(&out[..gone])
        }
    }

    #[test]
    fn the_newest_are_taken_and_no_more_than_fit_are_kept() {
        let case = Case::new();
        assert_eq!((case.give(5, 1..4), case.give(5, 4..9), case.give(5, 9..10)), (3, 2, 0));
        assert_eq!((case.take(2), case.shelf.len()), (vec![4, 5], 3));
        assert_eq!((case.take(9), case.take(1)), (vec![1, 2, 3], vec![]));
        assert_eq!(case.give(usize::MAX, 1..2 * SLOTS), SLOTS);
        assert_eq!(case.take(SLOTS), (1..=SLOTS).collect::<Vec<_>>());
    }

    #[test]
    fn a_sweep_takes_what_lay_untouched_since_the_last_one() {
        let case = Case::new();
        case.give(SLOTS, 1..9);
        assert!(case.sweep().is_empty(), "all came since");
        case.take(2);
        case.give(SLOTS, 20..22);
        assert_eq!(case.sweep(), [1, 2, 3, 4, 5, 6], "there were six all the time");
        assert_eq!(case.sweep(), [20, 21]);
        assert!(case.sweep().is_empty() && case.shelf.len() == 0);
    }

    #[test]
    fn blocks_are_wanted_if_another_thread_asked() {
        let shelf = Shelf::new();
        let (one, other) = (0x1000, 0x2000);
        assert!(!shelf.is_asked_by_another(one), "nobody asked");
        shelf.note_asked(one);
        shelf.note_asked(one);
        assert!(!shelf.is_asked_by_another(one) && shelf.is_asked_by_another(other));
        shelf.note_asked(other);
        assert!(shelf.is_asked_by_another(one) && shelf.is_asked_by_another(other));
    }

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
