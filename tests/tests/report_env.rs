//! Reports that the environment asks for: when they are written, where, and what is said when they
//! cannot be.
//!
//! Each case starts this binary again with settings, and looks at its end: the files, standard
//! error to the letter, and the exit code, which no report may change. Unsafe here: calls of the C
//! library that end a process, send it a signal or make a pipe.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use alloc_global::PoolAlloc;
use tests::block::Block;
use tests::cases::{self, Case, Output, run_self};
use tests::process::{Ended, fork, leave};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Says in the process that a case starts what it is to do.
const DO: &str = "REPORT_ENV_DO";

fn main() -> ExitCode {
    if let Ok(deed) = std::env::var(DO) {
        return work(&deed);
    }
    cases::main(&[
        Case::new("a_report_is_written_on_return_exit_and_panic", ends),
        Case::new("none_is_written_on_abort_and_at_once_ends", hard_ends),
        Case::new("a_child_of_fork_writes_its_own_or_none", forked),
        Case::new("each_signal_writes_a_report", signalled),
        Case::new("each_ending_has_its_format", formats),
        Case::new("the_screen_and_none", screen),
        Case::new("what_was_never_freed_is_in_each_report_by_site", leaks),
        Case::new("bad_settings_are_one_line_each_and_change_nothing", bad_settings),
        Case::new("zero_and_off_switch_everything_off", switched_off),
        Case::new("paths_that_are_not_unicode_are_kept", bytes_in_paths),
        Case::new("paths_that_cannot_be_written_are_one_line_each", bad_paths),
        Case::new("statistics_files_that_cannot_be_made_are_one_line", bad_stats_files),
        Case::new("a_disk_that_is_full_is_one_line", full),
    ])
}

/// What the processes do that cases start. The blocks are there so that a profile has something.
fn work(deed: &str) -> ExitCode {
    let kept: Vec<Block> = (0..500).map(|tag| Block::new(200, 8, tag).expect("memory")).collect();
    println!("{}", std::process::id());
    match deed {
        "exit" => std::process::exit(3),
        "panic" => panic!("as planned"),
        "abort" => std::process::abort(),
        "at once" => leave(4),
        "fork" => {
            let child = fork(|| {
                drop(kept);
                // SAFETY: ends the child as a program does, with its handlers.
                unsafe { libc::exit(6) }
            });
            assert_eq!(child.wait(Duration::from_secs(30)), Ended::Code(6));
            return ExitCode::from(7);
        }
        "signals" => signals(),
        "leak" => {
            // One call each: not unrolled.
            let count = std::hint::black_box(20);
            for tag in 0..count {
                std::mem::forget(the_leak(tag));
            }
            for tag in 0..count {
                let block = no_leak(tag);
                if std::hint::black_box(tag) == 7 {
                    std::mem::forget(block);
                }
            }
        }
        _ => {}
    }
    ExitCode::from(7)
}

/// Blocks of which none is ever freed.
#[inline(never)]
fn the_leak(tag: u64) -> Box<[u64; 37]> {
    std::hint::black_box(Box::new([tag; 37]))
}

/// Blocks of which all but the first are.
#[inline(never)]
fn no_leak(tag: u64) -> Box<[u64; 39]> {
    std::hint::black_box(Box::new([tag; 39]))
}

/// Asks for three reports, and waits for each to be there.
fn signals() {
    let path = PathBuf::from(std::env::var("POOLALLOC_REPORT").expect("the case sets it"));
    for _ in 0..3 {
        let _ = fs::remove_file(&path);
        // SAFETY: no memory is involved; a handler is installed.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
        // The case has a limit.
        while !path.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let text = fs::read_to_string(&path).expect("whole under its name");
        assert!(text.starts_with("poolalloc: ") && text.ends_with('\n'), "{text}");
    }
}

