//! A thread's cache of the fallback's blocks: by class, newest first, bounded in bytes.
//!
//! The fallback's own free lists cost most programs more than anything else above 512 bytes; a block that was
//! freed just now is still warm and serves the next request of its class.
//!
//! The bound is not a share but a promise about the peak: what a thread has in use and what it
//! caches together stay near the most that it ever had in use, plus some [`slack`]. So the cache does
//! not raise a program's peak, and a program whose use goes up and down keeps its memory.
//! A free that is kept and an allocation that is served leave that sum as it is. Therefore neither looks at it: room
//! is granted to a class, block by block, when a free finds none, and taken away when a block comes fresh
//! from the fallback.
//!
//! Invariants:
//!
//! 1. `len <= cap <= max_cap` for every class, and the first `len` of its slots are blocks of class c of the registered
//!    fallback, each in one cache once.
//! 2. `granted` is the sum of `cap` times size over all classes, and at most `limit`. In a cache
//!    of no thread it is 0, unless blocks are still there.
//! 3. Bit c of `roomy` is set where `cap` is not 0.
//! 4. When room was granted or a block came fresh: `live + granted <= peak + slack`, or `live` and what
//!    lies in the slots stay below that.
//!
//! Only who has its turn may use it. It calls no fallback: who holds it takes out what must go. No unsafe here.

use crate::large_class::{LARGE_CLASSES, LargeClass};
use crate::turn::Turn;
use alloc_core::Block;
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The most slots of a class.
const SLOTS: usize = 256;

/// The most slots of a class for alignments above 16, which fewer programs ask for.
const WIDE_SLOTS: usize = 32;

/// Bytes of blocks that one class may hold, beyond the first two.
const CLASS_BYTES: usize = 512 << 10;

/// Where the slots of each class begin, side by side, and where the last ones end.
const AT: [u16; LARGE_CLASSES + 1] = {
    let mut at = [0; LARGE_CLASSES + 1];
    let mut index = 0;
    while let Some(class) = LargeClass::from_index(index) {
        at[index + 1] = at[index] + max_cap(class) as u16;
        index += 1;
    }
    at
};

/// Bytes of a block of each class.
const SIZES: [u32; LARGE_CLASSES] = {
    let mut sizes = [0; LARGE_CLASSES];
    let mut index = 0;
    while let Some(class) = LargeClass::from_index(index) {
        sizes[index] = class.size() as u32;
        index += 1;
    }
    sizes
};

/// Bytes by which the cache may exceed what the thread had in use at its peak, which is `peak`: a quarter of it, from 256 KiB to
/// 2 MiB. Classes that are not asked for at the moment can stay then, which glibc would otherwise scatter; an eighth
/// is too little for that (docs/measurements.md).
const fn slack(peak: usize) -> usize {
    match peak / 4 {
        ..LEAST_SLACK => LEAST_SLACK,
        quarter @ LEAST_SLACK..MOST_SLACK => quarter,
        MOST_SLACK.. => MOST_SLACK,
    }
}

const LEAST_SLACK: usize = 256 << 10;

const MOST_SLACK: usize = 2 << 20;

/// The array of one class.
struct LargeBin {
    /// Atomic because other threads read it for statistics.
    len: AtomicU32,
    cap: Cell<u32>,
    /// Whether a block was taken since the last sweep.
    used: Cell<bool>,
    /// Whether the last block of this class that did not come from here was one of another class before.
    grown: Cell<bool>,
    /// Where its slots begin; known from the first grant on.
    at: Cell<u16>,
}

/// See the head of this file.
pub(crate) struct LargeCache {
    /// Who may use the rest; see `turn`.
    pub(crate) turn: Turn,
    bins: [LargeBin; LARGE_CLASSES],
    slots: [Cell<Option<Block>>; AT[LARGE_CLASSES] as usize],
    /// The most bytes that may be granted.
    limit: Cell<usize>,
    granted: Cell<usize>,
    /// Which classes have room (3).
    roomy: [Cell<u64>; LARGE_CLASSES / 64],
    /// The most bytes that this thread had in use, by its layouts, as far as it was seen.
    peak: Cell<usize>,
}

const fn max_cap(class: LargeClass) -> u32 {
    let slots = if class.is_wide() { WIDE_SLOTS } else { SLOTS };
    let fit = CLASS_BYTES / class.size();
    if fit < 2 {
        2
    } else if fit > slots {
        slots as u32
    } else {
        fit as u32
    }
}

