//! The workloads of the suite `gc`: what counted and collected pointers are compared on.
//!
//! ```text
//!   Collector (Rc, Gc, ...)  ──► node: a number, a token, two links that can be changed
//!        one type each              └ counts how many nodes exist, so that garbage can be told
//!   workload<C: Collector>   ──► Outcome, with `longest_step_seconds`, `most_garbage`, `leaked_objects`
//! ```
//!
//! 1. All contenders run the same code on the same kind of node. The token costs each of them an
//!    addition to a thread-local per node made and dropped.
//! 2. A collector that starts by itself is left to do so; one that does not is asked after every
//!    10,000 nodes. All are asked once at the end, inside the time.
//! 3. A *step* is 32 to 1,024 operations, between two readings of the clock: its longest is the
//!    longest pause and a little work. *Garbage* are nodes that exist but cannot be reached, looked
//!    at after each step.
//!
//! The rules of [`workload`](crate::workload) hold, but for what a contender leaks. No unsafe here.

mod ours;

use std::cell::Cell;
use std::collections::HashSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

pub use ours::{Counted, Ours};

use crate::workload::Kind::{Cycles, Micro, Real};
use crate::workload::{Outcome, Scale, Workload, fold, measure};

/// A kind of pointer, and how nodes are made of it.
pub trait Collector: 'static {
    /// A handle to a node.
    type Handle: Clone + 'static;
    /// Whether collections start by themselves.
    const AUTOMATIC: bool;
    /// A node with this number and no links.
    fn make(number: u64) -> Self::Handle;
    /// The node's number.
    fn number(node: &Self::Handle) -> u64;
    /// What link 0 or 1 leads to.
    fn get(node: &Self::Handle, link: usize) -> Option<Self::Handle>;
    /// Sets link 0 or 1.
    fn set(node: &Self::Handle, link: usize, to: Option<Self::Handle>);
    /// Collects all garbage.
    fn collect();
}

thread_local!(static NODES: Cell<u64> = const { Cell::new(0) });

/// Part of every node: counts it for as long as it exists.
#[derive(Debug)]
pub struct Token(());

impl Token {
    /// Counts one node more.
    #[inline]
    #[must_use]
    pub fn new() -> Token {
        NODES.set(NODES.get() + 1);
        Token(())
    }

    /// How many exist in this thread.
    #[must_use]
    pub fn count() -> u64 {
        NODES.get()
    }
}

impl Default for Token {
    fn default() -> Token {
        Token::new()
    }
}

impl Drop for Token {
    #[inline]
    fn drop(&mut self) {
        NODES.set(NODES.get() - 1);
    }
}

/// The clock and the count of garbage, read after each step.
struct Steps {
    before: u64,
    last: Instant,
    longest: Duration,
    garbage: u64,
    /// Nodes since a collector that does not start by itself was asked.
    waiting: u64,
}

impl Steps {
    fn new() -> Steps {
        let before = NODES.get();
        Steps { before, last: Instant::now(), longest: Duration::ZERO, garbage: 0, waiting: 0 }
    }

    /// Nodes that this run made and that still exist.
    fn exist(&self) -> u64 {
        NODES.get() - self.before
    }

    /// A step has ended that made `made` nodes; `reachable` are in use now.
    fn end<C: Collector>(&mut self, made: u64, reachable: u64) {
        self.garbage = self.garbage.max(self.exist() - reachable);
        self.waiting += made;
        if !C::AUTOMATIC && self.waiting >= 10_000 {
            self.waiting = 0;
            C::collect();
        }
        let now = Instant::now();
        self.longest = self.longest.max(now - self.last);
        self.last = now;
    }

    /// What was done from here on is no step.
    fn skip(&mut self) {
        self.last = Instant::now();
    }
}

/// Measures `work`, and a last collection.
fn measured<C: Collector>(
    steps: &mut Steps,
    work: impl FnOnce(&mut Steps) -> (u64, u64),
) -> Outcome {
    steps.skip();
    measure(|| {
        let done = work(steps);
        C::collect();
        done
    })
}

/// Adds what the steps showed, and what exists although everything was let go of.
fn with_steps<C: Collector>(mut outcome: Outcome, steps: &Steps) -> Outcome {
    C::collect();
    outcome.extra = vec![
        ("longest_step_seconds", steps.longest.as_secs_f64()),
        ("most_garbage", steps.garbage as f64),
        ("leaked_objects", steps.exist() as f64),
    ];
    outcome
}

fn handles<C: Collector>(scale: &Scale) -> Outcome {
    const MANY: u64 = 1024;
    let rounds = scale.of(100_000);
    let mut steps = Steps::new();
    let nodes: Vec<C::Handle> = (0..MANY).map(C::make).collect();
    let outcome = measured::<C>(&mut steps, |steps| {
        for _ in 0..rounds {
            for node in &nodes {
                drop(black_box(node.clone()));
            }
            steps.end::<C>(0, MANY);
        }
        (rounds * MANY, nodes.iter().map(C::number).fold(0, fold))
    });
    drop(nodes);
    with_steps::<C>(outcome, &steps)
}

