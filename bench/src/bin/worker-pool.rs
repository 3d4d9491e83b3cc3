//! Runs one workload on `PoolAlloc`. No unsafe here.

use bench::worker::{self, Counters};

#[global_allocator]
static ALLOC: alloc_global::PoolAlloc = alloc_global::PoolAlloc::new();

fn main() -> std::process::ExitCode {
    // The other settings are the library's own variables.
    if std::env::var_os("BENCH_LATENCY").is_some() {
        alloc_global::start_latency();
    }
    worker::main(Some(Counters {
        live_blocks: || alloc_global::stats().live_blocks,
        allocations: || alloc_global::stats().allocs,
        profile_bytes: || alloc_global::Snapshot::take().tool_bytes,
    }))
}
