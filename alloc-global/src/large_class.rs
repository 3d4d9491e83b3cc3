//! Classes of requests above 512 bytes: four per doubling, up to 32 MiB, each for four alignments.
//!
//! ```text
//! 640 768 896 1024 | 1280 1536 1792 2048 | ... | 20 24 28 32 MiB      of alignments up to 16
//! the same                                                            up to 128, 512, 4096
//! ```
//!
//! A request is rounded up to its class before it is handed to the fallback, so that a freed block
//! serves any later request of its class. It depends on size and alignment alone: the layout that
//! the fallback sees at the end is the one that it saw at the beginning, whatever the settings are.
//! Rounding costs at most a quarter, a tenth on average; pages of a large block that are not
//! written to are not resident. 128 is what libraries of arrays and matrices ask for, for vector
//! instructions and pairs of cache lines; 4096 what reads and writes past the system's page cache
//! do.
//!
//! No unsafe here. It knows numbers only.

use core::alloc::Layout;

/// Number of sizes.
pub(crate) const LARGE_SIZES: usize = 64;

/// Number of classes.
pub(crate) const LARGE_CLASSES: usize = ALIGNS.len() * LARGE_SIZES;

/// Requests above this, in bytes, are handed to the fallback in their own size.
pub(crate) const MAX_CACHED: usize = 32 << 20;

/// Alignment of the blocks of most classes, and of requests above the largest.
pub(crate) const LARGE_ALIGN: usize = ALIGNS[0];

/// Alignments of the blocks of all classes, by kind; requests that need more are handed on with their own.
const ALIGNS: [usize; 4] = [16, 128, 512, 4096];

/// Which of [`ALIGNS`] serves an alignment; their number if none does.
#[inline]
const fn kind_of(align: usize) -> usize {
    if align <= ALIGNS[0] {
        0
    } else if align <= ALIGNS[1] {
        1
    } else if align <= ALIGNS[2] {
        2
    } else if align <= ALIGNS[3] {
        3
    } else {
        ALIGNS.len()
    }
}

/// Base-two logarithm of the largest size that pools serve.
const FIRST_SHIFT: u32 = 9;

/// Bytes of the blocks of each size: four per doubling.
const SIZES: [u32; LARGE_SIZES] = {
    let mut sizes = [0; LARGE_SIZES];
    let mut rank = 0;
    while rank < LARGE_SIZES {
        // At most 8 << 22: no overflow.
        sizes[rank] = (5 + (rank as u32 & 3)) << (rank as u32 / 4 + FIRST_SHIFT - 2);
        rank += 1;
    }
    sizes
};

/// A class of the fallback's blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LargeClass(u8);

const _: () = assert!(LARGE_CLASSES == 1 << u8::BITS);

impl LargeClass {
    /// Bytes of a block of the smallest ones.
    pub(crate) const LEAST: usize = 640;

    /// The class of a request, or `None` where it is handed on as it is.
    #[inline]
    pub(crate) const fn of(layout: Layout) -> Option<LargeClass> {
        let size = layout.size();
        let kind = kind_of(layout.align());
        if size > MAX_CACHED || kind == ALIGNS.len() {
            return None;
        }
        // A size of at most 512 comes here only with an alignment that rules size classes out.
        let last = if size > 1 << FIRST_SHIFT { size - 1 } else { 1 << FIRST_SHIFT };
        let top = usize::BITS - 1 - last.leading_zeros();
        let quarter = (last >> (top - 2)) & 3;
        let rank = (top - FIRST_SHIFT) as usize * 4 + quarter;
        // At most 255: the cast keeps the value.
        Some(LargeClass((kind * LARGE_SIZES + rank) as u8))
    }

    /// The class of a number below [`LARGE_CLASSES`]: by size those of alignments up to 16, then
    /// those of the next kind.
    pub(crate) const fn from_index(index: usize) -> Option<LargeClass> {
        if index < LARGE_CLASSES { Some(LargeClass(index as u8)) } else { None }
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// Which of the 64 sizes it has.
    #[inline]
    pub(crate) const fn rank(self) -> usize {
        self.0 as usize % LARGE_SIZES
    }

    /// Which of the four alignments its blocks have.
    pub(crate) const fn kind(self) -> usize {
        self.0 as usize / LARGE_SIZES
    }

    /// Bytes of a block of this class.
    #[inline]
    pub(crate) const fn size(self) -> usize {
        // Below their number: no test.
        SIZES[self.rank()] as usize
    }

    /// What the fallback is asked for.
    #[inline]
    pub(crate) const fn layout(self) -> Layout {
        let align = ALIGNS[self.kind()];
        // Never an error: the size is at most 32 MiB and the alignment a power of two.
        match Layout::from_size_align(self.size(), align) {
            Ok(layout) => layout,
            Err(_) => Layout::new::<u128>(),
        }
    }
}

/// What the fallback is asked for in place of `layout`.
#[inline]
pub(crate) const fn fallback_layout(layout: Layout) -> Layout {
    if let Some(class) = LargeClass::of(layout) {
        return class.layout();
    }
    // One alignment for all that need no more than that of a class, or the fallback could not
    // resize a block across the largest class: both would be in memory at once, and copied.
    let kind = kind_of(layout.align());
    let align = if kind < ALIGNS.len() { ALIGNS[kind] } else { layout.align() };
    match Layout::from_size_align(layout.size(), align) {
        Ok(raised) => raised,
        Err(_) => layout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(size: usize) -> Option<LargeClass> {
        LargeClass::of(Layout::from_size_align(size, 8).unwrap())
    }

    #[test]
    fn every_size_fits_its_class_and_not_the_one_before() {
        for size in (513..100_000).chain((100_000..=MAX_CACHED).step_by(4099)) {
            let class = class(size).unwrap();
            assert!(class.size() >= size, "{size}");
            assert!((class.size() - size) * 4 <= size, "{size} is rounded to {}", class.size());
            if let Some(before) = class.index().checked_sub(1).and_then(LargeClass::from_index) {
                assert!(before.size() < size, "{size}");
            }
        }
    }

    #[test]
    fn a_class_is_its_own_class_and_the_last_one_is_32_mib() {
        for index in 0..LARGE_CLASSES {
            let of_index = LargeClass::from_index(index).unwrap();
            let layout = of_index.layout();
            assert_eq!(LargeClass::of(layout), Some(of_index));
            assert_eq!((layout.size(), of_index.index()), (of_index.size(), index));
            assert_eq!(ALIGNS[of_index.kind()], layout.align());
        }
        assert_eq!(LargeClass::from_index(LARGE_CLASSES - 1).unwrap().size(), MAX_CACHED);
        assert!(LargeClass::from_index(LARGE_CLASSES).is_none());
        assert_eq!(class(513).unwrap().size(), LargeClass::LEAST);
    }

    #[test]
    fn what_is_too_large_or_too_aligned_is_handed_on_as_it_is() {
        assert!(class(MAX_CACHED + 1).is_none());
        let aligned = Layout::from_size_align(4096, 8192).unwrap();
        assert_eq!(fallback_layout(aligned), aligned);
        for (align, raised) in
            [(1, 16), (16, 16), (32, 128), (128, 128), (256, 512), (1024, 4096), (8192, 8192)]
        {
            let beyond = Layout::from_size_align(MAX_CACHED + 1, align).unwrap();
            assert_eq!(fallback_layout(beyond).align(), raised);
        }
        let odd = Layout::from_size_align(isize::MAX as usize, 1).unwrap();
        assert_eq!(fallback_layout(odd), odd);
    }
}
