//! What lies at the edges: dead handles, panics, deep chains, large objects, threads that end, heaps
//! that end before their objects, saturated counts, wrong implementations of `Trace`.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rc_gc::{Finalize, Gc, Generation, Heap, Mode, Thresholds, Trace, Weak};

#[derive(Trace)]
struct Link {
    next: RefCell<Option<Gc<Link>>>,
}

fn link(next: Option<Gc<Link>>) -> Gc<Link> {
    Gc::new(Link { next: RefCell::new(next) })
}

/// What an [`Actor`]'s drop does with its neighbour.
type Act = Box<dyn Fn(&Gc<Actor>)>;

/// A ring of two with whatever `drop` wants to do to its neighbour.
#[derive(Trace)]
#[gc(drop)]
struct Actor {
    other: RefCell<Option<Gc<Actor>>>,
    #[gc(skip)]
    act: Act,
}

impl Drop for Actor {
    fn drop(&mut self) {
        if let Some(other) = self.other.get_mut() {
            (self.act)(other);
        }
    }
}

fn ring(act: impl Fn(&Gc<Actor>) + Clone + 'static) {
    let make = || Gc::new(Actor { other: RefCell::default(), act: Box::new(act.clone()) });
    let (a, b) = (make(), make());
    *a.other.borrow_mut() = Some(b.clone());
    *b.other.borrow_mut() = Some(a.clone());
}

fn message(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().unwrap().to_string(),
    }
}

fn collect_caught() -> Result<usize, String> {
    std::panic::catch_unwind(rc_gc::collect).map_err(message)
}

#[test]
fn a_dead_handle_panics_on_deref_with_a_fixed_text_and_all_else_is_harmless() {
    ring(|other| {
        assert!(Gc::is_dead(other) && Gc::try_get(other).is_none());
        let weak = Gc::downgrade(other);
        let mut clone = other.clone();
        assert!(weak.upgrade().is_none() && Gc::get_mut(&mut clone).is_none());
        assert!(Gc::ptr_eq(other, &clone));
        assert_eq!(format!("{:?}", Gc::try_get(&clone).map(|_| ())), "None");
        assert!(Gc::try_unwrap(clone).is_err());
    });
    assert_eq!(collect_caught(), Ok(2));
    ring(|other| assert!(other.other.borrow().is_some()));
    let text = "dead Gc: the object was collected; its value is gone";
    assert_eq!(collect_caught(), Err(text.to_string()));
    assert_eq!((collect_caught(), rc_gc::stats().live), (Ok(0), 0));
    rc_gc::check().unwrap();
}

#[test]
fn a_handle_moved_out_of_drop_stays_dead_and_its_memory_goes_with_it() {
    thread_local!(static STOLEN: RefCell<Vec<Gc<Actor>>> = const { RefCell::new(Vec::new()) });
    ring(|other| STOLEN.with_borrow_mut(|stolen| stolen.push(other.clone())));
    assert_eq!(rc_gc::collect(), 2);
    assert_eq!(rc_gc::stats().live, 2);
    rc_gc::check().unwrap();
    for stolen in STOLEN.take() {
        assert!(Gc::is_dead(&stolen));
        assert!(Gc::downgrade(&stolen).upgrade().is_none());
        let again = stolen.clone();
        drop(stolen);
        assert!(Gc::is_dead(&again));
        assert_eq!(rc_gc::collect(), 0);
    }
    assert_eq!(rc_gc::stats().live, 0);
    rc_gc::check().unwrap();
}

#[test]
fn a_dead_handle_in_a_live_object_is_harmless() {
    let keeper: Gc<RefCell<Vec<Gc<Actor>>>> = Gc::default();
    let to = Gc::into_raw(keeper.clone());
    ring(move |other| {
        // SAFETY: the pointer of a handle that is taken back below.
        unsafe { &*to }.borrow_mut().push(other.clone());
    });
    assert_eq!(rc_gc::collect(), 2);
    // SAFETY: from `into_raw`, once.
    drop(unsafe { Gc::from_raw(to) });
    assert_eq!((rc_gc::collect(), keeper.borrow().len()), (0, 2));
    drop(keeper);
    assert_eq!((rc_gc::collect(), rc_gc::stats().live), (0, 0));
}

