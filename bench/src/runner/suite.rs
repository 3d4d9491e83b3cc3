//! A suite as data: who is compared, on what, in which columns.
//!
//! Everything after this file (schedule, summary, table, page) knows suites only, not allocators:
//! another suite is another [`Suite`] value whose workers print a `bench::worker::Report`.
//! No unsafe here.

use bench::collectors::{self, Counted};
use bench::workload::{self, Workload};

mod metrics;
mod watch;

/// One comparison.
#[derive(Debug)]
pub(crate) struct Suite {
    pub name: &'static str,
    pub title: &'static str,
    /// What the contenders are, as in "allocator".
    pub contender_word: &'static str,
    pub contenders: &'static [Contender],
    pub metrics: &'static [Metric],
    pub loads: fn() -> Vec<Load>,
    /// Figures that its workers give and that it does not show.
    pub hidden: &'static [&'static str],
    /// What the compiler is told beside the cargo profile when its workers are built.
    pub rustflags: &'static str,
}

/// One of those compared.
#[derive(Debug)]
pub(crate) struct Contender {
    pub name: &'static str,
    pub role: Role,
    /// Name of the binary of this package that runs workloads on it.
    pub binary: &'static str,
    pub source: Source,
    /// Environment its workers get: its best settings, or its name where a worker runs several.
    pub environment: &'static [(&'static str, &'static str)],
    /// Workloads that it cannot run; a dash stands for them.
    pub lacks: &'static [&'static str],
}

/// What a contender is in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Ratios are to this one.
    Baseline,
    /// What this workspace makes.
    Subject,
    /// What others made.
    Peer,
    /// The subject, set otherwise.
    Setting,
}

/// Where a contender's code comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The standard library or the system: the version is this machine's.
    System,
    /// A member of this workspace.
    Workspace(&'static str),
    /// Somebody else's, built from Cargo.lock's `name` if that is one.
    Package {
        name: &'static str,
        note: &'static str,
        /// The cargo feature that its worker is built with.
        feature: &'static str,
        /// The cargo feature of the runner that brings it, or the word after `--features` on its command
        /// line, and whether this runner has it.
        switch: (&'static str, bool),
    },
}

/// A column: one figure that every run yields.
#[derive(Debug)]
pub(crate) struct Metric {
    /// Names among the report's values; several are added up.
    pub keys: &'static [&'static str],
    pub title: &'static str,
    /// The title of a ratio of it, short.
    pub short: &'static str,
    pub format: Format,
    /// What it is divided by.
    pub per: Per,
    /// Whether its lowest and highest are shown.
    pub spread: bool,
    /// Whether ratios to the baseline, to the best peer, and geometric means are shown.
    pub ratio: bool,
    /// Whether what it is more than the baseline's is shown.
    pub added: bool,
    /// Whether the page draws its ratios as bars.
    pub plot: bool,
    /// What the page says below its title.
    pub about: &'static str,
}

/// What a figure is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Per {
    Run,
    /// Units done.
    Unit,
    /// Another value of the report, by its name.
    Value(&'static str),
}

/// How a figure is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Seconds,
    Bytes,
    Count,
}

/// A workload as the runner sees it.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub name: &'static str,
    pub kind: &'static str,
    pub about: &'static str,
    pub unit: &'static str,
}

/// Every suite; the first is the default.
pub(crate) static SUITES: &[&Suite] = &[&ALLOC, &GC, &watch::WATCH];

