//! Blocks that cross threads, and threads that come and go.
//!
//! Every case is bounded by its number of operations, never by time, and ends with everything
//! freed: then the counters must say what they said before, and the invariants must hold. Each case
//! has the process to itself. No unsafe here.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Barrier, Mutex};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use alloc_global::{PoolAlloc, memory, stats, trim};
use tests::block::Block;
use tests::cases::{self, Case, with_setting};
use tests::process::resident;
use tests::{assert_nothing_left, invariants, raw_thread};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

const MIB: u64 = 1 << 20;

fn main() -> ExitCode {
    cases::main(&[
        Case::new("eight_threads_pass_blocks_round", ring).within(240),
        Case::new("counters_and_trim_may_be_called_while_threads_churn", watched_ring).within(240),
        Case::new("one_thread_only_frees_what_four_allocate", only_frees).within(240),
        Case::new("producer_and_consumer_run_in_flat_memory", flat).within(240),
        Case::new("pairs_of_threads_swap_batches_in_flat_memory", swap).within(240),
        Case::new("ten_thousand_threads_leave_their_blocks_to_others", waves).within(240),
        Case::new("a_block_may_be_resized_by_any_thread", resized_elsewhere),
        Case::new("a_thousand_idle_threads_hold_little_each", idle).within(240),
        Case::new(RESTING, resting).within(240),
    ])
}

const RESTING: &str = "one_small_stack_is_enough_to_empty_the_caches_of_hundreds_of_threads";

/// Small sizes, mostly, and one in 16 above 512 bytes.
fn size(rng: &mut fastrand::Rng) -> usize {
    if rng.u32(0..16) == 0 { rng.usize(513..20_000) } else { rng.usize(1..=512) }
}

fn block(rng: &mut fastrand::Rng) -> Block {
    let align = 1 << rng.u32(0..=5);
    Block::new(size(rng), align, rng.u64(..)).expect("memory")
}

/// Waits for the end of each thread. The scope by itself waits for their closures only: the threads
/// may still be freeing what the runtime gave them.
fn join_all<'scope>(threads: impl IntoIterator<Item = ScopedJoinHandle<'scope, ()>>) {
    let threads: Vec<_> = threads.into_iter().collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// Runs `body` in a warmed-up process and checks that it left nothing behind.
fn leaves_nothing(body: impl Fn()) {
    // The first run makes what lives on: thread-locals of the runtime, and those of a receiver that
    // had to wait.
    let (_send, receive) = sync_channel::<()>(1);
    assert!(receive.recv_timeout(Duration::from_millis(1)).is_err());
    body();
    let before = stats();
    body();
    assert_nothing_left(before, stats());
    invariants().expect("invariants");
}

fn ring() {
    leaves_nothing(|| pass_round(8, 150_000, &AtomicBool::new(false)));
}

/// `count` threads, each with an inbox; `steps` operations each.
fn pass_round(count: usize, steps: u64, done: &AtomicBool) {
    let inboxes: Vec<Mutex<Vec<Block>>> = (0..count).map(|_| Mutex::default()).collect();
    let start = Barrier::new(count);
    thread::scope(|scope| {
        join_all((0..count).map(|number| {
            let (inboxes, start) = (&inboxes, &start);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(number as u64);
                let mut own: Vec<Block> = Vec::new();
                start.wait();
                for _ in 0..steps {
                    match rng.u32(0..10) {
                        0..4 => own.push(block(&mut rng)),
                        4 if !own.is_empty() => {
                            let at = rng.usize(..own.len());
                            assert!(own[at].resize(size(&mut rng)));
                        }
                        5 => own.append(&mut inboxes[number].lock().expect("no panic")),
                        6..8 if !own.is_empty() => drop(own.swap_remove(rng.usize(..own.len()))),
                        _ => {
                            let half = own.len() / 2;
                            let to = rng.usize(..count);
                            if own.len() > 200 {
                                inboxes[to].lock().expect("no panic").extend(own.drain(half..));
                            } else if let Some(block) = own.pop() {
                                inboxes[to].lock().expect("no panic").push(block);
                            }
                        }
                    }
                }
            })
        }));
    });
    // Ordering: the scope has joined every thread; the flag itself is all that is read.
    done.store(true, Ordering::Relaxed);
}

