//! The objects of the random programs, and what they can do to one another.
//!
//! ```text
//! program ─┐
//! drop     ├─► act ─► World { roots, weaks, graves, heaps } ─► objects ─► drop, finalizer, callback, clone ─► act ...
//! hook ... ┘
//! ```
//!
//! No list of the world is borrowed while user code runs, so that `act` works at any depth. Unsafe
//! code only for a `Trace` that panics.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use rc_gc::{Finalize, Gc, Heap, Trace, Tracer, Weak};

use crate::act::act;

/// Something was seen that must not be. (A panic would not do: only the first of several goes on.)
pub(crate) static FAILED: AtomicBool = AtomicBool::new(false);

/// What must hold.
#[track_caller]
pub(crate) fn must(holds: bool, what: &str) {
    if !holds && !FAILED.swap(true, Ordering::Relaxed) {
        eprintln!("{}: {what}", std::panic::Location::caller());
    }
}

pub(crate) type Handle = Gc<dyn Object>;

/// All that user code can reach. One for each thread; dropped at its end, before or after the
/// thread's heap.
#[derive(Default)]
pub(crate) struct World {
    state: Cell<u64>,
    /// How deep `act` is in itself; how often it may still run.
    pub(crate) depth: Cell<u32>,
    pub(crate) budget: Cell<u32>,
    pub(crate) panics: Cell<bool>,
    /// Calls of `Trace` until one panics; 0: none does.
    pub(crate) fuse: Cell<u32>,
    pub(crate) roots: RefCell<Vec<Handle>>,
    pub(crate) plains: RefCell<Vec<Gc<Plain>>>,
    pub(crate) weaks: RefCell<Vec<Weak<dyn Object>>>,
    /// Dead handles.
    pub(crate) graves: RefCell<Vec<Handle>>,
    pub(crate) heaps: RefCell<Vec<Rc<Heap>>>,
    born: Cell<u32>,
    gone: RefCell<HashSet<u32>>,
}

thread_local!(static WORLD: World = World::default());

/// Runs `f` on the thread's world, if it still has one.
pub(crate) fn with(f: impl FnOnce(&World)) {
    // An error says that the thread ends, and its world is gone.
    WORLD.try_with(f).ok();
}

impl World {
    pub(crate) fn seed(&self, seed: u64) {
        self.state.set(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..8).for_each(|_| assert!(self.below(2) < 2));
    }

    /// xorshift, so that a seed is all there is to a failure.
    pub(crate) fn below(&self, n: usize) -> usize {
        let mut state = self.state.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.state.set(state);
        (state % n as u64) as usize
    }

    /// One of a list, cloned.
    pub(crate) fn pick<T: Clone>(&self, list: &RefCell<Vec<T>>) -> Option<T> {
        let list = list.borrow();
        if list.is_empty() { None } else { list.get(self.below(list.len())).cloned() }
    }

    /// One of a list, taken out.
    pub(crate) fn take<T>(&self, list: &RefCell<Vec<T>>) -> Option<T> {
        let mut list = list.borrow_mut();
        let at = if list.is_empty() { return None } else { self.below(list.len()) };
        Some(list.swap_remove(at))
    }

    /// Puts a handle where it belongs: among the dead or the living.
    pub(crate) fn keep(&self, handle: Handle) {
        let list = if Gc::is_dead(&handle) { &self.graves } else { &self.roots };
        list.borrow_mut().push(handle);
    }

    /// How many objects there were.
    pub(crate) fn born(&self) -> usize {
        self.born.get() as usize
    }

    /// What the world holds, from outside, is alive and whole.
    pub(crate) fn look(&self) {
        for root in &*self.roots.borrow() {
            must(!Gc::is_dead(root), "a root is dead");
            look(root);
        }
        for plain in &*self.plains.borrow() {
            must(!Gc::is_dead(plain), "a root is dead");
        }
    }

    pub(crate) fn body(&self) -> Body {
        let id = self.born.get() + 1;
        self.born.set(id);
        let text = Gc::new(id.to_string());
        Body {
            canary: Canary(id, Cell::new(!id)),
            edges: RefCell::default(),
            slot: Cell::default(),
            once: OnceCell::new(),
            many: RefCell::default(),
            text,
        }
    }
}

/// An object of the graph.
pub(crate) trait Object: Trace + Any {
    fn body(&self) -> &Body;
    fn body_mut(&mut self) -> &mut Body;
}

