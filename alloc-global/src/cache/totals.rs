//! What went through a cache since it was made: the counts of a thread are differences of these.
//!
//! Frees are not counted as they happen. What a class's array holds is what was put in and came
//! from the heap, less what was handed out and went to the heap; all but the first are known.
//!
//! No unsafe here.

use super::Cache;
use crate::mid_class::{MIDS, mid_class_of};
use alloc_core::{CLASS_STEP, CLASSES, SizeClass};
use core::sync::atomic::Ordering::Relaxed;

/// The sizes of the blocks in the bins above 64.
const MID_BYTES: [usize; MIDS] = {
    let mut sizes = [0; MIDS];
    let mut at = 0;
    while at < MIDS {
        if let Some(class) = mid_class_of(CLASSES + 1 + at) {
            sizes[at] = class.size();
        }
        at += 1;
    }
    sizes
};

/// Sums, wrapping: only differences say something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CacheTotals {
    pub(crate) allocs: u64,
    pub(crate) alloc_bytes: u64,
    pub(crate) frees: u64,
    pub(crate) free_bytes: u64,
    pub(crate) reallocs: u64,
    /// Allocations and frees that were calls of `realloc`: they are in both.
    pub(crate) moves: u64,
}

impl CacheTotals {
    pub(crate) const NONE: CacheTotals =
        CacheTotals { allocs: 0, alloc_bytes: 0, frees: 0, free_bytes: 0, reallocs: 0, moves: 0 };

    fn with(self, other: CacheTotals, f: fn(u64, u64) -> u64) -> CacheTotals {
        CacheTotals {
            allocs: f(self.allocs, other.allocs),
            alloc_bytes: f(self.alloc_bytes, other.alloc_bytes),
            frees: f(self.frees, other.frees),
            free_bytes: f(self.free_bytes, other.free_bytes),
            reallocs: f(self.reallocs, other.reallocs),
            moves: f(self.moves, other.moves),
        }
    }

    pub(crate) fn plus(self, other: CacheTotals) -> CacheTotals {
        self.with(other, u64::wrapping_add)
    }

    pub(crate) fn less(self, other: CacheTotals) -> CacheTotals {
        self.with(other, u64::wrapping_sub)
    }

    /// Adds blocks of one size that were handed out.
    #[inline]
    fn add(&mut self, allocs: u64, size: usize) {
        self.allocs = self.allocs.wrapping_add(allocs);
        self.alloc_bytes = self.alloc_bytes.wrapping_add(allocs.wrapping_mul(size as u64));
    }

    /// Adds blocks of one size that came back.
    #[inline]
    fn add_frees(&mut self, frees: u64, size: usize) {
        self.frees = self.frees.wrapping_add(frees);
        self.free_bytes = self.free_bytes.wrapping_add(frees.wrapping_mul(size as u64));
    }
}

impl Cache {
    /// Counts blocks that came from the shared heaps, or with a negative number those that went there.
    pub(super) fn note_exchange(&self, blocks: isize, class: SizeClass) {
        let bytes = blocks.wrapping_mul(class.size().cast_signed());
        let (taken, taken_bytes) = self.taken.get();
        self.taken.set((
            taken.wrapping_add(blocks as i64 as u64),
            taken_bytes.wrapping_add(bytes as i64 as u64),
        ));
        self.note_bytes(bytes);
    }

    /// What went through this cache. Exact for its owner.
    pub(crate) fn totals(&self) -> CacheTotals {
        let mut totals = CacheTotals::NONE;
        let (small, mids) = self.bins.split_at(CLASSES + 1);
        // Index 0 has no blocks.
        for (index, bin) in small.iter().enumerate() {
            totals.add(bin.allocs.load(Relaxed), index * CLASS_STEP);
            match bin.len() {
                // Of most, and of all when a thread begins.
                0 => {}
                len => totals.add_frees(u64::from(len), index * CLASS_STEP),
            }
        }
        let (taken, taken_bytes) = self.taken.get();
        totals.frees = totals.frees.wrapping_sub(taken);
        totals.free_bytes = totals.free_bytes.wrapping_sub(taken_bytes);
        let counters = &self.counters;
        for ((bin, out), size) in mids.iter().zip(&counters.mid_out).zip(MID_BYTES) {
            totals.add(bin.allocs.load(Relaxed), size);
            totals.add_frees(u64::from(bin.len()).wrapping_sub(out.load(Relaxed)), size);
        }
        // All that was handed out and is nowhere else came back.
        totals.frees = totals.frees.wrapping_add(totals.allocs);
        totals.free_bytes = totals.free_bytes.wrapping_add(totals.alloc_bytes);
        let read = |count: &core::sync::atomic::AtomicU64| count.load(Relaxed);
        totals.plus(CacheTotals {
            allocs: read(&counters.fallback_allocs),
            alloc_bytes: read(&counters.fallback_bytes_in),
            frees: read(&counters.fallback_frees),
            free_bytes: read(&counters.fallback_bytes_out),
            reallocs: read(&counters.reallocs),
            moves: read(&counters.moves),
        })
    }
}
