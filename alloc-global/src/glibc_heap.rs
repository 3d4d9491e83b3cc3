//! What glibc's `malloc` is told: to keep large blocks in its heaps, and huge pages behind the one
//! that `brk` lengthens, where the main thread's blocks lie.
//!
//! ```text
//!        2 MiB           2 MiB           2 MiB
//! | blocks, written | blocks, wri: free | next window | ... 16 MiB at most: brk
//!                   '-- written? ^ mark
//! ```
//!
//! When a block ends beyond the mark, the next window of 2 MiB is asked to be backed by a huge
//! page, if nearly all of the 2 MiB before the block is resident, or of those 4 MiB behind: spans
//! of several classes are filled side by side. Where it is not, the program asks for more than it
//! writes, and would come to hold what it does not use. A huge page is only made where all of its
//! 2 MiB are mapped; so `brk` runs ahead (`M_TOP_PAD`), by address space alone.
//!
//! Huge pages are hints. Memory that is glibc's is never written: it is populated, which keeps what
//! it reads as. What other allocators do with `brk` gets none. Whether huge pages are wanted, and
//! come cheaply, is up to `huge`.
//!
//! glibc's other heaps, those of threads, are looked after in `ahead`. They have 64 MiB each, and one
//! that is wholly free is unmapped, whatever glibc was told: what a thread holds beyond that is
//! better off in its cache. And of what is free at their ends `malloc_trim` gives nothing back: only
//! a free does, of 64 KiB or more with what is free around it, where the bound is low. So it, and by
//! how much `brk` runs ahead, are low while caches are emptied ([`trimming`]), and a thread that
//! leaves large blocks to its heap has one in its cache for whoever empties it.
//!
//! Where the user set thresholds of glibc's, all of it is left as it is, and blocks of all sizes
//! are cached.

#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
mod ahead;

#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
pub(crate) use {
    ahead::{is_behind, is_in_a_heap, run_ahead},
    glibc::{
        Keeps, begin, forget_after_fork, is_better_copied, is_due, keeps, look, look_again, round,
        stay_short, teach, trim_own, trimming,
    },
};

/// Without glibc there is no such heap.
#[cfg(not(all(target_os = "linux", target_env = "gnu", not(miri))))]
mod none {
    pub(crate) fn begin() {}
    pub(crate) fn teach() -> bool {
        false
    }
    #[derive(Clone, Copy, PartialEq, Eq)]
    #[expect(dead_code, reason = "nobody is known to keep anything")]
    pub(crate) enum Keeps {
        No,
        First,
        Other,
    }
    pub(crate) fn keeps(_: *mut u8, _: usize, _: usize) -> Keeps {
        Keeps::No
    }
    pub(crate) fn trimming<T>(f: impl FnOnce() -> T) -> T {
        f()
    }
    pub(crate) fn trim_own() {}
    pub(crate) fn forget_after_fork() {}
    pub(crate) fn round() -> u32 {
        0
    }
    pub(crate) fn is_due(_: *mut u8, _: usize) -> bool {
        false
    }
    pub(crate) fn look(_: *mut u8, _: usize) {}
    pub(crate) fn run_ahead(_: *mut u8, _: usize) {}
    pub(crate) fn look_again() {}
    pub(crate) fn is_better_copied(_: *mut u8, _: usize, _: usize) -> bool {
        false
    }
    pub(crate) fn is_in_a_heap(_: *mut u8, _: usize, _: usize) -> bool {
        false
    }
    pub(crate) fn is_behind(_: *mut u8, _: usize, _: *mut u8) -> bool {
        false
    }
    pub(crate) fn stay_short() -> bool {
        false
    }
}
#[cfg(not(all(target_os = "linux", target_env = "gnu", not(miri))))]
pub(crate) use none::{
    Keeps, begin, forget_after_fork, is_behind, is_better_copied, is_due, is_in_a_heap, keeps,
    look, look_again, round, run_ahead, stay_short, teach, trim_own, trimming,
};

