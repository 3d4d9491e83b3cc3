//! rust-cc's tests: finalizers that look around, resurrect, fail; panics in every phase. `Weak`s
//! and cleaners are in `rust_cc_weak`.
//!
//! Without meaning here: `finalize_again` and the 14-bit count; a buffer of candidates with a
//! threshold of its own (`buffered_threshold`); `try_unwrap` refused inside a collection (here it
//! answers for the handle at hand: a dead one is given back). Unsafe code only for `Trace`s that
//! panic in the phase they are told to.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rc_gc::{Finalize, Gc, Generation, Thresholds, Trace, Tracer, Weak};

use crate::kit::{Actor, Kept, Log, Node, caught, close, live, nothing_left, quiet, ring};

/// Objects in objects go with the outermost.
#[test]
fn simple() {
    let log = Log::default();
    let outer = Node::make(0, &log);
    let inner = Node::make(1, &log);
    outer.link(&inner);
    drop(inner);
    assert_eq!(log.len(), 0);
    drop(outer);
    assert_eq!((log.take(), rc_gc::collect()), (vec![0, 1], 0));
    nothing_left();
}

/// Through a trait object, the finalizer comes first and the drop second.
#[test]
fn trait_object() {
    trait Greet: Trace {
        fn greet(&self) -> usize;
    }
    #[derive(Trace)]
    #[gc(drop, finalize)]
    struct Object(#[gc(skip)] Log, RefCell<Option<Gc<dyn Greet>>>);
    impl Greet for Object {
        fn greet(&self) -> usize {
            42
        }
    }
    impl Finalize for Object {
        fn finalize(&self) {
            self.0.note(1);
        }
    }
    impl Drop for Object {
        fn drop(&mut self) {
            self.0.note(2);
        }
    }
    let log = Log::default();
    for cyclic in [false, true] {
        let object = Gc::new(Object(log.clone(), RefCell::default()));
        let shown: Gc<dyn Greet> = rc_gc::coerce!(object.clone());
        assert_eq!(shown.greet(), 42);
        if cyclic {
            *object.1.borrow_mut() = Some(shown.clone());
        }
        drop((object, shown));
        assert_eq!(rc_gc::collect(), usize::from(cyclic));
        assert_eq!(log.take(), [1, 2]);
    }
    nothing_left();
}

/// In a finalizer the ring can be walked all around, by handles that all work.
#[test]
fn cyclic_finalization_aliasing() {
    for length in 1..5 {
        let seen = Log::default();
        let noting = seen.clone();
        let finalize = move |actor: &Actor| {
            let mut at = actor.links.borrow()[0].clone();
            let mut steps = 1;
            while at.id != actor.id {
                let next = at.links.borrow()[0].clone();
                at = next;
                steps += 1;
            }
            noting.note(steps);
        };
        let actors: Vec<_> =
            (0..length).map(|id| Actor::make(id, finalize.clone(), quiet)).collect();
        close(&actors);
        drop(actors);
        assert_eq!((rc_gc::collect(), seen.take()), (length, vec![length; length]));
    }
    nothing_left();
}

/// Finalizers that make new garbage, cyclic or not, each time: every collection ends, and so do they.
#[test]
fn finalization_ends() {
    fn maker(left: usize, cyclic: bool, log: &Log) {
        let inner = log.clone();
        let finalize = move |actor: &Actor| {
            inner.note(actor.id);
            if actor.id != 0 {
                maker(actor.id - 1, cyclic, &inner);
            }
        };
        let actor = Actor::make(left, finalize, quiet);
        if cyclic {
            actor.link(&actor);
        }
    }
    for cyclic in [false, true] {
        let log = Log::default();
        maker(20, cyclic, &log);
        for _ in 0..21 {
            rc_gc::collect();
        }
        assert_eq!(log.take(), (0..=20).rev().collect::<Vec<_>>());
        nothing_left();
    }
}

/// A handle that is unique gives its value up; the object is no candidate afterwards.
#[test]
fn try_unwrap() {
    let log = Log::default();
    let node = Node::make(1, &log);
    drop(node.clone());
    let value = Gc::try_unwrap(node).ok().unwrap();
    rc_gc::check().unwrap();
    assert_eq!((rc_gc::collect(), log.len(), live()), (0, 0, 0));
    drop(value);
    assert_eq!(log.take(), [1]);
    let shared = Node::make(2, &log);
    let other = shared.clone();
    let shared = Gc::try_unwrap(shared).err().unwrap();
    assert!(Gc::ptr_eq(&shared, &other));
    drop((shared, other));
    assert_eq!(log.take(), [2]);
    nothing_left();
}

/// Inside a finalizer or a drop of garbage `try_unwrap` never takes what another one holds, or what
/// is dead.
#[test]
fn try_unwrap_inside_a_collection() {
    let answers = Log::default();
    let (first, second) = (answers.clone(), answers.clone());
    let finalize = move |actor: &Actor| {
        let other = actor.links.borrow()[0].clone();
        first.note(usize::from(Gc::try_unwrap(other).is_ok()));
    };
    let dropping = move |actor: &Actor| {
        let other = actor.links.borrow_mut().remove(0);
        second.note(10 + usize::from(Gc::try_unwrap(other).is_ok()));
    };
    let actors: Vec<_> =
        (0..2).map(|id| Actor::make(id, finalize.clone(), dropping.clone())).collect();
    close(&actors);
    drop(actors);
    assert_eq!((rc_gc::collect(), answers.sorted()), (2, vec![0, 0, 10, 10]));
    nothing_left();
}

thread_local!(
    /// Traces until one panics; -1 for never.
    static FUSE: Cell<i32> = const { Cell::new(-1) };
);

/// Its `Trace` panics when the fuse is burnt down.
struct Fused {
    next: RefCell<Option<Gc<Fused>>>,
    log: Log,
}

// SAFETY: reports its one traced handle, or unwinds.
unsafe impl Trace for Fused {
    fn trace(&self, tracer: &mut Tracer) {
        self.next.trace(tracer);
        FUSE.set(FUSE.get() - 1);
        assert!(FUSE.get() != 0, "traced");
    }
}

impl Drop for Fused {
    fn drop(&mut self) {
        self.log.note(1);
    }
}

/// A panic in any trace of any phase frees nothing, keeps nothing, and leaves a collector that works.
#[test]
fn panicking_trace() {
    for held in [false, true] {
        for fuse in 1..10 {
            let log = Log::default();
            let make = || Gc::new(Fused { next: RefCell::default(), log: log.clone() });
            let all = [make(), make(), make()];
            for at in 0..3 {
                *all[at].next.borrow_mut() = Some(all[(at + 1) % 3].clone());
            }
            // Held from outside, it is traced once more, in the phase that rescues.
            let kept = held.then(|| all[1].clone());
            drop(all);
            FUSE.set(fuse);
            let said = caught(rc_gc::collect);
            let traces = if held { 6 } else { 3 };
            assert_eq!(said.is_err(), fuse <= traces, "{held} {fuse}");
            FUSE.set(-1);
            rc_gc::check().unwrap();
            let freed = if held || said.is_err() { 0 } else { 3 };
            assert_eq!(log.len(), freed);
            drop(kept);
            assert_eq!(rc_gc::collect(), 3 - freed);
            assert_eq!(log.len(), 3);
            nothing_left();
        }
    }
}

/// Candidates that a collection did not come to before a trace panicked are candidates still, in
/// every generation.
#[test]
fn panicking_trace_before_many_candidates() {
    for generation in [Generation::Young, Generation::Middle, Generation::Old] {
        for fuse in [1, 2, 17, 100] {
            let log = Log::default();
            for _ in 0..100 {
                let fused = Gc::new(Fused { next: RefCell::default(), log: log.clone() });
                *fused.next.borrow_mut() = Some(fused.clone());
            }
            FUSE.set(fuse);
            assert!(caught(|| rc_gc::collect_generation(generation)).is_err());
            FUSE.set(-1);
            rc_gc::check().unwrap();
            assert_eq!((log.len(), rc_gc::collect(), log.len()), (0, 100, 100));
        }
    }
    nothing_left();
}

/// A panic in a finalizer: the others are finalized, all are dropped, and the panic goes on after.
#[test]
fn panicking_finalize() {
    let (finalized, dropped) = (Log::default(), Log::default());
    let actors: Vec<_> = (0..3)
        .map(|id| {
            let (finalized, dropped) = (finalized.clone(), dropped.clone());
            let finalize = move |actor: &Actor| {
                finalized.note(actor.id);
                assert!(actor.id != 1, "finalizer");
            };
            Actor::make(id, finalize, move |actor: &Actor| dropped.note(actor.id))
        })
        .collect();
    close(&actors);
    drop(actors);
    assert_eq!(caught(rc_gc::collect), Err("finalizer".into()));
    rc_gc::collect();
    assert_eq!((finalized.sorted(), dropped.sorted()), (vec![0, 1, 2], vec![0, 1, 2]));
    nothing_left();
}

/// The same by counting, outside a collection.
#[test]
fn panicking_finalize_alone() {
    let dropped = Log::default();
    let noting = dropped.clone();
    let actor =
        Actor::make(0, |_: &Actor| panic!("alone"), move |actor: &Actor| noting.note(actor.id));
    assert_eq!(caught(|| drop(actor)), Err("alone".into()));
    assert_eq!(dropped.take(), [0]);
    nothing_left();
}

/// Panics in any subset of the drops: all are dropped, once, the first panic goes on.
#[test]
fn panicking_drop() {
    for who in 1..16u32 {
        let dropped = Log::default();
        let actors: Vec<_> = (0..4)
            .map(|id| {
                let noting = dropped.clone();
                Actor::make(id, quiet, move |actor: &Actor| {
                    noting.note(actor.id);
                    assert!(who >> actor.id & 1 == 0, "drop");
                })
            })
            .collect();
        close(&actors);
        drop(actors);
        assert_eq!(caught(rc_gc::collect), Err("drop".into()));
        assert_eq!(dropped.sorted(), [0, 1, 2, 3]);
        nothing_left();
    }
}

/// A finalizer that saves the object and then panics: it is alive, and dies quietly.
#[test]
fn panicking_resurrection() {
    for cyclic in [false, true] {
        let kept = Kept::<Actor>::default();
        let keeping = kept.clone();
        let finalize = move |actor: &Actor| {
            keeping.borrow_mut().extend(actor.handle());
            panic!("saved");
        };
        let actor = Actor::make(7, finalize, quiet);
        if cyclic {
            actor.link(&actor);
        }
        let panicked = caught(|| {
            drop(actor);
            rc_gc::collect();
        });
        assert_eq!(panicked, Err("saved".into()));
        assert_eq!(kept.borrow().iter().map(|actor| actor.id).collect::<Vec<_>>(), [7]);
        rc_gc::check().unwrap();
        kept.borrow_mut().clear();
        nothing_left();
    }
}

/// After a panic in any phase a collection can be asked for again: nothing believes that one is under way.
#[test]
fn not_left_collecting() {
    let log = Log::default();
    for phase in 0..3 {
        let fail = move |here: usize| move |_: &Actor| assert!(phase != here, "phase");
        let actor = Actor::make(0, fail(0), fail(1));
        actor.link(&actor);
        if phase == 2 {
            Gc::on_dead(&actor, || panic!("phase"));
        }
        drop(actor);
        assert_eq!(caught(rc_gc::collect), Err("phase".into()));
        drop(ring(0..2, &log));
        assert_eq!((rc_gc::collect() >= 2, log.sorted()), (true, vec![0, 1]));
    }
    nothing_left();
}

/// Allocations collect of their own accord.
#[test]
fn auto_collect() {
    rc_gc::set_thresholds(Thresholds { young: 100, ..Thresholds::DEFAULT });
    let log = Log::default();
    drop(ring(0..3, &log));
    let made: Vec<_> = (0..10_000).map(Gc::new).collect();
    assert_eq!(log.sorted(), [0, 1, 2]);
    drop(made);
    nothing_left();
}

/// Not where that is switched off.
#[test]
fn disable_auto_collect() {
    rc_gc::disable();
    rc_gc::set_thresholds(Thresholds { young: 1, middle: 1, growth: 1 });
    let log = Log::default();
    drop(ring(0..3, &log));
    let made: Vec<_> = (0..10_000).map(Gc::new).collect();
    assert_eq!((log.len(), rc_gc::collect(), log.len()), (0, 3, 3));
    drop(made);
    nothing_left();
}

/// The candidates of a collection are the objects that lost a handle and kept one, each once.
#[test]
fn buffered_objects_count() {
    let log = Log::default();
    rc_gc::collect();
    let before = rc_gc::stats().generations[2];
    let nodes: Vec<_> = (0..10).map(|id| Node::make(id, &log)).collect();
    for node in &nodes[..4] {
        drop((node.clone(), node.clone()));
    }
    rc_gc::collect();
    let after = rc_gc::stats().generations[2];
    assert_eq!(after.candidates - before.candidates, 4);
    rc_gc::collect();
    assert_eq!(rc_gc::stats().generations[2].candidates, after.candidates);
    drop(nodes);
    nothing_left();
}

/// A web of objects in vectors, boxes and options is collected whole.
#[test]
fn complex() {
    #[derive(Trace)]
    struct A(Gc<B>);
    #[derive(Trace)]
    struct B(Gc<C>);
    #[derive(Trace)]
    struct C {
        a: RefCell<Option<Gc<A>>>,
        b: Gc<D>,
    }
    #[derive(Trace)]
    struct D(RefCell<Option<Gc<C>>>);
    let c = Gc::new(C { a: RefCell::default(), b: Gc::new(D(RefCell::default())) });
    let a = Gc::new(A(Gc::new(B(c.clone()))));
    *c.b.0.borrow_mut() = Some(c.clone());
    *c.a.borrow_mut() = Some(a.clone());
    assert!(Gc::ptr_eq(&a.0.0, &c));
    drop((a, c));
    assert_eq!(rc_gc::collect(), 4);
    nothing_left();
}

/// A finalizer that takes one member out of its own garbage: the rest goes, the member stays.
#[test]
fn finalization_test() {
    let kept = Kept::<Actor>::default();
    let keeping = kept.clone();
    let dropped = Log::default();
    let noting = || {
        let dropped = dropped.clone();
        move |actor: &Actor| dropped.note(actor.id)
    };
    let root = Actor::make(
        0,
        move |actor: &Actor| {
            let taken = actor.links.borrow_mut().remove(1);
            taken.links.borrow_mut().clear();
            keeping.borrow_mut().push(taken);
        },
        noting(),
    );
    let (one, two) = (Actor::make(1, quiet, noting()), Actor::make(2, quiet, noting()));
    for member in [&one, &two] {
        root.link(member);
        member.link(&root);
    }
    drop((root, one, two));
    rc_gc::collect();
    assert_eq!((dropped.sorted(), kept.borrow()[0].id), (vec![0, 1], 2));
    kept.borrow_mut().clear();
    assert_eq!(dropped.take(), [2]);
    nothing_left();
}

/// A cycle through a box of an unknown type.
#[test]
fn box_test() {
    #[derive(Trace)]
    struct Holder(RefCell<Option<Box<dyn Trace>>>);
    #[derive(Trace)]
    struct Inner(Gc<Holder>, u8);
    let holder = Gc::new(Holder(RefCell::default()));
    let inner = Inner(holder.clone(), 1);
    assert!(Gc::ptr_eq(&inner.0, &holder) && inner.1 == 1);
    *holder.0.borrow_mut() = Some(Box::new(inner));
    drop(holder);
    assert_eq!(rc_gc::collect(), 1);
    nothing_left();
}

/// Values of every alignment are whole after a collection that runs beside them.
#[test]
fn alignment_test() {
    macro_rules! aligned {
        ($($align:literal)*) => {$({
            #[derive(Trace)]
            #[repr(align($align))]
            struct Aligned(u8, RefCell<Option<Gc<Aligned>>>);
            let gc = Gc::new(Aligned(7, RefCell::default()));
            *gc.1.borrow_mut() = Some(gc.clone());
            assert!(Gc::as_ptr(&gc).addr().is_multiple_of($align));
            rc_gc::collect_generation(Generation::Young);
            assert_eq!(gc.0, 7);
            drop(gc);
            assert_eq!(rc_gc::collect(), 1);
        })*};
    }
    aligned!(1 2 4 8 16 32 64 128);
    nothing_left();
}

/// An object may be made, linked and let go of while a finalizer runs: it is seen as it is after.
#[test]
fn a_finalizer_changes_the_graph() {
    let dropped = Log::default();
    let fresh: Rc<RefCell<Option<Weak<Actor>>>> = Rc::default();
    let (noting, making) = (dropped.clone(), fresh.clone());
    let finalize = move |actor: &Actor| {
        let noting = noting.clone();
        let new = Actor::make(5, quiet, move |actor: &Actor| noting.note(actor.id));
        *making.borrow_mut() = Some(Gc::downgrade(&new));
        // The new one holds the garbage, the garbage holds the new one.
        new.links.borrow_mut().extend(actor.handle());
        actor.links.borrow_mut().push(new);
    };
    let noting = dropped.clone();
    let old = Actor::make(4, finalize, move |actor: &Actor| noting.note(actor.id));
    old.link(&old);
    drop(old);
    rc_gc::collect();
    // Held by an object that the collection did not look at: it is alive, and whole.
    assert_eq!(dropped.len(), 0);
    let new = fresh.take().and_then(|weak| weak.upgrade()).expect("nothing was dropped");
    assert_eq!(new.links.borrow()[0].id, 4);
    drop(new);
    rc_gc::collect();
    assert_eq!(dropped.sorted(), [4, 5]);
    nothing_left();
}