#[test]
fn a_panic_in_the_second_of_three_drops_still_drops_the_third_and_goes_on() {
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    let act = move |_: &Gc<Actor>| {
        seen.set(seen.get() + 1);
        if seen.get() == 2 {
            panic!("second");
        }
    };
    let make = || Gc::new(Actor { other: RefCell::default(), act: Box::new(act.clone()) });
    let all = [make(), make(), make()];
    for at in 0..3 {
        *all[at].other.borrow_mut() = Some(all[(at + 1) % 3].clone());
    }
    drop(all);
    assert_eq!(collect_caught(), Err("second".into()));
    assert_eq!((count.get(), rc_gc::stats().live), (3, 0));
    ring(|_| ());
    assert_eq!(collect_caught(), Ok(2));
}

#[test]
fn a_panic_in_a_plain_drop_frees_the_rest_of_a_long_chain() {
    struct Bomb(Rc<Cell<u32>>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            if self.0.get() % 100 == 1 {
                std::panic::resume_unwind(Box::new("bomb"));
            }
        }
    }
    #[derive(Trace)]
    struct Node(
        #[gc(skip)]
        #[expect(dead_code, reason = "dropped")]
        Bomb,
        Option<Gc<Node>>,
    );
    let count = Rc::new(Cell::new(0));
    let mut head = None;
    for _ in 0..1000 {
        head = Some(Gc::new(Node(Bomb(count.clone()), head)));
    }
    let drop = std::panic::AssertUnwindSafe(|| drop(head));
    let panic = std::panic::catch_unwind(drop).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"bomb"));
    assert_eq!((count.get(), rc_gc::stats().live), (1000, 0));
    rc_gc::check().unwrap();
}

#[test]
fn a_panic_while_tracing_frees_nothing_and_forgets_nothing() {
    thread_local!(static FAIL: Cell<bool> = const { Cell::new(false) });
    struct Moody(RefCell<Option<Gc<Moody>>>);
    // SAFETY: reports its one handle, or unwinds.
    unsafe impl Trace for Moody {
        fn trace(&self, tracer: &mut rc_gc::Tracer) {
            self.0.trace(tracer);
            if FAIL.get() {
                panic!("moody");
            }
        }
    }
    let a = Gc::new(Moody(RefCell::default()));
    *a.0.borrow_mut() = Some(a.clone());
    drop(a);
    FAIL.set(true);
    for generation in [Generation::Young, Generation::Old, Generation::Old] {
        let collect = || rc_gc::collect_generation(generation);
        assert_eq!(message(std::panic::catch_unwind(collect).unwrap_err()), "moody");
        rc_gc::check().unwrap();
    }
    FAIL.set(false);
    assert_eq!(rc_gc::collect(), 1);
}

#[test]
fn a_collection_inside_a_collection_or_a_finalizer_does_nothing() {
    ring(|_| assert_eq!(rc_gc::collect(), 0));
    assert_eq!(rc_gc::collect(), 2);

    #[derive(Trace)]
    #[gc(finalize)]
    struct Nested(RefCell<Option<Gc<Nested>>>);
    impl Finalize for Nested {
        fn finalize(&self) {
            assert_eq!(rc_gc::collect(), 0);
            // Breaks its own cycle.
            self.0.borrow_mut().take();
        }
    }
    let a = Gc::new(Nested(RefCell::default()));
    *a.0.borrow_mut() = Some(a.clone());
    drop(a);
    assert_eq!((rc_gc::collect(), rc_gc::stats().live), (1, 0));
}

#[test]
fn what_a_borrowed_cell_holds_is_live_until_it_is_returned() {
    let a = link(None);
    *a.next.borrow_mut() = Some(link(Some(a.clone())));
    let weak = Gc::downgrade(&a);
    {
        let borrowed = a.next.borrow_mut();
        assert_eq!(rc_gc::collect(), 0);
        assert!(borrowed.is_some());
    }
    drop(a);
    assert_eq!(rc_gc::collect(), 2);
    assert!(weak.upgrade().is_none());
}

