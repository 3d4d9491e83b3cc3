//! The Scheme of `examples/scheme` runs the scripts of `examples/scripts` with the output beside them.

#[path = "../examples/scheme/builtins.rs"]
mod builtins;
#[path = "../examples/scheme/compile.rs"]
mod compile;
#[path = "../examples/scheme/heap.rs"]
mod heap;
#[path = "../examples/scheme/read.rs"]
mod read;
#[path = "../examples/scheme/run.rs"]
mod run;
#[path = "../examples/scheme/value.rs"]
mod value;

use std::path::Path;

/// What a program displays, and how it ends.
fn run(program: String) -> (String, Result<String, String>) {
    let thread = std::thread::Builder::new().stack_size(run::STACK).spawn(move || {
        let mut machine = run::Machine::new();
        let result = machine.run(&program).map(|value| value.to_string());
        drop(machine);
        rc_gc::collect();
        rc_gc::check().unwrap();
        assert_eq!(rc_gc::stats().live, 0, "everything goes with the machine");
        (builtins::take_output(), result)
    });
    thread.unwrap().join().unwrap()
}

fn script(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scripts");
    let program = std::fs::read_to_string(folder.join(format!("{name}.scm"))).unwrap();
    let expected = std::fs::read_to_string(folder.join(format!("{name}.out"))).unwrap();
    let (output, result) = run(program);
    assert_eq!((output, result.map(drop)), (expected, Ok(())));
}

#[test]
fn closures_share_what_they_closed_over() {
    script("closures");
}

#[test]
fn mutual_recursion_takes_no_stack_in_tail_position() {
    script("mutual");
}

#[test]
fn call_heavy_programs_compute_the_known_results() {
    script("calls");
}

#[test]
fn memory_stays_flat_where_everything_is_a_cycle() {
    script("cycles");
}

#[test]
fn errors_say_what_is_wrong() {
    for (program, error) in [
        ("(car 5)", "not a pair: 5"),
        ("(f)", "f is not defined"),
        ("(1 2)", "not a procedure: 1"),
        ("((lambda (x) x))", "lambda takes 1 arguments, not 0"),
        ("(", "line 1: the text ends inside a value"),
        ("\n)", "line 2: a `)` too many"),
        ("(if)", "malformed if"),
        ("(quotient 1 0)", "division by zero"),
        ("(define (f x) (+ 1 (f x))) (f 1)", "calls are nested too deeply"),
        ("(vector-ref (vector 1) 1)", "the vector has no element 1"),
    ] {
        assert_eq!(run(program.into()).1, Err(error.into()), "{program}");
    }
    assert_eq!(
        run("(let* ((a 1) (b (+ a 1))) (list a b 'c \"d\" 1.5))".into()).1.unwrap(),
        "(1 2 c d 1.5)"
    );
}

#[test]
fn a_machine_goes_on_after_errors_in_calls() {
    let thread = std::thread::Builder::new().stack_size(run::STACK).spawn(|| {
        let mut machine = run::Machine::new();
        machine.run("(define (f) (+ 1 (car 5)))").unwrap();
        for _ in 0..60_000 {
            assert_eq!(machine.run("(f)").map(drop), Err("not a pair: 5".into()));
        }
        let sum = machine.run("(define (g n) (if (= n 0) 0 (+ 1 (g (- n 1))))) (g 40000)");
        assert_eq!(sum.unwrap().to_string(), "40000");
    });
    thread.unwrap().join().unwrap();
}
