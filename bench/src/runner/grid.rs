//! A summary as rows of text with the numbers behind them, for the terminal's table and the
//! page's alike. No unsafe here.

use super::suite::{Format, Metric, Role};
use super::summary::{Cell, Figure, Mean, MeanFigure, Row, Summary};

/// Columns and rows.
pub(crate) struct Grid {
    pub titles: Vec<String>,
    pub rows: Vec<Line>,
}

/// A row, with what it belongs to: a kind of workloads, say.
pub(crate) struct Line {
    pub group: &'static str,
    pub role: Role,
    pub fields: Vec<Field>,
}

/// A text, and what it sorts by if it is a number.
#[derive(Debug, PartialEq)]
pub(crate) struct Field {
    pub text: String,
    pub value: Option<f64>,
    pub is_ratio: bool,
}

impl Field {
    fn word(text: impl Into<String>) -> Field {
        Field { text: text.into(), value: None, is_ratio: false }
    }

    fn number(text: String, value: Option<f64>) -> Field {
        Field { text, value, is_ratio: false }
    }

    fn ratio(value: Option<f64>) -> Field {
        Field { text: value.map(format_ratio).unwrap_or_default(), value, is_ratio: true }
    }

    fn to_best(best: Option<(f64, &str)>) -> Field {
        let text = best.map(|(ratio, name)| format!("{} {name}", format_ratio(ratio)));
        let value = best.map(|best| best.0);
        Field { text: text.unwrap_or_default(), value, is_ratio: true }
    }
}

/// A line for every workload on every contender.
pub(crate) fn results(summary: &Summary<'_>) -> Grid {
    let mut titles = vec!["workload".to_owned(), summary.suite.contender_word.to_owned()];
    for metric in summary.suite.metrics {
        titles.push(metric.title.to_owned());
        if metric.spread {
            titles.push("low .. high".to_owned());
        }
        titles.extend(ratio_titles(summary, metric));
    }
    titles.push("left over".to_owned());
    let mut rows = Vec::new();
    for row in &summary.rows {
        for (index, cell) in row.cells.iter().enumerate() {
            rows.push(result_line(summary, row, index, cell));
        }
    }
    Grid { titles, rows }
}

fn ratio_titles(summary: &Summary<'_>, metric: &Metric) -> Vec<String> {
    let mut titles = Vec::new();
    if metric.added {
        titles.extend(summary.baseline().map(|name| format!("more than {name}")));
    }
    if metric.ratio {
        titles.extend(summary.baseline().map(|name| format!("/ {name}")));
        if summary.has_peers() {
            titles.push("/ best peer".to_owned());
        }
    }
    titles
}

fn result_line(summary: &Summary<'_>, row: &Row<'_>, index: usize, cell: &Cell<'_>) -> Line {
    let contender = summary.contenders[index];
    let mark = if cell.problems.is_empty() { "" } else { " !" };
    let mut fields = vec![
        Field::word(format!("{} ({})", row.load.name, row.load.unit)),
        Field::word(format!("{}{mark}", contender.name)),
    ];
    for (metric, figure) in summary.suite.metrics.iter().zip(&cell.figures) {
        push_figure(&mut fields, summary, metric, figure);
    }
    let left = cell.left_over.map_or(String::new(), |more| match more {
        0 => "0".to_owned(),
        _ => format!("{more:+}"),
    });
    fields.push(Field::number(left, cell.left_over.map(|more| more as f64)));
    Line { group: row.load.kind, role: contender.role, fields }
}

