//! `Gc<T>`: a counted pointer like [`Rc`](std::rc::Rc), whose cycles are collected.
//!
//! Objects are freed at once when their last handle goes, as with `Rc`. What counting alone would leak,
//! structures that hold themselves, a *cycle collector* finds: three generations, no stop for anything
//! but what it looks at, and it looks only at what candidates can reach.
//!
//! ```
//! use rc_gc::{Gc, Trace};
//! use std::cell::RefCell;
//!
//! #[derive(Trace)]
//! struct Person { name: String, friends: RefCell<Vec<Gc<Person>>> }
//!
//! let ann = Gc::new(Person { name: "Ann".into(), friends: RefCell::default() });
//! let bob = Gc::new(Person { name: "Bob".into(), friends: RefCell::new(vec![ann.clone()]) });
//! ann.friends.borrow_mut().push(bob.clone());
//! assert_eq!(bob.friends.borrow()[0].name, "Ann");
//!
//! drop((ann, bob));                      // `Rc` would leak both here
//! assert_eq!(rc_gc::collect(), 2);       // usually an allocation does this by itself
//! ```
//!
//! # Contents
//!
//! * [A doubly linked list](#a-doubly-linked-list), [observers](#observers),
//!   [an interpreter's environments](#an-interpreters-environments)
//! * [When to use `Rc`, `Gc`, an arena](#when-to-use-rc-gc-an-arena)
//! * [How a leak by a skipped field looks](#how-a-leak-by-a-skipped-field-looks)
//! * [What runs when](#what-runs-when), [panics](#panics), [threads and exit](#threads-and-exit)
//! * [How it works](#how-it-works), [features](#features)
//!
//! # A doubly linked list
//!
//! Both directions are plain handles; nobody decides which one is weak.
//!
//! ```
//! use rc_gc::{Gc, Trace};
//! use std::cell::RefCell;
//!
//! #[derive(Trace)]
//! struct Node<T> { value: T, next: Link<T>, previous: Link<T> }
//! type Link<T> = RefCell<Option<Gc<Node<T>>>>;
//!
//! #[derive(Trace)]
//! struct List<T> { first: Link<T>, last: Link<T> }
//!
//! impl<T: Trace + 'static> List<T> {
//!     fn push_back(&self, value: T) {
//!         let previous = self.last.take();
//!         let node = Gc::new(Node { value, next: RefCell::new(None), previous: RefCell::new(previous.clone()) });
//!         *self.last.borrow_mut() = Some(node.clone());
//!         let before = match &previous { Some(previous) => &previous.next, None => &self.first };
//!         *before.borrow_mut() = Some(node);
//!     }
//!
//!     fn pop_front(&self) -> Option<Gc<Node<T>>> {
//!         let node = self.first.take()?;
//!         let next = node.next.take();
//!         match &next { Some(next) => drop(next.previous.take()), None => drop(self.last.take()) }
//!         *self.first.borrow_mut() = next;
//!         Some(node)
//!     }
//! }
//!
//! let list = List { first: RefCell::new(None), last: RefCell::new(None) };
//! for number in 0..1000 { list.push_back(number); }
//! assert_eq!(list.pop_front().unwrap().value, 0);
//! assert_eq!(list.pop_front().unwrap().value, 1);
//! assert_eq!(rc_gc::stats().live, 998);  // what was popped is freed at once
//! drop(list);
//! assert_eq!(rc_gc::collect(), 998);
//! ```
//!
//! # Observers
//!
//! A subject holds its observers weakly, so that watching does not keep them alive; an observer may
//! hold its subject.
//!
//! ```
//! use rc_gc::{Gc, Trace, Weak};
//! use std::cell::{Cell, RefCell};
//!
//! #[derive(Trace)]
//! struct Thermometer { degrees: Cell<i32>, observers: RefCell<Vec<Weak<dyn Observer>>> }
//!
//! trait Observer: Trace { fn changed(&self, degrees: i32); }
//!
//! #[derive(Trace)]
//! struct Display { shown: Cell<i32>, of: Gc<Thermometer> }
//!
//! impl Observer for Display { fn changed(&self, degrees: i32) { self.shown.set(degrees); } }
//!
//! impl Thermometer {
//!     fn set(&self, degrees: i32) {
//!         self.degrees.set(degrees);
//!         // Handles first, calls later: an observer may add another one meanwhile.
//!         let observers: Vec<_> = self.observers.borrow().iter().filter_map(Weak::upgrade).collect();
//!         observers.iter().for_each(|observer| observer.changed(degrees));
//!     }
//! }
//!
//! let thermometer = Gc::new(Thermometer { degrees: Cell::new(20), observers: RefCell::default() });
//! let display = Gc::new(Display { shown: Cell::new(0), of: thermometer.clone() });
//! let weak: Weak<dyn Observer> = rc_gc::coerce!(weak: Gc::downgrade(&display));
//! thermometer.observers.borrow_mut().push(weak);
//! thermometer.set(25);
//! assert_eq!((display.shown.get(), display.of.degrees.get()), (25, 25));
//! drop(display);
//! assert!(thermometer.observers.borrow()[0].upgrade().is_none());
//! ```
//!
//! # An interpreter's environments
//!
//! A local procedure that calls itself is a value in the environment that it closes over: a cycle
//! for each call of the procedure around it. `examples/scheme` is a whole interpreter of this kind.
//!
//! ```
//! use rc_gc::{Gc, Trace};
//! use std::cell::RefCell;
//! use std::collections::HashMap;
//!
//! #[derive(Clone, Trace)]
//! enum Value { Number(f64), Procedure(Gc<Procedure>) }
//!
//! #[derive(Trace)]
//! struct Procedure { parameter: String, environment: Gc<Environment> }
//!
//! #[derive(Trace)]
//! struct Environment { names: RefCell<HashMap<String, Value>>, outer: Option<Gc<Environment>> }
//!
//! impl Environment {
//!     fn get(&self, name: &str) -> Option<Value> {
//!         let here = self.names.borrow().get(name).cloned();
//!         here.or_else(|| self.outer.as_ref()?.get(name))
//!     }
//! }
//!
//! let global = Gc::new(Environment { names: RefCell::default(), outer: None });
//! for _ in 0..100 {
//!     let call = Gc::new(Environment { names: RefCell::default(), outer: Some(global.clone()) });
//!     let local = Gc::new(Procedure { parameter: "n".into(), environment: call.clone() });
//!     call.names.borrow_mut().insert("loop".into(), Value::Procedure(local));
//!     assert!(matches!(call.get("loop"), Some(Value::Procedure(f)) if f.parameter == "n"));
//! }
//! assert_eq!(rc_gc::collect(), 200);
//! ```
//!
//! # When to use `Rc`, `Gc`, an arena
//!
//! | | |
//! |---|---|
//! | **`Box`, indices into a `Vec`** | there is one owner. Always first choice |
//! | **an arena** (`typed-arena`, `bumpalo`) | everything dies together: a parsed file, one request. Cheapest; cycles cost nothing; nothing is freed before the end |
//! | **`Rc` with `Weak`** | shared, and it is clear which way to own: trees with parent pointers. Nothing ever runs behind your back |
//! | **`Gc`** | shared, long-lived, and cycles come from *data*: interpreters, editors' documents, graphs that users draw, callbacks that hold what calls them |
//! | **a tracing collector** (`gc-arena`) | handles are copied all the time and freed late; every access goes through a brand or a root |
//!
//! `Gc` costs what `Rc` costs as long as there are no candidates; see [`Gc`](Gc#cost).
//!
//! # How a leak by a skipped field looks
//!
//! The collector subtracts from an object's count the handles that it finds in other objects. One
//! that it is not shown (in a `#[gc(skip)]` field, behind an `Rc`, in a boxed closure) looks like a
//! handle on somebody's stack. So the mistake is never unsound; it leaks:
//!
//! ```
//! use rc_gc::{Gc, Trace};
//! use std::cell::RefCell;
//!
//! #[derive(Trace)]
//! struct Button {
//!     #[gc(skip)]                                  // `dyn Fn` cannot be traced
//!     click: RefCell<Option<Box<dyn Fn() -> usize>>>,
//!     label: String,
//! }
//!
//! let button = Gc::new(Button { click: RefCell::new(None), label: "Ok".into() });
//! let me = button.clone();
//! *button.click.borrow_mut() = Some(Box::new(move || me.label.len()));
//! drop(button);
//! assert_eq!(rc_gc::collect(), 0);                 // not found: `me` is hidden
//! assert_eq!(rc_gc::stats().live, 1);              // and this number grows with each button
//! ```
//!
//! To find it: [`stats`]`().live` after [`collect`] in a loop that should leave nothing; then take
//! handles out of suspects one by one. To mend it: capture a [`Weak`] instead, or make the closure a
//! struct that derives `Trace` with a method:
//!
//! ```
//! # use rc_gc::{Gc, Trace};
//! # use std::cell::RefCell;
//! trait Click: Trace { fn click(&self) -> usize; }
//!
//! #[derive(Trace)]
//! struct Button { click: RefCell<Option<Box<dyn Click>>>, label: String }
//!
//! #[derive(Trace)]
//! struct LabelLength(Gc<Button>);
//! impl Click for LabelLength { fn click(&self) -> usize { self.0.label.len() } }
//!
//! let button = Gc::new(Button { click: RefCell::new(None), label: "Ok".into() });
//! *button.click.borrow_mut() = Some(Box::new(LabelLength(button.clone())));
//! drop(button);
//! assert_eq!(rc_gc::collect(), 1);
//! ```
//!
//! # What runs when
//!
//! * Dropping the last handle: [`Finalize`], callbacks ([`Gc::on_dead`]), `Drop`, at once. Chains of any
//!   length need no stack: past 64 levels objects are put off until the outermost drop ends.
//! * A collection: [`Finalize`] of all garbage, with everything intact; what is reachable again is
//!   spared; then every [`Weak`] of the rest is `None`; then callbacks; then `Drop`s, in no given order.
//!   In those, handles to other garbage are [dead](Gc::try_get): dereferencing panics, all else is
//!   harmless. So a type with its own `Drop` must say `#[gc(drop)]`.
//! * [`Gc::new`] may collect before it allocates; [`set_mode`] moves that to a [`safepoint`] of the
//!   program's choice, or leaves it to [`collect`].
//! * Memory that objects own elsewhere, in vectors for example, does not bring a collection, unless
//!   the program says how much there is: [`charge`].
//! * Inside a collection `collect` of the same heap does nothing. Objects made in a `Drop` are
//!   ordinary objects; those that are garbage at once wait for the next collection.
//! * A `RefCell` that is borrowed, or a `Mutex` that is locked, during a collection hides what it
//!   holds, which so stays alive. One whose guard was leaked does so for ever.
//!
//! # Panics
//!
//! A panic in `Drop`, `Finalize`, a callback or `Trace` does not keep other garbage from its turn.
//! The first one goes on when the work is done, out of `collect`, `Gc::new` or the `drop` that
//! began it; not into a panic that is under way already. If it is a `Trace` that panics, nothing is
//! freed, and all that was garbage is found by the next collection. A panic hook may do with
//! handles what it likes; the last drops of some wait until the collector has put its lists in
//! order.
//!
//! # Threads and exit
//!
//! Each thread has its own heap, and `Gc` is not `Send`. At the end of a thread its heap is
//! collected; objects that are still held, by other thread-locals for example, stay valid, and
//! their heap goes with the last of them. A cycle among them is collected when the drop of a handle
//! has made it garbage, in that drop; a large structure to which many handles are dropped one by
//! one is not gone over for each, and what is left of it may leak ([`Heap`] says when; [`collect`]
//! helps). Objects held for ever are leaked. A [`Heap`] does the same when it is dropped.
//!
//! What is left in thread-locals is gone over then, and dropped: a million objects in a graph take
//! most of a second, which the end of the thread, or the process, waits for. `std::process::exit`
//! from another thread, or [`std::mem::forget`], spares that.
//!
//! A heap that ended and was small, an arena at most, is kept for the next thread, one in a
//! process; [`trim`] frees it.
//!
//! # How it works
//!
//! ```text
//!  0        4       8           16
//!  +--------+-------+-----------+---------      pool, 16 KiB: objects of one size; a descriptor
//!  | flags  | count | vtable    | value         beside it has a bit per object for "free" and
//!  +--------+-------+-----------+---------      "candidate"
//! ```
//!
//! A decrement to non-zero makes an object a *candidate*, once: a flag in the word that the
//! decrement writes, and a bit, which says in which generation it is to be looked at. A collection
//! of generation *g* visits what candidates up to that age reach, subtracts the edges that it finds
//! from copies of the counts, and what is left without a handle from outside is garbage. Handles
//! from older objects are simply not subtracted, so there is no write barrier. Age is the number of
//! the collection after which an object was born; growing older costs nothing.
//!
//! What a collection costs depends on what candidates reach, not on the size of the heap: an object
//! that a full collection found to be live is no candidate again before it loses a handle. Two
//! habits make candidates that reach all of a large structure: pointers to parents, and handles
//! that wander over it. Full collections of that kind which find next to nothing become four times
//! as rare, at most; [`Thresholds`] and [`Mode`] are for what a program knows better.
//!
//! The ideas: trial deletion and generations from CPython's collector, candidates from Bacon and Rajan
//! ("Concurrent Cycle Collection in Reference Counted Systems", 2001), finalizers from PEP 442.
//!
//! # Features
//!
//! * `report`: `report` and `register_report`, which put live objects by type and collections by
//!   generation, with their pauses, into the reports of `PoolAlloc` (`alloc_global::report`).
//! * `serde`: `Serialize` and `Deserialize` for `Gc`. What is shared is written once for each handle.
//! * `verify`: checks in each collection that hand-written implementations of [`Trace`] keep their
//!   contract.
//! * `arrayvec`, `bytes`, `either`, `hashbrown`, `indexmap`, `once_cell`, `parking_lot`,
//!   `serde_json`, `slotmap`, `smallvec`: [`Trace`] for the types of that crate.
//!
//! No unsafe here; the modules say what they use it for.

extern crate self as rc_gc;

mod api;
mod collector;
mod convert;
mod dst;
mod garbage;
mod gc;
mod generations;
mod header;
mod heap;
mod large;
mod pools;
mod release;
#[cfg(feature = "report")]
mod report;
mod side;
mod stats;
mod thread;
mod trace;
mod traits;
mod uninit;
mod unique;
mod verify;
mod weak;

pub use api::{
    Heap, charge, check, collect, collect_generation, count_garbage_slowly, disable, enable,
    is_enabled, mode, pause_percentile, safepoint, set_mode, set_thresholds, stats, thresholds,
    trim,
};
pub use gc::Gc;
pub use generations::{Generation, Mode, Thresholds};
pub use rc_gc_derive::Trace;
#[cfg(feature = "report")]
pub use report::{register_report, report};
pub use stats::{GenerationStats, Stats};
pub use trace::{Finalize, Trace, Tracer};
pub use unique::CloneToGc;
pub use weak::Weak;