/// A folder for one case, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("report-env-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        Folder(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("Unicode").to_owned()
    }

    /// The names of its files; they are removed.
    fn take(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.iter().for_each(|name| fs::remove_file(self.0.join(name)).expect("a file"));
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(deed: &str, envs: &[(&str, &str)]) -> Output {
    let envs: Vec<_> = envs.iter().copied().chain([(DO, deed)]).collect();
    run_self(&[], &envs, Duration::from_secs(80))
}

fn code(output: &Output) -> Option<i32> {
    output.status.expect("it ends").code()
}

fn ends() {
    let folder = Folder::new();
    for (deed, end) in [("return", 7), ("exit", 3), ("panic", 101)] {
        let envs = [
            ("POOLALLOC_REPORT", &*folder.path("%p.json")),
            ("POOLALLOC_PROFILE", &folder.path("%p.folded")),
            ("RUST_BACKTRACE", "0"),
        ];
        let output = run(deed, &envs);
        assert_eq!(code(&output), Some(end), "{deed}: {}", output.stderr);
        let process = output.stdout.trim();
        let json = fs::read_to_string(folder.path(&format!("{process}.json"))).expect("a report");
        assert!(json.starts_with("{\"classes\"") && json.trim_end().ends_with('}'), "{deed}");
        let expected = [format!("{process}.folded"), format!("{process}.json")];
        assert_eq!(folder.take(), expected, "{deed}");
        let said = if deed == "panic" { 4 } else { 0 };
        assert!(output.stderr.lines().count() <= said, "{}", output.stderr);
        assert!(!output.stderr.contains("poolalloc"), "{}", output.stderr);
    }
}

fn hard_ends() {
    let folder = Folder::new();
    let envs = [("POOLALLOC_REPORT", &*folder.path("%p.json"))];
    let output = run("abort", &envs);
    assert_eq!(output.status.expect("it ends").signal(), Some(libc::SIGABRT));
    assert_eq!((&*output.stderr, folder.take()), ("", vec![]));
    let output = run("at once", &envs);
    assert_eq!((code(&output), &*output.stderr, folder.take()), (Some(4), "", vec![]));
}

fn forked() {
    let folder = Folder::new();
    for profile in ["off", "1k"] {
        let path = folder.path("r-%p.txt");
        let envs = [("POOLALLOC_REPORT", &*path), ("POOLALLOC_SAMPLE", profile)];
        let output = run("fork", &envs);
        assert_eq!((code(&output), &*output.stderr), (Some(7), ""));
        let names = folder.take();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names.contains(&format!("r-{}.txt", output.stdout.lines().next().expect("one"))));
        let path = folder.path("one.json");
        let envs = [("POOLALLOC_REPORT", &*path), ("POOLALLOC_SAMPLE", profile)];
        let output = run("fork", &envs);
        assert_eq!((code(&output), &*output.stderr), (Some(7), ""));
        let parent = output.stdout.lines().next().expect("its number").to_owned();
        let json = fs::read_to_string(path).expect("a report");
        assert!(json.contains(&format!("\"pid\":{parent}")), "the parent's, not the child's");
        assert_eq!(folder.take(), ["one.json"]);
        // A percent sign and a letter are not the process.
        let envs = [("POOLALLOC_REPORT", &*folder.path("%%p.json")), ("POOLALLOC_SAMPLE", profile)];
        let output = run("fork", &envs);
        assert_eq!((code(&output), &*output.stderr), (Some(7), ""));
        let parent = output.stdout.lines().next().expect("its number").to_owned();
        let json = fs::read_to_string(folder.path("%p.json")).expect("a report");
        assert!(json.contains(&format!("\"pid\":{parent}")), "the parent's, not the child's");
        assert_eq!(folder.take(), ["%p.json"]);
    }
}

fn signalled() {
    let folder = Folder::new();
    let envs = [("POOLALLOC_REPORT", &*folder.path("now.txt")), ("POOLALLOC_SIGNAL", "USR2")];
    let output = run("signals", &envs);
    assert_eq!((code(&output), &*output.stderr), (Some(7), ""));
    assert_eq!(folder.take(), ["now.txt"]);
}