/// Allocators.
static ALLOC: Suite = Suite {
    name: "alloc",
    title: "PoolAlloc and other allocators",
    contender_word: "allocator",
    contenders: &[
        Contender {
            name: "system",
            role: Role::Baseline,
            binary: "worker-system",
            source: Source::System,
            environment: &[],
            lacks: &[],
        },
        Contender {
            name: "pool",
            role: Role::Subject,
            binary: "worker-pool",
            source: Source::Workspace("alloc-global"),
            environment: &[],
            lacks: &[],
        },
        peer("mimalloc", "worker-mimalloc", "mimalloc", "v3"),
        Contender {
            name: "mimalloc2",
            role: Role::Peer,
            binary: "worker-mimalloc2",
            source: Source::Package {
                name: "mimalloc",
                note: "v2",
                feature: "peer-mimalloc2",
                switch: PEERS,
            },
            environment: &[],
            lacks: &[],
        },
        peer("jemalloc", "worker-jemalloc", "tikv-jemallocator", ""),
        peer("snmalloc", "worker-snmalloc", "snmalloc-rs", ""),
        peer("rpmalloc", "worker-rpmalloc", "rpmalloc", "1.4, no realloc"),
        Contender {
            // Its caches per processor need the restartable sequence that glibc would take.
            environment: &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")],
            ..peer("tcmalloc", "worker-tcmalloc", "tcmalloc-better", "Google's")
        },
        Contender {
            name: "gperftools",
            role: Role::Peer,
            binary: "worker-gperftools",
            source: Source::Package {
                name: "tcmalloc_minimal",
                note: "the system's library",
                feature: "peer-gperftools",
                switch: ("peer-gperftools", cfg!(feature = "peer-gperftools")),
            },
            environment: &[],
            lacks: &[],
        },
    ],
    metrics: &[metrics::TIME, metrics::PROCESSOR, metrics::PEAK, metrics::FINAL, metrics::FAULTS],
    loads: || of_workloads(workload::all()),
    hidden: &["allocations", "profile_bytes"],
    rustflags: "",
};

/// Counted and collected pointers.
static GC: Suite = Suite {
    name: "gc",
    title: "Gc<T> and other pointers that count or collect",
    contender_word: "collector",
    contenders: &[
        Contender {
            name: "rc",
            role: Role::Baseline,
            binary: "worker-gc",
            source: Source::System,
            environment: &[("BENCH_COLLECTOR", "rc")],
            lacks: &[],
        },
        Contender {
            name: "gc",
            role: Role::Subject,
            binary: "worker-gc",
            source: Source::Workspace("rc-gc"),
            environment: &[("BENCH_COLLECTOR", "gc")],
            lacks: &[],
        },
        gc_peer("dumpster", "dumpster", &[("BENCH_COLLECTOR", "dumpster")], "unsync"),
        gc_peer("rust-gc", "gc", &[("BENCH_COLLECTOR", "gc")], ""),
        gc_peer("rust-cc", "rust-cc", &[("BENCH_COLLECTOR", "rust-cc")], ""),
        gc_peer(
            "bacon_rajan_cc",
            "bacon_rajan_cc",
            &[("BENCH_COLLECTOR", "bacon_rajan_cc")],
            "collected every 10,000 nodes",
        ),
        gc_peer("boa_gc", "boa_gc", &[("BENCH_COLLECTOR", "boa_gc")], ""),
    ],
    metrics: &[
        Metric { about: "Wall time per object, setup not counted.", ..metrics::TIME },
        metrics::PEAK,
        metrics::STEP,
        metrics::GARBAGE,
        metrics::LEAKED,
    ],
    loads: gc_loads,
    hidden: &["cpu_seconds", "final_rss", "minor_faults", "major_faults"],
    rustflags: "",
};

const PEERS: (&str, bool) = ("peers", cfg!(feature = "peers"));

const fn peer(
    name: &'static str,
    binary: &'static str,
    package: &'static str,
    note: &'static str,
) -> Contender {
    let source = Source::Package { name: package, note, feature: "alloc-peers", switch: PEERS };
    Contender { name, role: Role::Peer, binary, source, environment: &[], lacks: &[] }
}

const fn gc_peer(
    name: &'static str,
    package: &'static str,
    environment: &'static [(&'static str, &'static str)],
    note: &'static str,
) -> Contender {
    let source = Source::Package { name: package, note, feature: "gc-peers", switch: PEERS };
    Contender { name, role: Role::Peer, binary: "worker-gc-peers", source, environment, lacks: &[] }
}

fn of_workloads(loads: &[Workload]) -> Vec<Load> {
    let load = |load: &Workload| Load {
        name: load.name,
        kind: load.kind.name(),
        about: load.about,
        unit: load.unit,
    };
    loads.iter().map(load).collect()
}

