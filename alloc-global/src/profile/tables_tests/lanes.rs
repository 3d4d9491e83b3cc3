//! Tests of what several threads count of one site, and of the end of recording. No unsafe here.

use super::super::tables::Tally;
use super::*;

#[test]
fn lanes_of_one_site_are_one_site() {
    let tables = Tables::new(|| 64 << 10, || 64 << 10, || 0);
    let come = |n: usize, frame, lane| {
        let event = allocation(n * 16, 100, 1);
        let event = Allocation { place: Place { lane, ..event.place }, ..event };
        tables.on_alloc(event, &mut stack(&[frame]), |_| (), || true);
    };
    let go =
        |n: usize, is_last, lane| tables.on_free(block(n * 16), Freed { is_last, lane }, |_| 200);
    (1..=4).for_each(|n| come(n, 1, 3));
    (5..=6).for_each(|n| come(n, 1, 4));
    come(7, 1, 0);
    come(8, 2, 4);
    // By its own lane, by another, by the one that all share; of the last one only in its own lane.
    go(1, false, 3);
    go(2, true, 4);
    go(5, true, 4);
    go(7, false, 0);
    go(6, false, 0);
    tables.check().unwrap();
    let mut found = HashMap::new();
    tables.for_each(|known| {
        let Tally { counted, live, live_bytes, .. } = known.tally;
        let counts = (counted.samples, counted.bytes, counted.temporary / WEIGHT_ONE);
        let row = (counts, counted.most.0, live / WEIGHT_ONE, live_bytes);
        assert!(found.insert(known.stack[0], row).is_none(), "one entry for each");
    });
    assert_eq!(found[&1], ((5, 500, 1), 700, 2, 200));
    assert_eq!(found[&2], ((0, 0, 0), 100, 1, 100));
    let mut sites = [None; 2];
    tables.sites_of(&[3 * 16, 8 * 16], &mut sites);
    let stacks = tables.stacks_of(&sites);
    assert_eq!((stacks.len(), &stacks[&sites[0].unwrap()]), (2, &vec![0]));
}

#[test]
fn what_others_do_with_a_lanes_blocks_shows_in_its_most() {
    let tables = Tables::new(|| 64 << 10, || 64 << 10, || 0);
    let come = |n: usize, requested: usize| {
        let size = if requested > 4_096 { 5_120 } else { requested };
        let event = allocation(n * 16, size, 1);
        let event = Allocation { requested, place: Place { lane: 3, ..event.place }, ..event };
        tables.on_alloc(event, &mut stack(&[1]), |_| (), || true);
    };
    let most = || {
        let mut most = (0, 0);
        tables.for_each(|known| most = known.tally.counted.most);
        (most.0, most.1 / WEIGHT_ONE)
    };
    (1..=3).for_each(|n| come(n, 100));
    assert_eq!(most(), (300, 3));
    // 200 went, 150 came: less than there was. Then 100 more.
    (1..=2).for_each(|n| tables.on_free(block(n * 16), Freed { is_last: false, lane: 4 }, |_| 200));
    come(4, 150);
    assert_eq!(most(), (300, 3));
    come(5, 100);
    assert_eq!(most(), (350, 3));
    // Above 4 KiB counters count what was asked for. Grown by another thread, then one more.
    come(6, 4_900);
    assert_eq!(most(), (5_250, 4));
    tables.on_resize(block(6 * 16), 5_000, 4);
    assert_eq!(most(), (5_350, 4));
    come(7, 10);
    assert_eq!(most(), (5_360, 5));
    tables.on_resize(block(6 * 16), 4_900, 3);
    come(8, 10);
    assert_eq!(most(), (5_360, 5));
    tables.check().unwrap();
}

#[test]
fn what_is_not_wanted_any_more_is_not_recorded_and_what_was_can_be_forgotten() {
    let tables = Tables::new(|| 64 << 10, || 64 << 10, || 0);
    assert!(tables.is_empty());
    let come = |n: usize, wanted: bool| {
        tables.on_alloc(allocation(n * 4096, 10, 1), &mut stack(&[1]), |_| (), || wanted);
    };
    (1..=100).for_each(|n| come(n, n > 50));
    assert!(!tables.is_empty());
    (51..=60).for_each(|n| tables.on_free(block(n * 4096), Freed::default(), |_| 200));
    tables.forget_live();
    tables.check().unwrap();
    assert!(tables.is_empty());
    assert!(!(1..=100).any(|n| tables.may_hold(block(n * 4096))));
    tables.for_each(|known| {
        let counted = &known.tally.counted;
        assert_eq!((counted.samples, counted.unseen, known.tally.live), (50, 40 * WEIGHT_ONE, 0));
    });
}
