//! jrsonnet-gcmodule's tests (CPython's algorithm over lists of objects).
//!
//! Without meaning here: handles that are shared by threads and collected under one lock (`thread`
//! tests: `Gc` is not `Send`); counts of tracked objects by list; `update_with` is `make_mut` here.
//! A `Trace` that visits a field twice breaks the contract of an unsafe trait: `verify` names it
//! (`edges`). Unsafe code only for a `Trace` by hand.

use std::cell::RefCell;
use std::collections::HashSet;

use rc_gc::{Gc, Heap, Trace, Tracer};

use crate::kit::{Log, Node, live, nothing_left, ring};

/// What holds no handles is not tracked, and freed by counting.
#[test]
fn simple_untracked() {
    let one = Gc::new(String::from("a"));
    let two = one.clone();
    assert!(!Gc::is_tracked(&one) && Gc::ptr_eq(&one, &two));
    drop((one, two));
    assert_eq!((rc_gc::collect(), live()), (0, 0));
}

/// What can hold them is.
#[test]
fn simple_tracked() {
    let text = Gc::new(String::from("a"));
    let pair = Gc::new(vec![text.clone(), text]);
    assert!(Gc::is_tracked(&pair) && !Gc::is_tracked(&pair[0]));
    assert_eq!(rc_gc::collect(), 0);
    drop(pair);
    assert_eq!((rc_gc::collect(), live()), (0, 0));
}

/// A pair that holds each other: nothing is found while one cell is borrowed, both after.
#[test]
fn simple_cycles() {
    #[derive(Trace)]
    struct List(RefCell<Vec<Box<dyn Trace>>>);
    let (one, two) = (Gc::new(List(RefCell::default())), Gc::new(List(RefCell::default())));
    one.0.borrow_mut().push(Box::new(two.clone()));
    two.0.borrow_mut().push(Box::new(one.clone()));
    let keeper = one.clone();
    drop((one, two));
    {
        let borrowed = keeper.0.borrow_mut();
        assert_eq!((rc_gc::collect(), borrowed.len()), (0, 1));
    }
    drop(keeper);
    assert_eq!((rc_gc::collect(), rc_gc::collect()), (2, 0));
    nothing_left();
}

/// `Weak`s with and without a cycle.
#[test]
fn weakref() {
    let log = Log::default();
    for cyclic in [false, true] {
        let node = Node::make(1, &log);
        let (one, two) = (Gc::downgrade(&node), Gc::downgrade(&node));
        if cyclic {
            node.link(&node);
        }
        assert!(one.upgrade().is_some());
        drop(node);
        assert_eq!(one.upgrade().is_some(), cyclic);
        assert_eq!(rc_gc::collect(), usize::from(cyclic));
        assert!(one.upgrade().is_none() && two.upgrade().is_none());
    }
    nothing_left();
}

/// What counting frees, no collection finds.
#[test]
fn drop_by_ref_count() {
    let log = Log::default();
    let (a, b, c) = (Node::make(0, &log), Node::make(1, &log), Node::make(2, &log));
    a.link(&b);
    b.link(&c);
    a.link(&c);
    drop((c, b));
    assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    drop(a);
    assert_eq!((log.sorted(), rc_gc::collect()), (vec![0, 1, 2], 0));
    nothing_left();
}

/// Three edges from an object to itself.
#[test]
fn self_referential() {
    let log = Log::default();
    let node = Node::make(0, &log);
    (0..3).for_each(|_| node.link(&node));
    assert_eq!(Gc::strong_count(&node), 4);
    drop(node);
    assert_eq!((rc_gc::collect(), log.take()), (1, vec![0]));
    nothing_left();
}

/// Nodes with these edges; all handles but those of `keep` are dropped.
fn graph(nodes: usize, edges: &[(usize, usize)], keep: &[usize], log: &Log) -> Vec<Gc<Node>> {
    let all: Vec<_> = (0..nodes).map(|id| Node::make(id, log)).collect();
    edges.iter().for_each(|&(from, to)| all[from].link(&all[to]));
    keep.iter().map(|&at| all[at].clone()).collect()
}

