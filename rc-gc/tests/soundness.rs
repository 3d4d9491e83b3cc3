//! What safe code might try in order to reach freed memory: collections inside each other's user
//! code, on several heaps; invariants asked for at every point where user code runs;
//! implementations of `Trace` that panic where they can.
//!
//! What must not compile is in `compile_fail`.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use rc_gc::{Finalize, Gc, Heap, Thresholds, Trace, Tracer, Weak};

/// What an [`Actor`]'s finalizer or drop does.
type Act = Box<dyn Fn(&Actor)>;

#[derive(Trace)]
#[gc(drop, finalize)]
struct Actor {
    links: RefCell<Vec<Gc<Actor>>>,
    me: Weak<Actor>,
    text: String,
    #[gc(skip)]
    on_finalize: Act,
    #[gc(skip)]
    on_drop: Act,
}

impl Finalize for Actor {
    fn finalize(&self) {
        (self.on_finalize)(self);
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        (self.on_drop)(self);
        self.text.clear();
    }
}

/// An object of the thread's heap that holds itself.
fn knot(on_finalize: impl Fn(&Actor) + 'static, on_drop: impl Fn(&Actor) + 'static) -> Gc<Actor> {
    let knot = Gc::new_cyclic(|me| Actor {
        links: RefCell::default(),
        me: me.clone(),
        text: "whole".into(),
        on_finalize: Box::new(on_finalize),
        on_drop: Box::new(on_drop),
    });
    knot.links.borrow_mut().push(knot.clone());
    knot
}

/// An object without a finalizer: nothing asks again whether it is garbage.
#[derive(Trace)]
#[gc(drop)]
struct Plain {
    links: RefCell<Vec<Gc<Actor>>>,
    text: String,
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.text.clear();
    }
}

fn plain(heap: &Heap) -> Gc<Plain> {
    Gc::new_in(Plain { links: RefCell::default(), text: "whole".into() }, heap)
}

/// Makes it a candidate.
fn stir<T>(gc: &Gc<T>) {
    drop(gc.clone());
}

#[test]
fn another_heap_that_collects_in_a_finalizer_lets_its_own_objects_live() {
    let heap = Rc::new(Heap::new());
    let held = plain(&heap);
    let (inner, to) = (heap.clone(), held.clone());
    let knot = knot(
        move |me| {
            // The other heap's object now leads to garbage that is under examination, as often as
            // it is held itself.
            for _ in 0..Gc::strong_count(&to) {
                to.links.borrow_mut().extend(me.me.upgrade());
            }
            stir(&to);
            assert_eq!(inner.collect(), 0);
            assert_eq!(to.text, "whole");
        },
        |_| {},
    );
    drop(knot);
    assert_eq!(rc_gc::collect(), 0);
    assert_eq!((held.text.as_str(), held.links.borrow()[0].text.as_str()), ("whole", "whole"));
    assert_eq!(heap.stats().live, 1);
    heap.check().unwrap();
    rc_gc::check().unwrap();
    // What leads from heap to heap is not collected but by hand.
    let back = held.links.take();
    drop(back);
    assert_eq!(rc_gc::collect(), 1);
}

#[test]
fn another_heap_that_collects_in_a_drop_lets_its_own_objects_live_and_leaves_the_dead_alone() {
    let heap = Rc::new(Heap::new());
    let held = plain(&heap);
    let (inner, to) = (heap.clone(), held.clone());
    let knot = knot(
        |_| {},
        move |me| {
            for _ in 0..Gc::strong_count(&to) {
                to.links.borrow_mut().push(me.links.borrow()[0].clone());
            }
            stir(&to);
            assert_eq!(inner.collect(), 0);
            assert_eq!(to.text, "whole");
        },
    );
    drop(knot);
    assert_eq!(rc_gc::collect(), 1);
    assert_eq!((held.text.as_str(), heap.stats().live), ("whole", 1));
    assert!(Gc::is_dead(&held.links.borrow()[0]));
    heap.check().unwrap();
    held.links.take();
    assert_eq!(rc_gc::stats().live, 0);
    rc_gc::check().unwrap();
}

