//! What a `Heap` of one's own can be told, beside collecting: modes, safepoints, giving memory
//! back; and what can be made in one.

use std::cell::RefCell;

use rc_gc::{Gc, Heap, Mode, Thresholds, Trace, Weak, coerce};

#[derive(Trace)]
struct Ring(RefCell<Option<Gc<Ring>>>);

/// Objects that are garbage at once.
const RINGS: u64 = if cfg!(miri) { 40 } else { 1_000 };

fn rings(heap: &Heap) {
    for _ in 0..RINGS {
        let ring = Gc::new_in(Ring(RefCell::default()), heap);
        *ring.0.borrow_mut() = Some(ring.clone());
    }
}

fn eager(mode: Mode) -> Heap {
    let heap = Heap::new();
    heap.set_thresholds(Thresholds { young: 1, middle: 1, growth: 1 });
    heap.set_mode(mode);
    heap
}

#[test]
fn a_heap_collects_at_its_safepoints_only_where_it_is_told_so() {
    let heap = eager(Mode::Automatic);
    rings(&heap);
    assert!(heap.stats().live < RINGS);

    let heap = eager(Mode::AtSafepoint);
    assert_eq!((heap.mode(), heap.safepoint()), (Mode::AtSafepoint, 0));
    rings(&heap);
    assert_eq!(heap.stats().live, RINGS);
    heap.disable();
    assert_eq!(heap.safepoint(), 0);
    heap.enable();
    assert_eq!((heap.safepoint() as u64, heap.stats().live), (RINGS, 0));
    assert_eq!(heap.safepoint(), 0, "nothing is due");
}

#[test]
fn a_manual_heap_collects_when_it_is_told_to_and_at_no_safepoint() {
    let heap = eager(Mode::Manual);
    rings(&heap);
    assert_eq!((heap.safepoint(), heap.stats().live), (0, RINGS));
    assert_eq!(heap.collect() as u64, RINGS);
    // Nor if one was due before the mode changed.
    heap.set_mode(Mode::AtSafepoint);
    rings(&heap);
    heap.set_mode(Mode::Manual);
    assert_eq!((heap.safepoint(), heap.stats().live), (0, RINGS));
    heap.set_mode(Mode::AtSafepoint);
    assert_eq!(heap.safepoint() as u64, RINGS);
}

#[test]
#[cfg(not(any(feature = "verify", miri)))]
fn a_heap_that_is_trimmed_gives_its_memory_back_and_goes_on() {
    let heap = Heap::new();
    let all: Vec<_> = (0..100_000u64).map(|at| Gc::new_in([at; 8], &heap)).collect();
    let kept = all[77].clone();
    let full = heap.stats();
    drop(all);
    assert!(full.pool_bytes >= 100_000 * 80);
    assert!(heap.trim() > 0);
    let trimmed = heap.stats();
    assert!(trimmed.pool_bytes <= 32 << 10, "{trimmed:?}");
    assert!(trimmed.mapped_bytes < full.mapped_bytes / 2);
    assert_eq!((heap.trim(), kept[0], trimmed.live), (0, 77, 1));
    heap.check().unwrap();
    assert_eq!(Gc::new_in([5; 8], &heap)[7], 5);
    drop(kept);
    heap.check().unwrap();
}

#[derive(Trace)]
struct Family {
    me: RefCell<Weak<Family>>,
    members: RefCell<Vec<Gc<RefCell<dyn Member>>>>,
}

trait Member: Trace {
    fn join(&mut self, family: &Gc<Family>);
    fn family(&self) -> Option<&Gc<Family>>;
}

#[derive(Default, Trace)]
struct Child(Option<Gc<Family>>);

impl Member for Child {
    fn join(&mut self, family: &Gc<Family>) {
        self.0 = Some(family.clone());
    }

    fn family(&self) -> Option<&Gc<Family>> {
        self.0.as_ref()
    }
}

#[test]
fn what_holds_itself_or_has_no_size_is_made_in_a_heap_and_collected_there() {
    let heap = Heap::new();
    let make = |me: &Weak<Family>| Family { me: me.clone().into(), members: RefCell::default() };
    let family = Gc::new_cyclic_in(make, &heap);
    assert!(Gc::ptr_eq(&family, &family.me.borrow().upgrade().unwrap()));
    for _ in 0..3 {
        let child: Gc<RefCell<dyn Member>> = coerce!(Gc::new_in(RefCell::new(Child(None)), &heap));
        child.borrow_mut().join(&family);
        assert!(Gc::ptr_eq(child.borrow().family().unwrap(), &family));
        family.members.borrow_mut().push(child);
    }
    let boxed: Gc<dyn Trace> =
        Gc::from_box_in(Box::new(Child(Some(family.clone()))) as Box<dyn Trace>, &heap);
    let slice: Gc<[Gc<Family>]> =
        Gc::from_box_in(Box::new([family.clone(), family.clone()]), &heap);
    let text: Gc<str> = Gc::from_box_in("text".into(), &heap);
    assert_eq!((&*text, slice.len(), heap.stats().live, rc_gc::stats().live), ("text", 2, 7, 0));
    drop((boxed, family, text));
    assert_eq!((heap.collect(), heap.stats().live), (0, 5));
    drop(slice);
    assert_eq!((heap.collect(), heap.stats().live), (4, 0));
    heap.check().unwrap();
}
