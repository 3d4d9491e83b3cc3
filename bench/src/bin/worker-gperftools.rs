//! Runs one workload on gperftools' tcmalloc, the system's library.
//!
//! The whole binding: four functions of its C interface. Requests of at most `MALLOC_ALIGN` go
//! the short way; sizes are passed back on free, which saves the library a look-up.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

/// What `tc_malloc` aligns every block of at least this size to, on 64-bit targets.
const MALLOC_ALIGN: usize = 16;

#[link(name = "tcmalloc_minimal")]
unsafe extern "C" {
    fn tc_malloc(size: usize) -> *mut c_void;
    fn tc_memalign(align: usize, size: usize) -> *mut c_void;
    fn tc_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    fn tc_free(block: *mut c_void);
    fn tc_free_sized(block: *mut c_void, size: usize);
}

struct Gperftools;

/// Whether `tc_malloc` aligns enough: a block of n bytes is aligned to the largest power of two
/// in n, at most `MALLOC_ALIGN`.
fn plain(layout: Layout) -> bool {
    layout.align() <= MALLOC_ALIGN && layout.align() <= layout.size()
}

// SAFETY: blocks come from `tc_malloc` or `tc_memalign`, which return null or a block of at least
// the size and alignment asked for that no other live block overlaps; none of them unwinds.
unsafe impl GlobalAlloc for Gperftools {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if plain(layout) {
            // SAFETY: any size may be asked for.
            unsafe { tc_malloc(layout.size()) }.cast()
        } else {
            // SAFETY: `Layout` keeps the alignment a power of two; `GlobalAlloc` the size above 0.
            unsafe { tc_memalign(layout.align(), layout.size()) }.cast()
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if plain(layout) {
            // SAFETY: `alloc` or `realloc` made it with `layout`, by this same test with
            // `tc_malloc` or `tc_realloc` of that size.
            unsafe { tc_free_sized(block.cast(), layout.size()) }
        } else {
            // SAFETY: made by `tc_memalign`, and not freed since.
            unsafe { tc_free(block.cast()) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if plain(layout) && layout.align() <= size {
            // SAFETY: the block is this library's; a plain layout stays plain at the new size.
            return unsafe { tc_realloc(block.cast(), size) }.cast();
        }
        // SAFETY: the caller of `realloc` vouches that `size` does not overflow when rounded up.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: `realloc` is never called with size 0.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both blocks hold the lesser of the sizes and do not overlap.
            unsafe { moved.copy_from_nonoverlapping(block, layout.size().min(size)) };
            // SAFETY: the caller gives up `block`, allocated with `layout`.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[global_allocator]
static ALLOC: Gperftools = Gperftools;

fn main() -> std::process::ExitCode {
    bench::worker::main(None)
}
