//! The bins above 64 of a thread's cache: blocks of the registered fallback, of 513 to 4,096 bytes.
//!
//! They share the arrays, and so the fast paths, of the small ones (`mid_class` says why); they
//! come from and go to the fallback one by one, not the shared heaps. Invariants are those of
//! [`Cache`].
//!
//! It does not call the fallback itself: that is `fallback` and `visit`.

use super::array::{Array, SLOTS, max_cap};
use super::{Cache, bump};
use crate::large_class::LargeClass;
use crate::mid_class::{CacheBin, has_list, mid_place};
use crate::{depot, stats, thread, watch};
use alloc_core::Block;
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::Relaxed;

/// Bytes that a thread may come to have in use before they are compared with those of all threads, at
/// least.
const COMPARE_STEP: usize = 1 << 20;

/// How many bytes are compared next: a megabyte more than now, or a quarter.
fn next_compared(live: usize) -> usize {
    live.saturating_add(COMPARE_STEP.max(live / 4))
}

/// A new array starts with room for this many blocks.
const MID_FIRST: u32 = 4;

impl Cache {
    /// The head of a bin above 64, and the class of the fallback's blocks in it.
    fn mid(&self, bin: CacheBin) -> Option<(&Array, LargeClass)> {
        Some((self.head(bin), bin.mid_class()?))
    }

    /// Makes more room for the fallback's blocks of a bin above 64; whether there is more now.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread.
    pub(crate) unsafe fn grow_mid(&self, bin: CacheBin) -> bool {
        let Some((head, _)) = self.mid(bin) else { return false };
        let (old, most) = (head.cap(), max_cap(bin.index()));
        if old >= most {
            return false;
        }
        let cap = (old * 2).clamp(MID_FIRST, most);
        // SAFETY: the caller's promise; more than before.
        unsafe { head.set_cap(bin.index(), cap, &self.short, &self.long) };
        true
    }

    /// Notes that a block for a bin above 64 came from the fallback and went to the program.
    pub(crate) fn note_mid_fresh(&self, bin: CacheBin) {
        if let Some((head, class)) = self.mid(bin) {
            bump(&head.allocs, 1);
            self.note_mid(class, 1);
            self.note_bytes(class.size().cast_signed());
        }
    }

    /// Notes that a block for a bin above 64 came from the fallback into the array.
    pub(crate) fn note_mid_stocked(&self, bin: CacheBin) {
        if let Some((_, class)) = self.mid(bin) {
            self.note_mid(class, 1);
            self.note_bytes(class.size().cast_signed());
        }
    }

    /// Counts for a thread without a cache, of which many may write here.
    pub(crate) fn note_mid_orphan(&self, bin: CacheBin, blocks: i64) {
        let Some((head, class)) = self.mid(bin) else { return };
        // Relaxed, twice: counts, no order.
        if blocks > 0 {
            head.allocs.fetch_add(1, Relaxed);
        }
        if let Some(out) = self.counters.mid_out.get(mid_place(class)) {
            out.fetch_add(blocks.cast_unsigned(), Relaxed);
        }
        if has_list(class) {
            let bytes = blocks.wrapping_mul(class.size() as i64);
            // Relaxed: as above.
            self.counters.listed_out.fetch_add(bytes.cast_unsigned(), Relaxed);
        }
        stats::publish((class.size() as i64 * blocks) as isize);
    }

    /// Notes that a block of a bin above 64 went back to the fallback past the array.
    pub(crate) fn note_mid_gone(&self, bin: CacheBin) {
        if let Some((_, class)) = self.mid(bin) {
            self.note_mid(class, -1);
            self.note_bytes(-class.size().cast_signed());
        }
    }

    /// Counts blocks that came from the fallback through this cache as if they had come through
    /// another one, where they lie.
    pub(crate) fn hand_mids_over(&self, other: &Cache, class: LargeClass, blocks: u64) {
        self.note_mid(class, -blocks.cast_signed());
        other.note_mid(class, blocks.cast_signed());
    }

    /// Counts blocks that went to the drain.
    pub(crate) fn note_drained(&self, blocks: u32) {
        bump(&self.counters.drained, u64::from(blocks));
    }