fn watched_ring() {
    leaves_nothing(|| {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(&done));
            pass_round(6, 60_000, &done);
            assert!(watcher.join().expect("the watcher ends") > 0);
        });
    });
}

/// Reads the counters and trims until `done`; how often. What is read while others work is promised
/// to be near the truth only; that the calls are safe, and that everything is exact afterwards, is
/// what counts.
fn watch(done: &AtomicBool) -> u64 {
    let mut rounds = 0;
    // Ordering: only the flag is read.
    while !done.load(Ordering::Relaxed) || rounds == 0 {
        let now = stats();
        assert!(now.free_bytes <= now.mapped_bytes, "{now}");
        rounds += 1;
        if rounds % 64 == 0 {
            trim();
        }
        thread::yield_now();
    }
    rounds
}

fn only_frees() {
    leaves_nothing(|| {
        let (send, receive) = sync_channel::<Vec<Block>>(64);
        thread::scope(|scope| {
            let senders = (0..4).map(|number| {
                let send = send.clone();
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(number);
                    for _ in 0..1_000 {
                        let batch = (0..100).map(|_| block(&mut rng)).collect();
                        send.send(batch).expect("somebody receives");
                    }
                })
            });
            let senders: Vec<_> = senders.collect();
            drop(send);
            let freed: usize = receive.iter().map(|batch| batch.len()).sum();
            assert_eq!(freed, 4 * 1_000 * 100);
            join_all(senders);
        });
    });
}

/// Largest `mapped_bytes` of the first and of the second half of the rounds.
#[derive(Default)]
struct Halves([AtomicU64; 2]);

impl Halves {
    fn note(&self, round: usize, rounds: usize) {
        // Ordering: a maximum that is read after the joins.
        self.0[round * 2 / rounds].fetch_max(stats().mapped_bytes, Ordering::Relaxed);
    }

    /// One group of arenas may come late: which blocks are in flight is for the scheduler to say.
    fn assert_flat(&self) {
        // Ordering: after the joins.
        let [first, second] = [0, 1].map(|half| self.0[half].load(Ordering::Relaxed));
        assert!(first > 0);
        assert!(second <= first + 4 * MIB, "mapped bytes grew from {first} to {second}");
    }
}

const ROUNDS: usize = 8_000;

fn produce(send: &SyncSender<Vec<Block>>, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..ROUNDS {
        send.send((0..100).map(|_| block(&mut rng)).collect()).expect("somebody receives");
    }
}

fn flat() {
    let halves = Halves::default();
    leaves_nothing(|| {
        let (send, receive) = sync_channel(16);
        thread::scope(|scope| {
            let producer = scope.spawn(move || produce(&send, 1));
            for (round, batch) in receive.iter().enumerate() {
                drop(batch);
                halves.note(round, ROUNDS);
            }
            join_all([producer]);
        });
    });
    halves.assert_flat();
    // 16 batches in flight and a few in hand hold about 2 MiB of small blocks.
    assert!(stats().mapped_bytes <= 16 * MIB, "{}", stats());
}

fn swap() {
    let halves = Halves::default();
    leaves_nothing(|| {
        let (left, from_left) = sync_channel(16);
        let (right, from_right): (_, Receiver<Vec<Block>>) = sync_channel(16);
        thread::scope(|scope| {
            join_all([(left, from_right, 1), (right, from_left, 2)].map(
                |(send, receive, seed)| {
                    let halves = &halves;
                    scope.spawn(move || {
                        let mut rng = fastrand::Rng::with_seed(seed);
                        for round in 0..ROUNDS / 2 {
                            let batch = (0..100).map(|_| block(&mut rng)).collect();
                            send.send(batch).expect("the other one receives");
                            drop(receive.recv().expect("the other one sends"));
                            halves.note(round, ROUNDS / 2);
                        }
                    })
                },
            ));
        });
    });
    halves.assert_flat();
}

