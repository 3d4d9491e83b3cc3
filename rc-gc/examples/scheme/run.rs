//! Runs code. Tail calls take no stack: [`Machine::apply`] loops. No unsafe here.

use std::rc::Rc;

use super::builtins;
use super::compile::{Code, Compiler, Lambda};
use super::heap::{self, Closure, Env, Gc};
use super::read::Reader;
use super::value::{Builtin, Symbols, Value};

/// Calls that are not tail calls, one inside the other, at most; each takes up to 4 KiB of stack.
const MOST_CALLS: usize = 50_000;
/// Stack for that.
pub(crate) const STACK: usize = MOST_CALLS * 8192;

/// What is left to do after an expression.
enum Step {
    Done(Value),
    /// A tail call.
    Call(Gc<Closure>, Vec<Value>),
}

/// Globals, and how deep calls are.
pub(crate) struct Machine {
    compiler: Compiler,
    globals: Vec<Option<Value>>,
    calls: usize,
}

type Result<T> = std::result::Result<T, String>;
type Place<'a> = Option<&'a Gc<Env>>;

impl Machine {
    /// A machine that knows the builtin procedures and the prelude.
    pub(crate) fn new() -> Machine {
        let mut machine = Machine { compiler: Compiler::default(), globals: Vec::new(), calls: 0 };
        for builtin in builtins::ALL {
            let index = machine.compiler.global(Symbols::get(builtin.name));
            machine.set_global(index, Value::Builtin(builtin));
        }
        machine.run(builtins::PRELUDE).expect("the prelude is valid");
        machine
    }

    /// Runs a program; the value of its last expression.
    pub(crate) fn run(&mut self, program: &str) -> Result<Value> {
        let mut reader = Reader::new(program);
        let mut last = Value::Unspecified;
        while let Some(value) = reader.next_value()? {
            let code = self.compiler.top(&value)?;
            last = self.eval(&code, None)?;
        }
        Ok(last)
    }

    fn set_global(&mut self, index: usize, value: Value) {
        if self.globals.len() <= index {
            self.globals.resize(index + 1, None);
        }
        self.globals[index] = Some(value);
    }

    fn global(&self, index: usize) -> Result<Value> {
        let value = self.globals.get(index).and_then(Option::clone);
        value.ok_or_else(|| {
            format!("{} is not defined", Symbols::name(self.compiler.globals[index]))
        })
    }

    /// The value of an expression that is not last in its procedure.
    fn eval(&mut self, code: &Code, env: Place<'_>) -> Result<Value> {
        match self.step(code, env)? {
            Step::Done(value) => Ok(value),
            Step::Call(closure, arguments) => self.apply(closure, arguments),
        }
    }

    /// Calls a procedure, and those that it calls last.
    fn apply(&mut self, closure: Gc<Closure>, arguments: Vec<Value>) -> Result<Value> {
        if self.calls == MOST_CALLS {
            return Err("calls are nested too deeply".into());
        }
        self.calls += 1;
        let value = self.apply_all(closure, arguments);
        self.calls -= 1;
        value
    }

    fn apply_all(&mut self, mut closure: Gc<Closure>, mut arguments: Vec<Value>) -> Result<Value> {
        loop {
            let lambda = Rc::clone(&closure.lambda);
            bind(&lambda, &mut arguments)?;
            let env = heap::environment(arguments, closure.env.clone());
            drop(closure);
            match self.step(&lambda.body, Some(&env))? {
                Step::Call(next, with) => (closure, arguments) = (next, with),
                Step::Done(value) => return Ok(value),
            }
        }
    }

