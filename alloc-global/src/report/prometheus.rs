//! Prometheus' text format, version 0.0.4.
//!
//! 1. Every name begins with `poolalloc_`; units are bytes and seconds; counters end in `_total`.
//! 2. Every metric has one `HELP` and one `TYPE`, before its samples, and its samples stand together.
//! 3. The labels are size classes, parts, paths, generations and the few names that the tool itself
//!    gives: never a call site or a type, of which there is no end.
//! 4. Of one process no counter is ever below what was said of it before: a reading of `stats`
//!    while threads work may be, and Prometheus would take that for a restart.
//!
//! No unsafe here.

use super::model::{GcGeneration, Latency, Report};
use crate::untracked;
use crate::{ClassStats, Dropped, Stats, latency};
use alloc_core::CLASSES;
use hdrhistogram::Histogram;
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::UNIX_EPOCH;

/// The type that goes with [`prometheus`].
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the buckets of latency, in nanoseconds: 1, 2.5 and 5 of each decade up to a
/// millisecond, and beyond that 10 ms, 100 ms and 1 s.
const BOUNDS_NS: [u64; 19] = [
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
];

/// The report's numbers in Prometheus' text format. Where it is one of this process, counters are
/// at least what they were in any before, also where this report is the older one.
///
/// ```
/// use alloc_global::report::{self, Report};
///
/// let text = report::prometheus(&Report::of_process());
/// assert!(text.contains("# TYPE poolalloc_live_bytes gauge"));
/// ```
pub fn prometheus(report: &Report) -> String {
    untracked(|| {
        let highest = if report.pid == std::process::id() { &OWN } else { &Highest::new() };
        let mut text = Text(String::new());
        counters(&mut text, report, highest);
        memory(&mut text, report);
        if let Some(classes) = report.classes.as_deref().filter(|classes| !classes.is_empty()) {
            self::classes(&mut text, classes, highest);
        }
        profile(&mut text, report, highest);
        if let Some(paths) = report.latency.as_deref().filter(|paths| !paths.is_empty()) {
            latency(&mut text, paths, highest);
        }
        if let Some(gc) = &report.gc {
            if !gc.generations.is_empty() {
                generations(&mut text, &gc.generations, highest);
            }
            let objects = gc.types.iter().map(|kind| kind.objects).sum::<u64>();
            let bytes = gc.types.iter().map(|kind| kind.bytes).sum::<u64>();
            text.gauge("gc_live_objects", "Objects of the cycle collector that are live.", objects);
            text.gauge(
                "gc_live_object_bytes",
                "Bytes of live objects of the cycle collector.",
                bytes,
            );
        }
        text.0
    })
}

/// Generations of the cycle collector that are told apart here; it has fewer.
const GENERATIONS: usize = 8;

/// Kinds of what the profile could not hold.
const DROPPED: usize = 4;

/// The paths whose latencies are told apart.
const PATHS: usize = latency::Path::ALL.len();

/// What may only rise of a path's latencies: the count of each bucket, of all, and their sum in
/// nanoseconds.
const LATENCIES: usize = BOUNDS_NS.len() + 2;

/// The most that each counter was said to be (4).
struct Highest {
    scalars: [AtomicU64; COUNTERS.len()],
    classes: [[AtomicU64; CLASSES]; 2],
    dropped: [AtomicU64; DROPPED],
    latencies: [[AtomicU64; LATENCIES]; PATHS],
    generations: [[AtomicU64; GENERATIONS]; 4],
}

/// That of this process; a child of fork goes on with its parent's, as its counters do.
static OWN: Highest = Highest::new();

impl Highest {
    const fn new() -> Highest {
        Highest {
            scalars: [const { AtomicU64::new(0) }; COUNTERS.len()],
            classes: [const { [const { AtomicU64::new(0) }; CLASSES] }; 2],
            dropped: [const { AtomicU64::new(0) }; DROPPED],
            latencies: [const { [const { AtomicU64::new(0) }; LATENCIES] }; PATHS],
            generations: [const { [const { AtomicU64::new(0) }; GENERATIONS] }; 4],
        }
    }

