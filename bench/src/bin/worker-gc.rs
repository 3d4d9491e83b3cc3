//! Runs one workload of the suite `gc` on `Rc` or on `Gc`, as `BENCH_COLLECTOR` says, both on the system's
//! allocator. No unsafe here.

use bench::collectors::{self, Counted, Ours};
use bench::scheme::{ON_GC, ON_RC};
use bench::workload::Workload;

#[global_allocator]
static ALLOC: std::alloc::System = std::alloc::System;

static RC: [Workload; 7] = collectors::loads::<Counted>();
static RC_PROGRAM: [Workload; 1] = [collectors::interpreter(ON_RC)];
static GC: [Workload; 7] = collectors::loads::<Ours>();
static GC_PROGRAM: [Workload; 1] = [collectors::interpreter(ON_GC)];

fn main() -> std::process::ExitCode {
    let contenders: [(&str, &[&[Workload]]); 2] =
        [("rc", &[&RC, &RC_PROGRAM]), ("gc", &[&GC, &GC_PROGRAM])];
    bench::worker::main_of_named("BENCH_COLLECTOR", &contenders)
}
