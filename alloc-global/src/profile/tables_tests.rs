//! Tests of the tables together, on instances of their own and addresses that are made up. No unsafe here.

use super::live::{Added, Entry, FILTER, Live};
use super::sites::{OTHER, Place, WEIGHT_ONE};
use super::stack::{Stack, mix};
use super::tables::{Allocation, Freed, Tables};
use alloc_core::{Block, SizeClass};
use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;

fn block(address: usize) -> Block {
    Block::without_provenance(NonZeroUsize::new(address).unwrap())
}

fn stack(frames: &[usize]) -> Stack {
    let mut stack = Stack::new(64);
    frames.iter().for_each(|frame| {
        stack.push(*frame);
    });
    stack
}

/// An entry that is told by its birth, one of all or a sample, of one class or another.
fn entry(birth: u64) -> Entry {
    let exact = !birth.is_multiple_of(3);
    let size = if birth.is_multiple_of(2) { 64 } else { 1024 };
    Entry { size, requested: 60, birth, weight: WEIGHT_ONE, exact, site: OTHER }
}

fn allocation(address: usize, size: usize, rate: u64) -> Allocation {
    let place = Place { region: 0, thread: 1, lane: 0 };
    Allocation { block: block(address), requested: size, size, rate, now: 100, place }
}

mod lanes;

/// Numbers that look like chance.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = mix(self.0, 0x1234_5678_9ABC_DEF1);
        self.0 ^ self.0 >> 29
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn check(live: &Live) {
    live.hold().check().unwrap();
}

fn add(live: &Live, address: usize, birth: u64) -> Added {
    let mut result = None;
    live.add(block(address), None, entry(birth), || true, |added| result = Some(added));
    result.unwrap()
}

fn remove(live: &Live, address: usize) -> Option<u64> {
    let mut result = None;
    if let Some(spot) = live.spot(block(address)) {
        live.remove(&spot, |entry| result = Some(entry.birth));
    }
    result
}

#[test]
fn blocks_are_found_as_a_map_finds_them_and_the_filter_misses_none() {
    let live = Live::new(|| 256 << 10);
    let mut model: HashMap<usize, u64> = HashMap::new();
    let mut dice = Dice(1);
    for step in 1..200_000u64 {
        // Few enough addresses that they come again, close together as blocks are, in two far places.
        let number = (dice.next() >> 40) as usize % 1500;
        let address =
            0x7F00_0000_0000 + number * 16 + if number.is_multiple_of(2) { 1 << 32 } else { 0 };
        if dice.next() >> 63 == 0 {
            let expected = model.insert(address, step);
            match (add(&live, address, step), expected) {
                (Added::New, None) => {}
                (Added::Replaced(old), Some(before)) => assert_eq!(old.birth, before),
                (added, expected) => panic!("{added:?}, {expected:?}"),
            }
        } else {
            assert_eq!(remove(&live, address), model.remove(&address));
        }
        if step % 10_000 == 0 {
            check(&live);
            assert!(model.keys().all(|address| live.may_hold(block(*address))));
        }
    }
    let mut found = HashMap::new();
    live.hold().for_each(|address, entry| assert!(found.insert(address, entry.birth).is_none()));
    assert_eq!(found, model);
    model.keys().for_each(|address| assert!(remove(&live, *address).is_some()));
    check(&live);
    let others = (0..1500).filter(|n| live.may_hold(block(0x7F00_0000_0000 + n * 16))).count();
    assert_eq!(others, 0, "no count of the filter was ever at its end");
}

#[test]
fn no_block_of_a_class_without_samples_is_looked_at_until_all_were_recorded() {
    let live = Live::new(|| 64 << 10);
    let [eight, ten] = [64, 80].map(|size| SizeClass::from_index(size / 8).unwrap());
    let blocks = [1 << 20, 2 << 20].map(block);
    let looks = |class| live.may_hold_any(Some(class), &blocks);
    let add = |address: usize, size, exact| {
        let entry = Entry { size, exact, ..entry(1) };
        live.add(block(address), None, entry, || true, |_| {});
        check(&live);
    };
    assert!(!looks(eight) && !looks(ten));
    add(1 << 20, 64, false);
    assert!(looks(eight) && !looks(ten));
    add(1 << 20, 80, false);
    assert!(!looks(eight) && looks(ten), "the first one's end was not seen");
    add(2 << 20, 8192, false);
    remove(&live, 1 << 20);
    assert!(!looks(eight) && !looks(ten), "larger ones are of no class");
    assert!(live.may_hold_any(None, &blocks));
    add(1 << 20, 64, false);
    live.hold().clear(|_| {});
    assert!(!looks(eight));
    check(&live);
    add(1 << 20, 64, true);
    assert!(looks(eight) && looks(ten), "these are not counted");
    remove(&live, 1 << 20);
    assert!(!looks(eight), "but still in the filter");
}

