//! A thread's cache of the fallback's blocks: by class, newest first, bounded in bytes.
//!
//! The fallback's own free lists cost most programs more than anything else above 512 bytes; a block that was
//! freed just now is still warm and serves the next request of its class.
//!
//! The bound is not a share but a promise about the peak: what a thread has in use and what it
//! caches together stay below the most that it ever had in use, plus [`SLACK`]. So the cache does
//! not raise a program's peak, and a program whose use goes up and down keeps its memory.
//! A free that is kept, and an allocation that is served, leave the sum as it is; so it is looked at when a block
//! comes from the fallback, and when one that another thread allocated is kept.
//!
//! Invariants:
//!
//! 1. `slots[c][..len[c]]` are blocks of class c of the registered fallback, each in one cache once.
//! 2. `cached` is the sum of the sizes of all blocks in the slots, and at most `limit`.
//! 3. `live + cached <= peak + SLACK` after every free (`live` counts below 0 as 0).
//! 4. `low[c]` is at most the least `len[c]` since the last sweep.
//!
//! Only who has its turn may use it. It calls no fallback: who holds it takes out what must go. No unsafe here.

use crate::large_class::{LARGE_CLASSES, LargeClass};
use crate::turn::Turn;
use alloc_core::Block;
use core::cell::Cell;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Slots per class.
const SLOTS: usize = 32;

/// Bytes of blocks that one class may hold, beyond the first two.
const CLASS_BYTES: usize = 512 << 10;

/// Bytes by which the cache may exceed what the thread had in use at its peak.
pub(crate) const SLACK: usize = 256 << 10;

/// See the head of this file.
pub(crate) struct LargeCache {
    /// Who may use the rest; see `turn`.
    pub(crate) turn: Turn,
    len: [Cell<u8>; LARGE_CLASSES],
    low: [Cell<u8>; LARGE_CLASSES],
    slots: [[Cell<Option<Block>>; SLOTS]; LARGE_CLASSES],
    /// The most bytes that may be in it; 0 in caches that belong to no thread.
    limit: Cell<usize>,
    /// The most bytes that this thread had in use, by its layouts.
    peak: Cell<usize>,
    /// Atomic because other threads read it for statistics.
    cached: AtomicUsize,
}

const fn max_len(class: LargeClass) -> usize {
    let fit = CLASS_BYTES / class.size();
    if fit < 2 {
        2
    } else if fit > SLOTS {
        SLOTS
    } else {
        fit
    }
}

impl LargeCache {
    pub(crate) const fn new() -> Self {
        LargeCache {
            turn: Turn::new(),
            len: [const { Cell::new(0) }; LARGE_CLASSES],
            low: [const { Cell::new(0) }; LARGE_CLASSES],
            slots: [const { [const { Cell::new(None) }; SLOTS] }; LARGE_CLASSES],
            limit: Cell::new(0),
            peak: Cell::new(0),
            cached: AtomicUsize::new(0),
        }
    }

    /// Bytes of the blocks in it.
    pub(crate) fn cached(&self) -> usize {
        // Relaxed, here and below: one writer; readers want a recent value, no order.
        self.cached.load(Relaxed)
    }

    /// Sets the most bytes that may be in it from now on.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    /// Notes what is in use, before a free and after an allocation from the fallback.
    #[inline]
    pub(crate) fn note_live(&self, live: usize) {
        if live > self.peak.get() {
            self.peak.set(live);
        }
    }

    /// How many bytes must go for invariants 2 and 3 to hold with `more` bytes in the cache.
    #[inline]
    pub(crate) fn excess(&self, live: usize, more: usize) -> usize {
        let room = (self.peak.get() + SLACK).saturating_sub(live).min(self.limit.get());
        (self.cached() + more).saturating_sub(room)
    }

    /// Takes the newest block of a class.
    #[inline]
    pub(crate) fn pop(&self, class: LargeClass) -> Option<Block> {
        let len = self.len.get(class.index())?;
        let new = len.get().checked_sub(1)?;
        len.set(new);
        let low = self.low.get(class.index())?;
        low.set(low.get().min(new));
        self.cached.store(self.cached() - class.size(), Relaxed);
        self.slots.get(class.index())?.get(new as usize)?.get()
    }