fn push_figure(fields: &mut Vec<Field>, summary: &Summary<'_>, metric: &Metric, figure: &Figure) {
    let median = figure.spread.map(|spread| spread.median);
    let text = median.map_or("-".to_owned(), |value| format_value(metric.format, value));
    fields.push(Field::number(text, median));
    if metric.spread {
        let text = figure.spread.map(|spread| {
            let (low, high) = (spread.low, spread.high);
            format!("{} .. {}", format_value(metric.format, low), format_value(metric.format, high))
        });
        let width = figure.spread.map(|spread| (spread.high - spread.low) / spread.median);
        fields.push(Field::number(text.unwrap_or_default(), width));
    }
    if metric.added && summary.baseline().is_some() {
        let text = figure.added.map(|added| format_value(metric.format, added));
        fields.push(Field::number(text.unwrap_or_default(), figure.added));
    }
    if metric.ratio {
        if summary.baseline().is_some() {
            fields.push(Field::ratio(figure.ratio));
        }
        if summary.has_peers() {
            fields.push(Field::to_best(figure.to_best));
        }
    }
}

/// Geometric means of ratios: a line for every kind and contender.
pub(crate) fn means(summary: &Summary<'_>) -> Grid {
    let metrics = || summary.suite.metrics.iter().filter(|metric| metric.ratio);
    let mut titles =
        vec!["geometric mean".to_owned(), summary.suite.contender_word.to_owned(), "of".to_owned()];
    for metric in metrics() {
        let named = ratio_titles(summary, metric);
        titles.extend(named.into_iter().map(|title| format!("{} {title}", metric.short)));
    }
    let mut rows = Vec::new();
    for mean in &summary.means {
        for (index, contender) in summary.contenders.iter().enumerate() {
            if contender.role != Role::Baseline {
                rows.push(mean_line(summary, mean, index));
            }
        }
    }
    Grid { titles, rows }
}

fn mean_line(summary: &Summary<'_>, mean: &Mean, index: usize) -> Line {
    let contender = summary.contenders[index];
    let figures: Vec<MeanFigure> = mean.means[index]
        .iter()
        .zip(summary.suite.metrics)
        .filter_map(|(figure, metric)| metric.ratio.then_some(*figure))
        .collect();
    let count = figures.iter().filter_map(|f| f.ratio.or(f.to_best)).map(|mean| mean.1).max();
    let mut fields = vec![
        Field::word(mean.kind),
        Field::word(contender.name),
        Field::number(count.unwrap_or(0).to_string(), count.map(|count| count as f64)),
    ];
    for figure in figures {
        if summary.baseline().is_some() {
            fields.push(Field::ratio(figure.ratio.map(|mean| mean.0)));
        }
        if summary.has_peers() {
            fields.push(Field::ratio(figure.to_best.map(|mean| mean.0)));
        }
    }
    Line { group: mean.kind, role: contender.role, fields }
}

/// The figures that workloads took of themselves, a line each.
pub(crate) fn extras(summary: &Summary<'_>) -> Grid {
    let titles = ["workload", summary.suite.contender_word, "its own figure", "median"];
    let mut rows = Vec::new();
    for row in &summary.rows {
        for (cell, contender) in row.cells.iter().zip(summary.contenders) {
            for &(name, value) in &cell.extras {
                let fields = vec![
                    Field::word(row.load.name),
                    Field::word(contender.name),
                    Field::word(name.replace('_', " ")),
                    Field::number(format_value(extra_format(name), value), Some(value)),
                ];
                rows.push(Line { group: row.load.kind, role: contender.role, fields });
            }
        }
    }
    Grid { titles: titles.map(str::to_owned).to_vec(), rows }
}

/// The unit of a workload's own figure, by its name.
fn extra_format(name: &str) -> Format {
    let has = |word: &str| name.split('_').any(|part| part == word);
    if has("rss") || has("bytes") || has("memory") {
        Format::Bytes
    } else if has("seconds") {
        Format::Seconds
    } else {
        Format::Count
    }
}

