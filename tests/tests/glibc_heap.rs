//! Huge pages behind glibc's heap: asked for where a program writes all that it gets, and only then.
//!
//! What was asked for is in `/proc/self/smaps`, whether or not the system then had such pages: the flag `hg` of a mapping. Where blocks
//! do not lie in that heap, or the kernel knows no huge pages, nothing may be asked for.
//! No unsafe here.

use std::process::ExitCode;
use std::time::Duration;

use alloc_global::{PoolAlloc, trim};
use tests::cases::{self, Case, with_setting};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Bytes that each case has in blocks of 2 to 8 KiB.
const HELD: usize = 40 << 20;
/// Of which so many grow without huge pages (docs/memory.md), but for what the blocks' own list and rounding take.
const WITHOUT: usize = 12 << 20;

/// For which huge pages are not asked for after something went wrong, and a little.
const A_SECOND: Duration = Duration::from_millis(1_100);

const NEVER: &str = "without_huge_pages_none_are_asked_for";

fn main() -> ExitCode {
    cases::main(&[
        Case::new("a_heap_that_is_written_gets_huge_pages", written),
        Case::new("a_heap_of_which_little_is_written_gets_none", untouched),
        Case::new("a_heap_that_was_given_back_gets_them_again", again),
        Case::new("a_request_that_cannot_be_met_stops_it_for_a_second_only", failure),
        Case::new(NEVER, never),
    ])
}

/// Blocks of 2 to 8 KiB, of which so many bytes at the front are written.
fn blocks(written: usize) -> Vec<Vec<u8>> {
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut blocks, mut held) = (Vec::new(), 0);
    while held < HELD {
        let mut block = Vec::with_capacity(rng.usize(2_048..8_192));
        block.resize(written.min(block.capacity()), 1);
        held += block.capacity();
        blocks.push(block);
    }
    blocks
}

/// Mappings of the heap that `brk` lengthens: first and last address, and whether huge pages were asked for.
fn heap() -> Vec<(usize, usize, bool)> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut heap = Vec::new();
    let mut inside = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            inside = line.ends_with("[heap]");
            let number = |hex| usize::from_str_radix(hex, 16).expect("an address");
            if inside {
                heap.push((number(start), number(end), false));
            }
        } else if inside && first == "VmFlags:" {
            heap.last_mut().expect("a mapping").2 = words.any(|flag| flag == "hg");
        }
    }
    heap
}

/// Bytes of that heap for which huge pages were asked.
fn asked() -> usize {
    heap().iter().filter(|mapping| mapping.2).map(|(start, end, _)| end - start).sum()
}

/// Whether they can be: the kernel has them, and blocks lie in that heap. Address sanitizers have a heap of their own.
fn can_be(blocks: &[Vec<u8>]) -> bool {
    let inside = |address| heap().iter().any(|(start, end, _)| (*start..*end).contains(&address));
    let known = std::fs::exists("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or(false);
    known && blocks.last().is_some_and(|block| inside(block.as_ptr().addr()))
}

fn expect_asked(blocks: &[Vec<u8>]) {
    let asked = asked();
    match can_be(blocks) {
        // A page that was slow to come puts an end to it for a second, but not to the first one.
        true => {
            assert!((2 << 20..=HELD).contains(&asked), "asked for {asked} bytes: {:x?}", heap())
        }
        false => assert_eq!(asked, 0),
    }
}

fn written() {
    let blocks = blocks(usize::MAX);
    expect_asked(&blocks);
    assert!(asked() <= HELD - WITHOUT, "{:x?}", heap());
}

fn untouched() {
    let blocks = blocks(1);
    assert_eq!(asked(), 0, "{:x?} for {} blocks", heap(), blocks.len());
}

fn again() {
    drop(blocks(usize::MAX));
    trim();
    // All of the heap but what the program still has in it; `trim` is over when the windows are gone.
    assert_eq!(asked(), 0, "{:x?}", heap());
    // If one of them was slow to come, others are asked for a second later.
    std::thread::sleep(A_SECOND);
    expect_asked(&blocks(usize::MAX));
}

fn failure() {
    let first = blocks(usize::MAX);
    let before = asked();
    assert!(Vec::<u8>::new().try_reserve(isize::MAX as usize).is_err());
    std::thread::sleep(A_SECOND);
    let more = blocks(usize::MAX);
    assert_eq!(asked() > before, can_be(&first) && can_be(&more), "{before}, then {:x?}", heap());
}

fn never() {
    with_setting(NEVER, "POOLALLOC_HUGE_PAGES", "never", || {
        let blocks = blocks(usize::MAX);
        assert_eq!(asked(), 0, "{:x?} for {} blocks", heap(), blocks.len());
    });
}
