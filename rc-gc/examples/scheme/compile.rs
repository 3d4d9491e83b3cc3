//! From values to code: names become places, derived forms become the few basic ones.
//!
//! | form | becomes |
//! |---|---|
//! | `let`, named `let`, `letrec`, `let*` | a call of a `lambda`, with definitions inside |
//! | `cond`, `when`, `unless`, `and`, `or` | `if` |
//! | `define` inside a body | a slot of the body's environment |
//!
//! No unsafe here.

use std::rc::Rc;

use super::heap;
use super::value::{Symbol, Symbols, Value};

/// A compiled expression.
pub(crate) enum Code {
    Constant(Value),
    /// Slot of the environment so many levels out.
    Local(usize, usize),
    Global(usize),
    SetLocal(usize, usize, Box<Code>),
    SetGlobal(usize, Box<Code>),
    DefineGlobal(usize, Box<Code>),
    If(Box<[Code; 3]>),
    And(Box<[Code; 2]>),
    Or(Box<[Code; 2]>),
    Sequence(Vec<Code>),
    Lambda(Rc<Lambda>),
    Call(Box<Code>, Vec<Code>),
}

/// A procedure's code.
pub(crate) struct Lambda {
    pub(crate) name: String,
    pub(crate) parameters: usize,
    /// Whether a last parameter takes the rest of the arguments as a list.
    pub(crate) rest: bool,
    /// Slots of the environment: parameters, then definitions.
    pub(crate) slots: usize,
    pub(crate) body: Code,
}

/// The names that code can see: those of one procedure, and of the ones around it.
struct Scope<'a> {
    names: Vec<Symbol>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn find(&self, name: Symbol) -> Option<(usize, usize)> {
        let (mut scope, mut level) = (self, 0);
        loop {
            // The last of a name: a later definition hides a parameter.
            if let Some(slot) = scope.names.iter().rposition(|known| *known == name) {
                return Some((level, slot));
            }
            (scope, level) = (scope.outer?, level + 1);
        }
    }
}

/// Compiles, and remembers which global has which number.
#[derive(Default)]
pub(crate) struct Compiler {
    pub(crate) globals: Vec<Symbol>,
}

type Result<T> = std::result::Result<T, String>;

fn symbol(value: &Value) -> Result<Symbol> {
    match value {
        Value::Symbol(symbol) => Ok(*symbol),
        other => Err(format!("expected a name, found {other}")),
    }
}

fn name_of(value: &Value) -> Option<String> {
    symbol(value).ok().map(Symbols::name)
}

/// The parts of `(define (f . parameters) body ..)` or `(define name value)`.
fn definition(form: &[Value]) -> Result<(Symbol, Value)> {
    match form {
        [_, Value::Pair(head), body @ ..] => {
            let lambda = Value::Symbol(Symbols::get("lambda"));
            let body = Value::list(body.iter().cloned());
            let parameters = head.cdr.borrow().clone();
            let value = heap::cons(lambda, heap::cons(parameters, body));
            Ok((symbol(&head.car.borrow())?, value))
        }
        [_, name, value] => Ok((symbol(name)?, value.clone())),
        _ => Err("define takes a name and a value".into()),
    }
}

impl Compiler {
    /// The number of a global.
    pub(crate) fn global(&mut self, name: Symbol) -> usize {
        let known = self.globals.iter().position(|known| *known == name);
        known.unwrap_or_else(|| {
            self.globals.push(name);
            self.globals.len() - 1
        })
    }

    /// Compiles an expression at the top.
    pub(crate) fn top(&mut self, value: &Value) -> Result<Code> {
        self.expression(value, None)
    }

    fn expression(&mut self, value: &Value, scope: Option<&Scope<'_>>) -> Result<Code> {
        match value {
            Value::Symbol(name) => Ok(match scope.and_then(|scope| scope.find(*name)) {
                Some((level, slot)) => Code::Local(level, slot),
                None => Code::Global(self.global(*name)),
            }),
            Value::Pair(_) => self.form(&value.elements()?, scope),
            Value::Nil => Err("() is not an expression".into()),
            constant => Ok(Code::Constant(constant.clone())),
        }
    }

    fn boxed(&mut self, value: &Value, scope: Option<&Scope<'_>>) -> Result<Box<Code>> {
        self.expression(value, scope).map(Box::new)
    }

