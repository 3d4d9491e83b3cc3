//! glibc's heaps for threads: lengthened ahead of blocks, and with huge pages where they are large.
//!
//! ```text
//! 64 MiB, aligned to as much
//! | blocks, written: free, 256 KiB |                       not accessible |     at first
//! | blocks, written: free, 256 KiB | next window, huge |   not accessible |     from 16 MiB on
//! ```
//!
//! The heap that `brk` lengthens runs ahead of its blocks (`M_TOP_PAD`). These do not: each block
//! at the end costs a system call, which keeps other threads from mapping memory. So now and then
//! glibc is asked for a block, which is freed at once: it leaves the heap longer by as much, in
//! address space alone.
//!
//! Where the next window of 2 MiB begins near the end of blocks, and the program writes what it asks
//! for, all of it is made accessible, and backed by a huge page, as behind the heap of `brk`. If the
//! block that was asked for lies right behind the last one, nothing else lies in it.
//!
//! Not near the end of the 64 MiB, though. Where a block does not fit what is left, glibc makes
//! another heap and frees what was accessible at the end of this one: if that is 64 KiB or more,
//! it looks whether the new heap is wholly free, which it is, and gives it back, unless less is left
//! than `brk` runs ahead by. The block goes to the first heap then, and so does each that follows. So
//! where huge pages are wanted `brk` runs ahead by 16 MiB from then on, and where they are not the
//! last 30 MiB are left to glibc.
//!
//! Nor for zeroed blocks: glibc clears what was accessible before, and leaves alone what it made
//! accessible for the block.
//!
//! No unsafe here. It does not say when a heap is trimmed.

use super::glibc::{
    COPIED, TRIMMING, WASTE, WINDOW, allocate_and_free, has_our_bounds, heap_end, is_dense,
    is_in_first, is_mapped, is_padded, pad, window_from,
};
use crate::huge;
use alloc_core::PAGE_SIZE;
use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::null_mut;
use core::sync::atomic::Ordering::Relaxed;

/// The most bytes of a thread's heap, and what it is aligned to.
const HEAP: usize = 64 << 20;

/// Bytes before a block that glibc maps by itself; between two blocks are half as many, and the
/// rest of the last 16.
const HEADER: usize = 16;

/// The least that glibc makes a block of, with its half of a header.
const LEAST_CHUNK: usize = 32;

/// Bytes by which a thread's heap is lengthened. glibc itself does so by what each block needs,
/// with a system call for it.
const STEP: usize = 256 << 10;

/// Blocks below so many bytes are worth lengthening a heap for: of larger ones hardly two fit what it
/// is lengthened by.
const SMALL: usize = STEP / 2;

/// How near its end a heap is left alone: more than the largest block in it has.
const LEFT_ALONE: usize = 30 << 20;

/// How near the end of blocks the next window begins when it is looked at. The end is looked at every
/// 256 KiB.
const NEAR: usize = 2 * STEP;

thread_local! {
    /// Up to where this thread's newest heap reaches, as far as is known.
    static AHEAD: Cell<usize> = const { Cell::new(0) };

    /// A bit for each heap that its blocks came from, which some of them share. glibc makes another
    /// one when the newest is full; only that one is lengthened.
    static SEEN: Cell<u64> = const { Cell::new(0) };
}

/// The heap of the calling thread was trimmed.
pub(super) fn forget() {
    AHEAD.set(0);
    SEEN.set(0);
}

/// Has the heap of the calling thread lengthened ahead of a block that came from there, unless it
/// is the first, which `brk` lengthens by more than a block anyway.
#[inline]
pub(crate) fn run_ahead(block: *mut u8, size: usize) {
    let end = block.addr().wrapping_add(size);
    if !is_mapped(size) && AHEAD.get().wrapping_sub(end) >= HEAP {
        run_ahead_of(block, size, end);
    }
}

#[cold]
#[inline(never)]
fn run_ahead_of(block: *mut u8, size: usize, end: usize) {
    if is_in_first(block, size) {
        AHEAD.set(heap_end());
        return;
    }
    // Relaxed: what is given back at once where caches are emptied is no more than lost.
    if block.is_null() || !has_our_bounds() || TRIMMING.load(Relaxed) > 0 {
        return;
    }
    let (heap, seen) = (end / HEAP, SEEN.get());
    let bit = 1 << (heap % 64);
    SEEN.set(seen | bit);
    let is_newest = heap == AHEAD.get() / HEAP;
    if !is_newest && seen & bit != 0 {
        return;
    }
    let window = next_window(block, end);
    if window.is_some() {
        pad();
    }
    if HEAP - end % HEAP < LEFT_ALONE && !is_padded() {
        AHEAD.set(heap * HEAP + (HEAP - 1));
        return;
    }
    if window.is_none() && size >= SMALL {
        AHEAD.set(end);
        return;
    }
    let length = window.map_or(STEP, |window| window - end + WINDOW);
    // glibc writes behind the other one: to the last page of the window.
    let layout = Layout::from_size_align(length - 4 * HEADER, align_of::<u128>());
    let other = layout.map_or(null_mut(), allocate_and_free);
    match window {
        Some(window) if is_behind(block, size, other) => {
            huge::back_window(window, WINDOW, false);
            AHEAD.set(window.saturating_add(WINDOW - NEAR));
        }
        // Else it was mapped by itself.
        _ if is_newest || other.addr() / HEAP == heap => AHEAD.set(end.saturating_add(STEP)),
        _ => {}
    }
}

/// The next window of a thread's heap behind the end of a block, if it begins not far behind it
/// and is to have a huge page.
fn next_window(block: *mut u8, end: usize) -> Option<usize> {
    let in_use = end % HEAP;
    let window = window_from(end.saturating_add(PAGE_SIZE))?;
    let is_near = window - end < NEAR && window % HEAP != 0;
    let before = (block.addr() & !(PAGE_SIZE - 1)).saturating_sub(WINDOW);
    (is_near && huge::is_wanted(in_use / WASTE) && is_dense(before)).then_some(window)
}

/// Whether a large block that grows from `old` to `new` bytes may have to be copied for that: it
/// is in one of glibc's heaps, not mapped by itself.
pub(crate) fn is_in_a_heap(block: *mut u8, old: usize, new: usize) -> bool {
    // What glibc maps by itself begins behind a header of 16 bytes at the beginning of a page.
    let is_mapped = block.addr() % PAGE_SIZE == HEADER && !is_in_first(block, old);
    new > old && COPIED.contains(&old) && !is_mapped && has_our_bounds()
}

/// Whether one block lies right behind another one of `size` bytes, with no third between them.
pub(crate) fn is_behind(block: *mut u8, size: usize, other: *mut u8) -> bool {
    let gap = other.addr().wrapping_sub(block.addr().wrapping_add(size));
    gap < HEADER / 2 + LEAST_CHUNK
}
