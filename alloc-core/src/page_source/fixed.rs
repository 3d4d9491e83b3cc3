//! One fixed slice of memory as a page source: for tests, and where there is no system to ask.
//!
//! Mapped ranges are cut off the front (first fit by bump); only a range given back last is
//! reused. It does not coalesce: a test that needs more maps a larger slice.

use super::PageSource;
use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// Hands out parts of one slice, which it borrows for as long as it lives.
///
/// Invariants: 1. bytes before `next` are handed out or skipped, bytes from it on are not;
/// 2. bytes from `next` on are zero.
///
/// ```
/// use alloc_core::{FixedPages, PageSource};
/// let mut memory = vec![0u8; 1 << 20];
/// let pages = FixedPages::new(&mut memory);
/// assert!(pages.map(4096, 4096).is_some());
/// assert!(pages.map(2 << 20, 4096).is_none());
/// ```
#[derive(Debug)]
pub struct FixedPages<'a> {
    start: NonNull<u8>,
    len: usize,
    next: Cell<usize>,
    slice: PhantomData<&'a mut [u8]>,
}

impl<'a> FixedPages<'a> {
    /// A source of the pages of `slice`, which it clears. Costs a pass over the slice.
    pub fn new(slice: &'a mut [u8]) -> Self {
        slice.fill(0);
        let len = slice.len();
        let start = NonNull::from(slice).cast();
        FixedPages { start, len, next: Cell::new(0), slice: PhantomData }
    }

    /// Bytes not handed out yet.
    pub fn remaining(&self) -> usize {
        self.len - self.next.get()
    }
}

// SAFETY: 1: ranges are cut off the slice, each byte once (invariant 1), zero (invariant 2, kept
// by `unmap` and `purge`, which clear). 3: arithmetic only.
unsafe impl PageSource for FixedPages<'_> {
    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        let next = self.next.get();
        let address = self.start.addr().get().checked_add(next)?;
        let skip = address.wrapping_neg() & (align - 1);
        let offset = next.checked_add(skip)?;
        let end = offset.checked_add(len)?;
        if end > self.len {
            return None;
        }
        self.next.set(end);
        // SAFETY: `offset <= end <= self.len`.
        Some(unsafe { self.start.add(offset) })
    }

    unsafe fn unmap(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the caller's range lies in the slice and is no longer used.
        unsafe { start.write_bytes(0, len) };
        let offset = start.addr().get() - self.start.addr().get();
        if offset + len == self.next.get() {
            self.next.set(offset);
        }
    }

    unsafe fn purge(&self, start: NonNull<u8>, len: usize) -> bool {
        // SAFETY: the caller's range lies in the slice; its content is given up.
        unsafe { start.write_bytes(0, len) };
        true
    }
}
