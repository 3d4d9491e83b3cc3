//! A thread's cache of the fallback's blocks: a list for each class, newest first, all of them bounded in bytes.
//!
//! ```text
//! bins[class]: head, len      ┌──────────────┐      ┌──────────────┐
//!               └────────────►│ next │  free │ ───► │ null │  free │     links in the first word of each block
//!                             └──────────────┘      └──────────────┘
//! ```
//!
//! The fallback's own free lists cost most programs more than anything else above 512 bytes; a block that was
//! freed just now is still warm and serves the next request of its class. Lists through the blocks have room for as many as the bound
//! allows, and take none for themselves.
//!
//! The bound is not a share but a promise about the peak: what a thread has in use and what it
//! caches together stay near the most that it ever had in use, plus some [`slack`]. So the cache does
//! not raise a program's peak, and a program whose use goes up and down keeps its memory.
//! A free that is kept and an allocation that is served leave that sum as it is. Therefore neither looks at it: what is too much
//! goes when a block comes fresh from the fallback. How much may be held is granted a megabyte at a time, so that somebody looks at the
//! clock before much lies there unnoticed.
//!
//! Invariants:
//!
//! 1. A list holds `len` blocks of class c of the registered fallback, linked through their first words, each in one cache once.
//! 2. `held` is the sum of `len` times size over all classes.
//! 3. Bit c of `filled` is set where `len` is not 0.
//! 4. `room <= peak + slack` and `room <= limit`, and nothing is put in beyond it. It is raised only while `live + held <= peak + slack`. In
//!    a cache of no thread it is 0.
//! 5. `least <= len`.
//!
//! Only who has its turn may use it, but for `cached`. It calls no fallback: who holds it takes out what must go. Unsafe only to follow
//! and write links.

use crate::large_class::{LARGE_ALIGN, LARGE_CLASSES, LARGE_SIZES, LargeClass};
use crate::turn::Turn;
use alloc_core::Block;
use core::cell::Cell;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

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

/// Bytes beyond what is held that are granted at once.
const STEP: usize = 1 << 20;

const MOST_SLACK: usize = 2 << 20;

