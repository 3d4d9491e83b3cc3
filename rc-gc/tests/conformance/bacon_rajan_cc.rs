//! bacon_rajan_cc's tests: std's own suite of `Rc` first, then cycles and `Weak`s.
//!
//! Without meaning here: buffers of roots that a program looks at (`number_of_roots_buffered`),
//! colours of objects, and a memory block that outlives its value until the buffer is emptied:
//! freed here at once. No unsafe here.

use std::cell::{Cell, RefCell};

use rc_gc::{Gc, Trace, Weak};

use crate::kit::{Log, Node, live, nothing_left, ring};

/// What one handle writes another reads.
#[test]
fn clone_shares() {
    let one = Gc::new(RefCell::new(5));
    let two = one.clone();
    *one.borrow_mut() = 20;
    assert_eq!(*two.borrow(), 20);
}

/// A value can be read through a handle.
#[test]
fn simple() {
    assert_eq!(*Gc::new(5), 5);
}

/// So through a clone of it.
#[test]
fn simple_clone() {
    let (one, two) = (Gc::new(5), Gc::new(5).clone());
    assert_eq!((*one, *two, one == two, Gc::ptr_eq(&one, &two)), (5, 5, true, false));
}

/// A value that owns memory gives it back.
#[test]
fn destructor() {
    let gc: Gc<Box<i32>> = Gc::new(Box::new(5));
    assert_eq!(**gc, 5);
    drop(gc);
    nothing_left();
}

/// A `Weak` of a live object leads to it.
#[test]
fn live_weak() {
    let gc = Gc::new(5);
    let weak = Gc::downgrade(&gc);
    assert!(weak.upgrade().is_some_and(|again| Gc::ptr_eq(&again, &gc)));
}

/// One of a dead object leads nowhere.
#[test]
fn dead_weak() {
    let gc = Gc::new(5);
    let weak = Gc::downgrade(&gc);
    drop(gc);
    assert!(weak.upgrade().is_none());
    drop(weak);
    nothing_left();
}

/// An object that holds a `Weak` of itself is freed by counting.
#[test]
fn weak_self_cyclic() {
    #[derive(Trace)]
    struct Cycle(RefCell<Option<Weak<Cycle>>>);
    let gc = Gc::new(Cycle(RefCell::default()));
    let weak = Gc::downgrade(&gc);
    *gc.0.borrow_mut() = Some(weak);
    drop(gc);
    assert_eq!(live(), 0);
    nothing_left();
}

/// A handle is unique while there is no other one, and no `Weak`.
#[test]
fn is_unique() {
    let mut one = Gc::new(3);
    assert!(Gc::get_mut(&mut one).is_some());
    let two = one.clone();
    assert!(Gc::get_mut(&mut one).is_none());
    drop(two);
    assert!(Gc::get_mut(&mut one).is_some());
    let weak = Gc::downgrade(&one);
    assert!(Gc::get_mut(&mut one).is_none());
    drop(weak);
    assert!(Gc::get_mut(&mut one).is_some());
}

/// The count of handles does not count `Weak`s.
#[test]
fn strong_count() {
    let one = Gc::new(0);
    assert_eq!(Gc::strong_count(&one), 1);
    let weak = Gc::downgrade(&one);
    assert_eq!((Gc::strong_count(&one), weak.strong_count()), (1, 1));
    let two = weak.upgrade().unwrap();
    assert_eq!((Gc::strong_count(&one), weak.strong_count()), (2, 2));
    drop((one, two));
    assert_eq!(weak.strong_count(), 0);
}

/// Nor that of `Weak`s handles.
#[test]
fn weak_count() {
    let gc = Gc::new(0);
    assert_eq!(Gc::weak_count(&gc), 0);
    let (one, two) = (Gc::downgrade(&gc), Gc::downgrade(&gc));
    assert_eq!((Gc::weak_count(&gc), one.weak_count()), (2, 2));
    drop(one);
    assert_eq!(Gc::weak_count(&gc), 1);
    drop(gc);
    assert_eq!(two.weak_count(), 0);
}

/// Only a sole handle gives up its value; `Weak`s do not keep it from that, and die.
#[test]
fn try_unwrap() {
    assert_eq!(Gc::try_unwrap(Gc::new(3)).unwrap(), 3);
    let one = Gc::new(4);
    let two = one.clone();
    let one = Gc::try_unwrap(one).unwrap_err();
    assert_eq!((*one, *two), (4, 4));
    drop(two);
    let weak = Gc::downgrade(&one);
    assert_eq!(Gc::try_unwrap(one).unwrap(), 4);
    assert!(weak.upgrade().is_none());
    drop(weak);
    nothing_left();
}

