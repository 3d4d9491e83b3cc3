//! glibc's heaps: huge pages behind the first, where a program writes all that it gets, and only
//! then; what is cached of large blocks beside them; and which of them are copied when they change
//! their size.
//!
//! What was asked for is in `/proc/self/smaps`, whether or not the system then had such pages: the
//! flag `hg` of a mapping. Where blocks do not lie in that heap, or the kernel knows no huge pages,
//! nothing may be asked for. No unsafe here.

use std::process::ExitCode;
use std::time::Duration;

use alloc_global::{PoolAlloc, explain_rss, stats, trim};
use tests::block::Block;
use tests::cases::{self, Case, with_setting};
use tests::process::resident;
use tests::{invariants, raw_thread};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Bytes that each case has in blocks of 2 to 8 KiB.
const HELD: usize = 40 << 20;
/// Of which so many grow without huge pages (docs/memory.md), but for what the blocks' own list and
/// rounding take.
const WITHOUT: usize = 12 << 20;

/// For which huge pages are not asked for after something went wrong, and a little.
const A_SECOND: Duration = Duration::from_millis(1_100);

const NEVER: &str = "without_huge_pages_none_are_asked_for";
const THRESHOLD: &str = "where_the_user_set_a_threshold_large_blocks_are_cached";
const TUNABLE: &str = "where_the_user_set_a_tunable_large_blocks_are_cached";
const SMALL: &str = "a_small_cache_does_not_have_glibc_give_large_blocks_back_at_once";
const IDLE: &str = "what_a_resting_thread_left_to_its_heap_goes_back";
const AT_ONCE: &str = "without_a_delay_a_large_block_goes_back_when_it_is_freed";

fn main() -> ExitCode {
    cases::main(&[
        Case::new("a_heap_that_is_written_gets_huge_pages", written),
        Case::new("a_heap_that_is_written_gets_them_also_where_it_had_ended", whole),
        Case::new("a_heap_of_which_little_is_written_gets_none", untouched),
        Case::new("a_heap_that_was_given_back_gets_them_again", again),
        Case::new("a_request_that_cannot_be_met_stops_it_for_a_second_only", failure),
        Case::new(NEVER, never),
        Case::new("a_thread_caches_what_its_heap_cannot_hold", thread),
        Case::new("what_threads_left_to_their_heaps_goes_back_when_they_end", ended),
        Case::new(IDLE, idle),
        Case::new("the_first_heap_holds_as_much_as_a_thread_may_cache", first),
        Case::new(THRESHOLD, || users("MALLOC_TRIM_THRESHOLD_", "131072", THRESHOLD)),
        Case::new(TUNABLE, || {
            users("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072", TUNABLE)
        }),
        Case::new(SMALL, small),
        Case::new(AT_ONCE, at_once),
        Case::new("large_blocks_are_copied_where_that_is_better_and_keep_their_bytes", resized),
        Case::new("large_blocks_with_others_behind_grow_onto_huge_pages", moved),
        Case::new("the_heap_of_a_thread_is_lengthened_by_more_than_a_block", ahead),
        Case::new("full_heaps_of_a_thread_are_followed_by_others", full_heaps),
        Case::new("zeroed_blocks_of_a_thread_stay_untouched", untouched_zeroes),
        Case::new("the_heap_of_a_thread_gets_huge_pages_if_it_is_written", written_by_thread),
        Case::new("and_none_if_little_of_it_is_written", untouched_by_thread),
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

/// Mappings that are wanted, by their address and name: first and last address, and whether huge
/// pages were asked for.
fn mappings(is_wanted: impl Fn(usize, &str) -> bool) -> Vec<(usize, usize, bool)> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut wanted = Vec::new();
    let mut inside = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let number = |hex| usize::from_str_radix(hex, 16).expect("an address");
            inside = is_wanted(number(start), words.next_back().unwrap_or_default());
            if inside {
                wanted.push((number(start), number(end), false));
            }
        } else if inside && first == "VmFlags:" {
            wanted.last_mut().expect("a mapping").2 = words.any(|flag| flag == "hg");
        }
    }
    wanted
}

