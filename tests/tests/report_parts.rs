//! Parts of reports that something must have happened for: latencies by path, the time line,
//! samples from a seed; and processes in which the environment does not hold or is inherited.
//!
//! Each case runs in a process of its own, and starts this binary again where it needs settings.
//! Unsafe here: calls of the C library that ask who a process is, signals, and calls of the
//! allocator with unusual layouts.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use alloc_global::report::{self, NoSymbols, Report, Symbols, handlers};
use alloc_global::{
    DebugInfo, Grouping, PoolAlloc, Region, Snapshot, limit_frames, seed_samples, start_latency,
    start_sampling, start_tracing, stats, stop_latency, stop_profiling, thread_flush, trim,
};
use tests::block::Block;
use tests::cases::{self, Case, run_self};
use tests::invariants;
use tests::process::{Ended, fork};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Says in the process that a case starts what it is to do.
const DO: &str = "REPORT_PARTS_DO";

fn main() -> ExitCode {
    match std::env::var(DO).as_deref() {
        Ok("who") => return who(),
        Ok("samples") => return print_samples(),
        Ok("time line") => time_line_here(),
        Ok("signal in a child") => signal_here(),
        Ok("from code") => from_code_here(),
        Ok("shallow") => shallow_here(),
        _ => {
            return cases::main(&[
                Case::new(LATENCIES, latencies),
                Case::new("the_time_line_follows_memory_also_in_a_child_of_fork", time_line),
                Case::new("samples_of_a_seed_repeat", seeds),
                Case::new("a_program_with_more_rights_ignores_all_settings", rights),
                Case::new("a_signal_harms_no_child_of_fork", signal_in_child),
                Case::new("a_snapshot_knows_what_its_thread_freed", own_cache),
                Case::new("what_the_environment_can_ask_for_code_can_too", from_code),
                Case::new("one_frame_is_one_of_the_program", shallow),
                Case::new("reports_are_not_in_the_profile_that_they_report", not_in_the_profile),
            ]);
        }
    }
    ExitCode::SUCCESS
}

const LATENCIES: &str = "each_path_has_its_latencies";

fn blocks(count: u64, size: usize) -> Vec<Block> {
    (0..count).map(|tag| Block::new(size, 8, tag).expect("memory")).collect()
}

/// Values on record, by path.
fn counts() -> BTreeMap<&'static str, u64> {
    let paths = Report::gather().latency.unwrap_or_default();
    paths.into_iter().map(|latency| (latency.path, latency.histogram.len())).collect()
}

fn latencies() {
    if std::env::var("POOLALLOC_PURGE_DELAY_MS").is_err() {
        // So that something is due at once.
        let settings = [("POOLALLOC_PURGE_DELAY_MS", "0")];
        let output = run_self(&["--case", LATENCIES], &settings, Duration::from_secs(80));
        assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
        return;
    }
    drop(blocks(10_000, 64));
    trim();
    assert!(counts().is_empty(), "nothing was timed");
    start_latency();
    let work = || {
        // More arenas than one chunk, each size's own slow paths, large blocks, and memory to give back.
        for size in [16, 24, 200, 512] {
            drop(blocks(20_000, size));
        }
        drop(blocks(50, 3_000));
        trim();
    };
    work();
    let first = counts();
    for path in ["fast", "refill", "arena", "fallback", "purge"] {
        assert!(first.get(path).is_some_and(|count| *count > 0), "{path}: {first:?}");
    }
    work();
    let second = counts();
    assert!(first.iter().all(|(path, count)| second[path] > *count), "{first:?} {second:?}");
    start_sampling(512 << 10);
    work();
    stop_profiling();
    let third = counts();
    assert!(first.keys().all(|path| third[path] > second[path]), "{second:?} {third:?}");
    // No cache keeps what is aligned so far: each free is a call of the fallback.
    let layout = Layout::from_size_align(2_000, 8_192).expect("a layout");
    // SAFETY: the size is not 0.
    let aligned: Vec<*mut u8> = (0..10_000).map(|_| unsafe { alloc(layout) }).collect();
    let before = counts()["fallback"];
    // SAFETY: each was allocated with this layout, and is freed once.
    aligned.into_iter().for_each(|block| unsafe { dealloc(block, layout) });
    assert!(counts()["fallback"] >= before + 10_000);
    stop_latency();
    // What a thread began before may still come in; later nothing does.
    let stopped = counts();
    work();
    assert_eq!(counts(), stopped);
    let text = report::prometheus(&Report::gather());
    for (path, count) in stopped {
        let line = format!("poolalloc_latency_seconds_count{{path=\"{path}\"}} {count}");
        assert!(text.lines().any(|other| other == line), "{line}");
    }
}