    /// Puts a block in, if there is room for it; the bound must have been seen to.
    #[inline]
    pub(crate) fn push(&self, class: LargeClass, block: Block) -> bool {
        let Some(len) = self.len.get(class.index()) else { return false };
        let at = len.get() as usize;
        if at >= max_len(class) {
            return false;
        }
        let Some(slot) = self.slots.get(class.index()).and_then(|slots| slots.get(at)) else {
            return false;
        };
        slot.set(Some(block));
        len.set(at as u8 + 1);
        self.cached.store(self.cached() + class.size(), Relaxed);
        true
    }

    /// Takes out a block of the largest class that has one.
    pub(crate) fn pop_largest(&self) -> Option<(LargeClass, Block)> {
        let index = self.len.iter().rposition(|len| len.get() > 0)?;
        let class = LargeClass::from_index(index)?;
        Some((class, self.pop(class)?))
    }

    /// Begins a sweep: for each class half of the blocks that lay untouched since the last one must
    /// go. Calls `f` with how many of which class.
    pub(crate) fn sweep(&self, live: usize, mut f: impl FnMut(LargeClass, usize)) {
        for index in 0..LARGE_CLASSES {
            let (Some(low), Some(len)) = (self.low.get(index), self.len.get(index)) else { return };
            let idle = low.get();
            if idle > 0
                && let Some(class) = LargeClass::from_index(index)
            {
                f(class, idle.div_ceil(2) as usize);
            }
            low.set(len.get());
        }
        // The peak fades too, or one great moment would license a great cache for ever.
        self.peak.set(self.peak.get() - self.peak.get().saturating_sub(live) / 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::alloc::Layout;
    use core::ptr::NonNull;

    fn class(size: usize) -> LargeClass {
        LargeClass::of(Layout::from_size_align(size, 8).unwrap()).unwrap()
    }

    #[test]
    fn blocks_come_back_newest_first_and_bytes_are_summed() {
        let cache = LargeCache::new();
        let mut memory = [0u8; 2];
        let first = NonNull::from(&mut memory[0]);
        let second = NonNull::from(&mut memory[1]);
        let kib = class(1024);
        assert!(cache.push(kib, first) && cache.push(kib, second));
        assert_eq!(cache.cached(), 2048);
        assert_eq!(cache.pop(kib), Some(second));
        assert_eq!(cache.pop(class(2048)), None);
        assert_eq!(cache.pop_largest(), Some((kib, first)));
        assert_eq!((cache.pop(kib), cache.cached()), (None, 0));
    }

    #[test]
    fn the_cache_does_not_raise_the_peak() {
        let cache = LargeCache::new();
        let live = 1 << 20;
        assert_eq!(cache.excess(0, 1), 1, "nothing goes into a cache without a limit");
        cache.set_limit(usize::MAX);
        cache.note_live(live);
        assert_eq!(cache.excess(0, live), 0, "what was in use may be kept");
        assert_eq!(cache.excess(0, live + SLACK + 1), 1);
        assert_eq!(cache.excess(live, SLACK), 0);
        assert_eq!(cache.excess(live, SLACK + 5), 5);
        cache.set_limit(4096);
        assert!(cache.excess(0, live) > 0, "the limit holds");
    }

    #[test]
    fn a_sweep_names_half_of_what_lay_untouched() {
        let cache = LargeCache::new();
        let mut memory = [0u8; 8];
        for byte in &mut memory {
            assert!(cache.push(class(4096), NonNull::from(byte)));
        }
        cache.sweep(0, |_, _| panic!("they came after the last sweep"));
        let mut named = Vec::new();
        cache.sweep(0, |class, count| named.push((class.size(), count)));
        assert_eq!(named, [(4096, 4)]);
    }

    #[test]
    fn a_class_holds_a_bounded_number() {
        let cache = LargeCache::new();
        let mut byte = 0u8;
        let block = NonNull::from(&mut byte);
        for size in [513, 4096, 1 << 20, 32 << 20] {
            let held = (0..1000).take_while(|_| cache.push(class(size), block)).count();
            assert_eq!(held, max_len(class(size)));
        }
    }
}
