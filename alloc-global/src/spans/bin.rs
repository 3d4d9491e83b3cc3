//! The spans of one class, and batches of their blocks.
//!
//! ```text
//! take:  partly used  front [span]-[span]-[empty span] back  <- a span that was full and got a block back
//!        full         [span]-[span]
//! ```
//!
//! Invariants:
//!
//! 1. `partial` holds exactly the spans with a free block, `full` all others.
//! 2. `out` is the number of blocks out of the spans of both, of which there are `spans`.
//! 3. `empty` is the number of spans with every block free; at most [`KEEP_EMPTY`].
//!
//! It asks nobody for memory and takes no lock: who holds it exclusively, holds its spans' headers.
//! What it does with an emptied pool, and why, is said in alloc-core's `bin`.

use super::span::{self, Free, Rest, Span};
use crate::large_class::LargeClass;
use alloc_core::{Block, KEEP_EMPTY, List};
use core::cell::Cell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Bin {
    partial: List<Span>,
    full: List<Span>,
    spans: usize,
    out: usize,
    empty: usize,
}

// SAFETY: the lists lead to headers of the bin's spans only; whoever owns the bin owns them.
unsafe impl Send for Bin {}

/// Spans that left a bin: their memory is to go back.
#[must_use]
pub(crate) struct Emptied(List<Span>);

impl Emptied {
    pub(crate) const fn none() -> Emptied {
        Emptied(List::new())
    }

    /// Takes the memory of one of them out.
    pub(crate) fn pop(&mut self) -> Option<NonNull<u8>> {
        self.0.pop_front().map(Span::retire)
    }
}

/// The free blocks of a span, out of it: nobody else has them, and the span stays as long as they are.
pub(crate) struct Resting {
    span: Span,
    free: Free,
    count: usize,
}

impl Resting {
    /// Gives their pages back to the system. Returns how many.
    pub(crate) fn purge(&self) -> usize {
        // SAFETY: nobody else has them.
        unsafe { self.span.purge(&self.free) }
    }
}

/// A block that could not be taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It is free already.
    DoubleFree(Block),
    /// It is a block of another class.
    WrongClass(Block, Option<LargeClass>),
}

impl Bin {
    pub(crate) const fn new() -> Bin {
        Bin { partial: List::new(), full: List::new(), spans: 0, out: 0, empty: 0 }
    }

    /// How many spans there are.
    pub(crate) fn spans(&self) -> usize {
        self.spans
    }

    /// Bytes free in its spans: those in blocks that were handed out before and not given back to
    /// the system, and all others.
    pub(crate) fn free_bytes(&self, class: LargeClass) -> (usize, usize) {
        let touched = self.partial.iter().map(Span::touched_bytes).sum();
        (touched, self.spans * span::BYTES - touched - self.out * class.size())
    }

    /// Takes blocks for the end of `out`, those with the lowest addresses of a span last. Returns how many.
    pub(crate) fn take(&mut self, out: &mut [MaybeUninit<Block>]) -> usize {
        let mut left = out.len();
        while left > 0 {
            let (Some(span), Some(rest)) = (self.partial.front(), out.get_mut(..left)) else {
                break;
            };
            self.empty -= usize::from(span.is_empty());
            left -= span.take(rest);
            if span.free() == 0 {
                self.partial.remove(span);
                self.full.push_front(span);
            }
        }
        let taken = out.len() - left;
        self.out += taken;
        taken
    }

    /// Adds a span of this bin's class, all of whose blocks are free.
    pub(crate) fn add(&mut self, span: Span) {
        self.partial.push_front(span);
        self.spans += 1;
        self.empty += 1;
    }

    /// Takes back those of `blocks` that lie in spans; the others move to the front. Returns how
    /// many those are. A span that becomes empty so goes to `emptied`, if the bin has an empty one
    /// already.
    ///
    /// # Safety
    ///
    /// Blocks in spans are the caller's; the class is this bin's.
    pub(crate) unsafe fn give(
        &mut self,
        blocks: &mut [Block],
        class: LargeClass,
        emptied: &mut Emptied,
    ) -> Result<usize, Fault> {
        let blocks = Cell::from_mut(blocks).as_slice_of_cells();
        let (mut others, mut front) = (0, blocks.iter());
        for block in blocks.iter().map(Cell::get) {
            let Some((span, offset)) = Span::find(block) else {
                // All before it are done, so there is room.
                if let Some(place) = front.next() {
                    place.set(block);
                    others += 1;
                }
                continue;
            };
            if !span.is_of(class) {
                return Err(Fault::WrongClass(block, span.class()));
            }
            let was_full = span.free() == 0;
            // SAFETY: it lies there.
            if !unsafe { span.give(offset) } {
                return Err(Fault::DoubleFree(block));
            }
            self.out -= 1;
            if was_full || span.is_empty() {
                self.settle(span, was_full, emptied);
            }
        }
        Ok(others)
    }