/// A sole handle lends its value to be changed.
#[test]
fn get_mut() {
    let mut one = Gc::new(3);
    *Gc::get_mut(&mut one).unwrap() = 4;
    assert_eq!(*one, 4);
    let two = one.clone();
    assert!(Gc::get_mut(&mut one).is_none());
    drop(two);
    assert!(Gc::get_mut(&mut one).is_some());
}

/// Copy on write: three handles, each changed, become three objects.
#[test]
fn make_unique() {
    let mut one = Gc::new(75);
    let (mut two, mut three) = (one.clone(), one.clone());
    *Gc::make_mut(&mut one) += 1;
    *Gc::make_mut(&mut two) += 2;
    *Gc::make_mut(&mut three) += 3;
    assert_eq!((*one, *two, *three, live()), (76, 77, 78, 3));
    assert!(one != two && two != three && one != three);
}

/// Two that stay shared keep the old value.
#[test]
fn make_unique_keeps_the_others() {
    let mut one = Gc::new(75);
    let (two, three) = (one.clone(), one.clone());
    *Gc::make_mut(&mut one) += 1;
    assert_eq!((*one, *two, *three), (76, 75, 75));
    assert!(Gc::ptr_eq(&two, &three));
}

/// With a `Weak` beside, the value moves and the `Weak` leads nowhere.
#[test]
fn make_unique_weak() {
    let mut one = Gc::new(75);
    let weak = Gc::downgrade(&one);
    assert_eq!(weak.upgrade().map(|gc| *gc), Some(75));
    *Gc::make_mut(&mut one) += 1;
    assert_eq!((*one, weak.upgrade().is_none()), (76, true));
    drop((one, weak));
    nothing_left();
}

/// Printed as the value.
#[test]
fn show() {
    assert_eq!(format!("{:?} {}", Gc::new(75), Gc::new("a".to_string())), "75 a");
    let text: Gc<str> = Gc::from("b");
    assert_eq!(format!("{text} {text:?}"), "b \"b\"");
}

/// As a key of a map it is found by value.
#[test]
fn map() {
    use std::collections::{BTreeMap, HashMap};
    let hashed: HashMap<Gc<str>, i32> = [(Gc::from("a"), 1), (Gc::from("b"), 2)].into();
    let sorted: BTreeMap<Gc<str>, i32> = [(Gc::from("b"), 2), (Gc::from("a"), 1)].into();
    assert_eq!((hashed.get("b"), sorted.first_key_value().map(|(_, n)| *n)), (Some(&2), Some(1)));
    drop((hashed, sorted));
    nothing_left();
}

/// A list whose last points to its first.
#[test]
fn list_cycle() {
    let log = Log::default();
    let nodes = ring(0..5, &log);
    let first = nodes[0].clone();
    drop(nodes);
    assert_eq!(rc_gc::collect(), 0);
    drop(first);
    assert_eq!((rc_gc::collect(), log.sorted()), (5, vec![0, 1, 2, 3, 4]));
    nothing_left();
}

/// An object that points to itself.
#[test]
fn self_cycle() {
    let log = Log::default();
    drop(ring(0..1, &log));
    assert_eq!((rc_gc::collect(), log.take()), (1, vec![0]));
    nothing_left();
}

/// A `Weak` outlives the cycle it led to, and its object's memory goes with it.
#[test]
fn retain_weak() {
    let log = Log::default();
    let nodes = ring(0..2, &log);
    let weak = Gc::downgrade(&nodes[0]);
    drop(nodes);
    assert_eq!(rc_gc::collect(), 2);
    assert!(weak.upgrade().is_none() && weak.clone().upgrade().is_none());
    assert_eq!(live(), 1);
    drop(weak);
    nothing_left();
}

