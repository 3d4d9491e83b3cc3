//! Collapsed stacks: a line per stack, `outermost;...;innermost COUNT`, for flame graphs.
//!
//! 1. One metric a file, and the counts sum to it: to the sum over all sites, rounded once.
//! 2. No name holds a `;`, a line's end or a space at either end.
//!
//! No unsafe here.

use super::frame::Symbols;
use super::model::Report;
use super::stacks::{Call, Resolved, whole_sums};
use crate::Site;
use crate::untracked;

/// What the widths of a flame graph stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Metric {
    /// Bytes live.
    #[default]
    LiveBytes,
    /// Blocks live.
    LiveBlocks,
    /// Bytes allocated since the profile was switched on.
    AllocBytes,
    /// Blocks allocated since the profile was switched on.
    AllocBlocks,
}

impl Metric {
    fn of(self, site: &Site) -> f64 {
        match self {
            Metric::LiveBytes => site.live_bytes,
            Metric::LiveBlocks => site.live,
            Metric::AllocBytes => site.alloc_bytes,
            Metric::AllocBlocks => site.allocs,
        }
    }
}

/// The profile of a report as collapsed stacks; stacks that count nothing are left out.
///
/// Opens in speedscope and in every tool that draws flame graphs from collapsed stacks.
///
/// ```
/// use alloc_global::report::{self, Metric, NoSymbols, example};
///
/// let text = report::folded(&example::report(), &NoSymbols, Metric::LiveBytes);
/// let (_, count) = text.lines().next().unwrap().rsplit_once(' ').unwrap();
/// assert!(count.parse::<u64>().unwrap() > 0);
/// ```
pub fn folded(report: &Report, symbols: &dyn Symbols, metric: Metric) -> String {
    untracked(|| {
        let Some(snapshot) = &report.snapshot else { return String::new() };
        let merged = Resolved::new(snapshot, symbols).merged(&snapshot.sites, line);
        let counts = whole_sums(merged.iter().map(|(_, site)| metric.of(site)));
        let lines = merged.iter().zip(counts).filter(|(_, count)| *count > 0);
        lines.map(|((line, _), count)| format!("{line} {count}\n")).collect()
    })
}

/// The names, the outermost first.
fn line(calls: Vec<Call>) -> String {
    let names = calls.iter().rev().map(|call| {
        let name = call.name().replace([';', '\n', '\r'], ",");
        match name.trim() {
            "" => "???".to_owned(),
            name => name.to_owned(),
        }
    });
    names.collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::super::frame::Frame;
    use super::super::testing::{self, named};
    use super::super::{NoSymbols, Report};
    use super::*;
    use std::collections::HashMap;

    const ALL: [Metric; 4] =
        [Metric::LiveBytes, Metric::LiveBlocks, Metric::AllocBytes, Metric::AllocBlocks];

    /// Reads lines as the tools do: the count is what follows the last space.
    fn read(text: &str) -> HashMap<Vec<&str>, u64> {
        let mut stacks = HashMap::new();
        for line in text.lines() {
            let (stack, count) = line.rsplit_once(' ').expect("a stack and a count");
            let frames: Vec<&str> = stack.split(';').collect();
            assert!(frames.iter().all(|frame| !frame.is_empty()), "{line}");
            let count: u64 = count.parse().expect("a count");
            assert!(stacks.insert(frames, count).is_none(), "{line} comes twice");
        }
        stacks
    }

    #[test]
    fn counts_sum_to_the_metric() {
        let report = testing::report();
        let sites = &report.snapshot.as_ref().expect("a snapshot").sites;
        for metric in ALL {
            let text = folded(&report, &testing::symbols, metric);
            let stacks = read(&text).into_values();
            let exact: f64 = sites.iter().map(|site| metric.of(site)).sum();
            assert_eq!(stacks.sum::<u64>(), exact.round() as u64, "{metric:?}");
        }
    }

    #[test]
    fn stacks_go_from_the_outermost_call_to_the_innermost() {
        let text = folded(&testing::report(), &testing::symbols, Metric::LiveBytes);
        let stacks = read(&text);
        let inserts = stacks.keys().find(|stack| stack.contains(&"server::cache::insert"));
        let expected = [
            "server::main",
            "server::handle",
            "server::cache::insert",
            "server::cache::Entry::new",
        ];
        assert_eq!(inserts.expect("one")[..4], expected);
    }

    #[test]
    fn names_cannot_break_lines_or_stacks() {
        let site = Site { stack: vec![1, 2], live_bytes: 5.0, ..Site::default() };
        let report = Report { snapshot: Some(testing::snapshot(vec![site])), ..Report::empty() };
        let names = |addresses: &[u64]| -> Vec<Vec<Frame>> {
            addresses.iter().map(|_| vec![named("a;b\nc "), named(" ")]).collect()
        };
        let text = folded(&report, &names, Metric::LiveBytes);
        assert_eq!(text, "???;a,b,c;???;a,b,c 5\n");
    }

    #[test]
    fn without_a_snapshot_there_are_no_lines() {
        let report = Report { snapshot: None, ..testing::report() };
        assert_eq!(folded(&report, &NoSymbols, Metric::LiveBytes), "");
    }
}
