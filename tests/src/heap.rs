//! A private heap as the memory that programs run on.
//!
//! Null stands for no more memory. It does not verify the heap: who runs a program passes that in.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use alloc_core::{Heap, PageSource};

/// A heap, called as a global allocator would be.
#[derive(Debug)]
pub struct Memory<'a, S: PageSource>(pub &'a Heap<S>);

impl<S: PageSource> Clone for Memory<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S: PageSource> Copy for Memory<'_, S> {}

// SAFETY: blocks come from the heap, which outlives the borrow, and go back to it with the layout
// they were asked with.
unsafe impl<S: PageSource> GlobalAlloc for Memory<'_, S> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.alloc(layout).map_or(std::ptr::null_mut(), NonNull::as_ptr)
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let block = NonNull::new(block).expect("a block");
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(block, layout) }
    }
}