#[test]
fn the_filter_takes_as_many_others_for_recorded_as_it_says() {
    let live = Live::new(|| 1 << 20);
    (1..=1000).for_each(|n| assert_eq!(add(&live, n * 48, n as u64), Added::New));
    let taken = (1..=100_000).filter(|n| live.may_hold(block((1 << 40) + n * 16))).count();
    assert!((1_000..6_000).contains(&taken), "{taken} of 100,000; 3,000 are to be expected");
}

#[test]
fn a_count_that_was_at_its_end_stays_there() {
    let live = Live::new(|| 8 << 20);
    // 2^15 counts and 100,000 blocks each of which is one of 256 that share the top bits.
    let blocks: Vec<usize> =
        (1..).map(|n| n * 16).filter(|n| live_index(*n) == 7).take(400).collect();
    blocks.iter().for_each(|address| assert_eq!(add(&live, *address, 1), Added::New));
    blocks.iter().skip(1).for_each(|address| assert_eq!(remove(&live, *address), Some(1)));
    assert!(live.may_hold(block(blocks[0])));
    check(&live);
}

/// The count of the filter that an address belongs to.
fn live_index(address: usize) -> usize {
    address >> 5 & 0x7FFF
}

#[test]
fn a_full_table_says_so_and_goes_on() {
    let live = Live::new(|| 8 << 10);
    let added = (1..=1000).filter(|n| add(&live, n * 16, 1) == Added::New).count();
    assert!((100..200).contains(&added), "{added}");
    assert_eq!(live.dropped(), 1000 - added as u64);
    check(&live);
    let removed = (1..=1000).filter(|n| remove(&live, n * 16).is_some()).count();
    assert_eq!(removed, added);
    check(&live);
    // Free entries go where they are wanted: blocks of one stripe alone find room for as many.
    let again = (1..=1000).filter(|n| add(&live, (1 << 20 | 9 << 14) + n * 16, 2) == Added::New);
    assert_eq!(again.count(), added);
    check(&live);
    assert_eq!(live.dropped(), 2 * (1000 - added as u64));
}

