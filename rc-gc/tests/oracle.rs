//! Random programs over at most 64 objects against a model: what is dropped is exactly what is
//! unreachable, each object once; and after each full collection a pass over the whole heap, which
//! ignores candidates, finds no garbage either.
//!
//! The model knows roots and edges; it computes what counts keep alive (all but what cycles hold).

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use rc_gc::{Finalize, Gc, Generation, Trace, Weak};

/// What all objects of a round report to.
#[derive(Default)]
struct World {
    dropped: RefCell<Vec<usize>>,
    finalized: RefCell<Vec<usize>>,
    /// Handles that finalizers saved.
    saved: RefCell<Vec<Gc<Node>>>,
    /// User calls (drops, finalizers) so far, and the one that is to panic.
    calls: Cell<usize>,
    panic_at: Cell<usize>,
    /// What a drop does beside.
    collect_in_drop: Cell<bool>,
    allocate_in_drop: Cell<bool>,
    /// Whether finalizers of these save themselves.
    save: RefCell<HashSet<usize>>,
}

impl World {
    fn call(&self) {
        self.calls.set(self.calls.get() + 1);
        if self.calls.get() == self.panic_at.get() && !std::thread::panicking() {
            std::panic::resume_unwind(Box::new("planned"));
        }
    }
}

#[derive(Trace)]
#[gc(drop, finalize)]
struct Node {
    id: usize,
    edges: RefCell<Vec<Gc<Node>>>,
    me: RefCell<Weak<Node>>,
    text: Gc<String>,
    #[gc(skip)]
    world: Rc<World>,
}

impl Finalize for Node {
    fn finalize(&self) {
        self.world.finalized.borrow_mut().push(self.id);
        // Everything is intact.
        for other in self.edges.borrow().iter() {
            assert_eq!(*other.text, other.id.to_string());
        }
        if self.world.save.borrow_mut().remove(&self.id) {
            let me = self.me.borrow().upgrade().expect("a Weak works in a finalizer");
            self.world.saved.borrow_mut().push(me);
        }
        self.world.call();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.world.dropped.borrow_mut().push(self.id);
        assert!(self.me.borrow().upgrade().is_none(), "a Weak of garbage is None in Drop");
        for other in self.edges.borrow().iter() {
            // Dead or alive; a handle that is not dead shows an intact value.
            if let Some(other) = Gc::try_get(other) {
                assert_eq!(*other.text, other.id.to_string());
            }
            drop(other.clone());
        }
        if self.world.collect_in_drop.get() {
            rc_gc::collect();
        }
        if self.world.allocate_in_drop.get() {
            let ring = Gc::new(Ring(RefCell::new(None)));
            *ring.0.borrow_mut() = Some(ring.clone());
        }
        self.world.call();
    }
}

#[derive(Trace)]
struct Ring(RefCell<Option<Gc<Ring>>>);

/// xorshift, so that a seed is all there is to a failure.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
}

/// A program's view (handles) and the model's (numbers), side by side.
struct Round {
    world: Rc<World>,
    random: Random,
    roots: Vec<Gc<Node>>,
    weaks: Vec<(usize, Weak<Node>)>,
    edges: Vec<Vec<usize>>,
    gone: HashSet<usize>,
}

impl Round {
    fn new(seed: u64) -> Round {
        Round {
            world: Rc::default(),
            random: Random(seed | 1),
            roots: Vec::new(),
            weaks: Vec::new(),
            edges: Vec::new(),
            gone: HashSet::new(),
        }
    }

    fn make(&mut self) {
        let id = self.edges.len();
        let node = Gc::new(Node {
            id,
            edges: RefCell::default(),
            me: RefCell::default(),
            text: Gc::new(id.to_string()),
            world: self.world.clone(),
        });
        *node.me.borrow_mut() = Gc::downgrade(&node);
        self.edges.push(Vec::new());
        self.roots.push(node);
    }

    fn step(&mut self) {
        let some = self.roots.len();
        match self.random.below(12) {
            0..=2 if self.edges.len() < 64 => self.make(),
            3..=5 if some > 0 => {
                let (a, b) = (self.random.below(some), self.random.below(some));
                self.edges[self.roots[a].id].push(self.roots[b].id);
                self.roots[a].edges.borrow_mut().push(self.roots[b].clone());
            }
            6 if some > 0 => {
                let a = self.random.below(some);
                let edges = self.roots[a].edges.borrow_mut().pop();
                self.edges[self.roots[a].id].pop();
                drop(edges);
            }
            7 if some > 0 => {
                // Moved out of an object: an edge becomes a root without a new handle.
                let a = self.random.below(some);
                let moved = self.roots[a].edges.borrow_mut().pop();
                self.edges[self.roots[a].id].pop();
                self.roots.extend(moved);
            }
            8 if some > 0 => {
                let a = self.random.below(some);
                self.weaks.push((self.roots[a].id, Gc::downgrade(&self.roots[a])));
            }
            9 if some > 1 => {
                // Moved into an object: a root becomes an edge without a decrement.
                let moved = self.roots.swap_remove(self.random.below(some));
                let a = self.random.below(self.roots.len());
                self.edges[self.roots[a].id].push(moved.id);
                self.roots[a].edges.borrow_mut().push(moved);
            }
            10 if some > 0 => {
                let a = self.random.below(some);
                drop(self.roots.swap_remove(a));
            }
            11 => {
                let which = self.random.below(3);
                let generation = Generation::from_index(which).unwrap();
                rc_gc::collect_generation(generation);
            }
            _ => {}
        }
    }

