//! Plots as SVG: bars of ratios, lines of memory over time. No unsafe here.
//!
//! ```text
//!   label |        0.2    0.5    1.0    2.0          figures
//!   pair  |          [=====bar====|  o  <>            0.21   2.8 ns / 13.1 ns
//! ```
//!
//! A bar is the subject's ratio to the baseline and starts at 1.0: to the left is better. Peers
//! are marks on the same line. Colours are the page's custom properties `--c0`, `--c1`, ..: one
//! per place of the contender in its suite, the same in every plot whoever takes part.

use std::fmt::Write;

use maud::{Markup, html};

use super::grid::{format_ratio, format_value};
use super::suite::{Format, Metric, Role};
use super::summary::{Cell, Row, Summary};

const WIDTH: f64 = 1000.0;
/// The plot's left and right edge; labels stand outside.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 800.0;
const LINE: f64 = 24.0;
const TOP: f64 = 34.0;

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// Holds 1.0 and all of `values`, with some air.
    fn over(values: impl Iterator<Item = f64>) -> Axis {
        let (low, high) =
            values.fold((0.8_f64, 1.25_f64), |(low, high), v| (low.min(v), high.max(v)));
        Axis { low: low / 1.08, high: high * 1.08 }
    }

    fn x(&self, value: f64) -> f64 {
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        LEFT + part * (RIGHT - LEFT)
    }

    /// Round values within, 1-2-5 or, where that gives many, powers of ten, or 1.0 alone.
    fn ticks(&self) -> Vec<f64> {
        let within = |steps: &[f64]| -> Vec<f64> {
            let decades = -6..=6;
            let all = decades.flat_map(|ten| steps.iter().map(move |s| s * 10_f64.powi(ten)));
            all.filter(|v| (self.low..=self.high).contains(v)).collect()
        };
        let fine = within(&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        let medium = within(&[1.0, 2.0, 5.0]);
        match (fine.len(), medium.len()) {
            (..8, _) => fine,
            (_, ..12) => medium,
            _ => within(&[1.0]),
        }
    }
}

/// The ratios of one metric, a line per workload, grouped by kind.
pub(crate) fn ratios(summary: &Summary<'_>, index: usize) -> Markup {
    let metric = &summary.suite.metrics[index];
    let figures =
        || summary.rows.iter().flat_map(|row| &row.cells).map(|cell| &cell.figures[index]);
    let axis = Axis::over(figures().filter_map(|figure| figure.ratio));
    let mut lines = Vec::new();
    let (mut y, mut kind) = (TOP, "");
    for row in &summary.rows {
        if row.load.kind != kind {
            kind = row.load.kind;
            lines.push(html! { text class="kind" x="0" y=(px(y + 17.0)) { (kind) } });
            y += LINE;
        }
        lines.push(ratio_line(summary, row, index, &axis, y));
        y += LINE;
    }
    let about = format!("{}: ratio to {}", metric.title, summary.baseline().unwrap_or_default());
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", px(y + 6.0))) role="img" aria-label=(about) {
            @for tick in axis.ticks() {
                @let x = px(axis.x(tick));
                @let one = (tick - 1.0).abs() < 1e-9;
                line class=(if one { "one" } else { "tick" }) x1=(x) x2=(x) y1=(TOP - 6.0) y2=(px(y)) {}
                text class="scale" x=(x) y=(TOP - 14.0) { (tick_text(tick)) }
            }
            @for line in lines { (line) }
        }
    }
}