/// Those of the heap that `brk` lengthens.
fn heap() -> Vec<(usize, usize, bool)> {
    mappings(|_, name| name == "[heap]")
}

/// Bytes of mappings for which huge pages were asked.
fn asked_in(mappings: &[(usize, usize, bool)]) -> usize {
    mappings.iter().filter(|mapping| mapping.2).map(|(start, end, _)| end - start).sum()
}

/// Bytes of that heap for which huge pages were asked.
fn asked() -> usize {
    asked_in(&heap())
}

/// Whether an address lies in that heap. Address sanitizers have a heap of their own.
fn is_inside(address: usize) -> bool {
    heap().iter().any(|(start, end, _)| (*start..*end).contains(&address))
}

/// Whether the kernel has them.
fn are_known() -> bool {
    std::fs::exists("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or(false)
}

/// Whether they can be: the kernel has them, and blocks lie in that heap.
fn can_be(blocks: &[Vec<u8>]) -> bool {
    are_known() && blocks.last().is_some_and(|block| is_inside(block.as_ptr().addr()))
}

fn expect_asked(blocks: &[Vec<u8>]) {
    let asked = asked();
    match can_be(blocks) {
        // A page that was slow to come puts an end to it for a while, but not to the first one.
        true => {
            assert!((2 << 20..=HELD).contains(&asked), "asked for {asked} bytes: {:x?}", heap())
        }
        false => assert_eq!(asked, 0),
    }
}

fn written() {
    let blocks = blocks(usize::MAX);
    expect_asked(&blocks);
    let first = heap().iter().find(|mapping| mapping.2).map(|mapping| mapping.0 - heap()[0].0);
    assert!(first.is_none_or(|first| first >= WITHOUT), "{:x?}", heap());
}

/// `brk` lengthens the heap by 16 MiB, which need not end where a window does.
fn whole() {
    let blocks: Vec<_> = (0..2).map(|_| blocks(usize::MAX)).collect();
    let large = heap().into_iter().filter(|mapping| mapping.2);
    let longest = large.map(|(start, end, _)| end - start).max();
    // Where huge pages were slow to come there are gaps. 7 of 8 windows do not end the heap.
    if asked() > (blocks.len() * HELD - WITHOUT) / 4 * 3 {
        assert!(longest > Some(16 << 20), "{:x?}", heap());
    }
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

/// Allocates so many blocks, not written, and frees them, twice. Bytes cached then.
fn cached_of(count: usize, size: usize) -> u64 {
    // What was mapped by itself before the first free is cached like other blocks.
    std::hint::black_box(Vec::<u8>::with_capacity(3 << 19));
    for _ in 0..2 {
        let all: Vec<Vec<u8>> = (0..count).map(|_| Vec::with_capacity(size)).collect();
        std::hint::black_box(&all);
    }
    stats().fallback_cached_bytes
}

/// glibc unmaps such a heap when it is free, and 64 MiB are the most that it has.
fn thread() {
    let cached = || (cached_of(8, 5_000_000), cached_of(20, 5_000_000));
    let (few, many) = std::thread::spawn(cached).join().expect("no panic");
    assert!(few <= 5 << 20, "{few} bytes of 40 MB are cached, and not one block");
    assert!(many >= 95_000_000, "{many} bytes of 100 MB are cached");
}

/// Blocks of `size` bytes, `bytes` in all, written, all of them alive at once and then freed.
fn use_and_free(bytes: usize, size: usize) {
    let all: Vec<Vec<u8>> = (0..bytes / size).map(|_| vec![1; size]).collect();
    std::hint::black_box(&all);
}

/// Few allocators give back what is free at the end of a thread's heap, glibc only if a free happens there.
fn ended() {
    let before = resident();
    for size in [3 << 20, 100 << 10, 5_000] {
        raw_thread::run(1, &|_| use_and_free(40 << 20, size));
        trim();
        let left = resident().saturating_sub(before);
        assert!(left <= 8 << 20, "{left} bytes of 40 MiB are left, of blocks of {size}");
    }
}

fn idle() {
    with_setting(IDLE, "POOLALLOC_PURGER", "1", || {
        for size in [3 << 20, 100 << 10] {
            let (done, is_done) = std::sync::mpsc::channel();
            let (end, is_over) = std::sync::mpsc::channel::<()>();
            let before = resident();
            let rests = std::thread::spawn(move || {
                use_and_free(40 << 20, size);
                done.send(()).expect("a receiver");
                is_over.recv().expect_err("dropped");
            });
            is_done.recv().expect("it works");
            let begin = std::time::Instant::now();
            while resident() > before + (10 << 20) {
                assert!(begin.elapsed() < Duration::from_secs(40), "of {size}\n{}", explain_rss());
                std::thread::sleep(Duration::from_millis(20));
            }
            drop(end);
            rests.join().expect("no panic");
        }
    });
}

fn first() {
    let (few, many) = (cached_of(20, 5_000_000), cached_of(60, 5_000_000));
    // Elsewhere blocks are left to who is not known to be glibc up to 52 MiB.
    if can_be(&[Vec::with_capacity(1 << 20)]) {
        assert!(few < 1 << 20, "{few} bytes of 100 MB are cached");
    }
    assert!(many >= 100_000_000, "{many} bytes of 300 MB are cached, of which 128 MiB may be");
}

fn users(name: &str, value: &str, case: &str) {
    with_setting(case, name, value, || {
        let cached = cached_of(2, 3_000_000);
        assert!(cached >= 6_000_000, "{cached} bytes of 6 MB are cached");
    });
}

fn small() {
    with_setting(SMALL, "POOLALLOC_FALLBACK_CACHE", "64k", || {
        drop(vec![1_u8; 3 << 20]);
        let before = resident();
        drop(vec![1_u8; 24 << 20]);
        let kept = resident().saturating_sub(before);
        assert!(kept >= 16 << 20, "{kept} bytes of 24 MiB are resident");
        assert_eq!(stats().fallback_cached_bytes, 0);
    });
}

fn at_once() {
    with_setting(AT_ONCE, "POOLALLOC_PURGE_DELAY_MS", "0", || {
        let before = resident();
        // The first one is mapped by itself.
        let free = |_| {
            drop(vec![1_u8; 24 << 20]);
            let kept = resident().saturating_sub(before);
            assert!(kept <= 1 << 20, "{kept} bytes of 24 MiB are resident");
        };
        (0..2).for_each(free);
        raw_thread::run(1, &free);
    });
}

/// Resizes a block. Returns how many MiB were copied for that, but by the fallback itself.
fn copied(block: &mut Block, mib: usize) -> u64 {
    let before = stats().realloc_bytes_copied;
    assert!(block.resize(mib << 20));
    (stats().realloc_bytes_copied - before) >> 20
}

/// A block of one MiB that is not mapped by itself, as the first one is.
fn block_in_heap() -> Block {
    drop(vec![1_u8; 1 << 20]);
    Block::new(1 << 20, 8, 7).expect("memory")
}

fn moved() {
    let mut block = block_in_heap();
    for mib in [6, 12, 24] {
        let is_first = cfg!(target_env = "gnu") && is_inside(block.addr());
        let grown = copied(&mut block, mib - 1);
        let behind = Block::new(64 << 10, 8, 1).expect("memory");
        let moved = copied(&mut block, mib);
        // Elsewhere nobody knows what lies behind it.
        if is_first && is_inside(block.addr()) {
            assert_eq!(
                (grown, moved),
                (0, mib as u64 - 1),
                "nothing lies behind it, and something"
            );
            let asked = |(start, end, asked): &(usize, usize, bool)| {
                *asked && (*start..*end).contains(&(block.addr() + (2 << 20)))
            };
            let is_asked = heap().iter().any(asked) || !are_known();
            assert!(is_asked, "{:x} in {:x?}", block.addr(), heap());
        }
        drop(behind);
    }
    drop(block);
    trim();
    invariants().expect("invariants");
}

/// Where the heap of a thread begins that an address lies in: glibc aligns them to what they have at
/// most.
fn thread_heap(address: usize) -> usize {
    address & !((64 << 20) - 1)
}

/// Whether it is one. Address sanitizers have heaps of their own.
fn is_thread_heap(heap: usize) -> bool {
    !mappings(|start, _| start == heap).is_empty()
}

fn ahead() {
    block_in_heap();
    raw_thread::run(1, &|_| {
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        let mut far = 0;
        for _ in 0..100 {
            blocks.push(vec![1; 20_000]);
            let end = blocks.last().map_or(0, |block| block.as_ptr().addr() + block.capacity());
            let heap = thread_heap(end);
            if !is_thread_heap(heap) {
                return;
            }
            let heap_end = mappings(|start, _| start == heap)[0].1;
            far += usize::from(heap_end.saturating_sub(end) >= 20_000);
        }
        assert!(far > 80, "the heap ends behind {} of 100 blocks", 100 - far);
    });
}

fn full_heaps() {
    const NAME: &str = "full_heaps_of_a_thread_are_followed_by_others";
    with_setting(NAME, "POOLALLOC_HUGE_PAGES", "0", || {
        block_in_heap();
        raw_thread::run(1, &|_| {
            let blocks: Vec<Vec<u8>> = (0..200).map(|_| Vec::with_capacity(1 << 20)).collect();
            let first = heap();
            let is_in_first = |block: &&Vec<u8>| {
                let block = block.as_ptr().addr();
                first.iter().any(|(start, end, _)| (*start..*end).contains(&block))
            };
            assert_eq!(blocks.iter().filter(is_in_first).count(), 0, "of 200 blocks");
        });
    });
}

fn untouched_zeroes() {
    block_in_heap();
    raw_thread::run(1, &|_| {
        let before = resident();
        let blocks: Vec<Vec<u8>> = (0..100).map(|_| vec![0; 200_000]).collect();
        let more = resident().saturating_sub(before);
        assert!(more < 5 << 20, "{more} bytes of {} times 200,000", blocks.len());
    });
}

/// Calls `f` with the mappings of the heap of a thread whose blocks are written up to a bound, and
/// with how many bytes of them huge pages were asked for.
fn in_thread(written: usize, f: impl Fn(usize, &[(usize, usize, bool)]) + Sync) {
    block_in_heap();
    raw_thread::run(1, &|_| {
        let blocks = blocks(written);
        let heap = thread_heap(blocks[blocks.len() - 1].as_ptr().addr());
        if is_thread_heap(heap) {
            let inside = mappings(|start, _| (heap..heap + (64 << 20)).contains(&start));
            f(asked_in(&inside), &inside);
        }
    });
}

fn written_by_thread() {
    in_thread(usize::MAX, |asked, heap| {
        if !are_known() {
            return assert_eq!(asked, 0);
        }
        // A page that was slow to come puts an end to it for a while, but not to the first one.
        assert!((2 << 20..=HELD).contains(&asked), "asked for {asked} bytes: {heap:x?}");
        let first = heap.iter().find(|mapping| mapping.2).map_or(0, |mapping| mapping.0);
        assert!(first - heap[0].0 >= WITHOUT, "{heap:x?}");
    });
}

fn untouched_by_thread() {
    in_thread(1, |asked, heap| assert_eq!(asked, 0, "{heap:x?}"));
}

fn resized() {
    let mut block = block_in_heap();
    // Elsewhere nobody knows what lies behind it, nor whether it is mapped by itself.
    let is_known = cfg!(target_env = "gnu") && is_inside(block.addr());
    let steps = [
        (20, 0, "nothing lies behind it"),
        (40, 20, "into a mapping"),
        (80, 0, "its pages are moved"),
        (50, 0, "they are given back"),
        (5, 0, "they are given back"),
        (20, 0, "its pages are moved"),
        (2, 2, "a tenth"),
        (1, 0, "half"),
    ];
    for (mib, expected, why) in steps {
        let copied = copied(&mut block, mib);
        assert!(copied == expected || !is_known, "{copied} MiB copied to {mib}: {why}");
    }
    drop(block);
    trim();
    invariants().expect("invariants");
}
