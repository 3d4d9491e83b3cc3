//! Threads that exchange blocks through shared tables, after mstress (mimalloc's test-stress),
//! rptest (rpmalloc) and sh8bench (MicroQuill). Shapes follow the originals, the code does not.
//! No unsafe here.
//!
//! Which thread frees a block depends on timing; how many are allocated does not, so the sum of
//! all marks at their free is the same on every run.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::{added, joined, on_threads};
use crate::loads::block::Block;
use crate::loads::ports::Batches;
use crate::workload::{Outcome, Scale, measure};

/// A table of slots that all threads swap blocks with.
struct Exchange(Vec<Mutex<Option<Block>>>);

impl Exchange {
    fn new(slots: usize) -> Self {
        Exchange((0..slots).map(|_| Mutex::new(None)).collect())
    }

    fn swap(&self, at: usize, block: &mut Option<Block>) {
        let mut slot = self.0[at].lock().expect("no thread panics with the lock");
        std::mem::swap(&mut *slot, block);
    }

    /// Frees what lies in the slots that `which` names; returns the sum of marks.
    fn clear(&self, which: impl Fn(usize) -> bool) -> u64 {
        let blocks = (0..self.0.len()).filter(|&at| which(at)).filter_map(|at| {
            let mut block = None;
            self.swap(at, &mut block);
            block
        });
        blocks.map(Block::free).fold(0, u64::wrapping_add)
    }
}

/// Rounds of eight new threads. Objects of 1 to 16 words (one of a hundred is a hundred times
/// larger); a fourth go through a shared table, half live until their thread ends.
pub(crate) fn mstress(scale: &Scale) -> Outcome {
    const SLOTS: usize = 1_000;
    let rounds = scale.of(50);
    let objects = scale.keep(40_000) as u64;
    measure(|| {
        let exchange = Exchange::new(SLOTS);
        let (mut units, mut sum) = (0, 0u64);
        for round in 0..rounds {
            let done = on_threads(8, |i| stress_thread(scale, round * 8 + i, objects, &exchange));
            units += done.0;
            sum = sum.wrapping_add(done.1);
            if round % 10 == 9 {
                sum = sum.wrapping_add(exchange.clear(|at| at % 2 == 0));
            }
        }
        (units, sum.wrapping_add(exchange.clear(|_| true)))
    })
}

fn stress_thread(scale: &Scale, stream: u64, objects: u64, exchange: &Exchange) -> (u64, u64) {
    let mut rng = scale.rng(stream);
    let mut sum = 0u64;
    let mut retained: Vec<Block> = Vec::new();
    let mut data: Vec<Option<Block>> = Vec::new();
    for i in 0..objects {
        let words = rng.usize(1..=16) * if rng.u8(..100) == 0 { 100 } else { 1 };
        let block = Block::new(8 * words, i as u32);
        if rng.bool() {
            retained.push(block)
        } else {
            data.push(Some(block))
        }
        let Some(last) = data.len().checked_sub(1) else { continue };
        if rng.u8(..3) < 2 {
            let freed = data[rng.usize(..=last)].take().map_or(0, Block::free);
            sum = sum.wrapping_add(freed);
        }
        if rng.u8(..4) == 0 {
            exchange.swap(rng.usize(..exchange.0.len()), &mut data[rng.usize(..=last)]);
        }
    }
    let rest = data.into_iter().flatten().chain(retained);
    (objects, rest.map(Block::free).fold(sum, u64::wrapping_add))
}

/// Two threads replace blocks of 8 to 16,000 bytes at random; after every hundred operations each
/// hands a fourth of its blocks to the other, which frees them.
pub(crate) fn rptest(scale: &Scale) -> Outcome {
    const LIVE: usize = 1_000;
    const OPERATIONS: u64 = 100;
    const AHEAD: u64 = 4;
    let loops = scale.of(25_000);
    measure(|| {
        let (to_right, from_left) = sync_channel::<Vec<Block>>(2 * AHEAD as usize);
        let (to_left, from_right) = sync_channel::<Vec<Block>>(2 * AHEAD as usize);
        let side = |stream, give: SyncSender<Vec<Block>>, take: Receiver<Vec<Block>>| {
            let mut rng = scale.rng(stream);
            let mut blocks: Vec<Option<Block>> = Vec::new();
            blocks.resize_with(LIVE, || None);
            let mut sum = 0u64;
            for i in 0..loops {
                for _ in 0..OPERATIONS {
                    let at = rng.usize(..LIVE);
                    let new = Some(Block::new(rng.usize(8..=16_000), i as u32));
                    let old = std::mem::replace(&mut blocks[at], new);
                    sum = sum.wrapping_add(old.map_or(0, Block::free));
                }
                let start = rng.usize(..LIVE - OPERATIONS as usize);
                let given = &mut blocks[start..][..OPERATIONS as usize / 4];
                let given: Vec<Block> = given.iter_mut().filter_map(Option::take).collect();
                give.send(given).expect("the other side takes as many as it gives");
                // Running a little ahead, they do not wake each other at every batch.
                if i >= AHEAD {
                    let taken = take.recv().expect("the other side gives as many as it takes");
                    sum = taken.into_iter().map(Block::free).fold(sum, u64::wrapping_add);
                }
            }
            drop(give);
            let rest = take.into_iter().flatten().chain(blocks.into_iter().flatten());
            (loops * OPERATIONS, rest.map(Block::free).fold(sum, u64::wrapping_add))
        };
        thread::scope(|scope| {
            let right = scope.spawn(|| side(1, to_left, from_left));
            added(side(0, to_right, from_right), joined(right))
        })
    })
}

/// sh6bench on four threads, each of which mostly frees batches that another one allocated.
pub(crate) fn sh8bench(scale: &Scale) -> Outcome {
    const THREADS: u64 = 4;
    let rounds = scale.of(400);
    measure(|| {
        let shelf: Mutex<Vec<Block>> = Mutex::new(Vec::new());
        let done = on_threads(THREADS, |_| {
            let mut batches = Batches::new();
            let mut done = (0, 0);
            for _ in 0..rounds {
                let pass = batches.pass(|batch| {
                    let mut shelf = shelf.lock().expect("no thread panics with the lock");
                    std::mem::swap(&mut *shelf, batch);
                });
                done = added(done, pass);
            }
            added(done, (0, batches.finish()))
        });
        let left = shelf.into_inner().expect("no thread panicked");
        added(done, (0, left.into_iter().map(Block::free).fold(0, u64::wrapping_add)))
    })
}
