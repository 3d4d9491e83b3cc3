//! Random safe programs over several heaps, whose drops, finalizers, callbacks, clones and panic
//! hook do at random what the program itself can do: collect, allocate, end heaps, take handles
//! away, lend and unwrap values, panic.
//!
//! `oracle` says what must be dropped; this asks only that nobody sees what is gone: every value
//! knows whether it is whole. Made to run under AddressSanitizer, with `verify`, where each object
//! is a block of its own.
//!
//! * `RANDOM_PROGRAMS=n` runs n programs instead of 1,000.
//! * `RANDOM_SEED=s` runs the one that a failure named.

mod act;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use act::act;
use world::{FAILED, World, with};

/// Programs, and what each of them begins by itself.
const PROGRAMS: u64 = if cfg!(miri) { 4 } else { 1_000 };
const STEPS: usize = if cfg!(miri) { 20 } else { 1_000 };

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The panics that are meant to be.
fn is_planned(panic: &(dyn std::any::Any + Send)) -> bool {
    panic.downcast_ref() == Some(&"planned") || panic.downcast_ref() == Some(&"fuse")
}

fn planned(f: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(f))
        && !is_planned(&*panic)
    {
        std::panic::resume_unwind(panic);
    }
}

/// What is run on top of a `Trace` that panics.
fn set_hook() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| match info.payload() {
        fuse if is_planned(fuse) => with(|world| (0..4).for_each(|_| act(world))),
        _ => before(info),
    }));
}

fn program(seed: u64) {
    // Which of world and heap ends first is up to their order here.
    if seed.is_multiple_of(2) {
        drop(rc_gc::Gc::new(1));
    }
    with(|world: &World| {
        world.seed(seed);
        world.panics.set(seed % 4 >= 2);
        for _ in 0..STEPS {
            world.budget.set(60);
            planned(|| act(world));
        }
        world.fuse.set(0);
        world.budget.set(200);
        if seed.is_multiple_of(3) {
            // Else all that is left ends with the thread.
            for _ in 0..4 {
                planned(|| drop(world.roots.take()));
                planned(|| drop(world.plains.take()));
                planned(|| drop(world.heaps.take()));
                planned(|| drop(world.graves.take()));
                planned(|| assert!(rc_gc::collect() < 1_000_000));
            }
            planned(|| drop(world.weaks.take()));
        }
        // Drops at the end of a thread must not panic: that ends the process.
        world.panics.set(false);
        world.fuse.set(0);
    });
}

#[test]
fn nobody_sees_what_is_gone() {
    set_hook();
    let only = number("RANDOM_SEED");
    let first = only.unwrap_or(1);
    let programs = if only.is_some() { 1 } else { number("RANDOM_PROGRAMS").unwrap_or(PROGRAMS) };
    for seed in first..first + programs {
        let ended = std::thread::spawn(move || program(seed)).join();
        let failed = FAILED.load(Ordering::Relaxed) || ended.is_err();
        assert!(!failed, "RANDOM_SEED={seed} cargo test -p rc-gc --test random");
    }
}