    /// Counts blocks that came into the array or went to the program, or the other way.
    fn note_mid(&self, class: LargeClass, blocks: i64) {
        if let Some(out) = self.counters.mid_out.get(mid_place(class)) {
            bump(out, blocks.cast_unsigned());
        }
        if has_list(class) {
            let bytes = blocks.wrapping_mul(class.size() as i64);
            bump(&self.counters.listed_out, bytes.cast_unsigned());
        }
    }

    /// Fills a bin above 64 with what `take` puts into the places it is given, the newest last, and
    /// of which it returns how many. Whether there was any.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread. What `take` puts there are free blocks of its class
    /// of the registered fallback.
    pub(crate) unsafe fn take_mid(
        &self,
        bin: CacheBin,
        take: impl FnOnce(LargeClass, &mut [MaybeUninit<Block>]) -> usize,
    ) -> bool {
        let Some((head, class)) = self.mid(bin) else { return false };
        let want = (head.cap() / 2).min(head.cap().saturating_sub(head.len())) as usize;
        let mut blocks = [const { MaybeUninit::<Block>::uninit() }; depot::BATCH];
        let Some(blocks) = blocks.get_mut(..want) else { return false };
        let taken = take(class, blocks).min(want);
        let top = head.top.load(Relaxed);
        // SAFETY: at most as many as there is room for, the owner's access (3).
        unsafe { top.copy_from_nonoverlapping(blocks.as_ptr(), taken) };
        head.set_len(head.len() + taken as u32);
        self.note_mid(class, taken as i64);
        taken > 0
    }

    /// Hands the `count` oldest of the fallback's blocks in a bin above 64 to other threads if
    /// `pass_on` and they asked for some, the rest to `keep`, which takes as many as it returns,
    /// the first ones, and what is left to `free`, which gives it back.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread, or nobody's.
    pub(crate) unsafe fn give_mid(
        &self,
        bin: CacheBin,
        count: u32,
        pass_on: bool,
        keep: impl FnOnce(LargeClass, &[MaybeUninit<Block>]) -> usize,
        free: impl FnOnce(LargeClass, &mut [Block]),
    ) {
        let Some((head, class)) = self.mid(bin) else { return };
        let (low, len) = (head.low.load(Relaxed), head.len());
        let count = count.min(len);
        if count == 0 {
            return;
        }
        // Out of the array first: the fallback may call back in.
        let mut out = [const { MaybeUninit::<Block>::uninit() }; SLOTS];
        // SAFETY: `count` is at most the length, at most 64: slots of the array (1), the owner's
        // access (3).
        unsafe { low.copy_to_nonoverlapping(out.as_mut_ptr(), count as usize) };
        // SAFETY: `count` is at most the length.
        let rest = unsafe { low.add(count as usize) };
        // SAFETY: the rest of the array moves to its beginning, the owner's access (3).
        unsafe { low.copy_from(rest, (len - count) as usize) };
        head.set_len(len - count);
        self.note_mid(class, -i64::from(count));
        let Some(out) = out.get_mut(..count as usize) else { return };
        if watch::is_watched() {
            // SAFETY: they were below the length: blocks (2), and both types have one layout.
            watch::forget_all(None, unsafe { &*(core::ptr::from_ref(out) as *const [Block]) });
        }
        let passed_on = match pass_on && depot::is_wanted(class, self.who()) {
            // SAFETY: blocks of that class out of this cache (2).
            true => unsafe { depot::give(class, out) },
            false => 0,
        };
        let Some(out) = out.get_mut(passed_on..) else { return };
        let kept = keep(class, out);
        let Some(out) = out.get_mut(kept..) else { return };
        self.note_bytes(-((passed_on + out.len()) * class.size()).cast_signed());
        let bytes = class.size() * out.len();
        // USER CODE: a fallback's.
        // SAFETY: they were below the length: blocks (2), and both types have one layout.
        free(class, unsafe { &mut *(core::ptr::from_mut(out) as *mut [Block]) });
        // When they are free: where there is no delay, all that is goes back now.
        self.note_freed(bytes);
    }

    /// Whether so many bytes of a bin above 64 came through this cache, and did not go back through it.
    pub(crate) fn has_out(&self, class: LargeClass, bytes: usize) -> bool {
        // Relaxed: this thread's own, or nobody's.
        let out = self.counters.mid_out.get(mid_place(class)).map_or(0, |out| out.load(Relaxed));
        // Negative where it freed what others allocated.
        out.cast_signed() >= (bytes / class.size()) as i64
    }

