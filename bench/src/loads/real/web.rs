//! Pages: Markdown by `comrak`, templates by `minijinja`. No unsafe here.

use std::collections::BTreeMap;

use comrak::{Options, markdown_to_html};
use minijinja::{Environment, Value};

use super::{name, sentence};
use crate::loads::text;
use crate::workload::{Outcome, Scale, fold_bytes, measure};

/// Renders the doc comments of a code base, as rustdoc would, and a generated page of tables.
pub(crate) fn markdown(scale: &Scale) -> Outcome {
    let mut pages = text::markdown();
    pages.push(tables(&mut scale.rng(0)));
    let rounds = scale.of(500);
    let mut options = Options::default();
    options.extension.table = true;
    options.extension.footnotes = true;
    options.extension.strikethrough = true;
    options.extension.autolink = true;
    measure(|| {
        let mut sum = 0;
        for _ in 0..rounds {
            let site: Vec<String> =
                pages.iter().map(|page| markdown_to_html(page, &options)).collect();
            sum = site.iter().fold(sum, |sum, html| fold_bytes(sum, html.as_bytes()));
        }
        (rounds * pages.len() as u64, sum)
    })
}

/// Headings, nested lists, tables, emphasis and links.
fn tables(rng: &mut fastrand::Rng) -> String {
    let mut page = String::new();
    for section in 0..40 {
        page += &format!("## {} {section}\n\n> *{}*\n\n", name(rng), sentence(rng, 6));
        page += "| name | count | ~~old~~ |\n|---|--:|:-:|\n";
        for _ in 0..rng.usize(2..12) {
            page +=
                &format!("| **{}** | {} | [{}](#s{section}) |\n", name(rng), rng.u8(..), name(rng));
        }
        page += &format!("\n1. {}\n   - {}\n   - `{}`\n\n", sentence(rng, 5), name(rng), name(rng));
    }
    page
}

const TEMPLATES: [(&str, &str); 3] = [
    ("layout.html", include_str!("../../../data/templates/layout.html")),
    ("macros.html", include_str!("../../../data/templates/macros.html")),
    ("list.html", include_str!("../../../data/templates/list.html")),
];

/// A map as the templates see it.
fn object<const N: usize>(fields: [(&'static str, Value); N]) -> Value {
    Value::from(BTreeMap::from(fields))
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.add_filter("truncate_words", |text: String, words: usize| {
        text.split_whitespace().take(words).collect::<Vec<_>>().join(" ")
    });
    for (name, source) in TEMPLATES {
        environment.add_template(name, source).expect("the shipped templates compile");
    }
    environment
}

fn article(id: u32, rng: &mut fastrand::Rng) -> Value {
    let tags: Vec<&str> = (0..rng.usize(..5)).map(|_| name(rng)).collect();
    let notes: Vec<String> =
        (0..rng.usize(..3)).map(|i| sentence(rng, 4 * i) + " & more").collect();
    object([
        ("id", Value::from(id)),
        ("name", Value::from(format!("{} <{}>", name(rng), name(rng)))),
        ("cents", Value::from(rng.u32(..100_000))),
        ("rating", Value::from(rng.u8(..6))),
        ("stock", Value::from(rng.u8(..20))),
        ("tags", Value::from(tags)),
        ("notes", Value::from(notes)),
    ])
}

/// What page `number` shows.
fn page(rng: &mut fastrand::Rng, number: u64, items: Vec<Value>) -> Value {
    let entry = |caption: &'static str| {
        object([
            ("caption", Value::from(caption)),
            ("href", Value::from(format!("/{caption}"))),
            ("active", Value::from(caption.len() as u64 == number % 7)),
        ])
    };
    let navigation: Vec<Value> = super::NAMES.into_iter().map(entry).collect();
    let shop = object([
        ("name", Value::from("the shop")),
        ("about", Value::from(sentence(rng, 12))),
        ("navigation", Value::from(navigation)),
    ]);
    let heading = Value::from(sentence(rng, 2));
    object([("shop", shop), ("heading", heading), ("items", Value::from(items))])
}

/// Compiles templates and renders pages of them, each from a context of its own.
pub(crate) fn templates(scale: &Scale) -> Outcome {
    let pages = scale.of(5_000);
    measure(|| {
        let mut rng = scale.rng(0);
        let mut sum = 0;
        let mut environment = environment();
        for number in 0..pages {
            if number % 50 == 0 {
                environment = self::environment();
            }
            let items = (0..30).map(|id| article(id, &mut rng)).collect();
            let context = page(&mut rng, number, items);
            let template = environment.get_template("list.html").expect("it was added");
            let html = template.render(context).expect("the shipped templates render");
            sum = fold_bytes(sum, html.as_bytes());
        }
        (pages, sum)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_escapes_names_and_lists_every_article() {
        let mut rng = fastrand::Rng::with_seed(1);
        let items: Vec<Value> = (0..3).map(|id| article(id, &mut rng)).collect();
        let environment = environment();
        let template = environment.get_template("list.html").expect("it was added");
        let html = template.render(page(&mut rng, 0, items)).expect("the page renders");
        assert!(html.contains("3 articles") && html.contains("/articles/2"), "{html}");
        assert!(html.contains("&lt;") && !html.contains("<amber>"), "{html}");
    }
}
