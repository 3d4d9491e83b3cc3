//! Bins of a thread's cache: the 64 size classes of the pools, and 24 for the fallback's blocks
//! up to 4 KiB.
//!
//! ```text
//! size    1..=8  ...  505..=512 | 513..=640  641..=768 ... 897..=1024 ... 3585..=4096 | more
//! bin       1    ...     64     |    65         66            68             76       | none
//! the same aligned to 32..=128  |    77         78            80             88       | none
//! from          pools           |                 the fallback, cached                | fallback
//! ```
//!
//! A program whose sizes straddle 512 bytes at random would mispredict a branch there on every
//! second call, which costs as much as the call. So the first classes above it are served by the
//! same code, from arrays of the same kind; only where an array is empty or full do the ways part.
//!
//! Which bin serves a layout is looked up in a table by the size in steps of 8 bytes, and what is
//! looked up is where in the cache the bin's head lies: nothing is left to compute between the size
//! and the head.
//!
//! Unsafe only to look up without a test. It knows numbers only.

use crate::large_class::{LARGE_ALIGN, LARGE_SIZES, LargeClass, fallback_layout};
use alloc_core::{CLASS_STEP, CLASSES, SizeClass, class_index};
use core::alloc::Layout;

/// Sizes of the blocks in bins beyond the size classes.
pub(crate) const MID_SIZES: usize = 12;

/// Number of bins beyond the size classes: those sizes, for alignments up to 16 and up to 128.
pub(crate) const MIDS: usize = 2 * MID_SIZES;

/// The greatest alignment that bins beyond the size classes serve. Tasks of async runtimes have it,
/// and what is to have cache lines to itself.
pub(crate) const MID_ALIGN: usize = 128;

/// The last bin.
const LAST_BIN: usize = CLASSES + MIDS;

/// The largest size, in bytes, that these bins serve.
pub(crate) const MID_MAX: usize = 4096;

/// The bytes that counters, and the distance between two samples, count of a block: its size, above
/// 4 KiB what was asked for.
#[inline]
pub(crate) const fn counted(requested: u64, size: u64) -> u64 {
    if size > MID_MAX as u64 { requested } else { size }
}

/// What counters count of a block that the fallback serves, in bytes: the same whether a bin, a list
/// or the fallback itself gave it, and whichever gets it back.
#[inline]
pub(crate) const fn counted_bytes(layout: Layout) -> usize {
    if layout.size() > MID_MAX {
        return layout.size();
    }
    // At most the greater of the two sizes: the cast keeps the value.
    counted(layout.size() as u64, fallback_layout(layout).size() as u64) as usize
}

/// Length of a table indexed by bin: index 0 stays unused.
pub(crate) const BIN_TABLE: usize = LAST_BIN + 1;

/// Whether blocks of a class for which their array has no room are kept in a list (`large_cache`).
/// Up to 1 KiB they are better off in the fallback, which makes blocks of other sizes of them that
/// lie in order: programs that build trees of such nodes anew are slower on what lists hold
/// (docs/measurements.md).
pub(crate) const fn has_list(class: LargeClass) -> bool {
    class.size() > 1024
}

/// The fallback's class behind the bin of a number.
pub(crate) const fn mid_class_of(index: usize) -> Option<LargeClass> {
    match index.checked_sub(CLASSES + 1) {
        Some(place) if place < MIDS => {
            LargeClass::from_index(place % MID_SIZES + place / MID_SIZES * LARGE_SIZES)
        }
        _ => None,
    }
}

/// Which of the bins above 64, from 0, is that of a class that has one.
#[inline]
pub(crate) const fn mid_place(class: LargeClass) -> usize {
    class.rank() + class.kind() * MID_SIZES
}

/// Number of bins whose classes have one: the last ones of each alignment.
const LISTED: usize = 16;

/// Steps of 8 bytes in the largest size that these bins serve.
pub(crate) const MID_STEPS: usize = MID_MAX / CLASS_STEP;

/// Bytes of the head of a bin; `cache` pins them.
pub(crate) const HEAD_BYTES: usize = 32;

/// A bin of a thread's cache, by where its head lies in the cache's table of heads.
///
/// Invariant: a multiple of [`HEAD_BYTES`], at most [`LAST_BIN`] times as much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CacheBin(u16);

/// How far behind the bin of a size that for greater alignments lies.
const ALIGNED: u16 = (MID_SIZES * HEAD_BYTES) as u16;

/// The bin of each number of steps.
const BIN_OF: [CacheBin; MID_STEPS + 1] = {
    let mut bins = [CacheBin::NONE; MID_STEPS + 1];
    let mut steps = 1;
    while steps < bins.len() {
        let index = match Layout::from_size_align(steps * CLASS_STEP, 1) {
            Ok(layout) if steps > CLASSES => match LargeClass::of(layout) {
                Some(class) => CLASSES + 1 + class.index(),
                None => 0,
            },
            _ => steps,
        };
        bins[steps] = CacheBin((index * HEAD_BYTES) as u16);
        steps += 1;
    }
    bins
};

impl CacheBin {
    /// The bin of a size of 0, which never holds a block.
    const NONE: CacheBin = CacheBin(0);

    /// The bin of a size class.
    #[inline]
    pub(crate) const fn of_class(class: SizeClass) -> CacheBin {
        CacheBin((class.index() * HEAD_BYTES) as u16)
    }

    /// The bin of a layout, if it has one.
    #[inline]
    pub(crate) fn of(layout: Layout) -> Option<CacheBin> {
        // SAFETY: that many, not more.
        unsafe { CacheBin::of_at_most(layout, MID_STEPS) }
    }

