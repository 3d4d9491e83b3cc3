//! What no collector's suite asks: the ends of counts, edges between generations, borrows that are never
//! returned, threads that end, user code that collects, memory that ends.
//!
//! In other files of this folder's parent: a list of ten million (`bounds`); 2^30 clones, a leaked
//! borrow in garbage, a thread that ends with leaked handles (`leaks`, which leak by design);
//! memory that ends (`memory_ends`, which ends processes). Without meaning here: freezing a heap,
//! which is not offered. Unsafe code only for a `Trace` that collects.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::{Mutex, RwLock};

use rc_gc::{Gc, Generation, Heap, Trace, Tracer};

use crate::kit::{Actor, Log, Node, caught, close, live, nothing_left, quiet, ring};

const GENERATIONS: [Generation; 3] = [Generation::Young, Generation::Middle, Generation::Old];

/// More handles than 2^14, than 2^16, and than a collection can count down in 24 bits.
#[test]
fn many_handles() {
    let log = Log::default();
    for count in [1 << 14, (1 << 16) + 1, (1 << 24) + 100] {
        let node = Node::make(0, &log);
        node.link(&node);
        let handles: Vec<_> = (0..count).map(|_| node.clone()).collect();
        assert_eq!(Gc::strong_count(&node), count + 2);
        assert_eq!((rc_gc::collect(), log.len()), (0, 0));
        drop((handles, node));
        assert_eq!((rc_gc::collect(), log.take()), (1, vec![0]));
    }
    nothing_left();
}

/// An object with more edges into it than 24 bits can count is collected if all are from garbage,
/// and not if all but one are.
#[test]
fn many_edges() {
    #[derive(Trace)]
    struct Hub(RefCell<Vec<Gc<Hub>>>);
    let hub = Gc::new(Hub(RefCell::default()));
    let weak = Gc::downgrade(&hub);
    // As many edges as can be counted, and one handle more.
    let mut edges = Vec::with_capacity((1 << 24) + 10);
    edges.extend((0..(1 << 24) - 1).map(|_| hub.clone()));
    *hub.0.borrow_mut() = edges;
    drop(hub.clone());
    assert_eq!((rc_gc::collect(), hub.0.borrow().len()), (0, (1 << 24) - 1));
    hub.0.borrow_mut().extend((0..11).map(|_| hub.clone()));
    assert_eq!((rc_gc::collect(), hub.0.borrow().len()), (0, (1 << 24) + 10));
    drop(hub);
    assert_eq!(rc_gc::collect(), 1);
    assert!(weak.upgrade().is_none());
    drop(weak);
    nothing_left();
}

/// A node that reached the generation with this number, by the collections that lead there.
fn aged(id: usize, age: usize, log: &Log) -> Gc<Node> {
    let node = Node::make(id, log);
    GENERATIONS.iter().take(age).for_each(|&generation| {
        rc_gc::collect_generation(generation);
    });
    assert_eq!(Gc::generation(&node), GENERATIONS[age]);
    node
}

/// Edges from old to young and back, for each pair of ages: garbage waits for exactly the
/// collection that covers its oldest member, and what is held from outside, by the older or the
/// younger, stays whichever is collected.
#[test]
fn edges_between_generations() {
    for (older, younger) in [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (2, 2)] {
        for held in [None, Some(0), Some(1)] {
            let log = Log::default();
            let pair = [aged(0, older, &log), aged(1, younger, &log)];
            pair[0].link(&pair[1]);
            pair[1].link(&pair[0]);
            let keeper = held.map(|at: usize| pair[at].clone());
            drop(pair);
            for (number, generation) in GENERATIONS.into_iter().enumerate() {
                rc_gc::collect_generation(generation);
                let gone = if keeper.is_none() && number >= older { 2 } else { 0 };
                assert_eq!(log.len(), gone, "{older} {younger} {held:?}: {generation:?}");
            }
            drop(keeper);
            rc_gc::collect();
            assert_eq!(log.sorted(), [0, 1]);
        }
    }
    nothing_left();
}

/// A young ring that an old object holds survives young collections, and dies with the edge.
#[test]
fn old_holds_young() {
    let log = Log::default();
    let old = aged(0, 2, &log);
    let young = ring(1..4, &log);
    old.link(&young[0]);
    drop(young);
    for generation in [Generation::Young, Generation::Young, Generation::Middle, Generation::Old] {
        assert_eq!((rc_gc::collect_generation(generation), log.len()), (0, 0));
    }
    let cut = old.links.borrow_mut().pop();
    drop(cut);
    // The ring is old by now.
    assert_eq!((rc_gc::collect_generation(Generation::Middle), log.len()), (0, 0));
    assert_eq!((rc_gc::collect(), log.sorted()), (3, vec![1, 2, 3]));
    drop(old);
    nothing_left();
}

