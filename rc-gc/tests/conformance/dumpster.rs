//! dumpster's tests of its single-threaded `Gc`, and those of its test crate.
//!
//! Without meaning here: `new_cyclic` hands out a `Weak` as std's does, so handles inside are
//! upgraded later, not rehydrated; a dead handle may be cloned. `trybuild` tests of the derive are
//! tests of the derive. Unsafe code only for a `Trace` that panics.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use rc_gc::{Gc, Trace, Tracer, Weak};

use crate::kit::{Actor, Kept, Log, Node, caught, live, nothing_left, quiet, ring};

/// The last handle drops the value, at once.
#[test]
fn simple() {
    let log = Log::default();
    let one = Node::make(1, &log);
    let two = one.clone();
    drop(one);
    assert_eq!(log.len(), 0);
    drop(two);
    assert_eq!((log.take(), live()), (vec![1], 0));
}

/// An object that holds itself goes with a collection.
#[test]
fn self_referential() {
    let log = Log::default();
    drop(ring(0..1, &log));
    assert_eq!((log.len(), rc_gc::collect(), log.take()), (0, 1, vec![0]));
    nothing_left();
}

/// A ring of two stays while one handle is left, and goes after.
#[test]
fn cyclic() {
    let log = Log::default();
    let mut both = ring(0..2, &log);
    both.pop();
    assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    drop(both);
    assert_eq!((rc_gc::collect(), log.sorted()), (2, vec![0, 1]));
    nothing_left();
}

/// Four that all hold each other: none goes early, each is dropped exactly once.
#[test]
fn complete4() {
    let log = Log::default();
    let mut all: Vec<_> = (0..4).map(|id| Node::make(id, &log)).collect();
    for a in &all {
        all.iter().filter(|b| b.id != a.id).for_each(|b| a.link(b));
    }
    while let Some(last) = all.pop() {
        assert_eq!((rc_gc::collect(), log.len()), (0, 0));
        drop(last);
    }
    assert_eq!((rc_gc::collect(), log.sorted()), (4, vec![0, 1, 2, 3]));
    nothing_left();
}

/// Two cycles with an edge in common live until the last of four handles is gone, whichever that is.
#[test]
fn parallel_loop() {
    for last in 0..4 {
        let log = Log::default();
        let mut all: Vec<Option<Gc<Node>>> = (0..4).map(|id| Some(Node::make(id, &log))).collect();
        for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 3), (3, 0)] {
            if let (Some(from), Some(to)) = (&all[from], &all[to]) {
                from.link(to);
            }
        }
        for at in (0..4).filter(|&at| at != last) {
            all[at] = None;
            assert_eq!((rc_gc::collect(), log.len()), (0, 0));
        }
        all[last] = None;
        assert_eq!((rc_gc::collect(), log.sorted()), (4, vec![0, 1, 2, 3]));
    }
    nothing_left();
}

/// What was changed through a borrow is seen by the next collection, also while another borrow is out.
#[test]
fn double_borrow() {
    let log = Log::default();
    let node = Node::make(0, &log);
    node.link(&node);
    node.links.borrow_mut().push(Node::make(1, &log));
    {
        let first = node.links.borrow();
        let second = node.links.borrow();
        assert_eq!((rc_gc::collect(), first.len(), second[1].id), (0, 2, 1));
    }
    node.links.borrow_mut().remove(0);
    assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    drop(node);
    assert_eq!(log.take(), [0, 1]);
    nothing_left();
}

/// An array becomes a slice, the same object, by a handle of two words.
#[test]
fn coerce_array() {
    let array = Gc::new([Gc::new(1), Gc::new(2)]);
    let slice: Gc<[Gc<i32>]> = rc_gc::coerce!(array.clone());
    assert_eq!((slice.len(), *slice[1], Gc::strong_count(&array)), (2, 2, 2));
    assert_eq!((size_of_val(&array), size_of_val(&slice)), (8, 16));
    assert_eq!((size_of::<Option<Gc<u8>>>(), size_of::<Option<Gc<[u8]>>>()), (8, 16));
    drop(array);
    assert_eq!(*slice[0], 1);
    drop(slice);
    nothing_left();
}

/// A handle that a drop moves out of the garbage is dead: to look through it panics.
#[test]
fn escape_dead_pointer() {
    let escaped = Kept::<Actor>::default();
    let escaping = escaped.clone();
    let actor = Actor::make(1, quiet, move |actor: &Actor| {
        escaping.borrow_mut().extend(actor.links.borrow_mut().drain(..));
    });
    actor.link(&actor);
    drop(actor);
    rc_gc::collect();
    let handle = escaped.borrow_mut().pop().expect("it escaped");
    assert!(Gc::is_dead(&handle));
    let said = caught(|| handle.id).unwrap_err();
    assert_eq!(said, "dead Gc: the object was collected; its value is gone");
    drop(handle);
    nothing_left();
}

