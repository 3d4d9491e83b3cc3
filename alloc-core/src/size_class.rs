//! Size classes: which requests the pools serve, and how large their blocks are.
//!
//! A class is a multiple of 8 bytes up to 512: class `c` (1..=64) has blocks of `8 * c` bytes.
//!
//! ```text
//! size   1..=8   9..=16  17..=24  25..=32  ...  505..=512   more
//! class    1        2        3        4    ...      64      none: the fallback's
//! ```
//!
//! Rust passes the alignment with every request, so 24, 40 or 56 bytes of alignment 8 need no
//! padding; allocators behind C's `malloc` must return multiples of 16.
//!
//! Alignment: blocks start at the base of a pool, which is aligned to 16 KiB, at multiples of the
//! class's size. If the size is a multiple of a power of two up to 512, so is each address.
//! A request is therefore rounded up to a multiple of its alignment, and the class of
//! that size keeps the alignment by construction. What rounds to more than 512 has no class.
//!
//! No unsafe here. It knows numbers only: no memory, no pointers.

/// Largest size, in bytes, that a pool serves.
pub const MAX_SMALL: usize = 512;

/// Step between classes and least alignment of a block, in bytes.
pub const CLASS_STEP: usize = 8;

/// Number of size classes.
pub const CLASSES: usize = MAX_SMALL / CLASS_STEP;

/// Length of a table indexed by class: index 0 is no class and stays unused.
pub const CLASS_TABLE: usize = CLASSES + 1;

/// A size class, 1 to 64; its blocks have `8 * class` bytes.
///
/// ```
/// use alloc_core::SizeClass;
/// let class = SizeClass::of(20, 8).unwrap();
/// assert_eq!((class.index(), class.size()), (3, 24));
/// assert_eq!(SizeClass::of(20, 32).unwrap().size(), 32);
/// assert!(SizeClass::of(513, 1).is_none());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct SizeClass(u8);

impl SizeClass {
    /// The class that serves `size` bytes at `align`, or `None` where only the fallback can.
    ///
    /// A size of 0 is served as 1. An `align` that is not a power of two has no class.
    #[inline]
    pub const fn of(size: usize, align: usize) -> Option<SizeClass> {
        if !align.is_power_of_two() || size > MAX_SMALL {
            return None;
        }
        SizeClass::from_index(class_index(if size == 0 { 1 } else { size }, align))
    }

    /// The class with this index, 1..=64.
    #[inline]
    pub const fn from_index(index: usize) -> Option<SizeClass> {
        // The cast keeps the value: it is at most 64.
        if index >= 1 && index <= CLASSES { Some(SizeClass(index as u8)) } else { None }
    }

    /// Index into a table of [`CLASS_TABLE`] entries.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Size of a block of this class, in bytes.
    #[inline]
    pub const fn size(self) -> usize {
        self.0 as usize * CLASS_STEP
    }

    /// All classes, smallest first.
    pub fn all() -> impl DoubleEndedIterator<Item = SizeClass> + Clone {
        (1..=CLASSES as u8).map(SizeClass)
    }
}

/// The index of the class for a [`Layout`](core::alloc::Layout)'s size and alignment; more than
/// [`CLASSES`] where no class serves it, 0 for a size of 0.
///
/// This is the form that the fast path of a global allocator folds to a constant: three
/// instructions where size and alignment are known only at run time.
///
/// `align` must be a power of two and `size` rounded up to it at most `isize::MAX`, as in every
/// `Layout`; other arguments give a meaningless index, never a panic.
#[inline(always)]
pub const fn class_index(size: usize, align: usize) -> usize {
    let align = if align < CLASS_STEP { CLASS_STEP } else { align };
    let mask = align.wrapping_sub(1);
    (size.wrapping_add(mask) & !mask) / CLASS_STEP
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, written the long way round.
    fn by_search(size: usize, align: usize) -> Option<usize> {
        (1..=CLASSES).find(|class| class * 8 >= size && (class * 8).is_multiple_of(align))
    }

    #[test]
    fn every_size_and_alignment_to_64_kib_has_the_smallest_class_that_fits() {
        for shift in 0..=16 {
            let align = 1usize << shift;
            for size in 0..=64 * 1024 {
                let expected = if size > MAX_SMALL { None } else { by_search(size.max(1), align) };
                let class = SizeClass::of(size, align);
                assert_eq!(class.map(SizeClass::index), expected, "size {size} align {align}");
                let raw = class_index(size, align);
                match expected {
                    Some(index) if size > 0 => assert_eq!(raw, index),
                    Some(_) => assert_eq!(raw, 0),
                    None => assert!(raw > CLASSES || size == 0, "size {size} align {align}"),
                }
            }
        }
    }

    #[test]
    fn the_largest_layouts_have_no_class() {
        for shift in 0..63 {
            let align = 1usize << shift;
            let size = isize::MAX as usize - (align - 1);
            assert!(class_index(size, align) > CLASSES, "align 2^{shift}");
            assert!(SizeClass::of(size, align).is_none());
        }
    }

    #[test]
    fn an_alignment_that_is_no_power_of_two_has_no_class() {
        for align in [0, 3, 6, 24, 100, usize::MAX] {
            assert!(SizeClass::of(8, align).is_none(), "align {align}");
        }
    }

    #[test]
    fn index_and_size_agree_for_all_classes() {
        assert_eq!(SizeClass::all().count(), CLASSES);
        for class in SizeClass::all() {
            assert_eq!(SizeClass::from_index(class.index()), Some(class));
            assert_eq!(SizeClass::of(class.size(), 1), Some(class));
        }
        assert!(SizeClass::from_index(0).is_none());
        assert!(SizeClass::from_index(CLASSES + 1).is_none());
    }

    const _: () = assert!(matches!(SizeClass::of(512, 512), Some(class) if class.index() == 64));
    const _: () = assert!(SizeClass::of(1, 1024).is_none());
}
