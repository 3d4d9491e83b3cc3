//! A thread's cache of the fallback's blocks: a list for each class, newest first, all of them
//! bounded in bytes.
//!
//! ```text
//! bins[class]: head, len      ┌──────────────┐      ┌──────────────┐
//!               └────────────►│ next │  free │ ───► │ null │  free │     links in the first word of each block
//!                             └──────────────┘      └──────────────┘
//! ```
//!
//! The fallback's own free lists cost most programs more than anything else above 512 bytes; a
//! block that was freed just now is still warm and serves the next request of its class. Lists
//! through the blocks have room for as many as the bound allows, and take none for themselves.
//!
//! The bound is not a share but a promise about the peak: what a thread has in use and what it
//! caches together stay near the most that it ever had in use, plus some [`slack`]. So the cache
//! does not raise a program's peak, and a program whose use goes up and down keeps its memory. A
//! free that is kept and an allocation that is served leave that sum as it is. Therefore neither
//! looks at it: what is too much goes when a block comes fresh from the fallback. How much may be
//! held is granted a megabyte at a time, so that somebody looks at the clock before much lies there
//! unnoticed.
//!
//! Invariants:
//!
//! 1. A list holds `len` blocks of class c of the registered fallback, linked through their first
//!    words, each in one cache once.
//! 2. `held` is the sum of `len` times size over all classes.
//! 3. Bit c of `filled` is set where `len` is not 0.
//! 4. `room <= peak + slack` and `room <= limit`, and nothing is put in beyond it. It is raised
//!    only while `live + held <= peak + slack`. In a cache of no thread it is 0, unless another
//!    thread was at it when its own left.
//! 5. `least <= len`.
//!
//! Only who has its turn may use it, but for `cached`. It calls no fallback: who holds it takes out
//! what must go. Unsafe only to follow and write links.

use crate::large_class::{LARGE_ALIGN, LARGE_CLASSES, LARGE_SIZES, LargeClass};
use crate::turn::Turn;
use alloc_core::Block;
use core::cell::Cell;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes by which the cache may exceed what the thread had in use at its peak, which is `peak`: a
/// quarter of it, from 256 KiB to 2 MiB. Classes that are not asked for at the moment can stay
/// then, which glibc would otherwise scatter; an eighth is too little for that
/// (docs/measurements.md).
const fn slack(peak: usize) -> usize {
    match peak / 4 {
        ..LEAST_SLACK => LEAST_SLACK,
        quarter @ LEAST_SLACK..MOST_SLACK => quarter,
        MOST_SLACK.. => MOST_SLACK,
    }
}

const LEAST_SLACK: usize = 256 << 10;

/// Bytes beyond what is held that are granted at once.
const STEP: usize = 1 << 20;

const MOST_SLACK: usize = 2 << 20;

/// The list of one class.
struct LargeBin {
    head: Cell<Option<Block>>,
    len: Cell<u32>,
    /// The shortest it was since somebody looked (5).
    least: Cell<u32>,
    /// The most blocks that may lie here: none until this thread or another asks for one in vain,
    /// then any number; once a block grew into this class, as many as there are; one, where that is
    /// held alone.
    most: Cell<u32>,
}

/// See the head of this file. All zeros at first: caches are mapped, and so are theirs.
pub(crate) struct LargeCache {
    /// Who may use the rest; see `turn`.
    pub(crate) turn: Turn,
    /// The most bytes that may be granted.
    limit: Cell<usize>,
    /// The most bytes that may be held now (4).
    room: AtomicUsize,
    /// Atomic because other threads read it for statistics.
    held: AtomicUsize,
    /// Which classes have blocks (3).
    filled: [Cell<u64>; LARGE_CLASSES / LARGE_SIZES],
    /// The most bytes that this thread had in use, by its layouts, as far as it was seen.
    peak: Cell<usize>,
    /// The class of which one block is held though nobody asked for one, and 1; 0 if there is none.
    alone: Cell<u16>,
    /// When room was last asked for, in milliseconds, and how many blocks the thread had taken by then.
    pub(crate) noted: Cell<(u64, u64)>,
    bins: [LargeBin; LARGE_CLASSES],
}

/// What a free block begins with.
type Link = Option<Block>;

const _: () = assert!(size_of::<Link>() <= LargeClass::LEAST && align_of::<Link>() <= LARGE_ALIGN);

impl LargeCache {
    pub(crate) const fn new() -> Self {
        LargeCache {
            turn: Turn::new(),
            limit: Cell::new(0),
            room: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            filled: [const { Cell::new(0) }; LARGE_CLASSES / LARGE_SIZES],
            peak: Cell::new(0),
            alone: Cell::new(0),
            noted: Cell::new((0, 0)),
            bins: [const {
                LargeBin {
                    head: Cell::new(None),
                    len: Cell::new(0),
                    least: Cell::new(0),
                    most: Cell::new(0),
                }
            }; LARGE_CLASSES],
        }
    }

    /// Bytes of the blocks in it.
    pub(crate) fn cached(&self) -> usize {
        // Relaxed, here and below: one writer at a time; readers want a recent value, no order.
        self.held.load(Relaxed)
    }

