//! One random program: its steps, and what must hold after each full collection. Unsafe only to ask
//! the slow pass.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use rc_gc::{Gc, Generation, Thresholds, Weak};

use crate::world::{Object, Plan, Random, World, link, make, unlink};

/// A program's view (handles) and the model's (numbers), side by side.
pub(crate) struct Round {
    pub(crate) world: Rc<World>,
    random: Random,
    roots: Vec<Gc<dyn Object>>,
    /// Objects at most, steps.
    size: usize,
    steps: usize,
    /// A full collection, and all checks, after every so many steps.
    every: usize,
}

impl Round {
    /// An eighth of all programs has up to 64 objects; the others have few.
    pub(crate) fn new(seed: u64, plan: Plan) -> Round {
        let mut random = Random::new(!seed);
        let size = if seed.is_multiple_of(8) { 64 } else { 2 + random.below(12) };
        let steps = size * 3 + random.below(20);
        let world = World::new(seed, plan);
        Round { world, random, roots: Vec::new(), size, steps, every: usize::MAX }
    }

    /// Stress: a full collection after every `k` steps, one that is due at every allocation.
    pub(crate) fn collect_every(&mut self, k: usize) {
        self.every = k;
        rc_gc::set_thresholds(Thresholds { young: 1, middle: 2, growth: 1 });
    }

    /// All steps, with full collections and all checks now and then.
    pub(crate) fn run(&mut self) {
        for step in 1..=self.steps {
            planned(|| self.step());
            if step.is_multiple_of(self.every) || self.random.below(40) == 0 {
                self.collect_all();
                self.verify();
            }
        }
    }

    /// Lets go of everything; then nothing is left.
    pub(crate) fn end(mut self) {
        self.collect_all();
        self.verify();
        self.world.panic_at.set(0);
        self.world.trace_panic_at.set(0);
        // User code may save more while this goes on; what it does is decided by number, so it ends.
        while !self.roots.is_empty() || !self.world.saved.borrow().is_empty() {
            let saved = self.world.saved.take();
            drop((std::mem::take(&mut self.roots), saved));
            self.collect_all();
        }
        self.verify();
        assert_eq!(self.world.gone.borrow().len(), self.world.edges.borrow().len());
        for grave in self.world.graves.take() {
            assert!(Gc::is_dead(&grave));
        }
        self.world.weaks.take();
        self.collect_all();
        rc_gc::check().unwrap();
        assert_eq!(rc_gc::stats().live, 0, "memory is left");
    }

    fn step(&mut self) {
        let world = self.world.clone();
        let some = self.roots.len();
        if some == 0 {
            return self.make();
        }
        let at = self.random.below(some);
        match self.random.below(15) {
            0..=2 => self.make(),
            3..=5 => {
                let to = self.random.below(some);
                link(&world, self.roots[at].body(), &self.roots[to]);
            }
            6 => drop(unlink(&world, self.roots[at].body())),
            7 => {
                // Moved out of an object: an edge becomes a root without a new handle.
                let moved = unlink(&world, self.roots[at].body());
                self.roots.extend(moved);
            }
            8 => {
                let weak = (self.roots[at].body().id, Gc::downgrade(&self.roots[at]));
                world.weaks.borrow_mut().push(weak);
            }
            9 if some > 1 => {
                // Moved into an object: a root becomes an edge without a decrement.
                let moved = self.roots.swap_remove(at);
                let to = self.roots[self.random.below(some - 1)].body();
                world.edges.borrow_mut()[to.id].push(moved.body().id);
                to.edges.borrow_mut().push(moved);
            }
            10 => drop(self.roots.swap_remove(at)),
            11 => self.collect_some(),
            12 => {
                // A cell that is borrowed hides what it holds.
                let root = self.roots[at].clone();
                let _borrowed = root.body().edges.borrow_mut();
                self.collect_some();
            }
            13 => self.change(at),
            _ => {
                // What user code saved becomes a root, or goes.
                let saved = world.saved.borrow_mut().pop();
                if self.random.below(2) == 0 {
                    self.roots.extend(saved);
                }
            }
        }
    }