/// What is held through a box in between does not leak.
#[test]
fn no_leak_with_double_indirection() {
    #[derive(Trace)]
    struct Boxed(RefCell<Option<Box<Option<Gc<Boxed>>>>>, #[gc(skip)] Log);
    let log = Log::default();
    let gc = Gc::new(Boxed(RefCell::default(), log.clone()));
    *gc.0.borrow_mut() = Some(Box::new(Some(gc.clone())));
    gc.1.note(1);
    drop(gc);
    assert_eq!((rc_gc::collect(), log.take()), (1, vec![1]));
    nothing_left();
}

/// A child that is held twice by one object and found live keeps both its counts.
#[test]
fn double_visit_scan_black() {
    let log = Log::default();
    let (parent, child) = (Node::make(0, &log), Node::make(1, &log));
    parent.link(&child);
    parent.link(&child);
    child.link(&parent);
    for _ in 0..3 {
        drop(parent.clone());
        assert_eq!(rc_gc::collect(), 0);
        assert_eq!((Gc::strong_count(&parent), Gc::strong_count(&child)), (2, 3));
    }
    drop(child);
    assert_eq!(rc_gc::collect(), 0);
    drop(parent);
    assert_eq!((rc_gc::collect(), log.sorted()), (2, vec![0, 1]));
    nothing_left();
}

/// A live environment that hangs off a dead cyclic one survives it, counts and all.
#[test]
fn extra_free() {
    #[derive(Trace)]
    struct Environment {
        id: usize,
        outer: Option<Gc<Environment>>,
        closures: RefCell<Vec<Gc<Closure>>>,
    }
    #[derive(Trace)]
    struct Closure(Gc<Environment>);
    let environment = |id, outer: Option<&Gc<Environment>>| {
        Gc::new(Environment { id, outer: outer.cloned(), closures: RefCell::default() })
    };
    let global = environment(1, None);
    let inner = environment(2, Some(&global));
    let closure = Gc::new(Closure(inner.clone()));
    inner.closures.borrow_mut().push(closure.clone());
    global.closures.borrow_mut().push(Gc::new(Closure(global.clone())));
    assert_eq!(closure.0.outer.as_ref().map(|outer| outer.id), Some(1));
    drop((inner, closure));
    assert_eq!(rc_gc::collect(), 2);
    assert_eq!((global.id, Gc::strong_count(&global), live()), (1, 2, 2));
    assert_eq!(rc_gc::collect(), 0);
    drop(global);
    assert_eq!(rc_gc::collect(), 2);
    nothing_left();
}

/// Objects that hold each other's `Weak`s are freed by counting.
#[test]
fn weak_cycle() {
    #[derive(Trace)]
    struct Gadget(RefCell<Weak<Gadget>>);
    let (one, two) = (Gc::new(Gadget(RefCell::default())), Gc::new(Gadget(RefCell::default())));
    *one.0.borrow_mut() = Gc::downgrade(&two);
    *two.0.borrow_mut() = Gc::downgrade(&one);
    drop(one);
    assert!(two.0.borrow().upgrade().is_none());
    drop(two);
    assert_eq!(live(), 0);
    nothing_left();
}

/// Clone, drop, collect: nothing is freed too early, nothing too late.
#[test]
fn clone_drop_collect() {
    let log = Log::default();
    let node = Node::make(1, &log);
    drop(node.clone());
    assert_eq!(rc_gc::collect(), 0);
    let again = node.clone();
    drop(node);
    assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    drop(again);
    assert_eq!((log.take(), rc_gc::collect()), (vec![1], 0));
    nothing_left();
}

/// Candidates that die by counting before the collection are not looked at by it.
#[test]
fn freeing_dead_roots() {
    const MADE: usize = if cfg!(miri) { 20 } else { 1000 };
    let log = Log::default();
    let nodes: Vec<_> = (0..MADE).map(|id| Node::make(id, &log)).collect();
    nodes.iter().for_each(|node| drop(node.clone()));
    drop(nodes);
    let before = rc_gc::stats().generations[2];
    assert_eq!((log.len(), rc_gc::collect()), (MADE, 0));
    assert_eq!(rc_gc::stats().generations[2].visited, before.visited);
    nothing_left();
}

/// A value may be moved out of its cell by the drop of its neighbour.
#[test]
fn take_in_drop() {
    #[derive(Trace)]
    #[gc(drop)]
    struct Taker(Cell<Option<Gc<Taker>>>, #[gc(skip)] Log);
    impl Drop for Taker {
        fn drop(&mut self) {
            self.1.note(usize::from(self.0.take().is_some_and(|other| Gc::is_dead(&other))));
        }
    }
    let log = Log::default();
    let (one, two) = (
        Gc::new(Taker(Cell::new(None), log.clone())),
        Gc::new(Taker(Cell::new(None), log.clone())),
    );
    one.0.set(Some(two.clone()));
    two.0.set(Some(one.clone()));
    drop((one, two));
    assert_eq!((rc_gc::collect(), log.take()), (2, vec![1, 1]));
    nothing_left();
}