impl LargeCache {
    pub(crate) const fn new() -> Self {
        LargeCache {
            turn: Turn::new(),
            bins: [const {
                LargeBin {
                    len: AtomicU32::new(0),
                    cap: Cell::new(0),
                    used: Cell::new(false),
                    grown: Cell::new(false),
                    at: Cell::new(0),
                }
            }; LARGE_CLASSES],
            slots: [const { Cell::new(None) }; AT[LARGE_CLASSES] as usize],
            limit: Cell::new(0),
            granted: Cell::new(0),
            roomy: [const { Cell::new(0) }; LARGE_CLASSES / 64],
            peak: Cell::new(0),
        }
    }

    /// Bytes of the blocks in it. A step per class.
    pub(crate) fn cached(&self) -> usize {
        self.classes().map(|(class, bin)| bin.len.load(Relaxed) as usize * class.size()).sum()
    }

    /// Sets the most bytes that may be granted from now on.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    #[inline]
    fn slot(&self, bin: &LargeBin, place: u32) -> Option<&Cell<Option<Block>>> {
        self.slots.get(bin.at.get() as usize + place as usize)
    }

    /// Takes the newest block of a class.
    #[inline]
    pub(crate) fn pop(&self, class: LargeClass) -> Option<Block> {
        let bin = self.bins.get(class.index())?;
        // Relaxed, here and below: one writer at a time; readers want a recent value, no order.
        let len = bin.len.load(Relaxed).checked_sub(1)?;
        bin.len.store(len, Relaxed);
        bin.used.set(true);
        self.slot(bin, len)?.get()
    }

    /// Puts a block in, if its class has room.
    #[inline]
    pub(crate) fn push(&self, class: LargeClass, block: Block) -> bool {
        let Some(bin) = self.bins.get(class.index()) else { return false };
        let len = bin.len.load(Relaxed);
        if len >= bin.cap.get() {
            return false;
        }
        let Some(slot) = self.slot(bin, len) else { return false };
        slot.set(Some(block));
        bin.len.store(len + 1, Relaxed);
        true
    }

    /// Grants a class more room, if the bound allows it; `live` are the bytes in use after the free
    /// that asks for it, `freed` what it frees.
    pub(crate) fn grant(&self, class: LargeClass, live: usize, freed: usize) -> bool {
        self.peak.set(self.peak.get().max(live + freed));
        let Some(bin) = self.bins.get(class.index()) else { return false };
        if bin.grown.get() {
            return false;
        }
        let cap = bin.cap.get();
        let bound = self.peak.get() + slack(self.peak.get());
        let budget = bound.saturating_sub(live).min(self.limit.get());
        let left = budget.saturating_sub(self.granted.get()) / class.size();
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        let more = cap.max(1).min(max_cap(class).saturating_sub(cap)).min(left);
        bin.cap.set(cap + more);
        bin.at.set(AT.get(class.index()).copied().unwrap_or_default());
        self.note_room(class, bin);
        self.granted.set(self.granted.get() + more as usize * class.size());
        more > 0
    }

    /// Blocks of a class in it.
    pub(crate) fn len(&self, class: LargeClass) -> u32 {
        self.bins.get(class.index()).map_or(0, |bin| bin.len.load(Relaxed))
    }

    /// How many blocks of a class may be put in.
    pub(crate) fn room(&self, class: LargeClass) -> u32 {
        self.bins
            .get(class.index())
            .map_or(0, |bin| bin.cap.get().saturating_sub(bin.len.load(Relaxed)))
    }

    /// Notes what is in use, after a block came fresh from the fallback.
    pub(crate) fn note_fresh(&self, class: Option<LargeClass>, live: usize) {
        self.peak.set(self.peak.get().max(live));
        if let Some(bin) = class.and_then(|class| self.bins.get(class.index())) {
            bin.grown.set(false);
        }
    }

    /// The same after a block grew into this class where the fallback grows blocks in place, as long as what lies behind
    /// them is free: until a block of this class is asked for, none is kept that another could grow into.
    pub(crate) fn note_grown(&self, class: Option<LargeClass>, live: usize) {
        self.peak.set(self.peak.get().max(live));
        if let Some(class) = class
            && let Some(bin) = self.bins.get(class.index())
        {
            bin.grown.set(true);
            self.take_room(class, bin.cap.get() - bin.len.load(Relaxed));
        }
    }