    fn form(&mut self, form: &[Value], scope: Option<&Scope<'_>>) -> Result<Code> {
        let hidden = symbol(&form[0]).ok().and_then(|name| scope?.find(name)).is_some();
        let name = if hidden { None } else { name_of(&form[0]) };
        match (name.as_deref().unwrap_or(""), &form[1..]) {
            ("quote", [value]) => Ok(Code::Constant(value.clone())),
            ("if", [test, then]) => {
                let none = Code::Constant(Value::Unspecified);
                let (test, then) = (self.expression(test, scope)?, self.expression(then, scope)?);
                Ok(Code::If(Box::new([test, then, none])))
            }
            ("if", [test, then, other]) => {
                let (test, then) = (self.expression(test, scope)?, self.expression(then, scope)?);
                Ok(Code::If(Box::new([test, then, self.expression(other, scope)?])))
            }
            ("define", [_, ..]) => {
                let (name, value) = definition(form)?;
                let value = self.named(name, &value, scope)?;
                Ok(match scope.and_then(|scope| scope.find(name)) {
                    Some((0, slot)) => Code::SetLocal(0, slot, Box::new(value)),
                    Some(_) => return Err("define stands at the start of a body".into()),
                    None => Code::DefineGlobal(self.global(name), Box::new(value)),
                })
            }
            ("set!", [name, value]) => {
                let (name, value) = (symbol(name)?, self.boxed(value, scope)?);
                Ok(match scope.and_then(|scope| scope.find(name)) {
                    Some((level, slot)) => Code::SetLocal(level, slot, value),
                    None => Code::SetGlobal(self.global(name), value),
                })
            }
            ("lambda", [parameters, body @ ..]) => {
                self.lambda("lambda".into(), parameters, body, scope)
            }
            ("begin", body) => self.sequence(body, scope),
            ("let", [Value::Symbol(name), bindings, body @ ..]) => {
                self.named_let(*name, bindings, body, scope)
            }
            ("let", [bindings, body @ ..]) => self.let_form(bindings, body, scope),
            ("let*", [bindings, body @ ..]) => self.let_star(bindings, body, scope),
            ("letrec" | "letrec*", [bindings, body @ ..]) => {
                let define = Value::Symbol(Symbols::get("define"));
                let definitions = bindings.elements()?.into_iter();
                let mut all: Vec<Value> =
                    definitions.map(|binding| heap::cons(define.clone(), binding)).collect();
                all.extend_from_slice(body);
                self.let_form(&Value::Nil, &all, scope)
            }
            ("cond", clauses) => self.cond(clauses, scope),
            ("when", [test, body @ ..]) => {
                let then = self.sequence(body, scope)?;
                let none = Code::Constant(Value::Unspecified);
                Ok(Code::If(Box::new([self.expression(test, scope)?, then, none])))
            }
            ("unless", [test, body @ ..]) => {
                let other = self.sequence(body, scope)?;
                let none = Code::Constant(Value::Unspecified);
                Ok(Code::If(Box::new([self.expression(test, scope)?, none, other])))
            }
            ("and", []) => Ok(Code::Constant(Value::Bool(true))),
            ("or", []) => Ok(Code::Constant(Value::Bool(false))),
            ("and" | "or", [last]) => self.expression(last, scope),
            (both @ ("and" | "or"), [first, rest @ ..]) => {
                let first = self.expression(first, scope)?;
                let mut tail = vec![form[0].clone()];
                tail.extend_from_slice(rest);
                let pair = Box::new([first, self.form(&tail, scope)?]);
                Ok(if both == "and" { Code::And(pair) } else { Code::Or(pair) })
            }
            (special @ ("quote" | "if" | "define" | "set!" | "lambda" | "let" | "let*"), _) => {
                Err(format!("malformed {special}"))
            }
            _ => {
                let function = self.boxed(&form[0], scope)?;
                let arguments = form[1..].iter().map(|value| self.expression(value, scope));
                Ok(Code::Call(function, arguments.collect::<Result<_>>()?))
            }
        }
    }

    /// An expression that becomes known under a name.
    fn named(&mut self, name: Symbol, value: &Value, scope: Option<&Scope<'_>>) -> Result<Code> {
        if let Value::Pair(pair) = value
            && name_of(&pair.car.borrow()).as_deref() == Some("lambda")
        {
            let form = value.elements()?;
            if let [_, parameters, body @ ..] = &form[..] {
                return self.lambda(Symbols::name(name), parameters, body, scope);
            }
        }
        self.expression(value, scope)
    }

