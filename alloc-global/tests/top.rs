//! `poolalloc-top` as users start it, looking at this very process.
//!
//! No unsafe here.

use alloc_global::PoolAlloc;
use std::hint::black_box;
use std::process::{Command, Output};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn top(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_poolalloc-top")).args(args).output().expect("it starts")
}

/// The one line on standard error of a run that must end with 2 and print nothing else.
fn refused(args: &[&str]) -> String {
    let Output { status, stdout, stderr } = top(args);
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!((status.code(), stdout.len()), (Some(2), 0), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.trim_end().to_owned()
}

#[test]
fn it_shows_a_process_once_and_says_what_it_cannot_show() {
    let pid = std::process::id().to_string();
    assert_eq!(
        refused(&["--once", &pid]),
        format!(
            "poolalloc-top: process {pid} publishes no statistics: start it with POOLALLOC_STATS_FILE=1"
        )
    );
    let path = std::env::temp_dir().join("poolalloc-%p-under-test");
    alloc_global::publish_stats(&path).expect("a file");
    let kept: Vec<_> = (0..5_000).map(|_| black_box(Box::new([1u8; 120]))).collect();
    // Found by the list of mappings: its name is not the default one.
    let shown = top(&["--once", &pid]);
    let text = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.status.success(), "{text}");
    assert!(text.starts_with(&format!("process {pid}\n")), "{text}");
    let row = text.lines().find(|line| line.trim_start().starts_with("120 ")).expect("a row");
    let live: u64 = row.split_whitespace().nth(2).expect("a count").parse().expect("a number");
    assert!((5_000..6_000).contains(&live), "{row}");
    drop(kept);
    let path = path.to_str().expect("text").replace("%p", &pid);
    assert!(top(&["--once", &path]).status.success());
    assert_eq!(refused(&["--once", "4294967295"]), "poolalloc-top: there is no process 4294967295");
    assert!(refused(&["--onec", &pid]).contains("unknown option --onec"));
    assert!(refused(&[]).contains("usage: "));
    assert!(top(&["--help"]).status.success());
}
