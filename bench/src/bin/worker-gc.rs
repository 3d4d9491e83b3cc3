//! Runs one workload of the suite `gc` on `Rc` or on `Gc`, as `BENCH_COLLECTOR` says, both on the system's
//! allocator. The interpreter is rc-gc's example, the same files. No unsafe here.

#[path = "../../../rc-gc/examples/scheme/builtins.rs"]
mod builtins;
#[path = "../../../rc-gc/examples/scheme/compile.rs"]
mod compile;
#[path = "../../../rc-gc/examples/scheme/read.rs"]
mod read;
#[path = "../../../rc-gc/examples/scheme/run.rs"]
mod run;
#[path = "../../../rc-gc/examples/scheme/value.rs"]
mod value;

use bench::collectors::{self, Counted, Ours};
use bench::workload::{Outcome, Scale, Workload, fold_bytes, measure};

#[global_allocator]
static ALLOC: std::alloc::System = std::alloc::System;

static RC: [Workload; 7] = collectors::loads::<Counted>();
static GC: [Workload; 7] = collectors::loads::<Ours>();
static INTERPRETER: [Workload; 1] = [collectors::interpreter(scripts)];

/// Each script once: closures, mutual recursion, calls, cycles.
const SCRIPTS: [&str; 4] = [
    include_str!("../../../rc-gc/examples/scripts/closures.scm"),
    include_str!("../../../rc-gc/examples/scripts/mutual.scm"),
    include_str!("../../../rc-gc/examples/scripts/calls.scm"),
    include_str!("../../../rc-gc/examples/scripts/cycles.scm"),
];

fn main() -> std::process::ExitCode {
    bench::worker::main_of_named("BENCH_COLLECTOR", &[("rc", &[&RC]), ("gc", &[&GC, &INTERPRETER])])
}

/// Runs all scripts, `rounds` times, in a thread with the stack that they need.
fn scripts(scale: &Scale) -> Outcome {
    let rounds = scale.of(18);
    let work = move || {
        let mut outcome = measure(|| {
            let mut sum = 0;
            for _ in 0..rounds {
                for script in SCRIPTS {
                    let result = run::Machine::new().run(script).map(|value| value.to_string());
                    let text = builtins::take_output();
                    sum = fold_bytes(
                        fold_bytes(sum, text.as_bytes()),
                        result.unwrap_or_else(|e| e).as_bytes(),
                    );
                }
            }
            rc_gc::collect();
            (rounds * SCRIPTS.len() as u64, sum)
        });
        let stats = rc_gc::stats();
        let longest = stats.generations.iter().map(|generation| generation.longest).max();
        outcome.extra = vec![
            ("longest_step_seconds", longest.unwrap_or_default().as_secs_f64()),
            ("leaked_objects", stats.live as f64),
        ];
        outcome
    };
    let thread = std::thread::Builder::new().stack_size(run::STACK).spawn(work);
    thread.expect("a thread").join().expect("the interpreter does not panic")
}
