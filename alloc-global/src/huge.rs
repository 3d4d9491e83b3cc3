//! Huge pages: who gets them, and whether the system has them at hand.
//!
//! Filling memory by small pages costs several times what it costs by huge ones, unless the system
//! must first move other memory together to make one. So a chunk of arenas asks for huge pages and
//! its first one is looked at: if it took longer than small ones would have, the chunk does
//! without, and so does what is mapped for a while: the longer, the more often that was so.
//!
//! No unsafe here. It does not decide when memory goes back: that is `purge`.

use crate::{clock, config, purge};
use alloc_core::{MappedChunk, OsPages};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
pub(crate) fn back_chunk(chunk: &MappedChunk, reserved: usize) {
    if !is_wanted(reserved) {
        return;
    }
    chunk.advise_huge(&OsPages);
    if is_slow(|| chunk.touch()) {
        chunk.advise_small(&OsPages);
    }
}

/// Asks for a huge page behind memory that is mapped, not resident, and somebody else's, and makes
/// it resident.
#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
pub(crate) fn back_window(start: usize, len: usize) {
    if let Some(start) = NonNull::new(core::ptr::without_provenance_mut(start)) {
        OsPages::advise_huge_around(start, len);
        is_slow(|| OsPages::populate(start));
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

/// Asks for huge pages behind a block of the system allocator, if it is large.
#[inline]
pub(crate) fn back_block(block: *mut u8, size: usize) {
    if size >= BLOCK_FROM
        && let Some(block) = NonNull::new(block)
        && is_wanted(size)
    {
        OsPages::advise_huge_around(block, size);
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