/// Allocates now and then until the time line has at least so many points.
fn until_points(points: usize) -> Vec<report::TimePoint> {
    let start = Instant::now();
    loop {
        drop(blocks(200, 100));
        // The last point is the present.
        let line = Report::gather().time_line;
        if line.len() > points {
            return line;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{line:?}");
        thread::sleep(Duration::from_millis(3));
    }
}

fn time_line_here() {
    let few = until_points(3);
    let kept = blocks(50_000, 400);
    let more = until_points(few.len() + 2);
    assert!(more.is_sorted_by_key(|point| point.ms), "{more:?}");
    let live = |line: &[report::TimePoint]| line.iter().map(|point| point.live_bytes).max();
    assert!(live(&more) >= live(&few).map(|bytes| bytes + 20_000_000), "{few:?} {more:?}");
    assert!(more.iter().all(|point| point.resident_bytes > 0 && point.mapped_bytes > 0));
    let child = fork(|| {
        // The parent's points are not the child's: none is from before it was there.
        let line = until_points(2);
        assert!(line.iter().all(|point| point.live_bytes >= 20_000_000), "{line:?}");
        assert!(line.len() < 100, "a line of its own");
        i32::from(!line.is_sorted_by_key(|point| point.ms))
    });
    assert_eq!(child.wait(Duration::from_secs(70)), Ended::Code(0));
    drop(kept);
}

fn time_line() {
    let folder = Folder::new("time-line");
    let path = folder.0.join("report.json");
    let path = path.to_str().expect("Unicode");
    let settings = [(DO, "time line"), ("POOLALLOC_REPORT", path)];
    let output = run_self(&[], &settings, Duration::from_secs(80));
    assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
    let json = fs::read_to_string(path).expect("a report");
    let (_, line) = json.split_once("\"time_line\":[").expect("a time line");
    let points = line.split(']').next().expect("its end").matches("\"ms\":").count();
    assert!(points > 5, "{points}");
}

/// Says which samples were drawn: of blocks of each size how many.
fn print_samples() -> ExitCode {
    if let Ok(seed) = std::env::var("REPORT_PARTS_SEED") {
        seed_samples(seed.parse().expect("a number"));
        start_sampling(2 << 10);
    }
    let names = [8, 64, 200, 700, 5_000].map(|size| (size, format!("size {size}")));
    for (size, name) in &names {
        let _region = Region::enter(name);
        for tag in 0..20_000 / *size as u64 * 40 {
            drop(black_box(Block::new(*size, 8, tag)));
        }
    }
    let snapshot = Snapshot::take();
    for (_, name) in &names {
        let sites = snapshot.sites.iter().filter(|site| site.region == *name);
        println!("{name}: {}", sites.map(|site| site.samples).sum::<u64>());
    }
    ExitCode::SUCCESS
}

fn seeds() {
    let samples = |seed: &str| {
        let settings = [(DO, "samples"), ("POOLALLOC_SAMPLE", "2k"), ("POOLALLOC_SEED", seed)];
        let output = run_self(&[], &settings, Duration::from_secs(60));
        assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
        output.stdout
    };
    let first = samples("7");
    assert_eq!(first.lines().count(), 5, "{first}");
    assert!(!first.lines().any(|line| line.ends_with(": 0")), "{first}");
    assert_eq!(samples("7"), first);
    assert!(["8", "9", "10"].iter().any(|seed| samples(seed) != first), "the seed is used");
    let from_code = |seed: &str| {
        let settings = [(DO, "samples"), ("REPORT_PARTS_SEED", seed)];
        run_self(&[], &settings, Duration::from_secs(60)).stdout
    };
    let first = from_code("7");
    assert_eq!(first.lines().count(), 5, "{first}");
    assert_eq!(from_code("7"), first);
    assert!(["8", "9", "10"].iter().any(|seed| from_code(seed) != first), "the seed is used");
}

/// Says who the process is, for itself and in effect.
fn who() -> ExitCode {
    drop(black_box(blocks(10, 64)));
    // SAFETY: always callable.
    println!("{} {}", unsafe { libc::getuid() }, unsafe { libc::geteuid() });
    ExitCode::SUCCESS
}

fn rights() {
    const NOBODY: u32 = 65_534;
    // SAFETY: always callable.
    if unsafe { libc::geteuid() } != 0 {
        return println!("SKIPPED: not root");
    }
    let folder = Folder::new("rights");
    let copy = folder.0.join("copy");
    fs::copy(std::env::current_exe().expect("this binary"), &copy).expect("a copy");
    if let Err(error) = chown(&copy, Some(NOBODY), Some(NOBODY)) {
        return println!("SKIPPED: {error}");
    }
    // What is written by another user is written here.
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).expect("a mode");
    let run = |mode: u32| {
        fs::set_permissions(&copy, fs::Permissions::from_mode(mode)).expect("a mode");
        let output = Command::new(&copy)
            .env(DO, "who")
            .env("POOLALLOC_REPORT", folder.0.join("report.txt"))
            .env("POOLALLOC_STATS_FILE", folder.0.join("stats"))
            .env("POOLALLOC_TRACE", "no number")
            .output()
            .expect("it starts");
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.stderr)
    };
    let report = folder.0.join("report.txt");
    let (who, said) = run(0o755);
    assert_eq!(who, "0 0\n");
    assert_eq!(said, b"poolalloc: bad value in POOLALLOC_TRACE=no number, ignored\n");
    fs::remove_file(&report).expect("with its own rights it writes a report");
    let (who, said) = run(0o4755);
    if who == "0 0\n" {
        return println!("SKIPPED: this file system gives no rights");
    }
    assert_eq!((&*who, &*said), (&*format!("0 {NOBODY}\n"), &b""[..]));
    assert!(!report.exists(), "no report");
}

