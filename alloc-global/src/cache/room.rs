//! How much room the arrays of the size classes have, and when that changes.
//!
//! ```text
//! blocks in the array                       capacity
//!   each miss doubles it                    8, 16, 32 ... up to 16 KiB; from 4 on above 128 bytes
//!   up and down by less than that again     doubled: up to 32 KiB, for a class that swings
//!   full for the eighth time in a row       16 KiB again: the class shrinks, it does not swing
//! ```
//!
//! A program that frees 200 blocks and takes 200, over and over, would exchange half an array with
//! the heaps each time; a longer array spares that. One that builds for long and drops for long
//! would gain nothing: its blocks go through the heaps anyway, and a long array only keeps them
//! from others.
//!
//! It does not move blocks to or from the heaps: that is [`Cache`].

use super::Cache;
use super::array::{first_cap, max_cap, wide_cap};
use crate::mid_class::BIN_TABLE;
use alloc_core::SizeClass;
use core::cell::Cell;

/// The most misses of one kind in a row, all of which a wide array would have spared, that count as
/// a swing.
const SWING: i8 = 2;

/// Spills in a row after which a class shrinks rather than swings.
const SHRINK: i8 = 8;

/// For each class how many misses of one kind the last ones were: that many refills, or less 0,
/// spills. All zero: none yet.
pub(super) struct Runs([Cell<i8>; BIN_TABLE]);

impl Runs {
    pub(super) const fn new() -> Self {
        Runs([const { Cell::new(0) }; BIN_TABLE])
    }

    /// Notes a miss: an empty array if `step` is 1, a full one if it is -1. Returns the run up to
    /// it, and the new one.
    fn note(&self, class: SizeClass, step: i8) -> (i8, i8) {
        let Some(run) = self.0.get(class.index()) else { return (0, 0) };
        let before = run.get();
        let after = if (before < 0) == (step < 0) { before.saturating_add(step) } else { step };
        run.set(after);
        (before, after)
    }
}