/// From a box: one handle, the same contents.
#[test]
fn from_box() {
    let gc: Gc<String> = Gc::from(Box::new(String::from("boxed")));
    assert_eq!((Gc::strong_count(&gc), gc.as_str()), (1, "boxed"));
    let shown: Gc<dyn Trace> = Gc::from(Box::new(5u8) as Box<dyn Trace>);
    assert_eq!(Gc::strong_count(&shown), 1);
    drop((gc, shown));
    nothing_left();
}

/// From a slice: clones of the elements.
#[test]
fn from_slice() {
    let words = ["a".to_string(), "bb".to_string()];
    let gc: Gc<[String]> = Gc::from(&words[..]);
    assert_eq!((Gc::strong_count(&gc), &*gc), (1, &words[..]));
    drop(gc);
    nothing_left();
}

/// From a vector: its elements, moved.
#[test]
fn from_vec() {
    let at = String::from("moved, not copied");
    let pointer = at.as_ptr();
    let gc: Gc<[String]> = Gc::from(vec![at]);
    assert_eq!((Gc::strong_count(&gc), gc[0].as_ptr()), (1, pointer));
    drop(gc);
    nothing_left();
}

/// A clone that panics midway leaves nothing behind, and drops what was cloned.
#[test]
fn from_slice_panic() {
    #[derive(Trace)]
    struct Fragile(#[gc(skip)] Rc<Cell<usize>>);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            assert!(Rc::strong_count(&self.0) < 8, "enough");
            Fragile(self.0.clone())
        }
    }
    let count = Rc::new(Cell::new(0));
    let five: Vec<_> = (0..5).map(|_| Fragile(count.clone())).collect();
    let said = caught(|| Gc::<[Fragile]>::from(&five[..]));
    assert_eq!(said.map(drop), Err("enough".into()));
    assert_eq!(Rc::strong_count(&count), 6);
    nothing_left();
}

/// A sole handle changes its value in place; a shared one changes a clone.
#[test]
fn make_mut() {
    let mut one = Gc::new(42);
    let at = Gc::as_ptr(&one);
    *Gc::make_mut(&mut one) = 43;
    assert_eq!((*one, Gc::as_ptr(&one)), (43, at));
    let mut two = one.clone();
    *Gc::make_mut(&mut two) = 44;
    assert_eq!((*one, *two, Gc::ptr_eq(&one, &two)), (43, 44, false));
    drop((one, two));
    nothing_left();
}

/// The clone shares what the value held.
#[test]
fn make_mut_2() {
    #[derive(Clone, Trace)]
    struct Pair(Gc<String>, RefCell<Option<Gc<Pair>>>);
    let mut one = Gc::new(Pair(Gc::new("s".into()), RefCell::default()));
    let other = one.clone();
    *other.1.borrow_mut() = Some(other.clone());
    Gc::make_mut(&mut one).0 = Gc::new("t".into());
    assert_eq!((one.0.as_str(), other.0.as_str()), ("t", "s"));
    // The clone holds the old object, which holds itself.
    assert!(one.1.borrow().as_ref().is_some_and(|held| Gc::ptr_eq(held, &other)));
    drop((one, other));
    rc_gc::collect();
    nothing_left();
}

/// A value that was a candidate may be changed through `&mut` while a collection runs.
#[test]
fn make_mut_of_object_in_dumpster() {
    #[derive(Clone, Trace)]
    struct Held(Option<Gc<Held>>, u32);
    let mut gc = Gc::new(Held(Some(Gc::new(Held(None, 1))), 2));
    drop(gc.clone());
    let value = Gc::make_mut(&mut gc);
    let (inner, number) = (&mut value.0, &mut value.1);
    assert_eq!(rc_gc::collect(), 0);
    *number = 5;
    *inner = None;
    assert_eq!(rc_gc::collect(), 0);
    assert_eq!((gc.1, gc.0.is_none(), live()), (5, true, 1));
    drop(gc);
    nothing_left();
}

