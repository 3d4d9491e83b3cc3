//! Runs made into figures: medians, ratios, geometric means, problems. No unsafe here.
//!
//! 1. A cell is *sound* if every run of it gave a report, with the units and the checksum that the
//!    first sound contender of its row gave.
//! 2. Only sound cells take part in ratios, best peers and geometric means.
//! 3. Whatever makes a cell unsound, and blocks left over in a sound one, is a problem.

use super::process::{Run, Sample};
use super::schedule::Runs;
use super::statistics::{Spread, geometric_mean, ratio};
use super::suite::{Contender, Load, Metric, Role, Suite, kinds};

/// Everything that is said about a suite's runs.
pub(crate) struct Summary<'a> {
    pub suite: &'a Suite,
    pub contenders: &'a [&'static Contender],
    pub rows: Vec<Row<'a>>,
    /// By kind, then over all where there are several.
    pub means: Vec<Mean>,
}

/// A workload on each contender.
pub(crate) struct Row<'a> {
    pub load: &'a Load,
    pub cells: Vec<Cell<'a>>,
}

/// A workload on a contender.
pub(crate) struct Cell<'a> {
    pub sound: bool,
    /// One per metric of the suite.
    pub figures: Vec<Figure>,
    /// The workload's own figures that are no metric's: name and median.
    pub extras: Vec<(&'a str, f64)>,
    /// Blocks more at the end than at the start, where the contender can tell.
    pub left_over: Option<i64>,
    pub problems: Vec<String>,
    /// Memory over time in the first run.
    pub resident: &'a [Sample],
}

/// A metric of a cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub spread: Option<Spread>,
    /// To the baseline.
    pub ratio: Option<f64>,
    /// More than the baseline's; negative where less.
    pub added: Option<f64>,
    /// To the best peer on this workload, with its name; the subject's only.
    pub to_best: Option<(f64, &'static str)>,
}

/// Geometric means of a kind.
pub(crate) struct Mean {
    pub kind: &'static str,
    /// By contender, then by metric; empty for metrics without ratios.
    pub means: Vec<Vec<MeanFigure>>,
}

/// The geometric mean of a metric's ratios, and of how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MeanFigure {
    pub ratio: Option<(f64, usize)>,
    pub to_best: Option<(f64, usize)>,
}

impl<'a> Summary<'a> {
    pub(crate) fn of(
        suite: &'a Suite,
        contenders: &'a [&'static Contender],
        loads: &'a [Load],
        runs: &'a Runs,
    ) -> Summary<'a> {
        let rows = loads
            .iter()
            .zip(runs)
            .map(|(load, runs)| Row { load, cells: cells(suite, contenders, runs) });
        let mut summary = Summary { suite, contenders, rows: rows.collect(), means: Vec::new() };
        let kinds = kinds(loads);
        summary.means = kinds.iter().map(|kind| summary.mean(kind, Some(kind))).collect();
        if kinds.len() > 1 {
            summary.means.push(summary.mean("all", None));
        }
        summary
    }

    fn mean(&self, title: &'static str, kind: Option<&str>) -> Mean {
        let rows: Vec<&Row<'_>> =
            self.rows.iter().filter(|row| kind.is_none_or(|kind| kind == row.load.kind)).collect();
        let figure = |contender: usize, metric: usize| {
            let figures = rows.iter().map(|row| row.cells[contender].figures[metric]);
            MeanFigure {
                ratio: geometric_mean(figures.clone().filter_map(|figure| figure.ratio)),
                to_best: geometric_mean(
                    figures.filter_map(|figure| figure.to_best).map(|best| best.0),
                ),
            }
        };
        let of_contender = |contender| {
            (0..self.suite.metrics.len()).map(|metric| figure(contender, metric)).collect()
        };
        Mean { kind: title, means: (0..self.contenders.len()).map(of_contender).collect() }
    }

    /// Every problem as a line.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for row in &self.rows {
            for (cell, contender) in row.cells.iter().zip(self.contenders) {
                let line = |problem| format!("{} on {}: {problem}", row.load.name, contender.name);
                lines.extend(cell.problems.iter().map(line));
            }
        }
        lines
    }

    pub(crate) fn has_peers(&self) -> bool {
        self.contenders.iter().any(|contender| contender.role == Role::Peer)
    }

    /// The baseline's name, if it takes part.
    pub(crate) fn baseline(&self) -> Option<&'static str> {
        let found = self.contenders.iter().find(|contender| contender.role == Role::Baseline);
        found.map(|contender| contender.name)
    }
}

