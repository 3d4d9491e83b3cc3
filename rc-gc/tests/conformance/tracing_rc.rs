//! tracing-rc's tests (counting, with candidates that age before they are traced).
//!
//! Without meaning here: access by `borrow()`, which fails for what is dead; its `sync` half (`Gc`
//! is not `Send`). Values that change the graph while they are traced (`add`, `drop`, `retain`), or
//! report what they do not own, break the contract of an unsafe trait here: `verify` names them
//! (`python_gc::refcount_errors`). No unsafe here.

use std::cell::RefCell;

use rc_gc::{Gc, Generation};

use crate::kit::{Actor, Kept, Log, Node, nothing_left, quiet};

/// Nodes with these edges; handles to those of `keep` are given back, all others are dropped.
fn graph(nodes: usize, edges: &[(usize, usize)], keep: &[usize], log: &Log) -> Vec<Gc<Node>> {
    let all: Vec<_> = (0..nodes).map(|id| Node::make(id, log)).collect();
    edges.iter().for_each(|(from, to)| all[*from].link(&all[*to]));
    keep.iter().map(|id| all[*id].clone()).collect()
}

/// Builds the graph, collects by generation as objects age and then all; holds that `dead` were
/// dropped by then, and that the rest goes with the handles kept.
fn dies(nodes: usize, edges: &[(usize, usize)], keep: &[usize], dead: &[usize]) {
    for ages in 0..3 {
        let log = Log::default();
        let kept = graph(nodes, edges, keep, &log);
        for generation in [Generation::Young, Generation::Middle].iter().take(ages) {
            rc_gc::collect_generation(*generation);
        }
        rc_gc::collect();
        assert_eq!(log.sorted(), dead, "{edges:?} after {ages} younger collections");
        assert!(kept.iter().all(|node| !Gc::is_dead(node)));
        drop(kept);
        rc_gc::collect();
        assert_eq!(log.len(), nodes - dead.len());
        nothing_left();
    }
}

/// Several edges from one object to the same other one, in both directions.
#[test]
fn parallel_edges() {
    let edges = [(0, 1), (0, 1), (1, 0), (1, 0), (1, 0)];
    dies(2, &edges, &[], &[0, 1]);
    dies(2, &edges, &[1], &[]);
}

/// What hangs below a dead child and is held from outside lives.
#[test]
fn live_grandchildren() {
    dies(4, &[(0, 1), (1, 2), (1, 3)], &[2, 3], &[0, 1]);
    dies(4, &[(0, 1), (1, 0), (1, 2), (1, 3)], &[2, 3], &[0, 1]);
}

/// A dead cycle takes what only it holds, and spares what another one does.
#[test]
fn dead_cycles_and_what_they_hold() {
    let edges = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4)];
    dies(5, &edges, &[], &[0, 1, 2, 3, 4]);
    dies(5, &edges, &[3], &[0, 1, 2]);
    dies(5, &edges, &[4], &[0, 1, 2, 3]);
}

/// A live object that leads into a cycle keeps all of it.
#[test]
fn cycle_live_inbound() {
    dies(4, &[(3, 0), (0, 1), (1, 2), (2, 0)], &[3], &[]);
    dies(4, &[(3, 0), (0, 1), (1, 2), (2, 0)], &[], &[0, 1, 2, 3]);
}

/// The same for an object that is a cycle alone.
#[test]
fn mono() {
    dies(1, &[(0, 0)], &[], &[0]);
    dies(2, &[(0, 0), (0, 1)], &[], &[0, 1]);
    dies(2, &[(0, 0), (0, 1)], &[1], &[0]);
    dies(2, &[(0, 0), (1, 0)], &[1], &[]);
    dies(2, &[(0, 0), (0, 1), (1, 1)], &[], &[0, 1]);
}

/// A candidate that an older cycle holds, and is dropped to by an object that counting frees, is
/// found when both are dead.
#[test]
fn fuzzfound_leak_01() {
    let log = Log::default();
    let kept = graph(4, &[(0, 1), (1, 0), (3, 2), (1, 2), (2, 2)], &[0, 2, 3], &log);
    rc_gc::collect();
    let Ok([old, inner, outer]) = <[_; 3]>::try_from(kept) else { unreachable!() };
    drop(inner);
    drop(outer);
    assert_eq!((rc_gc::collect_generation(Generation::Young), log.take()), (0, vec![3]));
    drop(old);
    rc_gc::collect();
    assert_eq!(log.sorted(), [0, 1, 2]);
    nothing_left();
}

/// A cycle that loses its last handle to the drop of another cycle, in the collection that looked
/// at both, is found too.
#[test]
fn fuzzfound_leak_02() {
    let log = Log::default();
    let held = graph(2, &[(0, 1), (1, 0)], &[0], &log);
    let hidden = RefCell::new(held);
    let holder = Actor::make(5, quiet, move |_: &Actor| drop(hidden.take()));
    holder.link(&holder);
    drop(holder);
    assert_eq!((rc_gc::collect(), log.len()), (1, 0), "held by what no collector sees");
    assert_eq!((rc_gc::collect(), log.sorted()), (2, vec![0, 1]));
    nothing_left();
}

/// What drops of garbage save of each other are dead handles; they keep no value, and cost no later
/// collection its way.
#[test]
fn necromancy() {
    let saved = Kept::<Actor>::default();
    let make = |id| {
        let saved = saved.clone();
        Actor::make(id, quiet, move |actor: &Actor| {
            saved.borrow_mut().extend(actor.links.borrow().iter().cloned());
        })
    };
    let (one, two) = (make(1), make(2));
    one.link(&two);
    two.link(&one);
    drop((one, two));
    assert_eq!(rc_gc::collect(), 2);
    assert_eq!(saved.borrow().len(), 2);
    assert!(saved.borrow().iter().all(|handle| Gc::try_get(handle).is_none()));
    assert_eq!(rc_gc::collect(), 0);
    saved.take();
    nothing_left();
}