#[test]
fn four_threads_and_a_ledger_agree() {
    let tables = Tables::new(|| 256 << 10, || 512 << 10, || 0);
    let ledgers: Vec<(u64, u64, Vec<usize>)> = std::thread::scope(|scope| {
        let work = |thread: usize| {
            let (mut dice, mut mine) = (Dice(thread as u64), Vec::new());
            let (mut allocs, mut bytes) = (0, 0);
            for step in 0..30_000usize {
                if mine.len() < 400 && dice.next() >> 62 != 0 {
                    // Addresses of four threads lie side by side, and come again.
                    let number = (dice.next() >> 40) as usize % 4096;
                    let address = 0x10_0000 + (number * 4 + thread) * 32;
                    if mine.contains(&address) {
                        continue;
                    }
                    let size = 8 + number % 500;
                    tables.on_alloc(
                        allocation(address, size, 1),
                        &mut stack(&[number % 40, 7]),
                        |_| (),
                        || true,
                    );
                    mine.push(address);
                    (allocs, bytes) = (allocs + 1, bytes + size as u64);
                } else if let Some(address) = mine.pop() {
                    assert!(tables.may_hold(block(address)));
                    tables.on_free(block(address), Freed::default(), |_| 200);
                }
                if step % 10_000 == 0 {
                    tables.check().unwrap();
                }
            }
            (allocs, bytes, mine)
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    tables.check().unwrap();
    let (mut blocks, mut bytes, mut live, mut sites) = (0, 0, 0, 0);
    tables.for_each(|known| {
        sites += 1;
        assert_eq!(known.stack.len(), 2);
        blocks += known.tally.freed_blocks() + known.tally.live;
        bytes += known.tally.counted.bytes + known.tally.live_bytes;
        live += known.tally.live_samples;
    });
    let sum = |count: fn(&(u64, u64, Vec<usize>)) -> u64| ledgers.iter().map(count).sum::<u64>();
    assert_eq!(sites, 40);
    assert_eq!(blocks, sum(|ledger| ledger.0) * WEIGHT_ONE);
    assert_eq!(bytes, sum(|ledger| ledger.1));
    assert_eq!(live, sum(|ledger| ledger.2.len() as u64));
    assert_eq!(tables.dropped(), [0; 4]);
}

#[test]
fn overflow_keeps_totals() {
    let tables = Tables::new(|| 8 << 10, || 8 << 10, || 0);
    for n in 1..=1000 {
        tables.on_alloc(allocation(n * 16, 100, 1), &mut stack(&[n]), |_| (), || true);
    }
    for n in 1..=50 {
        tables.on_free(block(n * 16), Freed::default(), |_| 200);
    }
    tables.check().unwrap();
    let (mut blocks, mut bytes, mut live, mut other) = (0, 0, 0, 0);
    tables.for_each(|known| {
        let all = known.tally.freed_blocks() + known.tally.live;
        blocks += all;
        bytes += known.tally.counted.bytes + known.tally.live_bytes;
        live += known.tally.live_samples;
        other += if known.place.is_none() { all } else { 0 };
    });
    let [stacks, dropped, ..] = tables.dropped();
    assert_eq!((blocks, bytes), (1000 * WEIGHT_ONE, 100_000));
    assert!(stacks > 900 && dropped > 700, "{stacks}, {dropped}");
    assert_eq!(other, stacks * WEIGHT_ONE);
    assert_eq!(live, 1000 - dropped - 50);
    assert!(tables.bytes() <= (16 << 10) + FILTER);
}

/// Runs `blocks` allocations of one size through a sampler at `rate`; returns the estimated blocks
/// and bytes, and how many samples they rest on.
fn estimate(seed: u64, size: usize, rate: u64, blocks: usize) -> (f64, f64, u64) {
    let tables = Tables::new(|| 64 << 10, || 4 << 20, || 0);
    let mut dice = Dice(seed);
    let chosen = -(-(size as f64) / rate as f64).exp_m1();
    for n in 1..=blocks {
        if dice.fraction() < chosen {
            tables.on_alloc(allocation(n * 16, size, rate), &mut stack(&[1]), |_| (), || true);
        }
    }
    let mut result = (0.0, 0.0, 0);
    tables.for_each(|known| {
        let weight = (known.tally.freed_blocks() + known.tally.live) as f64 / WEIGHT_ONE as f64;
        let bytes = known.tally.counted.bytes + known.tally.live_bytes;
        result = (weight, bytes as f64, known.tally.counted.samples + known.tally.live_samples);
    });
    result
}

#[test]
fn estimates_are_unbiased_within_three_sigma() {
    // Small, middling and large against the rate; that blocks of at least the rate were counted
    // 1.58 times each was Go's issue 26618.
    for (size, rate, blocks) in [
        (16, 4096, 2_000_000),
        (1 << 20, 512 << 10, 20_000),
        (512 << 10, 512 << 10, 20_000),
        (4 << 20, 512 << 10, 20_000),
        (4096, 4096, 20_000),
        (100, 1, 10_000),
    ] {
        let chosen = if rate <= 1 { 1.0 } else { -(-(size as f64) / rate as f64).exp_m1() };
        for seed in 1..=5 {
            let (weight, bytes, samples) = estimate(seed, size, rate, blocks);
            // The variance of a sum of blocks, each in with the chance `chosen` and a weight of its
            // inverse.
            let sigma = (blocks as f64 * (1.0 - chosen) / chosen).sqrt();
            // Rounding to parts of a block is by chance too: at most half a part each.
            let slack = 3.0 * sigma + samples as f64 / WEIGHT_ONE as f64 / 2.0;
            let error = (weight - blocks as f64).abs();
            assert!(error <= slack, "{size} at {rate}: {weight} for {blocks}, sigma {sigma}");
            let bytes_off = (bytes - blocks as f64 * size as f64).abs();
            assert!(bytes_off <= (slack + 1.0) * size as f64, "{size} at {rate}: {bytes} bytes");
            if rate <= 1 {
                assert_eq!((weight, bytes), (blocks as f64, (blocks * size) as f64));
            }
        }
    }
}

/// How far estimates of live bytes were off, squared, and what they said of that, over many runs of
/// the same blocks.
fn squares(sizes: &[usize], rate: u64) -> (f64, f64) {
    const RUNS: u64 = 600;
    let tables = Tables::new(|| 16 << 10, || 256 << 10, || 0);
    let mut dice = Dice(rate + sizes.len() as u64);
    let (mut off, mut said, mut samples) = (0.0, 0.0, Vec::new());
    for _ in 0..RUNS {
        for (n, size) in sizes.iter().enumerate() {
            if rate <= 1 || dice.fraction() < -(-(*size as f64) / rate as f64).exp_m1() {
                samples.push((n + 1) * 64);
                let event = Allocation {
                    requested: *size,
                    // As the classes above 1 KiB have it: the counters count what was asked for.
                    size: if *size > 1_024 { size + size / 8 } else { *size },
                    now: dice.next() >> 20,
                    ..allocation((n + 1) * 64, *size, rate)
                };
                tables.on_alloc(event, &mut stack(&[1]), |_| (), || true);
            }
        }
        let (mut bytes, mut variance, mut freed) = (0, 0.0, 0.0);
        tables.for_each(|known| {
            (bytes, variance) = (known.tally.live_bytes, known.tally.live_bytes_variance);
            freed = known.tally.counted.variance;
        });
        let truth: usize = sizes.iter().sum();
        off += (bytes as f64 - truth as f64).powi(2) / RUNS as f64;
        assert!((freed - said * RUNS as f64).abs() <= freed * 1e-9, "what went keeps its own");
        said += variance / RUNS as f64;
        samples
            .drain(..)
            .for_each(|address| tables.on_free(block(address), Freed::default(), |_| 200));
    }
    (off, said)
}

#[test]
fn errors_are_as_large_as_estimates_are_off() {
    const RATE: u64 = 4_096;
    let rate = RATE as usize;
    let small = vec![16; 20_000];
    let equal = vec![rate; 100];
    let mixed: Vec<usize> =
        [vec![16; 5_000], vec![700; 200], vec![rate; 20], vec![rate * 100; 5]].concat();
    for sizes in [small, equal, mixed] {
        let (off, said) = squares(&sizes, RATE);
        // A mean of 600 squares is off by 6 % itself.
        let ratio = off / said;
        assert!((0.75..1.33).contains(&ratio), "{} blocks: {ratio}", sizes.len());
        // What both should be.
        let one = |size: &usize| {
            let chance = -(-(*size as f64) / RATE as f64).exp_m1();
            (*size as f64).powi(2) * (1.0 - chance) / chance
        };
        let ratio = said / sizes.iter().map(one).sum::<f64>();
        assert!((0.9..1.1).contains(&ratio), "{} blocks: {ratio}", sizes.len());
    }
    assert_eq!(squares(&[rate * 100; 3], RATE), (0.0, 0.0), "each is in for sure");
    assert_eq!(squares(&[16, 700, rate], 1), (0.0, 0.0), "traced");
}

#[test]
fn each_sample_keeps_the_rate_it_was_taken_at() {
    let tables = Tables::new(|| 64 << 10, || 64 << 10, || 0);
    tables.on_alloc(allocation(16, 100, 1), &mut stack(&[1]), |_| (), || true);
    tables.on_alloc(allocation(32, 100, 1 << 20), &mut stack(&[2]), |_| (), || true);
    tables.on_alloc(allocation(48, 100, 1), &mut stack(&[1]), |_| (), || true);
    let mut found = HashMap::new();
    tables.for_each(|known| {
        found.insert(known.stack[0], known.tally.live as f64 / WEIGHT_ONE as f64);
    });
    assert_eq!(found[&1], 2.0);
    let expected = 1.0 / -(-100.0 / (1u64 << 20) as f64).exp_m1();
    assert!((found[&2] - expected).abs() < 0.01, "{}", found[&2]);
    assert_eq!(tables.rate_and_start(), (1, 100));
}

#[test]
fn lifetimes_and_temporaries_are_counted() {
    let tables = Tables::new(|| 64 << 10, || 64 << 10, || 0);
    let one = |address, now, is_last| {
        tables.on_alloc(allocation(address, 10, 1), &mut stack(&[1]), |_| (), || true);
        tables.on_free(block(address), Freed { is_last, lane: 0 }, |exact| {
            assert!(exact);
            now
        });
    };
    // Born at 100.
    one(16, 100, true);
    one(32, 101, false);
    one(48, 103, false);
    one(64, 100 + 4096, false);
    one(80, u64::MAX, false);
    one(96, 0, false);
    tables.for_each(|known| {
        let mut expected = [0; 40];
        (expected[0], expected[1], expected[12], expected[39]) = (3, 1, 1, 1);
        assert_eq!(known.tally.counted.lifetimes, expected.map(|count| count * WEIGHT_ONE));
        assert_eq!((known.tally.counted.temporary, known.tally.live), (WEIGHT_ONE, 0));
    });
}

#[test]
fn a_sample_that_stands_for_itself_has_the_clock_of_samples() {
    let tables = Tables::new(|| 64 << 10, || 64 << 10, || 0);
    // A thousand times the rate: in for sure.
    tables.on_alloc(allocation(16, 1 << 20, 1 << 10), &mut stack(&[1]), |_| (), || true);
    tables.on_free(block(16), Freed::default(), |coarse| if coarse { 0 } else { 100 + 8 });
    tables.for_each(|known| {
        assert_eq!(known.tally.freed_blocks(), WEIGHT_ONE);
        assert_eq!(known.tally.counted.lifetimes[3], WEIGHT_ONE, "8 us");
    });
}

#[test]
fn a_block_whose_end_was_not_seen_is_freed_when_it_comes_again() {
    let tables = Tables::new(|| 64 << 10, || 64 << 10, || 0);
    tables.on_alloc(allocation(16, 10, 1), &mut stack(&[1]), |_| (), || true);
    tables.on_alloc(allocation(16, 30, 1), &mut stack(&[2]), |_| (), || true);
    tables.on_free(block(32), Freed::default(), |_| 0);
    let mut found = HashMap::new();
    tables.for_each(|known| {
        let tally = known.tally;
        found.insert(known.stack[0], (tally.counted.bytes, tally.counted.unseen, tally.live_bytes));
    });
    assert_eq!(found, HashMap::from([(1, (10, WEIGHT_ONE, 0)), (2, (0, 0, 30))]));
    tables.check().unwrap();
}

#[test]
fn a_fork_holds_everything_and_lets_go() {
    let tables = Tables::new(|| 64 << 10, || 64 << 10, || 0);
    tables.lock_for_fork();
    crate::lock::set_holds_all(true);
    // Handlers of others may allocate meanwhile.
    tables.on_alloc(allocation(16, 10, 1), &mut stack(&[1]), |_| (), || true);
    crate::lock::set_holds_all(false);
    tables.unlock_after_fork();
    std::thread::scope(|scope| {
        scope.spawn(|| tables.on_free(block(16), Freed::default(), |_| 0));
    });
    tables.check().unwrap();
    assert_eq!(tables.dropped(), [0; 4]);
}

#[test]
fn a_site_remembers_its_most_and_what_it_had_when_the_process_had_most() {
    static PEAK: AtomicU64 = AtomicU64::new(0);
    let tables = Tables::new(|| 64 << 10, || 64 << 10, || PEAK.load(Ordering::Relaxed));
    let come = |n: usize, size, frame| {
        tables.on_alloc(allocation(n * 16, size, 1), &mut stack(&[frame]), |_| (), || true);
    };
    let go = |n: usize| tables.on_free(block(n * 16), Freed::default(), |_| 200);
    // Site 1 has its most before the peak of the process, site 2 at it, site 3 after it; site 4
    // rests from before it.
    (1..=4).for_each(|n| come(n, 100, 1));
    come(10, 50, 4);
    (2..=4).for_each(go);
    (20..30).for_each(|n| come(n, 400, 2));
    // A new peak was seen, and the process shrinks.
    PEAK.store(7, Ordering::Relaxed);
    (20..29).for_each(go);
    go(1);
    (40..42).for_each(|n| come(n, 30, 3));
    let mut most = HashMap::new();
    tables.for_each(|known| {
        let counted = &known.tally.counted;
        most.insert(known.stack[0], (counted.most, counted.at_peak));
    });
    let blocks = |n: u64| n * WEIGHT_ONE;
    assert_eq!(most[&1], ((400, blocks(4)), (100, blocks(1))));
    assert_eq!(most[&2], ((4_000, blocks(10)), (4_000, blocks(10))));
    assert_eq!(most[&3], ((60, blocks(2)), (0, 0)));
    assert_eq!(most[&4], ((50, blocks(1)), (50, blocks(1))));
}

#[test]
fn bytes_are_those_that_the_counters_count() {
    let tables = Tables::new(|| 64 << 10, || 64 << 10, || 0);
    // A class of pools, one of the bins up to 4 KiB, one of those above.
    for (n, requested, size) in [(1, 20, 24), (2, 600, 640), (3, 4_900, 5_120)] {
        let event = Allocation { requested, ..allocation(n * 16, size, 1) };
        tables.on_alloc(event, &mut stack(&[n]), |_| (), || true);
    }
    let mut known_bytes = HashMap::new();
    tables.for_each(|known| {
        let tally = &known.tally;
        let row = (tally.live_bytes, tally.live_requested, tally.live_lost);
        known_bytes.insert(known.stack[0], row);
    });
    let expected = [(1, (24, 20, 4)), (2, (640, 600, 40)), (3, (4_900, 4_900, 220))];
    assert_eq!(known_bytes, expected.into());
}
