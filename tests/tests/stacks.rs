//! Call stacks that are not as they should be: cut by the bound, with a frame pointer that cannot
//! be one, on memory that is not the thread's stack. Each is counted and reported, and the program
//! goes on. And one that is: each caller is named, in its order, through frames of all kinds.
//!
//! Frame pointers are walked only where the whole build keeps them (`-C force-frame-pointers=yes`,
//! as in the checks under AddressSanitizer); where it does not, the cases see the unwinder bear the
//! same. Unsafe here: calls with a broken frame pointer, and of the C library.

use std::hint::black_box;
use std::process::ExitCode;

use alloc_global::report::{self, Metric, Report, Symbols};
use alloc_global::{DebugInfo, PoolAlloc, Region, Site, Snapshot, limit_frames, start_tracing};
use tests::block::Block;
use tests::cases::{self, Case};
use tests::invariants;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn main() -> ExitCode {
    cases::main(&[
        Case::new("a_stack_that_is_cut_is_counted_and_says_so", cut),
        Case::new("a_corrupt_frame_pointer_is_counted_and_harms_nothing", corrupt),
        Case::new("a_stack_that_is_not_the_threads_own_harms_nothing", elsewhere),
        Case::new("callers_are_named_in_their_order_through_callbacks_of_the_c_library", callers),
    ])
}

/// Sites that allocated in this region.
fn of_region<'a>(snapshot: &'a Snapshot, region: &str) -> Vec<&'a Site> {
    snapshot.sites.iter().filter(|site| site.region == region).collect()
}

#[inline(never)]
fn deep(depth: u32) -> Block {
    if depth == 0 {
        return Block::new(40, 8, 1).expect("memory");
    }
    let block = deep(black_box(depth - 1));
    black_box(&block);
    block
}

fn cut() {
    limit_frames(4);
    start_tracing();
    let region = Region::enter("deep");
    let kept = deep(60);
    drop(region);
    let snapshot = Snapshot::take();
    let sites = of_region(&snapshot, "deep");
    assert_eq!((sites.len(), sites[0].truncated, sites[0].allocs), (1, true, 1.0));
    assert!(snapshot.dropped.truncated >= 1, "{:?}", snapshot.dropped);
    assert_eq!((snapshot.dropped.stacks, snapshot.dropped.corrupt), (0, 0));
    let report = Report::gather();
    let cut = report.snapshot.as_ref().map(|snapshot| snapshot.dropped.truncated);
    let line = format!("walks cut: {}, corrupt: 0\n", cut.expect("a profile"));
    assert!(report::text(&report, &DebugInfo).contains(&line), "{line}");
    let folded = report::folded(&report, &DebugInfo, Metric::LiveBytes);
    assert!(folded.lines().any(|line| line.starts_with("[cut];")), "{folded}");
    drop(kept);
    invariants().expect("invariants");
}

#[inline(never)]
extern "C" fn allocate() {
    drop(black_box(Block::new(40, 8, 1)));
}

/// A frame that is aligned: where its caller's is, only the frame pointer tells.
#[inline(never)]
fn aligned(depth: u32) -> u32 {
    #[repr(align(256))]
    struct Aligned([u32; 100]);
    let words = black_box(Aligned([depth; 100]));
    let sum = if depth == 0 { innermost() } else { plain(depth - 1) };
    sum + black_box(&words).0[depth as usize]
}

#[inline(never)]
fn plain(depth: u32) -> u32 {
    let words = black_box([depth; 61]);
    let sum = if depth == 0 { innermost() } else { aligned(depth - 1) };
    sum + black_box(&words)[depth as usize]
}

#[inline(never)]
fn innermost() -> u32 {
    allocate();
    black_box(1)
}

/// Called back by the C library, which keeps no frame pointers.
extern "C" fn compare(one: *const libc::c_void, other: *const libc::c_void) -> libc::c_int {
    black_box(plain(3));
    black_box(one.addr().cmp(&other.addr()) as libc::c_int)
}

#[inline(never)]
fn sorts() {
    let mut bytes = black_box([1u8, 0]);
    // SAFETY: two bytes; whichever comes first is right.
    unsafe { libc::qsort(bytes.as_mut_ptr().cast(), 2, 1, Some(compare)) };
    black_box(bytes);
}

#[inline(never)]
fn outermost() {
    black_box(aligned(2));
    sorts();
    black_box(());
}

/// The functions of this file in the stack of a site, without those that allocate.
fn names(site: &Site) -> Vec<String> {
    let frames = DebugInfo.resolve(&site.stack).into_iter().flatten();
    let own = frames.filter_map(|frame| frame.function.strip_prefix("stacks::").map(str::to_owned));
    own.skip_while(|name| name != "innermost").collect()
}

