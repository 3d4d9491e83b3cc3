//! One page of HTML that needs nothing else: no network, no other file, no server.
//!
//! ```text
//! page.html   @title@  @style@  @data@  @script@
//!                |        |        |        `- page.js: draws the data
//!                |        |        `- the JSON of json.rs
//!                |        `- page.css
//!                `- the program
//! ```
//!
//! 1. The page's policy forbids it to load anything.
//! 2. Data cannot end its element or begin a script: every `<` in it is written `\u003c`, which
//!    JSON reads as the same.
//! 3. The script adds data as text, never as markup.
//!
//! No unsafe here.

use super::frame::Symbols;
use super::json;
use super::model::Report;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The type that goes with [`html`].
pub(super) const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// A report as one self-contained page of HTML, light or dark as the reader's system is.
///
/// ```
/// use alloc_global::report::{self, example};
///
/// let page = report::html(&example::report(), &example::symbols);
/// assert!(page.starts_with("<!doctype html>"));
/// ```
pub fn html(report: &Report, symbols: &dyn Symbols) -> String {
    let data = json::json(report, symbols).replace('<', "\\u003c");
    let title = escaped(report.program_name());
    // Every other piece is the name of what goes there. What is put in is not looked through again.
    let pieces = PAGE.split('@').map(|piece| match piece {
        "title" => title.as_str(),
        "style" => STYLE,
        "data" => data.as_str(),
        "script" => SCRIPT,
        piece => piece,
    });
    pieces.collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, named};
    use super::*;
    use crate::Site;

    /// The report in a page, as a browser would read it.
    fn data(page: &str) -> serde_json::Value {
        let start = "<script type=\"application/json\" id=\"data\">";
        let (_, rest) = page.split_once(start).expect("data");
        let (data, _) = rest.split_once("</script>").expect("an end");
        serde_json::from_str(data).expect("JSON")
    }

    #[test]
    fn the_page_holds_the_whole_report() {
        let report = testing::report();
        let page = html(&report, &testing::symbols);
        let json = json::json(&report, &testing::symbols);
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert!(data(&page) == json);
    }

    #[test]
    fn names_cannot_leave_the_data() {
        let site = Site { stack: vec![1], region: "<!--<script>".to_owned(), ..Site::default() };
        let mut report = testing::report();
        report.snapshot = Some(testing::snapshot(vec![site]));
        report.program = "/bin/</script><b>&".to_owned();
        let symbols = |a: &[u64]| vec![vec![named("</script><script>alert(1)")]; a.len()];
        let page = html(&report, &symbols);
        assert_eq!(page.matches("<script").count(), 2);
        assert_eq!(page.matches("</script").count(), 2);
        let data = data(&page);
        assert_eq!(data["profile"]["frames"][0]["function"], "</script><script>alert(1)");
        assert!(page.contains("<title>script&gt;&lt;b&gt;&amp;: memory report</title>"));
    }

    #[test]
    fn the_page_is_small_and_asks_for_nothing() {
        let page = html(&Report::empty(), &testing::symbols);
        assert!(page.len() < 300_000, "{} bytes", page.len());
        let own = page.replace("http://www.w3.org/2000/svg", "");
        for loads in
            ["http:", "https:", "src=", "@import", "url(", "fetch(", "XMLHttp", "innerHTML"]
        {
            assert!(!own.contains(loads), "{loads}");
        }
        assert!(page.contains("default-src 'none'"));
    }
}
