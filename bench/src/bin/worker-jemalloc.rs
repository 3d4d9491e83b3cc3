//! Runs one workload on jemalloc. No unsafe here.

#[global_allocator]
static ALLOC: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    bench::worker::main(None)
}