#[test]
fn get_mut_keeps_the_object_out_of_a_collection_that_runs_meanwhile() {
    let mut a = Gc::new(RefCell::new(Vec::<Gc<Link>>::new()));
    drop(a.clone());
    let value = Gc::get_mut(&mut a).unwrap();
    value.get_mut().push(link(None));
    assert_eq!(rc_gc::collect(), 0);
    value.get_mut().push(link(None));
    assert_eq!(a.borrow().len(), 2);
}

#[test]
fn make_mut_works_in_place_or_moves_or_clones() {
    let mut a = Gc::new(String::from("a"));
    let at = Gc::as_ptr(&a);
    Gc::make_mut(&mut a).push('b');
    assert_eq!(Gc::as_ptr(&a), at);
    let weak = Gc::downgrade(&a);
    Gc::make_mut(&mut a).push('c');
    assert!(weak.upgrade().is_none());
    let b = a.clone();
    Gc::make_mut(&mut a).push('d');
    assert_eq!((a.as_str(), b.as_str()), ("abcd", "abc"));
    assert_eq!(Gc::try_unwrap(a).unwrap(), "abcd");
    drop((b, weak));
    assert_eq!(rc_gc::stats().live, 0);
}

#[test]
fn new_cyclic_has_no_object_before_it_returns_and_none_after_a_panic() {
    thread_local!(static KEPT: RefCell<Weak<Cyclic>> = const { RefCell::new(Weak::new()) });
    #[derive(Trace)]
    struct Cyclic(Weak<Cyclic>);
    let a = Gc::new_cyclic(|weak: &Weak<Cyclic>| {
        assert!(weak.upgrade().is_none() && weak.strong_count() == 0);
        rc_gc::collect();
        Cyclic(weak.clone())
    });
    assert!(Gc::ptr_eq(&a.0.upgrade().unwrap(), &a));
    drop(a);
    let failed = std::panic::catch_unwind(|| {
        Gc::new_cyclic(|weak: &Weak<Cyclic>| {
            KEPT.set(weak.clone());
            panic!("in new_cyclic")
        })
    });
    assert_eq!(failed.map(|_: Gc<Cyclic>| ()).map_err(message), Err("in new_cyclic".into()));
    assert!(KEPT.with_borrow(|weak| weak.upgrade().is_none()));
    KEPT.set(Weak::new());
    assert_eq!(rc_gc::stats().live, 0);
    rc_gc::check().unwrap();
}

fn in_small_stack(f: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 << 10).spawn(f).unwrap().join().unwrap();
}

#[test]
fn a_chain_of_ten_million_drops_and_is_collected_in_a_stack_of_256_kib() {
    in_small_stack(|| {
        let chain = || (0..10_000_000).fold(link(None), |next, _| link(Some(next)));
        rc_gc::disable();
        drop(chain());
        assert_eq!(rc_gc::stats().live, 0);
        let first = chain();
        let mut last = first.clone();
        while let Some(next) = { last.next.borrow().clone() } {
            last = next;
        }
        *last.next.borrow_mut() = Some(first.clone());
        drop((first, last));
        assert_eq!(rc_gc::collect(), 10_000_001);
        assert_eq!(rc_gc::stats().live, 0);
        assert!(rc_gc::stats().mapped_bytes <= 4 << 20, "memory goes back");
    });
}

