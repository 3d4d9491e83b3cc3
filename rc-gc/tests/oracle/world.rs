//! The objects of the random programs, and the model that they report to.
//!
//! ```text
//! program ──► roots ──► Gc<dyn Object> ──► edges           what the collector sees
//!    │                        │ drop, finalizer, callback
//!    └──► World { edges, gone, saved, ... } ◄──┘           what the model knows: numbers
//! ```
//!
//! Three types of object share one graph: a plain one, one with a finalizer, one too large for a
//! pool. What their user code does is decided by seed and number alone, not by the order in which
//! it runs. Unsafe code only for a `Trace` that panics when it is told to.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use rc_gc::{Finalize, Gc, Heap, Trace, Tracer, Weak};

/// xorshift, so that a seed is all there is to a failure.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
}

/// What user code does beside noting that it ran.
#[derive(Clone, Copy, Default)]
pub(crate) struct Plan {
    /// Finalizers save, cut and link.
    pub(crate) finalizers: bool,
    /// Drops collect.
    pub(crate) collect_in_drop: bool,
    /// Drops make garbage of their own.
    pub(crate) allocate_in_drop: bool,
    /// Drops move their handles out, and keep what `Weak`s lead to.
    pub(crate) move_out_of_drop: bool,
}

/// The model, and what all objects of a round report to.
#[derive(Default)]
pub(crate) struct World {
    seed: u64,
    pub(crate) plan: Plan,
    /// By number: where its handles lead.
    pub(crate) edges: RefCell<Vec<Vec<usize>>>,
    pub(crate) gone: RefCell<HashSet<usize>>,
    finalized: RefCell<HashSet<usize>>,
    /// Objects with a callback, and those whose callback ran.
    pub(crate) watched: RefCell<HashSet<usize>>,
    pub(crate) called: RefCell<HashSet<usize>>,
    /// Handles that user code saved, in an object of another heap: roots for this one.
    pub(crate) saved: Gc<RefCell<Vec<Gc<dyn Object>>>>,
    other: Heap,
    /// Dead handles that drops moved out.
    pub(crate) graves: RefCell<Vec<Gc<dyn Object>>>,
    pub(crate) weaks: RefCell<Vec<(usize, Weak<dyn Object>)>>,
    /// The object that `get_mut` gave out.
    pub(crate) borrowed: Cell<Option<usize>>,
    /// User calls (drops, finalizers, callbacks) so far, and the one that is to panic; the same for traces.
    pub(crate) calls: Cell<usize>,
    pub(crate) panic_at: Cell<usize>,
    pub(crate) traces: Cell<usize>,
    pub(crate) trace_panic_at: Cell<usize>,
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan) -> Rc<World> {
        let other = Heap::new();
        let saved = Gc::new_in(RefCell::default(), &other);
        Rc::new(World { seed, plan, saved, other, ..World::default() })
    }

    /// A number below `n` that depends on the object and the purpose alone.
    pub(crate) fn decide(&self, id: usize, purpose: usize, n: usize) -> usize {
        Random::new(self.seed ^ (id as u64) << 32 ^ (purpose as u64) << 56).below(n)
    }

    fn call(&self) {
        count(&self.calls, &self.panic_at);
    }

    /// Inside user code: this heap's collection does nothing if one is under way, the other heap's
    /// finds nothing, and takes no object of this heap for its own.
    fn collect(&self) {
        assert!(rc_gc::collect() < 1_000_000);
        drop(self.saved.clone());
        assert_eq!(self.other.collect(), 0);
        self.other.check().unwrap();
        rc_gc::check().unwrap();
    }

    /// A `Weak` leads to an object that is whole, or nowhere.
    fn look_around(&self, id: usize) -> Option<Gc<dyn Object>> {
        let weaks = self.weaks.borrow();
        let (number, weak) = weaks.get(self.decide(id, 1, weaks.len().max(1)))?;
        let found = weak.upgrade()?;
        found.body().check(*number);
        Some(found)
    }
}

