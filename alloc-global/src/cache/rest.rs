//! What goes back to the heaps though its array has room for it: classes that rest, and all at the end.
//!
//! A few thousand blocks of a class that the program no longer uses would hold as many pools, or
//! spans, from other classes and from the system. So every so often it is looked at which arrays
//! were not used since the last time, and those are emptied: twice a second, and when other classes
//! have got a megabyte of pools on behalf of the thread, or two spans were made for it.
//!
//! The spans' bins are emptied by `visit`.

use super::Cache;
use super::array::SLOTS;
use crate::mid_class::CacheBin;
use alloc_core::SizeClass;
use core::sync::atomic::Ordering::Relaxed;

/// For how many pools that classes get on behalf of a thread it looks once what rests in its cache:
/// about as many as an arena has.
const POOLS_SETTLED: u64 = 64;

impl Cache {
    /// Whether a bin holds blocks and was not used since this was asked last.
    pub(crate) fn rests(&self, bin: CacheBin) -> bool {
        let (head, Some(seen)) = (self.head(bin), self.seen.get(bin.index())) else { return false };
        let len = head.len();
        const { assert!(SLOTS < 1 << 10) };
        // Relaxed: this thread's own, or nobody's. The cast keeps what fits: to be mistaken costs a
        // refill.
        let now = (head.allocs.load(Relaxed) as u32) << 10 | len;
        seen.replace(now) == now && len > 0
    }

    /// A class is about to get one more pool on behalf of this thread.
    pub(crate) fn note_pool(&self) {
        self.pools.set(self.pools.get().wrapping_add(1));
    }

    /// Looks what rests if classes got many pools since that was done last.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    pub(super) unsafe fn settle_if_due(&self) {
        if self.pools.get() >= POOLS_SETTLED {
            self.settled.set(true);
            // SAFETY: the caller's promise.
            unsafe { self.settle() };
        }
    }

    /// The same at a sweep, unless it was done since the last one.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    pub(crate) unsafe fn settle_at_sweep(&self) {
        if !self.settled.replace(false) {
            // SAFETY: the caller's promise.
            unsafe { self.settle() };
        }
    }

    /// Gives back what lies in arrays of the size classes that were not used since this was done
    /// last: each block in them keeps all of its pool from other classes, and from the system.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    #[cold]
    unsafe fn settle(&self) {
        self.pools.set(0);
        for class in self.used_classes() {
            if self.rests(CacheBin::of_class(class)) {
                // SAFETY: the caller's promise.
                unsafe { self.give_oldest(class, self.bin(class).len()) };
            }
        }
    }

    /// Classes that have an array.
    fn used_classes(&self) -> impl Iterator<Item = SizeClass> + use<> {
        let mut used = self.used.get();
        core::iter::from_fn(move || {
            let class = SizeClass::from_index(used.trailing_zeros() as usize + 1)?;
            used &= used - 1;
            Some(class)
        })
    }

    /// Counts a span that this thread is about to make. Returns how many there are since it was
    /// looked at what rests.
    pub(crate) fn note_span(&self) -> u64 {
        self.spans.set(self.spans.get().wrapping_add(1));
        self.spans.get()
    }

    /// It is looked at now what rests.
    pub(crate) fn forget_spans(&self) {
        self.spans.set(0);
    }

    /// Gives everything back. The arrays stay, with their first capacity.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    pub(crate) unsafe fn flush(&self, forget_caps: bool) {
        for class in self.used_classes() {
            let bin = self.bin(class);
            let len = bin.len();
            if len > 0 {
                // SAFETY: the caller's promise.
                unsafe { self.give_oldest(class, len) };
            }
            if forget_caps {
                bin.close();
            }
        }
        if forget_caps {
            self.used.set(0);
            self.forget_mids();
        }
    }
}
