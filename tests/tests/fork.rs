//! fork in a process whose other threads are in the middle of allocating.
//!
//! A child has only the thread that forked. Locks that another thread held stay held unless the
//! allocator takes them itself around the fork; what another thread's cache held is lost to the
//! child, and nothing more. The C library does not keep concurrent forks apart: their handlers may
//! run at the same time. No unsafe here.

use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use alloc_global::report::Symbols;
use alloc_global::{DebugInfo, PoolAlloc, memory, stats, trim};
use tests::block::Block;
use tests::cases::{self, Case};
use tests::invariants;
use tests::process::{Ended, at_fork, fork};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// A child that has not ended by then hangs: its work takes milliseconds.
const LIMIT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    cases::main(&[
        Case::new("a_child_works_on_its_copy_of_the_heap", copy),
        Case::new("a_thousand_forks_under_load_never_hang", storm).within(240),
        Case::new("children_fork_and_start_threads_themselves", generations),
        Case::new("a_child_finds_what_threads_pass_on_whole", passing).within(240),
        Case::new("handlers_of_fork_may_look_at_the_whole_heap", handlers),
        Case::new("a_child_counts_its_own_threads_only", own_threads),
        Case::new("a_child_finds_symbols_while_a_thread_of_its_parent_does", symbols).within(240),
    ])
}

fn block(rng: &mut fastrand::Rng) -> Block {
    let size = if rng.u32(0..64) == 0 { rng.usize(513..9_000) } else { rng.usize(1..=200) };
    Block::new(size, 1 << rng.u32(0..=4), rng.u64(..)).expect("memory")
}

/// What each child does: 10,000 blocks, some of them from before the fork. Code 0 when all went well.
fn child(seed: u64, mut inherited: Vec<Block>) -> i32 {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut live = Vec::new();
    for _ in 0..10_000 {
        match rng.u32(0..4) {
            0 if !live.is_empty() => drop::<Block>(live.swap_remove(rng.usize(..live.len()))),
            1 if !inherited.is_empty() => {
                drop(inherited.swap_remove(rng.usize(..inherited.len())));
            }
            2 if !live.is_empty() => {
                let at = rng.usize(..live.len());
                if !live[at].resize(rng.usize(1..600)) {
                    return 3;
                }
            }
            _ => live.push(block(&mut rng)),
        }
    }
    drop((live, inherited));
    i32::from(invariants().is_err())
}

fn copy() {
    let mut rng = fastrand::Rng::with_seed(1);
    let blocks: Vec<Block> = (0..5_000).map(|_| block(&mut rng)).collect();
    for seed in 0..20 {
        // The child's copy is the child's to free; the parent's stays.
        let theirs = std::cell::Cell::new(None);
        theirs.set(Some((0..500).map(|_| block(&mut rng)).collect::<Vec<_>>()));
        let started = fork(|| child(seed, theirs.take().unwrap_or_default()));
        assert_eq!(started.wait(LIMIT), Ended::Code(0));
        blocks.iter().for_each(Block::verify);
    }
    invariants().expect("invariants");
}

fn storm() {
    const FORKERS: u32 = 3;
    const FORKS: u32 = 1_000;
    let done = AtomicBool::new(false);
    let forks = AtomicU32::new(0);
    thread::scope(|scope| {
        for seed in 0..8 {
            let done = &done;
            scope.spawn(move || churn(seed, done));
        }
        let forkers: Vec<_> = (0..FORKERS)
            .map(|number| {
                let forks = &forks;
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(100 + u64::from(number));
                    // Ordering: only the count itself is shared.
                    while forks.fetch_add(1, Ordering::Relaxed) < FORKS {
                        let before: Vec<Block> = (0..200).map(|_| block(&mut rng)).collect();
                        let before = std::cell::Cell::new(before);
                        let started = fork(|| child(rng.u64(..), before.take()));
                        assert_eq!(started.wait(LIMIT), Ended::Code(0));
                    }
                })
            })
            .collect();
        let ends: Vec<_> = forkers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        // Ordering: only the flag is read.
        done.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok), "a forked child hung or failed");
    });
    invariants().expect("invariants");
}

fn churn(seed: u64, done: &AtomicBool) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut live: Vec<Block> = Vec::new();
    // Ordering: only the flag is read.
    while !done.load(Ordering::Relaxed) {
        if live.len() < 300 || rng.bool() {
            live.push(block(&mut rng));
        } else {
            live.swap_remove(rng.usize(..live.len()));
        }
        if live.len() > 600 {
            live.clear();
        }
    }
}