/// A handle leads to a whole value, or is dead.
pub(crate) fn look(handle: &Handle) {
    if let Some(object) = Gc::try_get(handle) {
        object.body().look();
    }
}

/// What the canary of a value says that is lent: neither whole nor gone.
const LENT: u32 = 1;

/// Says whether its value was dropped, and how often. Its `Trace` panics when the fuse has burnt down.
pub(crate) struct Canary(u32, Cell<u32>);

// SAFETY: owns no handle.
unsafe impl Trace for Canary {
    fn trace(&self, _: &mut Tracer) {
        must(self.1.get() == !self.0, "what is gone is traced");
        let mut burnt = false;
        with(|world| {
            let left = world.fuse.get();
            world.fuse.set(left.saturating_sub(1));
            burnt = left == 1;
        });
        // With the panic hook: more user code.
        assert!(!burnt, "fuse");
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        must(self.1.replace(0) == !self.0, "dropped twice, or never whole");
        with(|world| must(world.gone.borrow_mut().insert(self.0), "dropped twice"));
    }
}

/// What all kinds of objects have.
#[derive(Trace)]
pub(crate) struct Body {
    pub(crate) canary: Canary,
    pub(crate) edges: RefCell<Vec<Handle>>,
    pub(crate) slot: Cell<Option<Handle>>,
    pub(crate) once: OnceCell<Handle>,
    pub(crate) many: RefCell<Option<Gc<[Handle]>>>,
    text: Gc<String>,
}

impl Body {
    /// Nobody else may look from now on, or may again.
    pub(crate) fn lend(&self, lent: bool) {
        let whole = !self.canary.0;
        self.canary.1.set(if lent { LENT } else { whole });
    }

    pub(crate) fn look(&self) {
        must(self.canary.1.get() == !self.canary.0, "a handle leads to what is gone");
        if let Some(text) = Gc::try_get(&self.text) {
            must(*text == self.canary.0.to_string(), "not the text of this object");
        }
    }

    /// The end of an object: some of its handles get away.
    fn ends(&mut self) {
        self.look();
        self.edges.get_mut().iter().for_each(look);
        with(|world| {
            let all: Vec<Handle> = match world.below(3) {
                0 => self.edges.get_mut().drain(..).chain(self.slot.take()).collect(),
                _ => self.edges.get_mut().pop().into_iter().collect(),
            };
            all.into_iter().for_each(|handle| world.keep(handle));
            act(world);
        });
    }
}

#[derive(Trace)]
pub(crate) struct Plain(pub(crate) Body);

#[derive(Trace)]
#[gc(drop)]
pub(crate) struct Dropped(pub(crate) Body);

#[derive(Trace)]
#[gc(drop, finalize)]
pub(crate) struct Finalized(pub(crate) Body);

#[derive(Trace)]
#[gc(finalize)]
pub(crate) struct Large(pub(crate) Body, pub(crate) [u64; 64]);

#[derive(Trace)]
#[gc(drop)]
#[repr(align(32))]
pub(crate) struct Aligned(pub(crate) Body);

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
    )*};
}

objects!(Plain Dropped Finalized Large Aligned);

macro_rules! drops {
    ($($name:ident)*) => {$(
        impl Drop for $name {
            fn drop(&mut self) {
                self.0.ends();
            }
        }
    )*};
}

drops!(Dropped Finalized Aligned);

macro_rules! finalizers {
    ($($name:ident)*) => {$(
        impl Finalize for $name {
            fn finalize(&self) {
                self.0.look();
                // One that went by its count may have handles that are dead already.
                let edges = self.0.edges.try_borrow().map_or(Vec::new(), |edges| edges.clone());
                edges.iter().for_each(look);
                with(|world| {
                    if world.below(2) == 0 {
                        edges.into_iter().take(1).for_each(|edge| world.keep(edge));
                    }
                    act(world);
                });
            }
        }
    )*};
}

finalizers!(Finalized Large);

impl Clone for Plain {
    /// A new object with the same edges; user code on the way.
    fn clone(&self) -> Self {
        let edges = self.0.edges.try_borrow().map_or(Vec::new(), |edges| edges.clone());
        let mut body = None;
        with(|world| {
            act(world);
            body = Some(world.body());
        });
        let body = body.expect("a world: nothing is cloned at the end of a thread");
        body.edges.replace(edges);
        Plain(body)
    }
}