fn gc_loads() -> Vec<Load> {
    let mut loads = of_workloads(&collectors::loads::<Counted>());
    // Only its description is used here: it runs in the worker.
    loads.extend(of_workloads(&[collectors::interpreter(|_| unreachable!("not in the runner"))]));
    loads
}

impl Source {
    /// The name of the feature that brings it, if one does.
    pub(crate) fn switch(&self) -> Option<&'static str> {
        match *self {
            Source::System | Source::Workspace(_) => None,
            Source::Package { switch: (name, _), .. } => Some(name),
        }
    }
}

impl Role {
    /// Whether it is drawn as a mark beside the bars.
    pub(crate) fn is_mark(self) -> bool {
        matches!(self, Role::Peer | Role::Setting)
    }
}

impl Contender {
    /// The cargo feature that is wanted to build its worker, if neither the runner nor `features` has it.
    pub(crate) fn missing(&self, features: &[String]) -> Option<&'static str> {
        match self.source {
            Source::Package { switch: (name, false), .. } => {
                (!features.iter().any(|feature| feature == name)).then_some(name)
            }
            _ => None,
        }
    }

    /// The cargo feature its worker is built with.
    pub(crate) fn feature(&self) -> Option<&'static str> {
        match self.source {
            Source::System | Source::Workspace(_) => None,
            Source::Package { feature, .. } => Some(feature),
        }
    }
}

impl Metric {
    /// The figure of one run, not a number if the worker did not give it.
    pub(crate) fn of(&self, report: &bench::worker::Report) -> f64 {
        let value = |key: &&str| report.values.get(*key).copied().unwrap_or(f64::NAN);
        let sum: f64 = self.keys.iter().map(value).sum();
        match self.per {
            Per::Run => sum,
            Per::Unit => sum / report.units as f64,
            Per::Value(key) => sum / value(&key),
        }
    }
}

/// The kinds of some workloads, each once, in their order.
pub(crate) fn kinds(loads: &[Load]) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    for load in loads {
        if !kinds.contains(&load.kind) {
            kinds.push(load.kind);
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_within_a_suite_are_unique() {
        for suite in SUITES {
            let contenders: HashSet<_> = suite.contenders.iter().map(|one| one.name).collect();
            assert_eq!(contenders.len(), suite.contenders.len());
            let loads = (suite.loads)();
            assert!(!loads.is_empty());
            let names: HashSet<_> = loads.iter().map(|load| load.name).collect();
            assert_eq!(names.len(), loads.len());
        }
    }

    #[test]
    fn a_collector_of_others_bears_the_name_of_its_package() {
        for contender in GC.contenders {
            if let Source::Package { name, .. } = contender.source {
                // The package `gc` would be taken for what is compared here.
                let expected = if name == "gc" { "rust-gc" } else { name };
                assert_eq!(contender.name, expected);
            }
        }
    }

    #[test]
    fn what_a_contender_lacks_is_a_workload_that_others_run() {
        for suite in SUITES {
            let loads = (suite.loads)();
            for contender in suite.contenders {
                for lack in contender.lacks {
                    assert!(loads.iter().any(|load| load.name == *lack), "{lack}");
                    let runs = |one: &Contender| !one.lacks.contains(lack);
                    assert!(suite.contenders.iter().any(runs), "{lack}");
                }
            }
        }
    }

    #[test]
    fn every_suite_has_one_baseline_and_one_subject() {
        for suite in SUITES {
            let count =
                |role| suite.contenders.iter().filter(|contender| contender.role == role).count();
            assert_eq!(count(Role::Baseline), 1);
            assert_eq!(count(Role::Subject), 1);
        }
    }

    #[test]
    fn a_metric_adds_its_keys_and_divides_by_units() {
        let report = bench::worker::Report {
            units: 4,
            checksum: 0,
            live_blocks: None,
            values: [("a".to_owned(), 6.0), ("b".to_owned(), 2.0)].into(),
        };
        let mut metric = Metric { keys: &["a", "b"], ..metrics::PLAIN };
        assert_eq!(metric.of(&report), 8.0);
        metric.per = Per::Unit;
        assert_eq!(metric.of(&report), 2.0);
        metric.keys = &["a", "absent"];
        assert!(metric.of(&report).is_nan());
    }
}
