//! Blocks of the fallback that change their size.
//!
//! ```text
//! within a class                        stays
//! better copied than by the system's    into a new block; the old one is freed, past no cache
//! below 128 KiB                         into a cached block, if there is one
//! to 4 MiB or more, with others behind  into a new block of the system's, on huge pages
//! else                                  the fallback's own realloc
//! ```
//!
//! It does not serve blocks of pools: that is `pool_alloc`.

use super::kept::{count_change, make_way, move_cached, note_fresh, note_grown};
use super::{Fallback, MOVES_PAGES, NEVER_THERE, make_room};
use crate::large_class::{LARGE_ALIGN, LargeClass, fallback_layout};
use crate::latency::{self, Path};
use crate::mid_class::counted_bytes;
use crate::{glibc_heap, huge, spans, thread};
use alloc_core::keeping_errno;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

/// Up to this size, in bytes, `realloc` has blocks kept to move into. Those that are larger often
/// grow in place in the fallback.
const CHEAP_TO_COPY: usize = 16 << 10;

impl<F: GlobalAlloc + Sync + 'static> Fallback<F> {
    /// `realloc` from the fallback to the fallback.
    ///
    /// # Safety
    ///
    /// As for `GlobalAlloc::realloc`; neither layout is one that pools serve.
    pub(crate) unsafe fn realloc(&self, block: *mut u8, layout: Layout, new: Layout) -> *mut u8 {
        if resize_in_class(layout, new) {
            return block;
        }
        let (asked_old, asked_new) = (fallback_layout(layout), fallback_layout(new));
        // The system allocator cannot resize what is aligned to more than 16: it would copy too,
        // and pass the caches. Blocks in spans are none of its own.
        let cannot = asked_old.align() != asked_new.align()
            || Self::is_system() && (asked_old.align() > LARGE_ALIGN || is_in_span(layout, block));
        let (old_size, new_size) = (asked_old.size(), asked_new.size());
        if cannot || self.is_better_copied(block, old_size, new_size) {
            // SAFETY: the caller's contract.
            let moved = unsafe { self.copy(block, layout, new) };
            // There may be no room for both.
            if cannot || !moved.is_null() {
                return moved;
            }
        }
        let classes = LargeClass::of(layout).zip(LargeClass::of(new));
        if let (Some((old, class)), true) = (classes, self.is_registered()) {
            // SAFETY: the caller's contract.
            if let Some(moved) = unsafe { move_cached(block, layout, new, old, class) } {
                return moved;
            }
        }
        let live = make_way(thread::for_slow_alloc(), new_size.saturating_sub(old_size));
        // SAFETY: it came from there with `asked_old`; the new size is that of a layout.
        let mut moved = unsafe { self.resize(block, asked_old, new_size, layout.size()) };
        if moved.is_null() && new_size < NEVER_THERE && make_room() {
            // SAFETY: as above; after null the block is still valid.
            moved = unsafe { self.resize(block, asked_old, new_size, layout.size()) };
        }
        if !moved.is_null() {
            if Self::is_system() && new_size > old_size {
                huge::back_block(moved, new_size);
            }
            count_change(layout, new);
            thread::note_bytes(new_size.cast_signed() - old_size.cast_signed());
            let live =
                live.saturating_add(counted_bytes(new)).saturating_sub(counted_bytes(layout));
            Self::note_resized(new, moved != block, live);
        }
        moved
    }

    /// See [`glibc_heap::is_better_copied`].
    fn is_better_copied(&self, block: *mut u8, old: usize, new: usize) -> bool {
        Self::is_system() && self.is_registered() && glibc_heap::is_better_copied(block, old, new)
    }

    /// Notes what the fallback made of a block.
    fn note_resized(new: Layout, is_moved: bool, live: usize) {
        if is_moved {
            thread::count(|c| &c.fallback_moves, 1);
        }
        let (class, size) = (LargeClass::of(new), fallback_layout(new).size());
        if Self::is_system() && size >= MOVES_PAGES {
            note_grown(class, live);
        } else {
            // Had to be moved: another time it may as well move into a cached one.
            note_fresh(class.filter(|_| is_moved && size <= CHEAP_TO_COPY), live);
        }
    }

    /// Moves to a new block.
    ///
    /// # Safety
    ///
    /// As for `GlobalAlloc::realloc`.
    unsafe fn copy(&self, block: *mut u8, layout: Layout, new: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both blocks are at least as large, and distinct.
            unsafe { thread::copy_moved(block, moved, layout.size().min(new.size())) };
            // SAFETY: the caller gives the block up.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }

    /// Resizes a block of which the program has the first `used` bytes.
    ///
    /// # Safety
    ///
    /// As for `GlobalAlloc::realloc`, of the fallback itself.
    unsafe fn resize(&self, block: *mut u8, layout: Layout, size: usize, used: usize) -> *mut u8 {
        let moved = latency::timed(Path::Fallback, || {
            // As in `ask`.
            keeping_errno(|| {
                // SAFETY: the caller's promise.
                let grown = unsafe { self.grow_elsewhere(block, layout, size, used) };
                // SAFETY: the caller's promise; after `None` the block is still valid.
                grown.unwrap_or_else(|| unsafe { self.inner.realloc(block, layout, size) })
            })
        });
        self.look_after_heap(moved, size, false);
        moved
    }

    /// Does what glibc would do with a large block that cannot grow where it is, but asks for huge
    /// pages before the new one is written: to copy fills small ones. `None` if it may grow where
    /// it is, or need not be copied.
    ///
    /// Only glibc knows what lies behind a block. So it is asked for what this one is to grow by: if
    /// that lies right behind it, it can grow there. If not it may still be able to, as glibc hands
    /// out what fits best; it is copied then.
    ///
    /// # Safety
    ///
    /// As for `resize`.
    unsafe fn grow_elsewhere(
        &self,
        block: *mut u8,
        layout: Layout,
        size: usize,
        used: usize,
    ) -> Option<*mut u8> {
        let old = layout.size();
        if !Self::is_system() || !huge::is_for(size) || !glibc_heap::is_in_a_heap(block, old, size)
        {
            return None;
        }
        let ask = |size: usize| {
            let asked = Layout::from_size_align(size, layout.align()).ok()?;
            // SAFETY: the size is not 0.
            let other = NonNull::new(unsafe { self.inner.alloc(asked) })?.as_ptr();
            if !glibc_heap::is_behind(block, old, other) {
                return Some((other, asked));
            }
            // SAFETY: just allocated with this layout.
            unsafe { self.inner.dealloc(other, asked) };
            None
        };
        let (probe, asked) = ask(size - old)?;
        // SAFETY: just allocated with this layout.
        unsafe { self.inner.dealloc(probe, asked) };
        let (other, asked) = ask(size)?;
        huge::back_block(other, asked.size());
        // SAFETY: both are at least as large, and distinct.
        unsafe { block.copy_to_nonoverlapping(other, used) };
        thread::count(|c| &c.copied, used as u64);
        // SAFETY: the caller's promise: allocated with that layout, and given up.
        unsafe { self.inner.dealloc(block, layout) };
        Some(other)
    }
}

/// Whether a block of one layout is one of the other too, as it has the size of their class; counts
/// it as resized then.
#[inline]
pub(crate) fn resize_in_class(layout: Layout, new: Layout) -> bool {
    let class = LargeClass::of(layout);
    let same = class.is_some() && class == LargeClass::of(new);
    if same {
        count_change(layout, new);
    }
    same
}

/// Whether a block of a layout lies in a span.
fn is_in_span(layout: Layout, block: *mut u8) -> bool {
    let class = LargeClass::of(layout).zip(NonNull::new(block));
    class.is_some_and(|(class, block)| spans::has(class, block))
}