fn generations() {
    let parent = fork(|| {
        let threads: Vec<_> =
            (0..8).map(|seed| thread::spawn(move || child(seed, vec![]))).collect();
        let grandchild = fork(|| child(9, vec![]));
        let codes: Vec<_> = threads.into_iter().map(thread::JoinHandle::join).collect();
        let well = codes.into_iter().all(|code| matches!(code, Ok(0)));
        i32::from(!well || grandchild.wait(LIMIT) != Ended::Code(0))
    });
    assert_eq!(parent.wait(LIMIT), Ended::Code(0));
}

/// Whether [`look`] looks.
static LOOKS: AtomicBool = AtomicBool::new(false);

/// Runs before anything has allocated: so [`look`] runs after the allocator's handler before a
/// fork, and before it after one.
#[used]
#[unsafe(link_section = ".init_array.00001")]
static REGISTER_LOOK: extern "C" fn() = {
    extern "C" fn register() {
        at_fork(look);
    }
    register
};

/// Readings of all counters by threads that do nothing else.
static READINGS: AtomicU32 = AtomicU32::new(0);
const READERS: u32 = 2;

extern "C" fn look() {
    // Ordering, here and below: each is a value of its own.
    if LOOKS.load(Ordering::Relaxed) {
        let now = memory();
        assert!(now.live > 0 && now.live < now.mapped, "{now}");
        assert_eq!(stats().mapped_bytes, now.mapped);
        drop(Block::new(100, 8, 1).expect("memory"));
        invariants().expect("invariants in a handler");
        let before = READINGS.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(5));
        let read = READINGS.load(Ordering::Relaxed) - before;
        assert!(read <= READERS, "{read} readings while a fork holds every lock");
    }
}

fn handlers() {
    let done = AtomicBool::new(false);
    LOOKS.store(true, Ordering::Relaxed);
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(stats().live_blocks > 0);
                    READINGS.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| churn(1, &done));
        let forked = |seed| fork(|| child(seed, vec![])).wait(LIMIT);
        let ends: Vec<Ended> = (0..50).map(forked).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(|end| *end == Ended::Code(0)), "{ends:?}");
    });
    invariants().expect("invariants");
}

fn own_threads() {
    let gate = Barrier::new(5);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                drop(Block::new(100, 8, 1));
                gate.wait();
                gate.wait();
            });
        }
        gate.wait();
        assert_eq!(stats().threads, 5);
        let started = fork(|| {
            let alone = stats().threads;
            let both = thread::spawn(|| stats().threads).join().unwrap_or(0);
            i32::from((alone, both) != (1, 2))
        });
        let ended = started.wait(LIMIT);
        gate.wait();
        assert_eq!(ended, Ended::Code(0));
    });
}

/// Who reads debug information holds locks that are not the allocator's. A child in which one
/// stayed held would wait for good.
fn symbols() {
    let here = [symbols as fn() as usize as u64 + 4];
    let found = move || DebugInfo.resolve(&here).iter().all(|frames| !frames.is_empty());
    assert!(found());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert!(found());
            }
        });
        for _ in 0..50 {
            let child = fork(|| i32::from(!found()));
            let ended = child.wait(LIMIT);
            stop.store(!matches!(ended, Ended::Code(0)), Ordering::Relaxed);
            assert!(matches!(ended, Ended::Code(0)), "{ended:?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// A block above 512 bytes, of a size that the thread-caches keep.
fn large(rng: &mut fastrand::Rng) -> Block {
    Block::new(rng.usize(513..40_000), 8, rng.u64(..)).expect("memory")
}

/// Threads allocate large blocks that this one frees while it forks: a child may find a block on its way.
fn passing() {
    let stop = AtomicBool::new(false);
    let (sender, receiver) = sync_channel::<Vec<Block>>(4);
    thread::scope(|scope| {
        for seed in 0..2 {
            let (sender, stop) = (sender.clone(), &stop);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                // Relaxed: nothing is read through it.
                while !stop.load(Ordering::Relaxed) {
                    let batch = (0..100).map(|_| large(&mut rng)).collect();
                    // Refused once the receiver is gone.
                    if sender.send(batch).is_err() {
                        return;
                    }
                }
            });
        }
        scope.spawn(move || receiver.into_iter().for_each(drop));
        for seed in 0..200 {
            let child = fork(|| {
                let mut rng = fastrand::Rng::with_seed(seed);
                let blocks: Vec<Block> = (0..500).map(|_| large(&mut rng)).collect();
                drop(blocks);
                trim();
                // Other threads' caches are not the child's to empty, but what lay between threads is.
                let kept = stats().fallback_cached_bytes;
                i32::from(kept > 64 << 20 || invariants().is_err())
            });
            assert_eq!(child.wait(LIMIT), Ended::Code(0));
        }
        stop.store(true, Ordering::Relaxed);
        drop(sender);
    });
    invariants().expect("invariants");
}
