//! Tests of the questions to snapshots and diffs, on made-up sites. No unsafe here.

use super::*;
use crate::profile::frame::Frame;
use crate::{Dropped, Lifetimes};
use std::time::{Duration, SystemTime};

fn site(stack: &[u64], thread: &str, live_bytes: f64) -> Site {
    Site {
        stack: stack.to_vec(),
        thread: thread.to_owned(),
        allocs: live_bytes / 10.0,
        alloc_bytes: live_bytes,
        live: live_bytes / 10.0,
        live_bytes,
        live_requested_bytes: live_bytes,
        // As if each of ten had been in with a chance of one in two.
        alloc_bytes_variance: live_bytes * live_bytes / 20.0,
        live_bytes_variance: live_bytes * live_bytes / 20.0,
        samples: 4,
        live_samples: 4,
        lifetimes: Lifetimes::default(),
        ..Site::default()
    }
}

fn snapshot(sites: Vec<Site>) -> Snapshot {
    Snapshot {
        stats: crate::Stats::default(),
        rate: 1000,
        sites,
        modules: Vec::new(),
        dropped: Dropped::default(),
        tool_bytes: 0,
        taken: SystemTime::UNIX_EPOCH,
        duration: Duration::ZERO,
    }
}

fn symbols() -> Symbols {
    let frame = |function: &str, line| Frame {
        function: function.to_owned(),
        file: Some(format!("src/{}.rs", crate_of(function))),
        line: Some(line),
        column: None,
    };
    Symbols::of([
        (1, vec![frame("__rust_alloc", 1)]),
        (2, vec![frame("app::load::Loader::read", 20), frame("app::load::all", 7)]),
        (3, vec![frame("app::load::all", 8)]),
        (4, vec![frame("lib::make", 5)]),
        (5, vec![frame("app::main", 1)]),
    ])
}

fn groups(snapshot: &Snapshot, grouping: Grouping) -> Vec<(String, f64)> {
    let rows = snapshot.sites.iter().map(|site| (site.key(), site.totals()));
    let groups = grouped(rows, grouping, &symbols());
    groups.into_iter().map(|group| (group.name, group.totals.live_bytes)).collect()
}

fn three() -> Snapshot {
    let mut other = site(&[], "[other]", 5.0);
    other.samples = 6;
    let sites = vec![
        site(&[1, 2, 5], "main", 100.0),
        site(&[1, 4, 5], "main", 80.0),
        site(&[1, 3, 5], "reader", 60.0),
        other,
    ];
    snapshot(sites)
}

#[test]
fn sites_are_put_together_by_each_property() {
    let owned = |rows: &[(&str, f64)]| -> Vec<(String, f64)> {
        rows.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect()
    };
    let three = three();
    for (grouping, expected) in [
        (Grouping::Crate, owned(&[("app", 160.0), ("lib", 80.0), ("[other]", 5.0)])),
        (Grouping::Module, owned(&[("app::load", 160.0), ("lib", 80.0), ("[other]", 5.0)])),
        (Grouping::Thread, owned(&[("main", 180.0), ("reader", 60.0), ("[other]", 5.0)])),
        (Grouping::Region, owned(&[("-", 240.0), ("[other]", 5.0)])),
        (
            Grouping::Function,
            owned(&[
                ("app::load::Loader::read", 100.0),
                ("lib::make", 80.0),
                ("app::load::all", 60.0),
                ("[other]", 5.0),
            ]),
        ),
        (
            Grouping::Line,
            owned(&[
                ("src/app.rs:20", 100.0),
                ("src/lib.rs:5", 80.0),
                ("src/app.rs:8", 60.0),
                ("[other]", 5.0),
            ]),
        ),
    ] {
        assert_eq!(groups(&three, grouping), expected, "{grouping:?}");
    }
    let stacks = groups(&three, Grouping::Stack);
    assert_eq!(stacks[0].0, "app::load::Loader::read < app::load::all < app::main");
}

#[test]
fn filters_keep_and_drop_by_function_and_file() {
    let three = three();
    let left = |filters: &[Filter]| three.filter_with(filters, &symbols()).sites.len();
    assert_eq!(left(&[]), 4);
    assert_eq!(left(&[Filter::include("app::load")]), 2);
    assert_eq!(left(&[Filter::include("app::load"), Filter::exclude("*::read")]), 1);
    assert_eq!(left(&[Filter::exclude("*lib.rs")]), 3);
    assert_eq!(left(&[Filter::include("lib::"), Filter::include("*::Loader::*")]), 2);
}

