//! Verdicts on what a test allocates, with the allocator installed: what passes, what fails, and
//! what is refused.
//!
//! Each case counts by itself what its body does. Threads in the background allocate all the while
//! where a case says so: they must not matter. No unsafe here.

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs, thread};

use alloc_global::{
    MeasureError, PoolAlloc, assert_allocs, assert_baseline, assert_max_bytes, assert_no_alloc,
    assert_no_leaks, measure, measured_so_far, stats,
};
use tests::cases::{self, Case};
use tests::invariants;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn main() -> ExitCode {
    cases::main(&[
        Case::new("counts_and_bytes_are_exact", exact),
        Case::new("bodies_give_their_values", values),
        Case::new("too_many_allocations_fail_with_counts", too_many),
        Case::new("too_many_bytes_fail", too_large),
        Case::new("leaks_fail_and_frees_elsewhere_are_named", leaks),
        Case::new("other_threads_do_not_matter", others),
        Case::new("measurements_nest", nested),
        Case::new("measurements_that_end_out_of_turn_are_refused", out_of_turn),
        Case::new("a_panic_in_the_body_is_the_bodys", panics),
        Case::new("a_body_that_is_left_early_is_not_taken_as_held", left_early),
        Case::new("baselines_are_kept_compared_and_written", baselines),
        Case::new("failures_name_the_top_sites_and_leave_a_profile", sites),
        Case::new("leaks_are_named_by_what_is_left", left),
        Case::new("what_a_trace_records_is_not_the_bodys", traced),
        Case::new("a_measurement_leaves_the_profile_its_room_to_be_set", room),
        Case::new("threads_that_are_not_measured_say_so", not_open),
    ])
}

/// A block that the compiler must not remove.
fn block(size: usize) -> Box<[u8]> {
    black_box(vec![1u8; black_box(size)].into_boxed_slice())
}

/// What a body that must fail said. The profile that it left, if any, is removed.
fn message(body: impl FnOnce()) -> String {
    let text = panicked(body);
    if let Some(path) = profile_of(&text) {
        fs::remove_file(path).expect("the profile can be removed");
    }
    text
}

/// The file that a failure names.
fn profile_of(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("  profile: "))
}

fn panicked(body: impl FnOnce()) -> String {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(body));
    std::panic::set_hook(hook);
    let panic = result.expect_err("it must fail");
    let text = panic.downcast::<String>().expect("a text");
    *text
}

fn exact() {
    let before = block(100);
    let (kept, counted) = measure(|| {
        let first = block(100);
        let second = block(5_000);
        drop(first);
        drop(before);
        let mut list = Vec::with_capacity(black_box(10));
        list.extend([1u64; 10]);
        list.reserve_exact(black_box(50));
        drop(black_box(list));
        second
    })
    .expect("a measurement");
    assert_eq!((counted.allocs, counted.deallocs, counted.reallocs), (3, 3, 1), "{counted:?}");
    assert_eq!(counted.foreign_deallocs, 1, "what was there before");
    assert_eq!((counted.live_blocks, counted.live_bytes), (1, 5_120), "as the fallback rounds");
    // 104 + 5,120, then 80 more beside 5,120, then 480 beside that.
    assert_eq!(counted.alloc_bytes, 104 + 5_120 + 80 + 480, "{counted:?}");
    assert_eq!(counted.dealloc_bytes, 104 + 80 + 480, "{counted:?}");
    assert!((5_600..=5_680).contains(&counted.peak_bytes), "{counted:?}");
    drop(kept);
    let ((), counted) = measure(|| ()).expect("a measurement");
    assert_eq!(counted, alloc_global::Measured::default());
}

