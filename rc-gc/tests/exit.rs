//! `process::exit` in the middle of the collector's work, with objects that are held: the thread's
//! heap ends on top of it. Each case is this program again, as a child.

use std::cell::{Cell, RefCell};
use std::process::{Command, exit};

use rc_gc::{Finalize, Gc, Heap, Trace};

/// Set in a child: where it ends.
const CASE: &str = "EXIT_CASE";
/// What it ends with.
const CODE: i32 = 77;

thread_local! {
    /// Held at the end: a ring, and another that the exit makes garbage of.
    static HELD: RefCell<Vec<Gc<Node>>> = const { RefCell::new(Vec::new()) };
    static ARMED: Cell<bool> = const { Cell::new(false) };
}

#[derive(Trace)]
#[gc(drop, finalize)]
struct Node {
    other: RefCell<Option<Gc<Node>>>,
    ends: Option<&'static str>,
}

fn end(here: &str, ends: Option<&str>) {
    if ends == Some(here) && ARMED.replace(false) {
        drop(HELD.with_borrow_mut(|held| held.pop()));
        exit(CODE);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        end("drop", self.ends);
    }
}

impl Finalize for Node {
    fn finalize(&self) {
        end("finalize", self.ends);
    }
}

fn ring(ends: Option<&'static str>, heap: Option<&Heap>) -> Gc<Node> {
    let make = |ends| {
        let node = Node { other: RefCell::default(), ends };
        heap.map_or_else(
            || Gc::new(Node { other: RefCell::default(), ends }),
            |heap| Gc::new_in(node, heap),
        )
    };
    let (a, b) = (make(ends), make(None));
    *a.other.borrow_mut() = Some(b.clone());
    *b.other.borrow_mut() = Some(a.clone());
    a
}

/// Ends where `case` says, and does not come back.
fn run(case: &str) {
    let (what, place) = case.split_once(' ').unwrap();
    let ends = if place == "finalize" { "finalize" } else { "drop" };
    let heap = (what == "heap").then(Heap::new);
    HELD.with_borrow_mut(|held| held.extend([ring(None, None), ring(None, heap.as_ref())]));
    let node = ring(Some(ends), heap.as_ref());
    ARMED.set(true);
    if what == "alone" {
        drop(node.other.take().map(|other| other.other.take()));
    }
    drop(node);
    heap.map_or_else(rc_gc::collect, |heap| heap.collect());
    unreachable!("{case} did not exit");
}

/// Does nothing, but in a child.
#[test]
fn child() {
    if let Ok(case) = std::env::var(CASE) {
        // On the main thread there is no test: a thread's locals end with the process all the same.
        run(&case);
    }
}

#[test]
fn a_process_may_exit_in_a_drop_and_in_a_finalizer() {
    for what in ["alone", "thread", "heap"] {
        for place in ["drop", "finalize"] {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child", "--nocapture", "--test-threads=1"])
                .env(CASE, format!("{what} {place}"))
                .output()
                .unwrap();
            let words = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(CODE), "{what} {place}: {words}");
        }
    }
}
