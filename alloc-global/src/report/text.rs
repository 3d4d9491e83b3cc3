//! One screen of text: what is live, where the memory is, who holds it, what looking at it cost.
//!
//! 1. No line is longer than 100 columns, and there are at most 64 lines.
//! 2. The parts of the arenas' memory stand above the line that they sum to.
//!
//! No unsafe here.

use super::frame::Symbols;
use super::model::{GcReport, Latency, Report};
use super::stacks::{Call, Resolved, naming};
use crate::untracked;
use crate::{Dropped, Site, Snapshot, Totals};
use std::fmt::Write;

/// Columns of a line.
const WIDTH: usize = 100;

/// Lines of a table at most.
const ROWS: usize = 6;

/// Generations of the collector at most: it has no more.
const GENERATIONS: usize = 3;

/// Lines of what was never freed at most.
const LEAKS: usize = 3;

/// A report as one screen of text.
///
/// ```
/// use alloc_global::report::{self, NoSymbols, Report};
///
/// let text = report::text(&Report::of_process(), &NoSymbols);
/// assert!(text.lines().any(|line| line.starts_with("= mapped")));
/// ```
pub fn text(report: &Report, symbols: &dyn Symbols) -> String {
    untracked(|| {
        let mut text = String::new();
        // Writing to a string does not fail; nor does it below.
        let ran = report.taken.duration_since(report.started).unwrap_or_default();
        let _ = writeln!(
            text,
            "poolalloc: {} (process {}) after {:.1} s",
            report.program_name(),
            report.pid,
            ran.as_secs_f64()
        );
        totals(&mut text, report);
        identity(&mut text, report);
        classes(&mut text, report);
        let resolved = Resolved::of_report(report, symbols);
        if let Some(snapshot) = &report.snapshot {
            sites(&mut text, snapshot, &resolved);
            rounding(&mut text, report);
        }
        kept(&mut text, report, &resolved);
        latency(&mut text, report.latency.as_deref().unwrap_or_default());
        if let Some(gc) = &report.gc {
            collector(&mut text, gc);
        }
        cost(&mut text, report);
        text.lines().map(|line| cut(line) + "\n").collect()
    })
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        None => line.trim_end().to_owned(),
        Some(_) => line.chars().take(WIDTH - 3).chain("...".chars()).collect(),
    }
}

/// Bytes for people.
pub(super) fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 999.5 && unit < UNITS.len() - 1 {
        value /= 1_024.0;
        unit += 1;
    }
    let digits = if unit > 0 && value < 99.95 { 1 } else { 0 };
    format!("{value:.digits$} {}", UNITS.get(unit).unwrap_or(&""))
}

/// A count for people: groups of three digits.
fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn totals(text: &mut String, report: &Report) {
    let stats = &report.stats;
    let _ = writeln!(
        text,
        "live: {} in {} blocks, at most {} so far",
        bytes(stats.live_bytes as f64),
        count(stats.live_blocks),
        bytes(stats.peak_live_bytes as f64)
    );
    let _ = writeln!(
        text,
        "calls: {} allocations ({} without a cache), {} frees; {} threads",
        count(stats.allocs),
        count(stats.orphan_allocs),
        count(stats.deallocs),
        count(stats.threads)
    );
    let _ = writeln!(
        text,
        "reallocations: {}, {} in place, {} moved, {} copied",
        count(stats.reallocs),
        count(stats.reallocs_in_place),
        count(stats.reallocs_moved),
        bytes(stats.realloc_bytes_copied as f64)
    );
    let _ = writeln!(
        text,
        "fallback: {} live in {} blocks, {} cached; {} allocations, {} frees",
        bytes(stats.fallback_live_bytes as f64),
        count(stats.fallback_live_blocks),
        bytes(stats.fallback_cached_bytes as f64),
        count(stats.fallback_allocs),
        count(stats.fallback_deallocs)
    );
}