    /// Puts a span where it belongs after blocks were given back to it.
    #[cold]
    fn settle(&mut self, span: Span, was_full: bool, emptied: &mut Emptied) {
        if was_full {
            self.full.remove(span);
            self.partial.push_back(span);
        }
        if span.is_empty() {
            self.partial.remove(span);
            if self.empty < KEEP_EMPTY {
                self.empty += 1;
                // Last in line: partly used spans come first.
                self.partial.push_back(span);
            } else {
                self.spans -= 1;
                emptied.0.push_back(span);
            }
        }
    }

    /// How many spans have a free block.
    pub(crate) fn partly_used(&self) -> usize {
        self.partial.iter().count()
    }

    /// Takes the free blocks out of the next span that rests, or of the next one if `at_once`.
    /// Looks at no more than `left` spans, which are fewer then, and notes in `waits` whether one
    /// of them may rest at the next look.
    pub(crate) fn take_resting(
        &mut self,
        left: &mut usize,
        at_once: bool,
        waits: &mut bool,
    ) -> Option<Resting> {
        while *left > 0 {
            *left -= 1;
            let span = self.partial.pop_front()?;
            self.partial.push_back(span);
            let rest = span.look();
            *waits |= rest == Rest::Active && !at_once;
            if rest == Rest::Purged || (rest == Rest::Active && !at_once) {
                continue;
            }
            let was_empty = span.is_empty();
            let (free, count) = span.take_free();
            // Nothing that would keep the span meanwhile, and no page to give back.
            if count == 0 {
                continue;
            }
            self.out += count;
            self.empty -= usize::from(was_empty);
            if span.free() == 0 {
                self.partial.remove(span);
                self.full.push_front(span);
            }
            return Some(Resting { span, free, count });
        }
        None
    }

    /// Takes back what `take_resting` took out, of which so many pages were given back to the system.
    pub(crate) fn give_resting(
        &mut self,
        resting: &Resting,
        pages: usize,
        emptied: &mut Emptied,
    ) -> Result<(), Fault> {
        let was_full = resting.span.free() == 0;
        if let Some(block) = resting.span.give_free(&resting.free, pages) {
            return Err(Fault::DoubleFree(block));
        }
        self.out -= resting.count;
        self.settle(resting.span, was_full, emptied);
        Ok(())
    }

    /// Takes out all empty spans.
    pub(crate) fn drain(&mut self) -> Emptied {
        let mut emptied = Emptied::none();
        if self.empty > 0 {
            for span in self.partial.iter().filter(|span| span.is_empty()) {
                self.partial.remove(span);
                self.spans -= 1;
                emptied.0.push_back(span);
            }
            self.empty = 0;
        }
        emptied
    }

