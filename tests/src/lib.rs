//! Helpers for whole-process tests of the allocator. No unsafe here.
//!
//! Each binary in `tests/tests` names the allocator under test with its own `#[global_allocator]`, so that
//! the test's code, its collections and the helpers below all live on it.
//!
//! | module | gives |
//! |---|---|
//! | [`block`] | one owned block that knows its layout and checks its bytes |
//! | [`program`] | seeded random programs of allocator calls, run against a plain model, and shrunk |
//! | [`heap`] | a private heap as the memory that programs run on |
//! | [`cases`] | test functions that each run in a process of their own, with a limit and an exact expected end |
//! | [`process`] | fork, waiting with a limit, resource limits, resident memory |
//! | [`raw_thread`] | POSIX threads without the standard library's own allocations, and their destructors |
//! | [`ledger`] | a fallback allocator that checks every layout it is handed |
//!
//! What they do not do: look inside the allocator. Everything here goes through its public face.

use std::sync::Arc;
use std::thread;

use alloc_global::Stats;

pub mod block;
pub mod cases;
pub mod heap;
pub mod ledger;
pub mod process;
pub mod program;
pub mod raw_thread;

/// Verifies the invariants of the allocator under test.
///
/// # Errors
/// The first that does not hold, in words.
pub fn invariants() -> Result<(), String> {
    alloc_global::check().map_err(|violation| violation.to_string())
}

/// What was allocated between two readings was freed.
///
/// # Panics
/// If it was not.
pub fn assert_nothing_left(before: Stats, after: Stats) {
    assert_eq!(after.live_blocks, before.live_blocks, "live blocks\n{after}");
    assert_eq!(after.live_bytes, before.live_bytes, "live bytes\n{after}");
    assert_eq!(after.fallback_live_blocks, before.fallback_live_blocks, "fallback\n{after}");
    assert_eq!(after.fallback_live_bytes, before.fallback_live_bytes, "fallback\n{after}");
    let done = after - before;
    assert_eq!(done.allocs, done.deallocs, "{done}");
}

/// Runs `body` in so many threads, until their destructors have run.
///
/// # Panics
/// If one of them did.
pub fn run(threads: u64, body: impl Fn(u64) + Send + Sync + 'static) {
    let body = Arc::new(body);
    let start = |seed| {
        let body = Arc::clone(&body);
        thread::spawn(move || body(seed))
    };
    let threads: Vec<_> = (0..threads).map(start).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// The helpers' own tests run on it too.
#[cfg(test)]
#[global_allocator]
static ALLOC: alloc_global::PoolAlloc = alloc_global::PoolAlloc::new();