fn waves() {
    const WAVE: usize = 64;
    const THREADS: usize = 10_000;
    let left: Mutex<Vec<Block>> = Mutex::default();
    let wave = |count: usize, seed: usize| {
        thread::scope(|scope| {
            join_all((0..count).map(|number| {
                let left = &left;
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed((seed + number) as u64);
                    // What an earlier wave left, a share each; then as much again for the next one.
                    let found: Vec<Block> = {
                        let mut left = left.lock().expect("no panic");
                        let from = left.len().saturating_sub(100);
                        left.drain(from..).collect()
                    };
                    let mut own: Vec<Block> = (0..100).map(|_| block(&mut rng)).collect();
                    drop(found);
                    left.lock().expect("no panic").append(&mut own);
                })
            }));
        });
    };
    let free_all = || {
        let blocks = std::mem::take(&mut *left.lock().expect("no panic"));
        thread::spawn(move || drop(blocks)).join().expect("the thread ends");
    };
    // One wave first: what the runtime keeps, and the reserve the allocator may keep.
    wave(WAVE, 0);
    free_all();
    trim();
    let before = stats();
    let mut started = 0;
    while started < THREADS {
        let count = WAVE.min(THREADS - started);
        wave(count, started);
        started += count;
    }
    free_all();
    trim();
    let after = stats();
    assert_eq!(after.live_blocks, before.live_blocks, "{after}");
    assert_eq!(after.fallback_live_blocks, before.fallback_live_blocks, "{after}");
    let arenas = before.arenas.abs_diff(after.arenas);
    assert!(arenas <= 1, "{} arenas before, {} after", before.arenas, after.arenas);
    invariants().expect("invariants");
}

fn resized_elsewhere() {
    leaves_nothing(|| {
        let mut blocks: Vec<Block> = {
            let mut rng = fastrand::Rng::with_seed(4);
            (0..2_000).map(|_| block(&mut rng)).collect()
        };
        for round in 0..20 {
            blocks = thread::spawn(move || {
                let mut rng = fastrand::Rng::with_seed(round);
                for block in &mut blocks {
                    assert!(block.resize(size(&mut rng)));
                }
                blocks
            })
            .join()
            .expect("no block was damaged");
        }
    });
}

/// What a thread keeps that used 16 sizes, up to 48 blocks at once, and rests. Resident memory is
/// that of the whole process: the threads' stacks and the pages of their caches' arrays count
/// there, some 60 KiB beside the blocks.
fn idle() {
    const THREADS: usize = 1_000;
    let gate = Barrier::new(THREADS + 1);
    let before = resident();
    thread::scope(|scope| {
        let runner = scope.spawn(|| {
            raw_thread::run(THREADS, &|seed| {
                let mut rng = fastrand::Rng::with_seed(seed as u64);
                let sizes: [usize; 16] = std::array::from_fn(|_| rng.usize(1..=512));
                for _ in 0..20 {
                    let blocks = (0..48).map(|at| Block::new(sizes[at % 16], 8, 1));
                    drop(blocks.collect::<Vec<_>>());
                }
                gate.wait();
                // Idle, with what its cache holds.
                gate.wait();
            });
        });
        gate.wait();
        let now = memory();
        let held = (now.cached + now.fallback_cached) / THREADS as u64;
        let each = (resident() - before) / THREADS as u64;
        gate.wait();
        runner.join().expect("no panic");
        println!("{held} bytes of blocks, {each} bytes resident");
        assert!(held <= 64 << 10, "each idle thread's cache holds {held} bytes of blocks");
        assert!(each <= 112 << 10, "{each} bytes are resident for each idle thread");
    });
}

/// Where memory goes back at once, what is freed to the fallback makes it due to go back: the purger
/// does not begin anew for each cache that it empties, on a stack of 64 KiB.
fn resting() {
    with_setting(RESTING, "POOLALLOC_PURGE_DELAY_MS", "0", || {
        const THREADS: usize = 400;
        let (start, end) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
        thread::scope(|scope| {
            let threads = (0..THREADS).map(|_| {
                scope.spawn(|| {
                    let block = |tag| Block::new(40_000, 8, tag).expect("memory");
                    drop((0..60).map(block).collect::<Vec<_>>());
                    start.wait();
                    end.wait();
                })
            });
            let threads: Vec<_> = threads.collect();
            start.wait();
            let before = stats().fallback_cached_bytes;
            assert!(before > THREADS as u64 * MIB / 4, "{before} bytes cached");
            assert!(ALLOC.spawn_purger());
            while stats().fallback_cached_bytes > before / 10 {
                thread::sleep(Duration::from_millis(50));
            }
            end.wait();
            join_all(threads);
        });
    });
}
