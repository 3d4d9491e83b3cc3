//! The profile at its edges: forks, threads that end, code before `main`, full tables, modules that
//! come and go.
//!
//! Modules are built by the case that needs them, with the compiler that built this binary; where
//! there is none, the case says so and passes. Unsafe here: loading modules and calling them.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{CStr, CString, c_void};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use alloc_global::report::{self, Report};
use alloc_global::{
    DebugInfo, PoolAlloc, Region, Snapshot, limit_profile, start_sampling, start_tracing, stats,
    stop_and_forget, stop_profiling, thread_flush, untracked,
};
use tests::block::Block;
use tests::cases::{self, Case, run_self};
use tests::process::{Ended, fork};
use tests::raw_thread::{self, Key, at_thread_exit};
use tests::{invariants, process};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn main() -> ExitCode {
    cases::main(&[
        Case::new("forks_while_threads_are_sampled_never_hang", || forks(|| start_sampling(512)))
            .within(300),
        Case::new("forks_while_threads_are_traced_never_hang", || forks(start_tracing)).within(300),
        Case::new("frees_after_a_thread_gave_its_cache_up_are_seen", late_frees),
        Case::new("threads_that_allocate_in_their_last_destructor_are_profiled", last_destructors),
        Case::new(EARLY, early),
        Case::new("full_tables_keep_their_bound_and_say_what_they_dropped", bounded).within(240),
        Case::new("drains_are_no_threads", drains),
        Case::new("after_the_last_sample_threads_are_as_before_the_first", rest),
        Case::new("a_module_unloaded_while_profiled_harms_no_report", unloaded).within(240),
        Case::new("two_copies_of_the_allocator_count_apart", two_copies).within(240),
    ])
}

const EARLY: &str = "blocks_from_before_main_are_in_the_profile";

fn live_in(region: &str) -> (f64, f64) {
    let snapshot = Snapshot::take();
    let sites = snapshot.sites.iter().filter(|site| site.region == region);
    sites.fold((0., 0.), |(allocs, live), site| (allocs + site.allocs, live + site.live))
}

fn churn(seed: u64, rounds: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut live: Vec<Block> = Vec::new();
    for _ in 0..rounds {
        let size = if rng.u32(0..16) == 0 { rng.usize(513..9_000) } else { rng.usize(1..=512) };
        live.push(Block::new(size, 8, rng.u64(..)).expect("memory"));
        if live.len() > 100 {
            live.swap_remove(rng.usize(..live.len()));
        }
    }
}

fn forks(start: fn()) {
    const FORKS: u64 = 500;
    start();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let done = &done;
        let work = move |seed| {
            // Ordering: only the flag is read.
            while !done.load(Ordering::Relaxed) {
                let _region = Region::enter(if seed == 0 { "a" } else { "b" });
                churn(seed, 300);
                if seed == 2 {
                    drop(Snapshot::take());
                }
            }
        };
        let threads: Vec<_> = (0..3).map(|seed| scope.spawn(move || work(seed))).collect();
        let forker = scope.spawn(|| {
            for seed in 0..FORKS {
                let child = fork(|| {
                    churn(seed, 200);
                    let allocs: f64 = Snapshot::take().sites.iter().map(|site| site.allocs).sum();
                    i32::from(allocs < 1. || invariants().is_err())
                });
                assert_eq!(child.wait(Duration::from_secs(30)), Ended::Code(0), "{seed}");
            }
        });
        let end = forker.join();
        // Ordering: only the flag is read.
        done.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert!(end.is_ok(), "a forked child hung or failed");
    });
    stop_profiling();
    thread_flush();
    invariants().expect("invariants");
    assert_eq!((live_in("a").1, live_in("b").1), (0., 0.));
}

/// How many of 100 blocks come from where the last one went: all of them while nothing is watched.
fn taken_back() -> usize {
    let place = || Block::new(64, 8, 1).expect("memory").addr();
    (0..100).map(|_| (place(), place())).filter(|(first, second)| first == second).count()
}

