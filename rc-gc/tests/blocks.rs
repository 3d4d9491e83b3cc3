//! Where memory of freed objects goes: handed out again, and never counted twice.

use std::cell::RefCell;

use rc_gc::{Gc, Trace};

#[derive(Trace)]
struct Links {
    value: u64,
    links: RefCell<[Option<Gc<Links>>; 2]>,
}

fn links(value: u64) -> Gc<Links> {
    Gc::new(Links { value, links: RefCell::default() })
}

// With `verify` no object is in a pool.
#[cfg(not(feature = "verify"))]
#[test]
fn an_object_made_and_dropped_uses_one_block_and_starts_no_collection() {
    let first = Gc::as_ptr(&links(0));
    let before = rc_gc::stats();
    for value in 1..1_000_000 {
        assert_eq!(Gc::as_ptr(&links(value)), first);
    }
    let after = rc_gc::stats();
    assert_eq!(after.pool_bytes, before.pool_bytes);
    assert_eq!(after.generations, before.generations);
    assert_eq!(after.live, 0);
    rc_gc::check().unwrap();
}

#[cfg(not(feature = "verify"))]
#[test]
fn trim_takes_back_what_was_ready_to_be_handed_out() {
    let many: Vec<_> = (0..10_000).map(links).collect();
    drop(many);
    rc_gc::trim();
    assert_eq!((rc_gc::stats().pool_bytes, rc_gc::stats().live), (0, 0));
    // And then there is more.
    assert_eq!(links(5).value, 5);
    rc_gc::check().unwrap();
}

/// The same types, laid out by `new`, from a box, and as arrays that were slices: handles of one type to
/// objects in different pools.
#[test]
fn objects_of_one_type_in_different_pools_are_freed_where_they_are() {
    let mut random = 1u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % below
    };
    let mut links_: Vec<Gc<Links>> = Vec::new();
    let mut arrays: Vec<Gc<[u64; 3]>> = Vec::new();
    let mut bytes: Vec<Gc<[u8; 20]>> = Vec::new();
    for step in 0..60_000 {
        // Waves, so that pools fill, empty and change their class.
        let grow = step / 5_000 % 2 == 0;
        match next(if grow { 6 } else { 12 }) {
            0 => links_.push(links(step)),
            1 => links_.push(Gc::from(Box::new(Links { value: step, links: RefCell::default() }))),
            2 => arrays.push(Gc::new([step; 3])),
            3 => arrays.push(Gc::<[u64]>::from(vec![step; 3]).try_into().expect("three")),
            4 => bytes.push(Gc::new([step as u8; 20])),
            5 => bytes.push(Gc::from(Box::new([step as u8; 20]))),
            _ => {}
        }
        let at = next(1 << 20);
        match next(if grow { 9 } else { 3 }) {
            0 if !links_.is_empty() => drop(links_.swap_remove(at % links_.len())),
            1 if !arrays.is_empty() => drop(arrays.swap_remove(at % arrays.len())),
            2 if !bytes.is_empty() => drop(bytes.swap_remove(at % bytes.len())),
            _ => {}
        }
        if step % 1_000 == 0 {
            rc_gc::check().unwrap();
            let live = links_.len() + arrays.len() + bytes.len();
            assert_eq!(rc_gc::stats().live, live as u64);
        }
        if step % 20_000 == 19_999 {
            rc_gc::trim();
        }
    }
    assert!(arrays.iter().all(|array| array[0] == array[1] && array[1] == array[2]));
    assert!(bytes.iter().all(|bytes| bytes.iter().all(|byte| *byte == bytes[0])));
    drop((links_, arrays, bytes));
    rc_gc::check().unwrap();
    assert_eq!(rc_gc::stats().live, 0);
}

/// The word handed out last may be of a pool that was given back since, and has other objects now.
#[test]
fn a_pool_that_was_given_back_takes_its_last_word_with_it() {
    type Four = [u64; 4];
    // Two pools of 341 blocks of 48 bytes, and the first 64 of a third; as trait objects, of which no
    // size is known when they are dropped.
    let unsize = |value| -> Gc<dyn Trace> { rc_gc::coerce!(Gc::<Four>::new([value; 4])) };
    let mut objects: Vec<Gc<dyn Trace>> = (0..2 * 341 + 64).map(unsize).collect();
    // One of the first pool, so that the third is not the only one with free blocks when it empties.
    objects.remove(0);
    objects.truncate(2 * 341 - 1);
    // The same type, but made as slices: blocks of 64 bytes.
    let slice = |value| Gc::<[u64]>::from(vec![value; 4]).try_into().expect("four");
    let slices: Vec<Gc<Four>> = (0..1_000).map(slice).collect();
    assert!(slices.iter().zip(0..).all(|(four, value)| **four == [value; 4]));
    drop(slices);
    rc_gc::check().unwrap();
    assert_eq!(rc_gc::stats().live, objects.len() as u64);
    drop(objects);
    rc_gc::check().unwrap();
    assert_eq!(rc_gc::stats().live, 0);
}

#[test]
fn pools_of_objects_that_come_and_go_at_random_stay_full() {
    std::thread::spawn(|| {
        let mut seed = 5u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let mut kept: Vec<Gc<[u64; 2]>> = (0..50_000u64).map(|n| Gc::new([n; 2])).collect();
        for step in 0..400_000u64 {
            let at = next(kept.len());
            kept[at] = Gc::new([step; 2]);
        }
        // Blocks of 32 bytes, 512 in a pool; a thirty-second in reserve, and a pool or two.
        let bytes = rc_gc::stats().pool_bytes;
        assert!(bytes < 50_000 * 32 * 106 / 100, "{bytes}");
        assert!(kept.iter().all(|pair| pair[0] == pair[1]));
        rc_gc::check().unwrap();
    })
    .join()
    .unwrap();
}
