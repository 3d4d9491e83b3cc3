//! What went through a cache since it was made: the counts of a thread are differences of these.
//!
//! Frees are not counted as they happen. What a class's array holds is what was put in and came
//! from the heap, less what was handed out and went to the heap; all but the first are known.
//!
//! No unsafe here.

use super::Cache;
use crate::mid_class::CacheBin;
use alloc_core::SizeClass;
use core::sync::atomic::Ordering::Relaxed;

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

    /// Adds the array of one class: `allocs` handed out, `len` in it, `taken` from elsewhere less
    /// what went there.
    fn add(&mut self, allocs: u64, len: u64, taken: u64, size: usize) {
        let frees = allocs.wrapping_add(len).wrapping_sub(taken);
        self.allocs = self.allocs.wrapping_add(allocs);
        self.alloc_bytes = self.alloc_bytes.wrapping_add(allocs.wrapping_mul(size as u64));
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
        for class in SizeClass::all() {
            let (len, allocs) = self.counts(class);
            totals.add(allocs, len, 0, class.size());
        }
        let (taken, taken_bytes) = self.taken.get();
        totals.frees = totals.frees.wrapping_sub(taken);
        totals.free_bytes = totals.free_bytes.wrapping_sub(taken_bytes);
        let counters = &self.counters;
        for (bin, out) in CacheBin::mids().zip(&counters.mid_out) {
            if let Some((len, allocs, class)) = self.mid_counts(bin) {
                totals.add(allocs, len, out.load(Relaxed), class.size());
            }
        }
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