/// Whether a file is there within a minute.
fn appears(path: &Path) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if path.exists() {
            return true;
        }
        thread::sleep(Duration::from_millis(2));
    }
    false
}

fn raise() {
    // SAFETY: no memory is involved; a handler is installed.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
}

fn signal_here() {
    let folder = PathBuf::from(std::env::var("REPORT_PARTS_FOLDER").expect("the case sets it"));
    let of = |process: u32| folder.join(format!("{process}.txt"));
    let child = fork(|| {
        drop(blocks(100, 64));
        raise();
        raise();
        drop(blocks(100, 64));
        invariants().expect("invariants");
        // SAFETY: ends the child as a program does, with its handlers.
        unsafe { libc::exit(6) }
    });
    assert_eq!(child.wait(Duration::from_secs(60)), Ended::Code(6));
    let mine = of(std::process::id());
    assert!(!mine.exists(), "nobody asked this process yet");
    raise();
    assert!(appears(&mine), "the parent answers as ever");
}

fn signal_in_child() {
    let folder = Folder::new("signal");
    let path = folder.0.join("%p.txt");
    let settings = [
        (DO, "signal in a child"),
        ("REPORT_PARTS_FOLDER", folder.0.to_str().expect("Unicode")),
        ("POOLALLOC_REPORT", path.to_str().expect("Unicode")),
        ("POOLALLOC_SIGNAL", "USR2"),
    ];
    let output = run_self(&[], &settings, Duration::from_secs(80));
    assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
    assert_eq!(output.stderr, "");
    // The parent's, and the child's from its end.
    let reports: Vec<_> = fs::read_dir(&folder.0).expect("a folder").collect();
    assert_eq!(reports.len(), 2, "{reports:?}");
    for report in reports {
        let text = fs::read_to_string(report.expect("an entry").path()).expect("a report");
        assert!(text.starts_with("poolalloc: report_parts") && text.ends_with('\n'), "{text}");
    }
}