/// Three in a ring.
#[test]
fn three_object_cycle() {
    let log = Log::default();
    graph(3, &[(0, 1), (1, 2), (2, 0)], &[], &log);
    assert_eq!((rc_gc::collect(), log.sorted()), (3, vec![0, 1, 2]));
    nothing_left();
}

/// A ring that somebody outside of it holds stays with it.
#[test]
fn cycle_and_an_incoming_edge() {
    let log = Log::default();
    let kept = graph(4, &[(0, 1), (1, 2), (2, 0), (3, 0)], &[3], &log);
    assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    kept[0].links.borrow_mut().clear();
    assert_eq!((rc_gc::collect(), log.sorted()), (3, vec![0, 1, 2]));
    drop(kept);
    nothing_left();
}

/// What a ring holds goes with it, unless somebody else holds it.
#[test]
fn cycle_and_an_outgoing_edge() {
    for kept in [false, true] {
        let log = Log::default();
        let keep: &[usize] = if kept { &[3] } else { &[] };
        let kept = graph(4, &[(0, 1), (1, 2), (2, 0), (2, 3)], keep, &log);
        rc_gc::collect();
        assert_eq!(log.len(), 4 - kept.len());
        drop(kept);
        assert_eq!(log.sorted(), [0, 1, 2, 3]);
        nothing_left();
    }
}

/// Rings through objects that are tracked, to some that are not.
#[test]
fn mixed_tracked_and_untracked() {
    #[derive(Trace)]
    struct Mixed(RefCell<Option<Gc<Mixed>>>, Gc<String>, Gc<[u8]>);
    let make = || Mixed(RefCell::default(), Gc::new("a".into()), Gc::from(vec![1, 2]));
    let (one, two) = (Gc::new(make()), Gc::new(make()));
    *one.0.borrow_mut() = Some(two.clone());
    *two.0.borrow_mut() = Some(one.clone());
    let (text, bytes) = (one.1.clone(), two.2.clone());
    drop((one, two));
    // The two, and the leaves that nobody else holds.
    assert_eq!((rc_gc::collect(), live()), (4, 2));
    assert_eq!((text.as_str(), bytes[1]), ("a", 2));
    drop((text, bytes));
    nothing_left();
}

/// One collection after the other: the second finds nothing.
#[test]
fn collect_multi_times() {
    let log = Log::default();
    for count in 1..20 {
        drop(ring(0..count, &log));
        assert_eq!((rc_gc::collect(), rc_gc::collect(), log.len()), (count, 0, count));
        log.take();
    }
    nothing_left();
}

/// Changing a shared value leaves the other handle's as it was, in place where there is no other.
#[test]
fn update_with() {
    let mut one = Gc::new(vec![1]);
    let two = one.clone();
    Gc::make_mut(&mut one).push(2);
    Gc::make_mut(&mut one).push(3);
    assert_eq!((&**one, &**two, live()), (&[1, 2, 3][..], &[1][..], 2));
}

/// An object that reports one edge of two does not free too much: it keeps what it hides.
#[test]
fn trace_that_leaves_out() {
    struct Half(RefCell<[Option<Gc<Half>>; 2]>, Log);
    // SAFETY: reports the first of two handles it owns, which is less.
    unsafe impl Trace for Half {
        fn trace(&self, tracer: &mut Tracer) {
            if let Ok(both) = self.0.try_borrow() {
                both[0].trace(tracer);
            }
        }
    }
    impl Drop for Half {
        fn drop(&mut self) {
            self.1.note(1);
        }
    }
    let log = Log::default();
    let make = || Gc::new(Half(RefCell::default(), log.clone()));
    let (one, two) = (make(), make());
    one.0.borrow_mut()[0] = Some(two.clone());
    two.0.borrow_mut()[0] = Some(one.clone());
    one.0.borrow_mut()[1] = Some(two.clone());
    let keeper = Gc::downgrade(&one);
    drop((one, two));
    assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    keeper.upgrade().unwrap().0.borrow_mut()[1] = None;
    drop(keeper);
    assert_eq!((rc_gc::collect(), log.len()), (2, 2));
    nothing_left();
}