fn callers() {
    limit_frames(58);
    start_tracing();
    for region in ["main", "again", "thread"] {
        let run = || {
            let _region = Region::enter(region);
            outermost();
        };
        match region {
            "thread" => std::thread::scope(|scope| drop(scope.spawn(run).join())),
            _ => run(),
        }
    }
    let snapshot = Snapshot::take();
    let direct = ["innermost", "aligned", "plain", "aligned", "outermost"];
    let by_library =
        ["innermost", "aligned", "plain", "aligned", "plain", "compare", "sorts", "outermost"];
    for region in ["main", "again", "thread"] {
        let sites = of_region(&snapshot, region);
        let stacks: Vec<Vec<String>> = sites.iter().map(|site| names(site)).collect();
        // Where frame pointers are walked, the library's frame may cut off who called it.
        let certain = if keeps_frame_pointers() { 6 } else { by_library.len() };
        for callers in [&direct[..], &by_library[..certain]] {
            let begins = |stack: &Vec<String>| {
                stack.len() >= callers.len() && stack.iter().zip(callers).all(|(a, b)| a == b)
            };
            let seen = stacks.iter().any(begins);
            assert!(seen, "{region}: {callers:?} in {stacks:?}");
        }
    }
    assert!(keeps_frame_pointers() || snapshot.dropped.corrupt == 0, "{:?}", snapshot.dropped);
    invariants().expect("invariants");
}

/// Calls [`allocate`] with a frame pointer that is so many bytes above the stack pointer.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn with_frame_pointer(above: usize) {
    // SAFETY: the function needs no frame pointer, and the register has its value back at the end.
    unsafe {
        std::arch::asm!(
            "mov r12, rbp",
            "lea rbp, [rsp + {above}]",
            "call {call}",
            "mov rbp, r12",
            above = in(reg) above,
            call = in(reg) allocate as extern "C" fn(),
            out("r12") _,
            clobber_abi("C"),
        );
    }
}

/// Whether this build keeps frame pointers: then the word above the one that they point to is a
/// return address.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn keeps_frame_pointers() -> bool {
    #[inline(never)]
    fn returns_to() -> usize {
        let (frame, stack): (usize, usize);
        // SAFETY: copies two registers.
        unsafe { std::arch::asm!("mov {}, rbp", "mov {}, rsp", out(reg) frame, out(reg) stack) };
        let is_near = frame.wrapping_sub(stack) < 1_024 && frame.is_multiple_of(8);
        // SAFETY: at most a KiB above the stack pointer, below which `main` has more than that.
        if is_near { unsafe { *std::ptr::with_exposed_provenance::<usize>(frame + 8) } } else { 0 }
    }
    let address = black_box(returns_to());
    let own: fn() -> bool = keeps_frame_pointers;
    let by: [fn(); 2] = [corrupt, callers];
    // The innermost function may have made no frame yet: then it is the next one's.
    [own as usize, by[0] as usize, by[1] as usize]
        .iter()
        .any(|start| address.wrapping_sub(*start) < 4_096)
}

/// It may.
#[cfg(not(target_arch = "x86_64"))]
fn keeps_frame_pointers() -> bool {
    true
}

#[cfg(target_arch = "x86_64")]
fn corrupt() {
    start_tracing();
    let before = Snapshot::take().dropped.corrupt;
    let region = Region::enter("corrupt");
    // Inside the stack: not aligned, the first three; zeros or anything else, the others.
    for above in [1, 129, 1_003, 0, 8, 64, 512, 2_048] {
        with_frame_pointer(above);
    }
    drop(region);
    let report = Report::gather();
    let snapshot = report.snapshot.as_ref().expect("a profile");
    let allocs: f64 = of_region(snapshot, "corrupt").iter().map(|site| site.allocs).sum();
    assert_eq!(allocs, 8.0, "each is on record");
    let corrupt = snapshot.dropped.corrupt - before;
    if keeps_frame_pointers() {
        assert!((3..=8).contains(&corrupt), "{:?}", snapshot.dropped);
        let line = format!("corrupt: {}\n", snapshot.dropped.corrupt);
        assert!(report::text(&report, &DebugInfo).contains(&line), "{line}");
        let is_cut = |site: &&Site| site.truncated;
        assert!(of_region(snapshot, "corrupt").iter().any(is_cut), "and the sites say so");
    } else {
        println!("no frame pointers in this build: {corrupt} corrupt");
    }
    invariants().expect("invariants");
}

#[cfg(not(target_arch = "x86_64"))]
fn corrupt() {
    println!("SKIPPED: not written for this processor");
}

extern "C" fn on_signal(_: libc::c_int) {
    allocate();
}

/// A handler on a stack of its own, which came when nothing was being allocated.
fn elsewhere() {
    start_tracing();
    let mut memory = vec![0u8; 256 << 10];
    let stack =
        libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
    // SAFETY: the memory outlives what runs there.
    assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
    // SAFETY: zeroed is a valid value: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_ONSTACK;
    // SAFETY: a valid action. Its handler is only ever called by `raise`, below: between two calls
    // of the allocator.
    let set = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let region = Region::enter("elsewhere");
    for _ in 0..100 {
        // SAFETY: a handler is installed.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
    }
    drop(region);
    let snapshot = Snapshot::take();
    let sites = of_region(&snapshot, "elsewhere");
    assert_eq!(sites.iter().map(|site| site.allocs).sum::<f64>(), 100.0);
    assert_eq!(sites.iter().map(|site| site.live).sum::<f64>(), 0.0);
    println!("{} frames", sites.iter().map(|site| site.stack.len()).max().unwrap_or_default());
    invariants().expect("invariants");
    let off = libc::stack_t { ss_flags: libc::SS_DISABLE, ..stack };
    // SAFETY: the handler is not running.
    assert_eq!(unsafe { libc::sigaltstack(&raw const off, std::ptr::null_mut()) }, 0);
    drop(memory);
}
