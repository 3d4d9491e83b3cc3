//! A frame in words: what `--once` prints, and the lines that the panes show.
//!
//! Pure functions of a frame. No unsafe here.

use alloc_global::{ClassStats, LiveFrame};
use std::fmt::Write as _;

/// The keys of the view.
pub(crate) const KEYS: &str = "q quit   p pause   up/down scroll";

/// Width of a class's bar.
const BAR: usize = 24;

/// Bytes with three digits and a unit.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let places = if unit == 0 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.places$} {}", units[unit])
}

/// A bar of `width` characters: `#` live, `+` cached, `.` free, in proportion; every part that is
/// not 0 shows.
pub(crate) fn bar(class: &ClassStats, width: usize) -> String {
    let parts = [class.live_blocks, class.cached_blocks, class.free_blocks];
    let all: u64 = parts.iter().sum();
    if all == 0 {
        return " ".repeat(width);
    }
    // In floating point: counts may be any 64 bits.
    let share = |part: u64| (part as f64 / all as f64 * width as f64).round() as usize;
    let mut widths = parts.map(|part| share(part).max(usize::from(part > 0)));
    // What rounding gave too much or too little, the widest part bears.
    let widest = (0..3).max_by_key(|index| widths[*index]).unwrap_or(0);
    let others: usize = (0..3).filter(|index| *index != widest).map(|index| widths[index]).sum();
    widths[widest] = width.saturating_sub(others);
    ["#", "+", "."].iter().zip(widths).map(|(mark, width)| mark.repeat(width)).collect()
}

/// A line per size class in use.
pub(crate) fn classes(frame: &LiveFrame) -> Vec<String> {
    let used = frame.classes.iter().filter(|class| class.pools > 0);
    used.map(|class| {
        let ClassStats { size, pools, live_blocks, cached_blocks, .. } = class;
        let bar = bar(class, BAR);
        format!("{size:>4} {pools:>7} {live_blocks:>11} {cached_blocks:>8} {bar}")
    })
    .collect()
}

/// The head of [`classes`].
pub(crate) const CLASS_HEAD: &str = "size   pools        live   cached #live +cached .free";

/// A line per arena.
pub(crate) fn arenas(frame: &LiveFrame) -> Vec<String> {
    let shown = frame.grid.iter().map(|arena| format!("{:>12x} {}", arena.start, arena.symbols));
    let more = frame.arenas.saturating_sub(frame.grid.len() as u64);
    shown.chain((more > 0).then(|| format!("and {more} more arenas"))).collect()
}

/// What the characters of [`arenas`] mean.
pub(crate) const LEGEND: &str = "# metadata  . free  _ given back  0-9 tenths out  * full";

/// A setting as the environment spells it.
fn setting(name: &str, value: u64) -> String {
    match (name, value) {
        ("POOLALLOC_PURGE_DELAY_MS" | "POOLALLOC_HUGE_PAGES", u64::MAX) => "never".to_owned(),
        ("POOLALLOC_HUGE_PAGES", 0) => "always".to_owned(),
        ("POOLALLOC_SAMPLE", 0) => "off".to_owned(),
        ("POOLALLOC_SAMPLE", 1) => "every block".to_owned(),
        ("POOLALLOC_PURGE_DELAY_MS", value) => value.to_string(),
        (_, value) => bytes(value),
    }
}

/// A line per setting.
pub(crate) fn settings(frame: &LiveFrame) -> Vec<String> {
    let lines = frame.settings.iter();
    lines.map(|(name, value)| format!("{name:<26} {}", setting(name, *value))).collect()
}

/// The counters, a line each.
pub(crate) fn totals(frame: &LiveFrame) -> Vec<String> {
    let line = |(name, value): &(&str, u64)| match name.contains("bytes") {
        true => format!("{name:<22} {value:>16}  {}", bytes(*value)),
        false => format!("{name:<22} {value:>16}"),
    };
    frame.stats.iter().map(line).collect()
}

/// A frame on one page.
pub(crate) fn page(frame: &LiveFrame) -> String {
    let mut text = format!("process {}\n", frame.pid);
    let sections = [
        ("totals".to_owned(), totals(frame)),
        (format!("size classes\n{CLASS_HEAD}"), classes(frame)),
        (format!("arenas: {LEGEND}"), arenas(frame)),
        ("settings".to_owned(), settings(frame)),
    ];
    for (head, lines) in sections {
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n{head}");
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        for (value, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (150 << 10, "150 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn settings_are_spelt_as_in_the_environment() {
        assert_eq!(setting("POOLALLOC_PURGE_DELAY_MS", u64::MAX), "never");
        assert_eq!(setting("POOLALLOC_PURGE_DELAY_MS", 500), "500");
        assert_eq!(setting("POOLALLOC_HUGE_PAGES", 64 << 20), "64.0 MiB");
        assert_eq!(setting("POOLALLOC_HUGE_PAGES", 0), "always");
        assert_eq!(setting("POOLALLOC_FALLBACK_CACHE", 0), "0 B");
        assert_eq!(setting("POOLALLOC_SAMPLE", 0), "off");
    }
}
