//! A span: one piece of the system allocator's memory, cut into blocks of one class.
//!
//! ```text
//! memory, 260 KiB
//! +---+--------------+-------+-----+----------------+---------------------------+------+
//! |   | page: header | block | ... | block carved-1 | not carved: never touched | rest |
//! +---+--------------+-------+-----+----------------+---------------------------+------+
//!     |              + 4096          + carved*size                  + capacity*size
//!     the first whole page; 64 are numbered (`map`)
//!
//! header, 128 bytes, at 128 * (address / 256 KiB % 32) in its page: headers of neighbours share no cache set
//!   0 next            8 prev            16 reciprocal (4)  20 size (2)   22 capacity (2)
//!  24 free (2)       26 carved (2)      28 class (1), rest (1)                30 given_back (2)
//!  32 memory
//!  40 bits[7]: bit i of the whole is set if block i was carved and is free
//! ```
//!
//! Free blocks are bits, as in pools, and for the same reasons: they are handed out in address
//! order, a batch needs no memory of the blocks, and a double free is seen when it arrives.
//!
//! Invariants:
//!
//! 1. `size`, `capacity` and `reciprocal` are those of `class`, and do not change.
//! 2. `carved <= capacity`; bits at or beyond `carved` are clear.
//! 3. `free` = number of bits set + `capacity - carved`; blocks out = `capacity - free`.
//!
//! 4. `given_back` is how many pages of free blocks went back to the system since a block came back last.
//!
//! Which span serves a request is not decided here, but in `bin`.

use super::map;
use crate::large_class::{LARGE_ALIGN, LargeClass};
use alloc_core::{
    Block, Linked, OsPages, PAGE_SIZE, PageSource, block_index, carve, count_marked, take_marked,
};
use core::alloc::Layout;
use core::cell::Cell;
use core::mem::{MaybeUninit, offset_of};
use core::num::NonZeroUsize;
use core::ops::Deref;
use core::ptr::NonNull;

/// Pages of a span.
const PAGES: u8 = 64;

/// Bytes of a span.
const SPAN_SIZE: usize = PAGES as usize * PAGE_SIZE;

/// What the fallback is asked for: so many whole pages lie in it, wherever it begins.
pub(crate) const SPAN_LAYOUT: Layout =
    match Layout::from_size_align(SPAN_SIZE + PAGE_SIZE - LARGE_ALIGN, LARGE_ALIGN) {
        Ok(layout) => layout,
        Err(_) => panic!("a power of two, and less than half of the address space"),
    };

/// Bytes that belong to a span.
pub(crate) const BYTES: usize = SPAN_LAYOUT.size();

/// Bytes that are given back together, at least: a system call each.
pub(crate) const GRANULE: usize = 16 << 10;

/// Where the blocks begin.
const FIRST: usize = PAGE_SIZE;

const WORDS: usize = 7;

const HEADER: usize = 128;

/// Places for headers in the first page.
const PLACES: usize = PAGE_SIZE / HEADER;

const _: () = assert!((SPAN_SIZE - FIRST) / LargeClass::LEAST <= WORDS * 64);

/// See the head of this file.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Header {
    next: Cell<Option<Span>>,
    prev: Cell<Option<Span>>,
    reciprocal: Cell<u32>,
    size: Cell<u16>,
    capacity: Cell<u16>,
    free: Cell<u16>,
    carved: Cell<u16>,
    class: Cell<u8>,
    rest: Cell<Rest>,
    given_back: Cell<u16>,
    memory: Cell<NonNull<u8>>,
    bits: [Cell<u64>; WORDS],
}

const _: () = assert!(offset_of!(Header, reciprocal) == 16);
const _: () = assert!(offset_of!(Header, free) == 24);
const _: () = assert!(offset_of!(Header, class) == 28);
const _: () = assert!(offset_of!(Header, given_back) == 30);
const _: () = assert!(offset_of!(Header, memory) == 32);
const _: () = assert!(offset_of!(Header, bits) == 40);
const _: () = assert!(size_of::<Header>() <= HEADER);

