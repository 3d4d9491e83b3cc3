//! What the modules share: a node that notes its drop, an actor whose finalizer and drop are given to it,
//! and ways to look at what happened. No unsafe here.

use std::any::Any;
use std::cell::RefCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use rc_gc::{Finalize, Gc, Trace, Weak};

/// Numbers, in the order in which things happened.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Vec<usize>>>);

impl Log {
    /// Adds a number.
    pub(crate) fn note(&self, number: usize) {
        self.0.borrow_mut().push(number);
    }

    /// What was noted since the last call.
    pub(crate) fn take(&self) -> Vec<usize> {
        self.0.take()
    }

    /// What was noted since the last call, where the order is not given.
    pub(crate) fn sorted(&self) -> Vec<usize> {
        let mut numbers = self.take();
        numbers.sort_unstable();
        numbers
    }

    /// How much was noted since the last `take`.
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// An object with links to others, that notes its number when it is dropped.
#[derive(Trace)]
#[gc(drop)]
pub(crate) struct Node {
    pub(crate) id: usize,
    pub(crate) links: RefCell<Vec<Gc<Node>>>,
    #[gc(skip)]
    log: Log,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.log.note(self.id);
    }
}

impl Node {
    pub(crate) fn make(id: usize, log: &Log) -> Gc<Node> {
        Gc::new(Node { id, links: RefCell::default(), log: log.clone() })
    }

    pub(crate) fn link(&self, to: &Gc<Node>) {
        self.links.borrow_mut().push(to.clone());
    }
}

/// Nodes with these numbers, each linked to the next and the last to the first.
pub(crate) fn ring(ids: Range<usize>, log: &Log) -> Vec<Gc<Node>> {
    let nodes: Vec<_> = ids.map(|id| Node::make(id, log)).collect();
    for (at, node) in nodes.iter().enumerate() {
        node.link(&nodes[(at + 1) % nodes.len()]);
    }
    nodes
}

/// What an [`Actor`] does when its time has come.
type Act = Box<dyn Fn(&Actor)>;

/// An object with links, whose finalizer and drop do what they are told.
#[derive(Trace)]
#[gc(drop, finalize)]
pub(crate) struct Actor {
    pub(crate) id: usize,
    pub(crate) links: RefCell<Vec<Gc<Actor>>>,
    pub(crate) me: RefCell<Weak<Actor>>,
    #[gc(skip)]
    on_finalize: Act,
    #[gc(skip)]
    on_drop: Act,
}

impl Finalize for Actor {
    fn finalize(&self) {
        (self.on_finalize)(self);
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        (self.on_drop)(self);
    }
}

impl Actor {
    pub(crate) fn make(
        id: usize,
        on_finalize: impl Fn(&Actor) + 'static,
        on_drop: impl Fn(&Actor) + 'static,
    ) -> Gc<Actor> {
        Gc::new_cyclic(|me| Actor {
            id,
            links: RefCell::default(),
            me: RefCell::new(me.clone()),
            on_finalize: Box::new(on_finalize),
            on_drop: Box::new(on_drop),
        })
    }

    pub(crate) fn link(&self, to: &Gc<Actor>) {
        self.links.borrow_mut().push(to.clone());
    }

    /// A handle to itself, while a `Weak` still gives one.
    pub(crate) fn handle(&self) -> Option<Gc<Actor>> {
        self.me.borrow().upgrade()
    }
}

/// Links each actor to the next and the last to the first.
pub(crate) fn close(actors: &[Gc<Actor>]) {
    for (at, actor) in actors.iter().enumerate() {
        actor.link(&actors[(at + 1) % actors.len()]);
    }
}

/// What does nothing.
pub(crate) fn quiet(_: &Actor) {}

/// Handles that outlive what made them.
pub(crate) type Kept<T> = Rc<RefCell<Vec<Gc<T>>>>;

/// The text of a panic.
pub(crate) fn text(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().map_or("?".into(), |text| (*text).into()),
    }
}

/// Runs `f`; its panic as a text.
pub(crate) fn caught<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(text)
}

/// Objects whose memory is in use.
pub(crate) fn live() -> u64 {
    rc_gc::stats().live
}

/// Collects all there is, and holds that nothing is left and all invariants hold.
#[track_caller]
pub(crate) fn nothing_left() {
    while rc_gc::collect() != 0 {}
    rc_gc::check().unwrap();
    assert_eq!(live(), 0, "objects are left");
}

/// Runs `f` in a thread with a stack of 256 KiB.
pub(crate) fn in_small_stack(f: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 << 10).spawn(f).unwrap().join().unwrap();
}
