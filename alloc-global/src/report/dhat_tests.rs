//! The rules of DHAT's format, checked on what is written. They are those of `dh_main.c`, which
//! describes the format, of `dh_view.js`, which stops at what breaks them, and of the Firefox
//! Profiler, which parses frames.
//!
//! No unsafe here.

use super::super::frame::Frame;
use super::super::testing::{self, named};
use super::*;
use crate::Dropped;
use std::collections::HashSet;

fn read(report: &Report, symbols: &dyn Symbols) -> Value {
    let file: Value = serde_json::from_str(&dhat(report, symbols)).expect("JSON");
    check(&file);
    file
}

fn fields(value: &Value) -> HashSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn check(file: &Value) {
    assert_eq!(file["dhatFileVersion"], 2);
    for text in ["mode", "verb", "tu", "Mtu", "cmd"] {
        assert!(file[text].is_string(), "{text}");
    }
    let lifetimes = file["bklt"].as_bool().expect("a boolean");
    assert_eq!(file["bkacc"], false, "no accesses are recorded");
    assert!(file["pid"].is_u64() && file["te"].is_u64());
    for field in ["tuth", "tg"] {
        assert_eq!(file[field].is_u64(), lifetimes, "{field} goes with lifetimes");
    }
    if lifetimes {
        assert!(file["tg"].as_u64() <= file["te"].as_u64());
    }
    let table = file["ftbl"].as_array().expect("a table of frames");
    assert_eq!(table[0], "[root]");
    table[1..].iter().for_each(|frame| check_frame(frame.as_str().expect("a text")));
    assert_eq!(table.iter().collect::<HashSet<_>>().len(), table.len(), "each frame once");
    let mut always = HashSet::from(["tb", "tbk", "fs"]);
    if lifetimes {
        always.extend(["tl", "mb", "mbk", "gb", "gbk", "eb", "ebk"]);
    }
    let mut stacks = HashSet::new();
    for point in file["pps"].as_array().expect("program points") {
        assert_eq!(fields(point), always);
        for field in always.iter().filter(|&&field| field != "fs") {
            assert!(point[field].is_u64(), "{field}");
        }
        let frames = point["fs"].as_array().expect("frames");
        assert!(!frames.is_empty());
        for frame in frames {
            let frame = usize::try_from(frame.as_u64().expect("an index")).expect("fits");
            assert!((1..table.len()).contains(&frame), "the root is not said");
        }
        assert!(stacks.insert(frames), "the viewer refuses a stack that comes twice");
    }
}

/// `^0x([0-9a-f]+): (.+) \((.+):(\d+):(\d+)\)$`, as the Firefox Profiler has it.
fn check_frame(frame: &str) {
    let parse = || {
        let (address, rest) = frame.strip_prefix("0x")?.split_once(": ")?;
        u64::from_str_radix(address, 16).ok()?;
        let (function, place) = rest.strip_suffix(')')?.rsplit_once(" (")?;
        let mut place = place.rsplitn(3, ':');
        place.next()?.parse::<u32>().ok()?;
        place.next()?.parse::<u32>().ok()?;
        let file = place.next()?;
        (!function.is_empty() && !file.is_empty() && !frame.contains('\n')).then_some(())
    };
    assert!(parse().is_some(), "{frame}");
}

#[test]
fn program_points_hold_the_sums_of_sites_that_look_the_same() {
    let report = testing::report();
    let file = read(&report, &testing::symbols);
    assert_eq!(file["bklt"], true);
    let sites = &report.snapshot.as_ref().expect("a snapshot").sites;
    let points = file["pps"].as_array().expect("points");
    assert!(points.len() < sites.len(), "two sites differ by their threads only");
    let total =
        |field: &str| points.iter().map(|point| point[field].as_u64().expect("n")).sum::<u64>();
    let near = |sum: u64, of: fn(&Site) -> f64| {
        let exact: f64 = sites.iter().map(of).sum();
        assert!((sum as f64 - exact).abs() <= points.len() as f64, "{sum} {exact}");
    };
    near(total("tb"), |site| site.alloc_bytes);
    near(total("tbk"), |site| site.allocs);
    near(total("eb"), |site| site.live_bytes);
    near(total("ebk"), |site| site.live);
    near(total("gb"), |site| site.at_peak.bytes);
    near(total("gbk"), |site| site.at_peak.blocks);
    near(total("mb"), |site| site.most.bytes);
    assert_eq!(file["te"], 90_000_000);
    assert!(file["mode"].as_str().expect("a text").contains("64 KiB a thread"));
}

#[test]
fn frames_tell_function_file_line_and_column() {
    let file = read(&testing::report(), &testing::symbols);
    let table: Vec<&str> =
        file["ftbl"].as_array().expect("frames").iter().filter_map(Value::as_str).collect();
    assert!(table.contains(&"0x55d000003000: server::cache::Entry::new (src/cache.rs:21:9)"));
    let leaf = file["pps"][0]["fs"][0].as_u64().expect("an index") as usize;
    assert!(table[leaf].contains("alloc::vec::Vec<T,A>::push"));
}

#[test]
fn without_symbols_frames_name_the_module() {
    let file = read(&testing::report(), &super::super::NoSymbols);
    let table = file["ftbl"].as_array().expect("frames");
    assert!(table.iter().any(|frame| frame == "0x55d000003000: ??? (/usr/bin/server:0:0)"));
    assert!(table.iter().any(|frame| frame == "0x0: [cut] (???:0:0)"));
}

#[test]
fn without_lifetimes_their_fields_are_absent() {
    let mut report = testing::report();
    let snapshot = report.snapshot.as_mut().expect("a snapshot");
    snapshot.sites.iter_mut().for_each(|site| site.lifetimes = Lifetimes::default());
    assert_eq!(read(&report, &testing::symbols)["bklt"], false);
    let none = Report { snapshot: None, ..report };
    assert_eq!(read(&none, &testing::symbols)["bklt"], false);
}

#[test]
fn where_nothing_was_freed_everything_lives_to_the_end() {
    let site = Site { stack: vec![9], allocs: 2.0, live: 2.0, ..Site::default() };
    let report = Report { snapshot: Some(testing::snapshot(vec![site])), ..Report::empty() };
    let file = read(&report, &super::super::NoSymbols);
    assert_eq!(file["bklt"], true);
    assert_eq!(file["pps"][0]["tl"], 0);
}

#[test]
fn lifetimes_sum_by_the_middles_of_their_powers() {
    let mut lifetimes = Lifetimes::default();
    lifetimes.counts[0] = 2.0;
    lifetimes.counts[10] = 1.0;
    assert_eq!(sum(&lifetimes), 3.0 + 1_536.0);
}

#[test]
fn odd_names_stay_one_line_and_one_frame() {
    let site = Site { stack: vec![1, 2], ..Site::default() };
    let mut snapshot = testing::snapshot(vec![site.clone(), site]);
    snapshot.dropped = Dropped { stacks: 3, ..Dropped::default() };
    let report = Report { snapshot: Some(snapshot), ..Report::empty() };
    let symbols = |a: &[u64]| -> Vec<Vec<Frame>> {
        a.iter().map(|_| vec![named("f (a) \"b\"\n<T as U>::{{closure}}")]).collect()
    };
    let file = read(&report, &symbols);
    assert_eq!(file["pps"].as_array().expect("points").len(), 1);
}