fn live_in(region: &str) -> (f64, f64) {
    let snapshot = Snapshot::take();
    let sites = snapshot.sites.iter().filter(|site| site.region == region);
    sites.fold((0., 0.), |(allocs, live), site| (allocs + site.allocs, live + site.live))
}

fn own_cache() {
    start_sampling(16);
    let take = |region: &str| {
        let _region = Region::enter(region);
        blocks(20, 64)
    };
    drop(take("here"));
    let (allocs, live) = live_in("here");
    assert!(allocs > 10., "{allocs}");
    assert_eq!(live, 0., "no flush: this thread knows its own cache");
    // What another thread freed is known when that flushes.
    let (freed, is_freed) = mpsc::channel();
    let (flush, may_flush) = mpsc::channel();
    let other = thread::spawn(move || {
        drop(take("there"));
        freed.send(()).expect("the case waits");
        may_flush.recv().expect("the case says so");
        thread_flush();
        freed.send(()).expect("the case waits");
        may_flush.recv().expect("the case says so");
    });
    is_freed.recv().expect("it frees");
    assert!(live_in("there").1 > 0., "as the documentation says");
    flush.send(()).expect("it waits");
    is_freed.recv().expect("it flushes");
    assert_eq!(live_in("there").1, 0.);
    flush.send(()).expect("it waits");
    other.join().expect("no panic");
    invariants().expect("invariants");
}

fn from_code_here() {
    let folder = PathBuf::from(std::env::var("REPORT_PARTS_FOLDER").expect("the case sets it"));
    let path = |name: &str| folder.join(name);
    let kind = |result: std::io::Result<()>| result.map_err(|error| error.kind());
    assert_eq!(kind(report::write_at_exit(path("a.xml"))), Err(ErrorKind::InvalidInput));
    let long = "x".repeat(2_000) + ".txt";
    assert_eq!(kind(report::write_at_exit(path(&long))), Err(ErrorKind::InvalidInput));
    let why = report::write_at_exit(path(&long)).unwrap_err().to_string();
    assert!(why.contains("1,024 bytes"), "{why}");
    assert_eq!(kind(report::write_at_exit(path("%p.txt"))), Ok(()));
    assert_eq!(kind(report::write_at_exit(path("%p.json"))), Ok(()));
    assert_eq!(kind(report::write_at_exit(path("b.html"))), Err(ErrorKind::AlreadyExists));
    limit_frames(2);
    start_tracing();
    report::start_time_line();
    let kept = blocks(30, 72);
    let snapshot = Snapshot::take();
    assert!(snapshot.sites.iter().any(|site| site.live >= 30. && site.truncated));
    // The allocator's own come on top, six at most.
    assert!(snapshot.sites.iter().all(|site| site.stack.len() <= 8), "{:?}", snapshot.sites);
    assert!(until_points(2).len() > 2);
    assert_eq!(kind(report::write_on_signal(libc::SIGUSR2)), Ok(()));
    assert_eq!(kind(report::write_on_signal(libc::SIGUSR1)), Ok(()));
    assert!(report::write_on_signal(-1).is_err());
    let mine = |ending: &str| path(&format!("{}.{ending}", std::process::id()));
    raise();
    assert!(appears(&mine("txt")) && appears(&mine("json")));
    // Whole before it is gone: the second is written after the first.
    for ending in ["txt", "json"] {
        fs::remove_file(mine(ending)).expect("a report");
    }
    drop(kept);
}