fn rest() {
    assert_eq!(taken_back(), 100);
    start_sampling(512);
    churn(1, 20_000);
    // As long as 2,000 times the mean distance: a sample for sure.
    let held = Block::new(1 << 20, 8, 1).expect("memory");
    churn(2, 20_000);
    stop_profiling();
    churn(3, 20_000);
    assert!(taken_back() < 100, "a sample is live: its end is to be seen");
    drop(held);
    // Those that are free but still in the cache.
    thread_flush();
    churn(4, 20_000);
    assert_eq!(taken_back(), 100);
    start_sampling(512);
    let held = Block::new(1 << 20, 8, 1).expect("memory");
    churn(5, 20_000);
    stop_and_forget();
    assert_eq!(taken_back(), 100);
    let live = |snapshot: Snapshot| snapshot.sites.iter().map(|site| site.live).sum::<f64>();
    assert_eq!(live(Snapshot::take()), 0.);
    drop(held);
    start_sampling(512);
    let held = Block::new(1 << 20, 8, 1).expect("memory");
    assert!(live(Snapshot::take()) >= 1.);
    drop(held);
    stop_and_forget();
    invariants().expect("invariants");
}

/// Blocks that destructors of threads free.
static LEFT: Mutex<Vec<Block>> = Mutex::new(Vec::new());
static ROUNDS: AtomicUsize = AtomicUsize::new(0);
static KEY: Mutex<Option<Key>> = Mutex::new(None);

/// Frees one block in each round, makes one in the region of the destructors, and asks for another round.
extern "C" fn in_each_round(value: *mut c_void) {
    let _region = Region::enter("destructor");
    // Ordering: a count.
    ROUNDS.fetch_add(1, Ordering::Relaxed);
    if let Ok(mut left) = LEFT.lock() {
        drop(left.pop());
    }
    drop(black_box((Block::new(48, 8, 1), Block::new(800, 8, 2), Block::new(5_000, 8, 3))));
    if let (Ok(key), rounds) = (KEY.lock(), value.addr())
        && rounds < raw_thread::ROUNDS
        && let Some(key) = *key
    {
        key.set(rounds + 1);
    }
}

fn late_frees() {
    // A first block, so that the allocator's own key is there before ours: its destructor comes
    // first in each round.
    drop(Block::new(24, 8, 1));
    *KEY.lock().expect("no panic") = Some(Key::new(in_each_round));
    for start in [start_tracing as fn(), || start_sampling(64)] {
        start();
        {
            let _region = Region::enter("left");
            let mut left = LEFT.lock().expect("no panic");
            left.extend((0..8 * 6).map(|tag| Block::new(40, 8, tag).expect("memory")));
        }
        for _ in 0..3 {
            raw_thread::run(4, &|_| {
                let _region = Region::enter("body");
                drop(black_box(Block::new(64, 8, 7)));
                at_thread_exit(in_each_round, raw_thread::ROUNDS);
                KEY.lock().expect("no panic").expect("a key").set(1);
            });
        }
        // One for the destructor that is no key's, four for the key's.
        assert_eq!(ROUNDS.swap(0, Ordering::Relaxed), 3 * 4 * 5);
        LEFT.lock().expect("no panic").clear();
        thread_flush();
        // The vector grew in the region.
        let _ = LEFT.lock().map(|mut left| *left = Vec::new());
        thread_flush();
        invariants().expect("invariants");
        for region in ["left", "body", "destructor"] {
            assert_eq!(live_in(region).1, 0., "{region}");
        }
        assert!(live_in("left").0 > 0.);
    }
}

extern "C" fn first_touch(value: *mut c_void) {
    let _region = Region::enter("last");
    if value.addr() < raw_thread::ROUNDS {
        KEY.lock().expect("no panic").expect("a key").set(value.addr() + 1);
    } else {
        // The only blocks of this thread: its cache is left behind.
        drop(black_box((Block::new(48, 8, 1), Block::new(800, 8, 2))));
        std::mem::forget(black_box(Block::new(56, 8, 1)));
    }
}

