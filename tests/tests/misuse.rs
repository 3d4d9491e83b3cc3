//! Breaches of `GlobalAlloc`'s contract that the default build names.
//!
//! A thread's cache takes any address; when its blocks go back to their pools (when it is full,
//! flushed, or its thread ends) each is held against its pool, and what cannot be is the end of the
//! process: one line, then SIGABRT. A block that was handed out again in between is not noticed,
//! and nothing is promised about it.

use std::hint::black_box;
use std::process::ExitCode;

use alloc_global::{PoolAlloc, memory, thread_flush, trim};
use tests::block::layout;
use tests::cases::{self, Case};
use tests::raw_thread;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn main() -> ExitCode {
    cases::main(&[
        Case::new("a_double_free_is_named_8_bytes", twice::<8>)
            .dies(libc::SIGABRT, "poolalloc: double free: block 0x* size 8"),
        Case::new("a_double_free_is_named_48_bytes", twice::<48>)
            .dies(libc::SIGABRT, "poolalloc: double free: block 0x* size 48"),
        Case::new("a_double_free_is_named_512_bytes", twice::<512>)
            .dies(libc::SIGABRT, "poolalloc: double free: block 0x* size 512"),
        Case::new("a_double_free_by_two_threads_is_named", by_two_threads)
            .dies(libc::SIGABRT, "poolalloc: double free: block 0x* size 104"),
        Case::new("a_size_of_another_class_is_named", wrong_size).dies(
            libc::SIGABRT,
            "poolalloc: free with another layout: block 0x* of size 48 size 64",
        ),
        Case::new("an_alignment_of_another_class_is_named", wrong_align).dies(
            libc::SIGABRT,
            "poolalloc: free with another layout: block 0x* of size 40 size 128",
        ),
        Case::new("a_double_free_is_named_1000_bytes_in_a_span", twice_in_span::<1000>)
            .dies(libc::SIGABRT, "poolalloc: double free: block 0x* size 1024"),
        Case::new("a_double_free_is_named_4096_bytes_in_a_span", twice_in_span::<4096>)
            .dies(libc::SIGABRT, "poolalloc: double free: block 0x* size 4096"),
        Case::new("a_double_free_by_two_threads_is_named_in_a_span", by_two_threads_in_span)
            .dies(libc::SIGABRT, "poolalloc: double free: block 0x* size 2048"),
        Case::new("a_size_of_another_class_is_named_in_a_span", wrong_size_in_span).dies(
            libc::SIGABRT,
            "poolalloc: free with another layout: block 0x* of size 1024 size 3072",
        ),
    ])
}

/// A new block of this size.
fn block(size: usize) -> *mut u8 {
    // SAFETY: no caller asks for size 0.
    let block = unsafe { std::alloc::alloc(layout(size, 8)) };
    assert!(!block.is_null());
    // A pair of calls that the compiler sees through is not made at all.
    black_box(block)
}

fn free(block: *mut u8, size: usize, align: usize) {
    // SAFETY: kept by the first call for a block; the second one, or a wrong layout, is what is tested: the
    // allocator promises to end the process, which is the last thing that each case does.
    unsafe { std::alloc::dealloc(block, layout(size, align)) };
}

/// A block of this size that lies in a span, with neighbours that keep it in use: after 4 MiB of
/// them they come from there.
fn block_in_span(size: usize) -> *mut u8 {
    drop(vec![1_u8; 1000]);
    let blocks: Vec<_> = (0..(4 << 20) / size).map(|_| block(size)).collect();
    assert!(memory().fallback_free > 0, "no span");
    blocks[blocks.len() - 2]
}

fn twice_in_span<const SIZE: usize>() {
    let block = block_in_span(SIZE);
    free(block, SIZE, 8);
    free(block, SIZE, 8);
    thread_flush();
}

fn by_two_threads_in_span() {
    let block = block_in_span(2000);
    free(block, 2000, 8);
    thread_flush();
    let address = block.expose_provenance();
    raw_thread::run(1, &|_| free(std::ptr::with_exposed_provenance_mut(address), 2000, 8));
    // It may be on its way to this thread, which asked for such.
    trim();
}

fn wrong_size_in_span() {
    free(block_in_span(1000), 3000, 16);
    thread_flush();
}

fn twice<const SIZE: usize>() {
    // A neighbour keeps the pool in use.
    let (_neighbour, block) = (block(SIZE), block(SIZE));
    free(block, SIZE, 8);
    free(block, SIZE, 8);
    thread_flush();
}

fn by_two_threads() {
    let (_neighbour, block) = (block(104), block(104));
    free(block, 104, 8);
    thread_flush();
    let address = block.expose_provenance();
    raw_thread::run(1, &|_| free(std::ptr::with_exposed_provenance_mut(address), 104, 8));
}

fn wrong_size() {
    let (_neighbour, block) = (block(48), block(48));
    free(block, 64, 8);
    thread_flush();
}

fn wrong_align() {
    let (_neighbour, block) = (block(40), block(40));
    free(block, 40, 128);
    thread_flush();
}
