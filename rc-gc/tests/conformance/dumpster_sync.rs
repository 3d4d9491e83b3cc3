//! dumpster's tests of its shared `Gc`, as far as one thread can ask them.
//!
//! Without meaning here: all that needs two threads at one object (`Gc` is not `Send`). No unsafe here.

use std::cell::{OnceCell, RefCell};
use std::sync::Mutex;

use rc_gc::{Gc, Trace, Weak};

use crate::kit::{Actor, Log, Node, close, nothing_left, quiet, ring};

/// Counts follow handles.
#[test]
fn ref_count() {
    let gc = Gc::new(0);
    let many: Vec<_> = (0..100).map(|_| gc.clone()).collect();
    assert_eq!(Gc::strong_count(&gc), 101);
    drop(many);
    assert_eq!(Gc::strong_count(&gc), 1);
}

/// A handle to an object may be dropped while what it holds is borrowed, and the object collected after.
#[test]
fn deadlock() {
    let log = Log::default();
    let node = ring(0..1, &log).remove(0);
    let second = node.clone();
    {
        let _locked = node.links.borrow_mut();
        drop(second);
        assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    }
    drop(node);
    assert_eq!((rc_gc::collect(), log.take()), (1, vec![0]));
    nothing_left();
}

/// While a member of a cycle is borrowed the cycle stays, also if the borrow is all that is left
/// besides it.
#[test]
fn open_drop() {
    let log = Log::default();
    let both = ring(0..2, &log);
    let keeper = both[0].clone();
    drop(both);
    {
        let open = keeper.links.borrow_mut();
        assert_eq!((rc_gc::collect(), open[0].id), (0, 1));
    }
    drop(keeper);
    assert_eq!((rc_gc::collect(), log.sorted()), (2, vec![0, 1]));
    nothing_left();
}

/// Unrelated objects that stay bring a collection. (Those that go at once do not: they take no memory.)
#[test]
fn eventually_collect() {
    let log = Log::default();
    drop(ring(0..2, &log));
    let mut unrelated = Vec::new();
    while log.len() == 0 {
        assert!(unrelated.len() <= 200_000, "no collection came");
        unrelated.push(Gc::new(RefCell::new(Vec::<Gc<u8>>::new())));
        drop(unrelated.last().cloned());
    }
    assert_eq!(log.sorted(), [0, 1]);
    drop(unrelated);
    nothing_left();
}

/// An edge that moves to another object between the visits of two collections never lets go of what
/// is held.
#[test]
fn malicious() {
    let log = Log::default();
    let keeper = Node::make(0, &log);
    let ring = ring(1..4, &log);
    keeper.link(&ring[0]);
    let weaks: Vec<_> = ring.iter().map(Gc::downgrade).collect();
    drop(ring);
    for round in 0..30 {
        let (from, to) = (round % 3, (round + 1) % 3);
        let (from, to) = (weaks[from].upgrade().unwrap(), weaks[to].upgrade().unwrap());
        // Whatever edge there is moves on to the next, without a decrement.
        let moved = from.links.borrow_mut().pop();
        to.links.borrow_mut().extend(moved);
        keeper.links.borrow_mut()[0] = to;
        drop(from);
        rc_gc::collect();
        assert!(keeper.links.borrow()[0].id < 4 && !Gc::is_dead(&keeper.links.borrow()[0]));
        weaks.iter().filter_map(Weak::upgrade).for_each(|member| assert!(member.id < 4));
        if weaks.iter().any(|weak| weak.upgrade().is_none()) {
            break;
        }
    }
    drop((keeper, weaks));
    nothing_left();
    assert_eq!(log.sorted(), [0, 1, 2, 3]);
}

/// The only handle from outside changes places between collections of every generation; the ring stays.
#[test]
fn root_canal() {
    let log = Log::default();
    let mut root = ring(0..4, &log).swap_remove(0);
    for generation in [0, 1, 2, 0, 2, 1, 0, 0] {
        let next = root.links.borrow()[0].clone();
        root = next;
        rc_gc::collect_generation(rc_gc::Generation::from_index(generation).unwrap());
        assert_eq!(log.len(), 0);
    }
    drop(root);
    assert_eq!((rc_gc::collect(), log.sorted()), (4, vec![0, 1, 2, 3]));
    nothing_left();
}