fn last_destructors() {
    drop(Block::new(24, 8, 1));
    *KEY.lock().expect("no panic") = Some(Key::new(first_touch));
    for start in [start_tracing as fn(), || start_sampling(64)] {
        start();
        for _ in 0..40 {
            raw_thread::run(6, &|_| KEY.lock().expect("no panic").expect("a key").set(1));
        }
        invariants().expect("invariants");
        Snapshot::take();
    }
    let (allocs, live) = live_in("last");
    // All of the traced ones, of which a third is left for good, and some of the samples.
    assert!(allocs >= 240. * 3. && live >= 240., "{allocs} {live}");
    assert!(stats().threads < 200, "caches of dead threads are taken again: {}", stats().threads);
}

/// Blocks made before `main`.
static BEFORE_MAIN: Mutex<Vec<Block>> = Mutex::new(Vec::new());

#[used]
#[unsafe(link_section = ".init_array.00001")]
static FIRST: extern "C" fn() = {
    extern "C" fn first() {
        // The very first block, if it is large, is out before the environment is read.
        drop(Block::new(8, 8, 0));
        let _region = Region::enter("before main");
        if let Ok(mut blocks) = BEFORE_MAIN.lock() {
            *blocks = Vec::with_capacity(100);
            blocks.extend((0..100).filter_map(|tag| Block::new(64, 8, tag)));
        }
    }
    first
};

fn early() {
    if std::env::var("POOLALLOC_TRACE").is_err() {
        for (name, value) in [("POOLALLOC_TRACE", "8"), ("POOLALLOC_SAMPLE", "1")] {
            let envs = [(name, value), ("POOLALLOC_TRACE", "8")];
            let output = run_self(&["--case", EARLY], &envs, Duration::from_secs(60));
            assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
        }
        return;
    }
    assert_eq!(live_in("before main"), (101., 101.));
    *BEFORE_MAIN.lock().expect("no panic") = Vec::new();
    assert_eq!(live_in("before main"), (101., 0.));
}

/// A block behind calls that differ in `path`: as many stacks as paths.
#[inline(never)]
fn at(path: u32, depth: u32) -> Block {
    if depth == 0 {
        return Block::new(40, 8, 1).expect("memory");
    }
    match path & 1 {
        0 => black_box(at(black_box(path >> 1), depth - 1)),
        _ => {
            let block = at(black_box(path >> 1), depth - 1);
            black_box(&block);
            block
        }
    }
}

fn bounded() {
    const CAP: usize = 1 << 20;
    const BLOCKS: usize = 120_000;
    assert!(limit_profile(CAP));
    let names: Vec<String> = (0..128).map(|n| format!("region {n}")).collect();
    let mut all = Vec::with_capacity(BLOCKS);
    let sum = |of: fn(&alloc_global::Site) -> f64| {
        untracked(|| Snapshot::take().sites.iter().map(of).sum::<f64>())
    };
    start_tracing();
    for number in 0..BLOCKS {
        let region = Region::enter(&names[number % names.len()]);
        all.push(at((number / names.len()) as u32, 10));
        drop(region);
    }
    let snapshot = Snapshot::take();
    let dropped = snapshot.dropped;
    assert!(!limit_profile(8 << 20), "too late");
    // A record of a site is some 450 bytes, that of a block 56; half of the bound is for each.
    assert!(dropped.stacks > 50_000 && dropped.blocks > 100_000, "{dropped:?}");
    assert!(snapshot.tool_bytes <= (CAP + (128 << 10)) as u64, "{}", snapshot.tool_bytes);
    assert_eq!(sum(|site| site.allocs), BLOCKS as f64, "what has no room counts all the same");
    assert_eq!(sum(|site| site.live), BLOCKS as f64 - dropped.blocks as f64);
    invariants().expect("invariants");
    all.clear();
    assert_eq!(sum(|site| site.live), 0.);
    // There is room again.
    all.extend((0..100).map(|_| at(0, 3)));
    assert_eq!(sum(|site| site.live), 100.);
    assert_eq!(Snapshot::take().dropped.blocks, dropped.blocks);
    invariants().expect("invariants");
}