fn count(calls: &Cell<usize>, panic_at: &Cell<usize>) {
    calls.set(calls.get() + 1);
    if calls.get() == panic_at.get() && !std::thread::panicking() {
        std::panic::resume_unwind(Box::new("planned"));
    }
}

/// An object of the graph.
pub(crate) trait Object: Trace {
    fn body(&self) -> &Body;
    fn body_mut(&mut self) -> &mut Body;
}

/// What all kinds of objects have.
#[derive(Trace)]
pub(crate) struct Body {
    pub(crate) id: usize,
    pub(crate) edges: RefCell<Vec<Gc<dyn Object>>>,
    me: RefCell<Option<Weak<dyn Object>>>,
    text: Gc<String>,
    #[gc(skip)]
    world: Rc<World>,
    fuse: Fuse,
}

/// A part whose `Trace` may panic, and must when its object, of this number, is in somebody's `get_mut`.
struct Fuse(Rc<World>, usize);

// SAFETY: owns no handle.
unsafe impl Trace for Fuse {
    fn trace(&self, _: &mut Tracer) {
        assert_ne!(self.0.borrowed.get(), Some(self.1), "looked into while it is changed");
        count(&self.0.traces, &self.0.trace_panic_at);
    }
}

#[derive(Trace)]
#[gc(drop)]
struct Plain(Body);

#[derive(Trace)]
#[gc(drop, finalize)]
struct Finalized(Body);

#[derive(Trace)]
#[gc(drop, finalize)]
struct Large(Body, [u64; 64]);

macro_rules! objects {
    ($($name:ident)*) => {$(
        impl Object for $name {
            fn body(&self) -> &Body {
                &self.0
            }

            fn body_mut(&mut self) -> &mut Body {
                &mut self.0
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.dropped();
            }
        }
    )*};
}

objects!(Plain Finalized Large);

impl Finalize for Finalized {
    fn finalize(&self) {
        self.0.finalized();
    }
}

impl Finalize for Large {
    fn finalize(&self) {
        assert_eq!(self.1, [7; 64]);
        self.0.finalized();
    }
}

#[derive(Trace)]
struct Ring(RefCell<Option<Gc<Ring>>>);

/// A new object, known to the model.
pub(crate) fn make(world: &Rc<World>) -> Gc<dyn Object> {
    // Either call may collect, and panic as planned; the second has made its object by then.
    // Finalizers make none.
    let id = world.edges.borrow().len();
    let text = Gc::new(id.to_string());
    world.edges.borrow_mut().push(Vec::new());
    let body = Body {
        id,
        edges: RefCell::default(),
        me: RefCell::default(),
        text,
        world: world.clone(),
        fuse: Fuse(world.clone(), id),
    };
    let object: Gc<dyn Object> = match world.decide(id, 2, 8) {
        0..=3 => rc_gc::coerce!(Gc::new(Plain(body))),
        4..=6 => rc_gc::coerce!(Gc::new(Finalized(body))),
        _ => rc_gc::coerce!(Gc::new(Large(body, [7; 64]))),
    };
    if world.decide(id, 3, 2) == 0 {
        *object.body().me.borrow_mut() = Some(Gc::downgrade(&object));
    }
    if world.decide(id, 4, 4) == 0 {
        world.watched.borrow_mut().insert(id);
        let world = world.clone();
        Gc::on_dead(&object, move || {
            assert!(!world.gone.borrow().contains(&id), "a callback after the drop");
            assert!(world.called.borrow_mut().insert(id), "a callback came twice");
            world.look_around(id);
            world.call();
        });
    }
    object
}

impl Body {
    fn handle(&self) -> Option<Gc<dyn Object>> {
        self.me.borrow().as_ref()?.upgrade()
    }

