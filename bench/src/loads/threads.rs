//! Several threads. Blocks cross threads, or threads come and go, or both. No unsafe here.
//!
//! Each checksum is a sum over threads, so the order in which they ran does not show in it.

pub(crate) mod handover;
pub(crate) mod stress;

use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::block::Block;
use super::micro::small_size;
use crate::workload::{Outcome, Scale, measure};

/// Runs `part(0)` to `part(threads - 1)` on a thread each; sums their units and checksums.
fn on_threads(threads: u64, part: impl Fn(u64) -> (u64, u64) + Sync) -> (u64, u64) {
    let part = &part;
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|i| scope.spawn(move || part(i))).collect();
        handles.into_iter().map(joined).fold((0, 0), added)
    })
}

/// The result of a thread; its panic goes on in the thread that waits for it.
fn joined<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn added(a: (u64, u64), b: (u64, u64)) -> (u64, u64) {
    (a.0.wrapping_add(b.0), a.1.wrapping_add(b.1))
}

/// Replaces random blocks of `blocks`, `units` times, with sizes from `size`.
fn churn(
    blocks: &mut [Block],
    rng: &mut fastrand::Rng,
    units: u64,
    size: impl Fn(&mut fastrand::Rng) -> usize,
) -> u64 {
    let mut sum = 0u64;
    for i in 0..units {
        let slot = &mut blocks[rng.usize(..blocks.len())];
        sum = sum.wrapping_add(slot.mark());
        *slot = Block::new(size(rng), i as u32);
    }
    sum
}

/// `count` new blocks.
fn filled(
    count: usize,
    rng: &mut fastrand::Rng,
    size: impl Fn(&mut fastrand::Rng) -> usize,
) -> Vec<Block> {
    (0..count).map(|i| Block::new(size(rng), i as u32)).collect()
}

/// Larson and Krishnan's server: `chains` threads replace blocks in an array of 1,000 each, then
/// hand the array to a new thread and end. Sizes 8 to 1,000 bytes.
fn larson(scale: &Scale, chains: u64) -> Outcome {
    const BLOCKS: usize = 1_000;
    let generations = scale.of(1_600 / chains);
    let mut arrays: Vec<Vec<Block>> =
        (0..chains).map(|i| filled(BLOCKS, &mut scale.rng(i), larson_size)).collect();
    measure(|| {
        let sum = thread::scope(|scope| {
            let (started, threads) = channel();
            for (i, blocks) in (0..).zip(&mut arrays) {
                let rng = scale.rng(chains + i);
                Chain { blocks, rng, left: generations, started: started.clone() }.spawn(scope);
            }
            drop(started);
            // Until the last thread of the last chain has ended.
            threads.iter().map(joined).fold(0, u64::wrapping_add)
        });
        (chains * generations * PER_THREAD, sum)
    })
}

/// Blocks that larson's threads replace before they hand their array on.
const PER_THREAD: u64 = 50_000;

/// What one thread of larson hands to the next.
struct Chain<'scope> {
    blocks: &'scope mut [Block],
    rng: fastrand::Rng,
    left: u64,
    /// Where to send new threads, for the measuring thread to join.
    started: Sender<thread::ScopedJoinHandle<'scope, u64>>,
}

impl<'scope> Chain<'scope> {
    fn spawn(self, scope: &'scope thread::Scope<'scope, '_>) {
        let started = self.started.clone();
        let thread = scope.spawn(move || self.run(scope));
        started.send(thread).expect("the measuring thread waits for all senders to end");
    }

    /// One thread's life: work, start the successor, end without waiting for it.
    fn run(mut self, scope: &'scope thread::Scope<'scope, '_>) -> u64 {
        let marks = churn(self.blocks, &mut self.rng, PER_THREAD, larson_size);
        self.left -= 1;
        if self.left > 0 {
            self.spawn(scope);
        }
        marks
    }
}

fn larson_size(rng: &mut fastrand::Rng) -> usize {
    rng.usize(8..=1_000)
}

/// Two chains.
pub(crate) fn larson_2(scale: &Scale) -> Outcome {
    larson(scale, 2)
}

/// Eight chains.
pub(crate) fn larson_8(scale: &Scale) -> Outcome {
    larson(scale, 8)
}

/// Two threads that share nothing: what they cost each other is the allocator's doing.
pub(crate) fn threads_apart(scale: &Scale) -> Outcome {
    let units = scale.of(60_000_000);
    let live = scale.keep(10_000);
    measure(|| {
        on_threads(2, |thread| {
            let mut rng = scale.rng(thread);
            let mut blocks = filled(live, &mut rng, small_size);
            (units, churn(&mut blocks, &mut rng, units, small_size))
        })
    })
}

/// Threads that live for 100 blocks, two at a time; half of their blocks outlive them and are
/// freed by the thread that joins them.
pub(crate) fn threads_short(scale: &Scale) -> Outcome {
    const BLOCKS: usize = 100;
    let waves = scale.of(12_000);
    measure(|| {
        let mut sum = 0u64;
        for wave in 0..waves {
            let short = |stream| {
                let mut rng = scale.rng(stream);
                let mut blocks = filled(BLOCKS, &mut rng, small_size);
                blocks.truncate(BLOCKS / 2);
                blocks
            };
            let left = thread::scope(|scope| {
                let threads = [2 * wave, 2 * wave + 1].map(|i| scope.spawn(move || short(i)));
                threads.map(joined)
            });
            sum = left.into_iter().flatten().map(Block::free).fold(sum, u64::wrapping_add);
        }
        (2 * waves, sum)
    })
}