/// The list of one class.
struct LargeBin {
    head: Cell<Option<Block>>,
    len: Cell<u32>,
    /// The shortest it was since the last sweep (5).
    least: Cell<u32>,
    /// The most blocks that may lie here: none until this thread or another asks for one in vain, then any number; once a block grew
    /// into this class, as many as there are.
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
    /// It is a free block of that class of the registered fallback, and the caller's, who gives it up if it was put in.
    #[inline]
    pub(crate) unsafe fn push(&self, class: LargeClass, block: Block) -> bool {
        let bin = self.bin(class);
        let held = self.held.load(Relaxed) + class.size();
        let len = bin.len.get();
        if held > self.room.load(Relaxed) || len >= bin.most.get() {
            return false;
        }
        let next = bin.head.replace(Some(block));
        // SAFETY: the caller's promise: nobody else uses the block, and it is large and aligned enough for a link.
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

    /// Works out how much may be held; a block of `freed` bytes, which `live` no longer has in it, is to find room if the bound allows.
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

    /// Takes back what was granted beyond a step, after blocks were taken out: somebody is to look at the clock again before as many lie there.
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

    /// Lets blocks of a class in, for which somebody asked in vain: what nobody asks for is better off in the fallback, which makes
    /// blocks of other sizes of it.
    pub(crate) fn open(&self, class: LargeClass) {
        self.bin(class).most.set(u32::MAX);
    }

    /// The same after a block grew into this class where the fallback grows blocks in place, as long as what lies behind
    /// them is free: until a block of this class is asked for, none is kept that another could grow into.
    pub(crate) fn note_grown(&self, class: Option<LargeClass>, live: usize) {
        self.peak.set(self.peak.get().max(live));
        if let Some(class) = class {
            let bin = self.bin(class);
            bin.most.set(bin.len.get());
        }
    }

    /// Forgets what the thread that leaves was granted. What is still there stays.
    pub(crate) fn forget(&self) {
        self.bins.iter().for_each(|bin| bin.most.set(0));
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

    /// Begins a sweep: calls `f` with how many blocks lay untouched since the last one in which class, some of which must go.
    pub(crate) fn sweep(&self, live: usize, mut f: impl FnMut(LargeClass, u32)) {
        for class in self.filled() {
            let bin = self.bin(class);
            if bin.least.get() > 0 {
                f(class, bin.least.get());
            }
            bin.least.set(bin.len.get());
        }
        // The peak fades too, or one great moment would license a great cache for ever.
        self.peak.set(self.peak.get() - self.peak.get().saturating_sub(live) / 4);
        self.set_room(live, 0);
    }

    #[inline]
    fn bin(&self, class: LargeClass) -> &LargeBin {
        // Every number that a class can have is an index: no test, no panic.
        &self.bins[class.index()]
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
mod tests {
    use super::*;
    use core::alloc::Layout;
    use core::ptr::NonNull;

    /// Memory for blocks: what the cache writes into them is no more than a link.
    struct Blocks(Vec<u128>);

    impl Blocks {
        fn new() -> Self {
            Blocks(vec![0; 1024])
        }

        fn get(&mut self, index: usize) -> Block {
            NonNull::from(&mut self.0[index]).cast()
        }
    }

    fn class(size: usize) -> LargeClass {
        LargeClass::of(Layout::from_size_align(size, 8).unwrap()).unwrap()
    }

    /// A cache of whose classes all were asked for.
    fn limited(limit: usize) -> LargeCache {
        let cache = LargeCache::new();
        cache.set_limit(limit);
        (0..LARGE_CLASSES).filter_map(LargeClass::from_index).for_each(|class| cache.open(class));
        cache
    }

    fn unlimited() -> LargeCache {
        limited(usize::MAX)
    }

    /// Pushes as a free does: asks for room where there is none.
    fn free(cache: &LargeCache, class: LargeClass, block: Block, live: usize) -> bool {
        // SAFETY: memory for a link at least, each block once.
        let push = || unsafe { cache.push(class, block) };
        push() || {
            cache.grant(live, class.size());
            push()
        }
    }

    fn check(cache: &LargeCache) {
        let mut held = 0;
        for index in 0..LARGE_CLASSES {
            let class = LargeClass::from_index(index).unwrap();
            let bin = cache.bin(class);
            let mut len = 0;
            let mut at = bin.head.get();
            while let Some(block) = at {
                len += 1;
                // SAFETY: a block of the list.
                at = unsafe { block.cast::<Link>().read() };
            }
            assert_eq!(len, bin.len.get(), "1: {class:?}");
            assert_eq!(cache.filled[index / 64].get() >> (index % 64) & 1 == 1, len > 0, "3");
            assert!(bin.least.get() <= len, "5: {class:?}");
            held += len as usize * class.size();
        }
        assert_eq!(held, cache.cached(), "2");
    }

    #[test]
    fn blocks_come_back_newest_first_and_bytes_are_summed() {
        let (cache, mut blocks) = (unlimited(), Blocks::new());
        let (first, second) = (blocks.get(0), blocks.get(1));
        let kib = class(1024);
        assert!(free(&cache, kib, first, 0) && free(&cache, kib, second, 0));
        check(&cache);
        assert_eq!((cache.cached(), cache.len(kib)), (2048, 2));
        assert_eq!(cache.pop(kib), Some(second));
        assert_eq!(cache.pop(class(2048)), None);
        assert_eq!(cache.pop_largest(), Some((kib, first)));
        assert_eq!((cache.pop(kib), cache.cached()), (None, 0));
        check(&cache);
    }

    #[test]
    fn the_cache_does_not_raise_the_peak() {
        let mut blocks = Blocks::new();
        let cache = limited(0);
        assert!(!free(&cache, class(1024), blocks.get(0), 0), "nothing goes in without a limit");
        for size in [2 * LEAST_SLACK, 4 << 20, 16 << 20] {
            let (cache, large, slack) = (unlimited(), class(size), slack(size));
            assert!(free(&cache, large, blocks.get(0), 0), "what was in use may be kept");
            assert!(!free(&cache, large, blocks.get(1), 0), "but not twice as much");
            assert_eq!(cache.excess(slack), 0);
            let excess = size - slack;
            assert_eq!(cache.excess(size), excess, "in use again, and cached beyond the slack");
            assert_eq!(cache.pop_largest(), Some((large, blocks.get(0))));
            assert_eq!((cache.excess(2 * size), cache.cached()), (0, 0));
            check(&cache);
        }
    }

    #[test]
    fn room_is_granted_by_the_megabyte_and_taken_back() {
        let mut blocks = Blocks::new();
        let (cache, large) = (unlimited(), class(64 << 10));
        cache.note_fresh(None, 64 << 20);
        let live = |held: usize| (64 << 20) - (held + 1) * large.size();
        // How many find room, without anybody asking for more.
        let mut fill = |first: usize| {
            // SAFETY: memory for a link, each block once.
            (first..1000).take_while(|at| unsafe { cache.push(large, blocks.get(*at)) }).count()
        };
        assert_eq!(fill(0), 0, "nobody asked");
        cache.grant(live(0), large.size());
        let step = (STEP + large.size() * 5 / 4) / large.size();
        assert_eq!(fill(0), step);
        cache.grant(live(step), large.size());
        assert_eq!(fill(step), step);
        let taken = core::iter::from_fn(|| cache.pop(large)).take(step).count();
        assert_eq!(fill(step), taken, "what was granted stays");
        while cache.pop(large).is_some() {}
        cache.tighten();
        assert_eq!(fill(0), STEP / large.size());
        assert_eq!(cache.granted(), STEP, "what lies there");
        cache.grant(live(16), large.size());
        while cache.pop(large).is_some() {}
        assert!(cache.granted() > STEP, "what may come to lie there unseen");
        cache.tighten();
        assert_eq!(cache.granted(), 0);
        check(&cache);
    }

    #[test]
    fn as_many_are_kept_as_the_bound_allows_and_the_limit() {
        let mut blocks = Blocks::new();
        for (limit, expected) in [(usize::MAX, 1000), (100 << 10, 100), (0, 0)] {
            let (cache, kib) = (limited(limit), class(1024));
            cache.note_fresh(None, 1000 << 10);
            let kept =
                |index: &usize| free(&cache, kib, blocks.get(*index), (1000 - index - 1) << 10);
            assert_eq!((0..1000).take_while(kept).count(), expected);
            check(&cache);
        }
    }

    #[test]
    fn what_nobody_asked_for_is_not_kept() {
        let (cache, mut blocks) = (LargeCache::new(), Blocks::new());
        cache.set_limit(usize::MAX);
        let (kib, page) = (class(1024), class(4096));
        cache.note_fresh(Some(kib), 1 << 20);
        assert!(free(&cache, kib, blocks.get(0), 1 << 20));
        assert!(!free(&cache, page, blocks.get(1), 1 << 20));
        cache.open(page);
        assert!(free(&cache, page, blocks.get(1), 1 << 20));
        check(&cache);
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
        let mut blocks = Blocks::new();
        let [first, second, third] = [0, 1, 2].map(|index| blocks.get(index));
        let (cache, mib) = (unlimited(), class(1 << 20));
        assert!(free(&cache, mib, first, 8 << 20));
        cache.note_grown(Some(mib), 8 << 20);
        assert!(!free(&cache, mib, second, 8 << 20), "what is there stays, and no more comes");
        assert_eq!((cache.room(mib, 0), cache.pop(mib)), (0, Some(first)));
        assert!(free(&cache, mib, first, 8 << 20), "what came from there goes back");
        assert!(!free(&cache, mib, second, 8 << 20));
        assert!(free(&cache, class(1 << 19), third, 8 << 20), "another class");
        cache.note_fresh(Some(mib), 8 << 20);
        assert!(free(&cache, mib, second, 8 << 20));
        check(&cache);
    }

    #[test]
    fn a_sweep_names_what_lay_untouched() {
        let (cache, mut blocks) = (unlimited(), Blocks::new());
        let page = class(4096);
        for index in 0..8 {
            assert!(free(&cache, page, blocks.get(index), 0));
        }
        let swept = |expected: u32| {
            let mut named = 0;
            cache.sweep(0, |of, count| {
                assert_eq!(of, page);
                named += count;
                for _ in 0..count {
                    assert!(cache.pop(page).is_some());
                }
            });
            assert_eq!(named, expected);
            check(&cache);
        };
        swept(0);
        let taken = [(); 3].map(|()| cache.pop(page).unwrap());
        for block in taken {
            assert!(free(&cache, page, block, 0));
        }
        swept(5);
        swept(3);
        assert_eq!(cache.cached(), 0);
    }

    #[test]
    fn what_a_thread_leaves_stays_and_takes_no_more() {
        let (cache, mut blocks) = (unlimited(), Blocks::new());
        let kib = class(1024);
        assert!(free(&cache, kib, blocks.get(0), 0));
        cache.forget();
        // SAFETY: memory for a link.
        assert!(!unsafe { cache.push(kib, blocks.get(1)) });
        assert_eq!((cache.cached(), cache.pop(kib)), (1024, Some(blocks.get(0))));
        check(&cache);
    }
}
