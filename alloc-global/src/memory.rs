//! Where the memory is: one call that answers why resident memory does not fall.
//!
//! Invariant: the parts of a [`Memory`] sum to its `mapped`, always; what could not be told apart
//! because other threads worked meanwhile is in `cached`.
//!
//! No unsafe here. All locks are held for the walk, as for [`check`](crate::check()).

use crate::census::Census;
use crate::{config, purge, spans};
use core::fmt;

/// Where every byte of the arenas is, and what is known about the fallback. All in bytes.
///
/// `mapped = live + cached + free_blocks + free_pools + given_back + metadata + rounding`.
///
/// ```
/// let memory = alloc_global::memory();
/// println!("{memory}");
/// assert_eq!(
///     memory.mapped,
///     memory.live + memory.cached + memory.free_blocks + memory.free_pools
///         + memory.given_back + memory.metadata + memory.rounding,
/// );
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Memory {
    /// Arenas in use: 1 MiB each.
    pub mapped: u64,
    /// Blocks of pools in the program's hands.
    pub live: u64,
    /// Free blocks in the caches of threads, and in the depot: on their way from one thread to another.
    pub cached: u64,
    /// Free blocks in pools that are in use, and blocks not carved yet.
    pub free_blocks: u64,
    /// Free pools whose memory is still resident.
    pub free_pools: u64,
    /// Free pools without memory: given back, or never touched.
    pub given_back: u64,
    /// Descriptors and headers.
    pub metadata: u64,
    /// Ends of pools where no whole block fits.
    pub rounding: u64,
    /// Blocks of the fallback in the program's hands: of the class's size up to 4,096 bytes, of the
    /// layout's above, as in [`Stats`](crate::Stats).
    pub fallback_live: u64,
    /// Free blocks of the fallback in the caches of threads, and on their way from one thread to another.
    pub fallback_cached: u64,
    /// What is free in spans, of which blocks of 513 to 4,096 bytes are cut where a program uses many.
    pub fallback_free: u64,
    /// Milliseconds until free memory is due to go back: 0 if it is due, `None` if none waits.
    pub due_in_ms: Option<u64>,
}

/// Walks all pools. Costs a step per pool; other threads wait at their slow paths meanwhile.
pub fn memory() -> Memory {
    let stats = crate::stats();
    let bytes = Census::take().bytes();
    let free = spans::free();
    Memory {
        mapped: bytes.mapped,
        live: bytes.live,
        cached: bytes.cached,
        free_blocks: bytes.free_blocks,
        free_pools: bytes.free_pools,
        given_back: bytes.given_back,
        metadata: bytes.metadata,
        rounding: bytes.rounding,
        fallback_live: stats.fallback_live_bytes,
        fallback_cached: stats.fallback_cached_bytes,
        fallback_free: free.touched + free.untouched,
        due_in_ms: purge::due_in_ms(),
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("live in pools", self.live, "the program's"),
            ("thread caches", self.cached, "thread_flush(), or the end of the thread"),
            ("free blocks", self.free_blocks, "pinned by live blocks of the same pools"),
            ("free pools", self.free_pools, "POOLALLOC_PURGE_DELAY_MS, trim(): four in a row"),
            ("given back", self.given_back, "not resident"),
            ("metadata", self.metadata, "one pool of each arena"),
            ("rounding", self.rounding, "ends of pools"),
            ("= mapped arenas", self.mapped, ""),
            ("live in fallback", self.fallback_live, "the program's"),
            ("cached of fallback", self.fallback_cached, "POOLALLOC_FALLBACK_CACHE, trim()"),
            (
                "free in spans",
                self.fallback_free,
                "pinned by blocks of the same spans that are live or cached",
            ),
        ];
        for (name, bytes, what) in rows {
            writeln!(f, "{name:<20} {bytes:>16}  {what}")?;
        }
        match self.due_in_ms {
            Some(0) => writeln!(f, "free memory is due: the next slow path gives it back"),
            Some(ms) => writeln!(f, "free memory is due to go back in {ms} ms"),
            None if config::purge_delay_ms() == config::NEVER => {
                writeln!(f, "free memory is kept: POOLALLOC_PURGE_DELAY_MS=never")
            }
            None => writeln!(f, "no free memory waits to go back"),
        }
    }
}
