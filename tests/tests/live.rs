//! The statistics file of a program: what a reader sees, when the program writes, and what becomes
//! of the file.
//!
//! Frames are compared with `stats()` at rest, and with what each case did. No unsafe here.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, thread};

use alloc_global::{LiveReader, PoolAlloc, class_stats, heatmap, publish_stats, stats};
use tests::block::Block;
use tests::cases::{self, Case};
use tests::invariants;
use tests::process::{self, Ended};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn main() -> ExitCode {
    cases::main(&[
        Case::new("a_frame_agrees_with_the_counters", agrees),
        Case::new("a_reader_sees_what_changes", changes),
        Case::new("nothing_is_written_while_nobody_looks", asleep),
        Case::new("readers_and_writers_do_not_disturb_work", under_load),
        Case::new("the_file_is_private_and_goes_with_the_process", file),
        Case::new("a_child_of_fork_leaves_the_file_alone_and_may_have_its_own", forked),
        Case::new("looked_at", looked_at),
        Case::new("the_environment_asks_for_it", environment),
        Case::new("paths_that_cannot_be_are_errors", bad_paths),
    ])
}

const LIMIT: Duration = Duration::from_secs(30);

fn path() -> PathBuf {
    env::temp_dir().join(format!("poolalloc-live-{}", std::process::id()))
}

fn published() -> LiveReader {
    publish_stats(path()).expect("a file");
    LiveReader::open(path()).expect("the file")
}

fn blocks(count: u64, size: usize) -> Vec<Block> {
    (0..count).map(|tag| Block::new(size, 8, tag).expect("memory")).collect()
}

fn agrees() {
    let kept = blocks(20_000, 136);
    let reader = published();
    let frame = reader.next_frame(LIMIT).expect("a frame");
    let now = stats();
    assert_eq!(frame.pid, u64::from(std::process::id()));
    // The reader itself allocated between the two readings; what it does not touch must be equal.
    for name in
        ["peak arenas", "arenas", "mapped bytes", "threads", "orphan allocs", "reallocs moved"]
    {
        let row = now.rows().find(|row| row.0 == name).expect("a counter");
        assert_eq!(frame.stat(name), row.1, "{name}");
    }
    assert!(frame.stat("live blocks").abs_diff(now.live_blocks) < 200);
    assert_eq!(frame.classes.len(), 64);
    let (shown, own) = (frame.classes[16], class_stats()[16]);
    assert_eq!((shown.size, shown.live_blocks, shown.pools), (136, own.live_blocks, own.pools));
    let map = heatmap();
    assert_eq!(frame.grid.len(), map.arenas.len());
    for (shown, own) in frame.grid.iter().zip(&map.arenas) {
        assert_eq!((shown.start, shown.symbols.len()), (own.start, 64));
        let same = shown.symbols.chars().zip(&own.pools).filter(|(a, b)| *a == b.symbol()).count();
        assert!(same >= 56, "{} against {own:?}", shown.symbols);
    }
    let delay = frame.settings.iter().find(|setting| setting.0 == "POOLALLOC_PURGE_DELAY_MS");
    assert_eq!(delay.map(|setting| setting.1), Some(500));
    drop(kept);
}

fn changes() {
    let reader = published();
    let before = reader.next_frame(LIMIT).expect("a frame");
    let kept = blocks(50_000, 200);
    let full = reader.next_frame(LIMIT).expect("a frame");
    assert!(full.stat("live blocks") >= before.stat("live blocks") + 50_000);
    assert!(full.updated_ms >= before.updated_ms);
    drop(kept);
    let after = reader.next_frame(LIMIT).expect("a frame");
    assert!(after.stat("live blocks") + 49_000 < full.stat("live blocks"));
    assert_eq!(after.stat("peak arenas"), full.stat("peak arenas"));
}

