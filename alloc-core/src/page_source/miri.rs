//! [`OsPages`] for Miri, which knows no mappings aligned beyond a page: blocks of the C library.
//!
//! Ranges go back as they came, whole: the arenas ask for nothing else.

use super::{OsPages, PageSource};
use core::ptr::NonNull;

// SAFETY: 1: a block of the C library is exclusive and aligned as asked for; it is zeroed here. 2:
// `purge` writes zeros. 3: calls the C library only.
unsafe impl PageSource for OsPages {
    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        // Miri ends where the machine that it runs on has no more.
        if len > 1 << 30 || align > 1 << 30 || !align.is_power_of_two() {
            return None;
        }
        let mut start = core::ptr::null_mut();
        // SAFETY: writes to a place that is ours.
        let failed = unsafe { libc::posix_memalign(&raw mut start, align, len) } != 0;
        let start = NonNull::new(start.cast::<u8>()).filter(|_| !failed)?;
        // SAFETY: a block of that length, ours.
        unsafe { start.write_bytes(0, len) };
        Some(start)
    }

    unsafe fn unmap(&self, start: NonNull<u8>, len: usize) {
        let _ = len;
        // SAFETY: from `map`, which has it from the C library; nobody uses it any more.
        unsafe { libc::free(start.as_ptr().cast()) };
    }

    unsafe fn purge(&self, start: NonNull<u8>, len: usize) -> bool {
        // SAFETY: the caller gives up what the pages hold.
        unsafe { start.write_bytes(0, len) };
        true
    }
}