/// A `Trace` that panics panics out of the collection, and nothing is lost.
#[test]
fn panic_visit() {
    thread_local!(static PANIC: Cell<bool> = const { Cell::new(true) });
    struct Panics(RefCell<Option<Gc<Panics>>>);
    // SAFETY: reports its one handle, or unwinds.
    unsafe impl Trace for Panics {
        fn trace(&self, tracer: &mut Tracer) {
            assert!(!PANIC.get(), "visited");
            self.0.trace(tracer);
        }
    }
    let gc = Gc::new(Panics(RefCell::default()));
    *gc.0.borrow_mut() = Some(gc.clone());
    drop(gc);
    assert_eq!(caught(rc_gc::collect), Err("visited".into()));
    PANIC.set(false);
    assert_eq!(rc_gc::collect(), 1);
    nothing_left();
}

/// `new_cyclic` that keeps nothing is `new`.
#[test]
fn new_cyclic_nothing() {
    let gc = Gc::new_cyclic(|_: &Weak<u32>| 5);
    assert_eq!((*gc, Gc::strong_count(&gc), Gc::weak_count(&gc)), (5, 1, 0));
    drop(gc);
    nothing_left();
}

/// One that keeps its `Weak` can make itself a cycle later.
#[test]
fn new_cyclic_one() {
    #[derive(Trace)]
    struct Cycle(OnceLink, Weak<Cycle>);
    type OnceLink = RefCell<Option<Gc<Cycle>>>;
    let gc = Gc::new_cyclic(|me: &Weak<Cycle>| Cycle(RefCell::default(), me.clone()));
    *gc.0.borrow_mut() = gc.1.upgrade();
    assert_eq!((Gc::strong_count(&gc), Gc::weak_count(&gc)), (2, 1));
    drop(gc);
    assert_eq!(rc_gc::collect(), 1);
    nothing_left();
}

/// One that panics leaves no object.
#[test]
fn new_cyclic_panic() {
    let said = caught(|| Gc::new_cyclic(|_: &Weak<u32>| panic!("not made")));
    assert_eq!(said.map(drop), Err("not made".into()));
    nothing_left();
}

/// A dead handle in a live object harms no collection.
#[test]
fn dead_inside_alive() {
    let escaped = Kept::<Actor>::default();
    let escaping = escaped.clone();
    let dying = Actor::make(1, quiet, move |actor: &Actor| {
        escaping.borrow_mut().extend(actor.links.borrow_mut().drain(..));
    });
    dying.link(&dying);
    drop(dying);
    rc_gc::collect();
    let alive = Actor::make(2, quiet, quiet);
    alive.link(&alive);
    alive.links.borrow_mut().append(&mut escaped.borrow_mut());
    for _ in 0..3 {
        drop(alive.clone());
        assert_eq!(rc_gc::collect(), 0);
        rc_gc::check().unwrap();
    }
    assert!(Gc::is_dead(&alive.links.borrow()[1]));
    drop(alive);
    nothing_left();
}

/// A cycle that a drop makes goes with the next collection.
#[test]
fn leak_by_creation_in_drop() {
    let log = Log::default();
    let noting = log.clone();
    let maker = Actor::make(1, quiet, move |_: &Actor| drop(ring(5..7, &noting)));
    maker.link(&maker);
    drop(maker);
    assert_eq!((rc_gc::collect(), log.len()), (1, 0));
    assert_eq!((rc_gc::collect(), log.sorted()), (2, vec![5, 6]));
    nothing_left();
}

/// A hundred thousand random operations on fifty handles, then the end: every object is dropped
/// exactly once.
#[test]
fn unsync_fuzz() {
    let log = Log::default();
    let mut random = 12_345u64;
    let mut below = |n: usize| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n.max(1)
    };
    let mut made = 50;
    let mut handles: Vec<_> = (0..made).map(|id| Node::make(id, &log)).collect();
    for _ in 0..if cfg!(miri) { 500 } else { 100_000 } {
        let some = handles.len();
        match below(4) {
            _ if some == 0 => {
                handles.push(Node::make(made, &log));
                made += 1;
            }
            0 => {
                handles.push(Node::make(made, &log));
                made += 1;
            }
            1 => handles[below(some)].link(&handles[below(some)]),
            2 => drop(handles.swap_remove(below(some))),
            _ => {
                let node = handles[below(some)].clone();
                let links = node.links.borrow().len();
                if links != 0 {
                    let link = node.links.borrow_mut().swap_remove(below(links));
                    drop(link);
                }
            }
        }
    }
    handles.clear();
    nothing_left();
    let dropped = log.take();
    let distinct: HashSet<_> = dropped.iter().collect();
    assert_eq!((dropped.len(), distinct.len()), (made, made));
}

