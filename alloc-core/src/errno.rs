//! The error number of the C library, left alone.
//!
//! A program may look at `errno` after code of its own that allocates in between; so what an
//! allocator asks the system must not show there. It does not say what went wrong: who asks the
//! system looks at what it returns.

/// Runs `f` and puts `errno` back to what it was before.
///
/// ```
/// let pages = alloc_core::keeping_errno(|| alloc_core::PageSource::map(&alloc_core::OsPages, 1 << 60, 4096));
/// assert!(pages.is_none());
/// ```
pub fn keeping_errno<T>(f: impl FnOnce() -> T) -> T {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        // SAFETY: always callable; the pointer is valid for the life of the thread.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: valid, see above.
        let before = unsafe { errno.read() };
        let result = f();
        // SAFETY: valid, see above.
        unsafe { errno.write(before) };
        result
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    f()
}
