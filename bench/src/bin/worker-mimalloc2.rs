//! Runs one workload on mimalloc 2. No unsafe here.

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    bench::worker::main(None)
}