    fn sequence(&mut self, body: &[Value], scope: Option<&Scope<'_>>) -> Result<Code> {
        match body {
            [] => Ok(Code::Constant(Value::Unspecified)),
            [one] => self.expression(one, scope),
            many => {
                let codes = many.iter().map(|value| self.expression(value, scope));
                Ok(Code::Sequence(codes.collect::<Result<_>>()?))
            }
        }
    }

    fn lambda(
        &mut self,
        name: String,
        parameters: &Value,
        body: &[Value],
        outer: Option<&Scope<'_>>,
    ) -> Result<Code> {
        let mut names = Vec::new();
        let mut rest = parameters.clone();
        while let Value::Pair(pair) = rest {
            names.push(symbol(&pair.car.borrow())?);
            rest = pair.cdr.borrow().clone();
        }
        let parameters = names.len();
        let takes_rest = !matches!(rest, Value::Nil);
        if takes_rest {
            names.push(symbol(&rest)?);
        }
        for form in body {
            if let Value::Pair(pair) = form
                && name_of(&pair.car.borrow()).as_deref() == Some("define")
            {
                names.push(definition(&form.elements()?)?.0);
            }
        }
        let slots = names.len();
        let scope = Scope { names, outer };
        let body = self.sequence(body, Some(&scope))?;
        Ok(Code::Lambda(Rc::new(Lambda { name, parameters, rest: takes_rest, slots, body })))
    }

    fn let_form(
        &mut self,
        bindings: &Value,
        body: &[Value],
        scope: Option<&Scope<'_>>,
    ) -> Result<Code> {
        let (names, values) = split(bindings)?;
        let lambda = self.lambda("let".into(), &Value::list(names.into_iter()), body, scope)?;
        let values = values.iter().map(|value| self.expression(value, scope));
        Ok(Code::Call(Box::new(lambda), values.collect::<Result<_>>()?))
    }

    fn let_star(
        &mut self,
        bindings: &Value,
        body: &[Value],
        scope: Option<&Scope<'_>>,
    ) -> Result<Code> {
        let bindings = bindings.elements()?;
        let [first, rest @ ..] = &bindings[..] else {
            return self.let_form(&Value::Nil, body, scope);
        };
        let one = Value::list([first.clone()].into_iter());
        if rest.is_empty() {
            return self.let_form(&one, body, scope);
        }
        let inner = heap::cons(
            Value::Symbol(Symbols::get("let*")),
            heap::cons(Value::list(rest.iter().cloned()), Value::list(body.iter().cloned())),
        );
        self.let_form(&one, &[inner], scope)
    }

    /// `((letrec ((name (lambda names body ..))) name) values ..)`
    fn named_let(
        &mut self,
        name: Symbol,
        bindings: &Value,
        body: &[Value],
        scope: Option<&Scope<'_>>,
    ) -> Result<Code> {
        let (names, values) = split(bindings)?;
        let head = heap::cons(Value::Symbol(name), Value::list(names.into_iter()));
        let define = Value::Symbol(Symbols::get("define"));
        let define = heap::cons(define, heap::cons(head, Value::list(body.iter().cloned())));
        let function = self.let_form(&Value::Nil, &[define, Value::Symbol(name)], scope)?;
        let values = values.iter().map(|value| self.expression(value, scope));
        Ok(Code::Call(Box::new(function), values.collect::<Result<_>>()?))
    }

    fn cond(&mut self, clauses: &[Value], scope: Option<&Scope<'_>>) -> Result<Code> {
        let [first, rest @ ..] = clauses else {
            return Ok(Code::Constant(Value::Unspecified));
        };
        let first = first.elements()?;
        match &first[..] {
            [] => Err("an empty clause in cond".into()),
            [test, body @ ..] if name_of(test).as_deref() == Some("else") => {
                self.sequence(body, scope)
            }
            [test] => {
                let test = self.expression(test, scope)?;
                Ok(Code::Or(Box::new([test, self.cond(rest, scope)?])))
            }
            [test, body @ ..] => {
                let (test, then) = (self.expression(test, scope)?, self.sequence(body, scope)?);
                Ok(Code::If(Box::new([test, then, self.cond(rest, scope)?])))
            }
        }
    }
}

/// Names and values of `((name value) ..)`.
fn split(bindings: &Value) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut split = (Vec::new(), Vec::new());
    for binding in bindings.elements()? {
        match &binding.elements()?[..] {
            [name, value] => {
                split.0.push(name.clone());
                split.1.push(value.clone());
            }
            _ => return Err(format!("expected (name value), found {binding}")),
        }
    }
    Ok(split)
}
