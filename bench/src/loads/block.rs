//! One raw block of the global allocator, as a C program holds it: a single pointer.
//!
//! ```text
//!   Block ──► 0        4        8                    size
//!             ┌────────┬────────┬─────── ─ ─ ────────┐
//!             │ size   │ tag    │ not initialised    │   align 8, size >= 8
//!             └────────┴────────┴─────── ─ ─ ────────┘
//! ```
//!
//! The head is written on allocation and read before the free, as real programs touch what they
//! allocate. Holding the size in the block keeps a table of a million blocks at 8 bytes each.
//!
//! Invariants of a [`Block`]:
//! 1. `at` came from the global allocator with `Layout(size, 8)`, `size >= 8`, and was not freed.
//! 2. The head is initialised and its `size` is that size; nothing writes it again.
//! 3. No other `Block` has the same `at`.
//!
//! It does not zero memory and does not give out the uninitialised part.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::mem::offset_of;
use std::ptr::NonNull;

/// The smallest size of a [`Block`], in bytes.
pub(crate) const MIN_SIZE: usize = size_of::<Head>();

/// First eight bytes of a block.
#[derive(Clone, Copy)]
#[repr(C)]
struct Head {
    size: u32,
    tag: u32,
}

const ALIGN: usize = 8;
const _: () = assert!(offset_of!(Head, size) == 0 && offset_of!(Head, tag) == 4);
const _: () = assert!(MIN_SIZE == 8 && align_of::<Head>() <= ALIGN);
const _: () = assert!(size_of::<Option<Block>>() == 8);

/// A block of the global allocator with its size and a tag in its first eight bytes.
#[derive(Debug)]
pub(crate) struct Block {
    at: NonNull<Head>,
}

// SAFETY: a block is owned by one `Block` (invariant 3), and global allocators free from any thread.
unsafe impl Send for Block {}

impl Block {
    /// Allocates `size` bytes (at least [`MIN_SIZE`], at most `u32::MAX`) and writes the head.
    pub(crate) fn new(size: usize, tag: u32) -> Self {
        assert!(size >= MIN_SIZE, "a block holds its head");
        let Ok(stored) = u32::try_from(size) else { panic!("a block of {size} bytes") };
        let Ok(layout) = Layout::from_size_align(size, ALIGN) else { panic!("{size} bytes") };
        // SAFETY: the layout's size is not zero: checked above.
        let at = unsafe { alloc(layout) };
        let Some(at) = NonNull::new(at.cast::<Head>()) else { handle_alloc_error(layout) };
        // SAFETY: `at` points to `size >= 8` fresh bytes of alignment 8.
        unsafe { at.write(Head { size: stored, tag }) };
        std::hint::black_box(&at);
        Block { at }
    }

    /// As [`Block::new`], and writes every byte behind the head.
    pub(crate) fn filled(size: usize, tag: u32) -> Self {
        let block = Self::new(size, tag);
        // SAFETY: a block has at least one head's bytes (invariant 1).
        let rest = unsafe { block.at.add(1) };
        // SAFETY: the block has `size` bytes (invariant 1), of which `MIN_SIZE` lie before `rest`.
        unsafe { rest.cast::<u8>().write_bytes(tag as u8, size - MIN_SIZE) };
        block
    }

    /// Size in bytes, as requested.
    pub(crate) fn size(&self) -> usize {
        self.head().size as usize
    }

    /// The tag it was made with and the size, in one number for checksums.
    pub(crate) fn mark(&self) -> u64 {
        let head = self.head();
        u64::from(head.tag) ^ (u64::from(head.size) << 32)
    }

    fn head(&self) -> Head {
        // SAFETY: the head is initialised (invariant 2) and lives as long as the block (1).
        unsafe { self.at.read() }
    }

    /// Frees the block and returns its [`mark`](Self::mark).
    pub(crate) fn free(self) -> u64 {
        self.mark()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let size = self.size();
        // SAFETY: `Block::new` built this very layout from the same size (invariant 2).
        let layout = unsafe { Layout::from_size_align_unchecked(size, ALIGN) };
        // SAFETY: allocated with this layout and not freed yet (invariant 1); nobody else frees it
        // (invariant 3).
        unsafe { dealloc(self.at.as_ptr().cast(), layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_size_and_tag_at_every_size() {
        for size in MIN_SIZE..2000 {
            let block = Block::filled(size, 77);
            assert_eq!(block.size(), size);
            assert_eq!(block.free(), 77 | (size as u64) << 32);
        }
    }

    #[test]
    #[should_panic = "holds its head"]
    fn a_block_smaller_than_its_head_is_refused() {
        drop(Block::new(MIN_SIZE - 1, 0));
    }
}