fn cells<'a>(
    suite: &Suite,
    contenders: &[&'static Contender],
    runs: &'a [Vec<Run>],
) -> Vec<Cell<'a>> {
    let expected = runs.iter().flatten().find_map(|run| {
        let report = run.outcome.as_ref().ok()?;
        Some((report.units, report.checksum))
    });
    let mut cells: Vec<Cell<'a>> = runs.iter().map(|runs| cell(suite, runs, expected)).collect();
    let with_role = |role| contenders.iter().position(|contender| contender.role == role);
    let compared = |&metric: &usize| suite.metrics[metric].ratio || suite.metrics[metric].added;
    for metric in (0..suite.metrics.len()).filter(compared) {
        let median = |cell: &Cell<'_>| {
            cell.figures[metric].spread.filter(|_| cell.sound).map(|spread| spread.median)
        };
        if let Some(base) = with_role(Role::Baseline).and_then(|index| median(&cells[index])) {
            for cell in &mut cells {
                cell.figures[metric].ratio = median(cell).and_then(|value| ratio(value, base));
                cell.figures[metric].added = median(cell).map(|value| value - base);
            }
        }
        let peers = contenders.iter().zip(&cells).filter(|pair| pair.0.role == Role::Peer);
        let best = peers
            .filter_map(|(contender, cell)| Some((median(cell)?, contender.name)))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        if let (Some((best, name)), Some(subject)) = (best, with_role(Role::Subject)) {
            let value = median(&cells[subject]).and_then(|value| ratio(value, best));
            cells[subject].figures[metric].to_best = value.map(|ratio| (ratio, name));
        }
    }
    cells
}

fn cell<'a>(suite: &Suite, runs: &'a [Run], expected: Option<(u64, u64)>) -> Cell<'a> {
    let metrics = suite.metrics;
    let mut problems = Vec::new();
    let mut left_over = None;
    let (units, checksum) = expected.unwrap_or_default();
    let mut sound = !runs.is_empty();
    for run in runs {
        let problem = match &run.outcome {
            Err(problem) => problem.clone(),
            Ok(report) if report.checksum != checksum => {
                format!("checksum {:016x} instead of {checksum:016x}", report.checksum)
            }
            Ok(report) if report.units != units => {
                format!("{} units instead of {units}", report.units)
            }
            Ok(_) => continue,
        };
        sound = false;
        push_once(&mut problems, problem);
    }
    for report in runs.iter().filter_map(|run| run.outcome.as_ref().ok()) {
        let Some((before, after)) = report.live_blocks else { continue };
        let more = i64::try_from(i128::from(after) - i128::from(before)).unwrap_or(i64::MAX);
        if left_over.is_none_or(|worst: i64| worst.abs() < more.abs()) {
            left_over = Some(more);
        }
        if more != 0 {
            push_once(&mut problems, format!("{before} live blocks before, {after} after"));
        }
    }
    let figure = |metric: &Metric| {
        let reports = runs.iter().filter_map(|run| run.outcome.as_ref().ok());
        Figure {
            spread: Spread::of(reports.map(|report| metric.of(report))),
            ratio: None,
            added: None,
            to_best: None,
        }
    };
    Cell {
        sound,
        figures: metrics.iter().map(figure).collect(),
        extras: extras(suite, runs),
        left_over,
        problems,
        resident: runs.first().map_or(&[], |run| &run.resident),
    }
}

fn extras<'a>(suite: &Suite, runs: &'a [Run]) -> Vec<(&'a str, f64)> {
    let reports = || runs.iter().filter_map(|run| run.outcome.as_ref().ok());
    let Some(first) = reports().next() else { return Vec::new() };
    let own = first
        .values
        .keys()
        .filter(|key| !suite.hidden.contains(&key.as_str()))
        .filter(|key| !suite.metrics.iter().any(|metric| metric.keys.contains(&key.as_str())));
    own.filter_map(|key| {
        let spread = Spread::of(reports().filter_map(|report| report.values.get(key).copied()))?;
        Some((key.as_str(), spread.median))
    })
    .collect()
}