/// A figure with its unit, three digits or so.
pub(crate) fn format_value(format: Format, value: f64) -> String {
    match format {
        Format::Seconds => {
            let (scale, unit) = match value.abs() {
                s if s < 1e-6 => (1e9, "ns"),
                s if s < 1e-3 => (1e6, "µs"),
                s if s < 1.0 => (1e3, "ms"),
                _ => (1.0, "s"),
            };
            format!("{} {unit}", three_digits(value * scale))
        }
        Format::Bytes => match value.abs() {
            b if b < 1024.0 => format!("{value:.0} B"),
            b if b < 1024.0 * 1024.0 => format!("{} KiB", three_digits(value / 1024.0)),
            _ => format!("{} MiB", three_digits(value / (1024.0 * 1024.0))),
        },
        Format::Count if value.fract() != 0.0 && value.abs() < 1000.0 => three_digits(value),
        Format::Count => grouped(value),
    }
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        v if v < 9.995 => format!("{value:.2}"),
        v if v < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A whole number with commas at the thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value <= -0.5 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A ratio, two digits behind the point or more where it is small.
pub(crate) fn format_ratio(ratio: f64) -> String {
    if ratio < 0.0995 { format!("{ratio:.3}") } else { three_digits(ratio) }
}

#[cfg(test)]
mod tests {
    use super::super::suite::SUITES;
    use super::super::summary::tests::{failed, load, run, some_contenders};
    use super::*;

    #[test]
    fn values_are_written_with_fitting_units() {
        let seconds = |value| format_value(Format::Seconds, value);
        assert_eq!(seconds(2.84e-9), "2.84 ns");
        assert_eq!(seconds(1.28e-8), "12.8 ns");
        assert_eq!(seconds(4.5e-5), "45.0 µs");
        assert_eq!(seconds(0.25), "250 ms");
        assert_eq!(seconds(12.0), "12.0 s");
        let bytes = |value| format_value(Format::Bytes, value);
        assert_eq!(bytes(12.0), "12 B");
        assert_eq!(bytes(2048.0), "2.00 KiB");
        assert_eq!(bytes(41.25 * 1024.0 * 1024.0), "41.2 MiB");
        let count = |value| format_value(Format::Count, value);
        assert_eq!(count(0.0), "0");
        assert_eq!(count(999.0), "999");
        assert_eq!(count(1_234_567.0), "1,234,567");
        assert_eq!(count(-1234.0), "-1,234");
        assert_eq!(count(0.25), "0.25");
    }

    #[test]
    fn ratios_keep_three_digits_at_least_two_behind_the_point() {
        assert_eq!(format_ratio(0.0412), "0.041");
        assert_eq!(format_ratio(0.211), "0.21");
        assert_eq!(format_ratio(1.0), "1.00");
        assert_eq!(format_ratio(12.34), "12.3");
    }

    #[test]
    fn every_line_has_a_field_for_every_title() {
        let loads = [load("a", "micro"), load("b", "real")];
        for count in [1, 2, 4] {
            let contenders = some_contenders(count);
            let mut row = vec![vec![run(1.0, 1, None)]; count - 1];
            row.push(vec![failed()]);
            let runs = vec![row.clone(), row];
            let summary = Summary::of(SUITES[0], &contenders, &loads, &runs);
            for grid in [results(&summary), means(&summary), extras(&summary)] {
                assert!(grid.rows.iter().all(|line| line.fields.len() == grid.titles.len()));
            }
            assert_eq!(results(&summary).rows.len(), 2 * count);
            assert_eq!(means(&summary).rows.len(), 3 * (count - 1));
            let peers = results(&summary).titles.iter().any(|title| title == "/ best peer");
            assert_eq!(peers, count == 4);
        }
    }

    #[test]
    fn a_suite_without_its_baseline_shows_no_ratio_to_it() {
        let loads = [load("a", "micro")];
        let contenders = vec![&SUITES[0].contenders[1]];
        let runs = vec![vec![vec![run(1.0, 1, None)]]];
        let summary = Summary::of(SUITES[0], &contenders, &loads, &runs);
        assert!(!results(&summary).titles.iter().any(|title| title.starts_with('/')));
        assert_eq!(means(&summary).rows[0].fields.len(), 3);
    }

    #[test]
    fn own_figures_are_written_by_the_words_of_their_names() {
        assert_eq!(extra_format("rss_after_idle"), Format::Bytes);
        assert_eq!(extra_format("longest_step_seconds"), Format::Seconds);
        assert_eq!(extra_format("messages"), Format::Count);
    }
}