#[test]
fn chains_of_large_finalized_and_watched_objects_drop_in_a_small_stack() {
    #[derive(Trace)]
    #[gc(finalize)]
    struct Big(RefCell<Option<Gc<Big>>>, [u64; 100]);
    impl Finalize for Big {
        fn finalize(&self) {
            assert_eq!(self.1, [7; 100]);
        }
    }
    in_small_stack(|| {
        let mut head = None;
        for _ in 0..100_000 {
            let big = Gc::new(Big(RefCell::new(head), [7; 100]));
            Gc::downgrade(&big);
            head = Some(big);
        }
        assert_eq!(rc_gc::stats().large, 100_000);
        drop(head);
        assert_eq!(rc_gc::stats().live, 0);
        let ring = Gc::new(Big(RefCell::default(), [7; 100]));
        *ring.0.borrow_mut() = Some(ring.clone());
        drop(ring);
        assert_eq!(rc_gc::collect_generation(Generation::Young), 1);
        rc_gc::check().unwrap();
    });
}

static DROPS: AtomicUsize = AtomicUsize::new(0);

struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Trace)]
struct Held {
    me: RefCell<Option<Gc<Held>>>,
    #[gc(skip)]
    _counted: Counted,
}

fn held() -> Gc<Held> {
    Gc::new(Held { me: RefCell::default(), _counted: Counted })
}

/// Uses everything once more while thread-locals are torn down.
struct AtExit(OnceCell<Gc<Held>>);

impl Drop for AtExit {
    fn drop(&mut self) {
        let first = self.0.take().unwrap();
        assert!(first.me.borrow().is_none());
        let second = held();
        *second.me.borrow_mut() = Some(first.clone());
        let weak = Gc::downgrade(&second);
        rc_gc::collect();
        assert!(weak.upgrade().is_some());
        drop((first, second));
        assert!(weak.upgrade().is_none());
    }
}

#[test]
fn a_thread_that_ends_collects_its_cycles_and_later_handles_stay_valid() {
    thread_local!(static LATE: AtExit = const { AtExit(OnceCell::new()) });
    for heap_first in [false, true] {
        let before = DROPS.load(Ordering::Relaxed);
        std::thread::spawn(move || {
            if heap_first {
                drop(held());
            }
            // Destructors run in the order of registration: either may be the first to go.
            LATE.with(|late| late.0.set(held()).ok());
            let ring = held();
            *ring.me.borrow_mut() = Some(ring.clone());
        })
        .join()
        .unwrap();
        let dropped = DROPS.load(Ordering::Relaxed) - before;
        assert_eq!(dropped, 3 + usize::from(heap_first));
    }
}

#[test]
fn a_heap_that_is_dropped_collects_and_what_is_held_outlives_it() {
    let heap = Heap::new();
    let kept = Gc::new_in(Link { next: RefCell::default() }, &heap);
    let ring = Gc::new_in(Link { next: RefCell::default() }, &heap);
    *ring.next.borrow_mut() = Some(ring.clone());
    // An edge into the other heap counts as held from outside.
    let outer = link(Some(kept.clone()));
    drop(ring);
    assert_eq!(heap.stats().live, 2);
    assert_eq!(rc_gc::stats().live, 1);
    drop(heap);
    *kept.next.borrow_mut() = Some(link(None));
    drop(outer);
    assert_eq!(rc_gc::stats().live, 1);
    assert!(kept.next.borrow().is_some());
    drop(kept);
    assert_eq!(rc_gc::stats().live, 0);
}

#[test]
fn a_ring_across_two_heaps_is_not_collected_and_not_broken() {
    let (one, two) = (Heap::new(), Heap::new());
    let a = Gc::new_in(Link { next: RefCell::default() }, &one);
    let b = Gc::new_in(Link { next: RefCell::new(Some(a.clone())) }, &two);
    *a.next.borrow_mut() = Some(b.clone());
    let weak = Gc::downgrade(&a);
    drop((a, b));
    assert_eq!((one.collect(), two.collect(), rc_gc::collect()), (0, 0, 0));
    let a = weak.upgrade().unwrap();
    a.next.borrow_mut().take();
    drop((a, weak));
    assert_eq!((one.stats().live, two.stats().live), (0, 0));
    one.check().unwrap();
    two.check().unwrap();
}

