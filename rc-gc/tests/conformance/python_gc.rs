//! CPython's test_gc: what is garbage, in which order it is finalized, watched and dropped, and what the
//! counters say. Resurrection, and collections that start by themselves, are in `python_gc_automatic`.
//!
//! Without meaning here: classes, modules, frames and bound types as objects (`class`,
//! `newstyleclass`, `frame`, `do_not_cleanup_type_subclasses`, `ast_fini`, `warnings_fini`): types
//! are no objects in Rust. Uncollectable garbage (`legacy_finalizer`, `saveall`,
//! `collect_garbage`): there is none, so there is no list of it. Freezing, lists of objects,
//! referrers and referents (`freeze`, `traverse_frozen`, `deferred_refcount_frozen`,
//! `get_objects*`, `get_referents*`, `is_finalized`: that a finalizer runs once is asked for
//! itself), callbacks around collections (`GCCallbackTests`), counts since the last collection
//! (`get_count`) and debug output (`gc_debug_stats`): tested by those who add them.
//! `tuple_untrack`: what is tracked follows from the type and never changes. Unsafe code only for
//! one `Trace` that leaves out an edge.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use rc_gc::{Gc, Generation, Heap, Thresholds, Trace, Tracer, Weak};

use crate::kit::{Actor, Log, Node, caught, close, live, nothing_left, quiet, ring};

/// A list that holds itself is one piece of garbage.
#[test]
fn list() {
    #[derive(Trace)]
    struct List(RefCell<Vec<Gc<List>>>);
    let list = Gc::new(List(RefCell::default()));
    list.0.borrow_mut().push(list.clone());
    drop(list);
    assert_eq!(rc_gc::collect(), 1);
    nothing_left();
}

/// So is a map that holds itself as a value.
#[test]
fn dict() {
    #[derive(Trace)]
    struct Dict(RefCell<HashMap<u32, Gc<Dict>>>);
    let dict = Gc::new(Dict(RefCell::default()));
    dict.0.borrow_mut().insert(1, dict.clone());
    drop(dict);
    assert_eq!(rc_gc::collect(), 1);
    nothing_left();
}

/// A cycle through an object that cannot be changed after it is made: two.
#[test]
fn tuple() {
    #[derive(Trace)]
    struct List(RefCell<Option<Gc<Tuple>>>);
    #[derive(Trace)]
    struct Tuple(Gc<List>);
    let list = Gc::new(List(RefCell::default()));
    let tuple = Gc::new(Tuple(list.clone()));
    *list.0.borrow_mut() = Some(tuple.clone());
    assert!(tuple.0.0.borrow().is_some());
    drop((list, tuple));
    assert_eq!(rc_gc::collect(), 2);
    nothing_left();
}

/// An object behind a trait, in an attribute of itself: found once, then no more.
#[test]
fn instance() {
    trait Thing: Trace {
        fn set(&self, me: Gc<dyn Thing>);
    }
    #[derive(Trace)]
    struct Plain(RefCell<Option<Gc<dyn Thing>>>);
    impl Thing for Plain {
        fn set(&self, me: Gc<dyn Thing>) {
            *self.0.borrow_mut() = Some(me);
        }
    }
    #[derive(Trace)]
    struct Derived<T> {
        base: Plain,
        extra: T,
    }
    impl<T: Trace> Thing for Derived<T> {
        fn set(&self, me: Gc<dyn Thing>) {
            self.base.set(me);
        }
    }
    let plain: Gc<dyn Thing> = rc_gc::coerce!(Gc::new(Plain(RefCell::default())));
    let base = Plain(RefCell::default());
    let derived = Gc::new(Derived { base, extra: String::from("x") });
    assert_eq!(derived.extra, "x");
    let derived: Gc<dyn Thing> = rc_gc::coerce!(derived);
    plain.set(plain.clone());
    derived.set(derived.clone());
    drop((plain, derived));
    assert_eq!((rc_gc::collect(), rc_gc::collect()), (2, 0));
    nothing_left();
}

/// An object that keeps a call of its own method, a handle to itself inside.
#[test]
fn method() {
    trait Call: Trace {
        fn call(&self) -> usize;
    }
    #[derive(Trace)]
    struct Object {
        number: usize,
        method: RefCell<Option<Box<dyn Call>>>,
    }
    #[derive(Trace)]
    struct Bound(Gc<Object>);
    impl Call for Bound {
        fn call(&self) -> usize {
            self.0.number
        }
    }
    let object = Gc::new(Object { number: 7, method: RefCell::default() });
    *object.method.borrow_mut() = Some(Box::new(Bound(object.clone())));
    assert_eq!(object.method.borrow().as_ref().map(|method| method.call()), Some(7));
    drop(object);
    assert_eq!((rc_gc::collect(), rc_gc::collect()), (1, 0));
    nothing_left();
}

