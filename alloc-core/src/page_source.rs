//! Where pages come from and go back to.
//!
//! [`PageSource`] is the only door to the system below the arenas. [`OsPages`] maps anonymous
//! memory; [`FixedPages`] hands out one fixed slice and [`FailingPages`] refuses the n-th request,
//! both for tests and for machines without a system.
//!
//! It does not keep track of what it handed out: the arenas do.

mod failing;
mod fixed;
#[cfg(miri)]
mod miri;
mod os;

pub use failing::FailingPages;
pub use fixed::FixedPages;
pub use os::OsPages;

use core::ptr::NonNull;

/// A source of zeroed, page-aligned memory.
///
/// # Safety
///
/// An implementation promises:
///
/// 1. `map` returns memory that nothing else uses until `unmap`, readable and writable, aligned as
///    asked, and all zero.
/// 2. After `purge` the range stays mapped and reads as zero, unless it returned `false`: then each
///    of its pages reads as zero or is untouched.
/// 3. No method panics or allocates from a heap that lies above it.
pub unsafe trait PageSource {
    /// Maps `len` bytes (a multiple of the page size) at a multiple of `align`, a power of two of
    /// at least a page. `None` where there is no more, or `align` is none.
    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>>;

    /// Gives a range back.
    ///
    /// # Safety
    ///
    /// `start` and `len` name pages that came from `map` of the same source; nothing uses
    /// them any more. Whole mappings and whole parts of them may be given back.
    unsafe fn unmap(&self, start: NonNull<u8>, len: usize);

    /// Gives the memory behind a range back, keeping its addresses. Returns whether it did.
    ///
    /// # Safety
    ///
    /// As for `unmap`, except that the range may be used again, as zeroed memory.
    unsafe fn purge(&self, start: NonNull<u8>, len: usize) -> bool;

    /// Asks that a range be backed by huge pages. A hint: it may do nothing, which is the default.
    ///
    /// # Safety
    ///
    /// The range came from `map` of the same source and was not given back.
    unsafe fn advise_huge(&self, start: NonNull<u8>, len: usize) {
        let _ = (start, len);
    }

    /// Takes back what `advise_huge` asked for. A hint: it may do nothing, which is the default.
    ///
    /// # Safety
    ///
    /// As for `advise_huge`.
    unsafe fn advise_small(&self, start: NonNull<u8>, len: usize) {
        let _ = (start, len);
    }
}

// SAFETY: forwards every method to a source that keeps the contract.
unsafe impl<S: PageSource + ?Sized> PageSource for &S {
    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        (**self).map(len, align)
    }
    unsafe fn unmap(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { (**self).unmap(start, len) }
    }
    unsafe fn purge(&self, start: NonNull<u8>, len: usize) -> bool {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { (**self).purge(start, len) }
    }
    unsafe fn advise_huge(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { (**self).advise_huge(start, len) }
    }
    unsafe fn advise_small(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { (**self).advise_small(start, len) }
    }
}