/// Invariant 2.
fn identity(text: &mut String, report: &Report) {
    let memory = &report.memory;
    let rows = [
        ("live", memory.live),
        ("thread caches", memory.cached),
        ("free blocks", memory.free_blocks),
        ("free pools", memory.free_pools),
        ("given back", memory.given_back),
        ("metadata", memory.metadata),
        ("rounding", memory.rounding),
        ("= mapped", memory.mapped),
    ];
    let stats = &report.stats;
    let _ = writeln!(
        text,
        "\narenas: {}, at most {} so far; pools: {}, at most {}",
        count(stats.arenas),
        count(stats.peak_arenas),
        count(stats.pools),
        count(stats.peak_pools)
    );
    for (name, part) in rows {
        let percent = 100.0 * part as f64 / (memory.mapped.max(1)) as f64;
        let _ = writeln!(text, "{name:<15} {part:>15} {percent:>6.1} %  {}", bar(percent));
    }
}

fn bar(percent: f64) -> String {
    "#".repeat((percent / 2.5).round() as usize)
}

fn classes(text: &mut String, report: &Report) {
    let Some(classes) = &report.classes else { return };
    let mut live: Vec<_> = classes.iter().filter(|class| class.live_blocks > 0).collect();
    live.sort_by_key(|class| (u64::MAX - class.live_bytes, class.size));
    let _ = writeln!(
        text,
        "\nclasses: {} with live blocks\n{:>6} {:>14} {:>12} {:>12} {:>12} {:>7} {:>5}",
        live.len(),
        "size",
        "live blocks",
        "live",
        "cached",
        "free",
        "pools",
        "full"
    );
    for class in live.iter().take(ROWS) {
        let blocks = class.live_blocks + class.cached_blocks + class.free_blocks;
        let _ = writeln!(
            text,
            "{:>6} {:>14} {:>12} {:>12} {:>12} {:>7} {:>4.0}%",
            class.size,
            count(class.live_blocks),
            bytes(class.live_bytes as f64),
            bytes((class.cached_blocks * class.size) as f64),
            bytes((class.free_blocks * class.size) as f64),
            class.pools,
            100.0 * class.live_blocks as f64 / blocks.max(1) as f64
        );
    }
    more(text, live.len());
}

/// The end of an absolute path: what tells files of one program apart.
fn short(path: &str) -> &str {
    let slash = path.starts_with('/').then(|| path.rmatch_indices('/').nth(1)).flatten();
    slash.and_then(|(slash, _)| path.get(slash + 1..)).unwrap_or(path)
}

fn more(text: &mut String, rows: usize) {
    if rows > ROWS {
        let _ = writeln!(text, "       and {} more", rows - ROWS);
    }
}

fn sites(text: &mut String, snapshot: &Snapshot, resolved: &Resolved) {
    let name = |calls: Vec<Call>| {
        naming(&calls).map_or(String::new(), |call| match call.frame.place() {
            Some(place) => format!("{} ({})", call.name(), short(&place)),
            None => call.name(),
        })
    };
    let sites = named(resolved, &snapshot.sites, name);
    let watched = match snapshot.rate {
        0 => "nothing watched".to_owned(),
        1 => "every block traced".to_owned(),
        rate => format!("estimates, one sample in {}", bytes(rate as f64)),
    };
    let _ = writeln!(text, "\ncall sites: {} with live blocks ({watched})", sites.len());
    sites.iter().take(ROWS).for_each(|(name, site)| row(text, name, site));
    more(text, sites.len());
    let leaks: Vec<Site> = snapshot.leaks().into_iter().cloned().collect();
    never_freed(text, &named(resolved, &leaks, name));
}

/// The standard error behind an estimate; nothing where every block was recorded.
fn error(error: f64) -> String {
    if error > 0.0 { format!(" +-{}", bytes(error)) } else { String::new() }
}