/// A function and the names it sees, among them its own: two.
#[test]
fn function() {
    #[derive(Trace)]
    struct Globals(RefCell<HashMap<String, Gc<Function>>>);
    #[derive(Trace)]
    struct Function(Gc<Globals>);
    let globals = Gc::new(Globals(RefCell::default()));
    let function = Gc::new(Function(globals.clone()));
    globals.0.borrow_mut().insert("f".into(), function.clone());
    assert_eq!(function.0.0.borrow().len(), 1);
    drop((globals, function));
    assert_eq!(rc_gc::collect(), 2);
    nothing_left();
}

/// A `Weak` that a finalizer makes leads to nothing once things are taken apart: no half-dead
/// object is seen.
#[test]
fn function_tp_clear_leaves_consistent_state() {
    let made: Rc<RefCell<Vec<Weak<Actor>>>> = Rc::default();
    let (making, seeing) = (made.clone(), made.clone());
    let seen = Log::default();
    let noting = seen.clone();
    let finalize = move |actor: &Actor| {
        let other = &actor.links.borrow()[0];
        making.borrow_mut().push(Gc::downgrade(other));
    };
    let dropping = move |_: &Actor| {
        noting.note(seeing.borrow().iter().filter(|weak| weak.upgrade().is_some()).count());
    };
    let actors: Vec<_> =
        (0..2).map(|id| Actor::make(id, finalize.clone(), dropping.clone())).collect();
    close(&actors);
    drop(actors);
    assert_eq!((rc_gc::collect(), made.borrow().len()), (2, 2));
    assert_eq!(seen.take(), [0, 0]);
    made.borrow_mut().clear();
    nothing_left();
}

/// In finalizers `Weak`s between members of the garbage still lead to whole objects.
#[test]
fn datetime_weakref_cycle() {
    let seen = Log::default();
    let noting = seen.clone();
    let finalize = move |actor: &Actor| noting.note(actor.handle().map_or(99, |me| me.id));
    let actors: Vec<_> = (0..3).map(|id| Actor::make(id, finalize.clone(), quiet)).collect();
    close(&actors);
    drop(actors);
    assert_eq!((rc_gc::collect(), seen.sorted()), (3, vec![0, 1, 2]));
    nothing_left();
}

/// Finalizers that collect, and allocate so that a collection is due each time, do no harm.
#[test]
fn del() {
    rc_gc::set_thresholds(Thresholds { young: 1, middle: 1, growth: 1 });
    let finalized = Log::default();
    for id in 0..100 {
        let noting = finalized.clone();
        let finalize = move |actor: &Actor| {
            noting.note(actor.id);
            rc_gc::collect();
            drop((0..100).map(Gc::new).collect::<Vec<Gc<usize>>>());
        };
        let actor = Actor::make(id, finalize, quiet);
        if id % 2 == 0 {
            actor.link(&actor);
        }
    }
    nothing_left();
    assert_eq!(finalized.sorted(), (0..100).collect::<Vec<_>>());
}

/// A collection counts for the generation asked for and for no other.
#[test]
fn collect_generations() {
    let counts = || rc_gc::stats().generations.map(|generation| generation.collections);
    let [young, middle, old] = counts();
    rc_gc::collect_generation(Generation::Young);
    assert_eq!(counts(), [young + 1, middle, old]);
    rc_gc::collect_generation(Generation::Middle);
    assert_eq!(counts(), [young + 1, middle + 1, old]);
    rc_gc::collect_generation(Generation::Old);
    assert_eq!(counts(), [young + 1, middle + 1, old + 1]);
    rc_gc::collect();
    assert_eq!(counts(), [young + 1, middle + 1, old + 2]);
}

/// Deep nesting of several kinds of containers, with finalizers that collect on the way, needs no stack.
#[test]
fn trashcan() {
    #[derive(Trace)]
    enum Nest {
        List(Vec<Gc<Nest>>),
        Tuple(Option<Gc<Nest>>, u8),
        Actor(Gc<Actor>, Option<Gc<Nest>>),
    }
    const TENTH: usize = if cfg!(miri) { 160 } else { 100_000 };
    crate::kit::in_small_stack(|| {
        let finalized = Log::default();
        let mut nest = Gc::new(Nest::List(Vec::new()));
        for level in 0..10 * TENTH {
            nest = Gc::new(match level % TENTH {
                150 => {
                    let noting = finalized.clone();
                    let finalize = move |actor: &Actor| {
                        noting.note(actor.id);
                        rc_gc::collect();
                    };
                    Nest::Actor(Actor::make(level, finalize, quiet), Some(nest))
                }
                even if even % 2 == 0 => Nest::List(vec![nest]),
                _ => Nest::Tuple(Some(nest), 1),
            });
        }
        drop(nest);
        assert_eq!((finalized.len(), live()), (10, 0));
        nothing_left();
    });
}

