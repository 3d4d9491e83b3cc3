//! One screen of text: what is live, where the memory is, who holds it, what looking at it cost.
//!
//! 1. No line is longer than 100 columns, and there are at most 50 lines.
//! 2. The parts of the arenas' memory stand above the line that they sum to.
//!
//! No unsafe here.

use super::frame::Symbols;
use super::model::Report;
use super::stacks::{Call, Resolved, naming};
use crate::{Dropped, Site, Snapshot};
use std::fmt::Write;

/// Columns of a line.
const WIDTH: usize = 100;

/// Lines of a table at most.
const ROWS: usize = 8;

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
    cost(&mut text, report);
    text.lines().map(|line| cut(line) + "\n").collect()
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

fn row(text: &mut String, name: &str, site: &Site) {
    let within = site.totals().live_bytes_error;
    let within = if within > 0.0 { format!("+-{}", bytes(within)) } else { String::new() };
    let live = count(super::stacks::whole(site.live));
    let size = bytes(site.live_bytes);
    let _ = writeln!(text, "{size:>10} {within:>11} in {live:>9}  {name}");
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

/// The call sites of which nothing was freed: leaks are among them, and what the program needs to its end. `sites` has them by
/// name; by their stacks they were told apart.
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
    let _ = writeln!(
        text,
        "rounding: {} lost, {} of it in blocks of {}",
        bytes(lost),
        bytes(worst.lost_bytes),
        count(worst.class_size)
    );
    let saves = classes.iter().filter_map(|class| Some((class.class_size, class.additional?)));
    if let Some((size, better)) = saves.max_by(|a, b| a.1.saved_bytes.total_cmp(&b.1.saved_bytes)) {
        let _ = writeln!(
            text,
            "one more class of {} bytes below that of {} would save {}",
            count(better.size),
            count(size),
            bytes(better.saved_bytes)
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
        *text = wrapped(text);
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

/// The text with its last line broken at ` +` where it is too long.
fn wrapped(text: &str) -> String {
    let start = text.rfind('\n').map_or(0, |end| end + 1);
    let (before, last) = text.split_at(start);
    let mut wrapped = before.to_owned();
    let mut column = 0;
    for part in last.split_inclusive(" +") {
        if column > 0 && column + part.len() > WIDTH {
            wrapped.push_str("\n   ");
            column = 3;
        }
        wrapped.push_str(part);
        column += part.len();
    }
    wrapped
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
    let estimate: f64 = snapshot.sites.iter().map(|site| site.live_bytes).sum();
    let exact = snapshot.stats.live_bytes as f64;
    let off = 100.0 * (estimate / exact.max(1.0) - 1.0);
    let _ = writeln!(
        text,
        "the profile takes {}; live by its sites {}, by the counters {} ({off:+.1} %)",
        bytes(snapshot.tool_bytes as f64),
        bytes(estimate),
        bytes(exact)
    );
}

#[cfg(test)]
mod tests {
    use super::super::{NoSymbols, testing};
    use super::*;

    fn screen(report: &Report) -> String {
        let text = text(report, &testing::symbols);
        assert!(text.lines().count() <= 50, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.ends_with('\n'));
        text
    }

    #[test]
    fn everything_fits_one_screen() {
        let text = screen(&testing::report());
        for part in [
            "poolalloc: server (process 4321) after 95.0 s\n",
            "classes: 8 with live blocks\n",
            "call sites: 7 with live blocks (estimates, one sample in 512 KiB)\n",
            "server::http::parse (src/http.rs:88)\n",
            "never freed: 605 KiB at 1 call sites\n",
            " pinned by 61 blocks (7.6 KiB) of <server::session::Store as Open>::open (src/session.rs:63)\n",
            "one more class of 1,312 bytes below that of 1,536 would save 140 KiB\n",
            "dropped: 2 stacks, 5 blocks; walks cut: 17, corrupt: 1\n",
            "this report took 38.4 ms\n",
            "the profile takes 768 KiB; live by its sites",
            "(-1.7 %)\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn every_counter_is_on_the_screen() {
        let report = testing::report();
        let text = screen(&report);
        for (name, value) in report.stats.rows() {
            // The rest of what is mapped is in the table of its parts.
            let shown = match name {
                "free bytes" => continue,
                "mapped bytes" => value.to_string(),
                name if name.contains("bytes") => bytes(value as f64),
                _ => count(value),
            };
            assert!(text.contains(&shown), "{name} {shown}\n{text}");
        }
    }

    #[test]
    fn the_parts_sum_to_the_line_below_them() {
        let text = screen(&testing::report());
        let rows: Vec<u64> = text
            .lines()
            .skip_while(|line| !line.starts_with("arenas:"))
            .skip(1)
            .take(8)
            .map(|line| line.get(15..31).expect("a column").trim().parse().expect("a number"))
            .collect();
        assert_eq!(rows[..7].iter().sum::<u64>(), rows[7]);
    }

    #[test]
    fn long_names_and_many_sites_do_not_make_it_longer() {
        let site = |number: u64| Site {
            stack: vec![number],
            live: 1.0,
            live_bytes: 1.0 + number as f64,
            ..Site::default()
        };
        let mut report = testing::report();
        report.snapshot = Some(testing::snapshot((0..100).map(site).collect()));
        let text = screen(&report);
        assert!(text.contains("call sites: 100 with live blocks (every block traced)\n"));
        assert!(text.contains("and 92 more\n"));
        let long = |a: &[u64]| vec![vec![testing::named(&"é".repeat(500))]; a.len()];
        assert!(super::text(&report, &long).contains("éé...\n"));
    }

    #[test]
    fn without_a_profile_it_is_still_a_page() {
        let text = super::text(&Report::empty(), &NoSymbols);
        assert!(text.contains("= mapped"));
        assert!(text.contains("no profile was on"));
        assert!(!text.contains("call sites"));
    }

    #[test]
    fn of_absolute_paths_the_end_is_shown() {
        assert_eq!(short("/a/b/src/main.rs:3"), "src/main.rs:3");
        assert_eq!(short("/main.rs"), "/main.rs");
        assert_eq!(short("src/a/b/main.rs"), "src/a/b/main.rs");
    }

    #[test]
    fn sizes_and_counts_are_for_people() {
        let sizes = [0.0, 999.0, 1_000.0, 1_024.0, 102_400.0, 1e6, 1e12].map(bytes);
        let expected = ["0 B", "999 B", "1.0 KiB", "1.0 KiB", "100 KiB", "977 KiB", "931 GiB"];
        assert_eq!(sizes, expected);
        assert_eq!(
            [0, 12, 123, 1_234, 1_234_567].map(count),
            ["0", "12", "123", "1,234", "1,234,567"]
        );
    }
}