    /// Verifies every invariant.
    pub(crate) fn check(&self, class: LargeClass) -> Result<(), &'static str> {
        let (mut spans, mut out, mut empty) = (0, 0, 0);
        for (list, is_full) in [(&self.partial, false), (&self.full, true)] {
            for span in list.iter() {
                span.check(class)?;
                if (span.free() == 0) != is_full {
                    return Err("spans 1: a span is in the wrong list");
                }
                spans += 1;
                out += span.out();
                empty += usize::from(span.is_empty());
            }
        }
        if (spans, out) != (self.spans, self.out) {
            return Err("spans 2: the number of spans or of blocks out is wrong");
        }
        if empty != self.empty || empty > KEEP_EMPTY {
            return Err("spans 3: the number of empty spans is wrong");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mid_class::CacheBin;
    use crate::spans::SPAN_LAYOUT;
    use crate::spans::span::capacity;
    use alloc_core::PAGE_SIZE;
    use std::alloc::{GlobalAlloc, System};
    use std::collections::BTreeSet;

    /// A bin, and what is out of it.
    struct Case {
        bin: Bin,
        class: LargeClass,
        out: BTreeSet<Block>,
        emptied: usize,
    }

    impl Case {
        fn new(class: LargeClass) -> Case {
            Case { bin: Bin::new(), class, out: BTreeSet::new(), emptied: 0 }
        }

        fn add(&mut self) {
            // SAFETY: the size is not 0.
            let memory = NonNull::new(unsafe { System.alloc(SPAN_LAYOUT) }).unwrap();
            // SAFETY: allocated just now.
            self.bin.add(unsafe { Span::init(memory, self.class) }.unwrap());
        }

        /// Takes up to `count` blocks, the one with the lowest address last.
        fn take(&mut self, count: usize) -> Vec<Block> {
            let mut out = vec![MaybeUninit::uninit(); count];
            let taken = self.bin.take(&mut out);
            // SAFETY: the last ones were written.
            let blocks: Vec<Block> =
                out[count - taken..].iter().map(|slot| unsafe { slot.assume_init() }).collect();
            for block in &blocks {
                assert!(self.out.insert(*block), "handed out twice");
                let span = Span::of_block(*block).unwrap();
                let end = block.addr().get() + self.class.size() - 1;
                let last = NonNull::new(core::ptr::without_provenance_mut(end)).unwrap();
                assert_eq!(Span::of_block(last).map(Span::base_address), Some(span.base_address()));
                // SAFETY: a block of that size that is ours.
                unsafe { block.write_bytes(0xA5, self.class.size()) };
            }
            self.check();
            blocks
        }

        fn try_give(&mut self, block: Block, class: LargeClass) -> Result<(), Fault> {
            let mut emptied = Emptied::none();
            // SAFETY: out of a span, or what the caller wants to see refused.
            let result = unsafe { self.bin.give(&mut [block], class, &mut emptied) };
            self.free(emptied);
            result.map(|others| assert_eq!(others, 0))
        }

        fn give(&mut self, block: Block) {
            assert!(self.out.remove(&block));
            assert_eq!(self.try_give(block, self.class), Ok(()));
            self.check();
        }

        fn free(&mut self, mut emptied: Emptied) {
            while let Some(memory) = emptied.pop() {
                self.emptied += 1;
                assert_eq!(Span::of_block(memory), None, "nobody knows of it any more");
                // SAFETY: a span's, in which nothing is used.
                unsafe { System.dealloc(memory.as_ptr(), SPAN_LAYOUT) };
            }
        }

        fn check(&self) {
            assert_eq!(self.bin.check(self.class), Ok(()));
            let (touched, untouched) = self.bin.free_bytes(self.class);
            let all = self.out.len() * self.class.size() + touched + untouched;
            assert_eq!(all, self.bin.spans() * SPAN_LAYOUT.size());
        }
    }

    impl Drop for Case {
        fn drop(&mut self) {
            for block in core::mem::take(&mut self.out) {
                let _ = self.try_give(block, self.class);
            }
            let emptied = self.bin.drain();
            self.free(emptied);
        }
    }

    fn classes() -> impl Iterator<Item = LargeClass> {
        CacheBin::mids().filter_map(CacheBin::mid_class)
    }

    #[test]
    fn any_order_of_takes_and_gives_keeps_the_invariants() {
        let mut rng = fastrand::Rng::with_seed(7);
        for class in classes() {
            let mut case = Case::new(class);
            for _ in 0..400 {
                if rng.bool() {
                    let want = rng.usize(1..40);
                    let got = case.take(want).len();
                    if got < want {
                        case.add();
                        assert_eq!(case.take(want - got).len(), want - got);
                    }
                } else {
                    for _ in 0..rng.usize(1..40) {
                        let Some(block) = rng.choice(case.out.iter().copied()) else { break };
                        case.give(block);
                    }
                }
            }
            while let Some(block) = case.out.first().copied() {
                case.give(block);
            }
            assert_eq!(case.bin.spans(), KEEP_EMPTY, "the rest went back");
            let emptied = case.bin.drain();
            case.free(emptied);
            case.check();
            assert_eq!(case.bin.spans(), 0);
        }
    }

    #[test]
    fn blocks_come_in_the_order_of_addresses_and_those_used_before_come_first() {
        for class in classes() {
            let mut case = Case::new(class);
            case.add();
            let first = case.take(12);
            assert!(first.windows(2).all(|two| two[0].addr() > two[1].addr()));
            for at in [3, 7, 5] {
                case.give(first[at]);
            }
            let (again, next) = (case.take(2), case.take(2));
            assert_eq!(again, [first[5], first[7]]);
            assert_eq!(next[1], first[3]);
            assert!(next[0] > first[0], "not carved before");
        }
    }

    /// Looks at all spans; gives back pages of those that rest, and how many; whether some may rest
    /// next time.
    fn purge(case: &mut Case, at_once: bool) -> (usize, bool) {
        let (mut left, mut pages, mut waits) = (case.bin.partly_used(), 0, false);
        while let Some(resting) = case.bin.take_resting(&mut left, at_once, &mut waits) {
            assert_eq!(case.bin.check(case.class), Ok(()), "while they are out");
            let purged = resting.purge();
            let mut emptied = Emptied::none();
            assert_eq!(case.bin.give_resting(&resting, purged, &mut emptied), Ok(()));
            case.free(emptied);
            case.check();
            pages += purged;
        }
        (pages, waits)
    }

    #[test]
    fn pages_of_free_blocks_go_back_where_a_span_rests_and_no_others() {
        for class in classes() {
            let mut case = Case::new(class);
            case.add();
            case.add();
            let blocks = case.take(capacity(class) + 10);
            for (number, block) in blocks.iter().enumerate() {
                if number % 50 != 7 {
                    case.give(*block);
                }
            }
            let touched = case.bin.free_bytes(class).0;
            assert_eq!(purge(&mut case, false), (0, true), "used just now");
            let (pages, waits) = purge(&mut case, false);
            assert!(pages * PAGE_SIZE > touched / 2 && !waits, "{pages} pages of {touched} bytes");
            assert_eq!(case.bin.free_bytes(class).0, touched - pages * PAGE_SIZE);
            for block in &case.out {
                // SAFETY: out, so that its bytes are ours.
                let bytes = unsafe { core::slice::from_raw_parts(block.as_ptr(), class.size()) };
                assert!(bytes.iter().all(|byte| *byte == 0xA5), "a live block lost its bytes");
            }
            assert_eq!(purge(&mut case, false), (0, false), "not twice");
            // Of the span that was filled first.
            let block = blocks.iter().rev().find(|block| case.out.contains(block)).copied();
            case.give(block.unwrap());
            assert_eq!(purge(&mut case, false), (0, true), "it rests no more");
            assert!(purge(&mut case, true).0 > 0);
            let free = blocks.len() - case.out.len();
            assert_eq!(case.take(free).len(), free);
        }
    }

    #[test]
    fn a_span_that_empties_while_its_free_blocks_are_out_leaves_when_they_are_back() {
        for class in classes() {
            let mut case = Case::new(class);
            (0..=KEEP_EMPTY).for_each(|_| case.add());
            let blocks = case.take(capacity(class) * (KEEP_EMPTY + 1));
            let (last, others) = blocks.split_last().unwrap();
            others.iter().for_each(|block| case.give(*block));
            let (mut left, mut waits) = (case.bin.partly_used(), false);
            let mut rest = Vec::new();
            while let Some(resting) = case.bin.take_resting(&mut left, true, &mut waits) {
                rest.push(resting);
            }
            assert!(case.out.remove(last));
            assert_eq!(case.try_give(*last, class), Ok(()));
            assert_eq!((case.emptied, case.bin.out > 0), (0, true));
            for resting in &rest {
                let mut emptied = Emptied::none();
                assert_eq!(case.bin.give_resting(resting, 0, &mut emptied), Ok(()));
                case.free(emptied);
                assert_eq!(case.bin.check(class), Ok(()));
            }
            assert_eq!((case.emptied, case.bin.spans()), (1, KEEP_EMPTY));
        }
    }

    #[test]
    fn a_span_without_a_freed_block_is_left_alone_however_long_it_rests() {
        for class in classes() {
            let mut case = Case::new(class);
            case.add();
            case.take(3);
            for _ in 0..3 {
                let (mut left, mut waits) = (case.bin.partly_used(), false);
                assert!(case.bin.take_resting(&mut left, true, &mut waits).is_none());
            }
            let rest = case.take(capacity(class));
            assert_eq!(rest.len(), capacity(class) - 3);
            case.check();
        }
    }

    #[test]
    fn a_block_freed_twice_is_seen_though_its_span_rests() {
        for class in classes() {
            let mut case = Case::new(class);
            case.add();
            let blocks = case.take(9);
            case.give(blocks[4]);
            let (mut left, mut waits) = (1, false);
            let resting = case.bin.take_resting(&mut left, true, &mut waits).unwrap();
            assert_eq!(case.try_give(blocks[4], class), Ok(()), "not seen yet");
            let mut emptied = Emptied::none();
            let result = case.bin.give_resting(&resting, 0, &mut emptied);
            assert_eq!(result, Err(Fault::DoubleFree(blocks[4])));
            // What it is after that does not matter: the process ends.
            core::mem::take(&mut case.out);
            core::mem::forget(case);
        }
    }

    #[test]
    fn a_block_that_is_free_or_of_another_class_is_refused() {
        let [small, large] = [classes().next(), classes().last()].map(Option::unwrap);
        let mut case = Case::new(small);
        case.add();
        let blocks = case.take(3);
        case.give(blocks[1]);
        let (free, used) = (blocks[1], blocks[0]);
        assert_eq!(case.try_give(free, small), Err(Fault::DoubleFree(free)));
        assert_eq!(case.try_give(used, large), Err(Fault::WrongClass(used, Some(small))));
        case.check();
    }
}
