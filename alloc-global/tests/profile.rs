//! The profile of a running program: what is traced is exact, what is sampled is right in the mean,
//! what is left out is.
//!
//! One test, for there is one profile in a process. No unsafe here.

use alloc_global::{
    PoolAlloc, Region, Site, Snapshot, limit_profile, start_sampling, start_tracing,
    stop_profiling, untracked,
};
use std::hint::black_box;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Sums over all sites of a region.
fn in_region(snapshot: &Snapshot, region: &str, count: fn(&Site) -> f64) -> f64 {
    snapshot.sites.iter().filter(|site| site.region == region).map(count).sum()
}

/// A block of a class.
type Block = Box<[u8; 40]>;

#[inline(never)]
fn boxes(count: usize) -> Vec<Block> {
    (0..count).map(|_| black_box(Box::new([1; 40]))).collect()
}

/// Frames of the allocator and the library are left out: what is left is the program's.
#[cfg(feature = "report")]
fn functions(snapshot: &Snapshot) {
    let functions = snapshot.group_by(alloc_global::Grouping::Function);
    let of = |name: &str| {
        let those = functions.iter().filter(|group| group.name.contains(name));
        those.map(|group| group.totals.allocs).sum::<f64>()
    };
    // The vectors' may have been reached by a jump from `boxes`, which leaves no trace of it.
    assert!((1500.0..=1502.0).contains(&of("profile::boxes")), "{functions:?}");
    assert_eq!(of("profile::"), 1502.0, "{functions:?}");
}

fn traced() {
    start_tracing();
    let region = Region::enter("traced");
    let kept = boxes(1000);
    drop(boxes(500));
    let hidden = untracked(|| boxes(100));
    drop(region);
    let snapshot = Snapshot::take();
    stop_profiling();
    assert_eq!(snapshot.rate, 1);
    #[cfg(feature = "report")]
    functions(&snapshot);
    // The boxes, and the two vectors that hold them.
    assert_eq!(in_region(&snapshot, "traced", |site| site.allocs), 1502.0);
    assert_eq!(in_region(&snapshot, "traced", |site| site.live), 1001.0);
    // The vector's block is rounded up.
    let bytes = in_region(&snapshot, "traced", |site| site.live_bytes);
    assert!((48_000.0..50_000.0).contains(&bytes), "{bytes}");
    assert_eq!(in_region(&snapshot, "traced", |site| site.live_requested_bytes), 48_000.0);
    // Freed on another thread, and after the tracing.
    std::thread::spawn(move || drop(kept)).join().unwrap();
    let snapshot = Snapshot::take();
    assert_eq!(in_region(&snapshot, "traced", |site| site.live), 0.0);
    drop(hidden);
}

fn sampled() {
    start_sampling(4096);
    let region = Region::enter("sampled");
    let kept = boxes(200_000);
    drop(region);
    let snapshot = Snapshot::take();
    stop_profiling();
    let live = in_region(&snapshot, "sampled", |site| site.live);
    // 200,000 blocks in with a chance of about 1 in 103: a standard error of 4,500 blocks.
    assert!((live - 200_000.0).abs() < 5.0 * 4_500.0, "{live}");
    drop(kept);
}

#[test]
fn a_profile_knows_what_the_program_did() {
    // A trace would take more.
    assert!(limit_profile(4 << 20), "before the first event");
    traced();
    sampled();
    let snapshot = Snapshot::take();
    assert!(snapshot.tool_bytes > 0 && snapshot.tool_bytes < 4 << 20, "{}", snapshot.tool_bytes);
    println!("{snapshot}");
}
