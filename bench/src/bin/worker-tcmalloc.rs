//! Runs one workload on Google's tcmalloc. No unsafe here.

#[global_allocator]
static ALLOC: tcmalloc_better::TCMalloc = tcmalloc_better::TCMalloc;

fn main() -> std::process::ExitCode {
    bench::worker::main(|| None)
}
