//! The tests of the `gc` crate (a marking collector that counts roots).
//!
//! Without meaning here: rooting and unrooting when a value goes into or out of a cell
//! (`gccell_rooting` asks the same of counts); finalizers of values that were never on the heap; a
//! `finalize` that the derive writes. A wrong ignored field is a leak here, not an access to freed
//! memory. Unsafe code only to take back raw pointers.

use std::cell::RefCell;
use std::marker::PhantomData;

use rc_gc::{Finalize, Gc, Trace};

use crate::kit::{Actor, Log, Node, close, live, nothing_left};

fn noted(id: usize, log: &Log) -> Gc<Actor> {
    let (first, second) = (log.clone(), log.clone());
    Actor::make(id, move |_: &Actor| first.note(1), move |_: &Actor| second.note(2))
}

/// One object: a finalizer and a drop, in this order, once.
#[test]
fn basic_allocate() {
    let log = Log::default();
    drop(noted(0, &log));
    rc_gc::collect();
    assert_eq!(log.take(), [1, 2]);
    nothing_left();
}

/// A cycle: all finalizers, then all drops.
#[test]
fn basic_cycle_allocate() {
    let log = Log::default();
    let pair = [noted(0, &log), noted(1, &log)];
    close(&pair);
    rc_gc::collect();
    assert_eq!(log.len(), 0);
    drop(pair);
    rc_gc::collect();
    assert_eq!(log.take(), [1, 1, 2, 2]);
    nothing_left();
}

/// Objects that are put into a cell and taken out again are held by whoever has them.
#[test]
fn gccell_rooting() {
    let log = Log::default();
    let cell: Gc<RefCell<Option<Gc<Node>>>> = Gc::default();
    *cell.borrow_mut() = Some(Node::make(1, &log));
    rc_gc::collect();
    assert_eq!(log.len(), 0);
    let taken = cell.borrow_mut().take();
    rc_gc::collect();
    assert_eq!(log.len(), 0);
    *cell.borrow_mut() = taken;
    drop(cell);
    assert_eq!(log.take(), [1]);
    nothing_left();
}

/// A trait object with methods.
#[test]
fn trait_gc() {
    trait Number: Trace {
        fn get(&self) -> i128;
    }
    impl Number for i128 {
        fn get(&self) -> i128 {
            *self
        }
    }
    let number: Gc<dyn Number> = rc_gc::coerce!(Gc::new(-5i128));
    let numbers: Vec<Gc<dyn Number>> = vec![number.clone(), number];
    assert_eq!(numbers.iter().map(|number| number.get()).sum::<i128>(), -10);
    drop(numbers);
    nothing_left();
}

/// Equal values in two objects are equal, and not the same.
#[test]
fn ptr_eq() {
    let (one, two) = (Gc::new("a".to_string()), Gc::new("a".to_string()));
    assert!(one == two && !Gc::ptr_eq(&one, &two) && Gc::ptr_eq(&one, &one.clone()));
}

/// A box of a sized type, of a trait, of a slice, of a text.
#[test]
fn from_box() {
    let sized: Gc<u32> = Gc::from(Box::new(1));
    let object: Gc<dyn Trace> = Gc::from(Box::new(2u32) as Box<dyn Trace>);
    let slice: Gc<[u32]> = Gc::from(vec![3, 4].into_boxed_slice());
    let text: Gc<str> = Gc::from(String::from("five").into_boxed_str());
    assert_eq!((*sized, &slice[..], &*text, live()), (1, &[3, 4][..], "five", 4));
    drop((sized, object, slice, text));
    nothing_left();
}

/// A handle becomes a pointer and a handle again, and its count goes with it.
#[test]
fn from_raw_into_raw() {
    let log = Log::default();
    let node = Node::make(1, &log);
    let raw = Gc::into_raw(node.clone());
    drop(node);
    assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    // SAFETY: from `into_raw`, as many times as it is taken back.
    unsafe { Gc::increment_strong_count(raw) };
    // SAFETY: from `into_raw`.
    let one = unsafe { Gc::from_raw(raw) };
    // SAFETY: counted just now.
    let two = unsafe { Gc::from_raw(raw) };
    assert!(Gc::ptr_eq(&one, &two) && Gc::strong_count(&one) == 2);
    drop((one, two));
    assert_eq!(log.take(), [1]);
    nothing_left();
}

/// The drop of the last handle runs the finalizer.
#[test]
fn drop_triggers_finalize() {
    let log = Log::default();
    let actor = noted(0, &log);
    let other = actor.clone();
    drop(actor);
    assert_eq!(log.len(), 0);
    drop(other);
    assert_eq!(log.take(), [1, 2]);
}

