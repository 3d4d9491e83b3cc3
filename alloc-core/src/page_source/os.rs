//! Anonymous private mappings of the operating system.
//!
//! Alignment beyond a page is got by mapping `len + align` and giving both ends back; neighbouring
//! mappings of the same kind are merged by the kernel, so a growing heap stays few mappings.
//! `errno` is left as it was: a program may look at it after code that allocates.
//!
//! It does not count or remember mappings.

#[cfg(not(miri))]
use super::PageSource;
#[cfg(not(miri))]
use crate::errno::keeping_errno;
#[cfg(not(miri))]
use crate::layout_math::PAGE_SIZE;
use core::ptr::NonNull;

/// As in the kernel's headers, the same on every architecture; the libc crate has it for glibc only.
#[cfg(all(target_os = "linux", not(miri)))]
const MADV_COLLAPSE: libc::c_int = 25;

#[cfg(not(unix))]
compile_error!("alloc-core: OsPages needs a Unix; port src/page_source/os.rs to this platform");

/// Pages from `mmap`, given back by `munmap`, purged by `madvise(MADV_DONTNEED)`.
///
/// ```
/// use alloc_core::{OsPages, PageSource};
/// let pages = OsPages.map(1 << 20, 1 << 20).expect("a mebibyte");
/// assert_eq!(pages.addr().get() % (1 << 20), 0);
/// // SAFETY: mapped above, used by nothing.
/// unsafe { OsPages.unmap(pages, 1 << 20) };
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct OsPages;

impl OsPages {
    /// Asks that the memory around a block of whatever mapping be backed by huge pages: `len` bytes
    /// from `start` on, and what else lies in their first and last page. A hint that changes no
    /// contents; ignored where it does not apply.
    pub fn advise_huge_around(start: NonNull<u8>, len: usize) {
        #[cfg(all(target_os = "linux", not(miri)))]
        {
            let before = start.addr().get() % PAGE_SIZE;
            let Some(len) = len.checked_add(before) else { return };
            let page = start.as_ptr().wrapping_sub(before);
            // SAFETY: a hint; the kernel checks the range itself.
            keeping_errno(|| unsafe {
                libc::madvise(page.cast(), len, libc::MADV_HUGEPAGE);
            });
        }
        #[cfg(not(all(target_os = "linux", not(miri))))]
        let _ = (start, len);
    }

    /// Makes a huge page of the `len` bytes from `start` on, whatever of them is resident. What they
    /// read as stays. A hint, from Linux 6.1 on; it copies what is resident.
    pub fn collapse(start: NonNull<u8>, len: usize) {
        #[cfg(all(target_os = "linux", not(miri)))]
        // SAFETY: changes no contents; the kernel checks the range itself.
        keeping_errno(|| unsafe {
            libc::madvise(start.as_ptr().cast(), len, MADV_COLLAPSE);
        });
        #[cfg(not(all(target_os = "linux", not(miri))))]
        let _ = (start, len);
    }

    /// Makes the page at `start` resident, and the whole huge page if it is to be part of one. What
    /// it reads as stays. A hint, from Linux 5.14 on.
    pub fn populate(start: NonNull<u8>) {
        #[cfg(all(target_os = "linux", not(miri)))]
        // SAFETY: changes no contents; the kernel checks the address itself.
        keeping_errno(|| unsafe {
            libc::madvise(start.as_ptr().cast(), PAGE_SIZE, libc::MADV_POPULATE_WRITE);
        });
        #[cfg(not(all(target_os = "linux", not(miri))))]
        let _ = start;
    }
}