/// Since when no block came back.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rest {
    /// One did since the last look.
    Active,
    /// None did since the last look.
    Resting,
    /// The same, and pages of free blocks were given back.
    Purged,
}

/// Free blocks of a span, a bit for each: taken out of it all at once.
pub(crate) type Free = [u64; WORDS];

/// A handle to a span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span(NonNull<Header>);

impl Deref for Span {
    type Target = Header;
    #[inline(always)]
    fn deref(&self) -> &Header {
        // SAFETY: handles are made by `init` and `of_block` for spans that are in use. All fields
        // are `Cell`s, so shared references may coexist.
        unsafe { self.0.as_ref() }
    }
}

impl Linked for Span {
    #[inline]
    fn next(&self) -> &Cell<Option<Span>> {
        let header: &Header = self;
        &header.next
    }
    #[inline]
    fn prev(&self) -> &Cell<Option<Span>> {
        let header: &Header = self;
        &header.prev
    }
}

/// Exact for every offset in a span and every size, as the tests show.
const fn reciprocal(size: usize) -> u32 {
    ((1u64 << 32) / size as u64 + 1) as u32
}

/// Blocks of a class that fit.
pub(crate) const fn capacity(class: LargeClass) -> usize {
    (SPAN_SIZE - FIRST) / class.size()
}

/// Where in its page the header of the span lies whose first page begins at `base`.
#[inline(always)]
const fn header_in_page(base: usize) -> usize {
    base / SPAN_SIZE % PLACES * HEADER
}

impl Span {
    /// Makes a span of `memory`, with all blocks free and none carved; `None` if there is no room
    /// to note where it is.
    ///
    /// # Safety
    ///
    /// It is [`SPAN_LAYOUT`] of memory, and the caller's. The class is one up to 4 KiB.
    pub(crate) unsafe fn init(memory: NonNull<u8>, class: LargeClass) -> Option<Span> {
        let before_page = memory.addr().get().wrapping_neg() % PAGE_SIZE;
        // SAFETY: less than a page: inside the memory.
        let base = unsafe { memory.add(before_page) };
        if !map::insert(base.addr().get(), PAGES) {
            return None;
        }
        let capacity = capacity(class) as u16;
        let header = Header {
            next: Cell::new(None),
            prev: Cell::new(None),
            reciprocal: Cell::new(reciprocal(class.size())),
            size: Cell::new(class.size() as u16),
            capacity: Cell::new(capacity),
            free: Cell::new(capacity),
            carved: Cell::new(0),
            class: Cell::new(class.rank() as u8),
            rest: Cell::new(Rest::Active),
            given_back: Cell::new(0),
            memory: Cell::new(memory),
            bits: [const { Cell::new(0) }; WORDS],
        };
        // SAFETY: inside the first whole page of the caller's memory.
        let span = Span(unsafe { base.add(header_in_page(base.addr().get())) }.cast());
        // SAFETY: as above.
        unsafe { span.0.write(header) };
        Some(span)
    }

    /// The span that an address lies in, if it does. Reads nothing of it.
    #[inline(always)]
    pub(crate) fn of_block(block: Block) -> Option<Span> {
        Some(Span::find(block)?.0)
    }

    /// The same, and how many bytes behind the first whole page of its memory the address is.
    #[inline(always)]
    pub(crate) fn find(block: Block) -> Option<(Span, usize)> {
        let address = block.addr().get();
        let before = usize::from(map::number(address)).checked_sub(1)? * PAGE_SIZE;
        let base = (address & !(PAGE_SIZE - 1)) - before;
        let header = NonZeroUsize::new(base + header_in_page(base))?;
        Some((Span(block.map_addr(|_| header).cast()), before + address % PAGE_SIZE))
    }

    /// Where the first whole page of its memory begins.
    fn base(self) -> NonNull<u8> {
        let page = |address: NonZeroUsize| NonZeroUsize::new(address.get() & !(PAGE_SIZE - 1));
        self.0.cast().map_addr(|address| page(address).unwrap_or(address))
    }

