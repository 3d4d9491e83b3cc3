//! A page source that refuses chosen requests: to prove that running out of memory is survived.
//!
//! No memory of its own: what it grants comes from the source behind it.

use super::PageSource;
use crate::layout_math::PAGE_SIZE;
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
    purges: bool,
}

impl<S: PageSource> FailingPages<S> {
    /// Refuses `count` requests from number `first` on, counted from 0.
    pub fn new(source: S, first: usize, count: usize) -> Self {
        let (requests, mapped) = (Cell::new(0), Cell::new(0));
        FailingPages { source, first, count, requests, mapped, purges: true }
    }

    /// Refuses every purge as well, each after the first half of the range was given back: as a
    /// system does that finds locked memory half way.
    pub fn refusing_purges(self) -> Self {
        FailingPages { purges: false, ..self }
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
        let half = (len / 2).next_multiple_of(PAGE_SIZE).min(len);
        // SAFETY: the caller's promise; all ranges come from the source behind.
        let done = unsafe { self.source.purge(start, if self.purges { len } else { half }) };
        self.purges && done
    }

    unsafe fn advise_huge(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the caller's promise; all ranges come from the source behind.
        unsafe { self.source.advise_huge(start, len) }
    }
}
