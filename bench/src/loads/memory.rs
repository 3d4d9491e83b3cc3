//! Work chosen for what it leaves resident; the runner's samples of resident memory are its result,
//! the time is secondary. No unsafe here.

use std::fs;
use std::time::Duration;

use super::block::Block;
use super::micro::small_size;
use crate::workload::{Outcome, Scale, measure};

fn free_all(blocks: impl IntoIterator<Item = Block>) -> u64 {
    blocks.into_iter().map(Block::free).fold(0, u64::wrapping_add)
}

/// Fills up with small blocks, frees all but each twentieth, and fills up with the same number of
/// bytes in blocks of another size: what cannot be reused for them stays resident.
pub(crate) fn fragmentation(scale: &Scale) -> Outcome {
    let blocks = scale.keep(1_000_000);
    let rounds = scale.of(12);
    measure(|| {
        let (mut units, mut sum) = (0, 0u64);
        for round in 0..rounds as usize {
            let (first, second) = (64 + 16 * (round % 6), 200 + 24 * (round % 6));
            let mut old: Vec<_> = (0..blocks).map(|i| Some(Block::new(first, i as u32))).collect();
            let freed = old.iter_mut().enumerate().filter(|(i, _)| i % 20 != 0);
            sum = sum.wrapping_add(free_all(freed.filter_map(|(_, slot)| slot.take())));
            let count = blocks / 20 * 19 * first / second;
            let new: Vec<_> = (0..count).map(|i| Block::filled(second, i as u32)).collect();
            units += (blocks + count) as u64;
            sum = sum.wrapping_add(free_all(new)).wrapping_add(free_all(old.into_iter().flatten()));
        }
        (units, sum)
    })
}

/// Bytes of this process that are resident; `None` where the system does not say.
fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    // The page size of the first-class platform.
    Some(pages * 4096)
}

/// Fills 2 GB (quick: 200 MB) with blocks of up to 512 bytes, drops them, is idle for two seconds
/// (quick: one), allocates one block, and reports what is resident then.
pub(crate) fn drop_and_idle(scale: &Scale) -> Outcome {
    let (bytes, idle) = match (cfg!(test), scale.quick) {
        (true, _) => (1_000_000, Duration::from_millis(1)),
        (false, true) => (200_000_000, Duration::from_secs(1)),
        (false, false) => (2_000_000_000, Duration::from_secs(2)),
    };
    let mut rng = scale.rng(0);
    let mut outcome = measure(|| {
        let (mut left, mut units) = (bytes, 0);
        let mut blocks = Vec::new();
        while left > 0 {
            let size = small_size(&mut rng);
            blocks.push(Block::filled(size, units as u32));
            left -= size.min(left);
            units += 1;
        }
        (units, free_all(blocks))
    });
    std::thread::sleep(idle);
    drop(Block::new(64, 0));
    let resident = resident_bytes();
    outcome.extra.extend(resident.map(|bytes| ("rss_after_idle", bytes as f64)));
    outcome
}

/// Five times: fills to a peak and drops nine blocks of ten, each peak with larger blocks.
pub(crate) fn five_peaks(scale: &Scale) -> Outcome {
    let peak = scale.keep(if scale.quick { 16_000_000 } else { 100_000_000 });
    let mut rng = scale.rng(0);
    measure(|| {
        let (mut units, mut sum) = (0, 0u64);
        let mut live: Vec<Block> = Vec::new();
        for smallest in [16, 48, 96, 160, 320] {
            let mut bytes: usize = live.iter().map(Block::size).sum();
            while bytes < peak {
                let size = rng.usize(smallest..=smallest + smallest / 2);
                live.push(Block::filled(size, units as u32));
                bytes += size;
                units += 1;
            }
            // Which tenth stays is random; the vector is shuffled by the way.
            let stay = live.len() / 10;
            for i in 0..stay {
                let other = rng.usize(i..live.len());
                live.swap(i, other);
            }
            sum = sum.wrapping_add(free_all(live.drain(stay..)));
        }
        (units, sum.wrapping_add(free_all(live)))
    })
}
