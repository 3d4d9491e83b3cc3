//! The bins above 64 of a thread's cache: blocks of the registered fallback, of 513 to 1,024 bytes.
//!
//! They share the arrays, and so the fast paths, of the small ones (`mid_class` says why); they come from and go to the
//! fallback one by one, not the shared heaps. Invariants are those of [`Cache`].
//!
//! It does not call the fallback itself: that is `fallback` and `visit`.

use super::{Cache, CacheBin, SLOTS, bump};
use crate::large_class::LargeClass;
use crate::mid_class::{BIN_TABLE, mid_class};
use crate::watch;
use alloc_core::{Block, CLASSES};
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::Relaxed;

/// Greatest capacity of these arrays, in blocks: up to 64 KiB each. The fallback behind them costs several
/// times what the shared heaps do.
const MID_SLOTS: u32 = 64;

/// A new array starts with room for this many blocks.
const MID_FIRST: u32 = 4;

impl Cache {
    /// The bin of the fallback's blocks with this index above 64, and their class.
    fn mid(&self, index: usize) -> Option<(&CacheBin, LargeClass)> {
        Some((self.bins.get(index)?, mid_class(index)?))
    }

    /// Makes more room for the fallback's blocks of a bin above 64; whether there is more now.
    pub(crate) fn grow_mid(&self, index: usize) -> bool {
        let Some((bin, _)) = self.mid(index) else { return false };
        let cap = (bin.cap.get() * 2).clamp(MID_FIRST, MID_SLOTS);
        bin.cap.replace(cap) < cap
    }

    /// Notes that a block for a bin above 64 came from the fallback and went to the program.
    pub(crate) fn note_mid_fresh(&self, index: usize) {
        if let Some((bin, class)) = self.mid(index) {
            bump(&bin.allocs, 1);
            self.note_mid(class, 1);
        }
    }

    /// Counts for a thread without a cache, of which many may write here.
    pub(crate) fn note_mid_orphan(&self, index: usize, blocks: i64) {
        let Some((bin, class)) = self.mid(index) else { return };
        // Relaxed, twice: counts, no order.
        if blocks > 0 {
            bin.allocs.fetch_add(1, Relaxed);
        }
        if let Some(out) = self.counters.mid_out.get(class.index()) {
            out.fetch_add(blocks.cast_unsigned(), Relaxed);
        }
    }

    /// Notes that a block of a bin above 64 went back to the fallback past the array.
    pub(crate) fn note_mid_gone(&self, index: usize) {
        if let Some((_, class)) = self.mid(index) {
            self.note_mid(class, -1);
        }
    }

    fn note_mid(&self, class: LargeClass, blocks: i64) {
        if let Some(out) = self.counters.mid_out.get(class.index()) {
            bump(out, blocks.cast_unsigned());
        }
        self.note_bytes((class.size() as i64 * blocks) as isize);
    }

    /// Hands the `count` oldest of the fallback's blocks in a bin above 64 to `free`.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread, or nobody's.
    pub(crate) unsafe fn give_mid(
        &self,
        index: usize,
        count: u32,
        mut free: impl FnMut(LargeClass, Block),
    ) {
        let Some((bin, class)) = self.mid(index) else { return };
        let Some(slots) = self.slots.get(index) else { return };
        let len = bin.len.load(Relaxed);
        let count = count.min(len);
        // Out of the array first: the fallback may call back in.
        let mut out = [const { MaybeUninit::<Block>::uninit() }; SLOTS];
        for (at, slot) in (0..len).zip(slots) {
            // SAFETY: the owner's access (3).
            let value = unsafe { slot.get().read() };
            if at < count {
                if let Some(to) = out.get_mut(at as usize) {
                    *to = value;
                }
            } else if let Some(to) = slots.get((at - count) as usize) {
                // SAFETY: the owner's access (3).
                unsafe { to.get().write(value) };
            }
        }
        bin.len.store(len - count, Relaxed);
        self.note_mid(class, -i64::from(count));
        for block in out.iter().take(count as usize) {
            // SAFETY: it was below the length: a block (2).
            let block = unsafe { block.assume_init() };
            if watch::is_watched() {
                watch::forget(block);
            }
            // USER CODE: a fallback's.
            free(class, block);
        }
    }

    /// Half of the greatest capacity of a bin above 64: how many go when it is full.
    pub(crate) fn mid_half(&self, index: usize) -> u32 {
        self.mid(index).map_or(0, |(bin, _)| bin.cap.get() / 2)
    }

    /// Blocks in a bin above 64, and blocks it handed out since the process began.
    pub(crate) fn mid_counts(&self, index: usize) -> Option<(u64, u64, LargeClass)> {
        let (bin, class) = self.mid(index)?;
        Some((bin.len.load(Relaxed) as u64, bin.allocs.load(Relaxed), class))
    }

    /// Forgets the capacities of bins above 64, which are empty.
    pub(super) fn forget_mids(&self) {
        for index in CLASSES + 1..BIN_TABLE {
            if let Some((bin, _)) = self.mid(index) {
                bin.cap.set(bin.len.load(Relaxed));
            }
        }
    }
}
