//! Syntax trees of Rust by `syn`. No unsafe here.

use std::collections::BTreeMap;

use syn::visit::{self, Visit};

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