/// A `Weak` that is dropped after its cycle frees the memory once.
#[test]
fn weak_double_free() {
    let log = Log::default();
    let nodes = ring(0..2, &log);
    let weaks: Vec<_> = nodes.iter().chain(&nodes).map(Gc::downgrade).collect();
    drop(nodes);
    assert_eq!((rc_gc::collect(), live()), (2, 2));
    let copies = weaks.clone();
    drop(weaks);
    assert_eq!(live(), 2);
    drop(copies);
    nothing_left();
}

/// Graphs of 16 nodes from the bits of a number, with collections in between: what is dropped is
/// what cannot be reached.
#[test]
fn random_graphs_of_16() {
    for seed in 0..if cfg!(miri) { 5 } else { 3000u64 } {
        let mut bits = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = |below: usize| {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            (bits >> 40) as usize % below
        };
        let log = Log::default();
        let mut all: Vec<Option<Gc<Node>>> = (0..16).map(|id| Some(Node::make(id, &log))).collect();
        let mut edges = Vec::new();
        for _ in 0..next(40) {
            let (from, to) = (next(16), next(16));
            if let (Some(a), Some(b)) = (&all[from], &all[to]) {
                a.link(b);
                edges.push((from, to));
            }
            match next(8) {
                0 => all[next(16)] = None,
                1 => drop(rc_gc::collect()),
                _ => {}
            }
        }
        rc_gc::collect();
        let mut reached: HashSet<usize> = (0..16).filter(|&at| all[at].is_some()).collect();
        loop {
            let size = reached.len();
            for &(from, to) in &edges {
                if reached.contains(&from) {
                    reached.insert(to);
                }
            }
            if reached.len() == size {
                break;
            }
        }
        let gone: Vec<usize> = (0..16).filter(|at| !reached.contains(at)).collect();
        assert_eq!(log.sorted(), gone, "seed {seed}");
        drop(all);
        rc_gc::collect();
        assert_eq!(log.len(), 16 - gone.len(), "seed {seed}");
    }
    nothing_left();
}

/// Object spaces: what one heap collects another does not touch.
#[test]
fn spaces_apart() {
    #[derive(Trace)]
    struct Cell(RefCell<Option<Gc<Cell>>>);
    let heaps = [Heap::new(), Heap::new()];
    for heap in &heaps {
        let cell = Gc::new_in(Cell(RefCell::default()), heap);
        *cell.0.borrow_mut() = Some(cell.clone());
    }
    assert_eq!((heaps[0].stats().live, heaps[1].stats().live), (1, 1));
    assert_eq!((rc_gc::collect(), heaps[0].collect(), heaps[0].collect()), (0, 1, 0));
    assert_eq!((heaps[0].stats().live, heaps[1].stats().live), (0, 1));
    assert_eq!(heaps[1].collect(), 1);
}

/// The same as `simple_cycles` without a trait object between.
#[test]
fn non_trait_cycles() {
    let log = Log::default();
    let mut pair = graph(2, &[(0, 1), (1, 0)], &[0], &log);
    {
        let borrowed = pair[0].links.borrow_mut();
        assert_eq!((rc_gc::collect(), borrowed.len()), (0, 1));
    }
    pair.clear();
    assert_eq!((rc_gc::collect(), rc_gc::collect(), log.sorted()), (2, 0, vec![0, 1]));
    nothing_left();
}

/// The same object, by whichever handle; equal ones are others.
#[test]
fn ptr_eq() {
    let (one, two) = (Gc::new(RefCell::new(1)), Gc::new(RefCell::new(1)));
    *one.borrow_mut() = 2;
    let also_one = one.clone();
    assert!(Gc::ptr_eq(&one, &also_one) && *also_one.borrow() == 2);
    assert!(!Gc::ptr_eq(&one, &two));
}

/// Cycles in one, in two and in many threads, each in its own heap.
#[test]
fn thread_cycles() {
    for many in [1, 2, if cfg!(miri) { 4 } else { 100 }] {
        let work = || {
            let log = Log::default();
            drop(graph(3, &[(0, 1), (1, 2), (2, 0), (1, 1)], &[], &log));
            assert_eq!((rc_gc::collect(), log.sorted()), (3, vec![0, 1, 2]));
            nothing_left();
        };
        let threads: Vec<_> = (0..many).map(|_| std::thread::spawn(work)).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