    /// Forgets what the thread that leaves was granted. Rooms of blocks that are still there stay.
    pub(crate) fn forget(&self) {
        let mut granted = 0;
        for (class, bin) in self.classes() {
            bin.cap.set(bin.len.load(Relaxed));
            bin.grown.set(false);
            granted += bin.cap.get() as usize * class.size();
            self.note_room(class, bin);
        }
        self.granted.set(granted);
        self.peak.set(0);
    }

    /// How many bytes must go now that `live` bytes are in use, some of them fresh from the fallback.
    pub(crate) fn excess(&self, live: usize) -> usize {
        let peak = self.peak.get().max(live);
        let room = peak.saturating_add(slack(peak)) - live;
        // Nearly always: no need to add up.
        if self.granted.get() <= room {
            return 0;
        }
        let bytes = |(class, bin): (LargeClass, &LargeBin)| {
            bin.len.load(Relaxed) as usize
                * SIZES.get(class.index()).map_or(0, |size| *size as usize)
        };
        let cached = self.roomy().map(bytes);
        cached.sum::<usize>().saturating_sub(room)
    }

    /// Takes out a block of the largest class that has one, and takes its room away.
    pub(crate) fn pop_largest(&self) -> Option<(LargeClass, Block)> {
        let filled = self.roomy().filter(|(_, bin)| bin.len.load(Relaxed) > 0);
        let (class, _) = filled.max_by_key(|(class, _)| class.rank())?;
        let block = self.pop(class)?;
        self.take_room(class, 1);
        Some((class, block))
    }

    fn take_room(&self, class: LargeClass, blocks: u32) {
        if let Some(bin) = self.bins.get(class.index()) {
            let bytes = blocks as usize * class.size();
            bin.cap.set(bin.cap.get().saturating_sub(blocks));
            self.note_room(class, bin);
            self.granted.set(self.granted.get().saturating_sub(bytes));
        }
    }

    /// Begins a sweep: for each class of which no block was taken since the last one, half of what lies there
    /// must go. Takes their room away, and calls `f` with how many of which class.
    pub(crate) fn sweep(&self, live: usize, mut f: impl FnMut(LargeClass, u32)) {
        for (class, bin) in self.classes() {
            let idle = bin.len.load(Relaxed).div_ceil(2);
            if !bin.used.replace(false) && idle > 0 {
                f(class, idle);
                bin.used.set(false);
                // What `f` took out leaves as much room unused.
                self.take_room(class, idle.min(bin.cap.get() - bin.len.load(Relaxed)));
            }
        }
        // The peak fades too, or one great moment would license a great cache for ever.
        self.peak.set(self.peak.get() - self.peak.get().saturating_sub(live) / 4);
    }

    /// Sets or clears the bit of a class (3).
    fn note_room(&self, class: LargeClass, bin: &LargeBin) {
        if let Some(word) = self.roomy.get(class.index() / 64) {
            let bit = 1 << (class.index() % 64);
            word.set(if bin.cap.get() > 0 { word.get() | bit } else { word.get() & !bit });
        }
    }

    /// Classes with room: those that have blocks are among them (1, 3).
    fn roomy(&self) -> impl Iterator<Item = (LargeClass, &LargeBin)> {
        self.roomy.iter().enumerate().flat_map(move |(at, word)| {
            let mut left = word.get();
            core::iter::from_fn(move || {
                // The index of none if nothing is left.
                let index = if left == 0 {
                    LARGE_CLASSES
                } else {
                    at * 64 + left.trailing_zeros() as usize
                };
                left &= left.wrapping_sub(1);
                Some((LargeClass::from_index(index)?, self.bins.get(index)?))
            })
        })
    }

