//! A panic hook is user code that runs while a `Trace` that panicked is still on the stack: in the
//! middle of a collection. Whatever it does with handles, all stays in order.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{catch_unwind, set_hook, take_hook};
use std::sync::Once;

use rc_gc::{Finalize, Gc, Generation, Heap, Trace, Tracer, Weak};

type Act = Box<dyn FnOnce()>;

thread_local! {
    /// How many objects are yet to be traced before one panics; and what this thread's hook does
    /// then, once.
    static FUSE: Cell<Option<u32>> = const { Cell::new(None) };
    static ACT: Cell<Option<Act>> = const { Cell::new(None) };
    static DROPPED: Cell<u32> = const { Cell::new(0) };
}

/// The hook is the process's, what it does the thread's.
fn in_hook(fuse: u32, act: impl FnOnce() + 'static) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| match ACT.take() {
            Some(act) => act(),
            None => before(info),
        }));
    });
    FUSE.set(Some(fuse));
    ACT.set(Some(Box::new(act)));
}

/// Panics when the fuse has burnt down, at the end of a trace.
fn burn() {
    match FUSE.get() {
        Some(0) => {
            FUSE.set(None);
            panic!("moody")
        }
        left => FUSE.set(left.map(|left| left - 1)),
    }
}

/// With drop glue, links, and a `Trace` that may panic.
struct Knot(RefCell<Vec<Gc<Knot>>>, String);

// SAFETY: reports its handles once each, or unwinds.
unsafe impl Trace for Knot {
    fn trace(&self, tracer: &mut Tracer) {
        self.0.trace(tracer);
        burn();
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        assert_eq!(self.1, "whole", "dropped twice");
        self.1.clear();
        DROPPED.set(DROPPED.get() + 1);
    }
}

/// Without drop glue, and yet no leaf. A clone is one more.
struct Bare(u64);

impl Clone for Bare {
    fn clone(&self) -> Self {
        Bare(self.0 + 1)
    }
}

// SAFETY: owns no handles; may unwind.
unsafe impl Trace for Bare {
    fn trace(&self, _: &mut Tracer) {
        burn();
    }
}

fn knot(heap: &Heap) -> Gc<Knot> {
    Gc::new_in(Knot(RefCell::default(), "whole".into()), heap)
}

/// `n` objects that are candidates, each held from here.
fn candidates<T>(n: usize, make: impl Fn() -> Gc<T>) -> Vec<Gc<T>> {
    let all: Vec<Gc<T>> = (0..n).map(|_| make()).collect();
    all.iter().for_each(|one| drop(one.clone()));
    all
}

/// Collects with `act` in the hook, for each generation and each number of objects traced before
/// the panic; then all must be in order, and `live` objects be left.
fn for_each_panic<T: 'static>(
    traces: u32,
    make: impl Fn(&Heap) -> T,
    act: impl Fn(T) + Copy + 'static,
    live: u64,
) {
    for generation in [Generation::Young, Generation::Middle, Generation::Old] {
        for fuse in 0..traces {
            let heap = Heap::new();
            let made = make(&heap);
            in_hook(fuse, move || act(made));
            let collected = catch_unwind(std::panic::AssertUnwindSafe(|| {
                heap.collect_generation(generation);
            }));
            assert!(collected.is_err() && ACT.take().is_none(), "fuse {fuse}");
            heap.check().unwrap();
            heap.collect();
            assert_eq!(heap.stats().live, live, "fuse {fuse}, {generation:?}");
            heap.check().unwrap();
        }
    }
}

#[test]
fn what_the_hook_drops_is_dropped_once_and_its_memory_not_used_again() {
    let all = |heap: &Heap| candidates(40, || knot(heap));
    // In pass 1, and, all being live, in pass 2.
    for_each_panic(80, all, drop, 0);
    assert_eq!(DROPPED.get(), 3 * 80 * 40);
    // Others are made in the place of those dropped, and memory is given back.
    let again = |knots: Vec<Gc<Knot>>| {
        drop(knots);
        let heap = Heap::new();
        for at in 0..100 {
            assert_eq!(*Gc::new(at), at);
            assert_eq!(*Gc::new_in(at, &heap), at);
        }
        rc_gc::trim();
    };
    for_each_panic(80, all, again, 0);
}

#[test]
fn so_is_what_has_no_drop_glue_is_large_or_has_a_weak() {
    for_each_panic(80, |heap| candidates(40, || Gc::new_in(Bare(7), heap)), drop, 0);
    let large = |heap: &Heap| candidates(20, || Gc::new_in([const { Bare(1) }; 100], heap));
    for_each_panic(40, large, drop, 0);
    let boxed = || {
        let object: Gc<dyn Object> = Gc::from(Box::new(Bare(3)) as Box<dyn Object>);
        let any: Gc<dyn Any> = rc_gc::coerce!(object);
        any.downcast::<Bare>().unwrap()
    };
    in_hook(0, {
        let all = candidates(40, boxed);
        move || drop(all)
    });
    assert!(catch_unwind(rc_gc::collect).is_err());
    rc_gc::check().unwrap();
    assert_eq!(rc_gc::stats().live, 0);
    let weak = |heap: &Heap| {
        let all = candidates(20, || knot(heap));
        let weak: Vec<Weak<Knot>> = all.iter().map(Gc::downgrade).collect();
        (all, weak)
    };
    for_each_panic(
        40,
        weak,
        |(all, weak)| {
            drop(all);
            assert!(weak.iter().all(|weak| weak.upgrade().is_none()));
        },
        0,
    );
}

trait Object: Trace + Any {}
impl Object for Bare {}

