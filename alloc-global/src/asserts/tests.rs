//! Tests of the verdicts: limits, sizes, messages, baselines. Whole processes are tested in
//! `tests/answers.rs`.

use super::baseline::{IN_BASELINE, baseline_text, compare};
use super::*;
use std::fs;

fn stats() -> Measured {
    Measured {
        allocs: 3,
        deallocs: 2,
        reallocs: 1,
        alloc_bytes: 400,
        dealloc_bytes: 300,
        live_blocks: 1,
        live_bytes: 100,
        peak_bytes: 250,
        ..Measured::default()
    }
}

#[test]
fn limits_judge_at_their_borders() {
    let fine = |limit: Limit| limit.holds(&stats());
    assert!(fine(Limit::AllocsAtMost(4)) && !fine(Limit::AllocsAtMost(3)));
    assert!(fine(Limit::AllocsBelow(5)) && !fine(Limit::AllocsBelow(4)));
    assert!(fine(Limit::Allocs(4)) && !fine(Limit::Allocs(3)) && !fine(Limit::Allocs(5)));
    assert!(fine(Limit::Bytes(250)) && !fine(Limit::Bytes(249)));
    assert!(!fine(Limit::NoLeaks) && !fine(Limit::AllocsAtMost(0)));
    let none = Measured::default();
    assert!(Limit::AllocsAtMost(0).holds(&none));
    assert!(Limit::NoLeaks.holds(&none));
}

#[test]
fn sizes_have_units() {
    for (text, bytes) in [
        ("512", 512),
        ("512 B", 512),
        ("64 KiB", 65_536),
        ("64KiB", 65_536),
        (" 1.5 MiB ", 3 << 19),
        ("2 kB", 2_000),
        ("1.25 MB", 1_250_000),
        ("1 GiB", 1 << 30),
        ("0", 0),
    ] {
        assert_eq!(parse_bytes(text), Some(bytes), "{text}");
    }
    for bad in ["", "KiB", "-1", "1 KiBs", "1.2.3", "1.", ".5 KiB", "99999999999999999999", "64 k"]
    {
        assert_eq!(parse_bytes(bad), None, "{bad}");
    }
    assert_eq!((64u64.to_bytes(), 64usize.to_bytes(), 64i32.to_bytes()), (Ok(64), Ok(64), Ok(64)));
    assert!((-1i32).to_bytes().is_err() && "many".to_bytes().unwrap_err().contains("many"));
}

#[test]
fn a_failure_shows_counts_and_what_else_there_is() {
    let breach = Limit::NoLeaks.wanted();
    let bare = failure("assert_no_leaks!", &breach, &stats(), &Evidence::default());
    assert!(bare.starts_with("assert_no_leaks!: expected no block left over"), "{bare}");
    assert!(bare.contains("another thread"), "{bare}");
    for (name, value) in rows(&stats()) {
        let shown = |line: &str| line.split_whitespace().eq([name, &value.to_string()]);
        assert!(bare.lines().any(shown), "{name} {value} is not in\n{bare}");
    }
    let sites = vec!["100 bytes in 1 block: parse.rs:7".to_owned()];
    let evidence = Evidence { sites, profile: Some(PathBuf::from("target/a.pb.gz")) };
    let full = failure("assert_no_leaks!", &breach, &stats(), &evidence);
    assert!(full.contains("parse.rs:7") && full.ends_with("profile: target/a.pb.gz"), "{full}");
}

#[cfg(feature = "report")]
#[test]
fn folders_of_profiles_keep_their_percent_signs() {
    let bytes = OsString::from_vec(b"/\xFF 100%/%p/%e%%t%".to_vec());
    for path in [Path::new("/a/b"), Path::new("/a%p/%e-%%/%"), Path::new(&bytes)] {
        let report = crate::report::Report::of_process();
        let template = template_of(path).join("a.txt");
        // There is no such folder: the error names the file that it would have been.
        let error = crate::report::write(&template, &report, &crate::report::NoSymbols);
        let error = error.expect_err("nothing there").to_string();
        let path = path.join("a.txt").display().to_string();
        assert!(error.starts_with(&format!("cannot write report {path}: ")), "{error}");
    }
}

#[test]
fn a_baseline_fails_what_is_above_it_and_notes_what_is_below() {
    let text = baseline_text(&stats());
    assert_eq!(text.lines().count(), IN_BASELINE.len());
    assert_eq!(compare(&text, &stats()), Ok(None));
    let more = Measured { allocs: 4, peak_bytes: 251, ..stats() };
    assert_eq!(compare(&text, &more), Err("allocs 4 above 3, peak_bytes 251 above 250".into()));
    let less = Measured { allocs: 1, ..stats() };
    assert_eq!(compare(&text, &less), Ok(Some("allocs 1 below 3".into())));
    assert!(compare("allocs 3\n", &stats()).unwrap_err().contains("no line for reallocs"));
    for bad in ["allocs many", "speed 3", "allocs", "allocs -1"] {
        assert!(compare(bad, &stats()).unwrap_err().contains(bad), "{bad}");
    }
}

#[test]
fn a_baseline_lies_beside_the_source_and_is_written_on_request() {
    let folder = env::temp_dir().join(format!("poolalloc-baselines-{}", std::process::id()));
    let package = folder.join("package");
    fs::create_dir_all(package.join("src")).unwrap();
    fs::write(package.join("src/a.rs"), "").unwrap();
    // As the compiler names it when it is started in the folder above, and in the package.
    let from_above = baseline_file("parse", &package, Path::new("package/src/a.rs")).unwrap();
    let from_within = baseline_file("parse", &package, Path::new("src/a.rs")).unwrap();
    assert_eq!(from_above, from_within);
    assert_eq!(from_above, package.join("src/baselines/parse.txt"));
    for bad in ["", "../parse", "a/b", ".hidden"] {
        assert!(baseline_file(bad, &package, Path::new("src/a.rs")).is_err(), "{bad:?}");
    }
    assert!(baseline_file("parse", &package, Path::new("src/gone.rs")).is_err());

    let missing = judge_baseline(&from_above, &stats(), false).unwrap_err();
    assert!(missing.contains(UPDATE), "{missing}");
    assert!(judge_baseline(&from_above, &stats(), true).unwrap().unwrap().starts_with("wrote"));
    assert_eq!(judge_baseline(&from_above, &stats(), false), Ok(None));
    let more = Measured { reallocs: 2, ..stats() };
    assert!(judge_baseline(&from_above, &more, false).is_err());
    let left = fs::read_dir(package.join("src/baselines")).unwrap().count();
    assert_eq!(left, 1, "nothing but the baseline is left behind");
    // A file stands where the folder should be.
    let blocked = package.join("src/a.rs/baselines/parse.txt");
    assert!(judge_baseline(&blocked, &stats(), true).unwrap_err().starts_with("cannot write"));
    fs::remove_dir_all(folder).unwrap();
}
