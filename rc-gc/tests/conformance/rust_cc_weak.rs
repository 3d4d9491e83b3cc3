//! rust-cc's tests of `Weak`s at every moment, and of cleaners, here [`Gc::on_dead`].
//!
//! Without meaning here: cleaners run before the drop of the value, never after it, so `after_drop`
//! and `before_drop` are one; a cleaner is not cancelled. No unsafe here.

use std::cell::{Cell, RefCell};

use rc_gc::{Gc, Trace, Weak};

use crate::kit::{Actor, Kept, Log, Node, caught, close, nothing_left, quiet, ring};

/// A `Weak` leads to its object as long as that lives, by whichever handle.
#[test]
fn weak_test() {
    let log = Log::default();
    let node = Node::make(1, &log);
    let weak = Gc::downgrade(&node);
    let again = weak.upgrade().unwrap();
    drop(node);
    assert_eq!((weak.upgrade().map(|node| node.id), Gc::strong_count(&again)), (Some(1), 1));
    drop(again);
    assert!(weak.upgrade().is_none() && log.take() == [1]);
    drop(weak);
    nothing_left();
}

/// So with a slice, a text and a trait object.
#[test]
fn weak_dst() {
    let slice: Gc<[u32]> = Gc::from(vec![1, 2, 3]);
    let text: Gc<str> = Gc::from("text");
    let node = Node::make(4, &Log::default());
    let object: Gc<dyn Trace> = rc_gc::coerce!(node.clone());
    let weaks = (Gc::downgrade(&slice), Gc::downgrade(&text), Gc::downgrade(&object));
    assert_eq!(weaks.0.upgrade().map(|slice| slice[2]), Some(3));
    assert_eq!(weaks.1.upgrade().as_deref(), Some("text"));
    assert!(weaks.2.upgrade().is_some_and(|object| Gc::type_name(&object).contains("Node")));
    let coerced: Weak<dyn Trace> = rc_gc::coerce!(weak: Gc::downgrade(&node));
    assert!(coerced.upgrade().is_some());
    drop((slice, text, node, object));
    assert!(weaks.0.upgrade().is_none() && weaks.1.upgrade().is_none());
    assert!(weaks.2.upgrade().is_none() && coerced.upgrade().is_none());
    drop((weaks, coerced));
    nothing_left();
}

/// The `Weak` of `new_cyclic` leads to nothing inside, and to the object after.
#[test]
fn new_cyclic() {
    let inside = Cell::new(true);
    let gc = Gc::new_cyclic(|me: &Weak<Weak<u8>>| {
        inside.set(me.upgrade().is_some() || me.strong_count() != 0);
        Weak::new()
    });
    assert!(!inside.get());
    assert_eq!(Gc::weak_count(&gc), 0);
    drop(gc);
    nothing_left();
}

/// A `new_cyclic` that panics, with and without its `Weak` saved, leaves no object; what was saved
/// stays dead.
#[test]
fn panicking_new_cyclic() {
    for save in [false, true] {
        let saved: RefCell<Vec<Weak<u32>>> = RefCell::default();
        let said = caught(|| {
            Gc::new_cyclic(|me: &Weak<u32>| {
                if save {
                    saved.borrow_mut().push(me.clone());
                }
                panic!("new_cyclic")
            })
        });
        assert_eq!(said.map(drop), Err("new_cyclic".into()));
        rc_gc::collect();
        assert!(saved.borrow().iter().all(|weak| weak.upgrade().is_none()));
        assert!(saved.borrow().iter().all(|weak| weak.clone().weak_count() == 0));
        saved.borrow_mut().clear();
        nothing_left();
    }
}

/// `Weak::upgrade` of an object: works in its finalizer, not in its drop; alone and in a cycle.
#[test]
fn try_upgrade_in_finalize_and_drop() {
    for cyclic in [false, true] {
        let seen = Log::default();
        let (first, second) = (seen.clone(), seen.clone());
        let actor = Actor::make(
            0,
            move |actor: &Actor| first.note(usize::from(actor.handle().is_some())),
            move |actor: &Actor| second.note(10 + usize::from(actor.handle().is_some())),
        );
        if cyclic {
            actor.link(&actor);
        }
        drop(actor);
        rc_gc::collect();
        assert_eq!(seen.take(), [1, 10]);
    }
    nothing_left();
}

/// The same where the finalizer saves it: the `Weak` works until the second death.
#[test]
fn try_upgrade_and_resurrect() {
    for cyclic in [false, true] {
        let (kept, seen) = (Kept::<Actor>::default(), Log::default());
        let (keeping, noting) = (kept.clone(), seen.clone());
        let actor = Actor::make(
            0,
            move |actor: &Actor| keeping.borrow_mut().extend(actor.handle()),
            move |actor: &Actor| noting.note(usize::from(actor.handle().is_some())),
        );
        let weak = Gc::downgrade(&actor);
        if cyclic {
            actor.link(&actor);
        }
        drop(actor);
        rc_gc::collect();
        assert!(weak.upgrade().is_some() && seen.len() == 0);
        kept.borrow_mut().clear();
        rc_gc::collect();
        assert!(weak.upgrade().is_none() && seen.take() == [0]);
    }
    nothing_left();
}

/// A `Weak` from nowhere leads nowhere, and two of them lead to the same.
#[test]
fn weak_new() {
    let (one, two) = (Weak::<u32>::new(), Weak::<u32>::default());
    assert!(one.upgrade().is_none() && one.ptr_eq(&two) && one.ptr_eq(&one.clone()));
    assert_eq!((one.strong_count(), one.weak_count()), (0, 0));
    let gc = Gc::new(1);
    assert!(!one.ptr_eq(&Gc::downgrade(&gc)) && Gc::downgrade(&gc).ptr_eq(&Gc::downgrade(&gc)));
    drop(gc);
    nothing_left();
}

