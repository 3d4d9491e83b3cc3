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
//! 4. Of a profile only the largest call sites go in, and what the others sum to: a browser does
//!    not open hundreds of megabytes.
//!
//! No unsafe here.

use super::frame::Symbols;
use super::json;
use super::model::Report;
use crate::untracked;
use crate::{Site, Totals};
use serde_json::{Value, json};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The type that goes with [`html`].
pub(super) const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// Call sites in a page.
const SITES: usize = 10_000;

/// A report as one self-contained page of HTML, light or dark as the reader's system is.
///
/// Of a profile some 1.1 KB a call site, for the 10,000 with the most live bytes, and of those with
/// as many the most allocated ones. The page says how many others there are and what they sum to;
/// [`json`](super::json()) has them all.
///
/// ```
/// use alloc_global::report::{self, example};
///
/// let page = report::html(&example::report(), &example::symbols);
/// assert!(page.starts_with("<!doctype html>"));
/// ```
pub fn html(report: &Report, symbols: &dyn Symbols) -> String {
    untracked(|| {
        let data = data(report, symbols, SITES).to_string().replace('<', "\\u003c");
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
    })
}

/// The report's JSON with the largest `most` call sites of its profile (4). Where there are more,
/// the profile has a field `left_out`.
fn data(report: &Report, symbols: &dyn Symbols, most: usize) -> Value {
    let sites = report.snapshot.iter().flat_map(|snapshot| &snapshot.sites);
    let mut sites: Vec<&Site> = sites.collect();
    if sites.len() <= most {
        return json::value(report, &sites, symbols);
    }
    sites.sort_by(|a, b| {
        let order = b.live_bytes.total_cmp(&a.live_bytes);
        order.then(b.alloc_bytes.total_cmp(&a.alloc_bytes))
    });
    let rest = sites.split_off(most);
    let mut value = json::value(report, &sites, symbols);
    if let Some(profile) = value.get_mut("profile").and_then(Value::as_object_mut) {
        profile.insert("left_out".to_owned(), left_out(&rest));
    }
    value
}

/// What these call sites sum to, by the names of a site's fields.
fn left_out(sites: &[&Site]) -> Value {
    let mut totals = Totals::default();
    sites.iter().for_each(|site| totals += site.totals());
    json!({
        "sites": sites.len(),
        "never_freed": sites.iter().filter(|site| site.is_never_freed()).count(),
        "allocs": totals.allocs,
        "alloc_bytes": totals.alloc_bytes,
        "live_blocks": totals.live,
        "live_bytes": totals.live_bytes,
        "live_samples": sites.iter().map(|site| site.live_samples).sum::<u64>(),
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, named};
    use super::*;

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
    fn a_page_keeps_the_largest_sites_and_sums_the_others() {
        let site = |address: u64, live_bytes: f64, alloc_bytes: f64| Site {
            stack: vec![address],
            live: 1.0,
            live_bytes,
            allocs: 2.0,
            alloc_bytes,
            samples: address.min(2),
            live_samples: 1,
            ..Site::default()
        };
        let mut report = testing::report();
        // By live bytes 3, then 4 before 2 by what they allocated, then 1.
        let sites = vec![site(1, 5.0, 90.0), site(2, 8.0, 20.0), site(3, 9.0, 9.0)];
        report.snapshot = Some(testing::snapshot([sites, vec![site(4, 8.0, 30.0)]].concat()));
        let kept = |most: usize| super::data(&report, &testing::symbols, most)["profile"].take();
        let profile = kept(2);
        let stacks = |profile: &Value| {
            let sites = profile["sites"].as_array().expect("sites").iter();
            sites.map(|site| site["stack"][0].clone()).collect::<Vec<_>>()
        };
        assert_eq!(stacks(&profile), ["0x3", "0x4"]);
        let expected = json!({
            "sites": 2, "never_freed": 1, "allocs": 4.0, "alloc_bytes": 110.0,
            "live_blocks": 2.0, "live_bytes": 13.0, "live_samples": 2,
        });
        assert_eq!(profile["left_out"], expected);
        assert_eq!(profile["estimated"]["live_bytes"], 30.0, "of all");
        assert_eq!(profile["never_freed"], json!([]));
        assert_eq!(profile["frames"].as_array().map(Vec::len), Some(2), "no others are resolved");
        assert_eq!(stacks(&kept(4)), ["0x1", "0x2", "0x3", "0x4"], "as they are");
        assert!(kept(4).get("left_out").is_none());
        assert_eq!(kept(1)["never_freed"], json!([]));
        assert_eq!(kept(0)["left_out"]["sites"], 4);
    }

    #[test]
    fn a_page_of_many_sites_stays_small_and_json_has_them_all() {
        let sites = (1..=SITES as u64 + 500).map(|address| Site {
            stack: vec![address],
            live_bytes: address as f64,
            ..Site::default()
        });
        let mut report = Report::empty();
        report.snapshot = Some(testing::snapshot(sites.collect()));
        let profile = data(&html(&report, &testing::symbols))["profile"].take();
        assert_eq!(profile["sites"].as_array().map(Vec::len), Some(SITES));
        assert_eq!(profile["left_out"]["sites"], 500);
        assert_eq!(profile["left_out"]["live_bytes"], 125_250.0, "the smallest");
        let json: Value =
            serde_json::from_str(&json::json(&report, &testing::symbols)).expect("JSON");
        assert_eq!(json["profile"]["sites"].as_array().map(Vec::len), Some(SITES + 500));
        assert!(json["profile"].get("left_out").is_none());
    }

    #[test]
    fn no_list_of_any_length_is_spread_into_arguments() {
        let code = SCRIPT.lines().filter(|line| !line.trim_start().starts_with("//"));
        let spread = |line: &&str| {
            ["Math.", "push("].iter().any(|call| line.contains(call)) && line.contains("...")
        };
        assert_eq!(code.filter(spread).collect::<Vec<_>>(), [""; 0]);
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
