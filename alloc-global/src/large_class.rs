//! Classes of requests above 512 bytes: four per doubling, up to 32 MiB.
//!
//! ```text
//! 640 768 896 1024 | 1280 1536 1792 2048 | ... | 20 24 28 32 MiB
//! ```
//!
//! A request is rounded up to its class before it is handed to the fallback, so that a freed block
//! serves any later request of its class. It depends on size and alignment alone: the layout that the
//! fallback sees at the end is the one that it saw at the beginning, whatever the settings are.
//! Rounding costs at most a quarter, a tenth on average; pages of a large block that are not
//! written to are not resident.
//!
//! No unsafe here. It knows numbers only.

use core::alloc::Layout;

/// Number of classes.
pub(crate) const LARGE_CLASSES: usize = 64;

/// Requests above this, in bytes, are handed to the fallback in their own size.
pub(crate) const MAX_CACHED: usize = 32 << 20;

/// Alignment of all blocks of a class; requests that need more are handed on with their own.
pub(crate) const LARGE_ALIGN: usize = 16;

/// Base-two logarithm of the largest size that pools serve.
const FIRST_SHIFT: u32 = 9;

/// A class of the fallback's blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LargeClass(u8);

impl LargeClass {
    /// The class of a request, or `None` where it is handed on as it is.
    #[inline]
    pub(crate) const fn of(layout: Layout) -> Option<LargeClass> {
        let size = layout.size();
        if size > MAX_CACHED || layout.align() > LARGE_ALIGN {
            return None;
        }
        // A size of at most 512 comes here only with an alignment that rules classes out.
        let last = if size > 1 << FIRST_SHIFT { size - 1 } else { 1 << FIRST_SHIFT };
        let top = usize::BITS - 1 - last.leading_zeros();
        let quarter = (last >> (top - 2)) & 3;
        // At most 63: the cast keeps the value.
        Some(LargeClass(((top - FIRST_SHIFT) as usize * 4 + quarter) as u8))
    }

    pub(crate) const fn from_index(index: usize) -> Option<LargeClass> {
        if index < LARGE_CLASSES { Some(LargeClass(index as u8)) } else { None }
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// Bytes of a block of this class.
    #[inline]
    pub(crate) const fn size(self) -> usize {
        // At most 7 << 23: no overflow.
        (5 + (self.0 & 3) as usize) << (self.0 as u32 / 4 + FIRST_SHIFT - 2)
    }

    /// What the fallback is asked for.
    #[inline]
    pub(crate) const fn layout(self) -> Layout {
        // Never an error: the size is at most 32 MiB and the alignment a power of two.
        match Layout::from_size_align(self.size(), LARGE_ALIGN) {
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
    // One alignment for all that need no more than that of a class, or the fallback could not resize a block across the
    // largest class: both would be in memory at once, and copied.
    match Layout::from_size_align(layout.size(), LARGE_ALIGN) {
        Ok(raised) if layout.align() <= LARGE_ALIGN => raised,
        _ => layout,
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
            assert_eq!(class(of_index.size()), Some(of_index));
            assert_eq!(of_index.layout().size(), of_index.size());
        }
        assert_eq!(LargeClass::from_index(LARGE_CLASSES - 1).unwrap().size(), MAX_CACHED);
        assert!(LargeClass::from_index(LARGE_CLASSES).is_none());
    }

    #[test]
    fn what_is_too_large_or_too_aligned_is_handed_on_as_it_is() {
        assert!(class(MAX_CACHED + 1).is_none());
        let aligned = Layout::from_size_align(4096, 32).unwrap();
        assert_eq!(fallback_layout(aligned), aligned);
        let odd = Layout::from_size_align(isize::MAX as usize, 1).unwrap();
        assert_eq!(fallback_layout(odd), odd);
    }
}
