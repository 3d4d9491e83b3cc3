//! Tests of the screen of text: what is on it, and that it stays one.

use super::super::{NoSymbols, testing};
use super::*;

fn screen(report: &Report) -> String {
    let text = text(report, &testing::symbols);
    assert!(text.lines().count() <= 64, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    assert!(text.ends_with('\n'));
    text
}

#[test]
fn everything_fits_one_screen() {
    let text = screen(&testing::report());
    for part in [
        "poolalloc: server (process 4321) after 95.0 s\n",
        "classes: 8 with live blocks\n",
        "call sites: 7 with live blocks (estimates, one sample in 512 KiB)\n",
        "server::http::parse (src/http.rs:88)\n",
        "never freed: 605 KiB at 1 call sites\n",
        " pinned by 61 blocks (7.6 KiB) of <server::session::Store as Open>::open (src/session.rs:63)\n",
        "1.0 MiB pinned by 7 blocks (448 B) of blocks of 64 bytes, heap 1 (main, worker-3)\n",
        "one more class of 1,312 bytes below that of 1,536 would save 140 KiB +-17.5 KiB\n",
        "dropped: 2 stacks, 5 blocks; walks cut: 17, corrupt: 1\n",
        "this report took 38.4 ms\n",
        "latency (50 %, 99 %, longest): fast ",
        "the profile takes 768 KiB; live by sites ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn the_estimate_has_its_error_and_stands_beside_the_counter() {
    let mut report = testing::report();
    let snapshot = report.snapshot.as_mut().expect("a snapshot");
    let [first, ..] = snapshot.sites.as_mut_slice() else { panic!("no site") };
    (first.live_bytes, first.live_bytes_variance) = (100e6, 9e12);
    snapshot.sites.truncate(1);
    snapshot.stats.live_bytes = 110_000_000;
    let last = "live by sites 95.4 MiB +-2.9 MiB, by counters 105 MiB (-9.1 %)\n";
    assert!(screen(&report).ends_with(last), "{}", screen(&report));
    report.snapshot.as_mut().expect("a snapshot").sites[0].live_bytes_variance = 0.0;
    let exact = "live by sites 95.4 MiB, by counters 105 MiB (-9.1 %)\n";
    assert!(screen(&report).ends_with(exact), "{}", screen(&report));
}

#[test]
fn latencies_and_the_collector_have_their_lines() {
    let mut report = testing::report();
    let mut histogram = hdrhistogram::Histogram::new(2).expect("a histogram");
    (0..99).for_each(|_| histogram.record(100).expect("room"));
    histogram.record(2_000_000).expect("room");
    report.latency = Some(vec![
        Latency { path: "fast", histogram: histogram.clone() },
        Latency { path: "refill", histogram },
    ]);
    let text = screen(&report);
    let line = "latency (50 %, 99 %, longest): fast 100 ns, 100 ns, 2.0 ms; refill 100 ns";
    assert!(text.contains(line), "{text}");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip_while(|line| !line.starts_with("generation"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let old = ["2", "6", "2.1", "ms", "10.5", "ms", "18.9", "ms", "240,000", "4,118", "235,882"];
    assert_eq!(rows[3], old, "{text}");
    let types = "collector: 43,116 objects live, 2.7 MiB, of that 2.4 MiB of server::Node\n";
    assert!(text.contains(types), "{text}");
    (report.latency, report.gc) = (None, Some(GcReport::default()));
    let text = screen(&report);
    assert!(!text.contains("latency") && !text.contains("generation"), "{text}");
}

/// Every table at its longest, every number at its widest.
#[test]
fn the_most_there_can_be_fits_one_screen() {
    let mut report = testing::report();
    let mut rss = crate::explain_rss();
    rss.parts.iter_mut().for_each(|part| part.bytes = 1 << 60);
    report.rss = Some(rss);
    for class in report.classes.as_mut().expect("classes") {
        (class.live_blocks, class.live_bytes) = (99_999_999_999, 99 << 40);
    }
    let site = |number: u64| Site {
        stack: vec![number],
        allocs: 1.0,
        live: 1.0,
        live_bytes: 1e13,
        live_bytes_variance: 1e24,
        live_samples: 1,
        samples: 1,
        ..Site::default()
    };
    let snapshot = testing::snapshot((0..100).map(site).collect());
    let stats = crate::Stats { live_bytes: 999 << 40, ..snapshot.stats };
    report.snapshot = Some(Snapshot { stats, tool_bytes: 4 << 20, rate: 512 << 10, ..snapshot });
    report.pins = report.pins.map(|pins| pins.into_iter().cycle().take(10).collect());
    let row = report.gc.as_mut().expect("a collector");
    for row in &mut row.generations {
        (row.collections, row.candidates) = (99_999_999, 99_999_999_999);
        (row.freed, row.retained) = (99_999_999_999, 99_999_999_999);
        (row.pause_p50_ns, row.pause_max_ns) = (999, 99_949_999);
    }
    let text = screen(&report);
    assert!(!text.contains("..."), "cut\n{text}");
    assert!(text.lines().count() > 50, "not the most\n{text}");
}

#[test]
fn every_counter_is_on_the_screen() {
    let report = testing::report();
    let text = screen(&report);
    for (name, value) in report.stats.rows() {
        // The rest of what is mapped is in the table of its parts.
        let shown = match name {
            "free bytes" => continue,
            "mapped bytes" => value.to_string(),
            name if name.contains("bytes") => bytes(value as f64),
            _ => count(value),
        };
        assert!(text.contains(&shown), "{name} {shown}\n{text}");
    }
}

#[test]
fn the_parts_sum_to_the_line_below_them() {
    let text = screen(&testing::report());
    let rows: Vec<u64> = text
        .lines()
        .skip_while(|line| !line.starts_with("arenas:"))
        .skip(1)
        .take(8)
        .map(|line| line.get(15..31).expect("a column").trim().parse().expect("a number"))
        .collect();
    assert_eq!(rows[..7].iter().sum::<u64>(), rows[7]);
}

#[test]
fn long_names_and_many_sites_do_not_make_it_longer() {
    let site = |number: u64| Site {
        stack: vec![number],
        live: 1.0,
        live_bytes: 1.0 + number as f64,
        ..Site::default()
    };
    let mut report = testing::report();
    report.snapshot = Some(testing::snapshot((0..100).map(site).collect()));
    let text = screen(&report);
    assert!(text.contains("call sites: 100 with live blocks (every block traced)\n"));
    assert!(text.contains("and 94 more\n"));
    let long = |a: &[u64]| vec![vec![testing::named(&"é".repeat(500))]; a.len()];
    assert!(super::text(&report, &long).contains("éé...\n"));
}

#[test]
fn without_a_profile_it_is_still_a_page() {
    let text = super::text(&Report::empty(), &NoSymbols);
    assert!(text.contains("= mapped"));
    assert!(text.contains("no profile was on"));
    assert!(!text.contains("call sites"));
}

#[test]
fn of_absolute_paths_the_end_is_shown() {
    assert_eq!(short("/a/b/src/main.rs:3"), "src/main.rs:3");
    assert_eq!(short("/main.rs"), "/main.rs");
    assert_eq!(short("src/a/b/main.rs"), "src/a/b/main.rs");
}

#[test]
fn sizes_and_counts_are_for_people() {
    let sizes = [0.0, 999.0, 1_000.0, 1_024.0, 102_400.0, 1e6, 1e12].map(bytes);
    let expected = ["0 B", "999 B", "1.0 KiB", "1.0 KiB", "100 KiB", "977 KiB", "931 GiB"];
    assert_eq!(sizes, expected);
    assert_eq!([0, 12, 123, 1_234, 1_234_567].map(count), ["0", "12", "123", "1,234", "1,234,567"]);
}
