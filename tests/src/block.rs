//! One owned block: the layout it was asked with, and bytes that can be checked.
//!
//! Byte `i` of a block tagged `t` belongs to the word `t + (i / 8) * STEP`. The pattern depends on
//! the position, so a copy that is shifted, cut short or taken from a neighbour is noticed; it does
//! not depend on the block's length, so the part that survives a `realloc` is already right.
//!
//! Invariants of a [`Block`]:
//! 1. `start` came from `memory` for `layout` and was not given back.
//! 2. All `layout.size()` bytes were written with the pattern of `tag`.
//!
//! What it does not do: notice two blocks that overlap before one of them is checked.
//! [`crate::program`] does.

use std::alloc::{GlobalAlloc, Layout};
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Difference of neighbouring words of the pattern: odd, and no two of its bytes are alike.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The allocator of this process, whichever the binary named.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

// SAFETY: forwards to the process's global allocator, which keeps the contract.
unsafe impl GlobalAlloc for Process {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { std::alloc::alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { std::alloc::dealloc(ptr, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { std::alloc::alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { std::alloc::realloc(ptr, layout, new_size) }
    }
}

/// A block of `memory`, checked and given back when dropped.
pub struct Block<A: GlobalAlloc + Copy = Process> {
    start: NonNull<u8>,
    layout: Layout,
    tag: u64,
    memory: A,
}

// SAFETY: a block is plain bytes with one owner; `GlobalAlloc` lets any thread give it back if it
// may be called there.
unsafe impl<A: GlobalAlloc + Copy + Send> Send for Block<A> {}

// SAFETY: shared access only reads the bytes.
unsafe impl<A: GlobalAlloc + Copy + Sync> Sync for Block<A> {}

impl<A: GlobalAlloc + Copy> fmt::Debug for Block<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes aligned {} at {:p}",
            self.layout.size(),
            self.layout.align(),
            self.start
        )
    }
}

impl Block<Process> {
    /// A block of the process's allocator, filled with the pattern of `tag`; None when it answers null.
    ///
    /// # Panics
    /// If `size` is 0, `align` is no power of two, or the block is not aligned.
    pub fn new(size: usize, align: usize, tag: u64) -> Option<Self> {
        Block::alloc(Process, layout(size, align), tag)
    }
}

