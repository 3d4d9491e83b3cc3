//! `PoolAlloc`, a global allocator modelled on Python's: arenas, pools and blocks in size classes, with a
//! cache per thread.
//!
//! No unsafe here; the modules say what they use it for.

// A model checker takes the lock's source by itself: its atomics cannot be in statics.
#![cfg(not(loom))]

#[doc(hidden)]
pub mod asserts;
mod cache;
mod caches;
mod census;
mod classes;
mod clock;
mod config;
mod depot;
mod fallback;
mod fatal;
mod fork;
mod futex;
mod glibc_heap;
mod heatmap;
mod huge;
mod large_cache;
mod large_class;
mod latency;
mod live_file;
mod live_layout;
mod live_reader;
mod lock;
mod measure;
mod membarrier;
mod memory;
mod mid_class;
mod module;
mod owner;
mod pins;
mod pool_alloc;
mod prefetch;
mod primitive;
mod profile;
mod purge;
mod purger;
#[cfg(feature = "report")]
pub mod report;
mod residency;
mod rss;
mod scope;
mod shared;
mod shelf;
mod spans;
mod stats;
mod template;
mod thread;
#[cfg(feature = "report")]
mod time_line;
mod turn;
mod visit;
mod watch;

pub use classes::{ClassStats, DebugPage, class_stats, debug_page};
pub use config::seed_samples;
pub use heatmap::{ArenaMap, HeatMap, PoolMap, PoolState, heatmap};
pub use latency::{start_latency, stop_latency};
pub use live_file::publish_stats;
pub use live_layout::{LiveArena, LiveFrame};
pub use live_reader::LiveReader;
pub use measure::{MeasureError, Measured, ThreadStats, measure, measured_so_far, thread_stats};
pub use memory::{Memory, memory};
pub use pins::{Pin, pins};
pub use pool_alloc::PoolAlloc;
#[cfg(feature = "report")]
pub use profile::DebugInfo;
pub use profile::{
    BetterClass, Diff, Dropped, Filter, Group, Grouping, Growth, Lifetimes, Module, Peak, Region,
    Rounding, RoundingSite, Site, Snapshot, Totals, limit_frames, limit_profile, rounding,
    untracked,
};
pub use rss::{Rss, RssPart, explain_rss};
pub use stats::{Stats, stats};
pub use watch::{start_sampling, start_tracing, stop_and_forget, stop_profiling};

use core::fmt;

/// The unit tests run on what they test.
#[cfg(test)]
#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Gives free memory back to the system now, and returns how many bytes.
///
/// Empties the calling thread's cache, other threads' caches of large blocks, what is on its way between threads, and what
/// threads left that ended unseen; then gives back all empty arenas and, in arenas still in use, free pools by runs of 64 KiB; asks glibc to do the same (`malloc_trim`; what that gives back is not in
/// the result). Costs a system call for each of them.
pub fn trim() -> usize {
    caches::reclaim_dead();
    let kept = thread::flush() + visit::flush_others() + depot::flush();
    let bytes = kept + spans::drain() + spans::purge(true).0 + shared::trim();
    fallback::trim_system();
    bytes
}

/// Gives the blocks that the calling thread's cache holds back to the shared heaps.
///
/// For a thread that will rest for long: other threads can then use what it freed.
pub fn thread_flush() {
    thread::flush();
}

/// An invariant that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation(&'static str);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Violation {}

/// Verifies every numbered invariant of the shared heaps, pools and arenas.
///
/// All other threads wait at their next slow path meanwhile; it costs a step per pool and block word. For
/// tests, and for a program that suspects that something wrote where it should not.
///
/// # Errors
///
/// The first breach found.
pub fn check() -> Result<(), Violation> {
    // The profile's own check takes memory, which there may be none of.
    let profile = || if watch::is_watched() { profile::check() } else { Ok(()) };
    shared::check()
        .map(drop)
        .and_then(|()| spans::check())
        .and_then(|()| profile())
        .map_err(Violation)
}
