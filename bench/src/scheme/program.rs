//! The Scheme itself, and what it is given to do. Part of each contender. No unsafe here.

#![expect(clippy::duplicate_mod, reason = "compiled once for each contender, with its handles")]

#[path = "../../../rc-gc/examples/scheme/builtins.rs"]
mod builtins;
#[path = "../../../rc-gc/examples/scheme/compile.rs"]
pub(super) mod compile;
#[path = "../../../rc-gc/examples/scheme/read.rs"]
mod read;
#[path = "../../../rc-gc/examples/scheme/run.rs"]
mod run;
#[path = "../../../rc-gc/examples/scheme/value.rs"]
pub(super) mod value;

use bench::scheme::measured;
use bench::workload::{Outcome, Scale, fold_bytes};

use super::{self as heap};

/// Closures, mutual recursion, calls, cycles.
const SCRIPTS: [&str; 4] = [
    include_str!("../../../rc-gc/examples/scripts/closures.scm"),
    include_str!("../../../rc-gc/examples/scripts/mutual.scm"),
    include_str!("../../../rc-gc/examples/scripts/calls.scm"),
    include_str!("../../../rc-gc/examples/scripts/cycles.scm"),
];

/// Runs all scripts a few times, each in a machine of its own.
pub(crate) fn scripts(scale: &Scale) -> Outcome {
    let rounds = scale.of(6);
    let work = move || {
        let mut sum = 0;
        for _ in 0..rounds {
            for script in SCRIPTS {
                let result = run::Machine::new().run(script).map(|value| value.to_string());
                sum = fold_bytes(sum, builtins::take_output().as_bytes());
                sum = fold_bytes(sum, result.unwrap_or_else(|error| error).as_bytes());
            }
        }
        (rounds * SCRIPTS.len() as u64, sum)
    };
    let collect = || {
        heap::collect();
    };
    measured(run::STACK, collect, work)
}