    fn reachable(&self) -> HashSet<usize> {
        let saved = self.world.saved.borrow();
        let mut pending: Vec<usize> = self.roots.iter().chain(saved.iter()).map(|r| r.id).collect();
        let mut seen = HashSet::new();
        while let Some(id) = pending.pop() {
            if seen.insert(id) {
                pending.extend(&self.edges[id]);
            }
        }
        seen
    }

    /// After a full collection: dropped is what is unreachable, each once.
    fn verify(&mut self, seed: u64) {
        rc_gc::check().unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        assert_eq!(rc_gc::count_garbage_slowly(), 0, "seed {seed}: PURPLE missed garbage");
        for id in self.world.dropped.borrow_mut().drain(..) {
            assert!(self.gone.insert(id), "seed {seed}: object {id} was dropped twice");
        }
        let reachable = self.reachable();
        for id in 0..self.edges.len() {
            let (gone, held) = (self.gone.contains(&id), reachable.contains(&id));
            assert_ne!(gone, held, "seed {seed}: object {id}: gone {gone}, reachable {held}");
        }
        for (id, weak) in &self.weaks {
            assert_eq!(weak.upgrade().is_some(), reachable.contains(id), "seed {seed}: Weak");
        }
        let mut finalized = self.world.finalized.borrow().clone();
        finalized.sort_unstable();
        finalized.dedup();
        let once = finalized.len() == self.world.finalized.borrow().len();
        assert!(once, "seed {seed}: a finalizer ran twice");
    }
}

/// Runs a closure that may panic as planned; any other panic fails the test.
fn planned(f: impl FnOnce()) -> bool {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(()) => false,
        Err(panic) if panic.downcast_ref() == Some(&"planned") => true,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Collects until nothing is freed: finalizers and drops may leave new garbage.
fn collect_all() {
    while planned(|| while rc_gc::collect() != 0 {}) {}
}

fn end(mut round: Round, seed: u64) {
    collect_all();
    round.verify(seed);
    round.world.panic_at.set(0);
    round.roots.clear();
    round.world.save.borrow_mut().clear();
    let saved = round.world.saved.take();
    drop(saved);
    collect_all();
    round.verify(seed);
    assert_eq!(round.gone.len(), round.edges.len(), "seed {seed}");
    drop(round);
    collect_all();
    assert_eq!(rc_gc::stats().live, 0, "seed {seed}: memory is left");
}

#[test]
fn dropped_is_exactly_what_is_unreachable() {
    for seed in 1..4_000u64 {
        let mut round = Round::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for _ in 0..200 {
            round.step();
            if round.random.below(40) == 0 {
                collect_all();
                round.verify(seed);
            }
        }
        end(round, seed);
    }
}

#[test]
fn finalizers_resurrect_what_they_save_and_all_it_reaches() {
    for seed in 1..1_500u64 {
        let mut round = Round::new(seed.wrapping_mul(0xA24B_AED4_963E_E407));
        for _ in 0..200 {
            round.step();
            if round.random.below(8) == 0 && !round.edges.is_empty() {
                let id = round.random.below(round.edges.len());
                round.world.save.borrow_mut().insert(id);
            }
            if round.random.below(40) == 0 {
                collect_all();
                round.verify(seed);
            }
        }
        end(round, seed);
    }
}

#[test]
fn a_collection_and_an_allocation_inside_drop_change_nothing() {
    for seed in 1..800u64 {
        let mut round = Round::new(seed.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        round.world.collect_in_drop.set(seed % 2 == 0);
        round.world.allocate_in_drop.set(seed % 3 != 0);
        for _ in 0..150 {
            round.step();
        }
        end(round, seed);
    }
}

#[test]
fn a_panic_at_any_user_call_keeps_nothing_from_being_dropped() {
    for seed in 1..120u64 {
        for at in 1..24 {
            let mut round = Round::new(seed.wrapping_mul(0xC2B2_AE3D_27D4_EB4F));
            round.world.panic_at.set(at);
            for _ in 0..120 {
                planned(|| round.step());
            }
            planned(|| round.roots.truncate(3));
            round.roots.truncate(3);
            end(round, seed);
        }
    }
}