    /// It is the object with this number, and whole.
    pub(crate) fn check(&self, id: usize) {
        assert_eq!((self.id, self.text.as_str()), (id, id.to_string().as_str()));
        assert!(!self.world.gone.borrow().contains(&id), "a handle leads to what was dropped");
    }

    fn finalized(&self) {
        let world = &self.world;
        assert!(world.finalized.borrow_mut().insert(self.id), "a finalizer ran twice");
        for other in self.edges.borrow().iter() {
            assert!(!Gc::is_dead(other), "a dead handle in a finalizer");
            other.body().check(other.body().id);
        }
        if let Some(me) = self.handle() {
            assert_eq!(me.body().id, self.id);
        }
        world.look_around(self.id);
        if world.plan.finalizers {
            self.act();
        }
        world.call();
    }

    /// What a finalizer does to the graph: the model first, then the objects.
    fn act(&self) {
        let world = &self.world;
        let neighbour = self.edges.borrow().first().cloned();
        match world.decide(self.id, 5, 12) {
            0 => world.saved.borrow_mut().extend(self.handle()),
            1 => world.saved.borrow_mut().extend(neighbour),
            2 => cut(world, self),
            3 => (0..self.edges.borrow().len()).for_each(|_| cut(world, self)),
            4 => neighbour.iter().for_each(|neighbour| cut(world, neighbour.body())),
            5 => {
                let next =
                    neighbour.and_then(|n| n.body().edges.try_borrow().ok()?.first().cloned());
                next.iter().for_each(|next| link(world, self, next));
            }
            6 => {
                let (keeper, me) = (world.saved.borrow().first().cloned(), self.handle());
                if let (Some(keeper), Some(me)) = (keeper, me) {
                    link(world, keeper.body(), &me);
                }
            }
            7 => world.collect(),
            _ => {}
        }
    }

    fn dropped(&mut self) {
        let world = self.world.clone();
        assert!(world.gone.borrow_mut().insert(self.id), "object {} was dropped twice", self.id);
        assert!(self.handle().is_none(), "a Weak of garbage leads somewhere in Drop");
        let watched = world.watched.borrow().contains(&self.id);
        assert_eq!(world.called.borrow().contains(&self.id), watched, "callback before drop");
        for other in self.edges.get_mut() {
            // Dead or alive; a handle that is not dead leads to a whole value.
            if let Some(other) = Gc::try_get(other) {
                other.body().check(other.body().id);
            }
            drop(other.clone());
        }
        let found = world.look_around(self.id);
        if world.plan.move_out_of_drop && world.decide(self.id, 6, 3) == 0 {
            let (dead, alive): (Vec<_>, Vec<_>) =
                self.edges.get_mut().drain(..).partition(Gc::is_dead);
            world.graves.borrow_mut().extend(dead);
            world.saved.borrow_mut().extend(alive);
            world.saved.borrow_mut().extend(found);
        }
        if world.plan.collect_in_drop {
            world.collect();
        }
        if world.plan.allocate_in_drop {
            let ring = Gc::new(Ring(RefCell::new(None)));
            *ring.0.borrow_mut() = Some(ring.clone());
        }
        world.call();
    }
}

/// Adds a handle to an object, and the edge to the model; not where the object's cell is borrowed.
pub(crate) fn link(world: &World, from: &Body, to: &Gc<dyn Object>) {
    if let Ok(mut edges) = from.edges.try_borrow_mut() {
        world.edges.borrow_mut()[from.id].push(to.body().id);
        edges.push(to.clone());
    }
}

/// Takes the last handle out of an object, and the edge out of the model.
pub(crate) fn unlink(world: &World, from: &Body) -> Option<Gc<dyn Object>> {
    let edge = from.edges.try_borrow_mut().ok()?.pop()?;
    assert_eq!(world.edges.borrow_mut()[from.id].pop(), Some(edge.body().id));
    Some(edge)
}

/// `unlink`, and lets go of the handle.
fn cut(world: &World, from: &Body) {
    drop(unlink(world, from));
}
