//! Memory outside of the heap, as the program says: it brings collections, of the old too, and may
//! be charged anywhere.

use std::cell::{Cell, RefCell};

use rc_gc::{Finalize, Gc, Generation, Heap, Mode, Trace, Tracer};

#[derive(Trace)]
struct Ring(RefCell<Option<Gc<Ring>>>);

fn ring(heap: &Heap) -> Gc<Ring> {
    let ring = Gc::new_in(Ring(RefCell::default()), heap);
    *ring.0.borrow_mut() = Some(ring.clone());
    ring
}

#[test]
fn few_objects_that_own_much_are_collected_as_soon_as_it_is_much() {
    let heap = Heap::new();
    for _ in 0..100 {
        heap.charge(1 << 20);
        drop(ring(&heap));
        // The default budget is 2,048 allocations: 1 MiB.
        assert!(heap.stats().live <= 2, "{}", heap.stats().live);
    }
    assert!(heap.stats().generations[0].collections >= 10);
    heap.check().unwrap();
}

#[test]
fn charges_alone_collect_nothing_and_do_nothing_where_collections_are_off() {
    let heap = Heap::new();
    drop(ring(&heap));
    for _ in 0..10 {
        heap.charge(usize::MAX);
    }
    assert_eq!(heap.stats().live, 1);
    heap.set_mode(Mode::AtSafepoint);
    drop(ring(&heap));
    assert_eq!((heap.stats().live, heap.safepoint()), (2, 2));
    heap.disable();
    heap.charge(usize::MAX);
    drop(ring(&heap));
    assert_eq!(heap.stats().live, 1);
    heap.check().unwrap();
}

#[test]
fn old_garbage_is_reached() {
    let heap = Heap::new();
    let old = ring(&heap);
    heap.collect();
    assert_eq!(Gc::generation(&old), Generation::Old);
    drop(old);
    // Nothing else becomes garbage; what is charged stays a constant number of collections away
    // from a full one.
    for _ in 0..100 {
        heap.charge(1 << 20);
        drop(Gc::new_in(1u8, &heap));
    }
    assert_eq!((heap.stats().live, heap.stats().generations[2].collected), (0, 1));
}

thread_local!(static HEAP: RefCell<Option<Heap>> = const { RefCell::new(None) });
thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });

/// Charges both heaps, enough to make a collection due.
fn charge() {
    rc_gc::charge(1 << 30);
    HEAP.with_borrow(|heap| heap.iter().for_each(|heap| heap.charge(1 << 30)));
    CALLS.set(CALLS.get() + 1);
}

/// Charges when it is looked at.
struct Seen;

// SAFETY: owns no handle.
unsafe impl Trace for Seen {
    fn trace(&self, _: &mut Tracer) {
        charge();
    }
}

/// Charges wherever it is called.
#[derive(Trace)]
#[gc(drop, finalize)]
struct Charger(RefCell<Option<Gc<Charger>>>, Seen);

impl Finalize for Charger {
    fn finalize(&self) {
        charge();
    }
}

impl Drop for Charger {
    fn drop(&mut self) {
        charge();
    }
}

#[test]
fn it_may_be_charged_wherever_user_code_runs() {
    HEAP.set(Some(Heap::new()));
    for round in 0..50 {
        let charger = HEAP.with_borrow(|heap| match heap {
            Some(heap) if round % 2 == 0 => Gc::new_in(Charger(RefCell::default(), Seen), heap),
            _ => Gc::new(Charger(RefCell::default(), Seen)),
        });
        Gc::on_dead(&charger, charge);
        if round % 3 != 0 {
            *charger.0.borrow_mut() = Some(charger.clone());
        }
        drop(charger);
        let neighbours: Vec<_> = (0..round).map(Gc::new).collect();
        rc_gc::check().unwrap();
        HEAP.with_borrow(|heap| heap.as_ref().unwrap().check()).unwrap();
        drop(neighbours);
    }
    HEAP.with_borrow(|heap| heap.as_ref().unwrap().collect());
    rc_gc::collect();
    assert_eq!(rc_gc::stats().live, 0);
    // A finalizer, a callback and a drop each; those in cycles were traced too.
    assert!(CALLS.get() >= 150 + 33, "{}", CALLS.get());
    // With objects that outlive their heap.
    let late = HEAP
        .with_borrow(|heap| Gc::new_in(Charger(RefCell::default(), Seen), heap.as_ref().unwrap()));
    drop(HEAP.take());
    drop(late);
}

#[test]
fn a_thread_without_a_heap_can_charge_too() {
    std::thread::spawn(|| {
        rc_gc::charge(1 << 30);
        drop(Gc::new(1));
        assert_eq!(rc_gc::stats().generations[0].collections, 0);
    })
    .join()
    .unwrap();
}