fn drains() {
    let before = stats().threads;
    start_sampling(4_096);
    let barrier = Barrier::new(4);
    raw_thread::run(4, &|index| {
        churn(index as u64, 100);
        barrier.wait();
        if index == 0 {
            assert_eq!(stats().threads, before + 4);
        }
        barrier.wait();
    });
    assert_eq!(stats().threads, before);
}

/// A folder for modules, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("profile-edges-{}", process_number()));
        std::fs::create_dir(&folder).expect("a folder");
        Folder(folder)
    }

    /// Builds a module from its source; `None` where there is no compiler, or it has what it needs not.
    fn build(&self, source: &str, args: &[String]) -> Option<PathBuf> {
        let (from, to) = (self.0.join("module.rs"), self.0.join("libmodule.so"));
        std::fs::write(&from, source).expect("a file");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc)
            .args(["--edition", "2024", "--crate-type", "cdylib", "-g", "-C", "panic=abort", "-o"])
            .args([&to, &from])
            .args(args)
            .output();
        match output {
            Ok(output) if output.status.success() => Some(to),
            Ok(output) => {
                println!("{}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                println!("{error}");
                None
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn process_number() -> u32 {
    std::process::id()
}

/// A loaded module.
struct Module(*mut c_void);

impl Module {
    fn load(path: &Path) -> Module {
        let path = CString::new(path.to_str().expect("Unicode")).expect("no zero in it");
        // SAFETY: the module is one of those below: nothing of theirs runs before it is called.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "the module can be loaded");
        Module(handle)
    }

    fn find(&self, name: &CStr) -> *mut c_void {
        // SAFETY: loaded, and a string that a zero byte ends.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?}");
        found
    }

    fn unload(self) {
        // SAFETY: loaded once, unloaded once.
        assert_eq!(unsafe { libc::dlclose(self.0) }, 0);
    }
}

const CALLS_BACK: &str = r#"
#![no_std]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn in_the_module(back: extern "C" fn(usize) -> *mut u8, size: usize) -> *mut u8 {
    let block = back(size);
    core::hint::black_box(&block);
    block
}
"#;

extern "C" fn give_block(size: usize) -> *mut u8 {
    let layout = Layout::from_size_align(size, 8).expect("a layout");
    // SAFETY: the callers' sizes are not 0.
    unsafe { alloc(layout) }
}

fn unloaded() {
    let folder = Folder::new();
    let Some(path) = folder.build(CALLS_BACK, &[]) else { return println!("SKIPPED: no rustc") };
    start_tracing();
    type Back = extern "C" fn(usize) -> *mut u8;
    type InTheModule = extern "C" fn(Back, usize) -> *mut u8;
    for _ in 0..3 {
        let module = Module::load(&path);
        // SAFETY: the function of the source above has this type.
        let call: InTheModule = unsafe { std::mem::transmute(module.find(c"in_the_module")) };
        let region = Region::enter("module");
        let blocks: Vec<*mut u8> = untracked(|| Vec::with_capacity(100));
        let blocks = (0..100).fold(blocks, |mut blocks, _| {
            blocks.push(call(give_block, 96));
            blocks
        });
        drop(region);
        let before = Snapshot::take();
        let name = path.to_str().expect("Unicode");
        let loaded = before.modules.iter().find(|module| module.path.ends_with("libmodule.so"));
        let loaded = loaded.unwrap_or_else(|| panic!("{name} is not among the modules"));
        let inside = |address: &u64| (loaded.start..loaded.end).contains(address);
        let of_module = before.sites.iter().filter(|site| site.region == "module");
        assert!(of_module.clone().any(|site| site.stack.iter().any(inside)), "a frame of its own");
        module.unload();
        let after = Snapshot::take();
        assert!(after.modules.iter().all(|module| !module.path.ends_with("libmodule.so")));
        let report = Report::gather();
        assert!(report::text(&report, &DebugInfo).contains("poolalloc: "));
        assert!(report::json(&report, &DebugInfo).contains("\"module\""));
        assert!(!report::pprof(&report, &DebugInfo).is_empty());
        println!("{}", after.diff(&before));
        for block in blocks {
            // SAFETY: allocated by `give_block` with this layout.
            unsafe { dealloc(block, Layout::from_size_align(96, 8).expect("a layout")) };
        }
    }
    assert_eq!(live_in("module"), (300., 0.));
    invariants().expect("invariants");
}

const OWN_COPY: &str = r#"
use alloc_global::PoolAlloc;
#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();
#[unsafe(no_mangle)]
pub extern "C" fn allocate(count: usize) -> usize {
    let before = alloc_global::stats().allocs;
    let all: Vec<Box<[u64; 5]>> = (0..count).map(|n| Box::new([n as u64; 5])).collect();
    assert!(all.iter().enumerate().all(|(n, block)| block[4] == n as u64));
    drop(std::hint::black_box(all));
    drop(std::hint::black_box(vec![1u8; 100_000]));
    (alloc_global::stats().allocs - before) as usize
}
#[unsafe(no_mangle)]
pub extern "C" fn sites() -> usize {
    alloc_global::start_tracing();
    let kept = std::hint::black_box(Box::new([1u64; 9]));
    let sites = alloc_global::Snapshot::take().sites.len();
    drop(kept);
    if alloc_global::check().is_ok() { sites } else { 0 }
}
"#;

/// Where cargo put the libraries of this build, the newest of each name first.
fn libraries(name: &str) -> (PathBuf, Vec<PathBuf>) {
    let folder = std::env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    let mut all: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "rlib"))
        .filter(|path| {
            path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
        })
        .collect();
    let age = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    all.sort_by_key(|path| std::cmp::Reverse(age(path)));
    (folder, all)
}