/// A young ring that holds an old object dies alone; the old one stays, counted right.
#[test]
fn young_holds_old() {
    let log = Log::default();
    let old = aged(0, 2, &log);
    let young = ring(1..4, &log);
    young.iter().for_each(|node| node.link(&old));
    assert_eq!(Gc::strong_count(&old), 4);
    drop(young);
    assert_eq!(rc_gc::collect_generation(Generation::Young), 3);
    assert_eq!((log.sorted(), Gc::strong_count(&old)), (vec![1, 2, 3], 1));
    drop(old);
    nothing_left();
}

/// Objects move up once per collection, whether they are looked at or not.
#[test]
fn promotion_counts() {
    let log = Log::default();
    let untouched = Node::make(0, &log);
    let candidate = Node::make(1, &log);
    drop(candidate.clone());
    for expected in [Generation::Young, Generation::Middle, Generation::Middle] {
        assert_eq!((Gc::generation(&untouched), Gc::generation(&candidate)), (expected, expected));
        rc_gc::collect_generation(Generation::Young);
    }
    rc_gc::collect_generation(Generation::Middle);
    assert_eq!(Gc::generation(&untouched), Generation::Old);
    assert_eq!(Gc::generation(&candidate), Generation::Old);
    let visited = rc_gc::stats().generations.map(|generation| generation.visited);
    assert_eq!(
        visited,
        [1, 1, 0],
        "a candidate is seen once in each generation it is collected in"
    );
    drop((untouched, candidate));
    nothing_left();
}

/// Locks that a panic poisoned are no reason for another: what they hold is live, until the poison
/// is cleared.
#[test]
fn poisoned_mutex() {
    #[derive(Trace)]
    struct Poisoned(Mutex<Option<Gc<Poisoned>>>, RwLock<Option<Gc<Poisoned>>>);
    let poisoned = Gc::new(Poisoned(Mutex::new(None), RwLock::new(None)));
    let said = caught(|| {
        let (mut first, mut second) = (poisoned.0.lock().unwrap(), poisoned.1.write().unwrap());
        (*first, *second) = (Some(poisoned.clone()), Some(poisoned.clone()));
        assert_eq!(rc_gc::collect(), 0);
        panic!("poison");
    });
    assert_eq!(said, Err::<(), _>("poison".into()));
    assert!(poisoned.0.is_poisoned() && poisoned.1.is_poisoned());
    assert_eq!((rc_gc::collect(), Gc::strong_count(&poisoned)), (0, 3));
    let weak = Gc::downgrade(&poisoned);
    drop(poisoned);
    assert_eq!(rc_gc::collect(), 0);
    let poisoned = weak.upgrade().unwrap();
    poisoned.0.clear_poison();
    poisoned.1.clear_poison();
    drop((poisoned, weak));
    assert_eq!(rc_gc::collect(), 1);
    nothing_left();
}

/// The second of three drops panics: the third is dropped, all memory is freed.
#[test]
fn panic_in_the_second_of_three() {
    for second in 0..3 {
        let dropped = Log::default();
        let actors: Vec<_> = (0..3)
            .map(|id| {
                let noting = dropped.clone();
                Actor::make(id, quiet, move |_: &Actor| {
                    noting.note(1);
                    assert!(noting.len() != second + 1, "planned");
                })
            })
            .collect();
        close(&actors);
        drop(actors);
        assert_eq!(caught(rc_gc::collect), Err("planned".into()));
        assert_eq!((dropped.len(), live()), (3, 0));
    }
    nothing_left();
}

/// A handle in a thread-local that is dropped after the thread's heap ended works until then.
#[test]
fn handle_in_thread_local_outlives_the_heap() {
    /// Looks through its handle while it is dropped.
    struct Late(OnceCell<Gc<String>>, Cell<bool>);
    impl Drop for Late {
        fn drop(&mut self) {
            let text = self.0.take().expect("set by the test");
            assert_eq!(*text, "late");
            let another = text.clone();
            drop(text);
            assert_eq!((Gc::strong_count(&another), self.1.get()), (1, true));
        }
    }
    thread_local!(static LATE: Late = const { Late(OnceCell::new(), Cell::new(false)) });
    for late_first in [false, true] {
        let thread = move || {
            if late_first {
                LATE.with(|late| late.1.set(true));
            }
            let text = Gc::new(String::from("late"));
            LATE.with(|late| {
                late.1.set(true);
                late.0.set(text).ok();
            });
        };
        std::thread::spawn(thread).join().unwrap();
    }
}

