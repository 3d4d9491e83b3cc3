//! Objects of a `Heap`: dropped like those of the thread, by a way of their own.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use rc_gc::{Gc, Heap, Trace};

#[derive(Trace)]
#[gc(drop)]
struct Link {
    next: RefCell<Option<Gc<Link>>>,
    number: u32,
    #[gc(skip)]
    dropped: Rc<Cell<u32>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.dropped.set(self.dropped.get() + 1);
        assert!(self.number != 7, "the seventh");
    }
}

/// A chain of objects with the numbers from 0 to `length`, in `heap`.
fn chain(heap: &Heap, length: u32, dropped: &Rc<Cell<u32>>) -> Gc<Link> {
    let link = |next, number| {
        Gc::new_in(Link { next: RefCell::new(next), number, dropped: dropped.clone() }, heap)
    };
    (0..length).rev().fold(link(None, length), |next, number| link(Some(next), number))
}

#[test]
fn a_long_chain_drops_in_a_small_stack_and_a_panic_in_it_frees_the_rest() {
    let run = || {
        let (heap, dropped) = (Heap::new(), Rc::default());
        let many = if cfg!(miri) { 300 } else { 200_000 };
        let links = chain(&heap, many, &dropped);
        let panic = catch_unwind(AssertUnwindSafe(|| drop(links))).expect_err("the seventh");
        assert_eq!(panic.downcast_ref(), Some(&"the seventh"));
        assert_eq!((dropped.get(), heap.stats().live), (many + 1, 0));
        heap.check().unwrap();
        assert_eq!(rc_gc::stats().live, 0);
    };
    let small = std::thread::Builder::new().stack_size(256 << 10).spawn(run).expect("a thread");
    small.join().expect("no overflow, no failed assertion");
}

#[test]
fn objects_outlive_their_heap_and_lead_from_one_heap_to_another() {
    let (one, two, dropped) = (Heap::new(), Heap::new(), Rc::default());
    let first = chain(&one, 5, &dropped);
    let second = chain(&two, 5, &dropped);
    let here = Gc::new(Link {
        next: RefCell::new(Some(first.clone())),
        number: 0,
        dropped: dropped.clone(),
    });
    let after = |link: &Gc<Link>| link.next.borrow().clone();
    let mut last = second.clone();
    while let Some(next) = after(&last) {
        last = next;
    }
    *last.next.borrow_mut() = Some(here);
    drop((one, last, first));
    assert_eq!((dropped.get(), two.stats().live, rc_gc::stats().live), (0, 6, 1));
    // A chain through all three: the second heap's, the thread's, the first heap's.
    drop(second);
    assert_eq!((dropped.get(), two.stats().live, rc_gc::stats().live), (13, 0, 0));
    two.check().unwrap();
    rc_gc::check().unwrap();
}

#[test]
fn candidates_of_a_heap_are_forgotten_when_they_drop() {
    let (heap, dropped) = (Heap::new(), Rc::default());
    let rounds = if cfg!(miri) { 10 } else { 1_000 };
    for _ in 0..rounds {
        let links = chain(&heap, 3, &dropped);
        drop(links.clone());
        let next = links.next.borrow().clone();
        drop(next);
        drop(links);
        assert_eq!(heap.stats().live, 0);
    }
    heap.check().unwrap();
    assert_eq!((heap.collect(), dropped.get()), (0, 4 * rounds));
}

#[test]
fn each_heap_of_many_starts_as_a_new_one() {
    use rc_gc::{Generation, Mode, Stats, Thresholds};
    let dropped = Rc::default();
    let mut outliving = None;
    let rounds = if cfg!(miri) { 4 } else { 50 };
    for round in 0..rounds {
        let heap = Heap::new();
        let stats = heap.stats();
        assert_eq!((stats.live, stats.generations), (0, Stats::default().generations), "{round}");
        assert_eq!((heap.thresholds(), heap.mode()), (Thresholds::DEFAULT, Mode::Automatic));
        assert!(heap.is_enabled());
        assert_eq!(heap.pause_percentile(Generation::Old, 1.0), std::time::Duration::ZERO);
        // Candidates, garbage, and at times an object that outlives the heap.
        let links = chain(&heap, 3, &dropped);
        let ring = chain(&heap, 3, &dropped);
        let mut last = ring.clone();
        loop {
            let next = last.next.borrow().clone();
            let Some(next) = next else { break };
            last = next;
        }
        *last.next.borrow_mut() = Some(ring.clone());
        drop((ring, last));
        assert_eq!(Gc::generation(&links), Generation::Young);
        heap.set_thresholds(Thresholds { young: 1, middle: 1, growth: 1 });
        heap.set_mode(Mode::Manual);
        heap.disable();
        assert_eq!(heap.collect_generation(Generation::Young), 4);
        heap.check().unwrap();
        outliving = (round % 3 == 0).then_some(links);
        drop(heap);
        assert_eq!(outliving.as_ref().map_or(0, |links| links.number), 0);
    }
    drop(outliving);
    assert_eq!(dropped.get(), rounds * 8);
}
