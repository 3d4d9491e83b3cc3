//! The part of the Scheme that lives on the collected heap: all that knows what a handle is.
//!
//! ```text
//! closure ──► Env { slots: [x, y, ..] } ──► Env of the enclosing procedure ──► ...
//!    ▲                  │
//!    └──────────────────┘  a local procedure that calls itself: a cycle for each call of its outer one
//! ```
//!
//! No unsafe here.

use std::cell::RefCell;
use std::rc::Rc;

pub(crate) use rc_gc::Gc;
use rc_gc::Trace;

use super::compile::Lambda;
use super::value::{Builtin, Symbol};

/// A value: 16 bytes, one handle at most.
#[derive(Clone, Trace)]
pub(crate) enum Value {
    Nil,
    Unspecified,
    Bool(bool),
    Int(i64),
    Real(f64),
    Symbol(#[gc(skip)] Symbol),
    Str(Gc<String>),
    Pair(Gc<Pair>),
    Vector(Gc<Elements>),
    Closure(Gc<Closure>),
    Builtin(#[gc(skip)] &'static Builtin),
}

/// The elements of a vector.
pub(crate) type Elements = RefCell<Vec<Value>>;

/// What can be set.
pub(crate) type Slot = RefCell<Value>;

/// A cell of a list.
#[derive(Trace)]
pub(crate) struct Pair {
    pub(crate) car: Slot,
    pub(crate) cdr: Slot,
}

/// A procedure with the variables that it can see.
#[derive(Trace)]
pub(crate) struct Closure {
    /// Code is shared, not collected: it holds no handles but those of quoted constants, which so
    /// count as held from outside as long as the code exists.
    #[gc(skip)]
    pub(crate) lambda: Rc<Lambda>,
    pub(crate) env: Option<Gc<Env>>,
}

/// The variables of one call.
#[derive(Trace)]
pub(crate) struct Env {
    pub(crate) slots: RefCell<Vec<Value>>,
    pub(crate) outer: Option<Gc<Env>>,
}

pub(crate) fn string(text: String) -> Value {
    Value::Str(Gc::new(text))
}

pub(crate) fn cons(car: Value, cdr: Value) -> Value {
    Value::Pair(Gc::new(Pair { car: RefCell::new(car), cdr: RefCell::new(cdr) }))
}

pub(crate) fn vector(elements: Vec<Value>) -> Value {
    Value::Vector(Gc::new(RefCell::new(elements)))
}

pub(crate) fn closure(lambda: Rc<Lambda>, env: Option<Gc<Env>>) -> Value {
    Value::Closure(Gc::new(Closure { lambda, env }))
}

pub(crate) fn environment(slots: Vec<Value>, outer: Option<Gc<Env>>) -> Gc<Env> {
    Gc::new(Env { slots: RefCell::new(slots), outer })
}

/// Objects that exist.
pub(crate) fn live() -> u64 {
    rc_gc::stats().live
}

/// Frees what cannot be reached; how many objects that were.
pub(crate) fn collect() -> usize {
    rc_gc::collect()
}