fn allocations<C: Collector>(scale: &Scale) -> Outcome {
    let rounds = scale.of(480_000);
    let mut steps = Steps::new();
    let outcome = measured::<C>(&mut steps, |steps| {
        let mut sum = 0u64;
        for round in 0..rounds {
            for number in 0..64 {
                let node = black_box(C::make(round ^ number));
                sum = sum.wrapping_add(C::number(&node));
            }
            steps.end::<C>(64, 0);
        }
        (rounds * 64, sum)
    });
    with_steps::<C>(outcome, &steps)
}

/// A binary tree of `depth` levels.
fn tree<C: Collector>(depth: u32, number: u64) -> C::Handle {
    let node = C::make(number);
    if depth > 1 {
        C::set(&node, 0, Some(tree::<C>(depth - 1, number * 2)));
        C::set(&node, 1, Some(tree::<C>(depth - 1, number * 2 + 1)));
    }
    node
}

fn trees<C: Collector>(scale: &Scale) -> Outcome {
    let rounds = scale.of(60);
    let depth = scale.keep(131_072).ilog2();
    let size = (1 << depth) - 1;
    let mut steps = Steps::new();
    let outcome = measured::<C>(&mut steps, |steps| {
        let mut sum = 0;
        for round in 0..rounds {
            let mut node = tree::<C>(depth, 1);
            // Building it is no step: it pauses nobody.
            steps.skip();
            while let Some(next) = C::get(&node, (round % 2) as usize) {
                sum = fold(sum, C::number(&next));
                node = next;
            }
            drop(node);
            steps.end::<C>(size, 0);
        }
        (rounds * size, sum)
    });
    with_steps::<C>(outcome, &steps)
}

/// Two nodes that hold each other; a handle to the first.
fn ring<C: Collector>(number: u64) -> C::Handle {
    let (one, two) = (C::make(number), C::make(number + 1));
    C::set(&one, 0, Some(two.clone()));
    C::set(&two, 0, Some(one.clone()));
    one
}

fn rings<C: Collector>(scale: &Scale) -> Outcome {
    let rounds = scale.of(120_000);
    let mut steps = Steps::new();
    let outcome = measured::<C>(&mut steps, |steps| {
        let mut sum = 0u64;
        for round in 0..rounds {
            for number in 0..32 {
                let ring = ring::<C>(round + number);
                sum = sum.wrapping_add(C::number(&ring));
            }
            steps.end::<C>(64, 0);
        }
        (rounds * 64, sum)
    });
    with_steps::<C>(outcome, &steps)
}

fn lists<C: Collector>(scale: &Scale) -> Outcome {
    let rounds = scale.of(1_500);
    let length = scale.keep(4096) as u64;
    let mut steps = Steps::new();
    let outcome = measured::<C>(&mut steps, |steps| {
        let mut sum = 0;
        for round in 0..rounds {
            let first = C::make(round);
            let mut last = first.clone();
            for number in 1..length {
                let next = C::make(number);
                C::set(&next, 1, Some(last.clone()));
                C::set(&last, 0, Some(next.clone()));
                last = next;
                if number % 64 == 0 {
                    steps.end::<C>(64, number + 1);
                }
            }
            sum = fold(sum, C::number(&last).wrapping_add(C::number(&first)));
            drop((first, last));
            steps.end::<C>(length % 64, 0);
        }
        (rounds * length, sum)
    });
    with_steps::<C>(outcome, &steps)
}

/// How many nodes can be reached, and a number that depends on which.
fn reachable<C: Collector>(roots: &[C::Handle]) -> (u64, u64) {
    let mut pending: Vec<C::Handle> = roots.to_vec();
    let (mut seen, mut sum) = (HashSet::new(), 0u64);
    while let Some(node) = pending.pop() {
        if seen.insert(C::number(&node)) {
            sum = sum.wrapping_add(fold(0, C::number(&node)));
            pending.extend([0, 1].into_iter().filter_map(|link| C::get(&node, link)));
        }
    }
    (seen.len() as u64, sum)
}

fn graph<C: Collector>(scale: &Scale) -> Outcome {
    const ROOTS: usize = 50;
    let rounds = scale.of(600);
    let mut random = scale.rng(0);
    let mut steps = Steps::new();
    let outcome = measured::<C>(&mut steps, |steps| {
        let mut roots: Vec<C::Handle> = (0..ROOTS as u64).map(C::make).collect();
        let (mut made, mut sum) = (ROOTS as u64, 0);
        for _ in 0..rounds {
            for _ in 0..256 {
                let before = made;
                for _ in 0..64 {
                    let (at, other) = (random.usize(..ROOTS), random.usize(..ROOTS));
                    let link = random.usize(..2);
                    match random.u8(..4) {
                        0 => {
                            roots[at] = C::make(made);
                            made += 1;
                        }
                        1 => C::set(&roots[at], link, Some(roots[other].clone())),
                        2 => C::set(&roots[at], link, None),
                        _ => {
                            if let Some(next) = C::get(&roots[at], link) {
                                roots[other] = next;
                            }
                        }
                    }
                }
                // Of what exists at most all is reachable: the true number is asked for below.
                steps.end::<C>(made - before, steps.exist());
            }
            let (count, of_them) = reachable::<C>(&roots);
            steps.garbage = steps.garbage.max(steps.exist() - count);
            sum = fold(sum, of_them);
            steps.skip();
        }
        (rounds * 256 * 64, sum)
    });
    with_steps::<C>(outcome, &steps)
}

