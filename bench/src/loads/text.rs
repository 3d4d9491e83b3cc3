//! The shipped text (`bench/data/rust-sources.txt`) in the forms that the workloads want it.
//! No unsafe here.

/// The modules of the shipped sources: path below `src` and text.
pub(crate) fn sources() -> Vec<(&'static str, &'static str)> {
    const ALL: &str = include_str!("../../data/rust-sources.txt");
    ALL.split("=== src/").skip(1).filter_map(|module| module.split_once('\n')).collect()
}

/// The doc comments of each module, as the Markdown that they are.
pub(crate) fn markdown() -> Vec<String> {
    sources().into_iter().map(|(_, source)| doc_comments(source)).collect()
}

/// Those of all modules together: English prose with some code in it, about 100 KB.
pub(crate) fn prose() -> String {
    markdown().join("\n")
}

fn doc_comments(source: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in source.lines() {
        let line = line.trim_start();
        let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
        if let Some(text) = text {
            out.push_str(text.strip_prefix(' ').unwrap_or(text));
            out.push('\n');
        } else if inside {
            out.push('\n');
        }
        inside = text.is_some();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_are_fifteen_modules() {
        let sources = sources();
        assert_eq!(sources.len(), 15);
        assert!(sources.iter().all(|(path, _)| path.ends_with(".rs")));
        assert!(sources.iter().map(|(_, text)| text.len()).sum::<usize>() > 700_000);
    }

    #[test]
    fn the_markdown_is_long_enough_to_be_worth_rendering() {
        assert!(prose().len() > 80_000, "{}", prose().len());
        assert_eq!(doc_comments("/// A.\n///B\nfn f() {}\n//! C\n"), "A.\nB\n\nC\n");
    }
}