#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
mod glibc {
    use crate::{config, huge, residency};
    use alloc_core::{HUGE_PAGE, PAGE_SIZE, keeping_errno};
    use core::alloc::{GlobalAlloc, Layout};
    use core::ops::RangeInclusive;
    use core::sync::atomic::Ordering::{Relaxed, SeqCst};
    use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};
    use std::alloc::System;

    /// Blocks from this size on are mapped one by one: the largest that `M_MMAP_THRESHOLD` may be.
    const MAPPED_FROM: usize = 32 << 20;

    /// Bytes at the end of a heap that glibc keeps, at least: what it comes to by itself where
    /// large blocks are freed.
    const LEAST_KEPT: usize = 64 << 20;

    /// Bytes that a thread may have in use for its heap of 64 MiB to hold them, with what lies
    /// between them.
    const ONE_HEAP: usize = 52 << 20;

    /// Blocks that may be better copied than resized, in bytes: those that glibc keeps when they are
    /// freed.
    pub(super) const COPIED: RangeInclusive<usize> = 1 << 20..=MAPPED_FROM / 8 * 7;

    /// A block that is shrunk to this part of it or less is copied.
    const MUCH_LESS: usize = 8;

    /// Bytes that are looked at together.
    pub(super) const WINDOW: usize = HUGE_PAGE;

    /// How long before the end of a window the next one is looked at. It comes to be resident at
    /// once, so not much before it is used; and before a block reaches into it, for then it has
    /// small pages already.
    const LEAD: usize = 256 << 10;

    /// Bytes at the end of a heap that glibc keeps while memory is to go back: what it does by itself.
    const KEPT_WHEN_TRIMMING: usize = 128 << 10;

    /// A block that `free` looks at the end of its heap for, in bytes: the least are 64 KiB.
    const TRIGGER: usize = 128 << 10;

    /// How many threads are emptying caches.
    pub(super) static TRIMMING: AtomicUsize = AtomicUsize::new(0);

    /// How often all that is free was asked for back.
    static ROUND: AtomicU32 = AtomicU32::new(0);

    /// Bytes by which `brk` runs ahead.
    const PAD: libc::c_int = 16 << 20;

    /// And by how much if nobody changes it.
    const GLIBC_PAD: libc::c_int = 128 << 10;

    /// Resident bytes of the last 2 MiB for which the next are wanted.
    const DENSE: u64 = (WINDOW / 8 * 7) as u64;

    /// How far behind those the 2 MiB lie that are looked at if they are not resident: more than
    /// a span of each of the twelve sizes, all of which may be filled at the same time.
    const BEHIND: usize = 4 << 20;

    /// How many times as large as where arenas ask for huge pages this heap is when it does: half
    /// of the last window is unused on average, and of many blocks above 512 bytes a part.
    pub(super) const WASTE: usize = 4;

    /// A block that ends further beyond the mark is not in this heap.
    const SPAN: usize = 1 << 30;

    /// A block that ends beyond it is in or near the next window. At first no block ends within a
    /// span of it.
    static MARK: AtomicUsize = AtomicUsize::new(NO_MARK);

    const NO_MARK: usize = usize::MAX - SPAN;

    /// Where the heap ended when this began.
    static START: AtomicUsize = AtomicUsize::new(0);

    /// Whether [`teach`] was called.
    static TAUGHT: AtomicBool = AtomicBool::new(false);

    /// Whether `brk` was told to run ahead.
    static PADDED: AtomicBool = AtomicBool::new(false);

    /// The end of the heap, the greatest number if there is no `brk`; no system call but for the
    /// first time.
    pub(super) fn heap_end() -> usize {
        // SAFETY: changes nothing.
        keeping_errno(|| unsafe { libc::sbrk(0) }.addr())
    }

    /// From now on the heap is looked after.
    pub(crate) fn begin() {
        if config::is_glibc_set() {
            return;
        }
        let end = heap_end();
        // Relaxed, here and below: addresses to compare with; who sees an old one asks too early,
        // too late or twice for a hint.
        START.store(end, Relaxed);
        set_mark(end);
    }

    /// The heap has become shorter: what it grows by is looked after anew.
    pub(crate) fn look_again() {
        ROUND.fetch_add(1, Relaxed);
        if MARK.load(Relaxed) != NO_MARK {
            set_mark(heap_end());
        }
    }

    /// Memory is short: for a while `brk` must not fail for what it would run ahead by. Whether it
    /// did run ahead.
    pub(crate) fn stay_short() -> bool {
        // SeqCst: with the loads in `set_ends` and `pad`.
        let padded = PADDED.swap(false, SeqCst);
        if padded {
            set_pad(GLIBC_PAD);
            huge::rest();
        }
        padded
    }

    /// How often all that is free was asked for back: each thread does so for the end of its own heap.
    pub(crate) fn round() -> u32 {
        ROUND.load(Relaxed)
    }

    /// Whether its bounds are those that [`teach`] sets.
    pub(super) fn has_our_bounds() -> bool {
        // Relaxed: it was set by this thread, or less is trimmed.
        TAUGHT.load(Relaxed) && !config::is_glibc_set()
    }

    /// Has `brk` run ahead by 16 MiB, unless it does.
    pub(super) fn pad() {
        // SeqCst, here and below: as in `set_ends`.
        if !PADDED.swap(true, SeqCst) {
            set_pad(PAD);
            if !PADDED.load(SeqCst) {
                set_pad(GLIBC_PAD);
            }
        }
    }

    /// Whether glibc runs ahead by 16 MiB, so that it keeps a new heap of a thread of which the one
    /// before has less left.
    pub(super) fn is_padded() -> bool {
        // Relaxed: who sees an old value leaves a heap alone, or one heap is given back once.
        PADDED.load(Relaxed)
    }

    /// Has glibc give back what is free at the end of each heap in which `f` frees a block.
    pub(crate) fn trimming<T>(f: impl FnOnce() -> T) -> T {
        if !has_our_bounds() {
            return f();
        }
        // SeqCst, with the loads in `set_ends`: if another thread comes or goes first, that is seen
        // there; if it does later, it sets the bounds itself, and that again.
        if TRIMMING.fetch_add(1, SeqCst) == 0 {
            set_ends();
        }
        let result = f();
        // None where a child of `fork` was made meanwhile, and this is it.
        let before = TRIMMING.fetch_update(SeqCst, SeqCst, |threads| threads.checked_sub(1));
        if before.unwrap_or(1) == 1 {
            set_ends();
        }
        // What the first heap lost is looked after anew when it grows again.
        if MARK.load(Relaxed) != NO_MARK {
            MARK.fetch_min(mark_for(heap_end()), Relaxed);
        }
        result
    }

    /// In a child of `fork`: threads that were emptying caches are not there.
    pub(crate) fn forget_after_fork() {
        // SeqCst, although there is no other thread: as above.
        if TRIMMING.swap(0, SeqCst) > 0 {
            set_ends();
        }
    }

    /// Sets what glibc keeps at the end of a heap: little while any thread empties caches.
    fn set_ends() {
        loop {
            // SeqCst, here and below: see `trimming`.
            let is_low = TRIMMING.load(SeqCst) > 0;
            let (kept, pad) = if is_low { (KEPT_WHEN_TRIMMING, GLIBC_PAD) } else { (kept(), PAD) };
            set_kept(kept);
            // SeqCst, as in `stay_short`: if that comes first, nothing is set; if it comes later, its
            // own pad is the last one.
            if PADDED.load(SeqCst) {
                set_pad(pad);
                if !PADDED.load(SeqCst) {
                    set_pad(GLIBC_PAD);
                }
            }
            if (TRIMMING.load(SeqCst) > 0) == is_low {
                return;
            }
        }
    }

    /// How many bytes glibc keeps at the end of a heap.
    fn set_kept(bytes: usize) {
        set(libc::M_TRIM_THRESHOLD, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX));
    }

    /// Has glibc give back what is free at the end of the calling thread's heap.
    pub(crate) fn trim_own() {
        // Without these bounds such a block would be mapped by itself.
        if !has_our_bounds() {
            return;
        }
        let Ok(layout) = Layout::from_size_align(TRIGGER, align_of::<u128>()) else { return };
        trimming(|| allocate_and_free(layout));
        super::ahead::forget();
    }

    /// For what glibc does besides. The size of the layout is not 0. Returns where the block was.
    pub(super) fn allocate_and_free(layout: Layout) -> *mut u8 {
        // It may find no memory, which is nobody's concern.
        keeping_errno(|| {
            // Opaque, or the compiler sees that nobody uses the block and leaves both calls out.
            // SAFETY: the size is not 0.
            let block = core::hint::black_box(unsafe { System.alloc(layout) });
            if !block.is_null() {
                // SAFETY: just allocated with this layout.
                unsafe { System.dealloc(block, layout) };
            }
            block
        })
    }

    /// By how much glibc lengthens its heap beyond what is asked for.
    fn set_pad(bytes: libc::c_int) {
        set(libc::M_TOP_PAD, bytes);
    }

    /// Has glibc keep large blocks in its heaps, once in a process.
    ///
    /// It maps blocks of 128 KiB and more one by one, and trims its heaps to as much, until a
    /// mapped block is freed: from then on its bounds are the size of that block and twice that, at
    /// most 32 and 64 MiB. A program that caches nothing gets there by itself; behind our cache
    /// every burst of frees would be paid in page faults again. So the bounds are set: as much as a
    /// thread may cache is kept at the end of the heap. When it goes back is up to `purge`, as for
    /// all else.
    ///
    /// Whether that was now: a block that is freed at this moment may be mapped by itself.
    pub(crate) fn teach() -> bool {
        // Relaxed, here and below: two threads may both teach; nobody infers anything.
        if TAUGHT.load(Relaxed) {
            return false;
        }
        TAUGHT.store(true, Relaxed);
        if !config::is_glibc_set() {
            set(libc::M_MMAP_THRESHOLD, MAPPED_FROM as libc::c_int);
            set_kept(kept());
        }
        true
    }

    /// Bytes that glibc is to keep at the end of the heap.
    fn kept() -> usize {
        config::fallback_cache().max(LEAST_KEPT)
    }

    /// Whether glibc keeps the memory of a block when it is freed, and where.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Keeps {
        No,
        /// In the heap that `brk` lengthens.
        First,
        /// In the heap of a thread.
        Other,
    }

    /// Whether glibc keeps the memory of a block of `size` bytes when it is freed, in a heap where
    /// others that are free make one of it: if it does not map it by itself, and the thread had no
    /// more than `in_use` bytes at a time.
    pub(crate) fn keeps(block: *mut u8, size: usize, in_use: usize) -> Keeps {
        let is_first = is_in_first(block, size);
        let most = if is_first { kept() } else { ONE_HEAP };
        if is_mapped(size) || in_use > most || config::is_glibc_set() {
            return Keeps::No;
        }
        if is_first { Keeps::First } else { Keeps::Other }
    }

    /// Whether a block lies in the heap that `brk` lengthens.
    pub(super) fn is_in_first(block: *mut u8, size: usize) -> bool {
        // The first one may begin below the end that the heap had.
        let heap = START.load(Relaxed)..heap_end();
        heap.contains(&block.addr().saturating_add(size).saturating_sub(1))
    }

    /// Whether glibc maps blocks of a class by themselves, once it was told. Those of the class
    /// below its threshold it does not: it adds headers and pages.
    pub(super) const fn is_mapped(size: usize) -> bool {
        size > MAPPED_FROM / 8 * 7
    }

    /// Whether a block of `old` bytes is better copied than resized to `new` by glibc.
    ///
    /// Where it grows out of the heap that `brk` lengthens into a mapping of its own, glibc copies
    /// it too, and fills small pages of what would get huge ones. Where it is shrunk to little,
    /// glibc gives its pages back, if it is mapped, and comes for them again when it grows.
    pub(crate) fn is_better_copied(block: *mut u8, old: usize, new: usize) -> bool {
        if config::is_glibc_set() || !COPIED.contains(&old) {
            return false;
        }
        let room = heap_end().saturating_sub(block.addr().saturating_add(old));
        // With room behind it, it may grow where it is.
        let is_copied = || is_mapped(new) && is_in_first(block, old) && new - old > room;
        new <= old / MUCH_LESS || TAUGHT.load(Relaxed) && is_copied()
    }

    fn set(what: libc::c_int, bytes: libc::c_int) {
        // SAFETY: a setting of glibc's, under its own lock.
        keeping_errno(|| unsafe { libc::mallopt(what, bytes) });
    }

    /// The first window that begins at an address or behind it.
    pub(super) fn window_from(address: usize) -> Option<usize> {
        address.checked_next_multiple_of(WINDOW)
    }

    /// The next window to look at is the one after that in which `address` lies. None from an
    /// address that there is not: no `brk`.
    fn set_mark(address: usize) {
        MARK.store(mark_for(address), Relaxed);
    }

    fn mark_for(address: usize) -> usize {
        let mark = window_from(address).and_then(|window| window.checked_add(WINDOW - LEAD));
        mark.unwrap_or(NO_MARK)
    }

    /// Whether it is time to [`look`], as a block of `size` bytes came from `malloc`.
    #[inline]
    pub(crate) fn is_due(block: *mut u8, size: usize) -> bool {
        let end = block.addr().wrapping_add(size);
        end.wrapping_sub(MARK.load(Relaxed)) < SPAN
    }

    /// Has the next window backed by a huge page, if the program is likely to use all of it.
    #[cold]
    #[inline(never)]
    pub(crate) fn look(block: *mut u8, size: usize) {
        let (end, heap_end) = (block.addr().saturating_add(size), heap_end());
        if end > heap_end {
            return;
        }
        // What follows the block has its header written.
        let Some(window) = window_from(end.saturating_add(PAGE_SIZE)) else { return };
        set_mark(window);
        let in_use = end.saturating_sub(START.load(Relaxed));
        if !huge::is_wanted(in_use / WASTE) {
            return;
        }
        pad();
        let before = (block.addr() & !(PAGE_SIZE - 1)).saturating_sub(WINDOW);
        if !is_dense(before) && !is_dense_behind(before) {
            return;
        }
        let is_whole = |heap_end: usize| heap_end.saturating_sub(window) >= WINDOW;
        if is_whole(heap_end) {
            huge::back_window(window, WINDOW, true);
        } else if is_whole(lengthen(heap_end, end)) {
            huge::back_window(window, WINDOW, heap_end + 2 * PAGE_SIZE <= window);
        }
    }

    /// Has glibc lengthen the heap, in which `end` is the end of a block, by what it runs ahead. It
    /// writes to one page at most beyond where it ended. Returns the new end.
    fn lengthen(heap_end: usize, end: usize) -> usize {
        let layout = Layout::from_size_align(heap_end - end + PAGE_SIZE, align_of::<u128>());
        // It would be given back at once where caches are emptied.
        if let (Ok(layout), 0) = (layout, TRIMMING.load(Relaxed)) {
            allocate_and_free(layout);
        }
        self::heap_end()
    }

    /// Whether nearly all of the 2 MiB from a page on is resident. Not where the system does not say.
    pub(super) fn is_dense(start: usize) -> bool {
        let bytes = keeping_errno(|| residency::known_resident_bytes(start, WINDOW));
        bytes.is_some_and(|bytes| bytes >= DENSE)
    }

    /// The same for those further behind, as far as this was looked after.
    fn is_dense_behind(start: usize) -> bool {
        let behind = start.saturating_sub(BEHIND);
        behind >= START.load(Relaxed) && is_dense(behind)
    }
}