fn million<C: Collector>(scale: &Scale) -> Outcome {
    let rounds = scale.of(60_000);
    let live = scale.keep(500_000);
    let mut random = scale.rng(0);
    let mut steps = Steps::new();
    let mut rings: Vec<C::Handle> = (0..live as u64).map(ring::<C>).collect();
    let outcome = measured::<C>(&mut steps, |steps| {
        let mut sum = 0u64;
        for round in 0..rounds {
            for number in 0..32 {
                let slot = &mut rings[random.usize(..live)];
                sum = sum.wrapping_add(C::number(slot));
                *slot = ring::<C>(round + number);
            }
            steps.end::<C>(64, 2 * live as u64);
        }
        (rounds * 64, sum)
    });
    drop(rings);
    with_steps::<C>(outcome, &steps)
}

/// The workloads that every collector runs.
#[must_use]
pub const fn loads<C: Collector>() -> [Workload; 7] {
    [
        load(
            "handle",
            Micro,
            "handle",
            handles::<C>,
            "clone and drop a handle, 1,024 nodes in turn",
        ),
        load("node", Micro, "node", allocations::<C>, "make and drop a node"),
        load("tree", Micro, "node", trees::<C>, "build and drop binary trees of 131,071 nodes"),
        load("rings", Cycles, "node", rings::<C>, "rings of two that nobody holds: Rc leaks them"),
        load("lists", Cycles, "node", lists::<C>, "doubly linked lists of 4,096: Rc leaks them"),
        load(
            "graph",
            Cycles,
            "change",
            graph::<C>,
            "make, link, unlink and let go of nodes at random, 50 handles: Rc leaks",
        ),
        load(
            "million",
            Cycles,
            "node",
            million::<C>,
            "1,000,000 nodes in rings of two, replaced at random: Rc leaks what is replaced",
        ),
    ]
}

/// The workload that is a program: [`scheme`](crate::scheme).
#[must_use]
pub const fn interpreter(run: fn(&Scale) -> Outcome) -> Workload {
    let about = "a Scheme runs scripts: calls, closures, vectors, cycles that Rc leaks";
    load("interpreter", Real, "script", run, about)
}

const fn load(
    name: &'static str,
    kind: crate::workload::Kind,
    unit: &'static str,
    run: fn(&Scale) -> Outcome,
    about: &'static str,
) -> Workload {
    Workload { name, kind, about, unit, run }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: Scale = Scale { quick: true, seed: 7 };

    fn extra(outcome: &Outcome, name: &str) -> f64 {
        outcome.extra.iter().find(|extra| extra.0 == name).unwrap().1
    }

    #[test]
    fn contenders_do_the_same_work() {
        for (counted, ours) in loads::<Counted>().iter().zip(&loads::<Ours>()) {
            let (a, b) = ((counted.run)(&TINY), (ours.run)(&TINY));
            assert_eq!((a.units, a.checksum), (b.units, b.checksum), "{}", ours.name);
            let again = (ours.run)(&TINY);
            assert_eq!(again.checksum, b.checksum, "{}", ours.name);
        }
    }

    #[test]
    fn what_leaks_is_what_the_table_says_leaks() {
        for (counted, ours) in loads::<Counted>().iter().zip(&loads::<Ours>()) {
            let leaks = extra(&(counted.run)(&TINY), "leaked_objects") != 0.0;
            assert_eq!(leaks, counted.about.contains("Rc leaks"), "{}", counted.name);
            assert_eq!(extra(&(ours.run)(&TINY), "leaked_objects"), 0.0, "{}", ours.name);
        }
    }

    #[test]
    fn garbage_is_what_exists_and_is_not_reachable() {
        let outcome = (loads::<Counted>()[3].run)(&TINY);
        assert_eq!(extra(&outcome, "most_garbage"), outcome.units as f64);
        let outcome = (loads::<Ours>()[0].run)(&TINY);
        assert_eq!(extra(&outcome, "most_garbage"), 0.0);
        assert!(extra(&outcome, "longest_step_seconds") > 0.0);
    }

    #[test]
    fn a_ring_and_a_tree_can_be_walked() {
        let ring = ring::<Ours>(5);
        let next = Ours::get(&ring, 0).unwrap();
        assert_eq!(
            (Ours::number(&next), Ours::get(&next, 0).map(|n| Ours::number(&n))),
            (6, Some(5))
        );
        assert_eq!(reachable::<Ours>(&[tree::<Ours>(5, 1)]).0, 31);
    }
}
