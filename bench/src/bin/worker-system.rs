//! Runs one workload on the system's allocator. No unsafe here.

#[global_allocator]
static ALLOC: std::alloc::System = std::alloc::System;

fn main() -> std::process::ExitCode {
    bench::worker::main(None)
}