/// A field that is left out is not looked into; what it holds is live, no more than that.
#[test]
fn ignore_trace() {
    struct NoTrace(Gc<Node>);
    #[derive(Trace)]
    struct Ignoring(#[gc(skip)] NoTrace, RefCell<Option<Gc<Ignoring>>>);
    let log = Log::default();
    let ignoring = Gc::new(Ignoring(NoTrace(Node::make(1, &log)), RefCell::default()));
    *ignoring.1.borrow_mut() = Some(ignoring.clone());
    assert_eq!((ignoring.0.0.id, rc_gc::collect()), (1, 0));
    drop(ignoring);
    assert_eq!((rc_gc::collect(), log.take()), (2, vec![1]));
    nothing_left();
}

/// Gymnastics: rings that share members are made, cut and joined; what cannot be reached goes, what
/// can stays.
#[test]
fn test_cycle() {
    let log = Log::default();
    let all: Vec<_> = (0..6).map(|id| Node::make(id, &log)).collect();
    for (from, to) in [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5), (5, 3), (5, 2)] {
        all[from].link(&all[to]);
    }
    let (first, fourth) = (all[0].clone(), all[3].clone());
    drop(all);
    assert_eq!(rc_gc::collect(), 0);
    // Cuts 5 -> 2 and 2 -> 3: two rings apart.
    let fifth = fourth.links.borrow()[0].links.borrow()[0].clone();
    let cut = fifth.links.borrow_mut().pop();
    drop((cut, fifth));
    assert_eq!(rc_gc::collect(), 0);
    let third = first.links.borrow()[0].links.borrow()[0].clone();
    let cut = third.links.borrow_mut().pop();
    drop((cut, third, fourth));
    assert_eq!((rc_gc::collect(), log.sorted()), (3, vec![3, 4, 5]));
    drop(first);
    assert_eq!((rc_gc::collect(), log.sorted()), (3, vec![0, 1, 2]));
    nothing_left();
}

/// Bounds of the program's own instead of the derive's.
#[test]
fn derive_bounds() {
    trait Marker {}
    struct Untraced;
    impl Marker for Untraced {}
    #[derive(Trace)]
    #[gc(bound = "T: Marker")]
    struct Bounded<T: Marker>(#[gc(skip)] PhantomData<T>, RefCell<Option<Gc<Bounded<T>>>>)
    where
        T: 'static;
    let gc = Gc::new(Bounded(PhantomData::<Untraced>, RefCell::default()));
    *gc.1.borrow_mut() = Some(gc.clone());
    drop(gc);
    assert_eq!(rc_gc::collect(), 1);
    nothing_left();
}

/// 128-bit values keep their alignment and their bits.
#[test]
fn i128() {
    let gc = Gc::new((i128::MIN, RefCell::new(i128::MAX)).0);
    assert_eq!(*gc, i128::MIN);
    assert!(Gc::as_ptr(&gc).addr().is_multiple_of(align_of::<i128>()));
}

/// A method whose receiver is a handle by reference.
#[test]
fn gc_self_method() {
    #[derive(Trace)]
    struct Thing(u8);
    impl Thing {
        fn share(this: &Gc<Self>) -> Gc<Self> {
            this.clone()
        }
    }
    let thing = Gc::new(Thing(3));
    let other = Thing::share(&thing);
    assert_eq!((other.0, Gc::strong_count(&thing)), (3, 2));
}

/// A finalizer that is implemented but not asked for by the type does not run.
#[test]
fn finalize_is_asked_for() {
    #[derive(Trace)]
    struct Silent(#[gc(skip)] Log);
    impl Finalize for Silent {
        fn finalize(&self) {
            self.0.note(1);
        }
    }
    let log = Log::default();
    drop(Gc::new(Silent(log.clone())));
    assert_eq!(log.len(), 0);
}

/// The pointer of a handle is that of its value, the same for every clone, and not that of the handle.
#[test]
fn as_ptr() {
    let one = Gc::new(7u8);
    let pointer = Gc::as_ptr(&one);
    assert_eq!((pointer, pointer), (&raw const *one, Gc::as_ptr(&one.clone())));
    assert_ne!(pointer.cast(), &raw const one);
}

/// A type that only names another holds none of it.
#[test]
fn phantom() {
    #[derive(Trace)]
    struct Named<T>(PhantomData<T>);
    let named = Gc::new(Named::<RefCell<Gc<u8>>>(PhantomData));
    assert!(!Gc::is_tracked(&named));
}