impl<A: GlobalAlloc + Copy> Block<A> {
    /// A block of `memory`, filled; None when it answers null.
    ///
    /// # Panics
    /// If the layout has no size, or the block is not aligned.
    pub fn alloc(memory: A, layout: Layout, tag: u64) -> Option<Self> {
        assert!(layout.size() > 0, "the trait does not allow a layout without size");
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { memory.alloc(layout) })?;
        Some(Block::fresh(memory, start, layout, tag))
    }

    /// A block of `memory` that must read as zeroes, then filled; None when it answers null.
    ///
    /// # Panics
    /// As [`Block::alloc`], and if a byte is not zero.
    pub fn zeroed(memory: A, layout: Layout, tag: u64) -> Option<Self> {
        assert!(layout.size() > 0, "the trait does not allow a layout without size");
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { memory.alloc_zeroed(layout) })?;
        // SAFETY: `alloc_zeroed` hands out `size` initialised bytes that nobody else has.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), layout.size()) };
        if let Some(at) = bytes.iter().position(|&byte| byte != 0) {
            panic!("byte {at} of a zeroed block of {layout:?} is {:#04x}", bytes[at]);
        }
        Some(Block::fresh(memory, start, layout, tag))
    }

    /// Establishes both invariants.
    fn fresh(memory: A, start: NonNull<u8>, layout: Layout, tag: u64) -> Self {
        let mut block = Block { start, layout, tag, memory };
        block.assert_aligned();
        block.fill_from(0);
        block
    }

    /// Changes the size with one `realloc`; false, and the block as it was, when the allocator
    /// answers null.
    ///
    /// # Panics
    /// If `size` is 0, the bytes that both sizes share were not kept, or the block is not aligned.
    pub fn resize(&mut self, size: usize) -> bool {
        let old = self.layout;
        let new = layout(size, old.align());
        assert!(size > 0, "the trait does not allow a layout without size");
        // SAFETY: invariant 1; `layout` checked that the new size, rounded up, fits isize.
        let moved = unsafe { self.memory.realloc(self.start.as_ptr(), old, size) };
        let Some(start) = NonNull::new(moved) else {
            self.verify();
            return false;
        };
        self.start = start;
        self.layout = new;
        self.assert_aligned();
        let kept = old.size().min(size);
        if let Some(at) = damage(self.prefix(kept), self.tag) {
            panic!("byte {at} was not kept by realloc of {old:?} to {size} bytes");
        }
        // Whole words only: the word that the old end cuts is written again.
        self.fill_from(kept - kept % 8);
        true
    }

    /// Address of the first byte.
    pub fn addr(&self) -> usize {
        self.start.addr().get()
    }

    /// The layout it was asked with, or resized to.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// True when every byte still is what was written.
    pub fn intact(&self) -> bool {
        damage(self.prefix(self.layout.size()), self.tag).is_none()
    }

    /// Checks every byte.
    ///
    /// # Panics
    /// If one was changed.
    pub fn verify(&self) {
        if let Some(at) = damage(self.prefix(self.layout.size()), self.tag) {
            panic!("byte {at} of {self:?} was changed by somebody else");
        }
    }

    /// Keeps the block for ever.
    pub fn leak(self) {
        std::mem::forget(self);
    }

    fn assert_aligned(&self) {
        let align = self.layout.align();
        assert!(self.addr().is_multiple_of(align), "{self:?} is not aligned");
    }

    /// The first `len` bytes, which must be filled.
    fn prefix(&self, len: usize) -> &[u8] {
        // SAFETY: invariants 1 and 2: `len` is at most the filled size in every caller, and the
        // block has one owner.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), len) }
    }

    /// Writes the pattern from byte `from`, a multiple of 8, to the end: invariant 2.
    fn fill_from(&mut self, from: usize) {
        // SAFETY: invariant 1; `from` is at most the size.
        let start = unsafe { self.start.add(from) }.cast::<MaybeUninit<u8>>();
        // SAFETY: invariant 1: the rest of the block is ours alone, and MaybeUninit needs no
        // initialised bytes.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.layout.size() - from) };
        let mut word = word_at(self.tag, from / 8);
        let (words, tail) = bytes.as_chunks_mut::<8>();
        for chunk in words {
            *chunk = word.to_le_bytes().map(MaybeUninit::new);
            word = word.wrapping_add(STEP);
        }
        for (byte, value) in tail.iter_mut().zip(word.to_le_bytes()) {
            byte.write(value);
        }
    }
}

impl<A: GlobalAlloc + Copy> Drop for Block<A> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.verify();
        }
        // SAFETY: invariant 1, and the block is not used again.
        unsafe { self.memory.dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// A layout that is known to be valid.
///
/// # Panics
/// If `align` is no power of two or the size overflows.
pub fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a valid layout")
}

fn word_at(tag: u64, index: usize) -> u64 {
    tag.wrapping_add((index as u64).wrapping_mul(STEP))
}

/// First byte that is not what `tag` says.
fn damage(bytes: &[u8], tag: u64) -> Option<usize> {
    let mut word = word_at(tag, 0);
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, chunk) in words.iter().enumerate() {
        let expected = word.to_le_bytes();
        if *chunk != expected {
            let byte = (0..8).find(|&byte| chunk[byte] != expected[byte]).unwrap_or(0);
            return Some(index * 8 + byte);
        }
        word = word.wrapping_add(STEP);
    }
    let expected = word.to_le_bytes();
    tail.iter()
        .zip(expected)
        .position(|(&byte, expected)| byte != expected)
        .map(|at| words.len() * 8 + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found_at_its_place() {
        for size in [1, 7, 8, 9, 64, 100] {
            let block = Block::new(size, 8, 77).expect("memory");
            let mut copy = block.prefix(size).to_vec();
            assert_eq!(damage(&copy, 77), None);
            for at in 0..size {
                copy[at] ^= 1;
                assert_eq!(damage(&copy, 77), Some(at));
                copy[at] ^= 1;
            }
        }
    }

    #[test]
    fn a_shifted_or_foreign_copy_is_found() {
        let block = Block::new(64, 8, 5).expect("memory");
        let bytes = block.prefix(64);
        assert!(damage(&bytes[8..], 5).is_some());
        assert!(damage(bytes, 6).is_some());
    }
}
