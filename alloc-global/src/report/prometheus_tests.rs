//! The text read back by another implementation, and held to the rules that it does not check.
//!
//! No unsafe here.

use super::super::testing;
use super::*;
use prometheus_parse::{Sample, Scrape, Value};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;

fn scrape(text: &str) -> Scrape {
    check(text);
    Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).expect("a scrape")
}

/// The metric that a sample belongs to.
fn family<'n>(name: &'n str, kinds: &HashMap<&str, &str>) -> &'n str {
    let histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| {
        let family = name.strip_suffix(end)?;
        (kinds.get(family) == Some(&"histogram")).then_some(family)
    });
    histogram.unwrap_or(name)
}

/// What the format demands of lines, and what its users agreed on for names.
fn check(text: &str) {
    assert!(text.ends_with('\n'));
    let (mut kinds, mut helps, mut seen) = (HashMap::new(), HashSet::new(), HashSet::new());
    let (mut current, mut left) = ("", HashSet::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a name and a help");
            assert!(!help.is_empty() && helps.insert(name), "{line}");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(helps.contains(name) && kinds.insert(name, kind).is_none(), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(name.starts_with("poolalloc_"), "{line}");
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(name.chars().all(legal), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a sample");
        assert!(value.parse::<f64>().expect("a number").is_finite(), "{line}");
        assert!(seen.insert(series), "{line} comes twice");
        let family = family(series.split('{').next().unwrap_or(""), &kinds);
        assert!(kinds.contains_key(family), "{line} has no type");
        if family != current {
            assert!(left.insert(family), "the samples of {family} stand apart");
            current = family;
        }
    }
    assert_eq!(left.len(), kinds.len(), "a metric without a sample");
}

fn number(sample: &Sample) -> f64 {
    match sample.value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
        _ => panic!("{sample:?} is no number"),
    }
}

fn one(scrape: &Scrape, name: &str) -> f64 {
    let mut samples = scrape.samples.iter().filter(|sample| sample.metric == name);
    let value = number(samples.next().expect(name));
    assert!(samples.next().is_none(), "{name} is one number");
    value
}

fn all<'s>(scrape: &'s Scrape, name: &'s str) -> impl Iterator<Item = &'s Sample> {
    scrape.samples.iter().filter(move |sample| sample.metric == name)
}

#[test]
fn counters_and_parts_are_those_of_the_report() {
    let report = testing::report();
    let scrape = scrape(&prometheus(&report));
    assert_eq!(one(&scrape, "poolalloc_allocations_total"), report.stats.allocs as f64);
    assert_eq!(one(&scrape, "poolalloc_live_bytes"), report.stats.live_bytes as f64);
    assert_eq!(one(&scrape, "poolalloc_report_duration_seconds"), 0.0384);
    let totals = report.snapshot.as_ref().expect("a profile").totals();
    assert_eq!(one(&scrape, "poolalloc_profile_live_bytes"), totals.live_bytes);
    assert!(totals.live_bytes_error > 0.0);
    assert_eq!(one(&scrape, "poolalloc_profile_live_error_bytes"), totals.live_bytes_error);
    let parts: f64 = all(&scrape, "poolalloc_arena_bytes").map(number).sum();
    assert_eq!(parts, one(&scrape, "poolalloc_mapped_bytes"));
    let resident: f64 = all(&scrape, "poolalloc_resident_bytes").map(number).sum();
    assert_eq!(resident, report.rss.expect("parts").resident as f64);
    assert_eq!(scrape.docs["poolalloc_live_bytes"], "Bytes in the program's hands.");
}

#[test]
fn every_counter_is_there() {
    let report = testing::report();
    let text = prometheus(&report);
    for (name, value) in report.stats.rows() {
        let end = format!(" {value}");
        let found = text.lines().filter(|line| !line.contains('{') && line.ends_with(&end));
        assert!(value > 0 && found.count() == 1, "{name} {value}");
    }
}

/// Blocks of some sizes, taken and given back by turns, until `done`.
fn churn(seed: usize, done: &AtomicBool) {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut step = seed;
    // Relaxed: only the flag is read.
    while !done.load(Relaxed) {
        step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = [8, 24, 24, 64, 500, 3_000][(step >> 33) % 6];
        kept.push(vec![1; size]);
        if kept.len() > 300 {
            kept.truncate((step >> 40) % 300);
        }
    }
}

/// What may only rise, by its name and labels.
fn rising(text: &str) -> HashMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let counters = samples.filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        let rises = ["_total", "_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end));
        rises.then(|| (series.to_owned(), value.parse().expect("a number")))
    });
    counters.collect()
}

/// Ends the churn, also where an assertion fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        // Relaxed: only the flag is read.
        self.0.store(true, Relaxed);
    }
}

#[test]
fn no_counter_steps_back_while_threads_work() {
    crate::start_latency();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        for seed in 1..4 {
            let done = &done;
            scope.spawn(move || churn(seed, done));
        }
        let mut before = HashMap::new();
        for _ in 0..400 {
            let report = Report::gather();
            let now = rising(&prometheus(&report));
            for (series, value) in &before {
                // Of a thread's first latencies there is nothing before.
                let later: Option<&f64> = now.get(series);
                assert!(later.is_some_and(|later| later >= value), "{series} {value} {later:?}");
            }
            before = now;
        }
        assert!(before.len() > 2 * CLASSES, "{} counters", before.len());
    });
    crate::stop_latency();
}