    /// Where its pages begin.
    #[cfg(test)]
    pub(crate) fn base_address(self) -> usize {
        self.base().addr().get()
    }

    /// Forgets the span. Returns its memory.
    pub(crate) fn retire(self) -> NonNull<u8> {
        map::remove(self.base().addr().get(), PAGES);
        self.memory.get()
    }

    pub(crate) fn class(self) -> Option<LargeClass> {
        LargeClass::from_index(self.class.get() as usize)
    }

    /// Whether its blocks have the size of a class; they have the alignment of all that have spans.
    #[inline(always)]
    pub(crate) fn is_of(self, class: LargeClass) -> bool {
        self.class.get() as usize == class.rank()
    }

    /// Blocks free in it.
    #[inline]
    pub(crate) fn free(self) -> usize {
        self.free.get() as usize
    }

    /// Bytes free in blocks that were handed out before and not given back to the system since, as
    /// far as that is known.
    pub(crate) fn touched_bytes(self) -> usize {
        let free = (self.carved.get() as usize - self.out()) * self.size.get() as usize;
        free.saturating_sub(self.given_back.get() as usize * PAGE_SIZE)
    }

    /// Blocks out of it.
    pub(crate) fn out(self) -> usize {
        (self.capacity.get() - self.free.get()) as usize
    }

