//! boa_gc's tests (a marking collector whose roots are counts minus edges).
//!
//! Without meaning here: ephemerons and weak maps: there are none in this crate; the nearest, a map
//! whose keys are watched, is tested. Bytes are counted by pool, not by object, so the exact
//! accounting is of objects. No unsafe here.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use rc_gc::{Gc, Trace, Weak};

use crate::kit::{Log, Node, in_small_stack, live, nothing_left};

/// A list of a million is marked and freed without a deep stack.
#[test]
fn gc_recursion() {
    #[derive(Trace)]
    struct Link(RefCell<Option<Gc<Link>>>);
    let many = if cfg!(miri) { 300 } else { 1_000_000 };
    in_small_stack(move || {
        let last = Gc::new(Link(RefCell::default()));
        let mut root = last.clone();
        for _ in 1..many {
            root = Gc::new(Link(RefCell::new(Some(root))));
        }
        assert_eq!(rc_gc::collect(), 0);
        drop(root.clone());
        assert_eq!(rc_gc::collect(), 0);
        *last.0.borrow_mut() = Some(root.clone());
        drop((root, last));
        assert_eq!(rc_gc::collect(), many);
        nothing_left();
    });
}

/// The number of live objects is exact at each step.
#[test]
fn exact_accounting() {
    let log = Log::default();
    assert_eq!(live(), 0);
    let one = Gc::new(1u64);
    assert_eq!(live(), 1);
    let two = Node::make(0, &log);
    two.link(&two);
    assert_eq!(live(), 2);
    let large = Gc::new([0u64; 1000]);
    assert_eq!((live(), rc_gc::stats().large), (3, if cfg!(feature = "verify") { 3 } else { 1 }));
    drop(two);
    assert_eq!(live(), 3);
    assert_eq!((rc_gc::collect(), live()), (1, 2));
    drop((one, large));
    assert_eq!(live(), 0);
}

/// Memory of a heap that was large and is empty goes back.
#[test]
fn memory_goes_back() {
    let many: Vec<_> = (0..300_000u64).map(|n| Gc::new([n; 4])).collect();
    let peak = rc_gc::stats();
    drop(many);
    rc_gc::collect();
    rc_gc::trim();
    let after = rc_gc::stats();
    assert_eq!((after.live, after.large), (0, 0));
    if cfg!(not(feature = "verify")) {
        // What is at hand for the next object stays: a pool of each size that was in use.
        assert!(peak.mapped_bytes >= 300_000 * 48 && after.pool_bytes <= 2 * 16384);
        assert!(after.mapped_bytes < peak.mapped_bytes / 2);
    }
}

/// A `Weak` inside an object does not keep its target; a map of `Weak`s is cleared by callbacks.
#[test]
fn weak_map() {
    #[derive(Trace)]
    struct Key(u32, RefCell<Option<Gc<Key>>>);
    type Map = Rc<RefCell<HashMap<u32, Weak<Key>>>>;
    let map = Map::default();
    let add = |number: u32, cyclic: bool| {
        let key = Gc::new(Key(number, RefCell::default()));
        if cyclic {
            *key.1.borrow_mut() = Some(key.clone());
        }
        map.borrow_mut().insert(number, Gc::downgrade(&key));
        let clearing = map.clone();
        Gc::on_dead(&key, move || drop(clearing.borrow_mut().remove(&number)));
        key
    };
    let kept = add(1, false);
    drop((add(2, false), add(3, true)));
    assert_eq!(map.borrow().len(), 2);
    rc_gc::collect();
    assert_eq!(map.borrow().keys().copied().collect::<Vec<_>>(), [1]);
    assert!(map.borrow()[&1].upgrade().is_some_and(|key| key.0 == 1 && Gc::ptr_eq(&key, &kept)));
    drop(kept);
    assert!(map.borrow().is_empty());
    nothing_left();
}

/// A set of `Weak`s whose members die by counting and by collection shrinks to those alive.
#[test]
fn weak_set() {
    let log = Log::default();
    let members: Vec<_> = (0..10).map(|id| Node::make(id, &log)).collect();
    members.iter().step_by(2).for_each(|member| member.link(member));
    let set: Vec<_> = members.iter().map(Gc::downgrade).collect();
    let kept: Vec<_> = members.iter().take(3).cloned().collect();
    drop(members);
    let alive = || set.iter().filter_map(Weak::upgrade).map(|member| member.id).collect::<Vec<_>>();
    assert_eq!(alive(), [0, 1, 2, 4, 6, 8]);
    rc_gc::collect();
    assert_eq!(alive(), [0, 1, 2]);
    drop(kept);
    rc_gc::collect();
    assert_eq!(alive(), [0; 0]);
    drop(set);
    nothing_left();
}

/// A value that leads to its own key through the map is collected with it: the map is what holds both.
#[test]
fn map_value_refers_to_its_key() {
    #[derive(Trace)]
    struct Map(RefCell<HashMap<u32, Gc<Entry>>>);
    #[derive(Trace)]
    struct Entry(Gc<Map>, Cell<u32>);
    let map = Gc::new(Map(RefCell::default()));
    for number in 0..5 {
        let entry = Gc::new(Entry(map.clone(), Cell::new(number)));
        map.0.borrow_mut().insert(number, entry);
    }
    let some = map.0.borrow()[&3].clone();
    drop(map);
    assert_eq!((rc_gc::collect(), some.1.get(), some.0.0.borrow().len()), (0, 3, 5));
    drop(some);
    assert_eq!(rc_gc::collect(), 6);
    nothing_left();
}