/// In the drop of garbage the `Weak`s of all its fellows lead nowhere, whatever the order.
#[test]
fn upgrade_from_another_drop() {
    for first in 0..4 {
        let seen = Log::default();
        let weaks: Rc<RefCell<Vec<rc_gc::Weak<Actor>>>> = Rc::default();
        let actors: Vec<_> = (0..4)
            .map(|id| {
                let (seeing, noting) = (weaks.clone(), seen.clone());
                Actor::make((id + first) % 4, quiet, move |_: &Actor| {
                    let alive = |weak: &&rc_gc::Weak<Actor>| weak.upgrade().is_some();
                    noting.note(seeing.borrow().iter().filter(alive).count());
                })
            })
            .collect();
        weaks.borrow_mut().extend(actors.iter().map(Gc::downgrade));
        close(&actors);
        drop(actors);
        assert_eq!((rc_gc::collect(), seen.take()), (4, vec![0; 4]));
        weaks.borrow_mut().clear();
    }
    nothing_left();
}

/// A collection asked for in a drop, in a collection or not, is harmless; in one it does nothing.
#[test]
fn nested_collection_from_drop() {
    let answers = Log::default();
    let log = Log::default();
    for cyclic in [false, true] {
        let noting = answers.clone();
        let actor = Actor::make(0, quiet, move |_: &Actor| noting.note(rc_gc::collect()));
        if cyclic {
            actor.link(&actor);
        }
        drop(ring(0..2, &log));
        drop(actor);
        rc_gc::collect();
        // By counting there is no collection under way, so that in the drop finds the ring.
        assert_eq!(answers.take(), [if cyclic { 0 } else { 2 }]);
        assert_eq!(log.sorted(), [0, 1]);
    }
    nothing_left();
}

/// A collection asked for in a finalizer or in a callback does nothing.
#[test]
fn nested_collection_from_finalizer_and_callback() {
    let answers = Log::default();
    let (first, second) = (answers.clone(), answers.clone());
    let actor = Actor::make(0, move |_: &Actor| first.note(rc_gc::collect()), quiet);
    actor.link(&actor);
    Gc::on_dead(&actor, move || second.note(rc_gc::collect()));
    drop(actor);
    assert_eq!((rc_gc::collect(), answers.take()), (1, vec![0, 0]));
    nothing_left();
}

/// A `Trace` that collects, against its contract, does nothing by it.
#[test]
fn collection_from_inside_trace() {
    struct Collecting(RefCell<Option<Gc<Collecting>>>, Log);
    // SAFETY: reports its one handle; the collection inside is what the test is about.
    unsafe impl Trace for Collecting {
        fn trace(&self, tracer: &mut Tracer) {
            self.1.note(rc_gc::collect());
            self.0.trace(tracer);
        }
    }
    let log = Log::default();
    let gc = Gc::new(Collecting(RefCell::default(), log.clone()));
    *gc.0.borrow_mut() = Some(gc.clone());
    drop(gc);
    assert_eq!((rc_gc::collect(), log.take()), (1, vec![0]));
    nothing_left();
}

/// A heap that ends while its objects hold others of another heap that ended before.
#[test]
fn heaps_that_end_in_any_order() {
    #[derive(Trace)]
    struct Across(RefCell<Option<Gc<Across>>>, #[gc(skip)] Option<Log>);
    let log = Log::default();
    for order in 0..2 {
        let (one, two) = (Heap::new(), Heap::new());
        let a = Gc::new_in(Across(RefCell::default(), Some(log.clone())), &one);
        let b = Gc::new_in(Across(RefCell::new(Some(a.clone())), Some(log.clone())), &two);
        assert!(a.1.is_some() && b.1.is_some());
        drop(a);
        if order == 0 {
            drop((one, two));
        } else {
            drop((two, one));
        }
        assert!(b.0.borrow().as_ref().is_some_and(|a| a.0.borrow().is_none()));
        drop(b);
    }
    nothing_left();
}

/// Objects made in the drop of garbage are ordinary: those that are kept live, the rest goes next time.
#[test]
fn allocation_in_drop() {
    const MADE: usize = if cfg!(miri) { 20 } else { 1000 };
    let kept = Rc::new(RefCell::new(Vec::new()));
    let log = Log::default();
    let (keeping, noting) = (kept.clone(), log.clone());
    let actor = Actor::make(0, quiet, move |_: &Actor| {
        for id in 0..MADE {
            let made = ring(id..id + 1, &noting);
            if id % 2 == 0 {
                keeping.borrow_mut().extend(made);
            }
        }
    });
    actor.link(&actor);
    drop(actor);
    assert_eq!((rc_gc::collect(), log.len()), (1, 0));
    assert_eq!(rc_gc::collect(), MADE / 2);
    assert!(kept.borrow().iter().all(|node| node.id % 2 == 0 && !Gc::is_dead(node)));
    kept.borrow_mut().clear();
    assert_eq!((rc_gc::collect(), log.len()), (MADE / 2, MADE));
    nothing_left();
}
