//! What safe code might see between the steps of a drop or a collection: objects whose drop is put
//! off, dead handles that are alone, finalizers that hold their object without a decrement, and
//! which panic goes on. No unsafe here.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use rc_gc::{Finalize, Gc, Heap, Thresholds, Trace, Weak};

/// Objects deeper than this are put off.
const DEEP: usize = 300;

/// Runs when the link's `next` was let go of, and may have been put off, and the link itself is not
/// yet gone.
struct Probe<T: 'static>(RefCell<Weak<T>>, Rc<Cell<usize>>, Rc<dyn Fn()>);

impl<T> Drop for Probe<T> {
    fn drop(&mut self) {
        assert!(self.0.borrow().upgrade().is_none(), "a Weak leads to what has no handle");
        assert_eq!(self.0.borrow().strong_count(), 0);
        (self.2)();
        self.1.set(self.1.get() + 1);
    }
}

#[derive(Trace)]
struct Link<const N: usize> {
    next: RefCell<Option<Gc<Link<N>>>>,
    room: [u8; N],
    #[gc(skip)]
    probe: Probe<Link<N>>,
}

/// Drops a chain whose members are candidates; the drops collect. With `watched` each has a `Weak`.
fn chain<const N: usize>(heap: Option<Rc<Heap>>, watched: bool) {
    let dropped = Rc::new(Cell::new(0));
    let collecting = heap.clone();
    let collect: Rc<dyn Fn()> = Rc::new(move || match &collecting {
        Some(heap) => assert_eq!(heap.collect(), 0),
        None => assert_eq!(rc_gc::collect(), 0),
    });
    let mut head: Option<Gc<Link<N>>> = None;
    for _ in 0..DEEP {
        let weak = match &head {
            Some(next) if watched => Gc::downgrade(next),
            _ => Weak::new(),
        };
        let probe = Probe(RefCell::new(weak), dropped.clone(), collect.clone());
        let link = Link { next: RefCell::new(head), room: [7; N], probe };
        let link = match &heap {
            Some(heap) => Gc::new_in(link, heap),
            None => Gc::new(link),
        };
        drop(link.clone());
        head = Some(link);
    }
    assert!(head.as_ref().is_some_and(|link| link.room == [7; N] && link.probe.1.get() == 0));
    drop(head);
    assert_eq!(dropped.get(), DEEP);
    rc_gc::check().unwrap();
    match heap {
        Some(heap) => {
            heap.check().unwrap();
            assert_eq!(heap.stats().live, 0);
        }
        None => assert_eq!(rc_gc::stats().live, 0),
    }
}

#[test]
fn what_is_put_off_is_neither_upgraded_nor_collected_meanwhile() {
    for watched in [false, true] {
        chain::<8>(None, watched);
        chain::<600>(None, watched);
        chain::<8>(Some(Rc::new(Heap::new())), watched);
        chain::<600>(Some(Rc::new(Heap::new())), watched);
    }
}

#[test]
fn a_drop_that_collects_is_not_found_by_that_collection() {
    #[derive(Trace)]
    #[gc(drop)]
    struct Collecting(
        RefCell<Vec<Gc<Collecting>>>,
        #[gc(skip)] Option<Rc<Heap>>,
        #[gc(skip)] Rc<Cell<u32>>,
    );
    impl Drop for Collecting {
        fn drop(&mut self) {
            self.2.set(self.2.get() + 1);
            assert_eq!(self.1.as_ref().map_or_else(rc_gc::collect, |heap| heap.collect()), 0);
        }
    }
    for heap in [None, Some(Rc::new(Heap::new()))] {
        let dropped = Rc::new(Cell::new(0));
        let value = Collecting(RefCell::default(), heap.clone(), dropped.clone());
        let gc = match &heap {
            Some(heap) => Gc::new_in(value, heap),
            None => Gc::new(value),
        };
        drop(gc.clone());
        drop(gc);
        assert_eq!(dropped.get(), 1);
    }
}

