//! Trees of programming languages: Rust by `syn`, SQL by `sqlparser`. No unsafe here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use syn::visit::{self, Visit};

use super::name;
use crate::loads::text;
use crate::workload::{Outcome, Scale, fold, fold_bytes, measure};

/// What a walk over a module finds.
#[derive(Default)]
struct Census {
    names: BTreeMap<String, u64>,
    nodes: u64,
    functions: u64,
    branches: u64,
}

impl<'ast> Visit<'ast> for Census {
    fn visit_ident(&mut self, ident: &'ast syn::Ident) {
        *self.names.entry(ident.to_string()).or_default() += 1;
    }

    fn visit_expr(&mut self, expr: &'ast syn::Expr) {
        self.nodes += 1;
        self.branches += u64::from(matches!(expr, syn::Expr::If(_) | syn::Expr::Match(_)));
        visit::visit_expr(self, expr);
    }

    fn visit_type(&mut self, ty: &'ast syn::Type) {
        self.nodes += 1;
        visit::visit_type(self, ty);
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        self.functions += 1;
        visit::visit_block(self, block);
    }
}

/// Parses a code base of 0.7 MB to syntax trees, all alive at once, and walks them.
pub(crate) fn syntax_trees(scale: &Scale) -> Outcome {
    let sources = text::sources();
    let rounds = scale.of(18);
    measure(|| {
        let mut sum = 0;
        for _ in 0..rounds {
            let parse = |source: &str| syn::parse_file(source).expect("the shipped sources parse");
            let files: Vec<syn::File> = sources.iter().map(|&(_, source)| parse(source)).collect();
            let mut census = Census::default();
            files.iter().for_each(|file| census.visit_file(file));
            for (name, count) in &census.names {
                sum = fold(fold_bytes(sum, name.as_bytes()), *count);
            }
            sum = fold(fold(fold(sum, census.nodes), census.functions), census.branches);
        }
        (rounds * sources.len() as u64, sum)
    })
}

/// The shipped statements and a generated page of inserts and selects.
fn statements(rng: &mut fastrand::Rng) -> String {
    let mut sql = String::from(include_str!("../../../data/queries.sql"));
    for id in 0..40 {
        let (name, other) = (name(rng), name(rng));
        let cents = rng.u32(..100_000);
        let write = if id % 2 == 0 {
            writeln!(
                sql,
                "INSERT INTO {name} (id, cents, note) VALUES ({id}, {cents}, '{other}'), \
                 ({id} + 1000, {cents} * 2, NULL), ({id} + 2000, -{cents}, 'it''s {other}');"
            )
        } else {
            writeln!(
                sql,
                "SELECT t.id, SUM(t.cents) FROM {name} t JOIN {other} o ON o.id = t.id \
                 WHERE t.cents BETWEEN {id} AND {cents} OR o.note IN ('{name}', '{other}') \
                 GROUP BY t.id ORDER BY 2 DESC LIMIT {id};"
            )
        };
        write.expect("strings do not fail");
    }
    sql
}

/// Parses SQL to trees, prints the trees, and parses what was printed.
pub(crate) fn sql_parse(scale: &Scale) -> Outcome {
    let sql = statements(&mut scale.rng(0));
    let rounds = scale.of(400);
    measure(|| {
        let (mut units, mut sum) = (0, 0);
        for _ in 0..rounds {
            let parse = |sql: &str| {
                Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("the statements are SQL")
            };
            let first = parse(&sql);
            let printed: Vec<String> = first.iter().map(|tree| tree.to_string()).collect();
            let second = parse(&printed.join(";\n"));
            assert_eq!(first.len(), second.len(), "a printed statement is still a statement");
            units += (first.len() + second.len()) as u64;
            sum = printed.iter().fold(sum, |sum, text| fold_bytes(sum, text.as_bytes()));
        }
        (units, sum)
    })
}