fn left_early() {
    fn returns(early: bool) -> usize {
        assert_no_alloc! {
            let _block = block(10);
            if early { return 1; }
        };
        0
    }
    fn answers(value: Option<Box<[u8]>>) -> Option<usize> {
        Some(assert_no_leaks! { std::mem::forget(block(10)); value?.len() })
    }
    let left = "not judged, its body was left before the end (return, ?, break, continue)";
    assert_eq!(message(|| assert_eq!(returns(true), 1)), format!("assert_no_alloc!: {left}"));
    assert_eq!(message(|| assert_eq!(answers(None), None)), format!("assert_no_leaks!: {left}"));
    let in_loop = || {
        for round in 0..2 {
            assert_max_bytes!("1 KiB", {
                if round == black_box(0) {
                    continue;
                }
            });
        }
    };
    assert_eq!(message(in_loop), format!("assert_max_bytes!: {left}"));
    // Those after it are judged.
    assert!(message(|| assert_eq!(returns(false), 0)).starts_with("assert_no_alloc!"));
}

fn values() {
    let mut list = Vec::with_capacity(4);
    let len = assert_no_alloc! {
        list.push(1);
        list.len()
    };
    assert_eq!(len, 1);
    assert_no_alloc! { drop(black_box(list)) };
    let two = assert_allocs!(== 2, { (block(10), block(20)) });
    let one = assert_allocs!(<= 2, { block(two.0.len()) });
    let none: usize = assert_allocs!(< 1, { one.len() });
    assert_eq!(none, 10);
    assert_eq!(assert_max_bytes!("1 KiB", { block(1_000).len() }), 1_000);
    assert_eq!(assert_max_bytes!(1_024, { block(1_024).len() }), 1_024);
    assert_eq!(assert_no_leaks! { block(7).len() }, 7);
    let limit = 3;
    let text: Result<u64, std::num::ParseIntError> =
        assert_allocs!(<= limit, { "12".parse::<u64>() });
    assert_eq!(text, Ok(12));
}

fn too_many() {
    let text = message(|| assert_no_alloc! { drop(block(10)) });
    assert!(text.starts_with("assert_no_alloc!: expected no allocation\n"), "{text}");
    let shows = |text: &str, name: &str, value: u64| {
        text.lines().any(|line| line.split_whitespace().eq([name, &value.to_string()]))
    };
    assert!(shows(&text, "allocs", 1) && shows(&text, "deallocs", 1), "{text}");
    let text = message(|| assert_allocs!(<= 2, { (0..3).for_each(|_| drop(block(10))) }));
    assert!(text.contains("expected at most 2 allocations") && shows(&text, "allocs", 3), "{text}");
    let text = message(|| assert_allocs!(== 2, { drop(block(10)) }));
    assert!(text.contains("expected exactly 2"), "{text}");
    let text = message(|| assert_allocs!(< 1, { drop(block(10)) }));
    assert!(text.contains("expected fewer than 1"), "{text}");
    // Afterwards all is as before.
    assert_eq!(measured_so_far(), Err(MeasureError::NotOpen));
}

fn too_large() {
    let text = message(|| assert_max_bytes!("4 KiB", { drop((block(3_000), block(2_000))) }));
    assert!(text.contains("at most 4096 bytes live at once"), "{text}");
    assert_max_bytes!("4 KiB", {
        drop(block(3_000));
        drop(block(2_000));
    });
    let text = message(|| assert_max_bytes!("a lot", { drop(block(1)) }));
    assert!(text.contains("\"a lot\" is no number of bytes"), "{text}");
    assert_eq!(measured_so_far(), Err(MeasureError::NotOpen));
}

fn leaks() {
    let mut kept = None;
    let text = message(|| assert_no_leaks! { kept = Some(block(100)) });
    assert!(text.contains("expected no block left over"), "{text}");
    drop(kept);
    // Freed by another thread: this one cannot know, and says so.
    let text = message(|| {
        assert_no_leaks! {
            let block = block(100);
            thread::scope(|scope| { scope.spawn(move || drop(block)); });
        }
    });
    assert!(text.contains("blocks that another thread freed count as left over"), "{text}");
}

