//! Random programs over at most 64 objects against a model: what is dropped is exactly what is
//! unreachable, each object once; and what a full collection finds, which starts from candidates,
//! is what a pass over the whole heap finds that ignores them.
//!
//! * `ORACLE_GRAPHS=n` runs n graphs in all instead of 100,000.
//! * `ORACLE_SEED=s` runs the one seed that a failure named. Each graph has a thread, and so a
//!   heap, of its own: nothing but the seed decides what happens.
//!
//! No unsafe here; one module has some, to write a `Trace`.

mod round;
mod world;

use round::Round;
use world::Plan;

/// Graphs of all tests together, if the environment does not say otherwise.
const GRAPHS: u64 = 100_000;

/// What part of the graphs each test runs, in percent.
const MUTATION: u64 = 30;
const FINALIZERS: u64 = 15;
const DROPS: u64 = 15;
const PANICS: u64 = 20;
const TRACE_PANICS: u64 = 10;
const STRESS: u64 = 10;
const _: () = assert!(MUTATION + FINALIZERS + DROPS + PANICS + TRACE_PANICS + STRESS == 100);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs `graph` with one seed after the other until it has run as many graphs as the share says. It
/// answers how many it ran. Tells the seed where one fails.
fn for_each_seed(test: &'static str, share: u64, graph: fn(u64) -> u64) {
    let wanted = number("ORACLE_GRAPHS").unwrap_or(GRAPHS) * share / 100;
    let only = number("ORACLE_SEED");
    let (mut done, mut seed) = (0, only.unwrap_or(1));
    while done < wanted.max(1) {
        let thread = std::thread::Builder::new().stack_size(512 << 10);
        match thread.spawn(move || graph(seed)).expect("a thread").join() {
            Ok(ran) => done += ran,
            Err(panic) => {
                eprintln!(
                    "seed {seed} fails; rerun: ORACLE_SEED={seed} cargo test -p rc-gc --test oracle {test}"
                );
                std::panic::resume_unwind(panic);
            }
        }
        if only.is_some() {
            return;
        }
        seed += 1;
    }
}

/// All that user code can do but panic, by the bits of the seed.
fn any_plan(seed: u64) -> Plan {
    Plan {
        finalizers: seed & 1 != 0,
        collect_in_drop: seed & 2 != 0,
        allocate_in_drop: seed & 4 != 0,
        move_out_of_drop: seed & 8 != 0,
    }
}

/// A whole program without a planned panic.
fn whole(seed: u64, plan: Plan) -> u64 {
    let mut round = Round::new(seed, plan);
    round.run();
    round.end();
    1
}

#[test]
fn dropped_is_exactly_what_is_unreachable() {
    for_each_seed("dropped_is_exactly", MUTATION, |seed| whole(seed, Plan::default()));
}

#[test]
fn finalizers_resurrect_what_they_save_and_all_it_reaches() {
    let plan = Plan { finalizers: true, ..Plan::default() };
    assert!(plan.finalizers);
    for_each_seed("finalizers_resurrect", FINALIZERS, |seed| {
        whole(seed, Plan { finalizers: true, ..Plan::default() })
    });
}

#[test]
fn collections_allocations_and_thefts_inside_drop_change_nothing() {
    for_each_seed("inside_drop", DROPS, |seed| whole(seed, any_plan(seed | 2 << (seed % 3))));
}

#[test]
fn a_panic_at_any_user_call_keeps_nothing_from_being_dropped() {
    for_each_seed("a_panic_at_any_user_call", PANICS, |seed| {
        let mut ran = 0;
        loop {
            let mut round = Round::new(seed, any_plan(seed));
            round.world.panic_at.set(ran as usize + 1);
            round.run();
            let calls = round.world.calls.get() as u64;
            round.end();
            ran += 1;
            if calls < ran {
                return ran;
            }
        }
    });
}

#[test]
fn a_panic_in_any_trace_frees_nothing_wrongly_and_forgets_nothing() {
    for_each_seed("a_panic_in_any_trace", TRACE_PANICS, |seed| {
        let mut ran = 0;
        // Programs trace thousands of times: every index at first, then ever larger steps.
        let mut at = 1;
        loop {
            let mut round = Round::new(seed, any_plan(seed));
            round.world.trace_panic_at.set(at);
            round.run();
            let traces = round.world.traces.get();
            round.end();
            ran += 1;
            if traces < at {
                return ran;
            }
            at += 1 + at / 64;
        }
    });
}

#[test]
fn a_collection_at_every_kth_operation_changes_nothing() {
    for_each_seed("every_kth_operation", STRESS, |seed| {
        let mut round = Round::new(seed, any_plan(seed));
        round.collect_every(seed as usize % 10 + 1);
        round.run();
        round.end();
        1
    });
}
