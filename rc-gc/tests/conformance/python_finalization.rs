//! CPython's test_finalization, the suite of PEP 442: each finalizer once, on whole objects, and
//! what comes back comes back with all it holds.
//!
//! Without meaning here: the legacy finalizers (`legacy`, `legacy_resurrect`, `legacy_self_cycle`):
//! there is one kind. Different on purpose: an object that cannot be in a cycle
//! (`non_gc_resurrect`) is finalized once too, where Python does it again for want of a bit. No
//! unsafe here.

use std::cell::RefCell;

use rc_gc::{Finalize, Gc, Trace, Weak};

use crate::kit::{Actor, Kept, Log, close, live, nothing_left, quiet};

/// What the finalizer of a member does.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    /// Looks at its neighbours only.
    Simple,
    /// Saves itself.
    Resurrector,
    /// Breaks its own links.
    Suicidal,
}
use Kind::{Resurrector, Simple, Suicidal};

/// What a whole test looks at.
#[derive(Default)]
struct Scene {
    finalized: Log,
    dropped: Log,
    kept: Kept<Actor>,
}

impl Scene {
    fn actor(&self, id: usize, kind: Kind) -> Gc<Actor> {
        let (finalized, dropped, kept) =
            (self.finalized.clone(), self.dropped.clone(), self.kept.clone());
        let finalize = move |actor: &Actor| {
            finalized.note(actor.id);
            for link in actor.links.borrow().iter() {
                assert!(link.handle().is_some(), "a neighbour is not whole");
            }
            match kind {
                Simple => {}
                Resurrector => kept.borrow_mut().extend(actor.handle()),
                Suicidal => actor.links.borrow_mut().clear(),
            }
        };
        Actor::make(id, finalize, move |actor: &Actor| dropped.note(actor.id))
    }

    /// A ring of these kinds, `times` over; its handles are dropped and it is collected. What came
    /// back is dropped and collected too: each finalizer ran once by then, and all is gone.
    fn chain(kinds: &[Kind], times: usize) {
        let scene = Scene::default();
        let all: Vec<Kind> = kinds.repeat(times);
        let actors: Vec<_> =
            all.iter().enumerate().map(|(id, &kind)| scene.actor(id, kind)).collect();
        let weaks: Vec<Weak<Actor>> = actors.iter().map(Gc::downgrade).collect();
        close(&actors);
        drop(actors);
        let numbers: Vec<usize> = (0..all.len()).collect();
        rc_gc::collect();
        assert_eq!(scene.finalized.sorted(), numbers, "{kinds:?}");
        // Who comes back: resurrectors, and on along the links that no finalizer broke.
        let mut back = vec![false; all.len()];
        for start in (0..all.len()).filter(|&at| all[at] == Resurrector) {
            let mut at = start;
            loop {
                back[at] = true;
                if all[at] == Suicidal || back[(at + 1) % all.len()] {
                    break;
                }
                at = (at + 1) % all.len();
            }
        }
        for (at, weak) in weaks.iter().enumerate() {
            assert_eq!(weak.upgrade().is_some(), back[at], "{kinds:?}: {at}");
        }
        let resurrectors = all.iter().filter(|&&kind| kind == Resurrector).count();
        assert_eq!(scene.kept.borrow().len(), resurrectors);
        scene.kept.borrow_mut().clear();
        rc_gc::collect();
        assert_eq!((scene.finalized.len(), scene.dropped.sorted()), (0, numbers), "{kinds:?}");
        drop(weaks);
        nothing_left();
    }
}

/// A lone object: finalized and dropped at once, by counting.
#[test]
fn simple() {
    let scene = Scene::default();
    let actor = scene.actor(0, Simple);
    let weak = Gc::downgrade(&actor);
    drop(actor);
    assert_eq!((scene.finalized.take(), scene.dropped.take()), (vec![0], vec![0]));
    assert!(weak.upgrade().is_none());
    assert_eq!(rc_gc::collect(), 0);
    drop(weak);
    nothing_left();
}

/// A lone object that saves itself keeps its `Weak`s, and dies quietly the second time.
#[test]
fn simple_resurrect() {
    let scene = Scene::default();
    let actor = scene.actor(0, Resurrector);
    let weak = Gc::downgrade(&actor);
    drop(actor);
    assert_eq!((scene.finalized.take(), scene.dropped.len()), (vec![0], 0));
    assert!(weak.upgrade().is_some_and(|back| Gc::ptr_eq(&back, &scene.kept.borrow()[0])));
    scene.kept.borrow_mut().clear();
    assert_eq!((scene.finalized.len(), scene.dropped.take()), (0, vec![0]));
    drop(weak);
    nothing_left();
}

/// An object whose type holds no handles.
#[derive(Trace)]
#[gc(finalize)]
struct Leaf {
    me: RefCell<Weak<Leaf>>,
    #[gc(skip)]
    finalized: Log,
    #[gc(skip)]
    kept: Option<Kept<Leaf>>,
}