    /// Bytes that lie in it, or may come to lie there without anybody looking at the clock, but for a step.
    pub(crate) fn granted(&self) -> usize {
        self.cached().max(self.room.load(Relaxed).saturating_sub(STEP))
    }

    /// Sets the most bytes that may be granted from now on.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    /// Takes the newest block of a class.
    #[inline]
    pub(crate) fn pop(&self, class: LargeClass) -> Option<Block> {
        let bin = self.bin(class);
        let block = bin.head.get()?;
        // SAFETY: a block of the list, whose first word is the link (1).
        let next = unsafe { block.cast::<Link>().read() };
        bin.head.set(next);
        let len = bin.len.get() - 1;
        bin.len.set(len);
        bin.least.set(bin.least.get().min(len));
        if next.is_none() {
            self.note_filled(class, false);
        }
        self.held.store(self.held.load(Relaxed) - class.size(), Relaxed);
        Some(block)
    }

    /// Puts a block in, if there is room.
    ///
    /// # Safety
    ///
    /// It is a free block of that class of the registered fallback, and the caller's, who gives it
    /// up if it was put in.
    #[inline]
    pub(crate) unsafe fn push(&self, class: LargeClass, block: Block) -> bool {
        let bin = self.bin(class);
        let held = self.held.load(Relaxed) + class.size();
        let len = bin.len.get();
        if held > self.room.load(Relaxed) || len >= bin.most.get() {
            return false;
        }
        let next = bin.head.replace(Some(block));
        // SAFETY: the caller's promise: nobody else uses the block, and it is large and aligned
        // enough for a link.
        unsafe { block.cast::<Link>().write(next) };
        if next.is_none() {
            self.note_filled(class, true);
        }
        bin.len.set(len + 1);
        self.held.store(held, Relaxed);
        true
    }

    /// Works out how much may be held now that `live` bytes are in use, which were more by `freed`.
    pub(crate) fn grant(&self, live: usize, freed: usize) {
        self.peak.set(self.peak.get().max(live + freed));
        self.set_room(live, freed);
    }

    /// How many blocks of a class that are not in use may be put in while `live` bytes are.
    pub(crate) fn room(&self, class: LargeClass, live: usize) -> usize {
        let bin = self.bin(class);
        let left = bin.most.get().saturating_sub(bin.len.get()) as usize;
        let bytes = self.room.load(Relaxed).min(self.bound().saturating_sub(live));
        left.min(bytes.saturating_sub(self.cached()) / class.size())
    }

    /// The most bytes that may be in use and held together.
    fn bound(&self) -> usize {
        let peak = self.peak.get();
        peak.saturating_add(slack(peak))
    }

    /// Works out how much may be held; a block of `freed` bytes, which `live` no longer has in it,
    /// is to find room if the bound allows.
    fn set_room(&self, live: usize, freed: usize) {
        let (held, bound) = (self.cached(), self.bound());
        let sum = live.saturating_add(held).saturating_add(freed);
        let room = if sum <= bound {
            // A block is a quarter larger than what was asked for at most.
            let wanted = held.saturating_add(STEP + freed + freed / 4);
            wanted.min(bound)
        } else {
            bound.saturating_sub(live)
        };
        self.room.store(room.min(self.limit.get()), Relaxed);
    }

    /// Takes back what was granted beyond a step, after blocks were taken out: somebody is to look
    /// at the clock again before as many lie there.
    pub(crate) fn tighten(&self) {
        self.room.store(self.room.load(Relaxed).min(self.cached() + STEP), Relaxed);
    }

    /// Blocks of a class in it.
    pub(crate) fn len(&self, class: LargeClass) -> u32 {
        self.bin(class).len.get()
    }

    /// The most bytes that were in use of late.
    pub(crate) fn peak(&self) -> usize {
        self.peak.get()
    }

    /// Notes what is in use, after a block came fresh from the fallback.
    pub(crate) fn note_fresh(&self, class: Option<LargeClass>, live: usize) {
        self.peak.set(self.peak.get().max(live));
        if let Some(class) = class {
            self.open(class);
        }
    }

    /// Lets blocks of a class in, for which somebody asked in vain: what nobody asks for is better
    /// off in the fallback, which makes blocks of other sizes of it.
    pub(crate) fn open(&self, class: LargeClass) {
        if self.alone() == Some(class) {
            self.alone.set(0);
        }
        self.bin(class).most.set(u32::MAX);
    }

    /// The same after a block grew into this class where the fallback grows blocks in place, as
    /// long as what lies behind them is free: until a block of this class is asked for, none is
    /// kept that another could grow into.
    pub(crate) fn note_grown(&self, class: Option<LargeClass>, live: usize) {
        self.peak.set(self.peak.get().max(live));
        if let Some(class) = class {
            let bin = self.bin(class);
            bin.most.set(bin.len.get());
        }
    }

    /// Lets one block of a class in, and none of the class for which this was asked before: see
    /// [`take_alone`](LargeCache::take_alone).
    pub(crate) fn hold_alone(&self, class: LargeClass) {
        if let Some(before) = self.alone() {
            self.bin(before).most.set(0);
        }
        self.bin(class).most.set(1);
        // At most 256: the cast keeps the value.
        self.alone.set(class.index() as u16 + 1);
    }