#[derive(Trace)]
#[gc(drop)]
struct Thief(RefCell<Option<Gc<Thief>>>, #[gc(skip)] Rc<RefCell<Vec<Gc<Thief>>>>, String);

impl Clone for Thief {
    fn clone(&self) -> Self {
        Thief(RefCell::default(), self.1.clone(), self.2.clone())
    }
}

impl Drop for Thief {
    fn drop(&mut self) {
        self.1.borrow_mut().extend(self.0.take());
    }
}

#[test]
fn a_dead_handle_that_is_alone_is_not_the_sole_owner_of_a_value() {
    let stolen: Rc<RefCell<Vec<Gc<Thief>>>> = Rc::default();
    for _ in 0..5 {
        let thief = Gc::new(Thief(RefCell::default(), stolen.clone(), "whole".into()));
        *thief.0.borrow_mut() = Some(thief.clone());
    }
    assert_eq!(rc_gc::collect(), 5);
    let mut dead = stolen.take();
    assert!(dead.iter().all(|gc| Gc::is_dead(gc) && Gc::strong_count(gc) == 1));
    assert!(dead.iter_mut().all(|gc| Gc::get_mut(gc).is_none()));
    let dead: Vec<_> = dead.into_iter().map(|gc| Gc::try_unwrap(gc).err().expect("dead")).collect();
    let mut dead = dead.into_iter();
    assert!(Gc::into_inner(dead.next().unwrap()).is_none());
    let panics = |f: &mut dyn FnMut()| catch_unwind(AssertUnwindSafe(f)).is_err();
    let mut gc = dead.next();
    assert!(panics(&mut || drop(Gc::unwrap_or_clone(gc.take().unwrap()))));
    let mut gc = dead.next().unwrap();
    assert!(panics(&mut || Gc::make_mut(&mut gc).2.clear()));
    assert!(Gc::is_dead(&gc));
    drop((gc, dead));
    assert_eq!(rc_gc::stats().live, 0);
    rc_gc::check().unwrap();
}

#[test]
fn a_finalizer_that_moves_its_object_into_itself_is_found_by_a_collection() {
    // No handle is dropped between the finalizer and the cycle.
    #[derive(Trace)]
    #[gc(finalize)]
    struct Inward(RefCell<Option<Gc<Inward>>>, Weak<Inward>);
    impl Finalize for Inward {
        fn finalize(&self) {
            *self.0.borrow_mut() = self.1.upgrade();
        }
    }
    for cyclic in [false, true] {
        let gc = Gc::new_cyclic(|me| Inward(RefCell::default(), me.clone()));
        if cyclic {
            *gc.0.borrow_mut() = Some(gc.clone());
        }
        drop(gc);
        if cyclic {
            assert_eq!(rc_gc::collect(), 1);
        } else {
            assert_eq!((rc_gc::stats().live, rc_gc::check()), (1, Ok(())));
            assert_eq!(rc_gc::collect(), 1);
        }
        assert_eq!(rc_gc::stats().live, 0);
    }
}

/// Panics in its drop, and as told in its finalizer, with a number; notes it before.
#[derive(Trace)]
#[gc(drop, finalize)]
struct Bomb(RefCell<Option<Gc<Bomb>>>, #[gc(skip)] Rc<RefCell<Vec<u32>>>, u32, bool);

impl Bomb {
    fn go(&self, number: u32) {
        self.1.borrow_mut().push(number);
        std::panic::resume_unwind(Box::new(number));
    }
}

impl Finalize for Bomb {
    fn finalize(&self) {
        if self.3 {
            self.go(self.2 + 100);
        }
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.go(self.2);
    }
}

fn bombs(finalizers: bool, log: &Rc<RefCell<Vec<u32>>>) {
    for number in 0..5 {
        let bomb = Gc::new(Bomb(RefCell::default(), log.clone(), number, finalizers));
        *bomb.0.borrow_mut() = Some(bomb.clone());
        if finalizers {
            let log = log.clone();
            Gc::on_dead(&bomb, move || {
                log.borrow_mut().push(number + 200);
                std::panic::resume_unwind(Box::new(number + 200));
            });
        }
    }
}

#[test]
fn of_many_panics_the_first_goes_on() {
    let log: Rc<RefCell<Vec<u32>>> = Rc::default();
    for finalizers in [false, true] {
        bombs(finalizers, &log);
        let panic = catch_unwind(rc_gc::collect).unwrap_err();
        let all = log.take();
        assert_eq!(
            (all.len(), panic.downcast_ref()),
            (if finalizers { 15 } else { 5 }, Some(&all[0]))
        );
        assert_eq!(rc_gc::stats().live, 0);
        // By counting: of one object the finalizer's, then the callback's, then the drop's.
        let bomb = Gc::new(Bomb(RefCell::default(), log.clone(), 7, finalizers));
        let panic = catch_unwind(AssertUnwindSafe(|| drop(bomb))).unwrap_err();
        let all = log.take();
        assert_eq!((all.len(), panic.downcast_ref()), (1 + usize::from(finalizers), Some(&all[0])));
        assert_eq!(rc_gc::stats().live, 0);
    }
    rc_gc::check().unwrap();
}

#[test]
fn a_panic_in_a_collection_that_an_allocation_began_goes_on_out_of_it() {
    rc_gc::set_thresholds(Thresholds { young: 1, middle: 1, growth: 1 });
    let log: Rc<RefCell<Vec<u32>>> = Rc::default();
    let rc = Rc::new(());
    #[derive(Trace)]
    struct Counted(#[gc(skip)] Rc<()>, RefCell<Option<Gc<Counted>>>);
    let counted = || Counted(rc.clone(), RefCell::default());
    let makers: [&dyn Fn(); 5] = [
        &|| drop(Gc::new(counted())),
        &|| drop(Gc::new_cyclic(|_| counted())),
        &|| drop(Gc::<Counted>::from(Box::new(counted()))),
        &|| drop(Gc::<[Counted]>::from(vec![counted(), counted()])),
        &|| drop(Gc::<[u8]>::new_uninit_slice(700)),
    ];
    for make in makers {
        rc_gc::disable();
        bombs(false, &log);
        rc_gc::enable();
        let mut panics = 0;
        // Objects that stay, so that blocks run out and allocations collect.
        let mut kept = Vec::new();
        while panics == 0 {
            let attempt = || {
                make();
                kept.push(Gc::new([0u8; 24]));
            };
            panics += u32::from(catch_unwind(AssertUnwindSafe(attempt)).is_err());
            assert!(kept.len() < 100_000, "no panic came out");
        }
        rc_gc::check().unwrap();
        assert_eq!(log.take().len(), 5);
        assert_eq!((Rc::strong_count(&rc), rc_gc::stats().live), (1, kept.len() as u64));
    }
    assert_eq!(Rc::strong_count(&counted().0), 2);
}