    fn step(&mut self, mut code: &Code, env: Place<'_>) -> Result<Step> {
        let value = loop {
            match code {
                Code::If(parts) => {
                    let [test, then, other] = &**parts;
                    code = if self.eval(test, env)?.is_true() { then } else { other };
                }
                Code::And(parts) => {
                    let first = self.eval(&parts[0], env)?;
                    if !first.is_true() {
                        break first;
                    }
                    code = &parts[1];
                }
                Code::Or(parts) => {
                    let first = self.eval(&parts[0], env)?;
                    if first.is_true() {
                        break first;
                    }
                    code = &parts[1];
                }
                Code::Sequence(all) => {
                    let Some((last, rest)) = all.split_last() else { break Value::Unspecified };
                    for part in rest {
                        self.eval(part, env)?;
                    }
                    code = last;
                }
                Code::Call(function, arguments) => return self.call(function, arguments, env),
                other => break self.simple(other, env)?,
            }
        };
        Ok(Step::Done(value))
    }

    /// Expressions that are no calls and contain no last expression.
    fn simple(&mut self, code: &Code, env: Place<'_>) -> Result<Value> {
        match code {
            Code::Constant(value) => Ok(value.clone()),
            Code::Local(level, slot) => {
                with_env(env, *level, |env| env.slots.borrow()[*slot].clone())
            }
            Code::Global(index) => self.global(*index),
            Code::SetLocal(level, slot, value) => {
                let value = self.eval(value, env)?;
                // The old value is dropped after the cell is returned: its drop may run anything.
                let old = with_env(env, *level, |env| {
                    std::mem::replace(&mut env.slots.borrow_mut()[*slot], value)
                })?;
                drop(old);
                Ok(Value::Unspecified)
            }
            Code::SetGlobal(index, value) => {
                let value = self.eval(value, env)?;
                self.global(*index)?;
                self.set_global(*index, value);
                Ok(Value::Unspecified)
            }
            Code::DefineGlobal(index, value) => {
                let value = self.eval(value, env)?;
                self.set_global(*index, value);
                Ok(Value::Unspecified)
            }
            Code::Lambda(lambda) => Ok(heap::closure(lambda.clone(), env.cloned())),
            _ => unreachable!("`step` does all others itself"),
        }
    }

    fn call(&mut self, function: &Code, arguments: &[Code], env: Place<'_>) -> Result<Step> {
        let mut function = self.eval(function, env)?;
        let room = match &function {
            Value::Closure(closure) => closure.lambda.slots.max(arguments.len()),
            _ => arguments.len(),
        };
        let mut values = Vec::with_capacity(room);
        for argument in arguments {
            values.push(self.eval(argument, env)?);
        }
        loop {
            match function {
                Value::Closure(closure) => return Ok(Step::Call(closure, values)),
                Value::Builtin(builtin) => {
                    check(builtin, values.len())?;
                    if builtin.name != "apply" {
                        return (builtin.run)(&mut values).map(Step::Done);
                    }
                    let list = values.pop().unwrap_or(Value::Nil).elements()?;
                    function = values.remove(0);
                    values.extend(list);
                }
                other => return Err(format!("not a procedure: {other}")),
            }
        }
    }
}

/// Makes a call's arguments the slots of its environment.
fn bind(lambda: &Lambda, arguments: &mut Vec<Value>) -> Result<()> {
    let given = arguments.len();
    if given < lambda.parameters || (given > lambda.parameters && !lambda.rest) {
        let Lambda { name, parameters, .. } = lambda;
        return Err(format!("{name} takes {parameters} arguments, not {given}"));
    }
    if lambda.rest {
        let rest = Value::list(arguments.drain(lambda.parameters..));
        arguments.push(rest);
    }
    arguments.resize(lambda.slots, Value::Unspecified);
    Ok(())
}

/// Calls `f` with the environment so many levels out.
fn with_env<R>(env: Place<'_>, level: usize, f: impl FnOnce(&Env) -> R) -> Result<R> {
    let mut at = env;
    for _ in 0..level {
        at = at.and_then(|env| env.outer.as_ref());
    }
    at.map(|env| f(env)).ok_or_else(|| "a variable outside of any procedure".into())
}

fn check(builtin: &Builtin, given: usize) -> Result<()> {
    if given < builtin.least || given > builtin.most {
        return Err(format!("{} takes another number of arguments than {given}", builtin.name));
    }
    Ok(())
}
