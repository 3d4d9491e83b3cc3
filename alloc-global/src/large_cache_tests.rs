//! Tests of a thread's cache of large blocks: what is kept, for how long, and that its invariants hold.

use super::*;
use core::alloc::Layout;
use core::ptr::NonNull;

/// Memory for blocks: what the cache writes into them is no more than a link.
struct Blocks(Vec<u128>);

impl Blocks {
    fn new() -> Self {
        Blocks(vec![0; 1024])
    }

    fn get(&mut self, index: usize) -> Block {
        NonNull::from(&mut self.0[index]).cast()
    }
}

fn class(size: usize) -> LargeClass {
    LargeClass::of(Layout::from_size_align(size, 8).unwrap()).unwrap()
}

/// A cache of whose classes all were asked for.
fn limited(limit: usize) -> LargeCache {
    let cache = LargeCache::new();
    cache.set_limit(limit);
    (0..LARGE_CLASSES).filter_map(LargeClass::from_index).for_each(|class| cache.open(class));
    cache
}

fn unlimited() -> LargeCache {
    limited(usize::MAX)
}

/// Pushes as a free does: asks for room where there is none.
fn free(cache: &LargeCache, class: LargeClass, block: Block, live: usize) -> bool {
    // SAFETY: memory for a link at least, each block once.
    let push = || unsafe { cache.push(class, block) };
    push() || {
        cache.grant(live, class.size());
        push()
    }
}

fn check(cache: &LargeCache) {
    let mut held = 0;
    for index in 0..LARGE_CLASSES {
        let class = LargeClass::from_index(index).unwrap();
        let bin = cache.bin(class);
        let mut len = 0;
        let mut at = bin.head.get();
        while let Some(block) = at {
            len += 1;
            // SAFETY: a block of the list.
            at = unsafe { block.cast::<Link>().read() };
        }
        assert_eq!(len, bin.len.get(), "1: {class:?}");
        assert_eq!(cache.filled[index / 64].get() >> (index % 64) & 1 == 1, len > 0, "3");
        assert!(bin.least.get() <= len, "5: {class:?}");
        held += len as usize * class.size();
    }
    assert_eq!(held, cache.cached(), "2");
}

#[test]
fn blocks_come_back_newest_first_and_bytes_are_summed() {
    let (cache, mut blocks) = (unlimited(), Blocks::new());
    let (first, second) = (blocks.get(0), blocks.get(1));
    let kib = class(1024);
    assert!(free(&cache, kib, first, 0) && free(&cache, kib, second, 0));
    check(&cache);
    assert_eq!((cache.cached(), cache.len(kib)), (2048, 2));
    assert_eq!(cache.pop(kib), Some(second));
    assert_eq!(cache.pop(class(2048)), None);
    assert_eq!(cache.pop_largest(), Some((kib, first)));
    assert_eq!((cache.pop(kib), cache.cached()), (None, 0));
    check(&cache);
}

#[test]
fn the_cache_does_not_raise_the_peak() {
    let mut blocks = Blocks::new();
    let cache = limited(0);
    assert!(!free(&cache, class(1024), blocks.get(0), 0), "nothing goes in without a limit");
    for size in [2 * LEAST_SLACK, 4 << 20, 16 << 20] {
        let (cache, large, slack) = (unlimited(), class(size), slack(size));
        assert!(free(&cache, large, blocks.get(0), 0), "what was in use may be kept");
        assert!(!free(&cache, large, blocks.get(1), 0), "but not twice as much");
        assert_eq!(cache.excess(slack), 0);
        let excess = size - slack;
        assert_eq!(cache.excess(size), excess, "in use again, and cached beyond the slack");
        assert_eq!(cache.pop_largest(), Some((large, blocks.get(0))));
        assert_eq!((cache.excess(2 * size), cache.cached()), (0, 0));
        check(&cache);
    }
}

#[test]
fn room_is_granted_by_the_megabyte_and_taken_back() {
    let mut blocks = Blocks::new();
    let (cache, large) = (unlimited(), class(64 << 10));
    cache.note_fresh(None, 64 << 20);
    let live = |held: usize| (64 << 20) - (held + 1) * large.size();
    // How many find room, without anybody asking for more.
    let mut fill = |first: usize| {
        // SAFETY: memory for a link, each block once.
        (first..1000).take_while(|at| unsafe { cache.push(large, blocks.get(*at)) }).count()
    };
    assert_eq!(fill(0), 0, "nobody asked");
    cache.grant(live(0), large.size());
    let step = (STEP + large.size() * 5 / 4) / large.size();
    assert_eq!(fill(0), step);
    cache.grant(live(step), large.size());
    assert_eq!(fill(step), step);
    let taken = core::iter::from_fn(|| cache.pop(large)).take(step).count();
    assert_eq!(fill(step), taken, "what was granted stays");
    while cache.pop(large).is_some() {}
    cache.tighten();
    assert_eq!(fill(0), STEP / large.size());
    assert_eq!(cache.granted(), STEP, "what lies there");
    cache.grant(live(16), large.size());
    while cache.pop(large).is_some() {}
    assert!(cache.granted() > STEP, "what may come to lie there unseen");
    cache.tighten();
    assert_eq!(cache.granted(), 0);
    check(&cache);
}

