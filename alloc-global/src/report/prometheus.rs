//! Prometheus' text format, version 0.0.4.
//!
//! 1. Every name begins with `poolalloc_`; units are bytes and seconds; counters end in `_total`.
//! 2. Every metric has one `HELP` and one `TYPE`, before its samples, and its samples stand together.
//! 3. The labels are size classes, parts, paths, generations and the few names that the tool itself gives: never a call
//!    site or a type, of which there is no end.
//!
//! No unsafe here.

use super::model::{GcGeneration, Latency, Report};
use crate::ClassStats;
use hdrhistogram::Histogram;
use std::fmt::{Display, Write};
use std::time::UNIX_EPOCH;

/// The type that goes with [`prometheus`].
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the buckets of latency, in nanoseconds: 1, 2.5 and 5 of each decade.
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

/// The report's numbers in Prometheus' text format.
///
/// ```
/// use alloc_global::report::{self, Report};
///
/// let text = report::prometheus(&Report::of_process());
/// assert!(text.contains("# TYPE poolalloc_live_bytes gauge"));
/// ```
pub fn prometheus(report: &Report) -> String {
    let mut text = Text(String::new());
    counters(&mut text, report);
    memory(&mut text, report);
    if let Some(classes) = report.classes.as_deref().filter(|classes| !classes.is_empty()) {
        self::classes(&mut text, classes);
    }
    profile(&mut text, report);
    if let Some(paths) = report.latency.as_deref().filter(|paths| !paths.is_empty()) {
        latency(&mut text, paths);
    }
    if let Some(gc) = &report.gc {
        if !gc.generations.is_empty() {
            generations(&mut text, &gc.generations);
        }
        let objects = gc.types.iter().map(|kind| kind.objects).sum::<u64>();
        let bytes = gc.types.iter().map(|kind| kind.bytes).sum::<u64>();
        text.gauge("gc_live_objects", "Objects of the cycle collector that are live.", objects);
        text.gauge("gc_live_object_bytes", "Bytes of live objects of the cycle collector.", bytes);
    }
    text.0
}

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

fn counters(text: &mut Text, report: &Report) {
    let stats = &report.stats;
    text.counter("allocations_total", "Blocks allocated.", stats.allocs);
    text.counter("deallocations_total", "Blocks freed.", stats.deallocs);
    text.counter("reallocations_total", "Calls of realloc.", stats.reallocs);
    text.gauge("live_blocks", "Blocks in the program's hands.", stats.live_blocks);
    text.gauge("live_bytes", "Bytes in the program's hands.", stats.live_bytes);
    text.gauge("peak_live_bytes", "The most that live bytes were.", stats.peak_live_bytes);
    text.gauge("arenas", "Arenas in use.", stats.arenas);
    text.gauge("mapped_bytes", "Bytes of arenas in use.", stats.mapped_bytes);
    let help = "Blocks of the fallback in the program's hands.";
    text.gauge("fallback_live_blocks", help, stats.fallback_live_blocks);
    text.gauge("fallback_live_bytes", "Their bytes.", stats.fallback_live_bytes);
    let help = "Bytes of free fallback blocks in the caches of threads.";
    text.gauge("fallback_cached_bytes", help, stats.fallback_cached_bytes);
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

fn classes(text: &mut Text, classes: &[ClassStats]) {
    type Column = (&'static str, &'static str, &'static str, fn(&ClassStats) -> u64);
    let columns: [Column; 3] = [
        ("class_allocations_total", "counter", "Blocks allocated.", |class| class.allocs),
        ("class_deallocations_total", "counter", "Blocks freed.", |class| class.deallocs),
        ("class_pools", "gauge", "Pools of the size class.", |class| class.pools),
    ];
    for (name, kind, help, value) in columns {
        text.metric(name, kind, help);
        for class in classes {
            text.sample(name, &[("class", &class.size)], value(class));
        }
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

fn profile(text: &mut Text, report: &Report) {
    if let Some(snapshot) = &report.snapshot {
        let help = "Mean bytes between two samples; 1 where every block is traced.";
        text.gauge("profile_period_bytes", help, snapshot.rate);
        let help = "Call sites known to the profile.";
        text.gauge("profile_sites", help, snapshot.sites.len());
        let help = "Bytes that the profile itself takes.";
        text.gauge("profile_memory_bytes", help, snapshot.tool_bytes);
        let dropped = &snapshot.dropped;
        let help = "What bounded tables of the profile could not hold.";
        text.metric("profile_dropped_total", "counter", help);
        text.sample("profile_dropped_total", &[("what", &"stacks")], dropped.stacks);
        text.sample("profile_dropped_total", &[("what", &"blocks")], dropped.blocks);
        text.sample("profile_dropped_total", &[("what", &"truncated")], dropped.truncated);
        text.sample("profile_dropped_total", &[("what", &"corrupt")], dropped.corrupt);
    }
    if report.tool_ns > 0 {
        let help = "Time that putting this report together took.";
        text.gauge("report_duration_seconds", help, seconds(report.tool_ns));
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn latency(text: &mut Text, paths: &[Latency]) {
    let name = "latency_seconds";
    text.metric(name, "histogram", "How long calls took, by path.");
    for Latency { path, histogram } in paths {
        let mut bounds = BOUNDS_NS.into_iter().peekable();
        let mut below = 0;
        let bucket = &format!("{name}_bucket");
        for step in histogram.iter_recorded() {
            while let Some(bound) = bounds.next_if(|&bound| bound < step.value_iterated_to()) {
                text.sample(bucket, &[("path", path), ("le", &seconds(bound))], below);
            }
            below += step.count_at_value();
        }
        for bound in bounds {
            text.sample(bucket, &[("path", path), ("le", &seconds(bound))], below);
        }
        text.sample(bucket, &[("path", path), ("le", &"+Inf")], histogram.len());
        text.sample(&format!("{name}_sum"), &[("path", path)], sum(histogram));
        text.sample(&format!("{name}_count"), &[("path", path)], histogram.len());
    }
}

/// All values together, in seconds, as exact as the histogram's cells.
fn sum(histogram: &Histogram<u64>) -> f64 {
    histogram.mean() * histogram.len() as f64 / 1e9
}

fn generations(text: &mut Text, generations: &[GcGeneration]) {
    type Column = (&'static str, &'static str, fn(&GcGeneration) -> u64);
    let columns: [Column; 4] = [
        ("gc_collections_total", "Collections of the cycle collector.", |g| g.collections),
        ("gc_candidates_total", "Objects that collections looked at.", |g| g.candidates),
        ("gc_freed_total", "Objects that collections freed.", |g| g.freed),
        ("gc_retained_total", "Objects that collections found alive.", |g| g.retained),
    ];
    for (name, help, value) in columns {
        text.metric(name, "counter", help);
        for (number, generation) in generations.iter().enumerate() {
            text.sample(name, &[("generation", &number)], value(generation));
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
