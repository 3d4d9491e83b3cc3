//! A page source that refuses chosen requests: to prove that running out of memory is survived.
//!
//! No memory of its own: what it grants comes from the source behind it.

use super::PageSource;
use core::cell::Cell;
use core::ptr::NonNull;

/// Passes requests on, except a run of them that it refuses.
///
/// ```
/// use alloc_core::{FailingPages, OsPages, PageSource};
/// let pages = FailingPages::new(OsPages, 1, 1); // the second request fails
/// let first = pages.map(4096, 4096).unwrap();
/// assert!(pages.map(4096, 4096).is_none());
/// # // SAFETY: mapped above, used by nothing.
/// # unsafe { pages.unmap(first, 4096) };
/// assert_eq!(pages.requests(), 2);
/// ```
#[derive(Debug)]
pub struct FailingPages<S> {
    source: S,
    first: usize,
    count: usize,
    requests: Cell<usize>,
    mapped: Cell<usize>,
}

impl<S: PageSource> FailingPages<S> {
    /// Refuses `count` requests from number `first` on, counted from 0.
    pub fn new(source: S, first: usize, count: usize) -> Self {
        FailingPages { source, first, count, requests: Cell::new(0), mapped: Cell::new(0) }
    }

    /// Requests so far, refused ones among them.
    pub fn requests(&self) -> usize {
        self.requests.get()
    }

    /// Bytes granted and not given back: 0 at the end shows that nothing leaked.
    pub fn mapped_bytes(&self) -> usize {
        self.mapped.get()
    }
}

// SAFETY: everything granted comes from a source that keeps the contract.
unsafe impl<S: PageSource> PageSource for FailingPages<S> {
    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        let number = self.requests.replace(self.requests.get() + 1);
        if number >= self.first && number - self.first < self.count {
            return None;
        }
        let start = self.source.map(len, align)?;
        self.mapped.set(self.mapped.get() + len);
        Some(start)
    }

    unsafe fn unmap(&self, start: NonNull<u8>, len: usize) {
        self.mapped.set(self.mapped.get() - len);
        // SAFETY: the caller's promise; all ranges come from the source behind.
        unsafe { self.source.unmap(start, len) }
    }

    unsafe fn purge(&self, start: NonNull<u8>, len: usize) -> bool {
        // SAFETY: the caller's promise; all ranges come from the source behind.
        unsafe { self.source.purge(start, len) }
    }

    unsafe fn advise_huge(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the caller's promise; all ranges come from the source behind.
        unsafe { self.source.advise_huge(start, len) }
    }
}
