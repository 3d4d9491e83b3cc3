//! Objects with more handles than the collector's word for each can count, 2^24: they are collected
//! as others are.
#![cfg(not(feature = "verify"))]

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;

use rc_gc::{Gc, Generation, Heap, Trace, Tracer};

thread_local!(static DROPPED: Cell<u32> = const { Cell::new(0) });

struct Hub(RefCell<Vec<Gc<Spoke>>>);

// SAFETY: reports the handles it owns, once each.
unsafe impl Trace for Hub {
    fn trace(&self, tracer: &mut Tracer) {
        self.0.trace(tracer);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        DROPPED.set(DROPPED.get() + 1);
    }
}

/// Owns that many handles to its hub, in the space of one.
struct Spoke(ManuallyDrop<Gc<Hub>>, u32);

// SAFETY: reports as many handles as it gives up when it is dropped.
unsafe impl Trace for Spoke {
    fn trace(&self, tracer: &mut Tracer) {
        (0..self.1).for_each(|_| (*self.0).trace(tracer));
    }
}

impl Drop for Spoke {
    fn drop(&mut self) {
        give_up(&self.0, self.1);
    }
}

fn take(hub: &Gc<Hub>, handles: u32) {
    (0..handles).for_each(|_| std::mem::forget(hub.clone()));
}

fn give_up(hub: &Gc<Hub>, handles: u32) {
    for _ in 0..handles {
        // SAFETY: taken by `take`, and each given up once.
        unsafe { Gc::decrement_strong_count(Gc::as_ptr(hub)) };
    }
}

const SPOKES: u32 = 300;

/// A hub to which a little more than 2^24 handles lead from its own spokes; and one more.
fn wheel(heap: &Heap) -> Gc<Hub> {
    let hub = Gc::new_in(Hub(RefCell::default()), heap);
    for _ in 0..SPOKES {
        let handles = (1 << 24) / SPOKES + 1;
        take(&hub, handles);
        // SAFETY: one of those just taken.
        let one = unsafe { Gc::from_raw(Gc::as_ptr(&hub)) };
        let spoke = Gc::new_in(Spoke(ManuallyDrop::new(one), handles), heap);
        hub.0.borrow_mut().push(spoke);
    }
    assert!(Gc::strong_count(&hub) > 1 << 24);
    hub
}

#[test]
fn a_cycle_of_more_than_2_to_the_24_handles_is_collected_when_it_is_garbage_and_not_before() {
    let heap = Heap::new();
    for generation in [Generation::Young, Generation::Old] {
        let hub = wheel(&heap);
        drop(hub.clone());
        assert_eq!((heap.collect_generation(generation), DROPPED.get()), (0, 0));
        drop(hub);
        assert_eq!((heap.collect(), DROPPED.take()), (1 + SPOKES as usize, 1));
    }
    heap.check().unwrap();
}

#[test]
fn one_that_is_held_by_2_to_the_24_handles_is_live_and_not_forgotten() {
    let heap = Heap::new();
    // Another like it is garbage: not known before the first is held by fewer.
    let (held, garbage) = (wheel(&heap), wheel(&heap));
    take(&held, (1 << 24) - 1);
    drop((held.clone(), garbage));
    assert_eq!((heap.collect(), heap.collect(), DROPPED.get()), (0, 0, 0));
    heap.check().unwrap();
    give_up(&held, 1);
    assert_eq!((heap.collect(), DROPPED.take()), (1 + SPOKES as usize, 1));
    give_up(&held, (1 << 24) - 2);
    drop(held);
    assert_eq!((heap.collect(), DROPPED.take()), (1 + SPOKES as usize, 1));
    heap.check().unwrap();
}