fn row(text: &mut String, name: &str, site: &Site) {
    let within = error(site.totals().live_bytes_error);
    let live = count(super::stacks::whole(site.live));
    let size = bytes(site.live_bytes);
    let _ = writeln!(text, "{size:>10}{within:>12} in {live:>9}  {name}");
}

/// Sites put together by `name`, the most live bytes first.
fn named(
    resolved: &Resolved,
    sites: &[Site],
    name: impl Fn(Vec<Call>) -> String,
) -> Vec<(String, Site)> {
    let mut sites = resolved.merged(sites, name);
    sites.retain(|(_, site)| site.live_bytes > 0.0);
    sites.sort_by(|(_, a), (_, b)| b.live_bytes.total_cmp(&a.live_bytes));
    sites
}

/// The call sites of which nothing was freed: leaks are among them, and what the program needs to
/// its end. `sites` has them by name; by their stacks they were told apart.
fn never_freed(text: &mut String, sites: &[(String, Site)]) {
    let all = sites.iter().fold(0.0, |all, (_, site)| all + site.live_bytes);
    let _ = writeln!(text, "never freed: {} at {} call sites", bytes(all), sites.len());
    sites.iter().take(LEAKS).for_each(|(name, site)| row(text, name, site));
}

/// What rounding costs in one line, and the class that would save most in another.
fn rounding(text: &mut String, report: &Report) {
    let classes = report.rounding.as_deref().unwrap_or_default();
    let Some(worst) = classes.first() else { return };
    let lost: f64 = classes.iter().map(|class| class.lost_bytes).sum();
    // Classes are sampled independently of each other: variances add up.
    let variances = classes.iter().map(|class| class.lost_bytes_error * class.lost_bytes_error);
    let lost_error = variances.sum::<f64>().sqrt();
    let _ = writeln!(
        text,
        "rounding: {}{} lost, {}{} of it in blocks of {}",
        bytes(lost),
        error(lost_error),
        bytes(worst.lost_bytes),
        error(worst.lost_bytes_error),
        count(worst.class_size)
    );
    let saves = classes.iter().filter_map(|class| Some((class.class_size, class.additional?)));
    if let Some((size, better)) = saves.max_by(|a, b| a.1.saved_bytes.total_cmp(&b.1.saved_bytes)) {
        let _ = writeln!(
            text,
            "one more class of {} bytes below that of {} would save {}{}",
            count(better.size),
            count(size),
            bytes(better.saved_bytes),
            error(better.saved_bytes_error)
        );
    }
}

fn kept(text: &mut String, report: &Report, resolved: &Resolved) {
    if let Some(rss) = &report.rss {
        let _ = write!(text, "\nresident: {} =", bytes(rss.resident as f64));
        for (place, part) in rss.parts.iter().filter(|part| part.bytes > 0).enumerate() {
            let before = if place == 0 { "" } else { " +" };
            let _ = write!(text, "{before} {} {}", bytes(part.bytes as f64), part.name);
        }
        *text = wrapped(text, " +");
        text.push('\n');
    }
    for pin in report.pins.iter().flatten().take(3) {
        let _ = writeln!(
            text,
            "{} pinned by {} blocks ({}) of {}",
            bytes(pin.would_return_bytes as f64),
            count(pin.blocks),
            bytes(pin.bytes as f64),
            resolved.pin_name(pin)
        );
    }
    match report.memory.due_in_ms {
        Some(0) => text.push_str("free memory is due: the next slow path gives it back\n"),
        Some(ms) => {
            let _ = writeln!(text, "free memory is due to go back in {ms} ms");
        }
        None => text.push_str("no free memory waits to go back\n"),
    }
}

/// The text with its last line broken behind `separator` where it is too long.
fn wrapped(text: &str, separator: &str) -> String {
    let start = text.rfind('\n').map_or(0, |end| end + 1);
    let (before, last) = text.split_at(start);
    let mut wrapped = before.to_owned();
    let mut column = 0;
    for part in last.split_inclusive(separator) {
        if column > 0 && column + part.len() > WIDTH {
            wrapped.push_str("\n   ");
            column = 3;
        }
        wrapped.push_str(part);
        column += part.len();
    }
    wrapped
}

