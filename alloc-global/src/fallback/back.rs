//! What is kept for reuse goes back: on request, and because memory is short.
//!
//! It does not say what goes back when nobody asks: that is `purge`.

use crate::visit::flush_others;
use crate::{depot, glibc_heap, shared, spans, thread};

/// Gives back what is kept for reuse, because the system refused. Whether it is worth asking again.
#[cold]
pub(crate) fn make_room() -> bool {
    let shorter = glibc_heap::stay_short();
    let bytes = give_all_back();
    trim_system() || bytes > 0 || shorter
}

/// Gives back what is kept for reuse, of pools and of the fallback's blocks. Returns the bytes that
/// the system and the fallback got.
pub(crate) fn give_all_back() -> usize {
    glibc_heap::trimming(|| {
        // Caches first: their blocks may be all that is out of a pool or a span.
        let kept = thread::flush() + flush_others() + depot::flush();
        kept + shared::trim() + spans::drain() + spans::purge(true).0
    })
}

/// The same for the pools' sake: gives back what is kept of blocks above 512 bytes.
#[cold]
pub(crate) fn make_room_above() {
    glibc_heap::stay_short();
    thread::flush_large();
    flush_others();
    depot::flush();
    spans::drain();
    spans::purge(true);
    trim_system();
}

/// Asks the system allocator to give its free memory back, where it has a call for that.
/// Returns whether it gave any.
pub(crate) fn trim_system() -> bool {
    glibc_heap::trim_own();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: always callable; it touches free memory of the system allocator only.
    let gave = alloc_core::keeping_errno(|| unsafe { libc::malloc_trim(0) } == 1);
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let gave = false;
    glibc_heap::look_again();
    gave
}
