//! Huge pages: who gets them, and whether the system has them at hand.
//!
//! Filling memory by small pages costs several times what it costs by huge ones, unless the system
//! must first move other memory together to make one. So a chunk of arenas asks for huge pages and
//! its first one is looked at: if it took longer than small ones would have, the chunk does
//! without, and so does what is mapped for a while: the longer, the more often that was so.
//!
//! A zeroed block comes without having been written, and who asks for much of it may write little of
//! it. So such blocks get huge pages only if the program writes them, which shows in those before.
//!
//! No unsafe here. It does not decide when memory goes back: that is `purge`.

use crate::{clock, config, purge, residency};
use alloc_core::{MappedChunk, OsPages, PAGE_SIZE, keeping_errno};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Nanoseconds of processor time that the first huge page may take; the same memory in small pages
/// takes 100,000 to 800,000, and clearing 2 MiB 50,000 to 200,000.
const MOST_NS: u64 = 1_000_000;

/// Milliseconds for which huge pages are not asked for after one took longer, at first: some ten
/// times what it took. Doubled by each that does, halved by each that does not.
const LEAST_REST_MS: u64 = 32;

/// And at most.
const MOST_REST_MS: u64 = 1024;

/// Blocks of the system allocator from this size on are asked to be backed by huge pages, in bytes:
/// what they round up to is then small beside them.
const BLOCK_FROM: usize = 4 << 20;

/// The first zeroed block is taken to be written up to this size, in bytes: at most so much is
/// resident in vain where it is not.
const TAKEN_TO_BE_WRITTEN: usize = 64 << 20;

/// One in so many zeroed blocks shows by its small pages how they are used.
const WATCH_EVERY: usize = 16;

/// Pages that are looked at in a block; where all are resident it counts as written.
const SPOTS: usize = 8;

/// Until when huge pages are not asked for, in milliseconds.
static REST_UNTIL: AtomicU64 = AtomicU64::new(0);

/// For how long they were not when that was set last, in milliseconds, halved since.
static RESTED: AtomicU64 = AtomicU64::new(0);

/// Whether memory that joins so many bytes should have huge pages.
pub(crate) fn is_wanted(in_use: usize) -> bool {
    // Relaxed, here and below: a time, no order; two threads may both ask.
    in_use >= config::huge_from() && purge::now() >= REST_UNTIL.load(Relaxed)
}

/// Asks for huge pages behind a chunk that joins `reserved` bytes of others.
pub(crate) fn back_chunk(chunk: &MappedChunk<'_, OsPages>, reserved: usize) {
    if !is_wanted(reserved) {
        return;
    }
    chunk.advise_huge();
    if is_slow(|| chunk.touch()) {
        chunk.advise_small();
    }
}

/// Asks for a huge page behind memory that is mapped, not resident, and somebody else's, and makes
/// it resident; `is_fresh` says that nothing of it was touched.
#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
pub(crate) fn back_window(start: usize, len: usize, is_fresh: bool) {
    if let Some(start) = NonNull::new(core::ptr::without_provenance_mut(start)) {
        OsPages::advise_huge_around(start, len);
        is_slow(|| match is_fresh {
            true => OsPages::populate(start),
            false => OsPages::collapse(start, len),
        });
    }
}

/// Whether the first touch of a huge page took so long that none are asked for in a while.
fn is_slow(touch: impl FnOnce()) -> bool {
    let begin = clock::thread_nanoseconds();
    touch();
    let slow = clock::thread_nanoseconds().saturating_sub(begin) > MOST_NS;
    note(slow);
    slow
}

/// Notes whether a huge page was slow.
fn note(slow: bool) {
    let ms = next_rest(RESTED.load(Relaxed), slow);
    RESTED.store(ms, Relaxed);
    if slow {
        REST_UNTIL.store(purge::now() + ms, Relaxed);
    }
}