#[test]
fn as_many_are_kept_as_the_bound_allows_and_the_limit() {
    let mut blocks = Blocks::new();
    for (limit, expected) in [(usize::MAX, 1000), (100 << 10, 100), (0, 0)] {
        let (cache, kib) = (limited(limit), class(1024));
        cache.note_fresh(None, 1000 << 10);
        let kept = |index: &usize| free(&cache, kib, blocks.get(*index), (1000 - index - 1) << 10);
        assert_eq!((0..1000).take_while(kept).count(), expected);
        check(&cache);
    }
}

#[test]
fn what_nobody_asked_for_is_not_kept() {
    let (cache, mut blocks) = (LargeCache::new(), Blocks::new());
    cache.set_limit(usize::MAX);
    let (kib, page) = (class(1024), class(4096));
    cache.note_fresh(Some(kib), 1 << 20);
    assert!(free(&cache, kib, blocks.get(0), 1 << 20));
    assert!(!free(&cache, page, blocks.get(1), 1 << 20));
    cache.open(page);
    assert!(free(&cache, page, blocks.get(1), 1 << 20));
    check(&cache);
}

#[test]
fn the_slack_is_a_quarter_of_the_peak_within_bounds() {
    for (peak, expected) in [
        (0, LEAST_SLACK),
        (1 << 20, LEAST_SLACK),
        (4 << 20, 1 << 20),
        (8 << 20, MOST_SLACK),
        (usize::MAX, MOST_SLACK),
    ] {
        assert_eq!(slack(peak), expected, "{peak}");
    }
}

#[test]
fn a_class_that_blocks_grew_into_takes_none_until_one_is_asked_for() {
    let mut blocks = Blocks::new();
    let [first, second, third] = [0, 1, 2].map(|index| blocks.get(index));
    let (cache, mib) = (unlimited(), class(1 << 20));
    assert!(free(&cache, mib, first, 8 << 20));
    cache.note_grown(Some(mib), 8 << 20);
    assert!(!free(&cache, mib, second, 8 << 20), "what is there stays, and no more comes");
    assert_eq!((cache.room(mib, 0), cache.pop(mib)), (0, Some(first)));
    assert!(free(&cache, mib, first, 8 << 20), "what came from there goes back");
    assert!(!free(&cache, mib, second, 8 << 20));
    assert!(free(&cache, class(1 << 19), third, 8 << 20), "another class");
    cache.note_fresh(Some(mib), 8 << 20);
    assert!(free(&cache, mib, second, 8 << 20));
    check(&cache);
}

#[test]
fn a_sweep_names_what_lay_untouched() {
    let (cache, mut blocks) = (unlimited(), Blocks::new());
    let page = class(4096);
    for index in 0..8 {
        assert!(free(&cache, page, blocks.get(index), 0));
    }
    let swept = |expected: u32| {
        let mut named = 0;
        cache.sweep(0, |of, count| {
            assert_eq!(of, page);
            named += count;
            for _ in 0..count {
                assert!(cache.pop(page).is_some());
            }
        });
        assert_eq!(named, expected);
        check(&cache);
    };
    swept(0);
    let taken = [(); 3].map(|()| cache.pop(page).unwrap());
    for block in taken {
        assert!(free(&cache, page, block, 0));
    }
    swept(5);
    swept(3);
    assert_eq!(cache.cached(), 0);
}

#[test]
fn what_a_thread_leaves_stays_and_takes_no_more() {
    let (cache, mut blocks) = (unlimited(), Blocks::new());
    let kib = class(1024);
    assert!(free(&cache, kib, blocks.get(0), 0));
    cache.forget();
    // SAFETY: memory for a link.
    assert!(!unsafe { cache.push(kib, blocks.get(1)) });
    assert_eq!((cache.cached(), cache.pop(kib)), (1024, Some(blocks.get(0))));
    check(&cache);
}

#[test]
fn one_block_is_held_alone_until_it_is_taken_or_its_class_opened() {
    let (cache, mut blocks) = (LargeCache::new(), Blocks::new());
    let [first, second] = [0, 1].map(|index| blocks.get(index));
    let (five, six) = (class(5 << 20), class(6 << 20));
    cache.set_limit(usize::MAX);
    cache.note_fresh(None, 64 << 20);
    assert!(!free(&cache, five, first, 0) && !cache.has_alone(), "nobody asked");
    cache.hold_alone(five);
    assert!(free(&cache, five, first, 0) && cache.has_alone());
    assert!(!free(&cache, five, second, 0), "one, not two");
    check(&cache);
    assert_eq!((cache.take_alone(), cache.take_alone()), (Some((five, first)), None));
    cache.hold_alone(six);
    assert!(!free(&cache, five, first, 0), "of one class");
    assert!(free(&cache, six, second, 0));
    cache.open(six);
    assert!(!cache.has_alone() && cache.take_alone().is_none(), "it is there to be used");
    assert!(free(&cache, six, first, 0));
    cache.hold_alone(five);
    assert_eq!(cache.pop(six), Some(first), "what was opened stays open");
    assert!(free(&cache, six, first, 0));
    cache.forget();
    assert!(!cache.has_alone());
    check(&cache);
}