fn others() {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop((block(24), block(600), block(9_000)));
                }
            });
        }
        let checked = catch_unwind(|| {
            for _ in 0..2_000 {
                assert_allocs!(== 2, { drop((block(24), block(600))) });
                assert_no_alloc! { black_box(1 + 1) };
                assert_no_leaks! { drop(block(2_000)) };
            }
        });
        stop.store(true, Ordering::Relaxed);
        checked.expect("every one of them holds");
    });
    invariants().expect("invariants");
}

fn nested() {
    let (inner, outer) = measure(|| {
        drop(block(10));
        let inner = measure(|| drop(block(20))).expect("a measurement").1;
        let open = measured_so_far().expect("one is open");
        assert_eq!((open.allocs, open.deallocs), (2, 2));
        inner
    })
    .expect("a measurement");
    assert_eq!((inner.allocs, outer.allocs), (1, 2));
    assert_allocs!(== 1, {
        assert_no_alloc! { black_box(0) };
        assert_allocs!(== 1, { drop(block(30)) });
    });
}

fn out_of_turn() {
    use alloc_global::asserts::{Limit, Scope};
    // As two futures do that take turns.
    let first = Scope::begin("first");
    let second = Scope::begin("second");
    let text = message(|| first.check(Limit::NoLeaks));
    assert!(text.contains("first: counting would be a guess"), "{text}");
    drop(block(100));
    assert!(message(|| drop(second)).starts_with("second: not judged"));
    // The first stays open for good; the thread works on.
    let all: Vec<_> = (0..10_000).map(|n| block(n % 700 + 1)).collect();
    drop(all);
    assert_allocs!(== 1, { drop(block(1)) });
    thread::spawn(|| assert_allocs!(== 1, { drop(block(1)) })).join().expect("others do too");
    invariants().expect("invariants");
}

fn panics() {
    let text = message(|| {
        assert_no_alloc! {
            drop(block(1));
            if black_box(true) {
                panic!("{}", "mine");
            }
        }
    });
    assert_eq!(text, "mine");
    assert_eq!(measured_so_far(), Err(MeasureError::NotOpen));
    assert_no_alloc! { black_box(0) };
}