fn tick_text(tick: f64) -> String {
    let text = format!("{tick:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn ratio_line(summary: &Summary<'_>, row: &Row<'_>, index: usize, axis: &Axis, y: f64) -> Markup {
    let metric = &summary.suite.metrics[index];
    let middle = y + LINE / 2.0;
    let role = |role| summary.contenders.iter().position(|contender| contender.role == role);
    let subject = role(Role::Subject).map(|place| &row.cells[place]);
    let base = role(Role::Baseline).map(|place| &row.cells[place]);
    let ratio = subject.and_then(|cell| cell.figures[index].ratio);
    html! {
        text class="label" x=(LEFT - 12.0) y=(px(middle + 4.5)) { (row.load.name) title { (row.load.about) } }
        @if let (Some(ratio), Some(subject), Some(base)) = (ratio, subject, base) {
            (bar(summary, axis, ratio, middle, subject, base, index))
            text class="ratio" x=(RIGHT + 62.0) y=(px(middle + 4.5)) { (format_ratio(ratio)) }
            text class="figure" x=(RIGHT + 74.0) y=(px(middle + 4.5)) { (pair_text(metric, subject, base, index)) }
        } @else if subject.is_some() {
            text class="figure" x=(RIGHT + 28.0) y=(px(middle + 4.5)) { "no figure" }
        }
        @for (place, cell) in row.cells.iter().enumerate() {
            @if summary.contenders[place].role.is_mark() {
                @if let Some(ratio) = cell.figures[index].ratio {
                    (mark(summary, place, axis.x(ratio), middle, &tooltip(summary, metric, cell, place, index)))
                }
            }
        }
    }
}

/// The subject's bar from 1.0 to its ratio, with its spread as a thin line where it is shown.
fn bar(
    summary: &Summary<'_>,
    axis: &Axis,
    ratio: f64,
    middle: f64,
    subject: &Cell<'_>,
    base: &Cell<'_>,
    index: usize,
) -> Markup {
    let metric = &summary.suite.metrics[index];
    let place = summary.contenders.iter().position(|one| one.role == Role::Subject).unwrap_or(0);
    let (from, to) = (axis.x(ratio.min(1.0)), axis.x(ratio.max(1.0)));
    let median = base.figures[index].spread.map(|spread| spread.median);
    let spread = subject.figures[index].spread.zip(median).filter(|_| metric.spread);
    let clamp = |value: f64| axis.x(value.clamp(axis.low, axis.high));
    html! {
        g class=(format!("s s{}", slot(summary, place))) {
            rect class="bar" x=(px(from)) y=(px(middle - 6.0)) width=(px((to - from).max(1.5))) height="12" rx="2" {
                title { (tooltip(summary, metric, subject, place, index)) }
            }
            @if let Some((spread, base)) = spread {
                line class="whisker" x1=(px(clamp(spread.low / base))) x2=(px(clamp(spread.high / base))) y1=(px(middle)) y2=(px(middle)) {}
            }
        }
    }
}

fn pair_text(metric: &Metric, subject: &Cell<'_>, base: &Cell<'_>, index: usize) -> String {
    let text = |cell: &Cell<'_>| {
        let median = cell.figures[index].spread.map(|spread| spread.median);
        median.map_or("-".to_owned(), |value| format_value(metric.format, value))
    };
    format!("{} / {}", text(subject), text(base))
}

fn tooltip(
    summary: &Summary<'_>,
    metric: &Metric,
    cell: &Cell<'_>,
    place: usize,
    index: usize,
) -> String {
    let figure = &cell.figures[index];
    let mut text = format!("{}:", summary.contenders[place].name);
    if let Some(spread) = figure.spread {
        let [low, median, high] = [spread.low, spread.median, spread.high]
            .map(|value| format_value(metric.format, value));
        let _ = write!(text, " {median} ({low} .. {high})");
    }
    if let Some(ratio) = figure.ratio {
        let base = summary.baseline().unwrap_or_default();
        let _ = write!(text, ", {} of {base}", format_ratio(ratio));
    }
    text
}

/// A contender's place in its suite, present or not: what its colour goes by.
pub(crate) fn slot(summary: &Summary<'_>, place: usize) -> usize {
    let name = summary.contenders[place].name;
    summary.suite.contenders.iter().position(|one| one.name == name).unwrap_or(0)
}

/// A peer's mark; shapes differ beside colours.
fn mark(summary: &Summary<'_>, place: usize, x: f64, y: f64, title: &str) -> Markup {
    let slot = slot(summary, place);
    html! {
        path class=(format!("mark s s{slot}")) transform=(format!("translate({} {})", px(x), px(y))) d=(shape(slot)) {
            title { (title) }
        }
    }
}

/// Outline of a mark about the origin.
pub(crate) fn shape(slot: usize) -> &'static str {
    const SHAPES: [&str; 5] = [
        "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
        "M0 -5.6L5.6 0L0 5.6L-5.6 0z",
        "M0 -5.2L5 4L-5 4z",
        "M-4.2 -4.2H4.2V4.2H-4.2z",
        "M0 5.2L5 -4L-5 -4z",
    ];
    SHAPES[slot % SHAPES.len()]
}

