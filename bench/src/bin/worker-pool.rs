//! Runs one workload on `PoolAlloc`. No unsafe here.

#[global_allocator]
static ALLOC: alloc_global::PoolAlloc = alloc_global::PoolAlloc::new();

fn main() -> std::process::ExitCode {
    bench::worker::main(|| Some(alloc_global::stats().live_blocks))
}
