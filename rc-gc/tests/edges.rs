//! What lies at the edges: dead handles, panics, user code inside collections, sole handles, callbacks,
//! wrong implementations of `Trace`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rc_gc::{Finalize, Gc, Generation, Trace, Weak};

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
fn a_collection_while_a_cell_gets_its_value_sees_none_and_what_it_gets_stays() {
    use std::cell::OnceCell;
    #[derive(Trace)]
    struct Lazy(OnceCell<Gc<Lazy>>, u8);
    let lazy = || Gc::new(Lazy(OnceCell::new(), 1));
    let a = lazy();
    drop(a.clone());
    let b = a.0.get_or_init(|| {
        let (b, garbage) = (lazy(), lazy());
        garbage.0.set(garbage.clone()).ok();
        b.0.set(a.clone()).ok();
        drop((garbage, b.clone()));
        assert_eq!(rc_gc::collect(), 1);
        b
    });
    assert_eq!((b.1, rc_gc::collect()), (1, 0));
    drop(a);
    assert_eq!((rc_gc::collect(), rc_gc::stats().live), (2, 0));
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

#[test]
fn a_leaf_that_its_finalizer_resurrects_dies_quietly_the_second_time() {
    thread_local!(static SAVED: RefCell<Option<Gc<Leaf>>> = const { RefCell::new(None) });
    #[derive(Trace)]
    #[gc(finalize)]
    struct Leaf(RefCell<Weak<Leaf>>);
    impl Finalize for Leaf {
        fn finalize(&self) {
            SAVED.set(self.0.borrow().upgrade());
        }
    }
    let leaf = Gc::new(Leaf(RefCell::default()));
    assert!(!Gc::is_tracked(&leaf));
    *leaf.0.borrow_mut() = Gc::downgrade(&leaf);
    drop(leaf);
    let leaf = SAVED.take().unwrap();
    assert!(leaf.0.borrow().upgrade().is_some());
    rc_gc::check().unwrap();
    drop(leaf.clone());
    drop(leaf);
    assert!(SAVED.take().is_none());
    let others: Vec<_> = (0..100).map(|_| Gc::new(Leaf(RefCell::default()))).collect();
    assert_eq!((rc_gc::collect(), rc_gc::stats().live), (0, 100));
    drop(others);
    assert_eq!(rc_gc::stats().live, 0);
    rc_gc::check().unwrap();
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

#[cfg(feature = "verify")]
mod verify {
    use super::*;
    use rc_gc::Tracer;
    use std::mem::ManuallyDrop;

    struct Wrong(RefCell<Option<Gc<Wrong>>>, u8, Vec<ManuallyDrop<Gc<Wrong>>>, Cell<bool>);

    // SAFETY: none; the feature is there to find out.
    unsafe impl Trace for Wrong {
        fn trace(&self, tracer: &mut Tracer) {
            self.0.trace(tracer);
            match self.1 {
                0 => self.0.trace(tracer),
                1 => drop(self.0.borrow().clone()),
                // Copies of the handle, which nobody counted.
                2 => self.2.iter().for_each(|copy| (**copy).trace(tracer)),
                _ => {
                    // Another handle each second time.
                    if self.3.replace(!self.3.get()) {
                        (*self.2[0]).trace(tracer);
                    }
                }
            }
        }
    }

    fn found(kind: u8) -> String {
        let mut a = Gc::new(Wrong(RefCell::default(), kind, Vec::new(), Cell::new(false)));
        // SAFETY: never dropped, and gone with the object they lead to.
        let copies =
            (0..4).map(|_| ManuallyDrop::new(unsafe { std::ptr::read(&raw const a) })).collect();
        Gc::get_mut(&mut a).unwrap().2 = copies;
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
    fn handles_that_nobody_counted_are_named() {
        let text = "more handles to a edges::verify::Wrong are reported than exist";
        assert!(found(2).contains(text));
    }

    #[test]
    fn a_trace_that_changes_its_mind_is_named() {
        let text = "Trace of edges::verify::Wrong does not report the same handles twice";
        assert!(found(3).contains(text));
    }

    #[test]
    fn a_handle_cloned_while_tracing_is_named() {
        assert!(found(1).contains("a handle to a edges::verify::Wrong is used while tracing"));
    }
}