#[test]
fn patterns_match_as_they_say() {
    for (pattern, text, expected) in [
        ("", "anything", true),
        ("app", "app::x", true),
        ("app*", "app", true),
        ("*", "", true),
        ("*a*b", "xaxb", true),
        ("*a*b", "xbxa", false),
        ("a*a", "a", false),
        ("a*b*c", "abc", true),
        ("é*", "éa", true),
        ("b", "ab", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
}

#[test]
fn errors_are_roots_of_variances_which_add_up() {
    assert_eq!((relative_error(0.0, 0.0), relative_error(0.0, 5.0)), (0.0, 0.0));
    let site = Site {
        alloc_bytes: 100.0,
        alloc_bytes_variance: 25.0,
        live_variance: 4.0,
        live_bytes: 30.0,
        live_bytes_variance: 9.0,
        ..Site::default()
    };
    assert_eq!((site.alloc_error(), site.live_error()), (0.05, 0.1));
    let totals = site.totals();
    let errors = (totals.alloc_bytes_error, totals.live_error, totals.live_bytes_error);
    assert_eq!(errors, (5.0, 2.0, 3.0));
    let mut totals = Totals { live_bytes_error: 3.0, ..Totals::default() };
    totals += Totals { live_bytes_error: 4.0, live: 1.0, ..Totals::default() };
    assert_eq!((totals.live_bytes_error, totals.live), (5.0, 1.0));
}

#[test]
fn leaks_are_what_was_never_freed_and_top_is_bounded() {
    let three = three();
    let leaks = three.leaks();
    assert_eq!(leaks.iter().map(|site| site.live_bytes).collect::<Vec<_>>(), [100.0, 80.0, 60.0]);
    assert_eq!((three.top(2).len(), three.top(9).len()), (2, 4));
}

#[test]
fn a_diff_is_sorted_by_growth_and_leaves_out_what_stayed() {
    let before = snapshot(vec![site(&[1], "a", 50.0), site(&[2], "a", 50.0), site(&[3], "a", 9.0)]);
    let after = snapshot(vec![
        site(&[1], "a", 40.0),
        site(&[2], "a", 80.0),
        site(&[3], "a", 9.0),
        site(&[4], "b", 1.0),
    ]);
    let diff = after.diff(&before);
    let rows: Vec<_> = diff.rows.iter().map(|row| (row.stack[0], row.growth.live_bytes)).collect();
    assert_eq!(rows, [(2, 30.0), (4, 1.0), (1, -10.0)]);
    assert_eq!(diff.totals().live_bytes, 21.0);
    assert_eq!(diff.top(1).len(), 1);
    let threads = diff.group_by(Grouping::Thread);
    assert_eq!(threads[0].name, "a");
    assert_eq!(threads[0].totals.live_bytes, 20.0);
    assert!(diff.to_string().lines().count() >= 4, "{diff}");
}

#[test]
fn a_snapshot_prints_a_table_with_errors() {
    let stats = crate::Stats { live_bytes: 300, live_blocks: 7, ..Default::default() };
    let text = Snapshot { stats, ..three() }.to_string();
    assert!(text.starts_with("sampled, 1000 B apart\n"), "{text}");
    // Four samples of 25 blocks in all: the error is in the line of the sum.
    assert!(text.lines().any(|line| line.ends_with("  all") && line.contains("245 B")), "{text}");
    let last = text.lines().last().unwrap_or_default().split_whitespace();
    assert!(last.eq("300 B 7 all, by the exact counters".split(' ')), "{text}");
    assert_eq!(short(-1536.0), "-1.5 KiB");
    assert_eq!(short(f64::from(1u32 << 30) * 3000.0), "2.9 TiB");
}

#[cfg(all(feature = "serde", feature = "report"))]
fn json(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap()
}

#[cfg(all(feature = "serde", feature = "report"))]
#[test]
fn answers_are_serialised_whole() {
    let snapshot = three();
    let value = json(&snapshot);
    assert_eq!((&value["rate"], value["stats"]["allocs"].as_u64()), (&1000.into(), Some(0)));
    assert_eq!(value["taken"]["secs_since_epoch"], 0);
    let site = &value["sites"][0];
    assert_eq!((&site["live_bytes"], &site["thread"]), (&100.0.into(), &"main".into()));
    assert_eq!(site["stack"], serde_json::json!([1, 2, 5]));
    assert_eq!(site["lifetimes"]["counts"].as_array().map(Vec::len), Some(40));
    assert_eq!(site["most"], serde_json::json!({"bytes": 0.0, "blocks": 0.0}));
    assert_eq!(value["dropped"]["corrupt"], 0);
    let totals = json(&snapshot.totals());
    assert_eq!(totals["live_bytes"], 245.0);
    assert!(totals["live_bytes_error"].as_f64().unwrap() > 0.0);
    let groups = json(&snapshot.group_by(Grouping::Thread));
    assert_eq!(groups[0]["name"], "main");
    assert_eq!(groups[0]["totals"]["live_bytes"], 180.0);
    assert_eq!(json(&Grouping::Crate), "Crate");
    let before = super::super::snapshot::Snapshot { sites: Vec::new(), ..three() };
    let diff = json(&snapshot.diff(&before));
    assert_eq!(diff["rows"][0]["growth"]["live_bytes"], 100.0);
    let rounding = crate::Rounding {
        class_size: 48,
        additional: Some(crate::BetterClass { size: 44, saved_bytes: 9.0, saved_bytes_error: 1.0 }),
        sites: vec![crate::RoundingSite { stack: vec![7], lost_bytes: 3.0, lost_bytes_error: 1.0 }],
        ..crate::Rounding::default()
    };
    let rounding = json(&rounding);
    assert_eq!(
        (&rounding["class_size"], &rounding["other"]),
        (&48.into(), &serde_json::Value::Null)
    );
    assert_eq!(rounding["additional"]["saved_bytes"], 9.0);
    assert_eq!(rounding["sites"][0]["stack"], serde_json::json!([7]));
}
