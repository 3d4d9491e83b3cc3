//! Bins of a thread's cache: the 64 size classes of the pools, and four for the fallback's blocks up to 1 KiB.
//!
//! ```text
//! size    1..=8  ...  505..=512 | 513..=640  641..=768  769..=896  897..=1024 | more
//! bin       1    ...     64     |    65         66         67          68     | none
//! from          pools           |           the fallback, cached              | fallback
//! ```
//!
//! A program whose sizes straddle 512 bytes at random would mispredict a branch there on every second call, which
//! costs as much as the call. So the first classes above it are served by the same code, from arrays of the
//! same kind; only where an array is empty or full do the ways part.
//!
//! No unsafe here. It knows numbers only.

use crate::large_class::{LARGE_ALIGN, LargeClass};
use alloc_core::{CLASSES, class_index};
use core::alloc::Layout;

/// Number of bins beyond the size classes.
pub(crate) const MIDS: usize = 4;

/// The last bin.
pub(crate) const LAST_BIN: usize = CLASSES + MIDS;

/// The largest size, in bytes, that these bins serve.
pub(crate) const MID_MAX: usize = 1024;

/// Length of a table indexed by bin: index 0 stays unused.
pub(crate) const BIN_TABLE: usize = LAST_BIN + 1;

/// Steps of 8 bytes in one of the classes above 512 bytes.
const STEPS: usize = 16;

/// The bin of a layout; more than [`LAST_BIN`] where there is none.
///
/// `Layout`'s promises hold for the arguments, or the result is meaningless.
#[inline(always)]
pub(crate) fn bin_index(layout: Layout) -> usize {
    let index = class_index(layout.size(), layout.align());
    if layout.align() > LARGE_ALIGN {
        return if index <= CLASSES { index } else { usize::MAX };
    }
    // Meaningless, but harmless, where it is not chosen.
    let mid = (index.wrapping_sub(CLASSES + 1) / STEPS).wrapping_add(CLASSES + 1);
    // Not a branch: see the head of this file.
    core::hint::select_unpredictable(index <= CLASSES, index, mid)
}

/// The fallback's class behind a bin above [`CLASSES`].
#[inline]
pub(crate) const fn mid_class(bin: usize) -> Option<LargeClass> {
    if bin > CLASSES && bin <= LAST_BIN { LargeClass::from_index(bin - CLASSES - 1) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_above_512_bytes_are_the_fallbacks_classes() {
        for align in [1, 8, 16] {
            for size in 513..=5000 {
                let layout = Layout::from_size_align(size, align).unwrap();
                let bin = bin_index(layout);
                if size <= 1024 {
                    assert_eq!(mid_class(bin), LargeClass::of(layout), "{layout:?}");
                } else {
                    assert!(bin > LAST_BIN, "{layout:?}");
                }
            }
        }
    }

    #[test]
    fn bins_to_512_bytes_are_the_size_classes() {
        for align in [1, 8, 16, 64, 512] {
            for size in 1..=512 {
                let layout = Layout::from_size_align(size, align).unwrap();
                assert_eq!(bin_index(layout), class_index(size, align));
                assert!(mid_class(bin_index(layout)).is_none());
            }
        }
    }

    #[test]
    fn what_is_aligned_beyond_16_or_huge_has_no_bin_above_512_bytes() {
        for (size, align) in [(600, 32), (513, 1024), (1, 1024), (isize::MAX as usize, 1)] {
            assert!(bin_index(Layout::from_size_align(size, align).unwrap()) > LAST_BIN);
        }
    }
}