    /// The greater of a reading and those before it.
    fn of(row: &[AtomicU64], place: usize, reading: u64) -> u64 {
        // Relaxed: a maximum of its own.
        row.get(place).map_or(reading, |most| most.fetch_max(reading, Relaxed).max(reading))
    }

    /// The row of a path's latencies; empty for one that is not known.
    fn latencies(&self, path: &str) -> &[AtomicU64] {
        let place = latency::Path::ALL.iter().position(|(_, name)| *name == path);
        place.and_then(|place| self.latencies.get(place)).map_or(&[], |row| row.as_slice())
    }
}

/// A name, a help and a value.
type Number = (&'static str, &'static str, fn(&Stats) -> u64);

const COUNTERS: [Number; 9] = [
    ("allocations_total", "Blocks allocated.", |stats| stats.allocs),
    ("deallocations_total", "Blocks freed.", |stats| stats.deallocs),
    ("reallocations_total", "Calls of realloc.", |stats| stats.reallocs),
    ("reallocations_in_place_total", "Those that left the block where it was.", |stats| {
        stats.reallocs_in_place
    }),
    ("reallocations_moved_total", "Those that moved it.", |stats| stats.reallocs_moved),
    ("reallocation_copied_bytes_total", "Bytes copied for that.", |stats| {
        stats.realloc_bytes_copied
    }),
    ("fallback_allocations_total", "Requests above 512 bytes.", |stats| stats.fallback_allocs),
    ("fallback_deallocations_total", "Their blocks that came back.", |stats| {
        stats.fallback_deallocs
    }),
    ("orphan_allocations_total", "Blocks for threads without a cache.", |stats| {
        stats.orphan_allocs
    }),
];

const GAUGES: [Number; 13] = [
    ("live_blocks", "Blocks in the program's hands.", |stats| stats.live_blocks),
    ("live_bytes", "Bytes in the program's hands.", |stats| stats.live_bytes),
    ("peak_live_bytes", "The most that live bytes were.", |stats| stats.peak_live_bytes),
    ("arenas", "Arenas in use.", |stats| stats.arenas),
    ("peak_arenas", "The most arenas that were in use at once.", |stats| stats.peak_arenas),
    ("pools", "Pools in use.", |stats| stats.pools),
    ("peak_pools", "The most pools that were in use at once.", |stats| stats.peak_pools),
    ("mapped_bytes", "Bytes of arenas in use.", |stats| stats.mapped_bytes),
    ("free_bytes", "Bytes of them in no block of the program.", |stats| stats.free_bytes),
    ("fallback_live_blocks", "Blocks of the fallback in the program's hands.", |stats| {
        stats.fallback_live_blocks
    }),
    ("fallback_live_bytes", "Their bytes.", |stats| stats.fallback_live_bytes),
    ("fallback_cached_bytes", "Bytes of free fallback blocks in the caches of threads.", |stats| {
        stats.fallback_cached_bytes
    }),
    ("threads", "Threads that have a cache.", |stats| stats.threads),
];

/// The text, a metric at a time.
struct Text(String);

impl Text {
    /// Invariant 2: the lines before the samples.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail; nor does it below.
        let _ = writeln!(self.0, "# HELP poolalloc_{name} {help}");
        let _ = writeln!(self.0, "# TYPE poolalloc_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        let _ = write!(self.0, "poolalloc_{name}");
        for (place, (label, value)) in labels.iter().enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"");
            let _ = write!(self.0, "{before}{label}=\"{}\"", value.replace('\n', "\\n"));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{after} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, "counter", help);
        self.sample(name, &[], value);
    }
}

