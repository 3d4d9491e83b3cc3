//! CPython's test_gc, second part: resurrection, exactly counted; collections that start by
//! themselves, and those that must not. No unsafe here.

use std::cell::Cell;
use std::rc::Rc;

use rc_gc::{Gc, Generation, Mode, Thresholds};

use crate::kit::{Actor, Kept, Log, Node, close, live, nothing_left, quiet, ring};

/// An object that was resurrected dies without a second finalizer.
#[test]
fn resurrection_only_happens_once_per_object() {
    let (kept, finalized) = (Kept::<Actor>::default(), Log::default());
    let (keeping, noting) = (kept.clone(), finalized.clone());
    let lazarus = Actor::make(
        0,
        move |actor: &Actor| {
            noting.note(actor.id);
            keeping.borrow_mut().extend(actor.handle());
        },
        quiet,
    );
    lazarus.link(&lazarus);
    drop(lazarus);
    assert_eq!((rc_gc::collect(), finalized.take()), (0, vec![0]));
    kept.borrow_mut().clear();
    assert_eq!((rc_gc::collect(), finalized.len(), kept.borrow().len()), (1, 0, 0));
    nothing_left();
}

/// What a resurrected object holds comes back with it, the very same object.
#[test]
fn resurrection_is_transitive() {
    let kept = Kept::<Actor>::default();
    let keeping = kept.clone();
    let lazarus =
        Actor::make(0, move |actor: &Actor| keeping.borrow_mut().extend(actor.handle()), quiet);
    let cargo = Actor::make(1, quiet, quiet);
    close(&[lazarus.clone(), cargo.clone()]);
    let address = Gc::as_ptr(&cargo);
    drop((lazarus, cargo));
    assert_eq!(rc_gc::collect(), 0);
    {
        let kept = kept.borrow();
        let cargo = &kept[0].links.borrow()[0];
        assert_eq!((kept.len(), cargo.id, Gc::as_ptr(cargo)), (1, 1, address));
        assert!(!Gc::is_dead(cargo) && cargo.handle().is_some());
    }
    kept.borrow_mut().clear();
    assert_eq!(rc_gc::collect(), 2);
    nothing_left();
}

/// Resurrection of some garbage does not keep the rest: freed and resurrected are counted exactly.
#[test]
fn resurrection_does_not_block_cleanup_of_other_objects() {
    const MANY: usize = 100;
    let kept = Kept::<Actor>::default();
    let phoenix = || {
        let keeping = kept.clone();
        let keep = move |actor: &Actor| keeping.borrow_mut().extend(actor.handle());
        let pair = [Actor::make(0, keep, quiet), Actor::make(1, quiet, quiet)];
        close(&pair);
    };
    let log = Log::default();
    let garbage = || (0..MANY).for_each(|id| drop(ring(id..id + 1, &log)));
    garbage();
    assert_eq!(rc_gc::collect(), MANY);
    phoenix();
    assert_eq!(rc_gc::collect(), 0);
    kept.borrow_mut().clear();
    assert_eq!(rc_gc::collect(), 2);
    garbage();
    phoenix();
    assert_eq!(rc_gc::collect(), MANY);
    assert_eq!(rc_gc::collect(), 0);
    let old = rc_gc::stats().generations[2];
    assert_eq!((old.collected, old.resurrected), (2 * MANY as u64 + 2, 4));
    kept.borrow_mut().clear();
    assert_eq!(rc_gc::collect(), 2);
    nothing_left();
}

/// Automatic collections find young garbage that holds an old object, whose callback sees nothing
/// of the garbage.
#[test]
fn bug1055820c() {
    let log = Log::default();
    let old = Node::make(0, &log);
    rc_gc::collect();
    assert_eq!(Gc::generation(&old), Generation::Old);
    let young = ring(1..3, &log);
    let weaks: Vec<_> = young.iter().map(Gc::downgrade).collect();
    let seen: Rc<Cell<Option<usize>>> = Rc::default();
    let seeing = seen.clone();
    Gc::on_dead(&old, move || {
        seeing.set(Some(weaks.iter().filter(|weak| weak.upgrade().is_some()).count()));
    });
    young[0].link(&old);
    drop((old, young));
    let mut made = Vec::new();
    while seen.get().is_none() {
        made.push(Gc::new(made.len()));
        assert!(made.len() <= 100_000, "no collection came");
    }
    assert_eq!((seen.get(), log.sorted()), (Some(0), vec![0, 1, 2]));
    drop(made);
    nothing_left();
}

/// The same where the old object has a finalizer: what is taken apart by then is seen as dead.
#[test]
fn bug1055820d() {
    let seen = Log::default();
    let noting = seen.clone();
    let old = Actor::make(
        0,
        move |actor: &Actor| {
            noting.note(actor.links.borrow().iter().filter(|link| Gc::is_dead(link)).count());
            let weak = actor.me.borrow().upgrade();
            noting.note(usize::from(weak.is_some()));
        },
        quiet,
    );
    rc_gc::collect();
    // The young ring holds the old object, which holds nothing of it.
    let young = [Actor::make(1, quiet, quiet), Actor::make(2, quiet, quiet)];
    close(&young);
    young[0].link(&old);
    drop((old, young));
    let made: Vec<_> = (0..100_000).map(Gc::new).collect();
    assert_eq!(seen.take(), [0, 1], "finalized once, its neighbours whole");
    drop(made);
    nothing_left();
}

/// With the collector off, ten thousand allocations collect nothing; switched on again, it collects.
#[test]
fn indirect_calls_with_gc_disabled() {
    rc_gc::disable();
    let log = Log::default();
    drop(ring(0..2, &log));
    let made: Vec<_> = (0..10_001).map(Gc::new).collect();
    assert_eq!((log.len(), rc_gc::is_enabled()), (0, false));
    assert_eq!(rc_gc::stats().generations.map(|generation| generation.collections), [0; 3]);
    rc_gc::enable();
    let more: Vec<_> = (0..100_000).map(Gc::new).collect();
    assert_eq!(log.sorted(), [0, 1]);
    drop((made, more));
    nothing_left();
}

/// Where nobody but the program collects, fifty thousand allocations collect nothing. (A threshold
/// of 0 counts as 1.)
#[test]
fn threshold_zero() {
    rc_gc::set_mode(Mode::Manual);
    let log = Log::default();
    drop(ring(0..2, &log));
    let made: Vec<_> = (0..50_001).map(Gc::new).collect();
    assert_eq!((log.len(), rc_gc::mode()), (0, Mode::Manual));
    rc_gc::set_thresholds(Thresholds { young: 0, ..Thresholds::DEFAULT });
    assert_eq!(rc_gc::thresholds().young, 1);
    assert_eq!((rc_gc::collect(), log.sorted()), (2, vec![0, 1]));
    drop(made);
    nothing_left();
}

/// Cycles made as fast as can be, all pointing at one old ring, do not pile up.
#[test]
fn incremental_gc_handles_fast_cycle_creation() {
    let log = Log::default();
    let base = ring(0..1000, &log);
    rc_gc::collect();
    let mut held = Vec::new();
    let mut most = 0;
    for round in 0..20_000 {
        let new = ring(1000..1020, &log);
        new[0].link(&base[round % 1000]);
        held.push(new);
        if held.len() == 20 {
            held.clear();
            log.take();
        }
        most = most.max(live());
    }
    assert!(most < 1000 + 27_000, "{most} live at once");
    drop((held, base));
    nothing_left();
}
