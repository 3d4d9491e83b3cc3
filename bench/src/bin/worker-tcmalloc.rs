//! Runs one workload on Google's tcmalloc.
//!
//! What turns its caches per processor on stands in an object file of its own, which a linker
//! leaves out of a static library unless something in it is named; so it is called by name here.
//! They also need the restartable sequence for themselves, see the environment that the runner sets.

#[global_allocator]
static ALLOC: tcmalloc_better::TCMalloc = tcmalloc_better::TCMalloc;

unsafe extern "C" {
    fn TCMalloc_Internal_ForceCpuCacheActivation();
}

fn main() -> std::process::ExitCode {
    // SAFETY: it takes nothing, may be called at any time, and does nothing the second time.
    unsafe { TCMalloc_Internal_ForceCpuCacheActivation() };
    bench::worker::main(None)
}