fn formats() {
    let folder = Folder::new();
    let begins: [(&str, &str, &[u8]); 7] = [
        ("POOLALLOC_REPORT", "a.txt", b"poolalloc: "),
        ("POOLALLOC_REPORT", "a.json", b"{\"classes\""),
        ("POOLALLOC_REPORT", "a.html", b"<!doctype html>"),
        ("POOLALLOC_PROFILE", "a.pb.gz", &[0x1f, 0x8b]),
        ("POOLALLOC_PROFILE", "a.dhat.json", b"{"),
        ("POOLALLOC_PROFILE", "a.folded", b""),
        ("POOLALLOC_PROFILE", "%e-%%.folded", b""),
    ];
    for (setting, name, begin) in begins {
        let path = folder.path(name);
        // An exit drops nothing: the blocks are live.
        let output = run("exit", &[(setting, &*path), ("POOLALLOC_TRACE", "16")]);
        assert_eq!((code(&output), &*output.stderr), (Some(3), ""), "{name}");
        let mut entries = fs::read_dir(&folder.0).expect("a folder");
        let written = entries.next().expect("a file").expect("an entry").path();
        let bytes = fs::read(written).expect(name);
        assert!(bytes.starts_with(begin) && bytes.len() > 100, "{name}");
        if name.ends_with("folded") {
            let text = String::from_utf8(bytes).expect("text");
            // 500 blocks of 200 bytes, at least.
            let bytes = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
            let sum: u64 = text.lines().filter_map(bytes).sum();
            assert!(sum >= 500 * 200, "{text}");
        }
        let names = folder.take();
        assert_eq!(names.len(), 1, "{names:?}");
        let of_program = names[0].starts_with("report_env") && names[0].ends_with("-%.folded");
        assert!(names[0] == name || of_program, "{names:?}");
    }
}

fn screen() {
    let output = run("return", &[("POOLALLOC_REPORT", "1")]);
    assert_eq!(code(&output), Some(7));
    assert!(output.stderr.starts_with("poolalloc: report_env"), "{}", output.stderr);
    assert!(output.stderr.contains("= mapped"), "{}", output.stderr);
    let output = run("exit", &[("POOLALLOC_REPORT", "0")]);
    assert_eq!((code(&output), &*output.stderr), (Some(3), ""));
    for (ignored, value) in [("POOLALLOC_SAMPLE", "4k"), ("POOLALLOC_TRACE", "40")] {
        let output = run("exit", &[(ignored, value)]);
        assert_eq!((code(&output), &*output.stderr), (Some(3), ""), "a profile for nobody");
    }
}

fn leaks() {
    let folder = Folder::new();
    let report = |name: &str| {
        let path = folder.path(name);
        let envs = [("POOLALLOC_REPORT", &*path), ("POOLALLOC_TRACE", "32")];
        let output = run("leak", &envs);
        assert_eq!((code(&output), &*output.stderr), (Some(7), ""), "{name}");
        fs::read_to_string(path).expect("a report")
    };
    let text = report("a.txt");
    let (_, after) = text.split_once("\nnever freed: ").expect("a section");
    let rows: Vec<&str> = after.lines().skip(1).take(3).collect();
    assert!(rows.iter().any(|row| row.contains("the_leak")), "{text}");
    assert!(!rows.iter().any(|row| row.contains("no_leak")), "{text}");
    let json = report("a.json");
    // 20 blocks of 296 bytes.
    let (_, places) = json.split_once("\"never_freed\":[").expect("places");
    let places = places.split(']').next().expect("their end").split(',');
    let places: Vec<usize> = places.map(|place| place.parse().expect("a place")).collect();
    let (_, sites) = json.split_once("\"sites\":[{\"alloc_bytes\"").expect("sites");
    let sites: Vec<&str> = sites.split("{\"alloc_bytes\"").collect();
    let leaks = |bytes: &str| places.iter().any(|place| sites[*place].contains(bytes));
    assert!(leaks("\"live_bytes\":5920.0") && !leaks("\"live_bytes\":312.0"));
    let page = report("a.html");
    assert!(page.contains("\"never_freed\":[") && page.contains("\"Never freed\""));
}

