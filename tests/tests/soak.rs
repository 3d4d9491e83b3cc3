//! Work of the usual kind for longer: right results, and memory that does not grow.
//!
//! Each case does the same work over and over. Resident memory is read after each hundredth of it;
//! the slope of the line through the last half must be flat: not its end alone, which luck can make
//! look well. Bounded by work, not by time, but for the last, which runs for `SOAK_SECONDS` (2
//! where that is not set). No unsafe here.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use alloc_global::{PoolAlloc, stats};
use tests::block::Block;
use tests::cases::{self, Case};
use tests::invariants;
use tests::process::resident;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

const MIB: f64 = (1 << 20) as f64;

fn main() -> ExitCode {
    cases::main(&[
        Case::new("collections_hold_what_was_put_in", collections).within(240),
        Case::new("resident_memory_has_no_slope_under_mixed_churn", churn).within(240),
        Case::new("resident_memory_has_no_slope_when_the_load_changes_shape", phases).within(240),
        Case::new("resident_memory_has_no_slope_when_threads_come_and_go", threads).within(240),
        Case::new("panics_that_are_caught_leak_nothing", panics).within(240),
        Case::new("resident_memory_has_no_slope_from_producer_to_consumer", hand_over).within(240),
    ])
}

/// The least that may come at once: a step of one huge page in the middle of the half has a slope of 3.
const STEP: f64 = 3.0 * MIB;

/// Runs `work(0..rounds)`, and asserts that resident memory does not rise over the last half by
/// more than 1 %, or by more than `step` where that is more.
fn flat(rounds: usize, step: f64, mut work: impl FnMut(usize)) {
    let samples = 100;
    let mut resident_at = Vec::with_capacity(samples);
    for round in 0..rounds {
        work(round);
        if (round + 1) * samples / rounds > resident_at.len() {
            resident_at.push(resident() as f64);
        }
    }
    assert_eq!(resident_at.len(), samples);
    assert_flat(&resident_at, step);
}

/// Resident memory does not rise over the last half by more than 1 %, or by more than `step` where
/// that is more.
fn assert_flat(resident_at: &[f64], step: f64) {
    let half = &resident_at[resident_at.len() / 2..];
    let mean = half.iter().sum::<f64>() / half.len() as f64;
    let rise = slope(half) * half.len() as f64;
    let bound = (mean / 100.0).max(step);
    assert!(
        rise <= bound,
        "resident memory rises by {:.2} MiB over the last half (mean {:.1} MiB)",
        rise / MIB,
        mean / MIB
    );
    let highest = resident_at.iter().copied().fold(0.0, f64::max);
    println!("mean {:.1} MiB, highest {:.1}, rise {:.3}", mean / MIB, highest / MIB, rise / MIB);
    invariants().expect("invariants");
}

/// Slope of the line of least squares, per sample.
fn slope(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let middle = (count - 1.0) / 2.0;
    let mean = values.iter().sum::<f64>() / count;
    let xs = || (0..values.len()).map(|x| x as f64 - middle);
    let covariance: f64 = xs().zip(values).map(|(x, y)| x * (y - mean)).sum();
    covariance / xs().map(|x| x * x).sum::<f64>()
}

fn collections() {
    let mut rng = fastrand::Rng::with_seed(1);
    let before = stats().live_blocks;
    {
        // Three collections that must tell the same story, and a vector that cannot get it wrong.
        let mut hash: HashMap<String, Vec<u32>> = HashMap::new();
        let mut tree: BTreeMap<u32, (String, Box<[u8]>)> = BTreeMap::new();
        let mut queue: VecDeque<String> = VecDeque::new();
        let mut plain: Vec<Option<(u32, usize)>> = vec![None; 5_000];
        for step in 0..200_000_u32 {
            let key = rng.u32(0..5_000);
            let name = format!("key {key} of a length that differs{:1$}", "", key as usize % 60);
            match rng.u32(0..4) {
                0 | 1 => {
                    let len = rng.usize(0..200);
                    plain[key as usize] = Some((step, len));
                    hash.insert(name.clone(), (0..len as u32).map(|n| n ^ step).collect());
                    tree.insert(key, (name, vec![step as u8; len].into_boxed_slice()));
                }
                2 => {
                    let expected = plain[key as usize].take();
                    assert_eq!(hash.remove(&name).map(|v| v.len()), expected.map(|e| e.1));
                    let removed = tree.remove(&key);
                    assert_eq!(
                        removed.map(|(text, bytes)| (text, bytes.len())),
                        expected.map(|e| (name, e.1))
                    );
                }
                _ => {
                    queue.push_back(name);
                    if queue.len() > 500 {
                        let front = queue.pop_front().expect("not empty");
                        assert!(front.starts_with("key ") && front.len() < 100);
                    }
                }
            }
        }
        for (key, entry) in plain.iter().enumerate() {
            let Some((step, len)) = *entry else { continue };
            let (name, bytes) = &tree[&(key as u32)];
            assert!(bytes.len() == len && bytes.iter().all(|&byte| byte == step as u8));
            let numbers = &hash[name];
            assert!(numbers.iter().enumerate().all(|(n, &number)| number == n as u32 ^ step));
        }
        assert_eq!(hash.len(), tree.len());
        let mut sorted: Vec<String> = hash.into_keys().collect();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), tree.len());
    }
    assert_eq!(stats().live_blocks, before);
    invariants().expect("invariants");
}