#[test]
fn a_value_is_not_moved_out_of_an_object_that_is_looked_at() {
    let take = |all: Vec<Gc<Bare>>| {
        for (at, mut bare) in all.into_iter().enumerate() {
            match at % 3 {
                0 => assert_eq!(Gc::try_unwrap(bare).err().map(|bare| bare.0), Some(7)),
                1 => assert!(Gc::into_inner(bare).is_none()),
                _ => {
                    let (before, _weak) = (Gc::as_ptr(&bare), Gc::downgrade(&bare));
                    assert_eq!(Gc::make_mut(&mut bare).0, 8);
                    assert_ne!(Gc::as_ptr(&bare), before);
                }
            }
        }
    };
    for_each_panic(80, |heap| candidates(40, || Gc::new_in(Bare(7), heap)), take, 0);
}

#[test]
fn handles_cloned_and_links_made_in_the_hook_are_seen_by_the_next_collection() {
    thread_local!(static KEPT: RefCell<Vec<Gc<Knot>>> = const { RefCell::new(Vec::new()) });
    // Cycles that are garbage, and a way back to them.
    let rings = |heap: &Heap| -> Vec<Weak<Knot>> {
        KEPT.take();
        let ring = || {
            let (a, b) = (knot(heap), knot(heap));
            a.0.borrow_mut().push(b.clone());
            b.0.borrow_mut().push(a.clone());
            Gc::downgrade(&a)
        };
        (0..20).map(|_| ring()).collect()
    };
    let keep = |rings: Vec<Weak<Knot>>| {
        for weak in &rings[..10] {
            let a = weak.upgrade().unwrap();
            let b = a.0.borrow_mut().pop().unwrap();
            KEPT.with_borrow_mut(|kept| kept.push(b));
        }
        assert_eq!(rc_gc::collect(), 0);
    };
    for_each_panic(40, rings, keep, 20);
    KEPT.take();
}

#[test]
fn other_heaps_do_not_collect_meanwhile() {
    // Edges from an object of another heap that is held from outside lead to those that are looked at.
    let make = |heap: &Heap| {
        let all = candidates(20, || knot(heap));
        let other = Heap::new();
        let from = knot(&other);
        from.0.borrow_mut().extend(all);
        from.0.borrow_mut().push(from.clone());
        (other, from)
    };
    let collect = |(other, from): (Heap, Gc<Knot>)| {
        DROPPED.set(0);
        drop(from.clone());
        assert_eq!(other.collect(), 0);
        other.check().unwrap();
        from.0.take();
        assert_eq!(DROPPED.get(), 0);
        drop(from);
    };
    for_each_panic(40, make, collect, 0);
}

#[test]
fn what_get_mut_lends_for_good_is_no_candidate_afterwards() {
    thread_local!(static LENT: Cell<Option<&'static mut u64>> = const { Cell::new(None) });
    struct Bold(u64);
    // SAFETY: owns no handles; may unwind.
    unsafe impl Trace for Bold {
        fn trace(&self, _: &mut Tracer) {
            burn();
            assert_eq!(self.0, 0, "traced while lent");
        }
    }
    for fuse in 0..6 {
        let mut all = candidates(3, || Gc::new(Bold(0)));
        let lender = Box::into_raw(Box::new(all.remove(1)));
        // SAFETY: taken back below, when nobody has it any more.
        let one = unsafe { &mut *lender };
        in_hook(fuse, || LENT.set(Some(&mut Gc::get_mut(one).unwrap().0)));
        assert!(catch_unwind(rc_gc::collect).is_err());
        *LENT.take().unwrap() = 1;
        assert_eq!(rc_gc::collect(), 0, "fuse {fuse}");
        // SAFETY: from above.
        drop((all, unsafe { Box::from_raw(lender) }));
    }
    rc_gc::check().unwrap();
}

/// Finalizers give up the ring, and save one member; then a `Trace` panics.
struct Phoenix(RefCell<Option<Gc<Phoenix>>>, Cell<bool>);

thread_local!(static ASHES: RefCell<Vec<Gc<Phoenix>>> = const { RefCell::new(Vec::new()) });

// SAFETY: reports its one handle once, or unwinds.
unsafe impl Trace for Phoenix {
    fn trace(&self, tracer: &mut Tracer) {
        self.0.trace(tracer);
        burn();
    }

    fn finalize_hook(&self) {
        self.finalize();
    }

    fn has_finalizer() -> bool {
        true
    }
}

impl Finalize for Phoenix {
    fn finalize(&self) {
        if self.1.get() {
            let other = self.0.borrow_mut().take().unwrap();
            ASHES.with_borrow_mut(|ashes| ashes.push(other));
        }
    }
}

impl Drop for Phoenix {
    fn drop(&mut self) {
        DROPPED.set(DROPPED.get() + 1);
    }
}

#[test]
fn a_panic_after_finalizers_leaves_all_in_order_too() {
    for fuse in 0..16 {
        let heap = Heap::new();
        let make = |save| Gc::new_in(Phoenix(RefCell::default(), Cell::new(save)), &heap);
        // Of four rings one member each is saved, and nothing then holds the other. Four stay as they are.
        for at in 0..8 {
            let (a, b) = (make(at % 2 == 0), make(false));
            *a.0.borrow_mut() = Some(b.clone());
            *b.0.borrow_mut() = Some(a);
        }
        // Sixteen are traced before the finalizers, and none of them is live.
        in_hook(16 + fuse, || drop(ASHES.take()));
        assert!(catch_unwind(std::panic::AssertUnwindSafe(|| heap.collect())).is_err());
        heap.check().unwrap();
        heap.collect();
        assert_eq!((DROPPED.take(), heap.stats().live), (16, 0), "fuse {fuse}");
        heap.check().unwrap();
    }
}
