//! The page: one file, nothing loaded from anywhere. No unsafe here.
//!
//! Plots are drawn here, not in the browser: the page shows everything without scripts. The
//! script sorts tables, hides contenders and switches the colour scheme.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart;
use super::grid::{self, Grid};
use super::machine::Facts;
use super::suite::Role;
use super::summary::Summary;

/// The whole page.
pub(crate) fn render(summary: &Summary<'_>, facts: &Facts, problems: &[String]) -> String {
    let title = summary.suite.title;
    let plots = summary.suite.metrics.iter().enumerate().filter(|(_, metric)| metric.plot);
    let compared = summary.baseline().filter(|_| summary.contenders.len() > 1);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                header {
                    h1 { (title) }
                    button id="scheme" type="button" { "light / dark" }
                    dl { @for (name, text) in facts { div class=[(name == "command").then_some("whole")] { dt { (name) } dd { (text) } } } }
                }
                main {
                    (problem_list(problems))
                    (legend(summary))
                    @if compared.is_some() {
                        section {
                            h2 { "Geometric means of ratios" }
                            p { "Below 1.00 is better than what it is compared with." }
                            (table(&grid::means(summary)))
                        }
                    }
                    @if let Some(base) = compared {
                        @for (index, metric) in plots {
                            section {
                                h2 { (heading(metric.title)) ", ratio to " (base) }
                                p { (metric.about) " Median of the rounds; the scale is logarithmic; left of 1 is better." }
                                div.wide { (chart::ratios(summary, index)) }
                            }
                        }
                    }
                    (memory(summary))
                    section {
                        h2 { "All figures" }
                        p { "Medians of the rounds. A click on a title sorts. “!” marks a cell with a problem." }
                        (table(&grid::results(summary)))
                    }
                    (extras(summary))
                }
                script { (PreEscaped(include_str!("page.js"))) }
            }
        }
    };
    page.into_string()
}

fn heading(title: &str) -> String {
    let mut letters = title.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn problem_list(problems: &[String]) -> Markup {
    html! {
        @if !problems.is_empty() {
            section.problems {
                h2 { (problems.len()) " problems" }
                ul { @for problem in problems { li { (problem) } } }
            }
        }
    }
}

fn legend(summary: &Summary<'_>) -> Markup {
    html! {
        nav aria-label="contenders" {
            @for (place, contender) in summary.contenders.iter().enumerate() {
                @let slot = chart::slot(summary, place);
                button type="button" data-slot=(slot) aria-pressed="true" {
                    svg viewBox="-8 -8 16 16" aria-hidden="true" {
                        @if contender.role.is_mark() {
                            path class=(format!("mark s{slot}")) d=(chart::shape(slot)) {}
                        } @else {
                            rect class=(format!("bar s{slot}")) x="-7" y="-4" width="14" height="8" rx="2" {}
                        }
                    }
                    (contender.name)
                }
            }
        }
    }
}

fn memory(summary: &Summary<'_>) -> Markup {
    let rows =
        || summary.rows.iter().filter(|row| row.cells.iter().any(|c| !c.resident.is_empty()));
    html! {
        section {
            h2 { "Resident memory over time" }
            p { "The whole process in the first round, from its start to its end, setup included." }
            div.small {
                @for row in rows() {
                    figure {
                        figcaption { b { (row.load.name) } " " span { (row.load.about) } }
                        (chart::resident(summary, row))
                    }
                }
            }
        }
    }
}

fn extras(summary: &Summary<'_>) -> Markup {
    let grid = grid::extras(summary);
    html! {
        @if !grid.rows.is_empty() {
            section {
                h2 { "Figures that workloads take of themselves" }
                (table(&grid))
            }
        }
    }
}

fn table(grid: &Grid) -> Markup {
    let numeric: Vec<bool> = (0..grid.titles.len())
        .map(|index| grid.rows.iter().any(|line| line.fields[index].value.is_some()))
        .collect();
    html! {
        div.wide {
            table {
                thead {
                    tr {
                        @for (title, numeric) in grid.titles.iter().zip(&numeric) {
                            th class=[numeric.then_some("n")] scope="col" tabindex="0" { (title) }
                        }
                    }
                }
                tbody {
                    @for line in &grid.rows {
                        tr class=[(line.role == Role::Subject).then_some("subject")] {
                            @for (field, numeric) in line.fields.iter().zip(&numeric) {
                                td class=[class(*numeric, field)] data-v=[field.value] { (field.text) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Ratios are coloured once they are past what noise makes.
fn class(numeric: bool, field: &grid::Field) -> Option<&'static str> {
    match field.value {
        Some(ratio) if field.is_ratio && ratio <= 0.95 => Some("n good"),
        Some(ratio) if field.is_ratio && ratio >= 1.05 => Some("n bad"),
        _ => numeric.then_some("n"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite::SUITES;
    use super::super::summary::tests::{failed, load, run, some_contenders};
    use super::*;

    fn page() -> String {
        let loads = [load("first", "micro"), load("second", "real")];
        let contenders = some_contenders(4);
        let good = vec![
            vec![run(4.0, 1, None), run(5.0, 1, None)],
            vec![run(1.0, 1, Some((5, 6)))],
            vec![run(3.0, 1, None)],
            vec![run(2.0, 1, None)],
        ];
        let mut bad = good.clone();
        bad[1] = vec![failed()];
        let runs = vec![good, bad];
        let summary = Summary::of(SUITES[0], &contenders, &loads, &runs);
        let facts = vec![("command".to_owned(), "bench --only 'a<b>&\"c\"'".to_owned())];
        render(&summary, &facts, &summary.problems())
    }

    /// Every element closed in order, but for those that have no end tag.
    fn check_nesting(page: &str) {
        let (mut open, mut rest) = (Vec::new(), page);
        while let Some(start) = rest.find('<') {
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            let name = tag.split_whitespace().next().unwrap();
            if let Some(name) = name.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "before {rest:.80}");
            } else if !["!DOCTYPE", "meta"].contains(&name) {
                assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
                open.push(name);
                if name == "script" || name == "style" {
                    rest = &rest[rest.find(&format!("</{name}")).expect("it ends")..];
                }
            }
        }
        assert_eq!(open, [""; 0]);
    }

    #[test]
    fn the_page_is_well_nested() {
        check_nesting(&page());
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = page();
        let references =
            ["src=", "href=", "url(", "@import", "http:", "https:", "fetch(", "import("];
        for reference in references {
            assert!(!page.contains(reference), "{reference}");
        }
    }

    #[test]
    fn texts_are_escaped() {
        let page = page();
        assert!(page.contains("a&lt;b&gt;&amp;"));
        assert!(page.contains("does &lt;things&gt; &amp; more"));
        assert!(!page.contains("<things>") && !page.contains("<b>&"));
    }

    #[test]
    fn the_page_holds_every_part() {
        let page = page();
        for part in [
            "2 problems",
            "Geometric means of ratios",
            "Time, ratio to system",
            "Processor, ratio to system",
            "Peak memory, ratio to system",
            "Resident memory over time",
            "All figures",
            "Figures that workloads take of themselves",
            "first on pool: 5 live blocks before, 6 after",
            "color-scheme: light dark",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<figure>").count(), 2);
    }

    #[test]
    fn every_contender_has_a_colour_in_both_schemes() {
        let css = include_str!("page.css");
        for suite in SUITES {
            for slot in 0..suite.contenders.len() {
                assert!(css.contains(&format!("--c{slot}: light-dark(")), "{slot}");
                assert!(css.contains(&format!(".s{slot} ")), "{slot}");
            }
        }
    }
}
