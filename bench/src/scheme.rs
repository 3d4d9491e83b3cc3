//! A real program for the suite `gc`: the Scheme of rc-gc's examples, on every contender.
//!
//! ```text
//!   on_rc.rs, on_gc.rs, ...   the types that live on the heap, by `scheme_heap!`   one file each
//!     └── program.rs          read, compile, run, builtins: the example's own files, and the work
//! ```
//!
//! 1. The program is compiled once for each contender, from the same files. Only the kinds of
//!    handle and cell differ, and how a collector is shown what a value holds.
//! 2. What the scripts print is the checksum. So they are not told how many objects live: that
//!    depends on the contender.
//! 3. Pairs, closures and environments are counted as nodes of other workloads are, by a [`Token`].
//!    A step is 1,024 of them, of vectors and of strings made; what can be reached, nobody knows,
//!    so garbage is not told.
//!
//! The contenders that others wrote are part of their worker. No unsafe here.

mod on_gc;
mod on_rc;

use std::cell::Cell;
use std::time::{Duration, Instant};

pub use crate::collectors::Token;
use crate::workload::{Outcome, Scale, measure};

/// The workload on `Gc`.
pub const ON_GC: fn(&Scale) -> Outcome = on_gc::scripts;
/// The workload on `Rc`.
pub const ON_RC: fn(&Scale) -> Outcome = on_rc::scripts;

/// Objects between two readings of the clock.
const STEP: u64 = 1024;
/// Objects after which a collector that does not start by itself is asked.
const ASKED: u64 = 10_000;

/// What was made, and how long it took.
struct Meter {
    made: Cell<u64>,
    last: Cell<Option<Instant>>,
    longest: Cell<Duration>,
}

thread_local! {
    static METER: Meter =
        const { Meter { made: Cell::new(0), last: Cell::new(None), longest: Cell::new(Duration::ZERO) } };
}

/// An object is about to be made; `ask` collects, for a contender that does not do so by itself.
#[inline]
pub fn made(ask: Option<fn()>) {
    METER.with(|meter| {
        let made = meter.made.get() + 1;
        meter.made.set(made);
        if made.is_multiple_of(STEP) {
            meter.step();
        }
        if let Some(collect) = ask
            && made.is_multiple_of(ASKED)
        {
            collect();
        }
    });
}

impl Meter {
    #[cold]
    fn step(&self) {
        let now = Instant::now();
        let last = self.last.replace(Some(now)).unwrap_or(now);
        self.longest.set(self.longest.get().max(now - last));
    }
}

/// Measures `work`, which returns units and checksum, in a thread with this much stack; `collect` ends it.
///
/// # Panics
///
/// If `work` does.
pub fn measured(
    stack: usize,
    collect: fn(),
    work: impl FnOnce() -> (u64, u64) + Send + 'static,
) -> Outcome {
    let all = move || {
        let before = Token::count();
        let mut outcome = measure(|| {
            let done = work();
            collect();
            done
        });
        outcome.extra = vec![
            ("longest_step_seconds", METER.with(|meter| meter.longest.get()).as_secs_f64()),
            ("leaked_objects", (Token::count() - before) as f64),
        ];
        outcome
    };
    let thread = std::thread::Builder::new().stack_size(stack).spawn(all);
    thread.expect("a thread").join().expect("the interpreter does not panic")
}

/// The types of the program's heap, on one kind of handle and cell, and the program itself.
///
/// `trace` is a macro that is called with each type and what it holds, to implement that
/// collector's `Trace`; `derive` and `skip` are for those that have it derived.
#[macro_export]
macro_rules! scheme_heap {
    (
        handle = $handle:ident, cell = $cell:ident, ask = $ask:expr, collect = $collect:path,
        derive = [$($derive:ident)?], skip = [$($skip:meta)?], trace = $trace:ident $(,)?
    ) => {
        use program::compile::Lambda;
        use program::value::{Builtin, Symbol};
        use std::rc::Rc as Shared;
        use $crate::scheme::{Token, made};

        pub(crate) use program::scripts;

        pub(crate) type Gc<T> = $handle<T>;
        pub(crate) type Slot = $cell<Value>;
        pub(crate) type Elements = $cell<Vec<Value>>;

        #[derive(Clone, $($derive)?)]
        pub(crate) enum Value {
            Nil,
            Unspecified,
            Bool(bool),
            Int(i64),
            Real(f64),
            Symbol($(#[$skip])? Symbol),
            Str($handle<String>),
            Pair($handle<Pair>),
            Vector($handle<Elements>),
            Closure($handle<Closure>),
            Builtin($(#[$skip])? &'static Builtin),
        }

        $(#[derive($derive)])?
        pub(crate) struct Pair {
            pub(crate) car: Slot,
            pub(crate) cdr: Slot,
            $(#[$skip])?
            _token: Token,
        }

        $(#[derive($derive)])?
        pub(crate) struct Closure {
            $(#[$skip])?
            pub(crate) lambda: Shared<Lambda>,
            pub(crate) env: Option<$handle<Env>>,
            $(#[$skip])?
            _token: Token,
        }

        $(#[derive($derive)])?
        pub(crate) struct Env {
            pub(crate) slots: Elements,
            pub(crate) outer: Option<$handle<Env>>,
            $(#[$skip])?
            _token: Token,
        }

        $trace! { enum Value { Str, Pair, Vector, Closure } }
        $trace! { struct Pair { car, cdr } }
        $trace! { struct Closure { env } }
        $trace! { struct Env { slots, outer } }

        pub(crate) fn string(text: String) -> Value {
            made($ask);
            Value::Str($handle::new(text))
        }

        pub(crate) fn cons(car: Value, cdr: Value) -> Value {
            made($ask);
            let (car, cdr) = ($cell::new(car), $cell::new(cdr));
            Value::Pair($handle::new(Pair { car, cdr, _token: Token::new() }))
        }

        pub(crate) fn vector(elements: Vec<Value>) -> Value {
            made($ask);
            Value::Vector($handle::new($cell::new(elements)))
        }

        pub(crate) fn closure(lambda: Shared<Lambda>, env: Option<$handle<Env>>) -> Value {
            made($ask);
            Value::Closure($handle::new(Closure { lambda, env, _token: Token::new() }))
        }

        pub(crate) fn environment(slots: Vec<Value>, outer: Option<$handle<Env>>) -> $handle<Env> {
            made($ask);
            $handle::new(Env { slots: $cell::new(slots), outer, _token: Token::new() })
        }

        /// Not told: see the rules of the suite.
        pub(crate) fn live() -> u64 {
            0
        }

        pub(crate) fn collect() -> usize {
            $collect();
            0
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaked(outcome: &Outcome) -> f64 {
        outcome.extra.iter().find(|extra| extra.0 == "leaked_objects").unwrap().1
    }

    #[test]
    fn the_program_does_the_same_on_each_contender_and_what_leaks_is_told() {
        let scale = Scale { quick: true, seed: 7 };
        let (counted, ours) = (ON_RC(&scale), ON_GC(&scale));
        assert_eq!((counted.units, counted.checksum), (ours.units, ours.checksum));
        assert!(leaked(&counted) > 100_000.0, "closures that hold themselves");
        assert_eq!(leaked(&ours), 0.0);
    }
}