/// Resident memory over time of one workload, a line per contender.
pub(crate) fn resident(summary: &Summary<'_>, row: &Row<'_>) -> Markup {
    const W: f64 = 320.0;
    const H: f64 = 150.0;
    const BOTTOM: f64 = 20.0;
    const GUTTER: f64 = 52.0;
    const AIR: f64 = 6.0;
    let samples = || row.cells.iter().flat_map(|cell| cell.resident);
    let end = samples().map(|sample| sample.seconds).fold(1e-3, f64::max);
    let top = samples().map(|sample| sample.bytes).fold(1.0, f64::max) * 1.05;
    let x = |seconds: f64| px(GUTTER + seconds / end * (W - GUTTER));
    let height = |bytes: f64| (H - BOTTOM) - bytes / top * (H - BOTTOM - AIR);
    let y = |bytes: f64| px(height(bytes));
    let step = nice_step(top / (1024.0 * 1024.0) / 3.0) * 1024.0 * 1024.0;
    let steps = (1..10_u32).map(|n| f64::from(n) * step).take_while(|&bytes| bytes < top);
    let path = |cell: &Cell<'_>| {
        let mut path = String::new();
        for (index, sample) in cell.resident.iter().enumerate() {
            let letter = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{} {}", x(sample.seconds), y(sample.bytes));
        }
        path
    };
    html! {
        svg viewBox=(format!("0 0 {W} {H}")) role="img" aria-label=(format!("resident memory over time, {}", row.load.name)) {
            @for bytes in steps {
                line class="tick" x1=(GUTTER) x2=(W) y1=(y(bytes)) y2=(y(bytes)) {}
                text class="note end" x=(GUTTER - 5.0) y=(px(height(bytes) + 4.0)) { (format!("{} MiB", tick_text(bytes / 1024.0 / 1024.0))) }
            }
            line class="axis" x1=(GUTTER) x2=(W) y1=(H - BOTTOM) y2=(H - BOTTOM) {}
            text class="note" x=(GUTTER) y=(H - 6.0) { "0" }
            text class="note end" x=(W) y=(H - 6.0) { (format_value(Format::Seconds, end)) }
            @for (place, cell) in row.cells.iter().enumerate() {
                @if !cell.resident.is_empty() {
                    path class=(format!("curve s s{}", slot(summary, place))) d=(path(cell)) {
                        title { (summary.contenders[place].name) }
                    }
                }
            }
        }
    }
}

/// The least of 1, 2, 5 times a power of ten that is at least `step`.
fn nice_step(step: f64) -> f64 {
    let ten = 10_f64.powf(step.max(1e-3).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|n| n * ten).into_iter().find(|&n| n >= step).unwrap_or(ten)
}

/// A coordinate, to a tenth.
fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::suite::SUITES;
    use super::super::summary::tests::{failed, load, run, some_contenders};
    use super::*;

    #[test]
    fn the_axis_holds_one_and_every_value() {
        let axis = Axis::over([0.05, 3.0].into_iter());
        for value in [0.05, 1.0, 3.0] {
            assert!((LEFT..=RIGHT).contains(&axis.x(value)));
        }
        assert!(axis.x(0.1) < axis.x(0.2));
        let even = axis.x(0.4) - axis.x(0.2);
        assert!((axis.x(2.0) - axis.x(1.0) - even).abs() < 1e-9);
    }

    #[test]
    fn ticks_are_few_and_name_one() {
        for values in [[0.9, 1.1], [0.2, 1.0], [0.01, 30.0], [1e-4, 1e4]] {
            let ticks = Axis::over(values.into_iter()).ticks();
            assert!((2..14).contains(&ticks.len()), "{values:?}: {ticks:?}");
            assert!(ticks.iter().any(|tick| (tick - 1.0).abs() < 1e-9), "{ticks:?}");
        }
        assert_eq!(tick_text(0.05), "0.05");
        assert_eq!(tick_text(10.0), "10");
    }

    #[test]
    fn steps_are_round() {
        assert_eq!(nice_step(0.9), 1.0);
        assert_eq!(nice_step(13.0), 20.0);
        assert_eq!(nice_step(250.0), 500.0);
    }

    #[test]
    fn a_line_has_the_subjects_bar_and_a_mark_per_peer() {
        let loads = [load("a", "micro"), load("b", "micro")];
        let contenders = some_contenders(4);
        let good = vec![
            vec![run(4.0, 1, None)],
            vec![run(1.0, 1, None)],
            vec![run(3.0, 1, None)],
            vec![run(2.0, 1, None)],
        ];
        let mut bad = good.clone();
        bad[1] = vec![failed()];
        let runs = vec![good, bad];
        let summary = Summary::of(SUITES[0], &contenders, &loads, &runs);
        let svg = ratios(&summary, 0).into_string();
        assert_eq!(svg.matches("class=\"bar\"").count(), 1);
        assert_eq!(svg.matches("class=\"mark").count(), 4);
        assert_eq!(svg.matches("no figure").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let svg = resident(&summary, &summary.rows[1]).into_string();
        assert_eq!(svg.matches("class=\"curve").count(), 3);
        assert!(!svg.contains("NaN"));
    }
}