/// The word at this offset of the file.
fn word(at: usize) -> u64 {
    let bytes = fs::read(path()).expect("the file");
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn asleep() {
    const SEQUENCE: usize = 40;
    publish_stats(path()).expect("a file");
    let first = word(SEQUENCE);
    thread::sleep(Duration::from_millis(400));
    drop(blocks(10_000, 64));
    assert_eq!(word(SEQUENCE), first, "nobody looked yet");
    let reader = LiveReader::open(path()).expect("the file");
    reader.next_frame(LIMIT).expect("a frame");
    assert!(word(SEQUENCE) > first);
    // Two seconds after the last question it goes back to sleep.
    let mut last = 0;
    while word(SEQUENCE) != last {
        last = word(SEQUENCE);
        thread::sleep(Duration::from_millis(500));
    }
    let frame = reader.next_frame(LIMIT).expect("and wakes up again");
    assert!(frame.stat("allocs") > 10_000 && word(SEQUENCE) > last);
}

fn under_load() {
    let reader = published();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..3u64)
            .map(|seed| {
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    for _ in 0..200 {
                        drop(blocks(2_000, rng.usize(1..700)));
                    }
                })
            })
            .collect();
        let mut frames = 0;
        while frames < 5 || !workers.iter().all(|worker| worker.is_finished()) {
            let frame = reader.next_frame(LIMIT).expect("a frame");
            assert_eq!(frame.stat("mapped bytes"), frame.stat("arenas") << 20);
            assert!(frame.grid.iter().all(|arena| arena.symbols.starts_with('#')));
            frames += 1;
        }
    });
    invariants().expect("invariants");
}

fn file() {
    let path = path();
    // An earlier process of the same number left one behind: it is replaced.
    fs::write(&path, "old").expect("a file");
    let child = process::fork(|| {
        publish_stats(&path).expect("a file");
        let found = LiveReader::open(&path).expect("the file");
        let mode = fs::metadata(&path).expect("the file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(found.path(), path);
        let own = LiveReader::of_process(std::process::id()).expect("found by the process");
        assert_eq!(own.path(), path);
        // Exits with the handlers that a process runs at its end.
        std::process::exit(7)
    });
    assert_eq!(child.wait(LIMIT), Ended::Code(7));
    assert!(!path.exists(), "it goes with the process");
    publish_stats(&path).expect("a file");
    assert!(LiveReader::open(&path).is_ok());
}

fn forked() {
    let reader = published();
    let before = reader.next_frame(LIMIT).expect("a frame");
    let child = process::fork(|| {
        let own = env::temp_dir().join(format!("poolalloc-live-child-{}", std::process::id()));
        publish_stats(&own).expect("a file of its own");
        let reader = LiveReader::open(&own).expect("the file");
        let frame = reader.next_frame(LIMIT).expect("a frame");
        let right = frame.pid == u64::from(std::process::id());
        std::process::exit(if right { 0 } else { 9 })
    });
    assert_eq!(child.wait(LIMIT), Ended::Code(0));
    assert!(path().exists(), "the parent's file is the parent's");
    let after = reader.next_frame(LIMIT).expect("a frame");
    assert_eq!(before.pid, after.pid);
}

fn environment() {
    // This binary again: as the program that is asked to publish.
    let path = path();
    let name = path.to_str().expect("a path");
    let run = |value: &str| {
        cases::run_self(&["--case", "looked_at"], &[("POOLALLOC_STATS_FILE", value)], LIMIT)
    };
    let good = run(name);
    assert!(good.status.is_some_and(|status| status.success()), "{}", good.stderr);
    assert_eq!(good.stderr, "", "nothing to complain about");
    assert!(!path.exists(), "it went with the process");
    let bad = run("/nowhere/at/all");
    let first = bad.stderr.lines().next().unwrap_or("");
    assert_eq!(first, "poolalloc: cannot publish statistics in /nowhere/at/all, error 2");
}

/// Run by `environment` with the variable set: the file is there without a call.
fn looked_at() {
    let path = env::var("POOLALLOC_STATS_FILE").unwrap_or_default();
    if path.starts_with("/nowhere") || path.is_empty() {
        return;
    }
    let reader = LiveReader::open(&path).expect("the file");
    let frame = reader.next_frame(LIMIT).expect("a frame");
    assert_eq!(frame.pid, u64::from(std::process::id()));
}

fn bad_paths() {
    for bad in ["/nowhere/at/all", "", "/dev/null/x", "/proc/x"] {
        let error = publish_stats(bad).expect_err("no file can be there");
        assert!(!error.to_string().is_empty(), "{bad}");
    }
    let long = "x".repeat(10_000);
    assert!(publish_stats(long).is_err());
    // None of them keeps a good one from working.
    let reader = published();
    assert!(reader.next_frame(LIMIT).is_some());
}