    /// The bin of a layout of at most so many steps of 8 bytes, if it has one.
    ///
    /// Nearly all alignments are at most 8: where they are known only at run time the others are
    /// out of the way.
    ///
    /// # Safety
    ///
    /// `most` is at most [`MID_STEPS`].
    #[inline(always)]
    pub(crate) unsafe fn of_at_most(layout: Layout, most: usize) -> Option<CacheBin> {
        let steps = if layout.align() <= CLASS_STEP {
            class_index(layout.size(), CLASS_STEP)
        } else {
            rarely();
            let steps = class_index(layout.size(), layout.align());
            if layout.align() > LARGE_ALIGN && steps > CLASSES {
                if layout.align() > MID_ALIGN || steps > most {
                    return None;
                }
                // SAFETY: at most `MID_STEPS`, the last index of the table.
                let bin = unsafe { *BIN_OF.get_unchecked(steps) };
                return Some(CacheBin(bin.0 + ALIGNED));
            }
            steps
        };
        if steps > most {
            return None;
        }
        // SAFETY: at most `MID_STEPS`, the last index of the table.
        Some(unsafe { *BIN_OF.get_unchecked(steps) })
    }

    /// The bins above 64 whose blocks may come to lie in a list, and the sizes of their blocks:
    /// known when this is compiled, for every miss above 512 bytes asks what lies in them.
    pub(crate) const LISTED: [(CacheBin, usize); LISTED] = {
        let mut listed = [(CacheBin::NONE, 0); LISTED];
        let mut at = 0;
        while at < LISTED {
            let each = LISTED / (MIDS / MID_SIZES);
            let index = CLASSES + MID_SIZES * (1 + at / each) + 1 - each + at % each;
            let size = match CacheBin((index * HEAD_BYTES) as u16).mid_class() {
                Some(class) => class.size(),
                None => 0,
            };
            listed[at] = (CacheBin((index * HEAD_BYTES) as u16), size);
            at += 1;
        }
        listed
    };

    /// The bins above 64.
    pub(crate) fn mids() -> impl Iterator<Item = CacheBin> {
        (CLASSES + 1..=LAST_BIN).map(|index| CacheBin((index * HEAD_BYTES) as u16))
    }

    /// The fallback's class behind a bin above 64.
    #[inline]
    pub(crate) const fn mid_class(self) -> Option<LargeClass> {
        mid_class_of(self.index())
    }

    /// Its number: up to 64 that of its size class.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize / HEAD_BYTES
    }

    /// Where its head lies, in bytes.
    #[inline(always)]
    pub(crate) const fn offset(self) -> usize {
        self.0 as usize
    }
}

/// Tells the compiler that the way that leads here is rarely taken.
#[cold]
#[inline(always)]
const fn rarely() {}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(size: usize, align: usize) -> Option<CacheBin> {
        CacheBin::of(Layout::from_size_align(size, align).unwrap())
    }

    #[test]
    fn bins_above_512_bytes_are_the_fallbacks_classes() {
        for align in [1, 8, 16, 32, 64, 128] {
            for size in 513..=5000 {
                let layout = Layout::from_size_align(size, align).unwrap();
                match bin(size, align) {
                    Some(bin) => assert_eq!(bin.mid_class(), LargeClass::of(layout), "{layout:?}"),
                    None => assert!(size > MID_MAX, "{layout:?}"),
                }
                // SAFETY: 64 is less than `MID_STEPS`.
                assert_eq!(unsafe { CacheBin::of_at_most(layout, CLASSES) }, None, "{layout:?}");
            }
        }
    }

    #[test]
    fn bins_to_512_bytes_are_the_size_classes() {
        for align in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
            for size in 0..=512 {
                let class = class_index(size, align);
                let bin = bin(size, align).unwrap();
                assert_eq!((bin.index(), bin.mid_class()), (class, None), "{size} {align}");
                assert_eq!(
                    SizeClass::from_index(class).map_or(CacheBin::NONE, CacheBin::of_class),
                    bin
                );
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: 64 is less than `MID_STEPS`.
                assert_eq!(unsafe { CacheBin::of_at_most(layout, CLASSES) }, Some(bin));
            }
        }
    }

    #[test]
    fn every_bin_is_inside_the_table_and_the_mids_are_the_last() {
        assert!(BIN_OF.iter().all(|bin| bin.offset() % HEAD_BYTES == 0 && bin.index() < BIN_TABLE));
        let last: Vec<_> = CacheBin::mids().map(CacheBin::index).collect();
        let listed = CacheBin::mids().filter_map(|bin| Some((bin, bin.mid_class()?)));
        let listed = listed.filter(|(_, class)| has_list(*class));
        assert!(listed.map(|(bin, class)| (bin, class.size())).eq(CacheBin::LISTED));
        assert_eq!(last, (65..=88).collect::<Vec<_>>());
        let places = CacheBin::mids().filter_map(CacheBin::mid_class).map(mid_place);
        assert!(places.eq(0..MIDS));
    }

    #[test]
    fn what_is_aligned_beyond_128_or_huge_has_no_bin_above_512_bytes() {
        let huge = isize::MAX as usize;
        for (size, align) in [(600, 256), (513, 1024), (1, 1024), (4097, 16), (4097, 64)]
            .into_iter()
            .chain([(huge, 1), (huge - 127, 128)])
        {
            assert_eq!(bin(size, align), None, "{size} {align}");
        }
    }
}