/// A trait object of a trait of the program's own is called and collected.
#[test]
fn custom_trait_object() {
    trait Speaks: Trace {
        fn speak(&self) -> String;
        fn know(&self, other: Gc<dyn Speaks>);
    }
    #[derive(Trace)]
    struct Dog(String, RefCell<Option<Gc<dyn Speaks>>>);
    impl Speaks for Dog {
        fn speak(&self) -> String {
            format!("{} barks", self.0)
        }
        fn know(&self, other: Gc<dyn Speaks>) {
            *self.1.borrow_mut() = Some(other);
        }
    }
    let dog: Gc<dyn Speaks> = rc_gc::coerce!(Gc::new(Dog("Rex".into(), RefCell::default())));
    dog.know(dog.clone());
    assert_eq!(dog.speak(), "Rex barks");
    drop(dog);
    assert_eq!(rc_gc::collect(), 1);
    nothing_left();
}

/// Slices are made from iterators, empty ones too.
#[test]
fn gc_from_iter() {
    let squares: Gc<[u64]> = (0..10).map(|n| n * n).collect();
    assert_eq!((squares[9], squares.len()), (81, 10));
    let none: Gc<[u64]> = std::iter::empty().collect();
    assert_eq!((none.len(), Gc::strong_count(&none)), (0, 1));
    drop((squares, none));
    nothing_left();
}

/// A slice whose elements lead back to it is collected.
#[test]
fn self_referential_from_iter() {
    #[derive(Trace)]
    struct Element(RefCell<Option<Gc<[Element]>>>);
    let slice: Gc<[Element]> = (0..10).map(|_| Element(RefCell::default())).collect();
    for element in slice.iter() {
        *element.0.borrow_mut() = Some(slice.clone());
    }
    assert_eq!(Gc::strong_count(&slice), 11);
    drop(slice);
    assert_eq!(rc_gc::collect(), 1);
    nothing_left();
}

/// A handle knows the address of its value.
#[test]
fn as_ptr() {
    let gc = Gc::new(7u64);
    let (other, inner): (_, &u64) = (gc.clone(), &gc);
    assert!(std::ptr::eq(Gc::as_ptr(&other), inner));
    drop((gc, other));
    nothing_left();
}

/// Unit, tuple, generic and enum types are traced by what the derive writes.
#[test]
fn derived_shapes() {
    #[derive(Trace)]
    struct Unit;
    #[derive(Trace)]
    struct Tuple<T>(T, RefCell<Option<Gc<Shape<T>>>>);
    #[derive(Trace)]
    enum Shape<T> {
        Empty,
        Positional(Tuple<T>, u8),
        Named { tuple: Tuple<T>, unit: Unit },
    }
    fn slot<T>(shape: &Shape<T>) -> Option<&RefCell<Option<Gc<Shape<T>>>>> {
        match shape {
            Shape::Empty => None,
            Shape::Positional(tuple, _) | Shape::Named { tuple, unit: Unit } => Some(&tuple.1),
        }
    }
    let text = || Tuple(String::from("t"), RefCell::default());
    let one = Gc::new(Shape::Positional(text(), 1));
    let two = Gc::new(Shape::Named { tuple: text(), unit: Unit });
    let three = Gc::new(Shape::<String>::Empty);
    assert!(slot(&three).is_none());
    if let (Some(of_one), Some(of_two)) = (slot(&one), slot(&two)) {
        *of_one.borrow_mut() = Some(two.clone());
        *of_two.borrow_mut() = Some(one.clone());
    }
    drop((one, two));
    assert_eq!((rc_gc::collect(), live()), (2, 1));
    drop(three);
    nothing_left();
}

/// A crate that is known by another name is named to the derive.
#[test]
fn renamed_crate() {
    mod under {
        pub(crate) use rc_gc as another_name;
    }
    #[derive(under::another_name::Trace)]
    #[gc(crate = under::another_name)]
    struct Renamed(RefCell<Option<Gc<Renamed>>>);
    let gc = Gc::new(Renamed(RefCell::default()));
    *gc.0.borrow_mut() = Some(gc.clone());
    drop(gc);
    assert_eq!(rc_gc::collect(), 1);
    nothing_left();
}

/// An object with two edges to itself, of which one goes first.
#[test]
fn double_loop() {
    let log = Log::default();
    let one = Node::make(1, &log);
    one.link(&one);
    one.link(&one);
    one.links.borrow_mut().pop();
    assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    one.link(&one);
    drop(one);
    assert_eq!((rc_gc::collect(), log.take()), (1, vec![1]));
    nothing_left();
}
