//! One fixed slice of memory as a page source: for tests, and where there is no system to ask.
//!
//! One bit per page says whether it is free; a range is the first run of free pages that fits. It does
//! not try to be fast.

use super::PageSource;
use crate::layout_math::PAGE_SIZE;
use core::cell::RefCell;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// Hands out parts of one slice, which it borrows for as long as it lives.
///
/// Invariants: 1. `used` has an element for each whole page of the slice, set while it is handed
/// out; 2. pages that are not handed out are zero.
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
    used: RefCell<Vec<bool>>,
    slice: PhantomData<&'a mut [u8]>,
}

impl<'a> FixedPages<'a> {
    /// A source of the whole pages in `slice`, which it clears. Costs a pass over the slice.
    pub fn new(slice: &'a mut [u8]) -> Self {
        slice.fill(0);
        let len = slice.len();
        let start: NonNull<u8> = NonNull::from(slice).cast();
        let skip = start.addr().get().wrapping_neg() & (PAGE_SIZE - 1);
        let pages = len.saturating_sub(skip) / PAGE_SIZE;
        // SAFETY: with a page left, `skip` lies in the slice; without one nothing is handed out.
        let start = if pages > 0 { unsafe { start.add(skip) } } else { start };
        FixedPages { start, used: RefCell::new(vec![false; pages]), slice: PhantomData }
    }

    /// Bytes not handed out.
    pub fn remaining(&self) -> usize {
        self.used.borrow().iter().filter(|used| !**used).count() * PAGE_SIZE
    }

    fn page(&self, address: NonNull<u8>) -> usize {
        (address.addr().get() - self.start.addr().get()) / PAGE_SIZE
    }
}

// SAFETY: 1: ranges are runs of pages marked as used from then on (invariant 1), zero (2, kept by
// `unmap` and `purge`, which clear). 3: the table of pages was allocated by `new`.
unsafe impl PageSource for FixedPages<'_> {
    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        if !align.is_power_of_two() {
            return None;
        }
        let mut used = self.used.borrow_mut();
        let pages = len.div_ceil(PAGE_SIZE);
        let base = self.start.addr().get();
        for first in 0..used.len() {
            let fits = (base + first * PAGE_SIZE).is_multiple_of(align);
            let Some(run) = used.get_mut(first..first.checked_add(pages)?) else { break };
            if fits && run.iter().all(|used| !used) {
                run.fill(true);
                // SAFETY: page `first` lies in the slice.
                return Some(unsafe { self.start.add(first * PAGE_SIZE) });
            }
        }
        None
    }

    unsafe fn unmap(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the caller's range lies in the slice and is no longer used.
        unsafe { start.write_bytes(0, len) };
        let first = self.page(start);
        self.used.borrow_mut()[first..first + len.div_ceil(PAGE_SIZE)].fill(false);
    }

    unsafe fn purge(&self, start: NonNull<u8>, len: usize) -> bool {
        // SAFETY: the caller's range lies in the slice; its content is given up.
        unsafe { start.write_bytes(0, len) };
        true
    }
}