fn bad_settings() {
    for (name, value, line) in [
        ("POOLALLOC_REPROT", "a.json", "unknown setting POOLALLOC_REPROT, ignored"),
        ("POOLALLOC_REPORT", "", "bad value in POOLALLOC_REPORT=, ignored"),
        ("POOLALLOC_PROFILE", "", "bad value in POOLALLOC_PROFILE=, ignored"),
        ("POOLALLOC_SAMPLE", "512q", "bad value in POOLALLOC_SAMPLE=512q, ignored"),
        ("POOLALLOC_SAMPLE", "", "bad value in POOLALLOC_SAMPLE=, ignored"),
        ("POOLALLOC_SAMPLE", "-1", "bad value in POOLALLOC_SAMPLE=-1, ignored"),
        ("POOLALLOC_TRACE", "many", "bad value in POOLALLOC_TRACE=many, ignored"),
        ("POOLALLOC_SEED", "0x7", "bad value in POOLALLOC_SEED=0x7, ignored"),
        (
            "POOLALLOC_SEED",
            "99999999999999999999",
            "bad value in POOLALLOC_SEED=99999999999999999999, ignored",
        ),
        ("POOLALLOC_SIGNAL", "SEGV", "bad value in POOLALLOC_SIGNAL=SEGV, ignored"),
        // No second line, and nothing that a terminal obeys.
        (
            "POOLALLOC_TRACE",
            "1\npoolalloc: all is well\x1B[2J\u{9B}2J\u{E9}\x7F",
            "bad value in POOLALLOC_TRACE=1?poolalloc: all is well?[2J??2J\u{E9}?, ignored",
        ),
        ("POOLALLOC_\x1B]0;x", "", "unknown setting POOLALLOC_?]0;x, ignored"),
        (
            "POOLALLOC_SIGNAL",
            "USR2",
            "POOLALLOC_SIGNAL without POOLALLOC_REPORT or POOLALLOC_PROFILE, ignored",
        ),
    ] {
        let output = run("exit", &[(name, value)]);
        assert_eq!(output.stderr, format!("poolalloc: {line}\n"), "{name}={value}");
        assert_eq!(code(&output), Some(3), "{name}={value}");
    }
    // Two of them: a line each, also where the first is too long to be named in full.
    let long = "x".repeat(3_000);
    let output = run("exit", &[("POOLALLOC_REPORT", &long), ("POOLALLOC_TRACE", "x")]);
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!((lines.len(), code(&output)), (2, Some(3)), "{}", output.stderr);
    assert!(lines.contains(&"poolalloc: bad value in POOLALLOC_TRACE=x, ignored"));
    assert!(
        lines.iter().any(|line| line.starts_with("poolalloc: bad value in POOLALLOC_REPORT=xxx"))
    );
}

fn switched_off() {
    for off in ["0", "off"] {
        for name in [
            "REPORT",
            "PROFILE",
            "STATS_FILE",
            "SIGNAL",
            "SAMPLE",
            "TRACE",
            "PURGER",
            "HUGE_PAGES",
            "FALLBACK_CACHE",
            "UPDATE_BASELINE",
        ] {
            let output = run("exit", &[(&format!("POOLALLOC_{name}"), off)]);
            assert_eq!((code(&output), &*output.stderr), (Some(3), ""), "{name}={off}");
            assert!(!PathBuf::from(off).exists(), "a file of the switch's name");
        }
        // A profile without samples, as asked for.
        let folder = Folder::new();
        let path = folder.path("a.folded");
        let output = run("exit", &[("POOLALLOC_PROFILE", &*path), ("POOLALLOC_SAMPLE", off)]);
        assert_eq!((code(&output), &*output.stderr), (Some(3), ""));
        assert_eq!(fs::read_to_string(&path).expect("a profile"), "");
    }
}

