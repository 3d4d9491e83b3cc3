//! The workloads that allocators are compared on. The library names no allocator: each worker
//! binary chooses one as its `#[global_allocator]`.

pub mod loads;
pub mod workload;
