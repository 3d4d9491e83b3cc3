//! What glibc's `malloc` is told: to keep large blocks in its heaps, and huge pages behind the one that `brk` lengthens, where the main
//! thread's blocks lie.
//!
//! ```text
//!        2 MiB           2 MiB           2 MiB
//! | blocks, written | blocks, wri: free | next window | ... 16 MiB at most: brk
//!                   '-- written? ^ mark
//! ```
//!
//! When a block ends beyond the mark, the next window of 2 MiB is asked to be backed by a huge page, if nearly all of the 2 MiB
//! before the block is resident. Where it is not, the program asks for more than it writes, and would come to hold what it does not
//! use. A huge page is only made where all of its 2 MiB are mapped; so `brk` runs ahead (`M_TOP_PAD`), by address space alone.
//!
//! All of it are hints. Memory that is glibc's is never written: it is populated, which keeps what it reads as. glibc's other heaps, those of
//! threads, are left alone, for where they end is not known; so is what other allocators do with `brk`. Whether huge pages are wanted, and
//! come cheaply, is up to `huge`.

#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
pub(crate) use glibc::{begin, holds, is_due, look, look_again, stay_short, teach};

/// Without glibc there is no such heap.
#[cfg(not(all(target_os = "linux", target_env = "gnu", not(miri))))]
mod none {
    pub(crate) fn begin() {}
    pub(crate) fn teach() {}
    pub(crate) fn holds(_: usize) -> bool {
        false
    }
    pub(crate) fn is_due(_: *mut u8, _: usize) -> bool {
        false
    }
    pub(crate) fn look(_: *mut u8, _: usize) {}
    pub(crate) fn look_again() {}
    pub(crate) fn stay_short() -> bool {
        false
    }
}
#[cfg(not(all(target_os = "linux", target_env = "gnu", not(miri))))]
pub(crate) use none::{begin, holds, is_due, look, look_again, stay_short, teach};

#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
mod glibc {
    use crate::{config, huge, residency};
    use alloc_core::{HUGE_PAGE, PAGE_SIZE, keeping_errno};
    use core::alloc::{GlobalAlloc, Layout};
    use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
    use std::alloc::System;

    /// The block that [`teach`] frees, in bytes: with its header and rounded to pages within the largest that glibc learns from.
    const LESSON: usize = (32 << 20) - (64 << 10);

    /// Bytes that are looked at together.
    const WINDOW: usize = HUGE_PAGE;

    /// How long before the end of a window the next one is looked at. It comes to be resident at once, so not much before it is used; and
    /// before a block reaches into it, for then it has small pages already.
    const LEAD: usize = 256 << 10;

    /// Bytes by which `brk` runs ahead.
    const PAD: libc::c_int = 16 << 20;

    /// And by how much if nobody changes it.
    const GLIBC_PAD: libc::c_int = 128 << 10;

    /// Resident bytes of the last 2 MiB for which the next are wanted.
    const DENSE: u64 = (WINDOW / 8 * 7) as u64;

    /// How many times as large as where arenas ask for huge pages this heap is when it does: half of the last window is unused on
    /// average, and of many blocks above 512 bytes a part.
    const WASTE: usize = 4;

    /// A block that ends further beyond the mark is not in this heap.
    const SPAN: usize = 1 << 30;

    /// A block that ends beyond it is in or near the next window. At first no block ends within a span of it.
    static MARK: AtomicUsize = AtomicUsize::new(NO_MARK);

    const NO_MARK: usize = usize::MAX - SPAN;

    /// Where the heap ended when this began.
    static START: AtomicUsize = AtomicUsize::new(0);

    /// Whether glibc saw a large block freed for its own good; see [`teach`].
    static TAUGHT: AtomicBool = AtomicBool::new(false);

    /// Whether `brk` was told to run ahead.
    static PADDED: AtomicBool = AtomicBool::new(false);

