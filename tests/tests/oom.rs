//! When there is no memory: null, never a panic or an abort, and everything works again once memory
//! was freed.
//!
//! The limit is the kernel's own (RLIMIT_AS, 256 MiB), set in the process of each case. Blocks are
//! chained through their first words, so that a case needs no memory besides them; the walk over a
//! chain checks them. Requests near `isize::MAX` need no limit.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::process::ExitCode;
use std::ptr::{self, NonNull};

use alloc_global::{PoolAlloc, stats, trim};
use tests::block::{Block, Process, layout};
use tests::cases::{self, Case};
use tests::invariants;
use tests::process::limit_address_space;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

const LIMIT: u64 = 256 << 20;
const CYCLES: usize = 20;

fn main() -> ExitCode {
    cases::main(&[
        Case::new("small_blocks_fill_the_limit_twenty_times", fill::<128, 128>),
        Case::new("mixed_small_blocks_fill_the_limit_twenty_times", fill::<16, 512>),
        Case::new("blocks_above_512_bytes_fill_the_limit_twenty_times", fill::<600, 5_000>),
        Case::new(
            "blocks_of_a_mebibyte_fill_the_limit_twenty_times",
            fill::<{ 1 << 20 }, { 1 << 20 }>,
        ),
        Case::new("all_sizes_fill_the_limit_twenty_times", fill::<16, 40_000>),
        Case::new("freed_blocks_make_room_for_requests_of_any_other_size", another_size),
        Case::new("threads_fill_the_limit_together", together),
        Case::new("realloc_without_memory_keeps_the_block", growth),
        Case::new("a_small_request_is_served_when_a_large_one_is_not", small_after_large),
        Case::new("sizes_near_the_largest_are_null_or_valid_at_every_alignment", largest),
        Case::new("try_reserve_reports_and_the_program_goes_on", try_reserve),
    ])
}

/// Head of a block of a chain.
#[derive(Clone, Copy)]
struct Link {
    next: *mut Link,
    size: usize,
}

/// A chain of blocks of `FROM..=TO` bytes.
struct Chain {
    first: *mut Link,
    bytes: u64,
    rng: fastrand::Rng,
    sizes: (usize, usize),
}

impl Chain {
    fn new(sizes: (usize, usize), seed: u64) -> Chain {
        Chain { first: ptr::null_mut(), bytes: 0, rng: fastrand::Rng::with_seed(seed), sizes }
    }

    /// Adds blocks until the allocator answers null.
    fn fill(&mut self) {
        loop {
            let size = self.rng.usize(self.sizes.0..=self.sizes.1);
            // SAFETY: sizes are at least that of a link, so not zero.
            let block = unsafe { Process.alloc(layout(size, 8)) };
            if block.is_null() {
                return;
            }
            let link = block.cast::<Link>();
            // SAFETY: the block is ours, aligned to 8, and large enough for a link.
            unsafe { link.write(Link { next: self.first, size }) };
            // SAFETY: the last byte of the block.
            let last = unsafe { block.add(size - 1) };
            if size > size_of::<Link>() {
                // SAFETY: inside the block and behind the link.
                unsafe { last.write(size as u8) };
            }
            self.first = link;
            self.bytes += size as u64;
        }
    }

    /// Frees all; checks on the way that nobody wrote to a block.
    fn free(&mut self) {
        let mut bytes = 0;
        while !self.first.is_null() {
            // SAFETY: the chain holds blocks that `fill` wrote a link to.
            let link = unsafe { self.first.read() };
            let block = self.first.cast::<u8>();
            // SAFETY: `size` is what `fill` asked for.
            let last = unsafe { block.add(link.size - 1) };
            // SAFETY: `fill` wrote the whole link and the last byte.
            let byte = unsafe { last.read() };
            assert!(link.size == size_of::<Link>() || byte == link.size as u8, "block overwritten");
            // SAFETY: allocated by `fill` with this layout; taken off the chain.
            unsafe { Process.dealloc(block, layout(link.size, 8)) };
            bytes += link.size as u64;
            self.first = link.next;
        }
        assert_eq!(bytes, self.bytes, "the chain is not what was built");
        self.bytes = 0;
    }
}

fn fill<const FROM: usize, const TO: usize>() {
    limit_address_space(LIMIT);
    let before = stats();
    let mut chain = Chain::new((FROM, TO), 1);
    for cycle in 0..CYCLES {
        chain.fill();
        let share = chain.bytes * 100 / LIMIT;
        invariants().expect("invariants without memory");
        chain.free();
        assert!(share >= 80, "cycle {cycle}: null at {share} % of the limit");
        invariants().expect("invariants");
    }
    let after = stats();
    assert_eq!(after.live_blocks, before.live_blocks);
    assert_eq!(after.fallback_live_blocks, before.fallback_live_blocks);
}

/// Memory that pools or caches keep for reuse must not make another request fail.
fn another_size() {
    limit_address_space(LIMIT);
    for (from, to) in [(64, 64), (512, 512), (700, 5_000), (1 << 20, 1 << 20), (16, 40_000)] {
        let mut chain = Chain::new((from, to), 3);
        chain.fill();
        chain.free();
        for share in [60, 30] {
            let size = LIMIT as usize * share / 100;
            let block = Block::new(size, 8, 1);
            assert!(block.is_some(), "{share} % of the limit after blocks of {from} to {to} bytes");
        }
    }
    invariants().expect("invariants");
}

