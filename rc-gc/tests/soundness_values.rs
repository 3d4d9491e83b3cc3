//! What safe code might try with values and handles in order to reach freed memory: dead handles in
//! every function, sizes and alignments at the ends of their ranges, iterators that lie. Unsafe
//! code only to take back raw pointers.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use rc_gc::{Finalize, Gc, Heap, Mode, Thresholds, Trace, Weak, coerce};

/// What is done in the drop of garbage to the other member, an object of the same type.
type Act<T> = Box<dyn Fn(&Gc<Ring<T>>)>;

#[derive(Trace)]
#[gc(drop, bound = "T: 'static")]
struct Ring<T: 'static> {
    other: RefCell<Option<Gc<Ring<T>>>>,
    #[gc(skip)]
    value: T,
    #[gc(skip)]
    act: Option<Act<T>>,
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        if let (Some(act), Some(other)) = (&self.act, self.other.get_mut()) {
            act(other);
        }
    }
}

impl<T: Clone> Clone for Ring<T> {
    fn clone(&self) -> Self {
        Ring { other: RefCell::default(), value: self.value.clone(), act: None }
    }
}

impl<T: PartialEq> PartialEq for Ring<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// Runs `act` in the drops of a ring of two, on the neighbour.
fn in_drops<T: Clone + 'static>(value: T, act: impl Fn(&Gc<Ring<T>>) + Clone + 'static) {
    let make = || {
        let act: Act<T> = Box::new(act.clone());
        Gc::new(Ring { other: RefCell::default(), value: value.clone(), act: Some(act) })
    };
    let (a, b) = (make(), make());
    *a.other.borrow_mut() = Some(b.clone());
    *b.other.borrow_mut() = Some(a.clone());
    drop((a, b));
    // And what the drops make and free.
    assert!(rc_gc::collect() >= 2);
}