fn from_code() {
    let folder = Folder::new("from-code");
    let path = folder.0.to_str().expect("Unicode");
    let settings = [(DO, "from code"), ("REPORT_PARTS_FOLDER", path)];
    let output = run_self(&[], &settings, Duration::from_secs(80));
    assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
    let reports: Vec<_> = fs::read_dir(&folder.0).expect("a folder").collect();
    assert_eq!(reports.len(), 2, "at its end, once more: {reports:?}");
}

#[inline(never)]
fn shallow_box() -> Box<[u8; 72]> {
    black_box(Box::new([1; 72]))
}

#[inline(never)]
fn shallow_vec(size: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(size))
}

fn shallow_here() {
    let named = |region: &str| {
        let mut snapshot = Snapshot::take();
        snapshot.sites.retain(|site| site.region == region);
        assert_eq!(snapshot.sites.len(), 1, "{region}");
        snapshot.group_by(Grouping::Function).remove(0).name
    };
    let region = Region::enter("box");
    let kept = shallow_box();
    drop(region);
    assert_eq!(named("box"), "report_parts::shallow_box");
    for (size, name) in [(80, "small"), (700, "middling"), (5_000, "large")] {
        let region = Region::enter(name);
        let kept = shallow_vec(size);
        drop(region);
        let function = named(name);
        // Where the library's calls in between are not inlined, one of them is the one frame.
        assert!(function.contains("shallow_vec") || function.contains("alloc::"), "{function}");
        drop(kept);
    }
    drop(kept);
}

fn shallow() {
    let run = |frames: &str| {
        let settings = [(DO, "shallow"), ("POOLALLOC_TRACE", frames)];
        let output = run_self(&[], &settings, Duration::from_secs(80));
        assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
        output.stderr
    };
    assert_eq!(run("1"), "");
    assert_eq!(run("58"), "");
    assert_eq!(run("59"), "poolalloc: POOLALLOC_TRACE: at most 58 frames\n");
}

/// A folder for one case, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(case: &str) -> Folder {
        let name = format!("report-parts-{case}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a folder");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn not_in_the_profile() {
    start_tracing();
    let kept = Block::new(1_000, 8, 1).expect("memory");
    let report = Report::gather();
    let path = std::env::temp_dir().join(format!("poolalloc-own-{}.html", std::process::id()));
    let allocs = || {
        let snapshot = Snapshot::take();
        snapshot.sites.iter().map(|site| site.allocs).sum::<f64>()
    };
    // What a snapshot, and taking the sum, put down themselves.
    let own = allocs();
    let own = allocs() - own;
    let before = allocs();
    for symbols in [&NoSymbols as &dyn Symbols, &DebugInfo] {
        drop(handlers::metrics(&report));
        drop(handlers::heap(&report, symbols));
        drop(handlers::allocs(&report, symbols));
        drop(handlers::report(&report, symbols));
        drop(handlers::symbol("0x1000+0x2000", symbols));
        drop((report::text(&report, symbols), report::json(&report, symbols)));
        drop(report::dhat(&report, symbols));
        drop(report::folded(&report, symbols, report::Metric::LiveBytes));
    }
    assert_eq!(allocs() - before, own);
    // Debug information takes megabytes, and goes with the report that is written.
    DebugInfo::forget();
    let before = stats().live_bytes;
    report::write(&path, &report, &DebugInfo).expect("it is written");
    fs::remove_file(&path).expect("it is there");
    let more = stats().live_bytes.saturating_sub(before);
    assert!(more < 1 << 20, "{more} bytes stay");
    drop(kept);
}
