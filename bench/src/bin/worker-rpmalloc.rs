//! Runs one workload on rpmalloc. No unsafe here.

#[global_allocator]
static ALLOC: rpmalloc::RpMalloc = rpmalloc::RpMalloc;

fn main() -> std::process::ExitCode {
    bench::worker::main(None)
}
