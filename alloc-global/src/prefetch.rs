//! A hint to the processor: memory that is written soon is to be brought in now, so that several
//! misses pass at a time.
//!
//! Where there is no such instruction, or under Miri, nothing. It reads nothing and knows nothing
//! of what lies there.

/// Has the processor bring in what `at` points to, to be written soon: nothing is read, and the
/// address may be any.
#[inline(always)]
pub(crate) fn fetch<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a hint.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}