fn two_copies() {
    let folder = Folder::new();
    let (deps, found) = libraries("liballoc_global-");
    let built = found.iter().find_map(|library| {
        let library = format!("alloc_global={}", library.display());
        let deps = format!("dependency={}", deps.display());
        folder.build(OWN_COPY, &["--extern".into(), library, "-L".into(), deps])
    });
    let Some(path) = built else { return println!("SKIPPED: no rustc that fits this build") };
    start_tracing();
    let module = Module::load(&path);
    // SAFETY: the functions of the source above have these types.
    let allocate: extern "C" fn(usize) -> usize =
        unsafe { std::mem::transmute(module.find(c"allocate")) };
    // SAFETY: as above.
    let sites: extern "C" fn() -> usize = unsafe { std::mem::transmute(module.find(c"sites")) };
    let before = stats().allocs;
    // Its vector, its boxes, the bytes.
    assert_eq!((allocate(10_000), stats().allocs), (10_002, before));
    assert!(sites() > 0);
    let (used, unloaded) = (Barrier::new(5), Barrier::new(5));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert!(allocate(1_000) >= 1_002);
                used.wait();
                // Ends when the module is gone: what the copy does at the end of a thread must
                // still be there.
                unloaded.wait();
            });
        }
        used.wait();
        let own = untracked(|| stats().allocs);
        assert!(own - before < 1_000, "the module's blocks are not ours: {}", own - before);
        module.unload();
        unloaded.wait();
    });
    drop(Snapshot::take());
    let report = Report::gather();
    assert!(report::text(&report, &DebugInfo).contains("poolalloc: "));
    let child = fork(|| i32::from(invariants().is_err()));
    assert_eq!(child.wait(Duration::from_secs(30)), Ended::Code(0));
    assert!(process::resident() > 0);
    invariants().expect("invariants");
}
