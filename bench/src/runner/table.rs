//! The terminal's table. No unsafe here.

use comfy_table::{CellAlignment, Table};

use super::grid::{self, Grid};
use super::summary::Summary;

/// Everything that is printed at the end but the problems.
pub(crate) fn render(summary: &Summary<'_>) -> String {
    let mut text = table(&grid::results(summary), true);
    let means = grid::means(summary);
    if !means.rows.is_empty() {
        text.push_str(&format!("\n{}", table(&means, false)));
    }
    let extras = grid::extras(summary);
    if !extras.rows.is_empty() {
        text.push_str(&format!("\n{}", table(&extras, false)));
    }
    text
}

/// A first field that repeats is left out; with `headed`, a line names each new group.
fn table(grid: &Grid, headed: bool) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(&grid.titles);
    let (mut group, mut first) = ("", "");
    for line in &grid.rows {
        if headed && line.group != group {
            table.add_row([format!("-- {} --", line.group)]);
        }
        let mut texts: Vec<&str> = line.fields.iter().map(|field| field.text.as_str()).collect();
        if texts[0] == first {
            texts[0] = "";
        } else {
            first = texts[0];
        }
        group = line.group;
        table.add_row(texts);
    }
    for index in 0..grid.titles.len() {
        let numeric = grid.rows.iter().any(|line| line.fields[index].value.is_some());
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if numeric {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let lines: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    lines
}

#[cfg(test)]
mod tests {
    use super::super::suite::SUITES;
    use super::super::summary::tests::{failed, load, run, some_contenders};
    use super::*;

    #[test]
    fn the_table_shows_figures_ratios_means_and_marks_problems() {
        let loads = [load("first", "micro"), load("second", "real")];
        let contenders = some_contenders(2);
        let runs = vec![
            vec![vec![run(4.0e-6, 1, None)], vec![run(1.0e-6, 1, Some((5, 5)))]],
            vec![vec![run(4.0e-6, 1, None)], vec![failed()]],
        ];
        let text = render(&Summary::of(SUITES[0], &contenders, &loads, &runs));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("workload") && lines[0].ends_with("left over"), "{text}");
        assert!(text.contains("-- micro --") && text.contains("-- real --"));
        let system = lines.iter().find(|line| line.starts_with("first (op)")).unwrap();
        assert!(system.contains("4.00 ns") && system.contains("1.00"), "{system}");
        let pool = lines.iter().find(|line| line.trim_start().starts_with("pool  ")).unwrap();
        assert!(pool.contains("1.00 ns") && pool.contains("0.25"), "{pool}");
        assert!(pool.starts_with("   ") && pool.ends_with(" 0"), "{pool}");
        assert!(lines.iter().any(|line| line.trim_start().starts_with("pool !")));
        assert!(text.contains("geometric mean"));
        assert!(text.contains("rss after idle"));
    }

    #[test]
    fn numbers_stand_flush_right() {
        let loads = [load("first", "micro")];
        let contenders = some_contenders(2);
        let runs = vec![vec![vec![run(4.0e-6, 1, None)], vec![run(1.0e-4, 1, None)]]];
        let text = render(&Summary::of(SUITES[0], &contenders, &loads, &runs));
        let end = |part: &str| {
            let line = text.lines().find(|line| line.contains(part)).unwrap();
            line.find(part).unwrap() + part.len()
        };
        assert_eq!(end("4.00 ns"), end("100 ns"));
    }
}