/// For how long huge pages are not asked for if one was slow, after it had been for `rested`; if
/// not, what that counts as from now on. Milliseconds.
fn next_rest(rested: u64, slow: bool) -> u64 {
    if slow { (rested * 2).clamp(LEAST_REST_MS, MOST_REST_MS) } else { rested / 2 }
}

/// Huge pages are not asked for in the next second.
#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
pub(crate) fn rest() {
    REST_UNTIL.store(purge::now() + MOST_REST_MS, Relaxed);
}

/// Whether a block of the system allocator of so many bytes would have huge pages asked for.
pub(crate) fn is_for(size: usize) -> bool {
    size >= BLOCK_FROM && is_wanted(size)
}

/// Asks for huge pages behind a block of the system allocator, if it is large.
#[inline]
pub(crate) fn back_block(block: *mut u8, size: usize) {
    if is_for(size)
        && let Some(block) = NonNull::new(block)
    {
        OsPages::advise_huge_around(block, size);
    }
}

/// What is known of how the program uses zeroed blocks: who asks for much of it may write little.
///
/// The first block is taken to be written, if it is not too large, and watched; until it was found
/// to be, others are not. From then on one in so many is left with small pages, which tell, and
/// watched instead.
struct Zeroed {
    /// Where the block lies that is watched; 0: none.
    watched: AtomicUsize,
    /// Its size in bytes.
    size: AtomicUsize,
    /// Blocks that came.
    count: AtomicUsize,
    /// Whether the last block that was looked at had been written.
    are_written: AtomicBool,
}

static ZEROED: Zeroed = Zeroed::new();

impl Zeroed {
    const fn new() -> Zeroed {
        Zeroed {
            watched: AtomicUsize::new(0),
            size: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            are_written: AtomicBool::new(false),
        }
    }

    /// Whether a new block, of which nothing is resident, should have huge pages.
    fn is_next_written(&self, block: usize, size: usize) -> bool {
        // Relaxed, here and below: hints. Where two threads watch at once, what is looked at may be
        // neither's block.
        let (watched, watched_size) = (self.watched.load(Relaxed), self.size.load(Relaxed));
        if watched != 0 && all_spots(watched, watched_size, true) {
            self.learn(true);
        }
        let count = self.count.fetch_add(1, Relaxed);
        if count.is_multiple_of(WATCH_EVERY) {
            if self.watched.load(Relaxed) != 0 {
                // It was not written, or went to a cache.
                self.learn(false);
            }
            self.size.store(size, Relaxed);
            self.watched.store(block, Relaxed);
            return count == 0 && size <= TAKEN_TO_BE_WRITTEN;
        }
        self.are_written.load(Relaxed)
    }

    /// A block is freed, and still there.
    fn note_freed(&self, block: usize, size: usize) {
        if self.watched.load(Relaxed) == block && self.size.load(Relaxed) == size {
            self.learn(all_spots(block, size, true));
        }
    }

    fn learn(&self, written: bool) {
        self.are_written.store(written, Relaxed);
        self.watched.store(0, Relaxed);
    }
}

/// Whether all of [`SPOTS`] pages of a block are resident, or none is.
fn all_spots(block: usize, size: usize, resident: bool) -> bool {
    let page = |spot| (block + size / (2 * SPOTS) * (2 * spot + 1)) & !(PAGE_SIZE - 1);
    let is_resident = |spot| residency::resident_bytes(page(spot), PAGE_SIZE) > 0;
    keeping_errno(|| (0..SPOTS).all(|spot| is_resident(spot) == resident))
}

/// The same behind a block that came zeroed, if the program is likely to write all of it.
#[inline]
pub(crate) fn back_zeroed(block: *mut u8, size: usize) {
    // What the allocator cleared is resident, and tells nothing.
    if size >= BLOCK_FROM
        && is_wanted(size)
        && all_spots(block.addr(), size, false)
        && ZEROED.is_next_written(block.addr(), size)
    {
        back_block(block, size);
    }
}