    /// Calls `f` with every block in the bins above 64.
    ///
    /// # Safety
    ///
    /// The cache is that of the calling thread, and `f` neither allocates nor frees.
    pub(crate) unsafe fn for_each_mid_cached(&self, mut f: impl FnMut(Block)) {
        for (head, _) in CacheBin::mids().filter_map(|bin| self.mid(bin)) {
            let low = head.low.load(Relaxed);
            for place in 0..head.len() as usize {
                // SAFETY: below the length: a slot of the array (1).
                let slot = unsafe { low.add(place) };
                // SAFETY: the owner's access (3).
                let block = unsafe { slot.read() };
                // SAFETY: below the length: a block (2).
                f(unsafe { block.assume_init() });
            }
        }
    }

    /// Bytes of the fallback's blocks that may come to lie in a list, which this thread allocated
    /// and did not free; what it freed for others makes up for none.
    pub(crate) fn fallback_live(&self) -> usize {
        usize::try_from(self.fallback_net()).unwrap_or(0)
    }

    /// The same for the owner, who begins at nothing again where it freed more than it allocated, and
    /// has no more than the whole process has: what others freed of its blocks is written off.
    pub(crate) fn own_fallback_live(&self) -> usize {
        let net = self.fallback_net();
        if net < 0 {
            bump(&self.counters.written_off, net.cast_unsigned());
        }
        let live = usize::try_from(net).unwrap_or(0);
        if live > self.compared.get() { self.compare(live) } else { live }
    }

    /// Writes off what is more than the whole process has in use. Costs some hundred instructions
    /// for each thread.
    #[cold]
    fn compare(&self, live: usize) -> usize {
        let mut all = 0u64;
        thread::for_each_counted(|cache| all = all.wrapping_add(cache.fallback_in_use()));
        // Threads at work may be seen freeing what they were not seen allocating.
        let all = usize::try_from(all.cast_signed()).unwrap_or(0);
        bump(&self.counters.written_off, live.saturating_sub(all) as u64);
        let live = live.min(all);
        self.compared.set(next_compared(live));
        live
    }

    /// Compares sooner again, if less is in use than when that was done last. For the owner, at its
    /// sweeps: at each free it would be done for each large block that comes and goes.
    pub(crate) fn compare_sooner(&self) {
        let next = next_compared(self.fallback_live());
        self.compared.set(self.compared.get().min(next));
    }

    fn fallback_net(&self) -> i64 {
        // Relaxed: this thread's own, or nobody's.
        let off = self.counters.written_off.load(Relaxed);
        self.fallback_in_use().wrapping_sub(off).cast_signed()
    }

    /// Bytes of the fallback's blocks that may come to lie in a list, which came from this cache and
    /// not back to it, wrapping: their sum over all caches is what the program has in use.
    fn fallback_in_use(&self) -> u64 {
        let counters = &self.counters;
        // Relaxed, all of them: this thread's own, or an estimate.
        // Out first: of what goes on meanwhile, rather too much is seen in use than too little.
        let out = counters.fallback_bytes_out.load(Relaxed);
        let came = counters.fallback_bytes_in.load(Relaxed);
        let mut live = came.wrapping_sub(out).wrapping_add(counters.listed_out.load(Relaxed));
        for (bin, size) in CacheBin::LISTED {
            live = live.wrapping_sub(u64::from(self.head(bin).len()) * size as u64);
        }
        live
    }

    /// How many of the fallback's blocks this thread was handed, wrapping: by the cache of large
    /// ones, and by arrays, the drain's among them.
    pub(crate) fn fallback_taken(&self) -> u64 {
        // Relaxed: this thread's own, or nobody's.
        let large = self.counters.fallback_allocs.load(Relaxed);
        let mids = CacheBin::mids().map(|bin| self.head(bin).allocs.load(Relaxed));
        mids.fold(large, u64::wrapping_add).wrapping_add(self.counters.drained.load(Relaxed))
    }

    /// Half of the capacity of a bin above 64: how many go when it is full.
    pub(crate) fn mid_half(&self, bin: CacheBin) -> u32 {
        self.mid(bin).map_or(0, |(head, _)| head.cap() / 2)
    }

