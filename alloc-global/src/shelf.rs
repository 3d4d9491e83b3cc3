//! A shelf: a stack of free blocks behind a lock, and who asked for some. What both depots are made
//! of, that of the fallback's blocks and that of the shared heaps.
//!
//! Invariants:
//!
//! 1. The first `len` slots are blocks, each there once; nobody else has them.
//! 2. `untouched <= len`, and `len` beside the lock is that behind it whenever the lock is free.
//!
//! It does not know of which class the blocks are, nor how many there may be. `tests/loom.rs` runs
//! it under a model checker.

use crate::lock::Lock;
use crate::primitive::{AtomicU32, AtomicU64, Ordering::Relaxed};
use alloc_core::Block;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

/// A thread, as shelves tell them apart: the owner of its cache.
pub(crate) type Who = u64;

/// Stands for two threads that asked.
const SEVERAL: Who = 1;

/// All of a shelf but its slots.
#[derive(Debug)]
pub(crate) struct Shelf {
    /// Who asked in vain since the last sweep: nobody (0), one thread, [`SEVERAL`].
    asked: AtomicU64,
    /// A copy for who only looks.
    len: AtomicU32,
    stock: Lock<Stock>,
}

#[derive(Debug)]
pub(crate) struct Stock {
    len: usize,
    /// The least there was since the last sweep.
    untouched: usize,
}

/// The slots of a shelf: at most so many blocks. Apart from their lock: a fork takes all locks, and
/// would copy each page that has one.
#[derive(Debug)]
pub(crate) struct Slots<const N: usize>(UnsafeCell<[MaybeUninit<Block>; N]>);

// SAFETY: reached by who holds the shelf's lock only; free blocks belong to nobody, so any thread
// may take them out.
unsafe impl<const N: usize> Sync for Slots<N> {}

impl Stock {
    /// How many blocks there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many lay there since the last sweep; begins the next one.
    pub(crate) fn sweep(&mut self) -> usize {
        core::mem::replace(&mut self.untouched, self.len)
    }
}

impl<const N: usize> Slots<N> {
    pub(crate) const fn new() -> Self {
        Slots(UnsafeCell::new([MaybeUninit::uninit(); N]))
    }

    /// Slot `at`, or where the last one ends.
    fn at(&self, at: usize) -> *mut MaybeUninit<Block> {
        self.0.get().cast::<MaybeUninit<Block>>().wrapping_add(at.min(N))
    }
}

impl Shelf {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Shelf {
        Shelf {
            asked: AtomicU64::new(0),
            len: AtomicU32::new(0),
            stock: Lock::new(Stock { len: 0, untouched: 0 }),
        }
    }

    /// Loom's atomics cannot be made at compile time.
    #[cfg(loom)]
    pub(crate) fn new() -> Shelf {
        Shelf {
            asked: AtomicU64::new(0),
            len: AtomicU32::new(0),
            stock: Lock::new(Stock { len: 0, untouched: 0 }),
        }
    }

    /// How many blocks there are, or were a moment ago.
    pub(crate) fn len(&self) -> usize {
        // Relaxed, here and below: a hint. The blocks themselves are read under the lock.
        self.len.load(Relaxed) as usize
    }

    /// Calls `f` with every block; `f` neither allocates nor frees.
    #[cfg(not(loom))]
    pub(crate) fn for_each<const N: usize>(&self, slots: &Slots<N>, mut f: impl FnMut(Block)) {
        let stock = self.stock.lock();
        for at in 0..stock.len {
            // SAFETY: below the length: a slot with a block (1), and the lock is held.
            let slot = unsafe { slots.at(at).read() };
            // SAFETY: as above.
            f(unsafe { slot.assume_init() });
        }
    }

    /// Forgets who asked.
    pub(crate) fn forget_asked(&self) {
        self.asked.store(0, Relaxed);
    }

    /// Takes the lock on behalf of a fork.
    #[cfg(not(loom))]
    pub(crate) fn lock_for_fork(&self) {
        self.stock.lock_for_fork();
    }

    /// Frees what `lock_for_fork` took.
    #[cfg(not(loom))]
    pub(crate) fn unlock_after_fork(&self) {
        self.stock.unlock_after_fork();
    }

    fn set_len(&self, stock: &mut Stock, len: usize) {
        stock.len = len;
        stock.untouched = stock.untouched.min(len);
        // The cast keeps the value: at most as many as there are slots.
        self.len.store(len as u32, Relaxed);
    }

    /// Notes that a thread asked in vain.
    pub(crate) fn note_asked(&self, who: Who) {
        let asked = self.asked.load(Relaxed);
        // Mostly so: nothing to write.
        if asked != who && asked != SEVERAL {
            self.asked.store(if asked == 0 { who } else { SEVERAL }, Relaxed);
        }
    }

    /// Whether another thread than `who` asked in vain.
    pub(crate) fn is_asked_by_another(&self, who: Who) -> bool {
        let asked = self.asked.load(Relaxed);
        asked != 0 && asked != who
    }

    /// Moves the newest blocks to `out`. Returns how many.
    pub(crate) fn take<const N: usize>(
        &self,
        slots: &Slots<N>,
        out: &mut [MaybeUninit<Block>],
    ) -> usize {
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
    pub(crate) unsafe fn give<const N: usize>(
        &self,
        slots: &Slots<N>,
        most: usize,
        blocks: &[MaybeUninit<Block>],
    ) -> usize {
        let mut stock = self.stock.lock();
        let given = blocks.len().min(most.min(N).saturating_sub(stock.len));
        // SAFETY: room for so many behind the last one, and the lock is held.
        unsafe { slots.at(stock.len).copy_from_nonoverlapping(blocks.as_ptr(), given) };
        let len = stock.len + given;
        self.set_len(&mut stock, len);
        given
    }

    /// Moves the `count` oldest blocks to `out`. Returns how many.
    pub(crate) fn take_oldest<const N: usize>(
        &self,
        slots: &Slots<N>,
        count: impl Fn(&mut Stock) -> usize,
        out: &mut [MaybeUninit<Block>; N],
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::ptr::NonNull;

    const SLOTS: usize = 256;

    /// A shelf of its own, and blocks that nobody looks into.
    struct Case {
        shelf: Shelf,
        slots: Slots<SLOTS>,
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
            let gone = self.shelf.take_oldest(&self.slots, Stock::sweep, &mut out);
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
}