/// A block of the system allocator is about to be freed.
#[inline]
pub(crate) fn note_freed(block: *mut u8, size: usize) {
    if size >= BLOCK_FROM {
        ZEROED.note_freed(block.addr(), size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_slow_page_huge_ones_rest_for_a_while() {
        assert!(is_wanted(usize::MAX));
        REST_UNTIL.store(purge::now() + 60_000, Relaxed);
        assert!(!is_wanted(usize::MAX));
        REST_UNTIL.store(0, Relaxed);
        assert!(is_wanted(config::huge_from()) && !is_wanted(config::huge_from() - 1));
    }

    /// So large that each is mapped by itself: nothing of it is resident before it is written.
    const BLOCK: usize = 40 << 20;

    fn zeroed() -> (Vec<u8>, usize) {
        let block = vec![0; BLOCK];
        let address = block.as_ptr().addr();
        (block, address)
    }

    #[test]
    fn zeroed_blocks_are_taken_to_be_written_like_the_one_that_was_looked_at() {
        let ((mut first, a), (mut second, b), (_third, c)) = (zeroed(), zeroed(), zeroed());
        let seen = Zeroed::new();
        assert!(all_spots(a, BLOCK, false));
        assert!(seen.is_next_written(a, BLOCK), "nothing is known");
        assert!(!seen.is_next_written(b, BLOCK), "the first one was not written");
        first[..BLOCK / 2].fill(1);
        assert!(!all_spots(a, BLOCK, false) && !all_spots(a, BLOCK, true));
        assert!(!seen.is_next_written(b, BLOCK), "half of it");
        first.fill(1);
        assert!(all_spots(a, BLOCK, true) && seen.is_next_written(b, BLOCK));
        // The 17th is watched and goes without.
        let next: Vec<bool> =
            (4..2 * WATCH_EVERY).map(|_| seen.is_next_written(c, BLOCK)).collect();
        assert!(next.iter().enumerate().all(|(at, huge)| *huge == (at != WATCH_EVERY - 4)));
        seen.note_freed(b, BLOCK);
        assert!(seen.are_written.load(Relaxed), "nobody looked at that one");
        assert!(!seen.is_next_written(b, BLOCK), "the next one that is watched");
        assert!(!seen.is_next_written(a, BLOCK), "the last one was not written");
        second.fill(1);
        assert!(seen.is_next_written(a, BLOCK));
        assert!(!(0..WATCH_EVERY - 2).all(|_| seen.is_next_written(c, BLOCK)), "one is watched");
        seen.note_freed(c, BLOCK / 2);
        assert!(seen.are_written.load(Relaxed), "another block");
        seen.note_freed(c, BLOCK);
        assert!(!seen.are_written.load(Relaxed), "it was not written");
    }

    #[test]
    fn a_very_large_zeroed_block_gets_none_before_one_was_written() {
        let ((mut first, a), (_second, b)) = (zeroed(), zeroed());
        let seen = Zeroed::new();
        assert!(!seen.is_next_written(a, TAKEN_TO_BE_WRITTEN + 1));
        // As if it were as long as what is there.
        seen.size.store(BLOCK, Relaxed);
        first.fill(1);
        seen.note_freed(a, BLOCK);
        assert!(seen.is_next_written(b, TAKEN_TO_BE_WRITTEN + 1));
    }

    #[test]
    fn each_slow_page_makes_the_rest_longer_and_each_fast_one_shorter() {
        let mut rested = 0;
        let mut next = |slow| {
            rested = next_rest(rested, slow);
            rested
        };
        assert_eq!([true, true, true, false, true].map(&mut next), [32, 64, 128, 64, 128]);
        assert_eq!([true; 4].map(&mut next), [256, 512, MOST_REST_MS, MOST_REST_MS]);
        assert_eq!([false; 11].map(&mut next)[10], 0);
    }
}