    /// Blocks in a bin above 64, and blocks it handed out since the process began.
    pub(crate) fn mid_counts(&self, bin: CacheBin) -> Option<(u64, u64, LargeClass)> {
        let (head, class) = self.mid(bin)?;
        Some((u64::from(head.len()), head.allocs.load(Relaxed), class))
    }

    /// Whether a bin above 64 holds blocks.
    #[inline]
    pub(crate) fn has_mid(&self, bin: CacheBin) -> bool {
        self.head(bin).len() > 0
    }

    /// Forgets the capacities of bins above 64, which are empty.
    pub(super) fn forget_mids(&self) {
        for bin in CacheBin::mids() {
            self.head(bin).close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::alloc::Layout;
    use core::ptr::NonNull;

    #[test]
    fn what_was_freed_for_others_does_not_hide_what_is_allocated_later() {
        let cache = Box::new(Cache::new());
        let (bytes_in, bytes_out) =
            (&cache.counters.fallback_bytes_in, &cache.counters.fallback_bytes_out);
        bump(bytes_in, 1000);
        assert_eq!((cache.fallback_live(), cache.own_fallback_live()), (1000, 1000));
        bump(bytes_out, 1_000_000);
        assert_eq!((cache.fallback_live(), cache.own_fallback_live()), (0, 0));
        bump(bytes_in, 500);
        assert_eq!((cache.fallback_live(), cache.own_fallback_live()), (500, 500));
    }

    #[test]
    fn a_bin_rests_if_neither_its_length_nor_what_it_handed_out_changed() {
        let cache = Box::new(Cache::new());
        let bin = CacheBin::of(Layout::from_size_align(4096, 8).unwrap()).unwrap();
        let mut memory = vec![0_u128; 256];
        assert!(!cache.rests(bin) && !cache.rests(bin), "nothing is in it");
        // SAFETY: a cache that no thread has, so the caller's.
        assert!(unsafe { cache.grow_mid(bin) });
        // SAFETY: as above, and a block of the bin's size.
        assert!(unsafe { cache.push(bin, NonNull::from(&mut memory[0]).cast()) });
        assert!(!cache.rests(bin), "a block came");
        assert!(cache.rests(bin) && cache.rests(bin));
        // SAFETY: as above.
        let block = unsafe { cache.pop(bin) }.unwrap();
        // SAFETY: as above.
        assert!(unsafe { cache.push(bin, block) });
        assert!(!cache.rests(bin), "one went and came");
        assert!(cache.rests(bin));
        // SAFETY: as above.
        assert!(unsafe { cache.pop(bin) }.is_some());
    }

    #[test]
    fn what_left_by_way_of_the_drain_is_not_live_in_the_cache_it_came_from() {
        // Caches that no thread has, so the caller's.
        let [home, drain] = [(); 2].map(|()| Box::new(Cache::new()));
        let bin = CacheBin::of(Layout::from_size_align(2048, 8).unwrap()).unwrap();
        let class = bin.mid_class().unwrap();
        let mut memory = vec![0_u128; 2 * 128];
        let blocks = memory.chunks_mut(128).map(|chunk| NonNull::from(chunk).cast());
        // SAFETY: the caller's cache.
        assert!(unsafe { home.grow_mid(bin) });
        for block in blocks {
            // SAFETY: as above, and a block of the bin's size.
            assert!(unsafe { home.push(bin, block) });
            home.note_mid_stocked(bin);
        }
        assert_eq!(home.fallback_live(), 0);
        // SAFETY: the caller's caches; the second one is empty.
        assert_eq!(unsafe { home.move_newest(bin, &drain, 8, |_| {}) }, 2);
        // SAFETY: the caller's cache.
        assert!(unsafe { drain.pop(bin) }.is_some());
        home.hand_mids_over(&drain, class, 1);
        assert_eq!(home.fallback_live(), class.size(), "the one that was handed out");
        let mut freed = 0;
        // SAFETY: the caller's cache.
        unsafe {
            drain.give_mid(bin, u32::MAX, false, |_, _| 0, |_, blocks| freed += blocks.len())
        };
        assert_eq!((freed, home.fallback_live(), drain.fallback_live()), (1, class.size(), 0));
        let totals = home.totals().plus(drain.totals());
        assert_eq!((totals.allocs, totals.frees), (1, 0));
    }
}