/// Handles in thread-locals that are made before the heap are dropped after it, without a panic.
#[test]
fn thread_local_handles() {
    thread_local!(static LATE: OnceCell<Vec<Gc<Actor>>> = const { OnceCell::new() });
    let ended = std::thread::spawn(|| {
        let log = Log::default();
        LATE.with(|late| late.set(Vec::with_capacity(3)).ok());
        let actors: Vec<_> = (0..3).map(|id| Actor::make(id, quiet, quiet)).collect();
        close(&actors);
        drop(ring(0..3, &log));
        LATE.with(|late| late.get().is_some())
    });
    assert!(ended.join().unwrap());
}

/// The same with a `Mutex` that is locked: no deadlock, what it holds is live until it is unlocked.
#[test]
fn locked_mutex() {
    #[derive(Trace)]
    struct Locked(Mutex<Option<Gc<Locked>>>);
    let locked = Gc::new(Locked(Mutex::new(None)));
    *locked.0.lock().unwrap() = Some(locked.clone());
    let second = locked.clone();
    {
        let guard = locked.0.lock().unwrap();
        drop(second);
        assert_eq!((rc_gc::collect(), guard.is_some()), (0, true));
    }
    drop(locked);
    assert_eq!(rc_gc::collect(), 1);
    nothing_left();
}

/// An object that can be locked, with what it holds; it notes its drop.
#[derive(Trace)]
#[gc(drop)]
struct Guarded {
    id: usize,
    links: Mutex<Vec<Gc<Guarded>>>,
    #[gc(skip)]
    log: Log,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.log.note(self.id);
    }
}

fn guarded(id: usize, log: &Log) -> Gc<Guarded> {
    Gc::new(Guarded { id, links: Mutex::default(), log: log.clone() })
}

fn link(from: &Gc<Guarded>, to: &Gc<Guarded>) {
    from.links.lock().unwrap().push(to.clone());
}

/// One object, made and dropped.
#[test]
fn single_alloc() {
    let log = Log::default();
    let one = guarded(1, &log);
    assert_eq!((one.id, log.len()), (1, 0));
    drop(one);
    assert_eq!((log.take(), rc_gc::collect()), (vec![1], 0));
    nothing_left();
}

/// Two objects that hold each other from behind locks.
#[test]
fn two_cycle() {
    let log = Log::default();
    let (one, two) = (guarded(1, &log), guarded(2, &log));
    link(&one, &two);
    link(&two, &one);
    drop(one);
    assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    drop(two);
    assert_eq!((rc_gc::collect(), log.sorted()), (2, vec![1, 2]));
    nothing_left();
}

/// The same where each also holds itself.
#[test]
fn self_ref_two_cycle() {
    let log = Log::default();
    let (one, two) = (guarded(1, &log), guarded(2, &log));
    for (from, to) in [(&one, &one), (&one, &two), (&two, &one), (&two, &two)] {
        link(from, to);
    }
    drop(two);
    assert_eq!((rc_gc::collect(), log.len()), (0, 0));
    drop(one);
    assert_eq!((rc_gc::collect(), log.sorted()), (2, vec![1, 2]));
    nothing_left();
}

/// A cycle of locks that a drop makes goes with the next collection.
#[test]
fn sync_leak_by_creation_in_drop() {
    let log = Log::default();
    let noting = log.clone();
    let maker = Actor::make(1, quiet, move |_: &Actor| {
        let made = guarded(7, &noting);
        link(&made, &made);
    });
    maker.link(&maker);
    drop(maker);
    assert_eq!((rc_gc::collect(), log.len()), (1, 0));
    assert_eq!((rc_gc::collect(), log.take()), (1, vec![7]));
    nothing_left();
}

/// Threads that link and let go at random, each in its own heap: everything is dropped once, in its thread.
#[test]
fn sync_fuzz() {
    const OBJECTS: usize = 50;
    const OPERATIONS: usize = if cfg!(miri) { 200 } else { 20_000 };
    let work = |seed: usize| {
        move || {
            let log = Log::default();
            let mut made = OBJECTS;
            let mut handles: Vec<_> = (0..OBJECTS).map(|id| guarded(id, &log)).collect();
            let mut state = seed;
            let mut random = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed * 2 + 1);
                (state >> 33) % below
            };
            for _ in 0..OPERATIONS {
                let (at, other) = (random(OBJECTS), random(OBJECTS));
                match random(4) {
                    0 => {
                        handles[at] = guarded(made, &log);
                        made += 1;
                    }
                    1 => handles[at] = handles[other].clone(),
                    2 => link(&handles[at], &handles[other]),
                    _ => drop(handles[at].links.lock().unwrap().pop()),
                }
            }
            drop(handles);
            nothing_left();
            assert_eq!(log.sorted(), Vec::from_iter(0..made));
        }
    };
    let threads: Vec<_> = (1..5).map(|seed| std::thread::spawn(work(seed))).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