#[test]
fn no_counter_steps_back_where_an_older_report_comes_later() {
    let mut older = testing::report();
    older.pid = std::process::id();
    let mut newer = older.clone();
    for latency in newer.latency.iter_mut().flatten() {
        latency.histogram.record_n(3, 1_000).expect("within its bounds");
        latency.histogram.record_n(400_000_000, 10).expect("within its bounds");
    }
    let dropped = &mut newer.snapshot.as_mut().expect("a profile").dropped;
    *dropped = Dropped { stacks: 1 << 40, blocks: 1 << 41, truncated: 1 << 42, corrupt: 1 << 43 };
    newer.gc.as_mut().expect("collections").generations[0].collections += 1;
    let highest = Highest::new();
    let [before, now] = [&newer, &older].map(|report| {
        let mut text = Text(String::new());
        profile(&mut text, report, &highest);
        super::latency(&mut text, report.latency.as_deref().expect("paths"), &highest);
        let generations = &report.gc.as_ref().expect("collections").generations;
        super::generations(&mut text, generations, &highest);
        rising(&text.0)
    });
    assert_eq!(before, now);
    let paths = older.latency.as_ref().map_or(0, Vec::len);
    assert!(before.len() > DROPPED + paths * LATENCIES, "{} counters", before.len());
    // What of another process there was is not mixed in.
    older.pid += 1;
    let text = prometheus(&older);
    assert!(!text.contains(&(1u64 << 40).to_string()), "{text}");
}

#[test]
fn classes_are_labels_and_call_sites_are_not() {
    let report = testing::report();
    let text = prometheus(&report);
    let scrape = scrape(&text);
    for class in report.classes.expect("classes") {
        let size = class.size.to_string();
        let of = |state: &str| {
            let mut blocks = all(&scrape, "poolalloc_class_blocks");
            let found = blocks.find(|sample| {
                sample.labels.get("class") == Some(&size)
                    && sample.labels.get("state") == Some(state)
            });
            number(found.expect("a sample"))
        };
        assert_eq!(of("live"), class.live_blocks as f64);
        assert_eq!(of("cached"), class.cached_blocks as f64);
        assert_eq!(of("free"), class.free_blocks as f64);
    }
    assert!(!text.contains("server"), "a call site or a type");
}

#[test]
fn latency_is_a_histogram_of_cumulative_buckets_in_seconds() {
    let report = testing::report();
    let text = prometheus(&report);
    let scrape = scrape(&text);
    for Latency { path, histogram } in report.latency.as_ref().expect("paths") {
        let mut samples = all(&scrape, "poolalloc_latency_seconds");
        let sample = samples.find(|sample| sample.labels.get("path") == Some(path));
        let Value::Histogram(buckets) = &sample.expect("a histogram").value else {
            panic!("no histogram")
        };
        assert_eq!(buckets.len(), BOUNDS_NS.len() + 1);
        let (mut bound, mut count) = (0.0, 0.0);
        for bucket in buckets {
            assert!(bucket.less_than > bound && bucket.count >= count, "{path} {bucket:?}");
            (bound, count) = (bucket.less_than, bucket.count);
        }
        assert_eq!((bound, count), (f64::INFINITY, histogram.len() as f64));
        // What the histogram itself says, to within one of its cells.
        let below = buckets.iter().find(|bucket| bucket.less_than == 1e-6).expect("a bucket").count;
        let exact = histogram.count_between(0, histogram.lowest_equivalent(1_000) - 1);
        assert!((below - exact as f64).abs() <= histogram.count_at(1_000) as f64, "{path}");
        let line =
            format!("poolalloc_latency_seconds_count{{path=\"{path}\"}} {}", histogram.len());
        assert!(text.lines().any(|other| other == line), "{line}");
    }
}

#[test]
fn what_was_not_switched_on_is_not_there() {
    let bare = Report::empty();
    let text = prometheus(&bare);
    let scrape = scrape(&text);
    for absent in ["class", "latency", "gc", "profile", "resident"] {
        assert!(!text.contains(&format!("poolalloc_{absent}")), "{absent}");
    }
    assert_eq!(one(&scrape, "poolalloc_live_blocks"), 0.0);
}

#[test]
fn no_list_is_a_metric_without_samples() {
    let mut report = testing::report();
    report.classes = Some(Vec::new());
    report.latency = Some(Vec::new());
    report.gc = Some(super::super::GcReport::default());
    report.rss = Some(crate::Rss::default());
    scrape(&prometheus(&report));
}

#[test]
fn the_handler_says_which_version_of_the_format_it_is() {
    let report = testing::report();
    let (kind, bytes) = super::super::handlers::metrics(&report);
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(bytes, prometheus(&report).into_bytes());
}

#[test]
fn labels_are_escaped() {
    let mut text = Text(String::new());
    text.sample("a", &[("b", &"c\"d\\e\nf")], 1);
    assert_eq!(text.0, "poolalloc_a{b=\"c\\\"d\\\\e\\nf\"} 1\n");
}