fn bytes_in_paths() {
    let folder = Folder::new();
    let path = |name: &[u8]| folder.0.join(std::ffi::OsStr::from_bytes(name));
    let output = std::process::Command::new(std::env::current_exe().expect("this binary"))
        .env(DO, "exit")
        .env("POOLALLOC_REPORT", path(b"\xFF\xC3-%p.txt"))
        .env("POOLALLOC_PROFILE", path(b"\xFE.folded"))
        .output()
        .expect("it starts");
    assert_eq!((output.status.code(), &*output.stderr), (Some(3), &b""[..]));
    let process = String::from_utf8(output.stdout).expect("a number");
    let report = [b"\xFF\xC3-", process.trim().as_bytes(), b".txt"].concat();
    let text = fs::read_to_string(path(&report)).expect("the report");
    assert!(text.starts_with("poolalloc: "), "{text}");
    assert!(path(b"\xFE.folded").exists());
    assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 2, "and nothing else");
}

fn bad_paths() {
    let folder = Folder::new();
    let file = folder.path("file");
    fs::write(&file, "").expect("a file");
    // Said when the environment is read; the program may run for long.
    let endings = "no format has this ending (txt, json, html, dhat.json, pb.gz, folded)";
    for setting in ["POOLALLOC_REPORT", "POOLALLOC_PROFILE"] {
        for path in [folder.path("a.xml"), folder.path("a"), "txt".to_owned()] {
            let output = run("at once", &[(setting, &*path)]);
            let line = format!("poolalloc: bad value in {setting}={path}, ignored: {endings}\n");
            assert_eq!((&*output.stderr, code(&output)), (&*line, Some(4)));
        }
    }
    for (path, reason) in [
        (folder.path("missing/a.json"), "No such file or directory (os error 2)"),
        (format!("{file}/a.txt"), "Not a directory (os error 20)"),
        ("/proc/a.html".to_owned(), "No such file or directory (os error 2)"),
    ] {
        for setting in ["POOLALLOC_REPORT", "POOLALLOC_PROFILE"] {
            let output = run("exit", &[(setting, &*path)]);
            let line = format!("poolalloc: cannot write report {path}: {reason}\n");
            assert_eq!((&*output.stderr, code(&output)), (&*line, Some(3)), "{setting}");
        }
    }
    // One that fails does not keep the other.
    let good = folder.path("b.folded");
    let envs = [("POOLALLOC_REPORT", "/missing/a.txt"), ("POOLALLOC_PROFILE", &*good)];
    let output = run("return", &envs);
    assert_eq!((output.stderr.lines().count(), code(&output)), (1, Some(7)), "{}", output.stderr);
    assert_eq!(folder.take(), ["b.folded", "file"]);
}

fn bad_stats_files() {
    let folder = Folder::new();
    let pipe = folder.path("pipe");
    let name = std::ffi::CString::new(&*pipe).expect("no zero in it");
    // SAFETY: a text that ends in a zero and outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    for (path, error) in [
        (folder.path("missing/a"), libc::ENOENT),
        (format!("{pipe}/a"), libc::ENOTDIR),
        (pipe.clone(), libc::EEXIST),
        (folder.0.to_str().expect("Unicode").to_owned(), libc::EEXIST),
    ] {
        let output = run("exit", &[("POOLALLOC_STATS_FILE", &*path)]);
        let line = format!("poolalloc: cannot publish statistics in {path}, error {error}\n");
        assert_eq!((&*output.stderr, code(&output)), (&*line, Some(3)));
    }
    assert_eq!(folder.take(), ["pipe"], "what was there stays, and nothing else is left");
}

fn full() {
    let folder = Folder::new();
    let path = folder.path("full.json");
    std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
    let output = run("exit", &[("POOLALLOC_REPORT", &*path)]);
    let reason = "No space left on device (os error 28)";
    assert_eq!(output.stderr, format!("poolalloc: cannot write report {path}: {reason}\n"));
    assert_eq!((code(&output), folder.take()), (Some(3), vec!["full.json".to_owned()]));
}