/// An object whose last `Weak` went before it, or goes with it, is freed once.
#[test]
fn drop_zero_weak_counter() {
    for cyclic in [false, true] {
        let log = Log::default();
        let node = Node::make(1, &log);
        drop(Gc::downgrade(&node));
        assert_eq!(Gc::weak_count(&node), 0);
        if cyclic {
            node.link(&node);
        }
        drop(node);
        assert_eq!((rc_gc::collect(), log.take()), (usize::from(cyclic), vec![1]));
    }
    nothing_left();
}

/// In a drop that panics no `Weak` to the garbage leads anywhere, in a cycle or not.
#[test]
fn upgrade_in_a_drop_that_panics() {
    for length in [1, 3] {
        let seen = Log::default();
        let actors: Vec<_> = (0..length)
            .map(|id| {
                let noting = seen.clone();
                Actor::make(id, quiet, move |actor: &Actor| {
                    noting.note(usize::from(actor.handle().is_some()));
                    assert!(actor.id != 0, "in drop");
                })
            })
            .collect();
        let weaks: Vec<_> = actors.iter().map(Gc::downgrade).collect();
        if length > 1 {
            close(&actors);
        }
        let said = caught(|| {
            drop(actors);
            rc_gc::collect()
        });
        assert_eq!((said.map(drop), seen.take()), (Err("in drop".into()), vec![0; length]));
        assert!(weaks.iter().all(|weak| weak.upgrade().is_none()));
        drop(weaks);
        nothing_left();
    }
}

/// A cleaner runs once, whether the object dies alone or in a cycle, and before its drop.
#[test]
fn cleaner() {
    for cyclic in [false, true] {
        let log = Log::default();
        let node = Node::make(1, &log);
        for number in [10, 11] {
            let log = log.clone();
            Gc::on_dead(&node, move || log.note(number));
        }
        if cyclic {
            node.link(&node);
        }
        drop(node);
        rc_gc::collect();
        assert_eq!(log.take(), [10, 11, 1]);
    }
    nothing_left();
}

/// A cleaner that holds a handle of another cycle lets it go.
#[test]
fn cleaner_with_cyclic_handle() {
    let log = Log::default();
    let held = ring(5..7, &log).remove(0);
    let node = Node::make(1, &log);
    node.link(&node);
    Gc::on_dead(&node, move || assert_eq!(held.id, 5));
    drop(node);
    assert_eq!((rc_gc::collect(), log.take()), (1, vec![1]));
    assert_eq!((rc_gc::collect(), log.sorted()), (2, vec![5, 6]));
    nothing_left();
}

/// Of three cleaners the second panics: the third runs, the value is dropped, the panic goes on.
#[test]
fn cleaner_panic() {
    for cyclic in [false, true] {
        let log = Log::default();
        let node = Node::make(9, &log);
        for number in 0..3 {
            let log = log.clone();
            Gc::on_dead(&node, move || {
                log.note(number);
                assert!(number != 1, "cleaner");
            });
        }
        if cyclic {
            node.link(&node);
        }
        let said = caught(|| {
            drop(node);
            rc_gc::collect();
        });
        assert_eq!((said, log.take()), (Err("cleaner".into()), vec![0, 1, 2, 9]));
        nothing_left();
    }
}

/// A `Weak` taken before its object is part of a cycle leads to it until the cycle is collected,
/// and so do its clones.
#[test]
fn weak_test2() {
    let log = Log::default();
    let one = Node::make(1, &log);
    let early = Gc::downgrade(&one);
    let two = Node::make(2, &log);
    one.link(&two);
    two.link(&one);
    let late = early.clone();
    drop((one, two));
    assert_eq!((early.strong_count(), late.weak_count()), (1, 2));
    drop(late.upgrade().expect("not collected yet"));
    assert_eq!(rc_gc::collect(), 2);
    assert!(early.upgrade().is_none() && late.upgrade().is_none());
    assert_eq!((early.strong_count(), late.weak_count()), (0, 0));
    drop((early, late));
    nothing_left();
}

/// A handle to a handle holds what both lead to.
#[test]
fn cc_of_cc() {
    let log = Log::default();
    let outer = Gc::new(Gc::new(Node::make(1, &log)));
    let inner: Gc<Gc<Node>> = Gc::clone(&outer);
    drop(outer);
    assert_eq!((inner.id, log.len()), (1, 0));
    drop(inner);
    assert_eq!(log.take(), [1]);
    nothing_left();
}

/// Inner objects that are shared go with the last that holds them, at whichever depth.
#[test]
fn less_simple() {
    let log = Log::default();
    let nodes: Vec<_> = (0..4).map(|id| Node::make(id, &log)).collect();
    for (from, to) in [(0, 1), (0, 2), (1, 3), (2, 3)] {
        nodes[from].link(&nodes[to]);
    }
    let mut nodes = nodes.into_iter();
    let top = nodes.next();
    drop(nodes);
    assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    drop(top);
    assert_eq!((rc_gc::collect(), log.sorted()), (0, vec![0, 1, 2, 3]));
    nothing_left();
}

/// An object is finalized once, then dropped, also if the finalizer made a handle to it for a while.
#[test]
fn finalize_drop() {
    let log = Log::default();
    let (first, second) = (log.clone(), log.clone());
    let actor = Actor::make(
        1,
        move |actor: &Actor| {
            first.note(10);
            drop(actor.handle().expect("intact"));
        },
        move |_: &Actor| second.note(20),
    );
    actor.link(&actor);
    drop(actor);
    assert_eq!((rc_gc::collect(), log.take()), (1, vec![10, 20]));
    nothing_left();
}
