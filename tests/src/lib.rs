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

/// The helpers' own tests run on it too.
#[cfg(test)]
#[global_allocator]
static ALLOC: alloc_global::PoolAlloc = alloc_global::PoolAlloc::new();
