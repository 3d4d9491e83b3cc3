//! What real programs do, through the libraries that they use: parse, edit, render, run.
//! No unsafe here, nor in the modules below.
//!
//! The libraries allocate as they please; nothing is tuned to any allocator. Each run parses its
//! input anew, keeps a part of the results for a while and drops them, as a server or a compiler
//! would.

pub(crate) mod documents;
pub(crate) mod interpreter;
pub(crate) mod messages;
pub(crate) mod persistent;
pub(crate) mod syntax;
pub(crate) mod texts;
pub(crate) mod web;

/// Invented names for generated documents.
const NAMES: [&str; 12] = [
    "amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "islet", "juniper",
    "kelp", "lagoon",
];

fn name(rng: &mut fastrand::Rng) -> &'static str {
    NAMES[rng.usize(..NAMES.len())]
}

/// `words` random words, a sentence of sorts.
fn sentence(rng: &mut fastrand::Rng, words: usize) -> String {
    let words: Vec<&str> = (0..words).map(|_| name(rng)).collect();
    words.join(" ")
}
