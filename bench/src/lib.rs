//! What the processes of the comparison share: the workloads, and what a worker does with one.
//!
//! ```text
//!   bench (runner: builds, starts, measures, compares)         src/main.rs, src/runner/
//!     |  one process per workload, allocator and round
//!     v
//!   worker-system, worker-pool, ...  (a global allocator each) src/bin/
//!   worker-gc, worker-gc-peers       (several collectors each)
//!     |  bench::worker::main, main_of_named
//!     v
//!   one workload                                               src/workload.rs, src/loads/, src/collectors.rs, src/scheme.rs
//! ```
//!
//! The library sets no global allocator and knows none of the runner. No unsafe here.

// So that files that are part of the library and of workers can say `bench::`.
extern crate self as bench;

pub mod collectors;
pub mod loads;
pub mod scheme;
pub mod worker;
pub mod workload;

/// The unit tests run on PoolAlloc; workers choose for themselves.
#[cfg(test)]
#[global_allocator]
static ALLOC: alloc_global::PoolAlloc = alloc_global::PoolAlloc::new();
