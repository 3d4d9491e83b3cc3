//! The first facts: counts, cycles, generations, long chains.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rc_gc::{Gc, Generation, Trace, Weak};

#[derive(Trace)]
#[gc(drop)]
struct Node {
    links: RefCell<Vec<Gc<Node>>>,
    #[gc(skip)]
    dropped: Rc<Cell<usize>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.dropped.set(self.dropped.get() + 1);
    }
}

fn node(dropped: &Rc<Cell<usize>>) -> Gc<Node> {
    Gc::new(Node { links: RefCell::default(), dropped: dropped.clone() })
}

#[test]
fn the_last_handle_drops_at_once() {
    let dropped = Rc::default();
    let a = node(&dropped);
    let b = a.clone();
    assert_eq!(Gc::strong_count(&a), 2);
    drop(a);
    assert_eq!(dropped.get(), 0);
    drop(b);
    assert_eq!(dropped.get(), 1);
    rc_gc::check().unwrap();
}

#[test]
fn a_ring_is_collected_when_its_last_handle_is_gone_and_not_before() {
    let dropped = Rc::default();
    let (a, b) = (node(&dropped), node(&dropped));
    a.links.borrow_mut().push(b.clone());
    b.links.borrow_mut().push(a.clone());
    drop(b);
    assert_eq!(rc_gc::collect(), 0);
    rc_gc::check().unwrap();
    drop(a);
    // SAFETY: nothing is borrowed, no `Trace` panics, nothing collects.
    assert_eq!(unsafe { rc_gc::count_garbage_slowly() }, 2);
    assert_eq!(rc_gc::collect(), 2);
    assert_eq!(dropped.get(), 2);
    assert_eq!(rc_gc::stats().live, 0);
    rc_gc::check().unwrap();
}

#[test]
fn an_object_walks_through_the_generations() {
    let a = Gc::new(RefCell::new(Vec::<Gc<u8>>::new()));
    assert_eq!(Gc::generation(&a), Generation::Young);
    rc_gc::collect_generation(Generation::Young);
    assert_eq!(Gc::generation(&a), Generation::Middle);
    rc_gc::collect_generation(Generation::Middle);
    assert_eq!(Gc::generation(&a), Generation::Old);
    rc_gc::collect();
    assert_eq!(Gc::generation(&a), Generation::Old);
}

#[test]
fn young_garbage_held_by_old_garbage_waits_for_the_old_collection() {
    let dropped = Rc::default();
    let old = node(&dropped);
    old.links.borrow_mut().push(old.clone());
    rc_gc::collect();
    let young = node(&dropped);
    young.links.borrow_mut().push(young.clone());
    old.links.borrow_mut().push(young.clone());
    drop((young, old));
    assert_eq!(rc_gc::collect_generation(Generation::Young), 0);
    assert_eq!(rc_gc::collect_generation(Generation::Middle), 0);
    assert_eq!(rc_gc::collect(), 2);
    assert_eq!(dropped.get(), 2);
}

/// A million, but where each step is interpreted.
const MANY: usize = if cfg!(miri) { 300 } else { 1_000_000 };

fn chain(length: usize, dropped: &Rc<Cell<usize>>) -> (Gc<Node>, Gc<Node>) {
    let first = node(dropped);
    let mut last = first.clone();
    for _ in 1..length {
        let next = node(dropped);
        last.links.borrow_mut().push(next.clone());
        last = next;
    }
    (first, last)
}

fn in_small_stack(f: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 << 10).spawn(f).unwrap().join().unwrap();
}

#[test]
fn a_chain_of_a_million_drops_in_a_small_stack() {
    in_small_stack(|| {
        let dropped = Rc::default();
        let (first, last) = chain(MANY, &dropped);
        drop(last);
        drop(first);
        assert_eq!(dropped.get(), MANY);
        rc_gc::check().unwrap();
    });
}

#[test]
fn a_ring_of_a_million_is_collected_in_a_small_stack() {
    in_small_stack(|| {
        let dropped = Rc::default();
        let (first, last) = chain(MANY, &dropped);
        last.links.borrow_mut().push(first.clone());
        drop(last);
        drop(first);
        rc_gc::collect();
        assert_eq!(dropped.get(), MANY);
        rc_gc::check().unwrap();
    });
}

#[test]
fn a_weak_is_none_when_the_value_is_gone() {
    let dropped = Rc::default();
    let a = node(&dropped);
    let weak = Gc::downgrade(&a);
    a.links.borrow_mut().push(a.clone());
    assert!(weak.upgrade().is_some());
    drop(a);
    assert!(weak.upgrade().is_some());
    assert_eq!(rc_gc::collect(), 1);
    assert!(weak.upgrade().is_none());
    let cyclic: Gc<Weak<u8>> = Gc::new(Weak::new());
    assert!(cyclic.upgrade().is_none());
    drop(weak);
    drop(cyclic);
    assert_eq!(rc_gc::stats().live, 0);
    rc_gc::check().unwrap();
}