#[cfg(not(miri))]
fn map_pages(len: usize) -> Option<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: asks for a new mapping and touches no existing one.
    let address = unsafe { libc::mmap(core::ptr::null_mut(), len, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { None } else { NonNull::new(address.cast()) }
}

/// # Safety
///
/// The pages are the caller's, and nothing uses them.
#[cfg(not(miri))]
unsafe fn unmap_pages(start: NonNull<u8>, len: usize) {
    if len > 0 {
        // SAFETY: the caller's promise.
        unsafe { libc::munmap(start.as_ptr().cast(), len) };
    }
}

// SAFETY: 1: a new anonymous private mapping is exclusive and zero; the part that is kept is
// aligned by construction. 2: MADV_DONTNEED on such a mapping makes it read as zero.
// 3: system calls only.
#[cfg(not(miri))]
unsafe impl PageSource for OsPages {
    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        // What is cut off below is told by its bits.
        if !align.is_power_of_two() {
            return None;
        }
        keeping_errno(|| {
            let start = map_pages(len)?;
            if start.addr().get().is_multiple_of(align) {
                return Some(start);
            }
            // SAFETY: mapped just now, used by nothing.
            unsafe { unmap_pages(start, len) };
            let total = len.checked_add(align)?;
            let start = map_pages(total)?;
            let head = start.addr().get().wrapping_neg() & (align - 1);
            // SAFETY: `head < align`, so the result lies in the mapping.
            let aligned = unsafe { start.add(head) };
            // SAFETY: `head + len <= total`: at most one past the end.
            let tail = unsafe { aligned.add(len) };
            // SAFETY: the part before `aligned` of the mapping made above.
            unsafe { unmap_pages(start, head) };
            // SAFETY: the part after `aligned + len` of the mapping made above.
            unsafe { unmap_pages(tail, align - head) };
            Some(aligned)
        })
    }

    unsafe fn unmap(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the caller's promise.
        keeping_errno(|| unsafe { unmap_pages(start, len) });
    }

    unsafe fn purge(&self, start: NonNull<u8>, len: usize) -> bool {
        // SAFETY: the caller gives up what the pages hold.
        keeping_errno(|| unsafe {
            libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTNEED) == 0
        })
    }

    unsafe fn advise_huge(&self, start: NonNull<u8>, len: usize) {
        #[cfg(target_os = "linux")]
        // SAFETY: the caller's promise.
        unsafe {
            advise(start, len, libc::MADV_HUGEPAGE);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (start, len);
    }

    unsafe fn advise_small(&self, start: NonNull<u8>, len: usize) {
        #[cfg(target_os = "linux")]
        // SAFETY: the caller's promise.
        unsafe {
            advise(start, len, libc::MADV_NOHUGEPAGE);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (start, len);
    }
}

/// # Safety
///
/// The pages are the caller's; `advice` leaves what they hold.
#[cfg(all(target_os = "linux", not(miri)))]
unsafe fn advise(start: NonNull<u8>, len: usize, advice: libc::c_int) {
    // SAFETY: a hint about pages that are the caller's.
    keeping_errno(|| unsafe {
        libc::madvise(start.as_ptr().cast(), len, advice);
    });
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_aligned_zero_writable_and_zero_again_after_a_purge() {
        for shift in 12..=26 {
            let align = 1usize << shift;
            let len = 3 << 20;
            let start = OsPages.map(len, align).unwrap();
            assert!(start.addr().get().is_multiple_of(align));
            // SAFETY: just mapped, `len` bytes, exclusive.
            let bytes = unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) };
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(7);
            // SAFETY: mapped above.
            assert!(unsafe { OsPages.purge(start, len) });
            // SAFETY: still mapped.
            let bytes = unsafe { core::slice::from_raw_parts(start.as_ptr(), len) };
            assert!(bytes.iter().all(|&byte| byte == 0));
            // SAFETY: mapped above, not used again.
            unsafe { OsPages.unmap(start, len) };
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_none_and_errno_stays() {
        // SAFETY: always callable.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: valid for this thread.
        unsafe { errno.write(77) };
        assert!(OsPages.map(1 << 60, 1 << 20).is_none());
        assert!(OsPages.map(usize::MAX & !4095, 4096).is_none());
        for align in [0, 3 << 20] {
            assert!(OsPages.map(1 << 20, align).is_none(), "{align} is no power of two");
        }
        // SAFETY: valid for this thread.
        assert_eq!(unsafe { errno.read() }, 77);
    }
}