fn baselines() {
    // The one in the repository.
    let list = assert_baseline!("asserts", { (0..10).map(block).collect::<Vec<_>>() });
    drop(list);
    let text =
        message(|| assert_baseline!("asserts", { drop((0..11).map(block).collect::<Vec<_>>()) }));
    assert!(text.contains("above"), "{text}");
    let text = message(|| assert_baseline!("no-such-baseline", { drop(block(1)) }));
    assert!(text.contains("POOLALLOC_UPDATE_BASELINE=1 writes it"), "{text}");
    // Written on request, by a process of its own, for a source in a folder of its own.
    let folder = env::temp_dir().join(format!("poolalloc-asserts-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("a.rs"), "").expect("a file");
    let check = |size| {
        let scope = alloc_global::asserts::Scope::begin("assert_baseline!");
        drop(block(size));
        scope.check_baseline("one", folder.to_str().expect("a path"), "a.rs");
    };
    let text = message(|| check(10));
    assert!(text.contains("cannot read"), "{text}");
    let baseline = "allocs 1\nreallocs 0\nalloc_bytes 16\nlive_blocks 0\npeak_bytes 16\n";
    fs::create_dir_all(folder.join("baselines")).expect("a folder");
    fs::write(folder.join("baselines/one.txt"), baseline).expect("a file");
    check(10);
    let text = message(|| check(20));
    assert!(text.contains("alloc_bytes 24 above 16, peak_bytes 24 above 16"), "{text}");
    fs::remove_dir_all(folder).expect("the folder can be removed");
}

#[inline(never)]
fn the_culprit() -> Box<[u8]> {
    // In a line of its own: lines are what a failure names.
    black_box(vec![1u8; black_box(3_000)].into_boxed_slice())
}

#[inline(never)]
fn another() -> Box<[u8]> {
    black_box(vec![1u8; black_box(40)].into_boxed_slice())
}

/// Rows of sites in a failure.
fn rows(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains(" allocations, ")).map(str::trim).collect()
}

fn sites() {
    let text = panicked(|| {
        assert_allocs!(<= 2, {
            (0..black_box(3)).for_each(|_| drop(another()));
            (0..black_box(6)).for_each(|_| drop(the_culprit()));
        });
    });
    let rows = rows(&text);
    assert_eq!(rows.len(), 2, "{text}");
    // The most bytes first, as blocks take them.
    assert!(rows[0].starts_with("6 allocations, 18432 bytes, 0 left: "), "{text}");
    assert!(rows[1].starts_with("3 allocations, 120 bytes, 0 left: "), "{text}");
    assert!(rows.iter().all(|row| row.contains("asserts.rs:")), "{text}");
    let profile = profile_of(&text).expect("a path");
    assert!(profile.contains("/target/"), "{profile}");
    let bytes = fs::read(profile).expect("the profile");
    assert!(bytes.starts_with(&[0x1F, 0x8B]), "gzip: {profile}");
    fs::remove_file(profile).expect("the profile can be removed");
    // Each measurement has its own, also inside another.
    let text = message(|| {
        assert_allocs!(== 9, {
            assert_allocs!(== 1, { drop(another()) });
            drop(the_culprit());
        });
    });
    assert!(text.contains("1 allocations, 3072 bytes") && text.contains("1 allocations, 40 bytes"));
    // Where there is nothing to show there is no file.
    let text = message(|| assert_allocs!(== 1, { black_box(()) }));
    assert!(text.contains("no sites") && !text.contains("profile: "), "{text}");
}

fn left() {
    let mut kept = Vec::with_capacity(10);
    let text = message(|| {
        assert_no_leaks! {
            (0..black_box(100)).for_each(|_| drop(the_culprit()));
            kept.extend((0..black_box(4)).map(|_| another()));
            drop(kept.pop());
        }
    });
    let rows = rows(&text);
    assert_eq!(rows.len(), 1, "only what is left: {text}");
    assert!(rows[0].starts_with("4 allocations, 160 bytes, 3 left: "), "{text}");
    drop(kept);
    // Freed in the order in which they came, many sites and blocks at once.
    assert_no_leaks! {
        let all: Vec<_> = (0..20_000).map(|n| if n % 2 == 0 { another() } else { block(n % 99 + 1) }).collect();
        drop(all);
    }
}

/// What other threads allocate meanwhile is on record, and in no failure.
fn traced() {
    alloc_global::start_tracing();
    let text = message(|| {
        assert_no_alloc! {
            thread::scope(|scope| { scope.spawn(|| drop(block(1 << 20))); });
            drop(the_culprit());
        }
    });
    assert!(text.contains("1 allocations, 3072 bytes, 0 left: "), "{text}");
    assert!(!text.contains("1048576"), "{text}");
    alloc_global::stop_profiling();
    let before = alloc_global::Snapshot::take();
    drop(message(|| assert_no_alloc! { drop(the_culprit()) }));
    let after = alloc_global::Snapshot::take();
    let allocs = |snapshot: &alloc_global::Snapshot| snapshot.totals().allocs;
    assert_eq!(allocs(&before), allocs(&after), "a measurement puts nothing on record");
}

fn room() {
    drop(assert_allocs!(<= 1, { block(40) }));
    assert!(alloc_global::limit_profile(64 << 20), "nothing is on record yet");
    alloc_global::start_tracing();
    drop(block(40));
    assert!(!alloc_global::limit_profile(64 << 20), "and now something is");
    alloc_global::stop_profiling();
    invariants().expect("invariants");
}

fn not_open() {
    assert_eq!(measured_so_far(), Err(MeasureError::NotOpen));
    let before = stats();
    let (inside, counted) = measure(|| {
        drop(block(64));
        thread::spawn(|| measured_so_far().is_err()).join().expect("it ends")
    })
    .expect("a measurement");
    assert!(inside, "each thread has its own");
    assert!(counted.allocs >= 1 && stats().allocs > before.allocs);
}