fn block(rng: &mut fastrand::Rng, largest: usize) -> Block {
    let size = if rng.u32(0..16) == 0 { rng.usize(513..=largest) } else { rng.usize(1..=512) };
    Block::new(size, 8, rng.u64(..)).expect("memory")
}

fn churn() {
    let mut rng = fastrand::Rng::with_seed(2);
    let mut live: Vec<Block> = (0..60_000).map(|_| block(&mut rng, 20_000)).collect();
    // Pairs exchange their sizes, so that what is live stays what it is, to the byte.
    flat(1_000, STEP, |_| {
        for _ in 0..2_000 {
            let (one, other) = (rng.usize(..live.len()), rng.usize(..live.len()));
            let sizes = [one, other].map(|at| live[at].layout().size());
            if rng.u32(0..8) == 0 {
                assert!(live[one].resize(sizes[1]));
                assert!(one == other || live[other].resize(sizes[0]));
            } else {
                live[one] = Block::new(sizes[1], 8, rng.u64(..)).expect("memory");
                if one != other {
                    live[other] = Block::new(sizes[0], 8, rng.u64(..)).expect("memory");
                }
            }
        }
    });
}

fn phases() {
    let mut rng = fastrand::Rng::with_seed(3);
    // Blocks that stay, strewn over all phases.
    let mut stay: Vec<Option<Block>> = (0..2_000).map(|_| None).collect();
    flat(1_600, STEP, |round| {
        let size = 8 + round % 8 * 72;
        let phase: Vec<Block> = (0..8_000)
            .map(|_| Block::new(rng.usize(size / 2 + 1..=size), 8, 1).expect("memory"))
            .collect();
        for _ in 0..20 {
            let at = rng.usize(..stay.len());
            stay[at] = Some(block(&mut rng, 2_000));
        }
        drop(phase);
    });
}

fn threads() {
    // How the threads of a round overlap is for the scheduler to say, and how many pools are in use
    // at once follows from it. One cache lost by one thread in ten would be 16 MiB over the last
    // half.
    flat(1_000, 8.0 * MIB, |round| {
        let passed: Vec<Block> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|number| {
                    scope.spawn(move || {
                        let mut rng = fastrand::Rng::with_seed((round * 4 + number) as u64);
                        let mut live: Vec<Block> =
                            (0..1_500).map(|_| block(&mut rng, 5_000)).collect();
                        live.split_off(1_000)
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(passed.len(), 4 * 500);
    });
}

fn panics() {
    set_hook(Box::new(|_| ()));
    let mut rng = fastrand::Rng::with_seed(5);
    let mut caught = 0;
    let mut round = |count: usize| {
        for _ in 0..count {
            let depth = rng.usize(1..20);
            let unwound = catch_unwind(AssertUnwindSafe(|| descend(depth, &mut rng.fork())));
            let payload = unwound.expect_err("it panics at the bottom");
            assert!(payload.downcast_ref::<String>().is_some_and(|text| text.starts_with("depth")));
            caught += 1;
        }
    };
    round(100);
    let before = stats();
    round(5_000);
    let after = stats();
    assert_eq!(after.live_blocks, before.live_blocks, "{after}");
    assert_eq!(after.fallback_live_blocks, before.fallback_live_blocks, "{after}");
    flat(1_000, STEP, |_| round(20));
    assert!(caught > 25_000);
}

/// One thread allocates, another frees, batch after batch, small blocks and large ones.
fn hand_over() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let sample = Duration::from_secs(seconds.unwrap_or(2)) / 100;
    let before = stats().live_blocks;
    let (send, receive) = sync_channel::<Vec<Block>>(16);
    let resident_at: Vec<f64> = std::thread::scope(|scope| {
        let consumer = scope.spawn(move || receive.iter().map(|batch| batch.len()).sum::<usize>());
        let mut rng = fastrand::Rng::with_seed(6);
        let mut sent = 0;
        let samples = (0..100).map(|_| {
            let start = Instant::now();
            while start.elapsed() < sample {
                let batch: Vec<Block> = (0..100).map(|_| block(&mut rng, 20_000)).collect();
                sent += batch.len();
                send.send(batch).expect("somebody receives");
            }
            resident() as f64
        });
        let samples = samples.collect();
        drop(send);
        assert_eq!(consumer.join().expect("no panic"), sent);
        samples
    });
    // How many batches are under way is for the scheduler to say: 18 of them hold 12 MiB where all
    // are large.
    assert_flat(&resident_at, 8.0 * MIB);
    assert!(stats().live_blocks <= before + 8, "{}", stats());
}

/// Allocates on each frame, panics in the deepest, is unwound through all of them.
fn descend(depth: usize, rng: &mut fastrand::Rng) -> usize {
    let held: Vec<Block> = (0..rng.usize(1..10)).map(|_| block(rng, 3_000)).collect();
    let text = format!("depth {depth} holds {}", held.len());
    if depth == 0 {
        // A thread that unwinds may free, but blocks check themselves only when all is well.
        held.iter().for_each(Block::verify);
        panic!("{text}");
    }
    descend(depth - 1, rng) + text.len()
}