/// A time for people.
fn time(ns: u64) -> String {
    const UNITS: [&str; 4] = ["ns", "µs", "ms", "s"];
    let (mut value, mut unit) = (ns as f64, 0);
    while value >= 999.5 && unit < UNITS.len() - 1 {
        value /= 1_000.0;
        unit += 1;
    }
    let digits = if unit > 0 && value < 99.95 { 1 } else { 0 };
    format!("{value:.digits$} {}", UNITS.get(unit).unwrap_or(&""))
}

/// How long calls took, where they were timed.
fn latency(text: &mut String, paths: &[Latency]) {
    if paths.is_empty() {
        return;
    }
    text.push_str("latency (50 %, 99 %, longest):");
    for (place, Latency { path, histogram }) in paths.iter().enumerate() {
        let [half, most] = [0.5, 0.99].map(|quantile| time(histogram.value_at_quantile(quantile)));
        let before = if place == 0 { "" } else { ";" };
        let _ = write!(text, "{before} {path} {half}, {most}, {}", time(histogram.max()));
    }
    *text = wrapped(text, ";");
    text.push('\n');
}

/// What the cycle collector did, a line for each generation, and what lives in its heaps.
fn collector(text: &mut String, gc: &GcReport) {
    if !gc.generations.is_empty() {
        let _ = writeln!(
            text,
            "\n{:>10} {:>11} {:>10} {:>8} {:>8} {:>15} {:>15} {:>15}",
            "generation",
            "collections",
            "pause 50 %",
            "99 %",
            "longest",
            "looked at",
            "freed",
            "retained"
        );
    }
    for (number, row) in gc.generations.iter().take(GENERATIONS).enumerate() {
        let _ = writeln!(
            text,
            "{number:>10} {:>11} {:>10} {:>8} {:>8} {:>15} {:>15} {:>15}",
            count(row.collections),
            time(row.pause_p50_ns),
            time(row.pause_p99_ns),
            time(row.pause_max_ns),
            count(row.candidates),
            count(row.freed),
            count(row.retained)
        );
    }
    let Some(most) = gc.types.iter().max_by_key(|kind| kind.bytes) else { return };
    let objects: u64 = gc.types.iter().map(|kind| kind.objects).sum();
    let sum: u64 = gc.types.iter().map(|kind| kind.bytes).sum();
    let _ = writeln!(
        text,
        "collector: {} objects live, {}, of that {} of {}",
        count(objects),
        bytes(sum as f64),
        bytes(most.bytes as f64),
        most.name
    );
}

/// What could not be held, and what looking cost.
fn cost(text: &mut String, report: &Report) {
    if report.tool_ns > 0 {
        let ms = report.tool_ns as f64 / 1e6;
        let _ = writeln!(text, "this report took {ms:.1} ms");
    }
    let Some(snapshot) = &report.snapshot else {
        text.push_str("no profile was on\n");
        return;
    };
    let Dropped { stacks, blocks, truncated, corrupt } = snapshot.dropped;
    let _ = writeln!(
        text,
        "dropped: {stacks} stacks, {blocks} blocks; walks cut: {truncated}, corrupt: {corrupt}"
    );
    let Totals { live_bytes, live_bytes_error, .. } = snapshot.totals();
    let exact = snapshot.stats.live_bytes as f64;
    let off = 100.0 * (live_bytes / exact.max(1.0) - 1.0);
    let _ = writeln!(
        text,
        "the profile takes {}; live by sites {}{}, by counters {} ({off:+.1} %)",
        bytes(snapshot.tool_bytes as f64),
        bytes(live_bytes),
        error(live_bytes_error),
        bytes(exact)
    );
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