    /// Changes an object that nobody else holds, and collects meanwhile: it is not looked into.
    fn change(&mut self, at: usize) {
        let mut root = self.roots.swap_remove(at);
        let other = self.roots.get(self.random.below(self.roots.len().max(1))).cloned();
        let id = root.body().id;
        let Some(object) = Gc::get_mut(&mut root) else { return self.roots.push(root) };
        let edges = object.body_mut().edges.get_mut();
        let moved = edges.pop();
        self.world.edges.borrow_mut()[id].pop();
        self.world.borrowed.set(Some(id));
        let panicked = planned(|| self.collect_some());
        self.world.borrowed.set(None);
        if !panicked && let Some(other) = other {
            self.world.edges.borrow_mut()[id].push(other.body().id);
            edges.push(other);
        }
        self.roots.extend(moved);
        self.roots.push(root);
    }

    fn make(&mut self) {
        if self.world.edges.borrow().len() < self.size {
            let object = make(&self.world);
            self.roots.push(object);
        }
    }

    fn collect_some(&mut self) {
        let generation = Generation::from_index(self.random.below(3)).expect("below 3");
        rc_gc::collect_generation(generation);
    }

    /// Collects until nothing is found: user code may leave new garbage. What each full collection
    /// finds is what a pass over the whole heap finds.
    fn collect_all(&self) {
        let found = || {
            let old = rc_gc::stats().generations[2];
            (old.collections, old.collected + old.resurrected)
        };
        loop {
            let slowly = self.garbage() as u64;
            let (runs, before) = found();
            let panicked = planned(|| assert!(rc_gc::collect() < 1_000_000));
            let (more_runs, after) = found();
            assert_eq!(more_runs - runs, 1);
            if !panicked {
                assert_eq!(after - before, slowly, "PURPLE and the whole heap differ");
                if slowly == 0 {
                    return;
                }
            }
        }
    }

    /// What a pass over the whole heap calls garbage; no trace panics in it.
    fn garbage(&self) -> usize {
        let (traces, at) = (self.world.traces.get(), self.world.trace_panic_at.replace(0));
        // SAFETY: nobody is inside `get_mut` or a collection, and no trace panics now.
        let garbage = unsafe { rc_gc::count_garbage_slowly() };
        self.world.traces.set(traces);
        self.world.trace_panic_at.set(at);
        garbage
    }

    fn reachable(&self) -> HashSet<usize> {
        let (saved, edges) = (self.world.saved.borrow(), self.world.edges.borrow());
        let roots = self.roots.iter().chain(saved.iter());
        let mut pending: Vec<usize> = roots.map(|root| root.body().id).collect();
        let mut seen = HashSet::new();
        while let Some(id) = pending.pop() {
            if seen.insert(id) {
                pending.extend(&edges[id]);
            }
        }
        seen
    }

    /// After `collect_all`: dropped is what is unreachable, and only that.
    fn verify(&self) {
        rc_gc::check().unwrap();
        assert_eq!(self.garbage(), 0, "garbage is left");
        let (world, reachable) = (&self.world, self.reachable());
        let gone = world.gone.borrow();
        for id in 0..world.edges.borrow().len() {
            let (gone, held) = (gone.contains(&id), reachable.contains(&id));
            assert_ne!(gone, held, "object {id}: gone {gone}, reachable {held}");
        }
        for (id, weak) in world.weaks.borrow().iter() {
            let found: Option<Gc<dyn Object>> = Weak::upgrade(weak);
            assert_eq!(found.is_some(), reachable.contains(id), "a Weak to {id}");
            found.iter().for_each(|object| object.body().check(*id));
        }
        let watched: HashSet<usize> = world.watched.borrow().intersection(&gone).copied().collect();
        assert_eq!(*world.called.borrow(), watched, "callbacks are of what is gone");
        for grave in world.graves.borrow().iter() {
            assert!(Gc::is_dead(grave) && Gc::is_dead(&grave.clone()));
            assert!(Gc::downgrade(grave).upgrade().is_none());
        }
    }
}

/// Runs a closure that may panic as planned, and whether it did; any other panic fails the test.
fn planned(f: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(()) => false,
        Err(panic) if panic.downcast_ref() == Some(&"planned") => true,
        Err(panic) => resume_unwind(panic),
    }
}