    fn classes(&self) -> impl Iterator<Item = (LargeClass, &LargeBin)> {
        let class = |(index, bin)| Some((LargeClass::from_index(index)?, bin));
        self.bins.iter().enumerate().filter_map(class)
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

    fn unlimited() -> LargeCache {
        let cache = LargeCache::new();
        cache.set_limit(usize::MAX);
        cache
    }

    /// Pushes as a free does: asks for room where there is none.
    fn free(cache: &LargeCache, class: LargeClass, block: Block, live: usize) -> bool {
        cache.push(class, block)
            || (cache.grant(class, live, class.size()) && cache.push(class, block))
    }

    #[test]
    fn blocks_come_back_newest_first_and_bytes_are_summed() {
        let cache = unlimited();
        let mut memory = [0u8; 2];
        let first = NonNull::from(&mut memory[0]);
        let second = NonNull::from(&mut memory[1]);
        let kib = class(1024);
        assert!(free(&cache, kib, first, 0) && free(&cache, kib, second, 0));
        assert_eq!(cache.cached(), 2048);
        assert_eq!(cache.pop(kib), Some(second));
        assert_eq!(cache.pop(class(2048)), None);
        assert_eq!(cache.pop_largest(), Some((kib, first)));
        assert_eq!((cache.pop(kib), cache.cached()), (None, 0));
    }

    #[test]
    fn the_cache_does_not_raise_the_peak() {
        let mut byte = 0u8;
        let block = NonNull::from(&mut byte);
        let cache = LargeCache::new();
        assert!(!free(&cache, class(1024), block, 0), "nothing goes in without a limit");
        for size in [2 * LEAST_SLACK, 4 << 20, 16 << 20] {
            let (cache, large, slack) = (unlimited(), class(size), slack(size));
            assert!(free(&cache, large, block, 0), "what was in use may be kept");
            assert!(!free(&cache, large, block, 0), "but not twice as much");
            assert_eq!(cache.excess(slack), 0);
            let excess = size - slack;
            assert_eq!(cache.excess(size), excess, "in use again, and cached beyond the slack");
            assert_eq!(cache.pop_largest(), Some((large, block)));
            assert_eq!((cache.excess(2 * size), cache.granted.get()), (0, 0));
        }
    }

    #[test]
    fn the_slack_is_a_quarter_of_the_peak_within_bounds() {
        for (peak, expected) in [
            (0, LEAST_SLACK),
            (1 << 20, LEAST_SLACK),
            (4 << 20, 1 << 20),
            (8 << 20, MOST_SLACK),
            (usize::MAX, MOST_SLACK),
        ] {
            assert_eq!(slack(peak), expected, "{peak}");
        }
    }

    #[test]
    fn a_class_that_blocks_grew_into_takes_none_until_one_is_asked_for() {
        let mut memory = [0u8; 3];
        let [first, second, third] = memory.each_mut().map(NonNull::from);
        let (cache, mib) = (unlimited(), class(1 << 20));
        assert!(free(&cache, mib, first, 8 << 20));
        cache.note_grown(Some(mib), 8 << 20);
        assert!(!free(&cache, mib, second, 8 << 20), "what is there stays, and no more comes");
        assert_eq!((cache.pop(mib), cache.granted.get()), (Some(first), mib.size()));
        assert!(free(&cache, mib, first, 8 << 20), "its room is still there");
        assert!(free(&cache, class(2 << 20), third, 8 << 20), "another class");
        cache.note_fresh(Some(mib), 8 << 20);
        assert!(free(&cache, mib, second, 8 << 20));
    }

    #[test]
    fn a_sweep_names_half_of_what_lay_untouched() {
        let cache = unlimited();
        let mut memory = [0u8; 8];
        for byte in &mut memory {
            assert!(free(&cache, class(4096), NonNull::from(byte), 0));
        }
        assert!(cache.pop(class(4096)).is_some());
        cache.sweep(0, |_, _| panic!("one was taken since"));
        let mut named = Vec::new();
        cache.sweep(0, |class, count| {
            named.push((class.size(), count));
            for _ in 0..count {
                assert!(cache.pop(class).is_some());
            }
        });
        assert_eq!((named, cache.cached()), (vec![(4096, 4)], 3 * 4096));
        assert_eq!(cache.granted.get(), 4 * 4096);
    }

    #[test]
    fn a_class_holds_a_bounded_number() {
        let mut byte = 0u8;
        let block = NonNull::from(&mut byte);
        for size in [513, 4096, 1 << 20, 32 << 20] {
            let cache = unlimited();
            cache.note_fresh(None, 1 << 40);
            let held = (0..1000).take_while(|_| free(&cache, class(size), block, 0)).count();
            assert_eq!(held, max_cap(class(size)) as usize);
        }
    }
}
