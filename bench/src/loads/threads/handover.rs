//! Blocks allocated by one thread and freed by another. No unsafe here.
//!
//! Batches travel by value through bounded channels, so the channels' own allocations are few and
//! made once; only `xmalloc` allocates its batches, as its original does.

use std::array::from_fn;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use fastrand::Rng;

use super::{added, filled, joined, on_threads};
use crate::loads::block::Block;
use crate::loads::micro::small_size;
use crate::workload::{Outcome, Scale, measure};

/// Batches that may wait in a channel.
const QUEUE: usize = 32;

fn freed(blocks: impl IntoIterator<Item = Block>) -> u64 {
    blocks.into_iter().map(Block::free).fold(0, u64::wrapping_add)
}

/// Frees every batch that comes until the senders are gone.
fn free_all<const N: usize>(batches: Receiver<[Block; N]>) -> u64 {
    batches.into_iter().map(freed).fold(0, u64::wrapping_add)
}

/// Lever's xmalloc: two threads allocate batches of 4,096 blocks of 64 bytes, two others free them.
pub(crate) fn xmalloc(scale: &Scale) -> Outcome {
    const BATCH: u32 = 4096;
    let batches = scale.of(5_000);
    measure(|| {
        let (full, waiting) = sync_channel::<Vec<Block>>(8);
        let waiting = Mutex::new(waiting);
        // The lock is held while waiting, not while freeing.
        let next = || waiting.lock().expect("no consumer panics").recv().ok();
        thread::scope(|scope| {
            for _ in 0..2 {
                let full = full.clone();
                scope.spawn(move || {
                    for _ in 0..batches {
                        let batch = (0..BATCH).map(|i| Block::new(64, i)).collect();
                        full.send(batch).expect("consumers outlive producers");
                    }
                });
            }
            drop(full);
            let sum = on_threads(2, |_| {
                let batches = std::iter::from_fn(next);
                batches.map(|batch| (batch.len() as u64, freed(batch))).fold((0, 0), added)
            });
            assert_eq!(sum.0, 2 * batches * u64::from(BATCH), "every block was freed");
            sum
        })
    })
}

/// One thread allocates batches of 100 blocks of 8 to 512 bytes, another frees them.
pub(crate) fn producer_consumer(scale: &Scale) -> Outcome {
    produce(scale, scale.of(150_000), QUEUE, small_size)
}

/// The same with buffers of 513 to 16,000 bytes, of which at most eight batches wait.
pub(crate) fn buffers(scale: &Scale) -> Outcome {
    produce(scale, scale.of(30_000), 8, |rng| rng.usize(513..16_000))
}

/// One thread allocates batches of 100 blocks, another frees them.
fn produce(scale: &Scale, batches: u64, queue: usize, size: impl Fn(&mut Rng) -> usize) -> Outcome {
    const BATCH: usize = 100;
    let mut rng = scale.rng(0);
    measure(|| {
        let (full, waiting) = sync_channel::<[Block; BATCH]>(queue);
        thread::scope(|scope| {
            let consumer = scope.spawn(move || free_all(waiting));
            for i in 0..batches {
                let batch = from_fn(|_| Block::new(size(&mut rng), i as u32));
                full.send(batch).expect("the consumer outlives the producer");
            }
            drop(full);
            (batches * BATCH as u64, joined(consumer))
        })
    })
}

/// Two threads, each allocating what the other frees. Each may run a few batches ahead, so that
/// they do not wake each other at every batch; the channels hold more than that, so that they
/// never both wait for room.
pub(crate) fn swap(scale: &Scale) -> Outcome {
    const BATCH: usize = 100;
    const AHEAD: u64 = QUEUE as u64 / 2;
    let batches = scale.of(100_000);
    let side = |stream: u64, give: SyncSender<[Block; BATCH]>, take: Receiver<[Block; BATCH]>| {
        let mut rng = scale.rng(stream);
        let mut sum = 0u64;
        for i in 0..batches {
            let batch = from_fn(|_| Block::new(small_size(&mut rng), i as u32));
            give.send(batch).expect("the other side takes as many as it gives");
            if i >= AHEAD {
                let batch = take.recv().expect("the other side gives as many as it takes");
                sum = sum.wrapping_add(freed(batch));
            }
        }
        drop(give);
        sum = sum.wrapping_add(free_all(take));
        (batches * BATCH as u64, sum)
    };
    measure(|| {
        let (to_right, from_left) = sync_channel(QUEUE);
        let (to_left, from_right) = sync_channel(QUEUE);
        thread::scope(|scope| {
            let right = scope.spawn(|| side(1, to_left, from_left));
            added(side(0, to_right, from_right), joined(right))
        })
    })
}

/// One thread replaces blocks at random among 10,000 and hands what it replaced, in small batches,
/// to a thread that frees and never allocates.
pub(crate) fn free_only(scale: &Scale) -> Outcome {
    const BATCH: usize = 32;
    let batches = scale.of(500_000);
    let mut rng = scale.rng(0);
    measure(|| {
        let mut live = filled(scale.keep(10_000), &mut rng, small_size);
        let (full, waiting) = sync_channel::<[Block; BATCH]>(QUEUE);
        thread::scope(|scope| {
            let consumer = scope.spawn(move || free_all(waiting));
            for i in 0..batches {
                let batch = from_fn(|_| {
                    let at = rng.usize(..live.len());
                    std::mem::replace(&mut live[at], Block::new(small_size(&mut rng), i as u32))
                });
                full.send(batch).expect("the consumer outlives the producer");
            }
            drop(full);
            (batches * BATCH as u64, joined(consumer).wrapping_add(freed(live)))
        })
    })
}