#[test]
fn callbacks_run_once_when_the_object_is_dead_and_before_drops() {
    let log = Rc::new(RefCell::new(Vec::new()));
    let note = |text: &'static str| {
        let log = log.clone();
        move || log.borrow_mut().push(text)
    };
    let plain = link(None);
    Gc::on_dead(&plain, note("plain"));
    drop(plain);
    let note_drop = note("drop");
    let a = Gc::new(Actor { other: RefCell::default(), act: Box::new(move |_| note_drop()) });
    *a.other.borrow_mut() = Some(a.clone());
    let weak = Gc::downgrade(&a);
    let seen = log.clone();
    Gc::on_dead(&a, move || {
        assert!(weak.upgrade().is_none());
        seen.borrow_mut().push("dead");
    });
    drop(a);
    rc_gc::collect();
    assert_eq!(*log.borrow(), ["plain", "dead", "drop"]);
    assert_eq!(rc_gc::stats().live, 0);
}

#[test]
fn modes_say_who_collects() {
    std::thread::spawn(|| {
        let ring = || {
            let a = link(None);
            *a.next.borrow_mut() = Some(a.clone());
        };
        let rings = |n: usize| (0..n).for_each(|_| ring());
        rc_gc::set_thresholds(Thresholds { young: 100, ..Thresholds::DEFAULT });
        rings(10_000);
        assert!(rc_gc::stats().live < 1_000);
        rc_gc::collect();
        rc_gc::set_mode(Mode::AtSafepoint);
        rings(1_000);
        assert_eq!(rc_gc::stats().live, 1_000);
        assert_eq!((rc_gc::safepoint(), rc_gc::safepoint()), (1_000, 0));
        rc_gc::set_mode(Mode::Manual);
        rings(1_000);
        assert_eq!((rc_gc::safepoint(), rc_gc::stats().live), (0, 1_000));
        rc_gc::set_mode(Mode::Automatic);
        rc_gc::disable();
        rings(10_000);
        assert_eq!(rc_gc::stats().live, 11_000);
        rc_gc::enable();
        assert!(rc_gc::is_enabled());
        assert_eq!(rc_gc::collect(), 11_000);
        rc_gc::check().unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn garbage_kept_is_bounded_whatever_generation_it_dies_in() {
    // Rings that live for a while among many that stay: dead ones are old when they die.
    std::thread::spawn(|| {
        let ring = || {
            let (a, b) = (link(None), link(None));
            *a.next.borrow_mut() = Some(b.clone());
            *b.next.borrow_mut() = Some(a.clone());
            a
        };
        let mut kept: Vec<Gc<Link>> = (0..20_000).map(|_| ring()).collect();
        let mut most = 0;
        for step in 0..400_000usize {
            kept[step * 7919 % 20_000] = ring();
            most = most.max(rc_gc::stats().live);
        }
        // 40,000 are reachable; a quarter more, and eight young budgets.
        assert!(most < 40_000 * 5 / 4 + 9 * 2048 + 33_000, "{most}");
    })
    .join()
    .unwrap();
}

#[cfg(feature = "verify")]
mod verify {
    use super::*;
    use rc_gc::Tracer;

    struct Wrong(RefCell<Option<Gc<Wrong>>>, u8);

    // SAFETY: none; the feature is there to find out.
    unsafe impl Trace for Wrong {
        fn trace(&self, tracer: &mut Tracer) {
            self.0.trace(tracer);
            match self.1 {
                0 => self.0.trace(tracer),
                _ => drop(self.0.borrow().clone()),
            }
        }
    }

    fn found(kind: u8) -> String {
        let a = Gc::new(Wrong(RefCell::default(), kind));
        *a.0.borrow_mut() = Some(a.clone());
        drop(a.clone());
        let text = collect_caught().unwrap_err();
        a.0.borrow_mut().take();
        text
    }

    #[test]
    fn a_handle_reported_twice_is_named() {
        assert!(found(0).contains("Trace of edges::verify::Wrong reports a handle that was"));
    }

    #[test]
    fn a_handle_cloned_while_tracing_is_named() {
        assert!(found(1).contains("a handle to a edges::verify::Wrong is used while tracing"));
    }
}