fn panics<R>(f: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

#[test]
fn a_dead_handle_gives_its_value_to_no_function() {
    let seen = Rc::new(Cell::new(0));
    let counted = seen.clone();
    in_drops(7u8, move |dead| {
        counted.set(counted.get() + 1);
        let mut gc = dead.clone();
        assert!(panics(|| gc.value) && panics(|| dead == dead) && panics(|| *gc == **dead));
        assert!(
            panics(|| Gc::make_mut(&mut gc).value) && panics(|| Gc::unwrap_or_clone(dead.clone()))
        );
        assert!(Gc::get_mut(&mut gc).is_none() && Gc::into_inner(dead.clone()).is_none());
        assert_eq!(format!("{:?}", Gc::try_get(&gc).map(|ring| ring.value)), "None");
        // What does not look at the value goes on working.
        let raw = Gc::into_raw(gc);
        // SAFETY: from `into_raw`, once.
        let gc = unsafe { Gc::from_raw(raw) };
        assert!(Gc::ptr_eq(&gc, dead) && std::ptr::eq(Gc::as_ptr(dead), raw));
        let any: Gc<dyn Any> = coerce!(gc);
        assert!(Gc::is_dead(&any));
        assert!(any.downcast::<Ring<u8>>().is_err());
        let weak: Weak<dyn Trace> = coerce!(weak: Gc::downgrade(dead));
        assert!(weak.upgrade().is_none() && weak.clone().strong_count() == 0);
        Gc::on_dead(dead, || panic!("of a dead one"));
        assert!(Gc::type_name(dead).contains("Ring<u8>"));
        assert!(Gc::is_tracked(dead) && Gc::strong_count(dead) >= 1);
    });
    assert_eq!((seen.get(), rc_gc::stats().live), (2, 0));
    rc_gc::check().unwrap();
}

#[test]
fn weaks_made_in_drops_outlive_the_garbage_and_lead_nowhere() {
    let kept: Rc<RefCell<Vec<Weak<Ring<String>>>>> = Rc::default();
    let keeping = kept.clone();
    in_drops("text".to_string(), move |dead| keeping.borrow_mut().push(Gc::downgrade(dead)));
    assert_eq!((kept.borrow().len(), rc_gc::stats().live), (2, 2));
    assert!(kept.borrow().iter().all(|weak| weak.upgrade().is_none()));
    rc_gc::check().unwrap();
    kept.take();
    assert_eq!(rc_gc::stats().live, 0);
}

#[test]
fn everything_there_is_to_call_may_be_called_in_a_drop_of_garbage() {
    let heap = Rc::new(RefCell::new(Some(Heap::new())));
    let live: Rc<RefCell<Vec<Gc<[u8; 40]>>>> = Rc::default();
    let (heaps, objects) = (heap.clone(), live.clone());
    in_drops([0u8; 90], move |_| {
        assert_eq!((rc_gc::collect(), rc_gc::safepoint()), (0, 0));
        rc_gc::trim();
        rc_gc::check().unwrap();
        rc_gc::set_thresholds(Thresholds { young: 1, middle: 1, growth: 1 });
        rc_gc::set_mode(Mode::Automatic);
        // Fills and empties pools of several classes, the garbage's own among them.
        for round in 0..500 {
            objects.borrow_mut().push(Gc::new([round as u8; 40]));
            drop(Gc::new(Ring { other: RefCell::default(), value: [0u8; 90], act: None }));
        }
        assert!(rc_gc::stats().live > 500);
        if let Some(other) = heaps.borrow_mut().take() {
            drop(Gc::new_in(1, &other));
            let kept = Gc::new_in(2, &other);
            drop(other);
            assert_eq!(*kept, 2);
        }
        rc_gc::trim();
    });
    for (index, object) in live.borrow().iter().enumerate() {
        assert_eq!(**object, [(index % 500) as u8; 40]);
    }
    rc_gc::check().unwrap();
    live.take();
    assert_eq!(rc_gc::stats().live, 0);
}

#[test]
fn a_heap_may_be_dropped_by_a_collection_of_its_own() {
    // The only way: an allocation that reaches the heap by an object, not by the `Heap`.
    #[derive(Trace)]
    #[gc(drop)]
    struct Owner(RefCell<Option<Gc<Owner>>>, #[gc(skip)] Rc<RefCell<Option<Heap>>>);
    impl Drop for Owner {
        fn drop(&mut self) {
            self.1.take();
        }
    }
    let heap = Heap::new();
    heap.set_thresholds(Thresholds { young: 1, middle: 1, growth: 1 });
    let slot = Rc::new(RefCell::new(None));
    let owner = Gc::new_in(Owner(RefCell::default(), slot.clone()), &heap);
    *owner.0.borrow_mut() = Some(owner.clone());
    let mut mine = Gc::new_in([1u8; 24], &heap);
    let yours = mine.clone();
    *slot.borrow_mut() = Some(heap);
    drop(owner);
    let mut more = Vec::new();
    while slot.borrow().is_some() {
        let shared = mine.clone();
        Gc::make_mut(&mut mine)[0] += 1;
        more.push(shared);
        assert!(more.len() < 10_000, "no collection");
    }
    Gc::make_mut(&mut mine)[1] = 9;
    assert_eq!((mine[1], yours[0]), (9, 1));
    drop((mine, yours, more));
    assert_eq!(rc_gc::stats().live, 0);
}

#[test]
fn members_of_garbage_are_not_unique_in_a_finalizer() {
    #[derive(Trace)]
    #[gc(finalize)]
    struct Shy(RefCell<Option<Gc<Shy>>>, Weak<Shy>, u8);
    impl Finalize for Shy {
        fn finalize(&self) {
            // Held by the collector only, and by what is asked.
            self.0.take();
            let mut me = self.1.upgrade().unwrap();
            assert!(Gc::get_mut(&mut me).is_none());
            let me = Gc::try_unwrap(me).err().unwrap();
            assert_eq!((me.2, Gc::is_dead(&me)), (7, false));
        }
    }
    let shy = Gc::new_cyclic(|me| Shy(RefCell::default(), me.clone(), 7));
    *shy.0.borrow_mut() = Some(shy.clone());
    drop(shy);
    assert_eq!((rc_gc::collect(), rc_gc::stats().live), (1, 0));
    rc_gc::check().unwrap();
}

#[test]
fn drops_that_panic_in_a_collection_in_a_panic_do_not_abort() {
    struct Unwinding(Vec<Gc<Ring<()>>>);
    impl Drop for Unwinding {
        fn drop(&mut self) {
            self.0.clear();
            rc_gc::collect();
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let make = || {
        let counted = dropped.clone();
        let act: Act<()> = Box::new(move |_| {
            counted.set(counted.get() + 1);
            std::panic::resume_unwind(Box::new("inner"));
        });
        let ring = Gc::new(Ring { other: RefCell::default(), value: (), act: Some(act) });
        *ring.other.borrow_mut() = Some(ring.clone());
        ring
    };
    let outer = catch_unwind(AssertUnwindSafe(|| {
        let _all = Unwinding((0..3).map(|_| make()).collect());
        std::panic::resume_unwind(Box::new("outer"));
    }));
    assert_eq!(outer.unwrap_err().downcast_ref(), Some(&"outer"));
    assert_eq!((dropped.get(), rc_gc::stats().live), (3, 0));
    rc_gc::check().unwrap();
}

/// Holds itself, with a value of whatever size and alignment.
#[derive(Trace)]
struct Knot<T>(RefCell<Option<Gc<Knot<T>>>>, T);

#[test]
fn every_size_and_alignment_is_whole_in_a_cycle_and_freed() {
    macro_rules! knots {
        ($($align:literal [$($size:literal)*])*) => {$({
            #[derive(Trace, Clone, Copy, PartialEq)]
            #[repr(align($align))]
            struct Aligned<const N: usize>([u8; N]);
            $({
                let rc = Rc::new(());
                let all: Vec<_> = (0..70u8).map(|fill| {
                    let knot = Gc::new(Knot(RefCell::default(), (Aligned::<$size>([fill; $size]), rc.clone())));
                    *knot.0.borrow_mut() = Some(knot.clone());
                    let many: Gc<[Aligned<$size>]> = Gc::from(vec![knot.1.0; usize::from(fill % 4)]);
                    (knot, many)
                }).collect();
                rc_gc::collect();
                for (fill, (knot, many)) in (0..70u8).zip(&all) {
                    assert!((&raw const knot.1.0).addr().is_multiple_of($align));
                    assert!(knot.1.0.0 == [fill; $size] && many.iter().all(|one| *one == knot.1.0));
                    assert!(many.as_ptr().addr().is_multiple_of($align));
                }
                rc_gc::check().unwrap();
                drop(all);
                assert_eq!((rc_gc::collect(), Rc::strong_count(&rc)), (70, 1));
            })*
        })*};
    }
    knots! {
        1 [0 1 7 8 9 31 400 443 444 445 446 447 448 449 470 480 488 495 496 497 512 513 4096]
        8 [0 8 16 456 464 472 480 488 496]
        16 [0 16 432 448 464 480 496]
        32 [0 32 416 448 480]
        64 [0 64 448]
        512 [0 512]
        4096 [0 1 4096]
    }
    assert_eq!(rc_gc::stats().live, 0);
    rc_gc::check().unwrap();
}

#[test]
fn slices_of_nothing_and_of_too_much() {
    let units: Gc<[()]> = Gc::from(vec![(); usize::MAX]);
    assert_eq!((units.len(), Gc::try_unwrap(Gc::new(())).is_ok()), (usize::MAX, true));
    drop(units);
    for len in [usize::MAX, isize::MAX as usize, isize::MAX as usize - 1, isize::MAX as usize - 70]
    {
        assert!(panics(|| Gc::<[u8]>::new_uninit_slice(len)), "{len}");
        assert!(panics(|| Gc::<[u128]>::new_zeroed_slice(len)), "{len}");
    }
    assert_eq!(rc_gc::stats().live, 0);
    rc_gc::check().unwrap();
}

#[test]
fn iterators_that_lie_or_panic_leave_no_object_behind() {
    struct Liar<I>(I, (usize, Option<usize>));
    impl<I: Iterator> Iterator for Liar<I> {
        type Item = I::Item;
        fn next(&mut self) -> Option<I::Item> {
            self.0.next()
        }
        fn size_hint(&self) -> (usize, Option<usize>) {
            self.1
        }
    }
    impl<I: Iterator> ExactSizeIterator for Liar<I> {}
    let rc = Rc::new(());
    let knot = || Knot(RefCell::default(), rc.clone());
    for hint in [(0, Some(0)), (1, Some(1)), (1_000, Some(1_000)), (50, None)] {
        let gc: Gc<[Knot<Rc<()>>]> = Liar((0..37).map(|_| knot()), hint).collect();
        assert_eq!((gc.len(), Rc::strong_count(&rc)), (37, 38));
        drop(gc);
        assert_eq!(Rc::strong_count(&rc), 1);
    }
    for at in [0, 1, 20] {
        let failing = (0..37).map(|number| if number == at { panic!("at {at}") } else { knot() });
        assert!(panics(|| failing.collect::<Gc<[_]>>()));
        assert_eq!((rc_gc::stats().live, Rc::strong_count(&rc)), (0, 1));
    }
    rc_gc::check().unwrap();
}

#[test]
fn keys_that_are_handles_may_die_with_their_map() {
    // Hashing a dead handle would panic; dropping the map does not hash.
    #[derive(Trace)]
    struct Holder(RefCell<HashSet<Gc<u32>>>, RefCell<Vec<Gc<Holder>>>);
    let holder = Gc::new(Holder(RefCell::default(), RefCell::default()));
    holder.0.borrow_mut().extend((0..100).map(Gc::new));
    holder.1.borrow_mut().push(holder.clone());
    drop(holder);
    assert_eq!((rc_gc::collect(), rc_gc::stats().live), (101, 0));
}