fn together() {
    limit_address_space(LIMIT);
    let before = stats().live_blocks;
    let mut total = 0;
    // Threads are made while there is memory for their stacks; then they fill in turn with the main thread.
    tests::raw_thread::run(2, &|number| {
        for round in 0..5 {
            let mut chain = Chain::new((16, 3_000), (number * 100 + round) as u64);
            chain.fill();
            chain.free();
        }
    });
    trim();
    let mut chain = Chain::new((16, 3_000), 7);
    chain.fill();
    total += chain.bytes;
    chain.free();
    assert_eq!(stats().live_blocks, before);
    // Two stacks and their arenas in the C library are address space too.
    assert!(total * 100 / LIMIT >= 40, "{total} bytes");
    invariants().expect("invariants");
}

fn growth() {
    limit_address_space(LIMIT);
    let mut small = Block::new(100, 8, 1).expect("memory");
    let mut large = Block::new(10_000, 8, 2).expect("memory");
    let mut huge = Block::new(150 << 20, 8, 3).expect("memory");
    for block in [&mut small, &mut large] {
        assert!(!block.resize(200 << 20), "there is no such memory");
        block.verify();
    }
    assert!(!huge.resize(400 << 20), "there is no such memory");
    assert_eq!(huge.layout().size(), 150 << 20);
    huge.verify();
    assert!(huge.resize(100), "shrinking to a small block");
    assert!(small.resize(120 << 20), "the memory is back");
    invariants().expect("invariants");
}

fn small_after_large() {
    limit_address_space(LIMIT);
    for size in [LIMIT as usize, 1 << 40, 1 << 46] {
        for align in [1, 16, 4_096, 1 << 21] {
            assert!(Block::new(size, align, 1).is_none());
            let next = Block::new(300, 8, 2).expect("a small request is served");
            let after = Block::new(3_000, 8, 3).expect("a medium request is served");
            drop((next, after));
        }
    }
    invariants().expect("invariants");
}

/// Null, or an aligned block whose ends can be written.
fn null_or_valid(layout: Layout, zeroed: bool) -> bool {
    let block = match zeroed {
        // SAFETY: the callers' sizes are not zero.
        true => unsafe { Process.alloc_zeroed(layout) },
        // SAFETY: the callers' sizes are not zero.
        false => unsafe { Process.alloc(layout) },
    };
    let Some(start) = NonNull::new(black_box(block)) else { return false };
    assert!(start.addr().get().is_multiple_of(layout.align()), "{layout:?}");
    // SAFETY: the block is ours and holds at least one byte.
    unsafe { start.write(1) };
    // SAFETY: inside the block.
    let last = unsafe { start.add(layout.size() - 1) };
    // SAFETY: inside the block.
    unsafe { last.write(2) };
    // SAFETY: allocated above with this layout.
    unsafe { Process.dealloc(start.as_ptr(), layout) };
    true
}

fn largest() {
    const MAX: usize = isize::MAX as usize;
    let mut nulls = 0;
    for shift in 0..63 {
        let align = 1_usize << shift;
        let largest = MAX - (align - 1);
        let mut sizes = vec![1, 8, 512, 513, largest, largest - 1, largest / 2];
        sizes.extend((0..63).map(|size| 1_usize << size));
        sizes.extend([(1 << 47) - 1, (1 << 47) + 1, (1 << 48) - 4_096, MAX - 4_096, MAX - 65_536]);
        for size in sizes {
            let Ok(layout) = Layout::from_size_align(size, align) else { continue };
            for zeroed in [false, true] {
                // Zeroing gibibytes that the system would give is its work, not ours to test.
                if !zeroed || size <= 1 << 24 || size >= 1 << 46 {
                    nulls += usize::from(!null_or_valid(layout, zeroed));
                }
            }
        }
        let mut grown = Block::new(64, 8, shift as u64).expect("memory");
        assert!(!grown.resize(MAX - 7), "no such block exists");
        assert!(!grown.resize(1 << 62), "no such block exists");
    }
    assert!(nulls > 1_000, "{nulls}: sizes beyond the address space were served");
    invariants().expect("invariants");
    trim();
}

fn try_reserve() {
    limit_address_space(LIMIT);
    let mut bytes: Vec<u8> = Vec::new();
    for size in [usize::MAX, isize::MAX as usize, 1 << 40, LIMIT as usize] {
        assert!(bytes.try_reserve(size).is_err());
    }
    bytes.try_reserve(1 << 20).expect("a mebibyte is there");
    bytes.resize(1 << 20, 7);
    let mut total = Vec::new();
    let mut failed = false;
    for _ in 0..1_000 {
        let mut next: Vec<u64> = Vec::new();
        failed |= next.try_reserve_exact(1 << 17).is_err();
        if !failed {
            next.resize(1 << 17, 3);
            total.push(next);
        }
    }
    assert!(failed, "1,000 MiB in 256 MiB");
    assert!(total.iter().flatten().all(|&word| word == 3));
    drop(total);
    assert!(bytes.iter().all(|&byte| byte == 7));
}