impl Cache {
    /// Doubles the capacity of a class, up to that of one that does not swing. Returns the new one.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    pub(super) unsafe fn grow(&self, class: SizeClass) -> u32 {
        let (bin, index) = (self.bin(class), class.index());
        let cap = (bin.cap() * 2).max(first_cap(index)).min(max_cap(index).max(bin.cap()));
        // SAFETY: the caller's promise; not less than before, and the array that frees fill is never shut.
        unsafe { bin.set_cap(index, cap, &self.short, &self.long) };
        self.used.set(self.used.get() | 1 << (index - 1));
        cap
    }

    /// Grows an array that was found empty. Returns how many blocks to fill it with.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    pub(super) unsafe fn room_to_fill(&self, class: SizeClass) -> u32 {
        let (before, _) = self.runs.note(class, 1);
        if (-SWING..0).contains(&before) {
            // SAFETY: the caller's promise.
            unsafe { self.swing(class) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.grow(class) / 2 }
    }

    /// Grows an array that was found full, if it should be longer; else returns how many of its
    /// blocks should go.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    pub(super) unsafe fn room_to_free(&self, class: SizeClass) -> u32 {
        let (bin, most) = (self.bin(class), max_cap(class.index()));
        let (before, after) = self.runs.note(class, -1);
        // SAFETY: the caller's promise.
        if (1..=SWING).contains(&before) && unsafe { self.swing(class) } {
            return 0;
        }
        if after <= -SHRINK && bin.cap() > most {
            bin.len().saturating_sub(most / 2)
        } else {
            bin.cap() / 2
        }
    }

    /// Takes the room away that only a class that swings has, if the blocks that are left fit in less.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    pub(super) unsafe fn narrow(&self, class: SizeClass) {
        let (bin, most) = (self.bin(class), max_cap(class.index()));
        if bin.cap() > most && bin.len() <= most / 2 {
            // SAFETY: the caller's promise; at least its length.
            unsafe { bin.set_cap(class.index(), most, &self.short, &self.long) };
        }
    }

    /// Doubles the capacity of a class that swings and has all that others have; whether it could.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    unsafe fn swing(&self, class: SizeClass) -> bool {
        let (bin, index) = (self.bin(class), class.index());
        let (cap, most) = (bin.cap(), wide_cap(index));
        if cap < max_cap(index) || cap >= most {
            return false;
        }
        // SAFETY: the caller's promise; more than before.
        unsafe { bin.set_cap(index, most.min(cap * 2), &self.short, &self.long) };
        true
    }

    /// Takes more blocks of a class from the heap if the `turn` just handed on was short and left
    /// none: the next one is longer by as many. Some 4 KiB are enough to make turns cheap, and few
    /// enough to stay in a first-level cache.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    pub(crate) unsafe fn lengthen_turns(&self, class: SizeClass, turn: u32) {
        const BYTES: usize = 4 << 10;
        let (bin, index) = (self.bin(class), class.index());
        let wanted = ((BYTES / class.size()) as u32).min(32);
        if turn >= wanted / 2 || bin.len() > 0 {
            return;
        }
        if bin.cap() < wanted {
            // SAFETY: the caller's promise; more than before.
            unsafe { bin.set_cap(index, wanted, &self.short, &self.long) };
        }
        self.used.set(self.used.get() | 1 << (index - 1));
        // SAFETY: the caller's promise; the array is empty, and has as much room.
        unsafe { self.fill(class, wanted - turn) };
    }

    /// Sees to it that the next blocks of a class come from the heap by dozens: for a thread that
    /// hands them on in turns (`watch`), whose turns are as long as there are blocks.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    pub(crate) unsafe fn widen(&self, class: SizeClass) {
        const WIDE: u32 = 64;
        let (bin, index) = (self.bin(class), class.index());
        let (cap, wide) = (bin.cap(), WIDE.min(max_cap(index)) / 2);
        // Not at the first time: many threads use a class once.
        if cap > 0 && cap < wide {
            // SAFETY: the caller's promise; more than before.
            unsafe { bin.set_cap(index, wide, &self.short, &self.long) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache that no thread has, so the caller's.
    fn cache() -> Box<Cache> {
        Box::new(Cache::new())
    }

    fn class(size: usize) -> SizeClass {
        SizeClass::from_index(size / 8).unwrap()
    }

    /// Misses as `refill` and `spill` take them, `f` for a full array, `e` for an empty one; what
    /// was in between does not matter, so the slots stay uninitialised.
    fn miss(cache: &Cache, class: SizeClass, misses: &str) -> u32 {
        let bin = cache.bin(class);
        for miss in misses.chars() {
            if miss == 'e' {
                bin.set_len(0);
                // SAFETY: the caller's cache.
                let want = unsafe { cache.room_to_fill(class) };
                bin.set_len(want);
            } else if bin.cap() < max_cap(class.index()) {
                // SAFETY: as above.
                unsafe { cache.grow(class) };
            } else {
                bin.set_len(bin.cap());
                // SAFETY: as above.
                let given = unsafe { cache.room_to_free(class) };
                bin.set_len(bin.len() - given);
                // SAFETY: as above.
                unsafe { cache.narrow(class) };
            }
        }
        bin.cap()
    }

    #[test]
    fn a_class_that_swings_gets_a_wide_array_and_loses_it_when_it_shrinks() {
        for size in [8, 64, 128, 512] {
            let (cache, class) = (cache(), class(size));
            let most = max_cap(class.index());
            assert_eq!(miss(&cache, class, "eeeeeeeeee"), most, "growth alone");
            assert_eq!(miss(&cache, class, "fff"), most, "after a long run of refills");
            assert_eq!(miss(&cache, class, "eeefffeeefff"), most, "long runs");
            assert_eq!(miss(&cache, class, "eeeffe"), 2 * most, "two spills, then a refill");
            let wide = miss(&cache, class, "fefefefe");
            assert_eq!(wide, wide_cap(class.index()));
            assert!(wide as usize * size <= WIDE && wide >= 2 * most);
            assert_eq!(miss(&cache, class, "eeee"), wide, "it grows: no reason to copy");
            assert_eq!(miss(&cache, class, "fffffff"), wide);
            assert_eq!(miss(&cache, class, "f"), most, "eight in a row");
            assert!(cache.bin(class).len() <= most / 2);
        }
    }

    const WIDE: usize = 32 << 10;

    #[test]
    fn short_turns_are_lengthened_until_they_are_long_or_blocks_are_left() {
        let cache = cache();
        for (size, wanted) in [(8, 32), (128, 32), (512, 8)] {
            let class = class(size);
            let lengthened = |turn| {
                // SAFETY: the caller's cache.
                unsafe { cache.lengthen_turns(class, turn) };
                cache.bin(class).len()
            };
            assert_eq!(lengthened(wanted / 2), 0, "long enough");
            // Fewer where threads of other tests passed some on, but half at least.
            let long = lengthened(1);
            assert!((wanted / 2 - 1..wanted).contains(&long), "{long} of {wanted}");
            assert_eq!(lengthened(1), long, "the next turn is long");
            // SAFETY: the caller's cache.
            unsafe { cache.flush(true) };
            assert_eq!(cache.bin(class).len(), 0);
        }
    }

    #[test]
    fn places_of_an_array_lie_further_apart_than_the_longest_is_long() {
        use core::sync::atomic::Ordering::Relaxed;
        let cache = cache();
        for class in SizeClass::all() {
            let (bin, index) = (cache.bin(class), class.index());
            let mut place = |cap| {
                // SAFETY: the caller's cache; the array is empty.
                unsafe { bin.set_cap(index, cap, &cache.short, &cache.long) };
                bin.low.load(Relaxed).addr()
            };
            let places = [first_cap(index), max_cap(index), wide_cap(index)].map(&mut place);
            let least = wide_cap(1) as usize * size_of::<usize>();
            assert!(places.windows(2).all(|two| two[1] > two[0] + least), "{index}: {places:?}");
        }
    }

    #[test]
    fn runs_are_counted_and_saturate() {
        let (runs, class) = (Runs::new(), class(32));
        assert_eq!(runs.note(class, -1), (0, -1));
        assert_eq!(runs.note(class, -1), (-1, -2));
        assert_eq!(runs.note(class, 1), (-2, 1));
        for _ in 0..1000 {
            runs.note(class, 1);
        }
        assert_eq!(runs.note(class, 1), (i8::MAX, i8::MAX));
        assert_eq!(runs.note(class, -1), (i8::MAX, -1));
    }
}