impl Finalize for Leaf {
    fn finalize(&self) {
        self.finalized.note(1);
        if let Some(kept) = &self.kept {
            kept.borrow_mut().extend(self.me.borrow().upgrade());
        }
    }
}

fn leaf(finalized: &Log, kept: Option<Kept<Leaf>>) -> Gc<Leaf> {
    let leaf = Gc::new_cyclic(|me| Leaf {
        me: RefCell::new(me.clone()),
        finalized: finalized.clone(),
        kept,
    });
    assert!(!Gc::is_tracked(&leaf));
    leaf
}

/// An object that the collector never looks at is finalized by counting.
#[test]
fn non_gc() {
    let finalized = Log::default();
    drop(leaf(&finalized, None));
    assert_eq!((finalized.take(), live()), (vec![1], 0));
    nothing_left();
}

/// So it is if it saves itself; once.
#[test]
fn non_gc_resurrect() {
    let (finalized, kept) = (Log::default(), Kept::<Leaf>::default());
    drop(leaf(&finalized, Some(kept.clone())));
    assert_eq!((finalized.take(), kept.borrow().len()), (vec![1], 1));
    kept.borrow_mut().clear();
    assert_eq!((finalized.len(), live()), (0, 0));
    nothing_left();
}

/// An object that holds itself.
#[test]
fn self_cycle_simple() {
    Scene::chain(&[Simple], 1);
}

/// One that saves itself: a `Weak` stays, a callback does not come before it is dead for good.
#[test]
fn self_cycle_simple_resurrect() {
    Scene::chain(&[Resurrector], 1);
    let (scene, called) = (Scene::default(), Log::default());
    let actor = scene.actor(0, Resurrector);
    actor.link(&actor);
    let noting = called.clone();
    Gc::on_dead(&actor, move || noting.note(1));
    drop(actor);
    assert_eq!((rc_gc::collect(), called.len()), (0, 0));
    scene.kept.borrow_mut().clear();
    assert_eq!((rc_gc::collect(), called.take()), (1, vec![1]));
    nothing_left();
}

/// One whose finalizer breaks the cycle.
#[test]
fn self_cycle_simple_suicide() {
    Scene::chain(&[Suicidal], 1);
}

/// A ring of one kind.
#[test]
fn chain_homogenous() {
    Scene::chain(&[Simple], 3);
}

/// A ring in which all save themselves.
#[test]
fn chain_homogenous_resurrect() {
    Scene::chain(&[Resurrector], 3);
}

/// A ring in which all let go.
#[test]
fn chain_homogenous_suicidal() {
    Scene::chain(&[Suicidal], 3);
}

/// Every other member lets go.
#[test]
fn chain_heterogenous_suicidal_one() {
    Scene::chain(&[Suicidal, Simple], 2);
}

/// Half of the ring lets go.
#[test]
fn chain_heterogenous_suicidal_two() {
    Scene::chain(&[Suicidal, Suicidal, Simple, Simple], 2);
}

/// One saves itself where another lets go.
#[test]
fn chain_heterogenous_resurrect_one() {
    Scene::chain(&[Resurrector, Suicidal], 2);
}

/// The same, with members between that do nothing.
#[test]
fn chain_heterogenous_resurrect_two() {
    Scene::chain(&[Resurrector, Simple, Suicidal], 2);
}

/// The same, the other way round.
#[test]
fn chain_heterogenous_resurrect_three() {
    Scene::chain(&[Suicidal, Simple, Resurrector], 2);
}

/// All rings of up to six members of all kinds.
#[test]
fn every_chain_of_up_to_six() {
    for length in 1..=if cfg!(miri) { 3 } else { 6u32 } {
        for code in 0..3usize.pow(length) {
            let kinds: Vec<Kind> = (0..length)
                .map(|at| [Simple, Resurrector, Suicidal][code / 3usize.pow(at) % 3])
                .collect();
            Scene::chain(&kinds, 1);
        }
    }
}

/// A finalizer that saves a neighbour, not itself, saves what that one holds and nothing else.
#[test]
fn a_neighbour_saved_is_alive_alone() {
    let (kept, dropped) = (Kept::<Actor>::default(), Log::default());
    let keeping = kept.clone();
    let noting = |log: &Log| {
        let log = log.clone();
        move |actor: &Actor| log.note(actor.id)
    };
    let saver = Actor::make(
        0,
        move |actor: &Actor| keeping.borrow_mut().push(actor.links.borrow()[1].clone()),
        noting(&dropped),
    );
    saver.link(&saver);
    saver.link(&Actor::make(1, quiet, noting(&dropped)));
    drop(saver);
    rc_gc::collect();
    assert_eq!(dropped.take(), [0]);
    assert!(kept.borrow()[0].handle().is_some());
    kept.borrow_mut().clear();
    assert_eq!(dropped.take(), [1]);
    nothing_left();
}
