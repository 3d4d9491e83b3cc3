//! What can be done with values, whatever they are held by: compare, list, print; names. No unsafe here.

use std::cell::{Cell, RefCell};
use std::fmt;

use super::heap::{self, Gc};

pub(crate) use super::heap::Value;

/// A name, as a number; see [`Symbols`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Symbol(pub(crate) u32);

/// A procedure of the language itself.
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    pub(crate) least: usize,
    pub(crate) most: usize,
    pub(crate) run: fn(&mut [Value]) -> Result<Value, String>,
}

impl Value {
    pub(crate) fn list(values: impl DoubleEndedIterator<Item = Value>) -> Value {
        values.rev().fold(Value::Nil, |rest, value| heap::cons(value, rest))
    }

    pub(crate) fn is_true(&self) -> bool {
        !matches!(self, Value::Bool(false))
    }

    /// The elements of a proper list.
    pub(crate) fn elements(&self) -> Result<Vec<Value>, String> {
        let mut elements = Vec::new();
        let mut at = self.clone();
        loop {
            match at {
                Value::Nil => return Ok(elements),
                Value::Pair(pair) => {
                    elements.push(pair.car.borrow().clone());
                    at = pair.cdr.borrow().clone();
                }
                _ => return Err(format!("not a list: {self}")),
            }
        }
    }

    /// `eqv?`
    pub(crate) fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Nil, Value::Nil) | (Value::Unspecified, Value::Unspecified) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Real(a), Value::Real(b)) => a == b,
            (Value::Symbol(a), Value::Symbol(b)) => a == b,
            (Value::Str(a), Value::Str(b)) => Gc::ptr_eq(a, b),
            (Value::Pair(a), Value::Pair(b)) => Gc::ptr_eq(a, b),
            (Value::Vector(a), Value::Vector(b)) => Gc::ptr_eq(a, b),
            (Value::Closure(a), Value::Closure(b)) => Gc::ptr_eq(a, b),
            (Value::Builtin(a), Value::Builtin(b)) => std::ptr::eq(*a, *b),
            _ => false,
        }
    }

    /// `equal?`, iterative along lists.
    pub(crate) fn equal(&self, other: &Value) -> bool {
        let (mut left, mut right) = (self.clone(), other.clone());
        loop {
            let (next_left, next_right) = match (&left, &right) {
                (Value::Pair(a), Value::Pair(b)) => {
                    if !a.car.borrow().equal(&b.car.borrow()) {
                        return false;
                    }
                    (a.cdr.borrow().clone(), b.cdr.borrow().clone())
                }
                (Value::Str(a), Value::Str(b)) => return **a == **b,
                (Value::Vector(a), Value::Vector(b)) => {
                    let (a, b) = (a.borrow(), b.borrow());
                    return a.len() == b.len() && a.iter().zip(&*b).all(|(a, b)| a.equal(b));
                }
                (a, b) => return a.same(b),
            };
            (left, right) = (next_left, next_right);
        }
    }
}

/// All names of the program.
pub(crate) struct Symbols;

thread_local! {
    static NAMES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static PRINTED: Cell<usize> = const { Cell::new(0) };
}

impl Symbols {
    /// The symbol with this name.
    pub(crate) fn get(name: &str) -> Symbol {
        NAMES.with_borrow_mut(|names| {
            let known = names.iter().position(|known| known == name);
            let index = known.unwrap_or_else(|| {
                names.push(name.to_string());
                names.len() - 1
            });
            Symbol(index as u32)
        })
    }

    /// The name of a symbol.
    pub(crate) fn name(symbol: Symbol) -> String {
        NAMES.with_borrow(|names| names[symbol.0 as usize].clone())
    }
}

/// Prints at most this many elements of one value: a list may be a cycle.
const MOST_PRINTED: usize = 10_000;

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PRINTED.set(0);
        print(self, f)
    }
}

fn print(value: &Value, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    PRINTED.set(PRINTED.get() + 1);
    if PRINTED.get() > MOST_PRINTED {
        return f.write_str("...");
    }
    match value {
        Value::Nil => f.write_str("()"),
        Value::Unspecified => Ok(()),
        Value::Bool(value) => f.write_str(if *value { "#t" } else { "#f" }),
        Value::Int(value) => write!(f, "{value}"),
        Value::Real(value) => write!(f, "{value:?}"),
        Value::Symbol(symbol) => f.write_str(&Symbols::name(*symbol)),
        Value::Str(text) => f.write_str(text),
        Value::Closure(_) => f.write_str("#<procedure>"),
        Value::Builtin(builtin) => write!(f, "#<procedure {}>", builtin.name),
        Value::Vector(values) => {
            f.write_str("#(")?;
            for (at, value) in values.borrow().iter().enumerate() {
                if at != 0 {
                    f.write_str(" ")?;
                }
                print(value, f)?;
            }
            f.write_str(")")
        }
        Value::Pair(pair) => {
            f.write_str("(")?;
            print(&pair.car.borrow(), f)?;
            let mut rest = pair.cdr.borrow().clone();
            while let Value::Pair(pair) = rest {
                if PRINTED.get() > MOST_PRINTED {
                    return f.write_str(" ...)");
                }
                f.write_str(" ")?;
                print(&pair.car.borrow(), f)?;
                rest = pair.cdr.borrow().clone();
            }
            if !matches!(rest, Value::Nil) {
                f.write_str(" . ")?;
                print(&rest, f)?;
            }
            f.write_str(")")
        }
    }
}
