//! The suite of what looking costs: one worker, with its instrumentation off and on. No unsafe here.
//!
//! Its workers keep frame pointers, as a program that is to be traced should; the baseline is the
//! same file.

use bench::workload::{self, Kind, Workload};

use super::{Contender, Metric, Role, Source, Suite, metrics, of_workloads};

/// Workloads that are no real programs: pairs, replacement, strings, large blocks, threads.
const MICRO: &[&str] = &[
    "pair",
    "pair-sizes",
    "replace-10k",
    "boxed-tree",
    "sizes-with-large",
    "larson-2",
    "producer-consumer",
    "threads-short",
];

/// What looking costs.
pub(super) static WATCH: Suite = Suite {
    name: "watch",
    title: "What it costs to look at PoolAlloc",
    contender_word: "setting",
    contenders: &[
        setting("off", Role::Baseline, &[]),
        setting("sampled", Role::Subject, &[("POOLALLOC_SAMPLE", "512k")]),
        setting("latency", Role::Setting, &[("BENCH_LATENCY", "1")]),
        setting("traced", Role::Setting, &[("POOLALLOC_TRACE", "12")]),
    ],
    metrics: &[
        Metric { spread: true, ..metrics::PROCESSOR },
        metrics::PER_ALLOCATION,
        metrics::PEAK,
        metrics::PROFILE,
    ],
    loads: || of_workloads(&loads()),
    hidden: &["seconds", "final_rss", "minor_faults", "major_faults", "allocations"],
    rustflags: "-Cforce-frame-pointers=yes",
};

const fn setting(
    name: &'static str,
    role: Role,
    environment: &'static [(&'static str, &'static str)],
) -> Contender {
    let source = Source::Workspace("alloc-global");
    Contender { name, role, binary: "worker-pool", source, environment, lacks: &[] }
}

fn loads() -> Vec<Workload> {
    let chosen = |load: &&Workload| load.kind == Kind::Real || MICRO.contains(&load.name);
    workload::all().iter().filter(chosen).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_named_is_there() {
        let real = workload::all().iter().filter(|load| load.kind == Kind::Real).count();
        assert_eq!(loads().len(), real + MICRO.len());
    }
}
