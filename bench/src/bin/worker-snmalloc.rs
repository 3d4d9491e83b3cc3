//! Runs one workload on snmalloc. No unsafe here.

#[global_allocator]
static ALLOC: snmalloc_rs::SnMalloc = snmalloc_rs::SnMalloc;

fn main() -> std::process::ExitCode {
    bench::worker::main(None)
}