fn push_once(problems: &mut Vec<String>, problem: String) {
    if !problems.contains(&problem) {
        problems.push(problem);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bench::worker::Report;

    use super::super::suite::SUITES;
    use super::*;

    pub(crate) fn load(name: &'static str, kind: &'static str) -> Load {
        Load { name, kind, about: "does <things> & more", unit: "op" }
    }

    pub(crate) fn run(seconds: f64, checksum: u64, live: Option<(u64, u64)>) -> Run {
        let mut report =
            Report { units: 1000, checksum, live_blocks: live, values: Default::default() };
        for (key, value) in [
            ("seconds", seconds),
            ("cpu_seconds", seconds * 1.5),
            ("peak_rss", seconds * 2.0e7),
            ("final_rss", 2.0e6),
            ("minor_faults", 400.0),
            ("major_faults", 0.0),
            ("rss_after_idle", 1.0e6),
        ] {
            report.values.insert(key.to_owned(), value);
        }
        let resident = (0..5_u32)
            .map(|tick| Sample {
                seconds: f64::from(tick) * 0.004,
                bytes: 1.0e6 * f64::from(tick + 1),
            })
            .collect();
        Run { seconds, outcome: Ok(report), resident }
    }

    pub(crate) fn failed() -> Run {
        Run { seconds: 1.0, outcome: Err("signal 11".to_owned()), resident: Vec::new() }
    }

    /// The first `count` contenders of the allocator suite, present or not.
    pub(crate) fn some_contenders(count: usize) -> Vec<&'static Contender> {
        SUITES[0].contenders.iter().take(count).collect()
    }

    #[test]
    fn ratios_are_of_medians_to_the_baseline_and_to_the_best_peer() {
        let loads = [load("a", "micro")];
        let contenders = some_contenders(4);
        let runs = vec![vec![
            vec![run(4.0, 1, None), run(8.0, 1, None), run(4.0, 1, None)],
            vec![run(1.0, 1, Some((5, 5)))],
            vec![run(3.0, 1, None)],
            vec![run(2.0, 1, None)],
        ]];
        let summary = Summary::of(SUITES[0], &contenders, &loads, &runs);
        let cells = &summary.rows[0].cells;
        assert_eq!(cells[0].figures[0].spread.unwrap().high, 0.008);
        assert_eq!(cells[0].figures[0].ratio, Some(1.0));
        assert_eq!(cells[1].figures[0].ratio, Some(0.25));
        assert_eq!(cells[1].figures[0].to_best, Some((0.5, "mimalloc2")));
        assert_eq!(cells[2].figures[0].to_best, None);
        assert_eq!(cells[1].left_over, Some(0));
        assert_eq!(cells[0].extras, [("rss_after_idle", 1.0e6)]);
        assert!(summary.problems().is_empty());
        assert_eq!(summary.baseline(), Some("system"));
    }

    #[test]
    fn means_are_geometric_by_kind_and_over_all() {
        let loads = [load("a", "micro"), load("b", "micro"), load("c", "real")];
        let contenders = some_contenders(2);
        let row = |ratio: f64| vec![vec![run(1.0, 1, None)], vec![run(ratio, 1, None)]];
        let runs = vec![row(0.1), row(0.4), row(1.6)];
        let summary = Summary::of(SUITES[0], &contenders, &loads, &runs);
        let kinds: Vec<&str> = summary.means.iter().map(|mean| mean.kind).collect();
        assert_eq!(kinds, ["micro", "real", "all"]);
        let mean = |index: usize| summary.means[index].means[1][0].ratio.unwrap();
        assert!((mean(0).0 - 0.2).abs() < 1e-9 && mean(0).1 == 2);
        assert!((mean(1).0 - 1.6).abs() < 1e-9);
        assert!((mean(2).0 - 0.4).abs() < 1e-9 && mean(2).1 == 3);
        assert!(summary.means[0].means[1][0].to_best.is_none());
    }

    #[test]
    fn a_wrong_checksum_is_a_problem_and_takes_no_part() {
        let loads = [load("a", "micro")];
        let contenders = some_contenders(3);
        let runs = vec![vec![
            vec![run(4.0, 1, None)],
            vec![run(1.0, 2, None), run(1.0, 2, None)],
            vec![run(0.5, 7, None)],
        ]];
        let summary = Summary::of(SUITES[0], &contenders, &loads, &runs);
        let problems = summary.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("a on pool: checksum 0000000000000002 instead of"));
        assert_eq!(summary.rows[0].cells[1].figures[0].ratio, None);
        assert_eq!(summary.rows[0].cells[1].figures[0].to_best, None);
        assert_eq!(summary.means[0].means[1][0].ratio, None);
    }

    #[test]
    fn failures_and_left_over_blocks_are_problems() {
        let loads = [load("a", "micro")];
        let contenders = some_contenders(2);
        let runs =
            vec![vec![vec![failed()], vec![run(1.0, 1, Some((5, 5))), run(1.0, 1, Some((5, 3)))]]];
        let summary = Summary::of(SUITES[0], &contenders, &loads, &runs);
        assert_eq!(
            summary.problems(),
            ["a on system: signal 11", "a on pool: 5 live blocks before, 3 after"]
        );
        assert_eq!(summary.rows[0].cells[1].left_over, Some(-2));
        assert_eq!(summary.rows[0].cells[1].figures[0].ratio, None);
        assert!(summary.rows[0].cells[1].sound && !summary.rows[0].cells[0].sound);
    }
}