    /// Takes out the one block that lies here for whoever empties the cache, not to be used again.
    pub(crate) fn take_alone(&self) -> Option<(LargeClass, Block)> {
        let class = self.alone()?;
        Some((class, self.pop(class)?))
    }

    /// Whether there is one.
    pub(crate) fn has_alone(&self) -> bool {
        self.alone().is_some_and(|class| self.len(class) > 0)
    }

    fn alone(&self) -> Option<LargeClass> {
        LargeClass::from_index(usize::from(self.alone.get()).checked_sub(1)?)
    }

    /// Forgets what the thread that leaves was granted. What is still there stays.
    pub(crate) fn forget(&self) {
        self.bins.iter().for_each(|bin| bin.most.set(0));
        self.alone.set(0);
        self.room.store(0, Relaxed);
        self.peak.set(0);
    }

    /// How many bytes must go now that `live` bytes are in use, some of them fresh from the fallback.
    pub(crate) fn excess(&self, live: usize) -> usize {
        let peak = self.peak.get().max(live);
        let bound = peak.saturating_add(slack(peak)) - live;
        self.cached().saturating_sub(bound)
    }

    /// Takes out a block of the largest class that has one.
    pub(crate) fn pop_largest(&self) -> Option<(LargeClass, Block)> {
        let largest = |(kind, word): (usize, &Cell<u64>)| {
            let rank = word.get().checked_ilog2()? as usize;
            Some((rank, kind * LARGE_SIZES + rank))
        };
        // A word holds the classes of one kind (3).
        let (_, index) = self.filled.iter().enumerate().filter_map(largest).max()?;
        let class = LargeClass::from_index(index)?;
        Some((class, self.pop(class)?))
    }

    /// Begins a sweep: calls `f` with how many blocks lay untouched since somebody looked last in
    /// which class, some of which must go.
    pub(crate) fn sweep(&self, live: usize, f: impl FnMut(LargeClass, u32)) {
        self.for_each_untouched(|_| true, f);
        // The peak fades too, or one great moment would license a great cache for ever.
        self.peak.set(self.peak.get() - self.peak.get().saturating_sub(live) / 4);
        self.set_room(live, 0);
    }

    /// Calls `f` with the number of blocks of each class of these that nobody used since somebody
    /// looked last.
    pub(crate) fn for_each_resting(
        &self,
        which: fn(LargeClass) -> bool,
        mut f: impl FnMut(LargeClass, u32),
    ) {
        self.for_each_untouched(which, |class, untouched| {
            if untouched == self.len(class) {
                f(class, untouched);
            }
        });
    }

    /// Calls `f` with how many blocks lay untouched since somebody looked last, in which class of
    /// these.
    fn for_each_untouched(
        &self,
        which: fn(LargeClass) -> bool,
        mut f: impl FnMut(LargeClass, u32),
    ) {
        for class in self.filled().filter(|class| which(*class)) {
            let bin = self.bin(class);
            if bin.least.get() > 0 {
                f(class, bin.least.get());
            }
            bin.least.set(bin.len.get());
        }
    }

    #[inline]
    fn bin(&self, class: LargeClass) -> &LargeBin {
        // Every number that a class can have is an index: no test, no panic.
        &self.bins[class.index()]
    }

    /// In a child of fork: another thread that was at it does not exist here, and may have been
    /// between two writes of [`pop`](Self::pop). Makes 2 and 3 hold again.
    pub(crate) fn adopt_after_fork(&self) {
        if !self.turn.forget_other() {
            return;
        }
        let mut held = 0;
        for class in (0..LARGE_CLASSES).filter_map(LargeClass::from_index) {
            let bin = self.bin(class);
            let (mut len, mut at) = (0, bin.head.get());
            while let Some(block) = at {
                len += 1;
                // SAFETY: a block of the list, whose first word is the link (1).
                at = unsafe { block.cast::<Link>().read() };
            }
            bin.len.set(len);
            bin.least.set(bin.least.get().min(len));
            self.note_filled(class, len > 0);
            held += len as usize * class.size();
        }
        // Relaxed: as in `cached`.
        self.held.store(held, Relaxed);
    }

    /// Sets or clears the bit of a class (3).
    #[inline]
    fn note_filled(&self, class: LargeClass, filled: bool) {
        if let Some(word) = self.filled.get(class.index() / 64) {
            let bit = 1 << (class.index() % 64);
            word.set(if filled { word.get() | bit } else { word.get() & !bit });
        }
    }

    /// Classes that have blocks, or had when it was begun with their 64.
    pub(crate) fn filled(&self) -> impl Iterator<Item = LargeClass> {
        self.filled.iter().enumerate().flat_map(move |(at, word)| {
            let mut left = word.get();
            core::iter::from_fn(move || {
                if left == 0 {
                    return None;
                }
                let index = at * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                LargeClass::from_index(index)
            })
        })
    }
}

#[cfg(test)]
#[path = "large_cache_tests.rs"]
mod tests;
