//! The procedures of the language itself. No unsafe here.

use std::cell::RefCell;

use super::heap::{self, Elements, Gc, Pair, Slot};
use super::value::{Builtin, Value};

type Result = std::result::Result<Value, String>;

thread_local! {
    /// What programs displayed.
    static OUTPUT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Takes what was displayed so far.
pub(crate) fn take_output() -> String {
    OUTPUT.take()
}

/// What is easier said in the language.
pub(crate) const PRELUDE: &str = "
(define (map f list)
  (let loop ((rest list) (done '()))
    (if (null? rest) (reverse done) (loop (cdr rest) (cons (f (car rest)) done)))))
(define (for-each f list)
  (unless (null? list) (f (car list)) (for-each f (cdr list))))
(define (filter keep? list)
  (let loop ((rest list) (done '()))
    (cond ((null? rest) (reverse done))
          ((keep? (car rest)) (loop (cdr rest) (cons (car rest) done)))
          (else (loop (cdr rest) done)))))
(define (fold f start list)
  (if (null? list) start (fold f (f (car list) start) (cdr list))))
(define (assoc key list)
  (cond ((null? list) #f) ((equal? key (car (car list))) (car list)) (else (assoc key (cdr list)))))
(define (member key list)
  (cond ((null? list) #f) ((equal? key (car list)) list) (else (member key (cdr list)))))
(define (iota n)
  (let loop ((k (- n 1)) (done '())) (if (< k 0) done (loop (- k 1) (cons k done)))))
(define (assert true? text) (unless true? (error text)))
";

/// Two integers if both are, else two reals.
enum Numbers {
    Ints(i64, i64),
    Reals(f64, f64),
}

fn numbers(a: &Value, b: &Value) -> std::result::Result<Numbers, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(Numbers::Ints(*a, *b)),
        (Value::Int(a), Value::Real(b)) => Ok(Numbers::Reals(*a as f64, *b)),
        (Value::Real(a), Value::Int(b)) => Ok(Numbers::Reals(*a, *b as f64)),
        (Value::Real(a), Value::Real(b)) => Ok(Numbers::Reals(*a, *b)),
        (Value::Int(_) | Value::Real(_), other) | (other, _) => {
            Err(format!("not a number: {other}"))
        }
    }
}

/// Folds numbers; integers that overflow become reals.
fn fold(
    values: &[Value],
    start: i64,
    ints: fn(i64, i64) -> Option<i64>,
    reals: fn(f64, f64) -> f64,
) -> Result {
    let (first, rest) = match values {
        [] => return Ok(Value::Int(start)),
        [only] => (Value::Int(start), std::slice::from_ref(only)),
        [first, rest @ ..] => (first.clone(), rest),
    };
    rest.iter().try_fold(first, |sum, value| {
        Ok(match numbers(&sum, value)? {
            Numbers::Ints(a, b) => match ints(a, b) {
                Some(value) => Value::Int(value),
                None => Value::Real(reals(a as f64, b as f64)),
            },
            Numbers::Reals(a, b) => Value::Real(reals(a, b)),
        })
    })
}

fn compare(
    values: &[Value],
    ints: fn(&i64, &i64) -> bool,
    reals: fn(&f64, &f64) -> bool,
) -> Result {
    for pair in values.windows(2) {
        let holds = match numbers(&pair[0], &pair[1])? {
            Numbers::Ints(a, b) => ints(&a, &b),
            Numbers::Reals(a, b) => reals(&a, &b),
        };
        if !holds {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn divide(values: &[Value], f: fn(i64, i64) -> Option<i64>) -> Result {
    match (&values[0], &values[1]) {
        (Value::Int(_), Value::Int(0)) => Err("division by zero".into()),
        (Value::Int(a), Value::Int(b)) => {
            f(*a, *b).map(Value::Int).ok_or_else(|| "the quotient is too large".into())
        }
        (a, b) => Err(format!("not two integers: {a} {b}")),
    }
}

fn pair(value: &Value) -> std::result::Result<&Gc<Pair>, String> {
    match value {
        Value::Pair(pair) => Ok(pair),
        other => Err(format!("not a pair: {other}")),
    }
}

fn vector(value: &Value) -> std::result::Result<&Gc<Elements>, String> {
    match value {
        Value::Vector(values) => Ok(values),
        other => Err(format!("not a vector: {other}")),
    }
}

fn index(value: &Value) -> std::result::Result<usize, String> {
    match value {
        Value::Int(value) => usize::try_from(*value).map_err(|_| format!("not an index: {value}")),
        other => Err(format!("not an index: {other}")),
    }
}

/// Puts a value into a cell. The old one is dropped after the cell is given back: its drop may run
/// anything.
fn set(slot: &Slot, value: &Value) -> Result {
    let old = std::mem::replace(&mut *slot.borrow_mut(), value.clone());
    drop(old);
    Ok(Value::Unspecified)
}

fn append(lists: &[Value]) -> Result {
    let Some((last, rest)) = lists.split_last() else { return Ok(Value::Nil) };
    rest.iter().rev().try_fold(last.clone(), |tail, list| {
        let elements = list.elements()?;
        Ok(elements.into_iter().rev().fold(tail, |rest, value| heap::cons(value, rest)))
    })
}

fn display(values: &[Value]) -> Result {
    let text = values[0].to_string();
    OUTPUT.with_borrow_mut(|output| output.push_str(&text));
    Ok(Value::Unspecified)
}

/// A table of procedures: name, least and most arguments, what it does with them.
macro_rules! builtins {
    ($($name:literal $least:literal $most:expr => |$values:pat_param| $body:expr;)*) => {
        /// All of them.
        pub(crate) const ALL: &[Builtin] = &[$(Builtin {
            name: $name,
            least: $least,
            most: $most,
            run: |$values: &mut [Value]| $body,
        },)*];
    };
}

const MANY: usize = usize::MAX;

builtins! {
    "+" 0 MANY => |v| fold(v, 0, i64::checked_add, |a, b| a + b);
    "-" 1 MANY => |v| fold(v, 0, i64::checked_sub, |a, b| a - b);
    "*" 0 MANY => |v| fold(v, 1, i64::checked_mul, |a, b| a * b);
    "/" 1 MANY => |v| fold(
        v,
        1,
        |a, b| if b != 0 && a.checked_rem(b) == Some(0) { a.checked_div(b) } else { None },
        |a, b| a / b,
    );
    "quotient" 2 2 => |v| divide(v, i64::checked_div);
    "remainder" 2 2 => |v| divide(v, i64::checked_rem);
    "modulo" 2 2 => |v| divide(v, |a, b| a.checked_rem(b).map(|r| if (r < 0) != (b < 0) && r != 0 { r + b } else { r }));
    "=" 1 MANY => |v| compare(v, |a, b| a == b, |a, b| a == b);
    "<" 1 MANY => |v| compare(v, |a, b| a < b, |a, b| a < b);
    ">" 1 MANY => |v| compare(v, |a, b| a > b, |a, b| a > b);
    "<=" 1 MANY => |v| compare(v, |a, b| a <= b, |a, b| a <= b);
    ">=" 1 MANY => |v| compare(v, |a, b| a >= b, |a, b| a >= b);
    "eq?" 2 2 => |v| Ok(Value::Bool(v[0].same(&v[1])));
    "eqv?" 2 2 => |v| Ok(Value::Bool(v[0].same(&v[1])));
    "equal?" 2 2 => |v| Ok(Value::Bool(v[0].equal(&v[1])));
    "not" 1 1 => |v| Ok(Value::Bool(!v[0].is_true()));
    "cons" 2 2 => |v| Ok(heap::cons(v[0].clone(), v[1].clone()));
    "car" 1 1 => |v| Ok(pair(&v[0])?.car.borrow().clone());
    "cdr" 1 1 => |v| Ok(pair(&v[0])?.cdr.borrow().clone());
    "set-car!" 2 2 => |v| set(&pair(&v[0])?.car, &v[1]);
    "set-cdr!" 2 2 => |v| set(&pair(&v[0])?.cdr, &v[1]);
    "list" 0 MANY => |v| Ok(Value::list(v.iter().cloned()));
    "length" 1 1 => |v| Ok(Value::Int(v[0].elements()?.len() as i64));
    "reverse" 1 1 => |v| Ok(Value::list(v[0].elements()?.into_iter().rev()));
    "append" 0 MANY => |v| append(v);
    "null?" 1 1 => |v| Ok(Value::Bool(matches!(v[0], Value::Nil)));
    "pair?" 1 1 => |v| Ok(Value::Bool(matches!(v[0], Value::Pair(_))));
    "number?" 1 1 => |v| Ok(Value::Bool(matches!(v[0], Value::Int(_) | Value::Real(_))));
    "symbol?" 1 1 => |v| Ok(Value::Bool(matches!(v[0], Value::Symbol(_))));
    "string?" 1 1 => |v| Ok(Value::Bool(matches!(v[0], Value::Str(_))));
    "vector?" 1 1 => |v| Ok(Value::Bool(matches!(v[0], Value::Vector(_))));
    "procedure?" 1 1 => |v| Ok(Value::Bool(matches!(v[0], Value::Closure(_) | Value::Builtin(_))));
    "vector" 0 MANY => |v| Ok(heap::vector(v.to_vec()));
    "make-vector" 2 2 => |v| Ok(heap::vector(vec![v[1].clone(); index(&v[0])?]));
    "vector-length" 1 1 => |v| Ok(Value::Int(vector(&v[0])?.borrow().len() as i64));
    "vector-ref" 2 2 => |v| {
        let value = vector(&v[0])?.borrow().get(index(&v[1])?).cloned();
        value.ok_or_else(|| format!("the vector has no element {}", v[1]))
    };
    "vector-set!" 3 3 => |v| {
        let at = index(&v[1])?;
        let value = std::mem::replace(&mut v[2], Value::Nil);
        let old = vector(&v[0])?.borrow_mut().get_mut(at).map(|slot| std::mem::replace(slot, value));
        old.map(|_| Value::Unspecified).ok_or_else(|| format!("the vector has no element {at}"))
    };
    "string-append" 0 MANY => |v| Ok(heap::string(v.iter().map(Value::to_string).collect()));
    "number->string" 1 1 => |v| Ok(heap::string(v[0].to_string()));
    "display" 1 1 => |v| display(v);
    "newline" 0 0 => |_| display(&[heap::string("\n".into())]);
    "error" 1 MANY => |v| Err(v.iter().map(Value::to_string).collect::<Vec<_>>().join(" "));
    "apply" 2 MANY => |_| Err("apply is called by the machine".into());
    "live-objects" 0 0 => |_| Ok(Value::Int(heap::live() as i64));
    "collect" 0 0 => |_| Ok(Value::Int(heap::collect() as i64));
}
