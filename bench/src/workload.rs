//! Workloads as data. No unsafe here.

use std::time::Instant;

/// What a workload is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Single thread, mostly up to 512 bytes.
    Micro,
    /// Blocks shared by threads.
    Threads,
    /// Above 512 bytes.
    Large,
    /// Real programs.
    Real,
    /// Memory held.
    Memory,
}

/// One workload.
pub struct Workload {
    /// Unique, kebab-case.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// One line.
    pub about: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// Runs it.
    pub run: fn(&Scale) -> Outcome,
}

/// How much to do.
pub struct Scale {
    /// A tenth of the operations.
    pub quick: bool,
    /// Seed of the generator.
    pub seed: u64,
}

/// What was done.
pub struct Outcome {
    /// Operations.
    pub units: u64,
    /// Equal on every allocator.
    pub checksum: u64,
    /// Wall time.
    pub seconds: f64,
    /// Processor time.
    pub cpu_seconds: f64,
    /// More figures.
    pub extra: Vec<(&'static str, f64)>,
}

/// All of them.
pub fn all() -> &'static [Workload] {
    crate::loads::ALL
}

/// Wall and processor time of `work`.
pub fn timed(work: impl FnOnce()) -> (f64, f64) {
    let start = Instant::now();
    work();
    let seconds = start.elapsed().as_secs_f64();
    (seconds, seconds)
}