#[test]
fn the_threads_heap_collects_in_the_user_code_of_another() {
    // The reverse: the other heap is under examination, the thread's collects.
    let heap = Heap::new();
    let held = knot(|_| {}, |_| {});
    let to = held.clone();
    #[derive(Trace)]
    #[gc(drop, finalize)]
    struct Guest {
        me: RefCell<Option<Gc<Guest>>>,
        #[gc(skip)]
        to: Gc<Actor>,
        #[gc(skip)]
        host: Gc<RefCell<Vec<Gc<Guest>>>>,
    }
    impl Guest {
        fn visit(&self) {
            for _ in 0..Gc::strong_count(&self.host) {
                self.host.borrow_mut().extend(self.me.borrow().clone());
            }
            drop(self.host.clone());
            stir(&self.to);
            assert_eq!(rc_gc::collect(), 0);
            assert_eq!(self.to.text, "whole");
        }
    }
    impl Finalize for Guest {
        fn finalize(&self) {
            self.visit();
            // Not saved: the next step is the drop.
            self.host.take();
        }
    }
    impl Drop for Guest {
        fn drop(&mut self) {
            self.visit();
        }
    }
    let host: Gc<RefCell<Vec<Gc<Guest>>>> = Gc::default();
    let guest = Guest { me: RefCell::default(), to, host: host.clone() };
    let guest = Gc::new_in(guest, &heap);
    *guest.me.borrow_mut() = Some(guest.clone());
    drop(guest);
    assert_eq!(heap.collect(), 1);
    assert_eq!((held.text.as_str(), host.borrow().len()), ("whole", 2));
    assert!(Gc::is_dead(&host.borrow()[0]));
    rc_gc::check().unwrap();
    host.take();
    heap.check().unwrap();
    assert_eq!(heap.stats().live, 0);
    drop((held, host));
    assert_eq!((rc_gc::collect(), rc_gc::stats().live), (1, 0));
}

#[test]
fn invariants_hold_wherever_user_code_runs() {
    let checked = Rc::new(Cell::new(0));
    let check = || {
        let checked = checked.clone();
        move || {
            assert_eq!(rc_gc::check(), Ok(()));
            checked.set(checked.get() + 1);
        }
    };
    let (finalizer, drops, callback) = (check(), check(), check());
    let knot = knot(move |_| finalizer(), move |_| drops());
    Gc::on_dead(&knot, callback);
    drop(knot);
    assert_eq!(rc_gc::collect(), 1);
    // The same without a collection.
    let (finalizer, drops, callback) = (check(), check(), check());
    let alone = self::knot(move |_| finalizer(), move |_| drops());
    alone.links.take();
    Gc::on_dead(&alone, callback);
    drop(alone);
    assert_eq!(checked.get(), 6);
    assert_eq!(rc_gc::check(), Ok(()));
}

#[test]
fn a_panic_in_holds_gc_or_has_finalizer_leaves_no_block_behind() {
    thread_local!(static AT: Cell<u32> = const { Cell::new(0) });
    struct Odd(#[expect(dead_code, reason = "dropped")] Rc<()>);
    // SAFETY: reports nothing.
    unsafe impl Trace for Odd {
        fn trace(&self, _: &mut Tracer) {}
        fn holds_gc(_: u32) -> bool {
            assert_ne!(AT.get(), 1);
            true
        }
        fn has_finalizer() -> bool {
            assert_ne!(AT.get(), 2);
            true
        }
    }
    let rc = Rc::new(());
    let mut kept = vec![Gc::new(Odd(rc.clone()))];
    for at in [1, 2] {
        AT.set(at);
        let new = || Gc::new(Odd(rc.clone()));
        assert!(catch_unwind(AssertUnwindSafe(new)).is_err());
        let new_cyclic = || Gc::new_cyclic(|_| Odd(rc.clone()));
        assert!(catch_unwind(AssertUnwindSafe(new_cyclic)).is_err());
        AT.set(0);
        assert_eq!(
            (rc_gc::stats().live, Rc::strong_count(&rc)),
            (kept.len() as u64, kept.len() + 1)
        );
        kept.push(Gc::new(Odd(rc.clone())));
    }
    drop(kept);
    rc_gc::check().unwrap();
    assert_eq!((rc_gc::stats().live, Rc::strong_count(&rc)), (0, 1));
}

#[test]
fn the_largest_thresholds_are_as_good_as_any() {
    for young in [u32::MAX, u32::MAX / 2, u32::MAX / 3, 1] {
        for growth in [0, u32::MAX] {
            rc_gc::set_thresholds(Thresholds { young, middle: u32::MAX, growth });
            // Collections that find nothing raise the budget, the others lower it.
            let kept: Vec<_> = (0..20).map(|_| knot(|_| {}, |_| {})).collect();
            for _ in 0..3 {
                kept.iter().for_each(stir);
                assert_eq!(rc_gc::collect(), 0);
            }
            drop(kept);
            assert_eq!(rc_gc::collect(), 20);
            assert!(rc_gc::stats().budget >= young);
        }
    }
}