/// Threads that nest deeply at the same time do not meet: each drops what it made.
#[test]
fn trashcan_threads() {
    let thread = || {
        let log = Log::default();
        for round in 0..200 {
            let mut top = Node::make(0, &log);
            for id in 1..60 {
                let next = Node::make(id, &log);
                next.link(&top);
                top = next;
            }
            if round % 3 == 0 {
                let bottom = top.links.borrow()[0].clone();
                bottom.link(&top);
            }
        }
        nothing_left();
        assert_eq!(log.len(), 200 * 60);
    };
    let threads = [std::thread::spawn(thread), std::thread::spawn(thread)];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Members that break their own cycle while it is being looked at are freed all the same.
#[test]
fn boom() {
    let dropped = Log::default();
    let make = |id| {
        let noting = dropped.clone();
        let finalize = |actor: &Actor| actor.links.borrow_mut().clear();
        Actor::make(id, finalize, move |actor: &Actor| noting.note(actor.id))
    };
    let pair = [make(0), make(1)];
    close(&pair);
    drop(pair);
    assert_eq!((rc_gc::collect(), dropped.sorted()), (2, vec![0, 1]));
    nothing_left();
}

/// What can hold no handle is not tracked; what can, is.
#[test]
fn is_tracked() {
    assert!(!Gc::is_tracked(&Gc::new(1)));
    assert!(!Gc::is_tracked(&Gc::new(String::from("a"))));
    assert!(!Gc::is_tracked(&Gc::new(vec![Some(1.5)])));
    assert!(!Gc::is_tracked(&Gc::new(Weak::<Node>::new())));
    assert!(Gc::is_tracked(&Gc::new(Vec::<Gc<u8>>::new())));
    assert!(Gc::is_tracked(&Node::make(1, &Log::default())));
}

/// Callbacks of garbage see every `Weak` to the garbage lead to nothing.
#[test]
fn bug1055820b() {
    let log = Log::default();
    let nodes = ring(0..2, &log);
    let weaks: Rc<Vec<_>> = Rc::new(nodes.iter().map(Gc::downgrade).collect());
    let seen = Log::default();
    for node in &nodes {
        let (weaks, seen) = (weaks.clone(), seen.clone());
        Gc::on_dead(node, move || {
            seen.note(weaks.iter().filter(|weak| weak.upgrade().is_some()).count());
        });
    }
    assert!(weaks.iter().all(|weak| weak.upgrade().is_some()));
    drop(nodes);
    assert_eq!((rc_gc::collect(), seen.take()), (2, vec![0, 0]));
    drop(weaks);
    nothing_left();
}

/// A finalizer that drops the members of its own garbage in any order breaks nothing.
#[test]
fn bug21435() {
    for order in 0..120 {
        let dropped = Log::default();
        let actors: Vec<_> = (0..5)
            .map(|id| {
                let finalize = move |actor: &Actor| {
                    // The order-th permutation of what is there, taken one by one.
                    let (mut rest, links) = (order, actor.links.borrow().len());
                    for left in (1..=links).rev() {
                        let taken = actor.links.borrow_mut().remove(rest % left);
                        rest /= left;
                        drop(taken);
                    }
                };
                let noting = dropped.clone();
                Actor::make(id, finalize, move |actor: &Actor| noting.note(actor.id))
            })
            .collect();
        for a in &actors {
            actors.iter().for_each(|b| a.link(b));
        }
        drop(actors);
        assert_eq!((rc_gc::collect(), dropped.sorted()), (5, vec![0, 1, 2, 3, 4]), "{order}");
    }
    nothing_left();
}

/// When a heap ends, cycles in it are finalized and dropped.
#[test]
fn gc_at_shutdown() {
    let log = Log::default();
    let noting = log.clone();
    std::thread::scope(|_| {
        let heap = Heap::new();
        let make = |id| {
            let node = Node::make(id, &noting);
            Gc::new_in(RefCell::new(vec![node]), &heap)
        };
        drop((make(1), make(2)));
        #[derive(Trace)]
        struct Cycle(RefCell<Option<Gc<Cycle>>>, Gc<Node>);
        let cycle = Gc::new_in(Cycle(RefCell::default(), Node::make(3, &noting)), &heap);
        *cycle.0.borrow_mut() = Some(cycle.clone());
        drop(cycle);
        assert_eq!((heap.stats().live, noting.sorted()), (1, vec![1, 2]));
    });
    assert_eq!(log.take(), [3]);
    nothing_left();
}

/// Finalizers run where the program leaves by a panic.
#[test]
fn global_del_system_exit() {
    let log = Log::default();
    let noting = log.clone();
    let left = caught(|| {
        let _held = Actor::make(1, move |actor: &Actor| noting.note(actor.id), quiet);
        panic!("leaving");
    });
    assert_eq!((left, log.take()), (Err::<(), _>("leaving".into()), vec![1]));
    nothing_left();
}

/// Only the counters of the generation that was collected move, and by what was found.
#[test]
fn get_stats() {
    let log = Log::default();
    rc_gc::collect();
    let before = rc_gc::stats().generations;
    drop(ring(0..5, &log));
    assert_eq!(rc_gc::collect_generation(Generation::Young), 5);
    let after = rc_gc::stats().generations;
    assert_eq!(after[0].collected, before[0].collected + 5);
    assert_eq!(after[0].visited, before[0].visited + 5);
    assert!(after[0].candidates > before[0].candidates);
    assert_eq!((after[1], after[2]), (before[1], before[2]));
    nothing_left();
}

/// An object moves up with each collection it survives, and no further than the oldest generation.
#[test]
fn get_objects_generations() {
    let node = Node::make(1, &Log::default());
    let all = [Generation::Young, Generation::Middle, Generation::Old];
    let mut seen = vec![Gc::generation(&node)];
    for generation in all {
        rc_gc::collect_generation(generation);
        seen.push(Gc::generation(&node));
    }
    assert_eq!(seen, [Generation::Young, Generation::Middle, Generation::Old, Generation::Old]);
    drop(node);
    nothing_left();
}

/// There are three generations; others have no name.
#[test]
fn get_objects_arguments() {
    for index in [3, 4, usize::MAX] {
        assert_eq!(Generation::from_index(index), None);
    }
    assert_eq!(Generation::from_index(1), Some(Generation::Middle));
}

/// An object that a type does not show is not garbage with it: its `Weak` stays, and no callback
/// comes, before it dies.
#[test]
fn trash_weakref_clear() {
    struct Hiding {
        shown: RefCell<Option<Gc<Hiding>>>,
        hidden: RefCell<Option<Gc<Node>>>,
    }
    // SAFETY: reports one of the two handles it owns, which is less.
    unsafe impl Trace for Hiding {
        fn trace(&self, tracer: &mut Tracer) {
            self.shown.trace(tracer);
        }
    }
    let (log, called) = (Log::default(), Log::default());
    let node = Node::make(1, &log);
    let weak = Gc::downgrade(&node);
    let (noting, dropped) = (called.clone(), log.clone());
    Gc::on_dead(&node, move || noting.note(dropped.len()));
    let hiding = Gc::new(Hiding { shown: RefCell::default(), hidden: RefCell::new(Some(node)) });
    *hiding.shown.borrow_mut() = Some(hiding.clone());
    rc_gc::collect();
    assert!(weak.upgrade().is_some() && called.len() == 0 && hiding.hidden.borrow().is_some());
    drop(hiding);
    rc_gc::collect();
    // With the object that hid it, by counting; the callback came before the drop.
    assert_eq!((log.take(), called.take()), (vec![1], vec![0]));
    assert!(weak.upgrade().is_none());
    drop(weak);
    nothing_left();
}

/// With `verify`, a type that shows more than it owns is named.
#[cfg(feature = "verify")]
#[test]
fn refcount_errors() {
    struct TooMuch(RefCell<Vec<Gc<TooMuch>>>);
    // SAFETY: none; the feature is there to find out.
    unsafe impl Trace for TooMuch {
        fn trace(&self, tracer: &mut Tracer) {
            self.0.trace(tracer);
            self.0.trace(tracer);
        }
    }
    let one = Gc::new(TooMuch(RefCell::default()));
    one.0.borrow_mut().push(one.clone());
    drop(one.clone());
    let said = caught(rc_gc::collect).unwrap_err();
    assert!(said.contains("TooMuch") && said.contains("rc-gc verify"), "{said}");
    one.0.borrow_mut().clear();
}

/// The number of live objects follows what is made and dropped.
#[test]
fn heap_size() {
    let before = live();
    let objects: Vec<_> = (0..1000).map(Gc::new).collect();
    assert_eq!(live(), before + 1000);
    drop(objects);
    assert_eq!(live(), before);
}