    /// The end of the heap, the greatest number if there is no `brk`; no system call but for the first time.
    fn heap_end() -> usize {
        // SAFETY: changes nothing.
        keeping_errno(|| unsafe { libc::sbrk(0) }.addr())
    }

    /// From now on the heap is looked after.
    pub(crate) fn begin() {
        let end = heap_end();
        // Relaxed, here and below: addresses to compare with; who sees an old one asks too early, too late or twice for a hint.
        START.store(end, Relaxed);
        set_mark(end);
    }

    /// The heap has become shorter: what it grows by is looked after anew.
    pub(crate) fn look_again() {
        if MARK.load(Relaxed) != NO_MARK {
            set_mark(heap_end());
        }
    }

    /// Memory is short: for a while `brk` must not fail for what it would run ahead by. Whether it did run ahead.
    pub(crate) fn stay_short() -> bool {
        let padded = PADDED.swap(false, Relaxed);
        if padded {
            set_pad(GLIBC_PAD);
            huge::rest();
        }
        padded
    }

    /// By how much glibc lengthens its heap beyond what is asked for.
    fn set_pad(bytes: libc::c_int) {
        set(libc::M_TOP_PAD, bytes);
    }

    /// Has glibc keep large blocks in its heaps, once in a process.
    ///
    /// It maps blocks of 128 KiB and more one by one, and trims its heaps to as much, until a mapped block is freed:
    /// from then on its bounds are the size of that block and twice that, at most 32 and 64 MiB. A program that caches nothing
    /// gets there by itself; behind our cache every burst of frees would be paid in page faults again. So such a block is
    /// allocated and freed untouched: two system calls. As much as a thread may cache is then kept at the end of a
    /// heap. When it goes back is up to `purge`, as for all else.
    pub(crate) fn teach() {
        // Relaxed, here and below: two threads may both teach; nobody infers anything.
        if TAUGHT.load(Relaxed) {
            return;
        }
        TAUGHT.store(true, Relaxed);
        let Ok(layout) = Layout::from_size_align(LESSON, align_of::<u128>()) else { return };
        // Opaque, or the compiler sees that nobody uses the block and leaves both calls out.
        // SAFETY: the size is not 0.
        let block = core::hint::black_box(unsafe { System.alloc(layout) });
        if !block.is_null() {
            // SAFETY: just allocated with this layout.
            unsafe { System.dealloc(block, layout) };
        }
        // From here on glibc learns nothing by itself.
        let kept = libc::c_int::try_from(config::fallback_cache());
        set(libc::M_TRIM_THRESHOLD, kept.unwrap_or(libc::c_int::MAX));
    }

    /// Whether blocks of `size` bytes lie in its heaps then.
    pub(crate) const fn holds(size: usize) -> bool {
        size < LESSON
    }

    fn set(what: libc::c_int, bytes: libc::c_int) {
        // SAFETY: a setting of glibc's, under its own lock.
        keeping_errno(|| unsafe { libc::mallopt(what, bytes) });
    }

    /// The first window that begins at an address or behind it.
    fn window_from(address: usize) -> Option<usize> {
        address.checked_next_multiple_of(WINDOW)
    }

    /// The next window to look at is the one after that in which `address` lies. None from an address that there is not: no `brk`.
    fn set_mark(address: usize) {
        let mark = window_from(address).and_then(|window| window.checked_add(WINDOW - LEAD));
        MARK.store(mark.unwrap_or(NO_MARK), Relaxed);
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
        if !PADDED.swap(true, Relaxed) {
            set_pad(PAD);
        }
        let before = (block.addr() & !(PAGE_SIZE - 1)).saturating_sub(WINDOW);
        if heap_end.saturating_sub(window) >= WINDOW
            && keeping_errno(|| residency::resident_bytes(before, WINDOW)) >= DENSE
        {
            huge::back_window(window, WINDOW);
        }
    }
}