fn counters(text: &mut Text, report: &Report, highest: &Highest) {
    for (place, (name, help, value)) in COUNTERS.into_iter().enumerate() {
        text.counter(name, help, Highest::of(&highest.scalars, place, value(&report.stats)));
    }
    for (name, help, value) in GAUGES {
        text.gauge(name, help, value(&report.stats));
    }
    let started = report.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    let help = "When the process began, in seconds since 1970.";
    text.gauge("process_start_time_seconds", help, started.as_secs_f64());
}

fn memory(text: &mut Text, report: &Report) {
    let memory = &report.memory;
    let parts = [
        ("live", memory.live),
        ("cached", memory.cached),
        ("free_blocks", memory.free_blocks),
        ("free_pools", memory.free_pools),
        ("given_back", memory.given_back),
        ("metadata", memory.metadata),
        ("rounding", memory.rounding),
    ];
    text.metric(
        "arena_bytes",
        "gauge",
        "Bytes of arenas by what they are; they sum to all arenas.",
    );
    for (part, bytes) in parts {
        text.sample("arena_bytes", &[("part", &part)], bytes);
    }
    if let Some(rss) = report.rss.as_ref().filter(|rss| !rss.parts.is_empty()) {
        let help = "Resident bytes of the process by what they are; they sum to all of them.";
        text.metric("resident_bytes", "gauge", help);
        for part in &rss.parts {
            text.sample("resident_bytes", &[("part", &part.name.replace(' ', "_"))], part.bytes);
        }
    }
}

fn classes(text: &mut Text, classes: &[ClassStats], highest: &Highest) {
    type Column = (&'static str, &'static str, fn(&ClassStats) -> u64);
    let columns: [Column; 2] = [
        ("class_allocations_total", "Blocks allocated.", |class| class.allocs),
        ("class_deallocations_total", "Blocks freed.", |class| class.deallocs),
    ];
    for ((name, help, value), highest) in columns.into_iter().zip(&highest.classes) {
        text.metric(name, "counter", help);
        for class in classes {
            // There is a class for every 8 bytes.
            let place = (class.size / 8).saturating_sub(1) as usize;
            let value = Highest::of(highest, place, value(class));
            text.sample(name, &[("class", &class.size)], value);
        }
    }
    text.metric("class_pools", "gauge", "Pools of the size class.");
    for class in classes {
        text.sample("class_pools", &[("class", &class.size)], class.pools);
    }
    text.metric("class_blocks", "gauge", "Blocks of the size class, by where they are.");
    for class in classes {
        let states = [
            ("live", class.live_blocks),
            ("cached", class.cached_blocks),
            ("free", class.free_blocks),
        ];
        for (state, blocks) in states {
            text.sample("class_blocks", &[("class", &class.size), ("state", &state)], blocks);
        }
    }
}

