//! `PoolAlloc`, a global allocator modelled on Python's: arenas, pools and blocks in size classes, with a
//! cache per thread.
//!
//! ```
//! #[global_allocator]
//! static ALLOC: alloc_global::PoolAlloc = alloc_global::PoolAlloc::new();
//!
//! let words: Vec<String> = "some words on the heap".split(' ').map(String::from).collect();
//! assert!(alloc_global::stats().live_blocks >= words.len() as u64);
//! println!("{}", alloc_global::explain_rss());
//! ```
//!
//! # What it tells
//!
//! | question | call | needs |
//! |---|---|---|
//! | How much is live, allocated, cached? | [`stats()`], [`class_stats()`] by size class, [`thread_stats()`] of this thread | |
//! | Why is resident memory what it is? | [`explain_rss()`], [`memory()`] | |
//! | How full are arenas and pools? What holds an arena? | [`heatmap()`], [`pins()`] | for call sites, a profile |
//! | Who allocated what is live? Who allocates most, for how long? | [`Snapshot::take()`], [`Diff`] of two | [`start_sampling()`] or [`start_tracing()`] |
//! | What is lost to rounding, and which class would be better? | [`rounding()`] | the same |
//! | What does this piece of code allocate? | [`measure()`], [`Region`], [`assert_no_alloc!`] and its like | for a [`Region`], a profile |
//! | How long do slow paths take? | `report::Report` | [`start_latency()`] |
//!
//! Each has a variable `POOLALLOC_*` or a report beside it, so that a program that is built already
//! can be asked. Counters are always on; nothing else costs the fast path an instruction while it
//! is off.
//!
//! Memory goes back on slow paths, half a second after it became free, or at once by [`trim()`]. A
//! program that rests takes none: there [`PoolAlloc::spawn_purger`] does it.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `report` | yes | reports and profiles as files: text, JSON, HTML, pprof, DHAT, collapsed stacks, Prometheus; names of functions |
//! | `serde` | no | `Serialize` for what the calls above answer |
//! | `top` | no | the terminal view `poolalloc-top` |
//!
//! First-class platform: Linux on x86-64 with glibc. It works with musl, too, and compiles for
//! other 64-bit processors; anything else is a compile error.
// No unsafe here; the modules say what they use it for.

// A model checker takes the lock's source by itself: its atomics cannot be in statics.
#![cfg(not(loom))]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "alloc-global: Linux only; another Unix needs `PageSource`, `futex`, `owner`, `residency` and `live_file`"
);

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

/// Gives free memory back to the system now. Returns the bytes of arenas and of pages of spans that
/// the system got, and those of blocks above 512 bytes that the fallback got: whether it passes
/// them on is up to it, and not in the result.
///
/// Empties the calling thread's cache, other threads' lists of blocks above 1 KiB, what is on its
/// way between threads, and what threads left that ended unseen; then gives back all empty arenas
/// and, in arenas still in use, free pools by runs of 64 KiB; and asks glibc to do the same
/// (`malloc_trim`). Costs a system call for each of them. What other threads have in their arrays
/// stays there: they give it back by [`thread_flush`].
///
/// ```
/// drop(vec![[1_u8; 500]; 100_000].into_iter().map(Box::new).collect::<Vec<_>>());
/// alloc_global::trim();
/// println!("{}", alloc_global::explain_rss()); // what is left, and why
/// ```
pub fn trim() -> usize {
    caches::reclaim_dead();
    let bytes = fallback::give_all_back();
    fallback::trim_system();
    bytes
}

/// Gives back what the calling thread's cache holds: blocks of pools to the shared heaps, larger
/// ones to the fallback.
///
/// For a thread that will rest for long: other threads can then use what it freed. Costs what
/// freeing those blocks costs. Meanwhile blocks above 64 KiB that other threads free may go back to the
/// system, too.
///
/// ```
/// std::thread::spawn(|| {
///     drop(vec![String::from("work"); 1000]);
///     alloc_global::thread_flush();
///     // ... waits for more work
/// });
/// ```
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
/// All other threads wait at their next slow path meanwhile; it costs a step per pool and block
/// word. For tests, and for a program that suspects that something wrote where it should not: a
/// breach means that memory is corrupt.
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