    /// Whether all blocks are free.
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.free.get() == self.capacity.get()
    }

    /// Takes blocks for the end of `out` and returns how many: as many as it has and `out` holds.
    /// The lowest address comes last, so that who pops from the end goes up.
    pub(crate) fn take(self, out: &mut [MaybeUninit<Block>]) -> usize {
        let size = self.size.get() as usize;
        let want = out.len().min(self.free());
        let out =
            out.len().checked_sub(want).and_then(|skip| out.get_mut(skip..)).unwrap_or_default();
        // SAFETY: the blocks begin there: inside the span.
        let first = unsafe { self.base().add(FIRST) };
        // Carved blocks first: their memory was touched before.
        // SAFETY: a set bit is a carved block (2): inside the span.
        let left = unsafe { take_marked(&self.bits, first, size, out) };
        if !left.is_empty() {
            let carved = self.carved.get();
            // SAFETY: below the capacity, as some are free and not carved (3): inside the span.
            let next = unsafe { first.add(carved as usize * size) };
            // SAFETY: `left` blocks are free and not carved (3): all inside the span.
            unsafe { carve(next, size, left) };
            self.carved.set(carved + left.len() as u16);
        }
        // At most `free`: the cast keeps the value.
        self.free.set(self.free.get() - want as u16);
        want
    }

    /// Takes the block back that lies so many bytes behind the first whole page; `false` if it is
    /// free already.
    ///
    /// # Safety
    ///
    /// It lies in this span.
    #[inline(always)]
    pub(crate) unsafe fn give(self, offset: usize) -> bool {
        // In the first page there is none.
        let Some(offset) = offset.checked_sub(FIRST) else { return false };
        let index = block_index(offset, self.reciprocal.get());
        // SAFETY: a block of this span has an index below its capacity.
        let word = unsafe { self.bits.get_unchecked(index / 64) };
        let bit = 1 << (index % 64);
        if word.get() & bit != 0 {
            return false;
        }
        word.set(word.get() | bit);
        self.free.set(self.free.get() + 1);
        self.rest.set(Rest::Active);
        self.given_back.set(0);
        true
    }

    /// Looks at it anew: whether blocks came back since the last look, and before that.
    pub(crate) fn look(self) -> Rest {
        let rest = self.rest.get();
        if rest == Rest::Active {
            self.rest.set(Rest::Resting);
        }
        rest
    }

    /// Takes all free blocks that were handed out before. Returns how many.
    pub(crate) fn take_free(self) -> (Free, usize) {
        let mut free = [0; WORDS];
        let mut count = 0;
        for (taken, word) in free.iter_mut().zip(&self.bits) {
            *taken = word.replace(0);
            count += taken.count_ones() as usize;
        }
        // At most `free` (3): the cast keeps the value.
        self.free.set(self.free.get() - count as u16);
        (free, count)
    }

    /// Takes back what `take_free` took, of which so many pages were given back to the system. A
    /// block of it that came back meanwhile, a second time that is, is returned.
    pub(crate) fn give_free(self, free: &Free, pages: usize) -> Option<Block> {
        let (mut count, mut twice) = (0, None);
        for (number, (given, word)) in free.iter().zip(&self.bits).enumerate() {
            let both = given & word.get();
            word.set(word.get() | given);
            count += (given & !both).count_ones() as u16;
            if both != 0 {
                let index = number * 64 + both.trailing_zeros() as usize;
                // SAFETY: a carved block (2): inside the span.
                twice = Some(unsafe { self.base().add(FIRST + index * self.size.get() as usize) });
            }
        }
        self.free.set(self.free.get() + count);
        // Blocks that came back meanwhile are not among them, but their span rests no more.
        if self.rest.get() != Rest::Active {
            self.rest.set(Rest::Purged);
            // At most 64: the cast keeps the value.
            self.given_back.set(pages as u16);
        }
        twice
    }

    /// Gives the pages of free blocks back to the system, as far as [`GRANULE`] or more of them lie
    /// together. Returns how many.
    ///
    /// # Safety
    ///
    /// The blocks are the caller's, who does not need what is in them.
    pub(crate) unsafe fn purge(self, free: &Free) -> usize {
        let size = self.size.get() as usize;
        let is_free =
            |index: usize| free.get(index / 64).is_some_and(|w| w >> (index % 64) & 1 == 1);
        let (mut pages, mut index) = (0, 0);
        while index < WORDS * 64 {
            let begin = index;
            while is_free(index) {
                index += 1;
            }
            let start = (FIRST + begin * size).next_multiple_of(PAGE_SIZE);
            let end = (FIRST + index * size) & !(PAGE_SIZE - 1);
            index += 1;
            if end < start + GRANULE {
                continue;
            }
            // SAFETY: free blocks lie there: inside the span.
            let first = unsafe { self.base().add(start) };
            // SAFETY: the caller's promise; whole pages of memory that is ours. What they read as
            // then is nobody's concern.
            if unsafe { OsPages.purge(first, end - start) } {
                pages += (end - start) / PAGE_SIZE;
            }
        }
        pages
    }

    /// Verifies all invariants.
    pub(crate) fn check(self, class: LargeClass) -> Result<(), &'static str> {
        let capacity = capacity(class);
        if !self.is_of(class)
            || self.capacity.get() as usize != capacity
            || self.size.get() as usize != class.size()
            || self.reciprocal.get() != reciprocal(class.size())
        {
            return Err("span 1: size, capacity or reciprocal do not fit the class");
        }
        let carved = self.carved.get() as usize;
        let Some(set) = count_marked(&self.bits, carved) else {
            return Err("span 2: a block is free that was never carved");
        };
        if carved > capacity {
            return Err("span 2: more blocks carved than fit");
        }
        if self.free() != set + capacity - carved {
            return Err("span 3: the number of free blocks is wrong");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mid_class::CacheBin;

    #[test]
    fn the_reciprocal_divides_exactly() {
        for class in CacheBin::mids().filter_map(CacheBin::mid_class) {
            let m = reciprocal(class.size());
            for offset in 0..SPAN_SIZE - FIRST {
                assert_eq!(block_index(offset, m), offset / class.size());
            }
            assert!(capacity(class) <= WORDS * 64 && FIRST.is_multiple_of(class.layout().align()));
        }
    }

    #[test]
    fn headers_lie_in_the_first_page_and_those_of_neighbours_apart() {
        let mut places: Vec<_> =
            (7..7 + PLACES).map(|span| header_in_page(span * SPAN_SIZE + 3 * PAGE_SIZE)).collect();
        places.sort_unstable();
        assert!(places.iter().copied().eq((0..PAGE_SIZE).step_by(HEADER)));
    }
}