fn profile(text: &mut Text, report: &Report, highest: &Highest) {
    if let Some(snapshot) = &report.snapshot {
        let help = "Mean bytes between two samples; 1 where every block is traced.";
        text.gauge("profile_period_bytes", help, snapshot.rate);
        let totals = snapshot.totals();
        let help = "Live bytes as the profile estimates them: beside live_bytes, which is exact.";
        text.gauge("profile_live_bytes", help, totals.live_bytes);
        let help = "The standard error of that estimate.";
        text.gauge("profile_live_error_bytes", help, totals.live_bytes_error);
        let help = "Call sites known to the profile.";
        text.gauge("profile_sites", help, snapshot.sites.len());
        let help = "Bytes that the profile itself takes.";
        text.gauge("profile_memory_bytes", help, snapshot.tool_bytes);
        let Dropped { stacks, blocks, truncated, corrupt } = snapshot.dropped;
        let help = "What bounded tables of the profile could not hold.";
        text.metric("profile_dropped_total", "counter", help);
        let kinds: [(&str, u64); DROPPED] = [
            ("stacks", stacks),
            ("blocks", blocks),
            ("truncated", truncated),
            ("corrupt", corrupt),
        ];
        for (place, (what, value)) in kinds.into_iter().enumerate() {
            let value = Highest::of(&highest.dropped, place, value);
            text.sample("profile_dropped_total", &[("what", &what)], value);
        }
    }
    if report.tool_ns > 0 {
        let help = "Time that putting this report together took.";
        text.gauge("report_duration_seconds", help, seconds(report.tool_ns));
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn latency(text: &mut Text, paths: &[Latency], highest: &Highest) {
    let name = "latency_seconds";
    text.metric(name, "histogram", "How long calls took, by path.");
    let bucket = &format!("{name}_bucket");
    for Latency { path, histogram } in paths {
        // Each for itself: where no bucket was ever below the one before it, neither are the most
        // that they were.
        let row = highest.latencies(path);
        for (place, (bound, below)) in below(histogram).into_iter().enumerate() {
            let below = Highest::of(row, place, below);
            text.sample(bucket, &[("path", path), ("le", &seconds(bound))], below);
        }
        let count = Highest::of(row, BOUNDS_NS.len(), histogram.len());
        let sum = Highest::of(row, BOUNDS_NS.len() + 1, sum(histogram));
        text.sample(bucket, &[("path", path), ("le", &"+Inf")], count);
        text.sample(&format!("{name}_sum"), &[("path", path)], seconds(sum));
        text.sample(&format!("{name}_count"), &[("path", path)], count);
    }
}

/// The bounds, each with how many values are not above it.
fn below(histogram: &Histogram<u64>) -> [(u64, u64); BOUNDS_NS.len()] {
    let mut steps = histogram.iter_recorded().peekable();
    let mut below = 0;
    BOUNDS_NS.map(|bound| {
        while let Some(step) = steps.next_if(|step| step.value_iterated_to() <= bound) {
            below += step.count_at_value();
        }
        (bound, below)
    })
}

/// All values together, in nanoseconds, as exact as the histogram's cells. Summed as whole numbers:
/// those do not step back when another value comes in.
fn sum(histogram: &Histogram<u64>) -> u64 {
    let steps = histogram.iter_recorded();
    let sum: u128 = steps
        .map(|step| {
            let middle = histogram.median_equivalent(step.value_iterated_to());
            u128::from(middle) * u128::from(step.count_at_value())
        })
        .sum();
    // Some 600 years of calls.
    u64::try_from(sum).unwrap_or(u64::MAX)
}

fn generations(text: &mut Text, generations: &[GcGeneration], highest: &Highest) {
    type Column = (&'static str, &'static str, fn(&GcGeneration) -> u64);
    let columns: [Column; 4] = [
        ("gc_collections_total", "Collections of the cycle collector.", |g| g.collections),
        ("gc_candidates_total", "Objects that collections looked at.", |g| g.candidates),
        ("gc_freed_total", "Objects that collections freed.", |g| g.freed),
        ("gc_retained_total", "Objects that collections found alive.", |g| g.retained),
    ];
    for ((name, help, value), highest) in columns.into_iter().zip(&highest.generations) {
        text.metric(name, "counter", help);
        for (number, generation) in generations.iter().enumerate() {
            let value = Highest::of(highest, number, value(generation));
            text.sample(name, &[("generation", &number)], value);
        }
    }
    let name = "gc_pause_seconds";
    text.metric(name, "gauge", "Pauses of collections by quantile; 1 is the longest.");
    for (number, generation) in generations.iter().enumerate() {
        let quantiles = [
            ("0.5", generation.pause_p50_ns),
            ("0.99", generation.pause_p99_ns),
            ("1", generation.pause_max_ns),
        ];
        for (quantile, pause) in quantiles {
            let labels: [(&str, &dyn Display); 2] =
                [("generation", &number), ("quantile", &quantile)];
            text.sample(name, &labels, seconds(pause));
        }
    }
}

#[cfg(test)]
#[path = "prometheus_tests.rs"]
mod tests;
