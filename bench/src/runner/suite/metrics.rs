//! What the suites measure: one constant a metric. No unsafe here.

use super::{Format, Metric, Per};

/// What most metrics have in common.
pub(super) const PLAIN: Metric = Metric {
    keys: &[],
    title: "",
    short: "",
    format: Format::Count,
    per: Per::Run,
    spread: false,
    ratio: false,
    added: false,
    plot: false,
    about: "",
};

pub(super) const TIME: Metric = Metric {
    keys: &["seconds"],
    title: "time",
    short: "time",
    format: Format::Seconds,
    per: Per::Unit,
    spread: true,
    ratio: true,
    plot: true,
    about: "Wall time per unit of work, setup not counted.",
    ..PLAIN
};

pub(super) const PROCESSOR: Metric = Metric {
    keys: &["cpu_seconds"],
    title: "processor",
    short: "cpu",
    format: Format::Seconds,
    per: Per::Unit,
    ratio: true,
    plot: true,
    about: "User and system time of all threads per unit of work, setup not counted.",
    ..PLAIN
};

pub(super) const PEAK: Metric = Metric {
    keys: &["peak_rss"],
    title: "peak memory",
    short: "peak",
    format: Format::Bytes,
    ratio: true,
    plot: true,
    about: "Highest resident memory of the whole process, setup and program text included.",
    ..PLAIN
};

pub(super) const FINAL: Metric = Metric {
    keys: &["final_rss"],
    title: "final memory",
    short: "final",
    format: Format::Bytes,
    about: "Resident memory when everything of the workload has been freed.",
    ..PLAIN
};

pub(super) const FAULTS: Metric = Metric {
    keys: &["minor_faults", "major_faults"],
    title: "page faults",
    short: "faults",
    about: "Minor and major, setup included.",
    ..PLAIN
};

pub(super) const STEP: Metric = Metric {
    keys: &["longest_step_seconds"],
    title: "longest step",
    short: "step",
    format: Format::Seconds,
    about: "The longest of all steps of 32 to 1,024 operations: the longest pause, and a little work.",
    ..PLAIN
};

pub(super) const GARBAGE: Metric = Metric {
    keys: &["most_garbage"],
    title: "most garbage",
    short: "garbage",
    about: "Objects that existed at one time and could not be reached.",
    ..PLAIN
};

pub(super) const LEAKED: Metric = Metric {
    keys: &["leaked_objects"],
    title: "leaked",
    short: "leaked",
    about: "Objects that were never freed.",
    ..PLAIN
};

pub(super) const PER_ALLOCATION: Metric = Metric {
    keys: &["cpu_seconds"],
    title: "per allocation",
    short: "allocation",
    format: Format::Seconds,
    per: Per::Value("allocations"),
    added: true,
    about: "The same, per allocation: its free and the program's own work are in it.",
    ..PLAIN
};

pub(super) const PROFILE: Metric = Metric {
    keys: &["profile_bytes"],
    title: "profile",
    short: "profile",
    format: Format::Bytes,
    about: "Memory of the profile's own tables at the end.",
    ..PLAIN
};
